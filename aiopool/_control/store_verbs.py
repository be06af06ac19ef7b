"""What can be asked of a pool with a store: verbs about all processes that share it. Imported, they are in the list."""

from __future__ import annotations

from typing import Any

from aiopool._control.arguments import Arguments
from aiopool._control.problems import Problem
from aiopool._control.store_views import WAITS, fleet_of, fleet_view, schedules_view, stored_view
from aiopool._control.verbs import Access, inside
from aiopool._control.watched import Watched
from aiopool._jobs.json_values import json_value
from aiopool._pool.fleet import Fleet
from aiopool.inspection import periodics
from aiopool.stores._rows import ENDED, StoredStatus

__all__: list[str] = []

MAX_IDS = 1000


def _fleet(watch: Watched) -> Fleet:
    fleet = fleet_of(watch.pool)
    if fleet is None:
        raise Problem(
            "conflict", f"pool {watch.key!r} has no store, and so no fleet: write Pool(store=..., handlers=...)"
        )
    return fleet


@inside(Access.READ)
async def fleet(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show the store of the pool: jobs by status, the processes that run them, what the engine says of itself."""
    arguments.end()
    found = _fleet(watch)
    numbers, now, facts = await found.statistics(), await found.store.now(), await found.store.facts()
    succeeded, others = found.store.keep
    return fleet_view(numbers, now) | {
        "kind": type(found.store).__name__,
        "keep": {"succeeded": json_value(succeeded), "others": json_value(others)},
        "facts": {name: json_value(value) for name, value in facts.items()},
    }


@inside(Access.READ)
async def schedules(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """List what is submitted again and again, here and by the fleet of a store: the last moment and the next."""
    arguments.end()
    fleet = fleet_of(watch.pool)
    rows = [] if fleet is None else await fleet.store.schedules()
    return {"items": schedules_view(rows, periodics(watch.pool))}


@inside(Access.READ)
async def stored_jobs(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """List jobs of the store, the newest first: status=, name=, group=, limit=, cursor=; live ones by default."""
    status = arguments.choice("status", [one.value for one in StoredStatus])
    name, group = arguments.text("name"), arguments.text("group")
    limit = arguments.whole("limit", 50, least=1, most=200)
    cursor = arguments.text("cursor")
    arguments.end()
    store = _fleet(watch).store
    wanted = None if status is None else StoredStatus(status)
    rows, more = await store.page(status=wanted, name=name, group=group, limit=limit, cursor=cursor)
    now = await store.now()
    return {
        "items": [stored_view(row, now=now) for row in rows],
        "next": more,
        "searched": len(rows),
        "complete": more is None,
        "why": None if wanted is None else WAITS.get(wanted),
    }


@inside(Access.OPERATE)
async def requeue(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Put all jobs that ended with a status back into the queue of the store: status=dead, dry_run=true to count."""
    status = arguments.choice("status", sorted(one.value for one in ENDED)) or StoredStatus.DEAD.value
    ids = arguments.texts("ids", MAX_IDS)
    dry_run = arguments.flag("dry_run")
    arguments.end()
    found = _fleet(watch)
    if dry_run:
        total = len(ids) if ids else (await found.statistics()).ended.get(StoredStatus(status), 0)
        return {"total": total, "dry_run": True}
    done = await (found.retry(*ids) if ids else found.requeue_dead(status))
    return {"requeued": done, "status": status}


@inside(Access.OPERATE)
async def cancel_stored(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Cancel a job of the store, wherever it runs: id=..., reason=TEXT."""
    id = arguments.needed("id")
    reason = arguments.text("reason")
    arguments.end()
    (answer,) = await _fleet(watch).store.cancel([id], reason)
    if answer.was in ("ended", "unknown"):
        raise Problem(
            "conflict", f"job {id} has ended" if answer.was == "ended" else f"the store knows no job {id!r:.100}"
        )
    return {"id": id, "was": answer.was}


@inside(Access.OPERATE)
async def pause_fleet(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Let no job start, in any process of the fleet."""
    arguments.end()
    await _fleet(watch).pause()
    return {"paused": True}


@inside(Access.OPERATE)
async def resume_fleet(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Let the jobs of the fleet start again."""
    arguments.end()
    await _fleet(watch).resume()
    return {"paused": False}


@inside(Access.ADMIN)
async def forget_history(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Remove the rows of jobs that ended so long ago from the store: older_than=SECONDS."""
    seconds = arguments.seconds("older_than", most=1e10)
    arguments.end()
    if seconds is None:
        raise Problem("invalid", "older_than is missing: write older_than=86400")
    return {"removed": await _fleet(watch).store.forget_history(seconds)}
