"""What an operator asks of a Redis store, and does to it: looks, pauses, limits, requeues, moves, facts.

Rule 1: nothing here is on the way of a job; all of it may run while jobs run.

Rule 2: what is asked in pages, or done in steps, is bounded by the server's script: this file asks until it is enough.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from typing import Any

from aiopool.errors import StoreError
from aiopool.stores._redis_client import Client
from aiopool.stores._redis_facts import durability_of, look, measured, warnings_of
from aiopool.stores._redis_rows import dump, moved_row, new_text, parse, stored
from aiopool.stores._rows import (
    ENDED,
    LIVE,
    Facts,
    Finished,
    LimitRow,
    ScheduleRow,
    StoredJob,
    StoredStatus,
    StoreStatistics,
    WorkerRow,
)

__all__ = ["Admin"]


class Admin:
    """The part of `Redis` that does not carry jobs."""

    url: str
    _client: Client | None
    _lease: float
    _power: bool
    _sync: int

    def _opened(self) -> Client:
        if self._client is None:
            raise StoreError(f"{self.url} is not open: call `await store.open(...)` first, and nothing after `close()`")
        return self._client

    async def _run(self, verb: str, *arguments: Any, sync: int = 0) -> Any:
        return await self._opened().run(verb, *arguments, sync=sync)

    # -- who waits, who looks ------------------------------------------------------------------------------------------

    async def finished(self, ids: Sequence[str]) -> list[Finished]:
        """Return the ends of those of some jobs that have ended."""
        ends = parse(await self._run("finished", dump(list(dict.fromkeys(ids))))) if ids else []
        return [Finished(id, StoredStatus(status), *rest) for id, status, *rest in ends]

    async def find(self, ids: Sequence[str]) -> list[StoredJob]:
        """Return what is known of some jobs."""
        rows = parse(await self._run("find", dump(list(dict.fromkeys(ids))))) if ids else []
        return [stored(row) for row in rows]

    async def page(
        self,
        *,
        status: StoredStatus | None = None,
        name: str | None = None,
        group: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[StoredJob], str | None]:
        """Return a page of jobs, the newest first. See `Store.page`."""
        if cursor is not None and not cursor.partition(":")[0].lstrip("-").isdigit():
            raise ValueError(f"cursor={cursor!r}: it is none that a page has returned")
        statuses = dump([str(one) for one in (sorted(LIVE) if status is None else [status])])
        jobs: list[StoredJob] = []
        # Rows that do not fit are looked at in the server, so many at a time; after some of that the page is short.
        for _ in range(50):
            rows, cursor = parse(
                await self._run(
                    "page",
                    statuses,
                    "" if name is None else f"={name}",
                    "" if group is None else f"={group}",
                    max(0, min(limit - len(jobs), 1000)),
                    cursor or "",
                )
            )
            jobs += [stored(row) for row in rows]
            if cursor is None or len(jobs) >= limit:
                break
        return jobs, cursor

    async def statistics(self) -> StoreStatistics:
        """Return the store in numbers."""
        counts, oldest, members, rescued, paused = parse(await self._run("statistics"))
        try:
            info = await self._opened().command("INFO", "memory")
            size: int | None = int(info["used_memory"])
        except (StoreError, KeyError, TypeError, ValueError):
            size = None
        return StoreStatistics(
            {status: counts[status] for status in StoredStatus if status in LIVE},
            {status: counts[status] for status in StoredStatus if status in ENDED},
            oldest,
            [
                WorkerRow(id, host, pid, started_at, max(started_at, ends - lease), running)
                for id, (started_at, lease, (host, pid, runs_jobs)), ends, running in members
                if runs_jobs
            ],
            rescued,
            bool(paused),
            size,
        )

    async def schedules(self, limit: int = 200) -> list[ScheduleRow]:
        """Return the schedules that have had a moment, those of the latest first."""
        rows = [ScheduleRow(*row) for row in parse(await self._run("schedules"))]
        return heapq.nlargest(limit, rows, key=lambda row: row.last)

    # -- steering ------------------------------------------------------------------------------------------------------

    async def set_paused(self, paused: bool) -> None:
        """Let nobody of the fleet start a job, or let them."""
        await self._run("pause", "1" if paused else "0")

    async def set_limits(self, limits: Sequence[LimitRow]) -> None:
        """Set the limits of these rules, for the whole fleet."""
        rows = [
            (
                limit.rule,
                json.dumps(
                    [
                        False if limit.max_at_once is None else limit.max_at_once,
                        False if limit.max_per_second is None else limit.max_per_second,
                        limit.burst,
                    ]
                ),
            )
            for limit in limits
        ]
        if rows:
            await self._run("limits", dump(rows))

    async def requeue(self, ids: Sequence[str] | None, status: StoredStatus | None) -> int:
        """Put jobs that have ended back into the queue. See `Store.requeue`."""
        count = 0
        if ids is not None:
            chosen = list(dict.fromkeys(ids))
            for start in range(0, len(chosen), 500):
                done, *_ = await self._run("requeue", dump(chosen[start : start + 500]), status or "", -1)
                count += done
            return count
        for one in sorted(ENDED) if status is None else [status]:
            if one not in ENDED:
                continue
            left, more = 0, True
            while more:
                done, stayed, more = await self._run("requeue", str(one), str(one), left)
                count, left = count + done, left + stayed
        return count

    async def forget_history(self, older_than: float) -> int:
        """Remove the rows of jobs that ended so many seconds ago, or earlier; return how many."""
        count, more = 0, True
        while more:
            gone, more = await self._run("forget_history", repr(float(older_than)))
            count += gone
        return count

    # -- to another store ----------------------------------------------------------------------------------------------

    async def export(self, limit: int) -> list[StoredJob]:
        """Take live jobs that do not run, to move them elsewhere. See `Store.export`."""
        return [stored(row) for row in parse(await self._run("export", limit))]

    async def restore(self, jobs: Sequence[StoredJob]) -> None:
        """Take in jobs that another store has exported. See `Store.restore`."""
        if jobs:
            rows = dump([moved_row(job) for job in jobs])
            await self._run("restore", rows, *[new_text(job) for job in jobs], sync=self._sync)

    async def forget_moved(self, ids: Sequence[str]) -> None:
        """Remove jobs that are `moving`, and have arrived."""
        if ids:
            await self._run("forget_moved", dump(list(ids)))

    # -- what an operator asks -----------------------------------------------------------------------------------------

    async def facts(self) -> Facts:
        """Return what there is to know about the server."""
        client = self._opened()
        server = await look(client)
        facts: Facts = {
            "engine": server.engine,
            "version": server.version,
            "durability": durability_of(server, self._power),
            "appendonly": server.appendonly,
            "appendfsync": server.appendfsync,
            "role": server.role,
            "memory_bytes": server.used_memory,
            "maxmemory_bytes": server.maxmemory,
            "maxmemory_policy": server.policy,
            "lease_seconds": self._lease,
        }
        facts |= await measured(client, self._power and server.without_power() is None, self._sync)
        facts["warnings"] = warnings_of(server, self._power)
        return facts
