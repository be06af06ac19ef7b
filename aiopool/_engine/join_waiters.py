"""`JoinWaiters`: the callers of `pool.join()` and the shutdown, which wait until no job is left.

A job may call `pool.join()`. Jobs that do so do not wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, final

from aiopool._engine.lending import SlotLending
from aiopool._jobs.job import running_job

__all__ = ["JoinWaiters"]


@final
class JoinWaiters:
    """Futures that are set when no job is left but those that wait here themselves.

    Attributes:
        futures: the futures.
        joining_jobs: how many jobs wait here.
    """

    __slots__ = ("_jobs", "_lending", "_submitters_wait", "futures", "joining_jobs")

    def __init__(self, jobs: Collection[Any], lending: SlotLending, submitters_wait: Callable[[], bool]) -> None:
        """`jobs` are the live ones; `submitters_wait()` says whether others wait for admission."""
        self._jobs = jobs
        self._lending = lending
        self._submitters_wait = submitters_wait
        self.futures: dict[asyncio.Future[None], None] = {}  # an ordered set: each may leave at once
        self.joining_jobs = 0

    def wake_if_idle(self) -> None:
        """Wake those who wait if no job is left to wait for; they check again."""
        if self.futures and len(self._jobs) <= self.joining_jobs:
            for future in self.futures:
                if not future.done():
                    future.set_result(None)
            self.futures.clear()

    async def wait(self) -> None:
        """Wait until there is no job, other than those that wait here themselves."""
        joins = self._lending.is_own(running_job.get())
        self.joining_jobs += joins
        try:
            # A caller that is no job waits for the jobs that wait here, too.
            while len(self._jobs) > (self.joining_jobs if joins else 0) or self._submitters_wait():
                future = self._lending.create_future()
                self.futures[future] = None
                try:
                    await self._lending.wait_for(future)
                finally:
                    self.futures.pop(future, None)
        finally:
            self.joining_jobs -= joins
