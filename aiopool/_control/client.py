"""`Connection`: the other end of a control socket; and which programs of this user have one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, final

from aiopool._control.paths import own_directory, sockets
from aiopool._control.problems import Problem

__all__ = ["NO_DOOR", "Connection", "NoAnswerError", "NoProgramError", "ask_programs", "connect", "programs"]

T = TypeVar("T")

# A verb has 5 s; the thread that answers may get no processor for a while.
PATIENCE = 10.0
# Seconds for a program to say who it is: it needs no more than a thread of its own for that.
GREETING = 3.0
_OPEN_ONE = "write aiopool.control() in it, or start it with AIOPOOL_CONTROL=1"
NO_DOOR = f"no program has a door open: {_OPEN_ONE}"


class NoProgramError(Exception):
    """There is no program with an open door, or not the one that is meant."""


class NoAnswerError(Exception):
    """The program has not answered in time, or has gone away."""


@final
class Connection:
    """A connection to one program. It is for one thread at a time; close it, or use it as a `with` block.

    Attributes:
        path: the socket.
        hello: what the program says of itself.

    Raises:
        NoProgramError: nobody listens there.
        PermissionError: it is a program of another user.
        NoAnswerError: it does not answer.

    Example:
        with Connection(path) as connection:
            print(connection.ask("status", pool="mail")["numbers"])
    """

    def __init__(self, path: Path, patience: float = PATIENCE, *, greeting: float | None = None) -> None:
        self.path = path
        self._patience = patience
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(patience if greeting is None else greeting)
        try:
            self._socket.connect(os.fspath(path))
            self._file = self._socket.makefile("rwb")
            self.hello: dict[str, Any] = self.ask("hello")
            self._socket.settimeout(patience)
        except (FileNotFoundError, ConnectionRefusedError):
            self._socket.close()
            raise NoProgramError(f"nobody listens at {path}: the program has ended") from None
        except Problem as problem:
            self.close()
            if problem.kind == "not-allowed":
                raise PermissionError(problem.detail) from None
            raise
        except BaseException:
            self.close()  # the file, too: it holds the socket
            raise

    @property
    def pid(self) -> int:
        """The number of the process."""
        return int(self.hello["pid"])

    @property
    def is_gone(self) -> bool:
        """Whether the program has closed it, so that nothing can be asked here any more."""
        self._socket.setblocking(False)
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(self._patience)

    def again(self, patience: float = PATIENCE) -> Self:
        """Return another connection to the same program."""
        return type(self)(self.path, patience)

    def ask(
        self, verb: str, pool: str | None = None, *, on_behalf_of: Mapping[str, str] | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Ask something, and return the answer.

        Args:
            verb: what to ask.
            pool: the key of the pool; None: the only one.
            on_behalf_of: `who` asks, and their `access`; None: we do.
            arguments: of the verb; None is left out.

        Raises:
            Problem: it was refused, or did not work.
            NoAnswerError: there was no answer.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            request = {"verb": verb, "pool": pool, "args": given, "for": on_behalf_of}
            self._file.write(json.dumps(request).encode() + b"\n")
            self._file.flush()
            line = self._file.readline()
        except TimeoutError:
            raise NoAnswerError(f"{self.path} has not answered {verb!r} in time") from None
        except OSError as error:
            raise NoAnswerError(f"{self.path} has gone away: {error.strerror}") from None
        if not line:
            raise NoAnswerError(f"{self.path} has gone away")
        answer = json.loads(line)
        if "problem" in answer:
            raise Problem.from_dict(answer["problem"])
        found: dict[str, Any] = answer["ok"]
        return found

    def abort(self) -> None:
        """End what another thread asks at this moment, with a `NoAnswerError`. The connection is of no use any more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError, AttributeError):
            self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ask_programs(ask: Callable[[Path], T]) -> list[T]:
    """Do something with the socket of each program of this user, all at once; return what came of it.

    One that nobody listens at any more (`ask` raises `NoProgramError`) is removed, and left out.

    Raises:
        PermissionError: the directory of the sockets is not this user's alone.
    """
    paths = sockets()
    with ThreadPoolExecutor(max(1, min(16, len(paths)))) as threads:
        under_way = [(path, threads.submit(ask, path)) for path in paths]
    found = []
    for path, answer in under_way:
        try:
            found.append(answer.result())
        except NoProgramError:
            with contextlib.suppress(OSError):
                path.unlink()  # of a process that was killed
    return found


def programs() -> list[Connection]:
    """Return connections to all programs of this user that have a door open, and answer; close them.

    Raises:
        PermissionError: the directory of the sockets is not this user's alone.
    """
    return [connection for connection in ask_programs(_greet) if connection is not None]


def _greet(path: Path) -> Connection | None:
    try:
        return Connection(path, greeting=GREETING)
    except (NoAnswerError, PermissionError, Problem):
        return None  # stopped, or not for us: it cannot be the one that is meant


def connect(target: str | None) -> tuple[Connection, str | None]:
    """Find a program by the number of its process, or by the name of a pool of it.

    Args:
        target: `4711`, `mail`, `4711/mail`, or the path of a socket; None: the only program there is.

    Returns:
        The connection, and the key of the pool that is meant; None: the only one.

    Raises:
        NoProgramError: there is no such program, or there are several; the text says which.
        NoAnswerError: it does not answer.
        PermissionError: it is not allowed.
    """
    if target is not None and os.sep in target and target.endswith(".sock"):
        return Connection(Path(target)), None
    wanted, _, pool = (target or "").partition("/")
    if wanted.isdecimal() and wanted:
        path = own_directory(make=False) / f"{wanted}.sock"
        if not path.exists():
            raise NoProgramError(f"process {wanted} has no door open: {_OPEN_ONE}")
        return Connection(path), pool or None
    found = programs()
    fitting = [one for one in found if not wanted or wanted in one.hello["pools"]]
    chosen = fitting[0] if len(fitting) == 1 else None
    for one in found:
        if one is not chosen:
            one.close()
    if chosen is not None:
        return chosen, wanted or None
    if not found:
        raise NoProgramError(NO_DOOR)
    names = ", ".join(f"{one.pid} ({', '.join(one.hello['pools']) or 'no pool'})" for one in found)
    if not fitting:
        raise NoProgramError(f"no program has an open pool {wanted!r}; there are: {names}")
    raise NoProgramError(f"which one? There are: {names}")
