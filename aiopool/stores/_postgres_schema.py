"""The tables in PostgreSQL, and how they come to be: numbered migrations, in a schema of our own.

It knows: what a database needs for this version of aiopool. It refuses to know jobs.

Rule 1: a migration runs as a whole, in one transaction, under a lock: two processes that open a new database at once
do not meet.

Rule 2: a database that needs a newer aiopool is refused, and left alone. `needs` of a migration is the oldest version
of this file that works with the tables as they are after it; so processes of two releases can share a fleet.

Rule 3: live jobs and those that have ended are two tables: the one that is claimed from stays small, whatever the
history keeps.
"""

# ruff: noqa: S608 (what goes into statements is the name of the schema, which is checked, and constants)
from __future__ import annotations

import re
from typing import Any, Final

from aiopool._runtime import failpoints
from aiopool.errors import StoreError
from aiopool.stores._postgres_functions import FUNCTIONS

__all__ = ["VERSION", "check_schema_name", "migrate"]

_COLUMNS = """
    queue int NOT NULL,
    id text NOT NULL,
    name text NOT NULL,
    payload text NOT NULL,
    status text NOT NULL,
    priority bigint NOT NULL,
    position bigint NOT NULL,
    attempt int NOT NULL DEFAULT 0,
    crashes int NOT NULL DEFAULT 0,
    max_crashes int NOT NULL,
    created_at float8 NOT NULL,
    run_at float8,
    queue_until float8,
    total_until float8,
    started_at float8,
    seconds float8 NOT NULL DEFAULT 0,
    owner text,
    fence bigint NOT NULL DEFAULT 0,
    unique_key text,
    group_name text,
    keys text,
    lanes text[],
    metadata text,
    trace text,
    parent text,
    submitter text NOT NULL,
    progress float8,
    message text,
    error text,
    reason text,
"""

_TABLES = """
CREATE SEQUENCE {schema}.positions;
CREATE TABLE {schema}.queues (
    no int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    paused bool NOT NULL DEFAULT false,
    rescued bigint NOT NULL DEFAULT 0
);
CREATE TABLE {schema}.jobs ({columns}
    cancel_asked bool NOT NULL DEFAULT false,
    lane text, -- the one that holds it, if it is limited; that has called it, if it is queued
    expires_at float8, -- when its time is over, if it does not start before
    PRIMARY KEY (id, queue)
) WITH (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.1);
CREATE INDEX jobs_queued ON {schema}.jobs (queue, priority, position) WHERE status = 'queued';
CREATE INDEX jobs_due ON {schema}.jobs (queue, run_at) WHERE status = 'scheduled';
CREATE INDEX jobs_running ON {schema}.jobs (queue, owner) WHERE status = 'running';
CREATE INDEX jobs_held ON {schema}.jobs (queue, lane, priority, position) WHERE lane IS NOT NULL;
CREATE INDEX jobs_limited ON {schema}.jobs (queue, lane) WHERE status = 'limited';
CREATE INDEX jobs_parked ON {schema}.jobs (queue, name) WHERE status = 'parked';
CREATE INDEX jobs_moving ON {schema}.jobs (queue, priority, position) WHERE status = 'moving';
CREATE INDEX jobs_late ON {schema}.jobs (queue, expires_at)
    WHERE expires_at IS NOT NULL AND status IN ('scheduled', 'queued', 'limited', 'parked');
CREATE UNIQUE INDEX jobs_unique ON {schema}.jobs (unique_key, queue) WHERE unique_key IS NOT NULL;
CREATE INDEX jobs_place ON {schema}.jobs (queue, position)
    WHERE status IN ('scheduled', 'limited', 'parked', 'moving'); -- for pages; not on the way of most jobs
CREATE TABLE {schema}.history ({columns}
    result text,
    finished_at float8 NOT NULL,
    PRIMARY KEY (id, queue)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1);
CREATE INDEX history_ended ON {schema}.history (queue, status, finished_at, position);
CREATE TABLE {schema}.workers (
    queue int NOT NULL,
    id text NOT NULL,
    host text NOT NULL,
    pid int NOT NULL,
    runs_jobs bool NOT NULL,
    started_at float8 NOT NULL,
    seen_at float8 NOT NULL,
    lease_until float8 NOT NULL,
    lock_key bigint, -- of the advisory lock that its keeper holds; none: only the lease counts
    missing_since float8, -- a sweep did not find that lock
    dead bool NOT NULL DEFAULT false,
    PRIMARY KEY (queue, id)
) WITH (fillfactor = 50);
CREATE TABLE {schema}.lanes (
    queue int NOT NULL,
    lane text NOT NULL,
    rule text NOT NULL,
    running int NOT NULL DEFAULT 0,
    next_at float8,
    starts float8[] NOT NULL DEFAULT '{}',
    wake_at float8, -- somebody is held here, and has to be looked at then
    used_at float8 NOT NULL,
    PRIMARY KEY (queue, lane)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX lanes_rule ON {schema}.lanes (queue, rule);
CREATE INDEX lanes_wake ON {schema}.lanes (queue, wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX lanes_free ON {schema}.lanes (queue, used_at) WHERE running = 0 AND wake_at IS NULL;
CREATE TABLE {schema}.limits (
    queue int NOT NULL,
    rule text NOT NULL,
    max_at_once int,
    max_per_second float8,
    burst int NOT NULL,
    PRIMARY KEY (queue, rule)
);
CREATE TABLE {schema}.ticks (
    queue int NOT NULL,
    schedule text NOT NULL,
    moment float8 NOT NULL,
    PRIMARY KEY (queue, schedule)
);
"""

# (version, the oldest version of this file that works with the result, SQL)
_MIGRATIONS: Final = ((1, 1, _TABLES.replace("{columns}", _COLUMNS) + FUNCTIONS),)

VERSION: Final = _MIGRATIONS[-1][0]
"""What this file makes of a database."""


def check_schema_name(schema: str) -> str:
    """Return the name of a schema that can stand in SQL as it is.

    Raises:
        ValueError: it cannot.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", schema):
        raise ValueError(
            f"schema={schema!r}: up to 40 small letters, digits and underscores, not a digit first; write schema='jobs'"
        )
    return schema


async def migrate(conn: Any, schema: str) -> None:
    """Bring the tables up to date; a database that is costs one look.

    Raises:
        StoreError: the database needs a newer aiopool.
    """
    if await _version(conn, schema) >= VERSION:
        return
    async with conn.transaction():
        await conn.execute(f"SELECT pg_advisory_xact_lock(hashtextextended('aiopool/{schema}/migrate', 0))")
        found = await _version(conn, schema)
        if found >= VERSION:
            return
        if found == 0:
            await conn.execute(
                f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE TABLE {schema}.migrations "
                "(version int PRIMARY KEY, needs int NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )
        for version, needs, text in _MIGRATIONS:
            if version > found:
                await conn.execute(text.replace("{schema}", schema))
                if failpoints.ACTIVE:
                    failpoints.reach("migrate.inside")
                await conn.execute(f"INSERT INTO {schema}.migrations VALUES ({version}, {needs})")


async def _version(conn: Any, schema: str) -> int:
    """Return the version of the tables; 0: there are none."""
    there = await conn.fetchval(  # not by to_regclass, which may remember what was not there before the lock was taken
        "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE n.nspname = '{schema}' AND c.relname = 'migrations')"
    )
    if not there:
        return 0
    version, needs = await conn.fetchrow(f"SELECT max(version), max(needs) FROM {schema}.migrations")
    if needs is not None and needs > VERSION:
        raise StoreError(
            f"the tables in schema {schema!r} are of version {version} and need at least {needs}; this aiopool knows "
            f"{VERSION}: upgrade aiopool, or write another schema, as in ?schema={schema}_old"
        )
    return version or 0
