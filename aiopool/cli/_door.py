"""The door of a running program, opened for a command; and what the exit code is if it stays shut.

1  there is no such program or pool, or what was asked was refused
2  it is not allowed
3  the program, or its event loop, does not answer
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

from aiopool._control.client import GREETING, NO_DOOR, Connection, NoAnswerError, NoProgramError, ask_programs, connect
from aiopool._control.problems import Problem
from aiopool.cli._store import complain
from aiopool.cli._words import FAILED, MISUSED, Refusal

__all__ = [
    "NOT_ALLOWED",
    "NO_ANSWER",
    "NO_DOOR",
    "Found",
    "at_door",
    "blocked_text",
    "exit_code",
    "find_programs",
    "open_door",
]

NOT_ALLOWED: Final = 2
NO_ANSWER: Final = 3


def at_door(work: Callable[[], int]) -> int:
    """Run what a command does at doors, and return the exit code; say on standard error why something is not done."""
    if sys.platform == "win32":
        complain("doors of programs are Unix sockets, and Python has none on Windows")
        return MISUSED
    try:
        return work()
    except Refusal as refusal:
        complain(str(refusal))
        return MISUSED
    except (Problem, NoProgramError, NoAnswerError, PermissionError) as error:
        complain(str(error))
        return exit_code(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def exit_code(error: Exception) -> int:
    """Return the exit code for what a door has said, or for its silence."""
    kind = error.kind if isinstance(error, Problem) else None
    if isinstance(error, PermissionError) or kind == "not-allowed":
        return NOT_ALLOWED
    if isinstance(error, NoAnswerError) or kind == "loop-blocked":
        return NO_ANSWER
    return FAILED


def open_door(target: str | None) -> tuple[Connection, str | None]:
    """Return a connection to the program that a target names, and the pool that is meant; see `connect`."""
    if target is not None and not target.strip("/ "):
        raise Refusal(f"{target!r} names nothing: write the name of a pool, a process id, or both: 4711/mail")
    return connect(target)


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A program that has a door.

    Attributes:
        path: its socket.
        hello: what it says of itself; None: nothing.
        pools: the status of each of its pools.
        error: why there is nothing to say about it.
    """

    path: Path
    hello: dict[str, Any] | None
    pools: list[dict[str, Any]]
    error: Exception | None = None

    @property
    def pid(self) -> str:
        """The number of its process, as the name of its socket has it."""
        return self.path.stem if self.hello is None else str(self.hello["pid"])


def find_programs() -> list[Found]:
    """Ask all programs of this user that have a door how their pools are, all at once.

    Raises:
        PermissionError: the directory of the sockets is not this user's alone.
    """
    return ask_programs(_ask)


def _ask(path: Path) -> Found:
    try:
        with Connection(path, GREETING) as connection:
            pools = []
            for key in connection.hello["pools"]:
                with contextlib.suppress(Problem):  # it has closed meanwhile
                    pools.append(connection.ask("status", key))
            return Found(path, connection.hello, pools)
    except (NoAnswerError, PermissionError, Problem) as error:
        return Found(path, None, [], error)


def blocked_text(blocked: dict[str, Any]) -> str:
    """Return who blocks an event loop, in words: `blocked 3.2 s at app.py:41 in fetch`."""
    return f"blocked {blocked['seconds']:.1f} s at {blocked['where']}"
