"""Whoever waits for a job of a store hears of its end, in whatever way they wait, wherever it runs, however it ends."""

import asyncio
import contextlib

import pytest

from aiopool import Handlers
from aiopool.testing import wait_until

handlers = Handlers()
started: list[int] = []


@handlers.register("succeed")
async def succeed() -> int:
    return 1


@handlers.register("fail")
async def fail() -> None:
    raise KeyError("on purpose")


@handlers.register("cancel_itself")
async def cancel_itself() -> None:
    raise asyncio.CancelledError


async def _wait(pool, jobs):
    done, _ = await asyncio.wait(jobs)
    assert done == set(jobs)


async def _gather(pool, jobs):
    await asyncio.gather(*jobs, return_exceptions=True)


async def _as_completed_of_asyncio(pool, jobs):
    for end in asyncio.as_completed(jobs):
        await asyncio.gather(end, return_exceptions=True)


async def _as_completed(pool, jobs):
    assert {job async for job in pool.as_completed(jobs)} == set(jobs)


async def _callback(pool, jobs):
    heard, all_heard = [], asyncio.Event()

    def hear(job):
        heard.append(job)
        if len(heard) == len(jobs):
            all_heard.set()

    for job in jobs:
        job.add_done_callback(hear)
    await all_heard.wait()


async def _job_wait(pool, jobs):
    for job in jobs:
        assert await job.wait()


WAYS = [_wait, _gather, _as_completed_of_asyncio, _as_completed, _callback, _job_wait]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("place", ["here", "elsewhere"])
async def test_who_waits_hears_of_the_end(new_pool, place, way):
    """Jobs that succeed, that fail, and that end as cancelled: all ends are heard of."""
    roles = {"here": ["both"], "elsewhere": ["producer", "worker"]}[place]
    async with contextlib.AsyncExitStack() as stack:
        pool, *_ = [await stack.enter_async_context(new_pool(handlers, role=role)) for role in roles]
        jobs = [await pool.submit(function) for function in (succeed, fail, cancel_itself, fail)]
        await asyncio.wait_for(way(pool, jobs), 30)
        assert [job.status.value for job in jobs] == ["succeeded", "failed", "cancelled", "failed"]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
async def test_who_comes_late_hears_of_the_end(new_pool, way):
    """The jobs had ended before anybody waited."""
    async with new_pool(handlers) as pool:
        jobs = [await pool.submit(function) for function in (succeed, fail, cancel_itself)]
        await pool.join()
        await asyncio.wait_for(way(pool, jobs), 30)
        assert [job.status.value for job in jobs] == ["succeeded", "failed", "cancelled"]


async def test_a_future_of_another_thread_hears_of_a_failure(new_pool):
    """`from_thread` has its own way of waiting."""
    async with new_pool(handlers) as pool:
        future = await asyncio.to_thread(pool.from_thread.submit, fail)
        error = await asyncio.wait_for(asyncio.to_thread(future.exception, 30), 40)
        assert isinstance(error, KeyError)


@handlers.register("hold")
async def hold() -> None:
    started.append(1)
    await asyncio.sleep(3600)


@pytest.mark.parametrize("by", ["itself", "another"])
async def test_a_pool_that_closes_hears_that_its_jobs_are_cancelled(new_pool, by):
    """Leaving the block waits for what runs: so it goes on listening."""
    started.clear()
    async with asyncio.timeout(60), new_pool(handlers, role="producer") as other:
        async with new_pool(handlers, size=2, role="worker") as worker:
            jobs = [await other.submit(hold) for _ in range(3)]
            await wait_until(lambda: len(started) == 2)
            if by == "itself":
                await worker.fleet.cancel_all()
            else:
                cancelling = asyncio.create_task(_cancel_when_it_closes(worker, other))
        if by == "another":
            await cancelling
        await asyncio.wait(jobs[:2])
        assert [job.status.value for job in jobs[:2]] == ["cancelled", "cancelled"]


async def _cancel_when_it_closes(worker, other):
    await wait_until(lambda: worker.status == "closing")
    await other.fleet.cancel_all()
