"""`Admission`: how many jobs may wait in a pool, and the jobs that wait for admission because the queue is full.

A job that waits for admission is not in the queue. It is counted only in `waiting`. A future wakes its `submit()` call.
Whoever makes space admits the job in that same step, so that no other can come in between. From then on the job counts
as queued, but it is *entering*: it goes into the queue when its submitter has woken. A submitter that is cancelled in
between withdraws a job that has not started.

Invariant: first come, first served. While a job waits here, no other is admitted. So many may be admitted, or refused,
in slices: it is as if it were done at once.

From the moment at which the pool is left only its *own jobs* may submit (`restrict`). A submission is one of theirs if
the current job, that of the task, of the tasks that it starts, and of the thread, is a job of this pool that has not
finished. Later nobody may (`close`).
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, final

from aiopool._engine.slots import Slots
from aiopool._jobs.job import Job, running_job
from aiopool._jobs.status import JobStatus
from aiopool._runtime.runtime import Runtime
from aiopool._runtime.sorted_rows import SortedRows
from aiopool.errors import JobCancelledError, PoolClosedError

__all__ = ["Admission"]

# So many jobs are admitted in one call; all others in slices.
MAX_ADMITTED = 16


@final
class Admission:
    """The jobs that wait for space in the queue; see the module.

    Attributes:
        capacity: so many jobs may wait for a worker, beside those for which one is free.
        limit: the same while everybody may submit, else below 0: with fewer live jobs than this no question is asked.
        closed: nobody may submit, the pool's own jobs neither.
        waiting: the jobs that wait, with their numbers in line and the futures of their submitters.
        entering: how many jobs were admitted, and their submitters have not woken.
    """

    __slots__ = (
        "_admitting",
        "_count",
        "_enter",
        "_is_own",
        "_line",
        "_on_refused",
        "_queued",
        "_refusing",
        "_runtime",
        "_slots",
        "_work_off",
        "capacity",
        "closed",
        "entering",
        "limit",
        "waiting",
    )

    def __init__(
        self,
        runtime: Runtime,
        slots: Slots,
        limit: int | None,
        *,
        queued: Callable[[], int],
        enter: Callable[[Job[Any]], object],
        is_own: Callable[[Job[Any] | None], bool],
        work_off: Callable[[Iterator[object]], object],
        on_refused: Callable[[], object],
    ) -> None:
        """What it needs of the engine.

        Args:
            runtime, slots: those of the pool.
            limit: how many jobs may wait for a worker; None: any number.
            queued: counts the jobs that wait for a worker.
            enter: takes a job in that waited.
            is_own: whether a job runs in this pool.
            work_off: does what concerns many jobs, in slices.
            on_refused: is called when jobs have been refused.
        """
        self._runtime = runtime
        self._slots = slots
        self._queued = queued
        self._enter = enter
        self._is_own = is_own
        self._work_off = work_off
        self._on_refused = on_refused
        self.capacity: float = math.inf if limit is None else limit
        # An int in any case: to compare one with an infinity takes ten times longer.
        self.limit = sys.maxsize if limit is None else limit
        self.closed = False
        self.waiting: dict[Job[Any], tuple[int, asyncio.Future[None]]] = {}
        self._line = SortedRows()  # number, job: those that wait
        self._count = 0
        self.entering = 0
        self._admitting = False  # in slices
        self._refusing = 0  # how many times, in slices

    @property
    def restricted(self) -> bool:
        """Whether only the pool's own jobs may submit, if anybody may."""
        return self.limit < 0

    def open_to_caller(self) -> bool:
        """Whether the caller may submit: everybody, the pool's own jobs, or nobody."""
        return not self.restricted or (not self.closed and self._is_own(running_job.get()))

    def is_full(self) -> bool:
        """Whether a job would have to wait."""
        return bool(self.waiting) or not self._has_space()

    def _has_space(self) -> bool:
        slots = self._slots
        return self._queued() < self.capacity + max(0, slots.limit - slots.active)

    def wait(self, job: Job[Any]) -> asyncio.Future[None]:
        """Let a job wait; return the future that is set when it was admitted.

        The future fails with a `PoolError` if the job is cancelled or refused meanwhile.
        """
        future: asyncio.Future[None] = self._runtime.loop.create_future()
        self._count += 1
        self.waiting[job] = self._count, future
        self._line.add((self._count, job))
        return future

    def _leave(self, job: Job[Any]) -> asyncio.Future[None]:
        """Take a job that waits out of the line; return the future of its submitter."""
        number, future = self.waiting.pop(job)
        self._line.remove((number,))
        return future

    def admit(self) -> None:
        """Admit jobs that wait, while there is space; some now, and if they are many the others in slices."""
        for _ in range(MAX_ADMITTED):
            if not self._admit_one():
                return
        if not self._admitting:
            self._admitting = True
            self._work_off(self._admit_others())

    def _admit_others(self) -> Iterator[None]:
        try:
            while self._admit_one():
                yield
        finally:
            self._admitting = False

    def _admit_one(self) -> bool:
        """Admit the first job that waits, if there is space; whether another may follow."""
        # While some are being refused nobody can be admitted: it may be one of those.
        if not self.waiting or self._refusing or not self._has_space():
            return False
        job = self._line.pop()[1]
        future = self.waiting.pop(job)[1]
        if not future.done():
            job._submitted_at = self._runtime.now()
            try:
                self._enter(job)
            except Exception as error:  # its submitter gets it, and not the code that made space
                self._refuse(job, future, error)
            else:
                future.set_result(None)
        return True

    def restrict(self) -> None:
        """Admit only the pool's own jobs; other submitters that wait get `PoolClosedError`."""
        if not self.restricted:
            self.limit = -sys.maxsize
            self._work_off(self._refuse_each(lambda job: not self._is_own(_submitter_of(job)), _closed))

    def close(self) -> None:
        """Admit no more jobs; submitters that wait get `PoolClosedError`."""
        if not self.closed:
            self.limit = -sys.maxsize
            self.closed = True
            self._work_off(self._refuse_each(None, _closed))

    def withdraw(self, job: Job[Any]) -> None:
        """Forget a job whose submitter no longer waits; harmless if the job has ended."""
        if job in self.waiting:
            self._leave(job)
        if job._finished_at is None:
            text = f"{job!r} was withdrawn: its submitter was cancelled while it waited for room"
            job._finish(JobStatus.CANCELLED, (JobCancelledError(text), None), self._runtime.now())
        self._on_refused()

    def cancel(self, job: Job[Any], reason: str | None = None) -> bool:
        """Cancel a job that waits, and wake its submitter; whether it waited."""
        if job not in self.waiting or (future := self._leave(job)).done():
            return False
        self._refuse(job, future, _cancelled(job, reason))
        self._on_refused()
        return True

    def cancel_all(self, which: Callable[[Job[Any]], bool], reason: str | None = None) -> Iterator[bool]:
        """Return the steps of a chore that cancels jobs that wait; each tells whether it did.

        Until it is done no job is admitted.
        """
        return self._refuse_each(which, lambda job: _cancelled(job, reason))

    def _refuse_each(
        self, which: Callable[[Job[Any]], bool] | None, error: Callable[[Job[Any]], Exception]
    ) -> Iterator[bool]:
        last = self._count
        self._refusing += 1

        def refuse() -> Iterator[bool]:
            number = 0
            try:
                while (row := self._line.at_least((number + 1,))) is not None and row[0] <= last:
                    number, job = row
                    waits = which is None or which(job)
                    if waits:
                        future = self._leave(job)
                        waits = not future.done()
                        if waits:
                            self._refuse(job, future, error(job))
                    yield waits
            finally:
                self._refusing -= 1
            self._on_refused()
            self.admit()

        return refuse()

    def _refuse(self, job: Job[Any], future: asyncio.Future[None], error: Exception) -> None:
        """End a job that waits: its submitter gets the error, and so does a caller who has found the job by its id."""
        future.set_exception(error)
        job._finish(JobStatus.CANCELLED, (error, None), self._runtime.now())


def _submitter_of(job: Job[Any]) -> Job[Any] | None:
    """Return the job in whose context a job was submitted."""
    assert job._context is not None
    return job._context.get(running_job)


def _closed(job: Job[Any]) -> PoolClosedError:
    return PoolClosedError(f"{job!r} was waiting for room when the pool was shut down: it was not taken in")


def _cancelled(job: Job[Any], reason: str | None) -> JobCancelledError:
    text = f"{job!r} was cancelled while it waited for room"
    if reason is not None:
        job._ensure_extra().cancel_reason = reason
        text += f": {reason}"
    return JobCancelledError(text)
