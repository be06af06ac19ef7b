"""Who runs the jobs: a burst of `count` jobs, at most `concurrency` at a time, all handles held.

One small function per contender, written as its own documentation would write it, in its fastest form
that still hands back every result. Imports of other libraries stand inside the functions: each runs in
its own process and should not carry the others.

A contender whose package is missing is skipped with the reason, never silently.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.workloads import Function

Run = Callable[[Function, int, int], Awaitable[list[int]]]
Isolation = Literal["task", "scope"]

# The names that the plan and the targets refer to.
TASK = "aiopool, task"
SCOPE = "aiopool, scope"
MAP_TASK = "aiopool map, task"
MAP_SCOPE = "aiopool map, scope"
GATHER = "gather + Semaphore"
CREATE_TASK = "create_task + await, one by one"
EAGER_TASK = "create_task (eager factory), one by one"
TASK_GROUP = "TaskGroup + Semaphore"
HAND = "hand-written PriorityQueue workers"
EXECUTOR = "run_in_executor"

OURS = (TASK, SCOPE, MAP_TASK, MAP_SCOPE)


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to run jobs in one suite."""

    suite: str
    name: str
    run: Run
    needs: str = ""
    """The module that must be importable."""
    published: bool = False
    """A pool that somebody publishes: a candidate for "best published pool"."""
    floor: bool = False
    """Written by hand without what a pool is for: a lower bound, and no candidate for "best of all peers"."""
    share: int = 1
    """Runs `count / share` jobs, because it is too slow for all. That spares it garbage collection."""
    python: tuple[int, int] = (3, 11)

    def missing(self) -> str | None:
        """Say why this contender cannot run here, or None."""
        if sys.version_info < self.python:
            return f"needs Python {'.'.join(map(str, self.python))}"
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"module `{self.needs}` is not installed; `pip install -e '.[bench]'` brings it"
        return None


_REGISTRY: dict[tuple[str, str], Contender] = {}


def contender(suite: str, name: str, **facts: Any) -> Callable[[Run], Run]:
    """Register the decorated function as contender `name` of `suite`."""

    def register(run: Run) -> Run:
        _REGISTRY[suite, name] = Contender(suite, name, run, **facts)
        return run

    return register


def find(suite: str, name: str) -> Contender:
    """Return the contender `name` of `suite`."""
    return _REGISTRY[suite, name]


def of_suite(suite: str) -> list[Contender]:
    """Return the contenders of `suite` in the order of the tables."""
    return [entry for (owner, _), entry in _REGISTRY.items() if owner == suite]


# --- ours ---------------------------------------------------------------------------------------------


async def _aiopool(isolation: Isolation, function: Function, count: int, concurrency: int) -> list[int]:
    from aiopool import Pool

    async with Pool(size=concurrency, queue_size=None, isolation=isolation) as pool:
        jobs = [await pool.submit(function, index) for index in range(count)]
        return [await job for job in jobs]


async def _aiopool_map(isolation: Isolation, function: Function, count: int, concurrency: int) -> list[int]:
    from aiopool import Pool

    async with Pool(size=concurrency, isolation=isolation) as pool:
        return list(await pool.map(function, range(count), ordered=False).collect())


@contender("burst", TASK)
async def aiopool_task(function: Function, count: int, concurrency: int) -> list[int]:
    """Submit each job to a pool at its defaults, then await each."""
    return await _aiopool("task", function, count, concurrency)


@contender("burst", SCOPE)
async def aiopool_scope(function: Function, count: int, concurrency: int) -> list[int]:
    """The same in the fast lane."""
    return await _aiopool("scope", function, count, concurrency)


@contender("burst", MAP_TASK)
async def aiopool_map_task(function: Function, count: int, concurrency: int) -> list[int]:
    """Map over the indices and collect: no handles, for nobody asked for any."""
    return await _aiopool_map("task", function, count, concurrency)


@contender("burst", MAP_SCOPE)
async def aiopool_map_scope(function: Function, count: int, concurrency: int) -> list[int]:
    """The same in the fast lane."""
    return await _aiopool_map("scope", function, count, concurrency)


# --- by hand ------------------------------------------------------------------------------------------


@contender("burst", HAND, floor=True)
async def hand_written(function: Function, count: int, concurrency: int) -> list[int]:
    """Workers around an `asyncio.PriorityQueue`, a future per job; no feature at all."""
    queue: asyncio.PriorityQueue[tuple[int, int, asyncio.Future[int], Function]] = asyncio.PriorityQueue()
    workers = [asyncio.create_task(hand_worker(queue)) for _ in range(concurrency)]
    create_future = asyncio.get_running_loop().create_future
    futures = []
    for index in range(count):
        future = create_future()
        queue.put_nowait((5, index, future, function))
        futures.append(future)
    results = [await future for future in futures]
    await stop(workers)
    return results


async def hand_worker(queue: asyncio.PriorityQueue[Any]) -> None:
    """Take jobs and settle their futures, for ever."""
    while True:
        _, index, future, function = await queue.get()
        try:
            result = await function(index)
        except BaseException as exception:
            future.set_exception(exception)
        else:
            future.set_result(result)


async def stop(workers: list[asyncio.Task[None]]) -> None:
    """Cancel the workers and wait until they are gone."""
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


@contender("burst", CREATE_TASK)
async def create_task_one_by_one(function: Function, count: int, concurrency: int) -> list[int]:
    """Make a task and await it, one after the other: what a single job costs without any pool."""
    create_task = asyncio.create_task
    tasks = []
    results = []
    for index in range(count):
        task = create_task(function(index))
        tasks.append(task)
        results.append(await task)
    return results


@contender("burst", EAGER_TASK, python=(3, 12), floor=True)
async def create_task_eager(function: Function, count: int, concurrency: int) -> list[int]:
    """The same under `asyncio.eager_task_factory`: the floor of a task per job."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    try:
        return await create_task_one_by_one(function, count, concurrency)
    finally:
        loop.set_task_factory(before)


@contender("burst", GATHER)
async def gather_semaphore(function: Function, count: int, concurrency: int) -> list[int]:
    """The recipe that everybody writes first."""
    semaphore = asyncio.Semaphore(concurrency)

    async def limited(index: int) -> Any:
        async with semaphore:
            return await function(index)

    return await asyncio.gather(*[limited(index) for index in range(count)])


@contender("burst", TASK_GROUP)
async def task_group_semaphore(function: Function, count: int, concurrency: int) -> list[int]:
    """A task group that takes the semaphore before it spawns, so that tasks never pile up."""
    semaphore = asyncio.Semaphore(concurrency)

    async def limited(index: int) -> Any:
        try:
            return await function(index)
        finally:
            semaphore.release()

    async with asyncio.TaskGroup() as group:
        tasks = []
        for index in range(count):
            await semaphore.acquire()
            tasks.append(group.create_task(limited(index)))
    return [task.result() for task in tasks]


# --- published ----------------------------------------------------------------------------------------


@contender("burst", "aiojobs", needs="aiojobs", published=True)
async def aiojobs(function: Function, count: int, concurrency: int) -> list[int]:
    """A `Scheduler` with an unbounded line of pending jobs."""
    from aiojobs import Scheduler

    scheduler = Scheduler(limit=concurrency, pending_limit=0)
    jobs = [await scheduler.spawn(function(index)) for index in range(count)]
    results = [await job.wait() for job in jobs]
    await scheduler.close()
    return results


@contender("burst", "asyncio-pool", needs="asyncio_pool", published=True)
async def asyncio_pool(function: Function, count: int, concurrency: int) -> list[int]:
    """`AioPool.spawn`, which waits for room: half the tasks, and the time, of `spawn_n`."""
    from asyncio_pool import AioPool

    async with AioPool(size=concurrency) as pool:
        futures = [await pool.spawn(function(index)) for index in range(count)]
        return [await future for future in futures]


@contender("burst", "asyncio-taskpool", needs="asyncio_taskpool", published=True)
async def asyncio_taskpool(function: Function, count: int, concurrency: int) -> list[int]:
    """`TaskPool.map`; it hands back no results, so the job keeps its own."""
    from asyncio_taskpool import TaskPool

    results: list[int] = []

    async def keep(index: int) -> None:
        results.append(await function(index))

    pool = TaskPool()
    pool.map(keep, range(count), num_concurrent=concurrency)
    pool.lock()
    await pool.gather_and_close()
    return results


@contender("burst", "aiometer", needs="aiometer", published=True, share=10)
async def aiometer(function: Function, count: int, concurrency: int) -> list[int]:
    """`amap`, in order of completion; it has no handles."""
    from aiometer import amap

    async with amap(function, range(count), max_at_once=concurrency) as results:
        return [result async for result in results]


@contender("burst", "anyio task group + CapacityLimiter", needs="anyio", share=20)
async def anyio_limiter(function: Function, count: int, concurrency: int) -> list[int]:
    """The recipe of the anyio documentation."""
    import anyio

    limiter = anyio.CapacityLimiter(concurrency)
    results: list[int] = []

    async def limited(index: int) -> None:
        async with limiter:
            results.append(await function(index))

    async with anyio.create_task_group() as group:
        for index in range(count):
            group.start_soon(limited, index)
    return results
