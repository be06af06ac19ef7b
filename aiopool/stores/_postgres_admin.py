"""What an operator does to a store in PostgreSQL, and asks of it: none of it on the way of a job.

It knows: the tables. It refuses to know connections: `_read` and `_change` run statements whose first two arguments
are the queue and who asks.
"""

# ruff: noqa: S608 (what goes into statements is the name of the schema, which is checked, and constants)
from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from aiopool.stores import _postgres_rows as rows_
from aiopool.stores._rows import ENDED, LIVE, Facts, LimitRow, StoredJob, StoredStatus, StoreStatistics, WorkerRow

__all__ = ["Admin"]

_BATCH = 1000
# Every statement has both arguments, whether it needs the second one or not.
_ME = "$2::text IS NOT NULL"


class Admin:
    """The half of `Postgres` that operators use."""

    url: str
    durability: str
    _schema: str
    _target: Any

    async def _read(self, sql: str, *args: Any) -> list[Any]:
        raise NotImplementedError

    async def _change(self, sql: str, *args: Any, then: tuple[Any, ...] = ()) -> list[Any]:
        raise NotImplementedError

    async def now(self) -> float:
        """Return the time by the store's clock: seconds since 1970."""
        [(now,)] = await self._read(f"SELECT {{s}}.clock() WHERE $1::int IS NOT NULL AND {_ME}")
        return float(now)

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
        ended = status is not None and status in ENDED
        moment = place = None
        if cursor is not None:
            try:
                first, _, second = cursor.partition(":")
                moment, place = float(first), int(second)
            except ValueError:
                raise ValueError(f"cursor={cursor!r}: it is none that a page has returned") from None
        of_status = "" if status is None else f"AND status = '{StoredStatus(status).value}'"
        same = (
            f"queue = $1::int AND {_ME} {of_status} AND ($3::text IS NULL OR name = $3) "
            "AND ($4::text IS NULL OR group_name = $4)"
        )
        if ended:
            sql = (
                f"SELECT {rows_.ENDED_COLUMNS} FROM {{s}}.history WHERE {same} AND ($6::bigint IS NULL OR "
                "(finished_at, position) < ($5::float8, $6)) ORDER BY history.finished_at DESC, position DESC LIMIT $7"
            )
        else:
            sql = (
                f"SELECT {rows_.LIVE_COLUMNS} FROM {{s}}.jobs WHERE {same} AND $5::float8 IS NOT DISTINCT FROM $5 "
                "AND ($6::bigint IS NULL OR position < $6) ORDER BY position DESC LIMIT $7"
            )
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

    def _wake_work(self) -> None:
        raise NotImplementedError

    async def requeue(self, ids: Sequence[str] | None, status: StoredStatus | None) -> int:
        """Put jobs that have ended back into the queue. See `Store.requeue`."""
        total: int = 0
        wanted = None if ids is None else list(dict.fromkeys(ids))
        moment, place = -1.0, 0
        while True:
            part = None if wanted is None else wanted[:_BATCH]
            [(seen, count, moment_, place_)] = await self._change(
                "SELECT * FROM {s}.requeue($1::int, $2::text, $3::text[], $4::text, $5::float8, $6::bigint, $7::int)",
                part,
                None if status is None else StoredStatus(status).value,
                moment,
                place,
                _BATCH,
            )
            total += int(count)
            if wanted is not None:
                wanted = wanted[_BATCH:]
                if not wanted:
                    break
            elif seen < _BATCH:
                break
            else:
                moment, place = moment_, place_
        if total:
            self._wake_work()
        return total

    async def forget_history(self, older_than: float) -> int:
        """Remove the rows of jobs that ended so many seconds ago, or earlier; return how many."""
        total = 0
        statuses = [status.value for status in ENDED]
        until = await self.now() - older_than
        while True:
            gone = await self._change(
                "DELETE FROM {s}.history h WHERE h.ctid = ANY(ARRAY(SELECT x.ctid FROM {s}.history x WHERE x.queue = "
                f"$1::int AND {_ME} AND x.status = ANY($3::text[]) AND x.finished_at <= $4::float8 LIMIT 5000)) "
                "RETURNING 1",
                statuses,
                until,
            )
            total += len(gone)
            if len(gone) < 5000:
                return total

    # -- to another store ----------------------------------------------------------------------------------------------

    async def export(self, limit: int) -> list[StoredJob]:
        """Take live jobs that do not run, to move them elsewhere. See `Store.export`."""
        found = await self._change(
            f"SELECT {rows_.LIVE_COLUMNS} FROM {{s}}.export($1::int, $2::text, $3::int)",
            limit,
        )
        return [rows_.stored(row) for row in found]

    async def restore(self, jobs: Sequence[StoredJob]) -> None:
        """Take in jobs that another store has exported. See `Store.restore`."""
        if not jobs:
            return
        columns = [[getattr(job, field) for job in jobs] for field, _, _ in _RESTORED]
        lanes = ["\x1e".join(dict.fromkeys(job.lanes)) if job.lanes else None for job in jobs]
        progress = [None if job.progress is None else job.progress[0] for job in jobs]
        messages = [None if job.progress is None else job.progress[1] for job in jobs]
        statuses = [job.status.value for job in jobs]
        names = ", ".join(column for _, column, _ in _RESTORED)
        arrays = ", ".join(f"${number}::{kind}[]" for number, (_, _, kind) in enumerate(_RESTORED, 7))
        await self._change(
            f"WITH u AS (SELECT {names}, string_to_array(lanes_, E'\\x1e') AS lanes, progress, message, was "
            f"FROM unnest($3::text[], $4::float8[], $5::text[], $6::text[], {arrays}) "
            f"u(lanes_, progress, message, was, {names})), "
            f"i AS (INSERT INTO {{s}}.jobs (queue, {names}, lanes, progress, message, status, expires_at) "
            f"SELECT $1::int, {names.replace('unique_key', _FREE_UNIQUE)}, lanes, progress, message, "
            "CASE WHEN was = 'parked' THEN 'parked' WHEN run_at > {s}.clock() THEN 'scheduled' ELSE 'queued' END, "
            "CASE WHEN attempt = 0 THEN least(queue_until, total_until) ELSE total_until END FROM u "
            "WHERE NOT EXISTS (SELECT 1 FROM {s}.history h WHERE h.queue = $1::int AND h.id = u.id) "
            "ORDER BY position ON CONFLICT (queue, id) DO NOTHING RETURNING position) "
            "SELECT setval('{s}.positions', greatest(nextval('{s}.positions'), "
            "coalesce((SELECT max(position) FROM i), 0))), {s}.hint($1::int, $2::text, true, NULL, NULL)",
            lanes,
            progress,
            messages,
            statuses,
            *columns,
            # One that was here already may have ended while the insert waited for that: its history was not seen then.
            then=(
                "DELETE FROM {s}.jobs j USING {s}.history h WHERE j.queue = $1::int AND j.id = ANY($3::text[]) "
                f"AND h.queue = j.queue AND h.id = j.id AND {_ME}",
                [job.id for job in jobs],
            ),
        )
        self._wake_work()

    async def forget_moved(self, ids: Sequence[str]) -> None:
        """Remove jobs that are moving, and have arrived."""
        await self._change(
            f"DELETE FROM {{s}}.jobs WHERE queue = $1::int AND {_ME} AND id = ANY($3::text[]) AND status = 'moving'",
            list(ids),
        )

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
            "AND pid <> pg_backend_pid()) AS snapshot, "
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


# Attribute, column, type.
_RESTORED = (
    ("id", "id", "text"),
    ("name", "name", "text"),
    ("payload", "payload", "text"),
    ("priority", "priority", "bigint"),
    ("position", "position", "bigint"),
    ("attempt", "attempt", "int"),
    ("crashes", "crashes", "int"),
    ("max_crashes", "max_crashes", "int"),
    ("created_at", "created_at", "float8"),
    ("run_at", "run_at", "float8"),
    ("queue_until", "queue_until", "float8"),
    ("total_until", "total_until", "float8"),
    ("fence", "fence", "bigint"),
    ("unique", "unique_key", "text"),
    ("group", "group_name", "text"),
    ("keys", "keys", "text"),
    ("metadata", "metadata", "text"),
    ("trace", "trace", "text"),
    ("parent", "parent", "text"),
    ("submitter", "submitter", "text"),
    ("error", "error", "text"),
    ("reason", "reason", "text"),
)
# Two jobs that were accepted in two stores are two jobs.
_FREE_UNIQUE = (
    "CASE WHEN row_number() OVER (PARTITION BY unique_key ORDER BY position) = 1 AND NOT EXISTS (SELECT 1 FROM "
    "{s}.jobs o WHERE o.queue = $1::int AND o.unique_key = u.unique_key AND o.id <> u.id) THEN unique_key END"
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
    if facts["snapshot"] is not None and facts["snapshot"] > 60:
        found.append(
            f"a transaction is open for {facts['snapshot']:.0f} seconds, so dead rows stay and claims become slow: "
            "find it in pg_stat_activity by its xact_start"
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
