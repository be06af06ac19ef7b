"""One job at a time through an idle pool: whoever awaits it starts it, and nothing else of it is different."""

import asyncio
import contextvars
import math
import sys
import threading

import anyio
import pytest
from helpers import echo, fail

from aiopool import Pool, Priority
from aiopool._engine.engine import INLINE_FRAMES

pytestmark = pytest.mark.both_isolations

real = pytest.mark.loops("real")

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


# -- where it could differ -----------------------------------------------------------------------------------------


@real
async def test_every_loop(isolation):
    """On asyncio's loop, with an eager task factory and on uvloop: no turn for a no-op, a job in another task."""

    async def two_steps():
        begun_in = asyncio.current_task()
        await asyncio.sleep(0)
        return begun_in is asyncio.current_task() is not awaiter

    awaiter = asyncio.current_task()
    async with Pool(1, isolation=isolation) as pool:
        turned = next_turn()
        assert await pool.run(echo, 1) == 1
        assert not turned
        assert await pool.run(two_steps)
        assert asyncio.current_task() is awaiter


@real
async def test_a_plain_function_is_in_its_thread_at_once(isolation):
    """The awaiter's step hands it over; its result comes back by the loop."""
    loop_thread = threading.get_ident()
    async with Pool(1, isolation=isolation) as pool:
        turned, begun = next_turn(), threading.Event()

        def look():
            begun.set()
            return threading.get_ident()

        job = await pool.submit(look)
        waiting = job.__await__()
        waiting.send(None)  # the awaiter's step, to where it suspends
        assert begun.wait(10)
        assert not turned
        waiting.close()
        assert await job != loop_thread


async def test_a_caller_that_lends_its_slot_does_not_start_the_job(isolation):
    """A job that awaits its child lends its slot; the child starts in the next turn, within the limit."""

    async def child():
        return bool(turned)

    async def parent():
        return bool(turned), await pool.run(child)

    async with Pool(1, isolation=isolation) as pool:
        turned = next_turn()
        assert await pool.run(parent) == (False, True)
        assert pool.statistics().busy == 0


@pytest.mark.parametrize("where", ["before", "in", "after"])
async def test_a_cancel_of_the_awaiter_around_the_first_step(isolation, where):
    """Before the awaiter's first step there is no job; from the job's first step on, the job is told."""
    seen = []

    async def job():
        seen.append("begun")
        if where == "in":
            caller.cancel()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("told")
            raise

    async with Pool(1, isolation=isolation) as pool:
        caller = asyncio.create_task(pool.run(job))
        if where == "before":
            caller.cancel()
        elif where == "after":
            await asyncio.sleep(0)
            assert seen == ["begun"]
            caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert seen == ([] if where == "before" else ["begun", "told"])
        assert pool.statistics().busy == 0
        assert await pool.run(echo, 1) == 1


async def test_a_job_that_cancels_its_awaiter_and_returns_at_once(isolation):
    """The awaiter has the result, and is cancelled at its next wait."""
    got = []

    async def job():
        caller.cancel()
        return "result"

    async def call():
        got.append(await pool.run(job))
        await asyncio.sleep(10)
        got.append("not cancelled")

    async with Pool(1, isolation=isolation) as pool:
        caller = asyncio.create_task(call())
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert got == ["result"]


@pytest.mark.parametrize("levels", [INLINE_FRAMES // 4, 2 * INLINE_FRAMES])
async def test_both_sides_of_the_limit_of_the_stack(isolation, levels):
    """On a shallow stack the job begins in the awaiter's step, on a deep one in a turn of its own."""

    async def down(level):
        return await down(level - 1) if level else await pool.run(look)

    async def look():
        return bool(turned)

    async with Pool(1, isolation=isolation) as pool:
        turned = next_turn()
        assert await down(levels) is (levels > INLINE_FRAMES)


async def test_a_job_does_not_see_the_scopes_of_its_awaiter(isolation):
    """anyio's scopes and deadlines are those of the job's own task, also in its first step."""

    async def look():
        return anyio.current_effective_deadline()

    async with Pool(1, isolation=isolation) as pool:
        with anyio.move_on_after(10):
            assert await pool.run(look) == math.inf


async def test_a_worker_that_is_cancelled_at_rest_is_replaced(isolation):
    """By foreign code, while it waits: it takes the cancel, and the next job finds another."""
    async with Pool(1, isolation=isolation) as pool:
        assert await pool.run(echo, 1) == 1
        (worker,) = [task for task in asyncio.all_tasks() if "worker" in task.get_name()]
        worker.cancel("foreign")
        with pytest.raises(asyncio.CancelledError, match="foreign"):
            await worker
        assert await pool.run(echo, 2) == 2
        assert pool.statistics().busy == 0


@pytest.mark.parametrize("isolation", ["scope"])
async def test_a_worker_that_retires_while_its_job_suspends(isolation):
    """It ends with its job, and its slot is free."""
    async with Pool(2, isolation=isolation) as pool:
        gate = asyncio.Event()
        jobs = [await pool.submit(gate.wait) for _ in range(2)]
        await asyncio.sleep(0.01)
        for worker in pool._state.supervisor.workers():
            worker.retire()
        gate.set()
        assert [await job for job in jobs] == [True, True]
        await asyncio.sleep(0)
        assert pool.statistics().busy == 0
        assert await pool.run(echo, 1) == 1


def test_a_cancel_between_two_runs_of_the_loop():
    """`scope.cancel` needs a running loop: the job is told when the loop runs again."""
    loop = asyncio.new_event_loop()
    pool = Pool(1, isolation="scope")
    try:
        loop.run_until_complete(pool.__aenter__())

        async def begin():
            job = await pool.submit(asyncio.Event().wait)
            await asyncio.sleep(0)
            return job

        job = loop.run_until_complete(begin())
        assert job.cancel("between")
        assert not job.done()
        loop.run_until_complete(job.wait())
        assert job.cancelled()
        loop.run_until_complete(pool.__aexit__(None, None, None))
    finally:
        loop.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_worker_that_is_closed_without_a_loop():
    """As at an interpreter's end: its job is let go of as it is, and nothing is arranged in a loop that is gone."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    seen = []

    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("closed")

    async def begin():
        pool = Pool(2, isolation="scope")
        await pool.__aenter__()
        job = await pool.submit(forever)
        idle = await pool.submit(echo, 1)
        await asyncio.gather(idle)
        job.add_done_callback(seen.append)
        return pool, job

    pool, job = loop.run_until_complete(begin())
    coroutines = [worker.task.get_coro() for worker in pool._state.supervisor.workers()]
    assert len(coroutines) == 2
    loop.close()
    for coroutine in coroutines:
        coroutine.close()
    assert seen == ["closed"]
    assert job.status == "running"
