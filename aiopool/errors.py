"""Every exception that aiopool raises on its own account.

A job that fails re-raises *its own* exception, with a note about the attempt; it is never wrapped.
Wrong use (a pool that was not opened, another event loop, a coroutine object in place of a function)
raises `RuntimeError` or `TypeError`, as asyncio does.

    PoolError
    ├── PoolClosedError        the pool takes no jobs any more
    ├── QueueFullError         no room and no waiting           (also asyncio.QueueFull)
    ├── RestartLimitError      workers crashed too often; the pool gave up, the last crash is the cause
    ├── JobError
    │   ├── JobCancelledError  awaited a job that was cancelled (an ordinary exception, on purpose)
    │   ├── JobTimeoutError    which limit, how long            (also TimeoutError)
    │   ├── JobDroppedError    pushed out of a full queue by the overflow policy
    │   ├── RecordedError      stands for what a job raised, in the record of one that has ended
    │   ├── NotPicklableError  a call or its outcome cannot go to another process and back (also TypeError)
    │   ├── ProcessDiedError   the process that ran the job died: with which exit code
    │   ├── ClusterLostError   the cluster that ran the job was lost: nobody's failure
    │   ├── JobPendingError    result() or exception() too early (also asyncio.InvalidStateError)
    │   ├── JobDeadError       its workers died while they ran it, too often: it was given up
    │   ├── PayloadError       arguments or a result that a store cannot keep (also ValueError)
    │   └── UnknownJobError    the store knows no job with this id (also KeyError)
    ├── StoreError             a store cannot do what it was asked for
    │   └── StoreUnavailableError    ... now; later it may
    └── SettingsError          which setting, which value, what is allowed (also ValueError)
"""

import asyncio
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "ClusterLostError",
    "JobCancelledError",
    "JobDeadError",
    "JobDroppedError",
    "JobError",
    "JobPendingError",
    "JobTimeoutError",
    "NotPicklableError",
    "PayloadError",
    "PoolClosedError",
    "PoolError",
    "ProcessDiedError",
    "QueueFullError",
    "RecordedError",
    "RestartLimitError",
    "SettingsError",
    "SettingsProblem",
    "StoreError",
    "StoreUnavailableError",
    "UnknownJobError",
]


class PoolError(Exception):
    """Base of all exceptions of this package."""


class PoolClosedError(PoolError):
    """The pool takes no jobs any more: it is shutting down, or closed."""


class QueueFullError(PoolError, asyncio.QueueFull):
    """There was no room in the queue, and the caller did not want to wait."""


class RestartLimitError(PoolError):
    """Workers crashed more often than `Restart` allows; the last crash is the `__cause__`."""


class JobError(PoolError):
    """Base of what a job can end with on the pool's account."""


class JobCancelledError(JobError):
    """The awaited job was cancelled.

    An ordinary exception on purpose: `asyncio.CancelledError` in an awaiting task always means that the
    *awaiting* task was cancelled, never the job.
    """


class JobTimeoutError(JobError, TimeoutError):
    """The job ran into one of its three time limits.

    Attributes:
        limit: which one: `"timeout"` (one attempt), `"queue_timeout"` (waiting in the queue) or
            `"total_timeout"` (from submission to the end).
        seconds: how long that limit was.
    """

    def __init__(
        self, message: str, limit: Literal["timeout", "queue_timeout", "total_timeout"], seconds: float
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.seconds = seconds

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.limit, self.seconds)


class JobDroppedError(JobError):
    """The job was pushed out of a full queue by `overflow="drop_oldest"` or `"drop_lowest"`."""


class NotPicklableError(JobError, TypeError):
    """A function, an argument, a result or an exception cannot go to another process, or come back.

    A call that cannot be sent is refused when it is submitted, before anything has run.
    """


class ProcessDiedError(JobError):
    """The process that ran the job died, and nobody had asked for that: a crash in C code, `os._exit`, `kill -9`.

    Attributes:
        exitcode: that of the process; below zero it is the number of the signal that killed it, None if it is unknown.
    """

    def __init__(self, message: str, exitcode: int | None) -> None:
        super().__init__(message)
        self.exitcode = exitcode

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.exitcode)


class ClusterLostError(JobError):
    """The cluster that was to run the job cannot be reached, or was lost while it did. The job may run there still.

    That is no failure of the job: with a store it goes back to the queue, and the attempt was none. Without one the job
    fails with this error, and a `Retry` tries it again.
    """


class JobPendingError(JobError, asyncio.InvalidStateError):
    """The result was asked for before the job was done."""


class RecordedError(JobError):
    """Stands for the exception of a job that has ended, in what `pool.find` returns: as text, for the object is gone.

    Attributes:
        kind: the name of its class.
        traceback: the innermost calls, as lines of a traceback; empty if there were none.
    """

    def __init__(self, text: str, kind: str, traceback: str) -> None:
        super().__init__(text, kind, traceback)
        self.kind = kind
        self.traceback = traceback

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class SettingsProblem:
    """One setting that cannot be used.

    Attributes:
        name: the setting, with dots: `retry.attempts`.
        value: what was given, as text, shortened; None if there is no value to speak of.
        source: where it came from: an argument, an environment variable, a line of a file.
        reason: what is allowed, or what is wrong.
    """

    name: str
    value: str | None
    source: str
    reason: str

    def __str__(self) -> str:
        given = self.name if self.value is None else f"{self.name}={self.value}"
        return f"{given} ({self.source}): {self.reason}"


class SettingsError(PoolError, ValueError):
    """Settings cannot be used; the text names each one, its value, its source and what is allowed.

    Attributes:
        problems: all that is wrong, not only the first.
    """

    def __init__(self, message: str, problems: tuple[SettingsProblem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.problems)


class StoreError(PoolError):
    """A store cannot do what it was asked for: what it is, and what to do about it, are in the text."""


class StoreUnavailableError(StoreError):
    """A store cannot be reached now, or has no room now. Nothing was lost; the same call may go through later."""


class JobDeadError(JobError):
    """The processes that ran the job died, as often as its `max_crashes`: it was given up, and can be put back."""


class PayloadError(JobError, ValueError):
    """The arguments, or the result, of a job of a store cannot be written as JSON, or are too big."""


class UnknownJobError(JobError, KeyError):
    """The store knows no job with this id: it never was there, or its row was removed from the history."""

    def __str__(self) -> str:  # a KeyError shows the repr of its text
        return str(self.args[0])
