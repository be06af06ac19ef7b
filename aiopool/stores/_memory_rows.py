"""What the rows of the memory store are made of: a row, and a line in which rows wait.

Rule 1: a line gives its least row first, and forgets a row in the time that a dictionary takes. What it has forgotten
lies in its heap until it comes up, and there is never more of that than of what counts.

Rule 2: neither knows a status from another; `_memory_queue.py` does.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import final

from aiopool.stores._rows import Finished, NewJob, StoredJob, StoredStatus

__all__ = ["Line", "Row"]

# So much of a heap may be rows that are gone, before it is made anew.
_SLACK = 64


@final
class Row:
    """A job, live or ended: as `StoredJob`, and what the store notes for itself.

    Attributes:
        cancel_asked: somebody has cancelled it while it ran.
        held_in: the lane that has no place for it, while it is `limited`.
        called_by: the lane that called it back into the queue, as it had a place.
        queue_timeout: seconds that it may wait for its first attempt; a job that is put back has them again.
        seconds: how long its last attempt ran.
        ended_number: grows with each end: the order of the history.
    """

    __slots__ = (
        "attempt",
        "called_by",
        "cancel_asked",
        "crashes",
        "created_at",
        "ended_number",
        "error",
        "fence",
        "finished_at",
        "group",
        "held_in",
        "id",
        "keys",
        "lanes",
        "max_crashes",
        "metadata",
        "name",
        "owner",
        "parent",
        "payload",
        "position",
        "priority",
        "progress",
        "queue_timeout",
        "queue_until",
        "reason",
        "result",
        "run_at",
        "seconds",
        "started_at",
        "status",
        "submitter",
        "total_until",
        "trace",
        "unique",
    )

    def __init__(self, job: StoredJob) -> None:
        for field in StoredJob._fields:
            setattr(self, field, getattr(job, field))
        self.lanes: tuple[str, ...] = tuple(dict.fromkeys(job.lanes))  # one place in each
        # One that was tried before it came from another store has a later `run_at`, and no such limit any more.
        queued_at = job.created_at if job.run_at is None else max(job.run_at, job.created_at)
        until = job.queue_until
        self.queue_timeout = until - queued_at if until is not None and until >= queued_at else None
        self.cancel_asked = False
        self.held_in: str | None = None
        self.called_by: str | None = None
        self.seconds = 0.0
        self.ended_number = 0

    id: str
    name: str
    status: StoredStatus
    payload: str
    priority: int
    position: int
    attempt: int
    crashes: int
    max_crashes: int
    created_at: float
    run_at: float | None
    queue_until: float | None
    total_until: float | None
    started_at: float | None
    finished_at: float | None
    owner: str | None
    fence: int
    unique: str | None
    group: str | None
    keys: str | None
    metadata: str | None
    trace: str | None
    parent: str | None
    submitter: str
    progress: tuple[float, str] | None
    result: str | None
    error: str | None
    reason: str | None

    @classmethod
    def of(cls, job: NewJob, position: int, now: float) -> Row:
        """Return the row of a job that is submitted now."""
        run_at = job.run_at
        if run_at is None and job.delay > 0:
            run_at = now + job.delay
        queued_at = now if run_at is None else max(run_at, now)
        return cls(
            StoredJob(
                id=job.id,
                name=job.name,
                status=StoredStatus.QUEUED,
                payload=job.payload,
                priority=job.priority,
                position=position,
                attempt=0,
                crashes=0,
                max_crashes=job.max_crashes,
                created_at=now,
                run_at=run_at,
                queue_until=None if job.queue_timeout is None else queued_at + job.queue_timeout,
                total_until=None if job.total_timeout is None else now + job.total_timeout,
                started_at=None,
                finished_at=None,
                owner=None,
                fence=0,
                unique=job.unique,
                group=job.group,
                keys=job.keys,
                lanes=job.lanes,
                metadata=job.metadata,
                trace=job.trace,
                parent=job.parent,
                submitter=job.submitter,
                progress=None,
                result=None,
                error=None,
                reason=None,
            )
        )

    @property
    def order(self) -> tuple[int, int, str]:
        """Its place in line; the id, as the rows of two stores may have one position."""
        return self.priority, self.position, self.id

    def deadline(self) -> tuple[float, str] | None:
        """Return the moment at which its time is over while it waits, and by which limit."""
        limits: list[tuple[float, str]] = []
        if self.queue_until is not None and not self.attempt:
            limits.append((self.queue_until, "queue_timeout"))
        if self.total_until is not None:
            limits.append((self.total_until, "total_timeout"))
        return min(limits, default=None)

    def stored(self) -> StoredJob:
        """Return what is told of it."""
        return StoredJob(*[getattr(self, field) for field in StoredJob._fields])

    def end(self) -> Finished:
        """Return how it ended."""
        finished_at = self.created_at if self.finished_at is None else self.finished_at
        begun = finished_at if self.started_at is None else self.started_at
        return Finished(
            self.id,
            self.status,
            self.result,
            self.error,
            self.reason,
            self.attempt,
            begun - self.created_at,
            self.seconds,
            finished_at,
        )


@final
class Line:
    """Rows that wait, the least first."""

    __slots__ = ("_heap", "_number", "_of")

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[object, ...], int, Row]] = []
        self._of: dict[str, int] = {}  # by id: the number of the entry that counts
        self._number = 0

    def __len__(self) -> int:
        return len(self._of)

    def __iter__(self) -> Iterator[Row]:
        """In no order."""
        return (row for _, number, row in self._heap if self._of.get(row.id) == number)

    def add(self, key: tuple[object, ...], row: Row) -> None:
        """Let a row wait here; one that does already gets another place."""
        self._number += 1
        self._of[row.id] = self._number
        heapq.heappush(self._heap, (key, self._number, row))
        self._tidy()

    def discard(self, row: Row) -> None:
        """Forget a row, if it is here."""
        if self._of.pop(row.id, None) is not None:
            self._tidy()

    def first(self) -> Row | None:
        """Return the least row, which stays."""
        heap = self._heap
        while heap:
            _, number, row = heap[0]
            if self._of.get(row.id) == number:
                return row
            heapq.heappop(heap)
        return None

    def pop(self) -> Row | None:
        """Take the least row out."""
        row = self.first()
        if row is not None:
            heapq.heappop(self._heap)
            del self._of[row.id]
        return row

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._of) + _SLACK:
            self._heap = [entry for entry in self._heap if self._of.get(entry[2].id) == entry[1]]
            heapq.heapify(self._heap)
