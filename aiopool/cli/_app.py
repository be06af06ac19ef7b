"""The commands and their options, in typer's words. No logic: each command hands over to a module of its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aiopool.cli._map import map_lines

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"aiopool {version('aiopool')}")
        except PackageNotFoundError:  # run from a checkout that is not installed
            print("aiopool (not installed)")
        raise typer.Exit


@app.callback()
def aiopool(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """A supervised pool of coroutine workers for asyncio."""


@app.command("map")
def map_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            show_default=False,
            help="An async or a plain function of one argument; MODULE may be the path of a .py file.",
        ),
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", show_default=False, help="Files to read; - or none: standard input."),
    ] = None,
    size: Annotated[int, typer.Option("--size", "-n", min=1, help="How many lines are worked on at once.")] = 10,
    timeout: Annotated[
        float | None, typer.Option("--timeout", "-t", min=0, help="Seconds for each attempt.", show_default="none")
    ] = None,
    retries: Annotated[int, typer.Option("--retries", "-r", min=0, help="Further attempts after a failure.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Each line is a JSON value, and is passed as that.")] = False,
    priority_field: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The field of JSON objects with their priority: lower goes first."),
    ] = None,
    ordered: Annotated[bool, typer.Option("--ordered", help="Write results in the order of the lines.")] = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write results there.", show_default="standard output"),
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False,
    every: Annotated[
        float, typer.Option(min=0, help="Seconds between lines of progress, where there is no terminal.")
    ] = 5.0,
) -> None:
    """Apply a function to every line of the input, many at a time.

    Results are lines of JSON: line, input, ok, result or error, attempts, seconds. Progress goes to standard error.

    The first Ctrl-C stops reading and finishes what is under way, the second cancels it, the third leaves at once.

    Exit code: 0 all succeeded; 1 some failed; 2 bad usage; 130 interrupted (143 by SIGTERM);
    141 nobody reads the output.
    """
    options: dict[str, Any] = {
        "size": size,
        "timeout": timeout,
        "retries": retries,
        "as_json": as_json,
        "priority_field": priority_field,
        "ordered": ordered,
        "output": output,
        "fail_fast": fail_fast,
        "every": every,
    }
    try:
        raise typer.Exit(map_lines(target, files or [], **options))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command("settings")
def settings_command(
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="A settings file.", show_default="AIOPOOL_FILE")
    ] = None,
    pool: Annotated[
        str | None, typer.Option("--pool", "-p", metavar="NAME", help="One pool of it.", show_default="AIOPOOL_POOL")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each pool.")] = False,
) -> None:
    """Print the settings that a pool would get here and now, and where each of them comes from.

    Exit code: 0 they can be used; 2 they cannot, and every reason is printed; 141 nobody reads the output.
    """
    from aiopool.cli._settings import show_settings  # loads pydantic, which no other command needs

    raise typer.Exit(show_settings(file, pool, as_json=as_json))
