"""Write the measured part of a page of the documentation: `python -m benchmarks.page PAGE RUN.json...`.

Takes the files that `--json` wrote, one or more for each version of Python, and replaces what stands between
the markers of the page: one pair for the promises and the comparison, one for what watching costs. What the files
do not speak of stays as it is. Nobody types a number by hand. With `--svg FILE` it draws the chart, of the newest
version.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import chart, plan, targets
from benchmarks.measure import Cell, CellResult
from benchmarks.report import BASELINES, COMPARED, DOWN, WATCHERS, names_of, number, spread, table
from benchmarks.scenarios import TITLES, WATCHING, Scenario, ScenarioResult
from benchmarks.targets import Verdict

BEGIN = "<!-- measured: begin; written by `python -m benchmarks.page` -->"
END = "<!-- measured: end -->"
WATCHED_BEGIN = "<!-- watched: begin; written by `python -m benchmarks.page` -->"
WATCHED_END = "<!-- watched: end -->"


@dataclass(slots=True)
class Run:
    """All that was measured with one version of Python."""

    python: str
    rounds: int
    cells: list[CellResult] = field(default_factory=list)
    scenarios: list[ScenarioResult] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)

    @property
    def version(self) -> tuple[int, ...]:
        """Its first two numbers."""
        return tuple(map(int, self.python.split(".")[:2]))

    @property
    def short(self) -> str:
        """Its first two numbers, as text."""
        return ".".join(map(str, self.version))

    def add(self, data: dict[str, Any]) -> None:
        """Add what a file holds; of what is measured twice, the first counts."""
        cells = {result.cell.key for result in self.cells}
        self.cells += [found for found in map(_cell, data["cells"]) if found.cell.key not in cells]
        keys = {result.scenario.key for result in self.scenarios}
        self.scenarios += [found for found in map(_scenario, data["scenarios"]) if found.scenario.key not in keys]
        self.packages |= data["packages"]

    def burst(self, workload: str) -> CellResult | None:
        """Return the first burst of this workload: the one of the promises."""
        for result in self.cells:
            if (result.cell.suite, result.cell.workload) == ("burst", workload):
                return result
        return None


def _cell(data: dict[str, Any]) -> CellResult:
    names = tuple(entry["name"] for entry in data["contenders"])
    cell = Cell(data["suite"], data["workload"], data["concurrency"], data["count"], names)
    samples = {entry["name"]: entry["cpu_us"] for entry in data["contenders"]}
    jobs = {entry["name"]: entry["jobs"] for entry in data["contenders"]}
    return CellResult(cell, samples, data["skipped"], data["failed"], jobs)


def _scenario(data: dict[str, Any]) -> ScenarioResult:
    scenario = Scenario(data["probe"], data["contender"], data["parameters"])
    return ScenarioResult(scenario, data["samples"], data["skipped"], data["failed"])


def load(files: list[Path]) -> list[Run]:
    """Return a run for each version of Python, oldest first."""
    runs: dict[str, Run] = {}
    for file in files:
        data = json.loads(file.read_text(encoding="utf-8"))
        runs.setdefault(data["python"], Run(data["python"], data["rounds"])).add(data)
    return sorted(runs.values(), key=lambda run: run.version)


def promises(runs: list[Run]) -> str:
    """Return one table: for each promise and version what was measured, in a burst and in a steady state."""
    by_row: dict[tuple[str, str], dict[tuple[str, str], Verdict]] = {}
    for run in runs:
        for verdict in targets.judge(run.cells, run.scenarios, run.version):
            title = verdict.title
            if targets.BEST in title:
                title = title.partition(targets.BEST)[0] + targets.BEST  # which one may differ by version
            column = "steady" if verdict.suite == "steady" else "burst"
            by_row.setdefault((title, verdict.ours), {})[run.python, column] = verdict
    head = ["", ""]
    for run in runs:
        head += [f"{run.short}: at most", "burst", "steady"]
    rows = []
    for (title, ours), verdicts in by_row.items():
        row = [title, ours]
        for run in runs:
            burst, steady = verdicts.get((run.python, "burst")), verdicts.get((run.python, "steady"))
            known = burst or steady
            row += [f"{number(known.limit)} {known.unit}".strip() if known else ""]
            row += [_judged(burst), _judged(steady)]
        rows.append(row)
    return "## The promises\n\n" + table(head, rows)


def _judged(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    if verdict.measured is None:
        return "not measured"
    text = f"{number(verdict.measured.median)} {verdict.unit}".strip()
    return f"**{text}, missed**" if verdict.word == "missed" else text


def costs(run: Run) -> str:
    """Return the table of all contenders at 100 at a time: ratio, lowest–highest, and µs."""
    results = [found for workload in plan.COUNTS if (found := run.burst(workload)) is not None]
    if not results:
        return ""
    base = BASELINES["burst"]
    names = list(dict.fromkeys(name for result in results for name in names_of(result)))
    head = [f"CPU time per job, × {base}"]
    for result in results:
        head += [f"{result.cell.workload} ({result.cell.count:,})", "µs"]
    rows = []
    for name in names:
        row = [name]
        for result in results:
            known = name in result.samples and base in result.samples
            mark = "*" if known and result.jobs[name] < result.cell.count else ""
            row += [spread(result.ratio(name, base)) + mark if known else "–"]
            row += [number(result.cost(name).median) if known else "–"]
        rows.append(row)
    text = f"### CPython {run.python}\n\n" + table(head, rows)
    if any(cell.endswith("*") for row in rows for cell in row):
        text += "\n\n`*` ran fewer jobs, being too slow for all of them; that spares it garbage collection."
    return text


def probes(runs: list[Run], names: Iterable[str]) -> str:
    """Return a table for each kind of probe, versions side by side."""
    parts = []
    for probe in names:
        found = [
            (run, result)
            for run in runs
            for result in run.scenarios
            if result.scenario.probe == probe and result.samples
        ]
        if not found:
            continue
        parts.append(f"### {TITLES[probe]}\n\n" + (_prices(found) if probe in DOWN else _numbers(found)))
    return "\n\n".join(parts)


def _numbers(found: list[tuple[Run, ScenarioResult]]) -> str:
    """Contenders down, numbers across, each for every version."""
    names = list(dict.fromkeys(name for _, result in found for name in result.samples))
    versions = list(dict.fromkeys(run.short for run, _ in found))
    cells: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for run, result in found:
        size = result.scenario.parameters.get("count")
        known = cells.setdefault((result.scenario.contender, f"{size:,}" if size else ""), {})
        for name in result.samples:
            known[run.short, name] = number(result.spread(name).median)
    heads = [f"{_words(name)}, {version}" for name in names for version in versions]
    rows = [
        [*key, *(known.get((version, name), "–") for name in names for version in versions)]
        for key, known in cells.items()
    ]
    return table(["", "jobs", *heads], rows)


def _prices(found: list[tuple[Run, ScenarioResult]]) -> str:
    """Options down, for there are many; contenders and versions across."""
    names = list(dict.fromkeys(name for _, result in found for name in result.samples))
    heads = [f"{result.scenario.contender}, {run.short}" for run, result in found]
    rows = [
        [_words(name), *(spread(result.spread(name)) if name in result.samples else "–" for _, result in found)]
        for name in names
    ]
    return table(["", *heads], rows)


def _words(name: str) -> str:
    words, _, unit = name.rpartition("_")
    return name.replace("_", " ") if unit == "job" else f"{words.replace('_', ' ')} ({unit.replace('us', 'µs')})"


def measured(runs: list[Run]) -> str:
    """Return everything between the first markers."""
    others = [probe for probe in TITLES if probe not in WATCHING]
    parts = [_about(runs, COMPARED), promises(runs), "## Against whom", *map(costs, runs)]
    parts += ["## What is no ratio", probes(runs, others)]
    return "\n\n".join(part for part in parts if part)


def watched(runs: list[Run]) -> str:
    """Return everything between the second markers; nothing, if the runs do not speak of it."""
    tables = probes(runs, WATCHING)
    return f"{_about(runs, WATCHERS)}\n\n{tables}" if tables else ""


def _about(runs: list[Run], names: Iterable[str]) -> str:
    """Say with what something was measured."""
    known = runs[-1].packages
    packages = ", ".join(f"{name} {known[name]}" for name in names if name in known)
    versions = " and ".join(run.python for run in runs)
    return (
        f"CPython {versions}; {min(run.rounds for run in runs)} rounds at least; {packages}. "
        "Every number is a median; behind it in brackets the lowest and the highest round."
    )


def replace(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """Return the page with `text` between its markers.

    Raises:
        ValueError: The page has no markers.
    """
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"the page has no place for the numbers; put these two lines where they go:\n{begin}\n{end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Write the page, and the chart if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN.json")
    parser.add_argument("--svg", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    runs = load(options.runs)
    page = options.page.read_text(encoding="utf-8")
    if any(run.cells for run in runs):
        page = replace(page, measured(runs))
    if text := watched(runs):
        page = replace(page, text, WATCHED_BEGIN, WATCHED_END)
    options.page.write_text(page, encoding="utf-8")
    if options.svg:
        last = runs[-1]
        drawn = [found for workload in plan.COUNTS if (found := last.burst(workload)) is not None]
        options.svg.write_text(chart.draw(drawn, last.python), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
