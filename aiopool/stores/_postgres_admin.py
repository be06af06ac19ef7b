"""What is asked of a store in PostgreSQL, by those who wait for jobs and by operators; and how it is steered.

It knows: the tables. It refuses to know connections: `_read` and `_change` run statements whose first two arguments
are the queue and who asks.
"""

# ruff: noqa: S608 (what goes into statements is the name of the schema, which is checked, and constants)
from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from aiopool.stores import _postgres_rows as rows_
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

# Every statement has both arguments, whether it needs the second one or not.
_ME = "$2::text IS NOT NULL"


class Admin(ABC):
    """The part of `Postgres` that is asked, and steered."""

    url: str
    durability: str
    _schema: str
    _target: Any

    @abstractmethod
    async def _read(self, sql: str, *args: Any) -> list[Any]:
        """Run a statement that only reads."""

    @abstractmethod
    async def _change(self, sql: str, *args: Any) -> list[Any]:
        """Run a statement that writes."""

    async def now(self) -> float:
        """Return the time by the store's clock: seconds since 1970."""
        [(now,)] = await self._read(f"SELECT {{s}}.clock() WHERE $1::int IS NOT NULL AND {_ME}")
        return float(now)

    # -- who waits -----------------------------------------------------------------------------------------------------

    async def owned(self) -> list[tuple[str, int]]:
        """Return (id, fence) of all that this incarnation holds."""
        found = await self._read(
            "SELECT id, fence FROM {s}.jobs WHERE queue = $1::int AND owner = $2::text AND status = 'running'"
        )
        return [(id, fence) for id, fence in found]

    async def finished(self, ids: Sequence[str]) -> list[Finished]:
        """Return the ends of those of some jobs that have ended."""
        found = await self._read(
            "SELECT h.* FROM (SELECT $2::text) me, unnest($3::text[]) u(id) JOIN {s}.history h "
            "ON h.queue = $1::int AND h.id = u.id",
            list(dict.fromkeys(ids)),
        )
        return [rows_.finished(row) for row in found]

    # -- who looks -----------------------------------------------------------------------------------------------------

    async def find(self, ids: Sequence[str]) -> list[StoredJob]:
        """Return what is known of some jobs, in any order; unknown ones are left out."""
        found = await self._read(
            f"SELECT {rows_.LIVE_COLUMNS} FROM {{s}}.jobs WHERE queue = $1::int AND id = ANY($3::text[]) AND {_ME} "
            f"UNION ALL SELECT {rows_.ENDED_COLUMNS} FROM {{s}}.history WHERE queue = $1::int "
            "AND id = ANY($3::text[])",
            list(dict.fromkeys(ids)),
        )
        return [rows_.stored(row) for row in found]

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
        ended = status if status is not None and status in ENDED else None
        moment = place = None
        if cursor is not None:
            try:
                first, _, second = cursor.partition(":")
                moment, place = float(first), int(second)
            except ValueError:
                raise ValueError(f"cursor={cursor!r}: it is none that a page has returned") from None
        if ended is not None:
            sql = (
                f"SELECT {rows_.ENDED_COLUMNS} FROM {{s}}.history WHERE queue = $1::int AND {_ME} AND status = "
                f"'{StoredStatus(ended).value}' AND {_SAME} AND ($6::bigint IS NULL OR (finished_at, position) < "
                "($5::float8, $6)) ORDER BY history.finished_at DESC, position DESC LIMIT $7"
            )
        else:
            sql = _live_page(status)
        found = [rows_.stored(row) for row in await self._read(sql, name, group, moment, place, limit + 1)]
        if len(found) <= limit:
            return found, None
        found = found[:limit]
        last = found[-1]
        return found, f"{last.finished_at or 0.0!r}:{last.position}"

    async def statistics(self) -> StoreStatistics:
        """Return the store in numbers."""
        live = await self._read(
            f"SELECT status, count(*) FROM {{s}}.jobs WHERE queue = $1::int AND {_ME} GROUP BY status"
        )
        ended = await self._read(
            f"SELECT status, count(*) FROM {{s}}.history WHERE queue = $1::int AND {_ME} GROUP BY status"
        )
        workers = await self._read(
            "SELECT w.id, w.host, w.pid, w.started_at, w.seen_at, (SELECT count(*) FROM {s}.jobs j WHERE j.queue = "
            "$1::int AND j.status = 'running' AND j.owner = w.id) FROM {s}.workers w "
            f"WHERE w.queue = $1::int AND w.runs_jobs AND NOT w.dead AND {_ME} ORDER BY w.started_at"
        )
        [(rescued, paused, oldest, size)] = await self._read(
            "SELECT rescued, paused, (SELECT {s}.clock() - min(created_at) FROM {s}.jobs WHERE queue = $1::int AND "
            "status = 'queued'), pg_total_relation_size('{s}.jobs') + pg_total_relation_size('{s}.history') "
            f"FROM {{s}}.queues WHERE no = $1::int AND {_ME}"
        )
        counts = {StoredStatus(status): count for status, count in [*live, *ended]}
        return StoreStatistics(
            {status: counts.get(status, 0) for status in StoredStatus if status in LIVE},
            {status: counts.get(status, 0) for status in StoredStatus if status in ENDED},
            None if oldest is None else max(0.0, oldest),
            [WorkerRow(*row) for row in workers],
            rescued,
            paused,
            size,
        )

    async def schedules(self, limit: int = 200) -> list[ScheduleRow]:
        """Return the schedules that have had a moment, those of the latest first."""
        found = await self._read(
            f"SELECT schedule, moment FROM {{s}}.ticks WHERE queue = $1::int AND {_ME} "
            "ORDER BY moment DESC, schedule LIMIT $3",
            limit,
        )
        return [ScheduleRow(*row) for row in found]

    # -- steering ------------------------------------------------------------------------------------------------------

    async def set_paused(self, paused: bool) -> None:
        """Let nobody of the fleet start a job, or let them."""
        await self._change(
            "WITH u AS (UPDATE {s}.queues SET paused = $3::bool WHERE no = $1::int) "
            "SELECT {s}.hint($1::int, $2::text, true, NULL, NULL)",
            paused,
        )
        self._wake_work()

    async def set_limits(self, limits: Sequence[LimitRow]) -> None:
        """Set the limits of these rules, for the whole fleet."""
        rules = {limit.rule: limit for limit in limits}
        if not rules:
            return
        await self._change(
            "SELECT {s}.set_limits($1::int, $2::text, $3::text[], $4::int[], $5::float8[], $6::int[])",
            list(rules),
            [limit.max_at_once for limit in rules.values()],
            [limit.max_per_second for limit in rules.values()],
            [max(1, limit.burst) for limit in rules.values()],
        )
        self._wake_work()

    @abstractmethod
    def _wake_work(self) -> None:
        """Tell this process that there may be something to claim."""

    # -- facts ---------------------------------------------------------------------------------------------------------

    async def facts(self) -> Facts:
        """Return what there is to know about the server. See `Store.facts`."""
        [row] = await self._read(
            "SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS "
            "number, current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync, "
            "current_setting('full_page_writes') AS full_page_writes, pg_is_in_recovery() AS standby, "
            "current_setting('max_connections')::int AS max_connections, "
            "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections, "
            "(SELECT extract(epoch FROM clock_timestamp() - min(xact_start))::float8 FROM pg_stat_activity "
            "WHERE datname = current_database() AND backend_xmin IS NOT NULL AND backend_type <> 'autovacuum worker' "
            "AND pid <> pg_backend_pid()) AS oldest_snapshot_seconds, "
            "(SELECT relpersistence = 'u' FROM pg_class WHERE oid = '{s}.jobs'::regclass) AS unlogged, "
            "pg_total_relation_size('{s}.jobs') AS live_bytes, pg_total_relation_size('{s}.history') AS history_bytes "
            f"WHERE $1::int IS NOT NULL AND {_ME}"
        )
        facts: Facts = {"engine": "postgresql", "durability": self.durability, "schema": self._schema, **dict(row)}
        facts["pooler"] = bool(self._target.pooler)
        warnings: list[str] = []
        if not row["standby"]:
            times = []
            for _ in range(5):
                begun = time.perf_counter()
                await self._change(
                    "UPDATE {s}.workers SET seen_at = {s}.clock() WHERE queue = $1::int AND id = $2::text"
                )
                times.append(time.perf_counter() - begun)
            facts["commit_seconds"] = sorted(times)[2]
        facts["warnings"] = warnings + _warnings(facts)
        return facts


# $3: a name, $4: a group.
_SAME = "($3::text IS NULL OR name = $3) AND ($4::text IS NULL OR group_name = $4)"


def _live_page(status: StoredStatus | None) -> str:
    """Return the statement for a page of live jobs.

    Queued jobs have no index by position, which each of them would pay for: the newest of each priority are found by
    the one from which they are claimed. Those that run are as many as there are workers.
    """
    statuses = [kind.value for kind in LIVE if status in (None, kind)]
    part = (
        f"SELECT j.* FROM {{s}}.jobs j WHERE j.queue = $1::int AND {_SAME} AND ($6::bigint IS NULL OR position < $6) "
        "AND status %s ORDER BY position DESC LIMIT $7"
    )
    parts = []
    if "queued" in statuses:
        first = "SELECT j.priority FROM {s}.jobs j WHERE j.queue = $1::int AND status = 'queued'"
        parts.append(
            f"(WITH RECURSIVE p AS (({first} ORDER BY j.priority LIMIT 1) UNION ALL SELECT (({first} AND "
            "j.priority > p.priority ORDER BY j.priority LIMIT 1)) FROM p WHERE p.priority IS NOT NULL) "
            "SELECT x.* FROM p CROSS JOIN LATERAL ("
            + part.replace("ORDER BY", "AND j.priority = p.priority ORDER BY") % "= 'queued'"
            + ") x)"
        )
    if "running" in statuses:
        parts.append("(" + part % "= 'running'" + ")")
    if others := sorted({"scheduled", "limited", "parked", "moving"}.intersection(statuses)):
        parts.append("(" + part % ("IN ('" + "', '".join(others) + "')") + ")")
    return (
        f"SELECT {rows_.LIVE_COLUMNS} FROM ({' UNION ALL '.join(parts)}) jobs WHERE {_ME} "
        "AND $5::float8 IS NOT DISTINCT FROM $5 ORDER BY position DESC LIMIT $7"
    )


def _warnings(facts: Facts) -> list[str]:
    found = []
    if facts["standby"]:
        found.append("the server is a standby, which takes no jobs: write the address of the primary in the URL")
    if facts["fsync"] == "off":
        found.append("fsync is off: a power cut may destroy the database; set fsync = on")
    if facts["full_page_writes"] == "off":
        found.append("full_page_writes is off: a power cut may destroy pages; set full_page_writes = on")
    if facts["unlogged"]:
        found.append(f"the jobs are UNLOGGED: a crash empties them; ALTER TABLE {facts['schema']}.jobs SET LOGGED")
    if facts["synchronous_commit"] == "off":
        found.append("synchronous_commit is off: a crash of the server loses the last moments; set it to on")
    if facts["number"] < 130000:
        found.append(f"PostgreSQL {facts['version']} gets no fixes any more: upgrade the server")
    if facts["oldest_snapshot_seconds"] is not None and facts["oldest_snapshot_seconds"] > 60:
        found.append(
            f"a transaction is open for {facts['oldest_snapshot_seconds']:.0f} seconds, so dead rows stay and claims "
            "become slow: find it in pg_stat_activity by its xact_start"
        )
    if facts["connections"] > 0.9 * facts["max_connections"]:
        found.append(
            f"{facts['connections']} of {facts['max_connections']} connections are taken: raise max_connections, or "
            "put a pooler between"
        )
    if facts["pooler"]:
        found.append(
            "a pooler stands between: no hints come, so jobs start up to a second later, and the jobs of a dead "
            "process are taken when its lease ends"
        )
    return found
