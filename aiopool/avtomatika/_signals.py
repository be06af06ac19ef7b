"""SIGINT and SIGTERM stop the worker, where nobody else has said what they shall do.

A program that has a handler of its own for SIGTERM, or runs under `aiopool.run`, is left alone: it calls `stop`, or
closes the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from aiopool._runtime.signals import SignalHandler

__all__ = ["stop_at_signals"]


@contextlib.contextmanager
def stop_at_signals(on_signal: Callable[[int], object]) -> Iterator[None]:
    """Call `on_signal(count)` in the event loop for the first and the second signal of the two; the third exits.

    Does nothing outside of the main thread, or if the program handles or ignores SIGTERM itself.
    """
    handler = SignalHandler(on_signal)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        handler.install(asyncio.get_running_loop())
    try:
        yield
    finally:
        handler.restore()
