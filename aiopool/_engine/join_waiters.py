"""`Joiners`: who waits until there is no job left; `pool.join()` and the shutdown.

A job may wait for the end of all *others*: it is a spectator, and not waited for by those like it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Protocol, final

from aiopool._engine.slots import Loans
from aiopool._jobs.job import running_job
from aiopool._jobs.spec import JobOwner
from aiopool._runtime.runtime import Runtime

__all__ = ["Joiners"]


class Books(Protocol):
    """The books of a pool, as the joiners see them."""

    @property
    def runtime(self) -> Runtime:
        """What the pool uses of the world."""
        ...

    @property
    def owner(self) -> JobOwner | None:
        """Whose jobs these are."""
        ...

    @property
    def loans(self) -> Loans:
        """Who has lent a slot."""
        ...

    @property
    def jobs(self) -> Collection[Any]:
        """The live jobs."""
        ...

    def someone_outside(self) -> bool:
        """Whether somebody waits for room."""
        ...


@final
class Joiners:
    """Futures that are set when no job is left but the spectators."""

    __slots__ = ("_books", "futures", "spectators")

    def __init__(self, books: Books) -> None:
        self._books = books
        self.futures: list[asyncio.Future[None]] = []
        self.spectators = 0

    def look(self) -> None:
        """Wake whoever waits if there is nothing to wait for any more; they look for themselves."""
        if self.futures and len(self._books.jobs) <= self.spectators:
            for future in self.futures:
                if not future.done():
                    future.set_result(None)
            self.futures.clear()

    async def wait(self) -> None:
        """Wait until there is no job, those aside that wait here themselves."""
        books, job = self._books, running_job.get()
        watches = job is not None and job._plan.owner is books.owner and job._finished_at is None
        self.spectators += watches
        try:
            # Whoever waits outside waits for the jobs that wait here, too.
            while len(books.jobs) > (self.spectators if watches else 0) or books.someone_outside():
                future: asyncio.Future[None] = books.runtime.loop.create_future()
                self.futures.append(future)
                try:
                    await books.loans.wait_for(future)
                finally:
                    if future in self.futures:
                        self.futures.remove(future)
        finally:
            self.spectators -= watches
