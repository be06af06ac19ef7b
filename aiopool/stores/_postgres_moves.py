"""Rows that change their place in PostgreSQL: from the history back into the queue, and to another store.

It knows: the tables of `_postgres_schema.py`. It refuses to know connections: `_read` and `_change` run statements
whose first two arguments are the queue and who asks.

Rule 1: what moves stays here, as `moving`, until it is said to have arrived; nobody starts it meanwhile.

Rule 2: what arrives and is here already, live or ended, stays as it is, whatever others do to it at that moment.

Rule 3: the sequence of positions goes on behind whatever has arrived, and never back.
"""

# ruff: noqa: S608 (what goes into statements is the name of the schema, which is checked, and constants)
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from aiopool.stores import _postgres_rows as rows_
from aiopool.stores._rows import ENDED, StoredJob, StoredStatus

__all__ = ["MOVES", "Moves"]

_BATCH = 1000

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
_NAMES: Final = ", ".join(column for _, column, _ in _RESTORED)
_ARRAYS: Final = ", ".join(f"{column}_ {kind}[]" for _, column, kind in _RESTORED)
_COLUMNS: Final = ", ".join(f"{column}_" for _, column, _ in _RESTORED)

MOVES: Final = (
    """
-- Put some of the history back: these, or those that ended after a moment.
CREATE OR REPLACE FUNCTION {schema}.requeue(q int, me text, ids text[], p_status text, after float8, place bigint,
    most int, OUT seen int, OUT count int, OUT last_at float8, OUT last_place bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    t float8 := {schema}.clock();
    wanted text[];
BEGIN
    IF ids IS NOT NULL THEN
        wanted := ids;
        seen := cardinality(ids);
    ELSE
        SELECT array_agg(x.id), count(*), max(x.finished_at) INTO wanted, seen, last_at FROM (
            SELECT h.id, h.finished_at FROM {schema}.history h WHERE h.queue = q
                AND (p_status IS NULL OR h.status = p_status) AND (h.finished_at, h.position) > (after, place)
            ORDER BY h.finished_at, h.position LIMIT most) x;
        SELECT max(h.position) INTO last_place FROM {schema}.history h
        WHERE h.queue + 0 = q AND h.id = ANY(wanted) AND h.finished_at = last_at;
    END IF;
    WITH h AS MATERIALIZED (
        SELECT * FROM {schema}.history h WHERE h.queue + 0 = q AND h.id = ANY(wanted)
            AND (p_status IS NULL OR h.status = p_status) ORDER BY h.position FOR UPDATE
    ), i AS (
        INSERT INTO {schema}.jobs (queue, id, name, payload, status, priority, position, max_crashes, created_at,
            queue_until, total_until, fence, unique_key, group_name, keys, lanes, metadata, trace, parent, submitter,
            expires_at)
        SELECT queue, id, name, payload, 'queued', priority, nextval('{schema}.positions'), max_crashes, t,
            t + queue_until - greatest(coalesce(run_at, created_at), created_at), t + total_until - created_at, fence,
            unique_key, group_name, keys, lanes, metadata, trace, parent, submitter,
            least(t + queue_until - greatest(coalesce(run_at, created_at), created_at), t + total_until - created_at)
        FROM h ON CONFLICT DO NOTHING RETURNING id
    ), d AS (
        DELETE FROM {schema}.history h USING i WHERE h.queue = q AND h.id = i.id RETURNING h.id
    )
    SELECT count(*) INTO count FROM d;
    PERFORM {schema}.hint(q, me, count > 0, NULL, NULL);
END $$;

CREATE OR REPLACE FUNCTION {schema}.export(q int, me text, most int) RETURNS SETOF {schema}.jobs LANGUAGE plpgsql
{plans} AS $$
DECLARE
    tids tid[];
    names text[];
    n int;
BEGIN
    RETURN QUERY SELECT j.* FROM {schema}.jobs j WHERE j.queue = q AND j.status = 'moving'
        ORDER BY j.priority, j.position LIMIT most;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n >= most THEN RETURN; END IF;
    SELECT array_agg(c.tid), array_agg(c.lane) FILTER (WHERE c.status = 'queued' AND c.lane IS NOT NULL)
    INTO tids, names FROM (
        SELECT * FROM (SELECT j.ctid AS tid, j.lane, j.status FROM {schema}.jobs j WHERE j.queue = q
            AND j.status = 'queued' ORDER BY j.priority, j.position LIMIT most - n FOR UPDATE SKIP LOCKED) queued
        UNION ALL SELECT * FROM (SELECT j.ctid AS tid, j.lane, j.status FROM {schema}.jobs j WHERE j.queue = q
            AND j.status = 'limited' LIMIT most - n FOR UPDATE SKIP LOCKED) limited
        UNION ALL SELECT * FROM (SELECT j.ctid AS tid, j.lane, j.status FROM {schema}.jobs j WHERE j.queue = q
            AND j.status = 'scheduled' LIMIT most - n FOR UPDATE SKIP LOCKED) scheduled
        UNION ALL SELECT * FROM (SELECT j.ctid AS tid, j.lane, j.status FROM {schema}.jobs j WHERE j.queue = q
            AND j.status = 'parked' LIMIT most - n FOR UPDATE SKIP LOCKED) parked
        LIMIT most - n) c;
    RETURN QUERY WITH u AS (
        UPDATE {schema}.jobs j SET status = 'moving', lane = NULL WHERE j.ctid = ANY(tids) RETURNING j.*)
    SELECT u.* FROM u ORDER BY u.priority, u.position;
    n := {schema}.free_lanes(q, {schema}.clock(), names, array_fill(0, ARRAY[coalesce(cardinality(names), 0)]));
END $$;

CREATE OR REPLACE FUNCTION {schema}.restore(q int, me text, lanes_ text[], progress_ float8[], messages text[],
    statuses text[], {arrays}) RETURNS void LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
DECLARE
    t float8 := {schema}.clock();
    last bigint;
BEGIN
    WITH u AS MATERIALIZED (
        SELECT * FROM unnest(lanes_, progress_, messages, statuses, {columns})
            u(lanes, progress, message, was, {names})
        WHERE NOT EXISTS (SELECT 1 FROM history h WHERE h.queue + 0 = q AND h.id = u.id)
            AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.queue + 0 = q AND j.id = u.id)
    ), i AS (
        INSERT INTO jobs (queue, {names}, lanes, progress, message, status, expires_at)
        SELECT q, {free_unique}, string_to_array(lanes, E'\\x1e'), progress, message,
            CASE WHEN was = 'parked' THEN 'parked' WHEN run_at > t THEN 'scheduled' ELSE 'queued' END,
            CASE WHEN attempt = 0 THEN least(queue_until, total_until) ELSE total_until END
        FROM u ORDER BY position ON CONFLICT (id, queue) DO NOTHING RETURNING position)
    SELECT max(position) INTO last FROM i;
    -- One that was here may have ended while the insert waited for that: its history was not seen then.
    DELETE FROM jobs j USING unnest(id_) x(id), history h
    WHERE h.queue + 0 = q AND h.id = x.id AND j.queue + 0 = q AND j.id = x.id;
    PERFORM pg_advisory_xact_lock(hashtextextended('{schema}/positions', 0));
    -- With so much room that those who take positions at this moment do not meet it.
    PERFORM setval('{schema}.positions', last + 100000) FROM positions WHERE last_value <= last;
    PERFORM {schema}.hint(q, me, true, NULL, NULL);
END $$;
""".replace("{names}", _NAMES)
    .replace("{arrays}", _ARRAYS)
    .replace("{columns}", _COLUMNS)
    # Two jobs that were accepted in two stores are two jobs.
    .replace(
        "{free_unique}",
        _NAMES.replace(
            "unique_key",
            "CASE WHEN row_number() OVER (PARTITION BY unique_key ORDER BY position) = 1 AND NOT EXISTS "
            "(SELECT 1 FROM jobs o WHERE o.queue + 0 = q AND o.unique_key = u.unique_key) THEN unique_key END",
        ),
    )
)
"""The functions, as SQL text."""


class Moves(ABC):
    """The part of `Postgres` that takes rows from one place to another."""

    @abstractmethod
    async def _change(self, sql: str, *args: Any) -> list[Any]:
        """Run a statement that writes."""

    @abstractmethod
    async def now(self) -> float:
        """Return the time by the store's clock."""

    @abstractmethod
    def _wake_work(self) -> None:
        """Tell this process that there may be something to claim."""

    # -- the history ---------------------------------------------------------------------------------------------------

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
                "$1::int AND $2::text IS NOT NULL AND x.status = ANY($3::text[]) AND x.finished_at <= $4::float8 "
                "LIMIT 5000)) RETURNING 1",
                statuses,
                until,
            )
            total += len(gone)
            if len(gone) < 5000:
                return total

    # -- to another store ----------------------------------------------------------------------------------------------

    async def export(self, limit: int) -> list[StoredJob]:
        """Take live jobs that do not run, to move them elsewhere. See `Store.export`."""
        found = await self._change(f"SELECT {rows_.LIVE_COLUMNS} FROM {{s}}.export($1::int, $2::text, $3::int)", limit)
        return [rows_.stored(row) for row in found]

    async def restore(self, jobs: Sequence[StoredJob]) -> None:
        """Take in jobs that another store has exported. See `Store.restore`."""
        if not jobs:
            return
        jobs = list({job.id: job for job in jobs}.values())
        kinds = ["text", "float8", "text", "text", *(kind for _, _, kind in _RESTORED)]
        await self._change(
            "SELECT {s}.restore($1::int, $2::text, "
            + ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(kinds, 3))
            + ")",
            ["\x1e".join(dict.fromkeys(job.lanes)) if job.lanes else None for job in jobs],
            [None if job.progress is None else job.progress[0] for job in jobs],
            [None if job.progress is None else job.progress[1] for job in jobs],
            [job.status.value for job in jobs],
            *[[getattr(job, field) for job in jobs] for field, _, _ in _RESTORED],
        )
        self._wake_work()

    async def forget_moved(self, ids: Sequence[str]) -> None:
        """Remove jobs that are moving, and have arrived."""
        await self._change(
            "DELETE FROM {s}.jobs WHERE queue = $1::int AND $2::text IS NOT NULL AND id = ANY($3::text[]) "
            "AND status = 'moving'",
            sorted(ids),
        )
