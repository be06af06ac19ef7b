"""`aiopool torture`: its options, in typer's words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["torture_command"]


def torture_command(
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="The store; its queues are left alone.", show_default="a new file"),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="KIND", help="Start a private valkey or postgres server instead, and kill it, too."
        ),
    ] = None,
    kills: Annotated[int, typer.Option("--kills", metavar="N", min=0, help="Kill so many processes.")] = 30,
    hosts: Annotated[int, typer.Option("--hosts", metavar="N", min=1, help="Processes that run jobs.")] = 3,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=1, help="Over so many seconds.")] = 30.0,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Make the same choices again.", show_default="by chance")
    ] = None,
    clock: Annotated[bool, typer.Option("--clock", help="The clock of one host is an hour off.")] = False,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIRECTORY", help="Keep the journals there.", show_default="if a promise broke"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Kill the processes that use a store, at random, and check that it keeps its promises.

    Hosts and producers are started on a queue of their own; whoever is killed has a successor. In the end clean ones
    do what is left, and what they all have written down is held against the store.

    Exit code: 0 every promise was kept; 1 some was not, and each is printed; 2 it could not be tried.
    """
    from aiopool._torture.report import as_json as json_of
    from aiopool._torture.report import print_outcome
    from aiopool._torture.servers import PACKAGES
    from aiopool._torture.torture import Options, torture
    from aiopool.errors import StoreError

    if server is not None and (server not in PACKAGES or store is not None):
        raise typer.BadParameter(f"--server is one of {', '.join(PACKAGES)}, in place of --store")
    options = Options(store, server, kills, hosts, seconds=seconds, seed=seed, clock=clock, keep=keep)
    try:
        outcome = asyncio.run(torture(options))
    except (StoreError, ValueError, RuntimeError) as error:
        typer.echo(f"aiopool torture: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json_of(outcome))
    else:
        print_outcome(outcome)
    raise typer.Exit(0 if outcome.ok else 1)
