"""The promises in numbers, and whether this run kept them.

Each limit is for CPython 3.11 and for 3.13. Version 3.12 is judged by the limits of 3.13: there, too, asyncio
itself can start tasks eagerly. The steady state stands beside the burst and is judged by the same limit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

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
from benchmarks.measure import CellResult, Spread
from benchmarks.scenarios import ScenarioResult

BEST = "best published pool"


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
    unit: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table of promises."""

    title: str
    ours: str
    suite: str
    measured: Spread | None
    limit: float
    unit: str

    @property
    def word(self) -> str:
        """Return `ok`, `missed`, or `not measured`."""
        if self.measured is None:
            return "not measured"
        return "ok" if self.measured.median <= self.limit else "missed"


_BOTH = ("burst", "steady")

RATIOS = (
    RatioTarget(_BOTH, "no-op", TASK, GATHER, (0.65, 0.50)),
    RatioTarget(_BOTH, "no-op", SCOPE, GATHER, (0.35, 0.40)),
    RatioTarget(_BOTH, "no-op", TASK, BEST, (0.80, 0.60)),
    RatioTarget(_BOTH, "no-op", SCOPE, BEST, (0.45, 0.50)),
    RatioTarget(_BOTH, "sleep(0)", TASK, BEST, (0.85, 0.95)),
    RatioTarget(_BOTH, "sleep(0)", SCOPE, BEST, (0.60, 0.65)),
    RatioTarget(_BOTH, "sleep(1 ms)", TASK, BEST, (0.90, 1.0)),
    RatioTarget(_BOTH, "sleep(1 ms)", SCOPE, BEST, (0.80, 0.85)),
    RatioTarget(_BOTH, "no-op", TASK, CREATE_TASK, (1.1, 0.60)),
    RatioTarget(_BOTH, "no-op", SCOPE, CREATE_TASK, (0.75, 0.75)),
    RatioTarget(_BOTH, "no-op", SCOPE, HAND, (1.35, 1.35)),
    RatioTarget(_BOTH, "sleep(0)", SCOPE, HAND, (1.35, 1.35)),
    RatioTarget(_BOTH, "sleep(1 ms)", SCOPE, HAND, (1.35, 1.35)),
    RatioTarget(("burst",), "no-op", MAP_TASK, GATHER, (0.25, 0.25)),
    RatioTarget(("burst",), "no-op", MAP_SCOPE, GATHER, (0.25, 0.25)),
    RatioTarget(("threads",), "block 100 µs", TASK, EXECUTOR, (0.60, 0.60)),
    RatioTarget(("threads",), "block 100 µs", SCOPE, EXECUTOR, (0.60, 0.60)),
)

NUMBERS = (
    NumberTarget("a time limit in use", "options", TASK, "timeout_ns", 150, "ns"),
    NumberTarget("a time limit in use", "options", SCOPE, "timeout_ns", 150, "ns"),
    NumberTarget("bytes per queued job at 1M", "memory", TASK, "bytes_per_job", 400, "B"),
    NumberTarget("bytes per queued job at 1M", "memory", SCOPE, "bytes_per_job", 400, "B"),
    NumberTarget("CRITICAL behind 100k LOW, worst of 20 (CPU clock)", "critical", TASK, "worst_cpu_ms", 5, "ms"),
    NumberTarget("CRITICAL behind 100k LOW, worst of 20 (CPU clock)", "critical", SCOPE, "worst_cpu_ms", 5, "ms"),
    NumberTarget("largest loop gap, draining 100k no-ops (CPU clock)", "gap", TASK, "worst_cpu_ms", 5, "ms"),
    NumberTarget("largest loop gap, draining 100k no-ops (CPU clock)", "gap", SCOPE, "worst_cpu_ms", 5, "ms"),
    NumberTarget("`import aiopool` beyond `import asyncio` (CPU)", "import", "aiopool", "cpu_ms", 60, "ms"),
)


def judge(
    cells: list[CellResult],
    scenarios: list[ScenarioResult],
    python: tuple[int, ...] = sys.version_info[:2],
) -> list[Verdict]:
    """Return a verdict on every promise, by the limits of `python`; what was not measured says so."""
    column = 0 if python < (3, 12) else 1
    return [*_judge_ratios(cells, column), *(_judge_number(target, scenarios) for target in NUMBERS)]


def _judge_ratios(cells: list[CellResult], column: int) -> Iterator[Verdict]:
    for target in RATIOS:
        for suite in target.suites:
            result = _cell(cells, suite, target.workload)
            base = target.base
            title = f"{target.workload} vs {base}"
            if base == BEST:
                found = result.best_published() if result else None
                base = found or BEST
                title = f"{target.workload} vs {BEST}" + (f" ({found})" if found else "")
            measured = None
            if result and target.ours in result.samples and base in result.samples:
                measured = result.ratio(target.ours, base)
            yield Verdict(title, target.ours, suite, measured, target.limits[column], "")


def _cell(cells: list[CellResult], suite: str, workload: str) -> CellResult | None:
    """Return the first cell of this kind: the plan puts the one of the promise first."""
    for result in cells:
        if result.cell.suite == suite and result.cell.workload == workload:
            return result
    return None


def _judge_number(target: NumberTarget, scenarios: list[ScenarioResult]) -> Verdict:
    measured = None
    for result in scenarios:
        scenario = result.scenario
        if (scenario.probe, scenario.contender) == (target.probe, target.ours) and target.number in result.samples:
            measured = result.spread(target.number)
            break
    return Verdict(target.title, target.ours, "", measured, target.limit, target.unit)
