"""The words for where a job and a pool stand, and the one table of a job's transitions.

Rule 1: this file knows no job. It is the specification: `job.py` is the only module that moves a job, and
the tests hold what it does against `TRANSITIONS`.

Rule 2: the last four statuses are final. Nothing leaves them, so a row is missing for each on purpose.

The diagram in `docs/explanation/how-a-job-travels.md` is drawn from this table, by `scripts/diagram.py`.
"""

from __future__ import annotations

import enum

__all__ = ["FINAL", "TRANSITIONS", "JobStatus", "PoolStatus", "WorkerState", "mermaid"]


class JobStatus(enum.StrEnum):
    """Where a job is. The last four are final."""

    SCHEDULED = "scheduled"
    """It waits for a moment: its delayed start, or its next attempt. It holds no worker."""
    QUEUED = "queued"
    """It waits for a worker."""
    RUNNING = "running"
    """A worker runs one of its attempts."""
    SUCCEEDED = "succeeded"
    """It returned a value."""
    FAILED = "failed"
    """It raised, and is not tried again."""
    TIMED_OUT = "timed_out"
    """One of its time limits ran out."""
    CANCELLED = "cancelled"
    """Somebody cancelled it, or it was dropped from a full queue."""


class WorkerState(enum.StrEnum):
    """What a worker is about."""

    OPENING = "opening"
    """It opens its resource, and takes no job yet."""
    IDLE = "idle"
    """It waits for a job."""
    BUSY = "busy"
    """It runs a job."""
    STOPPING = "stopping"
    """It ends, and takes no more jobs: its present one runs to its end, or its resource is being closed."""


class PoolStatus(enum.StrEnum):
    """Where a pool is in its life."""

    NEW = "new"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


FINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.TIMED_OUT, JobStatus.CANCELLED})

# {status: {event: status}}; the events are the verbs of `_job.Job`. `None` is a job that is being submitted.
TRANSITIONS: dict[JobStatus | None, dict[str, JobStatus]] = {
    None: {
        "submit": JobStatus.QUEUED,
        "delay": JobStatus.SCHEDULED,
    },
    JobStatus.QUEUED: {
        "start": JobStatus.RUNNING,
        "expire": JobStatus.TIMED_OUT,
        "cancel": JobStatus.CANCELLED,
    },
    JobStatus.SCHEDULED: {
        "come due": JobStatus.QUEUED,
        "expire": JobStatus.TIMED_OUT,
        "cancel": JobStatus.CANCELLED,
    },
    JobStatus.RUNNING: {
        "return": JobStatus.SUCCEEDED,
        "raise": JobStatus.FAILED,
        "retry": JobStatus.SCHEDULED,
        "expire": JobStatus.TIMED_OUT,
        "cancel": JobStatus.CANCELLED,
    },
}


def mermaid() -> str:
    """Return the table as a Mermaid state diagram, for the docs."""
    rows = ["stateDiagram-v2"]
    for status, events in TRANSITIONS.items():
        rows += [f"    {status or '[*]'} --> {after}: {event}" for event, after in events.items()]
    rows += [f"    {status} --> [*]" for status in JobStatus if status in FINAL]
    return "\n".join(rows)
