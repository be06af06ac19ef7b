"""The libraries that are tried: how each is opened, what one query is, and what it has not got back.

A query says its own number to a server and returns what the server said: an answer that belongs to another query, left
on a connection by one that was cancelled, is seen. A library comes with its pool of `CONNECTIONS`, half as many as jobs
run at once, so that queries are also cancelled while they wait for a connection.
"""

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Opened:
    """A library that is open."""

    query: Callable[[int], Awaitable[int]]
    away: Callable[[], int]
    """How many connections are not back in the library's pool, or are open though it has none."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A library, what it needs, and what is its own fault."""

    modules: tuple[str, ...]
    server: str | None
    open: Callable[[str, Path], AbstractAsyncContextManager[Opened]]
    reports: str | None = None
    """What it tells the exception handler of the loop about a connection that it has ended itself, and replaces."""
    loses: bool = False
    """Whether it loses connections when its caller is cancelled, by whoever: it is only compared with plain tasks."""

    def missing(self) -> list[str]:
        """Return the modules that are not installed."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]


def sockets(address: str) -> int:
    """Count the connections of this process to a server."""
    port = int(address.rpartition(":")[2])
    return sum(bool(found.raddr) and found.raddr.port == port for found in psutil.Process().net_connections("tcp"))


@contextlib.asynccontextmanager
async def httpx(address: str, directory: Path) -> AsyncIterator[Opened]:
    """Without a limit of connections: it loses some when a task is cancelled, and would soon have none left."""
    import httpx

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None, trust_env=False) as client:

        async def query(number: int) -> int:
            return int((await client.get(f"http://{address}/echo/{number}")).text)

        pool: Any = client._transport._pool  # type: ignore[attr-defined] # httpcore's, whose `connections` are public
        yield Opened(query, lambda: sum(not each.is_idle() for each in pool.connections))


@contextlib.asynccontextmanager
async def aiohttp_client(address: str, directory: Path) -> AsyncIterator[Opened]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def query(number: int) -> int:
            async with session.get(f"http://{address}/echo/{number}") as response:
                return int(await response.text())

        yield Opened(query, lambda: len(connector._acquired))


@contextlib.asynccontextmanager
async def aiohttp_server(address: str, directory: Path) -> AsyncIterator[Opened]:
    """A server in this loop, whose handlers are cancelled when the client has gone."""
    from aiohttp import web
    from web_server import echo

    under_way = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal under_way
        under_way += 1
        try:
            return await echo(request)
        finally:
            under_way -= 1

    app = web.Application()
    app.add_routes([web.get("/echo/{word}", handler)])
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        async with aiohttp_client(f"{host}:{port}", directory) as client:
            yield Opened(client.query, lambda: client.away() + under_way)
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def redis(address: str, directory: Path) -> AsyncIterator[Opened]:
    from redis.asyncio import BlockingConnectionPool, Redis

    pool: Any = BlockingConnectionPool.from_url(f"redis://{address}", max_connections=CONNECTIONS, timeout=None)
    async with Redis.from_pool(pool) as client:

        async def query(number: int) -> int:
            async with client.pipeline(transaction=True) as pipe:
                await pipe.set("last", number).echo(str(number)).execute()
            return int(await client.echo(str(number)))

        yield Opened(query, lambda: len(pool._in_use_connections))


@contextlib.asynccontextmanager
async def asyncpg(address: str, directory: Path) -> AsyncIterator[Opened]:
    import asyncpg

    dsn = f"postgresql://bench@{address}/postgres"
    async with asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:

        async def query(number: int) -> int:
            async with pool.acquire() as connection, connection.transaction():
                value: int = await connection.fetchval("SELECT $1::int", number)
            return value

        yield Opened(query, lambda: pool.get_size() - pool.get_idle_size())


@contextlib.asynccontextmanager
async def psycopg(address: str, directory: Path) -> AsyncIterator[Opened]:
    from psycopg_pool import AsyncConnectionPool

    dsn = f"postgresql://bench@{address}/postgres"
    async with AsyncConnectionPool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False) as pool:
        await pool.wait()

        async def query(number: int) -> int:
            async with pool.connection() as connection:
                cursor = await connection.execute("SELECT %s::int", [number])
                row = await cursor.fetchone()
                assert row is not None
            value: int = row[0]
            return value

        yield Opened(query, lambda: CONNECTIONS - pool.get_stats()["pool_available"])


@contextlib.asynccontextmanager
async def sqlalchemy(address: str, directory: Path) -> AsyncIterator[Opened]:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    url = f"postgresql+asyncpg://bench@{address}/postgres"
    engine = create_async_engine(url, pool_size=CONNECTIONS, max_overflow=0)
    try:

        async def query(number: int) -> int:
            async with AsyncSession(engine) as session, session.begin():
                found = await session.execute(text("SELECT CAST(:number AS INTEGER)"), {"number": number})
                value: int = found.scalar_one()
            return value

        yield Opened(query, engine.pool.checkedout)  # type: ignore[attr-defined]
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def aiosqlite(address: str, directory: Path) -> AsyncIterator[Opened]:
    """No pool; connected before, since a `connect` that is cancelled leaves its thread behind, whoever cancels it."""
    import aiosqlite

    idle: asyncio.Queue[Any] = asyncio.Queue()
    async with contextlib.AsyncExitStack() as opened:
        for _ in range(CONNECTIONS):
            idle.put_nowait(await opened.enter_async_context(aiosqlite.connect(directory / "data.db")))

        async def query(number: int) -> int:
            database = await idle.get()
            try:
                async with database.execute("SELECT ?", [number]) as cursor:
                    value: int = (await cursor.fetchone())[0]
                return value
            finally:
                idle.put_nowait(database)

        yield Opened(query, lambda: CONNECTIONS - idle.qsize())


@contextlib.asynccontextmanager
async def websockets(address: str, directory: Path) -> AsyncIterator[Opened]:
    """No pool: each query has a connection of its own."""
    from websockets.asyncio.client import connect

    async def query(number: int) -> int:
        async with connect(f"ws://{address}/websocket", proxy=None) as socket:
            await socket.send(str(number))
            return int(await socket.recv())

    yield Opened(query, lambda: sockets(address))


SUBJECTS = {
    "httpx": Subject(("httpx", "aiohttp"), "web", httpx, loses=True),
    "aiohttp": Subject(("aiohttp",), "web", aiohttp_client),
    "aiohttp-server": Subject(("aiohttp",), None, aiohttp_server),
    "redis": Subject(("redis",), "redis", redis),
    "asyncpg": Subject(("asyncpg",), "postgres", asyncpg, reports="Resetting connection with an active transaction"),
    "psycopg": Subject(("psycopg", "psycopg_pool"), "postgres", psycopg),
    "sqlalchemy": Subject(
        ("sqlalchemy", "greenlet", "asyncpg"), "postgres", sqlalchemy, reports="unexpected connection_lost() call"
    ),
    "aiosqlite": Subject(("aiosqlite",), None, aiosqlite),
    "websockets": Subject(("websockets", "aiohttp"), "web", websockets),
}
