"""A pool with an `Autoscale`: as many slots as its jobs need, and no more for longer than they do."""

import asyncio
import threading

import pytest
from helpers import assert_counters_balance, echo, nap, now, virtual

from aiopool import Limit, Pool, Retry
from aiopool.events import PoolResized
from aiopool.sizing import Autoscale
from aiopool.testing import DELAYS, advance, explore, settle, wait_until

pytestmark = pytest.mark.both_isolations


def timers(pool):
    return len(pool._state.engine.timers)


@virtual
async def test_it_grows_for_those_that_wait_and_shrinks_when_they_are_gone(isolation):
    """All that wait get a slot after `target_wait`; after `idle_timeout` they go, and it is at rest."""
    async with Pool(Autoscale(2, 30, target_wait=0.5, idle_timeout=8), isolation=isolation) as pool:
        resized = []
        pool.listen(lambda event: resized.append((now(), event.before, event.size)), PoolResized)
        assert (pool.size, timers(pool)) == (2, 0)
        jobs = [await pool.submit(nap, 4) for _ in range(20)]
        await pool.join()
        assert [job.started_at for job in jobs] == [0] * 2 + [0.5] * 18
        assert (now(), pool.statistics().size) == (4.5, 20)
        await asyncio.sleep(20)
        assert (resized[0], resized[-1][2]) == ((0.5, 2, 20), 2)
        assert 4.5 + 8 <= resized[-1][0] <= 4.5 + 8 + 2
        assert (pool.size, timers(pool)) == (2, 0)


@virtual
async def test_it_does_not_grow_where_nobody_waits_too_long(isolation):
    """A burst that is through in time needs no more slots; nor does a load that the slots can bear."""
    async with Pool(Autoscale(2, 30, target_wait=1), isolation=isolation) as pool:
        await pool.map(nap, [0.05] * 30).collect()
        for _ in range(100):
            await pool.submit(nap, 0.19)
            await asyncio.sleep(0.1)
        assert pool.size == 2


@virtual
async def test_it_does_not_flap(isolation):
    """A load that comes again within `idle_timeout` finds its slots: they are made once, and stay."""
    async with Pool(Autoscale(1, 50, target_wait=0.25, idle_timeout=20), isolation=isolation) as pool:
        resized = []
        pool.listen(resized.append, PoolResized)
        waits = []
        for _ in range(30):
            jobs = [await pool.submit(nap, 2) for _ in range(10)]
            await pool.join()
            waits.append(max(job.started_at - job.submitted_at for job in jobs))
            await asyncio.sleep(10)
        assert [(event.before, event.size) for event in resized] == [(1, 10)]
        assert waits == [0.25] + [0] * 29


@virtual
async def test_never_beyond_the_largest_size(isolation):
    """At that it waits for nothing any more: a line that stays has no timer."""
    async with Pool(Autoscale(1, 3, target_wait=0.25, idle_timeout=float("inf")), None, isolation=isolation) as pool:
        for _ in range(20):
            await pool.submit(nap, 10)
        await advance(1)
        assert (pool.size, pool.statistics().running, timers(pool)) == (3, 3, 0)


@virtual
async def test_no_time_to_wait_is_a_slot_for_each(isolation):
    """`target_wait=0` grows in the next turns of the loop."""
    async with Pool(Autoscale(1, 100, target_wait=0), isolation=isolation) as pool:
        jobs = [await pool.submit(nap, 5) for _ in range(12)]
        await pool.join()
        assert {job.started_at for job in jobs} == {0}


@virtual
async def test_those_that_wait_for_room_count_too(isolation):
    """With a queue of no places the line is in `submit`."""
    async with Pool(Autoscale(1, 100, target_wait=0.5), 0, isolation=isolation) as pool:
        tasks = [asyncio.create_task(pool.submit(nap, 60)) for _ in range(6)]
        await asyncio.gather(*tasks)
        assert (now(), pool.size) == (0.5, 6)


@virtual
async def test_a_job_that_comes_back_counts_too(isolation):
    """By a retry, a delay, a limit or a group: it is in line, although nobody has submitted it just now."""
    tries = []

    async def again():
        tries.append(now())
        if len(tries) == 1:
            raise ValueError
        return "done"

    for how in ("retry", "delay", "group", "limit"):
        limits = {"one": Limit(max_at_once=1)}
        async with Pool(Autoscale(1, 9, target_wait=0.5), isolation=isolation, limits=limits) as pool:
            view = pool.with_options(retry=Retry(attempts=2, delay=1, jitter=0)) if how == "retry" else pool
            if how == "delay":
                view = pool.with_options(delay=1)
            elif how == "group":
                view = pool.with_options(group="held")
                pool.pause(group="held")
            tries[:] = [] if how == "retry" else [0]
            if how == "limit":
                first = await pool.with_options(key="one").submit(nap, 2)
                view = pool.with_options(key="one")
                await settle()
                job = await view.submit(again)
                pool.resize(2)
                await settle()
                pool.resize(Autoscale(1, 2, target_wait=0.5))
                await pool.submit(nap, 100)
                await first
                assert await job == "done"
                continue
            job = await view.submit(again)
            await settle()
            long = await pool.submit(nap, 100)
            await advance(0.9)
            if how == "group":
                assert pool.size == 1  # more slots would not help
                pool.resume(group="held")
            begin = now()
            assert await job == "done"
            assert now() - begin < 1
            assert pool.size == 2
            long.cancel()


@virtual
async def test_a_paused_pool_does_not_grow(isolation):
    """More slots would not help; when it goes on, the time counts anew."""
    async with Pool(Autoscale(1, 9, target_wait=0.5), isolation=isolation) as pool:
        async with pool.paused():
            jobs = [await pool.submit(nap, 5) for _ in range(4)]
            await advance(10)
            assert (pool.size, timers(pool)) == (1, 0)
        await pool.join()
        assert [job.started_at for job in jobs] == [10] + [10.5] * 3


@virtual
async def test_a_size_set_by_hand_ends_it_and_a_rule_begins_it(isolation):
    """The number that somebody sets stays; a rule takes over from the size that there is, within its bounds."""
    async with Pool(Autoscale(1, 9, target_wait=0.5, idle_timeout=4), isolation=isolation) as pool:
        for _ in range(4):
            await pool.submit(nap, 5)
        await advance(1)
        assert pool.size == 4
        pool.resize(2)
        await pool.submit(nap, 50)
        await advance(100)
        assert (pool.size, timers(pool), pool._state.engine.observers) == (2, 0, None)
        pool.resize(Autoscale(3, 5, target_wait=0.5, idle_timeout=4))
        assert pool.size == 3
        for _ in range(9):
            await pool.submit(nap, 5)
        await advance(1)
        assert pool.size == 5
        pool.resize(Autoscale(1, 2))
        assert pool.size == 2
        await pool.join()
        pool.resize(0)
        waiting = await pool.submit(echo)
        await advance(5)
        assert waiting.status == "queued"
        pool.resize(1)


@virtual
async def test_a_pool_that_opens_again_begins_anew(isolation):
    """With the least size, and nothing is left of the first time."""
    pool = Pool(Autoscale(1, 9, target_wait=0.5), isolation=isolation)
    assert pool.size == 1
    for _ in range(2):
        async with pool:
            assert pool.size == 1
            jobs = [await pool.submit(nap, 5) for _ in range(3)]
            await pool.join()
            assert [job.started_at - job.submitted_at for job in jobs] == [0, 0.5, 0.5]


@virtual
async def test_a_pool_that_is_left_grows_to_finish(isolation):
    """And no timer is left of it."""
    async with Pool(Autoscale(1, 9, target_wait=0.5), isolation=isolation) as pool:
        for _ in range(9):
            await pool.submit(nap, 5)
    assert now() == 5.5


@virtual
async def test_nested_jobs_and_maps(isolation):
    """A job that waits for others lends its slot as ever; a map reads as far ahead as the size of the moment asks."""

    async def parent(depth):
        return 0 if not depth else 1 + await pool.run(parent, depth - 1)

    async with Pool(Autoscale(1, 20, target_wait=0.5), isolation=isolation) as pool:
        assert await pool.run(parent, 30) == 30
        begin = now()
        assert await pool.map(nap, [1] * 200).collect() == [None] * 200
        assert pool.size == 20
        assert now() - begin < 25


@pytest.mark.loops("real")
async def test_threads_follow_the_size(new_pool):
    """As many plain functions run at once as the size has come to."""
    release = threading.Event()
    async with new_pool(size=Autoscale(1, 4, target_wait=0.01)) as pool:
        jobs = [await pool.submit(release.wait, 30) for _ in range(4)]
        await wait_until(lambda: pool.statistics().threads_busy == 4)
        release.set()
        assert all([await job for job in jobs])


def test_under_many_schedules(isolation):
    """However jobs come and go: the size stays in its bounds, nobody waits for long, and it comes to rest."""

    async def scenario(chance):
        inside = most = 0

        async def work(seconds):
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            assert inside <= 12
            try:
                await asyncio.sleep(seconds)
            finally:
                inside -= 1

        rule = Autoscale(2, 12, target_wait=0.5, idle_timeout=4)
        async with Pool(rule, None, isolation=isolation) as pool:
            sizes = []
            pool.listen(lambda event: sizes.append(event.size), PoolResized)
            jobs = []
            for _ in range(chance.randrange(5, 40)):
                jobs += [await pool.submit(work, chance.choice(DELAYS)) for _ in range(chance.randrange(4))]
                await asyncio.sleep(chance.choice(DELAYS))
            assert_counters_balance(pool)
            await pool.join()
            assert all(2 <= size <= 12 for size in sizes)
            # As many as run at once at most: 12 are never needed twice in the time of one wait.
            if max(sizes, default=2) < 12:
                assert max((job.started_at - job.submitted_at for job in jobs), default=0) <= 1.5
            await asyncio.sleep(10)
            assert (pool.size, timers(pool)) == (2, 0)

    explore(scenario, seeds=range(60))
