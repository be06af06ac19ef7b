"""Who asked a running job to stop, why, and what an ending means in that light.

Whether an exception was *our* cancel is decided by who asked, never by where the exception came out: a job may
raise `CancelledError` by itself, swallow ours, or be cancelled by code that is not the pool's. (anyio 4.16 lets a
`CancelledError` escape its cancelled scope when another cancel lands in the same turn.)

Two kinds of containment tell a job to stop, each in its own way (`_engine/worker.py`, `_engine/scope_worker.py`); both
are asked through a `StopRequest` and judged by `verdict`.
"""

from __future__ import annotations

import asyncio
import enum
from types import FrameType
from typing import Any, final

from aiopool._jobs.status import JobStatus
from aiopool._runtime.faults import is_kind

__all__ = ["StopCause", "StopRequest", "coroutine_frames", "outcome_status"]


class StopCause(enum.StrEnum):
    """Why a job is told to stop: somebody's wish, or one of its three time limits."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    QUEUE_TIMEOUT = "queue_timeout"
    TOTAL_TIMEOUT = "total_timeout"


@final
class StopRequest:
    """The standing wish that a running job ends.

    Attributes:
        cause: whose wish it is.
        reason: the canceller's words, if any.
        told: how often the job was told.
    """

    __slots__ = ("cancel_count", "cause", "reason")

    def __init__(self, cause: StopCause, reason: str | None = None) -> None:
        self.cause = cause
        self.reason = reason
        self.cancel_count = 0


def outcome_status(stop: StopRequest | None, error: BaseException | None) -> JobStatus:
    """Return how an attempt ended, from who asked it to stop and what came out of it (pure).

    - Nobody asked: a value is a success, a `CancelledError` is a cancel (the job's own, or that of foreign code),
      anything else is a failure.
    - A time limit asked: the attempt timed out, whatever it returned afterwards; late is late. An error of its own
      in the clean-up is a failure, so that it is not lost.
    - A canceller asked: a value means that the cancel lost the race, and the job succeeded.
    """
    if stop is not None and stop.cause is not StopCause.CANCEL:
        if error is None or is_kind(error, asyncio.CancelledError):
            return JobStatus.TIMED_OUT
        return JobStatus.FAILED
    if error is None:
        return JobStatus.SUCCEEDED
    return JobStatus.CANCELLED if is_kind(error, asyncio.CancelledError) else JobStatus.FAILED


def coroutine_frames(coroutine: Any) -> list[FrameType]:
    """Return the frames of a coroutine that waits, from the outermost to the one that does the waiting."""
    frames = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return frames
