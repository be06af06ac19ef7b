"""`JoinWaiters`: who waits until there is no job left; `pool.join()` and the shutdown.

A job may wait for the end of all *others*: it is a spectator, and not waited for by those like it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Protocol, final

from aiopool._engine.slots import SlotLending
from aiopool._jobs.job import running_job
from aiopool._jobs.spec import JobOwner
from aiopool._runtime.runtime import Runtime

__all__ = ["JoinWaiters"]


class Books(Protocol):
    """The books of a pool, as the join_waiters see them."""

    @property
    def runtime(self) -> Runtime:
        """What the pool uses of the world."""
        ...

    @property
    def owner(self) -> JobOwner | None:
        """Whose jobs these are."""
        ...

    @property
    def lending(self) -> SlotLending:
        """Who has lent a slot."""
        ...

    @property
    def jobs(self) -> Collection[Any]:
        """The live jobs."""
        ...

    def submitters_wait(self) -> bool:
        """Whether somebody waits for room."""
        ...


@final
class JoinWaiters:
    """Futures that are set when no job is left but the spectators."""

    __slots__ = ("_books", "futures", "joining_jobs")

    def __init__(self, books: Books) -> None:
        self._books = books
        self.futures: dict[asyncio.Future[None], None] = {}  # an ordered set: each may leave at once
        self.joining_jobs = 0

    def wake_if_idle(self) -> None:
        """Wake whoever waits if there is nothing to wait for any more; they look for themselves."""
        if self.futures and len(self._books.jobs) <= self.joining_jobs:
            for future in self.futures:
                if not future.done():
                    future.set_result(None)
            self.futures.clear()

    async def wait(self) -> None:
        """Wait until there is no job, those aside that wait here themselves."""
        books, job = self._books, running_job.get()
        watches = job is not None and job._spec.owner is books.owner and job._finished_at is None
        self.joining_jobs += watches
        try:
            # Whoever waits outside waits for the jobs that wait here, too.
            while len(books.jobs) > (self.joining_jobs if watches else 0) or books.submitters_wait():
                future: asyncio.Future[None] = books.runtime.loop.create_future()
                self.futures[future] = None
                try:
                    await books.lending.wait_for(future)
                finally:
                    self.futures.pop(future, None)
        finally:
            self.joining_jobs -= watches
