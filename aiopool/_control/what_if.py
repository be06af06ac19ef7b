"""What if the size were another? The jobs that have ended are run through once more, on paper, at each of some sizes.

It assumes that a job would take as long as it did: that what is behind the pool answers no slower to more calls at
once. Retries count with their last attempt only, limits and groups are left out: a first answer, and not a promise.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence
from typing import NamedTuple, final

__all__ = ["Guess", "PastJob", "guess"]


class PastJob(NamedTuple):
    """A job that has ended: when it could have started, its priority, and how many seconds it ran."""

    came: float
    priority: int
    seconds: float


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Guess:
    """How it would have been at one size.

    Attributes:
        size: how many run at once.
        wait_p50, wait_p95: seconds that jobs would have waited.
        queue: the most that would have waited at one moment.
        busy: the part of the slots' time that they would have worked, from 0 to 1.
    """

    size: int
    wait_p50: float
    wait_p95: float
    queue: int
    busy: float


def guess(jobs: Sequence[PastJob], size: int) -> Guess:
    """Run jobs through a pool of a size, by priority and then in their order.

    Args:
        jobs: at least one, in any order.
        size: how many run at once.
    """
    coming = sorted(jobs)
    free_at = [coming[0].came] * min(size, len(coming))  # when each slot is free; more slots than jobs are never used
    line: list[tuple[int, float, float]] = []
    waits: list[float] = []
    longest, at, ends = 0, 0, coming[0].came
    while at < len(coming) or line:
        now = free_at[0]
        if not line and coming[at].came > now:
            now = coming[at].came
        while at < len(coming) and coming[at].came <= now:
            heapq.heappush(line, (coming[at].priority, coming[at].came, coming[at].seconds))
            at += 1
        if now > coming[at - 1].came:
            longest = max(longest, len(line))
        _, came, seconds = heapq.heappop(line)
        waits.append(now - came)
        ends = max(ends, now + seconds)
        heapq.heapreplace(free_at, now + seconds)
        if free_at[0] > now:
            longest = max(longest, len(line))
    waits.sort()
    span = (ends - coming[0].came) * size
    worked = sum(job.seconds for job in coming)
    return Guess(size, _quantile(waits, 0.5), _quantile(waits, 0.95), longest, worked / span if span > 0 else 0.0)


def _quantile(values: Sequence[float], q: float) -> float:
    return values[min(len(values) - 1, int(q * len(values)))]
