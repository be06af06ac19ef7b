"""`WorkerInfo`: a worker at one moment, frozen; and `WorkerCounts`: what each worker has done, counted by choice.

A worker counts nothing itself: that would be paid for by every job. `WorkerCounts` is an observer, which a pool has if
it was asked to count, or to recycle its workers.

Always true: an attempt is counted once, at the worker that ran it, when the job learns of its end.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, final

from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus, WorkerState
from aiopool._observe.observer import Observer

__all__ = ["WorkerCounts", "WorkerInfo", "WorkerTally"]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker of a pool, at the moment at which `pool.workers()` was called.

    The last three are None, unless the pool counts: `Pool(count_by_worker=True)`, or `recycle_after`.

    Attributes:
        id: its number, counted from 1 in each opening of the pool, as in events and logs; no two workers share one.
        state: `opening`, `idle`, `busy` or `stopping`.
        job: the job that it runs; None: none.
        since: when that job began, or when the worker was made if it has none: in seconds of `time.monotonic()`.
        started_at: when it was made, by the same clock.
        done: attempts that it has run to their end, whatever the end.
        failed: how many of them raised, or ran into a time limit.
        seconds: how long they took in all.
    """

    id: int
    state: WorkerState
    job: Job[Any] | None
    since: float
    started_at: float
    done: int | None = None
    failed: int | None = None
    seconds: float | None = None

    @property
    def mean(self) -> float | None:
        """Seconds of an attempt, on average; None if there was none yet, or nothing is counted."""
        return self.seconds / self.done if self.done and self.seconds is not None else None


class Retirable(Protocol):
    """What is known of a worker here."""

    id: int
    retiring: bool


class WorkerTally:
    """What one worker has done."""

    __slots__ = ("done", "failed", "seconds", "worker")

    def __init__(self, worker: Retirable) -> None:
        self.worker = worker
        self.done = self.failed = 0
        self.seconds = 0.0


@final
class WorkerCounts(Observer):
    """Counts the attempts of each worker, and has it end after so many."""

    __slots__ = ("_recycle_after", "tallies")

    def __init__(self, recycle_after: int | None) -> None:
        self._recycle_after = recycle_after
        self.tallies: dict[int, WorkerTally] = {}  # of the living workers, by their numbers

    def add(self, worker: Retirable) -> None:
        """Count for a worker from now on."""
        self.tallies[worker.id] = WorkerTally(worker)

    def discard(self, worker: Retirable) -> None:
        """Forget a worker that has ended."""
        self.tallies.pop(worker.id, None)

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        self._count(worker, now - job._started_at, failed=True)

    def given_back(self, job: Job[Any], worker: int | None, now: float) -> None:
        self._count(worker, now - job._started_at if worker is not None else 0.0, failed=False)

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool) -> None:
        failed = job._status in (JobStatus.FAILED, JobStatus.TIMED_OUT)
        self._count(worker, now - job._started_at if worker is not None else 0.0, failed=failed)

    def _count(self, worker: int | None, seconds: float, *, failed: bool) -> None:
        tally = None if worker is None else self.tallies.get(worker)
        if tally is None:
            return
        tally.done += 1
        tally.failed += failed
        tally.seconds += seconds
        if self._recycle_after is not None and tally.done >= self._recycle_after:
            tally.worker.retiring = True
