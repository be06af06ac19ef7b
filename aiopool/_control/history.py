"""`History`: the numbers of a pool in the last ten minutes, as far as somebody looked.

A sample is taken when a status is asked for, at most one a second: whoever looks pays, and nobody looks for nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, NamedTuple, final

from aiopool._jobs.statistics import Statistics

__all__ = ["History", "Sample"]

# One a second, for ten minutes.
MAX_SAMPLES = 600
# Two who look once a second each give one sample a second; half a beat of slack for timers that are late.
APART = 0.5
# Seconds over which a rate is taken, and how old its first sample may be.
WINDOW = 10.0
OLDEST = 60.0


@final
class Sample(NamedTuple):
    """The numbers of one moment.

    Attributes:
        at: seconds by a clock that never goes back.
        wall: seconds since 1970.
        ended: jobs that ended, in whichever way, since the opening.
        failed: those of them that failed or timed out.
        queued, running: jobs that wait for a slot, and that have one.
        lag: seconds that the event loop took to answer, at worst of late.
    """

    at: float
    wall: float
    ended: int
    failed: int
    queued: int
    running: int
    lag: float


@final
class History:
    """Samples, the oldest first. From any thread."""

    __slots__ = ("_lock", "_samples")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)

    def add(self, numbers: Statistics, lag: float) -> None:
        """Take a sample, unless there is one of just now."""
        at = time.monotonic()
        failed = numbers.failed + numbers.timed_out
        ended = numbers.succeeded + failed + numbers.cancelled
        with self._lock:
            if self._samples and at - self._samples[-1].at < APART:
                return
            if self._samples and ended < self._samples[-1].ended:
                self._samples.clear()  # the pool was opened anew, and counts from 0
            self._samples.append(Sample(at, time.time(), ended, failed, numbers.queued, numbers.running, lag))

    def rates(self) -> dict[str, Any] | None:
        """Return jobs a second that ended, and that failed, over the last seconds; None: too little was seen."""
        with self._lock:
            samples = list(self._samples)[-60:]
        if len(samples) < 2:
            return None
        last = samples[-1]
        before = [one for one in samples[:-1] if last.at - one.at <= OLDEST]
        first = next((one for one in reversed(before) if last.at - one.at >= WINDOW), before[0] if before else None)
        if first is None or last.at - first.at < 0.5:
            return None
        seconds = last.at - first.at
        return {
            "ended": round((last.ended - first.ended) / seconds, 2),
            "failed": round((last.failed - first.failed) / seconds, 3),
            "seconds": round(seconds, 1),
        }

    def items(self) -> list[Sample]:
        """Return all samples."""
        with self._lock:
            return list(self._samples)
