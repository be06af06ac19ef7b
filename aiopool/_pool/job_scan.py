"""`JobScan`: the live jobs of a pool, for `async for`, in slices of the event loop's time, and from a place on.

Invariant: no more than a slice passes between two turns of the loop, if the consumer takes none for itself.

Jobs are looked at in stretches, and the clock after each: a step of an `async for` costs much more than a look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self, final

from aiopool._engine.engine import Engine
from aiopool._engine.walk import STRETCH, numbers
from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus

__all__ = ["JobScan"]

# Seconds of one turn of the loop.
SLICE = 0.001


@final
class JobScan:
    """Live jobs one after the other; `pool.scan(...)` makes it.

    Attributes:
        cursor: the place after the job that came last: `pool.scan(cursor=…)` goes on from there. None: it has not
            begun, or there is nothing more.
        looked_at: how many jobs it has looked at, those that did not match included.

    Example:
        scan = pool.scan(status="queued", name="send")
        async for job in scan:
            rows.append(job.id)
            if len(rows) == 50:
                break
        next_page = scan.cursor
    """

    __slots__ = (
        *("_at", "_ends", "_engine", "_found", "_group", "_most", "_name", "_numbers", "_place", "_stretch", "_wanted"),
        *("_where", "cursor", "looked_at"),
    )

    def __init__(
        self,
        engine: Engine,
        status: JobStatus | None,
        name: str | None,
        group: str | None,
        where: Callable[[Job[Any]], object] | None,
        cursor: int | None,
        newest_first: bool,
        look_at_most: int | None,
    ) -> None:
        self._engine = engine
        self._wanted, self._name, self._group, self._where = status, name, group, where
        self._most = look_at_most
        self._numbers = numbers(engine.jobs, after=cursor, newest_first=newest_first)
        self._place = 0  # in the numbers
        self._stretch: list[Job[Any]] = []  # those that were there at the last look
        self._at = 0  # so many of them were passed
        self._found: list[Job[Any]] = []  # those of them that matched and were not passed, the next one last
        self._ends = 0.0
        self.cursor = cursor
        self.looked_at = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Job[Any]:
        """Return the next job that matches.

        If the caller is cancelled, the scan may go on later. An exception of `where` comes out here; so it does if the
        scan goes on.
        """
        while True:
            while self._found:
                job = self._found.pop()
                # It may have ended since the look at it, or begun.
                if self._engine.jobs.get(job._sequence) is job and self._wanted in (None, job._status):
                    self._pass(self._stretch.index(job, self._at) + 1)
                    return job
            self._pass(len(self._stretch))
            if self._place >= len(self._numbers):
                self.cursor = None
                raise StopAsyncIteration
            if self._most is not None and self.looked_at >= self._most:
                raise StopAsyncIteration
            await self._rest()
            self._look()

    async def _rest(self) -> None:
        """Let the loop turn over, if a slice has passed since it did."""
        now = self._engine.now
        if now() >= self._ends:
            await asyncio.sleep(0)
            self._ends = now() + SLICE

    def _look(self) -> None:
        """Look at the next stretch of jobs."""
        end = self._place + (STRETCH if self._most is None else min(STRETCH, self._most - self.looked_at))
        there = map(self._engine.jobs.get, self._numbers[self._place : end])
        stretch = found = [job for job in there if job is not None]
        if self._wanted is not None:
            found = [job for job in found if job._status is self._wanted]
        if self._name is not None:
            found = [job for job in found if job._spec.name == self._name]
        if self._group is not None:
            found = [job for job in found if job._spec.group == self._group]
        if self._where is not None:
            found = [job for job in found if self._where(job)]
        self._stretch, self._at, self._found, self._place = stretch, 0, found[::-1], end

    def _pass(self, at: int) -> None:
        """Go by the jobs of the stretch up to a place."""
        if at > self._at:
            self.looked_at += at - self._at
            self.cursor = self._stretch[at - 1]._sequence
            self._at = at
