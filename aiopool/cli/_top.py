"""`aiopool top`: a pool of a running program, as frames of text or on a screen of its own (`_top_app`)."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time

from aiopool._control.client import Connection, NoAnswerError, NoProgramError
from aiopool._control.problems import Problem
from aiopool.cli._door import NO_DOOR, at_door, exit_code, find_programs, open_door, pool_target
from aiopool.cli._frame import frame, rows_in
from aiopool.cli._job_text import to_line
from aiopool.cli._look import MAX_ROWS, VIEWS, Wanted, Watcher, ended_text
from aiopool.cli._store import complain
from aiopool.cli._streams import write_output
from aiopool.cli._words import FINE, MISUSED, Refusal

__all__ = ["top"]

NO_TEXTUAL = (
    "aiopool top needs textual, which is not installed; in the checkout of aiopool, write: "
    'pip install -e ".[top]"; without it there are aiopool top --plain and aiopool top --once'
)


def top(
    target: str | None,
    *,
    once: bool,
    plain: bool,
    as_json: bool,
    interval: float | None,
    view: str,
    filter: str,
    read_only: bool,
    token_file: str | None,
) -> int:
    """Show a pool until somebody leaves, and return the exit code."""

    def work() -> int:
        if once and plain:
            raise Refusal("--once --plain: write one of them")
        if view not in VIEWS:
            raise Refusal(f"--show {view}: write one of {', '.join(VIEWS)}")
        wanted = Wanted.of(filter)
        if once or plain or as_json:
            every = None if once else interval if as_json else (interval or 1.0)
            with contextlib.closing(Watcher(*open_door(target, token_file), read_only=read_only)) as watcher:
                return _frames(watcher, every, view, wanted, as_json=as_json)
        return _screen(target, token_file, interval or 1.0, view, wanted, read_only=read_only)

    return at_door(work)


def _frames(watcher: Watcher, every: float | None, view: str, wanted: Wanted, *, as_json: bool) -> int:
    """Print frames: one, or one every so many seconds."""
    first = True
    while True:
        # On a terminal a frame fits; elsewhere nothing is cut, unless COLUMNS and LINES say so.
        width, height = shutil.get_terminal_size((0, 0))
        try:
            rows = MAX_ROWS if not height or wanted.words else rows_in(height - 1)
            look = watcher.look(view, rows, wanted)
        except (NoProgramError, NoAnswerError, Problem) as error:
            if first:
                raise
            complain(ended_text(error, watcher))
            return exit_code(error)
        text = to_line(look.to_dict()) if as_json else "\n".join(frame(look, width, max(0, height - 1))) + "\n"
        if code := write_output(text if first or as_json else f"\n{text}"):
            return code
        if every is None:
            return FINE
        first = False
        time.sleep(every)


def _screen(
    target: str | None, token_file: str | None, interval: float, view: str, wanted: Wanted, *, read_only: bool
) -> int:
    """Show it on the terminal until somebody leaves."""
    try:
        from aiopool.cli._top_app import TopApp  # takes half a second to load
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "textual":
            raise
        complain(NO_TEXTUAL)
        return MISUSED
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        complain("aiopool top draws on a terminal, and there is none: write aiopool top --once, --plain or --json")
        return MISUSED
    watcher = _one_watcher(target, token_file, read_only=read_only)
    app = TopApp(watcher, interval=interval, view=view, wanted=wanted, read_only=read_only)
    try:
        app.run()
    finally:
        app.let_go()
    if app.left_because:
        complain(app.left_because)
    return app.return_code or 0


def _one_watcher(target: str | None, token_file: str | None, *, read_only: bool) -> Watcher | None:
    """Return who watches the pool that is meant; None: there are several, and one is to be chosen.

    Raises:
        NoProgramError: there is none.
    """
    if target is not None or token_file is not None:
        connection, pool = open_door(target, token_file)
        if pool is None and len(connection.hello["pools"]) > 1:
            connection.close()
            names = ", ".join(pool_target(connection, key) for key in connection.hello["pools"])
            raise NoProgramError(f"which pool? Write one of {names}")
        return Watcher(connection, pool, read_only=read_only)
    found = find_programs()
    if not found:
        raise NoProgramError(NO_DOOR)
    pools = [(program, status["pool"]) for program in found for status in program.pools]
    if len(pools) != 1:
        return None
    program, key = pools[0]
    return Watcher(Connection(program.path), key, read_only=read_only)
