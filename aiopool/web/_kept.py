"""`Kept`: the jobs that were submitted by HTTP, for those who ask for their results later, or want them once more."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple, final

from aiopool import Job, Pool
from aiopool.inspection import openings

__all__ = ["Kept", "KeptJob"]

MAX_JOBS = 10_000
# Characters of the arguments of one job: those of all of them stay below 40 MB.
MAX_PARAMS = 4096


class KeptJob(NamedTuple):
    """A job that is kept.

    Attributes:
        opening: of its pool: one that is opened again numbers its jobs from 1 again.
        job: the job.
        params: its arguments, JSON text; None: they are too long to be kept.
        options: with which it was submitted.
    """

    opening: int
    job: Job[Any]
    params: str | None
    options: Mapping[str, Any]


@final
class Kept:
    """The last jobs; those that have ended are forgotten first. It belongs to the loop of the server."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[tuple[weakref.ref[Pool], str], KeptJob] = OrderedDict()

    def add(self, pool: Pool, job: Job[Any], params: str = "{}", options: Mapping[str, Any] | None = None) -> None:
        """Keep a job, and what it was submitted with."""
        jobs = self._jobs
        key = (weakref.ref(pool), str(job.id))
        jobs[key] = KeptJob(openings(pool), job, params if len(params) <= MAX_PARAMS else None, options or {})
        jobs.move_to_end(key)
        for _ in range(2):  # one is new, so this catches up; those that are live are passed over
            if len(jobs) <= MAX_JOBS:
                return
            oldest, row = jobs.popitem(last=False)
            if not row.job.done():
                jobs[oldest] = row

    def find(self, pool: Pool, id: str) -> KeptJob | None:
        """Return what is kept of a job of the present opening of a pool, or None."""
        row = self._jobs.get((weakref.ref(pool), id))
        return row if row is not None and row.opening == openings(pool) else None

    def get(self, pool: Pool, id: str) -> Job[Any] | None:
        """Return a job of the present opening of a pool, or None."""
        row = self.find(pool, id)
        return None if row is None else row.job
