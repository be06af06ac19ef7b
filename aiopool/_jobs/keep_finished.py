"""`KeepFinished`: how many of the jobs that have ended a pool remembers, and for how long."""

from __future__ import annotations

import dataclasses
from typing import final

from aiopool._jobs.checks import check_count, check_seconds

__all__ = ["KeepFinished"]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class KeepFinished:
    """What a pool remembers of the jobs that have ended, for `pool.find` and `pool.finished_jobs`.

    The last ones are kept, in memory, as plain values: no argument, no frame, and no result unless `values` says so.
    A record takes about 300 bytes (`python -m benchmarks.looking` measures it).

    Args:
        count: so many jobs at most; the oldest end is forgotten first.
        seconds: how long each is remembered; None: until `count` newer ones have ended. Those that are too old are let
            go of when another job ends: no timer runs for it.
        values: what the jobs returned is kept, too, however large it is.

    Raises:
        TypeError, ValueError: `count` is no number of jobs, or `seconds` no duration.

    Example:
        async with Pool(keep_finished=KeepFinished(count=10_000, seconds=3600)) as pool:
            ...
    """

    count: int = 1000
    seconds: float | None = None
    values: bool = False

    def __post_init__(self) -> None:
        check_count("count", self.count)
        if self.seconds is not None:
            check_seconds("seconds", self.seconds)
