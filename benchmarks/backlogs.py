"""Contenders that take a job without waiting: what the probes of memory, latency and gaps need.

`add` queues behind everything, `add_urgent` ahead of it where the library can, and `wait_for` waits for
what `add` returned. Nothing here is on a clock that counts single microseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from benchmarks.contenders import GATHER, HAND, SCOPE, TASK, Isolation

Add = Callable[..., Any]
MakeBacklog = Callable[[int], AbstractAsyncContextManager["Backlog"]]


@dataclass(frozen=True, slots=True)
class Backlog:
    """How to add jobs to one contender."""

    add: Add
    add_urgent: Add
    wait_for: Callable[[Any], Any]


def _aiopool(isolation: Isolation) -> MakeBacklog:
    @asynccontextmanager
    async def open_pool(concurrency: int) -> AsyncIterator[Backlog]:
        from aiopool import Pool, Priority

        async with Pool(size=concurrency, queue_size=None, isolation=isolation) as pool:
            low = pool.with_options(priority=Priority.LOW)
            urgent = pool.with_options(priority=Priority.CRITICAL)
            yield Backlog(low.submit_nowait, urgent.submit_nowait, _itself)

    return open_pool


async def _itself(handle: Any) -> Any:
    return await handle


@asynccontextmanager
async def _hand(concurrency: int) -> AsyncIterator[Backlog]:
    queue: asyncio.PriorityQueue[Any] = asyncio.PriorityQueue()
    sequence = count()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        while True:
            _, _, future, function, arguments = await queue.get()
            try:
                future.set_result(await function(*arguments))
            except BaseException as exception:
                future.set_exception(exception)

    def put(priority: int, function: Any, arguments: tuple[Any, ...]) -> asyncio.Future[Any]:
        future = loop.create_future()
        queue.put_nowait((priority, next(sequence), future, function, arguments))
        return future

    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    yield Backlog(
        lambda function, *arguments: put(8, function, arguments),
        lambda function, *arguments: put(1, function, arguments),
        _itself,
    )
    for worker in workers:
        worker.cancel()


@asynccontextmanager
async def _task_semaphore(concurrency: int) -> AsyncIterator[Backlog]:
    semaphore = asyncio.Semaphore(concurrency)
    alive: set[asyncio.Task[Any]] = set()

    async def limited(function: Any, arguments: tuple[Any, ...]) -> Any:
        async with semaphore:
            return await function(*arguments)

    def add(function: Any, *arguments: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(limited(function, arguments))

    def add_urgent(function: Any, *arguments: Any) -> None:
        alive.add(add(function, *arguments))

    yield Backlog(add, add_urgent, _itself)


@asynccontextmanager
async def _aiojobs(concurrency: int) -> AsyncIterator[Backlog]:
    from aiojobs import Scheduler

    scheduler = Scheduler(limit=concurrency, pending_limit=0)

    def add(function: Any, *arguments: Any) -> Any:
        # `spawn` is a coroutine that never suspends while the line of pending jobs is unbounded.
        try:
            scheduler.spawn(function(*arguments)).send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("aiojobs suspended in spawn() although its line is unbounded")

    yield Backlog(add, add, lambda job: job.wait())


@asynccontextmanager
async def _asyncio_pool(concurrency: int) -> AsyncIterator[Backlog]:
    from asyncio_pool import AioPool

    pool = AioPool(size=concurrency)

    def add(function: Any, *arguments: Any) -> Any:
        return pool.spawn_n(function(*arguments))

    yield Backlog(add, add, _itself)


BACKLOGS: dict[str, MakeBacklog] = {
    TASK: _aiopool("task"),
    SCOPE: _aiopool("scope"),
    HAND: _hand,
    GATHER: _task_semaphore,
    "aiojobs": _aiojobs,
    "asyncio-pool": _asyncio_pool,
}
