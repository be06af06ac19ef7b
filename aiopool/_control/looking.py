"""The verbs by which somebody looks at a pool. Imported, they are in the list."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

from aiopool._control.arguments import Arguments
from aiopool._control.filters import MAX_LOOKED_AT, SLICE, live_job, page
from aiopool._control.history import Sample
from aiopool._control.problems import Problem
from aiopool._control.store_views import fleet_now, fleet_of, stored_view
from aiopool._control.verbs import Access, inside, outside
from aiopool._control.views import (
    failures_view,
    frames_view,
    group_view,
    health_view,
    job_view,
    numbers_view,
    outcome_view,
    pool_version,
    value_view,
)
from aiopool._control.watched import Watched
from aiopool._control.what_if import PastJob, guess
from aiopool._jobs.job import Job
from aiopool._jobs.json_values import bounded, json_value
from aiopool._jobs.status import JobStatus
from aiopool._pool.pool import Pool
from aiopool.inspection import CodeLine, groups, is_paused, loop_of, running_code
from aiopool.metrics import observed

__all__: list[str] = []

MAX_IN_LINE = 1000
MAX_NODES = 2000
# Of jobs that have ended, for a look at other sizes; with fewer, each of them would be half of the answer.
MAX_PAST, MIN_PAST, MAX_SIZES = 5000, 100, 8
MAX_WINDOW = 1e9  # seconds
NOT_KEPT = "no job has this id{more}; jobs that have ended are kept with Pool(keep_finished=1000)"


@outside(Access.READ)
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
    paused = is_paused(pool)
    if not paused:  # whoever has let it go on again may have been the program itself
        watch.paused_by = None
    answer: dict[str, Any] = {
        "pool": watch.key,
        "time": time.time(),
        "status": pool.status.value,
        "size": statistics.size,
        "paused": paused,
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


@outside(Access.READ)
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
    job = live_job(pool, id)
    if job.status is not JobStatus.RUNNING:
        raise Problem("conflict", f"job {id} is {job.status}: only a running job has a stack")
    lines = [CodeLine(frame.filename, frame.lineno or 0, frame.name) for frame in job.stack()]
    return {"id": value_view(job.id), "name": bounded(job.name), "frames": frames_view(lines[-depth:])}


@outside(Access.READ)
def blocked(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show who blocks the event loop now, and the last times that it was blocked."""
    arguments.end()
    return {
        "now": watch.look_at_loop(),
        "spells": list(watch.spells),
        "lags": [[round(at, 1), round(lag, 4)] for at, lag in watch.lags()],
    }


@outside(Access.READ)
def history(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show the numbers of the last ten minutes, as far as somebody asked for the status."""
    arguments.end()
    return {"fields": list(Sample._fields[1:]), "items": [list(sample[1:]) for sample in watch.history.items()]}


@outside(Access.READ)
def actions(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show who did what to the pool from outside, the newest first."""
    arguments.end()
    return {"items": [action.to_dict() for action in reversed(watch.actions)]}


@inside(Access.READ)
async def jobs(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """List jobs: status=, name=, group=, error=, label=, waits_for=, older_than=, order=next, limit=, cursor=."""
    return await page(watch, arguments)


@inside(Access.READ)
async def failures(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show the jobs that failed of late, by their errors, the newest first: limit=N kinds of errors."""
    limit = arguments.whole("limit", 10, least=1, most=100)
    arguments.end()
    return failures_view(watch.pool.finished_jobs(MAX_IN_LINE), limit)


@inside(Access.READ)
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
    for place, other in enumerate(pool.next_jobs(MAX_IN_LINE), 1):
        if other is job:
            return str(place)
    return f"{MAX_IN_LINE}+"


@inside(Access.READ)
async def tree(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show the live jobs that were submitted by jobs, or have submitted some: root=ID for one family."""
    root = arguments.text("root")
    arguments.end()
    pool = watch.pool
    scan = pool.scan(where=_is_child, look_at_most=MAX_LOOKED_AT)
    parents: dict[str, str] = {}
    rows: dict[str, Job[Any]] = {}
    async for child in scan:
        if len(rows) >= MAX_NODES:
            break
        rows[str(child.id)] = child
        if (parent := child.parent) is not None:  # it may have ended since
            parents[str(child.id)] = str(parent)
            above = pool.get_job(parent)
            if above is not None:
                rows[str(above.id)] = above
    now = loop_of(pool).time()
    if root is not None:
        rows = {id: live for id, live in rows.items() if root in _ancestors(id, parents)}
    return {
        "nodes": [job_view(live, now=now) | {"parent": parents.get(id)} for id, live in rows.items()],
        "searched": scan.looked_at,
        "complete": scan.cursor is None,
    }


def _is_child(job: Job[Any]) -> bool:
    return job.parent is not None


def _ancestors(id: str, parents: Mapping[str, str]) -> Iterator[str]:
    seen: set[str] = set()
    at: str | None = id
    while at is not None and at not in seen:
        seen.add(at)
        yield at
        at = parents.get(at)


@inside(Access.READ)
async def list_groups(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """List the groups that have live jobs or are paused."""
    arguments.end()
    return {"items": [group_view(group) for group in groups(watch.pool)]}


@inside(Access.READ)
async def events(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show what happened: after=NUMBER, types=, job=ID, limit=. Nothing is heard before the first question."""
    after = arguments.whole("after", 0, most=2**60)
    types = arguments.texts("types", 50)
    job = arguments.text("job")
    limit = arguments.whole("limit", 200, least=1, most=500)
    arguments.end()
    return watch.events.after(after, frozenset(types or ()), limit, job)


@inside(Access.READ)
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


@inside(Access.READ)
async def health(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show how the pool is, with reasons."""
    arguments.end()
    return health_view(watch.health.report())


@inside(Access.READ)
async def what_if(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show how long the last jobs would have waited at other sizes: sizes=8,16,32; window=SECONDS: only the latest."""
    given = arguments.text("sizes")
    window = arguments.seconds("window", most=MAX_WINDOW)
    arguments.end()
    pool = watch.pool
    sizes = _sizes(given, pool.size)
    since = 0.0 if window is None else time.time() - window
    jobs: list[PastJob] = []
    for skip in range(0, MAX_PAST, SLICE):
        rows = pool.finished_jobs(SLICE, skip=skip)
        jobs += [
            PastJob(one.finished_time.timestamp() - one.seconds - one.waited, one.priority, one.seconds)
            for one in rows
            if one.started_time is not None and one.finished_time.timestamp() >= since
        ]
        if len(rows) < SLICE or rows[-1].finished_time.timestamp() < since:
            break
        await asyncio.sleep(0)
    if len(jobs) < MIN_PAST:
        raise Problem(
            "conflict",
            f"{len(jobs)} jobs that ran are remembered{'' if window is None else f' of the last {window:g} s'}, and "
            f"{MIN_PAST} are needed: give the pool keep_finished=1000, and ask again later",
        )
    guesses = await asyncio.to_thread(lambda: [guess(jobs, size) for size in sizes])
    return {
        "items": [dataclasses.asdict(one) for one in guesses],
        "jobs": len(jobs),
        "size": pool.size,
        "assumes": "that a job takes as long as it did, whatever the size",
    }


def _sizes(given: str | None, size: int) -> list[int]:
    """Read sizes; without any, some around the present one."""
    if given is None:
        return sorted({max(1, size // 2), size, size * 2, size * 4})
    parts = given.split(",")
    if len(parts) > MAX_SIZES or not all(part.strip().isdecimal() and 1 <= int(part) <= 10_000 for part in parts):
        raise Problem("invalid", f"sizes={given!r:.100}: write {MAX_SIZES} numbers from 1 to 10000 at most: sizes=8,16")
    return [int(part) for part in parts]
