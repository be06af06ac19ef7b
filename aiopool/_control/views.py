"""What is shown of a job, an event and a pool, as JSON. One function for each kind of thing, and no other way out.

Arguments and results of jobs are never shown: nobody can say which of them are secrets. Names, groups, labels
(`metadata`), errors and lines of code are.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
from collections.abc import Mapping
from typing import Any

from aiopool._jobs.job import Job
from aiopool._jobs.json_values import MAX_TEXT, bounded, error_text, json_value
from aiopool._jobs.records import JobOutcome
from aiopool._jobs.statistics import Statistics
from aiopool._jobs.status import JobStatus
from aiopool._pool.pool import Pool
from aiopool.errors import RecordedError
from aiopool.events import PoolEvent
from aiopool.health import HealthReport
from aiopool.inspection import CodeLine, GroupInfo, innermost_own, is_paused

__all__ = [
    "event_view",
    "failures_view",
    "frames_view",
    "group_view",
    "health_view",
    "job_version",
    "job_view",
    "labels_view",
    "moment",
    "numbers_view",
    "outcome_view",
    "pool_version",
    "value_view",
    "verbs_for",
]

MAX_LABELS = 50

# What `Job.waiting_for` says, with the lever.
WAITS = {
    "slot": "it waits for a free slot",
    "admission": "its submit waits for room in the queue",
    "delay": "it is to start later",
    "backoff": "it failed, and waits for its next attempt",
    "pool paused": "the pool is paused: resume it",
    "group paused": "its group is paused: resume the group",
    "limit": "as many run, or have started, as its limit allows",
    "store": "it is in the store",
}


def moment(when: datetime.datetime | None) -> str | None:
    """Return a moment as RFC 3339, in UTC."""
    return None if when is None else when.astimezone(datetime.UTC).isoformat(timespec="milliseconds")


def value_view(value: Any) -> Any:
    """Return a value as JSON has it, cut if it is long: whoever gave it did not think of a page."""
    found = json_value(value)
    if isinstance(found, (list, dict)) and len(text := json.dumps(found)) > MAX_TEXT:
        return bounded(text)
    return bounded(found) if isinstance(found, str) else found


def labels_view(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Show the labels of a job, the first of them."""
    return {bounded(str(key)): value_view(value) for key, value in itertools.islice(labels.items(), MAX_LABELS)}


def pool_version(pool: Pool) -> str:
    """Return a text that is another one if somebody has changed what can be changed of a pool."""
    return f"{pool.size}-{'paused' if is_paused(pool) else 'on'}"


def job_version(job: Job[Any]) -> str:
    """Return a text that is another one if a live job has gone on, or what can be changed of it was."""
    return f"{job.status}-{job.attempt}-{job.priority}-{job.timeout}"


def frames_view(stack: list[CodeLine]) -> list[dict[str, Any]]:
    """Show calls, the outermost first."""
    return [{"file": line.file, "line": line.line, "function": line.function} for line in stack]


def job_view(job: Job[Any], *, now: float, whole: bool = False) -> dict[str, Any]:
    """Show a live job; the whole of it costs a look at its frames.

    Args:
        job: the job.
        now: the moment on the loop's clock.
        whole: with all that is known, not only what a row of a table has.
    """
    reason = job.waiting_for
    running = job.status is JobStatus.RUNNING
    started = job.started_at if running else None
    row: dict[str, Any] = {
        "id": value_view(job.id),
        "name": bounded(job.name),
        "status": job.status.value,
        "priority": job.priority,
        "group": value_view(job.group),
        "attempt": job.attempt,
        "submitted": moment(job.submitted_time),
        "seconds": round(max(0.0, now - (job.submitted_at if started is None else started)), 3),
        "waiting_for": reason,
    }
    if running or whole:
        stack = [CodeLine(f.filename, f.lineno or 0, f.name) for f in job.stack()] if running else []
        own = innermost_own(tuple(stack))
        row["at"] = None if own is None else str(own)
    if job.progress is not None:
        row["progress"] = {"fraction": json_value(job.progress[0]), "message": bounded(str(job.progress[1]))}
    if whole:
        row |= {
            "why": None if reason is None else WAITS.get(reason, reason),
            "started": moment(job.started_time),
            "finished": moment(job.finished_time),
            "parent": value_view(job.parent),
            "key": value_view(job.key),
            "labels": labels_view(job.metadata),
            "timeout": json_value(job.timeout),
            "worker": job.worker_id,
            "leaked": job.leaked,
            "attempts": [attempt.to_dict() for attempt in job.history],
            "may": verbs_for(job.status),
            "version": job_version(job),
        }
    return row


def outcome_view(outcome: JobOutcome[Any], *, whole: bool = False) -> dict[str, Any]:
    """Show a job that has ended."""
    row: dict[str, Any] = {
        "id": value_view(outcome.id),
        "name": bounded(outcome.name),
        "status": outcome.status.value,
        "priority": outcome.priority,
        "group": value_view(outcome.group),
        "attempt": outcome.attempts,
        "submitted": moment(outcome.submitted_time),
        "finished": moment(outcome.finished_time),
        "seconds": round(outcome.seconds, 6),
        "waited": round(outcome.waited, 6),
        "error": None if outcome.error is None else error_text(outcome.error),
    }
    if whole:
        trace = outcome.error.traceback if isinstance(outcome.error, RecordedError) else None
        row |= {
            "started": moment(outcome.started_time),
            "parent": value_view(outcome.parent),
            "labels": labels_view(outcome.metadata),
            "reason": value_view(outcome.reason),
            "leaked": outcome.leaked,
            "attempts": [attempt.to_dict() for attempt in outcome.history],
            "traceback": None if trace is None else bounded(trace),
            "may": [],
            "version": f"{outcome.status}-{outcome.attempts}-{outcome.priority}",
        }
    return row


def failures_view(outcomes: list[JobOutcome[Any]], limit: int) -> dict[str, Any]:
    """Show which errors jobs failed with, each once, with how many and the last of them.

    Args:
        outcomes: jobs that have ended, the newest first.
        limit: so many errors at most.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for outcome in outcomes:
        error = outcome.error
        if error is None or outcome.status not in (JobStatus.FAILED, JobStatus.TIMED_OUT):
            continue
        kind = error.kind if isinstance(error, RecordedError) else type(error).__name__
        row = found.get((kind, outcome.name))
        if row is None:
            if len(found) >= limit:
                continue
            row = found[kind, outcome.name] = {
                "kind": kind,
                "name": bounded(outcome.name),
                "count": 0,
                "error": error_text(error),
                "last": moment(outcome.finished_time),
                "id": value_view(outcome.id),
            }
        row["count"] += 1
    return {"items": list(found.values()), "searched": len(outcomes)}


def verbs_for(status: JobStatus) -> list[str]:
    """Return what may be done with a job of a status."""
    waits = status in (JobStatus.QUEUED, JobStatus.SCHEDULED)
    return ["cancel", "reprioritize"] if waits else ["cancel", "stack"] if status is JobStatus.RUNNING else []


def numbers_view(statistics: Statistics) -> dict[str, Any]:
    """Show the numbers of a pool."""
    return {name: json_value(value) for name, value in dataclasses.asdict(statistics).items()}


def group_view(group: GroupInfo) -> dict[str, Any]:
    """Show a group."""
    return dataclasses.asdict(group) | {"name": bounded(group.name), "waiting": group.live - group.running}


def health_view(report: HealthReport) -> dict[str, Any]:
    """Show how a pool is."""
    return {
        "status": report.status.value,
        "ready": report.ready,
        "live": report.live,
        "findings": [
            {"check": found.check, "status": found.status.value, "text": found.text} for found in report.findings
        ],
    }


def event_view(event: PoolEvent, wall: datetime.datetime) -> dict[str, Any]:
    """Show an event.

    Args:
        event: the event.
        wall: when it happened, by the clock on the wall.
    """
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    shown = {
        name: error_text(value) if isinstance(value, BaseException) else value_view(value)
        for name, value in fields.items()
        if name not in ("pool", "at", "metadata")
    }
    return {"type": type(event).__name__, "time": moment(wall)} | shown
