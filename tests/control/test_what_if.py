"""What if the size were another: the paper is compared with a real pool in virtual time."""

import asyncio
import random

import pytest
from helpers import now, virtual

from aiopool import Pool
from aiopool._control.what_if import PastJob, guess


def test_by_hand():
    """Three jobs of two seconds that come together: one slot, two slots, as many as jobs."""
    jobs = [PastJob(0.0, 5, 2.0)] * 3
    one, two, three = (guess(jobs, size) for size in (1, 2, 3))
    assert (one.wait_p50, one.wait_p95, one.queue, one.busy) == (2.0, 4.0, 2, 1.0)
    assert (two.wait_p50, two.wait_p95, two.queue, two.busy) == (0.0, 2.0, 1, 0.75)
    assert (three.wait_p50, three.wait_p95, three.queue, three.busy) == (0.0, 0.0, 0, 1.0)
    assert guess(jobs, 300).busy == 0.01


def test_the_urgent_go_first():
    """By priority, among those that wait."""
    jobs = [PastJob(0.0, 5, 1.0), PastJob(0.1, 9, 1.0), PastJob(0.2, 1, 1.0)]
    assert guess(jobs, 1).wait_p95 == pytest.approx(1.9)


def test_nothing_takes_no_time():
    """Jobs without a duration, all at one moment."""
    assert guess([PastJob(7.0, 5, 0.0)], 4).busy == 0.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 3, 8])
def test_it_is_what_a_pool_does(seed, size):
    """The waits of a real pool, in virtual time, are those on the paper."""
    chance = random.Random(seed)
    jobs = []
    came = 0.0
    for _ in range(200):
        came += chance.expovariate(4.0)
        jobs.append(PastJob(came, chance.randrange(1, 4), chance.expovariate(1.5)))
    waits = []

    @virtual
    async def run():
        async def work(at, seconds):
            waits.append(now() - at)
            await asyncio.sleep(seconds)

        begin = now()
        async with Pool(size) as pool:
            for job in jobs:
                await asyncio.sleep(begin + job.came - now())
                await pool.with_options(priority=job.priority).submit(work, now(), job.seconds)

    run()
    waits.sort()
    found = guess(jobs, size)
    assert found.wait_p50 == pytest.approx(waits[100], abs=1e-6)
    assert found.wait_p95 == pytest.approx(waits[190], abs=1e-6)
