"""Many jobs: streams of results, groups, and jobs that hand in jobs."""

import asyncio
import itertools

import pytest

from aiopool import Pool
from aiopool.testing import run_virtual


async def double(number):
    await asyncio.sleep(1)
    return 2 * number


def test_map():
    """`map` applies a function to every item, as many at once as the pool allows; results in order."""

    async def main():
        async with Pool(size=5) as pool:
            assert await pool.map(double, range(10)).collect() == list(range(0, 20, 2))
            assert asyncio.get_running_loop().time() == 2

    run_virtual(main)


def test_map_is_lazy():
    """An endless source is no problem: items are taken as results are; leaving the block ends the rest."""

    async def main():
        async with Pool(size=2) as pool:
            async with pool.map(double, itertools.count()) as results:
                async for result in results:
                    if result >= 10:
                        break

    run_virtual(main)


def test_errors_as_results():
    """With `errors="yield"` a failure is a result like any other, beside its input."""

    async def inverse(number):
        return 1 / number

    async def main():
        async with Pool() as pool:
            results = await pool.map(inverse, [2, 0], errors="yield").collect()
            assert [(result.input, result.ok) for result in results] == [(2, True), (0, False)]
            assert isinstance(results[1].error, ZeroDivisionError)

    run_virtual(main)


def test_a_group_is_left_when_all_are_done():
    """A group is a block: it ends with its jobs, as `asyncio.TaskGroup` ends with its tasks."""

    async def main():
        async with Pool() as pool:
            async with pool.group("import") as group:
                jobs = [await group.submit(double, number) for number in range(3)]
            assert [job.result() for job in jobs] == [0, 2, 4]

    run_virtual(main)


def test_a_failure_ends_the_group():
    """The first failure cancels the other jobs and the body, and is raised in an `ExceptionGroup`."""

    async def broken():
        raise ValueError

    async def main():
        async with Pool() as pool:
            with pytest.raises(ExceptionGroup):
                async with pool.group() as group:
                    other = await group.submit(asyncio.sleep, 3600)
                    await group.submit(broken)
            assert other.cancelled()

    run_virtual(main)


def test_jobs_may_wait_for_jobs():
    """A job that waits for another one lends its slot meanwhile: even a pool of size 1 does not deadlock."""

    async def main():
        async with Pool(size=1) as pool:

            async def factorial(number):
                return 1 if number == 0 else number * await pool.run(factorial, number - 1)

            assert await pool.run(factorial, 20) == 2432902008176640000

    run_virtual(main)


def test_resize():
    """The size can change at any time; running jobs go on."""

    async def main():
        async with Pool(size=1) as pool:
            for _ in range(10):
                await pool.submit(asyncio.sleep, 1)
            pool.resize(10)
            await pool.join()
            assert asyncio.get_running_loop().time() == 1

    run_virtual(main)


def test_pause():
    """Inside the block no job starts; what runs goes on."""

    async def main():
        async with Pool() as pool:
            async with pool.paused():
                job = await pool.submit(double, 1)
                await asyncio.sleep(3600)
                assert (job.status, job.waiting_for) == ("queued", "pool paused")
            assert await job == 2

    run_virtual(main)


def test_the_numbers_add_up():
    """At every moment each job that was handed in is in exactly one place."""

    async def main():
        async with Pool(size=2) as pool:
            for _ in range(5):
                await pool.submit(double, 1)
            await asyncio.sleep(1.5)
            now = pool.statistics()
            assert (now.submitted, now.succeeded, now.running, now.queued) == (5, 2, 2, 1)

    run_virtual(main)
