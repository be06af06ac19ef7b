"""A stored job as text: a row of a table, a page of its own, a line of JSON. Nothing in it can steer a terminal.

What a job was given and what it returned is JSON text of whoever made it; text that is none is shown as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from aiopool.cli._board import duration, printable
from aiopool.cli._table import name_value_lines
from aiopool.stores._rows import StoredJob

__all__ = ["HEADER", "error_line", "job_json", "job_page", "job_row", "lane_name", "period", "to_line", "worker_name"]

HEADER: Final = ("id", "name", "status", "priority", "attempt", "age", "worker", "error")

# Those of the columns that hold JSON text.
_JSON: Final = ("payload", "keys", "metadata", "trace", "result", "error")
_DAY: Final = 86400
_DEEP: Final = 500
# Between the rule of a lane and its key.
_KEY: Final = "\x1f"

Workers = Mapping[str, str]
"""By the id of an incarnation: where it is, `host:pid`."""


def job_row(job: StoredJob, now: float, workers: Workers) -> tuple[str, ...]:
    """Return the cells of a job in a table of jobs."""
    return (
        job.id,
        job.name,
        job.status.value,
        str(job.priority),
        str(job.attempt),
        period(now - job.created_at),
        "" if job.owner is None else worker_name(job.owner, workers),
        "" if job.error is None else error_line(job.error),
    )


def job_json(job: StoredJob, workers: Workers) -> str:
    """Return all that is known of a job, as a line of JSON."""
    fields = job._asdict()
    for name in _JSON:
        fields[name] = _parsed(fields[name])
    fields["lanes"] = [lane_name(lane) for lane in job.lanes]
    fields["worker"] = None if job.owner is None else workers.get(job.owner)
    return to_line(fields)


def to_line(value: Any) -> str:
    """Return a value as a line of JSON, without characters that a terminal would obey."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text + "\n"
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text) + "\n"


def job_page(job: StoredJob, now: float, workers: Workers) -> Iterator[str]:
    """Yield the lines of all that is known of a job."""
    progress = "none" if job.progress is None else f"{job.progress[0]:.0%} {job.progress[1]}".rstrip()
    rows = [
        ("id", job.id),
        ("name", job.name),
        ("status", job.status.value),
        ("priority", str(job.priority)),
        ("position", str(job.position)),
        ("attempt", str(job.attempt)),
        ("crashes", f"{job.crashes} of {job.max_crashes}"),
        ("submitted", _moment(job.created_at, now)),
        ("queued from", _moment(job.run_at, now)),
        ("to start by", _moment(job.queue_until, now)),
        ("to end by", _moment(job.total_until, now)),
        ("started", _moment(job.started_at, now)),
        ("ended", _moment(job.finished_at, now)),
        ("worker", "none" if job.owner is None else worker_name(job.owner, workers)),
        ("owner", _word(job.owner)),
        ("fence", str(job.fence)),
        ("submitter", job.submitter or "none"),
        ("parent", _word(job.parent)),
        ("unique", _word(job.unique)),
        ("group", _word(job.group)),
        ("keys", _word(job.keys)),
        ("lanes", ", ".join(map(lane_name, job.lanes)) or "none"),
        ("metadata", _word(job.metadata)),
        ("trace", _word(job.trace)),
        ("progress", progress),
        ("reason", _word(job.reason)),
    ]
    yield from name_value_lines(rows)
    yield from _section("arguments", _readable(job.payload))
    if job.result is not None:
        yield from _section("result", _readable(job.result))
    if job.error is not None:
        yield from _section("error", _error(job.error))


def lane_name(lane: str) -> str:
    """Return a lane as people write it: the rule, and the key after it."""
    return lane.replace(_KEY, " ", 1)


def worker_name(owner: str, workers: Workers) -> str:
    """Return where an incarnation is; one that is gone has only its id."""
    return workers.get(owner) or f"{owner[:8]}…, gone"


def error_line(text: str) -> str:
    """Return the first line of an error: its type and its words."""
    error = _parsed(text)
    if not isinstance(error, dict):
        lines = text.splitlines()
        return lines[0] if lines else ""
    kind = error.get("type") or error.get("kind") or "error"
    words = error.get("message") or error.get("text") or error.get("limit") or ""
    first = str(words).splitlines()[0] if str(words).strip() else ""
    return f"{kind}: {first}" if first else str(kind)


def period(seconds: float) -> str:
    """Return how long something has lasted: `17 s`, `2:05`, `3:00:12`, `12 d`."""
    return f"{seconds / _DAY:.0f} d" if seconds >= 2 * _DAY else duration(max(0.0, seconds))


def _word(value: str | None) -> str:
    return "none" if value is None else value


def _moment(moment: float | None, now: float) -> str:
    """Return a moment in UTC, and how far it is."""
    if moment is None:
        return "none"
    far = f"{period(now - moment)} ago" if moment <= now else f"in {period(moment - now)}"
    try:
        return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}Z ({far})"
    except (OverflowError, ValueError, OSError):  # a year that calendars do not have
        return far


def _section(name: str, lines: Iterator[str]) -> Iterator[str]:
    yield f"\n{name}\n"
    for line in lines:
        yield f"  {printable(line)}".rstrip() + "\n"


def _readable(text: str) -> Iterator[str]:
    value = _parsed(text)
    yield from (text if value is text else json.dumps(value, ensure_ascii=False, indent=2)).split("\n")


def _error(text: str) -> Iterator[str]:
    """Yield the lines of an error: its type and words, what else it says, its traceback."""
    error = _parsed(text)
    if not isinstance(error, dict):
        yield from _readable(text)
        return
    trace = error.get("traceback")
    if isinstance(trace, list):
        trace = "".join(map(str, trace))
    yield from str(trace).rstrip("\n").split("\n") if trace else ()
    words = str(error.get("message") or error.get("text") or "")
    yield from f"{error.get('type') or error.get('kind') or 'error'}: {words}".rstrip(": ").split("\n")
    for name, value in error.items():
        if name not in ("type", "kind", "message", "text", "args", "traceback") and value not in (None, [], ""):
            yield f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _parsed(text: str | None) -> Any:
    """Return the value of a JSON text; the text, if it is none, or has what JSON does not have."""
    if text is None:
        return None
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_number)
        if text.count("[") + text.count("{") > _DEEP:
            json.dumps(value)  # it may be nested more deeply than can be written again
        return value
    except (ValueError, RecursionError):
        return text
