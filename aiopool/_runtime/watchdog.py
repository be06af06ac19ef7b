"""`Watchdog`: a thread that notices while the event loop is blocked, and where.

It knows a loop and whether there is something to watch. It does not know who blocks: it gives away the frame.

While it is *armed* it asks the loop for an answer every now and then; a loop that does not answer within the limit is
blocked. Whoever arms it does so before each piece of work; it disarms itself when there has been none for a while, and
then neither its thread nor the loop wakes up for it.

Always true: a block is told once. A loop that is stopped, and not blocked, is not told. The thread ends with `stop`,
or when the loop is closed, and holds up no exit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextvars import Context
from types import FrameType
from typing import final

from aiopool._runtime.faults import log_fault
from aiopool._runtime.runtime import Runtime

__all__ = ["Watchdog"]

logger = logging.getLogger("aiopool.watchdog")


@final
class Watchdog:
    """Watches one loop; see the module. Its methods belong to the thread of the loop."""

    __slots__ = (
        "_armed",
        "_context",
        "_is_busy",
        "_limit",
        "_loop",
        "_loop_thread",
        "_name",
        "_on_blocked",
        "_on_released",
        "_pid",
        "_stopped",
        "_thread",
        "_touched",
        "_wake",
    )

    def __init__(
        self,
        runtime: Runtime,
        limit: float,
        *,
        name: str,
        is_busy: Callable[[], bool],
        on_blocked: Callable[[FrameType, float], object],
        on_released: Callable[[float], object],
    ) -> None:
        """What it needs.

        Args:
            runtime: its loop is watched.
            limit: seconds without an answer that are a block.
            name: of the thread.
            is_busy: whether there is something to watch; read from the thread.
            on_blocked: called in the thread, while the loop is blocked, with the innermost frame of the loop's thread,
                and for how many seconds it has been blocked.
            on_released: called in the loop, when it answers again, with the seconds that it took.
        """
        self._loop: asyncio.AbstractEventLoop = runtime.loop
        self._loop_thread = runtime.thread
        self._context = Context()
        self._limit = limit
        self._name = name
        self._is_busy = is_busy
        self._on_blocked = on_blocked
        self._on_released = on_released
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._armed = False
        self._touched = False  # somebody has armed it since the thread looked last
        self._stopped = False
        self._wake = threading.Event()

    def arm(self) -> None:
        """Watch from now on; cheap while it does so already."""
        self._touched = True  # first: the thread that disarms looks here last
        if not self._armed:
            self._arm()

    def _arm(self) -> None:
        if self._stopped or os.getpid() != self._pid:
            return
        self._armed = True
        self._wake.set()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                log_fault(logger, "there is no thread to be had: %s watches nothing", self._name, error=error)
                self._stopped = True
                return
            self._thread = thread

    def stop(self) -> None:
        """Watch no more; the thread ends by itself, soon."""
        self._stopped = True
        if os.getpid() == self._pid:  # in a forked child there is no thread, and who held its lock is gone
            self._wake.set()

    def _run(self) -> None:
        pause = self._limit / 2
        while not self._stopped:
            self._wake.clear()
            if not self._armed:
                self._wake.wait()
                continue
            if not self._look():
                return
            self._touched = False
            self._wake.wait(pause)
            if not self._touched and not self._is_busy():
                self._armed = False
                if self._touched or self._is_busy():
                    self._armed = True

    def _look(self) -> bool:
        """Ask the loop for an answer, and tell if there is none; whether there is a loop at all."""
        answer = threading.Event()
        began = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(answer.set, context=self._context)
        except RuntimeError:  # it is closed
            return False
        if self._answers(answer):
            return True
        frame = sys._current_frames().get(self._loop_thread) if self._loop.is_running() else None
        told = frame is not None and not answer.is_set()
        if told and frame is not None:
            self._on_blocked(frame, time.monotonic() - began)
        del frame
        while not answer.wait(self._limit):
            if self._stopped or self._loop.is_closed():
                return False
        if told:
            try:
                self._loop.call_soon_threadsafe(self._on_released, time.monotonic() - began, context=self._context)
            except RuntimeError:
                return False
        return True

    def _answers(self, answer: threading.Event) -> bool:
        """Whether the loop answers in time. If it was we who got no time, it has as long again."""
        began = time.monotonic()
        return answer.wait(self._limit) or (time.monotonic() - began > 1.5 * self._limit and answer.wait(self._limit))
