"""Cancels that are not the pool's: of the code around it, of its workers, of everything."""

import asyncio
import contextlib

import anyio
import pytest
from engine.cancel_support import at_rest, started, turns
from helpers import double, forever, now

from aiopool import (
    JobCancelledError,
    JobStatus,
    Pool,
    PoolStatus,
    Retry,
    current_job,
)
from aiopool.testing import DELAYS, advance, explore, settle

pytestmark = pytest.mark.both_isolations

virtual = pytest.mark.loops("virtual", long=("virtual-eager",))

both = pytest.mark.loops("virtual", "uvloop", long=("virtual-eager",))


# -- a pool inside of something that is cancelled ----------------------------------------------------------------------


async def host_timeout(block):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await block()


async def host_move_on(block):
    with anyio.move_on_after(1) as scope:
        await block()
    assert scope.cancelled_caught


async def host_task(block):
    task = asyncio.create_task(block())
    asyncio.get_running_loop().call_later(1, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def host_task_group(block):
    async def fail():
        await asyncio.sleep(1)
        raise OSError

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(block())
            group.create_task(fail())
    assert caught.value.subgroup(OSError)
    assert len(caught.value.exceptions) == 1


async def host_anyio_group(block):
    async with anyio.create_task_group() as group:
        group.start_soon(block)
        await asyncio.sleep(1)
        group.cancel_scope.cancel()


HOSTS = [host_timeout, host_move_on, host_task, host_task_group, host_anyio_group]


async def in_body(pool):
    await forever()


async def in_submit(pool):
    while True:
        await pool.submit(forever)


async def in_run(pool):
    await pool.run(forever)


async def in_join(pool):
    await pool.join()


async def in_exit(pool):
    pass


async def in_shutdown(pool):
    await pool.shutdown()


async def in_map(pool):
    async with pool.map(asyncio.sleep, [1000, 1000]) as results:
        async for _ in results:
            pass


async def in_group(pool):
    async with pool.group() as group:
        await group.submit(forever)


PLACES = [in_body, in_submit, in_run, in_join, in_exit, in_shutdown, in_map, in_group]


@virtual
@pytest.mark.parametrize("host", HOSTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("place", PLACES, ids=lambda f: f.__name__)
async def test_a_pool_inside_of_what_is_cancelled(new_pool, host, place):
    """The cancel gets out and is counted off; jobs have their grace; nothing spins meanwhile."""
    cleaned_up = []
    pool = new_pool(size=2, queue_size=1)

    async def job():
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.5)
            cleaned_up.append(now())

    async def block():
        async with pool:
            handle = jobs.append(await pool.submit(job)) or jobs[0]
            await settle()
            assert handle.status is JobStatus.RUNNING
            await place(pool)

    async def without_pool():
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.5)

    async def inside(block):
        began = now()
        await host(block)
        return now() - began, asyncio.current_task().cancelling()

    jobs, steps = [], asyncio.get_running_loop().steps
    outcome = await asyncio.create_task(inside(block))
    assert asyncio.get_running_loop().steps - steps < 300, "it spins"
    assert cleaned_up == [1.5]
    # TaskGroup on 3.11 does not always count its own cancel off.
    assert outcome == await asyncio.create_task(inside(without_pool))
    assert pool.status is PoolStatus.CLOSED
    assert jobs[0].cancelled()
    assert pool.statistics().leaked == 0


@virtual
async def test_each_further_cancel_of_the_exit_makes_it_hurry(isolation):
    """The first ends the wait for the jobs, the second their grace; the exit is never left before its end."""
    pool = Pool(isolation=isolation, cancel_grace=100)

    async def stubborn():
        with anyio.CancelScope(shield=True):
            while not release:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1)

    async def block():
        async with pool:
            jobs.append(await pool.submit(stubborn))
            jobs.append(await pool.submit(forever))

    jobs, release = [], []
    task = asyncio.create_task(block())
    await advance(5)
    assert task.cancel()
    await advance(5)
    assert not task.done()
    assert [job.status for job in jobs] == ["running", "cancelled"]
    task.cancel()
    await settle()
    assert task.cancelled()
    assert now() == 10
    assert pool.status is PoolStatus.CLOSED
    assert jobs[0].leaked
    release.append(1)
    await advance(2)


@virtual
async def test_cancelling_shutdown_does_not_stop_it(new_pool):
    """Who gives up waiting for it changes nothing; a later caller gets the same report."""
    pool = new_pool()
    async with pool:
        job = await pool.submit(asyncio.sleep, 3)
        await settle()
        first = asyncio.create_task(pool.shutdown())
        await advance(1)
        first.cancel()
        with anyio.move_on_after(1):
            await pool.shutdown()
        report = await pool.shutdown()
        assert job.status is JobStatus.SUCCEEDED
        assert report is await pool.shutdown()
        assert now() == 3


# -- foreign cancels ---------------------------------------------------------------------------------------------------


def workers_of(tasks):
    return [task for task in tasks if task.get_name().startswith("pool-worker")]


def test_foreign_code_that_cancels_workers_loses_no_job(isolation, seeds):
    """A worker that somebody cancels is replaced; each job ends once, and all slots are there."""

    async def scenario(chance):
        ends = []

        async def job(n):
            try:
                await asyncio.sleep(chance.choice(DELAYS))
            finally:
                ends.append(n)

        mine = asyncio.all_tasks()
        async with Pool(size=2, isolation=isolation) as pool:
            jobs = [await pool.submit(job, n) for n in range(8)]
            for _ in range(2):
                await asyncio.sleep(chance.choice(DELAYS))
                await turns(chance.randrange(3))
                workers = sorted(workers_of(asyncio.all_tasks() - mine), key=asyncio.Task.get_name)
                if workers:
                    chance.choice(workers).cancel()
            await pool.join()
            assert all(job.done() for job in jobs)
            assert {job.status for job in jobs} <= {JobStatus.SUCCEEDED, JobStatus.CANCELLED}
            assert pool.statistics().busy == 0
            await asyncio.sleep(10)
            assert len(pool._state.supervisor.workers()) <= 2
            assert await pool.run(double, 1) == 2
        assert sorted(ends) == list(range(8))
        await at_rest()

    explore(scenario, seeds=seeds(100))


@virtual
async def test_a_worker_that_foreign_code_has_cancelled_begins_no_other_job(isolation):
    """Under `task` its job goes on, and the worker ends with it; the next job has another worker."""
    ran_on = []

    async def job():
        ran_on.append(current_job().worker_id)
        await asyncio.sleep(100)

    mine = asyncio.all_tasks()
    async with Pool(size=1, isolation=isolation) as pool:
        jobs = [await pool.submit(job) for _ in range(3)]
        await settle()
        [worker] = workers_of(asyncio.all_tasks() - mine)
        worker.cancel()
        await pool.join()
        assert jobs[0].status == ("cancelled" if isolation == "scope" else "succeeded")
        assert [job.status for job in jobs[1:]] == ["succeeded", "succeeded"]
    assert len(ran_on) == 3
    assert ran_on[0] not in ran_on[1:]


@virtual
async def test_foreign_code_that_cancels_everything_breaks_no_promise(new_pool):
    """`for task in all_tasks(): task.cancel()` in a handler: jobs end cancelled, then the pool works again."""
    async with new_pool(size=2) as pool:
        jobs = [await pool.submit(forever) for _ in range(4)]
        await settle()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await settle()
        assert [job.status for job in jobs[:2]] == ["cancelled", "cancelled"]
        await asyncio.sleep(10)
        assert [job.status for job in jobs[2:]] == ["running", "running"]
        await pool.cancel_all()
        assert await pool.run(double, 1) == 2


@both
async def test_foreign_code_that_cancels_the_task_of_a_job(new_pool):
    """The job is cancelled "by code outside of the pool", not tried again, and no worker is lost for it."""

    async def job():
        nonlocal task_of_job
        task_of_job = asyncio.current_task()
        await forever()

    task_of_job = None
    async with new_pool(size=1) as pool:
        handle = await pool.with_options(retry=Retry(attempts=3)).submit(job)
        await started(handle)
        task_of_job.cancel()
        with pytest.raises(JobCancelledError, match="by itself or by code outside"):
            await handle
        assert await pool.run(double, 1) == 2
