"""`Room`: how many jobs may wait in a pool, and the submitters that wait outside until there is room for theirs.

A job that waits outside has no place and is in no count but `waiting`; its submitter hears of it through a future. It
is taken in by whoever makes room, in that step: nobody can come in between.

Invariant: first come, first served. While somebody waits outside, nobody else gets in.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any, Protocol, final

from aiopool._job import Job
from aiopool._joiners import Joiners
from aiopool._loans import Loans
from aiopool._runtime import Runtime
from aiopool._status import JobStatus
from aiopool.errors import JobCancelledError, PoolClosedError

__all__ = ["Room"]


class Books(Protocol):
    """The books of a pool, as the room sees them."""

    active: int
    slots: int

    @property
    def runtime(self) -> Runtime:
        """What the pool uses of the world."""
        ...

    @property
    def loans(self) -> Loans:
        """Who has lent a slot."""
        ...

    @property
    def joiners(self) -> Joiners:
        """Who waits for the end of all jobs."""
        ...

    def queued(self) -> int:
        """How many jobs wait for a worker."""
        ...

    def enter(self, job: Job[Any], *, inside: bool = False) -> None:
        """Take a job in."""
        ...

    def take_id(self, job: Job[Any]) -> None:
        """Let a job answer to its id."""
        ...

    def release_id(self, job: Job[Any]) -> None:
        """Let another job have the id."""
        ...


@final
class Room:
    """Who waits outside; see the module.

    Attributes:
        limit: so many jobs may wait for a worker, beside those for which one is free; below 0: the doors are closed.
        waiting: the jobs outside, and through what their submitters hear of them.
    """

    __slots__ = ("_books", "limit", "waiting")

    def __init__(self, books: Books, limit: int | None) -> None:
        self._books = books
        self.limit: float = math.inf if limit is None else limit
        self.waiting: deque[tuple[Job[Any], asyncio.Future[None]]] = deque()

    @property
    def closed(self) -> bool:
        """Whether the doors are closed."""
        return self.limit < 0

    def full(self) -> bool:
        """Whether a job would have to wait outside; always, once the doors are closed."""
        return bool(self.waiting) or not self._has_place()

    def _has_place(self) -> bool:
        books = self._books
        return books.queued() < self.limit + max(0, books.slots - books.active)

    async def wait(self, job: Job[Any]) -> None:
        """Wait outside until a job was taken in. Whoever gives up waiting withdraws it.

        Raises:
            PoolError: it was cancelled, or the doors were closed.
        """
        future: asyncio.Future[None] = self._books.runtime.loop.create_future()
        self.waiting.append((job, future))
        self._books.take_id(job)
        try:
            await self._books.loans.wait_for(future)
        finally:
            if job._plan.id is None or not future.done() or future.cancelled() or future.exception() is not None:
                self._books.release_id(job)

    def admit(self) -> None:
        """Let those in who wait, while there is room."""
        while self.waiting and self._has_place():
            job, future = self.waiting.popleft()
            if not future.done():
                job._submitted_at = self._books.runtime.now()
                try:
                    self._books.enter(job, inside=True)
                except Exception as error:  # its submitter hears of it, and not whoever made room
                    self._refuse(job, future, error)
                else:
                    future.set_result(None)

    def close(self) -> None:
        """Take no more jobs in; who waits gets `PoolClosedError`."""
        self.limit = -math.inf
        while self.waiting:
            job, future = self.waiting.popleft()
            if not future.done():
                text = f"{job!r} was waiting for room when the pool was shut down: it was not taken in"
                self._refuse(job, future, PoolClosedError(text))
        self._books.joiners.look()

    def withdraw(self, job: Job[Any]) -> None:
        """Forget a job whose submitter has given up waiting; harmless if it has ended."""
        self._forget(job)
        if job._finished_at is None:
            text = f"{job!r} was withdrawn: its submitter was cancelled while it waited for room"
            job._finish(JobStatus.CANCELLED, (JobCancelledError(text), None), self._books.runtime.now())
        self._books.joiners.look()

    def cancel(self, job: Job[Any], reason: str | None = None) -> bool:
        """Cancel a job that waits, and tell its submitter; whether it waited."""
        for waiting, future in self.waiting:
            if waiting is job and not future.done():
                self._forget(job)
                self._refuse_cancelled(job, future, reason)
                self._books.joiners.look()
                return True
        return False

    def cancel_all(self, group: str | None = None, reason: str | None = None) -> int:
        """Cancel all jobs that wait, or those of a group; return how many there were."""
        rows = tuple(self.waiting)
        self.waiting.clear()
        self.waiting.extend(row for row in rows if group not in (None, row[0].group))
        count = 0
        for job, future in rows:
            if group in (None, job.group) and not future.done():
                self._refuse_cancelled(job, future, reason)
                count += 1
        self._books.joiners.look()
        return count

    def _forget(self, job: Job[Any]) -> None:
        for row in self.waiting:
            if row[0] is job:
                self.waiting.remove(row)
                return

    def _refuse_cancelled(self, job: Job[Any], future: asyncio.Future[None], reason: str | None) -> None:
        text = f"{job!r} was cancelled while it waited for room"
        if reason is not None:
            job._more().lost = reason
            text += f": {reason}"
        self._refuse(job, future, JobCancelledError(text))

    def _refuse(self, job: Job[Any], future: asyncio.Future[None], error: Exception) -> None:
        """End a job that waits: its submitter is told, and whoever has found it by its id."""
        future.set_exception(error)
        job._finish(JobStatus.CANCELLED, (error, None), self._books.runtime.now())
