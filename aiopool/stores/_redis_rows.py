"""Rows of the Redis store: what Python writes into a key and reads from it.

Rule 1: what never changes of a job is one JSON text, `b:<id>`, which no script reads; what changes is packed by the
scripts, and named here by the same letters.

Rule 2: a line is a text whose bytes sort as (priority, position) does, for any whole number.

Rule 3: what is usual of a row costs next to nothing; what is not is told by its index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from aiopool.stores._rows import NewJob, Settlement, StoredJob, StoredStatus

__all__ = [
    "as_text",
    "dump",
    "moved_row",
    "new_text",
    "parse",
    "rank",
    "settlement_arguments",
    "stored",
    "submit_arguments",
]

_MOST_DIGITS: Final = 998
_NINES: Final = str.maketrans("0123456789", "9876543210")
_USUAL_CRASHES: Final = 3


def dump(value: object) -> bytes:
    """Return what a script reads as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def parse(answer: bytes) -> Any:
    """Return what a script has answered as JSON."""
    return json.loads(answer.decode("utf-8", "surrogatepass"))


def as_text(value: bytes) -> str:
    """Return a text of the server's."""
    return value.decode("utf-8", "surrogatepass")


@lru_cache(256)
def rank(priority: int) -> str:
    """Return a text that sorts as a priority does; those with about a thousand digits are as one."""
    if priority >= 0:
        digits = str(priority) if priority < 10**_MOST_DIGITS else "9" * _MOST_DIGITS
        return f"1{len(digits):03d}{digits}"
    digits = str(-priority) if -priority < 10**_MOST_DIGITS else "9" * _MOST_DIGITS
    return f"0{999 - len(digits):03d}{digits.translate(_NINES)}"


_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_ascii = json.JSONEncoder(separators=(",", ":")).encode  # any text, lone surrogates too


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _or_false(value: Any) -> Any:
    return False if value is None else value


def submit_arguments(jobs: Sequence[NewJob]) -> tuple[bytes, list[bytes]]:
    """Return what the script that takes jobs in has to know of them, and their texts."""
    submitter = jobs[0].submitter
    words: list[Any] = [submitter, False]
    texts: list[bytes] = []
    odd: dict[int, tuple[Any, ...]] = {}
    for index, job in enumerate(jobs):
        words += job.id, rank(job.priority) + job.name
        texts.append(new_text(job).encode())
        if (
            job.delay > 0
            or job.run_at is not None
            or job.start
            or job.lanes
            or job.total_timeout is not None
            or job.queue_timeout is not None
            or job.unique is not None
            or job.group is not None
            or job.tick is not None
            or job.max_crashes != _USUAL_CRASHES
            or job.submitter != submitter
        ):
            odd[index] = (
                job.delay,
                _or_false(job.run_at),
                _or_false(job.queue_timeout),
                _or_false(job.total_timeout),
                _or_false(job.unique),
                _dumps(list(dict.fromkeys(job.lanes))) if job.lanes else False,
                job.start,
                _or_false(job.tick),
                _or_false(job.group),
                job.max_crashes,
                job.submitter,
            )
    if odd:
        words[1] = odd
    return _raw(_dumps(words)), texts


def settlement_arguments(ends: Sequence[Settlement], again: bool) -> tuple[bytes, list[bytes]]:
    """Return what the script that settles has to know, and the results."""
    words: list[Any] = [again, False]
    results: list[bytes] = []
    odd: dict[int, tuple[Any, ...]] = {}
    for index, end in enumerate(ends):
        id, fence, outcome, delay, result, error, reason = end
        words += id, fence
        if outcome == "succeeded" and error is None and reason is None and result is not None:
            results.append(_raw(result))
        else:
            results.append(b"")
            odd[index] = outcome, delay, _or_false(result), _or_false(error), _or_false(reason)
    if odd:
        words[1] = odd
    return _raw(_dumps(words)), results


def new_text(job: NewJob | StoredJob) -> str:
    """Return what never changes of a job."""
    return _ascii(
        (job.id, job.name, job.payload, job.priority, job.group, job.keys, job.metadata, job.trace, job.parent)
    )


def moved_row(job: StoredJob) -> tuple[str, str, dict[str, Any]]:
    """Return id, status and fields of a job that comes from another store."""
    queued_at = max(job.created_at, job.run_at or 0.0)
    fields: dict[str, Any] = {
        "r": f"{rank(job.priority)}{job.position:016d}",
        "n": job.name,
        "y": job.submitter,
        "m": job.max_crashes,
        "a": job.attempt,
        "x": job.crashes,
        "f": job.fence,
        "t": job.created_at,
        "u": job.run_at,
        "q": job.queue_until,
        "Q": None if job.queue_until is None else max(0.0, job.queue_until - queued_at),
        "e": job.total_until,
        "k": job.unique,
        "l": _dumps(list(job.lanes)) if job.lanes else None,
        "g": job.group,
        "P": None if job.progress is None else json.dumps(job.progress),
        "E": job.error,
        "R": job.reason,
    }
    return job.id, str(job.status), {letter: value for letter, value in fields.items() if value is not None}


def stored(row: tuple[list[Any], dict[str, Any]]) -> StoredJob:
    """Return a job from its text and its fields."""
    (id, name, payload, priority, group, keys, metadata, trace, parent), fields = row

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
        attempt=int(fields["a"]),
        crashes=int(fields["x"]),
        max_crashes=int(fields["m"]),
        created_at=float(fields["t"]),
        run_at=moment("u"),
        queue_until=moment("q"),
        total_until=moment("e"),
        started_at=moment("w"),
        finished_at=moment("z"),
        owner=fields.get("o"),
        fence=int(fields["f"]),
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
