"""`python -m benchmarks`: measure, print the tables, write the files."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import chart, plan, report, scenarios, targets
from benchmarks.measure import Cell, run_cells
from benchmarks.scenarios import Scenario


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line as an object."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what a job costs, interleaved in one run, and print ratios of CPU time.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--targets",
        action="store_true",
        help="what the pages of the docs show: the comparison, and what a promise is made about",
    )
    what.add_argument("--quick", action="store_true", help="a smoke of some seconds; ignore its numbers")
    parser.add_argument("--rounds", type=_positive, help="rounds (default 5; 1 with --quick)")
    parser.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="only cells and probes whose key contains TEXT, as in --list; repeatable",
    )
    parser.add_argument("--contender", action="append", metavar="NAME", help="only this contender; repeatable")
    parser.add_argument("--uvloop", action="store_true", help="run the cells on uvloop")
    parser.add_argument("--list", action="store_true", help="print the keys and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a chart of the requests and no-ops")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the printed tables")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} rounds measure nothing; write --rounds 1 or more")
    return value


def choose(options: argparse.Namespace) -> tuple[list[Cell], list[Scenario]]:
    """Return the cells and scenarios that the command line asks for."""
    if options.quick:
        cells, probes = plan.quick_cells(), scenarios.quick_scenarios()
    elif options.targets:
        cells, probes = plan.target_cells(), scenarios.target_scenarios()
    else:
        cells, probes = plan.all_cells(), scenarios.all_scenarios()
    if options.only:
        cells = [cell for cell in cells if any(text in f"{cell.key}/" for text in options.only)]
        probes = [probe for probe in probes if any(text in f"{probe.key}/" for text in options.only)]
    if options.contender:
        chosen = set(options.contender)
        cells = [_narrowed(cell, chosen) for cell in cells]
        probes = [probe for probe in probes if probe.contender in chosen]
    return [cell for cell in cells if cell.contenders()], probes


def _narrowed(cell: Cell, chosen: set[str]) -> Cell:
    names = tuple(entry.name for entry in cell.contenders() if entry.name in chosen)
    return Cell(cell.suite, cell.workload, cell.concurrency, cell.count, names)


def progress_line() -> Callable[[str], None]:
    """Return a function that shows what is being measured, on a terminal only."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: print(f"\r\x1b[2K{text[:110]}", end="", file=sys.stderr, flush=True)


def write(path: Path, text: str) -> None:
    """Write a file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 1 when a contender failed, 0 otherwise.

    A missed promise is no failure of the command: it is what the command is there to say.
    """
    options = parse(arguments)
    cells, probes = choose(options)
    if options.list:
        print("\n".join([cell.key for cell in cells] + [probe.key for probe in probes]))
        return 0
    if not cells and not probes:
        print("nothing to measure: --only and --contender leave nothing; see --list", file=sys.stderr)
        return 2
    rounds = options.rounds or (1 if options.quick else 5)
    progress = progress_line()
    measured = run_cells(cells, rounds, progress, uvloop=options.uvloop)
    probed = scenarios.run_scenarios(probes, rounds, progress)
    progress("")
    # A smoke keeps and breaks no promise: its cells are too small.
    verdicts = [] if options.quick else targets.judge(measured, probed)
    parts = [report.header(rounds, options.uvloop)]
    if options.targets:
        parts.append(report.target_table(verdicts))
    parts += [*report.cell_tables(measured), *report.scenario_tables(probed)]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if options.markdown:
        write(options.markdown, text)
    if options.json:
        data: dict[str, Any] = report.as_json(measured, probed, verdicts, rounds=rounds, uvloop=options.uvloop)
        write(options.json, json.dumps(data, indent=1) + "\n")
    if options.svg:
        write(options.svg, chart.draw(chart.chosen(measured), platform.python_version()))
    failed = any(result.failed for result in measured) or any(result.failed for result in probed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
