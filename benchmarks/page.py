"""Write the measured parts of the documentation: `python -m benchmarks.page RUN.json...`.

Takes the files that `--json` wrote, one or more for each version of Python. The pages have a pair of markers for each
table; what stands between them is replaced, and a table that the files say nothing about stays as it is. Nobody types
a number by hand. It also draws the chart, of the newest version.

What a job costs is a page for users: it compares. The targets and how far they are met are a page for contributors.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import chart, plan, requests, targets
from benchmarks.measure import Cell, CellResult
from benchmarks.report import BASELINES, COMPARED, DOWN, WATCHERS, growth_table, names_of, number, spread, table
from benchmarks.scenarios import TITLES, WATCHING, Scenario, ScenarioResult
from benchmarks.targets import Verdict

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "docs/explanation/what-a-job-costs.md", ROOT / "docs/project/targets.md")
CHART = ROOT / "docs/assets/what-a-job-costs.svg"


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

    def cells_of(self, suite: str, workloads: Iterable[str]) -> list[CellResult]:
        """Return the first cell of each of these workloads, which is the one of the promises."""
        first = {result.cell.workload: result for result in reversed(self.cells) if result.cell.suite == suite}
        return [first[workload] for workload in workloads if workload in first and first[workload].samples]


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
    """Return a table for each version: for each promise what was measured, also in a steady state."""
    return "\n\n".join(f"### CPython {run.python}\n\n{_promises(run)}" for run in runs)


def _promises(run: Run) -> str:
    by_row: dict[tuple[str, str], dict[str, Verdict]] = {}
    for verdict in targets.judge(run.cells, run.scenarios, run.version):
        column = "steady" if verdict.suite == "steady" else "measured"
        by_row.setdefault((verdict.title, verdict.ours), {})[column] = verdict
    rows = []
    for (title, ours), verdicts in by_row.items():
        known = next(iter(verdicts.values()))
        limit = f"{number(known.limit)} {known.unit}".strip()
        rows.append([title, ours, limit, _judged(verdicts.get("measured")), _judged(verdicts.get("steady"))])
    return table(["", "", "at most", "measured", "steady"], rows)


def _judged(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    if verdict.measured is None:
        return "not measured"
    text = f"{number(verdict.measured.median)} {verdict.unit}".strip()
    text = f"**{text}, missed**" if verdict.word == "missed" else text
    return f"{text} ({verdict.found})" if verdict.found else text


def comparison(runs: list[Run], suite: str, workloads: Iterable[str]) -> str:
    """Return a table for each version: contenders down, ratio (lowest–highest) and µs of each workload across."""
    parts = [_comparison(run, results) for run in runs if (results := run.cells_of(suite, workloads))]
    return "\n\n".join(parts)


def _comparison(run: Run, results: list[CellResult]) -> str:
    base = BASELINES[results[0].cell.suite]
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


def probes(runs: list[Run], names: Iterable[str], *, titles: bool = True) -> str:
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
        text = _prices(found) if probe in DOWN else _numbers(found)
        parts.append(f"### {TITLES[probe]}\n\n{text}" if titles else text)
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


def grown(runs: list[Run]) -> str:
    """Return the table of what grows, for each version."""
    parts = []
    for run in runs:
        group = [result for result in run.scenarios if result.scenario.probe == "growth" and result.samples]
        if group:
            parts.append(f"### CPython {run.python}\n\n" + growth_table(group))
    return "\n\n".join(parts)


def about(runs: list[Run], names: Iterable[str]) -> str:
    """Say with what something was measured."""
    known = runs[-1].packages
    packages = ", ".join(f"{name} {known[name]}" for name in names if name in known)
    versions = " and ".join(run.python for run in runs)
    rounds = min(run.rounds for run in runs)
    return (
        f"CPython {versions}; {rounds} round{'s' if rounds > 1 else ''} at least; {packages}. "
        "Each number is a median; behind it in brackets the lowest and the highest round."
    )


def _judges(run: Run) -> bool:
    """Whether a run is one of `--targets`, and not of a part, which would leave most targets unmeasured."""
    return bool(run.cells_of("burst", plan.COUNTS) and run.cells_of("steady", plan.COUNTS))


def _section(
    names: Iterable[str], speaks: Callable[[Run], object], tables: Callable[[list[Run]], str]
) -> Callable[[list[Run]], str]:
    """Return a section that says with what it was measured, made of the runs that speak of it."""

    def section(runs: list[Run]) -> str:
        some = [run for run in runs if speaks(run)]
        return f"{about(some, names)}\n\n{tables(some)}" if some else ""

    return section


SECTIONS: dict[str, Callable[[list[Run]], str]] = {
    "requests": _section(
        COMPARED,
        lambda run: run.cells_of("requests", requests.CLIENTS),
        lambda runs: comparison(runs, "requests", requests.CLIENTS),
    ),
    "tiny jobs": lambda runs: comparison(runs, "burst", plan.COUNTS),
    "one at a time": lambda runs: probes(runs, ["light"], titles=False),
    "options": lambda runs: probes(runs, ["options"], titles=False),
    "absolute numbers": lambda runs: probes(runs, ["memory", "critical", "gap", "command", "import"]),
    "observers": _section(WATCHERS, lambda run: probes([run], WATCHING), lambda runs: probes(runs, WATCHING)),
    "targets": _section(COMPARED, _judges, promises),
    "growth": grown,
}
"""What stands between the markers of this name, made of the runs; nothing, if they do not speak of it."""


def fill(page: str, sections: dict[str, str]) -> str:
    """Return the page with each text between the markers of its name; markers of other names are left alone."""

    def filled(match: re.Match[str]) -> str:
        text = sections.get(match["name"])
        return f"{match['begin']}\n\n{text}\n\n{match['end']}" if text else match[0]

    return re.sub(
        r"(?P<begin><!-- measured: (?P<name>[\w ]+); written by `python -m benchmarks\.page` -->)\n.*?"
        r"(?P<end><!-- measured: end -->)",
        filled,
        page,
        flags=re.DOTALL,
    )


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, and the chart."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN.json")
    parser.add_argument("--page", type=Path, action="append", metavar="FILE", help="instead of the pages of docs/")
    parser.add_argument("--svg", type=Path, default=CHART, metavar="FILE")
    options = parser.parse_args(arguments)
    runs = load(options.runs)
    sections = {name: section(runs) for name, section in SECTIONS.items()}
    for page in options.page or PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8"), sections), encoding="utf-8")
    if drawn := chart.chosen(runs[-1].cells):
        options.svg.write_text(chart.draw(drawn, runs[-1].python), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
