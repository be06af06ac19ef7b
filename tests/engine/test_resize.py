"""Through every change of size, the limit you set is the number of jobs running."""

import asyncio
import random
import threading

import pytest
from helpers import assert_counters_balance, balanced, echo, nap, now, stubborn, virtual

from aiopool import Pool, Retry
from aiopool._runtime.runtime import Runtime
from aiopool.errors import SettingsError
from aiopool.events import PoolPaused, PoolResized, PoolResumed
from aiopool.settings import PoolSettings
from aiopool.testing import advance, explore, settle, wait_until


class Gauge:
    """How many of its jobs are inside, and were at most."""

    def __init__(self):
        self.inside = self.most = 0

    async def run(self, seconds=1.0):
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.inside -= 1


def workers(pool):
    return len(pool._state.supervisor.workers())


@virtual
async def test_workers_come_when_they_are_wanted(isolation):
    """A pool of any size opens without a worker, makes one for each job that finds none at rest, and uses it again."""
    async with Pool(1_000_000, isolation=isolation) as pool:
        tasks = len(asyncio.all_tasks())
        await settle()
        assert (workers(pool), len(asyncio.all_tasks())) == (0, tasks)
        assert (pool.statistics().size, pool.statistics().idle) == (1_000_000, 1_000_000)
        for _ in range(3):
            assert await pool.run(nap, 1, "alone") == "alone"
        assert workers(pool) == 1
        await pool.map(nap, [1] * 5).collect()
        await pool.map(nap, [1] * 5).collect()
        assert workers(pool) == 5
        pool.resize(2_000_000)
        await settle()
        assert workers(pool) == 5


@virtual
async def test_a_resize_does_nothing_for_each_worker(isolation):
    """`resize` itself lets no worker go; those beyond the new size go in later turns of the loop, some in each."""
    async with Pool(1000, isolation=isolation) as pool:
        await pool.map(nap, [1] * 1000).collect()
        assert workers(pool) == len(pool._state.supervisor.idle) == 1000
        pool.resize(3)
        assert len(pool._state.supervisor.idle) == 1000
        await asyncio.sleep(0)
        assert 3 < len(pool._state.supervisor.idle) < 1000
        pool.resize(10)
        assert await pool.run(echo, 1) == 1
        await settle()
        assert workers(pool) == len(pool._state.supervisor.idle) == 10
        pool.resize(0)
        await settle()
        assert workers(pool) == 0
        pool.resize(2)
        assert await pool.map(nap, [1] * 4).collect() == [None] * 4
        assert workers(pool) == 2


@virtual
async def test_a_size_that_no_machine_has_is_refused(isolation):
    """More than 10 million jobs at once are refused where they are written: by the pool, by `resize`, by settings."""
    Pool(10_000_000)
    with pytest.raises(ValueError, match="size must be at most 10_000_000"):
        Pool(10_000_001)
    async with Pool(1, isolation=isolation) as pool:
        for size in (10_000_001, 10**5000):
            with pytest.raises(ValueError, match="size must be at most 10_000_000"):
                pool.resize(size)
        assert pool.size == 1
    with pytest.raises(SettingsError, match="it must be at most 10000000"):
        PoolSettings(size=10_000_001)


@virtual
async def test_a_worker_that_foreign_code_cancels_before_its_first_step(isolation):
    """The job that it was made for, and those behind it, run all the same, and the limit holds."""
    gauge = Gauge()
    async with Pool(2, isolation=isolation) as pool:
        before = asyncio.all_tasks()
        jobs = [pool.submit_nowait(gauge.run) for _ in range(6)]
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - before:
            if "worker" in task.get_name():
                task.cancel()
        await asyncio.gather(*(job.wait() for job in jobs))
        assert gauge.most == 2
        assert_counters_balance(pool)
        assert pool.statistics().succeeded == 6


@virtual
async def test_a_worker_that_cannot_be_made_is_a_crash(isolation, monkeypatch):
    """If there is no memory for a worker, its job waits for the next one, as after a crash; it is counted as one."""
    failures, make = [MemoryError("no task"), RuntimeError("nor now")], Runtime.task

    def task(self, coroutine, name):
        if failures and "worker" in name:
            coroutine.close()
            raise failures.pop()
        return make(self, coroutine, name)

    monkeypatch.setattr(Runtime, "task", task)
    async with Pool(1, isolation=isolation) as pool:
        assert await pool.run(nap, 1, "late") == "late"
        assert (pool.statistics().restarts, failures) == (2, [])


@virtual
async def test_a_resize_and_a_pause_are_events(isolation):
    """Each is told once, with the sizes before and after; to set what is set already is none."""
    async with Pool(1, isolation=isolation) as pool:
        heard = []
        pool.listen(heard.append, PoolResized, PoolPaused, PoolResumed)
        for act in (lambda: pool.resize(3), lambda: pool.resize(3), pool.pause, pool.pause, pool.resume, pool.resume):
            act()
        assert [type(event) for event in heard] == [PoolResized, PoolPaused, PoolResumed]
        assert (heard[0].before, heard[0].size) == (1, 3)


@pytest.mark.loops("real")
async def test_a_limit_of_threads_of_its_own_stays(new_pool):
    """With `max_threads` a pool that grows has more slots, and not more threads."""
    release, inside, most = threading.Event(), [], []

    def work():
        inside.append(1)
        most.append(len(inside))
        release.wait(10)
        inside.pop()

    async with new_pool(size=1, max_threads=1) as pool:
        pool.resize(4)
        jobs = [await pool.submit(work) for _ in range(3)]
        await wait_until(lambda: inside)
        assert await pool.run(echo, "beside") == "beside"
        release.set()
        for job in jobs:
            await job
    assert max(most) == 1


@virtual
async def test_growing_is_used_at_once(isolation):
    """Jobs that wait start in the turn in which the pool grows."""
    gauge = Gauge()
    async with Pool(1, isolation=isolation) as pool:
        for _ in range(20):
            await pool.submit(gauge.run)
        await settle()
        assert gauge.inside == 1
        pool.resize(10)
        await settle()
        assert gauge.inside == 10
        assert pool.size == pool.statistics().size == 10
        assert now() == 0


@virtual
async def test_growing_lets_blocked_submitters_in(isolation):
    """More slots are more room; as many submitters get in as there are new slots."""
    gauge = Gauge()
    async with Pool(1, 0, isolation=isolation) as pool:
        waiting = [asyncio.create_task(pool.submit(gauge.run)) for _ in range(5)]
        await settle()
        assert (gauge.inside, pool.statistics().waiting) == (1, 4)
        pool.resize(3)
        await settle()
        assert (gauge.inside, pool.statistics().waiting) == (3, 2)
        await asyncio.gather(*waiting)


@virtual
async def test_shrinking_stops_nobody_and_starts_nobody(isolation):
    """What runs goes on; nothing starts until fewer run than the new size."""
    gauge, starts = Gauge(), []

    async def late():
        starts.append((now(), gauge.inside))
        await gauge.run(1)

    async with Pool(6, None, isolation=isolation) as pool:
        first = [await pool.submit(gauge.run, seconds) for seconds in (1, 2, 3, 4, 5, 6)]
        await settle()
        for _ in range(4):
            await pool.submit(late)
        pool.resize(2)
        await asyncio.gather(*first)
        assert all(job.status == "succeeded" for job in first)
        await pool.join()
    # Five of six have to end before the first may start.
    assert starts[0] == (5, 1)
    assert all(inside < 2 for _, inside in starts)


@virtual
async def test_size_zero_holds_and_more_goes_on(isolation):
    """Zero is a value: it holds the pool as a pause does; the same size is nothing; less is refused."""
    async with Pool(2, isolation=isolation) as pool:
        running = await pool.submit(nap, 1)
        await settle()
        pool.resize(0)
        waiting = await pool.submit(echo, "went on")
        await advance(5)
        assert running.done()
        assert waiting.status == "queued"
        pool.resize(0)
        pool.resize(2)
        assert await waiting == "went on"
        pool.resize(2)
        for wrong, error in ((-1, ValueError), (1.5, TypeError), ("3", TypeError), (True, TypeError)):
            with pytest.raises(error, match="size"):
                pool.resize(wrong)
        assert pool.size == 2


@virtual
async def test_leaving_a_pool_of_size_zero_finishes_its_work(isolation):
    """To leave is to finish; a size of zero or a pause does not make the end wait for ever."""
    async with Pool(2, isolation=isolation) as pool:
        pool.resize(0)
        job = await pool.submit(echo, 1)
    assert job.result() == 1
    async with Pool(2, isolation=isolation) as pool:
        pool.pause()
        pool.pause(group="mail")
        job = await pool.with_options(group="mail").submit(echo, 2)
    assert job.result() == 2


@virtual
async def test_shutdown_of_a_pool_of_size_zero_is_bounded(isolation):
    """A shutdown lets the queued jobs of a held pool run; with a limit it ends in time."""
    async with Pool(2, isolation=isolation) as pool:
        pool.resize(0)
        job = await pool.submit(echo, 1)
        report = await pool.shutdown()
        assert (report.succeeded, job.result()) == (1, 1)


@virtual
async def test_random_resizes_under_traffic(isolation):
    """No start while as many run as the size of that moment, and nothing is lost."""
    chance, gauge, wrong = random.Random(11), Gauge(), []
    # On 3.11 a job begins one turn after it was chosen. If the size has changed in between, the larger one counts.
    moment, allowed = 0.0, 4

    async def resize(size):
        nonlocal moment, allowed
        moment, allowed = now(), max(size, pool.size, allowed if moment == now() else 0)
        pool.resize(size)

    async def run(seconds):
        if gauge.inside >= (allowed if moment == now() else pool.size):
            wrong.append((now(), gauge.inside, pool.size))
        if not balanced(pool.statistics()):
            wrong.append(pool.statistics())
        await gauge.run(seconds)

    async with Pool(4, 10, isolation=isolation) as pool:
        jobs, tasks = [], []

        async def submit():
            jobs.append(await pool.submit(run, chance.choice([0, 0, 0.25, 0.5, 1])))

        for _ in range(1500):
            if chance.random() < 0.5:
                await resize(chance.randrange(1, 8))
            tasks.append(asyncio.create_task(submit()))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.choice([0.25, 0.5]))
        await asyncio.gather(*tasks)
        await pool.join()
        assert not wrong
        assert all(job.status == "succeeded" for job in jobs)
        await settle()
        assert 0 < workers(pool) <= pool.size
        assert pool.statistics().busy == 0


@virtual
async def test_resizing_ten_thousand_times_in_one_moment(isolation):
    """Resizes that nobody had time for leave no debt behind."""
    chance = random.Random(12)
    async with Pool(4, isolation=isolation) as pool:
        for _ in range(10_000):
            pool.resize(chance.randrange(9))
        pool.resize(3)
        gauge = Gauge()
        jobs = [await pool.submit(gauge.run) for _ in range(30)]
        await asyncio.gather(*jobs)
        assert gauge.most == 3
        assert workers(pool) == 3


@virtual
async def test_no_ghosts_and_none_missing(isolation):
    """Shrinking before the new workers took their first step, and growing before the old ones took their last."""
    async with Pool(1, isolation=isolation) as pool:
        pool.resize(50)
        pool.resize(1)
        await settle()
        assert workers(pool) == 0
        for size in (0, 4, 0, 4, 1, 4):
            pool.resize(size)
        gauge = Gauge()
        for _ in range(8):
            await pool.submit(gauge.run)
        await pool.join()
        assert gauge.most == workers(pool) == 4


@virtual
async def test_an_item_handed_to_a_worker_that_is_let_go(isolation):
    """A shrink in the turn in which a job was handed to an idle worker loses nothing."""
    for turns in range(6):
        async with Pool(3, isolation=isolation) as pool:
            await settle()
            jobs = [await pool.submit(nap, 1) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            pool.resize(1)
            await asyncio.gather(*jobs)
            assert pool.statistics().succeeded == 3


@virtual
async def test_a_job_may_resize_its_own_pool(isolation):
    """Resizing inside a job, down and up, waits for nobody."""

    async def resize(size):
        pool.resize(size)
        return pool.size

    async with Pool(2, isolation=isolation) as pool:
        for size in (1, 5, 2):
            assert await pool.run(resize, size) == size


@virtual
async def test_resizing_several_times_at_once(isolation):
    """Several that resize in one turn end at the last of their sizes, which is used in full."""
    async with Pool(2, isolation=isolation) as pool:
        for _ in range(10):
            await pool.submit(nap, 1)
        for size in (7, 3, 5):
            asyncio.get_running_loop().call_soon(pool.resize, size)
        await settle()
        assert pool.size == pool.statistics().busy == 5


@virtual
async def test_resizing_during_and_after_a_shutdown(isolation):
    """A pool that is closing may still be resized, so that it ends sooner; afterwards it does no harm."""
    gauge = Gauge()
    async with Pool(1, isolation=isolation) as pool:
        for _ in range(4):
            await pool.submit(gauge.run)
        closing = asyncio.create_task(pool.shutdown())
        await settle()
        pool.resize(4)
        report = await closing
        assert report.seconds == 1
        pool.resize(9)
        await settle()
        assert workers(pool) == 0


@virtual
async def test_workers_for_leaks_survive_a_resize(isolation):
    """With `on_leak="replace"` a resize does not take the workers that stand in for leaked jobs."""
    async with Pool(2, isolation=isolation, on_leak="replace", cancel_grace=1) as pool:
        leaked = [await pool.submit(stubborn) for _ in range(2)]
        await settle()
        for job in leaked:
            job.cancel()
        await advance(3)
        assert pool.statistics().leaked == 2
        for size in (2, 1, 2, 0, 2):
            pool.resize(size)
        gauge = Gauge()
        for job in [await pool.submit(gauge.run) for _ in range(4)]:
            await job
        assert gauge.most == 2
        await asyncio.sleep(4000)  # the leaked code ends after an hour
        assert (pool.statistics().leaked, workers(pool)) == (0, 2)


@virtual
async def test_a_leak_keeps_its_slot_through_a_resize(isolation):
    """A leaked job holds one of the new slots, too, until it really ends."""
    async with Pool(2, isolation=isolation, cancel_grace=1) as pool:
        leaked = await pool.submit(stubborn)
        await settle()
        leaked.cancel()
        await advance(3)
        pool.resize(3)
        gauge = Gauge()
        for job in [await pool.submit(gauge.run) for _ in range(6)]:
            await job
        assert gauge.most == 2
        await asyncio.sleep(4000)
        for job in [await pool.submit(gauge.run) for _ in range(6)]:
            await job
        assert gauge.most == 3


@virtual
async def test_a_worker_that_was_called_to_work_and_comes_too_late_ends(isolation):
    """Between the call and its first step the pool shrank, and another worker lay down."""
    short, long = asyncio.Event(), asyncio.Event()
    async with Pool(3, isolation=isolation) as pool:
        await pool.submit(short.wait)
        await pool.submit(long.wait)
        await settle()
        pool.submit_nowait(echo, 1)  # calls the third worker, in the next turn

        asyncio.get_running_loop().call_soon(pool.resize, 1)  # after the call, before the worker's step
        short.set()
        await settle()
        long.set()
        await pool.join()
        await settle()
        assert workers(pool) == pool.size


@virtual
async def test_cancelling_the_excess_takes_the_youngest(isolation):
    """`cancel_excess` cancels just as many as are too many, those that were started last; the others go on."""
    async with Pool(6, isolation=isolation) as pool:
        jobs = []
        for _ in range(6):
            jobs.append(await pool.submit(nap, 10))
            await asyncio.sleep(1)
        waiting = await pool.submit(nap, 1)
        jobs[5].cancel()  # on its way out: no other has to go for it
        pool.resize(2, cancel_excess=True)
        pool.resize(2, cancel_excess=True)
        await pool.resized()
        assert [job.done() for job in jobs] == [False, False, True, True, True, True]
        assert all(job.cancelled() for job in jobs[2:])
        assert (pool.statistics().busy, waiting.status, now()) == (2, "queued", 6)
        await pool.join()
        assert [job.status for job in (*jobs[:2], waiting)] == ["succeeded"] * 3


@virtual
async def test_cancelling_the_excess_spares_the_caller_and_those_that_wait(isolation):
    """A job that makes its own pool smaller goes on, and so does one that has lent its slot."""
    async with Pool(4, isolation=isolation) as pool:

        async def parent():
            return await (await pool.submit(nap, 5, "child"))

        async def shrink():
            await asyncio.sleep(1)
            pool.resize(1, cancel_excess=True)
            await pool.resized()
            return pool.statistics().busy

        outer = await pool.submit(parent)
        again = await pool.with_options(retry=Retry(attempts=3, on=Exception)).submit(nap, 50)
        await asyncio.sleep(0.5)
        inner = next(job for job in pool.jobs() if job.parent == outer.id)
        own = await pool.submit(shrink)
        assert await own <= 1
        assert again.cancelled()
        await outer.wait()
        # The child was younger than the other one, and both were too many.
        assert (inner.status, outer.status) == ("cancelled", "failed")


@virtual
async def test_resizing_without_cancelling_tells_when_it_has_come_down(isolation):
    """`resized()` returns at the very moment at which no more run than the size, for all who wait; each may leave."""
    async with Pool(4, None, isolation=isolation) as pool:
        for seconds in (1, 2, 3, 4, 1, 1, 1):
            await pool.submit(nap, seconds)
        await settle()
        await pool.resized()
        assert now() == 0
        pool.resize(2)
        left = asyncio.create_task(pool.resized())
        others = [asyncio.create_task(pool.resized()) for _ in range(3)]
        await asyncio.sleep(1)
        left.cancel()
        await asyncio.gather(*others)
        assert (now(), pool.statistics().busy, left.cancelled()) == (2, 2, True)
        pool.resize(1)
        growing = asyncio.create_task(pool.resized())
        await settle()
        assert not growing.done()
        pool.resize(8)  # what is asked for has changed
        await growing
        assert now() == 2


@virtual
async def test_waiting_for_the_size_ends_with_the_pool(isolation):
    """A job that leaks keeps its slot, and whoever waits for it is let go when the pool has closed."""
    async with Pool(2, isolation=isolation, cancel_grace=0.5) as pool:
        for _ in range(2):
            await pool.submit(stubborn)
        await settle()
        pool.resize(1, cancel_excess=True)
        waiting = asyncio.create_task(pool.resized())
        await advance(5)
        assert (waiting.done(), pool.statistics().leaked) == (False, 1)
        await pool.shutdown(timeout=0)
        await waiting
    await asyncio.sleep(4000)


@pytest.mark.loops("real")
async def test_cancelling_the_excess_of_threads(new_pool):
    """A thread cannot be stopped: its job ends at once, and its slot is free when its function has ended."""
    release = threading.Event()
    async with new_pool(size=2) as pool:
        jobs = [await pool.submit(release.wait, 30) for _ in range(2)]
        await wait_until(lambda: pool.statistics().threads_busy == 2)
        pool.resize(1, cancel_excess=True)
        await jobs[1].wait()
        assert (jobs[1].cancelled(), jobs[0].done(), pool.statistics().busy) == (True, False, 2)
        pool.resize(1, cancel_excess=True)
        await asyncio.sleep(0)
        assert not jobs[0].done()
        release.set()
        await pool.resized()
        assert pool.statistics().busy <= 1
        assert await jobs[0]


def test_cancelling_the_excess_under_many_schedules(isolation):
    """Whatever else happens, just the excess is cancelled, and nothing starts while as many run as the size allows."""

    async def scenario(chance):
        gauge, ended = Gauge(), []
        async with Pool(6, None, isolation=isolation) as pool:
            jobs = [pool.submit_nowait(gauge.run, chance.choice([0.25, 0.5, 1, 2])) for _ in range(30)]
            while pool.jobs():
                await asyncio.sleep(chance.choice([0, 0.25, 0.5]))
                size = chance.randrange(7)
                pool.resize(size, cancel_excess=chance.random() < 0.5)
                if chance.random() < 0.5:
                    await pool.resized()
                    assert pool.statistics().busy <= size
                    assert gauge.inside <= size
                    gauge.most = gauge.inside
                    await asyncio.sleep(chance.choice([0, 0.25]))
                    assert gauge.most <= size
                pool.resize(max(1, size))
                assert_counters_balance(pool)
            ended = [job.status for job in jobs]
        assert set(ended) <= {"succeeded", "cancelled"}

    explore(scenario, seeds=range(60))
