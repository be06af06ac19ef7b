"""`aiopool map`: from the options to an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from aiopool import Pool, Retry, run
from aiopool._signals import SignalWatch
from aiopool.cli._board import Board, LiveBoard, PlainBoard
from aiopool.cli._results import Results, close_broken_output, screen
from aiopool.cli._source import Source, paths, reads_terminal
from aiopool.cli._target import find_function
from aiopool.cli._words import BROKEN_PIPE, MISUSED, Refusal
from aiopool.cli._work import Plan, Work

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
    try:
        if priority_field is not None and not as_json:
            raise Refusal("--priority-field takes the priority out of JSON objects: add --json")
        function = find_function(target)
        source = Source(files, as_json=as_json, complain=lambda line: board.say(line))
        live = screen(2) is not None and os.environ.get("TERM") != "dumb"
        # Results that share the terminal with the bar are printed above it.
        shared = live and screen(1) == screen(2)
        results = Results(output, inputs=paths(source), show=(lambda line: board.say(line)) if shared else None)
    except Refusal as refusal:
        print(f"aiopool: {refusal}", file=sys.stderr)
        return MISUSED
    board: Board = LiveBoard() if live and not reads_terminal(source) else PlainBoard(every)
    plan = Plan(
        function,
        ordered=ordered,
        fail_fast=fail_fast,
        priority_field=priority_field,
        # Priorities have their effect among the lines that have been read.
        window=max(1000, 2 * size) if priority_field is not None else 2 * size,
    )
    try:
        # What the function prints must not come between the results.
        with contextlib.redirect_stdout(sys.stderr):
            return _run(plan, source, results, board, size=size, timeout=timeout, retries=retries)
    finally:
        board.close()
        results.close()


def _run(
    plan: Plan, source: Source, results: Results, board: Board, *, size: int, timeout: float | None, retries: int
) -> int:
    pool = Pool(
        size,
        queue_size=None,  # bounded by the window
        name="map",
        timeout=timeout,
        retry=Retry(attempts=1 + retries) if retries else None,
        on_error=lambda job, error: None,  # each is in the results
    )
    last: list[int] = []

    async def main(pool: Pool) -> int:
        import asyncio

        work = Work(plan, source, results, board)
        watch = SignalWatch(work.on_signal)
        watch.install(asyncio.get_running_loop())
        if reads_terminal(source):
            board.say("reading from the terminal; end with Ctrl-D")
        try:
            code = await work(pool)
        finally:
            last.append(watch.last or 0)
            watch.restore()
        return 128 + last[0] if code is None else code

    code: Any = run(main, pool=pool, timeout=None)
    if code == BROKEN_PIPE:
        close_broken_output()
    return int(code)
