"""`sweep`: the same load on more and more hosts, until something saturates, and then the number at which it does.

It knows how to search, and what a report says; it refuses to know how a simulation works.

Always true: `first` is a number of hosts that was simulated and is saturated, and `last_good` one that is not; what
lies between was halved until they are near to each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Final, final

from aiopool._plan.simulate import Report

__all__ = ["Sweep", "series", "sweep"]

# Two numbers of hosts are near enough if one is at most so many times the other.
NEAR: Final = 1.2


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep has found.

    Attributes:
        reports: of all simulations, by the number of hosts.
        enough: the least number of hosts, of those simulated, with which the fleet keeps up; None: with none of them.
        last_good: the largest one before something saturates; None: there is none.
        first: the least number beyond `enough` at which something saturates; None: nothing does.
        what: which resource that is; if the fleet never keeps up: what holds it up with the most hosts.
    """

    reports: dict[int, Report]
    enough: int | None
    last_good: int | None
    first: int | None
    what: str | None


def series(least: int, most: int) -> Iterator[int]:
    """Yield 1, 2, 5, 10, 20, … from `least` to `most`, both of them included."""
    yield least
    step = 1
    while step < most:
        for factor in (1, 2, 5):
            if least < factor * step < most:
                yield factor * step
        step *= 10
    if most > least:
        yield most


def sweep(run: Callable[[int], Report], least: int, most: int) -> Sweep:
    """Simulate more and more hosts; `run(hosts)` does one."""
    reports: dict[int, Report] = {}
    enough = last_good = first = None
    for hosts in series(least, most):
        reports[hosts] = run(hosts)
        if reports[hosts].saturated is None:
            enough = hosts if enough is None else enough
            last_good = hosts
        elif last_good is not None:
            first = hosts
            break
    if last_good is None:
        worst = reports[max(reports)]
        return Sweep(reports, None, None, None, worst.saturated)
    while first is not None and first > last_good * NEAR and first > last_good + 1:
        middle = max(last_good + 1, min(first - 1, round((first * last_good) ** 0.5)))
        reports[middle] = run(middle)
        if reports[middle].saturated is None:
            last_good = middle
        else:
            first = middle
    return Sweep(
        dict(sorted(reports.items())), enough, last_good, first, None if first is None else reports[first].saturated
    )
