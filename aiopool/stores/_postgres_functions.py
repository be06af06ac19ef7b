"""The way of a job in PostgreSQL: one function in the server for each verb, so that each verb is one round trip.

It knows: the tables of `_postgres_schema.py`. It refuses to know Python, connections and retries.

Rule 1: whoever needs both locks the rows of jobs first, then those of lanes, each in order. What is taken while lanes
are locked is taken with SKIP LOCKED; so nobody waits in a circle.

Rule 2: time is `clock()`, which tests may replace.

Rule 3: plans are made once, while the tables may be empty, and must be good for tables of any size. So whole tables
are never scanned; and what is looked up by its id is written as `queue + 0`, and `status || ''`, which leaves the
planner no other index than that of the id.
"""

from __future__ import annotations

from typing import Final

from aiopool.stores._postgres_chores import CHORES
from aiopool.stores._postgres_ends import ENDS, tried
from aiopool.stores._postgres_lanes import LANES
from aiopool.stores._postgres_moves import MOVES

__all__ = ["FUNCTIONS", "SHARED"]

SHARED: Final = (
    "queue, id, name, payload, priority, position, attempt, crashes, max_crashes, created_at, run_at, queue_until, "
    "total_until, started_at, seconds, owner, fence, unique_key, group_name, keys, lanes, metadata, trace, parent, "
    "submitter, progress, message"
)
"""The columns that both jobs and history have, but for those that a settlement sets."""

_PLANS = """
SET search_path = {schema}, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET jit = off SET plan_cache_mode = force_generic_plan
"""

_HELPERS = """
CREATE OR REPLACE FUNCTION {schema}.clock() RETURNS float8 LANGUAGE sql VOLATILE AS
$$ SELECT extract(epoch FROM clock_timestamp())::float8 $$;

-- One hint for all who listen, if anybody else is there.
CREATE OR REPLACE FUNCTION {schema}.hint(q int, me text, work bool, finished text[], cancels text[]) RETURNS void
LANGUAGE plpgsql SET search_path = {schema}, pg_temp AS $$
DECLARE
    f text := array_to_string(finished, ',');
    c text := array_to_string(cancels, ',');
BEGIN
    IF NOT work AND coalesce(f, '') = '' AND coalesce(c, '') = '' THEN RETURN; END IF;
    IF NOT EXISTS (SELECT 1 FROM workers w WHERE w.queue = q AND w.id <> me) THEN RETURN; END IF;
    IF length(f) > 3000 THEN f := '*'; END IF;
    IF length(c) > 3000 THEN c := '*'; END IF;
    PERFORM pg_notify('{schema}_' || q, me || '|' || CASE WHEN work THEN 'w' ELSE '' END || '|' || coalesce(f, '')
        || '|' || coalesce(c, ''));
END $$;
"""

_TAKE: Final = """\
    WITH i AS (
        INSERT INTO jobs (queue, id, name, payload, priority, position, max_crashes, created_at, run_at, queue_until,
            total_until, unique_key, group_name, keys, lanes, metadata, trace, parent, submitter, status, attempt,
            fence, owner, started_at, expires_at)
        SELECT q, id, name, payload, coalesce(priority, 5), position, coalesce(max_crashes, 3), t, run_at,
            greatest(run_at, t) + queue_timeout, t + total_timeout, uniq, grp, keys, string_to_array(lanes, E'\\x1e'),
            metadata, trace, parent, submitter,
            CASE WHEN go THEN 'running' WHEN run_at > t THEN 'scheduled' ELSE 'queued' END,
            CASE WHEN go THEN 1 ELSE 0 END, CASE WHEN go THEN 1 ELSE 0 END, CASE WHEN go THEN me END,
            CASE WHEN go THEN t END,
            CASE WHEN go THEN t + total_timeout ELSE least(greatest(run_at, t) + queue_timeout, t + total_timeout) END
        FROM (
            SELECT u.id, u.name, u.payload, u.priority, u.queue_timeout, u.total_timeout, u.max_crashes, u.uniq, u.grp,
                u.keys, u.lanes, u.metadata, u.trace, u.parent, u.submitter,
                CASE WHEN u.run_at IS NOT NULL THEN u.run_at WHEN u.delay > 0 THEN t + u.delay END AS run_at,
                may_start AND coalesce(u.go, false) AS go, nextval('{schema}.positions') AS position
            FROM unnest(ids, names, payloads, priorities, delays, run_ats, queue_timeouts, total_timeouts, max_crashes_,
                uniques, groups_, keys_, lanes_, metadata_, traces, parents, submitters, starts) WITH ORDINALITY
                u(id, name, payload, priority, delay, run_at, queue_timeout, total_timeout, max_crashes, uniq, grp,
                keys, lanes, metadata, trace, parent, submitter, go, n)
            WHERE u.n <> ALL(passed)
        ) x
        {unless} RETURNING id, status
    )
    SELECT array_agg(i.id), bool_or(i.status = 'running'), bool_or(i.status <> 'running') INTO taken, begun, waits
    FROM i;
"""

_SUBMIT = """
-- No id is there twice, nor a `unique` before a tick that has it, too: `parts_of` sees to that.
CREATE OR REPLACE FUNCTION {schema}.submit(q int, me text, ids text[], names text[], payloads text[],
    priorities bigint[], delays float8[], run_ats float8[], queue_timeouts float8[], total_timeouts float8[],
    max_crashes_ int[], uniques text[], groups_ text[], keys_ text[], lanes_ text[], metadata_ text[], traces text[],
    parents text[], submitters text[], starts bool[], ticks_ text[], moments float8[])
RETURNS TABLE (ord int, outcome text, of_id text, of_submitter text) LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
DECLARE
    t float8 := {schema}.clock();
    passed int[] := '{}';
    may_start bool := false;
    taken text[];
    old text[];
    begun bool;
    waits bool;
    r record;
BEGIN
    IF cardinality(ticks_) > 0 THEN
        FOR r IN SELECT u.n::int AS n, u.id, u.tick, u.moment, u.uniq FROM unnest(ids, ticks_, moments, uniques)
            WITH ORDINALITY u(id, tick, moment, uniq, n) WHERE u.tick IS NOT NULL ORDER BY u.n
        LOOP
            CONTINUE WHEN EXISTS (SELECT 1 FROM jobs j WHERE j.queue + 0 = q AND j.id = r.id)
                OR EXISTS (SELECT 1 FROM history h WHERE h.queue + 0 = q AND h.id = r.id);
            IF EXISTS (SELECT 1 FROM jobs j WHERE j.queue + 0 = q AND j.unique_key = r.uniq) THEN
                IF EXISTS (SELECT 1 FROM ticks k WHERE k.queue = q AND k.schedule = r.tick AND k.moment >= r.moment)
                THEN passed := passed || r.n; END IF;
                CONTINUE;
            END IF;
            INSERT INTO ticks AS k (queue, schedule, moment) VALUES (q, r.tick, r.moment)
            ON CONFLICT (queue, schedule) DO UPDATE SET moment = excluded.moment WHERE k.moment < excluded.moment;
            IF NOT FOUND THEN passed := passed || r.n; END IF;
        END LOOP;
    END IF;
    IF cardinality(starts) > 0 THEN
        PERFORM 1 FROM workers w WHERE w.queue = q AND w.id = me AND NOT w.dead FOR KEY SHARE;
        may_start := FOUND AND NOT (SELECT paused FROM queues WHERE no = q)
            AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.queue = q AND j.status = 'queued')
            AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.queue = q AND j.status = 'scheduled' AND j.run_at <= t);
    END IF;
    {take}
    -- One that has ended already, as it was sent a second time. Only now: it may have ended a moment ago.
    WITH d AS (
        DELETE FROM jobs j USING unnest(taken) x(id), history h
        WHERE h.queue + 0 = q AND h.id = x.id AND j.queue + 0 = q AND j.id = x.id RETURNING j.id)
    SELECT array_agg(d.id) INTO old FROM d;
    IF begun THEN
        RETURN QUERY SELECT u.n::int, 'running', j.id, j.submitter FROM unnest(ids) WITH ORDINALITY u(id, n)
        JOIN jobs j ON j.queue + 0 = q AND j.id = u.id AND j.status || '' = 'running' AND j.fence = 1 AND j.owner = me
        WHERE u.id = ANY(taken);
    END IF;
    IF coalesce(cardinality(taken), 0) < cardinality(ids) OR old IS NOT NULL THEN
        RETURN QUERY
        SELECT u.n::int, CASE WHEN u.n = ANY(passed) THEN 'tick_over'
            WHEN coalesce(j.id, h.id) IS NOT NULL THEN 'same_id'
            WHEN k.id IS NOT NULL THEN 'same_unique' ELSE 'again' END,
            coalesce(j.id, h.id, k.id, u.id), coalesce(j.submitter, h.submitter, k.submitter, '')
        FROM unnest(ids, uniques) WITH ORDINALITY u(id, uniq, n)
        LEFT JOIN jobs j ON j.queue + 0 = q AND j.id = u.id AND u.n <> ALL(passed)
        LEFT JOIN history h ON h.queue + 0 = q AND h.id = u.id AND u.n <> ALL(passed)
        LEFT JOIN jobs k ON k.queue + 0 = q AND k.unique_key = u.uniq AND u.n <> ALL(passed)
        WHERE u.id <> ALL(coalesce(taken, '{}')) OR u.id = ANY(coalesce(old, '{}'));
    END IF;
    PERFORM {schema}.hint(q, me, coalesce(waits, false), NULL, NULL);
END $$;
"""

_CLAIM = """
CREATE OR REPLACE FUNCTION {schema}.claim(q int, me text, want int)
RETURNS TABLE (kind text, id text, name text, payload text, priority bigint, "position" bigint, attempt int,
    crashes int,
    fence bigint, created_at float8, total_until float8, group_name text, keys text, metadata text, trace text,
    parent text) LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
DECLARE
    t float8 := {schema}.clock();
    due bool := false;
    stop bool := false;
    odd bool;
    is_paused bool;
    tids tid[];
    late tid[];
    lates int := 0;
    take tid[];
    held_tids tid[];
    held_in text[];
    names text[];
    places int[];
    started int[];
    n int;
    k int;
    full_at int;
    took int := 0;
    seen int := 0;
    r record;
BEGIN
    SELECT paused INTO is_paused FROM queues WHERE no = q;
    RETURN QUERY SELECT 'cancel', j.id, NULL, j.reason, NULL::bigint, NULL::bigint, NULL::int, NULL::int, j.fence,
        NULL::float8, NULL::float8, NULL, NULL, NULL, NULL, NULL
    FROM jobs j WHERE j.queue = q AND j.owner = me AND j.status = 'running' AND j.cancel_asked;
    IF want > 0 AND NOT is_paused THEN
        -- Whoever is taken for dead gets nothing; and nobody is, while this goes on.
        PERFORM 1 FROM workers w WHERE w.queue = q AND w.id = me AND NOT w.dead FOR KEY SHARE;
        IF NOT FOUND THEN want := 0; END IF;
    END IF;
    IF want > 0 AND NOT is_paused THEN
        IF EXISTS (SELECT 1 FROM jobs j WHERE j.queue = q AND j.status = 'scheduled' AND j.run_at <= t) THEN
            UPDATE jobs j SET status = 'queued' WHERE j.ctid = ANY(ARRAY(
                SELECT s.ctid FROM jobs s WHERE s.queue = q AND s.status = 'scheduled' AND s.run_at <= t
                ORDER BY s.run_at LIMIT 1000 FOR UPDATE SKIP LOCKED));
            GET DIAGNOSTICS n = ROW_COUNT;
            due := n >= 1000;
        END IF;
        names := ARRAY(SELECT l.lane FROM lanes l WHERE l.queue = q AND l.wake_at <= t ORDER BY l.wake_at LIMIT 100
            FOR UPDATE SKIP LOCKED);
        IF cardinality(names) > 0 THEN PERFORM {schema}.call_held(q, t, names); END IF;
        LOOP
            SELECT array_agg(c.tid), bool_or(c.odd), count(*) INTO tids, odd, n FROM (
                SELECT j.ctid AS tid, j.lanes IS NOT NULL OR coalesce(j.expires_at <= t, false) AS odd FROM jobs j
                WHERE j.queue = q AND j.status = 'queued' ORDER BY j.priority, j.position LIMIT want - took
                FOR UPDATE SKIP LOCKED) c;
            EXIT WHEN n = 0;
            seen := seen + n;
            take := tids;
            late := '{}'; held_tids := '{}'; held_in := '{}';
            IF odd THEN
                -- Lanes first: later rounds do not wait for the lanes of others, as that could be a circle.
                take := '{}';
                IF seen = n THEN
                    INSERT INTO lanes AS l (queue, lane, rule, used_at)
                    SELECT DISTINCT q, x.lane, split_part(x.lane, E'\\x1f', 1), t FROM jobs j, unnest(j.lanes) x(lane)
                    WHERE j.ctid = ANY(tids) ORDER BY 2
                    ON CONFLICT (queue, lane) DO UPDATE SET used_at = excluded.used_at;
                    names := ARRAY(SELECT DISTINCT x.lane FROM jobs j, unnest(j.lanes) x(lane)
                        WHERE j.ctid = ANY(tids));
                ELSE
                    INSERT INTO lanes AS l (queue, lane, rule, used_at)
                    SELECT DISTINCT q, x.lane, split_part(x.lane, E'\\x1f', 1), t FROM jobs j, unnest(j.lanes) x(lane)
                    WHERE j.ctid = ANY(tids) ORDER BY 2 ON CONFLICT DO NOTHING;
                    names := ARRAY(SELECT l.lane FROM lanes l WHERE l.queue = q AND l.lane IN (
                        SELECT x.lane FROM jobs j, unnest(j.lanes) x(lane) WHERE j.ctid = ANY(tids))
                        FOR UPDATE OF l SKIP LOCKED);
                END IF;
                SELECT array_agg(l.lane ORDER BY l.lane), array_agg(least(coalesce(m.max_at_once - l.running, 1000000),
                    CASE WHEN m.max_per_second IS NULL THEN 1000000 ELSE {schema}.rate_places(l.next_at, l.starts,
                    m.max_per_second, m.burst, t) END) ORDER BY l.lane) INTO names, places
                FROM lanes l LEFT JOIN limits m ON m.queue = q AND m.rule = l.rule
                WHERE l.queue = q AND l.lane = ANY(names);
                started := array_fill(0, ARRAY[coalesce(cardinality(names), 0)]);
                FOR r IN
                    SELECT u.tid, coalesce(j.expires_at <= t, false) AS late,
                        ARRAY(SELECT array_position(names, x.lane) FROM unnest(j.lanes) WITH ORDINALITY x(lane, i)
                            ORDER BY x.i) AS at
                    FROM unnest(tids) WITH ORDINALITY u(tid, i) JOIN jobs j ON j.ctid = u.tid ORDER BY u.i
                LOOP
                    IF r.late THEN late := array_append(late, r.tid); CONTINUE; END IF;
                    IF array_position(r.at, NULL) IS NOT NULL THEN stop := true; CONTINUE; END IF;
                    full_at := 0;
                    FOREACH k IN ARRAY r.at LOOP
                        IF places[k] <= 0 THEN full_at := k; EXIT; END IF;
                    END LOOP;
                    IF full_at > 0 THEN
                        held_tids := array_append(held_tids, r.tid);
                        held_in := array_append(held_in, names[full_at]);
                    ELSE
                        take := array_append(take, r.tid);
                        FOREACH k IN ARRAY r.at LOOP
                            places[k] := places[k] - 1;
                            started[k] := started[k] + 1;
                        END LOOP;
                    END IF;
                END LOOP;
            END IF;
            RETURN QUERY UPDATE jobs j SET status = 'running', owner = me, attempt = j.attempt + 1, fence = j.fence + 1,
                started_at = t, expires_at = j.total_until, lane = NULL, progress = NULL, message = NULL
            WHERE j.ctid = ANY(take)
            RETURNING 'job', j.id, j.name, j.payload, j.priority, j.position, j.attempt, j.crashes, j.fence,
                t - j.created_at, j.total_until - t, j.group_name, j.keys, j.metadata, j.trace, j.parent;
            took := took + cardinality(take);
            IF odd THEN
                IF cardinality(held_tids) > 0 THEN
                    UPDATE jobs j SET status = 'limited', lane = x.lane FROM unnest(held_tids, held_in) x(tid, lane)
                    WHERE j.ctid = x.tid;
                END IF;
                IF cardinality(names) > 0 THEN
                    UPDATE lanes l SET running = l.running + x.started,
                        next_at = CASE WHEN x.started > 0 AND m.max_per_second IS NOT NULL THEN
                            greatest(l.next_at, t) + x.started / m.max_per_second ELSE l.next_at END,
                        starts = CASE WHEN x.started > 0 AND m.max_per_second IS NOT NULL THEN
                            (l.starts || array_fill(t, ARRAY[x.started]))[greatest(1, cardinality(l.starts) + x.started
                                - greatest(ceil(m.max_per_second), m.burst)::int + 1):] ELSE l.starts END
                    FROM unnest(names, started) x(lane, started)
                    LEFT JOIN limits m ON m.queue = q AND m.rule = split_part(x.lane, E'\\x1f', 1)
                    WHERE l.queue = q AND l.lane = x.lane AND x.started > 0;
                    PERFORM {schema}.call_held(q, t, names);
                END IF;
                IF cardinality(late) > 0 THEN
                    lates := lates + cardinality(late);
                    PERFORM {schema}.hint(q, me, false, (SELECT e.told FROM {schema}.end_waiting(q, t, late,
                        'timed_out', NULL) e), NULL);
                END IF;
            END IF;
            EXIT WHEN stop OR took >= want OR seen >= want + 1000;
        END LOOP;
    END IF;
    RETURN QUERY SELECT 'end', NULL, NULL, NULL,
        CASE WHEN NOT is_paused AND (due OR EXISTS (SELECT 1 FROM jobs j WHERE j.queue = q AND j.status = 'queued'))
            THEN 1 ELSE 0 END::bigint, NULL::bigint, CASE WHEN is_paused THEN 1 ELSE 0 END, lates, NULL::bigint, t,
        CASE WHEN NOT is_paused THEN least(
            (SELECT min(j.run_at) FROM jobs j WHERE j.queue = q AND j.status = 'scheduled'),
            (SELECT min(l.wake_at) FROM lanes l WHERE l.queue = q AND l.wake_at IS NOT NULL)) - t END,
        NULL, NULL, NULL, NULL, NULL;
END $$;
"""

FUNCTIONS: Final = (
    (_HELPERS + LANES + ENDS + _SUBMIT + _CLAIM + CHORES + MOVES)
    .replace("{take}", tried(_TAKE))
    .replace("{plans}", _PLANS)
    .replace("{shared}", SHARED)
)
"""All functions, as SQL text; `{schema}` stands for the schema."""
