"""A pool for programs without an event loop, and the types that other threads hold.

`BlockingPool` runs a pool in an event loop of its own, in a thread of its own. It knows that thread and its end; the
jobs, their order and their limits are the pool's.

Always true: while it is open its thread runs the loop. When it is closed, the loop is closed and every future is done;
or a job blocks the thread, which is then left behind by name. As a daemon thread it holds up no exit.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import inspect
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, final

from aiopool._jobs.job import Job
from aiopool._jobs.options import check_seconds
from aiopool._jobs.statistics import Statistics
from aiopool._jobs.status import JobStatus, PoolStatus
from aiopool._pool.cancel_report import CancelReport
from aiopool._pool.executor import PoolExecutor
from aiopool._pool.job_future import JobFuture
from aiopool._pool.pool import Pool
from aiopool._pool.shutdown import ShutdownReport, only
from aiopool._pool.submitter import Submitter
from aiopool._pool.thread_submitter import ThreadSubmitter
from aiopool._runtime.public import publish as _publish
from aiopool.errors import PoolClosedError

__all__ = ["BlockingPool", "JobFuture", "PoolExecutor", "ThreadSubmitter"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger("aiopool.pool")

# Seconds beyond the limits of a shutdown until its thread counts as blocked.
SPARE = 2.0


def _arguments_of(
    method: Callable[Concatenate[Any, P], object],
) -> Callable[[Callable[..., R]], Callable[Concatenate[Any, P], R]]:
    """Give a method the arguments of another: what that learns, this takes."""

    def decorate(function: Callable[..., R]) -> Callable[Concatenate[Any, P], R]:
        function.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
        return function

    return decorate


@final
class BlockingPool(ThreadSubmitter):
    """A pool for a program without an event loop: every method blocks until it has what it returns.

    It has the arguments of `Pool`, and its promises: never more than `size` jobs at once, in order, and an end within
    the time that you set. `async def` functions run in its event loop, plain ones in its threads. Any number of
    threads may use it.

    `with` opens it. Leaving the block waits for the jobs, at most `shutdown_timeout` seconds; an exception, Ctrl-C too,
    cancels them. Ctrl-C while it waits for the jobs cancels them as well, and once more leaves at once. A program that
    ends without leaving the block does not hang: at its exit what runs is cancelled.

    In a job, write `await blocking_pool.pool.submit(...)`: its event loop must not wait for itself.

    Args:
        args, options: those of `Pool`; but not `handle_signals`: only the main thread hears signals.

    Attributes:
        loop_factory: makes the event loop, such as `uvloop.new_event_loop`; to be set before it is opened.

    Raises:
        RestartLimitError: when the block is left: the pool has given up.
        TimeoutError: when the block is left: a job blocks the event loop, and the shutdown has no end. Its thread is
            left behind.

    Example:
        with BlockingPool(size=8) as pool:
            for page in pool.map(fetch, urls):
                print(len(page))
    """

    __slots__ = ("__weakref__", "_calls", "_ended", "_failure", "_loop", "_pool", "_thread", "loop_factory")

    @_arguments_of(Pool.__init__)
    def __init__(self, *args: Any, **options: Any) -> None:
        self._pool = Pool(*args, **options)
        if self._pool._signals is not None:
            raise ValueError(
                "handle_signals=True: only the main thread hears signals, and the event loop of a BlockingPool runs in "
                "another. Leave it out: Ctrl-C in the `with` block cancels the jobs"
            )
        super().__init__(self._pool._state, self._pool)
        self._state.opened_by = "with BlockingPool"
        self.loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()  # the thread has nothing more to do
        self._failure: BaseException | None = None  # that ended the loop
        self._calls: set[concurrent.futures.Future[Any]] = set()  # that wait for the loop

    # -- open and close ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Open the pool, in a new event loop in a new thread."""
        if self._thread is not None and not self._ended.is_set():
            raise RuntimeError(f"{self!r} is open: it is opened once at a time; make another BlockingPool(...)")
        self._ended.clear()
        self._failure = None
        opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name=f"{self.name}-loop", daemon=True)
        atexit.register(self._at_exit)
        try:
            self._thread.start()
            opened.result()
        except BaseException:
            atexit.unregister(self._at_exit)
            # Ctrl-C: the thread may not have its loop yet, or the pool be open already.
            if not opened.cancel():
                self._start_shutdown(timeout=0, grace=None, cancel_pending=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave: wait for the jobs; after an exception cancel them."""
        if self._forked():
            return  # of a parent that has the pool: nothing of it is here
        met_end = error is not None and only(error, PoolClosedError) and self.status is not PoolStatus.OPEN
        try:
            self._shut_down(self._limit(None) if kind is None or met_end else 0, None, cancel_pending=False)
        except TimeoutError as fault:
            if kind is None:
                raise
            logger.error("%s", fault)
        if kind is None and self._failure is not None:
            raise self._failure

    def shutdown(
        self, timeout: float | None = None, grace: float | None = None, *, cancel_pending: bool = False
    ) -> ShutdownReport:
        """End the pool within a time that you set, and report what was left; see `Pool.shutdown`.

        Args:
            timeout, grace, cancel_pending: as there.

        Raises:
            TimeoutError: a job blocks the event loop: its thread is left behind.
            RuntimeError: in a job of this pool, where `await blocking_pool.pool.shutdown()` is to be written.

        If the caller is interrupted (Ctrl-C), the jobs are cancelled, and have their grace; then it is raised.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        if grace is not None:
            check_seconds("grace", grace)
        if self._thread is None:
            raise self._pool._state.not_open("shutdown")
        if not self._ended.is_set():
            self._check("shutdown")
        self._shut_down(self._limit(timeout), grace, cancel_pending=cancel_pending)
        assert self._pool._report is not None
        return self._pool._report

    def _limit(self, timeout: float | None) -> float | None:
        return self._pool._shutdown_timeout if timeout is None else timeout

    def _shut_down(self, timeout: float | None, grace: float | None, *, cancel_pending: bool) -> None:
        """Have the pool shut down, and wait for the end of the thread."""
        self._start_shutdown(timeout=timeout, grace=grace, cancel_pending=cancel_pending)
        rest = (2 * self._pool._cancel_grace if grace is None else grace) + 1 + self._pool._cancel_grace + SPARE
        try:
            ended = self._ended.wait(None if timeout is None else timeout + rest)
        except BaseException:  # Ctrl-C
            self._start_shutdown(timeout=0, grace=grace, cancel_pending=True)
            self._ended.wait(rest)
            raise
        finally:
            atexit.unregister(self._at_exit)
        if not ended:
            raise TimeoutError(
                f"the event loop of pool {self.name!r} does not end: a job blocks it, and its thread is left behind. A "
                f"function that blocks must be a plain `def`, which runs in a thread. It is here:\n{self._stack()}"
            )
        assert self._thread is not None
        self._thread.join(SPARE)  # it has a line or two to go

    def _start_shutdown(self, **how: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(functools.partial(self._hurry, **how))

    def _hurry(self, **how: Any) -> None:
        if self.status in (PoolStatus.OPEN, PoolStatus.CLOSING):
            self._pool._start_shutdown(**how)

    def _stack(self) -> str:
        frame = None if self._thread is None else sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)).rstrip() if frame is not None else "(nowhere)"

    def _at_exit(self) -> None:
        """The program ends, and the block was not left."""
        if self._forked() or self._ended.is_set():
            return
        try:
            self._shut_down(0, None, cancel_pending=True)
        except TimeoutError as error:
            logger.error("%s", error)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self, opened: concurrent.futures.Future[None]) -> None:
        try:
            self._loop = loop = self.loop_factory()
            try:
                loop.run_until_complete(self._live(opened))
            finally:
                self._close(loop)
        except BaseException as error:
            self._failure = error
            with contextlib.suppress(concurrent.futures.InvalidStateError):  # it is open, or nobody waits any more
                opened.set_exception(error)
        finally:
            while self._calls:
                call = self._calls.pop()
                if not call.done():
                    call.set_exception(self._closed())
            self._ended.set()

    async def _live(self, opened: concurrent.futures.Future[None]) -> None:
        async with self._pool:
            if opened.set_running_or_notify_cancel():
                opened.set_result(None)
                await self._pool.wait_closed()

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the loop; what is left in it has one grace to end, and holds up nobody."""
        try:
            rest = asyncio.all_tasks(loop)
            for task in rest:
                task.cancel()
            if rest:
                loop.run_until_complete(asyncio.wait(rest, timeout=self._pool._cancel_grace))
            for task in rest:
                if not task.done():
                    logger.error("a task did not end, and is left behind: %s", task.get_name())
                    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it was told here
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def _closed(self) -> PoolClosedError:
        return PoolClosedError(f"pool {self.name!r} is closed: call this before the `with` block ends")

    def _forked(self) -> bool:
        engine = self._pool._state.engine
        return engine is not None and engine.runtime.forked

    def _check(self, what: str) -> None:
        """Raise if the caller may not wait for the loop."""
        engine = self._pool._state.engine
        if engine is None:
            raise self._pool._state.not_open(what)
        if engine.runtime.forked:
            engine.caller.check(what)
        if engine.runtime.on_loop_thread():
            raise RuntimeError(
                f"{what}() of a BlockingPool was called in its event loop, which would wait for itself: in a job, use "
                f"`blocking_pool.pool.{what}(...)`, and await it if it is asynchronous"
            )

    def _call(self, what: str, function: Callable[[], T]) -> T:
        """Call a method of the pool in the loop."""

        async def call() -> T:
            return function()

        return self._await(what, call)

    def _await(self, what: str, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await a method of the pool in the loop. A caller that is interrupted cancels the wait."""
        self._check(what)
        assert self._loop is not None
        coroutine = function()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise self._closed() from None
        self._calls.add(future)
        try:
            if self._ended.is_set():
                raise self._closed()
            return future.result()
        except concurrent.futures.CancelledError:
            raise self._closed() from None
        finally:
            self._calls.discard(future)
            future.cancel()
            if self._ended.is_set() and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()  # the loop closed before it came to it

    # -- steering ----------------------------------------------------------------------------------------------------

    @property
    def pool(self) -> Pool:
        """The pool itself, for jobs, listeners, metrics and health; all else of it belongs to its event loop."""
        return self._pool

    @_arguments_of(Submitter.with_options)
    def with_options(self, **options: Any) -> ThreadSubmitter:
        """Return a view of the same pool that submits with other options; see `Pool.with_options`.

        Example:
            urgent = pool.with_options(priority=Priority.HIGH, timeout=5)
            future = urgent.submit(fetch, url)
        """
        return self._pool.with_options(**options).from_thread

    def as_executor(self) -> PoolExecutor:
        """Return an executor of `concurrent.futures` that hands its calls to this pool."""
        return self._pool.as_executor()

    def join(self) -> None:
        """Wait until no job is left, and stay open.

        If the caller is interrupted, the jobs go on.
        """
        self._await("join", self._pool.join)

    def cancel(self, id: int | str, reason: str | None = None) -> CancelReport:
        """Cancel a job by its id, and return when no line of it will run any more; see `Pool.cancel`."""
        return self._await("cancel", lambda: self._pool.cancel(id, reason))

    def cancel_all(self, reason: str | None = None, *, group: str | None = None) -> int:
        """Cancel all jobs, or those of a group, and return how many, when they have ended; see `Pool.cancel_all`."""
        return self._await("cancel_all", lambda: self._pool.cancel_all(reason, group=group))

    def resize(self, size: int) -> None:
        """Change how many jobs may run at once; see `Pool.resize`."""
        self._call("resize", lambda: self._pool.resize(size))

    def pause(self, *, group: str | None = None) -> None:
        """Let no job start until `resume()`, or none of a group; running ones go on."""
        self._call("pause", lambda: self._pool.pause(group=group))

    def resume(self, *, group: str | None = None) -> None:
        """Let jobs start again."""
        self._call("resume", lambda: self._pool.resume(group=group))

    # -- questions ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The pool's name."""
        return self._pool.name

    @property
    def size(self) -> int:
        """How many jobs may run at once."""
        return self._pool.size

    @property
    def status(self) -> PoolStatus:
        """Where the pool is in its life: new, open, closing, closed."""
        return self._pool.status

    def get_job(self, id: int | str) -> Job[Any] | None:
        """Return the live job with an id, or None; see `Pool.get_job`."""
        return self._pool.get_job(id)

    def jobs(self, status: JobStatus | str | None = None) -> list[Job[Any]]:
        """Return the live jobs, the oldest first; see `Pool.jobs`."""
        return self._pool.jobs(status)

    def statistics(self) -> Statistics:
        """Return the pool in numbers, of one moment."""
        return self._pool.statistics()

    def __repr__(self) -> str:
        return f"<BlockingPool of {self._pool!r}>"


_publish(globals())
