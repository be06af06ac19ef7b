"""The commands and their options, in typer's words. No logic: each command hands over to a module of its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aiopool.cli._complete import complete_target
from aiopool.cli._door_app import CTL_EXAMPLE, ctl_command, ps_command, top_command
from aiopool.cli._jobs_app import Queue, StoreUrl, jobs_app
from aiopool.cli._map import map_lines
from aiopool.cli._options import BACKOFFS
from aiopool.cli._plan_app import plan_command
from aiopool.cli._torture import torture_command
from aiopool.cli._web_app import EXAMPLE as WEB_EXAMPLE
from aiopool.cli._web_app import serve_command, web_command

__all__ = ["app"]

EXAMPLE = """Example: aiopool map check.py:check urls.txt --size 50 --timeout 10 --retries 2 --output results.jsonl

To go on after a stop of any kind: the same line with --resume."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(jobs_app, name="jobs")


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


@app.command("map", epilog=EXAMPLE)
def map_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            show_default=False,
            autocompletion=complete_target,
            help="An async or a plain function of one argument; MODULE may be the path of a .py file.",
        ),
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", show_default=False, help="Files to read; - or none: standard input."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", "-n", metavar="N", min=1, help="Work on N lines at once.", show_default="10"),
    ] = None,
    processes: Annotated[
        bool, typer.Option("--processes", "-p", help="Run a plain function on all processors, in N processes.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", "-t", metavar="SECONDS", min=0, help="For each attempt.", show_default="none"),
    ] = None,
    retries: Annotated[
        int, typer.Option("--retries", "-r", metavar="N", min=0, help="Further attempts after a failure.")
    ] = 0,
    delay: Annotated[
        float | None,
        typer.Option("--delay", metavar="SECONDS", min=0, help="Wait before the first retry.", show_default="1"),
    ] = None,
    backoff: Annotated[
        str | None,
        typer.Option(
            "--backoff",
            metavar="NAME",
            help="How that wait grows: " + ", ".join(BACKOFFS) + ".",
            show_default="exponential",
        ),
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="N/s", help="Start no more than that: 10/s, 100/m, 1/h.")
    ] = None,
    key_field: Annotated[
        str | None,
        typer.Option(
            "--key-field",
            metavar="FIELD",
            help="The key of a line: a field of JSON objects, the number of a column, or host of a URL.",
        ),
    ] = None,
    key_limit: Annotated[
        str | None,
        typer.Option("--key-limit", metavar="LIMIT", help="For each key: 2 at once, 10/s to start, or both: 2,10/s."),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Option("--arg", metavar="NAME=TEXT", help="One more argument; NAME:=JSON if it is no text. Repeatable."),
    ] = None,
    setup: Annotated[
        str | None,
        typer.Option(
            "--setup",
            metavar="MODULE:FUNCTION",
            autocompletion=complete_target,
            help="Returns a context manager: opened once, and given to each call as second argument.",
        ),
    ] = None,
    setup_per_worker: Annotated[
        bool, typer.Option("--setup-per-worker", help="Each of the N workers opens its own, for one call at a time.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Each line is a JSON value, and is passed as that.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="Lines end with a zero byte, as of find -print0.")] = False,
    priority_field: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The field of JSON objects with their priority: lower goes first."),
    ] = None,
    ordered: Annotated[bool, typer.Option("--ordered", "-k", help="Write results in the order of the lines.")] = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write results there.", show_default="standard output"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip the lines that FILE has results of; write the others to it.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="As --resume, and run lines that failed again.")
    ] = False,
    append: Annotated[bool, typer.Option("--append", help="Add to FILE.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write what the function returns, as text; failures are shown only.")
    ] = False,
    halt: Annotated[
        str | None,
        typer.Option("--halt", metavar="WHEN", help="Stop at fail=3 or fail=10%; soon,fail=3 finishes what runs."),
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="The same as --halt fail=1.")] = False,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Show tracebacks of failures; results have them always.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the calls that would be made, and make none.")
    ] = False,
    total: Annotated[
        int | None,
        typer.Option("--total", metavar="N", min=1, help="How many lines come, where the input cannot tell."),
    ] = None,
    every: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="Between lines of progress, where there is no terminal."),
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
        "processes": processes,
        "timeout": timeout,
        "retries": retries,
        "delay": delay,
        "backoff": backoff,
        "rate": rate,
        "key_field": key_field,
        "key_limit": key_limit,
        "arguments": arguments or (),
        "setup": setup,
        "setup_per_worker": setup_per_worker,
        "as_json": as_json,
        "null": null,
        "priority_field": priority_field,
        "ordered": ordered,
        "output": output,
        "resume": resume,
        "retry_failed": retry_failed,
        "append": append,
        "overwrite": overwrite,
        "raw": raw,
        "halt": halt,
        "fail_fast": fail_fast,
        "show_traceback": show_traceback,
        "dry_run": dry_run,
        "total": total,
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


@app.command("worker")
def worker_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:HANDLERS",
            show_default=False,
            help="An aiopool.Handlers object; MODULE may be the path of a .py file.",
        ),
    ],
    store: StoreUrl,
    queue: Queue = "pool",
    size: Annotated[int, typer.Option("--size", "-n", metavar="N", min=1, help="Run N jobs at once.")] = 10,
    shutdown_timeout: Annotated[
        float,
        typer.Option(
            "--shutdown-timeout",
            metavar="SECONDS",
            min=0,
            help="How long running jobs may go on after SIGTERM; then they are given back.",
        ),
    ] = 0.0,
    log_level: Annotated[
        str, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical.")
    ] = "info",
) -> None:
    """Run the jobs of a store until SIGTERM or Ctrl-C.

    Exit code: 0 told to end, and everything was finished or given back; 1 the store or the pool failed; 2 bad usage, or
    the store cannot be opened.
    """
    from aiopool.cli._worker import run_worker

    try:
        raise typer.Exit(
            run_worker(target, store, queue, size=size, shutdown_timeout=shutdown_timeout, log_level=log_level)
        )
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command("doctor")
def doctor_command(
    store: StoreUrl,
    queue: Queue = "pool",
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON.")] = False,
) -> None:
    """Open a store, and say what it is, what is promised with it, and what is wrong with it.

    Exit code: 0 fine; 1 there are warnings; 2 it cannot be opened; 141 nobody reads the output.
    """
    from aiopool.cli._doctor import examine_store

    raise typer.Exit(examine_store(store, queue, as_json=as_json))


app.command("torture")(torture_command)
app.command("plan")(plan_command)
app.command("ps")(ps_command)
app.command("ctl", epilog=CTL_EXAMPLE)(ctl_command)
app.command("top")(top_command)
app.command("web", epilog=WEB_EXAMPLE)(web_command)
app.command("serve")(serve_command)
