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
from typing import Any, Final, TypeAlias, final

from aiopool._control.client import (
    GREETING,
    NO_DOOR,
    Connection,
    NoAnswerError,
    NoProgramError,
    ask_programs,
    connect,
)
from aiopool._control.problems import Problem
from aiopool.cli._http_door import HttpConnection, is_url, read_token, split_url
from aiopool.cli._store import complain
from aiopool.cli._words import FAILED, MISUSED, Refusal

__all__ = [
    "NOT_ALLOWED",
    "NO_ANSWER",
    "NO_DOOR",
    "Door",
    "Found",
    "at_door",
    "blocked_text",
    "exit_code",
    "find_programs",
    "open_door",
    "pool_target",
]

Door: TypeAlias = Connection | HttpConnection

NOT_ALLOWED: Final = 2
NO_ANSWER: Final = 3


def at_door(work: Callable[[], int]) -> int:
    """Run what a command does at doors, and return the exit code; say on standard error why something is not done."""
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


def open_door(target: str | None, token_file: str | None = None) -> tuple[Door, str | None]:
    """Return a connection to the program that a target names, and the pool that is meant.

    Args:
        target: an address, `http://127.0.0.1:8765/#mail`; or as in `connect`.
        token_file: has the token for an address.
    """
    if target is not None and is_url(target):
        url, pool = split_url(target)
        return HttpConnection(url, None if token_file is None else read_token(token_file)), pool
    if token_file is not None:
        raise Refusal("--token-file is for an address, and there is none: write http://127.0.0.1:8765/")
    _need_sockets()
    if target is not None and not target.strip("/ "):
        raise Refusal(f"{target!r} names nothing: write the name of a pool, a process id, or both: 4711/mail")
    return connect(target)


def pool_target(door: Door, pool: str) -> str:
    """Return how a pool of a program is named as a target."""
    return f"{door.url}#{pool}" if isinstance(door, HttpConnection) else f"{door.pid}/{pool}"


def _need_sockets() -> None:
    if sys.platform == "win32":
        raise Refusal("doors of programs are Unix sockets, and Python has none on Windows: write an address")


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
    _need_sockets()
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
