"""The load of a simulation: which jobs come when, and how long each runs. A list of moments; it knows no pool."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["Arrival", "drawn", "from_lines"]

# A draw is cut here: one job in a thousand would otherwise decide what a short simulation shows.
_LONGEST: Final = 20.0


class Arrival(NamedTuple):
    """A job that comes `at` seconds after the beginning, runs for `seconds`, and stands under the limit `limit`."""

    at: float
    seconds: float
    limit: str | None = None


def drawn(
    rate: float, seconds: float, *, mean: float, spread: float, limits: Sequence[str] = (), seed: int = 0
) -> list[Arrival]:
    """Return arrivals drawn at random: so many a second, independent of each other.

    Args:
        rate: jobs per second, in the mean.
        seconds: for so long they come.
        mean: seconds that a job runs, in the mean.
        spread: the standard deviation, as a share of the mean (log-normal); 0: all run equally long.
        limits: the jobs are dealt out among the limits of these names.
        seed: the same one draws the same jobs.
    """
    chance = random.Random(f"load {seed}")  # noqa: S311 - no secret
    sigma = math.sqrt(math.log1p(spread * spread))
    found: list[Arrival] = []
    at = chance.expovariate(rate)
    while at < seconds:
        factor = min(math.exp(chance.gauss(-sigma * sigma / 2, sigma)), _LONGEST) if spread else 1.0
        found.append(Arrival(at, mean * factor, limits[len(found) % len(limits)] if limits else None))
        at += chance.expovariate(rate)
    return found


def from_lines(lines: Iterable[str]) -> list[Arrival]:
    """Return the arrivals of a trace: lines of JSON with `at` and `seconds`, and perhaps `limit`.

    Instead of `at` a line may have `created_at`, and instead of `seconds` it may have `started_at` and `finished_at`,
    as the jobs of a store have them. The first one comes at 0.

    Raises:
        ValueError: a line is none of these; the text says which.
    """
    found: list[Arrival] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            at = float(row["at"] if "at" in row else row["created_at"])
            if "seconds" in row:
                seconds = float(row["seconds"])
            else:
                seconds = float(row["finished_at"]) - float(row["started_at"])
            if not (math.isfinite(at) and 0 <= seconds < math.inf):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f'line {number}: it is no job of a trace; write {{"at": 0.25, "seconds": 1.5}} for one that comes at '
                "0.25 s and runs for 1.5 s"
            ) from None
        limit = row.get("limit")
        found.append(Arrival(at, seconds, None if limit is None else str(limit)))
    found.sort()
    first = found[0].at if found else 0.0
    return [job._replace(at=job.at - first) for job in found]
