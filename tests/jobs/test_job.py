"""`Job`: what it says of itself, and what the code of a job may tell it."""

import asyncio
import copy
import functools
import inspect

import pytest
from helpers import double, echo, forever, nap, virtual

from aiopool import JobCancelledError, Pool, Retry, current_job, job
from aiopool._jobs.options import UNSET
from aiopool.errors import JobPendingError


@virtual
async def test_what_is_not_there_yet_is_an_error_that_says_what_to_write():
    """`result()`, `exception()` and `outcome()` of a job that runs."""
    async with Pool(1) as pool:
        running = await pool.submit(nap, 1)
        for ask in (running.result, running.exception, running.outcome):
            with pytest.raises(
                JobPendingError, match=r"it is not done\. Write `await job`, or ask job\.done\(\) first"
            ):
                ask()
        await running
        assert running.result() is None


@virtual
async def test_a_job_says_how_far_it_is():
    """The last that it said stands until it says more, and after its end."""
    async with Pool(1) as pool:

        async def work():
            await asyncio.sleep(1)
            current_job().report_progress(0.5, "half")
            await asyncio.sleep(1)
            current_job().report_progress(1.0)

        working = await pool.submit(work)
        assert working.progress is None
        await asyncio.sleep(1.5)
        assert working.progress == (0.5, "half")
        await working
        assert working.progress == (1.0, "")


@virtual
async def test_a_time_limit_that_comes_too_late_changes_nothing():
    """Given to a job that waits, that was told to stop, or that has ended."""
    async with Pool(1) as pool:
        first, waiting = await pool.submit(nap, 2), await pool.submit(nap, 2)
        waiting.set_timeout(0.5)
        first.cancel()
        first.set_timeout(0.1)
        await asyncio.wait([first])
        first.set_timeout(0.1)
        await waiting
        assert first.cancelled()


@virtual
async def test_to_wait_for_a_job_that_has_ended_takes_no_turn():
    """`job.wait()` returns, whatever became of the job."""
    async with Pool(1) as pool:
        ended = await pool.submit(forever)
        ended.cancel()
        with pytest.raises(JobCancelledError):
            await ended
        await ended.wait()


@virtual
async def test_an_attempt_that_is_tried_again_while_its_task_waits_for_a_job():
    """A task of the attempt waits for another job, and the attempt fails: the slot that was lent comes back."""
    async with Pool(1, retry=Retry(attempts=2, backoff=lambda attempt: 1.0)) as pool:
        waiters = []

        async def parent():
            if current_job().attempt == 1:
                child = await pool.submit(nap, 5, "child")
                waiters.append(asyncio.create_task(wait_for(child)))
                await asyncio.sleep(0.5)
                raise ValueError("the first attempt")
            return "second"

        async def wait_for(child):
            return await child

        assert await pool.run(parent) == "second"
        await asyncio.gather(*waiters)
        assert await pool.run(double, 1) == 2
        assert pool.statistics().busy == 0


def test_the_decorator_gives_options_and_leaves_the_function():
    """It is called and named as before."""

    def plain(value):
        return value

    assert job(priority=2, name="named")(plain) is plain
    assert plain(3) == 3


def test_what_was_not_given_says_so():
    """In the signatures of the docs; and a copy is the same."""
    assert repr(UNSET) == "UNSET"
    assert copy.deepcopy(UNSET) is UNSET
    assert inspect.signature(Pool.with_options).parameters["timeout"].default is UNSET


@virtual
async def test_an_awaitable_in_place_of_a_function_is_refused():
    """A future is no more a function than a coroutine is."""
    async with Pool(1) as pool:
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(
            TypeError, match=r"Write submit\(function, \.\.\.\) in place of submit\(function\(\.\.\.\)\)"
        ):
            await pool.submit(future)


@virtual
async def test_arguments_of_functions_that_do_not_tell_them():
    """Keywords go to a builtin without a signature, and to a function that takes any; options among them as well."""
    async with Pool(1) as pool:

        async def takes_all(**options):
            return options

        assert await pool.run(dict, timeout=5) == {"timeout": 5}
        assert await pool.run(takes_all, timeout=5, priority=1) == {"timeout": 5, "priority": 1}
        assert await pool.run(functools.partial(functools.partial(echo), 7)) == 7


@virtual
async def test_more_functions_than_are_remembered():
    """Each is called with its own name; what is forgotten is looked up again."""
    async with Pool(4) as pool:
        names = set()
        for n in range(3000):

            async def work():
                return current_job().name

            work.__qualname__ = f"work-{n}"
            names.add(await pool.run(work))
        assert names == {f"work-{n}" for n in range(3000)}
