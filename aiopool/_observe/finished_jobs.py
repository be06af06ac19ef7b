"""`FinishedJobs`: what a pool remembers of the jobs that have ended.

An observer that exists only if the pool is asked to keep something (`Pool(keep_finished=…)`). It takes down plain
values in one row for each job; the record that users see is made of it when they ask.

Invariants: there are never more rows than `count`; a row refers to no job, argument, exception or frame, and only by
choice to a result. An id that was used again finds the job that ended last.
"""

from __future__ import annotations

import datetime
import linecache
from collections import deque
from collections.abc import Iterator
from itertools import islice
from types import CodeType, TracebackType
from typing import Any, final

from aiopool._jobs.checks import check_count
from aiopool._jobs.job import Job
from aiopool._jobs.json_values import error_text
from aiopool._jobs.keep_finished import KeepFinished
from aiopool._jobs.options import id_key, id_number
from aiopool._jobs.records import AttemptRecord, JobOutcome
from aiopool._jobs.status import JobStatus
from aiopool._observe.observer import Observer
from aiopool._runtime.faults import traceback_of, type_name
from aiopool._runtime.runtime import Runtime
from aiopool.errors import RecordedError

__all__ = ["FinishedJobs"]

# So many calls of a traceback are kept: the innermost ones.
MAX_CALLS = 20

_Calls = tuple[tuple[CodeType, int], ...]  # functions and lines, the outermost first
_Error = tuple[str, str, _Calls]  # its type, its text, and where it was raised
_Attempt = tuple[int, float, _Error, float, "datetime.datetime"]  # the fields of an `AttemptRecord`


@final
class FinishedJobs(Observer):
    """The rows of one pool.

    Attributes:
        keep: how many, and for how long.
    """

    __slots__ = ("_by_id", "_rows", "_runtime", "keep")

    def __init__(self, keep: KeepFinished) -> None:
        self.keep = keep
        self._rows: deque[_Row] = deque()
        # By the number that a job has from its pool, or by the key of its own id.
        self._by_id: dict[int | str, _Row] = {}
        self._runtime: Runtime | None = None  # that of the last opening

    @classmethod
    def of(cls, keep: int | KeepFinished) -> FinishedJobs:
        """Make it for the argument `keep_finished` of a pool: a count, or more."""
        if isinstance(keep, KeepFinished):
            return cls(keep)
        return cls(KeepFinished(check_count("keep_finished", keep)))

    def __len__(self) -> int:
        return len(self._rows)

    def begin(self, runtime: Runtime) -> None:
        """Begin anew for a pool that opens: its jobs are numbered from 1 again."""
        self._runtime = runtime
        self._rows.clear()
        self._by_id.clear()

    def submitted(self, job: Job[Any], *, inside: bool) -> None:
        """A job was taken in: its context still tells who submitted it."""
        parent = job.parent
        if parent is not None:
            job._ensure_extra().parent = parent

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool) -> None:
        """A job is done."""
        keep, rows = self.keep, self._rows
        if keep.count:
            row = _Row(job, keep.values)
            rows.append(row)
            self._by_id[row.key] = row
        while rows and (len(rows) > keep.count or self._is_old(rows[0], now)):
            row = rows.popleft()
            if self._by_id.get(row.key) is row:
                del self._by_id[row.key]

    def _is_old(self, row: _Row, now: float) -> bool:
        return self.keep.seconds is not None and now - row.finished_at > self.keep.seconds

    def find(self, id: int | str) -> JobOutcome[Any] | None:
        """Return the record of the job that answered to an id last, or None; from any thread."""
        key = id_key(id)
        number = id_number(key)
        found = [row for name in (key, number) if name is not None and (row := self._by_id.get(name)) is not None]
        if not found or self._runtime is None:
            return None
        row = max(found, key=lambda row: row.finished_at)
        return None if self._is_old(row, self._runtime.now()) else row.outcome(self._runtime)

    def ago(self, id: int | str) -> tuple[JobOutcome[Any], float] | None:
        """Return the record of a job, and how many seconds ago it was done."""
        found = self.find(id)
        if found is None or self._runtime is None:
            return None
        now = self._runtime.wall_time(self._runtime.now())
        return found, max(0.0, (now - found.finished_time).total_seconds())

    def newest(self, count: int, skip: int = 0) -> list[JobOutcome[Any]]:
        """Return the records of the jobs that ended last, the newest first, without the newest ones of all."""
        runtime = self._runtime
        if runtime is None:
            return []
        now = runtime.now()
        return [
            row.outcome(runtime)
            for row in islice(reversed(self._rows), skip, skip + count)
            if not self._is_old(row, now)
        ]


@final
class _Row:
    """One job that has ended, in plain values."""

    __slots__ = (
        "attempts",
        "error",
        "finished_at",
        "history",
        "id",
        "key",
        "leaked",
        "parent",
        "reason",
        "spec",
        "started_at",
        "status",
        "submitted_at",
        "value",
    )

    def __init__(self, job: Job[Any], keep_value: bool) -> None:
        ok, extra = job._status is JobStatus.SUCCEEDED, job._extra
        own = None if extra is None else extra.id
        self.id: int | str = job._sequence if own is None else own
        self.key: int | str = job._sequence if own is None else id_key(own)
        self.spec = job._spec  # shared by the jobs of a function: name, priority, group, metadata
        self.status = job._status
        self.attempts = job._attempt
        self.submitted_at, self.finished_at = job._submitted_at, job.finished_at or 0.0
        self.started_at = job._started_at if job._attempt else None
        self.value = job._value if ok and keep_value else None
        self.error = None if ok else _plain_error(*job._value)
        self.reason = self.parent = None
        self.leaked = False
        self.history: tuple[_Attempt, ...] = ()
        if extra is not None:
            self.reason, self.parent, self.leaked = extra.cancel_reason, extra.parent, extra.leaked
            if extra.history:
                self.history = tuple(_plain_attempt(attempt) for attempt in extra.history)

    def outcome(self, runtime: Runtime) -> JobOutcome[Any]:
        """Make the record that users see."""
        spec, started = self.spec, self.finished_at if self.started_at is None else self.started_at
        return JobOutcome(
            id=self.id,
            name=spec.name,
            status=self.status,
            value=self.value,
            error=None if self.error is None else _recorded(self.error),
            attempts=self.attempts,
            waited=started - self.submitted_at,
            seconds=self.finished_at - started,
            reason=self.reason,
            leaked=self.leaked,
            history=tuple(
                AttemptRecord(number, seconds, _recorded(error), delay, began)
                for number, seconds, error, delay, began in self.history
            ),
            priority=spec.priority,
            group=spec.group,
            metadata=dict(spec.metadata or {}),
            parent=self.parent,
            submitted_time=runtime.wall_time(self.submitted_at),
            started_time=None if self.started_at is None else runtime.wall_time(self.started_at),
            finished_time=runtime.wall_time(self.finished_at),
        )


def _plain_attempt(attempt: AttemptRecord) -> _Attempt:
    error = _plain_error(attempt.error, traceback_of(attempt.error))
    return attempt.number, attempt.seconds, error, attempt.delay, attempt.started_time


def _plain_error(error: BaseException, trace: TracebackType | None) -> _Error:
    """Take down an exception: its type, its text and its calls, and none of its frames."""
    calls = deque(_calls(trace), maxlen=MAX_CALLS)
    return type_name(error), error_text(error), tuple(calls)


def _calls(trace: TracebackType | None) -> Iterator[tuple[CodeType, int]]:
    while trace is not None:
        yield trace.tb_frame.f_code, trace.tb_lineno
        trace = trace.tb_next


def _recorded(error: _Error) -> RecordedError:
    """Make what stands for an exception; the lines of its traceback are read from their files now."""
    kind, text, calls = error
    lines = []
    for code, number in calls:
        lines.append(f'  File "{code.co_filename}", line {number}, in {code.co_name}\n')
        if line := linecache.getline(code.co_filename, number).strip():
            lines.append(f"    {line}\n")
    return RecordedError(text, kind, "".join(lines))
