"""`pool.as_executor()`: what is relied on beside CPython's own tests (`conformance/test_cpython_executors.py`)."""

import asyncio
import concurrent.futures
import threading

import pytest
from helpers import double, forever
from test_from_thread import in_thread

from aiopool import Priority, QueueFullError, current_job
from aiopool.testing import wait_until

pytestmark = [pytest.mark.loops("real", long=("eager",)), pytest.mark.both_isolations]


async def pow_of_two():
    return 2


async def test_the_loop_runs_functions_in_it(new_pool):
    """`run_in_executor` of the pool's own loop, and of another one; with the options of the view."""
    async with new_pool() as pool:
        loop = asyncio.get_running_loop()
        executor = pool.with_options(priority=Priority.HIGH, name="by the loop").as_executor()

        def look():
            return current_job().name, current_job().priority

        async def elsewhere():
            return await asyncio.get_running_loop().run_in_executor(executor, look)

        assert await loop.run_in_executor(executor, look) == ("by the loop", Priority.HIGH)
        assert await in_thread(lambda: asyncio.run(elsewhere())) == ("by the loop", Priority.HIGH)
        assert await asyncio.wrap_future(executor.submit(double, 4)) == 8


async def test_it_never_blocks_a_loop(new_pool):
    """With a full queue its calls wait outside of it, in order, and those of the loop's tasks are all done."""
    started = []
    async with new_pool(1, queue_size=1) as pool:
        executor = pool.as_executor()
        futures = [executor.submit(started.append, n) for n in range(20)]
        await asyncio.gather(*map(asyncio.wrap_future, futures))
        assert started == list(range(20))


async def test_a_call_that_waits_for_room_can_be_cancelled(new_pool):
    """It is withdrawn, and the next one gets the room."""
    async with new_pool(1, queue_size=0) as pool:
        executor = pool.as_executor()
        running, waiting, last = [executor.submit(function) for function in (forever, forever, pow_of_two)]
        await wait_until(lambda: pool.statistics().waiting == 2)
        assert waiting.cancel()
        await wait_until(lambda: pool.statistics().waiting == 1)
        running.cancel()
        assert await asyncio.wrap_future(last) == 2
        assert pool.statistics().submitted == 2


async def test_a_cancelled_task_cancels_its_call(new_pool):
    """Also one that runs: `run_in_executor` is a task's, and the job is told."""
    async with new_pool() as pool:
        future = pool.as_executor().submit(forever)
        task = asyncio.ensure_future(asyncio.wrap_future(future))
        await wait_until(future.running)
        task.cancel()
        await pool.join()
        assert pool.statistics().cancelled == 1
        assert future.cancelled()


async def test_its_shutdown_is_its_own(new_pool):
    """It waits for its calls and takes no more; the pool and its other executors go on."""
    async with new_pool(2) as pool:

        def body():
            other = pool.as_executor()
            with pool.as_executor() as executor:
                futures = [executor.submit(double, n) for n in range(5)]
            assert all(future.done() for future in futures)
            with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                executor.submit(double, 1)
            executor.shutdown()
            return other.submit(double, 4).result()

        assert await in_thread(body) == 8
    with pytest.raises(RuntimeError, match="after the shutdown of the pool"):
        pool.as_executor().submit(double, 1)


async def test_a_shutdown_may_cancel_what_has_not_started(new_pool):
    """What runs goes on to its end."""
    gate = threading.Event()
    async with new_pool(1) as pool:

        def body():
            executor = pool.as_executor()
            running, *waiting = [executor.submit(gate.wait) for _ in range(5)]
            while not running.running():
                threading.Event().wait(0.001)
            executor.shutdown(wait=False, cancel_futures=True)
            assert all(future.cancelled() for future in waiting)
            gate.set()
            executor.shutdown()
            assert running.result(0) is True

        await in_thread(body)


async def test_its_shutdown_in_the_loop(new_pool):
    """It would wait for itself: refused while there are calls, with the line to write."""
    async with new_pool(1) as pool:
        executor = pool.as_executor()
        future = executor.submit(forever)
        with pytest.raises(RuntimeError, match=r"executor.shutdown\(wait=False\)"):
            executor.shutdown()
        executor.shutdown(wait=False, cancel_futures=True)
        future.cancel()
        executor.shutdown()


async def test_a_full_queue_refuses_where_it_should(new_pool):
    """In a thread by `submit`; in the loop, which does not wait, by the future."""
    gate = asyncio.Event()
    async with new_pool(1, queue_size=0, overflow="reject") as pool:
        executor = pool.as_executor()
        first = await in_thread(executor.submit, gate.wait)
        with pytest.raises(QueueFullError):
            await in_thread(executor.submit, gate.wait)
        refused = executor.submit(gate.wait)
        with pytest.raises(QueueFullError):
            await asyncio.wrap_future(refused)
        gate.set()
        assert await asyncio.wrap_future(first) is True


async def test_a_job_in_a_thread_may_use_an_executor_of_its_own_pool(new_pool):
    """And leave its block: it lends its slot while it waits."""
    async with new_pool(1) as pool:

        def work():
            with pool.as_executor() as executor:
                futures = [executor.submit(pow, 2, n) for n in range(5)]
            return [future.result() for future in concurrent.futures.as_completed(futures)]

        assert sorted(await pool.run(work)) == [1, 2, 4, 8, 16]
