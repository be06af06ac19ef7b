"""`JobScan`: the live jobs of a pool, for `async for`, in slices of the event loop's time, and from a place on.

Invariant: no more than a slice passes between two turns of the loop, if the consumer takes none for itself.
"""

from __future__ import annotations

import asyncio
from typing import Any, Self, final

from aiopool._engine.engine import Engine
from aiopool._engine.walk import walk
from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus

__all__ = ["JobScan"]

# Seconds of one turn of the loop, and so many jobs until the next look at the clock.
SLICE = 0.001
STEPS = 64


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

    __slots__ = ("_ends", "_engine", "_group", "_name", "_steps", "_until_look", "_wanted", "cursor", "looked_at")

    def __init__(
        self,
        engine: Engine,
        status: JobStatus | None,
        name: str | None,
        group: str | None,
        cursor: int | None,
        newest_first: bool,
    ) -> None:
        self._engine = engine
        self._wanted, self._name, self._group = status, name, group
        self._steps = walk(engine.jobs, after=cursor, newest_first=newest_first)
        self._ends = 0.0
        self._until_look = 0
        self.cursor = cursor
        self.looked_at = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Job[Any]:
        """Return the next job that matches.

        If the caller is cancelled, the scan may go on later.
        """
        while True:
            if self._until_look <= 0:
                await self._rest()
            for step in self._steps:
                self._until_look -= 1
                if step is not None:
                    self.looked_at += 1
                    self.cursor = step._sequence
                    if self._matches(step):
                        return step
                if self._until_look <= 0:
                    break
            else:
                self.cursor = None
                raise StopAsyncIteration

    async def _rest(self) -> None:
        """Let the loop turn over, if a slice has passed since it did."""
        now = self._engine.now
        if now() >= self._ends:
            await asyncio.sleep(0)
            self._ends = now() + SLICE
        self._until_look = STEPS

    def _matches(self, job: Job[Any]) -> bool:
        return (
            (self._wanted is None or job._status is self._wanted)
            and (self._name is None or job._spec.name == self._name)
            and (self._group is None or job._spec.group == self._group)
        )
