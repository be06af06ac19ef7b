"""Jobs that wait, as most jobs do: a request to a server on this machine, with the libraries that people use.

The contenders are those of the burst, the client library is the same for all of them, and so is its pool of
connections: as many as jobs may run at once, all of them open before the clock starts. What differs is who runs the
jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from benchmarks import servers
from benchmarks.contenders import GATHER, MAP_SCOPE, MAP_TASK, SCOPE, TASK, TASK_GROUP, contender, find
from benchmarks.workloads import AsyncFunction

SUITE = "requests"
NO_HANDLES = "workers by hand, without handles"


@contextlib.asynccontextmanager
async def _aiohttp(address: str, connections: int) -> AsyncIterator[AsyncFunction]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        url = f"http://{address}/"

        async def get(index: int) -> int:
            async with session.get(url) as response:
                await response.read()
            return index

        yield get


@contextlib.asynccontextmanager
async def _httpx(address: str, connections: int) -> AsyncIterator[AsyncFunction]:
    import httpx

    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(limits=limits, timeout=None, trust_env=False) as client:
        url = f"http://{address}/"

        async def get(index: int) -> int:
            await client.get(url)
            return index

        yield get


@contextlib.asynccontextmanager
async def _redis(address: str, connections: int) -> AsyncIterator[AsyncFunction]:
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(f"redis://{address}", max_connections=connections) as client:
        await client.set("key", "value")

        async def get(index: int) -> int:
            await client.get("key")
            return index

        yield get


@contextlib.asynccontextmanager
async def _asyncpg(address: str, connections: int) -> AsyncIterator[AsyncFunction]:
    import asyncpg

    dsn = f"postgresql://bench@{address}/postgres"
    async with asyncpg.create_pool(dsn, min_size=connections, max_size=connections) as database:

        async def select(index: int) -> int:
            await database.fetchval("SELECT 1")
            return index

        yield select


@dataclass(frozen=True, slots=True)
class Client:
    """One library and the server that it talks to."""

    server: str
    module: str
    connect: Callable[[str, int], AbstractAsyncContextManager[AsyncFunction]]
    count: int = 5_000
    """Requests for one measurement: about half a second of them."""

    def missing(self) -> str | None:
        """Say why this cannot run here, or None."""
        if importlib.util.find_spec(self.module) is None:
            return f"module `{self.module}` is not installed; `pip install -e '.[bench]'` brings it"
        return servers.missing(self.server)

    @contextlib.asynccontextmanager
    async def open(self, address: str, connections: int) -> AsyncIterator[AsyncFunction]:
        """Return what makes one request, with all connections open.

        Opening one costs as much as ten requests, and how many a short warm-up opens depends on how fast a contender
        gets to its full concurrency: the others would be opened in what is measured.
        """
        async with self.connect(address, connections) as function:
            await asyncio.gather(*map(function, range(connections)))
            yield function


CLIENTS = {
    "GET (aiohttp)": Client("http", "aiohttp", _aiohttp),
    "GET (httpx)": Client("http", "httpx", _httpx, count=500),
    "GET (redis)": Client("redis", "redis", _redis),
    "SELECT 1 (asyncpg)": Client("postgres", "asyncpg", _asyncpg),
}

for _name in (TASK, SCOPE, MAP_TASK, MAP_SCOPE, GATHER, TASK_GROUP, "aiojobs", "asyncio-pool"):
    _entry = find("burst", _name)
    contender(SUITE, _name, needs=_entry.needs, published=_entry.published)(_entry.run)


@contender(SUITE, NO_HANDLES, floor=True)
async def workers_without_handles(function: AsyncFunction, count: int, concurrency: int) -> list[int]:
    """The floor: tasks that share an iterator, and nothing by which a job could be told from another."""
    indices = iter(range(count))
    results: list[int] = []

    async def work() -> None:
        for index in indices:
            results.append(await function(index))

    await asyncio.gather(*[work() for _ in range(concurrency)])
    return results
