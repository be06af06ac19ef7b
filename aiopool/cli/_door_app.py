"""`aiopool ps`, `aiopool ctl` and `aiopool top`: their options, in typer's words. No logic."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["CTL_EXAMPLE", "ctl_command", "ps_command", "top_command"]

CTL_EXAMPLE = """Example: aiopool ctl status; aiopool ctl jobs mail status=queued limit=10;
aiopool ctl drain mail timeout=30 --wait"""


TokenFile = Annotated[
    str | None,
    typer.Option("--token-file", metavar="FILE", show_default="none", help="The token for an address, in a file."),
]


def ps_command(as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each pool.")] = False) -> None:
    """List the programs of this user that have a door open, and their pools.

    A program opens its door with aiopool.control(), or if AIOPOOL_CONTROL=1 is in its environment.

    Exit code: 0 there are some; 1 no program has a door open; 2 not allowed; 3 none of them answers;
    141 nobody reads the output.
    """
    from aiopool.cli._ps import list_programs

    raise typer.Exit(list_programs(as_json=as_json))


def ctl_command(
    verb: Annotated[
        str | None,
        typer.Argument(metavar="VERB", show_default=False, help="What to ask or to do; none, or help: list the verbs."),
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET] [KEY=VALUE]...",
            show_default=False,
            help="A pool (mail), a process (4711) or both (4711/mail), if there are several, or an address "
            "(http://127.0.0.1:8765/#mail); then what the verb takes. KEY:=JSON for what is no text.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as a line of JSON.")] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="drain, shutdown: return when the pool has closed. operation, cancel_group: when it is done."
        ),
    ] = False,
    token_file: TokenFile = None,
) -> None:
    """Ask a running program about its pools, or steer them.

    Exit code: 0 done; 1 refused, or there is no such program, pool or job; 2 not allowed, or bad usage;
    3 the program or its event loop does not answer; 130 ended by Ctrl-C; 141 nobody reads the output.
    """
    from aiopool.cli._ctl import control

    raise typer.Exit(control(verb, words or [], as_json=as_json, wait=wait, token_file=token_file))


def top_command(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            show_default=False,
            help="A pool (mail), a process (4711) or both (4711/mail), or the address of a pool over HTTP "
            "(http://127.0.0.1:8765/#mail); none: the only one, or a list to choose from.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one frame as text; needs no terminal.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print frame after frame as text; needs no terminal.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one frame as JSON; with --interval, a line for each.")
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option("--interval", "-i", metavar="SECONDS", min=0.1, help="Between frames.", show_default="1"),
    ] = None,
    view: Annotated[
        str, typer.Option("--show", metavar="VIEW", help="running, waiting, failed, groups, loop or what-if.")
    ] = "running",
    filter: Annotated[
        str,
        typer.Option(
            "--filter",
            "-f",
            metavar="TEXT",
            help="Only these rows: words of the row, or name=, group=, error=, label=.",
        ),
    ] = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="Look only: no key steers anything.")] = False,
    token_file: TokenFile = None,
) -> None:
    """Watch a pool of a running program.

    Exit code: 0 left, or printed; 1 no such program or pool, or it has ended; 2 not allowed, or bad usage;
    3 the program does not answer; 130 ended by Ctrl-C; 141 nobody reads the output.
    """
    from aiopool.cli._top import top

    raise typer.Exit(
        top(
            target,
            once=once,
            plain=plain,
            as_json=as_json,
            interval=interval,
            view=view,
            filter=filter,
            read_only=read_only,
            token_file=token_file,
        )
    )
