"""Cancelling a job that runs: who may, when, and what becomes of it.

Elsewhere: threads are in test_threads.py, a job that harms its worker in test_isolation.py, groups in test_groups.py.
"""

import asyncio
import contextlib
import threading

import anyio
import pytest
from engine.cancel_support import at_rest, started, turns
from helpers import double, forever, now

from aiopool import (
    JobCancelledError,
    JobStatus,
    JobTimeoutError,
    Pool,
    PoolClosedError,
    Retry,
    current_job,
)
from aiopool.testing import DELAYS, advance, explore, settle, wait_until

pytestmark = pytest.mark.both_isolations

virtual = pytest.mark.loops("virtual", long=("virtual-eager",))

both = pytest.mark.loops("virtual", "uvloop", long=("virtual-eager",))


# -- while it runs -----------------------------------------------------------------------------------------------------


@both
async def test_a_running_job_ends_at_its_await(new_pool):
    """`pool.cancel` returns when no line of it will run any more, and says what it met."""
    steps = []

    async def job():
        try:
            await forever()
        finally:
            steps.append("finally")

    async with new_pool() as pool:
        handle = await pool.submit(job)
        await started(handle)
        report = await pool.cancel(handle.id, reason="paid twice")
        assert steps == ["finally"]
        assert (report.was, report.status, report.leaked) == (JobStatus.RUNNING, JobStatus.CANCELLED, False)
        assert handle.outcome().reason == "paid twice"
        with pytest.raises(JobCancelledError, match="paid twice"):
            await handle


@both
async def test_a_cancel_that_loses_the_race_reports_success(new_pool):
    """A job that never suspends again, or that returns a value all the same, has succeeded."""

    async def job():
        assert current_job().cancel() is True
        return "done"

    async def stubborn():
        try:
            await forever()
        except asyncio.CancelledError:
            return "caught"

    async with new_pool() as pool:
        handle = await pool.submit(job)
        assert await handle == "done"
        assert handle.status is JobStatus.SUCCEEDED
        assert await pool.run(double, 1) == 2
        handle = await pool.submit(stubborn)
        await started(handle)
        report = await pool.cancel(handle.id)
        assert (report.status, bool(report)) == (JobStatus.SUCCEEDED, False)
        assert handle.result() == "caught"


def test_cancel_in_the_turn_in_which_the_last_await_resolves(isolation, seeds):
    """One outcome; the state, the result, the numbers and what cancel() said agree."""
    seen = set()

    async def scenario(chance):
        finished = []

        async def job():
            await gate
            finished.append(True)
            return "value"

        async with Pool(size=1, isolation=isolation) as pool:
            gate = asyncio.get_running_loop().create_future()
            handle = await pool.submit(job)
            await started(handle)
            first, second = (gate.set_result, None), (handle.cancel, "why")
            for action, argument in (first, second) if chance.random() < 0.5 else (second, first):
                action(argument) if not gate.done() else None
                await turns(chance.randrange(2))
            await handle.wait()
            seen.add(handle.status)
            if handle.status is JobStatus.SUCCEEDED:
                assert handle.result() == "value"
                assert finished == [True]
            else:
                assert handle.status is JobStatus.CANCELLED
                assert finished == []
            assert pool.statistics().succeeded + pool.statistics().cancelled == 1
            assert await pool.run(double, 2) == 4
        await at_rest()

    explore(scenario, seeds=seeds(100))
    assert JobStatus.CANCELLED in seen


@both
async def test_cancelling_twice_or_too_late_changes_nothing(new_pool):
    """False, no effect, and a final status never changes."""
    async with new_pool() as pool:
        done = await pool.submit(double, 1)
        await done
        assert done.cancel() is False
        assert done.status is JobStatus.SUCCEEDED
        running = await pool.submit(forever)
        await started(running)
        assert running.cancel("first") is True
        assert running.cancel("second") is False
        await running.wait()
        assert running.cancel("third") is False
        assert running.outcome().reason == "first"


@both
async def test_who_may_cancel(new_pool):
    """The job itself, another job, a done-callback, the error hook, a timer."""
    hooked = []
    pool = new_pool(size=3, on_error=lambda job, error: hooked.append(victims["hook"].cancel()))
    victims = {}

    async def suicide():
        current_job().cancel("by itself")
        await forever()

    async def cancel_another():
        return victims["job"].cancel()

    async def by_pool():
        return await pool.cancel(victims["pool"].id)

    async def fail():
        raise ValueError

    async with pool:
        with pytest.raises(JobCancelledError, match="by itself"):
            await pool.run(suicide)
        for name in ("job", "pool", "callback", "hook", "timer"):
            victims[name] = await pool.submit(forever)
            await turns(2)
            if name == "job":
                assert await pool.run(cancel_another)
            elif name == "pool":
                assert (await pool.run(by_pool)).status is JobStatus.CANCELLED
            elif name == "callback":
                job = await pool.submit(double, 1)
                job.add_done_callback(lambda _: victims["callback"].cancel())
            elif name == "hook":
                await pool.submit(fail)
            else:
                asyncio.get_running_loop().call_soon(victims["timer"].cancel)
            assert await victims[name].wait(5)
            assert victims[name].cancelled(), name
    assert hooked == [True]


def test_cancelling_without_a_loop(isolation):
    """After the program a done job says False; one that was cut off does not hang or crash the caller."""
    jobs = []

    async def main():
        async with Pool(isolation=isolation) as pool:
            jobs.append(await pool.submit(double, 1))

    asyncio.run(main())
    assert jobs[0].cancel() is False


@both
async def test_cancelling_by_an_id_that_is_unknown_done_or_used_again(new_pool):
    """It says that nothing was there, and keeps no cancel in store for a later job of that id."""
    async with new_pool() as pool:
        named = pool.with_options(id="a")
        for unknown in ("a", "never", 10**9, -1):
            report = await pool.cancel(unknown)
            assert (report.was, report.status, bool(report)) == (None, None, False)
        assert await named.run(double, 1) == 2
        assert not await pool.cancel("a")
        assert await named.run(double, 2) == 4
        first = await pool.submit(double, 3)
        await first
        assert not await pool.cancel(first.id)
        assert (await pool.submit(double, 4)).id != first.id


@virtual
async def test_a_cancel_is_never_retried(new_pool):
    """Not even if the retry says BaseException, and not if the clean-up fails with what it retries."""
    starts = []

    async def job(error):
        starts.append(1)
        try:
            await forever()
        finally:
            if error:
                raise error

    async def raises_it():
        starts.append(1)
        raise asyncio.CancelledError

    async with new_pool() as pool:
        often = pool.with_options(retry=Retry(attempts=5, on=BaseException, delay=1))
        for function, args, status in [
            (job, (None,), JobStatus.CANCELLED),
            (job, (OSError("clean-up"),), JobStatus.FAILED),
            (raises_it, (), JobStatus.CANCELLED),
        ]:
            starts.clear()
            handle = await often.submit(function, *args)
            await settle()
            handle.cancel()
            await advance(100)
            assert (handle.status, starts) == (status, [1])


@virtual
async def test_a_cancel_while_the_time_limit_ends_an_attempt_ends_the_job(new_pool):
    """An attempt that was told by its time limit would be tried again: a cancel that comes now must not be lost."""
    starts = []

    async def job():
        starts.append(now())
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.5)

    async with new_pool() as pool:
        retry = Retry(attempts=9, backoff="fixed", delay=1, jitter=0)
        handle = await pool.with_options(timeout=1, retry=retry).submit(job)
        await advance(1.25)
        assert handle.cancel("enough") is True
        assert handle.cancel("again") is False
        report = await pool.cancel(handle.id)
        assert now() == 1.5
        assert report.status is JobStatus.CANCELLED
        await advance(10)
        assert starts == [0]
        assert handle.outcome().reason == "enough"


@virtual
async def test_a_cancel_after_the_last_time_limit_leaves_the_job_timed_out(new_pool):
    """Without another attempt to come, the time limit was first: the job is timed out, and the cancel says False."""

    async def job():
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.5)

    async with new_pool() as pool:
        handle = await pool.with_options(timeout=1).submit(job)
        await advance(1.25)
        assert handle.cancel() is False
        await handle.wait()
        assert handle.status is JobStatus.TIMED_OUT
        with pytest.raises(JobTimeoutError):
            await handle


# -- two cancels at once -----------------------------------------------------------------------------------------------


def test_the_jobs_own_timeout_in_the_turn_in_which_it_is_cancelled(isolation, seeds):
    """Whichever comes out, it is contained; the worker takes the next job, and `cancelling()` is 0 there."""

    async def scenario(chance):
        async def job():
            for _ in range(3):
                try:
                    async with asyncio.timeout(0.25):
                        for _ in range(50):
                            await asyncio.sleep(chance.choice([0, 0, 0.25]))
                except TimeoutError:
                    if chance.random() < 0.5:
                        raise

        async def clean():
            return asyncio.current_task().cancelling()

        async with Pool(size=1, isolation=isolation) as pool:
            handle = await pool.with_options(timeout=chance.choice([None, 0.25, 0.5])).submit(job)
            await asyncio.sleep(0.25)
            await turns(chance.randrange(3))
            handle.cancel()
            await handle.wait()
            assert handle.done()
            assert await pool.run(clean) == 0
        assert asyncio.current_task().cancelling() == 0
        await at_rest()

    explore(scenario, seeds=seeds(150))


def test_a_native_cancel_and_the_pools_cancel_in_one_turn(isolation, seeds):
    """In both orders, neither is lost: the job ends, and so does its own scope."""

    async def scenario(chance):
        inner = {}

        async def job():
            inner["task"] = asyncio.current_task()
            with anyio.CancelScope() as scope:
                inner["scope"] = scope
                await forever()
            await forever()

        async with Pool(size=1, isolation=isolation) as pool:
            handle = await pool.submit(job)
            await wait_until(lambda: "scope" in inner)
            actions = [handle.cancel, inner["scope"].cancel]
            if chance.random() < 0.5:  # under `scope` it is the worker's: not when the job is gone
                actions.append(lambda: handle.done() or inner["task"].cancel())
            chance.shuffle(actions)
            for action in actions:
                action()
                await turns(chance.choice([0, 0, 1]))
            assert await handle.wait(10)
            assert handle.cancelled()
            assert await pool.run(double, 1) == 2
            assert pool.statistics().restarts == 0
        assert asyncio.current_task().cancelling() == 0
        await at_rest()

    explore(scenario, seeds=seeds(100))


# -- many --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
async def test_cancel_all_of_a_hundred_thousand(new_pool, count):
    """Each once; the pool stays open. (One loop will do; how long it takes is a benchmark's business.)"""
    async with new_pool(size=2, queue_size=None) as pool:
        running = [await pool.submit(forever) for _ in range(2)]
        await turns(2)
        jobs = [pool.submit_nowait(double, n) for n in range(count)]
        assert await pool.cancel_all("all") == count + 2
        assert all(job.cancelled() for job in (*running, *jobs))
        assert pool.statistics().queued == 0
        assert await pool.run(double, 1) == 2


@virtual
async def test_a_cancel_of_many_goes_on_when_its_caller_is_cancelled(new_pool):
    """What is done in slices is done to its end: nobody has to wait for it."""
    async with new_pool(size=1, queue_size=None) as pool:
        jobs = [await pool.submit(forever) for _ in range(1000)]
        await settle()
        cancelling = asyncio.create_task(pool.cancel_all())
        await turns(2)
        assert not jobs[-1].done() or not jobs[1].done()
        cancelling.cancel()
        await asyncio.wait([cancelling])
        await settle()
        assert cancelling.cancelled()
        assert all(job.cancelled() for job in jobs)


@both
async def test_cancel_all_starts_nothing(new_pool):
    """Also when a call that waits for a thread is among them: its worker does not begin the next in line."""
    hold, ran = threading.Event(), []

    async def record():
        ran.append(1)

    async with new_pool(size=2, max_threads=1) as pool:
        await started(
            await pool.submit(hold.wait), await pool.submit(hold.wait)
        )  # the second has a slot, and no thread
        queued = [await pool.submit(record) for _ in range(5)]
        cancelling = asyncio.create_task(pool.cancel_all())
        await turns(3)
        hold.set()
        await cancelling
        assert all(job.cancelled() for job in queued)
        assert ran == []


@virtual
async def test_cancel_all_inside_a_job_spares_the_job(new_pool):
    """The canceller goes on."""

    async def job():
        return await pool.cancel_all()

    async with new_pool(size=2) as pool:
        others = [await pool.submit(forever), await pool.with_options(delay=9).submit(forever)]
        assert await pool.run(job) == 2
        assert all(other.cancelled() for other in others)


def test_everything_at_once(isolation, seeds):
    """Jobs of all kinds, cancels at any turn; then the books are right and nothing spins."""

    async def swallow():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.5)

    async def shielded():
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0.5)

    async def nested():
        with anyio.move_on_after(0.25):
            await asyncio.sleep(0.5)
        async with asyncio.timeout(0.25):
            await asyncio.sleep(0.5)

    async def suicide():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async def group():
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.25))
            group.create_task(asyncio.sleep(0.5))

    kinds = [swallow, shielded, nested, suicide, group, forever, turns]

    async def scenario(chance):
        async with Pool(size=chance.randint(1, 3), queue_size=2, isolation=isolation, cancel_grace=0.5) as pool:
            jobs = []

            async def submitter():
                for _ in range(4):
                    kind = chance.choice(kinds)
                    options = pool.with_options(
                        timeout=chance.choice([None, 0.25, 0.5]),
                        total_timeout=chance.choice([None, None, 1]),
                        retry=chance.choice([None, Retry(attempts=2, delay=0.25, jitter=0)]),
                    )
                    with contextlib.suppress(JobCancelledError, PoolClosedError):
                        job = await options.submit(kind, *([3] if kind is turns else []))
                        job.add_done_callback(lambda job: None)
                        jobs.append(job)
                    await asyncio.sleep(chance.choice(DELAYS))

            tasks = [asyncio.create_task(submitter()) for _ in range(2)]
            for _ in range(6):
                await asyncio.sleep(chance.choice(DELAYS))
                await turns(chance.randrange(3))
                what = chance.random()
                if what < 0.6 and jobs:
                    chance.choice(jobs).cancel()
                elif what < 0.7:
                    await pool.cancel_all()
                elif what < 0.8:
                    chance.choice(tasks).cancel()
                now = pool.statistics()
                ended = now.succeeded + now.failed + now.timed_out + now.cancelled
                assert now.submitted == ended + now.queued + now.scheduled + now.running
                assert now.running <= now.size
            while not all(task.done() for task in tasks):
                await pool.cancel_all()
                await asyncio.sleep(0.25)
            await pool.cancel_all()
        assert all(job.done() for job in jobs)
        assert pool.statistics().busy == pool.statistics().leaked == 0
        assert asyncio.current_task().cancelling() == 0
        await at_rest()

    explore(scenario, seeds=seeds(150))


def test_foreign_code_that_cancels_everything_at_any_turn(isolation, seeds):
    """Also a job whose task has not taken its first step (3.11) ends, once, and gives its slot back."""

    async def scenario(chance):
        async with Pool(size=2, isolation=isolation) as pool:
            jobs = [await pool.submit(turns, 2) for _ in range(4)]
            await turns(chance.randrange(5))
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.wait_for(pool.join(), 10)
            assert all(job.done() for job in jobs)
            assert pool.statistics().busy == 0
            await asyncio.sleep(10)
            assert await pool.run(double, 1) == 2

    explore(scenario, seeds=seeds(100))
