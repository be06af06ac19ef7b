"""`Filter`: which jobs a request is about; and a page of them, which says what it has looked at."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self, final

from aiopool._control.arguments import Arguments
from aiopool._control.problems import Problem
from aiopool._control.views import job_view, moment, outcome_view
from aiopool._control.watched import Watched
from aiopool._jobs.job import Job
from aiopool._jobs.records import JobOutcome
from aiopool._pool.job_scan import JobScan
from aiopool._pool.pool import Pool
from aiopool.errors import RecordedError
from aiopool.inspection import finished_count, loop_of

__all__ = ["ENDED", "LIVE", "Filter", "live_job", "page"]

LIVE = ("scheduled", "queued", "running")
ENDED = ("succeeded", "failed", "timed_out", "cancelled")
MAX_ROWS = 200
# So many jobs are looked at for one page; then it says so, and where to go on.
MAX_LOOKED_AT = 20_000
# Records of jobs that have ended that are made in one turn of the loop: some 5 µs each.
SLICE = 200
# So many of those that start next.
MAX_IN_LINE = 1000


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs; None: any.

    Attributes:
        status, name, group: as a job has them.
        waits_for: what `Job.waiting_for` says.
        error: the class of its error.
        label: `key` or `key=value` of its metadata.
        older_than: seconds since its submission.
    """

    status: str | None
    name: str | None
    group: str | None
    waits_for: str | None
    error: str | None
    label: str | None
    older_than: float | None

    @classmethod
    def of(cls, arguments: Arguments, statuses: Sequence[str] = (*LIVE, *ENDED)) -> Self:
        """Read it of a request.

        Args:
            arguments: those of the request.
            statuses: that can be meant.
        """
        return cls(
            arguments.choice("status", statuses),
            arguments.text("name"),
            arguments.text("group"),
            arguments.text("waits_for"),
            arguments.text("error"),
            arguments.text("label"),
            arguments.seconds("older_than", most=1e9),
        )

    @property
    def ended(self) -> bool:
        """Whether it is about jobs that have ended."""
        return self.status in ENDED or self.error is not None

    @property
    def is_only_status(self) -> bool:
        """Whether it says nothing but a status."""
        return dataclasses.replace(self, status=None) == Filter(None, None, None, None, None, None, None)

    def matches(self, job: Job[Any], now: float) -> bool:
        """Whether a live job is meant; its status, name and group are known to fit."""
        return (
            (self.older_than is None or now - job.submitted_at > self.older_than)
            and (self.waits_for is None or job.waiting_for == self.waits_for)
            and self.fits_labels(job.metadata)
        )

    def is_one(self, job: Job[Any]) -> bool:
        """Whether a live job has the name and the group that are meant."""
        return (self.name is None or job.name == self.name) and (self.group is None or job.group == self.group)

    def fits(self, outcome: JobOutcome[Any]) -> bool:
        """Whether a job that has ended is meant."""
        error = outcome.error
        kind = error.kind if isinstance(error, RecordedError) else type(error).__name__
        return (
            (self.status is None or outcome.status.value == self.status)
            and (self.name is None or outcome.name == self.name)
            and (self.group is None or outcome.group == self.group)
            and self.fits_error(None if error is None else kind)
            and self.fits_labels(outcome.metadata)
        )

    def fits_error(self, text: str | None) -> bool:
        """Whether an error is meant: its class, with its text behind a colon or without; None: there was none."""
        if self.error is None:
            return True
        return text is not None and text.partition(":")[0].rpartition(".")[2] == self.error.rpartition(".")[2]

    def fits_labels(self, labels: Mapping[str, Any]) -> bool:
        """Whether a job with these labels is meant."""
        if self.label is None:
            return True
        key, equals, value = self.label.partition("=")
        return key in labels and (not equals or str(labels[key]) == value)

    def scan(
        self, pool: Pool, *, cursor: int | None = None, newest_first: bool = True, most: int | None = None
    ) -> JobScan:
        """Return a scan of the live jobs that are meant, as of now."""
        now = loop_of(pool).time()
        asks_more = (self.older_than, self.waits_for, self.label) != (None, None, None)
        return pool.scan(
            self.status,
            name=self.name,
            group=self.group,
            where=(lambda job: self.matches(job, now)) if asks_more else None,
            cursor=cursor,
            newest_first=newest_first,
            look_at_most=most,
        )


async def page(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Return one page of jobs: `items`; `next`, the cursor to go on with; `searched`; whether that is `complete`."""
    wanted = Filter.of(arguments)
    limit = arguments.whole("limit", 50, least=1, most=MAX_ROWS)
    cursor = arguments.text("cursor")
    order = arguments.choice("order", ("newest", "oldest", "next"))
    arguments.end()
    pool = watch.pool
    if wanted.ended:
        return await _ended(pool, wanted, limit, cursor)
    now = loop_of(pool).time()
    if order == "next":
        return _next(pool, wanted, limit)
    if wanted.status == "running":
        return _running(pool, wanted, limit, _number(cursor), newest_first=order != "oldest")
    items: list[dict[str, Any]] = []
    scan = wanted.scan(pool, cursor=_number(cursor), newest_first=order != "oldest", most=MAX_LOOKED_AT)
    async for job in scan:
        items.append(job_view(job, now=now))
        if len(items) >= limit:
            break
    return {
        "items": items,
        "next": None if scan.cursor is None else str(scan.cursor),
        "searched": scan.looked_at,
        "complete": scan.cursor is None,
    }


def _next(pool: Pool, wanted: Filter, limit: int) -> dict[str, Any]:
    """The first in line; with a filter, those that are meant of the first thousand."""
    now = loop_of(pool).time()
    first = pool.next_jobs(MAX_IN_LINE)
    found = [job for job in first if wanted.is_one(job) and wanted.matches(job, now)]
    return {
        "items": [job_view(job, now=now) for job in found[:limit]],
        "next": None,
        "searched": len(first),
        "complete": len(found) <= limit and len(first) < MAX_IN_LINE,
    }


def _running(pool: Pool, wanted: Filter, limit: int, after: int | None, *, newest_first: bool) -> dict[str, Any]:
    """A page of the jobs that run: read off the workers, however many wait."""
    now = loop_of(pool).time()
    found = sorted(pool.running_jobs(), key=lambda job: job._sequence, reverse=newest_first)
    if after is not None:
        found = [job for job in found if (job._sequence < after) == newest_first and job._sequence != after]
    meant = [job for job in found if wanted.is_one(job) and wanted.matches(job, now)]
    more = len(meant) > limit
    return {
        "items": [job_view(job, now=now) for job in meant[:limit]],
        "next": str(meant[limit - 1]._sequence) if more else None,
        "searched": len(found),
        "complete": not more,
    }


async def _ended(pool: Pool, wanted: Filter, limit: int, cursor: str | None) -> dict[str, Any]:
    """A page of jobs that have ended, the newest first, in slices of the loop's time.

    The cursor is how many had ended before those that were seen: more may end meanwhile.
    """
    before = _number(cursor)
    skip = 0 if before is None else max(0, _all_ended(pool) - before)
    items: list[dict[str, Any]] = []
    searched, more = 0, True
    while more and searched < MAX_LOOKED_AT:
        rows = pool.finished_jobs(SLICE, skip=skip)
        more = len(rows) == SLICE
        for place, outcome in enumerate(rows, 1):
            searched += 1
            skip += 1
            if wanted.fits(outcome):
                items.append(outcome_view(outcome))
                if len(items) >= limit:
                    more = place < len(rows) or more
                    break
        if len(items) >= limit:
            break
        at, total = skip, _all_ended(pool)
        await asyncio.sleep(0)
        skip = at + _all_ended(pool) - total
    return {
        "items": items,
        "next": str(_all_ended(pool) - skip) if more else None,
        "searched": searched,
        "complete": not more,
        "kept": finished_count(pool),
    }


def _all_ended(pool: Pool) -> int:
    numbers = pool.statistics()
    return numbers.succeeded + numbers.failed + numbers.timed_out + numbers.cancelled


def _number(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not cursor.isdecimal() or len(cursor) > 18:
        raise Problem("bad-request", f"cursor={cursor!r:.50}: write the `next` of the page before, or leave it out")
    return int(cursor)


def live_job(pool: Pool, id: str) -> Job[Any]:
    """Return the live job with an id.

    Raises:
        Problem: it has ended, or there is none.
    """
    job = pool.get_job(id)
    if job is not None:
        return job
    ended = pool.find(id)
    if ended is not None:
        assert not isinstance(ended, Job)
        raise Problem("conflict", f"job {id} has ended: {ended.status}, at {moment(ended.finished_time)}")
    raise Problem("not-found", f"no live job has the id {id!r:.100}")
