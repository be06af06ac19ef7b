"""What a Redis server is like: how durable it is set, whether it throws keys away, how long it takes to answer.

What it may not be asked is unknown, and is said to be.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from aiopool.errors import StoreError, StoreUnavailableError
from aiopool.stores._redis_client import Client

__all__ = ["Server", "durability_of", "look", "measured", "warnings_of"]

_ROUNDS = 20


class Server(NamedTuple):
    """A server, as it describes itself. None: it does not say."""

    engine: str
    version: str | None
    appendonly: bool | None
    appendfsync: str | None
    policy: str | None
    role: str | None
    used_memory: int | None
    maxmemory: int | None

    @property
    def evicts(self) -> bool:
        """It throws away keys that have no expiry."""
        return self.policy is not None and self.policy.startswith("allkeys")

    def without_power(self) -> str | None:
        """Return why it cannot say that something is on its disk; None: it can."""
        if self.appendonly is False:
            return "the server has no append-only file, so nothing gets to its disk at once; set appendonly yes"
        if self.engine == "redis" and self.version is not None and _numbers(self.version) < (7, 2):
            return (
                f"Redis {self.version} has no WAITAOF, which came with 7.2; bring the server up to date, or use Valkey"
            )
        if self.engine == "valkey" and self.version is not None and _numbers(self.version) < (7, 2):
            return f"Valkey {self.version} has no WAITAOF; bring the server up to date"
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


async def look(client: Client) -> Server:
    """Ask a server what it is like.

    Raises:
        StoreError: it cannot be reached, or is too old.
    """
    info: dict[str, Any] = {}
    config: dict[str, str] = {}
    await client.command("PING")
    try:
        raw = await client.command("INFO")
        info = raw if isinstance(raw, dict) else {}
    except StoreUnavailableError:
        raise
    except StoreError:
        pass  # not permitted
    for name in ("appendonly", "appendfsync", "maxmemory-policy"):
        try:
            answer = await client.command("CONFIG", "GET", name)
        except StoreUnavailableError:
            raise
        except StoreError:
            break  # not permitted
        if isinstance(answer, dict):
            config |= {_word(key): _word(value) for key, value in answer.items()}
        elif len(answer) == 2:
            config[_word(answer[0])] = _word(answer[1])
    valkey = info.get("valkey_version") or ("valkey" if info.get("server_name") == "valkey" else None)
    version = info.get("valkey_version") or info.get("redis_version")
    aof = config.get("appendonly")
    appendonly = aof == "yes" if aof else (bool(info["aof_enabled"]) if "aof_enabled" in info else None)
    server = Server(
        "valkey" if valkey else "redis",
        None if version is None else str(version),
        appendonly,
        config.get("appendfsync"),
        config.get("maxmemory-policy") or info.get("maxmemory_policy"),
        info.get("role"),
        info.get("used_memory"),
        info.get("maxmemory"),
    )
    if server.engine == "redis" and server.version is not None and _numbers(server.version) < (6, 2):
        raise StoreError(
            f"Redis {server.version} is too old: this store needs 6.2, or Valkey; bring the server up to date"
        )
    return server


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def durability_of(server: Server, power: bool) -> str:
    """Return in one word what survives."""
    if server.appendonly is None:
        return "unknown"
    if not server.appendonly:
        return "nothing"
    return "power" if power or server.appendfsync == "always" else "process"


def warnings_of(server: Server, power: bool) -> list[str]:
    """Return what an operator should know."""
    warnings: list[str] = []
    if server.appendonly is None:
        warnings.append(
            "the server does not say whether it has an append-only file: without one a restart loses all jobs"
        )
    elif not server.appendonly:
        warnings.append(
            "the server has no append-only file: its next restart or crash LOSES all jobs that it has taken since its "
            "last snapshot, waiting ones and results; set appendonly yes"
        )
    if power and server.appendfsync == "everysec":
        warnings.append(
            "durability='power' with appendfsync everysec: each flush waits up to a second; set appendfsync always"
        )
    if server.evicts:
        warnings.append(f"maxmemory-policy is {server.policy}: the server throws jobs away when its memory is full")
    elif server.policy is None:
        warnings.append("the server does not say its maxmemory-policy: it must be noeviction")
    if server.role is not None and server.role not in ("master", "primary"):
        warnings.append(f"the server is a {server.role}: it takes no jobs; name the primary in the URL")
    return warnings


async def measured(client: Client, power: bool, sync: int) -> dict[str, Any]:
    """Return how long the server takes to answer, in seconds."""
    times = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        await client.command("PING")
        times.append(time.perf_counter() - begun)
    facts: dict[str, Any] = {"round_trip_seconds": sorted(times)[_ROUNDS // 2]}
    if power:
        begun = time.perf_counter()
        await client.run("settle", "[false,false]", sync=sync)
        facts["commit_seconds"] = time.perf_counter() - begun
    return facts
