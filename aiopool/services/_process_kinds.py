"""Services that are nothing but processes: handles, bare pids, and commands that we start ourselves.

Invariant: the exit code of a process is read through the handle that its owner holds, never reaped behind its
back.
"""

import asyncio
import multiprocessing.process
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, final

from aiopool.services._command import Command, launch
from aiopool.services._kind import Ended, shown
from aiopool.services._process import ProcessId, alive, ancestors, identify

__all__ = ["CommandAdapter", "HandleAdapter", "PidAdapter"]

# The exit code arrives a moment after the process is gone: asyncio's child watcher and forkserver bring it.
_CODE_LAG = 1.0
_LOOK_AGAIN = 0.02


class _NoAsking:
    """What the kinds have in common that are nothing but processes: there is nothing else to ask."""

    restartable = False
    own_session = False
    asks = False

    @property
    def mark(self) -> str | None:
        return None

    def own_loop(self) -> asyncio.AbstractEventLoop | None:
        return None

    async def stop(self, force_at: float, deadline: float) -> None:
        return None


@final
class HandleAdapter(_NoAsking):
    """A process with a handle: one of `multiprocessing`, `subprocess`, asyncio or anyio."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._process: ProcessId | None = None
        self._identify()

    def _identify(self) -> None:
        pid = self._handle.pid
        if pid is None or self.code() is not None:
            return
        process = identify(pid)
        # Asked again: had it ended and been reaped before we looked, the number could be a stranger's by now.
        if self.code() is None:
            self._process = process

    def code(self) -> int | None:
        """The exit code, `None` while it runs or was never started. Reaps it, through its own handle."""
        if isinstance(self._handle, multiprocessing.process.BaseProcess):
            return self._handle.exitcode
        # subprocess and psutil find out when they are polled; asyncio and anyio are told, and have no such method.
        poll = getattr(self._handle, "poll", None)
        code: int | None = self._handle.returncode if poll is None else poll()
        return code

    async def start(self, wake: Callable[[], None]) -> None:
        if not isinstance(self._handle, multiprocessing.process.BaseProcess) or self._handle.pid is not None:
            raise RuntimeError(
                f"{shown(self._handle)} cannot be started again: a process runs once. Register what makes a new "
                "one: registry.add(type, lambda: multiprocessing.Process(target=...)) or "
                'registry.add(type, Command(["program", ...]))'
            )
        # In this thread: to fork from a helper thread would be to fork a process with more than one.
        self._handle.start()
        self._identify()

    def alive(self) -> bool | None:
        return self._process is not None and self.code() is None and alive(self._process)

    def roots(self) -> list[ProcessId]:
        return [] if self._process is None else [self._process]

    async def outcome(self) -> Ended:
        until = time.monotonic() + _CODE_LAG
        while (code := self.code()) is None and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_AGAIN)  # no event tells when the code is there
        if code is None:
            return Ended(False, "ended, with an exit code that nobody knows")
        return Ended(code == 0, f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}")


@final
class PidAdapter(_NoAsking):
    """A process of which nothing is known but the pid."""

    def __init__(self, pid: int) -> None:
        if pid <= 1 or pid == os.getpid() or pid in ancestors(os.getpid()):
            raise ValueError(f"process {pid} cannot be a service: it is this process, or one that it descends from")
        process = identify(pid)
        if process is None:
            raise ProcessLookupError(f"there is no process {pid}: it has ended already, or never was")
        self._process = process

    async def start(self, wake: Callable[[], None]) -> None:
        raise RuntimeError(
            f"process {self._process.pid} cannot be started: only its pid is known. "
            'Register what starts it: registry.add(type, Command(["program", ...]))'
        )

    def alive(self) -> bool | None:
        if alive(self._process):
            return True
        # A child of ours that was handed over as a bare number has nobody else to reap it.
        with suppress(ChildProcessError):
            os.waitpid(self._process.pid, os.WNOHANG)
        return False

    def roots(self) -> list[ProcessId]:
        return [self._process]

    async def outcome(self) -> Ended:
        return Ended(False, "ended, with an exit code that nobody knows")


@final
class CommandAdapter(_NoAsking):
    """A program that we start ourselves."""

    restartable = True
    own_session = True

    def __init__(self, command: Command) -> None:
        self._command = command
        self._running: HandleAdapter | None = None
        self._mark = uuid.uuid4().hex

    @property
    def mark(self) -> str:
        return self._mark

    async def start(self, wake: Callable[[], None]) -> None:
        self._running = HandleAdapter(await launch(self._command, self._mark))

    def alive(self) -> bool | None:
        return self._running is not None and self._running.alive()

    def roots(self) -> list[ProcessId]:
        return [] if self._running is None else self._running.roots()

    async def outcome(self) -> Ended:
        return Ended(False, "was never started") if self._running is None else await self._running.outcome()
