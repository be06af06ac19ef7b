"""The verbs by which somebody steers a pool, or ends it. Imported, they are in the list."""

from __future__ import annotations

import asyncio
from typing import Any

from aiopool._control.arguments import Arguments
from aiopool._control.filters import Filter, live_job
from aiopool._control.many import count, start_cancel
from aiopool._control.problems import Problem
from aiopool._control.put_back import fleet_to_retry
from aiopool._control.store_views import fleet_of
from aiopool._control.verbs import Access, inside
from aiopool._control.views import (
    job_version,
    pool_version,
)
from aiopool._control.watched import Watched
from aiopool._jobs.json_values import json_value
from aiopool._jobs.status import JobStatus
from aiopool.metrics import observe

__all__: list[str] = []

MAX_SIZE = 10_000
MAX_SHUTDOWN = 3600.0
MAX_PRIORITY = 10**9
MAX_TIMEOUT = 31_536_000.0  # a year


@inside(Access.OPERATE)
async def pause(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Let no job start; group=NAME: no job of a group; version=TEXT: only if `status` says that still."""
    group = arguments.text("group")
    _unchanged(arguments, pool_version(watch.pool))
    arguments.end()
    watch.pool.pause(group=group)
    return {"paused": True, "group": group}


@inside(Access.OPERATE)
async def resume(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Let jobs start again; group=NAME: those of a group; version=TEXT: only if `status` says that still."""
    group = arguments.text("group")
    _unchanged(arguments, pool_version(watch.pool))
    arguments.end()
    watch.pool.resume(group=group)
    return {"paused": False, "group": group}


@inside(Access.OPERATE)
async def resize(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Change how many jobs may run at once: size=N; cancel_excess=true cancels those above it; version= as of pause."""
    size = arguments.whole("size", least=1, most=MAX_SIZE)
    excess = arguments.flag("cancel_excess")
    _unchanged(arguments, pool_version(watch.pool))
    arguments.end()
    before = watch.pool.size
    watch.pool.resize(size, cancel_excess=excess)
    return {"size": size, "before": before}


@inside(Access.OPERATE)
async def cancel(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Cancel a job: id=..., reason=TEXT. One that runs is told, and ends by itself."""
    id = arguments.needed("id")
    reason = arguments.text("reason")
    arguments.end()
    found = live_job(watch.pool, id)
    was = found.status
    found.cancel(reason)
    return {"id": json_value(found.id), "was": was.value, "status": found.status.value}


@inside(Access.OPERATE)
async def cancel_group(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Cancel the jobs of a group: group=NAME, reason=TEXT."""
    group = arguments.needed("group")
    reason = arguments.text("reason")
    arguments.end()
    wanted = Filter(None, None, group, None, None, None, None)
    return start_cancel(watch, wanted, await count(watch.pool, wanted, None), reason)


@inside(Access.OPERATE)
async def reprioritize(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Change the place in line of a job that waits: id=..., priority=N, lower first; version= as `job` says it."""
    id = arguments.needed("id")
    priority = arguments.whole("priority", least=-MAX_PRIORITY, most=MAX_PRIORITY)
    job = live_job(watch.pool, id)
    _unchanged(arguments, job_version(job))
    arguments.end()
    if not watch.pool.reprioritize(id, priority):
        raise Problem("conflict", f"job {id} is {job.status}: only a job that waits has a place in line")
    return {"id": json_value(job.id), "priority": priority}


@inside(Access.OPERATE)
async def change_job(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Change a job that waits: id=..., priority=N, timeout=SECONDS of an attempt or none; version= as `job` says it."""
    id = arguments.needed("id")
    moves, limits = arguments.has("priority"), arguments.has("timeout")
    priority = arguments.whole("priority", 0, least=-MAX_PRIORITY, most=MAX_PRIORITY)
    timeout = None if arguments.is_none("timeout") else arguments.seconds("timeout", most=MAX_TIMEOUT)
    pool = watch.pool
    fleet = fleet_of(pool)
    if fleet is not None:
        if await fleet.find(id) is None:
            raise Problem("not-found", f"the store knows no job {id!r:.100}")
        raise Problem(
            "conflict",
            f"job {id} is one of a store, and keeps the priority and the timeout with which it was submitted: cancel "
            "it, and submit it anew with others",
        )
    job = live_job(pool, id)
    _unchanged(arguments, job_version(job))
    arguments.end()
    if job.status not in (JobStatus.QUEUED, JobStatus.SCHEDULED):
        raise Problem("conflict", f"job {id} is {job.status}: only a job that waits can be changed")
    if moves:
        pool.reprioritize(id, priority)
    if limits:
        pool.change_timeout(id, timeout)
    return {"id": json_value(job.id), "priority": job.priority, "timeout": json_value(job.timeout)}


@inside(Access.OPERATE)
async def retry(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Put a job of a store that has ended back into the queue: id=..."""
    id = arguments.needed("id")
    arguments.end()
    if not await fleet_to_retry(watch.pool).retry(id):
        raise Problem("conflict", f"job {id} has not ended, or the store does not know it")
    return {"id": id}


@inside(Access.OPERATE)
async def measure(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Count and time jobs by their names from now on; see `metrics`."""
    arguments.end()
    observe(watch.pool)
    return {"measuring": True}


def _unchanged(arguments: Arguments, version: str) -> None:
    """Refuse a change that was meant for another state than the present one."""
    wanted = arguments.text("version")
    if wanted is not None and wanted != version:
        raise Problem("changed", f"it is {version} now, and no longer {wanted:.100}: look again, then change it")


@inside(Access.ADMIN)
async def drain(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Take no more jobs, finish those that are there, and close: timeout=SECONDS, then they are cancelled."""
    timeout = arguments.seconds("timeout", most=MAX_SHUTDOWN)
    arguments.end()
    return _end(watch, timeout)


@inside(Access.ADMIN)
async def shutdown(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Cancel the jobs and close; timeout=SECONDS: first let them finish."""
    timeout = arguments.seconds("timeout", most=MAX_SHUTDOWN)
    arguments.end()
    return _end(watch, timeout or 0.0)


def _end(watch: Watched, timeout: float | None) -> dict[str, Any]:
    pool = watch.pool
    statistics = pool.statistics()
    task = asyncio.get_running_loop().create_task(pool.shutdown(timeout=timeout))
    _ending.add(task)
    task.add_done_callback(_ending.discard)
    return {"closing": True, "running": statistics.running, "queued": statistics.queued, "timeout": timeout}


_ending: set[asyncio.Task[Any]] = set()  # the loop holds tasks weakly
