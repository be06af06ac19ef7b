"""What is done to jobs of the SQLite store besides their way: cancels, rescues, what is over, parked or old.

Rule 1: each step is bounded, and says whether there is more of it to do.

Rule 2: nothing is scanned to find out that there is nothing to do: each step begins with a look at an index of its own.

Rule 3: whoever holds jobs is dead when its file can be locked (`_sqlite_live.py`); here that is a fact that is given.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from aiopool.stores._rows import CancelAnswer, LimitRow, SweepReport
from aiopool.stores._sqlite_jobs import time_over
from aiopool.stores._sqlite_tx import DEAD, Ending, Transaction

__all__ = [
    "cancel",
    "forget_history",
    "look_before_sweep",
    "report_progress",
    "rescue",
    "set_limits",
    "set_paused",
    "sweep",
]

_MOST: Final = 1000  # rows of each step of one sweep

_ENDED: Final = ("succeeded", "failed", "timed_out", "cancelled", "dead")


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
            tx.wakes.add((owner, b"c"))
        elif status == "moving":
            was[job_id] = "unknown"  # it may have arrived elsewhere, and run there
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
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE q = :q AND expires <= :now) "
        "OR EXISTS (SELECT 1 FROM json_each(:names) e CROSS JOIN jobs j ON j.q = :q AND j.name = e.value "
        "AND j.status = 'parked') "
        "OR EXISTS (SELECT 1 FROM history WHERE q = :q AND status = 'succeeded' AND finished_at <= :kept) "
        "OR EXISTS (SELECT 1 FROM history WHERE q = :q AND status IN ('failed', 'timed_out', 'cancelled', 'dead') "
        "AND finished_at <= :kept_failed) "
        "OR EXISTS (SELECT 1 FROM lanes WHERE q = :q AND forget_at <= :now)",
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
    unparked = tx.connection.execute(
        "UPDATE jobs SET status = 'queued' WHERE rowid IN (SELECT j.rowid FROM json_each(?) e CROSS JOIN jobs j "
        "ON j.q = ? AND j.name = e.value AND j.status = 'parked' LIMIT ?)",
        (names, tx.q, _MOST),
    ).rowcount
    if unparked:
        tx.queued_for_all()
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
    tx.end(endings, tell_me=True)
    if back:
        connection.execute(
            "UPDATE jobs SET status = 'queued', owner = NULL, expires = total_until, "
            "seconds = max(? - started_at, 0.0) WHERE rowid IN (SELECT value FROM json_each(?))",
            (tx.now, json.dumps(back)),
        )
        tx.queued_for_all()
    if len(rows) < limit:
        connection.execute("DELETE FROM incarnations WHERE id = ?", (owner,))
    return len(rows), dead


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
        ],
        tell_me=True,
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
    tx.queued_for_all()


def set_limits(tx: Transaction, limits: Sequence[LimitRow]) -> None:
    """See `Store.set_limits`."""
    tx.connection.executemany(
        "INSERT OR REPLACE INTO limits (q, rule, max_at_once, max_per_second, burst) VALUES (?, ?, ?, ?, ?)",
        [(tx.q, *limit) for limit in limits],
    )
    for limit in limits:
        tx.lanes.look_at_rule(limit.rule)
    tx.finish()
    tx.queued_for_all()
