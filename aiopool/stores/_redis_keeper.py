"""Keeps the lease of one incarnation of a Redis store: a heartbeat on a connection of its own.

Rule 1: it runs in the loop of another thread, so it shares nothing with the store but settings.

Rule 2: a heartbeat that hangs leaves time for another one within the lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiopool.errors import StoreError
from aiopool.stores._redis_client import Client
from aiopool.stores._rows import Beat

__all__ = ["RedisKeeper"]


class RedisKeeper:
    """Renews the lease of one incarnation; see `Keeper`. `whose` gives the queue, the clock, the incarnation."""

    def __init__(
        self, address: str, url: str, timeout: float, lease: float, whose: Callable[[], tuple[str, float, str]]
    ) -> None:
        self._address = address
        self._url = url
        self._timeout = max(0.05, min(timeout, lease / 6))
        self._lease = lease
        self._whose = whose
        self._client: Client | None = None

    async def open(self) -> None:
        """Connect, and begin to live."""
        self._client = Client(self._address, self._url, timeout=self._timeout, connections=1)
        try:
            await self.beat()
        except BaseException:
            await self.close()
            raise

    async def beat(self) -> Beat:
        """Live for another lease."""
        if self._client is None:
            raise StoreError(f"{self._url}: its keeper is not open: call `await keeper.open()` first")
        self._client.of(*self._whose())
        alive, now = await self._client.run("beat", repr(self._lease))
        return Beat(bool(alive), float(now))

    async def close(self) -> None:
        """Disconnect. The incarnation lives on until its lease ends, or the store is closed."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.shield(client.close())
