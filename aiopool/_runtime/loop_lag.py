"""`LoopLag`: a look at the event loop twice a second, for metrics and health."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import final

from aiopool._runtime.runtime import Runtime

__all__ = ["LoopLag"]


@final
class LoopLag:
    """By how much the event loop is late: twice a second it is asked to call back, and one sees when it did."""

    __slots__ = ("_due", "_runtime", "_samples", "_timer")

    # Whatever holds the loop for longer than this is seen, and less with luck. 15 s is how often most scrapers come.
    INTERVAL = 0.5
    SAMPLES = 30

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._samples: deque[float] = deque(maxlen=self.SAMPLES)
        self._due: float
        self._timer: asyncio.TimerHandle
        self._set()

    def _set(self) -> None:
        self._due = self._runtime.now() + self.INTERVAL
        self._timer = self._runtime.later(self.INTERVAL, self._beat)

    def _beat(self) -> None:
        self._samples.append(max(0.0, self._runtime.now() - self._due))
        self._set()

    def worst(self) -> float:
        """Return the worst of the last samples, in seconds; or what is late just now, if that is more."""
        return max(0.0, self._runtime.now() - self._due, *self._samples)

    def stop(self) -> None:
        """Measure no more."""
        self._timer.cancel()
