"""Rows of the Redis store: what Python writes into a key and reads from it.

Rule 1: what never changes of a job is one JSON text, `b:<id>`, which no script reads; what changes are the fields of a
hash with one letter each.

Rule 2: a line is a text whose bytes sort as (priority, position) does, for any whole number.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aiopool.stores._rows import NewJob, StoredJob, StoredStatus

__all__ = ["field_list", "job_line", "new_row", "new_text", "rank", "stored"]

_MOST_DIGITS: Final = 998
_NINES: Final = str.maketrans("0123456789", "9876543210")


def rank(priority: int) -> str:
    """Return a text that sorts as a priority does; those with about a thousand digits are as one."""
    if priority >= 0:
        digits = str(priority) if priority < 10**_MOST_DIGITS else "9" * _MOST_DIGITS
        return f"1{len(digits):03d}{digits}"
    digits = str(-priority) if -priority < 10**_MOST_DIGITS else "9" * _MOST_DIGITS
    return f"0{999 - len(digits):03d}{digits.translate(_NINES)}"


def _or_false(value: Any) -> Any:
    return False if value is None else value


def new_row(job: NewJob) -> tuple[Any, ...]:
    """Return what the script that takes a job in has to know of it."""
    return (
        job.id,
        rank(job.priority),
        job.delay,
        _or_false(job.run_at),
        _or_false(job.queue_timeout),
        _or_false(job.total_timeout),
        job.max_crashes,
        _or_false(job.unique),
        json.dumps(list(dict.fromkeys(job.lanes)), ensure_ascii=False) if job.lanes else False,
        job.submitter,
        job.start,
        _or_false(job.tick),
        job.name,
        _or_false(job.group),
    )


def new_text(job: NewJob | StoredJob) -> str:
    """Return what never changes of a job."""
    return json.dumps(
        (job.id, job.name, job.payload, job.priority, job.group, job.keys, job.metadata, job.trace, job.parent)
    )


def job_line(job: StoredJob) -> str:
    """Return the place in line of a job that comes from another store."""
    return f"{rank(job.priority)}{job.position:016d}"


def field_list(job: StoredJob) -> list[str]:
    """Return the fields of a job that comes from another store, names and values in turn."""
    queued_at = max(job.created_at, job.run_at or 0.0)
    fields: dict[str, str | None] = {
        "n": job.name,
        "y": job.submitter,
        "m": str(job.max_crashes),
        "a": str(job.attempt),
        "x": str(job.crashes),
        "f": str(job.fence),
        "t": f"{job.created_at:.6f}",
        "u": None if job.run_at is None else f"{job.run_at:.6f}",
        "q": None if job.queue_until is None else f"{job.queue_until:.6f}",
        "Q": None if job.queue_until is None else f"{max(0.0, job.queue_until - queued_at):.6f}",
        "e": None if job.total_until is None else f"{job.total_until:.6f}",
        "l": json.dumps(list(job.lanes), ensure_ascii=False) if job.lanes else None,
        "g": job.group,
        "P": None if job.progress is None else json.dumps(job.progress),
        "E": job.error,
        "R": job.reason,
    }
    return [text for name, value in fields.items() if value is not None for text in (name, value)]


def stored(row: list[Any]) -> StoredJob:
    """Return a job from its text and its fields."""
    (id, name, payload, priority, group, keys, metadata, trace, parent), flat = row
    fields: dict[str, str] = dict(zip(flat[::2], flat[1::2], strict=True))

    def moment(letter: str) -> float | None:
        return float(fields[letter]) if letter in fields else None

    progress = json.loads(fields["P"]) if "P" in fields else None
    return StoredJob(
        id=id,
        name=name,
        status=StoredStatus(fields["s"]),
        payload=payload,
        priority=priority,
        position=int(fields["r"][-16:]),
        attempt=int(fields.get("a", 0)),
        crashes=int(fields.get("x", 0)),
        max_crashes=int(float(fields["m"])),
        created_at=float(fields["t"]),
        run_at=moment("u"),
        queue_until=moment("q"),
        total_until=moment("e"),
        started_at=moment("w"),
        finished_at=moment("z"),
        owner=fields.get("o"),
        fence=int(fields.get("f", 0)),
        unique=fields.get("k"),
        group=group,
        keys=keys,
        lanes=tuple(json.loads(fields["l"])) if "l" in fields else (),
        metadata=metadata,
        trace=trace,
        parent=parent,
        submitter=fields["y"],
        progress=(progress[0], progress[1]) if progress else None,
        result=fields.get("S"),
        error=fields.get("E"),
        reason=fields.get("R"),
    )
