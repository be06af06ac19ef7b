"""`Kept`: the jobs that were submitted by HTTP, for those who ask for their results later."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, final

from aiopool import Job, Pool

__all__ = ["Kept"]

MAX_JOBS = 10_000


@final
class Kept:
    """The last jobs; those that have ended are forgotten first. It belongs to the loop of the server."""

    def __init__(self) -> None:
        # With the engine of the pool: one that is opened again has another, and numbers its jobs from 1 again.
        self._jobs: OrderedDict[tuple[str, str], tuple[object, Job[Any]]] = OrderedDict()

    def add(self, pool: Pool, job: Job[Any]) -> None:
        """Keep a job."""
        jobs = self._jobs
        key = (pool.name, str(job.id))
        jobs[key] = (pool._engine("find"), job)
        jobs.move_to_end(key)
        for _ in range(2):  # one is new, so this catches up; those that are live are passed over
            if len(jobs) <= MAX_JOBS:
                return
            oldest, row = jobs.popitem(last=False)
            if not row[1].done():
                jobs[oldest] = row

    def get(self, pool: Pool, id: str) -> Job[Any] | None:
        """Return a job of the present opening of a pool, or None."""
        row = self._jobs.get((pool.name, id))
        return row[1] if row is not None and row[0] is pool._engine("find") else None
