"""A pool with an `Adaptive`: it finds what a server can bear, and follows it."""

import asyncio
import logging

import pytest
from helpers import assert_counters_balance, echo, fail, nap, now, virtual
from upstream import Overload, Upstream

from aiopool import Pool, Retry
from aiopool.events import PoolResized
from aiopool.sizing import Adaptive
from aiopool.testing import DELAYS, explore, settle

pytestmark = pytest.mark.both_isolations


async def flood(pool, upstream, seconds):
    """Keep the pool busy for some seconds."""
    ends = now() + seconds

    def calls():
        while now() < ends:
            yield None

    async for _ in pool.map(upstream.call, calls(), ordered=False):
        pass


@pytest.mark.parametrize("capacity", [4, 10, 40])
def test_it_finds_what_the_server_can_bear(isolation, capacity):
    """At least 90 % of the calls of the best fixed size, in at most 1.5 times its time; from five seconds on."""

    @virtual(leaks=False)
    async def test():
        found = {}
        for name, size in (("best", capacity), ("own", Adaptive(1, 500))):
            upstream, begin = Upstream(capacity), now()
            async with Pool(size, isolation=isolation) as pool:
                await flood(pool, upstream, 25)
            found[name] = upstream.between(begin + 5, begin + 25)
        assert found["own"][0] >= 0.9 * found["best"][0]
        assert found["own"][1] <= 1.5 * found["best"][1]

    test()


@virtual(leaks=False)
async def test_it_follows_a_server_that_halves_and_recovers(isolation):
    """Two seconds, twenty times what a call takes, after the change the promise holds again."""
    upstream = Upstream(20)
    async with Pool(Adaptive(1, 500), isolation=isolation) as pool:
        flooding = asyncio.create_task(flood(pool, upstream, 60))
        await asyncio.sleep(20)
        upstream.capacity = 10
        await asyncio.sleep(20)
        upstream.capacity = 20
        upstream.let_in()
        await flooding
    for begin, end, capacity in ((22, 40, 10), (42, 60, 20)):
        rate, seconds = upstream.between(begin, end)
        assert rate >= 0.9 * capacity / 0.1
        assert seconds <= 1.5 * 0.1


@virtual(leaks=False)
async def test_a_server_that_becomes_slower_as_such_is_not_given_up(isolation):
    """Calls take three times as long, and it bears as many: the size comes back."""
    upstream = Upstream(20)
    async with Pool(Adaptive(1, 500), isolation=isolation) as pool:
        flooding = asyncio.create_task(flood(pool, upstream, 60))
        await asyncio.sleep(20)
        upstream.seconds = 0.3
        await flooding
    rate, seconds = upstream.between(35, 60)
    assert rate >= 0.9 * 20 / 0.3
    assert seconds <= 1.5 * 0.3


@virtual(leaks=False)
async def test_a_server_that_refuses(isolation):
    """What answers 429 in place of making callers wait is found by its errors; few calls meet one."""
    upstream = Upstream(10, refuse=True)
    async with Pool(Adaptive(1, 500), isolation=isolation, on_error=lambda job, error: None) as pool:
        view = pool.with_options(retry=Retry(attempts=5, on=Overload, delay=0.5))
        await flood(view, upstream, 30)
        assert pool.size < 20
    rate, _ = upstream.between(5, 30)
    assert rate >= 0.9 * 10 / 0.1
    assert upstream.refused < 0.1 * len(upstream.times)


@virtual
async def test_a_time_limit_is_an_overload(isolation):
    """A server that does not answer any more is met with fewer and fewer calls."""
    async with Pool(Adaptive(1, 64), isolation=isolation, timeout=1, on_error=lambda job, error: None) as pool:
        await pool.map(nap, [0.5] * 300).collect()
        before = pool.size
        for _ in range(500):
            await pool.submit(nap, 60)
        await pool.join()
        assert before >= 16
        assert pool.size < before / 2


@virtual
async def test_only_jobs_that_say_something_about_the_server_are_timed(isolation):
    """Not those that failed for other reasons, were cancelled, or have waited for jobs of the pool."""
    async with Pool(Adaptive(1, 64), isolation=isolation, on_error=lambda job, error: None) as pool:
        resized = []
        pool.listen(resized.append, PoolResized)

        async def parent():
            await (await pool.submit(nap, 1)).wait()

        for _ in range(8):  # their children are timed, and are too few for a window
            await pool.submit(parent)
        for _ in range(50):
            await pool.submit(fail, KeyError)
            (await pool.submit(nap, 5)).cancel()
        await pool.join()
        assert (resized, pool.size) == ([], 1)
        await pool.map(nap, [0.2] * 25).collect()
        assert pool.size == 2


@virtual
async def test_a_pool_at_rest_keeps_its_size_and_has_no_timer(isolation):
    """It neither grows where slots are free, nor forgets what it has found."""
    async with Pool(Adaptive(1, 64), isolation=isolation) as pool:
        await pool.map(nap, [0.2] * 200).collect()
        size = pool.size
        assert size > 4
        for _ in range(100):
            await pool.run(nap, 0.2)
        await settle()
        assert (pool.size, len(pool._state.engine.timers)) == (size, 0)


@virtual
async def test_a_size_set_by_hand_ends_it(isolation):
    """What was about to be decided comes to nothing; a new rule begins anew."""
    async with Pool(Adaptive(1, 64), isolation=isolation) as pool:
        job = None
        for _ in range(21):
            job = await pool.submit(nap, 0.2)
        job.add_done_callback(lambda _: pool.resize(7))
        await pool.join()
        await settle()
        await pool.map(nap, [0.2] * 100).collect()
        assert (pool.size, pool._state.engine.observers) == (7, None)
        pool.resize(Adaptive(2, 64))
        assert pool.size == 2
        await pool.map(nap, [0.2] * 100).collect()
        assert pool.size > 2


@virtual
async def test_a_predicate_that_fails_is_told_and_harms_nobody(isolation, caplog):
    """The error of the job reaches its awaiter; that of the predicate is logged."""

    def broken(error):
        raise ZeroDivisionError

    async with Pool(Adaptive(4, 64, on=broken), isolation=isolation) as pool:
        with caplog.at_level(logging.ERROR), pytest.raises(KeyError):
            await pool.run(fail, KeyError)
        assert "cannot say whether" in caplog.text
        assert await pool.run(echo, 1) == 1
        assert pool.size == 4


def test_under_many_schedules(isolation):
    """Whatever the server does, the size stays in its bounds, no more jobs start than it allows, nothing is lost."""

    async def scenario(chance):
        inside = 0
        upstream = Upstream(chance.randrange(1, 6), 0.1, refuse=chance.random() < 0.3, seed=chance.random())

        async def work():
            nonlocal inside
            assert inside < max(sizes[-2:])  # a job may begin a turn after it was chosen
            inside += 1
            try:
                await upstream.call()
            finally:
                inside -= 1

        async with Pool(Adaptive(1, 12), None, isolation=isolation, on_error=lambda job, error: None) as pool:
            sizes = [1]
            pool.listen(lambda event: sizes.append(event.size), PoolResized)
            jobs = []
            for _ in range(12):
                jobs += [await pool.submit(work) for _ in range(chance.randrange(15))]
                await asyncio.sleep(chance.choice(DELAYS))
                upstream.capacity = chance.randrange(1, 8)
                upstream.let_in()
                assert_counters_balance(pool)
            await pool.join()
            assert all(1 <= size <= 12 for size in sizes)
            assert all(job.status == "succeeded" or isinstance(job.exception(), Overload) for job in jobs)

    explore(scenario, seeds=range(40))
