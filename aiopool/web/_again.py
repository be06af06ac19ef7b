"""Running a job once more, as it was or with other arguments: "copy, edit, submit". The copy is a new job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiopool import Handlers
from aiopool._control.problems import Problem
from aiopool._control.store_views import fleet_of
from aiopool._control.watched import Watched
from aiopool.stores._rows import StoredJob
from aiopool.web._kept import MAX_PARAMS, Kept
from aiopool.web._submit import ENDED, Ready, in_loop, prepare

__all__ = ["again", "not_ended"]

# Of the options of a job, those that say when it was to start.
_MOMENTS = ("delay", "run_at")


def not_ended(id: object, status: str) -> Problem:
    """Return why a job that is live is not run once more."""
    return Problem("conflict", f"job {id} is {status}: only one that has ended can be run again")


async def again(
    watch: Watched, id: str, params: Mapping[str, Any] | None, kept: Kept, handlers: Handlers
) -> Ready | None:
    """Return a copy of a job that has ended, to be submitted; None: nobody here knows how it was submitted.

    Args:
        watch: its pool.
        id: of the job.
        params: the arguments of the copy; None: those of the job. With a store that is no copy: None is returned, for
            the job itself goes back to the queue.
        kept: the jobs that were submitted by HTTP.
        handlers: the functions that may be submitted.

    Raises:
        Problem: it has not ended, its function is not registered or does not take them, or they are not known.
    """
    fleet = fleet_of(watch.pool)
    if fleet is not None:
        if params is None:
            return None
        row = await in_loop(watch, lambda: fleet.find(id))
        if row is None:
            raise Problem("not-found", f"the store knows no job {id!r:.100}, or none any more")
        if row.status.value not in ENDED:
            raise not_ended(id, row.status.value)
        return prepare(handlers, row.name, json.dumps(params), _options_of(row))
    found = kept.find(watch.pool, id)
    if found is None:
        return None
    if not found.job.done():
        raise not_ended(id, found.job.status.value)
    text = found.params if params is None else json.dumps(params)
    if text is None:
        raise Problem(
            "conflict",
            f"the params of job {id} are longer than {MAX_PARAMS:,} characters, and were not kept: send them again: "
            '{"params": {...}}',
        )
    options = {name: value for name, value in found.options.items() if name not in _MOMENTS}
    return prepare(handlers, found.job.name, text, options)


def _options_of(row: StoredJob) -> dict[str, Any]:
    """Return the options of a job of a store, as far as it tells them; the others are those of its function."""
    keys = json.loads(row.keys) if row.keys else []
    options: dict[str, Any] = {
        "priority": row.priority,
        "group": row.group,
        "key": keys[0] if len(keys) == 1 else tuple(keys) or None,
        "metadata": json.loads(row.metadata) if row.metadata else None,
        "unique": row.unique,
    }
    return {name: value for name, value in options.items() if value is not None}
