"""Cancelling a job before it runs: in the queue, in its delay, in backoff, while its submitter waits for room."""

import asyncio
import contextlib

import pytest
from engine.cancel_support import at_rest, started, turns
from helpers import double, forever, now

from aiopool import (
    JobCancelledError,
    JobStatus,
    Pool,
    QueueFullError,
    Retry,
)
from aiopool.testing import DELAYS, advance, explore, settle

pytestmark = pytest.mark.both_isolations

virtual = pytest.mark.loops("virtual", long=("virtual-eager",))

both = pytest.mark.loops("virtual", "uvloop", long=("virtual-eager",))


@both
async def test_a_queued_job_is_gone_at_once(new_pool):
    """It ends in the call, leaves the count, makes room for the next submitter, and never starts."""
    ran = []

    async def record(n):
        ran.append(n)

    async with new_pool(size=1, queue_size=2) as pool:
        blocker = await pool.submit(forever)
        await started(blocker)
        first, second = await pool.submit(record, 1), await pool.submit(record, 2)
        blocked = asyncio.create_task(pool.submit(record, 3))
        await turns(2)
        assert pool.statistics().waiting == 1
        assert first.cancel("no need")
        assert first.status is JobStatus.CANCELLED
        assert pool.statistics().cancelled == 1
        third = await blocked
        assert pool.statistics().queued == 2
        assert second.cancel()
        blocker.cancel()
        await third
        with pytest.raises(JobCancelledError, match="no need"):
            await first
    assert ran == [3]


@both
async def test_a_thousand_cancelled_jobs_leave_room_for_a_thousand(new_pool):
    """What is cancelled does not fill the queue."""
    async with new_pool(size=1, queue_size=1000) as pool:
        blocker = await pool.submit(forever)
        await started(blocker)
        for _ in range(3):
            for job in [pool.submit_nowait(double, n) for n in range(1000)]:
                assert job.cancel()
        blocker.cancel()


@virtual
async def test_a_delayed_job_is_gone_at_once(new_pool):
    """A job that waits for its moment never starts, and its timer goes with it."""
    async with new_pool() as pool:
        job = await pool.with_options(delay=3600).submit(double, 1)
        assert job.cancel()
        assert job.done()
    assert now() == 0


@virtual
async def test_cancel_in_backoff(new_pool):
    """No further attempt; the attempts that were made are told."""
    starts = []

    async def fail():
        starts.append(now())
        raise OSError

    async with new_pool() as pool:
        retry = Retry(attempts=5, backoff="fixed", delay=10, jitter=0)
        job = await pool.with_options(retry=retry, id="a").submit(fail)
        await advance(15)
        assert (job.status, job.attempt, starts) == (JobStatus.SCHEDULED, 2, [0, 10])
        report = await pool.cancel("a")
        assert (report.was, report.status, bool(report)) == (JobStatus.SCHEDULED, JobStatus.CANCELLED, True)
        await advance(100)
        assert starts == [0, 10]
        outcome = job.outcome()
        assert (outcome.attempts, len(outcome.history)) == (2, 2)
        with pytest.raises(JobCancelledError):
            await job


@virtual
async def test_cancel_of_a_submitter_that_waits_for_room(new_pool):
    """Its job never enters; the next one in line gets the place, in order."""
    entered = []

    async def record(n):
        entered.append(n)

    async with new_pool(size=1, queue_size=1) as pool:
        release = asyncio.Event()
        await pool.submit(release.wait)
        await settle()
        await pool.submit(record, 0)
        waiting = [asyncio.create_task(pool.submit(record, n)) for n in (1, 2, 3)]
        await settle()
        waiting[0].cancel()
        await settle()
        assert waiting[0].cancelled()
        assert pool.statistics().waiting == 2
        release.set()
        await settle()
    assert entered == [0, 2, 3]
    assert pool.statistics().submitted == 4


@virtual
async def test_cancel_by_id_of_a_job_whose_submitter_waits_for_room(new_pool):
    """The submitter is told by an ordinary exception; the id is free again, and the others keep their order."""
    async with new_pool(size=1, queue_size=0) as pool:
        release = asyncio.Event()
        await pool.submit(release.wait)
        await settle()
        blocked = asyncio.create_task(pool.with_options(id="x").submit(double, 1))
        behind = asyncio.create_task(pool.submit(double, 2))
        await settle()
        await pool.cancel("x")
        await settle()
        with pytest.raises(JobCancelledError):
            await blocked
        assert pool.statistics().waiting == 1
        again = asyncio.create_task(pool.with_options(id="x").submit(double, 3))
        release.set()
        assert [await (await behind), await (await again)] == [4, 6]


def test_cancel_of_a_submitter_in_the_turn_in_which_it_gets_in(isolation, seeds):
    """Either the handle is returned, or the job is withdrawn; never an orphan, never a lost place."""
    seen = set()

    async def scenario(chance):
        started = []

        async def job(n):
            started.append(n)
            await asyncio.sleep(chance.choice(DELAYS))

        async with Pool(size=1, queue_size=chance.choice([0, 1]), isolation=isolation) as pool:
            for n in range(3):
                with contextlib.suppress(QueueFullError):
                    pool.submit_nowait(job, -n)
            tasks = [asyncio.create_task(pool.submit(job, n)) for n in range(1, 5)]
            for task in tasks:
                await asyncio.sleep(chance.choice(DELAYS))
                await turns(chance.randrange(4))
                if chance.random() < 0.5:
                    task.cancel()
            got = await asyncio.gather(*tasks, return_exceptions=True)
            for n, result in enumerate(got, 1):
                if isinstance(result, asyncio.CancelledError):
                    seen.add("withdrawn" if n not in started else "stopped")
                else:
                    seen.add("returned")
                    await result
                    assert n in started
            await pool.join()
            now = pool.statistics()
            assert now.waiting == now.queued == now.running == now.busy == 0
        await at_rest()

    explore(scenario, seeds=seeds(150))
    assert seen >= {"withdrawn", "returned"}


def test_cancel_between_the_queue_and_the_first_step(isolation, seeds):
    """At whatever turn the cancel comes, the function is either not entered or told; nobody is lost."""

    async def scenario(chance):
        entered, told = set(), set()

        async def job(n):
            entered.add(n)
            try:
                await asyncio.sleep(chance.choice(DELAYS))
            except asyncio.CancelledError:
                told.add(n)
                raise

        async with Pool(size=2, isolation=isolation) as pool:
            jobs = [await pool.submit(job, n) for n in range(6)]
            asked = set()
            for _ in range(4):
                await turns(chance.randrange(5))
                n = chance.randrange(6)
                was = jobs[n].status
                if jobs[n].cancel():
                    asked.add(n)
                    if was is JobStatus.QUEUED:
                        assert n not in entered
            await pool.join()
            for n, job_n in enumerate(jobs):
                if n in asked and job_n.cancelled():
                    assert n in told or n not in entered
                if n not in asked:
                    assert job_n.status is JobStatus.SUCCEEDED
            stats = pool.statistics()
            assert stats.busy == 0
            assert stats.succeeded + stats.cancelled == 6
        await at_rest()

    explore(scenario, seeds=seeds(200))
