"""The limits of the fleet in PostgreSQL: what a lane has places for, and who is called when it has some.

It knows: the tables of `_postgres_schema.py`, of which it writes lanes, and the rows that are held there. It refuses to
know why a place became free.

Rule 1: when a lane has places, the best that are held there are *called*, as many as have places: they are queued, and
the lane stays noted on them. One that was called while a better one was elsewhere does not stand in the way of that
one: both are called, and whoever finds no place is held again. A called row that does not take the place makes its lane
look again. So each row moves few times, nobody scans what is blocked, and no place stays free while somebody is held
for it.

Rule 2: a rate has two rules: the pace (GCRA: starts are spaced evenly, up to `burst` together after a rest), and the
window (never more than the larger of rate and burst in the time that so many take).
"""

from __future__ import annotations

from typing import Final

__all__ = ["LANES"]

LANES: Final = """
-- So many may start now, as far as the rate goes: by the pace (GCRA), and by the window.
CREATE OR REPLACE FUNCTION {schema}.rate_places(next_at float8, starts float8[], rate float8, burst int, t float8)
RETURNS int LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN rate IS NULL THEN 1000 ELSE greatest(0, least(1000,
    floor(((burst - 1) / rate
        - greatest(0, least(coalesce(next_at, t), t + (greatest(ceil(rate), burst) + 1) / rate) - t)) * rate
        + 1e-5) + 1,
    greatest(ceil(rate), burst) - (SELECT count(*) FROM unnest(starts) s
        WHERE s > t - greatest(ceil(rate), burst) / rate + 1e-6 AND s <= t + 1e-6)))::int END $$;

-- The moment from which on the rate lets another one start, after so many that were called.
CREATE OR REPLACE FUNCTION {schema}.opens_at(next_at float8, starts float8[], rate float8, burst int, t float8,
    ahead int) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
SELECT greatest(
    CASE WHEN ahead > 0 THEN greatest(n.at, t) + ahead / rate ELSE n.at END - (burst - 1) / rate,
    (SELECT s.at + w.size / rate FROM unnest(starts) WITH ORDINALITY s(at, i)
     WHERE s.i = cardinality(starts) + ahead - w.size + 1 AND s.at <= t + 1e-6))
FROM (SELECT greatest(ceil(rate), burst) AS size) w,
    LATERAL (SELECT least(coalesce(next_at, t), t + (w.size + 1) / rate) AS at) n $$;

-- Call the best of the held, as many as there are places. The lanes are locked.
CREATE OR REPLACE FUNCTION {schema}.call_held(q int, t float8, names text[]) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    n int;
BEGIN
    WITH l AS MATERIALIZED (
        SELECT l.lane, least(coalesce(r.max_at_once - l.running, 1000),
            {schema}.rate_places(l.next_at, l.starts, r.max_per_second, r.burst, t)) AS places
        FROM lanes l LEFT JOIN limits r ON r.queue = q AND r.rule = l.rule
        WHERE l.queue = q AND l.lane = ANY(names)
    ), best AS MATERIALIZED (
        SELECT b.tid, b.status FROM l CROSS JOIN LATERAL (
            SELECT j.ctid AS tid, j.status FROM jobs j WHERE j.queue = q AND j.lane = l.lane
            ORDER BY j.priority, j.position LIMIT greatest(l.places, 0)) b
        WHERE l.places > 0
    ), free AS MATERIALIZED (
        SELECT j.ctid AS tid FROM jobs j
        WHERE j.ctid = ANY(ARRAY(SELECT tid FROM best WHERE status = 'limited')) AND j.status || '' = 'limited'
        FOR UPDATE SKIP LOCKED
    ), up AS (
        UPDATE jobs j SET status = 'queued' WHERE j.ctid = ANY(ARRAY(SELECT tid FROM free)) RETURNING 1
    )
    SELECT count(*) INTO n FROM up;
    -- Somebody has to look again: when the rate opens; or now, if a row was locked by somebody else.
    UPDATE lanes l SET wake_at = w.at FROM (
        SELECT x.lane, CASE
            WHEN NOT EXISTS (SELECT 1 FROM jobs j WHERE j.queue = q AND j.status = 'limited' AND j.lane = x.lane)
                THEN NULL
            WHEN EXISTS (SELECT 1 FROM (SELECT j.status FROM jobs j WHERE j.queue = q AND j.lane = x.lane
                    ORDER BY j.priority, j.position LIMIT greatest(x.places, 0)) b WHERE b.status = 'limited')
                THEN t
            WHEN x.running + x.places >= x.max_at_once OR x.max_per_second IS NULL THEN NULL
            ELSE greatest(t, {schema}.opens_at(x.next_at, x.starts, x.max_per_second, x.burst, t,
                greatest(x.places, 0))) END AS at
        FROM (
            SELECT l.lane, l.running, l.next_at, l.starts, r.max_at_once, r.max_per_second, r.burst,
                least(coalesce(r.max_at_once - l.running, 1000),
            {schema}.rate_places(l.next_at, l.starts, r.max_per_second, r.burst, t)) AS places
            FROM lanes l LEFT JOIN limits r ON r.queue = q AND r.rule = l.rule
            WHERE l.queue = q AND l.lane = ANY(names)) x) w
    WHERE l.queue = q AND l.lane = w.lane AND l.wake_at IS DISTINCT FROM w.at;
    RETURN n;
END $$;

-- Give places back, so many in each of these lanes; with none, only look whether others are next now.
CREATE OR REPLACE FUNCTION {schema}.free_lanes(q int, t float8, names text[], stops int[]) RETURNS int
LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(cardinality(names), 0) = 0 THEN RETURN 0; END IF;
    PERFORM 1 FROM lanes l WHERE l.queue = q AND l.lane = ANY(names) ORDER BY l.lane FOR UPDATE;
    UPDATE lanes l SET running = greatest(l.running - f.stops, 0), used_at = t
    FROM (SELECT u.lane, sum(u.stops)::int AS stops FROM unnest(names, stops) u(lane, stops) GROUP BY u.lane) f
    WHERE l.queue = q AND l.lane = f.lane;
    RETURN {schema}.call_held(q, t, names);
END $$;

CREATE OR REPLACE FUNCTION {schema}.set_limits(q int, me text, rules text[], at_once int[], per_second float8[],
    bursts int[]) RETURNS void LANGUAGE plpgsql {plans} AS $$
DECLARE
    names text[];
BEGIN
    INSERT INTO limits (queue, rule, max_at_once, max_per_second, burst)
    SELECT q, u.* FROM unnest(rules, at_once, per_second, bursts) u ORDER BY 2
    ON CONFLICT (queue, rule) DO UPDATE SET max_at_once = excluded.max_at_once,
        max_per_second = excluded.max_per_second, burst = excluded.burst;
    names := ARRAY(SELECT l.lane FROM lanes l WHERE l.queue = q AND l.rule = ANY(rules) ORDER BY l.lane FOR UPDATE);
    IF cardinality(names) > 0 THEN
        PERFORM {schema}.call_held(q, {schema}.clock(), names);
    END IF;
    PERFORM {schema}.hint(q, me, true, NULL, NULL);
END $$;
"""
