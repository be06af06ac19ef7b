"""Fair shares: how keys that want more than there is are served in turn, so that none of them makes the others wait.

Start-time fair queueing (P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996). A job gets a *tag* when it is submitted, and jobs
of equal priority start in the order of their tags. The tag is the virtual time, or the end of the job of the same key
before it, whichever is later; a job lasts for 1 / weight. The virtual time is at least the tag of the job that started
last, and each start moves it on by one job of all keys in line together. So a key that floods the pool is ahead of
itself only: the first job of another key has the present virtual time as its tag, and waits for no more than one job of
each key, for a weight of 1.

Everything here is a decision; nothing is queued or started here. A key is known while it has jobs in line, and until
the virtual time has passed the end of its last one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Mapping
from typing import final

__all__ = ["FairShares", "Share", "check_weights"]

# So many keys at most are forgotten with each start.
FORGOTTEN = 4


@final
class Share:
    """What is known of one key, among jobs of one priority."""

    __slots__ = ("ends_at", "key", "priority", "waiting", "weight")

    def __init__(self, key: Hashable, priority: int, weight: float) -> None:
        self.key = key
        self.priority = priority
        self.weight = weight
        self.ends_at = 0.0  # in virtual time, of the job that was submitted last
        self.waiting = 0


@final
class FairShares:
    """The shares of the keys of one pool.

    Args:
        weights: of keys that get more or less than others; 1 is what all others have.
    """

    __slots__ = ("_in_line", "_now", "_resting", "_shares", "_weights")

    def __init__(self, weights: Mapping[Hashable, float]) -> None:
        self._weights = weights
        self._shares: dict[tuple[int, Hashable], Share] = {}
        self._now: dict[int, float] = {}  # the virtual time of each priority
        self._in_line: dict[int, float] = {}  # the weights of its keys that have jobs in line, together
        self._resting: list[tuple[float, int, Share]] = []  # a heap of those that have no jobs in line

    def __len__(self) -> int:
        return len(self._shares)

    def enter(self, key: Hashable, priority: int) -> tuple[Share, float]:
        """A job is submitted: return the share of its key, and its tag."""
        share = self._shares.get((priority, key))
        if share is None:
            share = self._shares[priority, key] = Share(key, priority, self._weights.get(key, 1.0))
        tag = max(share.ends_at, self._now.get(priority, 0.0))
        share.ends_at = tag + 1 / share.weight
        if not share.waiting:
            self._in_line[priority] = self._in_line.get(priority, 0.0) + share.weight
        share.waiting += 1
        return share, tag

    def start(self, share: Share, tag: float) -> None:
        """A job starts for the first time."""
        priority = share.priority
        now = self._now[priority] = max(tag, self._now.get(priority, 0.0) + 1 / self._in_line[priority])
        self.leave(share)
        resting = self._resting
        for _ in range(FORGOTTEN):
            if not resting or resting[0][0] > now:
                break
            ends_at, _, share = heapq.heappop(resting)
            if not share.waiting and share.ends_at == ends_at:
                self._shares.pop((share.priority, share.key), None)

    def leave(self, share: Share) -> None:
        """A job is in line no more: it starts, or it has ended before."""
        share.waiting -= 1
        if not share.waiting:
            self._in_line[share.priority] -= share.weight
            heapq.heappush(self._resting, (share.ends_at, id(share), share))


def check_weights(weights: object) -> Mapping[Hashable, float] | None:
    """Return the weights that `fair_keys` says; None: the keys get no shares."""
    if weights is False or weights is None:
        return None
    if weights is True:
        return {}
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"fair_keys={weights!r}: write True, for equal shares, or the weights of some keys, such as "
            'fair_keys={"tenant-7": 3}'
        )
    for key, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise ValueError(f"fair_keys: the weight of {key!r} is {weight!r}: it must be a number above 0, such as 2")
    return {key if not isinstance(key, int) else str(key): weight for key, weight in weights.items()}
