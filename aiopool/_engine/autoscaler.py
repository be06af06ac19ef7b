"""`Autoscaler`: sees how long jobs would wait and which slots are used, and sets the size by an `Autoscale`.

What the size becomes is decided in `_jobs/autoscale.py`. Two timers, and none at rest: one while more jobs are in line
than slots are free and the size can grow, and one while it is above the least.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import Context
from typing import Any, final

from aiopool._engine.engine import Engine
from aiopool._jobs.autoscale import PERIODS, Autoscale, Autoscaling
from aiopool._jobs.job import Job
from aiopool._observe.observer import EventName, Observer
from aiopool._runtime.timers import Timer

__all__ = ["Autoscaler"]


@final
class Autoscaler(Observer):
    """Sets the size of one open pool."""

    __slots__ = ("_decisions", "_engine", "_growing", "_resize", "_rule", "_shrinking")

    def __init__(self, rule: Autoscale, engine: Engine, resize: Callable[[int], object]) -> None:
        self._rule = rule
        self._engine = engine
        self._resize = resize
        self._decisions = Autoscaling(rule)
        self._growing: Timer | None = None
        self._shrinking: Timer | None = None

    def begin(self) -> None:
        """Bring the size within its bounds, and follow the load from now on."""
        size = self._engine.slots.size
        bounded = max(self._rule.min_size, min(self._rule.max_size, size))
        if bounded != size:
            self._resize(bounded)
        self._may_shrink()
        self.waits()

    def stop(self) -> None:
        """Set the size no more."""
        for timer in (self._growing, self._shrinking):
            if timer is not None:
                self._engine.timers.cancel(timer)
        self._growing = self._shrinking = None

    # -- what happens ------------------------------------------------------------------------------------------------

    def submitted(self, job: Job[Any], *, inside: bool) -> None:
        self.waits()

    def started(self, job: Job[Any], worker: int, context: Context | None, *, inside: bool) -> None:
        self._decisions.starts += 1
        self._decisions.busy(self._engine.slots.active)
        self.waits()

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool) -> None:
        self._decisions.busy(self._engine.slots.active)  # also one that has its slot back after a loan

    def event(self, name: EventName, **values: Any) -> None:
        if name == "PoolResumed":
            self.waits()

    def waits(self) -> None:
        """Look at the line in `target_wait` seconds, if more jobs are in it than may start at once."""
        engine = self._engine
        if (
            self._growing is None
            and engine.slots.size < self._rule.max_size
            and self._line() > 0
            and not engine.no_more_retries
        ):
            self._growing = engine.timers.add(engine.now() + self._rule.target_wait, Autoscaler._look, self)
            self._decisions.starts = min(0, engine.slots.active - engine.slots.limit)  # free slots do not count

    def _line(self) -> int:
        """How many jobs wait for a slot that is not there; none in a pool that is paused."""
        engine, slots = self._engine, self._engine.slots
        if slots.limit == 0:
            return 0
        return engine.queue.live + len(engine.admission.waiting) - max(0, slots.limit - slots.active)

    # -- acting ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._growing = None
        line, before = self._line(), self._engine.slots.size
        size = self._decisions.grown(before, line) if line > 0 else before
        if size != before:
            self._resize(size)
            self._may_shrink()
        self.waits()

    def _may_shrink(self) -> None:
        engine, seconds = self._engine, self._rule.idle_timeout / PERIODS
        if (
            self._shrinking is None
            and engine.slots.size > self._rule.min_size
            and not math.isinf(seconds)
            and not engine.no_more_retries
        ):
            self._shrinking = engine.timers.add(engine.now() + seconds, Autoscaler._shrink, self)

    def _shrink(self) -> None:
        self._shrinking = None
        slots = self._engine.slots
        size = self._decisions.shrunk(slots.size, slots.active)
        if size != slots.size:
            self._resize(size)
        self._may_shrink()
