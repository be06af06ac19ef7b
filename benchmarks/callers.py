"""Jobs that other threads hand in: `CALLERS` threads submit to the loop, and one thread uses an executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from benchmarks.contenders import SCOPE, TASK, Isolation, contender
from benchmarks.workloads import Function

FROM_THREADS = "from other threads"
AN_EXECUTOR = "an executor"
THREADSAFE = "run_coroutine_threadsafe"
THREAD_POOL = "ThreadPoolExecutor"

CALLERS = 4


async def _call_from_threads(submit: Callable[[int], Future[int]], count: int) -> list[int]:
    """Submit in threads, all that each has to do in a row, and wait there for the results."""

    def call(first: int) -> list[int]:
        futures = [submit(index) for index in range(first, count, CALLERS)]
        return [future.result() for future in futures]

    parts = await asyncio.gather(*[asyncio.to_thread(call, first) for first in range(CALLERS)])
    return [value for part in parts for value in part]


async def _aiopool(isolation: Isolation, function: Function, count: int, concurrency: int) -> list[int]:
    from aiopool import Pool

    async with Pool(size=concurrency, queue_size=None, isolation=isolation) as pool:
        submit = pool.from_thread.submit
        return await _call_from_threads(lambda index: submit(function, index), count)


@contender(FROM_THREADS, TASK)
async def aiopool_task(function: Function, count: int, concurrency: int) -> list[int]:
    """`pool.from_thread.submit`, then `result()` of each."""
    return await _aiopool("task", function, count, concurrency)


@contender(FROM_THREADS, SCOPE)
async def aiopool_scope(function: Function, count: int, concurrency: int) -> list[int]:
    """The same in the fast lane."""
    return await _aiopool("scope", function, count, concurrency)


@contender(FROM_THREADS, THREADSAFE)
async def threadsafe(function: Function, count: int, concurrency: int) -> list[int]:
    """`asyncio.run_coroutine_threadsafe`, which knows no limit: a task for each call."""
    loop = asyncio.get_running_loop()
    call: Callable[[int], Any] = function
    return await _call_from_threads(lambda index: asyncio.run_coroutine_threadsafe(call(index), loop), count)


async def _use(executor: Executor, function: Function, count: int) -> list[int]:
    def use() -> list[int]:
        futures: list[Future[Any]] = [executor.submit(function, index) for index in range(count)]
        return [future.result() for future in futures]

    return await asyncio.to_thread(use)


async def _aiopool_executor(isolation: Isolation, function: Function, count: int, concurrency: int) -> list[int]:
    from aiopool import Pool

    async with Pool(size=concurrency, queue_size=None, isolation=isolation) as pool:
        return await _use(pool.as_executor(), function, count)


@contender(AN_EXECUTOR, TASK)
async def executor_task(function: Function, count: int, concurrency: int) -> list[int]:
    """`pool.as_executor().submit` of a plain function, from one thread."""
    return await _aiopool_executor("task", function, count, concurrency)


@contender(AN_EXECUTOR, SCOPE)
async def executor_scope(function: Function, count: int, concurrency: int) -> list[int]:
    """The same in the fast lane."""
    return await _aiopool_executor("scope", function, count, concurrency)


@contender(AN_EXECUTOR, THREAD_POOL)
async def thread_pool(function: Function, count: int, concurrency: int) -> list[int]:
    """`ThreadPoolExecutor` of the same number of threads."""
    with ThreadPoolExecutor(concurrency) as executor:
        return await _use(executor, function, count)
