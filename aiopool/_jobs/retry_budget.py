"""RetryBudget: how many retries the work that is going on can pay for.

The one part of a retry with a memory: many jobs and pools may share it, from many threads. It keeps counts in buckets
of time, and is told the time by whoever asks.

Invariant: memory and cost do not grow with the load.
"""

import math
import threading
from typing import final

from aiopool._runtime.validation import number_given

__all__ = ["RetryBudget"]


@final
class RetryBudget:
    """Stop a storm of retries: allow them only as a share of the work that is going on.

    When a service is down, every job fails and every job retries: three attempts make three times the load,
    on a service that is already down. A budget gives each new job `ratio` of a retry, and `min_per_second`
    retries on top, so that a quiet pool can retry too. What is not used within `within` seconds is gone. A
    job that finds the budget empty fails with its own error. Share one budget between all pools that call the
    same service.

    Guarantees: among the retries of any `within` seconds there are never more than `min_per_second * within`
    plus `ratio` for each job that began in the `1.1 * within` seconds before the last of them. (The past is
    kept in eleven buckets, not as single events: memory and cost do not grow with the load.) Safe to use from
    many threads. As in tower's `TpsBudget`, from which it is learned.

    Args:
        ratio: retries allowed for each job; 0.1 is one retry for ten jobs, 0 leaves `min_per_second` alone.
        min_per_second: retries per second that are always allowed; 0 leaves `ratio` alone.
        within: for how many seconds jobs and retries are remembered.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is negative, infinite or nan, or `within` is 0.

    Example:
        >>> budget = RetryBudget(ratio=0.5, min_per_second=0, within=10)
        >>> budget.deposit(now=0.0), budget.deposit(now=0.1)
        (None, None)
        >>> budget.withdraw(now=1.0), budget.withdraw(now=1.0)
        (True, False)
    """

    # The mutable state of a budget is `_jobs` and `_retries` (a count for each bucket of time) and `_last`,
    # the number of the newest bucket.
    __slots__ = ("_jobs", "_last", "_lock", "_retries", "min_per_second", "ratio", "within")

    # Ten buckets and the one that is being filled: together they always reach back `within` seconds or more.
    _BUCKETS = 11

    def __init__(self, ratio: float = 0.1, min_per_second: float = 1.0, within: float = 10.0) -> None:
        self.ratio = number_given("RetryBudget", "ratio", ratio)
        self.min_per_second = number_given("RetryBudget", "min_per_second", min_per_second)
        self.within = number_given("RetryBudget", "within", within)
        if self.within == 0:
            raise ValueError("RetryBudget: within must be above 0 seconds, got 0")
        self._jobs = [0] * self._BUCKETS
        self._retries = [0] * self._BUCKETS
        self._last: int | None = None
        # Pools in several threads may share a budget; both methods read and write several counts.
        self._lock = threading.Lock()

    def deposit(self, *, now: float) -> None:
        """Count one job that begins (its first attempt, not its retries).

        Args:
            now: monotonic seconds, of one clock for all who share the budget.
        """
        with self._lock:
            self._jobs[self._bucket(now)] += 1

    def withdraw(self, *, now: float) -> bool:
        """Take one retry out of the budget, if there is one.

        Args:
            now: monotonic seconds, of one clock for all who share the budget.

        Returns:
            Whether the retry is allowed. If so, it is counted.
        """
        with self._lock:
            bucket = self._bucket(now)
            # The tiny difference lets ten jobs at 0.1 make one whole retry in binary fractions as well.
            if self._balance() < 1.0 - 1e-9:
                return False
            self._retries[bucket] += 1
            return True

    def available(self, *, now: float) -> float:
        """Tell how many retries the budget would allow now, and take none."""
        with self._lock:
            self._bucket(now)
            return max(0.0, self._balance())

    def __repr__(self) -> str:
        jobs, retries = sum(self._jobs), sum(self._retries)
        return (
            f"<RetryBudget ratio={self.ratio:g} min_per_second={self.min_per_second:g} "
            f"within={self.within:g}: {retries} retries for {jobs} jobs of late>"
        )

    def _balance(self) -> float:
        allowed = self.min_per_second * self.within + self.ratio * sum(self._jobs)
        return allowed - sum(self._retries)

    def _bucket(self, now: float) -> int:
        """Forget what is too old, and give the index of the bucket for `now`."""
        number = math.floor(now * (self._BUCKETS - 1) / self.within)
        if self._last is None:
            self._last = number
        # A clock that steps back (two loops, one budget) counts into the newest bucket: nothing is forgotten.
        number = max(number, self._last)
        for stale in range(max(self._last + 1, number - self._BUCKETS + 1), number + 1):
            self._jobs[stale % self._BUCKETS] = self._retries[stale % self._BUCKETS] = 0
        self._last = number
        return number % self._BUCKETS
