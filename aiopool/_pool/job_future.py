"""`JobFuture`: a job, as a thread holds it that has no event loop.

It is a `concurrent.futures.Future`, so everything that takes one takes it: `concurrent.futures.wait`, `as_completed`,
`asyncio.wrap_future`. It knows its job once the loop has taken that in, and asks the bridge (`thread_bridge.py`) for
all that needs the loop.

Its state goes from pending to its end, and is never the "running" of its base: it can be cancelled at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar, final

from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus
from aiopool._runtime.faults import is_kind
from aiopool.errors import JobCancelledError

__all__ = ["JobFuture"]

R = TypeVar("R")


class Bridge(Protocol):
    """What a future asks of the bridge."""

    def may_wait(self) -> Job[Any] | None: ...
    def wait_lent(self, future: JobFuture[Any], timeout: float | None) -> None: ...
    def blocked_thread(self) -> AbstractContextManager[None]: ...
    def check_lender(self) -> None: ...
    def withdraw(self, future: JobFuture[Any], reason: str | None) -> None: ...
    def unheard(self, job: Job[Any] | None, error: BaseException) -> None: ...


# Seconds between two looks of a thread that waits inside of a job: was the job cancelled meanwhile?
POLL = 0.05


@final
class JobFuture(Future[R]):
    """A job that a thread has handed in; a `concurrent.futures.Future` of its result.

    Made by `pool.from_thread.submit(...)`, by an executor of the pool, and by `BlockingPool.submit(...)`. Any thread
    may ask it. The thread of the pool's event loop may not wait for it: there, `await asyncio.wrap_future(future)`.

    An exception that nobody has asked for when the future is dropped is reported as that of a job that nobody awaits.

    Example:
        future = pool.from_thread.submit(fetch, url)
        page = future.result(timeout=30)
    """

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self._bridge = bridge
        self._job: Job[R] | None = None
        self._heard = False  # somebody has asked how it ended, or will be told
        self._arrival: threading.Event | None = None  # of a thread that waits until it was taken in
        self._entering: asyncio.Task[None] | None = None  # while it waits for room; belongs to the loop

    # -- questions ---------------------------------------------------------------------------------------------------

    @property
    def job(self) -> Job[R] | None:
        """The job; None until the event loop has taken it in. It may be asked and cancelled from any thread."""
        return self._job

    @property
    def id(self) -> int | str | None:
        """The id of the job; None until the event loop has taken it in."""
        return None if self._job is None else self._job.id

    def running(self) -> bool:
        """Whether the job runs now."""
        return self._job is not None and self._job.status is JobStatus.RUNNING and not self.done()

    def result(self, timeout: float | None = None) -> R:
        """Wait for the job, and return what it returned, or raise what it raised.

        A plain function that a pool runs in a thread lends its slot while it waits here for a job of the same pool.

        Args:
            timeout: seconds to wait; None: as long as it takes. The job goes on if they run out.

        Raises:
            TimeoutError: the job is not done.
            concurrent.futures.CancelledError: this future was cancelled.
            PoolClosedError: the pool was closed before it had taken the job in; or its event loop was, before the job
                was done.
            BaseException: whatever awaiting the job raises.
            RuntimeError: in the thread of the event loop, which would wait for itself; or in a forked child.
            asyncio.CancelledError: this is called inside of a job, and that job was cancelled.
        """
        self._heard = True
        return super().result(self._wait(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the job, and return what it raised, or None.

        Args, Raises: as `result`, but what the job raised is returned.
        """
        self._heard = True
        return super().exception(self._wait(timeout))

    def _wait(self, timeout: float | None) -> float | None:
        """Do what must be done before a wait; return how many seconds of it are left."""
        if self.done() or self._bridge.may_wait() is None:
            return timeout
        with self._bridge.blocked_thread():
            self._bridge.wait_lent(self, timeout)
        return 0

    def add_done_callback(self, fn: Callable[[Future[R]], object]) -> None:
        """Call `fn(future)` when the job is done: in the event loop, which must not be held up; or at once, if it is.

        If it raises, that is logged.
        """
        self._heard = True
        super().add_done_callback(fn)

    # -- acting ------------------------------------------------------------------------------------------------------

    def cancel(self, reason: str | None = None) -> bool:
        """Cancel the future at once, and ask the job to end; it does so at its next `await`, and may clean up.

        As with `asyncio.run_coroutine_threadsafe`, and unlike a future of `ThreadPoolExecutor`, one whose job runs can
        be cancelled, too.

        Args:
            reason: goes into the log of the job.

        Returns:
            Whether the future is cancelled: False if the job was done before.
        """
        if not super().cancel():
            return False
        with self._condition:
            if self._state == "CANCELLED":  # tell `concurrent.futures.wait`, once
                self.set_running_or_notify_cancel()
        self._bridge.withdraw(self, reason)
        return True

    # -- for the bridge ----------------------------------------------------------------------------------------------

    def _enter(self, job: Job[R]) -> None:
        """The loop has taken the job in."""
        self._job = job
        if self._arrival is not None:
            self._arrival.set()

    def _wait_done(self) -> None:
        """Wait until it is done, without asking how it ended."""
        with contextlib.suppress(CancelledError):
            super().exception(self._wait(None))

    def _wait_entered(self) -> None:
        """Wait until the job was taken in; raise if it was refused."""
        lender = self._bridge.may_wait()
        arrival = self._arrival = threading.Event()  # then a look: the loop does it the other way round
        super().add_done_callback(lambda _: arrival.set())
        if self._job is None:
            if lender is None:
                arrival.wait()
            else:
                with self._bridge.blocked_thread():
                    while not arrival.wait(POLL):
                        self._bridge.check_lender()
                    self._bridge.check_lender()  # a job that was told to stop is not kept waiting for its slot
        if self._job is None:
            self._heard = True
            super().result(0)

    def __repr__(self) -> str:
        state = "done" if self.done() else "pending"
        return f"<JobFuture {state} of {self._job if self._job is not None else 'a job on its way'!r}>"

    def __del__(self) -> None:
        if self.__dict__.get("_heard", True) or sys.is_finalizing():
            return
        if not self.done() or self.cancelled() or (error := super().exception(0)) is None:
            return
        if not is_kind(error, JobCancelledError):  # of those nobody has to hear
            self._bridge.unheard(self._job, error)
