"""`SlotLending`: a job that waits for another job of its pool, or for space in it, lends its slot meanwhile.

Because of that, nested jobs cannot deadlock, at any size of the pool and any depth. A job that waits no longer reclaims
a slot, and gets one before any queued job starts: nothing starts beyond the limit for it. A job that was told to stop
goes on without a slot, even while it reclaims one: its clean-up must not wait. If the wait is cancelled, `on_cancel`
first cancels the awaited jobs: one of them may hold the slot that this job needs to go on.

A job with places in lanes (`lanes.py`) lends these, too, and gets them back before the slot.

Several tasks of a job may wait at once: the slot is lent as soon as one waits (`JobExtra.lent` counts them), and comes
back with the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, final

from aiopool._engine.lanes import LaneTable
from aiopool._engine.slots import Slots
from aiopool._jobs.job import Job, JobExtra, running_job
from aiopool._jobs.waiters import JobObserver, add_waiter, remove_waiter
from aiopool._runtime.faults import is_kind

__all__ = ["SlotLending"]


@final
class SlotLending:
    """How the jobs of one pool wait for something of that pool."""

    __slots__ = ("_lanes", "_slots", "_unheard", "create_future", "is_own")

    def __init__(
        self,
        slots: Slots,
        lanes: LaneTable,
        loop: asyncio.AbstractEventLoop,
        is_own: Callable[[Job[Any] | None], bool],
        unheard: Callable[[Job[Any]], object],
    ) -> None:
        """`is_own(job)`: it runs in this pool. `unheard(job)` is called when a task that awaited it was cancelled."""
        self._slots = slots
        self._lanes = lanes
        self.create_future: Callable[[], asyncio.Future[Any]] = loop.create_future
        self.is_own = is_own
        self._unheard = unheard

    # -- waiting -------------------------------------------------------------------------------------------------

    def wait(
        self, job: Job[Any], waiter: Job[Any] | None, on_cancel: Callable[[], object] | None = None
    ) -> Generator[Any, None, None]:
        """Wait until a job is done; a waiter that is a running job of this pool lends its slot meanwhile."""
        if waiter is job:
            raise RuntimeError(f"{job!r} awaits itself: it would wait for ever")
        if waiter is not None and self.is_own(waiter):
            yield from self._wait_lent(job, waiter._ensure_extra(), on_cancel)
        else:
            future: asyncio.Future[None] = self.create_future()
            add_waiter(job, future)
            try:
                yield from future
            except BaseException:
                if future.done() and not future.cancelled():
                    self._unheard(job)
                else:
                    remove_waiter(job, future)
                raise

    async def wait_for(self, future: asyncio.Future[Any], on_cancel: Callable[[], object] | None = None) -> None:
        """Wait for a future of the pool's; a caller that is a running job of this pool lends its slot meanwhile."""
        waiter = running_job.get()
        if waiter is not None and self.is_own(waiter):
            await _Awaitable(self._lending(waiter._ensure_extra(), future.__await__(), on_cancel))
        else:
            await future

    def _lending(
        self, extra: JobExtra, waiting: Generator[Any, None, None], on_cancel: Callable[[], object] | None
    ) -> Generator[Any, None, None]:
        """Lend the slot of a running job while `waiting` goes on; take one back before returning."""
        self._lend(extra)
        try:
            yield from waiting
        except BaseException as error:
            if on_cancel is not None:
                on_cancel()
            yield from self._reclaim_after(error, extra)
            raise
        yield from self._reclaim(extra)

    def _wait_lent(
        self, job: Job[Any], extra: JobExtra, on_cancel: Callable[[], object] | None
    ) -> Generator[Any, None, None]:
        """Wait for a job without a slot; at its end the slot is reclaimed at once, before a queued job starts."""
        future: asyncio.Future[bool] = self.create_future()
        waiter = _ReclaimWaiter(self, extra, future)
        add_waiter(job, waiter)
        self._lend(extra)
        try:
            granted = yield from future
        except BaseException as error:
            if not self._abort_reclaim(extra, future):
                remove_waiter(job, waiter)
            self._unheard(job)
            if on_cancel is not None:
                on_cancel()
            yield from self._reclaim_after(error, extra)
            raise
        if granted:
            self._reclaimed(extra)
        else:
            yield from self._reclaim(extra)

    # -- lending and taking back -----------------------------------------------------------------------------------

    def _lend(self, extra: JobExtra) -> None:
        extra.lent += 1
        if extra.lent == 1:
            extra.has_lent = True
            self._slots.lend()
            if extra.places:
                self._lanes.lend(extra)

    def request_reclaim(self, extra: JobExtra, future: asyncio.Future[bool]) -> None:
        """Give a slot to a job that had lent its own, now or before the next queued job starts.

        The future is set to True with it, or to False if the job needs none any more.
        """
        if extra.places:  # they come first: nobody holds a slot who cannot go on
            extra.reclaim_waiter = future
            self._lanes.reclaim(extra, lambda: self._request_slot(extra, future))
        else:
            self._request_slot(extra, future)

    def _request_slot(self, extra: JobExtra, future: asyncio.Future[bool]) -> None:
        # It may be cancelled, and its task has not heard of it: then it gives the places back in its next step.
        if not future.done() and not self._slots.reclaim(future):
            extra.reclaim_waiter = future

    def release(self, extra: JobExtra) -> None:
        """Let a job that wants a slot back go on without one: it was told to stop, or has ended."""
        future, extra.reclaim_waiter = extra.reclaim_waiter, None
        if future is None or future.done():
            return
        if self._slots.withdraw(future) or (extra.places and self._lanes.withdraw(extra)):
            future.set_result(False)

    def cancel_loan(self, extra: JobExtra) -> None:
        """End a loan, also that of a job that ends while a task of it still waits: it has nothing to give back."""
        if extra.lent:
            extra.lent = 0
            self._slots.end_loan()
            self.release(extra)
            if extra.missing:
                self._lanes.end_loan(extra)

    def _reclaim_after(self, error: BaseException, extra: JobExtra) -> Generator[Any, None, None]:
        if extra.stop is not None or is_kind(error, GeneratorExit):
            # Told to stop: its clean-up does not wait for a slot. Nothing *starts* beyond the limit.
            self._task_stopped_waiting(extra)
        else:
            yield from self._reclaim(extra)

    def _reclaim(self, extra: JobExtra) -> Generator[Any, None, None]:
        if extra.stop is not None or extra.lent != 1:
            self._task_stopped_waiting(extra)
            return
        future: asyncio.Future[bool] = self.create_future()
        self.request_reclaim(extra, future)
        try:
            granted = future.result() if future.done() else (yield from future)
        except BaseException:
            # Cancelled: as above.
            self._abort_reclaim(extra, future)
            self._task_stopped_waiting(extra)
            raise
        if granted:
            self._reclaimed(extra)
        else:
            self._task_stopped_waiting(extra)

    def _task_stopped_waiting(self, extra: JobExtra) -> None:
        """One task of the job waits no longer; the loan ends with the last."""
        if extra.lent > 1:
            extra.lent -= 1
        else:
            self.cancel_loan(extra)

    def _reclaimed(self, extra: JobExtra) -> None:
        if extra.lent == 1:
            extra.lent = 0
            self._slots.end_loan(granted=True)
            self.release(extra)
        else:  # other tasks of the job still lend its slot, or the job has ended
            self._slots.return_grant()
            if extra.places:
                self._lanes.withdraw(extra)
            self._task_stopped_waiting(extra)

    def _abort_reclaim(self, extra: JobExtra, future: asyncio.Future[bool]) -> bool:
        """Undo `request_reclaim`; whether the job that was waited for is done."""
        waiting = bool(extra.places) and extra.reclaim_waiter is future and self._lanes.withdraw(extra)
        if future.done() and not future.cancelled():
            if future.result():
                self._slots.return_grant()
            return True
        return self._slots.withdraw(future) or waiting


@final
class _ReclaimWaiter(JobObserver):
    """A task of a job that waits for another job, and has lent the slot."""

    __slots__ = ("extra", "future", "lending")

    def __init__(self, lending: SlotLending, extra: JobExtra, future: asyncio.Future[bool]) -> None:
        self.lending = lending
        self.extra = extra
        self.future = future

    def handles_errors(self) -> bool:
        return not self.future.done()

    def job_done(self, job: Job[Any]) -> None:
        """Ask for the slot before the worker of that job takes its next one; unless other tasks lend it still."""
        if self.future.done():
            return
        if self.extra.lent == 1:
            self.lending.request_reclaim(self.extra, self.future)
        else:
            self.future.set_result(False)


@final
class _Awaitable:
    """A generator of the event loop's kind, to be awaited."""

    __slots__ = ("_steps",)

    def __init__(self, steps: Generator[Any, None, None]) -> None:
        self._steps = steps

    def __await__(self) -> Generator[Any, None, None]:
        return self._steps
