"""Call from here what has to run elsewhere: in a thread, on another event loop, or with no loop at all.

The services of one registry may live on several event loops and in none, and may be stopped from all of these
places, under a deadline that holds even if what is called never answers. So nothing here waits longer than it
is told, and what is abandoned is abandoned loudly: a late exception goes to the log.

Invariant: no event loop is ever waited for from its own thread.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["call_at", "run_to_end", "running_loop"]

T = TypeVar("T")

_log = logging.getLogger("aiopool.services")

# After its work is done, a loop of ours gives what was abandoned on it this long to unwind.
_UNWIND = 0.2


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that this thread runs at this moment, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _report_late(name: str) -> Callable[[asyncio.Future[Any]], None]:
    def report(future: asyncio.Future[Any]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            _log.error("%s failed after nobody waited for it any more", name, exc_info=error)

    return report


async def call_at(
    own_loop: asyncio.AbstractEventLoop | None,
    call: Callable[[], Coroutine[Any, Any, T]],
    *,
    until: float,
    name: str,
) -> T:
    """Run a coroutine on the loop where it belongs, and wait for it until a moment.

    Args:
        own_loop: that loop; `None`, or one that runs no more: here.
        call: makes the coroutine.
        until: when to stop waiting, in the seconds of `time.monotonic()`; the coroutine is cancelled then,
            but not waited for again.
        name: what it is, for the log.

    Raises:
        TimeoutError: it was not done in time.
    """
    coroutine = call()
    if own_loop is None or own_loop is asyncio.get_running_loop() or not own_loop.is_running():
        future: asyncio.Future[T] = asyncio.ensure_future(coroutine)
    else:
        try:
            future = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, own_loop))
        except RuntimeError:  # it was closed since we asked
            future = asyncio.ensure_future(coroutine)
    try:
        await asyncio.wait({future}, timeout=max(0.0, until - time.monotonic()))
    finally:
        late = not future.done()
        if late:
            future.cancel()
            future.add_done_callback(_report_late(name))
    if late:
        raise TimeoutError(f"{name} was not done in time")
    if future.cancelled():  # by somebody else; it must not look as if the caller were cancelled
        raise RuntimeError(f"{name} was cancelled")
    return future.result()


def run_to_end(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine from plain code, on a loop of its own, and wait for it.

    In the calling thread if it runs no event loop, else in a helper thread. Unlike `asyncio.run`, it does not
    wait for tasks that ignore their cancellation, and touches no signal handler.
    """
    if running_loop() is None:
        return _run_here(call)
    outcome: list[tuple[T | None, BaseException | None]] = []

    def body() -> None:
        try:
            outcome.append((_run_here(call), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=body, name="aiopool-services-sync", daemon=True)
    thread.start()
    thread.join()
    result, error = outcome[0]
    try:
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # T, since there was no error
    finally:
        error = None  # or the frame and the exception would keep each other alive
        outcome.clear()


def _run_here(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    loop = asyncio.new_event_loop()
    try:
        result = loop.run_until_complete(call())
        if left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.wait(left, timeout=_UNWIND))
        loop.run_until_complete(loop.shutdown_asyncgens())
        return result
    finally:
        loop.close()
