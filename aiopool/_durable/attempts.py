"""`Attempts`: what this process runs of the store's jobs: from the claim to the moment at which the end is written.

Whatever the store has given to this process is in one of two places here: among the runs, or among the ends on their
way. What is in neither was given in an answer that got lost, and is given back.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, final

from aiopool._durable.flusher import Flusher
from aiopool._durable.handlers import Handlers
from aiopool._durable.handles import Handles
from aiopool._durable.payloads import encode_error
from aiopool._durable.plans import Plans
from aiopool._durable.runs import Run
from aiopool._engine.engine import Engine
from aiopool._runtime import failpoints
from aiopool._runtime.faults import log_fault
from aiopool.errors import PayloadError
from aiopool.stores._protocol import Store
from aiopool.stores._rows import Claimed, Settlement

__all__ = ["Attempts"]

logger = logging.getLogger("aiopool.store")


class Ended(NamedTuple):
    """An end on its way; None: of a job that did not run here."""

    run: Run | None
    end: Settlement


@final
class Attempts:
    """The attempts of one open pool.

    Attributes:
        runs: by the ids of their jobs.
        flusher: writes the ends.
        lost: how many ends did not count: the job was somebody else's by then.
        released: is called when a job went back to the queue.
        closing: nothing begins any more.
    """

    def __init__(
        self, store: Store, engine: Engine, ready: asyncio.Event, handlers: Handlers, plans: Plans, handles: Handles
    ) -> None:
        """`ready`: the store is open, and we are who we were when it gave us what comes in."""
        self.max_payload = store.max_payload
        self.runs: dict[str, Run] = {}
        self.lost = 0
        self.closing = False
        self.flusher: Flusher[Ended, bool] = Flusher(
            "ends of jobs",
            engine.runtime,
            self._write,
            self._settled,
            self._not_settled,
            patience=None,
            weigh=lambda ended: len(ended.end.result or ""),
        )
        self._store = store
        self._engine = engine
        self._ready = ready
        self._handlers = handlers
        self._plans = plans
        self._handles = handles
        self._ending: dict[str, int] = {}  # the fences of ends that are not written yet, by the ids of their jobs
        self.released: Callable[[], object] = _nothing

    def is_here(self, id: str) -> bool:
        """Whether a job runs here, or its end is being written."""
        return id in self.runs or id in self._ending

    def start(self, claimed: Claimed) -> None:
        """Have the engine run a job that the store has given to us."""
        if not self._ready.is_set():
            return  # to whom we were before its lease was lost: it goes back, or has gone
        handler = self._handlers.get(claimed.name)
        if handler is None:
            self._add(None, Settlement(claimed.id, claimed.fence, "park"))
            return
        if self.closing:
            self._add(None, Settlement(claimed.id, claimed.fence, "release"))
            return
        total = None if claimed.time_left is None else claimed.age + claimed.time_left
        run = Run(self, handler, claimed.id, claimed.fence, claimed.crashes, total)
        try:
            args, kwargs = handler.signature.decode(claimed.payload)
            function = functools.partial(handler.function, **kwargs) if kwargs else handler.function
            spec = self._plans.run_spec(handler, claimed)
            if spec.sent:
                from aiopool._runtime.pickled_call import pickle_call  # few functions run in processes

                function, args = pickle_call(function, args), ()
        except Exception as error:  # a row that cannot be run must not stop those behind it
            record = encode_error(error if isinstance(error, PayloadError) else _unreadable(claimed, error))
            self._add(None, Settlement(claimed.id, claimed.fence, "dead", error=record))
            text = "job %s id %s cannot be run, and is given up"
            log_fault(logger, text, claimed.name, claimed.id, error=error, fields={})
            return
        if failpoints.ACTIVE:
            failpoints.reach("start.before")
        self.runs[claimed.id] = run
        engine = self._engine
        run.job = engine.enter_leased(spec, function, args, run, claimed.id, attempt=claimed.attempt, age=claimed.age)
        if claimed.parent is not None:
            run.job._ensure_extra().parent = claimed.parent
        if claimed.time_left is not None:
            run.timer = engine.timers.add(engine.now() + claimed.time_left, engine.leased_expired, run.job)

    def cancel(self, id: str, fence: int | None, reason: str | None) -> None:
        """A job that runs here was cancelled; `fence`: if it is still this run of it."""
        run = self.runs.get(id)
        if run is not None and fence in (None, run.fence) and not run.cancelled and run.job is not None:
            run.cancelled = True
            self._engine.cancel(run.job, reason)

    def lose_all(self) -> None:
        """What runs here is somebody else's by now."""
        for run in tuple(self.runs.values()):
            run.lost = True
            if run.job is not None:
                self._engine.cancel(run.job, "its lease was lost")

    async def give_back_unknown(self, starting: set[str]) -> None:
        """Give back what the store says that this process holds, and it has not heard of: the answer was lost.

        What is on its way is known, and so is what may start with the answer to its submission. What has ended
        meanwhile is told by its fence: the store does not take it back.
        """
        for id, fence in await self._store.owned():
            run = self.runs.get(id)
            is_known = (run is not None and run.fence == fence) or self._ending.get(id) == fence or id in starting
            if not is_known:
                logger.warning("job %s was given to this process, which did not hear of it: it is given back", id)
                self._add(None, Settlement(id, fence, "release"))

    async def write_progress(self) -> None:
        """Write how far those are that have said so since the last time."""
        rows = []
        for run in self.runs.values():
            extra = None if run.job is None else run.job._extra
            if extra is not None and extra.progress is not None and extra.progress != run.progress:
                run.progress = extra.progress
                rows.append((run.id, run.fence, *extra.progress))
        if rows:
            await self._store.report_progress(rows)

    # -- what a run asks, see `RunOwner` -------------------------------------------------------------------------------

    def is_awaited(self, id: str) -> bool:
        """Whether somebody in this process awaits the job."""
        handle = self._handles.by_id.get(id)
        return handle is not None and handle._waiters is not None

    def settle(self, run: Run, end: Settlement) -> None:
        """Write how an attempt ended."""
        if failpoints.ACTIVE:
            failpoints.reach("job.ended")
        self._let_go(run)
        self._add(run, end)

    def drop(self, run: Run) -> None:
        """An attempt has ended that is somebody else's by now."""
        self._let_go(run)
        self.lost += 1

    def _let_go(self, run: Run) -> None:
        if self.runs.get(run.id) is run:
            del self.runs[run.id]
        if run.timer is not None:
            self._engine.timers.cancel(run.timer)
            run.timer = None

    # -- writing -------------------------------------------------------------------------------------------------------

    def _add(self, run: Run | None, end: Settlement) -> None:
        self._ending[end.id] = end.fence
        self.flusher.add(Ended(run, end))

    async def _write(self, batch: Sequence[Ended], again: bool) -> Sequence[bool]:
        await self._ready.wait()
        if failpoints.ACTIVE:
            failpoints.reach("settle.before")
        counted = await self._store.settle([ended.end for ended in batch])
        if failpoints.ACTIVE:
            failpoints.reach("settle.after")
        return counted

    def _settled(self, ended: Ended, counted: bool) -> None:
        """The end of an attempt is written; or it was somebody else's by now."""
        run, end = ended
        self._is_written(end)
        if end.outcome == "release" and counted:
            self.released()
        self.lost += not counted
        if counted and end.outcome == "succeeded" and run is not None and run.job is not None:
            self._handles.succeeded(run.id, end.result, run.job._attempt, run.job._started_at)
        else:
            self._handles.ask_about(end.id)  # whoever waits for it here asks the store, as others do

    def _not_settled(self, ended: Ended, error: BaseException) -> None:
        """It could not be written at all: the store will notice that nobody holds the job."""
        self._is_written(ended.end)
        text = "the end of job %s (%s) could not be written; it will run again"
        log_fault(logger, text, ended.end.id, ended.end.outcome, error=error, fields={})

    def _is_written(self, end: Settlement) -> None:
        if self._ending.get(end.id) == end.fence:
            del self._ending[end.id]


def _nothing() -> None:
    """Nobody wants to know."""


def _unreadable(claimed: Claimed, error: BaseException) -> PayloadError:
    fault = PayloadError(f"job {claimed.name!r} id {claimed.id!r} cannot be read: {error}")
    fault.__cause__ = error
    return fault
