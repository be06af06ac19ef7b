"""`PoolExecutor`: a pool behind the face of `concurrent.futures.Executor`, for code that takes an executor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar, final

from aiopool._pool.job_future import JobFuture
from aiopool._pool.state import PoolState
from aiopool._pool.thread_submitter import View, entered, goes_in, prepare
from aiopool._runtime.runtime import running_loop_or_none
from aiopool.errors import PoolClosedError

__all__ = ["PoolExecutor"]

P = ParamSpec("P")
R = TypeVar("R")


@final
class PoolExecutor(Executor):
    """An executor whose calls are jobs of a pool; made by `pool.as_executor()`.

    Plain functions run in the pool's threads, `async def` functions in its event loop. Both count against the size of
    the pool, and have the options of the view that made the executor.

    `submit` may be called anywhere. Where an event loop runs (`loop.run_in_executor`) it never blocks: a call that
    finds no room waits outside of the queue. In a thread without one it waits for room, as
    `pool.from_thread.submit` does.

    Example:
        executor = pool.with_options(timeout=30).as_executor()
        page = await loop.run_in_executor(executor, requests.get, url)
    """

    def __init__(self, state: PoolState, view: View) -> None:
        self._state = state
        self._view = view
        self._lock = threading.Lock()  # between `submit` and `shutdown`
        self._down = False
        self._futures: set[Any] = set()  # those that are not done

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[R]:
        """Hand in a call, and return its future.

        Args:
            fn, args, kwargs: as in `pool.submit`.

        Raises:
            RuntimeError: this executor was shut down; or its pool, and that is the cause.
            QueueFullError, TypeError: as `pool.from_thread.submit`.
        """
        with self._lock:
            if self._down:
                raise RuntimeError("cannot schedule new futures after shutdown: make another, `pool.as_executor()`")
            try:
                bridge = prepare(self._state, self._view, "submit", fn, args, kwargs, in_loop=True)
                # An event loop must not be blocked, whosever it is.
                sure = running_loop_or_none() is not None or goes_in(self._state, self._view, bridge)
                future = bridge.hand_in(self._view, fn, args, kwargs)
            except PoolClosedError as error:
                raise RuntimeError(f"cannot schedule new futures after the shutdown of the pool: {error}") from error
            self._futures.add(future)
            Future.add_done_callback(future, self._futures.discard)  # which is no asking for its outcome
        return future if sure else entered(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. The pool goes on.

        Args:
            wait: return when all calls of this executor are done.
            cancel_futures: cancel those that have not started.

        Raises:
            RuntimeError: it would have to wait in the thread of the pool's event loop.
        """
        with self._lock:
            self._down = True
            futures = list(self._futures)
        if cancel_futures:
            for future in futures:
                if not future.running():
                    future.cancel("its executor was shut down")
        if wait:
            for future in futures:
                if not future.done():
                    self._check_may_wait()
                    future._wait_done()

    def _check_may_wait(self) -> None:
        engine = self._state.engine
        if engine is not None and engine.runtime.on_loop_thread():
            raise RuntimeError(
                "shutdown() of an executor with calls under way was called in the thread of the pool's event loop, "
                "which would wait for itself: write `executor.shutdown(wait=False)` there, in place of `with`; the "
                "pool finishes the calls when it is left"
            )
