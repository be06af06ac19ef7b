"""Real web servers in processes of their own: each is handed a socket that listens already, so it needs no port.

A request that comes before the server is up waits in that socket; nobody has to ask whether it is ready.
"""

import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

UVICORN = ["-m", "uvicorn", "--fd", "{fd}"]
GUNICORN = ["-m", "gunicorn", "--bind", "fd://{fd}"]
HYPERCORN = ["-m", "hypercorn", "--bind", "fd://{fd}"]


class Server:
    """A server in a process of its own; what it and its workers write is read line by line, whoever waits for it."""

    def __init__(self, process: "subprocess.Popen[str]", address: tuple[str, int]) -> None:
        self.process = process
        self.address = address
        self.lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def text(self) -> str:
        """What was written so far."""
        return "".join(self.lines)

    def wait_for(self, *wanted: str) -> None:
        """Wait until each of these lines was written, as often as it is named here."""
        with self._news:
            self._news.wait_for(lambda: self._ended or not self._missing(wanted))
            assert not self._missing(wanted), f"the server ended without {self._missing(wanted)}:\n{self.text}"

    def _missing(self, wanted: Sequence[str]) -> list[str]:
        missing = list(wanted)
        for line in self.lines:
            with contextlib.suppress(ValueError):
                missing.remove(line.strip())
        return missing

    def end(self) -> int:
        """Wait until the server and its workers have gone, and return its exit code."""
        self._reader.join(80)
        assert not self._reader.is_alive(), f"the server did not end:\n{self.text}"
        return self.process.wait(60)

    def said(self, words: str) -> int:
        """Count how often something was written: anywhere in a line, since several processes write to one pipe."""
        return len(re.findall(rf"\b{words}\b", self.text))

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        """Ask for something in JSON, on a connection of its own."""
        with contextlib.closing(http.client.HTTPConnection(*self.address, timeout=60)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.load(answer)


@contextlib.contextmanager
def serving(words: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Start `python WORDS` in a directory; `{fd}` in them is the socket on which it has to listen."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        process = subprocess.Popen(
            [sys.executable, *[word.format(fd=listening.fileno()) for word in words]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )
        address = listening.getsockname()
    # Only the server has the socket now: when it has gone, whoever still wants in is refused and does not wait.
    with process:
        watchdog = threading.Timer(100, os.killpg, [process.pid, signal.SIGKILL])
        watchdog.start()
        try:
            yield Server(process, address)
        finally:
            watchdog.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def need(*modules: str) -> None:
    """Skip the test unless all of these are installed."""
    if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}; the extras `test` and `ecosystem` bring them")
