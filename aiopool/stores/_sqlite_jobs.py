"""The way of a job in the SQLite store: submit, claim, settle. Each is one call inside of one transaction.

Rule 1: few statements for a batch, however large it is: the rows are looked up with one, and written with one or two.

Rule 2: whoever writes is alone (the lock of all writers), so what was looked up is still true when it is written.

Rule 3: only the fence of a row that is running settles it.

Rule 4: what rarely is (lanes, limits of time, a cancel) is found in the same look-up, and costs others nothing.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from aiopool.stores._rows import Claim, Claimed, NewJob, Settlement, Submitted
from aiopool.stores._sqlite_lanes import ROUNDING
from aiopool.stores._sqlite_tx import Ending, Transaction, limit_error

__all__ = ["claim", "expires_of", "look_before_claim", "settle", "submit", "time_over"]

_MOST_DUE: Final = 1000  # rows that one claim moves out of its way, besides those that it takes


def expires_of(attempt: int, queue_until: float | None, total_until: float | None) -> float | None:
    """Return the moment at which the time of a waiting job is over."""
    if queue_until is None or attempt:
        return total_until
    return queue_until if total_until is None else min(queue_until, total_until)


def time_over(attempt: int, queue_until: float | None, total_until: float | None) -> str:
    """Return the error of a job whose time is over."""
    by_queue = queue_until is not None and not attempt and (total_until is None or queue_until <= total_until)
    return limit_error("queue_timeout" if by_queue else "total_timeout")


# -- submit ------------------------------------------------------------------------------------------------------------

_KNOWN: Final = tuple(
    f"SELECT t.id, t.submitter FROM json_each(?) e CROSS JOIN {table} t ON t.id = e.value AND t.q = ?"  # noqa: S608
    for table in ("jobs", "history")
)
_INSERT: Final = (
    "INSERT INTO jobs (q, id, status, priority, position, attempt, crashes, max_crashes, fence, created_at, run_at, "
    "queue_until, total_until, expires, started_at, owner, name, unique_key, group_name, keys, lanes, metadata, trace, "
    "parent, submitter, payload) VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_FIRST_DUE: Final = "SELECT min(run_at) FROM jobs WHERE q = ? AND status = 'scheduled'"


def submit(tx: Transaction, jobs: Sequence[NewJob]) -> list[Submitted]:
    """See `Store.submit`."""
    connection, q, now = tx.connection, tx.q, tx.now
    ids = json.dumps([job.id for job in jobs])
    submitters: dict[str, str] = {}
    for statement in _KNOWN:
        submitters.update(connection.execute(statement, (ids, q)).fetchall())
    uniques = _holders(tx, [job.unique for job in jobs if job.unique is not None])
    ticks = _ticks(tx, {job.tick[0] for job in jobs if job.tick is not None})
    may_start = any(job.start for job in jobs) and not _anything_before(tx)
    (position,) = connection.execute("SELECT next_position FROM queues WHERE q = ?", (q,)).fetchone()
    first = position
    moved: dict[str, float] = {}
    rows: list[tuple[object, ...]] = []
    answers: list[Submitted] = []
    queued, earliest = False, math.inf
    for job in jobs:
        job_id = job.id
        if job_id in submitters:
            answers.append(Submitted("same_id", job_id, submitters[job_id]))
            continue
        if job.tick is not None:
            schedule, moment = job.tick
            if moment <= ticks.get(schedule, -math.inf):
                answers.append(Submitted("tick_over", job_id, ""))
                continue
        if job.unique is not None:
            other, by = uniques.setdefault(job.unique, (job_id, job.submitter))
            if other != job_id:
                answers.append(Submitted("same_unique", other, by))
                continue
        submitters[job_id] = job.submitter
        if job.tick is not None:
            ticks[job.tick[0]] = moved[job.tick[0]] = job.tick[1]
        run_at = now + job.delay if job.run_at is None and job.delay > 0 else job.run_at
        if run_at is not None and run_at > now:
            status = "scheduled"
            earliest = min(earliest, run_at)
        elif job.start and may_start and not job.lanes:
            status = "running"
        else:
            status = "queued"
            may_start, queued = False, True
        rows.append(_row(tx, job, status, position, run_at))
        position += 1
        answers.append(Submitted("running" if status == "running" else "queued", job_id, job.submitter))
    if earliest < math.inf:  # those who wait for a moment may have to wait for an earlier one
        due = connection.execute(_FIRST_DUE, (q,)).fetchone()[0]
        queued = queued or due is None or earliest < due
    if rows:
        connection.executemany(_INSERT, rows)
    if position != first:
        connection.execute("UPDATE queues SET next_position = ? WHERE q = ?", (position, q))
    if moved:
        connection.executemany(
            "INSERT OR REPLACE INTO schedules (q, schedule, last) VALUES (?, ?, ?)",
            [(q, schedule, moment) for schedule, moment in moved.items()],
        )
    if queued:
        tx.wakes.add((None, b"w"))
    return answers


def _row(tx: Transaction, job: NewJob, status: str, position: int, run_at: float | None) -> tuple[object, ...]:
    """Return the values of `_INSERT`."""
    now, starts = tx.now, status == "running"
    begins = now if run_at is None or run_at < now else run_at
    queue_until = None if job.queue_timeout is None else begins + job.queue_timeout
    total_until = None if job.total_timeout is None else now + job.total_timeout
    return (
        tx.q,
        job.id,
        status,
        job.priority,
        position,
        int(starts),
        job.max_crashes,
        int(starts),
        now,
        run_at,
        queue_until,
        total_until,
        None if starts else expires_of(0, queue_until, total_until),
        now if starts else None,
        tx.me if starts else None,
        job.name,
        job.unique,
        job.group,
        job.keys,
        json.dumps(list(dict.fromkeys(job.lanes))) if job.lanes else None,
        job.metadata,
        job.trace,
        job.parent,
        job.submitter,
        job.payload,
    )


def _holders(tx: Transaction, uniques: list[str]) -> dict[str, tuple[str, str]]:
    if not uniques:
        return {}
    found = tx.connection.execute(
        "SELECT t.unique_key, t.id, t.submitter FROM json_each(?) e CROSS JOIN jobs t ON t.q = ? AND "
        "t.unique_key = e.value",
        (json.dumps(uniques), tx.q),
    )
    return {unique: (other, by) for unique, other, by in found}


def _ticks(tx: Transaction, schedules: set[str]) -> dict[str, float]:
    if not schedules:
        return {}
    return dict(
        tx.connection.execute(
            "SELECT t.schedule, t.last FROM json_each(?) e CROSS JOIN schedules t ON t.q = ? AND t.schedule = e.value",
            (json.dumps(list(schedules)), tx.q),
        ).fetchall()
    )


def _anything_before(tx: Transaction) -> bool:
    """Return whether a job waits that comes before one that is submitted now; or nobody may start."""
    return bool(
        tx.connection.execute(
            "SELECT (SELECT paused FROM queues WHERE q = :q) OR EXISTS (SELECT 1 FROM jobs WHERE q = :q AND "
            "status = 'queued') OR EXISTS (SELECT 1 FROM jobs WHERE q = :q AND status = 'scheduled' AND "
            "run_at <= :now)",
            {"q": tx.q, "now": tx.now},
        ).fetchone()[0]
    )


# -- claim -------------------------------------------------------------------------------------------------------------

_BEST: Final = (
    "SELECT rowid, id, name, payload, priority, attempt, crashes, fence, created_at, total_until, group_name, keys, "
    "metadata, trace, parent, lanes, held, expires, queue_until, submitter FROM jobs WHERE q = ? AND "
    "status = 'queued' ORDER BY priority, position LIMIT ?"
)
_START: Final = (
    "UPDATE jobs SET status = 'running', attempt = attempt + 1, fence = fence + 1, owner = ?, started_at = ?, "
    "expires = NULL, held = NULL, progress = NULL, progress_text = NULL WHERE rowid IN (SELECT value FROM json_each(?))"
)
_DUE: Final = (
    "UPDATE jobs SET status = 'queued' WHERE rowid IN (SELECT rowid FROM jobs WHERE q = ? AND status = 'scheduled' "
    "AND run_at <= ? ORDER BY run_at LIMIT ?)"
)
_CANCELS: Final = "SELECT id, fence, reason FROM jobs WHERE owner = ? AND cancel_asked = 1 AND status = 'running'"


def look_before_claim(connection: sqlite3.Connection, q: int, me: str, now: float, limit: int) -> Claim | None:
    """Return the answer to a claim that has nothing to write; None: it has. Reads only, without the writers' lock."""
    paused, queued, due, looks = connection.execute(
        "SELECT (SELECT paused FROM queues WHERE q = :q), EXISTS (SELECT 1 FROM jobs WHERE q = :q AND "
        "status = 'queued'), EXISTS (SELECT 1 FROM jobs WHERE q = :q AND status = 'scheduled' AND run_at <= :now), "
        "EXISTS (SELECT 1 FROM lanes WHERE q = :q AND look_at <= :now)",
        {"q": q, "now": now + ROUNDING},
    ).fetchone()
    if limit and not paused and (queued or due or looks):
        return None
    more = bool(queued or due) and not paused
    cancels = connection.execute(_CANCELS, (me,)).fetchall()
    next_in = None if paused else _next_in(connection, q, now)
    return Claim([], cancels, next_in, more, bool(paused))


def claim(tx: Transaction, limit: int) -> Claim:
    """See `Store.claim`."""
    connection, q, now = tx.connection, tx.q, tx.now
    cancels = connection.execute(_CANCELS, (tx.me,)).fetchall()
    (paused,) = connection.execute("SELECT paused FROM queues WHERE q = ?", (q,)).fetchone()
    if paused:
        return Claim([], cancels, None, False, True)
    more = connection.execute(_DUE, (q, now + ROUNDING, _MOST_DUE)).rowcount == _MOST_DUE
    if tx.lanes.look_due(_MOST_DUE):
        more = True
    tx.lanes.settle()
    jobs: list[Claimed] = []
    moved = 0
    while len(jobs) < limit:
        if moved >= _MOST_DUE:
            more = True
            break
        wanted = limit - len(jobs)
        found = connection.execute(_BEST, (q, wanted + 1)).fetchall()
        aside, passes_on = _take(tx, found[:wanted], jobs)
        moved += aside
        if passes_on:
            tx.lanes.settle()
            continue
        if len(found) <= wanted:
            break
        if not aside:
            more = True
            break
    if tx.finish():
        more = True
    return Claim(jobs, cancels, _next_in(connection, q, now), more, False)


def _take(tx: Transaction, found: list[Any], jobs: list[Claimed]) -> tuple[int, bool]:
    """Start those of some rows that may, and put the others aside; return how many these are, and whether it stopped at
    one that a lane had called: it calls another one now, which may come before those behind."""
    connection, now, lanes = tx.connection, tx.now, tx.lanes
    started: list[int] = []
    held: list[tuple[str, int]] = []
    over: list[Ending] = []
    passes_on = False
    for row in found:
        (
            rowid,
            job_id,
            name,
            payload,
            priority,
            attempt,
            crashes,
            fence,
            created_at,
            total_until,
            group,
            keys,
            metadata,
            trace,
            parent,
            lanes_text,
            called,
            expires,
            queue_until,
            submitter,
        ) = row
        if expires is not None and expires <= now:
            error = time_over(attempt, queue_until, total_until)
            over.append(Ending("timed_out", None, error, None, rowid, submitter, None, called))
            if called is not None:
                passes_on = True
                break
            continue
        if lanes_text is not None:
            of = json.loads(lanes_text)
            full = lanes.full(of)
            if called is not None:
                lanes.look(called)
            if full is not None:
                held.append((full, rowid))
                lanes.look(full)
                if called is not None:
                    passes_on = True
                    break
                continue
            lanes.take(of)
        started.append(rowid)
        jobs.append(
            Claimed(
                job_id,
                name,
                payload,
                priority,
                attempt + 1,
                crashes,
                fence + 1,
                now - created_at,
                None if total_until is None else total_until - now,
                group,
                keys,
                metadata,
                trace,
                parent,
            )
        )
    if started:
        connection.execute(_START, (tx.me, now, json.dumps(started)))
    if held:
        connection.executemany("UPDATE jobs SET status = 'limited', held = ? WHERE rowid = ?", held)
    tx.end(over, tell_me=True)
    return len(held) + len(over), passes_on


def _next_in(connection: sqlite3.Connection, q: int, now: float) -> float | None:
    due, look = connection.execute(
        "SELECT (SELECT min(run_at) FROM jobs WHERE q = :q AND status = 'scheduled'), (SELECT min(look_at) FROM lanes "
        "WHERE q = :q AND look_at IS NOT NULL)",
        {"q": q},
    ).fetchone()
    moments = [moment for moment in (due, look) if moment is not None]
    return max(min(moments) - now, 0.0) if moments else None


# -- settle ------------------------------------------------------------------------------------------------------------

_RUNNING: Final = (
    "SELECT j.id, j.rowid, j.fence, j.submitter, j.lanes, j.cancel_asked, j.reason, j.attempt, j.queue_until, "
    "j.total_until FROM json_each(?) e CROSS JOIN jobs j ON j.id = e.value AND j.q = ? WHERE j.status = 'running'"
)
# With a new `run_at` goes `queue_until`, which counts no more, but tells a requeue how long the job may wait.
_BACK: Final = (
    "UPDATE jobs SET status = ?, attempt = ?, "
    "queue_until = coalesce(queue_until + ? - max(created_at, coalesce(run_at, created_at)), queue_until), "
    "run_at = coalesce(?, run_at), error = coalesce(?, error), expires = ?, seconds = max(? - started_at, 0.0), "
    "owner = NULL WHERE rowid = ?"
)


def settle(tx: Transaction, ends: Sequence[Settlement]) -> list[bool]:
    """See `Store.settle`."""
    now = tx.now
    ids = json.dumps([end.id for end in ends])
    running = {row[0]: row for row in tx.connection.execute(_RUNNING, (ids, tx.q)).fetchall()}
    endings: list[Ending] = []
    backs: list[tuple[object, ...]] = []
    answers: list[bool] = []
    queued = False
    for end in ends:
        job_id, fence, outcome, delay, result, error, reason = end
        row = running.get(job_id)
        if row is None or row[2] != fence:
            answers.append(False)
            continue
        del running[job_id]
        answers.append(True)
        _, rowid, _, submitter, lanes, cancel_asked, asked_reason, attempt, queue_until, total_until = row
        status: str = outcome
        if outcome in ("retry", "release", "park"):
            if not cancel_asked:
                run_at = None
                if outcome != "retry":
                    attempt -= 1
                    status = "parked" if outcome == "park" else "queued"
                elif delay > 0:
                    status, run_at = "scheduled", now + delay
                else:
                    status = "queued"
                queued = queued or status == "queued"
                expires = expires_of(attempt, queue_until, total_until)
                backs.append((status, attempt, run_at, run_at, error, expires, now, rowid))
                if lanes is not None:
                    tx.lanes.give(lanes)
                continue
            status, result = "cancelled", None
        if status == "cancelled" and reason is None:
            reason = asked_reason
        endings.append(Ending(status, result, error, reason, rowid, submitter, lanes, None))
    tx.end(endings)
    if backs:
        tx.connection.executemany(_BACK, backs)
        if queued:
            tx.wakes.add((None, b"w"))
    tx.finish()
    return answers
