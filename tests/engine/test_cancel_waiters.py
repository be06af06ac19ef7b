"""Whoever waits for a job: giving up does not touch the job, and the cancel of the job does not cancel who waits."""

import asyncio

import anyio
import pytest
from engine.cancel_support import turns
from helpers import forever

from aiopool import (
    JobCancelledError,
)
from aiopool.testing import wait_until

pytestmark = pytest.mark.both_isolations

both = pytest.mark.loops("virtual", "uvloop", long=("virtual-eager",))


@both
async def test_of_waiters_that_have_given_up_nothing_stays(new_pool):
    """Two wait for a job and both give up: it keeps nothing of them, and its failure is everybody's again."""
    heard = []
    release = asyncio.Event()

    async def fails():
        await release.wait()
        raise KeyError("nobody waits")

    async with new_pool(on_error=lambda job, error: heard.append(error)) as pool:
        job = await pool.submit(fails)
        waiting = [asyncio.ensure_future(job.wait()) for _ in range(2)]
        await turns(2)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert job._waiters is None
        release.set()
        await wait_until(lambda: heard)
        assert heard == [job.exception()]


async def by_task(job):
    task = asyncio.create_task(job.wait())
    await turns(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_wait_for(job):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(job, 0.001)


async def by_timeout(job):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await job


async def by_move_on(job):
    with anyio.move_on_after(0.001) as scope:
        await job
    assert scope.cancelled_caught


async def by_shield(job):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(job), 0.001)


async def by_wait(job):
    assert await job.wait(0.001) is False
    assert await job.wait(0) is False


async def by_gather(job):
    waiting = asyncio.gather(job, job)
    await turns(2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


IMPATIENT = [by_task, by_wait_for, by_timeout, by_move_on, by_shield, by_wait, by_gather]


@both
@pytest.mark.parametrize("impatient", IMPATIENT, ids=lambda f: f.__name__)
@pytest.mark.parametrize("place", ["running", "queued"])
async def test_a_waiter_that_gives_up_does_not_touch_the_job(new_pool, impatient, place):
    """The job goes on, the other waiters get its value, and nothing of the first is left on it."""
    go = asyncio.Event()

    async def job():
        await go.wait()
        return go

    async with new_pool(size=1) as pool:
        if place == "queued":
            await pool.submit(go.wait)
        handle = await pool.submit(job)
        other = asyncio.ensure_future(handle)
        await turns(2)
        await impatient(handle)
        assert handle.status == place
        assert asyncio.current_task().cancelling() == 0
        go.set()
        assert await other is go
        assert await handle is go


@both
async def test_a_hundred_waiters_are_told_and_none_thinks_that_it_was_cancelled(new_pool):
    """Each gets JobCancelledError, and the same object; their own `cancelling()` stays 0."""

    async def waiter(job):
        try:
            await job
        except JobCancelledError as error:
            return error, asyncio.current_task().cancelling()

    async with new_pool() as pool:
        job = await pool.submit(forever)
        waiters = [asyncio.create_task(waiter(job)) for _ in range(100)]
        await turns(2)
        job.cancel("enough")
        told = await asyncio.gather(*waiters)
    assert {cancelling for _, cancelling in told} == {0}
    assert {id(error) for error, _ in told} == {id(job.exception())}


@both
async def test_the_cancel_of_a_job_does_not_end_a_task_group(new_pool):
    """In a TaskGroup it is a failure like any other, never a silent cancel."""
    async with new_pool() as pool:
        job = await pool.submit(forever)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(job.wait())
                waiting = group.create_task(_result_of(job))
                await turns(2)
                job.cancel()
        assert caught.group_contains(JobCancelledError)
        assert not waiting.cancelled()


async def _result_of(job):
    return await job


@both
async def test_cancelling_the_caller_of_run_cancels_the_job(new_pool):
    """`run` is submit and wait: the job has ended when the cancellation goes on, clean-up included."""
    steps = []

    async def job():
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await turns(3)
            steps.append("cleaned up")

    async def caller():
        try:
            await pool.run(job)
        except asyncio.CancelledError:
            steps.append("caller")
            raise

    async with new_pool() as pool:
        task = asyncio.create_task(caller())
        await wait_until(lambda: pool.statistics().running == 1)
        await turns(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert steps == ["cleaned up", "caller"]
        async with anyio.create_task_group() as group:
            group.start_soon(caller)
            await wait_until(lambda: pool.statistics().running == 1)
            await turns(2)
            group.cancel_scope.cancel()
        assert steps == ["cleaned up", "caller"] * 2
