"""Numbers: the plain counters that the engine keeps, and the frozen `Statistics` that users see.

Invariant, at every moment: `submitted = succeeded + failed + timed_out + cancelled + rejected + given_back + queued +
scheduled + running`. The first seven are counted where they happen; the last three are counts of what is in a place.
"""

from __future__ import annotations

import dataclasses
from typing import final

__all__ = ["Counters", "Statistics", "adds_up"]


@final
class Counters:
    """What has happened in a pool so far."""

    __slots__ = (
        "cancelled",
        "dropped",
        "failed",
        "given_back",
        "leaked_total",
        "not_recovered",
        "recovered",
        "rejected",
        "restarts",
        "retries",
        "submitted",
        "succeeded",
        "timed_out",
    )

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    submitted: int
    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    rejected: int
    given_back: int
    retries: int
    restarts: int
    leaked_total: int
    dropped: int
    recovered: int
    not_recovered: int


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """A pool in numbers at one moment.

    `submitted == succeeded + failed + timed_out + cancelled + rejected + given_back + queued + scheduled + running`,
    always.

    Attributes:
        submitted: jobs handed in, the rejected ones included.
        succeeded: jobs that returned.
        failed: jobs that raised, and were not tried again.
        timed_out: jobs that ran into a time limit.
        cancelled: jobs that were cancelled or dropped.
        rejected: jobs that were refused for want of room.
        queued: jobs that wait for a worker.
        scheduled: jobs that wait for a moment (a delayed start, the next attempt).
        running: jobs that run. Those that wait for a job of the same pool are counted too.
        waiting: callers that wait in `submit` for room; their jobs are not handed in yet.
        leaked: calls that go on although their job has ended; each holds its slot unless `on_leak="replace"`.
        size: how many jobs may run at once.
        busy: slots taken, by running and by leaked jobs.
        idle: slots free: so many more jobs could start at once. Workers for them need not be there yet.
        retries: attempts after a first one.
        restarts: workers that were replaced after a crash.
        threads_busy: threads that run a plain function.
        threads_abandoned: those of them whose job has ended.
        dropped: jobs that were pushed out of a full queue, by `overflow`; they are among the cancelled ones.
        recovered: jobs that succeeded after an attempt that had failed: retries that helped.
        not_recovered: jobs that were tried again, and ended in another way: retries that did not help.
        given_back: jobs of a store that went back to it, for another attempt or for another process.
        uptime: seconds since the pool was opened; once it is closed: that it was open. It does not count when two
            snapshots are compared.
    """

    submitted: int
    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    rejected: int
    queued: int
    scheduled: int
    running: int
    waiting: int
    leaked: int
    size: int
    busy: int
    idle: int
    retries: int
    restarts: int
    threads_busy: int
    threads_abandoned: int
    dropped: int
    recovered: int
    not_recovered: int
    given_back: int
    uptime: float = dataclasses.field(compare=False)


def adds_up(found: Statistics) -> bool:
    """Whether numbers are of one moment, as far as one can see."""
    ended = found.succeeded + found.failed + found.timed_out + found.cancelled + found.rejected + found.given_back
    live = found.queued + found.scheduled + found.running
    return found.submitted == ended + live and min(found.queued, found.scheduled, found.running, found.busy) >= 0
