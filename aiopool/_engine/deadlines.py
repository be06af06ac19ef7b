"""`Limits`: time limits that run from submission, for as little as a limit that runs from the start.

Jobs with limits of one length run out of time in the order of their submission: a FIFO for each length holds them, and
one row of the timers stands for its head. A job that ends is not taken out; it is skipped when its turn comes.
Entries are numbers of jobs, which keep no job alive, and those of ended jobs are swept when they outnumber the rest.
Whether they do is asked once for as many new jobs as there are live ones: to enter a limit is to append a number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, final

from aiopool._runtime.timers import Timer, TimerQueue

__all__ = ["Limits"]

MIN_ENDED = 64
# So many entries are looked at in one step of what is due.
STEP = 8


@final
class _Line:
    """The jobs with a limit of one length, by their numbers, and the timer for the first of them."""

    __slots__ = ("jobs", "seconds", "timer")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.jobs: deque[int] = deque()
        self.timer: Timer | None = None


@final
class Limits:
    """One kind of limit."""

    __slots__ = ("_expire", "_jobs", "_lines", "_now", "_sweep_at", "_timers")

    def __init__(
        self,
        timers: TimerQueue,
        now: Callable[[], float],
        jobs: Mapping[int, Any],
        expire: Callable[[Any], object],
    ) -> None:
        """`jobs` are the live ones by their numbers; `expire(job)` is called for those whose limit is over."""
        self._timers = timers
        self._now = now
        self._jobs = jobs
        self._expire = expire
        self._lines: dict[float, _Line] = {}
        self._sweep_at = 0  # the number of the job with which it is asked again whether to sweep

    def add(self, seconds: float, job: Any) -> None:
        """Limit a job that is submitted now, and is about to be live."""
        number = job._sequence
        if number >= self._sweep_at:
            self._sweep(number)
        line = self._lines.get(seconds)
        if line is None:
            line = self._open(seconds, job)
        line.jobs.append(number)

    def _open(self, seconds: float, job: Any) -> _Line:
        line = _Line(seconds)
        line.timer = self._timers.add(job._submitted_at + seconds, self._look, line)
        self._lines[seconds] = line
        return line

    def _look(self, line: _Line) -> None:
        """The moment of the first job has come: skip those that have ended, and end one that has not."""
        jobs, now, expired = line.jobs, self._now(), None
        for _ in range(min(STEP, len(jobs))):
            job = self._jobs.get(jobs[0])
            if job is not None and job._submitted_at + line.seconds > now:
                break
            jobs.popleft()
            if job is not None:
                expired = job
                break
        if jobs:
            # First: to end a job may fail. What is due already comes in the next step.
            head = self._jobs.get(jobs[0])
            when = now if head is None else head._submitted_at + line.seconds
            line.timer = self._timers.add(when, self._look, line)
        else:
            del self._lines[line.seconds]
        if expired is not None:
            self._expire(expired)

    def _sweep(self, number: int) -> None:
        """Forget jobs that have ended, if they outnumber the others."""
        live, lines = self._jobs, self._lines
        self._sweep_at = number + len(live) + MIN_ENDED
        if sum(len(line.jobs) for line in lines.values()) <= 2 * len(live) + MIN_ENDED:
            return
        for line in list(lines.values()):
            line.jobs = deque(filter(live.__contains__, line.jobs))
            if not line.jobs:
                del lines[line.seconds]
                assert line.timer is not None
                self._timers.cancel(line.timer)
