"""SIGINT and SIGTERM stop the worker, where nobody else has said what they shall do.

A program that has a handler of its own for SIGTERM, or runs under `aiopool.run`, is left alone: it calls `stop`, or
closes the pool. The handlers that were there before are put back.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["stop_at_signals"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_at_signals(on_signal: Callable[[int], object]) -> Iterator[None]:
    """Call `on_signal(count)` in the event loop for each signal of the two, counted from 1.

    Does nothing outside of the main thread, or if the program handles or ignores SIGTERM itself.
    """
    loop = asyncio.get_running_loop()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    count = 0

    def heard() -> None:
        nonlocal count
        count += 1
        on_signal(count)

    added = []
    try:
        for number in _SIGNALS:
            if before[number] is not signal.SIG_IGN:  # as for a background job of a shell
                with contextlib.suppress(NotImplementedError, RuntimeError):  # a loop without signals
                    loop.add_signal_handler(number, heard)
                    added.append(number)
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)
            if before[number] is not None:
                signal.signal(number, before[number])
