"""`SignalWatch`: SIGINT and SIGTERM, counted; installed when asked, and put back as it was.

The handler itself does nothing but count and call, inside the event loop: it never raises into a job. The third
signal ends the program at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, final

__all__ = ["SignalWatch"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@final
class SignalWatch:
    """Calls `on_signal(count)` at the first and the second signal, and exits at the third with 128 + its number."""

    __slots__ = ("_before", "_loop", "_on_signal", "count", "last")

    def __init__(self, on_signal: Callable[[int], object]) -> None:
        self._on_signal = on_signal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before: dict[signal.Signals, Any] = {}
        self.count = 0
        self.last: signal.Signals | None = None

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch from now on; does nothing outside of the main thread, where there are no signals to watch."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = loop
        self.count = 0
        for number in SIGNALS:
            before = signal.getsignal(number)
            try:
                loop.add_signal_handler(number, self._signalled, number)
            except (NotImplementedError, RuntimeError):  # a loop without signals
                continue
            self._before[number] = before

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        loop = self._loop
        for number, before in self._before.items():
            if loop is not None and not loop.is_closed():
                loop.remove_signal_handler(number)
            signal.signal(number, before if before is not None else signal.SIG_DFL)
        self._before.clear()
        self._loop = None

    def _signalled(self, number: signal.Signals) -> None:
        self.count += 1
        self.last = number
        if self.count >= 3:
            os._exit(128 + number)
        self._on_signal(self.count)
