"""`TimerQueue`: everything that has to happen at a moment, behind one timer.

Jobs that wait for their next attempt or a delayed start, limits that run from submission, and the time limits of
running attempts all stand here. An entry that is crossed out leaves at once what it referred to; the row
itself is swept when crossed-out rows outnumber the rest. At rest nothing is armed. What is due is handed out as steps:
however much is due together, whoever takes them (`work`) decides how many of them make a turn of the loop.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Generator, Iterator
from typing import Any, final

from aiopool._runtime.runtime import Runtime

__all__ = ["Timer", "TimerQueue"]

MIN_CROSSED = 64


@final
class Timer:
    """One row: at `when`, call `action(subject)`; crossed out when `action` is None."""

    __slots__ = ("action", "subject", "when")

    def __init__(self, when: float, action: Callable[[Any], object], subject: Any) -> None:
        self.when = when
        self.action: Callable[[Any], object] | None = action
        self.subject = subject


@final
class TimerQueue:
    """Alarms in order of time, and one timer of the event loop for the first of them."""

    __slots__ = (
        "_armed_at",
        "_cancelled",
        "_check_deadlines",
        "_count",
        "_handle",
        "_heap",
        "_runtime",
        "_work",
        "next_check_at",
    )

    def __init__(
        self,
        runtime: Runtime,
        sweep: Callable[[float], Generator[None, None, float]],
        work: Callable[[Iterator[None]], object],
    ) -> None:
        """`sweep(now)` is called when `next_check_at` has come; it returns the moment when it is wanted next."""
        self._runtime = runtime
        self._work = work
        self._check_deadlines = sweep
        self.next_check_at = math.inf
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._cancelled = 0
        self._armed_at = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def add(self, when: float, action: Callable[[Any], object], subject: Any) -> Timer:
        """Write a row."""
        timer = Timer(when, action, subject)
        if when < self._armed_at:
            self._arm(when)  # first: if that fails, there is no row
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, timer))
        return timer

    def cancel(self, timer: Timer) -> None:
        """Forget a row; harmless if it has happened."""
        if timer.action is None:
            return
        timer.action = timer.subject = None
        self._cancelled += 1
        if self._cancelled > MIN_CROSSED and self._cancelled * 2 > len(self._heap):
            self._heap = [row for row in self._heap if row[2].action is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def schedule_check(self, when: float) -> None:
        """Have the sweep called at `when` or earlier."""
        if when < self.next_check_at:
            self._arm(when)
            self.next_check_at = when

    def _arm(self, when: float) -> None:
        if when >= self._armed_at:
            return
        before = self._handle
        self._handle = self._runtime.later(max(0.0, when - self._runtime.now()), self._fire)
        self._armed_at = when
        if before is not None:
            before.cancel()

    def _fire(self) -> None:
        self._handle = None
        self._armed_at = math.inf
        self._work(self._due(self._runtime.now()))

    def _due(self, now: float) -> Iterator[None]:
        """Do what is due by `now`, one thing a step."""
        try:
            while self._heap and self._heap[0][0] <= now:
                timer = heapq.heappop(self._heap)[2]
                if timer.action is None:
                    self._cancelled -= 1
                else:
                    action, subject = timer.action, timer.subject
                    timer.action = timer.subject = None
                    action(subject)
                yield
            if self.next_check_at <= now:
                self.next_check_at = math.inf
                wanted = yield from self._check_deadlines(now)
                self.next_check_at = min(self.next_check_at, wanted)
        finally:
            # Also when an action raised: the other rows must not be forgotten with it.
            wanted = min(self.next_check_at, self._heap[0][0] if self._heap else math.inf)
            if wanted < math.inf:
                self._arm(wanted)

    def close(self) -> None:
        """Forget everything; the timer with it."""
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._armed_at = math.inf
        self.next_check_at = math.inf
