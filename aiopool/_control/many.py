"""The verbs for many jobs at once: done in slices of the loop's time, told how far it is, stopped where it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from aiopool._control.arguments import Arguments
from aiopool._control.filters import Filter
from aiopool._control.problems import Problem
from aiopool._control.put_back import ENDED_STORED, check_ended, count_ended, fleet_to_retry, put_back
from aiopool._control.verbs import Access, inside
from aiopool._control.watched import Operation, Watched
from aiopool._jobs.job import Job
from aiopool._pool.pool import Pool
from aiopool._runtime.faults import describe_error, log_fault

__all__ = ["count", "start_cancel"]

logger = logging.getLogger("aiopool.control")

MAX_IDS = 1000


@inside(Access.OPERATE)
async def operation(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Cancel, reprioritize or retry many jobs: do=VERB, ids= or a filter as of `jobs`; dry_run=true only counts."""
    do = arguments.choice("do", ("cancel", "reprioritize", "retry"))
    if do is None:
        raise Problem("invalid", "do is missing: write do=cancel, do=reprioritize or do=retry")
    ids = arguments.texts("ids", MAX_IDS)
    wanted = Filter.of(arguments, ENDED_STORED) if do == "retry" else Filter.of(arguments)
    dry_run = arguments.flag("dry_run")
    expect = arguments.whole("expect", -1, least=-1, most=2**60)
    reason = arguments.text("reason")
    priority = arguments.whole("priority", 0, least=-(10**9), most=10**9)
    arguments.end()
    pool = watch.pool
    if do == "retry":
        fleet = fleet_to_retry(pool)
        check_ended(wanted, ids)
        total, steps = await count_ended(fleet, wanted, ids), put_back(fleet, wanted, ids)
    elif wanted.ended:
        raise Problem("invalid", "jobs that have ended can neither be cancelled nor put elsewhere in line")
    else:
        total, steps = await count(pool, wanted, ids), _one_by_one(pool, do, wanted, ids, reason, priority)
    if dry_run:
        return {"total": total, "dry_run": True}
    if expect not in (-1, total):
        raise Problem("conflict", f"{total} jobs match, not {expect}: look again", total=total)
    return _start(watch, do, total, steps)


async def count(pool: Pool, wanted: Filter, ids: list[str] | None) -> int:
    """Count the live jobs that are meant."""
    count = 0
    async for _ in _matching(pool, wanted, ids):
        count += 1
    return count


async def _matching(pool: Pool, wanted: Filter, ids: list[str] | None) -> AsyncIterator[Job[Any]]:
    if ids is not None:
        for id in ids:
            job = pool.get_job(id)
            if job is not None:
                yield job
        return
    async for job in wanted.scan(pool):
        yield job


def start_cancel(watch: Watched, wanted: Filter, total: int, reason: str | None) -> dict[str, Any]:
    """Begin to cancel jobs, and return what is about to be done."""
    return _start(watch, "cancel", total, _one_by_one(watch.pool, "cancel", wanted, None, reason, 0))


async def _one_by_one(
    pool: Pool, do: str, wanted: Filter, ids: list[str] | None, reason: str | None, priority: int
) -> AsyncIterator[tuple[int, int]]:
    # The newest first: a job that is cancelled would let an older one start, which is to be cancelled next.
    async for job in _matching(pool, wanted, ids):
        done = job.cancel(reason) if do == "cancel" else pool.reprioritize(job.id, priority)
        yield int(done), int(not done)


def _start(watch: Watched, do: str, total: int, steps: AsyncIterator[tuple[int, int]]) -> dict[str, Any]:
    begun = watch.begin(do, total)
    begun.task = asyncio.get_running_loop().create_task(_carry_out(begun, steps))
    return begun.to_dict()


async def _carry_out(begun: Operation, steps: AsyncIterator[tuple[int, int]]) -> None:
    """Go step by step, each of which tells to how many jobs it was done, and to how many it could not be."""
    try:
        while not begun.stopped and (step := await anext(steps, None)) is not None:
            begun.done += step[0]
            begun.skipped += step[1]
    except Exception as error:
        log_fault(logger, "operation %d, %s, has failed in the middle", begun.id, begun.verb, error=error)
        begun.error = describe_error(error)
    finally:
        begun.ended = True


@inside(Access.READ)
async def operations(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show how far operations on many jobs are: id=N for one."""
    id = arguments.whole("id", 0, most=2**60)
    arguments.end()
    if id:
        return _operation(watch, id).to_dict()
    return {"items": [one.to_dict() for one in watch.operations.values()]}


@inside(Access.OPERATE)
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
