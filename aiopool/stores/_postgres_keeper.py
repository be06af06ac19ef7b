"""Keeps an incarnation alive in PostgreSQL: by a lease, and by a lock that the server drops when the process dies.

It knows: the row of one incarnation, and a connection of its own. It refuses to know jobs.

Rule 1: the lease decides. The lock only lets others notice a death sooner: a sweep that finds it missing twice, more
than half a second apart, takes the jobs. So a keeper looks after its connection several times in that time, and a
connection that was lost is replaced before anybody believes in a death.

Rule 2: behind a pooler there is no lock, as the session is not ours.
"""

# ruff: noqa: S608 (what goes into statements is the name of the schema, which is checked, and constants)
from __future__ import annotations

import asyncio
import contextlib
from typing import Any, final

from aiopool._runtime.ending import end_tasks
from aiopool.errors import StoreError
from aiopool.stores._postgres_link import Link, Target
from aiopool.stores._rows import Beat

__all__ = ["PostgresKeeper"]

_LOOK_EVERY = 0.25


@final
class PostgresKeeper:
    """See `aiopool.stores._protocol.Keeper`."""

    def __init__(self, target: Target, schema: str, queue: int, me: str, key: int, lease: float) -> None:
        self._target = target
        self._queue = queue
        self._me = me
        self._key = key
        self._lease = lease
        self._link: Link | None = None
        self._locked = False
        self._looking: asyncio.Task[None] | None = None
        self._beat_sql = (
            f"UPDATE {schema}.workers w SET seen_at = c.t, lease_until = c.t + $3::float8, missing_since = NULL, "
            f"lock_key = $4::bigint FROM (SELECT {schema}.clock() AS t) c "
            "WHERE w.queue = $1::int AND w.id = $2::text AND NOT w.dead RETURNING c.t"
        )
        self._now_sql = f"SELECT {schema}.clock()"

    async def open(self) -> None:
        """Connect, and begin to live."""
        self._link = Link(self._target, self._connected)
        await self.beat()
        if not self._target.pooler:
            self._looking = asyncio.create_task(self._look(self._link))

    async def beat(self) -> Beat:
        """Live for another lease."""
        if self._link is None:
            raise StoreError(f"the keeper of {self._target.shown} is not open: call `await keeper.open()` first")
        return await self._link.call(self._beat)

    async def _beat(self, conn: Any, again: bool) -> Beat:
        key = self._key if self._locked else None
        now = await conn.fetchval(self._beat_sql, self._queue, self._me, self._lease, key)
        if now is not None:
            return Beat(True, now)
        return Beat(False, await conn.fetchval(self._now_sql))

    async def _connected(self, conn: Any) -> None:
        self._locked = False
        if not self._target.pooler:
            await self._take_lock(conn)

    async def _take_lock(self, conn: Any) -> None:
        self._locked = await conn.fetchval("SELECT pg_try_advisory_lock($1::bigint)", self._key)

    async def _look(self, link: Link) -> None:
        """See that the connection is there; one that was replaced tells by a beat that nobody has died."""
        connects = link.connects
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            with contextlib.suppress(StoreError):
                await link.call(self._ping)
                if link.connects != connects or not self._locked:
                    if not self._locked:  # the server has not noticed yet that the old session is gone
                        await link.call(lambda conn, again: self._take_lock(conn))
                    await link.call(self._beat)
                    connects = link.connects

    async def _ping(self, conn: Any, again: bool) -> None:
        await conn.fetchval("SELECT 1", timeout=2.0)

    async def close(self) -> None:
        """Disconnect. The incarnation lives on until its lease ends, or the store is closed."""
        looking, self._looking = self._looking, None
        await end_tasks(looking)
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(StoreError):
                self._locked = False  # from now on the lease alone counts
                await link.call(self._beat, patience=3.0)
            await link.close()
