"""`MetricsRecorder`: counts and times jobs by their names; and `Metrics`, the frozen snapshot that users see.

The pool's own counters (`_jobs/statistics.py`) are always on and cost nothing to read. What is here costs a little at
each job, so it is off until it is wanted: by `aiopool.metrics.observe(pool)`, or a collector.

Invariants: a histogram's count is the sum of its buckets, and its sum that of the values; the number of names is
bounded, whatever users call their jobs: names beyond the bound are counted together, under `"other"`.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence, Sized
from contextvars import Context
from itertools import accumulate, pairwise
from typing import Any, final

from aiopool._jobs.job import Job
from aiopool._jobs.statistics import Statistics
from aiopool._jobs.status import JobStatus
from aiopool._observe.observer import Observer
from aiopool._observe.store_numbers import StoreNumbers

__all__ = ["DEFAULT_BUCKETS", "OTHER", "HistogramCounts", "JobMetrics", "Metrics", "MetricsRecorder", "label_text"]

# From a coroutine that hardly waits to a job of ten minutes, three steps for each power of ten where most jobs are: a
# quantile that is read off them is right within a factor of 2.5 there.
DEFAULT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0)
# Each name has two histograms: a hundred names are some thousand series, which every scraper bears.
DEFAULT_NAMES = 100
OTHER = "other"
MAX_LABEL = 100


@final
@dataclasses.dataclass(frozen=True, slots=True)
class HistogramCounts:
    """How often which durations were seen.

    Attributes:
        buckets: pairs of an upper bound in seconds and how many values were not above it; the last bound is infinite.
        sum: all values added up, in seconds.
    """

    buckets: tuple[tuple[float, int], ...]
    sum: float

    @property
    def count(self) -> int:
        """How many values there were."""
        return self.buckets[-1][1]

    def quantile(self, q: float) -> float:
        """Return the upper bound of the bucket in which the quantile lies; 0 if there were no values.

        Args:
            q: 0.5 is the median.
        """
        wanted = q * self.count
        return next(bound for bound, count in self.buckets if count >= wanted) if self.count else 0.0


@final
@dataclasses.dataclass(frozen=True, slots=True)
class JobMetrics:
    """What happened to the jobs of one name since metrics were switched on.

    Attributes:
        succeeded, failed, timed_out, cancelled: jobs that ended so.
        retries: attempts after a first one.
        wait: seconds from the moment that a job could have started (submitted, or its delay over) to its first start.
        run: seconds that each attempt ran; of a job that was left behind, until then.
    """

    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    retries: int
    wait: HistogramCounts
    run: HistogramCounts


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Metrics:
    """A pool in numbers and histograms at one moment.

    Attributes:
        pool: the pool's name, as it may stand in a label: at most 100 characters, no control characters.
        statistics: the numbers of `pool.statistics()`, of the same moment.
        queued: jobs in the queue by priority; those in paused groups included.
        oldest_wait: seconds since the oldest job in the queue was submitted (or its delay was over); 0: none waits.
        workers: the workers that were needed so far, by what they do: `idle`, `busy`, `restarting` (waiting to be
            replaced after a crash).
        queue_size: how many jobs may wait; infinite: any number; 0 once the pool is closing.
        paused: no job starts.
        leaked_total: jobs that have leaked so far.
        loop_lag: by how many seconds the event loop was late at worst, in the last 15 seconds.
        jobs: what happened by name of job, as it may stand in a label; the rest under `"other"`.
        longest_wait: the longest that a job could have started and did not, in seconds, of those that have started.
        longest_queue: the most jobs that waited for a worker, as it was at each submission.

    Both are since the opening of the pool, or since metrics were switched on.

        store: the pool and its store in numbers; None: it has none.
    """

    pool: str
    statistics: Statistics
    queued: Mapping[int, int]
    oldest_wait: float
    workers: Mapping[str, int]
    queue_size: float
    paused: bool
    leaked_total: int
    loop_lag: float
    jobs: Mapping[str, JobMetrics]
    longest_wait: float
    longest_queue: int
    store: StoreNumbers | None


@final
class _Row:
    """The counts of one name."""

    __slots__ = ("outcomes", "retries", "run", "run_sum", "wait", "wait_sum")

    def __init__(self, waits: int, runs: int) -> None:
        self.outcomes: dict[JobStatus, int] = dict.fromkeys(
            (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.TIMED_OUT, JobStatus.CANCELLED), 0
        )
        self.retries = 0
        self.wait = [0] * (waits + 1)
        self.wait_sum = 0.0
        self.run = [0] * (runs + 1)
        self.run_sum = 0.0


@final
class MetricsRecorder(Observer):
    """Counts and durations by name of job.

    Attributes:
        rows: the counts by the names of jobs.
        longest_wait, longest_queue: as in `Metrics`.
        queue: all live jobs of the pool, and a count of those that wait; None before it was opened.
    """

    __slots__ = ("_max_names", "_run_bounds", "_wait_bounds", "longest_queue", "longest_wait", "queue", "rows")

    def __init__(
        self,
        wait_buckets: Sequence[float] = DEFAULT_BUCKETS,
        run_buckets: Sequence[float] = DEFAULT_BUCKETS,
        max_names: int = DEFAULT_NAMES,
    ) -> None:
        self._wait_bounds = check_buckets("wait_buckets", wait_buckets)
        self._run_bounds = check_buckets("run_buckets", run_buckets)
        self._max_names = max_names
        self.rows: dict[str, _Row] = {}
        self.longest_wait = 0.0
        self.longest_queue = 0
        self.queue: tuple[Sized, Callable[[], int]] | None = None

    def begin(self, queue: tuple[Sized, Callable[[], int]]) -> None:
        """Begin anew, with a pool that opens."""
        self.rows.clear()
        self.longest_wait, self.longest_queue, self.queue = 0.0, 0, queue

    @classmethod
    def like(cls, present: MetricsRecorder | None, **changes: Any) -> MetricsRecorder:
        """Return the present recorder if nothing else is asked for, or a new one; None changes nothing."""
        given = {name: value for name, value in changes.items() if value is not None}
        if present is None:
            return cls(**given)
        wanted = cls(
            given.get("wait_buckets", present._wait_bounds),
            given.get("run_buckets", present._run_bounds),
            given.get("max_names", present._max_names),
        )
        return present if wanted._shape == present._shape else wanted

    @property
    def _shape(self) -> tuple[object, ...]:
        return self._wait_bounds, self._run_bounds, self._max_names

    # Called for every attempt, so in one piece each.

    def submitted(self, job: Job[Any], *, inside: bool) -> None:
        """A job was taken in."""
        # To count those that wait takes longer, and they are some of those that live.
        if self.queue is not None and len(self.queue[0]) > self.longest_queue:
            self.longest_queue = max(self.longest_queue, self.queue[1]())

    def started(self, job: Job[Any], worker: int, context: Context | None, *, inside: bool) -> None:
        """An attempt begins."""
        if job._attempt == 1:
            row = self.rows.get(job._spec.name) or self._row(job._spec.name)
            waited = job._started_at - job._submitted_at
            if job._extra is not None:
                waited = max(waited - job._extra.delay, 0.0)
            row.wait[bisect_left(self._wait_bounds, waited)] += 1
            row.wait_sum += waited
            if waited > self.longest_wait:
                self.longest_wait = waited

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool) -> None:
        """A job is done; if a worker ran it, an attempt ended with it."""
        row = self.rows.get(job._spec.name) or self._row(job._spec.name)
        row.outcomes[job._status] += 1
        if worker is not None:
            seconds = now - job._started_at
            row.run[bisect_left(self._run_bounds, seconds)] += 1
            row.run_sum += seconds

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        """An attempt ended, and there will be another."""
        row = self.rows.get(job._spec.name) or self._row(job._spec.name)
        row.retries += 1
        seconds = now - job._started_at
        row.run[bisect_left(self._run_bounds, seconds)] += 1
        row.run_sum += seconds

    def given_back(self, job: Job[Any], worker: int | None, now: float) -> None:
        """An attempt ended, and was none."""
        if worker is not None:
            row = self.rows.get(job._spec.name) or self._row(job._spec.name)
            seconds = now - job._started_at
            row.run[bisect_left(self._run_bounds, seconds)] += 1
            row.run_sum += seconds

    def _row(self, name: str) -> _Row:
        """Return the row of a name that has none under just this text."""
        label = label_text(name)
        row = self.rows.get(label)
        if row is None:
            if len(self.rows) >= self._max_names:
                label = OTHER
                row = self.rows.get(label)
            if row is None:
                row = self.rows[label] = _Row(len(self._wait_bounds), len(self._run_bounds))
        return row

    def jobs(self) -> dict[str, JobMetrics]:
        """Return the counts of each name, frozen."""
        return {
            name: JobMetrics(
                succeeded=row.outcomes[JobStatus.SUCCEEDED],
                failed=row.outcomes[JobStatus.FAILED],
                timed_out=row.outcomes[JobStatus.TIMED_OUT],
                cancelled=row.outcomes[JobStatus.CANCELLED],
                retries=row.retries,
                wait=_frozen(self._wait_bounds, row.wait, row.wait_sum),
                run=_frozen(self._run_bounds, row.run, row.run_sum),
            )
            for name, row in list(self.rows.items())
        }


def _frozen(bounds: tuple[float, ...], counts: list[int], total: float) -> HistogramCounts:
    return HistogramCounts(tuple(zip((*bounds, float("inf")), accumulate(counts), strict=True)), total)


def check_buckets(name: str, bounds: Sequence[float]) -> tuple[float, ...]:
    """Return the bounds of a histogram, checked; an infinite last one is ours to add."""
    try:
        found = tuple(float(bound) for bound in bounds)
    except (TypeError, ValueError, OverflowError):
        found = ()
    if found and found[-1] == float("inf"):
        found = found[:-1]
    if not found or found[0] <= 0 or not all(a < b for a, b in pairwise((*found, float("inf")))):
        raise ValueError(f"{name}={bounds!r}: write the upper bounds in seconds, rising, such as (0.01, 0.1, 1, 10)")
    return found


def label_text(text: str, limit: int = MAX_LABEL) -> str:
    """Return a text as it may stand in a label or a line of a log: bounded, in one line, and valid UTF-8.

    What cannot be printed (control characters, halves of characters) becomes an escape such as `\\x0a`.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
