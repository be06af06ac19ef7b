"""What can be asked of a pool: a closed list of verbs, by name. Nothing is looked up by the words of a request.

A verb reads its arguments, refuses what it does not know, and answers with JSON. Those that are `outside` read what may
be read from any thread, and answer while the event loop is blocked; the others run in the loop of the pool.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, final

from aiopool._control.arguments import Arguments
from aiopool._control.filters import Filter, page
from aiopool._control.history import Sample
from aiopool._control.problems import Problem
from aiopool._control.store_views import fleet_now, fleet_of, stored_view
from aiopool._control.views import (
    failures_view,
    frames_view,
    group_view,
    health_view,
    is_paused,
    job_version,
    job_view,
    moment,
    numbers_view,
    outcome_view,
    pool_version,
)
from aiopool._control.watched import Operation, Watched
from aiopool._jobs.job import Job
from aiopool._jobs.json_values import json_value
from aiopool._jobs.status import JobStatus
from aiopool._pool.pool import Pool
from aiopool.inspection import CodeLine, groups, loop_of, running_code
from aiopool.metrics import observe, observed

__all__ = ["MAX_IDS", "VERBS", "Access", "Verb", "inside"]

MAX_IDS = 1000
MAX_SIZE = 10_000
MAX_SHUTDOWN = 3600.0
MAX_NODES = 2000
NOT_KEPT = "no job has this id{more}; jobs that have ended are kept with Pool(keep_finished=1000)"


class Access(enum.IntEnum):
    """What somebody may do: look, steer jobs, end the pool; each includes those before it."""

    READ = 1
    OPERATE = 2
    ADMIN = 3


Outside = Callable[[Watched, Arguments], dict[str, Any]]
Inside = Callable[[Watched, Arguments], Coroutine[Any, Any, dict[str, Any]]]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Verb:
    """Something that can be asked.

    Attributes:
        name: its name.
        access: what it takes to ask it.
        about: what it does, in one line; the first of the function's docstring.
        outside: the function, if it may be called in any thread; else None.
        inside: the function, if it runs in the loop of the pool; else None.
    """

    name: str
    access: Access
    about: str
    outside: Outside | None = None
    inside: Inside | None = None


VERBS: dict[str, Verb] = {}


def _outside(access: Access) -> Callable[[Outside], Outside]:
    def add(function: Outside) -> Outside:
        VERBS[function.__name__] = Verb(function.__name__, access, _about(function), outside=function)
        return function

    return add


def _inside(access: Access) -> Callable[[Inside], Inside]:
    def add(function: Inside) -> Inside:
        VERBS[function.__name__] = Verb(function.__name__, access, _about(function), inside=function)
        return function

    return add


inside = _inside  # for verbs that stand in a file of their own


def _about(function: Callable[..., object]) -> str:
    return (function.__doc__ or "").partition("\n")[0]


# -- looking -----------------------------------------------------------------------------------------------------------


@_outside(Access.READ)
def status(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show the pool in numbers; with rows=N, also what runs, the longest first."""
    rows = arguments.whole("rows", 0, most=200)
    arguments.end()
    pool = watch.pool
    statistics = pool.statistics()
    blocked = watch.look_at_loop()
    lag = round(max((lag for _, lag in watch.lags()[-15:]), default=0.0), 4)
    watch.history.add(statistics, lag)
    now = loop_of(pool).time()
    first = next(iter(pool.next_jobs(1)), None)
    answer: dict[str, Any] = {
        "pool": watch.key,
        "time": time.time(),
        "status": pool.status.value,
        "size": statistics.size,
        "paused": is_paused(pool),
        "version": pool_version(pool),
        "numbers": numbers_view(statistics),
        "paused_by": None if watch.paused_by is None else watch.paused_by.to_dict(),
        "loop": {"lag": lag, "blocked": blocked},
        "rates": watch.history.rates(),
        "next_waited": None if first is None else round(max(0.0, now - first.submitted_at), 3),
    }
    if rows:
        running = sorted(pool.running_jobs(), key=lambda job: job.started_at or now)
        answer["running"] = [job_view(job, now=now) for job in running[:rows]]
    return answer


@_outside(Access.READ)
def stack(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show where a running job is suspended: id=...; without an id, what the event loop executes."""
    id = arguments.text("id")
    depth = arguments.whole("depth", 20, least=1, most=50)
    arguments.end()
    pool = watch.pool
    if id is None:
        code = running_code(pool)
        found = [] if code is None else list(code.stack)[-depth:]
        return {"where": None if code is None else str(code), "frames": frames_view(found)}
    job = _job(pool, id)
    if job.status is not JobStatus.RUNNING:
        raise Problem("conflict", f"job {id} is {job.status}: only a running job has a stack")
    lines = [CodeLine(frame.filename, frame.lineno or 0, frame.name) for frame in job.stack()]
    return {"id": json_value(job.id), "name": job.name, "frames": frames_view(lines[-depth:])}


@_outside(Access.READ)
def blocked(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show who blocks the event loop now, and the last times that it was blocked."""
    arguments.end()
    return {
        "now": watch.look_at_loop(),
        "spells": list(watch.spells),
        "lags": [[round(at, 1), round(lag, 4)] for at, lag in watch.lags()],
    }


@_outside(Access.READ)
def history(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show the numbers of the last ten minutes, as far as somebody asked for the status."""
    arguments.end()
    return {"fields": list(Sample._fields[1:]), "items": [list(sample[1:]) for sample in watch.history.items()]}


@_outside(Access.READ)
def actions(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show who did what to the pool from outside, the newest first."""
    arguments.end()
    return {"items": [action.to_dict() for action in reversed(watch.actions)]}


@_inside(Access.READ)
async def jobs(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """List jobs: status=, name=, group=, error=, label=, waits_for=, older_than=, order=next, limit=, cursor=."""
    return await page(watch, arguments)


@_inside(Access.READ)
async def failures(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show the jobs that failed of late, by their errors, the newest first: limit=N kinds of errors."""
    limit = arguments.whole("limit", 10, least=1, most=100)
    arguments.end()
    return failures_view(watch.pool.finished_jobs(MAX_IDS), limit)


@_inside(Access.READ)
async def job(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show all that is known of a job: id=..."""
    id = arguments.needed("id")
    arguments.end()
    pool = watch.pool
    live = pool.get_job(id)
    if live is not None:
        view = job_view(live, now=loop_of(pool).time(), whole=True)
        if live.status is JobStatus.QUEUED:
            view["position"] = _position(pool, live)
        if live.status is JobStatus.RUNNING:
            frames = [CodeLine(frame.filename, frame.lineno or 0, frame.name) for frame in live.stack()]
            view["frames"] = frames_view(frames[-20:])
        return view
    outcome, fleet = pool.find(id), fleet_of(pool)
    if outcome is not None:
        assert not isinstance(outcome, Job)
        view = outcome_view(outcome, whole=True)
        if fleet is not None:
            view["may"] = ["retry"]
        return view
    row = None if fleet is None else await fleet.find(id)
    if row is None:
        if id.isdecimal() and 0 < int(id) <= pool.statistics().submitted:
            raise Problem(
                "forgotten", f"job {id} has ended, and is not kept any more: Pool(keep_finished=...) says how many are"
            )
        raise Problem("not-found", NOT_KEPT.format(more=f": {id!r:.100}"))
    return stored_view(row, now=await fleet_now(pool), whole=True)


def _position(pool: Pool, job: Job[Any]) -> str:
    """Return the place of a job in line; only the first places are counted."""
    for place, other in enumerate(pool.next_jobs(MAX_IDS), 1):
        if other is job:
            return str(place)
    return f"{MAX_IDS}+"


@_inside(Access.READ)
async def tree(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show the live jobs that were submitted by jobs, or have submitted some: root=ID for one family."""
    root = arguments.text("root")
    arguments.end()
    pool = watch.pool
    scan = pool.scan()
    parents: dict[str, str] = {}
    rows: dict[str, Job[Any]] = {}
    async for live in scan:
        parent = live.parent
        if parent is not None and len(rows) < MAX_NODES:
            rows[str(live.id)] = live
            parents[str(live.id)] = str(parent)
            above = pool.get_job(parent)
            if above is not None:
                rows[str(above.id)] = above
        if scan.looked_at >= 20_000:
            break
    now = loop_of(pool).time()
    if root is not None:
        rows = {id: live for id, live in rows.items() if root in _ancestors(id, parents)}
    return {
        "nodes": [job_view(live, now=now) | {"parent": parents.get(id)} for id, live in rows.items()],
        "searched": scan.looked_at,
        "complete": scan.cursor is None,
    }


def _ancestors(id: str, parents: Mapping[str, str]) -> Iterator[str]:
    seen: set[str] = set()
    at: str | None = id
    while at is not None and at not in seen:
        seen.add(at)
        yield at
        at = parents.get(at)


@_inside(Access.READ)
async def list_groups(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """List the groups that have live jobs or are paused."""
    arguments.end()
    return {"items": [group_view(group) for group in groups(watch.pool)]}


@_inside(Access.READ)
async def events(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show what happened: after=NUMBER, types=, limit=. Nothing is heard before the first question."""
    after = arguments.whole("after", 0, most=2**60)
    types = arguments.texts("types", 50)
    limit = arguments.whole("limit", 200, least=1, most=500)
    arguments.end()
    return watch.events.after(after, frozenset(types or ()), limit)


@_inside(Access.READ)
async def metrics(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show how jobs of each name did: how many, how long they waited and ran; with measuring on."""
    arguments.end()
    numbers = observed(watch.pool)
    if numbers is None:
        return {"items": [], "measuring": False}
    rows = []
    for name, row in numbers.snapshot().jobs.items():
        ended = row.succeeded + row.failed + row.timed_out + row.cancelled
        rows.append(
            {
                "name": name,
                "ended": ended,
                "failed": row.failed + row.timed_out,
                "retries": row.retries,
                "wait_p50": json_value(row.wait.quantile(0.5)),
                "wait_p95": json_value(row.wait.quantile(0.95)),
                "run_p50": json_value(row.run.quantile(0.5)),
                "run_p95": json_value(row.run.quantile(0.95)),
                "run_sum": row.run.sum,
                "run_count": row.run.count,
            }
        )
    return {"items": rows, "measuring": True}


@_inside(Access.READ)
async def health(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show how the pool is, with reasons."""
    arguments.end()
    return health_view(watch.health.report())


def _unchanged(arguments: Arguments, version: str) -> None:
    """Refuse a change that was meant for another state than the present one."""
    wanted = arguments.text("version")
    if wanted is not None and wanted != version:
        raise Problem("changed", f"it is {version} now, and no longer {wanted:.100}: look again, then change it")


# -- steering ----------------------------------------------------------------------------------------------------------


@_inside(Access.OPERATE)
async def pause(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Let no job start; group=NAME: no job of a group; version=TEXT: only if `status` says that still."""
    group = arguments.text("group")
    _unchanged(arguments, pool_version(watch.pool))
    arguments.end()
    watch.pool.pause(group=group)
    return {"paused": True, "group": group}


@_inside(Access.OPERATE)
async def resume(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Let jobs start again; group=NAME: those of a group; version=TEXT: only if `status` says that still."""
    group = arguments.text("group")
    _unchanged(arguments, pool_version(watch.pool))
    arguments.end()
    watch.pool.resume(group=group)
    return {"paused": False, "group": group}


@_inside(Access.OPERATE)
async def resize(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Change how many jobs may run at once: size=N; cancel_excess=true cancels those above it; version= as of pause."""
    size = arguments.whole("size", least=1, most=MAX_SIZE)
    excess = arguments.flag("cancel_excess")
    _unchanged(arguments, pool_version(watch.pool))
    arguments.end()
    before = watch.pool.size
    watch.pool.resize(size, cancel_excess=excess)
    return {"size": size, "before": before}


@_inside(Access.OPERATE)
async def cancel(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Cancel a job: id=..., reason=TEXT. One that runs is told, and ends by itself."""
    id = arguments.needed("id")
    reason = arguments.text("reason")
    arguments.end()
    found = _job(watch.pool, id)
    was = found.status
    found.cancel(reason)
    return {"id": json_value(found.id), "was": was.value, "status": found.status.value}


@_inside(Access.OPERATE)
async def cancel_group(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Cancel the jobs of a group: group=NAME, reason=TEXT."""
    group = arguments.needed("group")
    reason = arguments.text("reason")
    arguments.end()
    wanted = Filter(None, None, group, None, None, None, None)
    return _start(watch, "cancel", wanted, None, await _count(watch.pool, wanted, None), reason, 0)


@_inside(Access.OPERATE)
async def reprioritize(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Change the place in line of a job that waits: id=..., priority=N, lower first; version= as `job` says it."""
    id = arguments.needed("id")
    priority = arguments.whole("priority", least=-(10**9), most=10**9)
    job = _job(watch.pool, id)
    _unchanged(arguments, job_version(job))
    arguments.end()
    if not watch.pool.reprioritize(id, priority):
        raise Problem("conflict", f"job {id} is {job.status}: only a job that waits has a place in line")
    return {"id": json_value(job.id), "priority": priority}


@_inside(Access.OPERATE)
async def retry(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Put a job of a store that has ended back into the queue: id=..."""
    id = arguments.needed("id")
    arguments.end()
    fleet = fleet_of(watch.pool)
    if fleet is None:
        raise Problem(
            "conflict",
            "a pool in memory keeps no arguments of jobs that have ended, so it cannot run one again: submit it anew, "
            "or give the pool a store: Pool(store=..., handlers=...)",
        )
    if not await fleet.retry(id):
        raise Problem("conflict", f"job {id} has not ended, or the store does not know it")
    return {"id": id}


@_inside(Access.OPERATE)
async def measure(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Count and time jobs by their names from now on; see `metrics`."""
    arguments.end()
    observe(watch.pool)
    return {"measuring": True}


@_inside(Access.OPERATE)
async def operation(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Cancel or reprioritize many jobs: do=VERB, ids= or a filter as of `jobs`, dry_run=true to count them first."""
    do = arguments.choice("do", ("cancel", "reprioritize"))
    if do is None:
        raise Problem("invalid", "do is missing: write do=cancel or do=reprioritize")
    ids = arguments.texts("ids", MAX_IDS)
    wanted = Filter.of(arguments)
    dry_run = arguments.flag("dry_run")
    expect = arguments.whole("expect", -1, least=-1, most=2**60)
    reason = arguments.text("reason")
    priority = arguments.whole("priority", 0, least=-(10**9), most=10**9)
    arguments.end()
    if wanted.ended:
        raise Problem("invalid", "jobs that have ended can neither be cancelled nor put elsewhere in line")
    total = await _count(watch.pool, wanted, ids)
    if dry_run:
        return {"total": total, "dry_run": True}
    if expect not in (-1, total):
        raise Problem("conflict", f"{total} jobs match, not {expect}: look again", total=total)
    return _start(watch, do, wanted, ids, total, reason, priority)


async def _count(pool: Pool, wanted: Filter, ids: list[str] | None) -> int:
    return len([job async for job in _matching(pool, wanted, ids)]) if ids else await _counted(pool, wanted)


async def _counted(pool: Pool, wanted: Filter) -> int:
    count = 0
    async for job, _, _ in wanted.live(pool, newest_first=False):
        count += job is not None
    return count


async def _matching(pool: Pool, wanted: Filter, ids: list[str] | None) -> AsyncIterator[Job[Any]]:
    if ids is not None:
        for id in ids:
            job = pool.get_job(id)
            if job is not None:
                yield job
        return
    async for job, _, _ in wanted.live(pool, newest_first=True):
        if job is not None:
            yield job


def _start(
    watch: Watched, do: str, wanted: Filter, ids: list[str] | None, total: int, reason: str | None, priority: int
) -> dict[str, Any]:
    pool, begun = watch.pool, watch.begin(do, total)
    begun.task = asyncio.get_running_loop().create_task(_carry_out(pool, begun, wanted, ids, reason, priority))
    return begun.to_dict()


async def _carry_out(
    pool: Pool, begun: Operation, wanted: Filter, ids: list[str] | None, reason: str | None, priority: int
) -> None:
    # The newest first: a job that is cancelled would let an older one start, which is to be cancelled next.
    try:
        async for job in _matching(pool, wanted, ids):
            if begun.stopped:
                break
            done = job.cancel(reason) if begun.verb == "cancel" else pool.reprioritize(job.id, priority)
            if done:
                begun.done += 1
            else:
                begun.skipped += 1
    finally:
        begun.ended = True


@_inside(Access.READ)
async def operations(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show how far operations on many jobs are: id=N for one."""
    id = arguments.whole("id", 0, most=2**60)
    arguments.end()
    if id:
        return _operation(watch, id).to_dict()
    return {"items": [one.to_dict() for one in watch.operations.values()]}


@_inside(Access.OPERATE)
async def stop_operation(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Stop an operation on many jobs where it is: id=N."""
    id = arguments.whole("id", least=1, most=2**60)
    arguments.end()
    found = _operation(watch, id)
    found.stopped = not found.ended
    return found.to_dict()


def _operation(watch: Watched, id: int) -> Operation:
    found = watch.operations.get(id)
    if found is None:
        raise Problem("not-found", f"there is no operation {id}; those of before are forgotten")
    return found


def _job(pool: Pool, id: str) -> Job[Any]:
    job = pool.get_job(id)
    if job is not None:
        return job
    ended = pool.find(id)
    if ended is not None:
        assert not isinstance(ended, Job)
        raise Problem("conflict", f"job {id} has ended: {ended.status}, at {moment(ended.finished_time)}")
    raise Problem("not-found", f"no live job has the id {id!r:.100}")


# -- ending ------------------------------------------------------------------------------------------------------------


@_inside(Access.ADMIN)
async def drain(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Take no more jobs, finish those that are there, and close: timeout=SECONDS, then they are cancelled."""
    timeout = arguments.seconds("timeout", most=MAX_SHUTDOWN)
    arguments.end()
    return _end(watch, timeout)


@_inside(Access.ADMIN)
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
