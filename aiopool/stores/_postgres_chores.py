"""What is done now and then in PostgreSQL: rescue the jobs of the dead, end what is late, bring back, remove.

It knows: the tables of `_postgres_schema.py`. It refuses to know who calls, and how often.

Rule 1: each call does a bounded part, and leaves out what somebody else has locked: that one is at it.

Rule 2: one sweep of a queue at a time; the others have nothing to do.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CHORES"]

CHORES: Final = """
-- Take rows from the dead.
CREATE OR REPLACE FUNCTION {schema}.rescue(q int, t float8, me text, owners text[], most int, OUT rescued int,
    OUT dead int, OUT back int) LANGUAGE plpgsql AS $$
DECLARE
    tids tid[];
    told text[];
    names text[];
    counts int[];
BEGIN
    dead := 0; back := 0;
    SELECT coalesce(array_agg(c.tid), ARRAY[]::tid[]), count(*) INTO tids, rescued FROM (
        SELECT j.ctid AS tid FROM jobs j WHERE j.queue = q AND j.status = 'running' AND j.owner = ANY(owners)
        LIMIT most FOR UPDATE SKIP LOCKED) c;
    IF rescued = 0 THEN RETURN; END IF;
    SELECT array_agg(x.lane), array_agg(x.n) INTO names, counts FROM (
        SELECT u.lane, count(*)::int AS n FROM jobs j, unnest(j.lanes) u(lane) WHERE j.ctid = ANY(tids)
        GROUP BY u.lane) x;
    WITH d AS (DELETE FROM jobs j WHERE j.ctid = ANY(tids) AND (j.cancel_asked OR j.crashes + 1 >= j.max_crashes)
            RETURNING j.*),
    s AS (SELECT d.*, CASE WHEN d.cancel_asked THEN 'cancelled' ELSE 'dead' END AS ends FROM d),
    h AS (INSERT INTO history (queue, id, name, payload, priority, position, attempt, crashes, max_crashes, created_at,
            run_at, queue_until, total_until, started_at, seconds, owner, fence, unique_key, group_name, keys, lanes,
            metadata, trace, parent, submitter, progress, message, status, result, error, reason, finished_at)
        SELECT queue, id, name, payload, priority, position, attempt, crashes + 1, max_crashes, created_at,
            run_at, queue_until, total_until, started_at, greatest(0, t - started_at), owner, fence, unique_key,
            group_name, keys, lanes, metadata, trace, parent, submitter, progress, message, ends, NULL,
            CASE WHEN ends = 'dead' THEN '{"type": "JobDeadError", "message": "' || CASE WHEN crashes > 0
                THEN (crashes + 1) || ' of its workers' ELSE 'its worker' END || ' died while it ran"}'
                ELSE error END, reason, t
        FROM s ON CONFLICT DO NOTHING)
    SELECT count(*) FILTER (WHERE ends = 'dead'), array_agg(DISTINCT submitter) INTO dead, told FROM s;
    UPDATE jobs j SET status = 'queued', crashes = j.crashes + 1, owner = NULL, expires_at = j.total_until,
        seconds = greatest(0, t - j.started_at) WHERE j.ctid = ANY(tids);
    GET DIAGNOSTICS back = ROW_COUNT;
    back := back + {schema}.free_lanes(q, t, names, counts);
    UPDATE queues SET rescued = queues.rescued + rescue.rescued WHERE queues.no = q;
    PERFORM {schema}.hint(q, me, back > 0, told, NULL);
END $$;

CREATE OR REPLACE FUNCTION {schema}.sweep(q int, me text, names text[], keep float8, keep_failed float8, trust bool,
    OUT rescued int, OUT dead int, OUT timed_out int, OUT purged int, OUT unparked int, OUT back int)
LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
DECLARE
    t float8 := {schema}.clock();
    held bigint[];
    gone text[];
    tids tid[];
    told text[];
    called int;
    n int;
BEGIN
    rescued := 0; dead := 0; timed_out := 0; purged := 0; unparked := 0; back := 0;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('{schema}/sweep', q)) THEN RETURN; END IF;
    IF trust AND pg_postmaster_start_time() < clock_timestamp() - interval '2 seconds'
        AND EXISTS (SELECT 1 FROM workers w WHERE w.queue = q AND w.lock_key IS NOT NULL AND w.id <> me) THEN
        held := ARRAY(SELECT (l.classid::bigint << 32) | l.objid::bigint FROM pg_locks l
            WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()));
        UPDATE workers w SET missing_since = CASE WHEN w.lock_key = ANY(held) THEN NULL ELSE t END
        WHERE w.queue = q AND w.lock_key IS NOT NULL AND w.id <> me
            AND (w.lock_key = ANY(held)) = (w.missing_since IS NOT NULL);
    ELSE
        held := NULL;
    END IF;
    -- One whose row is locked claims at this moment, so it lives.
    UPDATE workers w SET dead = true WHERE w.ctid = ANY(ARRAY(
        SELECT x.ctid FROM workers x WHERE x.queue = q AND NOT x.dead AND (x.lease_until < t
            OR held IS NOT NULL AND x.lock_key IS NOT NULL AND x.missing_since <= t - 0.6)
        FOR UPDATE SKIP LOCKED));
    gone := ARRAY(SELECT w.id FROM workers w WHERE w.queue = q AND w.dead);
    IF cardinality(gone) > 0 THEN
        SELECT r.rescued, r.dead, r.back INTO rescued, dead, back FROM {schema}.rescue(q, t, me, gone, 1000) r;
        DELETE FROM workers w WHERE w.queue = q AND w.id = ANY(gone) AND w.dead AND NOT EXISTS (
            SELECT 1 FROM jobs j WHERE j.queue = q AND j.status = 'running' AND j.owner = w.id);
    END IF;
    SELECT array_agg(c.tid) INTO tids FROM (SELECT j.ctid AS tid FROM jobs j WHERE j.queue = q AND j.expires_at <= t
        AND j.status IN ('scheduled', 'queued', 'limited', 'parked') LIMIT 1000 FOR UPDATE SKIP LOCKED) c;
    IF tids IS NOT NULL THEN
        SELECT e.told, e.ended, e.called INTO told, timed_out, called
        FROM {schema}.end_waiting(q, t, tids, 'timed_out', NULL) e;
        back := back + called;
    END IF;
    IF cardinality(names) > 0 AND EXISTS (SELECT 1 FROM jobs j WHERE j.queue = q AND j.status = 'parked') THEN
        UPDATE jobs j SET status = CASE WHEN j.run_at > t THEN 'scheduled' ELSE 'queued' END WHERE j.ctid = ANY(ARRAY(
            SELECT p.ctid FROM jobs p WHERE p.queue = q AND p.status = 'parked' AND p.name = ANY(names)
            LIMIT 1000 FOR UPDATE SKIP LOCKED));
        GET DIAGNOSTICS unparked = ROW_COUNT;
        back := back + unparked;
    END IF;
    DELETE FROM history h WHERE h.ctid = ANY(ARRAY(SELECT x.ctid FROM history x WHERE x.queue = q
        AND x.status = 'succeeded' AND x.finished_at <= t - keep LIMIT 1000 FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS purged = ROW_COUNT;
    DELETE FROM history h WHERE h.ctid = ANY(ARRAY(SELECT x.ctid FROM history x WHERE x.queue = q
        AND x.status IN ('failed', 'timed_out', 'cancelled', 'dead') AND x.finished_at <= t - keep_failed
        LIMIT 1000 FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS n = ROW_COUNT;
    purged := purged + n;
    DELETE FROM lanes l WHERE l.ctid = ANY(ARRAY(SELECT x.ctid FROM lanes x WHERE x.queue = q AND x.running = 0
        AND x.wake_at IS NULL AND x.used_at < t - 60 AND coalesce(x.next_at, 0) < t
        AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.queue = q AND j.lane = x.lane)
        LIMIT 1000 FOR UPDATE SKIP LOCKED));
    PERFORM {schema}.hint(q, me, timed_out + unparked > 0 AND back > 0, told, NULL);
END $$;

-- An incarnation leaves; whether it still holds something.
CREATE OR REPLACE FUNCTION {schema}.leave(q int, me text) RETURNS bool LANGUAGE plpgsql {plans} AS $$
DECLARE
    t float8 := {schema}.clock();
    r record;
BEGIN
    PERFORM 1 FROM workers w WHERE w.queue = q AND w.id = me FOR UPDATE;
    UPDATE workers w SET dead = true WHERE w.queue = q AND w.id = me;
    SELECT * INTO r FROM {schema}.rescue(q, t, me, ARRAY[me], 1000);
    IF r.rescued >= 1000 THEN RETURN true; END IF;
    DELETE FROM workers w WHERE w.queue = q AND w.id = me AND NOT EXISTS (
        SELECT 1 FROM jobs j WHERE j.queue = q AND j.status = 'running' AND j.owner = me);
    RETURN false;
END $$;
"""
