"""`Endings`: what happens when a job ends: it is counted, lets go of what it had, and whoever should know is told.

A job may end before its code does. Then it has *leaked* (it was told to stop, and did not within its grace), or it runs
in a thread, which cannot be stopped; its slot stays taken until its code ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, final

from aiopool._engine.error_reporter import ErrorReporter
from aiopool._engine.groups import GroupRegistry
from aiopool._engine.job_ids import JobIds
from aiopool._engine.join_waiters import JoinWaiters
from aiopool._engine.lanes import LaneTable
from aiopool._engine.lending import SlotLending
from aiopool._engine.slots import Slots
from aiopool._jobs.job import Job, JobExtra
from aiopool._jobs.lease import Lease
from aiopool._jobs.outcome import add_note, cancelled_error, timeout_error
from aiopool._jobs.retry import RetryAfter
from aiopool._jobs.statistics import Counters
from aiopool._jobs.status import JobStatus
from aiopool._jobs.stop import StopCause
from aiopool._jobs.waiters import awaiter_count
from aiopool._observe.observers import Observers
from aiopool._runtime.faults import is_kind, traceback_of

__all__ = ["Endings", "worker_of"]

RUNNING, SUCCEEDED = JobStatus.RUNNING, JobStatus.SUCCEEDED
TIMED_OUT, CANCELLED = JobStatus.TIMED_OUT, JobStatus.CANCELLED


@final
class Endings:
    """The ends of the jobs of one open pool.

    Attributes:
        leaked: how many jobs have leaked, and their code still runs.
        observers: who is told; None: nobody.
    """

    __slots__ = (
        "_counters",
        "_groups",
        "_ids",
        "_jobs",
        "_join_waiters",
        "_lanes",
        "_lending",
        "_now",
        "_on_fatal",
        "_on_leak",
        "_reporter",
        "_slots",
        "leaked",
        "observers",
    )

    def __init__(
        self,
        *,
        now: Callable[[], float],
        jobs: dict[int, Job[Any]],
        ids: JobIds,
        groups: GroupRegistry,
        lanes: LaneTable,
        counters: Counters,
        slots: Slots,
        lending: SlotLending,
        join_waiters: JoinWaiters,
        reporter: ErrorReporter,
        on_leak: Literal["hold", "replace"],
        on_fatal: Callable[[BaseException], object],
    ) -> None:
        """The parts of the pool that a job is in or has something of; `on_leak` is the argument of `Pool`."""
        self.observers: Observers | None = None
        self.leaked = 0
        self._now = now
        self._jobs = jobs
        self._ids = ids
        self._groups = groups
        self._lanes = lanes
        self._counters = counters
        self._slots = slots
        self._lending = lending
        self._join_waiters = join_waiters
        self._reporter = reporter
        self._on_leak = on_leak
        self._on_fatal = on_fatal

    def finish(self, job: Job[Any], status: JobStatus, value: Any, now: float) -> None:
        """End a job, in any way but the plainest (`attempt_returned`)."""
        observers = self.observers
        worker = worker_of(job) if observers else None
        awaited = bool(observers) and status is not SUCCEEDED and awaiter_count(job) > 0
        counters = self._counters
        if status is SUCCEEDED:
            counters.succeeded += 1
        else:
            name = status.value
            setattr(counters, name, getattr(counters, name) + 1)
        extra = job._extra
        if extra is not None and extra.history is not None:
            if status is SUCCEEDED:
                counters.recovered += 1
            else:
                counters.not_recovered += 1
        self._leave(job, extra)
        job._finish(status, value, now)
        if extra is not None and extra.callbacks is not None:
            callbacks, extra.callbacks = extra.callbacks, None
            for callback, context in callbacks:
                self._reporter.call_hook(context, callback, job)
        self._join_waiters.wake_if_idle()
        if observers:
            observers.ended(job, worker, now, awaited=awaited)

    def _leave(self, job: Job[Any], extra: JobExtra | None) -> None:
        """Let go of what a job that ends had of the pool."""
        del self._jobs[job._sequence]
        if extra is not None:
            if extra.id is not None:
                self._ids.release(job)
            if extra.group is not None:
                self._groups.leave(job, extra.group)
            if extra.lent:
                self._lending.cancel_loan(extra)

    def give_back(self, job: Job[Any], lease: Lease, now: float, *, retried: bool = False) -> None:
        """Let a job of a store leave the pool without an end of its own: for another attempt, or another process.

        Here it ends as cancelled, for those who hold it in this process: its own code.
        """
        extra, worker = job._extra, worker_of(job)
        self._counters.given_back += 1
        self._leave(job, extra)
        lease.given_back(job)
        job._finish(CANCELLED, (cancelled_error(job, None), None), now)
        self._join_waiters.wake_if_idle()
        if self.observers and not retried:  # else they know
            self.observers.given_back(job, worker, now)

    def finish_failed(self, job: Job[Any], status: JobStatus, error: BaseException, now: float) -> None:
        add_note(error, job)
        awaiters = awaiter_count(job)
        worker = worker_of(job)
        self.finish(job, status, (error, traceback_of(error)), now)
        if is_kind(error, (SystemExit, KeyboardInterrupt)):
            self._on_fatal(error)
        elif awaiters:
            job._ensure_extra().awaiters = awaiters
        else:
            self._reporter.report(job, error, worker)

    def finish_cancelled(self, job: Job[Any], now: float, *, cause: BaseException | None = None) -> None:
        lease = None if job._extra is None else job._extra.lease
        if lease is not None and lease.takes_back(job):
            self.give_back(job, lease, now)
            return
        self.finish(job, CANCELLED, (cancelled_error(job, cause), None), now)

    def when_ended(self, job: Job[Any]) -> asyncio.Future[None] | None:
        """Return a future for the moment at which no line of a job will run any more, or it leaked; None: that is so.

        For a job that was told to stop, or waits.
        """
        extra = job._extra
        if extra is None or extra.leaked or (job._sequence not in self._jobs and not extra.abandoned):
            return None  # ended; or its submitter, which waited for room, was cancelled and withdraws it
        future: asyncio.Future[None] = self._lending.create_future()
        if extra.exit_waiters is None:
            extra.exit_waiters = []
        extra.exit_waiters.append(future)
        return future

    def wake_exit_waiters(self, extra: JobExtra) -> None:
        for future in extra.exit_waiters or ():
            if not future.done():
                future.set_result(None)
        extra.exit_waiters = None

    def leak(self, job: Job[Any], worker: int, stack: str, now: float) -> None:
        """Call a job leaked: it was told to stop, and did not end within its grace. It may be abandoned already."""
        self._mark_leaked(job, worker, stack)
        if not job._ensure_extra().abandoned:
            self.abandon(job, now)

    def abandon(self, job: Job[Any], now: float) -> None:
        """Release a job's waiters although its code still runs; it keeps its slot until its code ends.

        A job that has leaked, or that runs in a thread: that cannot be told to stop, so nobody waits for it.
        """
        extra = job._ensure_extra()
        stop = extra.stop
        assert stop is not None
        extra.abandoned = True
        if stop.cause is StopCause.CANCEL:
            self.finish_cancelled(job, now)
        else:
            self.finish_failed(job, TIMED_OUT, timeout_error(job, stop.cause), now)

    def _mark_leaked(self, job: Job[Any], worker: int, stack: str) -> None:
        """Log a job that did not end, and by choice give its slot to another."""
        extra = job._ensure_extra()
        extra.leaked = True
        self._counters.leaked_total += 1
        self._reporter.log(
            "job %.200r id %.200r was told to stop, and did not end within its grace: it leaked%s\n%s",
            job,
            " and is replaced" if self._on_leak == "replace" else ", and holds its slot until it ends",
            stack,
            worker=worker,
        )
        self._count_leak(1)
        if self._on_leak == "replace" and extra.places:
            self._lanes.leave(extra)
        self.wake_exit_waiters(extra)
        if self.observers:
            self.observers.leaked(job, worker, stack, self._now())

    def _count_leak(self, change: int) -> None:
        """Count a job that has leaked (1), or whose code has ended after all (-1).

        `on_leak="replace"` is no more than this: meanwhile the job has no slot, and another may start.
        """
        self.leaked += change
        if self._on_leak == "replace":
            self._slots.replace(change)

    def ended_late(self, job: Job[Any], error: BaseException | None) -> None:
        """The code of a job that had been left behind has ended at last."""
        extra = job._ensure_extra()
        extra.abandoned = False
        if extra.leaked:
            self._count_leak(-1)
        self.wake_exit_waiters(extra)
        if extra.lease is not None:
            extra.lease.ended_late(job)
        if error is not None and not is_kind(error, (asyncio.CancelledError, RetryAfter)):
            self._reporter.report(job, error)


def worker_of(job: Job[Any]) -> int | None:
    """Return the number of the worker that runs a job, or None."""
    worker: int | None = job._location.id if job._status is RUNNING else None
    return worker
