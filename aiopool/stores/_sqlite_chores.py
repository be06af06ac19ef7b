"""What is done to jobs of the SQLite store besides their way: cancels, rescues, what is over, parked, old or moved.

Rule 1: each step is bounded, and says whether there is more of it to do.

Rule 2: nothing is scanned to find out that there is nothing to do: each step begins with a look at an index of its own.

Rule 3: whoever holds jobs is dead when its file can be locked (`_sqlite_live.py`); here that is a fact that is given.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from aiopool.stores._rows import (
    CancelAnswer,
    LimitRow,
    StoredJob,
    StoredStatus,
    SweepReport,
)
from aiopool.stores._sqlite_jobs import expires_of, time_over
from aiopool.stores._sqlite_reads import JOB_COLUMNS, job_of
from aiopool.stores._sqlite_tx import DEAD, Ending, Transaction

__all__ = [
    "cancel",
    "export",
    "forget_history",
    "forget_moved",
    "look_before_sweep",
    "report_progress",
    "requeue",
    "rescue",
    "restore",
    "set_limits",
    "set_paused",
    "sweep",
]

_MOST: Final = 1000  # rows of each step of one sweep

_ENDED: Final = ("succeeded", "failed", "timed_out", "cancelled", "dead")


def _wakes_work(tx: Transaction, rows: int) -> int:
    if rows:
        tx.wakes.add((None, b"w"))
    return rows


# -- cancel ------------------------------------------------------------------------------------------------------------


def cancel(tx: Transaction, ids: Sequence[str], reason: str | None) -> list[CancelAnswer]:
    """See `Store.cancel`."""
    connection, q = tx.connection, tx.q
    wanted = json.dumps(list(dict.fromkeys(ids)))
    found = connection.execute(
        "SELECT j.id, j.rowid, j.status, j.owner, j.submitter, j.held FROM json_each(?) e CROSS JOIN jobs j "
        "ON j.id = e.value AND j.q = ?",
        (wanted, q),
    ).fetchall()
    ended = connection.execute(
        "SELECT h.id FROM json_each(?) e CROSS JOIN history h ON h.id = e.value AND h.q = ?", (wanted, q)
    ).fetchall()
    was: dict[str, Any] = dict.fromkeys((job_id for (job_id,) in ended), "ended")
    endings: list[Ending] = []
    asked: list[int] = []
    for job_id, rowid, status, owner, submitter, held in found:
        if status == "running":
            was[job_id] = "running"
            asked.append(rowid)
            if owner != tx.me:
                tx.wakes.add((owner, b"c"))
        else:
            was[job_id] = "queued"
            endings.append(Ending("cancelled", None, None, reason, rowid, submitter, None, held))
    if asked:
        connection.execute(
            "UPDATE jobs SET reason = CASE WHEN cancel_asked = 1 THEN reason ELSE ? END, cancel_asked = 1 "
            "WHERE rowid IN (SELECT value FROM json_each(?))",
            (reason, json.dumps(asked)),
        )
    tx.end(endings)
    tx.finish()
    return [CancelAnswer(job_id, was.get(job_id, "unknown")) for job_id in ids]


def report_progress(tx: Transaction, rows: Sequence[tuple[str, int, float, str]]) -> None:
    """See `Store.report_progress`."""
    tx.connection.executemany(
        "UPDATE jobs SET progress = ?, progress_text = ? WHERE id = ? AND q = ? AND fence = ? AND status = 'running'",
        [(fraction, text, job_id, tx.q, fence) for job_id, fence, fraction, text in rows],
    )


# -- sweep -------------------------------------------------------------------------------------------------------------


def look_before_sweep(
    connection: sqlite3.Connection, q: int, now: float, names: str, keep: tuple[float, float]
) -> SweepReport | None:
    """Return the report of a sweep that has nothing to write; None: it has. Reads only."""
    (anything,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE q = :q AND expires <= :now) OR EXISTS (SELECT 1 FROM "
        "json_each(:names) e CROSS JOIN jobs j ON j.q = :q AND j.name = e.value AND j.status = 'parked') OR EXISTS (SELECT 1 FROM "
        "history WHERE q = :q AND status = 'succeeded' AND finished_at <= :kept) OR EXISTS (SELECT 1 FROM history "
        "WHERE q = :q AND status IN ('failed', 'timed_out', 'cancelled', 'dead') AND finished_at <= :kept_failed) OR "
        "EXISTS (SELECT 1 FROM lanes WHERE q = :q AND forget_at <= :now)",
        {"q": q, "now": now, "names": names, "kept": now - keep[0], "kept_failed": now - keep[1]},
    ).fetchone()
    return None if anything else SweepReport()


def sweep(tx: Transaction, names: str, keep: tuple[float, float], gone: Sequence[str]) -> tuple[SweepReport, list[str]]:
    """See `Store.sweep`; `gone`: those that are dead. Returns also those of them that have nothing left."""
    rescued = dead = 0
    left = _MOST
    clean: list[str] = []
    more = False
    for owner in gone:
        some, given_up = rescue(tx, owner, left)
        rescued += some
        dead += given_up
        left -= some
        if left <= 0:
            more = True
            break
        clean.append(owner)
    timed_out = _end_expired(tx)
    unparked = _wakes_work(
        tx,
        tx.connection.execute(
            "UPDATE jobs SET status = 'queued' WHERE rowid IN (SELECT j.rowid FROM json_each(?) e CROSS JOIN jobs j "
            "ON j.q = ? AND j.name = e.value AND j.status = 'parked' LIMIT ?)",
            (names, tx.q, _MOST),
        ).rowcount,
    )
    purged, more_old = _purge(tx, keep)
    more_rested = tx.lanes.look_rested(_MOST)
    tx.finish()
    more = more or more_old or more_rested or _MOST in (timed_out, unparked)
    return SweepReport(rescued, dead, timed_out, purged, unparked, more), clean


def rescue(tx: Transaction, owner: str, limit: int) -> tuple[int, int]:
    """Take the jobs of a dead one from it, so many at most, and forget it when it has none; return how many these were,
    and how many of them were given up."""
    connection = tx.connection
    rows = connection.execute(
        "SELECT rowid, submitter, lanes, cancel_asked, crashes + 1 >= max_crashes, reason FROM jobs WHERE q = ? AND "
        "status = 'running' AND owner = ? LIMIT ?",
        (tx.q, owner, limit),
    ).fetchall()
    endings: list[Ending] = []
    back: list[int] = []
    dead = 0
    for rowid, submitter, lanes, cancel_asked, is_dead, reason in rows:
        if cancel_asked:
            endings.append(Ending("cancelled", None, None, reason, rowid, submitter, lanes, None))
        elif is_dead:
            dead += 1
            endings.append(Ending("dead", None, DEAD, None, rowid, submitter, lanes, None))
        else:
            back.append(rowid)
            if lanes is not None:
                tx.lanes.give(lanes)
    if rows:
        connection.execute(
            "UPDATE jobs SET crashes = crashes + 1 WHERE rowid IN (SELECT value FROM json_each(?))",
            (json.dumps([row[0] for row in rows]),),
        )
        connection.execute("UPDATE queues SET rescued = rescued + ? WHERE q = ?", (len(rows), tx.q))
    tx.end(endings)
    if back:
        connection.execute(
            "UPDATE jobs SET status = 'queued', owner = NULL, expires = total_until, progress = NULL, progress_text = "
            "NULL, seconds = max(? - started_at, 0.0) WHERE rowid IN (SELECT value FROM json_each(?))",
            (tx.now, json.dumps(_wake(tx, back))),
        )
    if len(rows) < limit:
        connection.execute("DELETE FROM incarnations WHERE id = ?", (owner,))
    return len(rows), dead


def _wake(tx: Transaction, rows: list[int]) -> list[int]:
    _wakes_work(tx, len(rows))
    return rows


def _end_expired(tx: Transaction) -> int:
    rows = tx.connection.execute(
        "SELECT rowid, submitter, held, attempt, queue_until, total_until FROM jobs WHERE q = ? AND expires <= ? "
        "ORDER BY expires LIMIT ?",
        (tx.q, tx.now, _MOST),
    ).fetchall()
    tx.end(
        [
            Ending("timed_out", None, time_over(attempt, queue_until, total_until), None, rowid, submitter, None, held)
            for rowid, submitter, held, attempt, queue_until, total_until in rows
        ]
    )
    return len(rows)


def _purge(tx: Transaction, keep: tuple[float, float]) -> tuple[int, bool]:
    purged, left = 0, _MOST
    for status in _ENDED:
        seconds = keep[0] if status == "succeeded" else keep[1]
        some = _forget(tx, status, seconds, left)
        purged += some
        left -= some
        if left <= 0:
            return purged, True
    return purged, False


def _forget(tx: Transaction, status: str, older_than: float, limit: int) -> int:
    return tx.connection.execute(
        "DELETE FROM history WHERE number IN (SELECT number FROM history WHERE q = ? AND status = ? AND "
        "finished_at <= ? ORDER BY finished_at LIMIT ?)",
        (tx.q, status, tx.now - older_than, limit),
    ).rowcount


def forget_history(tx: Transaction, older_than: float) -> int:
    """Do one step of `Store.forget_history`; 0: it is done."""
    return sum(_forget(tx, status, older_than, _MOST) for status in _ENDED)


# -- steering ----------------------------------------------------------------------------------------------------------


def set_paused(tx: Transaction, paused: bool) -> None:
    """See `Store.set_paused`."""
    tx.connection.execute("UPDATE queues SET paused = ? WHERE q = ?", (int(paused), tx.q))
    if not paused:
        tx.wakes.add((None, b"w"))


def set_limits(tx: Transaction, limits: Sequence[LimitRow]) -> None:
    """See `Store.set_limits`."""
    tx.connection.executemany(
        "INSERT OR REPLACE INTO limits (q, rule, max_at_once, max_per_second, burst) VALUES (?, ?, ?, ?, ?)",
        [(tx.q, *limit) for limit in limits],
    )
    for limit in limits:
        tx.lanes.look_at_rule(limit.rule)
    tx.finish()


_BACK: Final = (
    "q, id, priority, max_crashes, fence, created_at, name, unique_key, group_name, keys, lanes, metadata, trace, "
    "parent, submitter, payload"
)


def requeue(
    tx: Transaction, ids: Sequence[str] | None, status: StoredStatus | None, after: int
) -> tuple[int, int | None]:
    """Do one step of `Store.requeue`: from the history's number `after` on. Returns how many came back, and the number
    from which the next step goes on; None: it is done."""
    connection, q, now = tx.connection, tx.q, tx.now
    columns = "h.number, h.unique_key, h.created_at, h.run_at, h.queue_until, h.total_until"
    if ids is not None:
        rows = connection.execute(
            f"SELECT {columns} FROM json_each(?) e CROSS JOIN history h ON h.id = e.value AND h.q = ? "  # noqa: S608
            "WHERE ? IS NULL OR h.status = ? ORDER BY h.number",
            (json.dumps(list(dict.fromkeys(ids))), q, status, status),
        ).fetchall()
    else:
        condition = "" if status is None else "AND h.status = ? "
        values: tuple[object, ...] = (q, after) if status is None else (q, after, status)
        rows = connection.execute(
            f"SELECT {columns} FROM history h WHERE h.q = ? AND h.number > ? {condition}"  # noqa: S608
            f"ORDER BY h.number LIMIT {_MOST}",
            values,
        ).fetchall()
    follows = rows[-1][0] if ids is None and len(rows) == _MOST else None
    (position,) = connection.execute("SELECT next_position FROM queues WHERE q = ?", (q,)).fetchone()
    taken = {
        unique
        for (unique,) in connection.execute(
            "SELECT j.unique_key FROM json_each(?) e CROSS JOIN jobs j ON j.q = ? AND j.unique_key = e.value",
            (json.dumps([row[1] for row in rows if row[1] is not None]), q),
        )
    }
    back: list[tuple[object, ...]] = []
    for number, unique, created_at, run_at, queue_until, total_until in rows:
        if unique is not None:
            if unique in taken:
                continue
            taken.add(unique)
        # Its times begin anew, as long as they were.
        if queue_until is not None:
            queue_until += now - max(created_at, run_at or created_at)
        if total_until is not None:
            total_until += now - created_at
        expires = expires_of(0, queue_until, total_until)
        back.append((position, queue_until, total_until, expires, number))
        position += 1
    if back:
        connection.executemany(
            f"INSERT INTO jobs ({_BACK}, status, attempt, crashes, position, queue_until, total_until, expires) SELECT "  # noqa: S608
            f"{_BACK}, 'queued', 0, 0, ?, ?, ?, ? FROM history WHERE number = ?",
            back,
        )
        connection.execute(
            "DELETE FROM history WHERE number IN (SELECT value FROM json_each(?))",
            (json.dumps([each[4] for each in back]),),
        )
        connection.execute("UPDATE queues SET next_position = ? WHERE q = ?", (position, q))
    return _wakes_work(tx, len(back)), follows


# -- to another store --------------------------------------------------------------------------------------------------


def export(tx: Transaction, limit: int) -> list[StoredJob]:
    """See `Store.export`."""
    connection, q = tx.connection, tx.q
    found: list[tuple[Any, ...]] = []
    for status in ("moving", "queued", "limited", "scheduled", "parked"):
        found += connection.execute(
            "SELECT rowid, held FROM jobs WHERE q = ? AND status = ? ORDER BY priority, position LIMIT ?",
            (q, status, limit - len(found)),
        ).fetchall()
        if len(found) >= limit:
            break
    rows = json.dumps([row[0] for row in found])
    connection.execute(
        "UPDATE jobs SET status = 'moving', held = NULL, expires = NULL WHERE rowid IN "
        "(SELECT value FROM json_each(?))",
        (rows,),
    )
    for _, held in found:
        if held is not None:
            tx.lanes.look(held)
    tx.finish()
    return [
        job_of(row)
        for row in connection.execute(
            f"SELECT {JOB_COLUMNS} FROM jobs WHERE rowid IN (SELECT value FROM json_each(?)) "  # noqa: S608
            "ORDER BY priority, position",
            (rows,),
        )
    ]


def restore(tx: Transaction, jobs: Sequence[StoredJob]) -> None:
    """See `Store.restore`."""
    connection, q, now = tx.connection, tx.q, tx.now
    ids = json.dumps([job.id for job in jobs])
    known = {
        job_id
        for table in ("jobs", "history")
        for (job_id,) in connection.execute(
            f"SELECT t.id FROM json_each(?) e CROSS JOIN {table} t ON t.id = e.value AND t.q = ?",  # noqa: S608
            (ids, q),
        )
    }
    uniques = json.dumps([job.unique for job in jobs if job.unique is not None])
    taken = {
        unique
        for (unique,) in connection.execute(
            "SELECT j.unique_key FROM json_each(?) e CROSS JOIN jobs j ON j.q = ? AND j.unique_key = e.value",
            (uniques, q),
        )
    }
    for job in jobs:
        if job.id in known:
            continue
        known.add(job.id)
        unique = job.unique
        if unique is not None:
            if unique in taken:  # a job is not lost because another one has its place: it comes without it
                unique = None
            taken.add(unique)
        waits = job.run_at is not None and job.run_at > now
        fraction, text = job.progress or (None, None)
        connection.execute(
            "INSERT INTO jobs (q, id, status, priority, position, attempt, crashes, max_crashes, fence, created_at, "
            "run_at, queue_until, total_until, expires, started_at, name, unique_key, group_name, keys, lanes, "
            "metadata, trace, parent, submitter, progress, progress_text, error, reason, payload) VALUES (?, ?, ?, ?, "
            "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                q,
                job.id,
                "scheduled" if waits else "queued",
                job.priority,
                job.position,
                job.attempt,
                job.crashes,
                job.max_crashes,
                job.fence,
                job.created_at,
                job.run_at,
                job.queue_until,
                job.total_until,
                expires_of(job.attempt, job.queue_until, job.total_until),
                job.started_at,
                job.name,
                unique,
                job.group,
                job.keys,
                json.dumps(list(dict.fromkeys(job.lanes))) if job.lanes else None,
                job.metadata,
                job.trace,
                job.parent,
                job.submitter,
                fraction,
                text,
                job.error,
                job.reason,
                job.payload,
            ),
        )
    last = max((job.position for job in jobs), default=0)
    connection.execute("UPDATE queues SET next_position = max(next_position, ?) WHERE q = ?", (last + 1, q))
    _wakes_work(tx, len(jobs))


def forget_moved(tx: Transaction, ids: Sequence[str]) -> None:
    """See `Store.forget_moved`."""
    tx.connection.execute(
        "DELETE FROM jobs WHERE rowid IN (SELECT j.rowid FROM json_each(?) e CROSS JOIN jobs j ON j.id = e.value AND "
        "j.q = ? WHERE j.status = 'moving')",
        (json.dumps(list(ids)), tx.q),
    )
