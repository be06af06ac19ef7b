"""`aiopool plan`: its options, in typer's words. No logic; see `_plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["plan_command"]


def plan_command(
    store: Annotated[str, typer.Option("--store", metavar="ENGINE", help="sqlite, postgresql or redis.")],
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Lines of JSON, each with `at` and `seconds`.", dir_okay=False),
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="R", help="Jobs a second in all, or for each host: 5/host.")
    ] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", metavar="S", help="So long they come.")] = None,
    duration_mean: Annotated[
        float, typer.Option("--duration-mean", metavar="D", help="Seconds that a job runs.")
    ] = 0.1,
    duration_spread: Annotated[
        float, typer.Option("--duration-spread", metavar="F", min=0, help="Its standard deviation, as a share of it.")
    ] = 1.0,
    hosts: Annotated[str, typer.Option("--hosts", metavar="N|A..B", help="Processes that run jobs.")] = "1..1000",
    size: Annotated[int, typer.Option("--size", "-n", metavar="N", min=1, help="Jobs at once in each of them.")] = 10,
    producers: Annotated[int, typer.Option("--producers", metavar="N", min=1, help="Processes that submit.")] = 1,
    limit: Annotated[
        str | None, typer.Option("--limit", metavar="NAME=N,…", help="So many at once in the fleet, by name.")
    ] = None,
    crashes_per_hour: Annotated[
        float, typer.Option("--crashes-per-hour", metavar="N", min=0, help="Processes of the fleet that are killed.")
    ] = 0.0,
    partition: Annotated[
        list[str] | None,
        typer.Option("--partition", metavar="HOSTS:AT:SECONDS", help="So many hosts are cut off, then, so long."),
    ] = None,
    slow_disk: Annotated[
        float, typer.Option("--slow-disk", metavar="MS", min=0, help="Milliseconds that each commit takes longer.")
    ] = 0.0,
    network: Annotated[
        float | None,
        typer.Option("--network", metavar="MS", min=0, help="Milliseconds of a round trip.", show_default="0.5"),
    ] = None,
    servers: Annotated[
        int | None,
        typer.Option("--servers", metavar="N", min=1, help="Calls that the engine works on at once.", show_default="2"),
    ] = None,
    connections: Annotated[
        int | None,
        typer.Option("--connections", metavar="N", min=1, help="That the engine takes.", show_default="as installed"),
    ] = None,
    pooler: Annotated[
        bool, typer.Option("--pooler", help="Behind pgbouncer: connections are no matter, and no hints come.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same one gives the same numbers.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each number of hosts.")] = False,
) -> None:
    """Simulate a fleet on a store: how long jobs wait, how many end, and what saturates first.

    The pools are real, in virtual time; the engine is a model with measured costs.

    Exit code: 0 simulated; 2 bad usage; 141 nobody reads the output.
    """
    from aiopool.cli._plan import run_plan  # loads a pool and the virtual loop, which no other command needs

    try:
        code = run_plan(
            store=store,
            trace=trace,
            rate=rate,
            seconds=seconds,
            duration_mean=duration_mean,
            duration_spread=duration_spread,
            hosts=hosts,
            size=size,
            producers=producers,
            limit=limit,
            crashes_per_hour=crashes_per_hour,
            partition=partition,
            slow_disk=slow_disk,
            network=network,
            servers=servers,
            connections=connections,
            pooler=pooler,
            seed=seed,
            as_json=as_json,
        )
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)
