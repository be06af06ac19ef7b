"""How jobs end in PostgreSQL: settled by their workers, cancelled, or late while they wait.

It knows: the tables of `_postgres_schema.py`. It refuses to know Python, connections and retries.

Always true: a row leaves the live jobs and comes into the history in one statement.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ENDS", "tried"]

# Without ON CONFLICT an insert costs the server a fourth less; and conflicts are rare.
_TRY: Final = """BEGIN
%s    EXCEPTION WHEN unique_violation THEN
%s    END;"""


def tried(statement: str) -> str:
    """Return a statement that is run without its `{unless}`, and with it when that fails."""
    return _TRY % (statement.replace(" {unless}", ""), statement.replace("{unless}", "ON CONFLICT DO NOTHING"))


_END: Final = """\
    WITH d AS (
        DELETE FROM jobs j USING unnest(ids, fences, outcomes, results, errors, reasons)
            s(id, fence, outcome, result, error, reason)
        WHERE j.queue + 0 = q AND j.id = s.id AND j.fence = s.fence AND j.status || '' = 'running'
            AND (j.cancel_asked OR s.outcome NOT IN ('retry', 'release', 'park'))
        RETURNING j.queue, j.id, j.name, j.payload, j.priority, j.position, j.attempt, j.crashes, j.max_crashes,
            j.created_at, j.run_at, j.queue_until, j.total_until, j.started_at,
            greatest(0, t - j.started_at) AS seconds, j.owner,
            j.fence, j.unique_key, j.group_name, j.keys, j.lanes, j.metadata, j.trace, j.parent,
            j.submitter, j.progress, j.message,
            CASE WHEN s.outcome IN ('retry', 'release', 'park') THEN 'cancelled' ELSE s.outcome END AS status,
            s.result, CASE WHEN s.outcome <> 'succeeded' THEN coalesce(s.error, j.error) END AS error,
            CASE WHEN s.outcome IN ('retry', 'release', 'park', 'cancelled') THEN coalesce(s.reason, j.reason)
                ELSE s.reason END AS reason
    ), h AS (
        INSERT INTO history ({shared}, status, result, error, reason, finished_at)
        SELECT {shared}, status, result, error, reason, t FROM d {unless}
    )
    SELECT array_agg(d.id), array_agg(DISTINCT d.submitter) FILTER (WHERE d.submitter <> me),
        bool_or(d.lanes IS NOT NULL) INTO done, told, laned FROM d;
"""

_WAITING: Final = """
-- End rows that wait and are locked: late ones as timed_out, others as cancelled. Returns whom to tell, and the called.
CREATE OR REPLACE FUNCTION {schema}.end_waiting(q int, t float8, tids tid[], p_status text, p_reason text,
    OUT told text[], OUT ended int, OUT called int) LANGUAGE plpgsql AS $$
DECLARE
    names text[];
BEGIN
    WITH d AS (DELETE FROM jobs j WHERE j.ctid = ANY(tids) RETURNING j.*),
    h AS (INSERT INTO history ({shared}, status, result, error, reason, finished_at)
        SELECT {shared}, p_status, NULL, CASE WHEN p_status = 'timed_out' THEN
            '{"type": "JobTimeoutError", "limit": "' || CASE WHEN d.attempt = 0 AND d.queue_until IS NOT NULL
                AND d.queue_until <= coalesce(d.total_until, d.queue_until) THEN 'queue_timeout'
                ELSE 'total_timeout' END || '"}' ELSE d.error END,
            coalesce(p_reason, d.reason), t FROM d ON CONFLICT DO NOTHING)
    SELECT count(*), array_agg(DISTINCT d.submitter), array_agg(d.lane) FILTER (WHERE d.status = 'queued' AND
        d.lane IS NOT NULL) INTO ended, told, names FROM d;
    called := {schema}.free_lanes(q, t, names, array_fill(0, ARRAY[coalesce(cardinality(names), 0)]));
END $$;
"""

_SETTLE = """
CREATE OR REPLACE FUNCTION {schema}.settle(q int, me text, ids text[], fences bigint[], outcomes text[],
    delays float8[], results text[], errors text[], reasons text[], again bool, OUT done text[], OUT back int)
LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
DECLARE
    t float8 := {schema}.clock();
    told text[];
    more text[];
    names text[];
    laned bool;
    n int;
BEGIN
    back := 0;
    {end}
    IF laned THEN
        SELECT array_agg(x.lane) INTO names FROM history h, unnest(h.lanes) x(lane)
        WHERE h.queue + 0 = q AND h.id = ANY(done);
    END IF;
    IF outcomes && '{retry,release,park}' THEN
        WITH u AS (
            UPDATE jobs j SET
                status = CASE WHEN s.outcome = 'park' THEN 'parked'
                    WHEN (CASE WHEN s.outcome = 'retry' AND s.delay > 0 THEN t + s.delay ELSE j.run_at END) > t
                    THEN 'scheduled' ELSE 'queued' END,
                run_at = CASE WHEN s.outcome = 'retry' AND s.delay > 0 THEN t + s.delay ELSE j.run_at END,
                -- It counts no more, but tells a requeue how long the job may wait.
                queue_until = CASE WHEN s.outcome = 'retry' AND s.delay > 0 THEN j.queue_until + t + s.delay
                    - greatest(j.run_at, j.created_at) ELSE j.queue_until END,
                attempt = j.attempt - CASE WHEN s.outcome = 'retry' THEN 0 ELSE 1 END,
                expires_at = CASE WHEN s.outcome <> 'retry' AND j.attempt = 1
                    THEN least(j.queue_until, j.total_until) ELSE j.total_until END,
                owner = NULL, seconds = greatest(0, t - j.started_at), error = coalesce(s.error, j.error)
            FROM unnest(ids, fences, outcomes, delays, errors) s(id, fence, outcome, delay, error)
            WHERE j.queue + 0 = q AND j.id = s.id AND j.fence = s.fence AND j.status || '' = 'running'
                AND s.outcome IN ('retry', 'release', 'park')
            RETURNING j.id, j.lanes, j.status
        )
        SELECT array_agg(u.id), array_cat(names, (SELECT array_agg(x.lane) FROM u, unnest(u.lanes) x(lane))),
            count(*) FILTER (WHERE u.status IN ('queued', 'scheduled')) INTO more, names, back FROM u;
        done := array_cat(done, more);
    END IF;
    IF cardinality(names) > 0 THEN
        back := back + {schema}.free_lanes(q, t, names, array_fill(1, ARRAY[coalesce(cardinality(names), 0)]));
    END IF;
    IF again AND coalesce(cardinality(done), 0) < cardinality(ids) THEN
        -- The answer was lost, so what is not running any more was most likely settled by the same call.
        SELECT array_cat(done, array_agg(s.id)) INTO done FROM unnest(ids, fences) s(id, fence)
        WHERE s.id <> ALL(coalesce(done, '{}')) AND (
            EXISTS (SELECT 1 FROM history h WHERE h.queue + 0 = q AND h.id = s.id AND h.fence = s.fence
                AND h.owner = me)
            OR EXISTS (SELECT 1 FROM jobs j WHERE j.queue + 0 = q AND j.id = s.id AND j.fence = s.fence
                AND j.status <> 'running'));
    END IF;
    PERFORM {schema}.hint(q, me, back > 0, told, NULL);
END $$;

CREATE OR REPLACE FUNCTION {schema}.cancel(q int, me text, ids text[], p_reason text)
RETURNS TABLE (of_id text, was text) LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
DECLARE
    t float8 := {schema}.clock();
    tids tid[];
    waiting text[];
    running text[];
    owners text[];
    e record;
BEGIN
    SELECT array_agg(c.tid) FILTER (WHERE c.status NOT IN ('running', 'moving')),
        array_agg(c.id) FILTER (WHERE c.status NOT IN ('running', 'moving')),
        array_agg(c.id) FILTER (WHERE c.status = 'running'),
        array_agg(DISTINCT c.owner) FILTER (WHERE c.status = 'running')
    INTO tids, waiting, running, owners FROM (
        SELECT j.ctid AS tid, j.id, j.status, j.owner
        FROM unnest(ids) u(id) JOIN jobs j ON j.queue + 0 = q AND j.id = u.id
        ORDER BY j.id FOR UPDATE OF j) c;
    SELECT NULL::text[] AS told, 0 AS called INTO e;
    IF tids IS NOT NULL THEN
        SELECT * INTO e FROM {schema}.end_waiting(q, t, tids, 'cancelled', p_reason);
    END IF;
    IF running IS NOT NULL THEN
        UPDATE jobs j SET cancel_asked = true, reason = p_reason
        WHERE j.queue + 0 = q AND j.id = ANY(running) AND NOT j.cancel_asked;
    END IF;
    PERFORM {schema}.hint(q, me, e.called > 0, array_remove(e.told, me), owners);
    RETURN QUERY SELECT u.id, CASE WHEN u.id = ANY(waiting) THEN 'queued' WHEN u.id = ANY(running) THEN 'running'
        WHEN EXISTS (SELECT 1 FROM history h WHERE h.queue + 0 = q AND h.id = u.id) THEN 'ended' ELSE 'unknown' END
    FROM unnest(ids) u(id);
END $$;
"""

ENDS: Final = _WAITING + _SETTLE.replace("{end}", tried(_END))
"""The functions, as SQL text."""
