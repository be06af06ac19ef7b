"""`pool.workers()`, `stop_worker` and `restart_worker`."""

import asyncio
import contextlib
import threading

import pytest
from helpers import double, forever

from aiopool import Pool, Retry
from aiopool.testing import advance, settle, wait_until

pytestmark = pytest.mark.both_isolations

virtual = pytest.mark.loops("virtual", long=("virtual-eager",))
both = pytest.mark.loops("virtual", "uvloop", long=("virtual-eager",))


def states(pool):
    return [str(worker.state) for worker in pool.workers()]


@virtual
async def test_each_state_is_told(new_pool):
    """Opening, idle, busy, stopping; with the job, and since when."""
    gate = asyncio.Event()

    @contextlib.asynccontextmanager
    async def slow():
        await asyncio.sleep(1)
        yield
        await asyncio.sleep(1)

    async with new_pool(1, worker_context=slow) as pool:
        assert pool.workers() == ()
        job = await pool.submit(gate.wait)
        await advance(0.5)
        assert states(pool) == ["opening"]
        await advance(1.0)
        [worker] = pool.workers()
        assert (worker.state, worker.job, worker.since) == ("busy", job, job.started_at)
        assert worker.started_at < worker.since
        gate.set()
        await job
        await settle()
        [worker] = pool.workers()
        assert (worker.state, worker.job, worker.since) == ("idle", None, worker.started_at)
        stop = asyncio.ensure_future(pool.restart_worker(worker.id))
        await advance(0.5)
        assert states(pool) == ["stopping"]
        assert await stop
        assert pool.workers() == ()


@both
async def test_nothing_is_counted_unless_it_is_asked_for(new_pool):
    """The counts are None, and the pool has no observer, which every job would pay for."""
    async with new_pool(1) as pool:
        await pool.run(double, 1)
        [worker] = pool.workers()
        assert (worker.done, worker.failed, worker.seconds, worker.mean) == (None, None, None, None)
        assert pool._state.engine.observers is None


@virtual
async def test_attempts_are_counted_at_the_worker_that_ran_them(new_pool):
    """Those that succeed, fail, are retried, time out, are cancelled; a job that never started is counted nowhere."""

    async def fail():
        await asyncio.sleep(1)
        raise ValueError

    async with new_pool(1, count_by_worker=True, on_error=lambda *_: None) as pool:
        await pool.submit(asyncio.sleep, 2)
        await pool.with_options(retry=Retry(attempts=2, delay=0, jitter=0)).submit(fail)
        await pool.with_options(timeout=1).submit(forever)
        told = await pool.submit(forever)
        gone = await pool.submit(double, 1)
        gone.cancel()
        await advance(6.0)
        assert told.status == "running"
        told.cancel()
        await settle()
        [worker] = pool.workers()
        assert (worker.done, worker.failed) == (5, 3)
        assert worker.seconds == pytest.approx(2 + 1 + 1 + 1 + 1)
        assert worker.mean == pytest.approx(worker.seconds / 5)


@virtual
async def test_counts_are_those_of_the_pool(new_pool):
    """All workers together have run what the pool says, while they live; a new opening begins anew."""
    pool = new_pool(3, count_by_worker=True)
    for _ in range(2):
        async with pool:
            await pool.map(asyncio.sleep, [1] * 20).collect()
            assert sum(worker.done for worker in pool.workers()) == pool.statistics().succeeded == 20


@virtual
async def test_stop_worker_waits_for_its_job_and_shrinks_the_pool(new_pool):
    """The others go on; whoever calls twice shrinks it once."""
    async with new_pool(3) as pool:
        jobs = [await pool.submit(asyncio.sleep, seconds) for seconds in (1, 2, 3)]
        await settle()
        first = pool.workers()[0]
        assert first.job is jobs[0]
        assert await asyncio.gather(pool.stop_worker(first.id), pool.stop_worker(first.id)) == [True, True]
        assert [job.done() for job in jobs] == [True, False, False]
        assert pool.size == 2
        assert first.id not in [worker.id for worker in pool.workers()]


@virtual
async def test_the_last_worker_holds_the_pool(new_pool):
    """As a size of 0 does: jobs wait until it grows again."""
    async with new_pool(1) as pool:
        await pool.run(asyncio.sleep, 0)
        assert await pool.stop_worker(pool.workers()[0].id)
        assert pool.size == 0
        job = await pool.submit(double, 1)
        await advance(1.0)
        assert job.status == "queued"
        pool.resize(1)
        assert await job == 2


@virtual
async def test_a_worker_that_is_restarted_keeps_its_place(new_pool):
    """The size stays; the next job has another worker; hard, its job is cancelled with a reason."""
    async with new_pool(1) as pool:
        job = await pool.submit(forever)
        await settle()
        [worker] = pool.workers()
        waits = await pool.submit(double, 1)
        assert await pool.restart_worker(worker.id, graceful=False)
        assert job.cancelled()
        with pytest.raises(Exception, match="its worker was restarted"):
            job.result()
        assert await waits == 2
        assert pool.size == 1
        assert [worker.id for worker in pool.workers()] != [worker.id]


@virtual
async def test_whoever_waits_may_be_cancelled(new_pool):
    """The worker ends all the same, after its job."""
    async with new_pool(1) as pool:
        job = await pool.submit(asyncio.sleep, 2)
        await settle()
        [worker] = pool.workers()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pool.restart_worker(worker.id)
        assert not job.done()
        await advance(1.5)
        assert pool.workers() == ()


@virtual
async def test_a_job_may_stop_its_own_worker(new_pool):
    """It cannot wait for its own end: the worker ends with it."""

    async def last(pool):
        [own] = [worker.id for worker in pool.workers() if worker.job is not None]
        assert await pool.restart_worker(own)
        return own

    async with new_pool(1) as pool:
        own = await pool.run(last, pool)
        await pool.run(asyncio.sleep, 0)
        assert own not in [worker.id for worker in pool.workers()]


@virtual
async def test_a_job_that_waits_for_another_worker_lends_its_slot(new_pool):
    """Two jobs, each of which stops the other's worker, do not wait for ever with a job between them."""

    async def stop_other(pool, id):
        return await pool.restart_worker(id)

    async with new_pool(1) as pool:
        first = await pool.submit(asyncio.sleep, 1)
        await settle()
        pool.resize(2)
        [worker] = pool.workers()
        assert await pool.run(stop_other, pool, worker.id)
        assert first.done()


@virtual
async def test_one_that_is_not_there_is_no_error(new_pool):
    """False: the worker has ended by itself, perhaps. What is no number is an error."""
    async with new_pool(1) as pool:
        assert not await pool.stop_worker(99)
        assert not await pool.restart_worker(99)
        assert pool.size == 1
        with pytest.raises(TypeError, match="number of a worker"):
            await pool.stop_worker("1")


@pytest.mark.loops("real", long=("eager",))
async def test_workers_may_be_read_from_any_thread(new_pool):
    """As `statistics()`; the calls that change something may not."""
    seen = []
    async with new_pool(2) as pool:
        await pool.submit(forever)
        await wait_until(lambda: pool.statistics().busy)
        thread = threading.Thread(target=lambda: seen.append(pool.workers()))
        thread.start()
        await wait_until(lambda: seen)
        thread.join()
        assert [str(worker.state) for worker in seen[0]] == ["busy"]
        await pool.cancel_all()


def test_a_new_pool_has_no_workers_to_tell(isolation):
    """It says how to open it."""
    with pytest.raises(RuntimeError, match="async with Pool"):
        Pool(isolation=isolation).workers()
