"""A steady state: a producer keeps `OUTSTANDING` jobs in flight and awaits them in order.

This is how a service looks after an hour: nothing piles up, and garbage collection, which is kind to
whoever makes the fewest objects in a burst of 100,000, flatters nobody. The window is the same eight
lines for each contender, written out, for a shared helper would add its own call to each job.

asyncio-taskpool and aiometer are missing here: neither hands back anything that can be awaited per job.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from benchmarks.contenders import (
    CREATE_TASK,
    EAGER_TASK,
    GATHER,
    HAND,
    SCOPE,
    TASK,
    TASK_GROUP,
    Isolation,
    contender,
    hand_worker,
    stop,
)
from benchmarks.workloads import Function

OUTSTANDING = 1_000


async def _aiopool(isolation: Isolation, function: Function, count: int, concurrency: int) -> list[int]:
    from aiopool import Pool

    results: list[int] = []
    window: deque[Any] = deque()
    async with Pool(size=concurrency, queue_size=None, isolation=isolation) as pool:
        for index in range(count):
            if len(window) == OUTSTANDING:
                results.append(await window.popleft())
            window.append(await pool.submit(function, index))
        while window:
            results.append(await window.popleft())
    return results


@contender("steady", TASK)
async def aiopool_task(function: Function, count: int, concurrency: int) -> list[int]:
    """Submit to a pool at its defaults."""
    return await _aiopool("task", function, count, concurrency)


@contender("steady", SCOPE)
async def aiopool_scope(function: Function, count: int, concurrency: int) -> list[int]:
    """The same in the fast lane."""
    return await _aiopool("scope", function, count, concurrency)


@contender("steady", HAND, floor=True)
async def hand_written(function: Function, count: int, concurrency: int) -> list[int]:
    """Workers around an `asyncio.PriorityQueue`, a future per job."""
    queue: asyncio.PriorityQueue[Any] = asyncio.PriorityQueue()
    workers = [asyncio.create_task(hand_worker(queue)) for _ in range(concurrency)]
    create_future = asyncio.get_running_loop().create_future
    results: list[int] = []
    window: deque[Any] = deque()
    for index in range(count):
        if len(window) == OUTSTANDING:
            results.append(await window.popleft())
        future = create_future()
        queue.put_nowait((5, index, future, function))
        window.append(future)
    while window:
        results.append(await window.popleft())
    await stop(workers)
    return results


async def _one_by_one(function: Function, count: int) -> list[int]:
    create_task = asyncio.create_task
    return [await create_task(function(index)) for index in range(count)]


@contender("steady", CREATE_TASK)
async def create_task_one_by_one(function: Function, count: int, concurrency: int) -> list[int]:
    """Make a task, await it, forget it: a window of one."""
    return await _one_by_one(function, count)


@contender("steady", EAGER_TASK, python=(3, 12), floor=True)
async def create_task_eager(function: Function, count: int, concurrency: int) -> list[int]:
    """The same under `asyncio.eager_task_factory`."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    try:
        return await _one_by_one(function, count)
    finally:
        loop.set_task_factory(before)


@contender("steady", GATHER)
async def task_semaphore(function: Function, count: int, concurrency: int) -> list[int]:
    """A task per job that takes the semaphore itself; in a stream nothing can be gathered."""
    semaphore = asyncio.Semaphore(concurrency)

    async def limited(index: int) -> Any:
        async with semaphore:
            return await function(index)

    create_task = asyncio.create_task
    results: list[int] = []
    window: deque[Any] = deque()
    for index in range(count):
        if len(window) == OUTSTANDING:
            results.append(await window.popleft())
        window.append(create_task(limited(index)))
    while window:
        results.append(await window.popleft())
    return results


@contender("steady", TASK_GROUP)
async def task_group_semaphore(function: Function, count: int, concurrency: int) -> list[int]:
    """A task group that takes the semaphore before it spawns."""
    semaphore = asyncio.Semaphore(concurrency)

    async def limited(index: int) -> Any:
        try:
            return await function(index)
        finally:
            semaphore.release()

    results: list[int] = []
    window: deque[Any] = deque()
    async with asyncio.TaskGroup() as group:
        for index in range(count):
            if len(window) == OUTSTANDING:
                results.append(await window.popleft())
            await semaphore.acquire()
            window.append(group.create_task(limited(index)))
        while window:
            results.append(await window.popleft())
    return results


@contender("steady", "aiojobs", needs="aiojobs", published=True)
async def aiojobs(function: Function, count: int, concurrency: int) -> list[int]:
    """A `Scheduler` with an unbounded line of pending jobs."""
    from aiojobs import Scheduler

    scheduler = Scheduler(limit=concurrency, pending_limit=0)
    results: list[int] = []
    window: deque[Any] = deque()
    for index in range(count):
        if len(window) == OUTSTANDING:
            results.append(await window.popleft().wait())
        window.append(await scheduler.spawn(function(index)))
    while window:
        results.append(await window.popleft().wait())
    await scheduler.close()
    return results


@contender("steady", "asyncio-pool", needs="asyncio_pool", published=True)
async def asyncio_pool(function: Function, count: int, concurrency: int) -> list[int]:
    """`AioPool.spawn`, which waits for room."""
    from asyncio_pool import AioPool

    results: list[int] = []
    window: deque[Any] = deque()
    async with AioPool(size=concurrency) as pool:
        for index in range(count):
            if len(window) == OUTSTANDING:
                results.append(await window.popleft())
            window.append(await pool.spawn(function(index)))
        while window:
            results.append(await window.popleft())
    return results


@contender("steady", "anyio task group + CapacityLimiter", needs="anyio", share=5)
async def anyio_limiter(function: Function, count: int, concurrency: int) -> list[int]:
    """Task handles of an anyio task group whose tasks take the limiter."""
    import anyio

    limiter = anyio.CapacityLimiter(concurrency)

    async def limited(index: int) -> Any:
        async with limiter:
            return await function(index)

    results: list[int] = []
    window: deque[Any] = deque()
    async with anyio.create_task_group() as group:
        for index in range(count):
            if len(window) == OUTSTANDING:
                results.append(await window.popleft())
            window.append(group.create_task(limited(index)))
        while window:
            results.append(await window.popleft())
    return results
