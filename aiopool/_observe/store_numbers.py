"""`StoreNumbers`: what a pool has to do with its store, in numbers; a part of `Metrics`, and of its health."""

from __future__ import annotations

import dataclasses
from typing import final

from aiopool.stores._rows import StoreStatistics

__all__ = ["StoreNumbers"]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class StoreNumbers:
    """A pool and its store in numbers, at one moment; counts are since the opening of the pool.

    Attributes:
        commits: how many batches were written.
        rows: submissions and ends in them: `rows / commits` is the size of a batch.
        waiting: submissions and ends that are not written yet.
        leases: jobs of the store that this pool runs.
        claims: how often it asked for jobs.
        claimed: how many it got.
        lost: ends that did not count: the job was somebody else's by then.
        rescued: jobs of dead processes that this pool has put back.
        dead: jobs that it has given up, for their workers died too often.
        outage: seconds since the store was last reached; 0: it answers.
        fleet: the numbers of the store, some seconds old; None: they are not known yet.
    """

    commits: int
    rows: int
    waiting: int
    leases: int
    claims: int
    claimed: int
    lost: int
    rescued: int
    dead: int
    outage: float
    fleet: StoreStatistics | None
