"""Jobs from other threads: `pool.from_thread`, and the future that a thread holds."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import os
import random
import threading
import traceback
from collections import Counter, defaultdict

import pytest
from helpers import double, fail, forever, restless_interpreter

from aiopool import (
    JobCancelledError,
    JobStatus,
    Pool,
    PoolClosedError,
    Priority,
    QueueFullError,
    current_job,
)
from aiopool.events import JobSubmitted
from aiopool.testing import FailingCall, wait_until

pytestmark = [pytest.mark.loops("real", long=("eager",)), pytest.mark.both_isolations]

SECONDS = 30  # until a test that hangs fails


async def in_thread(function, *args):
    """Run a plain function in a thread of its own, which ends before we go on."""
    done = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def settle(result, error):
        if not done.done():
            done.set_result(result) if error is None else done.set_exception(error)

    def body():
        result = error = None
        try:
            result = function(*args)
        except BaseException as caught:
            error = caught
        loop.call_soon_threadsafe(settle, result, error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        async with asyncio.timeout(SECONDS):
            return await done
    finally:
        thread.join(1)


def plus(x, *, y=1):
    return x + y


# -- one call ------------------------------------------------------------------------------------------------------


async def test_a_thread_submits_and_waits(new_pool):
    """Both kinds of functions, with keyword arguments; the future knows its job."""
    async with new_pool() as pool:

        def body():
            first, second = pool.from_thread.submit(double, 4), pool.from_thread.submit(plus, 1, y=2)
            assert (first.result(), second.result()) == (8, 3)
            assert (first.job.status, first.id) == ("succeeded", 1)
            assert (first.done(), first.cancelled(), first.running(), first.exception()) == (True, False, False, None)
            assert pool.from_thread.run(double, 5) == 10
            assert isinstance(first, concurrent.futures.Future)

        await in_thread(body)


async def test_an_error_of_the_job_is_raised_in_the_thread(new_pool):
    """The very object, by `result` and `run`; and it is reported nowhere else."""
    reported = []
    error = ValueError("seven")
    async with new_pool(on_error=lambda job, error: reported.append(error)) as pool:

        def body():
            future = pool.from_thread.submit(fail, error)
            assert future.exception() is error
            with pytest.raises(ValueError, match="seven"):
                future.result()
            with pytest.raises(ValueError, match="seven"):
                pool.from_thread.run(fail, error)

        await in_thread(body)
    assert reported == []


async def test_an_error_that_nobody_asks_for_is_reported_once(new_pool):
    """When the future is dropped: before the end of its job, or after it."""
    reported = []
    async with new_pool(on_error=lambda job, error: reported.append((job.name, str(error)))) as pool:

        def body():
            pool.from_thread.submit(fail, ValueError("before"))
            future = pool.from_thread.submit(fail, ValueError("after"))
            concurrent.futures.wait([future])

        await in_thread(body)
        gc.collect()
        await wait_until(lambda: len(reported) == 2)
        await asyncio.sleep(0)
    assert sorted(reported) == [("fail", "after"), ("fail", "before")]


async def test_a_call_that_cannot_work_is_refused_in_the_thread(new_pool):
    """Where the traceback shows the line to change; nothing has come to the loop."""
    async with new_pool() as pool:

        def body():
            caller = pool.from_thread
            with pytest.raises(TypeError, match=r"Write submit\(double, x\)"):
                caller.submit(double)
            with pytest.raises(TypeError, match=r"Write run\(plus, x\)"):
                caller.run(plus)
            for _ in range(2):  # the function is known the second time
                with pytest.raises(TypeError, match="cannot be called so"):
                    caller.submit(double, 1, 2)
                assert caller.run(double, 1) == 2
            with pytest.raises(TypeError, match="an option of the job"):
                caller.submit(double, 1, timeout=3)
            with pytest.raises(TypeError, match="takes a function"):
                caller.submit(3)
            with pytest.raises(TypeError, match="one item"):
                caller.map(lambda a, b: a, [1])
            with pytest.raises(TypeError, match="takes an iterable"):
                caller.map(double, 3)
            with pytest.raises(ValueError, match="buffersize"):
                caller.map(double, [1], buffersize=0)
            with pytest.raises(ValueError, match="errors"):
                caller.map(double, [1], errors="ignore")
            with pytest.raises(TypeError, match=r"write map\(ordered=...\)"):
                caller.map(double, [1], order=True)

        await in_thread(body)
        assert pool.statistics().submitted == 2


async def test_a_view_gives_its_options(new_pool):
    """Priority, name, id and delay; an id that is taken is refused where it is submitted."""
    async with new_pool(1) as pool:

        def body():
            view = pool.with_options(priority=Priority.HIGH, name="urgent")
            job = view.from_thread.submit(double, 1).result() and view.from_thread.submit(double, 2).job
            future = pool.with_options(id="seven", delay=3600).from_thread.submit(double, 7)
            assert (future.id, future.job.status, future.job.waiting_for) == ("seven", "scheduled", "delay")
            with pytest.raises(ValueError, match="seven"):
                pool.with_options(id="seven").from_thread.submit(double, 7)
            assert future.cancel()
            seen = pool.with_options(name="inner").from_thread.run(lambda: current_job().name)
            return job, seen

        _, seen = await in_thread(body)
        assert seen == "inner"


async def test_a_group_takes_jobs_of_threads(new_pool):
    """They are waited for with the block; after it, a call is refused."""
    ended = []

    async def work(n):
        await asyncio.sleep(0)
        ended.append(n)

    async with new_pool() as pool:
        async with pool.group("of threads") as group:
            assert (
                await in_thread(lambda: [group.from_thread.submit(work, n).job.group for n in range(3)])
                == ["of threads"] * 3
            )
        assert sorted(ended) == [0, 1, 2]

        def late():
            with pytest.raises(RuntimeError, match="group"):
                group.from_thread.submit(work, 3)

        await in_thread(late)


async def test_a_job_sees_the_context_of_its_thread(new_pool):
    """The variables as they were at the call, not those of the loop, of the pool or of another call."""
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("of the loop")

    async def look():
        return variable.get()

    async with new_pool() as pool:

        def body():
            assert pool.from_thread.run(look) == "none"
            variable.set("first")
            first = pool.from_thread.submit(look)
            variable.set("second")
            return first.result(), pool.from_thread.run(variable.get)

        assert await in_thread(body) == ("first", "second")


# -- cancel and time limits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["queued", "running"])
async def test_a_future_cancels_its_job(new_pool, where):
    """Queued or running: the future is cancelled at once, and the job soon."""
    async with new_pool(1) as pool:

        def body():
            blocker = pool.from_thread.submit(forever)
            future = blocker if where == "running" else pool.from_thread.submit(forever)
            while future.job is None or future.job.status != where:
                threading.Event().wait(0.001)
            assert future.running() == (where == "running")
            called = []
            future.add_done_callback(called.append)
            assert future.cancel()
            assert future.cancel()  # once more says the same
            assert (future.cancelled(), future.done(), called) == (True, True, [future])
            assert concurrent.futures.wait([future], timeout=SECONDS).done == {future}
            with pytest.raises(concurrent.futures.CancelledError):
                future.result()
            blocker.cancel("the test is over")
            return future.job

        job = await in_thread(body)
        await job.wait()
        assert job.status is JobStatus.CANCELLED


async def test_a_future_that_is_cancelled_while_its_job_is_taken_in(new_pool):
    """In that very step: the job is cancelled, too."""
    futures = []
    async with new_pool() as pool:
        pool.listen(lambda event: futures[0].cancel(), JobSubmitted)

        def body():
            # The loop stands still until the future is in the list.
            held = threading.Event()
            asyncio_loop.call_soon_threadsafe(held.wait, SECONDS)
            futures.append(pool.from_thread.submit(forever))
            held.set()

        asyncio_loop = asyncio.get_running_loop()
        await in_thread(body)
        await asyncio.wait_for(pool.join(), SECONDS)
        assert futures[0].cancelled()
        assert pool.statistics().cancelled == 1


async def test_a_call_that_could_not_be_handed_in_is_no_job(new_pool):
    """The loop could not be woken: the thread gets the error, and the pool no job, also not later."""
    async with new_pool() as pool:
        if type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
            pytest.skip("its methods cannot be replaced")

        def body():
            with pytest.raises(MemoryError):
                pool.from_thread.submit(double, 1)
            return None

        with FailingCall("call_soon_threadsafe", 1, MemoryError):
            await in_thread(body)
        assert await in_thread(pool.from_thread.run, double, 2) == 4
        assert pool.statistics().submitted == 1


async def test_a_job_that_is_cancelled_elsewhere_says_so(new_pool):
    """`JobCancelledError`, as for whoever awaits it; a future that is done cannot be cancelled any more."""
    async with new_pool() as pool:
        future = await in_thread(pool.from_thread.submit, forever)
        await wait_until(lambda: future.running())
        await pool.cancel(future.id, reason="enough")
        with pytest.raises(JobCancelledError, match="enough"):
            future.result()
        assert not future.cancel()


async def test_a_result_that_does_not_come_in_time(new_pool):
    """`TimeoutError` in the thread, and the job goes on."""
    gate = asyncio.Event()
    async with new_pool() as pool:

        def body():
            future = pool.from_thread.submit(gate.wait)
            with pytest.raises(TimeoutError):
                future.result(timeout=0.01)
            return future

        future = await in_thread(body)
        gate.set()
        assert await asyncio.wrap_future(future) is True


# -- room ----------------------------------------------------------------------------------------------------------


async def test_a_full_queue_holds_the_thread(new_pool):
    """No more jobs than the queue has room for are taken in, and the thread waits; nothing is lost."""
    gate, handed = asyncio.Event(), []
    async with new_pool(1, queue_size=3) as pool:

        def body():
            for _ in range(20):
                handed.append(pool.from_thread.submit(gate.wait))
            return [future.result() for future in handed]

        results = asyncio.ensure_future(in_thread(body))
        await wait_until(lambda: pool.statistics().waiting == 1)
        assert (pool.statistics().queued, pool.statistics().running, len(handed)) == (3, 1, 4)
        gate.set()
        assert await results == [True] * 20


async def test_a_queue_without_room_takes_jobs_of_threads(new_pool):
    """`queue_size=0`: a job is handed to a free worker, or its thread waits."""
    async with new_pool(2, queue_size=0) as pool:
        assert await in_thread(lambda: [pool.from_thread.run(double, n) for n in range(10)]) == list(range(0, 20, 2))
        assert await in_thread(
            lambda: [f.result() for f in [pool.from_thread.submit(double, n) for n in range(10)]]
        ) == list(range(0, 20, 2))


@pytest.mark.parametrize("overflow", ["reject", "drop_oldest", "drop_lowest"])
async def test_a_full_queue_does_what_its_policy_says(new_pool, overflow):
    """The refusal is raised by `submit`; what is dropped ends with `JobDroppedError`."""
    gate = asyncio.Event()
    async with new_pool(1, queue_size=1, overflow=overflow) as pool:

        def body():
            first = pool.from_thread.submit(gate.wait)
            while not first.running():
                threading.Event().wait(0.001)
            second = pool.from_thread.submit(gate.wait)
            urgent = pool.with_options(priority=Priority.HIGH).from_thread
            if overflow == "reject":
                with pytest.raises(QueueFullError):
                    urgent.submit(gate.wait)
                second.cancel()
                return first, None
            third = urgent.submit(gate.wait)
            assert type(second.exception()).__name__ == "JobDroppedError"
            return first, third

        first, third = await in_thread(body)
        gate.set()
        for future in (first, third):
            if future is not None:
                assert await asyncio.wrap_future(future) is True


async def test_a_thread_that_waits_for_room_hears_of_the_end(new_pool):
    """The pool is shut down: `PoolClosedError`, and the jobs that were taken in have ended."""
    async with new_pool(1, queue_size=1) as pool:

        def body():
            futures = []
            with pytest.raises(PoolClosedError):
                for _ in range(5):
                    futures.append(pool.from_thread.submit(forever))
            for future in futures:
                with pytest.raises(JobCancelledError):
                    future.result()
            with pytest.raises(PoolClosedError):
                pool.from_thread.submit(forever)
            with pytest.raises(PoolClosedError):
                pool.from_thread.run(forever)

        waiting = asyncio.ensure_future(in_thread(body))
        await wait_until(lambda: pool.statistics().waiting == 1)
        await pool.shutdown(timeout=0)
        await waiting


async def test_a_pool_that_was_never_opened_says_so():
    """As it does in the loop."""
    with pytest.raises(RuntimeError, match="which is new"):
        Pool().from_thread.submit(double, 1)


# -- order and batches ---------------------------------------------------------------------------------------------


async def test_jobs_of_a_thread_start_in_its_order(new_pool):
    """Of many threads at once, with a queue that is full all the time or never."""
    for queue_size in (None, 5):
        started = []

        async def work(thread, n, started=started):
            started.append((thread, n))

        async with new_pool(1, queue_size=queue_size) as pool:

            def body(thread, pool=pool, work=work):
                for n in range(100):
                    pool.from_thread.submit(work, thread, n)

            with restless_interpreter():
                await asyncio.gather(*[in_thread(body, thread) for thread in range(8)])
            await pool.join()
        by_thread = defaultdict(list)
        for thread, n in started:
            by_thread[thread].append(n)
        assert by_thread == {thread: list(range(100)) for thread in range(8)}


async def test_many_calls_share_one_wake_up(new_pool, monkeypatch):
    """While the loop is busy, a thousand calls of a thread wake it once."""
    wakes = 0
    async with new_pool(queue_size=None) as pool:
        loop = asyncio.get_running_loop()
        if type(loop).__module__.startswith("uvloop"):
            pytest.skip("its methods cannot be replaced")
        wake = loop.call_soon_threadsafe

        def counted(*args, **kwargs):
            nonlocal wakes
            wakes += 1
            return wake(*args, **kwargs)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        thread = threading.Thread(target=lambda: [pool.from_thread.submit(double, n) for n in range(1000)])
        thread.start()
        thread.join()  # the loop stands still meanwhile
        assert wakes == 1
        await pool.join()
        assert pool.statistics().succeeded == 1000


# -- the loop's own thread, and jobs in threads --------------------------------------------------------------------


async def test_the_loops_own_thread_is_refused(new_pool):
    """With the line to write instead, before anything happens; also a future that is not done."""
    async with new_pool() as pool:
        with pytest.raises(RuntimeError, match=r"write `await pool.submit\(...\)`"):
            pool.from_thread.submit(double, 1)
        with pytest.raises(RuntimeError, match=r"write `await pool.run\(...\)`"):
            pool.from_thread.run(double, 1)
        with pytest.raises(RuntimeError, match=r"async for result in pool.map\(...\)"):
            pool.from_thread.map(double, [1])
        assert pool.statistics().submitted == 0
        future = await in_thread(pool.from_thread.submit, forever)
        for ask in (future.result, future.exception):
            with pytest.raises(RuntimeError, match=r"await asyncio.wrap_future\(future\)"):
                ask()
        future.cancel()


@pytest.mark.parametrize("size", [1, 2])
async def test_a_job_in_a_thread_lends_its_slot_while_it_waits(new_pool, size):
    """Plain functions that wait for each other, ten deep, in a pool of one thread; and the numbers add up then."""
    async with new_pool(size, queue_size=1) as pool:

        def nested(depth):
            if depth == 0:
                return pool.from_thread.run(double, 0)
            future = pool.from_thread.submit(nested, depth - 1)
            return 1 + future.result()

        assert await pool.run(nested, 10) == 10
        await pool.join()
        assert (pool.statistics().busy, pool._runners["thread"].max_threads) == (0, size)


class NoTaskToday(BaseException):
    """What no `except Exception` catches."""


async def test_a_wait_that_cannot_begin_raises_in_the_thread(new_pool):
    """The loop makes no task for the thread that would lend its slot: its error comes there, and the slot is kept."""
    loop = asyncio.get_running_loop()

    def refuse(loop, coroutine, **options):
        if coroutine.__qualname__ == "_LentWait._wait":  # older Pythons do not pass the name
            coroutine.close()
            raise NoTaskToday
        return asyncio.Task(coroutine, loop=loop, **options)

    async with new_pool(1) as pool:

        def waits():
            future = pool.from_thread.submit(double, 1)
            with pytest.raises(NoTaskToday):
                future.result()
            return future

        loop.set_task_factory(refuse)
        try:
            future = await pool.run(waits)
        finally:
            loop.set_task_factory(None)
        assert await asyncio.wrap_future(future) == 2
        await pool.join()
        assert pool.statistics().busy == 0


async def test_a_map_in_a_pool_that_closes_raises(new_pool):
    """Its items are no jobs: with `errors="yield"`, too, there is no result to give."""
    async with new_pool(1) as pool:

        def body():
            results = pool.from_thread.map(double, iter(range(9)), buffersize=1, errors="yield")
            assert next(results).value == 0
            asyncio.run_coroutine_threadsafe(pool.shutdown(), loop).result(SECONDS)
            with pytest.raises(PoolClosedError):
                next(results)

        loop = asyncio.get_running_loop()
        await in_thread(body)


@pytest.mark.parametrize("queue_size", [0, 1, None])
async def test_run_in_a_job_in_a_thread_lends_its_slot(new_pool, queue_size):
    """Also while its own job waits for room; and in a thread that a coroutine of a job has started."""
    async with new_pool(1, queue_size=queue_size) as pool:
        assert await pool.run(lambda: pool.from_thread.run(plus, 1)) == 2
        assert await pool.run(lambda: pool.from_thread.run(double, 1)) == 2

        async def by_a_thread():
            return await in_thread(contextvars.copy_context().run, pool.from_thread.run, double, 4)

        assert await pool.run(by_a_thread) == 8
        assert pool.statistics().busy == 0


async def test_a_job_that_ends_while_it_is_taken_in(new_pool):
    """Its future has its end all the same."""
    async with new_pool() as pool:
        pool.listen(lambda event: pool.get_job(event.job_id).cancel("at once"), JobSubmitted)

        def body():
            with pytest.raises(JobCancelledError, match="at once"):
                pool.from_thread.run(double, 1)

        await in_thread(body)


async def test_a_job_in_a_thread_maps_in_its_own_pool(new_pool):
    """Ordered or not, with a queue that is full: no deadlock at size 1."""
    async with new_pool(1, queue_size=1) as pool:

        def work(ordered):
            return sorted(pool.from_thread.map(plus, range(20), ordered=ordered))

        for ordered in (True, False):
            assert await pool.run(work, ordered) == list(range(1, 21))


async def test_never_more_jobs_run_than_the_size_allows(new_pool):
    """Those of threads and of nested threads, too; who waits for another does not run."""
    running = most = 0
    lock = threading.Lock()

    def leaf():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.001)
        with lock:
            running -= 1

    async with new_pool(3) as pool:

        def branch():
            return [future.result() for future in [pool.from_thread.submit(leaf) for _ in range(5)]]

        await asyncio.gather(*[pool.run(branch) for _ in range(6)])
        assert most <= 3
        assert pool.statistics().succeeded == 36


async def test_a_cancelled_job_stops_waiting_in_its_thread(new_pool):
    """`result` raises `CancelledError` in it, as `check_cancelled` would; the job that it waited for goes on."""
    seen, inner = [], []
    async with new_pool(2) as pool:

        def outer():
            inner.append(pool.from_thread.submit(forever))
            try:
                inner[0].result()
            except asyncio.CancelledError:
                seen.append("told")
                raise

        job = await pool.submit(outer)
        await wait_until(lambda: inner and inner[0].running())
        assert await pool.cancel(job.id)
        await wait_until(lambda: seen == ["told"])
        assert inner[0].job.status is JobStatus.RUNNING
        inner[0].cancel()


async def test_a_cancelled_job_stops_waiting_for_room_in_its_thread(new_pool):
    """`submit` raises `CancelledError` in it, and what it would have handed in is withdrawn."""
    seen = []
    async with new_pool(1, queue_size=1) as pool:

        def outer():
            pool.from_thread.submit(forever)
            try:
                pool.from_thread.submit(forever)  # it lends its slot to the first, and waits to have it back
            except asyncio.CancelledError:
                seen.append("told")
                raise

        job = await pool.submit(outer)
        await wait_until(lambda: pool.statistics().running == 2)
        assert await pool.cancel(job.id)
        await wait_until(lambda: seen == ["told"])
        await wait_until(lambda: pool.statistics().queued == 0)
        assert await pool.cancel_all() == 1


async def test_a_job_that_waits_for_itself_is_told(new_pool):
    """As by `await`: it would wait for ever."""
    futures = []
    async with new_pool() as pool:

        def waits():
            while not futures:
                threading.Event().wait(0.001)
            return futures[0].result()

        futures.append(await in_thread(pool.from_thread.submit, waits))
        with pytest.raises(RuntimeError, match="awaits itself"):
            await asyncio.wrap_future(futures[0])


# -- map -----------------------------------------------------------------------------------------------------------


async def test_a_map_is_lazy_and_bounded(new_pool):
    """Items are read by the thread that iterates, and no more than `buffersize` ahead."""
    read = []

    def source():
        n = 0
        while True:
            read.append((n, threading.current_thread()))
            yield n
            n += 1

    async with new_pool(2) as pool:

        def body():
            results = pool.from_thread.map(double, source(), buffersize=3)
            assert read == []
            assert next(results) == 0
            assert len(read) == 3
            assert [next(results) for _ in range(4)] == [2, 4, 6, 8]
            assert len(read) == 7
            results.close()
            assert {thread for _, thread in read} == {threading.current_thread()}

        await in_thread(body)


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_map_gives_all_results(new_pool, ordered):
    """In the order of the items, or as they come; with a queue that is full, and a policy that refuses."""

    async def work(n):
        await asyncio.sleep(0.001 * (n % 3))
        return n

    async with new_pool(2, queue_size=1, overflow="reject") as pool:
        results = await in_thread(lambda: list(pool.from_thread.map(work, range(30), ordered=ordered)))
    assert (results if ordered else sorted(results)) == list(range(30))


async def test_a_map_that_fails_cancels_the_rest(new_pool):
    """The first error is raised; with `errors="yield"` each item has its result."""

    three_runs = asyncio.Event()

    async def work(n):
        if n == 1:
            await three_runs.wait()
            raise LookupError(n)
        if n == 3:
            three_runs.set()
        if n > 1:
            await forever()
        return n

    async with new_pool(4) as pool:

        def body():
            results = pool.from_thread.map(work, range(6), buffersize=4)
            assert next(results) == 0
            with pytest.raises(LookupError):
                next(results)
            with pytest.raises(StopIteration):
                next(results)
            both = list(pool.from_thread.map(work, range(2), errors="yield"))
            assert [(row.input, row.ok, row.value, type(row.error)) for row in both] == [
                (0, True, 0, type(None)),
                (1, False, None, LookupError),
            ]
            assert both[0].job.done()

        await in_thread(body)
        await asyncio.wait_for(pool.join(), SECONDS)
        assert pool.statistics().cancelled in (2, 3)  # the last may be withdrawn on its way


async def test_a_map_that_is_left_cancels_the_rest(new_pool):
    """By `break` and the end of the iterator."""
    async with new_pool(2) as pool:

        def body():
            async def work(n):
                return n if n == 0 else await forever()

            for result in pool.from_thread.map(work, range(100)):
                assert result == 0
                break

        await in_thread(body)
        gc.collect()
        await asyncio.wait_for(pool.join(), SECONDS)
        assert pool.statistics().cancelled <= 3


# -- ends ----------------------------------------------------------------------------------------------------------


def loop_in_a_thread(main):
    """Run a loop in a thread without asyncio.run, which would clean up; return the thread."""

    def body():
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
        finally:
            if not main.leave_open:
                loop.close()

    thread = threading.Thread(target=body)
    thread.start()
    return thread


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("leave_open", [False, True])
@pytest.mark.parametrize("how", ["result", "room", "wait", "map", "as_executor"])
def test_a_loop_that_dies_leaves_no_thread_hanging(isolation, leave_open, how):
    """Its pool was not closed: whoever waits gets `PoolClosedError`, however it waits."""
    opened, seen = threading.Event(), []

    async def main():
        pool = await Pool(1, 1, isolation=isolation).__aenter__()
        main.pool = pool
        opened.set()
        while not seen:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)

    main.leave_open = leave_open
    thread = loop_in_a_thread(main)
    opened.wait(SECONDS)

    def body():
        caller = main.pool.from_thread
        future = caller.submit(forever)
        while not future.running():
            threading.Event().wait(0.001)
        seen.append("waits")
        if how == "result":
            future.result(SECONDS)
        elif how == "wait":
            assert concurrent.futures.wait([future], timeout=SECONDS).done
            future.result(0)
        elif how == "map":
            list(caller.map(forever_with, [1, 2]))
        elif how == "as_executor":
            with main.pool.as_executor() as executor:
                last = executor.submit(forever)
            last.result(0)
        else:
            for _ in range(3):
                caller.submit(forever)

    async def forever_with(item):
        await forever()

    with pytest.raises(PoolClosedError):
        body()
    thread.join()
    with pytest.raises(PoolClosedError):
        main.pool.from_thread.submit(forever).result(SECONDS)
    del main.pool
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_call_that_comes_as_the_pool_closes_is_answered(isolation):
    """The loop has closed before it came to the call: the watch, which had let go of the pool, has it again."""
    loop = asyncio.new_event_loop()
    pool = loop.run_until_complete(Pool(1, isolation=isolation).__aenter__())
    futures = []

    def hand_in():
        futures.append(pool.from_thread.submit(double, 1))
        bridge = pool._state.bridges[pool._state.engine]
        loop.call_soon_threadsafe(step.set)
        closed.wait(SECONDS)
        # As if it had looked at the pool before it closed.
        futures.append(bridge.hand_in(pool, double, (2,), {}))

    closed, step = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=hand_in)
    thread.start()
    loop.run_until_complete(step.wait())
    loop.run_until_complete(pool.shutdown())
    closed.set()
    thread.join()
    loop.close()
    assert concurrent.futures.wait(futures, timeout=SECONDS).not_done == set()
    assert futures[0].result() == 2
    with pytest.raises(PoolClosedError):
        futures[1].result()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_is_refused(new_pool):
    """It may not submit, nor wait for a future of the parent's; and it may open a pool of its own, and use that."""

    async def own():
        async with Pool(1) as pool:
            return await asyncio.to_thread(pool.from_thread.run, double, 3)

    def child(pool, future):
        for call in (
            lambda: pool.from_thread.submit(double, 1),
            future.result,
            lambda: pool.as_executor().submit(id, 1),
        ):
            with pytest.raises(RuntimeError, match="in a child process"):
                call()
        asyncio._set_running_loop(None)
        assert asyncio.run(own()) == 6

    def body(pool):
        future = pool.from_thread.submit(forever)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(pool, future)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        future.cancel()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    async with new_pool() as pool:
        assert await in_thread(body, pool) == 0


async def test_nothing_is_kept_of_a_call(new_pool):
    """Arguments, results and futures go when nobody holds them."""

    alive = Counter()

    class Thing:
        def __init__(self):
            alive["things"] += 1

        def __del__(self):
            alive["things"] -= 1

    async def give(thing):
        return Thing()

    async with new_pool() as pool:

        def body():
            for _ in range(10):
                pool.from_thread.run(give, Thing())
            assert len(list(pool.from_thread.map(give, (Thing() for _ in range(10))))) == 10

        gc.disable()
        try:
            await in_thread(body)
            await wait_until(lambda: alive["things"] == 0)
            assert pool._state.bridges[pool._state.engine].pending == set()
        finally:
            gc.enable()


async def test_a_callback_that_fails_harms_nobody(new_pool, caplog):
    """That of a future runs in the loop; what it raises is logged."""

    class Odd(BaseException):
        pass

    def odd(future):
        raise Odd("no ordinary exception")

    async with new_pool() as pool:

        def body():
            future = pool.from_thread.submit(asyncio.sleep, 0.01)
            future.add_done_callback(odd)
            future.add_done_callback(lambda future: 1 / 0)
            future.result()
            return pool.from_thread.run(double, 2)

        assert await in_thread(body) == 4
    assert "Odd" in caplog.text


# -- many threads ----------------------------------------------------------------------------------------------------


async def hammer(new_pool, seed, threads, calls):
    """Threads that submit, cancel, wait and map at random; every future ends, and the numbers add up."""
    chance = random.Random(seed)

    async def work(n):
        if n % 7 == 0:
            raise LookupError(n)
        if n % 3 == 0:
            await asyncio.sleep(0)
        return n

    def plain(n):
        return n

    outcomes = Counter()

    def body(pool, seed):
        mine = random.Random(seed)
        futures = []
        for n in range(calls):
            function = plain if mine.random() < 0.1 else work
            what = mine.random()
            if what < 0.05:
                view = pool.with_options(priority=mine.randrange(3), timeout=mine.choice([None, 5]))
                futures.append(view.from_thread.submit(function, n))
            elif what < 0.1:
                assert sum(pool.from_thread.map(plain, range(5), ordered=mine.random() < 0.5)) == 10
            elif what < 0.15:
                with contextlib.suppress(LookupError):
                    assert pool.from_thread.run(function, n) == n
            else:
                futures.append(pool.from_thread.submit(function, n))
            if futures and mine.random() < 0.2:
                mine.choice(futures).cancel()
        for future in futures:
            try:
                future.result(SECONDS)
            except concurrent.futures.CancelledError:
                outcomes["cancelled"] += 1
            except LookupError:
                outcomes["failed"] += 1
            else:
                outcomes["succeeded"] += 1
        return len(futures)

    async with new_pool(chance.choice([1, 3]), queue_size=chance.choice([0, 2, 1000, None])) as pool:
        with restless_interpreter():
            counts = await asyncio.gather(*[in_thread(body, pool, f"{seed} {k}") for k in range(threads)])
        await pool.join()
        assert sum(counts) == sum(outcomes.values())
        assert pool._state.bridges[pool._state.engine].pending == set()


async def test_many_threads_at_once(new_pool, seeds):
    """Whatever they do, none hangs and nothing is lost."""
    for seed in seeds(9):
        await hammer(new_pool, seed, threads=8, calls=40)


@pytest.mark.long
async def test_very_many_threads_at_once(new_pool):
    """Sixteen threads with ten thousand submits each: none is lost, and those of a thread keep their order."""
    started = defaultdict(list)

    async def work(thread, n):
        started[thread].append(n)

    async with new_pool(8) as pool:

        def body(thread):
            return [pool.from_thread.submit(work, thread, n) for n in range(10_000)][-1].result(600)

        await asyncio.gather(*[asyncio.to_thread(body, thread) for thread in range(16)])
        await pool.join()
        await asyncio.get_running_loop().shutdown_default_executor()
    assert {len(rows) for rows in started.values()} == {10_000}
    assert len(started) == 16
