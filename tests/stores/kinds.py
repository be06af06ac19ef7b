"""The kinds of stores that the conformance tests run on: one entry each.

To add one, write an async context manager that gives a `Maker`, and enter it in `KINDS`. All stores that one maker
makes are on the same data, as those of several processes are; the data of two makers have nothing in common.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pg_server import why_not_package
from redis_servers import REDIS, VALKEY, kind_of

from aiopool.stores._memory import Memory
from aiopool.stores._protocol import Store
from aiopool.stores._sqlite import SQLite

__all__ = ["KINDS", "Kind", "Maker"]


class Maker(Protocol):
    """Makes stores on one data."""

    def __call__(self, **options: Any) -> Store:
        """Return a new store, not yet open: one incarnation. Options are those of the constructor, as `keep`."""

    async def kill(self, store: Store) -> None:
        """Let an open store die as SIGKILL would, at once: it says no word any more, and when this returns the next
        sweep of another one finds it dead (of a store with leases: its lease is over)."""

    async def shift_clock(self, seconds: float) -> None:
        """Set the clock of all of these stores, open and to come, ahead, or back. Leases of the living go along.

        Only called if the kind says that it `shifts`.
        """


class Kind(NamedTuple):
    """How to get at a store.

    Attributes:
        data: opens new data, and gives the maker of stores on it; gets an empty directory.
        shifts: the clock can be set. Without that, tests that ask for `shift_clock` are skipped.
        skip: why it cannot run here: a server, a library that is not there. None: it can.
        kills: `kill` works.
        slow: a call takes milliseconds: random walks are fewer.
    """

    data: Callable[[Path], AbstractAsyncContextManager[Maker]]
    shifts: bool = True
    skip: Callable[[], str | None] = lambda: None
    kills: bool = True
    slow: bool = False


# -- memory ------------------------------------------------------------------------------------------------------------

_names = itertools.count()


class _MemoryMaker:
    def __init__(self) -> None:
        self._name = f"test-{next(_names)}"
        self._now = time.time()  # stands still: a test lets it go on
        self._first = Memory(self._name)  # holds the data between two openings

    def __call__(self, **options: Any) -> Store:
        return Memory(self._name, clock=lambda: self._now, **options)

    async def kill(self, store: Store) -> None:
        assert isinstance(store, Memory)
        store.kill()

    async def shift_clock(self, seconds: float) -> None:
        self._now += seconds


@asynccontextmanager
async def _memory(folder: Path) -> AsyncIterator[Maker]:
    yield _MemoryMaker()


# -- SQLite ------------------------------------------------------------------------------------------------------------


class _SQLiteMaker:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._ahead = 0.0

    def __call__(self, **options: Any) -> Store:
        store = SQLite(self._path, **options)
        store._clock = lambda: time.time() + self._ahead
        return store

    async def kill(self, store: Store) -> None:
        assert isinstance(store, SQLite)
        await store._die()

    async def shift_clock(self, seconds: float) -> None:
        self._ahead += seconds


@asynccontextmanager
async def _sqlite(folder: Path) -> AsyncIterator[Maker]:
    yield _SQLiteMaker(folder / "jobs.db")


# -- PostgreSQL --------------------------------------------------------------------------------------------------------

_SCHEMA_CLOCK = """
CREATE TABLE {schema}.clock_offset (seconds float8 NOT NULL);
INSERT INTO {schema}.clock_offset VALUES (0);
CREATE OR REPLACE FUNCTION {schema}.clock() RETURNS float8 LANGUAGE sql VOLATILE AS
$$ SELECT extract(epoch FROM clock_timestamp())::float8 + (SELECT seconds FROM {schema}.clock_offset) $$;
"""


class _PostgresMaker:
    """Its own schema, with a clock that can be set."""

    def __init__(self, url: str, schema: str, conn: Any) -> None:
        self._url = url
        self._schema = schema
        self._conn = conn

    def __call__(self, **options: Any) -> Store:
        from aiopool.stores._postgres import Postgres

        return Postgres(self._url, schema=self._schema, **options)

    async def kill(self, store: Store) -> None:
        made: Any = store
        made._staying.cancel()
        for link in (made._write, made._work, made._side):
            link._drop()
            link._closed = True
        await self._conn.execute(
            f"UPDATE {self._schema}.workers SET lease_until = 0, lock_key = NULL WHERE id = $1", made._me.id
        )
        made._me = None

    async def shift_clock(self, seconds: float) -> None:
        await self._conn.execute(f"UPDATE {self._schema}.clock_offset SET seconds = seconds + $1", seconds)
        await self._conn.execute(
            f"UPDATE {self._schema}.workers SET lease_until = lease_until + $1 WHERE lease_until > 0", seconds
        )


@asynccontextmanager
async def _postgres(folder: Path) -> AsyncIterator[Maker]:
    import asyncpg
    from pg_server import package_server

    from aiopool.stores._postgres_schema import migrate

    url = package_server()
    conn = await asyncpg.connect(url)
    schema = f"test_{uuid.uuid4().hex[:12]}"
    try:
        await migrate(conn, schema)
        await conn.execute(_SCHEMA_CLOCK.replace("{schema}", schema))
        yield _PostgresMaker(url, schema, conn)
    finally:
        await conn.execute(f"SET client_min_messages = error; DROP SCHEMA IF EXISTS {schema} CASCADE")
        await conn.close()


# -- the others --------------------------------------------------------------------------------------------------------

KINDS: dict[str, Kind] = {
    "memory": Kind(_memory),
    "sqlite": Kind(_sqlite),
    **{engine: Kind(data, skip=skip) for engine in (VALKEY, REDIS) for data, skip in [kind_of(engine)]},
    "postgres": Kind(_postgres, skip=why_not_package),
}
