"""The servers that the rows with real requests talk to: each a process of its own on the loopback address.

A server is started once for a run, in a directory that goes with it. What it uses is not counted: the CPU time in the
tables is that of the client process. A server whose program is not on this machine is a reason to skip, never an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
START_TIMEOUT = 60.0


class Http(asyncio.Protocol):
    """Answer each GET of a connection that is kept alive: the cheapest server that a client cannot tell from others."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        *requests, self.data = (self.data + data).split(b"\r\n\r\n")
        self.transport.write(ANSWER * len(requests))  # type: ignore[attr-defined]


async def _serve_http(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Http, "127.0.0.1", port)
    await server.serve_forever()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode} before it answered")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} did not answer within {START_TIMEOUT:g} s")


@contextlib.contextmanager
def running(command: list[str], port: int, **options: object) -> Iterator[str]:
    """Run a server that listens on a port of this machine, from when it answers; return its address."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    try:
        _wait_for(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def http() -> Iterator[str]:
    """Serve HTTP with asyncio."""
    port = free_port()
    with running([sys.executable, "-m", "benchmarks.servers", str(port)], port) as address:
        yield address


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """Serve Redis, without a file."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
        with running(command, port) as address:
            yield address


def _postgres_program(name: str) -> str | None:
    """Return where a program of PostgreSQL is: distributions do not put its servers on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Serve PostgreSQL, with a new cluster; it refuses to run as root, and then runs as `nobody`."""
    port = free_port()
    initdb, server = _postgres_program("initdb"), _postgres_program("postgres")
    assert initdb is not None
    assert server is not None
    with tempfile.TemporaryDirectory() as directory:
        who: dict[str, object] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        if who:
            shutil.chown(directory, "nobody", "nogroup")
        data = f"{directory}/data"
        subprocess.run(  # type: ignore[call-overload]
            [initdb, "-D", data, "-U", "bench", "-A", "trust", "-N"],
            check=True,
            capture_output=True,
            cwd=directory,
            **who,
        )
        options = ["-c", "fsync=off", "-c", "max_connections=200", "-c", f"unix_socket_directories={directory}"]
        command = [server, "-D", data, "-p", str(port), "-h", "127.0.0.1", *options]
        with running(command, port, cwd=directory, **who) as address:
            yield address


SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
    "http": http,
    "redis": redis,
    "postgres": postgres,
}


def missing(name: str) -> str | None:
    """Say why a server cannot be started here, or None."""
    program = {"redis": "redis-server", "postgres": "initdb"}.get(name)
    if program is None or shutil.which(program) or (name == "postgres" and _postgres_program(program)):
        return None
    return f"there is no `{program}` on this machine"


if __name__ == "__main__":
    asyncio.run(_serve_http(int(sys.argv[1])))
