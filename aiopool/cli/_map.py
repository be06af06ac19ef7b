"""`aiopool map`: from the options to an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence

from aiopool import Pool, Retry, run
from aiopool._runtime.signals import SignalHandler
from aiopool.cli._board import LiveDisplay, PlainDisplay, ProgressDisplay
from aiopool.cli._results import STDOUT_NAMES, Results, check_output, screen, take_standard_streams
from aiopool.cli._source import Source
from aiopool.cli._target import BadLineError, find_function
from aiopool.cli._words import BROKEN_PIPE, FAILED, MISUSED, Refusal
from aiopool.cli._work import MapOptions, MapRun

__all__ = ["map_lines"]


def map_lines(
    target: str,
    files: Sequence[str],
    *,
    size: int,
    timeout: float | None,
    retries: int,
    as_json: bool,
    priority_field: str | None,
    ordered: bool,
    output: str | None,
    fail_fast: bool,
    every: float,
) -> int:
    """Apply a function to every line, and return the exit code."""
    live = screen(2) is not None and os.environ.get("TERM") != "dumb"
    # Results that share the terminal with the bar are printed above it.
    shared = live and screen(1) == screen(2)
    if output in STDOUT_NAMES:
        output = None
    try:
        if priority_field is not None and not as_json:
            raise Refusal("--priority-field takes the priority out of JSON objects: add --json")
        stdin, stdout = take_standard_streams()
        with contextlib.redirect_stdout(sys.stderr):
            function = find_function(target)
        source = Source(
            files,
            stdin=stdin,
            as_json=as_json,
            priority_field=priority_field,
            complain=lambda line: board.say(line),
        )
        check_output(output, stdout, source.files)
        results = Results(output, stdout, show=(lambda line: board.say(line)) if shared else None)
    except Refusal as refusal:
        print(f"aiopool: {refusal}", file=sys.stderr)
        return MISUSED
    board: ProgressDisplay = LiveDisplay() if live and not source.from_terminal else PlainDisplay(every)
    options = MapOptions(
        function,
        ordered=ordered,
        fail_fast=fail_fast,
        priorities=priority_field is not None,
        # Priorities have their effect among the lines that have been read.
        buffersize=max(1000 if priority_field is not None else 100, 2 * size),
    )
    pool = Pool(
        size,
        queue_size=None,  # bounded by the buffer of `map`
        name="map",
        timeout=timeout,
        retry=Retry(attempts=1 + retries, give_up_on=BadLineError) if retries else None,
        on_error=lambda job, error: None,  # each is in the results
    )
    try:
        with contextlib.redirect_stdout(sys.stderr):
            code = _run(MapRun(options, source, results, board), pool, source, board)
    finally:
        board.close()
        results.close()
    if results.error is not None:
        return BROKEN_PIPE if isinstance(results.error, BrokenPipeError) else FAILED
    return code


def _run(work: MapRun, pool: Pool, source: Source, board: ProgressDisplay) -> int:
    last: list[int] = []

    async def main(pool: Pool) -> int:
        watch = SignalHandler(work.on_signal)
        watch.install(asyncio.get_running_loop())
        if source.from_terminal:
            board.say("reading from the terminal; end with Ctrl-D")
        try:
            code = await work(pool)
        finally:
            last.append(watch.last or 0)
            watch.restore()
        return 128 + last[0] if code is None else code

    return int(run(main, pool=pool, timeout=None))
