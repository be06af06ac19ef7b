"""`Room`: how many jobs may wait in a pool, and the submitters that wait outside until there is room for theirs.

A job that waits outside has no place and is in no count but `waiting`; its submitter hears of it through a future. It
is taken in by whoever makes room, in that step: nobody can come in between. It is queued from then on, but goes into
line, and may start, only when its submitter has heard: until then its place is the room. A submitter that is cancelled
in between withdraws a job that has not begun.

Invariant: first come, first served. While somebody waits outside, nobody else gets in.

From the moment at which the pool is left only its *own jobs* may submit (`restrict`). A submission is one of theirs if
the current job, that of the task, of the tasks that it starts, and of the thread, is a job of this pool that has not
finished. Later nobody may (`close`).
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Protocol, final

from aiopool._engine.join_waiters import JoinWaiters
from aiopool._engine.slots import SlotLending
from aiopool._jobs.job import Job, running_job
from aiopool._jobs.status import JobStatus
from aiopool._runtime.runtime import Runtime
from aiopool.errors import JobCancelledError, PoolClosedError

__all__ = ["Admission"]


class Books(Protocol):
    """The books of a pool, as the room sees them."""

    active: int
    slots: int

    @property
    def runtime(self) -> Runtime:
        """What the pool uses of the world."""
        ...

    @property
    def lending(self) -> SlotLending:
        """Who has lent a slot."""
        ...

    @property
    def join_waiters(self) -> JoinWaiters:
        """Who waits for the end of all jobs."""
        ...

    def queued(self) -> int:
        """How many jobs wait for a worker."""
        ...

    def enter(self, job: Job[Any], *, inside: bool = False, held: bool = False) -> None:
        """Take a job in."""
        ...

    def line_up(self, job: Job[Any]) -> None:
        """Let a job go into line that was held in the room."""
        ...

    def cancel(self, job: Job[Any], reason: str | None = None) -> bool:
        """Cancel a job."""
        ...

    def work_off(self, steps: Iterator[object]) -> None:
        """Do what concerns many jobs, in slices."""
        ...

    def take_id(self, job: Job[Any]) -> None:
        """Let a job answer to its id."""
        ...

    def release_id(self, job: Job[Any]) -> None:
        """Let another job have the id."""
        ...

    def is_own(self, job: Job[Any] | None) -> bool:
        """Whether this is a job of the pool that has not finished."""
        ...


@final
class Admission:
    """Who waits outside; see the module.

    Attributes:
        capacity: so many jobs may wait for a worker, beside those for which one is free.
        limit: the same while everybody may submit, else below 0: with fewer live jobs than this no question is asked.
        closed: nobody may submit, the pool's own jobs neither.
        waiting: the jobs outside, and through what their submitters hear of them.
        entering: how many jobs were taken in, and their submitters have not heard.
    """

    __slots__ = ("_books", "capacity", "closed", "entering", "limit", "waiting")

    def __init__(self, books: Books, limit: int | None) -> None:
        self._books = books
        self.capacity: float = math.inf if limit is None else limit
        # An int in any case: to compare one with an infinity takes ten times longer.
        self.limit = sys.maxsize if limit is None else limit
        self.closed = False
        self.waiting: OrderedDict[Job[Any], asyncio.Future[None]] = OrderedDict()
        self.entering = 0

    @property
    def restricted(self) -> bool:
        """Whether only the pool's own jobs may submit, if anybody may."""
        return self.limit < 0

    def open_to_caller(self) -> bool:
        """Whether the caller may submit: everybody, the pool's own jobs, or nobody."""
        return not self.restricted or (not self.closed and self._books.is_own(running_job.get()))

    def is_full(self) -> bool:
        """Whether a job would have to wait outside."""
        return bool(self.waiting) or not self._has_place()

    def _has_place(self) -> bool:
        books = self._books
        return books.queued() < self.capacity + max(0, books.slots - books.active)

    async def wait(self, job: Job[Any]) -> None:
        """Wait outside until a job was taken in. Whoever gives up waiting withdraws it.

        Raises:
            PoolError: it was cancelled, or the doors were closed.
        """
        future: asyncio.Future[None] = self._books.runtime.loop.create_future()
        self.waiting[job] = future
        self._books.take_id(job)
        try:
            await self._books.lending.wait_for(future)
            if job._location is self:  # nobody has cancelled it meanwhile
                self._books.line_up(job)
        except BaseException:
            if job._location is self:
                self._books.cancel(job, "its submitter was cancelled")
            raise
        finally:
            if job.id == job._sequence or not future.done() or future.cancelled() or future.exception() is not None:
                self._books.release_id(job)

    def admit(self) -> None:
        """Let those in who wait, while there is room."""
        while self.waiting and self._has_place():
            job, future = self.waiting.popitem(last=False)
            if not future.done():
                job._submitted_at = self._books.runtime.now()
                try:
                    self._books.enter(job, inside=True, held=True)
                except Exception as error:  # its submitter hears of it, and not whoever made room
                    self._refuse(job, future, error)
                else:
                    future.set_result(None)

    def restrict(self) -> None:
        """Take no more jobs but those of the pool's own; whoever else waits gets `PoolClosedError`."""
        self.limit = -sys.maxsize
        self._refuse_closing(lambda job: not self._books.is_own(_submitter_of(job)))

    def close(self) -> None:
        """Take no more jobs in, from nobody; who waits gets `PoolClosedError`."""
        self.limit = -sys.maxsize
        self.closed = True
        self._refuse_closing(None)

    def _refuse_closing(self, which: Callable[[Job[Any]], bool] | None) -> None:
        text = "{} was waiting for room when the pool was shut down: it was not taken in"
        self._refuse_all(which, lambda job: PoolClosedError(text.format(repr(job))))

    def withdraw(self, job: Job[Any]) -> None:
        """Forget a job whose submitter has given up waiting; harmless if it has ended."""
        self.waiting.pop(job, None)
        if job._finished_at is None:
            text = f"{job!r} was withdrawn: its submitter was cancelled while it waited for room"
            job._finish(JobStatus.CANCELLED, (JobCancelledError(text), None), self._books.runtime.now())
        self._books.join_waiters.wake_if_idle()

    def cancel(self, job: Job[Any], reason: str | None = None) -> bool:
        """Cancel a job that waits, and tell its submitter; whether it waited."""
        future = self.waiting.pop(job, None)
        if future is None or future.done():
            return False
        self._refuse(job, future, _cancelled(job, reason))
        self._books.join_waiters.wake_if_idle()
        return True

    def cancel_all(self, group: str | None = None, reason: str | None = None) -> int:
        """Cancel all jobs that wait, or those of a group; return how many there were."""
        which = None if group is None else lambda job: bool(job.group == group)
        return self._refuse_all(which, lambda job: _cancelled(job, reason))

    def _refuse_all(self, which: Callable[[Job[Any]], bool] | None, error: Callable[[Job[Any]], Exception]) -> int:
        rows = self.waiting
        if which is None:
            self.waiting = OrderedDict()
        else:
            rows = OrderedDict((job, rows.pop(job)) for job in list(filter(which, rows)))
        count = len(rows)

        def refuse() -> Iterator[None]:
            while rows:
                job, future = rows.popitem(last=False)
                if not future.done():  # its submitter has not given up meanwhile
                    self._refuse(job, future, error(job))
                yield
            self._books.join_waiters.wake_if_idle()

        self._books.work_off(refuse())
        return count

    def _refuse(self, job: Job[Any], future: asyncio.Future[None], error: Exception) -> None:
        """End a job that waits: its submitter is told, and whoever has found it by its id."""
        future.set_exception(error)
        job._finish(JobStatus.CANCELLED, (error, None), self._books.runtime.now())


def _submitter_of(job: Job[Any]) -> Job[Any] | None:
    """Return the job in whose context a job was submitted."""
    assert job._context is not None
    return job._context.get(running_job)


def _cancelled(job: Job[Any], reason: str | None) -> JobCancelledError:
    text = f"{job!r} was cancelled while it waited for room"
    if reason is not None:
        job._ensure_extra().cancel_reason = reason
        text += f": {reason}"
    return JobCancelledError(text)
