"""Start programs of our own: in a session of their own, marked, and, if wished, bound to our life.

A program that we start gets a session, so that all that it starts can be found and ended with it, and a mark
in its environment, which is found even in a daemon that has left the session.

Invariant: a command that shall die with its parent is started by one thread that lives as long as this
process, for the kernel takes *parent* to mean the thread.
"""

import asyncio
import concurrent.futures
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, final

from aiopool._runtime import die_with_parent as _die_with_parent
from aiopool._runtime.faults import type_name
from aiopool.services._families import MARK

__all__ = ["Command", "launch"]


@final
@dataclass(frozen=True, slots=True, repr=False)
class Command:
    """A program that the registry starts, and starts again if asked to.

    It runs in a session of its own: Ctrl-C in the terminal does not reach it, and it is ended together with
    everything that it has started.

    Its `repr` names the program and counts its arguments and variables: both may hold secrets, so neither they nor any
    message of ours shows them.

    Args:
        argv: the program and its arguments; no shell is involved.
        cwd: the directory to start it in; `None` is ours.
        env: its whole environment; `None` is ours.
        stdin, stdout, stderr: as `subprocess.Popen` takes them. It reads nothing and writes where we write by
            default.
        die_with_parent: the kernel kills it at the moment this process ends, by `kill -9` too (Linux only).
            This goes for the program itself, not for what it has started in turn: for that, give the
            registry a `pid_dir`.

    Raises:
        TypeError: `argv` is one string, or holds something that is no string or path.
        ValueError: `argv` is empty.

    Example:
        >>> command = Command(["redis-server", "--port", "0"], die_with_parent=True)
        >>> command.argv[0]
        'redis-server'
    """

    argv: Sequence[str | os.PathLike[str]]
    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str] | None = None
    stdin: int | IO[Any] | None = subprocess.DEVNULL
    stdout: int | IO[Any] | None = None
    stderr: int | IO[Any] | None = None
    die_with_parent: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.argv, str):
            program = next(iter(self.argv.split()), "redis-server")
            raise TypeError(
                f"Command(text): argv is a list of words, and no shell splits them; write Command([{program!r}, ...])"
            )
        words = tuple(self.argv)
        if not words:
            raise ValueError('Command([]): name a program, as in Command(["redis-server"])')
        for place, word in enumerate(words):
            if not isinstance(word, (str, os.PathLike)):
                raise TypeError(
                    f"Command(argv): argv[{place}] is neither a string nor a path, but of type {type_name(word)}; "
                    f"write str(...) around it"
                )
        object.__setattr__(self, "argv", words)

    def __repr__(self) -> str:
        others = len(self.argv) - 1
        parts = [f"[{os.fspath(self.argv[0])!r}{f', {others} more' if others else ''}]"]
        if self.cwd is not None:
            parts.append(f"cwd={os.fspath(self.cwd)!r}")
        if self.env is not None:
            parts.append(f"env=<{len(self.env)} of its own>")
        if self.die_with_parent:
            parts.append("die_with_parent=True")
        return f"Command({', '.join(parts)})"


async def launch(command: Command, mark: str) -> subprocess.Popen[Any]:
    """Start the program.

    Args:
        command: what to start.
        mark: the value that its descendants are to be known by.

    Raises:
        FileNotFoundError, PermissionError: there is no such program, or it may not be run.
    """
    if not command.die_with_parent:
        return _start(command, mark, [])
    # Behind the wrapper nobody could tell us, so look first.
    _require_program(command)
    wrapper = [sys.executable, "-I", "-S", str(Path(_die_with_parent.__file__)), str(os.getpid())]
    future: concurrent.futures.Future[subprocess.Popen[Any]] = concurrent.futures.Future()
    _Starter.for_this_process().requests.put((future, command, mark, wrapper))
    try:
        return await asyncio.shield(asyncio.wrap_future(future))
    except asyncio.CancelledError:
        future.add_done_callback(_undo)  # nobody else will ever know of it
        raise


def _undo(future: "concurrent.futures.Future[subprocess.Popen[Any]]") -> None:
    if future.exception() is None:
        process = future.result()
        process.kill()
        process.wait()


def _start(command: Command, mark: str, wrapper: list[str]) -> subprocess.Popen[Any]:
    environment = dict(os.environ if command.env is None else command.env)
    # Nested registries: a process is known by the marks of all who have a hand in it.
    outer = environment.get(MARK)
    environment[MARK] = f"{outer},{mark}" if outer else mark
    return subprocess.Popen(  # noqa: S603 - the user says what to run; no shell sees it
        [*wrapper, *(os.fspath(word) for word in command.argv)],
        cwd=command.cwd,
        env=environment,
        stdin=command.stdin,
        stdout=command.stdout,
        stderr=command.stderr,
        start_new_session=True,
    )


def _require_program(command: Command) -> None:
    program = os.fspath(command.argv[0])
    search = None if command.env is None else command.env.get("PATH", os.defpath)
    if os.path.dirname(program) and not os.path.isabs(program) and command.cwd is not None:
        program = os.path.join(command.cwd, program)
    if shutil.which(program, path=search) is None:
        error = PermissionError if os.path.exists(program) else FileNotFoundError
        raise error(f"no program {os.fspath(command.argv[0])!r} that could be run")


@final
class _Starter:
    """The one thread that starts what shall die with this process; made when first needed."""

    # The mutable state is the one instance, which a forked child must not believe to be its own.
    _instance: "_Starter | None" = None
    _lock = threading.Lock()

    __slots__ = ("_pid", "requests")

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.requests: queue.SimpleQueue[
            tuple[concurrent.futures.Future[subprocess.Popen[Any]], Command, str, list[str]]
        ] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="aiopool-services-starter", daemon=True).start()

    @classmethod
    def for_this_process(cls) -> "_Starter":
        with cls._lock:
            if cls._instance is None or cls._instance._pid != os.getpid():
                cls._instance = cls()
            return cls._instance

    def _run(self) -> None:
        while True:
            future, command, mark, wrapper = self.requests.get()
            try:
                future.set_result(_start(command, mark, wrapper))
            except BaseException as error:
                future.set_exception(error)
            del future, command
