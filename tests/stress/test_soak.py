"""The long run (`pytest -m soak`): a million jobs of all kinds, and as much memory afterwards as before.

`AIOPOOL_JOBS` sets another number.
"""

import asyncio
import gc
import logging
import os
import random
import resource

import pytest
from helpers import BOTH
from model import KINDS, World

from aiopool import Pool, Retry
from aiopool.testing import DELAYS, run_virtual, settle

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]

JOBS = int(os.environ.get("AIOPOOL_JOBS", "1000000"))
ROUNDS = 10
# Memory that the allocator takes and gives back by itself, between two readings.
NOISE = 2 * 1024 * 1024


def rss():
    """How much memory the process holds now, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def _quiet():
    logger = logging.getLogger("aiopool.job")
    before, logger.disabled = logger.disabled, True
    yield
    logger.disabled = before


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
@pytest.mark.parametrize("isolation", BOTH)
def test_a_million_jobs_leave_nothing(isolation):
    """20 % fail, 5 % are cancelled, some are retried, time out or suspend: memory is flat."""

    async def work(n):
        if n % 5 == 0:
            raise ValueError(n)
        if n % 3 == 0:
            await asyncio.sleep(0)
        return [n]

    async def main():
        chance, readings = random.Random(41), []
        async with Pool(20, 200, isolation=isolation, on_error=lambda job, error: None) as pool:
            retried = pool.with_options(retry=Retry(attempts=2, delay=0))
            limited = pool.with_options(timeout=0)
            grouped = pool.with_options(group="some", priority=3)
            for _ in range(ROUNDS):
                for n in range(JOBS // ROUNDS):
                    draw = chance.random()
                    view = pool if draw < 0.9 else retried if draw < 0.95 else limited if draw < 0.97 else grouped
                    job = await view.submit(work, n)
                    if draw < 0.05:
                        job.cancel()
                    if n % 50 == 0:
                        await asyncio.sleep(0)
                del job
                await pool.join()
                gc.collect()
                readings.append((len(gc.get_objects()), rss(), open_files()))
            numbers = pool.statistics()
            assert numbers.submitted >= JOBS - ROUNDS
            assert numbers.busy == numbers.queued == numbers.running == 0
        return readings

    readings = asyncio.run(main())
    objects, memory, files = zip(*readings, strict=True)
    # The first rounds warm up: caches, free lists, arenas.
    assert max(objects[2:]) - min(objects[2:]) < 100, objects
    assert memory[-1] - memory[2] < NOISE, memory
    assert len(set(files)) == 1, files


@pytest.mark.parametrize("isolation", BOTH)
def test_a_hundred_thousand_mixed_jobs(isolation):
    """A long life of one pool: everything at once, in virtual time, with the invariants at each rest."""
    rounds = max(1, JOBS // 4000)

    async def main():
        chance = random.Random(42)
        world = World(isolation=isolation, size=5, queue_size=50, listen=False)
        await world.open()
        for _ in range(rounds):
            for _ in range(400):
                retry = Retry(attempts=2, delay=chance.choice(DELAYS)) if chance.random() < 0.2 else None
                timeout = chance.choice([None, None, *DELAYS])
                record = world.record(chance.choice(KINDS), chance.choice(DELAYS))
                view = world.view(record, retry=retry, timeout=timeout, priority=chance.choice([1, 5, 8]))
                world.spawn(world.submit(record, view))
                if chance.random() < 0.1:
                    world.cancel(chance.choice(world.records))
                if chance.random() < 0.05:
                    await world.resize(chance.randrange(1, 9))
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.choice(DELAYS))
            await asyncio.sleep(30)
            await settle()
            world.check_at_rest()
            # What has ended is not looked at again: the world itself must not grow.
            world.records = [record for record in world.records if record.job is None or not record.job.done()]
            world.tasks = [task for task in world.tasks if not task.done()]
        await world.close()

    run_virtual(main, max_steps=10**9)


@pytest.mark.parametrize("isolation", BOTH)
def test_a_thousand_pools(isolation):
    """A thousand pools, opened, used and closed one after the other, leave no object, file or task."""

    async def main():
        counts = []
        for n in range(1000):
            async with Pool(3, isolation=isolation) as pool:
                for _ in range(3):
                    await pool.submit(asyncio.sleep, 0)
                if n % 2:
                    await pool.shutdown(timeout=0)
            del pool
            if n % 250 == 249:
                await asyncio.sleep(0)
                gc.collect()
                counts.append((len(gc.get_objects()), open_files(), len(asyncio.all_tasks())))
        assert counts[-1][1:] == counts[1][1:]
        assert counts[-1][0] - counts[1][0] < 50, counts

    asyncio.run(main())
