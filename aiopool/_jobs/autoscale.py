"""`Autoscale`: more jobs at once while jobs wait too long, fewer when slots are not used.

Everything here is a decision, taken from its arguments alone. Who counts and keeps the time is
`_engine/autoscaler.py`.

It grows by Little's law (1961): in a line of `queued` jobs, of which `starts` start in some time, a job that comes now
waits for `queued / starts` of that time. So in every `target_wait` seconds as many jobs have to start as are in line,
whatever their order is. If fewer did, the size grows in proportion, and by no more than one slot for each job that is
late.

It does not flap, because growing and shrinking ask for different things: it grows only while all slots are taken, and
shrinks to the most that were taken at once in the last `idle_timeout` seconds. So what the same load needs again within
that time stays.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, final

from aiopool._jobs.checks import check_seconds
from aiopool._jobs.size_rule import SizeRule
from aiopool._runtime.keywords import explain_keywords

__all__ = ["PERIODS", "Autoscale", "Autoscaling"]

# `idle_timeout` is looked at in so many parts: a slot goes at the latest one of them after its time.
PERIODS: Final = 4


@final
@explain_keywords
@dataclass(frozen=True, slots=True)
class Autoscale(SizeRule):
    """Let the size follow the load: grow while jobs wait too long, shrink when slots are not used.

    It grows when jobs in line (or in `submit`, for room) would wait longer than `target_wait` although all slots are
    taken: in one step to what that line needs. Jobs that a limit or a pause holds do not count: more slots would not
    help them. It shrinks to the most slots that were taken at once in the last `idle_timeout` seconds. A pool at rest
    shrinks to `min_size`, and then wakes up no more.

    It does not look at how the other side bears the load: for that there is `Adaptive`.

    Args:
        min_size: the least size, with which the pool opens.
        max_size: the largest size.
        target_wait: seconds that a job may wait in line. 0: as many slots as there are jobs.
        idle_timeout: seconds after which a slot that was not used goes, to within a quarter more; infinity: never.

    Raises:
        TypeError, ValueError: an argument has a value that it cannot have.

    Example:
        Pool(size=Autoscale(2, 50, target_wait=0.5))
    """

    min_size: int
    max_size: int
    target_wait: float = 0.1
    idle_timeout: float = 60.0

    def __post_init__(self) -> None:
        self._check_bounds()
        if math.isinf(check_seconds("target_wait", self.target_wait)):
            raise ValueError(f"target_wait={self.target_wait!r}: it would never grow; write Pool(size={self.min_size})")
        if check_seconds("idle_timeout", self.idle_timeout) == 0:
            raise ValueError("idle_timeout=0: every slot would go after each job; write some seconds, such as 10")


@final
class Autoscaling:
    """The decisions of one open pool.

    Attributes:
        starts: how many jobs have started beyond those for which a slot was free, since the line is watched.
    """

    __slots__ = ("_peak", "_peaks", "_rule", "starts")

    def __init__(self, rule: Autoscale) -> None:
        self._rule = rule
        self._peaks: deque[int] = deque(maxlen=PERIODS)
        self._peak = 0
        self.starts = 0

    def busy(self, slots: int) -> None:
        """So many slots are taken."""
        if slots > self._peak:
            self._peak = slots

    def grown(self, size: int, queued: int) -> int:
        """Decide the size, after `target_wait` seconds with all slots taken, in which `starts` have started."""
        starts = max(0, self.starts)
        late = queued - starts
        if late <= 0:
            return size
        more = late if starts <= size else math.ceil(late * size / starts)
        return max(size, min(self._rule.max_size, size + more))

    def shrunk(self, size: int, busy: int) -> int:
        """Decide the size, after another part of `idle_timeout`; `busy`: the slots that are taken now."""
        self.busy(busy)
        self._peaks.append(self._peak)
        self._peak = busy
        if len(self._peaks) < PERIODS:
            return size
        return min(size, max(self._rule.min_size, *self._peaks))
