"""`aiopool plan`: what a fleet would do with a store, simulated. What was asked for, and what is printed."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from pathlib import Path
from typing import Any

from aiopool._plan.costs import COSTS, EngineCosts
from aiopool._plan.load import Arrival, drawn, from_lines
from aiopool._plan.simulate import Partition, Report, Scenario, simulate
from aiopool._plan.sweep import Sweep, sweep
from aiopool.cli._streams import close_broken_output
from aiopool.cli._words import BROKEN_PIPE, FINE, MISUSED, Refusal

__all__ = ["run_plan"]

# Words for what saturates, and what helps.
ADVICE = {
    "slots": "every slot is taken: more hosts, or a larger --size",
    "engine": "the engine has no time left: a faster one, larger batches, or two queues in two engines",
    "claim contention": "the engine is busy with claims that find nothing: fewer hosts with a larger --size",
    "host": "the processor of a host is busy with its jobs: more hosts",
    "producer": "the process that submits has no time left: more --producers",
    "machine": "all processes share the processors of one machine: another store, on more machines",
    "network": "1 Gbit/s to the engine is full: smaller payloads",
    "connections": "the engine takes no more connections: a pooler (pgbouncer), or a higher max_connections",
    "polling": "jobs lie there until somebody asks: no hints come (a pooler), or hosts are cut off",
    "limits": "a limit of the fleet holds the jobs back: that is what it is for",
}


def run_plan(
    *,
    store: str,
    trace: Path | None,
    rate: str | None,
    seconds: float | None,
    duration_mean: float,
    duration_spread: float,
    hosts: str,
    size: int,
    producers: int,
    limit: str | None,
    crashes_per_hour: float,
    partition: list[str] | None,
    slow_disk: float,
    network: float | None,
    servers: int | None,
    connections: int | None,
    pooler: bool,
    seed: int,
    as_json: bool,
) -> int:
    """Simulate, print, and return the exit code."""
    try:
        costs = _costs(store, network=network, servers=servers, connections=connections, pooler=pooler)
        least, most = _hosts(hosts)
        limits = _limits(limit)
        jobs, how_long = _load(
            trace, rate, seconds, mean=duration_mean, spread=duration_spread, limits=list(limits), seed=seed
        )
        cuts = [_partition(text) for text in partition or ()]
        if costs.one_machine and cuts:
            raise Refusal("--partition: a SQLite file is on one machine, with no network to be cut; leave it out")
    except Refusal as refusal:
        print(f"aiopool: {refusal}", file=sys.stderr)
        return MISUSED

    def run(count: int) -> Report:
        report = simulate(
            Scenario(
                costs, jobs(count), how_long, hosts=count, size=size, producers=producers, limits=limits,
                crashes_per_hour=crashes_per_hour, partitions=cuts, slow_disk=slow_disk / 1000, seed=seed,
            )
        )  # fmt: skip
        _print(json.dumps(dataclasses.asdict(report)) if as_json else _line(report))
        return report

    try:
        if not as_json:
            _print(HEAD)
        found = sweep(run, least, most)
        if as_json:
            _print(json.dumps({"enough": found.enough, "saturates_at": found.first, "what": found.what}))
        else:
            _print("\n".join(_verdict(found, costs)))
    except BrokenPipeError:
        close_broken_output()
        return BROKEN_PIPE
    return FINE


def _print(text: str) -> None:
    print(text, flush=True)


# -- what was asked for ------------------------------------------------------------------------------------------------


def _costs(
    store: str, *, network: float | None, servers: int | None, connections: int | None, pooler: bool
) -> EngineCosts:
    kind = store.partition("://")[0]
    costs = COSTS.get({"postgres": "postgresql", "rediss": "redis", "valkey": "redis"}.get(kind, kind))
    if costs is None:
        raise Refusal(f"--store {store}: there are costs of {', '.join(COSTS)}")
    changes: dict[str, Any] = {}
    if network is not None:
        changes["network"] = network / 1000
    if servers is not None:
        if costs.store != "postgresql":
            raise Refusal(f"--servers {servers}: {store} does one call at a time; it is for postgresql")
        changes["servers"] = servers
    if connections is not None:
        changes["max_connections"] = connections
    if pooler:
        if costs.store != "postgresql":
            raise Refusal(f"--pooler: it is for postgresql; {store} has none")
        changes |= {"hinted": False, "max_connections": None}
    return dataclasses.replace(costs, **changes)


def _hosts(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if match is not None:
        least, most = int(match[1]), int(match[2] or match[1])
        if 1 <= least <= most:
            return least, most
    raise Refusal(f"--hosts {text}: write a number, as 50, or from one to another, as 1..1000")


def _limits(text: str | None) -> dict[str, int]:
    limits: dict[str, int] = {}
    for part in text.split(",") if text else ():
        name, _, count = part.partition("=")
        if not name.strip() or not count.strip().isdecimal() or int(count) < 1:
            raise Refusal(f"--limit {part}: write a name and how many may run at once: api=20")
        limits[name.strip()] = int(count)
    return limits


def _partition(text: str) -> Partition:
    try:
        hosts, at, seconds = text.split(":")
        cut = Partition(int(hosts), float(at), float(seconds))
        if cut.hosts > 0 and cut.at >= 0 and cut.seconds > 0:
            return cut
    except ValueError:
        pass
    raise Refusal(f"--partition {text}: write how many hosts, from which second on, for how many: 10:5:3")


def _load(
    trace: Path | None, rate: str | None, seconds: float | None, *, mean: float, spread: float, limits: list[str],
    seed: int,
) -> tuple[Any, float]:  # fmt: skip
    """Return a function from the number of hosts to the jobs, and for how many seconds they come."""
    if (trace is None) == (rate is None):
        raise Refusal("write either --trace FILE, or --rate R --seconds S")
    if trace is not None:
        try:
            with trace.open(encoding="utf-8") as file:
                found = from_lines(file)
        except OSError as error:
            raise Refusal(f"--trace {trace}: {error.strerror}") from None
        except ValueError as error:
            raise Refusal(f"--trace {trace}, {error}") from None
        if not found:
            raise Refusal(f"--trace {trace}: there is no job in it")
        return (lambda count: found), seconds or max(found[-1].at, 1.0)
    number, _, each = str(rate).partition("/")
    try:
        per_second = float(number)
        if each not in ("", "host", "s") or not 0 < per_second < 1e7:
            raise ValueError
    except ValueError:
        raise Refusal(f"--rate {rate}: write jobs a second, in all (500) or for each host (5/host)") from None
    if not seconds or seconds < 0 or mean < 0:
        raise Refusal("--rate needs --seconds, for how long jobs come, and durations that are not below 0")

    @functools.lru_cache(maxsize=2)
    def jobs(count: int) -> list[Arrival]:
        total = per_second * (count if each == "host" else 1)
        return drawn(total, seconds, mean=mean, spread=spread, limits=limits, seed=seed)

    return jobs, seconds


# -- what is printed ---------------------------------------------------------------------------------------------------

HEAD = (
    "  hosts  offered/s  ended/s   wait p50      p95      p99      max   slots  engine   empty   host  saturated\n"
    + "-" * 107
)


def _line(report: Report) -> str:
    p50, p95, p99, most = (_seconds(value) for value in report.waits)
    used = report.used
    text = (
        f"{report.hosts:7} {report.offered:10,.0f} {report.throughput:8,.0f}   {p50:>8} {p95:>8} {p99:>8} {most:>8}"
        f"{used['slots']:8.0%}{used['engine']:8.0%}{report.empty:8.0%}{used['host']:7.0%}  {report.saturated or '-'}"
    )
    notes = []
    if report.crashes:
        notes.append(f"{report.crashes} crashes, {report.rescued} jobs taken from the dead, {report.reruns} run again")
    if report.lost:
        notes.append(f"{report.lost} jobs LOST")
    if report.left:
        notes.append(f"{report.left} jobs not ended at the end")
    return text + "".join(f"\n{'':8}{note}" for note in notes)


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"


def _verdict(found: Sweep, costs: EngineCosts) -> list[str]:
    lines = [""]
    if found.enough is None:
        lines.append(
            f"It does not keep up with any of these numbers of hosts: {found.what}. {ADVICE[str(found.what)]}."
        )
    else:
        lines.append(f"It keeps up from {found.enough} hosts on.")
        if found.first is None:
            lines.append(f"Nothing saturates up to {found.last_good} hosts.")
        else:
            lines.append(f"First to saturate, at {found.first} hosts (not at {found.last_good}): {found.what}.")
            lines.append(f"What helps: {ADVICE[str(found.what)]}.")
    lines.append(f"Costs of {costs.store}: from `{costs.source}`.")
    return lines
