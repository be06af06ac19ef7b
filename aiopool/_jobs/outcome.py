"""What the end of an attempt means: the exception that awaiting the job raises, and whether there is another attempt.

Only decisions, nothing is marked or woken here; the verdict itself, which of the four ends it is, is in `stop.py`.
"""

from __future__ import annotations

import contextlib
import random
from traceback import clear_frames
from typing import Any

from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus
from aiopool._jobs.stop import StopCause, StopRequest
from aiopool._runtime.faults import is_kind, traceback_of
from aiopool.errors import JobCancelledError, JobTimeoutError

__all__ = ["add_note", "cancelled_error", "failure_of", "next_delay", "timeout_error"]


def failure_of(
    job: Job[Any], stop: StopRequest | None, error: BaseException | None, status: JobStatus
) -> BaseException:
    """Return the exception that awaiting the job raises if it is not tried again."""
    if status is JobStatus.TIMED_OUT:
        assert stop is not None
        failure: BaseException = timeout_error(job, stop.cause)
        failure.__cause__ = _without_locals(error)  # where the job was when it was told
        return failure
    assert error is not None
    if is_kind(error, StopIteration):
        # No coroutine can raise it, so no `await job` could. Python does the same for a coroutine that tries.
        instead = RuntimeError(
            f"{job._spec.name} raised StopIteration, which no `await` can raise: let it return a value instead, as in "
            "next(iterator, None), or raise an exception of its own"
        )
        instead.__cause__ = error
        return instead
    return error


def next_delay(job: Job[Any], failure: BaseException, *, now: float, rng: random.Random) -> float | None:
    """Ask the job's `Retry` for the delay before the next attempt, in seconds; None: no other attempt."""
    retry = job._spec.retry
    if retry is None:
        return None
    extra = job._extra
    history = None if extra is None else extra.history
    delay = retry.next_delay(
        failure,
        attempt=job._attempt - (0 if extra is None or extra.lease is None else extra.lease.crashes),
        elapsed=now - job._submitted_at,
        previous=history[-1].delay if history else 0.0,
        rng=rng,
    )
    if delay is not None and retry.budget is not None and not retry.budget.withdraw(now=now):
        return None
    return delay


def timeout_error(job: Job[Any], cause: StopCause) -> JobTimeoutError:
    """Return the error of a job that ran into one of its three time limits."""
    spec = job._spec
    if cause is StopCause.QUEUE_TIMEOUT:
        seconds, text = spec.queue_timeout, "waited in the queue for longer than"
    elif cause is StopCause.TOTAL_TIMEOUT:
        lease = None if job._extra is None else job._extra.lease
        seconds = spec.total_timeout if lease is None else lease.total_timeout
        text = "was not done within a total of"
    else:
        changed = None if job._extra is None else job._extra.timeout
        seconds, text = spec.timeout if changed is None else changed, "ran for longer than"
    assert seconds is not None
    limit: Any = cause.value
    return JobTimeoutError(
        f"job {spec.name!r} id {job.id!r} {text} {seconds:g} s ({limit}={seconds:g})", limit, seconds
    )


def cancelled_error(job: Job[Any], cause: BaseException | None) -> JobCancelledError:
    """Return the error of a job that was cancelled; `cause`: by itself or by foreign code, with this."""
    extra = job._extra
    reason = "" if extra is None or extra.cancel_reason is None else f": {extra.cancel_reason}"
    by_itself = ", by itself or by code outside of the pool" if cause is not None else ""
    error = JobCancelledError(f"job {job._spec.name!r} id {job.id!r} was cancelled{by_itself}{reason}")
    error.__cause__ = _without_locals(cause)
    return error


def add_note(error: BaseException, job: Job[Any]) -> None:
    """Note on a failure which attempt of which job it ended."""
    retry = job._spec.retry
    attempts = retry.attempts if retry is not None else 1
    note = f"attempt {job._attempt} of {attempts}, job {job._spec.name!r} id {job.id!r}"
    with contextlib.suppress(BaseException):  # an exception may have ideas of its own about notes
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)


def _without_locals(error: BaseException | None) -> BaseException | None:
    """Clear the frames of a cancel: they tell where it struck, and keep nothing.

    What a job waits in, such as `asyncio.sleep`, keeps a timer there, which keeps the context, and that the job.
    """
    if error is not None:
        clear_frames(traceback_of(error))
    return error
