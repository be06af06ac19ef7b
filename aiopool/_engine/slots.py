"""`SlotLending`: a job that waits for another job of its pool, or for room in it, lends its slot meanwhile.

That is why nested jobs cannot deadlock, at any size of the pool and any depth. Whoever waits no more asks for a slot,
and gets one ahead of the line before it goes on: nothing starts beyond the limit for it. A job that was told to stop
goes on without one, also if it is told while it asks: its clean-up must not wait. And who waits for jobs that end with
him (`give_up`) lets them end before he asks: they may have the slot that he will get.

Several tasks of a job may wait at once: the slot is lent as soon as one waits (`JobExtra.lent` counts them), and comes
back with the last.

Invariant: `lent` jobs have lent a slot, which is not in the books' `active`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Any, Protocol, final

from aiopool._jobs.job import Job, JobExtra, running_job
from aiopool._jobs.spec import JobOwner
from aiopool._jobs.waiters import JobObserver, add_waiter, remove_waiter
from aiopool._runtime.faults import is_kind
from aiopool._runtime.runtime import Runtime

__all__ = ["SlotLending", "Slots"]


class Slots(Protocol):
    """The books of the slots, as the loans see them."""

    active: int
    size: int

    @property
    def runtime(self) -> Runtime:
        """What the pool uses of the world."""
        ...

    @property
    def owner(self) -> JobOwner | None:
        """Whose jobs these are."""
        ...

    def update_contention(self) -> None:
        """Slots or the wish for one have changed."""

    def unheard(self, job: Job[Any]) -> None:
        """Whoever waited for a job was cancelled, perhaps after its end."""

    def wake_workers(self) -> None:
        """There may be work to begin."""


@final
class SlotLending:
    """Who has lent a slot, and who wants one back."""

    __slots__ = ("_slots", "lent", "reclaim_waiters")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.lent = 0
        self.reclaim_waiters: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    # -- waiting -------------------------------------------------------------------------------------------------

    def wait(
        self, job: Job[Any], waiter: Job[Any] | None, give_up: Callable[[], object] | None = None
    ) -> Generator[Any, None, None]:
        """Wait until a job is done; a waiter that is a running job of this pool lends its slot meanwhile."""
        if waiter is job:
            raise RuntimeError(f"{job!r} awaits itself: it would wait for ever")
        if waiter is not None and self._may_lend(waiter):
            yield from self._wait_lent(job, waiter._ensure_extra(), give_up)
        else:
            future: asyncio.Future[None] = self._slots.runtime.loop.create_future()
            add_waiter(job, future)
            try:
                yield from future
            except BaseException:
                if future.done() and not future.cancelled():
                    self._slots.unheard(job)
                else:
                    remove_waiter(job, future)
                raise

    async def wait_for(self, future: asyncio.Future[Any], give_up: Callable[[], object] | None = None) -> None:
        """Wait for a future of the pool's; a caller that is a running job of this pool lends its slot meanwhile."""
        waiter = running_job.get()
        if waiter is not None and self._may_lend(waiter):
            await _Awaitable(self._lending(waiter._ensure_extra(), future.__await__(), give_up))
        else:
            await future

    def _may_lend(self, waiter: Job[Any]) -> bool:
        return waiter._spec.owner is self._slots.owner and waiter._finished_at is None

    def _lending(
        self, extra: JobExtra, waiting: Generator[Any, None, None], give_up: Callable[[], object] | None
    ) -> Generator[Any, None, None]:
        """Lend the slot of a running job while `waiting` goes on; take one back before returning."""
        self._lend(extra)
        try:
            yield from waiting
        except BaseException as error:
            if give_up is not None:
                give_up()
            yield from self._reclaim_after(error, extra)
            raise
        yield from self._reclaim(extra)

    def _wait_lent(
        self, job: Job[Any], extra: JobExtra, give_up: Callable[[], object] | None
    ) -> Generator[Any, None, None]:
        """Wait for a job without a slot. At its end the slot is asked for in the same turn: ahead of the line."""
        future: asyncio.Future[bool] = self._slots.runtime.loop.create_future()
        waiter = _ReclaimWaiter(self, extra, future)
        add_waiter(job, waiter)
        self._lend(extra)
        try:
            granted = yield from future
        except BaseException as error:
            if not self._abort_reclaim(future):
                remove_waiter(job, waiter)
            self._slots.unheard(job)
            if give_up is not None:
                give_up()
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
            self.lent += 1
            self._slots.active -= 1
            self._slots.update_contention()
            self._slots.wake_workers()

    def request_reclaim(self, extra: JobExtra, future: asyncio.Future[bool]) -> None:
        """Give a slot to a job that had lent its own, now or ahead of the line.

        The future is set to True with it, or to False if the job needs none any more.
        """
        if self._slots.active < self._slots.size and not self.reclaim_waiters:
            self._slots.active += 1
            future.set_result(True)
        else:
            extra.reclaim_waiter = future
            self.reclaim_waiters[future] = None
            self._slots.update_contention()

    def release(self, extra: JobExtra) -> None:
        """Let a job that wants a slot back go on without: it was told to stop, or its end is written down."""
        future, extra.reclaim_waiter = extra.reclaim_waiter, None
        if future is not None and not future.done() and future in self.reclaim_waiters:
            del self.reclaim_waiters[future]
            future.set_result(False)
            self._slots.update_contention()

    def grant_next(self) -> bool:
        """Give a slot that is free to the first job that wants its own back; whether there was one."""
        while self.reclaim_waiters:
            future, _ = self.reclaim_waiters.popitem(last=False)
            if not future.done():
                self._slots.active += 1
                future.set_result(True)
                self._slots.update_contention()
                return True
        self._slots.update_contention()
        return False

    def cancel_loan(self, extra: JobExtra) -> None:
        """End a loan, also that of a job that ends while a task of it still waits: it has nothing to give back."""
        if extra.lent:
            extra.lent = 0
            self.lent -= 1
            self._slots.active += 1
            self._slots.update_contention()
            self.release(extra)

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
        future: asyncio.Future[bool] = self._slots.runtime.loop.create_future()
        self.request_reclaim(extra, future)
        try:
            granted = future.result() if future.done() else (yield from future)
        except BaseException:
            # Cancelled: as above.
            self._abort_reclaim(future)
            self._task_stopped_waiting(extra)
            raise
        if granted:
            self._reclaimed(extra)
        else:
            self._task_stopped_waiting(extra)

    def _task_stopped_waiting(self, extra: JobExtra) -> bool:
        """One task of the job waits no more; whether others do, or the loan is over anyway."""
        if extra.lent > 1:
            extra.lent -= 1
            return True
        self.cancel_loan(extra)
        return False

    def _reclaimed(self, extra: JobExtra) -> None:
        self._slots.active -= 1  # counted by whoever gave it; the end of the loan counts it again
        if self._task_stopped_waiting(extra):
            self._slots.wake_workers()  # other tasks of the job lend it still

    def _abort_reclaim(self, future: asyncio.Future[bool]) -> bool:
        """Undo `want_back`; whether the job that was waited for is done."""
        if future.done() and not future.cancelled():
            if future.result():
                self._slots.active -= 1
                self._slots.wake_workers()
            return True
        if future in self.reclaim_waiters:
            del self.reclaim_waiters[future]
            self._slots.update_contention()
            return True
        return False


@final
class _ReclaimWaiter(JobObserver):
    """A task of a job that waits for another job, and has lent the slot."""

    __slots__ = ("extra", "future", "loans")

    def __init__(self, loans: SlotLending, extra: JobExtra, future: asyncio.Future[bool]) -> None:
        self.loans = loans
        self.extra = extra
        self.future = future

    def handles_errors(self) -> bool:
        return not self.future.done()

    def job_done(self, job: Job[Any]) -> None:
        """Ask for the slot before the worker of that job takes its next one; unless other tasks lend it still."""
        if self.future.done():
            return
        if self.extra.lent == 1:
            self.loans.request_reclaim(self.extra, self.future)
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
