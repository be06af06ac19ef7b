"""The options of `aiopool web` and `aiopool serve`."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["EXAMPLE", "serve_command", "web_command"]

Port = Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="The port; 0: a free one.")]
Listen = Annotated[
    str,
    typer.Option(
        "--listen", metavar="ADDRESS", help="Another address can be reached from elsewhere: it needs --token-file."
    ),
]
TokenFile = Annotated[
    str | None,
    typer.Option(
        "--token-file", metavar="FILE", help="The token of programs: Authorization: Bearer ...", show_default="none"
    ),
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Nobody may do more than look.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", metavar="NAME", help="A name of the server, besides its addresses. Repeatable."),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--origin", metavar="URL", help="How pages see it behind a proxy: https://pool.example.org. Repeatable."
    ),
]
RootPath = Annotated[str, typer.Option("--root-path", metavar="PATH", help="The prefix that a proxy takes off.")]

EXAMPLE = """Example: aiopool web mail

It prints a link that works once. --listen 0.0.0.0 --token-file token --host pool.example.org opens it to others."""


def web_command(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[PID|NAME]", show_default=False, help="A process, or a pool; none: the only one."),
    ] = None,
    port: Port = 8765,
    listen: Listen = "127.0.0.1",
    token_file: TokenFile = None,
    read_only: ReadOnly = False,
    hosts: Hosts = None,
    origins: Origins = None,
    root_path: RootPath = "",
) -> None:
    """Show the pools of a running program on a page, and over HTTP.

    The program has a door open: aiopool.control(), or AIOPOOL_CONTROL=1.

    Exit code: 0 told to end; 2 bad usage, or there is no such program.
    """
    from aiopool.cli._web import watch_program

    raise typer.Exit(
        watch_program(
            target,
            port=port,
            listen=listen,
            token_file=token_file,
            read_only=read_only,
            hosts=hosts or (),
            trusted_origins=origins or (),
            root_path=root_path,
        )
    )


def serve_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:HANDLERS",
            show_default=False,
            help="An aiopool.Handlers object; MODULE may be the path of a .py file.",
        ),
    ],
    store: Annotated[
        str | None,
        typer.Option("--store", "-s", metavar="URL", help="Where jobs survive.", show_default="jobs in memory"),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The pool, and its queue in a store.")] = "pool",
    size: Annotated[int, typer.Option("--size", "-n", metavar="N", min=1, help="Run N jobs at once.")] = 10,
    queue_size: Annotated[
        int, typer.Option("--queue-size", metavar="N", min=1, help="So many jobs may wait in memory; then 429.")
    ] = 100_000,
    shutdown_timeout: Annotated[
        float,
        typer.Option("--shutdown-timeout", metavar="SECONDS", min=0, help="How long jobs may go on after SIGTERM."),
    ] = 10.0,
    port: Port = 8765,
    listen: Listen = "127.0.0.1",
    token_file: TokenFile = None,
    read_only: ReadOnly = False,
    hosts: Hosts = None,
    origins: Origins = None,
    root_path: RootPath = "",
) -> None:
    """Run a pool whose jobs are submitted over HTTP, by the registered names of functions.

    Exit code: 0 told to end, and everything was finished; 143 and 130 it was told to end, and jobs were cancelled;
    1 the store failed; 2 bad usage.
    """
    from aiopool.cli._web import serve_handlers

    try:
        raise typer.Exit(
            serve_handlers(
                target,
                store,
                name,
                size=size,
                queue_size=queue_size,
                shutdown_timeout=shutdown_timeout,
                port=port,
                listen=listen,
                token_file=token_file,
                read_only=read_only,
                hosts=hosts or (),
                trusted_origins=origins or (),
                root_path=root_path,
            )
        )
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
