"""Blocking functions in threads: all handed in at once, `concurrency` of them in flight; and one after the other."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from benchmarks.contenders import EXECUTOR, SCOPE, TASK, Isolation, contender
from benchmarks.workloads import Function

ONE_BY_ONE = "threads, one at a time"


async def _aiopool(isolation: Isolation, function: Function, count: int, concurrency: int) -> list[int]:
    from aiopool import Pool

    pool = Pool(size=concurrency, queue_size=None, max_threads=concurrency, isolation=isolation)
    async with pool:
        jobs = [await pool.submit(function, index) for index in range(count)]
        return [await job for job in jobs]


@contender("threads", TASK)
async def aiopool_task(function: Function, count: int, concurrency: int) -> list[int]:
    """Submit a plain function: the pool runs it in a thread."""
    return await _aiopool("task", function, count, concurrency)


@contender("threads", SCOPE)
async def aiopool_scope(function: Function, count: int, concurrency: int) -> list[int]:
    """The same in the fast lane."""
    return await _aiopool("scope", function, count, concurrency)


@contender("threads", EXECUTOR)
async def run_in_executor(function: Function, count: int, concurrency: int) -> list[int]:
    """`loop.run_in_executor` with an executor of `concurrency` threads."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(concurrency) as executor:
        futures = [loop.run_in_executor(executor, function, index) for index in range(count)]
        return [await future for future in futures]


@contender("threads", "asyncio.to_thread + gather")
async def to_thread(function: Function, count: int, concurrency: int) -> list[int]:
    """`asyncio.to_thread`, which carries the context variables, on an executor of the same size."""
    with ThreadPoolExecutor(concurrency) as executor:
        asyncio.get_running_loop().set_default_executor(executor)
        return list(await asyncio.gather(*[asyncio.to_thread(function, index) for index in range(count)]))


@contender("threads", "anyio.to_thread", needs="anyio")
async def anyio_to_thread(function: Function, count: int, concurrency: int) -> list[int]:
    """`anyio.to_thread.run_sync` in a task group, under a limiter of `concurrency`."""
    import anyio

    limiter = anyio.CapacityLimiter(concurrency)
    results: list[int] = []

    async def offload(index: int) -> None:
        results.append(await anyio.to_thread.run_sync(function, index, limiter=limiter))

    async with anyio.create_task_group() as group:
        for index in range(count):
            group.start_soon(offload, index)
    return results


async def _aiopool_one_by_one(isolation: Isolation, function: Function, count: int) -> list[int]:
    from aiopool import Pool

    async with Pool(isolation=isolation) as pool:
        return [await (await pool.submit(function, index)) for index in range(count)]


@contender(ONE_BY_ONE, TASK)
async def aiopool_task_one_by_one(function: Function, count: int, concurrency: int) -> list[int]:
    """Submit a plain function to a pool at its defaults and await its result, then the next."""
    return await _aiopool_one_by_one("task", function, count)


@contender(ONE_BY_ONE, SCOPE)
async def aiopool_scope_one_by_one(function: Function, count: int, concurrency: int) -> list[int]:
    """The same in the fast lane."""
    return await _aiopool_one_by_one("scope", function, count)


@contender(ONE_BY_ONE, EXECUTOR)
async def run_in_executor_one_by_one(function: Function, count: int, concurrency: int) -> list[int]:
    """`loop.run_in_executor` with the loop's own executor."""
    loop = asyncio.get_running_loop()
    return [await loop.run_in_executor(None, function, index) for index in range(count)]
