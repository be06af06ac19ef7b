"""Tables in Markdown, readable on a terminal as they stand, and the whole run as JSON."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from importlib import metadata
from typing import Any

from benchmarks.callers import AN_EXECUTOR, CALLERS, FROM_THREADS, THREAD_POOL, THREADSAFE
from benchmarks.contenders import EXECUTOR, GATHER
from benchmarks.growth import HUGE, LARGE, MOST_GAP, MOST_GROWTH, SMALL
from benchmarks.measure import CellResult, Spread
from benchmarks.scenarios import TITLES, WATCHING, ScenarioResult, growths
from benchmarks.steady import OUTSTANDING
from benchmarks.targets import Verdict
from benchmarks.threads import ONE_BY_ONE

BASELINES = {"requests": GATHER, "burst": GATHER, "steady": GATHER, "threads": EXECUTOR, ONE_BY_ONE: EXECUTOR}
BASELINES |= {FROM_THREADS: THREADSAFE, AN_EXECUTOR: THREAD_POOL}
_UNITS = {"count": "jobs"}
COMPARED = (
    "aiohttp",
    "httpx",
    "redis",
    "asyncpg",
    "aiojobs",
    "asyncio-pool",
    "asyncio-taskpool",
    "aiometer",
    "anyio",
    "uvloop",
)
WATCHERS = ("prometheus-client", "structlog", "opentelemetry-sdk", "psutil")
PACKAGES = (*COMPARED, *WATCHERS)
DOWN = ("options", *WATCHING)
"""Probes with so many numbers that they stand one below the other."""


def number(value: float) -> str:
    """Return three significant digits, without an exponent."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:.{digits}f}"


def spread(value: Spread, unit: str = "") -> str:
    """Return `median (low–high)`."""
    text = f"{number(value.median)} ({number(value.low)}–{number(value.high)})"
    return f"{text} {unit}" if unit else text


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table whose columns also line up in plain text."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([line(head), rule, *map(line, rows)])


def names_of(result: CellResult) -> list[str]:
    """Return who stands in the rows of a cell, in the order of the tables."""
    return [entry.name for entry in result.cell.contenders()]


def header(rounds: int, uvloop: bool) -> str:
    """Say on what this was measured."""
    loop = "uvloop" if uvloop else "asyncio's own loop"
    return (
        f"CPython {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} CPUs, {loop}. CPU time of the process, {rounds} interleaved rounds, "
        "a fresh process for each measurement: median of the ratios within a round (lowest–highest)."
    )


def _subtitle(suite: str, concurrency: int, count: int | None) -> str:
    if suite == "steady":
        what = f"Steady state: {OUTSTANDING:,} jobs outstanding, at most {concurrency} at a time"
    elif suite == "requests":
        what = f"Requests to a server on this machine, {concurrency} at once"
    elif suite == ONE_BY_ONE:
        what = "Blocking functions in threads, one at a time"
    elif suite == FROM_THREADS:
        what = f"Submitted by {CALLERS} threads, at most {concurrency} at a time"
    elif suite == AN_EXECUTOR:
        what = f"Blocking functions by an executor, {concurrency} at a time"
    elif suite == "threads":
        what = f"Blocking functions in threads, {concurrency} in flight"
    else:
        what = f"Burst: all handles held, at most {concurrency:,} at a time"
    return f"{what}, {count:,} jobs" if count is not None else what


def cell_tables(results: list[CellResult]) -> list[str]:
    """Return a table for each suite and concurrency: contenders down, workloads across."""
    groups: dict[tuple[str, int, int | None], list[CellResult]] = {}
    seen: set[tuple[str, str, int]] = set()
    for result in results:
        cell = result.cell
        # The same work at another count is a table of its own: how cost grows with the backlog.
        again = (cell.suite, cell.workload, cell.concurrency) in seen
        seen.add((cell.suite, cell.workload, cell.concurrency))
        groups.setdefault((cell.suite, cell.concurrency, cell.count if again else None), []).append(result)
    return [_cell_table(_subtitle(*key), group) for key, group in groups.items()]


def _cell_table(title: str, group: list[CellResult]) -> str:
    base = BASELINES[group[0].cell.suite]
    head = ["CPU time per job, × " + base]
    for result in group:
        head += [f"{result.cell.workload} ({result.cell.count:,})", "µs"]
    names = names_of(group[0])
    rows, notes = [], []
    for name in names:
        row = [name]
        for result in group:
            if name not in result.samples:
                row += ["–", "–"]
                continue
            mark = "*" if result.jobs[name] < result.cell.count else ""
            ratio = spread(result.ratio(name, base)) if base in result.samples else "?"
            row += [ratio + mark, number(result.cost(name).median)]
        rows.append(row)
    for result in group:
        for name, reason in (result.skipped | result.failed).items():
            note = f"- {name}: {'failed, ' if name in result.failed else 'skipped, '}{reason}"
            if note not in notes:
                notes.append(note)
    if any("*" in cell for row in rows for cell in row):
        notes.append("- `*` ran fewer jobs, being too slow for all of them; that spares it garbage collection")
    return "\n\n".join(part for part in (f"### {title}", table(head, rows), "\n".join(notes)) if part)


def scenario_tables(results: list[ScenarioResult]) -> list[str]:
    """Return a table for each kind of probe."""
    tables = []
    for probe, title in TITLES.items():
        group = [result for result in results if result.scenario.probe == probe]
        if not group:
            continue
        if probe == "growth":
            tables.append(f"### {title}\n\n" + growth_table(group))
            continue
        names = list(dict.fromkeys(name for result in group for name in result.samples))
        if probe in DOWN:
            tables.append(f"### {title}\n\n" + _down(group, names))
            continue
        rows = []
        for result in group:
            sizes = ", ".join(f"{value:,} {_UNITS.get(key, key)}" for key, value in result.scenario.parameters.items())
            if problem := result.failed or result.skipped:
                values = [problem, *["–"] * (len(names) - 1)]
            else:
                values = [spread(result.spread(name)) for name in names]
            rows.append([result.scenario.contender, sizes, *values])
        heads = [name.replace("_", " ") for name in names] or ["result"]
        tables.append(f"### {title}\n\n" + table(["", "", *heads], rows))
    return tables


def growth_table(group: list[ScenarioResult]) -> str:
    """Verbs down; what is not flat, or holds the loop for too long, is marked."""
    rows = []
    for growth in growths(group):
        flags = ["**grows**"] if growth.ratio is not None and growth.ratio > MOST_GROWTH else []
        flags += ["**gap**"] if growth.gap is not None and growth.gap > MOST_GAP else []
        shown = [growth.costs.get(SMALL), growth.costs.get(LARGE), growth.ratio, growth.gap]
        rows.append(
            [
                growth.verb,
                growth.contender,
                *("–" if value is None else number(value) for value in shown),
                ", ".join(flags),
            ]
        )
    notes = [f"- {result.scenario.key}: {problem}" for result in group if (problem := result.failed or result.skipped)]
    head = ["", "", f"µs, {SMALL:,} jobs", f"µs, {LARGE:,} jobs", "growth", f"largest gap, {HUGE:,} jobs, ms", ""]
    limits = f"Marked: growth above {MOST_GROWTH}, gaps above {MOST_GAP:g} ms (CPU clock)."
    return "\n\n".join(part for part in (table(head, rows), limits, "\n".join(notes)) if part)


def _down(group: list[ScenarioResult], names: list[str]) -> str:
    """Numbers down, contenders across."""
    rows = [
        [name.replace("_", " "), *(spread(result.spread(name)) if name in result.samples else "–" for result in group)]
        for name in names
    ]
    text = table(["", *(result.scenario.contender for result in group)], rows)
    notes = [f"- {result.scenario.key}: {problem}" for result in group if (problem := result.failed or result.skipped)]
    return "\n\n".join(part for part in (text, "\n".join(notes)) if part)


def target_table(verdicts: list[Verdict]) -> str:
    """Return the table of promises: measured, at most, ok or missed."""
    rows = [
        [
            f"{verdict.title} ({verdict.found})" if verdict.found else verdict.title,
            verdict.ours,
            verdict.suite,
            spread(verdict.measured, verdict.unit) if verdict.measured else "–",
            f"{number(verdict.limit)} {verdict.unit}".rstrip(),
            verdict.word if verdict.word != "missed" else "**missed**",
        ]
        for verdict in verdicts
    ]
    return "### Promises\n\n" + table(["", "", "", "measured", "at most", ""], rows)


def as_json(
    cells: list[CellResult],
    scenarios: list[ScenarioResult],
    verdicts: list[Verdict],
    *,
    rounds: int,
    uvloop: bool,
) -> dict[str, Any]:
    """Return the whole run, with every sample, as plain data."""
    return {
        "version": 1,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _installed(name))},
        "rounds": rounds,
        "uvloop": uvloop,
        "cells": [_cell_json(result) for result in cells],
        "scenarios": [
            {
                "probe": result.scenario.probe,
                "contender": result.scenario.contender,
                "parameters": dict(result.scenario.parameters),
                "samples": result.samples,
                "medians": {name: result.spread(name).median for name in result.samples},
                "skipped": result.skipped,
                "failed": result.failed,
            }
            for result in scenarios
        ],
        "targets": [
            {
                "title": verdict.title,
                "found": verdict.found,
                "contender": verdict.ours,
                "suite": verdict.suite,
                "measured": _spread_json(verdict.measured) if verdict.measured else None,
                "limit": verdict.limit,
                "unit": verdict.unit,
                "verdict": verdict.word,
            }
            for verdict in verdicts
        ],
    }


def _cell_json(result: CellResult) -> dict[str, Any]:
    cell = result.cell
    base = BASELINES[cell.suite]
    return {
        "suite": cell.suite,
        "workload": cell.workload,
        "concurrency": cell.concurrency,
        "count": cell.count,
        "baseline": base,
        "contenders": [
            {
                "name": name,
                "jobs": result.jobs[name],
                "cpu_us": samples,
                "cpu_us_median": result.cost(name).median,
                "ratio": _spread_json(result.ratio(name, base)) if base in result.samples else None,
            }
            for name, samples in result.samples.items()
        ],
        "skipped": result.skipped,
        "failed": result.failed,
    }


def _spread_json(value: Spread) -> dict[str, float]:
    return {"median": value.median, "low": value.low, "high": value.high}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
