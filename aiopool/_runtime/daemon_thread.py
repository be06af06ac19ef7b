"""Run a blocking function in a daemon thread of its own: for what may never return, and must not hold up the exit.

Not one of the event loop's executor: the interpreter waits for those at its end, in the place of whoever stopped
waiting.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from aiopool._runtime.faults import is_kind, log_fault

__all__ = ["run_in_daemon_thread"]

T = TypeVar("T")

logger = logging.getLogger("aiopool.thread")


async def run_in_daemon_thread(function: Callable[[], T], *, name: str) -> T:
    """Run a function in a thread of its own, and wait for it.

    If the caller is cancelled, the function runs on, and an exception that it raises then is logged.

    Args:
        function: called without arguments.
        name: of the thread, and for the log.

    Raises:
        RuntimeError: the function raised `StopIteration`, which no coroutine can raise.
        BaseException: whatever else the function raises.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            _report_late(name, error)
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T, since there was no error

    def body() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as caught:
            error = caught
            if is_kind(caught, StopIteration):
                error = RuntimeError(f"{name} raised StopIteration")
                error.__cause__ = caught
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop is closed: nobody waits
            _report_late(name, error)

    try:
        threading.Thread(target=body, name=name, daemon=True).start()
    except RuntimeError:
        # While the interpreter goes down, some versions (3.12.1 is one) start no threads any more.
        body()
    return await future


def _report_late(name: str, error: BaseException | None) -> None:
    if error is not None:
        log_fault(logger, "%s failed after nobody waited for it any more", name, error=error)
