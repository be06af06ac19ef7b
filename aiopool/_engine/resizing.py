"""`Resizing`: changes the size of an open pool with all that hangs on it, and waits until it has come down to it.

By hand, or by a rule: a *steerer* observes the pool then, and sets the size. A size set by hand is the end of that.

The engine starts no job while as many run as the size allows (`slots.py`). What else follows the size is set here:
idle workers that are too many end, and so many plain functions run in threads, unless that limit is one of its own.

A job that has lent its slot (`lending.py`) is not one too many: it takes none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, final

from aiopool._engine.engine import Engine
from aiopool._engine.supervisor import Supervisor
from aiopool._jobs.job import Job, running_job
from aiopool._jobs.size_rule import SizeRule
from aiopool._observe.observers import Observers
from aiopool._runtime.runners import Runners

if TYPE_CHECKING:  # they come with a rule
    from aiopool._engine.adapter import Adapter
    from aiopool._engine.autoscaler import Autoscaler

__all__ = ["Resizing"]

REASON = "the pool was made smaller"


@final
class Resizing:
    """The size of one open pool."""

    __slots__ = ("_engine", "_observers", "_own_threads", "_runners", "_steerer", "_supervisor")

    def __init__(
        self, engine: Engine, supervisor: Supervisor, runners: Runners, observers: Observers, *, own_threads: bool
    ) -> None:
        """`own_threads`: how many threads there may be was set apart from the size."""
        self._engine = engine
        self._supervisor = supervisor
        self._runners = runners
        self._observers = observers
        self._own_threads = own_threads
        self._steerer: Adapter | Autoscaler | None = None

    def resize(self, size: int | SizeRule) -> None:
        """Let `size` jobs run at once, or as many as a rule says; those that run go on."""
        if self._steerer is not None:
            self._steerer.stop()
            self._steerer = None
            self._observers.steer(None)
        if isinstance(size, SizeRule):
            self._follow(size)
        else:
            self._set(size)

    def _follow(self, rule: SizeRule) -> None:
        from aiopool._engine.adapter import Adapter
        from aiopool._engine.autoscaler import Autoscaler
        from aiopool._jobs.adaptive import Adaptive
        from aiopool._jobs.autoscale import Autoscale

        if isinstance(rule, Autoscale):
            self._steerer = Autoscaler(rule, self._engine, self._set)
        else:
            assert isinstance(rule, Adaptive)
            self._steerer = Adapter(rule, self._engine, self._observers.hooks, self._set)
        self._observers.steer(self._steerer)
        self._steerer.begin()

    def _set(self, size: int) -> None:
        self._engine.set_slots(size)
        self._supervisor.retire_excess()
        if not self._own_threads and "thread" in self._runners:  # else it is made for the size of that moment
            self._runners["thread"].max_threads = max(size, 1)

    def cancel_excess(self) -> None:
        """Cancel the jobs that run beyond the size, those that were started last first, but not the caller."""
        self._engine.chores.work_off(self._cancel_each(running_job.get()))

    def _cancel_each(self, caller: Job[Any] | None) -> Iterator[None]:
        slots = self._engine.slots
        running: list[Job[Any]] = []
        excess = slots.active - slots.size
        for worker in self._supervisor.busy():
            job = worker.job
            extra = None if job is None else job._extra
            if job is None or (extra is not None and (extra.lent or extra.leaked)):
                continue
            if extra is not None and extra.stop is not None:
                excess -= 1  # it gives its slot back without us
            elif job is not caller:
                running.append(job)
        running.sort(key=lambda job: (job._started_at, job._sequence))
        while excess > 0 and running:
            excess -= running.pop().cancel(REASON)
            yield

    async def settled(self, closers: dict[asyncio.Future[None], None]) -> None:
        """Wait until no more jobs run than the size allows; `closers` are woken when the pool has closed."""
        engine = self._engine
        slots = engine.slots
        if slots.active <= slots.size:
            return
        future: asyncio.Future[None] = engine.lending.create_future()
        slots.fit_waiters[future] = closers[future] = None
        try:
            await engine.lending.wait_for(future)
        finally:
            slots.fit_waiters.pop(future, None)
            closers.pop(future, None)
