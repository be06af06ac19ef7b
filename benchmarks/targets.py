"""The promises in numbers, and whether this run kept them.

Each limit is for CPython 3.11 and for 3.13. Version 3.12 is judged by the limits of 3.13: there, too, asyncio
itself can start tasks eagerly. The steady state stands beside the burst and is judged by the same limit.

*The best of all peers* is the cheapest contender that is not ours. Workers written by hand are left out: without a
context for each job, a cancel or a limit of time, they are a floor (`Contender.floor`), and have rows of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks import requests
from benchmarks.command import COROUTINE, PLAIN
from benchmarks.contenders import (
    CREATE_TASK,
    EXECUTOR,
    GATHER,
    HAND,
    MAP_SCOPE,
    MAP_TASK,
    SCOPE,
    TASK,
)
from benchmarks.growth import HUGE, LARGE, MOST_GAP, MOST_GROWTH, SMALL, UNSLICED
from benchmarks.measure import CellResult, Spread
from benchmarks.scenarios import Growth, ScenarioResult, growths
from benchmarks.threads import ONE_BY_ONE

BEST = "best published pool"
PEERS = "best of all peers"
_FOUND: dict[str, Callable[[CellResult], str | None]] = {BEST: CellResult.best_published, PEERS: CellResult.best_peer}
"""Names of a base that is found in each run."""


@dataclass(frozen=True, slots=True)
class RatioTarget:
    """`ours` may cost at most `limits` times what `base` costs."""

    suites: tuple[str, ...]
    workload: str
    ours: str
    base: str
    limits: tuple[float, float]
    """On 3.11, and from 3.12 on."""


@dataclass(frozen=True, slots=True)
class NumberTarget:
    """A number of a probe may be at most `limit`."""

    title: str
    probe: str
    ours: str
    number: str
    limit: float
    unit: str = ""
    base: str | None = None
    """The contender whose number ours is divided by."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table of promises."""

    title: str
    ours: str
    suite: str
    measured: Spread | None
    limit: float
    unit: str
    found: str = ""
    """Which base it was compared with, or which verb was the worst, if that is found in each run."""

    @property
    def word(self) -> str:
        """Return `ok`, `missed`, or `not measured`."""
        if self.measured is None:
            return "not measured"
        return "ok" if self.measured.median <= self.limit else "missed"


_BOTH = ("burst", "steady")

RATIOS = (
    *(
        RatioTarget((requests.SUITE,), client, ours, PEERS, limits)
        for client in requests.CLIENTS
        for ours, limits in ((TASK, (1.02, 1.02)), (SCOPE, (1.0, 1.0)))
    ),
    RatioTarget(_BOTH, "sleep(0)", TASK, PEERS, (1.0, 1.0)),
    RatioTarget(_BOTH, "sleep(0)", SCOPE, PEERS, (0.80, 0.80)),
    RatioTarget(_BOTH, "sleep(1 ms)", TASK, PEERS, (1.0, 1.0)),
    RatioTarget(_BOTH, "sleep(1 ms)", SCOPE, PEERS, (0.80, 0.80)),
    RatioTarget(_BOTH, "no-op", TASK, GATHER, (0.40, 0.45)),
    RatioTarget(_BOTH, "no-op", SCOPE, GATHER, (0.35, 0.40)),
    RatioTarget(_BOTH, "no-op", TASK, BEST, (0.65, 0.70)),
    RatioTarget(_BOTH, "no-op", SCOPE, BEST, (0.50, 0.60)),
    RatioTarget(_BOTH, "no-op", TASK, CREATE_TASK, (1.1, 0.60)),
    RatioTarget(_BOTH, "no-op", SCOPE, CREATE_TASK, (0.75, 0.75)),
    RatioTarget(_BOTH, "no-op", SCOPE, HAND, (1.35, 1.35)),
    RatioTarget(_BOTH, "sleep(0)", SCOPE, HAND, (1.35, 1.35)),
    RatioTarget(_BOTH, "sleep(1 ms)", SCOPE, HAND, (1.35, 1.35)),
    RatioTarget(("burst",), "no-op", MAP_TASK, GATHER, (0.25, 0.25)),
    RatioTarget(("burst",), "no-op", MAP_SCOPE, GATHER, (0.25, 0.25)),
    RatioTarget(("threads",), "block 100 µs", TASK, EXECUTOR, (0.60, 0.60)),
    RatioTarget(("threads",), "block 100 µs", SCOPE, EXECUTOR, (0.60, 0.60)),
    RatioTarget((ONE_BY_ONE,), "block 100 µs", TASK, EXECUTOR, (0.80, 0.80)),
    RatioTarget((ONE_BY_ONE,), "block 100 µs", SCOPE, EXECUTOR, (0.80, 0.80)),
)

_ONE = f"one job at a time, submit to result (p50), vs {CREATE_TASK}"
_CRITICAL = "CRITICAL behind 100k LOW, worst of 20 (CPU clock)"
_GAP = "largest loop gap, draining 100k no-ops (CPU clock)"
_COMMAND = "the command: CPU a line of 200,000, its start included"

NUMBERS = (
    *(NumberTarget(_ONE, "light", ours, "trip_p50_us", 1.5, base=CREATE_TASK) for ours in (TASK, SCOPE)),
    *(NumberTarget("a time limit in use", "options", ours, "timeout_ns", 150, "ns") for ours in (TASK, SCOPE)),
    *(NumberTarget("bytes per queued job at 1M", "memory", ours, "bytes_per_job", 400, "B") for ours in (TASK, SCOPE)),
    *(NumberTarget(_CRITICAL, "critical", ours, "worst_cpu_ms", 5, "ms") for ours in (TASK, SCOPE)),
    *(NumberTarget(_GAP, "gap", ours, "worst_cpu_ms", 5, "ms") for ours in (TASK, SCOPE)),
    *(NumberTarget(_COMMAND, "command", ours, "cpu_us", 15, "µs") for ours in (COROUTINE, PLAIN)),
    NumberTarget("`import aiopool` beyond `import asyncio` (CPU)", "import", "aiopool", "cpu_ms", 60, "ms"),
)


def judge(
    cells: list[CellResult],
    scenarios: list[ScenarioResult],
    python: tuple[int, ...] = sys.version_info[:2],
) -> list[Verdict]:
    """Return a verdict on every promise, by the limits of `python`; what was not measured says so."""
    column = 0 if python < (3, 12) else 1
    return [
        *_judge_ratios(cells, column),
        *(_judge_number(target, scenarios) for target in NUMBERS),
        *_judge_growth(growths(scenarios)),
    ]


def _judge_ratios(cells: list[CellResult], column: int) -> Iterator[Verdict]:
    for target in RATIOS:
        for suite in target.suites:
            result = _cell(cells, suite, target.workload)
            base = target.base
            found = _FOUND[base](result) or "" if result and base in _FOUND else ""
            base = found or base
            measured = None
            if result and target.ours in result.samples and base in result.samples:
                measured = result.ratio(target.ours, base)
            work = f"{target.workload}, one at a time" if suite == ONE_BY_ONE else target.workload
            title = f"{work} vs {target.base}"
            yield Verdict(title, target.ours, suite, measured, target.limits[column], "", found)


def _cell(cells: list[CellResult], suite: str, workload: str) -> CellResult | None:
    """Return the first cell of this kind: the plan puts the one of the promise first."""
    for result in cells:
        if result.cell.suite == suite and result.cell.workload == workload:
            return result
    return None


def _judge_number(target: NumberTarget, scenarios: list[ScenarioResult]) -> Verdict:
    own = _samples(target, target.ours, scenarios)
    if own and target.base is not None:
        others = _samples(target, target.base, scenarios)
        own = [mine / other for mine, other in zip(own, others, strict=True)] if others else []
    return Verdict(target.title, target.ours, "", Spread.of(own) if own else None, target.limit, target.unit)


def _samples(target: NumberTarget, contender: str, scenarios: list[ScenarioResult]) -> list[float]:
    for result in scenarios:
        if (result.scenario.probe, result.scenario.contender) == (target.probe, contender):
            return result.samples.get(target.number, [])
    return []


def _judge_growth(verbs: list[Growth]) -> Iterator[Verdict]:
    """Judge the worst verb, and name it: one promise for all of them."""
    for ours in (TASK, SCOPE):
        own = [verb for verb in verbs if verb.contender == ours]
        ratios = {verb.verb: verb.ratio for verb in own if verb.ratio is not None}
        gaps = {verb.verb: verb.gap for verb in own if verb.gap is not None and verb.verb != UNSLICED}
        yield _worst(f"growth of any verb, {SMALL:,} to {LARGE:,} jobs", ours, ratios, MOST_GROWTH, "")
        yield _worst(f"largest loop gap of any verb, {HUGE:,} jobs (CPU clock)", ours, gaps, MOST_GAP, "ms")


def _worst(title: str, ours: str, values: dict[str, float], limit: float, unit: str) -> Verdict:
    if not values:
        return Verdict(title, ours, "", None, limit, unit)
    verb = max(values, key=values.__getitem__)
    return Verdict(title, ours, "", Spread.of([values[verb]]), limit, unit, verb)
