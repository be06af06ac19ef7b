"""`ThreadSubmitter`: the ways to hand in a job from another thread, as `submitter.py` has them for the event loop.

What is wrong with a call is said here, in the thread, where the traceback shows the line to change; everything else
happens in the loop (`thread_bridge.py`).
"""

from __future__ import annotations

import queue
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator
from types import FunctionType
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from aiopool._jobs.callables import arity
from aiopool._jobs.options import check_count
from aiopool._jobs.status import PoolStatus
from aiopool._pool.job_future import JobFuture
from aiopool._pool.map import MapResult
from aiopool._pool.state import PoolState
from aiopool._pool.thread_bridge import ThreadBridge
from aiopool._pool.thread_bridge import View as BridgeView
from aiopool._runtime.keywords import explain_keywords

__all__ = ["ThreadSubmitter"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class View(BridgeView, Protocol):
    """What is asked of the pool, view or group."""

    _direct: bool

    def _check(
        self, what: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None: ...


class ThreadSubmitter:
    """Hands jobs to a pool from other threads than that of its event loop; made by `pool.from_thread`.

    Any number of threads may use one at the same time. The jobs of one thread are submitted in its order. A job sees
    the context variables of the thread that submits it.

    Also of a view or group: `pool.with_options(priority=Priority.HIGH).from_thread`.

    Example:
        def on_message(message):  # a callback, in a thread of some client
            pool.from_thread.submit(handle, message)
    """

    __slots__ = ("_state", "_view")

    def __init__(self, state: PoolState, view: View) -> None:
        self._state = state
        self._view = view

    @overload
    def submit(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[R]: ...
    @overload
    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[R]: ...
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> JobFuture[Any]:
        """Hand in a call, wait for room in the queue if there is none, and return its future.

        With room in the queue this does not wait for the event loop: calls that are made in a row come to it together.

        Args:
            function: an `async def` (runs in the event loop) or a plain function (runs in a thread).
            args, kwargs: its own arguments. Options go to `pool.with_options(...)`.

        Returns:
            The future of the job: `future.result()` waits for its result.

        Raises:
            PoolClosedError: the pool is closed, or being left; or its event loop has ended. If that happens after the
                return, before the pool has taken the job in, `future.result()` raises it.
            QueueFullError: there is no room, and the pool's `overflow` policy says not to wait.
            TypeError: `function` is no function, or does not take these arguments.
            ValueError: the id of the view belongs to another job.
            RuntimeError: in the thread of the event loop: write `await pool.submit(...)` there; or the pool was never
                opened; or this is a forked child.

        If the caller is interrupted (Ctrl-C) while it waits for room, the job is withdrawn. So it is if the caller is a
        job that is cancelled.

        Example:
            future = pool.from_thread.submit(fetch, url)
            page = future.result(timeout=30)
        """
        bridge = prepare(self._state, self._view, "submit", function, args, kwargs)
        sure = goes_in(self._state, self._view, bridge)
        future = bridge.hand_in(self._view, function, args, kwargs)
        return future if sure else entered(future)

    @overload
    def run(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Hand in a call, and block the thread until its result is there.

        Inside of a plain function that the pool runs in a thread, its job lends its slot meanwhile: that cannot
        deadlock, at any size of the pool.

        Args:
            function, args, kwargs: as in `submit`.

        Returns:
            What the function returns.

        Raises:
            BaseException: what the function raises; and as `submit`, and `JobFuture.result`.

        If the caller is interrupted (Ctrl-C) while it waits, the job is told to end.

        Example:
            page = pool.from_thread.run(fetch, url)
        """
        bridge = prepare(self._state, self._view, "run", function, args, kwargs)
        future = bridge.hand_in(self._view, function, args, kwargs)
        try:
            return future.result()
        except BaseException:
            future.cancel("the caller of run() was interrupted")  # which does nothing if the job raised this
            raise
        finally:
            del future  # this frame is in the traceback of its error: no cycle through it

    @overload
    def map(
        self,
        function: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        *,
        ordered: bool = True,
        buffersize: int | None = None,
        errors: Literal["raise"] = "raise",
    ) -> Iterator[R]: ...
    @overload
    def map(
        self,
        function: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        *,
        ordered: bool = True,
        buffersize: int | None = None,
        errors: Literal["yield"],
    ) -> Iterator[MapResult[T, R]]: ...
    @overload
    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        *,
        ordered: bool = True,
        buffersize: int | None = None,
        errors: Literal["raise"] = "raise",
    ) -> Iterator[R]: ...
    @overload
    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        *,
        ordered: bool = True,
        buffersize: int | None = None,
        errors: Literal["yield"],
    ) -> Iterator[MapResult[T, R]]: ...
    @explain_keywords
    def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        ordered: bool = True,
        buffersize: int | None = None,
        errors: Literal["raise", "yield"] = "raise",
    ) -> Iterator[Any]:
        """Apply a function to every item, and return an iterator of the results.

        Lazy and bounded: items are read in the thread that iterates, when it asks for results, and no more than
        `buffersize` jobs are between the input and the consumer. If the queue is full it waits for room, whatever
        `overflow` says. When the iterator is closed, or dropped, the jobs that are left over are cancelled.

        Args:
            function: an `async def` or a plain function of one argument.
            items: any iterable, endless ones too.
            ordered: results in the order of the items; else as they come.
            buffersize: jobs between input and consumer; twice the size of the pool by default.
            errors: `"raise"` raises the first error and cancels the rest; `"yield"` yields a `MapResult` for each
                item, failed ones too.

        Raises:
            ValueError, TypeError: an argument that it cannot have.
            PoolClosedError: the pool closed before the source had ended.
            RuntimeError: as `submit`; or the function raised `StopIteration`, which would look like an end.

        Example:
            for page in pool.from_thread.map(fetch, urls):
                print(len(page))
        """
        if errors not in ("raise", "yield"):
            raise ValueError(f'errors={errors!r}: it must be "raise" or "yield"')
        if buffersize is not None:
            check_count("buffersize", buffersize, least=1)
        if not isinstance(items, Iterable):
            raise TypeError(f"from_thread.map() takes an iterable, not {items!r} ({type(items).__name__})")
        bridge = prepare(self._state, self._view, "map", function, (None,), {})
        if buffersize is None:
            buffersize = 2 * max(1, bridge.engine.slots.size)
        source = iter(items)
        return self._map(bridge, function, source, buffersize, ordered=ordered, with_inputs=errors == "yield")

    def _map(
        self,
        bridge: ThreadBridge,
        function: Callable[[Any], Any],
        source: Iterator[Any],
        buffersize: int,
        *,
        ordered: bool,
        with_inputs: bool,
    ) -> Iterator[Any]:
        line: dict[JobFuture[Any], Any] = {}  # what is under way, with its item, oldest first
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def take() -> Any:
            oldest = next(iter(line))
            if ordered:
                future = oldest
            else:
                if ended.empty() and bridge.may_wait() is not None:
                    oldest.exception()  # inside of a job, which lends its slot for it
                future = ended.get()
            item = line.pop(future)
            try:
                return _map_result(item, future) if with_inputs else future.result()
            finally:
                del future, oldest  # this frame is in the traceback of its error: no cycle through it

        try:
            for item in source:
                future = bridge.hand_in(self._view, function, (item,), {}, patient=True)
                line[future] = item
                if not ordered:
                    future.add_done_callback(ended.put)
                del future, item
                while len(line) >= buffersize:
                    yield take()
            while line:
                yield take()
        finally:
            for future in line:
                future.cancel("nobody takes its result: the map was left")
            line.clear()


def prepare(
    state: PoolState,
    view: View,
    what: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    in_loop: bool = False,
) -> ThreadBridge:
    """Refuse a call that is known to fail; return the bridge to the loop.

    Args:
        state, view: where the call goes to.
        what: the method that was given the function.
        function, args, kwargs: the call.
        in_loop: it may be made in the thread of the loop, too: the caller will not wait.
    """
    engine = state.engine
    if engine is None:
        raise state.not_open(what)
    # Not `get`, then a store: of the threads that come at once, one makes the bridge for all.
    bridge = state.bridges.get(engine) or state.bridges.setdefault(engine, ThreadBridge(engine, state.name))
    bridge.check_thread(what, in_loop=in_loop)
    if state.status is PoolStatus.CLOSED:
        state.check_accepting()
    checked = bridge.checked
    if checked is None or checked[0]() is not function or kwargs or not checked[1] <= len(args) <= checked[2]:
        view._check(what, function, args, kwargs)
        if type(function) is FunctionType:
            bridge.checked = weakref.ref(function), *arity(function)  # one store: other threads read it
    return bridge


def goes_in(state: PoolState, view: View, bridge: ThreadBridge) -> bool:
    """Whether a call surely gets in, so that its caller need not wait for that.

    An id may be taken, a group closed, a full queue refuse: that is raised where it is submitted.
    """
    return view._direct and state.overflow == "wait" and bridge.has_room()


def entered(future: JobFuture[R]) -> JobFuture[R]:
    """Wait until a call was taken in, and return its future; raise what refused it."""
    try:
        future._wait_entered()
    except BaseException:
        future.cancel("its submitter was interrupted")
        raise
    return future


def _map_result(item: Any, future: JobFuture[Any]) -> MapResult[Any, Any]:
    """Return what came of one item; raise what refused it."""
    error = future.exception()
    job = future.job
    if job is None or job.finished_at is None:  # it was refused: the pool is closed
        future.result()
        raise AssertionError("a future without a job has an error")
    seconds = 0.0 if job.started_at is None else job.finished_at - job.started_at
    value = None if error is not None else future.result()
    return MapResult(item, error is None, value, error, job.attempt, seconds, job)
