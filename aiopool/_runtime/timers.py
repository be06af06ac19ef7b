"""`TimerQueue`: everything that has to happen at a moment, behind one timer.

Jobs that wait for their next attempt or a delayed start, limits that run from submission, and the moments at which
workers are to be checked all stand here. A row that is cancelled leaves at once, and what it referred to with it. At
rest nothing is armed. What is due is handed out as steps: however much is due together, whoever takes them (`work`)
decides how many of them make a turn of the loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Any, final

from aiopool._runtime.runtime import Runtime
from aiopool._runtime.sorted_rows import SortedRows

__all__ = ["Timer", "TimerQueue"]


@final
class Timer:
    """At `when`, call `action(subject)`; it was called, or is cancelled, when `action` is None."""

    __slots__ = ("action", "number", "subject", "when")

    def __init__(self, when: float, number: int, action: Callable[[Any], object], subject: Any) -> None:
        self.when = when
        self.number = number  # in the order in which they were added
        self.action: Callable[[Any], object] | None = action
        self.subject = subject


@final
class TimerQueue:
    """Timers in order of time, and one timer of the event loop for the first of them."""

    __slots__ = ("_armed_at", "_count", "_handle", "_rows", "_runtime", "_work")

    def __init__(self, runtime: Runtime, work: Callable[[Iterator[None]], object]) -> None:
        self._runtime = runtime
        self._work = work
        self._rows = SortedRows()  # when, number, timer
        self._count = 0
        self._armed_at = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return self._rows.count

    def add(self, when: float, action: Callable[[Any], object], subject: Any) -> Timer:
        """Have `action(subject)` called at `when`."""
        if when < self._armed_at:
            self._arm(when)  # first: if that fails, there is no row
        self._count += 1
        timer = Timer(when, self._count, action, subject)
        self._rows.add((when, self._count, timer))
        return timer

    def cancel(self, timer: Timer) -> None:
        """Forget a timer; harmless if it has happened."""
        if timer.action is not None:
            timer.action = timer.subject = None
            self._rows.remove((timer.when, timer.number))

    def _arm(self, when: float) -> None:
        before = self._handle
        self._handle = self._runtime.later(max(0.0, when - self._runtime.now()), self._fire)
        self._armed_at = when
        if before is not None:
            before.cancel()

    def _fire(self) -> None:
        self._handle = None
        self._armed_at = math.inf
        self._work(self._due(self._runtime.now(), self._count))

    def _due(self, now: float, count: int) -> Iterator[None]:
        """Do what is due by `now`, one thing a step; what is added meanwhile has its turn of the loop later.

        A job that is told to stop, and has no time for it, is not told again in the same breath.
        """
        rows = self._rows
        try:
            while (row := rows.first()) is not None and row[0] <= now and row[1] <= count:
                timer: Timer = rows.pop()[2]
                action, subject = timer.action, timer.subject
                assert action is not None
                timer.action = timer.subject = None
                action(subject)
                yield
        finally:
            # Also when an action raised: the other rows must not be forgotten with it.
            if (row := rows.first()) is not None and row[0] < self._armed_at:
                self._arm(row[0])

    def close(self) -> None:
        """Forget everything; the timer with it."""
        for *_, timer in self._rows:
            timer.action = timer.subject = None
        self._rows = SortedRows()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._armed_at = math.inf
