"""What is shown of a store and of the jobs in it, as JSON. Arguments and results are not."""

from __future__ import annotations

import datetime
import json
from typing import Any

from aiopool._control.views import labels_view, moment, value_view
from aiopool._jobs.json_values import bounded, json_value
from aiopool._pool.fleet import Fleet
from aiopool._pool.periodic import Periodic
from aiopool._pool.pool import Pool
from aiopool.stores._rows import ENDED, ScheduleRow, StoredJob, StoredStatus, StoreStatistics

__all__ = ["WAITS", "fleet_now", "fleet_of", "fleet_view", "schedules_view", "stored_view"]

# What a status of a store says to somebody who waits, with the lever.
WAITS = {
    StoredStatus.SCHEDULED: "it is to start later, or waits for its next attempt",
    StoredStatus.QUEUED: "it waits for a process of the fleet with a free slot",
    StoredStatus.LIMITED: "a limit of the fleet has no place for it",
    StoredStatus.PARKED: "no process that has seen it knows its name: start one that does, and it goes on",
    StoredStatus.MOVING: "it is on its way to another store",
}


def fleet_of(pool: Pool) -> Fleet | None:
    """Return what is asked of all pools of the store; None: the pool has no store."""
    try:
        fleet: Fleet = pool.fleet
    except RuntimeError:
        return None
    return fleet


async def fleet_now(pool: Pool) -> float:
    """Return the time by the clock of the store; moments of its rows are told by no other."""
    now: float = await pool.fleet.store.now()
    return now


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else moment(datetime.datetime.fromtimestamp(seconds, datetime.UTC))


def fleet_view(numbers: StoreStatistics, now: float) -> dict[str, Any]:
    """Show a store in numbers, and the processes that run its jobs."""
    return {
        "live": {status.value: count for status, count in numbers.live.items()},
        "ended": {status.value: count for status, count in numbers.ended.items()},
        "oldest": json_value(numbers.oldest),
        "rescued": numbers.rescued,
        "paused": numbers.paused,
        "size": numbers.size,
        "hosts": [
            {
                "id": one.id,
                "host": bounded(one.host),
                "pid": one.pid,
                "running": one.running,
                "started": _moment(one.started_at),
                "seen": _moment(one.seen_at),
                "silent": round(max(0.0, now - one.seen_at), 1),
            }
            for one in numbers.workers
        ],
    }


def schedules_view(rows: list[ScheduleRow], here: list[Periodic]) -> list[dict[str, Any]]:
    """Show what is submitted again and again.

    Args:
        rows: what the store knows: the last moments.
        here: what this process does: the next ones. Two that differ in the arguments alone have the same moments.
    """
    left = {(one.name, one.when): one for one in here}
    known = dict(left)
    shown = []
    for row in rows:
        key = row.name, row.when  # their arguments are not shown
        left.pop(key, None)
        shown.append(_schedule(*key, row.last, known.get(key)))
    for key, one in left.items():
        job = one.job
        shown.append(_schedule(*key, None if job is None else job.submitted_time.timestamp(), one))
    return shown


def _schedule(name: str, when: str, last: float | None, here: Periodic | None) -> dict[str, Any]:
    return {
        "name": bounded(name),
        "when": when,
        "last": _moment(last),
        "next": None if here is None else moment(here.next_time),
        "here": here is not None,
        "skipped": None if here is None else here.skipped,
        "missed": None if here is None else here.missed,
    }


def stored_view(row: StoredJob, *, now: float, whole: bool = False) -> dict[str, Any]:
    """Show a job of a store, live or ended.

    Args:
        row: what the store knows.
        now: the moment by the clock of the store.
        whole: with all that is known, not only what a row of a table has.
    """
    ended = row.status in ENDED
    begun = row.started_at if row.started_at is not None and (ended or row.status == "running") else row.created_at
    error, trace = _error(row.error)
    until = row.finished_at if ended and row.finished_at is not None else now
    view: dict[str, Any] = {
        "id": row.id,
        "name": bounded(row.name),
        "status": row.status.value,
        "priority": row.priority,
        "group": row.group,
        "attempt": row.attempt,
        "crashes": row.crashes,
        "submitted": _moment(row.created_at),
        "scheduled": _moment(row.run_at),
        "finished": _moment(row.finished_at),
        "seconds": round(max(0.0, until - begun), 3),
        "error": error,
        "waiting_for": None if ended or row.status == "running" else row.status.value,
        "owner": row.owner,
        "may": ["retry"] if ended else ["cancel"],
    }
    if row.progress is not None:
        view["progress"] = {"fraction": json_value(row.progress[0]), "message": bounded(str(row.progress[1]))}
    if whole:
        view |= {
            "stored": True,
            "why": WAITS.get(row.status),
            "started": _moment(row.started_at),
            "parent": row.parent,
            "key": row.unique,
            "labels": _labels(row.metadata),
            "reason": value_view(row.reason),
            "attempts": [],
            "traceback": trace,
        }
    return view


def _error(text: str | None) -> tuple[str | None, str | None]:
    """Read the error of a row, a record as JSON; return its text, and the calls if it has them."""
    if text is None:
        return None, None
    try:
        said = json.loads(text)
    except ValueError:
        return bounded(text), None
    if not isinstance(said, dict):
        return bounded(text), None
    words = ": ".join(str(said[part]) for part in ("type", "message") if said.get(part))
    trace = said.get("traceback")
    return bounded(words or text), None if trace is None else bounded(str(trace))


def _labels(text: str | None) -> dict[str, Any]:
    try:
        said = json.loads(text) if text else {}
    except ValueError:
        return {}
    return labels_view(said) if isinstance(said, dict) else {}
