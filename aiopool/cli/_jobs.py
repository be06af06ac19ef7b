"""`aiopool jobs`: look at the jobs of a store, and steer them. Each function returns an exit code.

What was asked for and could not be done for one of several jobs is said on standard error, and makes the exit code 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from aiopool.cli._amounts import parse_period
from aiopool.cli._board import printable
from aiopool.cli._job_text import HEADER, job_json, job_page, job_row, period, to_line
from aiopool.cli._store import complain, on_store
from aiopool.cli._streams import write_output
from aiopool.cli._table import name_value_lines, table_lines
from aiopool.cli._words import FAILED, FINE, MISUSED, Refusal
from aiopool.stores._protocol import Store
from aiopool.stores._rows import ENDED, StoredJob, StoredStatus, StoreStatistics

__all__ = [
    "cancel_jobs",
    "list_jobs",
    "list_schedules",
    "pause_jobs",
    "purge_jobs",
    "requeue_dead_jobs",
    "retry_jobs",
    "show_job",
    "show_statistics",
]

# Jobs that are asked for, or named, at a time.
_BATCH: Final = 500


def list_jobs(
    url: str,
    queue: str,
    *,
    status: StoredStatus | None,
    name: str | None,
    group: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> int:
    """Print jobs, the newest first; `limit` 0: all of them."""

    async def work(store: Store) -> int:
        nonlocal cursor
        workers, now, left, first = await _workers(store), await store.now(), limit, True
        while True:
            size = min(left, _BATCH) if limit else _BATCH
            try:
                jobs, cursor = await store.page(status=status, name=name, group=group, limit=size, cursor=cursor)
            except ValueError as error:
                raise Refusal(f"--cursor {cursor}: {error}") from None
            if as_json:
                text = "".join(job_json(job, workers) for job in jobs)
            else:
                lines = list(table_lines(HEADER, [job_row(job, now, workers) for job in jobs]))
                text = "".join(lines if first else lines[1:])
            if code := write_output(text):
                return code
            first, left = False, left - len(jobs)
            if cursor is None or (limit and left <= 0):
                break
        if cursor is not None:
            print(f"there are more: --cursor {printable(cursor)}", file=sys.stderr)
        return FINE

    return on_store(url, queue, work)


def show_job(url: str, queue: str, id: str, *, as_json: bool) -> int:
    """Print all that is known of a job."""

    async def work(store: Store) -> int:
        found = await store.find([id])
        if not found:
            complain(f"queue {queue!r} of {store.url} has no job {id!r}, and its history has none")
            return FAILED
        workers = await _workers(store)
        if as_json:
            return write_output(job_json(found[0], workers))
        return write_output("".join(job_page(found[0], await store.now(), workers)))

    return on_store(url, queue, work)


def cancel_jobs(url: str, queue: str, ids: Sequence[str], reason: str | None) -> int:
    """Cancel jobs, and print what each of them met."""
    words = {
        "queued": "cancelled",
        "running": "runs: its worker is told",
        "ended": "has ended before",
        "unknown": "is not there",
    }

    async def work(store: Store) -> int:
        code = FINE
        for part in _batches(ids):
            answers = await store.cancel(part, reason)
            if any(answer.was in ("ended", "unknown") for answer in answers):
                code = FAILED
            if broken := write_output("".join(name_value_lines([(row.id, words[row.was]) for row in answers]))):
                return broken
        return code

    return on_store(url, queue, work)


def retry_jobs(url: str, queue: str, ids: Sequence[str]) -> int:
    """Put jobs that have ended back into the queue, and print what became of each."""

    async def work(store: Store) -> int:
        code = FINE
        for part in _batches(ids):
            before = {job.id: job for job in await store.find(part)}
            ended = [id for id in part if id in before and before[id].status in ENDED]
            count = await store.requeue(ended, None) if ended else 0
            after = {} if count == len(ended) else {job.id: job for job in await store.find(ended)}
            rows = [(id, _became(before.get(id), after.get(id))) for id in part]
            if any(word != "queued" for _, word in rows):
                code = FAILED
            if broken := write_output("".join(name_value_lines(rows))):
                return broken
        return code

    return on_store(url, queue, work)


def requeue_dead_jobs(url: str, queue: str, status: StoredStatus) -> int:
    """Put all ended jobs with a status back into the queue."""
    if status not in ENDED or status is StoredStatus.SUCCEEDED:
        complain(
            f"--status {status}: write dead, failed, timed_out or cancelled; to run single jobs again that have "
            "succeeded, write aiopool jobs retry ID"
        )
        return MISUSED

    async def work(store: Store) -> int:
        count = await store.requeue(None, status)
        return write_output(f"{count:,} queued that were {status}\n")

    return on_store(url, queue, work)


def pause_jobs(url: str, queue: str, paused: bool) -> int:
    """Let nobody of the fleet start a job, or let them."""

    async def work(store: Store) -> int:
        await store.set_paused(paused)
        if paused:
            return write_output(f"queue {queue!r} is paused: nobody starts a job until aiopool jobs resume\n")
        return write_output(f"queue {queue!r} goes on\n")

    return on_store(url, queue, work)


def purge_jobs(url: str, queue: str, older_than: str) -> int:
    """Remove jobs from the history that ended long ago."""

    async def work(store: Store) -> int:
        total = 0
        while count := await store.forget_history(seconds):
            total += count
        return write_output(f"{total:,} removed that ended {older_than} ago or earlier\n")

    try:
        seconds = parse_period("--older-than", older_than)
    except Refusal as refusal:
        complain(str(refusal))
        return MISUSED
    return on_store(url, queue, work)


def show_statistics(url: str, queue: str, *, as_json: bool) -> int:
    """Print a store in numbers."""

    async def work(store: Store) -> int:
        numbers = await store.statistics()
        if as_json:
            rows = [worker._asdict() for worker in numbers.workers]
            return write_output(to_line({"queue": queue, "store": store.url, **numbers._asdict(), "workers": rows}))
        return write_output("".join(_statistics(numbers, queue, store.url, await store.now())))

    return on_store(url, queue, work)


def list_schedules(url: str, queue: str, *, limit: int, as_json: bool) -> int:
    """Print the schedules that have had a moment, those of the latest moments first."""

    async def work(store: Store) -> int:
        rows, now = await store.schedules(limit), await store.now()
        if as_json:
            return write_output("".join(to_line(row._asdict()) for row in rows))
        return write_output(
            "".join(
                table_lines(("last", "schedule"), [(f"{period(now - row.last)} ago", row.schedule) for row in rows])
            )
        )

    return on_store(url, queue, work)


def _statistics(numbers: StoreStatistics, queue: str, url: str, now: float) -> list[str]:
    rows = [("queue", queue), ("store", url), ("paused", "yes" if numbers.paused else "no")]
    rows += [(status.value, f"{count:,}") for status in StoredStatus if (count := _count(numbers, status)) is not None]
    rows += [
        ("oldest queued", "none" if numbers.oldest is None else period(numbers.oldest)),
        ("rescued", f"{numbers.rescued:,}"),
        ("size", "unknown" if numbers.size is None else f"{numbers.size:,} bytes"),
        ("workers", f"{len(numbers.workers):,}"),
    ]
    lines = list(name_value_lines(rows))
    if numbers.workers:
        workers = [
            (one.host, str(one.pid), f"{one.running:,}", period(now - one.started_at), period(now - one.seen_at))
            for one in numbers.workers
        ]
        lines += ["\n", *table_lines(("host", "pid", "running", "up for", "seen"), workers)]
    return lines


def _count(numbers: StoreStatistics, status: StoredStatus) -> int | None:
    """Return how many jobs have a status; None: those that are rare are not spoken of while there is none."""
    count = numbers.live.get(status, 0) + numbers.ended.get(status, 0)
    rare = (StoredStatus.LIMITED, StoredStatus.PARKED, StoredStatus.MOVING)
    return None if status in rare and not count else count


def _became(before: StoredJob | None, after: StoredJob | None) -> str:
    """Return what a retry did with a job."""
    if before is None:
        return "is not there"
    if before.status not in ENDED:
        return f"is {before.status}: it has not ended"
    if after is not None and after.status in ENDED and after.finished_at == before.finished_at:
        held = "" if before.unique is None else f": a live job may have its unique key {before.unique!r}"
        return f"stays {before.status}{held}"
    return "queued"


def _batches(ids: Sequence[str]) -> list[list[str]]:
    """Return the ids, each once, in parts."""
    once = list(dict.fromkeys(ids))
    return [once[start : start + _BATCH] for start in range(0, len(once), _BATCH)]


async def _workers(store: Store) -> dict[str, str]:
    return {worker.id: f"{worker.host}:{worker.pid}" for worker in (await store.statistics()).workers}
