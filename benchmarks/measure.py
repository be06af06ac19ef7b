"""Rounds and medians: run every contender of every cell once a round, each in a fresh process.

The mutable state of a run is one list of samples per contender and cell. Ratios are taken within a round,
where both sides met the same machine, and only then the median over the rounds.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import callers, contenders, requests, servers, steady, threads  # noqa: F401 - those without a use register themselves

ROOT = Path(__file__).resolve().parent.parent
CHILD_TIMEOUT = 100.0
"""Seconds; the slowest measurement of the whole plan takes about 20 on a quiet machine."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with what lies around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> Spread:
        """Return the spread of at least one sample."""
        values = sorted(samples)
        return cls(statistics.median(values), values[0], values[-1])


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece of work that all contenders of a suite do."""

    suite: str
    workload: str
    concurrency: int
    count: int
    names: tuple[str, ...] | None = None
    """Only these contenders; all of the suite by default."""

    @property
    def key(self) -> str:
        """How `--only` finds this cell."""
        return f"{self.suite}/{self.workload}/{self.concurrency}/{self.count}"

    def missing(self) -> str | None:
        """Say why this cell cannot be measured here, or None."""
        return requests.CLIENTS[self.workload].missing() if self.suite == requests.SUITE else None

    def contenders(self) -> list[contenders.Contender]:
        """Return the contenders of this cell in the order of the tables."""
        entries = contenders.of_suite(self.suite)
        return [entry for entry in entries if self.names is None or entry.name in self.names]


@dataclass(slots=True)
class CellResult:
    """CPU µs per job: a list of samples for each contender, one for each round."""

    cell: Cell
    samples: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)

    def cost(self, name: str) -> Spread:
        """Return CPU µs per job."""
        return Spread.of(self.samples[name])

    def ratio(self, name: str, base: str) -> Spread:
        """Return what `name` costs for each unit that `base` costs, round by round."""
        pairs = zip(self.samples[name], self.samples[base], strict=True)
        return Spread.of(own / other for own, other in pairs)

    def best(self, names: Iterable[str]) -> str | None:
        """Return which of `names` is cheapest here, or None when none was measured."""
        measured = [name for name in names if name in self.samples]
        return min(measured, key=lambda name: self.cost(name).median, default=None)

    def best_published(self) -> str | None:
        """Return the cheapest pool that somebody publishes."""
        return self.best(entry.name for entry in self.cell.contenders() if entry.published)

    def best_peer(self) -> str | None:
        """Return the cheapest contender that is neither ours nor a floor."""
        entries = self.cell.contenders()
        return self.best(entry.name for entry in entries if not entry.floor and entry.name not in contenders.OURS)


class MeasurementError(RuntimeError):
    """A child process did not measure what it was told to."""


def run_child(order: dict[str, Any]) -> dict[str, Any]:
    """Measure `order` in a fresh process and return what it says.

    Raises:
        MeasurementError: The child failed or took longer than `CHILD_TIMEOUT`.
    """
    command = [sys.executable, "-m", "benchmarks.child", json.dumps(order)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CHILD_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"no result within {CHILD_TIMEOUT:.0f} s: {order}") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise MeasurementError(f"exit {done.returncode}: {last[0]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def rotated(names: list[str], turn: int) -> list[str]:
    """Return `names` starting at another one each turn."""
    shift = turn % len(names) if names else 0
    return names[shift:] + names[:shift]


def run_cells(cells: list[Cell], rounds: int, progress: Progress, *, uvloop: bool = False) -> list[CellResult]:
    """Run all cells `rounds` times, interleaved; a contender that fails once is left out with its error."""
    with contextlib.ExitStack() as stack:
        return _run_cells(cells, rounds, progress, _Servers(stack), uvloop=uvloop)


class _Servers:
    """The servers of a run: each is started when it is first needed, and ends with the run."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._addresses: dict[str, str] = {}

    def address(self, cell: Cell) -> str | None:
        """Return where the server of a cell listens; None: it needs none."""
        if cell.suite != requests.SUITE:
            return None
        name = requests.CLIENTS[cell.workload].server
        if name not in self._addresses:
            self._addresses[name] = self._stack.enter_context(servers.SERVERS[name]())
        return self._addresses[name]


def _run_cells(
    cells: list[Cell], rounds: int, progress: Progress, running: _Servers, *, uvloop: bool
) -> list[CellResult]:
    results = [CellResult(cell) for cell in cells]
    entries: list[dict[str, contenders.Contender]] = []
    for result in results:
        able: dict[str, contenders.Contender] = {}
        for entry in result.cell.contenders():
            if reason := entry.missing() or result.cell.missing():
                result.skipped[entry.name] = reason
            else:
                able[entry.name] = entry
        entries.append(able)
    for turn in range(rounds):
        for result, able in zip(results, entries, strict=True):
            for name in rotated(list(able), turn):
                if name not in result.failed:
                    progress(f"round {turn + 1}/{rounds}  {result.cell.key}  {name}")
                    _measure(result, able[name], uvloop, running.address(result.cell))
    for result in results:
        for name in result.failed:
            result.samples.pop(name, None)
    return results


def _measure(result: CellResult, entry: contenders.Contender, uvloop: bool, address: str | None) -> None:
    cell = result.cell
    count = max(cell.count // entry.share, min(cell.count, 100))
    order = {
        "suite": cell.suite,
        "contender": entry.name,
        "workload": cell.workload,
        "concurrency": cell.concurrency,
        "count": count,
        "uvloop": uvloop,
        "address": address,
    }
    try:
        measured = run_child(order)
    except MeasurementError as error:
        result.failed[entry.name] = str(error)
        return
    result.jobs[entry.name] = count
    result.samples.setdefault(entry.name, []).append(measured["cpu"] / measured["jobs"] * 1e6)
