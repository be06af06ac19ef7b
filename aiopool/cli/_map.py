"""`aiopool map`: from the options to an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiopool import Pool, run
from aiopool._runtime.signals import SignalHandler
from aiopool.cli._board import LiveDisplay, PlainDisplay, ProgressDisplay
from aiopool.cli._call import Arguments, BadLineError, SetupError, contained
from aiopool.cli._fields import LineFields
from aiopool.cli._options import MapOptions
from aiopool.cli._output import Output, check_output, open_output, read_output
from aiopool.cli._past import Past
from aiopool.cli._process import ProcessTarget, check_plain
from aiopool.cli._record import JsonRecord, RawRecord
from aiopool.cli._results import Results
from aiopool.cli._setup import Setup
from aiopool.cli._source import Item, Source
from aiopool.cli._streams import screen, take_standard_streams
from aiopool.cli._target import check_function, find_function
from aiopool.cli._words import BROKEN_PIPE, FAILED, MISUSED, Refusal, one_line
from aiopool.cli._work import MapRun

__all__ = ["map_lines"]


def map_lines(target: str, files: Sequence[str], **given: Any) -> int:
    """Apply a function to every line, and return the exit code; `given` are the options of the command."""
    live = screen(2) is not None and os.environ.get("TERM") != "dumb"
    # Results that share the terminal with the bar are printed above it.
    shared = live and screen(1) == screen(2)
    try:
        options = MapOptions.checked(**given)
        stdin, stdout = take_standard_streams()
        arguments = Arguments(
            options.arguments, (None,) if options.setup is not None else (), per_worker=options.setup_per_worker
        )
        with contextlib.redirect_stdout(sys.stderr):
            function = find_function(target)
            setup = None if options.setup is None else Setup(options.setup)
            if options.dry_run or options.processes:  # it is there, and is not opened here
                setup = None
        check_function(target, function, arguments)
        if options.processes:
            check_plain(target, function)
        source = Source(
            files,
            stdin=stdin,
            as_json=options.as_json,
            null=options.null,
            fields=LineFields(options.priority_field, options.key_field),
            lines=options.total,
            complain=lambda line: board.say(line),
        )
        past = Past(only=source.only, retry_failed=options.retry_failed)
        output = _open(options, stdout, source, past)
    except Refusal as refusal:
        print(f"aiopool: {refusal}", file=sys.stderr)
        return MISUSED
    if options.mode == "resume":
        source.past = past
    results = Results(
        output.descriptor,
        output.path,
        show=(lambda line: board.say(line)) if shared else None,
        errors="surrogateescape" if options.raw or options.dry_run else "backslashreplace",
    )
    board: ProgressDisplay = LiveDisplay() if live and not source.from_terminal else PlainDisplay(options.every)
    if output.cut:
        board.say(f"the last line of {output.path} was torn when its run was killed: it was cut")
    work = MapRun(
        options,
        _call(options, target, function, arguments),
        source,
        RawRecord() if options.raw or options.dry_run else JsonRecord(several=source.several),
        results,
        board,
        failed_before=past.failed,
    )
    try:
        with contextlib.redirect_stdout(sys.stderr):
            pool = _pool(options, setup if options.setup_per_worker else None)
            code = _run(work, pool, source, board, None if options.setup_per_worker else setup, arguments)
    except SetupError as error:
        board.say(f"aiopool: {error}: nothing was run")
        return MISUSED
    finally:
        board.close()
        written = results.error is None
        results.close()
        if written and results.error is not None:
            board.say(f"{results.name} may not be on the disk: {results.error.strerror}")
    if results.error is not None:
        return BROKEN_PIPE if isinstance(results.error, BrokenPipeError) else FAILED
    return code


def _open(options: MapOptions, stdout: int, source: Source, past: Past) -> Output:
    """Open what results go to; a dry run opens no file for writing."""
    check_output(options.output, stdout, source.files)
    if options.output is not None and not options.dry_run:
        return open_output(options.output, options.mode, past, raw=options.raw)
    if options.output is not None and options.mode == "resume":
        read_output(options.output, past)
    return Output(stdout, None)


def _pool(options: MapOptions, setup: Setup | None = None) -> Pool:
    if options.dry_run:
        return Pool(1, queue_size=None, name="dry-run", on_error=_in_results)
    return Pool(
        options.size,
        queue_size=None,  # bounded by the buffer of `map`
        name="map",
        offload="process" if options.processes else "thread",
        max_processes=options.size if options.processes else None,
        timeout=options.timeout,
        retry=options.retry,
        limit=options.rate,
        key_limit=options.key_limit,
        on_error=_in_results,
        worker_context=None if setup is None else setup.open_each,
    )


def _call(
    options: MapOptions, target: str, function: Callable[..., Any], arguments: Arguments
) -> Callable[[Item], Any]:
    """Return what is called with each line."""
    if options.dry_run:
        return functools.partial(_told, target, options.arguments)
    if options.processes:
        return ProcessTarget(target, options.arguments, options.setup)
    return contained(function, arguments)


def _in_results(job: object, error: BaseException) -> None:
    """Nothing more is to be said: each failure is in the results."""


async def _told(target: str, arguments: Mapping[str, Any], item: Item) -> str:
    """Return the call that a dry run leaves out."""
    if item.problem is not None:
        raise BadLineError(item.problem)
    words = [repr(item.value), *(f"{name}={value!r}" for name, value in arguments.items())]
    return f"{target}({', '.join(words)})"


def _run(
    work: MapRun, pool: Pool, source: Source, board: ProgressDisplay, setup: Setup | None, arguments: Arguments
) -> int:
    last: list[int] = []
    failed: list[Exception] = []

    async def main(pool: Pool) -> int:
        work.pool = pool
        watch = SignalHandler(work.on_signal)
        watch.install(asyncio.get_running_loop())
        if source.from_terminal:
            board.say("reading from the terminal; end with Ctrl-D")
        stack = contextlib.AsyncExitStack()
        try:
            if setup is not None:
                arguments.resource = (await setup.open(stack),)
            code = await work()
        finally:
            try:
                await stack.aclose()
            except Exception as error:
                failed.append(error)
            last.append(watch.last or 0)
            watch.restore()
        if failed:
            board.say(f"what --setup opened could not be closed: {one_line(failed[0])}")
            code = code or FAILED
        return 128 + last[0] if code is None else code

    try:
        return int(run(main, pool=pool, timeout=None))
    except SystemExit as end:
        if not end.code and last and last[0]:  # it was cancelled before there was anything to finish
            return 128 + last[0]
        raise
