"""Jobs of the SQLite store that come in, or go out, other than by a submission: back from the history, to another store
and from one.

Rule 1: an id stays what it was, and a fence never goes back.

Rule 2: a job that is here already, live or ended, is left as it is. No job is lost because another one has its
`unique`: one from the history stays there, one from another store comes without it.

Rule 3: what moves stays here, as `moving`, until it is said to have arrived.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from aiopool.stores._rows import StoredJob, StoredStatus
from aiopool.stores._sqlite_jobs import expires_of
from aiopool.stores._sqlite_reads import JOB_COLUMNS, job_of
from aiopool.stores._sqlite_tx import Transaction

__all__ = ["export", "forget_moved", "requeue", "restore"]

_MOST: Final = 1000  # rows of one step

# -- from the history --------------------------------------------------------------------------------------------------

_BACK: Final = (
    "q, id, priority, max_crashes, fence, name, unique_key, group_name, keys, lanes, metadata, trace, "
    "parent, submitter, payload"
)


def requeue(
    tx: Transaction, ids: Sequence[str] | None, status: StoredStatus | None, after: int, until: int
) -> tuple[int, int | None]:
    """Do one step of `Store.requeue`: with the history's numbers from `after` on, until the one that was the last when
    it began: one that comes back and ends again is not put back again. Returns how many came back, and the number after
    which the next step goes on; None: it is done."""
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
        values: list[object] = [q, after, until] if status is None else [q, after, until, str(status)]
        rows = connection.execute(
            f"SELECT {columns} FROM history h NOT INDEXED WHERE h.q = ? AND h.number > ? AND h.number <= ? {condition}"  # noqa: S608
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
        back.append((now, position, queue_until, total_until, expires, number))
        position += 1
    if back:
        connection.executemany(
            f"INSERT INTO jobs ({_BACK}, status, attempt, crashes, created_at, position, queue_until, "  # noqa: S608
            "total_until, expires) SELECT "
            f"{_BACK}, 'queued', 0, 0, ?, ?, ?, ?, ? FROM history WHERE number = ?",
            back,
        )
        connection.execute(
            "DELETE FROM history WHERE number IN (SELECT value FROM json_each(?))",
            (json.dumps([each[5] for each in back]),),
        )
        connection.execute("UPDATE queues SET next_position = ? WHERE q = ?", (position, q))
    if back:
        tx.queued_for_all()
    return len(back), follows


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
    moved = {
        row[0]: job_of(row[1:])
        for row in connection.execute(
            f"SELECT rowid, {JOB_COLUMNS} FROM jobs WHERE rowid IN (SELECT value FROM json_each(?))",  # noqa: S608
            (rows,),
        )
    }
    return [moved[row] for row, _ in found]


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
            "run_at, queue_until, total_until, expires, name, unique_key, group_name, keys, lanes, "
            "metadata, trace, parent, submitter, progress, progress_text, error, reason, payload) VALUES (?, ?, ?, ?, "
            "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                q,
                job.id,
                "parked" if job.status is StoredStatus.PARKED else "scheduled" if waits else "queued",
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
    tx.queued_for_all()


def forget_moved(tx: Transaction, ids: Sequence[str]) -> None:
    """See `Store.forget_moved`."""
    tx.connection.execute(
        "DELETE FROM jobs WHERE rowid IN (SELECT j.rowid FROM json_each(?) e CROSS JOIN jobs j ON j.id = e.value AND "
        "j.q = ? WHERE j.status = 'moving')",
        (json.dumps(list(ids)), tx.q),
    )
