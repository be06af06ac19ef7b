"""One job at a time through an idle pool: whoever awaits it starts it, and nothing else of it is different."""

import asyncio
import contextvars
import sys
import threading

import pytest
from helpers import echo, fail

from aiopool import Pool, Priority

pytestmark = pytest.mark.both_isolations

who = contextvars.ContextVar("who", default="nobody")


def next_turn():
    """Return a list that is filled in the next turn of the loop."""
    turned = []
    asyncio.get_running_loop().call_soon(turned.append, True)
    return turned


def stack_depth():
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


@pytest.mark.parametrize("way", ["run", "await", "wait"])
async def test_a_job_that_never_suspends_takes_no_turn_of_the_loop(way, isolation):
    """An idle pool has the result in the awaiter's own step, however the job is awaited."""
    async with Pool(2, isolation=isolation) as pool:
        turned = next_turn()
        if way == "run":
            assert await pool.run(echo, 1) == 1
        else:
            job = await pool.submit(echo, 1)
            assert job.status == "queued"
            assert (await job if way == "await" else await job.wait()) == 1
        assert not turned


async def test_the_loop_turns_all_the_same(isolation):
    """One no-op after the other, each done at once, does not keep the loop from turning."""
    async with Pool(2, isolation=isolation) as pool:
        for _ in range(3):
            turned, count = next_turn(), 0
            while not turned:
                await pool.run(echo, 1)
                count += 1
                assert count < 1_000_000


async def test_a_job_that_suspends_begins_at_once(isolation):
    """It begins in the awaiter's step, and the awaiter waits for the rest of it."""
    async with Pool(2, isolation=isolation) as pool:
        turned, seen = next_turn(), []

        async def two_steps():
            seen.append(bool(turned))
            await asyncio.sleep(0)
            return bool(turned)

        assert await pool.run(two_steps)
        assert seen == [False]


async def test_the_job_does_not_see_the_step_it_begins_in(isolation):
    """It has its submitter's context as it was, its own task, and no exception that the awaiter handles."""
    async with Pool(2, isolation=isolation) as pool:

        async def look():
            return who.get(), asyncio.current_task() is awaiter, sys.exception()

        awaiter = asyncio.current_task()
        who.set("submitter")
        job = await pool.submit(look)
        who.set("awaiter")
        assert await job == ("submitter", False, None)
        assert asyncio.current_task() is awaiter
        try:
            raise LookupError
        except LookupError:
            assert (await pool.run(look))[2] is None


async def test_a_listener_does_not_see_the_awaiters_context(isolation):
    """What hooks see does not depend on who has started the job."""
    seen = []
    async with Pool(2, isolation=isolation) as pool:
        who.set("awaiter")
        job = await pool.submit(echo, 1)
        pool.listen(lambda event: seen.append(who.get()))
        await job
        assert seen == ["nobody"] * len(seen) != []


async def test_its_failure_is_the_awaiters(isolation):
    """Nobody else is told."""
    told = []
    async with Pool(2, on_error=lambda job, error: told.append(error), isolation=isolation) as pool:
        with pytest.raises(ValueError, match="mine"):
            await pool.run(fail, ValueError("mine"))
        with pytest.raises(ValueError, match="mine"):
            await (await pool.submit(fail, ValueError("mine")))
    assert told == []


async def test_a_better_job_goes_first(isolation):
    """Awaiting a job does not take it past a better one, nor past an equal that came before."""
    order = []

    async def note(name):
        order.append(name)

    async with Pool(1, isolation=isolation) as pool:
        low = await pool.with_options(priority=Priority.LOW).submit(note, "low")
        await pool.submit(note, "first")
        second = await pool.submit(note, "second")
        await pool.with_options(priority=Priority.HIGH).submit(note, "high")
        await low
        assert second.done()
    assert order == ["high", "first", "second", "low"]


async def test_cancelling_the_awaiter_of_run_cancels_the_job(isolation):
    """As ever, also when the awaiter's step began the job."""
    begun = asyncio.Event()

    async def forever():
        begun.set()
        await asyncio.Event().wait()

    async with Pool(1, isolation=isolation) as pool:
        caller = asyncio.create_task(pool.run(forever))
        await begun.wait()
        (job,) = pool.jobs()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert job.cancelled()


async def test_a_time_limit_of_the_awaiter_holds(isolation):
    """`asyncio.timeout` around the await ends it, and `run` takes the job along."""
    async with Pool(1, isolation=isolation) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pool.run(asyncio.Event().wait)
        assert pool.statistics().cancelled == 1


async def test_a_deep_awaiter_leaves_the_job_its_stack(isolation):
    """A job has as much of the stack as it has in a turn of its own."""

    async def down(levels):
        return await down(levels - 1) if levels else await pool.run(depth)

    async def depth():
        return stack_depth()

    async with Pool(1, isolation=isolation) as pool:
        here = stack_depth()
        assert await down(300) < here + 150


async def test_pools_that_await_each_others_jobs_do_not_use_up_the_stack(isolation):
    """Jobs of two pools call each other, deeper than the stack."""
    async with Pool(1000, isolation=isolation) as one, Pool(1000, isolation=isolation) as other:

        async def call(levels):
            pool = one if levels % 2 else other
            return await pool.run(call, levels - 1) if levels else "bottom"

        assert await one.run(call, 600) == "bottom"


async def test_a_loop_in_debug_mode(isolation):
    """It makes no difference."""
    asyncio.get_running_loop().set_debug(True)
    async with Pool(1, isolation=isolation) as pool:
        turned = next_turn()
        assert await pool.run(echo, 1) == 1
        assert not turned


async def test_a_foreign_loop_starts_nothing(isolation):
    """A handle that is awaited in the loop of another thread is refused by asyncio, and the job starts at home."""
    refused = []

    async def foreign(job):
        try:
            await job
        except RuntimeError as error:
            refused.append(str(error))

    async with Pool(1, isolation=isolation) as pool:
        job = await pool.submit(echo, 2)
        thread = threading.Thread(target=asyncio.run, args=(foreign(job),))
        thread.start()
        thread.join()  # our loop stands still meanwhile
        assert job.status == "queued"
        assert "different loop" in refused[0]
        assert await job == 2
