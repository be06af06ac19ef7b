"""What is read from the SQLite store, on a connection of its own: a reader waits for no commit, and holds up none.

Rule 1: each read is short. A page looks at so many rows at most, and may be shorter than asked for; its cursor says
that there is more.

Rule 2: nothing here writes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiopool.stores._rows import (
    ENDED,
    LIVE,
    Finished,
    ScheduleRow,
    StoredJob,
    StoredStatus,
    StoreStatistics,
    WorkerRow,
)

__all__ = ["HISTORY_COLUMNS", "JOB_COLUMNS", "find", "finished", "job_of", "page", "schedules", "statistics"]

_LOOKS: Final = 20_000  # rows that one page looks at

JOB_COLUMNS: Final = (
    "id, name, status, payload, priority, position, attempt, crashes, max_crashes, created_at, run_at, queue_until, "
    "total_until, started_at, NULL, owner, fence, unique_key, group_name, keys, lanes, metadata, trace, parent, "
    "submitter, progress, progress_text, NULL, error, reason"
)
HISTORY_COLUMNS: Final = (
    "id, name, status, payload, priority, position, attempt, crashes, max_crashes, created_at, run_at, queue_until, "
    "total_until, started_at, finished_at, NULL, fence, unique_key, group_name, keys, lanes, metadata, trace, parent, "
    "submitter, progress, progress_text, result, error, reason"
)


def job_of(row: Sequence[Any]) -> StoredJob:
    """Return the job of a row with these columns."""
    progress = None if row[25] is None else (row[25], row[26])
    lanes = () if row[20] is None else tuple(json.loads(row[20]))
    fields: list[Any] = [*row[:2], StoredStatus(row[2]), *row[3:20], lanes, *row[21:25], progress, *row[27:]]
    return StoredJob(*fields)


def find(connection: sqlite3.Connection, q: int, ids: Sequence[str]) -> list[StoredJob]:
    """See `Store.find`."""
    wanted = json.dumps(list(dict.fromkeys(ids)))
    connection.execute("BEGIN")  # both tables at one moment: a job that ends in between is in one of them
    try:
        found = [
            job_of(row)
            for table, columns in (("jobs", JOB_COLUMNS), ("history", HISTORY_COLUMNS))
            for row in connection.execute(
                f"SELECT {_of('t', columns)} FROM json_each(?) e CROSS JOIN {table} t ON t.id = e.value AND t.q = ?",  # noqa: S608
                (wanted, q),
            )
        ]
    finally:
        connection.execute("COMMIT")
    return found


def _of(table: str, columns: str) -> str:
    return ", ".join(name if name == "NULL" else f"{table}.{name}" for name in columns.split(", "))


def finished(connection: sqlite3.Connection, q: int, ids: Sequence[str]) -> list[Finished]:
    """See `Store.finished`."""
    rows = connection.execute(
        "SELECT h.id, h.status, h.result, h.error, h.reason, h.attempt, coalesce(h.started_at, h.finished_at) - "
        "h.created_at, h.seconds, h.finished_at FROM json_each(?) e CROSS JOIN history h ON h.id = e.value AND h.q = ?",
        (json.dumps(list(dict.fromkeys(ids))), q),
    ).fetchall()
    return [Finished(row[0], StoredStatus(row[1]), *row[2:]) for row in rows]


def page(
    connection: sqlite3.Connection,
    q: int,
    status: StoredStatus | None,
    name: str | None,
    group: str | None,
    limit: int,
    cursor: str | None,
) -> tuple[list[StoredJob], str | None]:
    """See `Store.page`: the last submitted first, or with a final status the last ended."""
    only = ""
    only_values: list[Any] = []
    for column, value in (("name", name), ("group_name", group)):
        if value is not None:
            only += f" AND {column} = ?"
            only_values.append(value)
    before = _cursor(cursor)
    connection.execute("BEGIN")
    try:
        if status is not None and status in ENDED:
            return _page_of_ended(connection, [q, status], only, only_values, limit, before)
        return _page_of_live(connection, q, status, only, only_values, limit, before)
    finally:
        connection.execute("COMMIT")


_Place = tuple[float, int]  # a moment, for those that have ended, and the number of a row


def _cursor(cursor: str | None) -> _Place | None:
    if cursor is None:
        return None
    moment, _, number = cursor.partition("/")
    try:
        return float(moment), int(number)
    except ValueError:
        raise ValueError(f"cursor={cursor!r}: it is none that a page has returned") from None


def _page_of_ended(
    connection: sqlite3.Connection,
    values: list[Any],
    only: str,
    only_values: list[Any],
    limit: int,
    before: _Place | None,
) -> tuple[list[StoredJob], str | None]:
    where = "q = ? AND status = ?"
    if before is not None:
        where += " AND (finished_at, number) < (?, ?)"
        values += before
    order = "ORDER BY finished_at DESC, number DESC LIMIT"
    end = None
    if only:
        end = connection.execute(
            f"SELECT finished_at, number FROM history WHERE {where} {order} 1 OFFSET ?",  # noqa: S608
            [*values, _LOOKS - 1],
        ).fetchone()
    if end is not None:
        where += " AND (finished_at, number) >= (?, ?)"
        values += end
    rows = connection.execute(
        f"SELECT finished_at, number, {HISTORY_COLUMNS} FROM history WHERE {where}{only} {order} ?",  # noqa: S608
        [*values, *only_values, limit + 1],
    ).fetchall()
    if len(rows) > limit:
        end = rows[limit - 1]
    return [job_of(row[2:]) for row in rows[:limit]], None if end is None else f"{float(end[0])!r}/{end[1]}"


def _page_of_live(
    connection: sqlite3.Connection,
    q: int,
    status: StoredStatus | None,
    only: str,
    only_values: list[Any],
    limit: int,
    before: _Place | None,
) -> tuple[list[StoredJob], str | None]:
    table, where = "jobs NOT INDEXED", "q = ?"
    values: list[Any] = [q]
    if status is not None:
        (few,) = connection.execute(
            "SELECT count(*) < ? FROM (SELECT 1 FROM jobs WHERE q = ? AND status = ? LIMIT ?)",
            (_LOOKS, q, status, _LOOKS),
        ).fetchone()
        only, only_values = f" AND status = ?{only}", [str(status), *only_values]
        if few:  # few enough to be sorted; else one that is looked at has it rather often
            table = "jobs INDEXED BY jobs_line"
    if before is not None:
        where += " AND rowid < ?"
        values.append(before[1])
    end = None
    if only and table == "jobs NOT INDEXED":
        end = connection.execute(
            f"SELECT rowid FROM {table} WHERE {where} ORDER BY rowid DESC LIMIT 1 OFFSET ?",  # noqa: S608
            [*values, _LOOKS - 1],
        ).fetchone()
    if end is not None:
        where += " AND rowid >= ?"
        values += end
    rows = connection.execute(
        f"SELECT rowid, {JOB_COLUMNS} FROM {table} WHERE {where}{only} ORDER BY rowid DESC LIMIT ?",  # noqa: S608
        [*values, *only_values, limit + 1],
    ).fetchall()
    if len(rows) > limit:
        end = rows[limit - 1]
    return [job_of(row[1:]) for row in rows[:limit]], None if end is None else f"0/{end[0]}"


def statistics(
    connection: sqlite3.Connection, q: int, now: float, size: int, lives: Callable[[str], bool]
) -> StoreStatistics:
    """See `Store.statistics`."""
    counts = [
        dict.fromkeys(statuses, 0)
        | {
            StoredStatus(status): count
            for status, count in connection.execute(
                f"SELECT status, count(*) FROM {table} WHERE q = ? GROUP BY status",  # noqa: S608
                (q,),
            )
        }
        for table, statuses in (("jobs", sorted(LIVE)), ("history", sorted(ENDED)))
    ]
    rescued, paused = connection.execute("SELECT rescued, paused FROM queues WHERE q = ?", (q,)).fetchone()
    running = dict(
        connection.execute(
            "SELECT owner, count(*) FROM jobs WHERE q = ? AND status = 'running' GROUP BY owner", (q,)
        ).fetchall()
    )
    workers = [
        WorkerRow(who, host, pid, started_at, now if lives(who) else started_at, running.get(who, 0))
        for who, host, pid, started_at in connection.execute(
            "SELECT id, host, pid, started_at FROM incarnations WHERE q = ? AND runs_jobs = 1 ORDER BY started_at", (q,)
        )
    ]
    oldest = _oldest(connection, q)
    age = None if oldest is None else max(now - oldest, 0.0)
    return StoreStatistics(counts[0], counts[1], age, workers, rescued, bool(paused), size)


def schedules(connection: sqlite3.Connection, q: int, limit: int) -> list[ScheduleRow]:
    """See `Store.schedules`."""
    rows = connection.execute(
        "SELECT schedule, last FROM schedules WHERE q = ? ORDER BY last DESC, schedule LIMIT ?", (q, limit)
    )
    return [ScheduleRow(*row) for row in rows]


def _oldest(connection: sqlite3.Connection, q: int) -> float | None:
    """Return when the oldest queued job was submitted: the first of each priority is its oldest."""
    oldest: float | None = None
    priority = -(1 << 62)
    for _ in range(1000):
        row = connection.execute(
            "SELECT priority, created_at FROM jobs WHERE q = ? AND status = 'queued' AND priority > ? "
            "ORDER BY priority, position LIMIT 1",
            (q, priority),
        ).fetchone()
        if row is None:
            break
        priority = row[0]
        oldest = row[1] if oldest is None else min(oldest, row[1])
    return oldest
