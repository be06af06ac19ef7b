"""`StopSignal`: ends a thread that has an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import final

__all__ = ["StopSignal"]


@final
class StopSignal:
    """Asks a thread to end; it is heard whether the thread has its event loop not yet, now, or no more.

    Attributes:
        is_set: somebody has asked.
    """

    __slots__ = ("_event", "_loop", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def set(self) -> None:
        """Ask; from any thread."""
        # In this order, and in `wait` in the other: one of the two sees what the other has written.
        self.is_set = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Wait until somebody has asked; in the loop of the thread."""
        self._loop = asyncio.get_running_loop()
        if not self.is_set:
            await self._event.wait()
