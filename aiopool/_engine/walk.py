"""`walk`: the live jobs of a pool one after the other, while others come and go.

A dict cannot be read in slices: after each change it would have to be read from its beginning. So the walk goes by the
numbers of the jobs. Where the live jobs are few, or far between, their numbers are copied first; that takes 1 ms for
50,000. Where they are many and close, the numbers are tried one after the other, and nothing is copied.

Each job that is there when the walk begins, and when it comes by, is met once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from aiopool._jobs.job import Job

__all__ = ["COPIED", "STRETCH", "numbers", "walk"]

# So many numbers are copied at once.
COPIED = 50_000
# If only one number in so many is that of a live job, copying them is better, however many there are.
SPARSE = 64
# So many numbers are looked at in one go; they are one step, if none of them is that of a live job.
STRETCH = 256


def walk(jobs: dict[int, Job[Any]]) -> Iterator[Job[Any] | None]:
    """Return the live jobs by their numbers, the oldest first; None for a step in which there was none."""
    found = numbers(jobs)
    for at in range(0, len(found), STRETCH):
        empty = True
        for job in map(jobs.get, found[at : at + STRETCH]):
            if job is not None:
                empty = False
                yield job
        if empty:
            yield None


def numbers(jobs: dict[int, Job[Any]], *, after: int | None = None, newest_first: bool = False) -> Sequence[int]:
    """Return numbers in order, those of all live jobs among them.

    Args:
        jobs: all live jobs by their numbers.
        after: begin behind the job with this number, whether it is there or not.
        newest_first: from the highest number down.
    """
    found = _range(jobs, after, newest_first)
    if len(jobs) <= COPIED or len(found) > SPARSE * len(jobs):
        some = jobs if after is None else (number for number in jobs if number in found)
        return sorted(some, reverse=newest_first)
    return found


def _range(jobs: dict[int, Job[Any]], after: int | None, newest_first: bool) -> range:
    # Jobs enter the table in the order of their numbers.
    first, last = next(iter(jobs), 1), next(reversed(jobs), 0)
    if newest_first:
        return range(last if after is None else min(last, after - 1), first - 1, -1)
    return range(first if after is None else max(first, after + 1), last + 1)
