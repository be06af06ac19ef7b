"""Rows of ours as arguments of the functions in PostgreSQL, and back.

It knows: which columns go where. It refuses to know connections.

Rule 1: a column that is the default in all rows of a batch goes as an empty array: `unnest` fills it up with NULL, and
the server puts the default in. Most batches are three columns wide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from aiopool.stores._rows import (
    Claim,
    Claimed,
    Finished,
    NewJob,
    Settlement,
    StoredJob,
    StoredStatus,
    Submitted,
)

__all__ = [
    "ENDED_COLUMNS",
    "LIVE_COLUMNS",
    "SUBMIT_TYPES",
    "claim",
    "finished",
    "new_jobs",
    "parts_of",
    "stored",
    "submitted",
]

_LANES: Final = "\x1e"  # between the names of lanes
_MOST_TEXT: Final = 16 * 1024 * 1024  # characters of one call
_MOST: Final = 2**31 - 1

_KINDS: Final = "ttt" + "iffff" + "n" + "tttttttt" + "b" + "t" + "f"
SUBMIT_TYPES: Final = tuple(
    {"t": "text[]", "i": "bigint[]", "f": "float8[]", "n": "int[]", "b": "bool[]"}[k] for k in _KINDS
)

_COMMON = (
    "id, name, status, payload, priority, position, attempt, crashes, max_crashes, created_at, run_at, queue_until, "
    "total_until, started_at, {finished_at} AS finished_at, {owner} AS owner, fence, unique_key, group_name, keys, "
    "lanes, metadata, trace, parent, submitter, progress, message, {result} AS result, error, reason"
)
LIVE_COLUMNS: Final = _COMMON.format(finished_at="NULL::float8", owner="owner", result="NULL::text")
ENDED_COLUMNS: Final = _COMMON.format(finished_at="finished_at", owner="NULL::text", result="result")


def _column(values: Iterable[Any], default: object = None) -> list[Any]:
    column = list(values)
    return [] if all(value == default for value in column) else column


def new_jobs(jobs: Sequence[NewJob], *, may_start: bool) -> list[list[Any]]:
    """Return jobs as columns, in the order of `SUBMIT_TYPES`."""
    starts: list[bool] = []
    for job in jobs:  # those before which nothing of this batch waits
        if not (may_start and job.start and not job.lanes and job.delay <= 0 and job.run_at is None):
            break
        starts.append(True)
    return [
        [job.id for job in jobs],
        [job.name for job in jobs],
        [job.payload for job in jobs],
        _column((job.priority for job in jobs), 5),
        _column((job.delay for job in jobs), 0),
        _column(job.run_at for job in jobs),
        _column(job.queue_timeout for job in jobs),
        _column(job.total_timeout for job in jobs),
        _column((min(job.max_crashes, _MOST) for job in jobs), 3),
        _column(job.unique for job in jobs),
        _column(job.group for job in jobs),
        _column(job.keys for job in jobs),
        _column(_LANES.join(dict.fromkeys(job.lanes)) if job.lanes else None for job in jobs),
        _column(job.metadata for job in jobs),
        _column(job.trace for job in jobs),
        _column(job.parent for job in jobs),
        [job.submitter for job in jobs],
        starts,
        _column(None if job.tick is None else job.tick[0] for job in jobs),
        _column(None if job.tick is None else job.tick[1] for job in jobs),
    ]


def parts_of(jobs: Sequence[NewJob]) -> list[Sequence[NewJob]]:
    """Return a batch in parts; most often in one.

    In a part, what becomes of a job does not depend on those before it; and it is not larger than a server can take.
    """
    parts: list[Sequence[NewJob]] = []
    ids: set[str] = set()
    uniques: set[str] = set()
    start = size = 0
    for index, job in enumerate(jobs):
        size += len(job.payload)
        if job.id in ids or (job.tick is not None and job.unique in uniques) or (size > _MOST_TEXT and index > start):
            parts.append(jobs[start:index])
            start, size = index, len(job.payload)
            ids.clear()
            uniques.clear()
        ids.add(job.id)
        if job.unique is not None:
            uniques.add(job.unique)
    return [*parts, jobs[start:]] if parts else [jobs]


def parts_of_ends(ends: Sequence[Settlement]) -> list[list[Settlement]]:
    """Return ends in parts that are not larger than a server can take; most often in one."""
    parts: list[list[Settlement]] = [[]]
    size = 0
    for end in ends:
        more = len(end.result or "") + len(end.error or "")
        if size + more > _MOST_TEXT and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(end)
        size += more
    return parts


def plain(text: str | None) -> str | None:
    """Return a text of somebody's own words as the server takes it: a NUL would fail the rows of others, too."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def submitted(jobs: Sequence[NewJob], rows: Iterable[Any]) -> tuple[list[Submitted], list[int]]:
    """Return the answers to a batch, and the indices of those that have to be sent again."""
    answers = [Submitted("queued", job.id, job.submitter) for job in jobs]
    again: list[int] = []
    for number, outcome, id, submitter in rows:
        if outcome == "again":
            again.append(number - 1)
            outcome = "same_unique"
        answers[number - 1] = Submitted(outcome, id, submitter)
    return answers, again


def claim(rows: Iterable[Any]) -> Claim:
    """Return the answer to a claim."""
    found: list[tuple[int, int, Claimed]] = []
    cancels: list[tuple[str, int, str | None]] = []
    next_in: float | None = None
    more = paused = False
    for row in rows:
        kind = row[0]
        if kind == "job":
            (
                _,
                id,
                name,
                payload,
                priority,
                position,
                attempt,
                crashes,
                fence,
                age,
                left,
                group,
                keys,
                meta,
                trace,
                up,
            ) = row
            job = Claimed(
                id, name, payload, priority, attempt, crashes, fence, max(0.0, age), left, group, keys, meta, trace, up
            )
            found.append((priority, position, job))
        elif kind == "cancel":
            cancels.append((row[1], row[8], row[3]))
        else:
            more, paused = bool(row[4]), bool(row[6])
            next_in = None if row[10] is None else max(0.0, row[10])
    found.sort(key=lambda entry: entry[:2])
    return Claim([job for _, _, job in found], cancels, next_in, more, paused)


def stored(row: Any) -> StoredJob:
    """Return a job, from `LIVE_COLUMNS` or `ENDED_COLUMNS`."""
    values = list(row)
    progress, message = values[25:27]
    values[25:27] = [None if progress is None else (progress, message or "")]
    values[2] = status = StoredStatus(values[2])
    values[20] = tuple(values[20] or ())
    if status is not StoredStatus.RUNNING:
        values[15] = None
    return StoredJob(*values)


def finished(row: Any) -> Finished:
    """Return an end, from the history."""
    started = row["finished_at"] if row["started_at"] is None else row["started_at"]
    return Finished(
        row["id"],
        StoredStatus(row["status"]),
        row["result"],
        row["error"],
        row["reason"],
        row["attempt"],
        max(0.0, started - row["created_at"]),
        row["seconds"],
        row["finished_at"],
    )
