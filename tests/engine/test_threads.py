"""Plain functions run in threads: outcomes, context, slots, threads that nobody waits for; and calls from threads.

A thread cannot be told to stop, only asked (`check_cancelled`). Whoever awaits its job does not wait for that: a time
limit or a cancel releases the waiters at once, and the slot stays taken until the thread really ends.

These tests run in real time, so a thread waits for a `threading.Event`, and the test for what the thread has done.
The runner itself, below the pool, is in tests/runtime.
"""

import asyncio
import contextlib
import contextvars
import itertools
import threading
import time
import traceback

import pytest
from helpers import double, restless_interpreter

from aiopool import (
    JobCancelledError,
    JobStatus,
    JobTimeoutError,
    Pool,
    PoolStatus,
    Restart,
    Retry,
    current_job,
    from_thread,
)
from aiopool.testing import wait_until

pytestmark = pytest.mark.both_isolations

real = pytest.mark.loops("real", long=("eager",))
HOUR = 3600


@contextlib.contextmanager
def gate():
    """An event for threads to wait for; it is set at the end, whatever happens, so that they end."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


async def working(pool, threads):
    await wait_until(lambda: pool.statistics().threads_busy == threads)


async def at_rest(pool):
    await wait_until(lambda: pool.statistics().busy == pool.statistics().threads_busy == 0)


# -- outcomes --------------------------------------------------------------------------------------------------


@real
async def test_what_it_returns_and_where_it_runs(new_pool):
    """Arguments of both kinds go in, the same object comes out; not in the thread of the loop."""

    def call(a, *, b):
        return a, b, threading.current_thread()

    argument = object()
    async with new_pool(name="mail") as pool:
        a, b, thread = await pool.run(call, argument, b=argument)
        assert a is b is argument
        assert thread is not threading.current_thread()
        assert thread.name.startswith("mail-thread-")
        assert thread.daemon
        with pytest.raises(RuntimeError, match="no running event loop"):
            await pool.run(asyncio.get_running_loop)


@real
@pytest.mark.parametrize("error", [LookupError("mine"), StopAsyncIteration(7), TimeoutError("its own")], ids=repr)
async def test_what_it_raises(new_pool, error):
    """The same exception, with the line that raised it; the job failed, and the thread serves the next one."""

    def wrong():
        raise error

    async with new_pool(size=1, timeout=HOUR) as pool:
        job = await pool.submit(wrong)
        await job.wait()
        assert job.exception() is error
        assert job.status is JobStatus.FAILED
        assert traceback.extract_tb(error.__traceback__)[-1].name == "wrong"
        assert await pool.run(int) == 0
        assert pool.statistics().threads_busy == 0


@real
async def test_a_cancelled_error_of_its_own_is_a_cancel_that_nobody_asked_for(new_pool):
    """The awaiter gets an ordinary exception: its own task was not cancelled."""

    def wrong():
        raise asyncio.CancelledError

    async with new_pool() as pool:
        with pytest.raises(JobCancelledError):
            await pool.run(wrong)
        assert asyncio.current_task().cancelling() == 0


@real
@pytest.mark.parametrize("kind", ["lambda", "partial", "future"])
async def test_an_awaitable_that_comes_out_of_a_thread_is_refused(new_pool, kind):
    """The text says what to write; the coroutine is closed, and not warned about (warnings are errors here)."""
    future = asyncio.get_running_loop().create_future()
    calls = {"lambda": lambda: double(1), "partial": lambda x=3: double(x), "future": lambda: future}
    async with new_pool() as pool:
        with pytest.raises(TypeError, match=r"submit\(function, ...\), not submit\(lambda: function\(...\)\)"):
            await pool.run(calls[kind])


@real
async def test_context_variables_and_the_job_itself(new_pool):
    """A thread sees the submitter's values and its own job, and leaves nothing to the next in the same thread."""
    variable = contextvars.ContextVar("variable", default="nobody's")

    def call():
        before = variable.get()
        variable.set("the thread's")
        return before, current_job(), threading.get_ident()

    async with new_pool(size=1) as pool:
        variable.set("first")
        first = await pool.submit(call)
        variable.set("second")
        second = await pool.submit(call)
        (seen, me, thread), (seen_next, me_next, thread_next) = await first, await second
        assert (seen, me, seen_next, me_next) == ("first", first, "second", second)
        assert thread == thread_next
        assert variable.get() == "second"


@real
async def test_threads_run_at_once_as_many_as_the_pool_is_large(new_pool):
    """Four that can only end together: each has a thread, and the fifth waits for a slot."""
    barrier = threading.Barrier(4)
    async with new_pool(size=4) as pool:
        jobs = [await pool.submit(barrier.wait, 30) for _ in range(8)]
        assert sorted([await job for job in jobs]) == sorted([0, 1, 2, 3] * 2)


# -- told to stop ----------------------------------------------------------------------------------------------


async def stop_by(how, pool, job):
    """End a running job by a time limit (set already) or a cancel, as its waiter sees it."""
    if how == "cancel":
        assert job.cancel("no need")
    await job.wait(30)
    assert job.status == {"cancel": "cancelled", "timeout": "timed_out"}[how]


@real
@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_the_slot_is_held_until_the_thread_ends(new_pool, how):
    """Two threads left behind, of a size of two: the waiters are free, and no slot is."""
    began, ran = [], []

    async def next_job(n):
        ran.append(n)

    with gate() as go:

        def stuck():
            began.append(1)
            go.wait()
            return "late"

        async with new_pool(size=2, timeout=0.02 if how == "timeout" else None) as pool:
            jobs = [await pool.submit(stuck) for _ in range(2)]
            await working(pool, 2)
            for job in jobs:
                await stop_by(how, pool, job)
                with pytest.raises(JobTimeoutError if how == "timeout" else JobCancelledError):
                    await job
            queued = [await pool.with_options(timeout=None).submit(next_job, n) for n in range(3)]
            await asyncio.sleep(0.05)  # in vain: nothing can start
            now = pool.statistics()
            assert ran == []
            assert (now.busy, now.idle, now.queued, now.threads_busy, now.threads_abandoned) == (2, 0, 3, 2, 2)
            assert [job.status for job in queued] == ["queued"] * 3
            go.set()
            await asyncio.gather(*queued)
            await at_rest(pool)
            assert pool.statistics().threads_abandoned == 0
            # What came late is not reported as in time.
            assert [job.status for job in jobs] == ["timed_out" if how == "timeout" else "cancelled"] * 2
            assert pool.statistics().succeeded == 3
    assert ran == [0, 1, 2]
    assert len(began) == 2


@real
async def test_an_error_that_comes_late_changes_nothing(new_pool, caplog):
    """The outcome stands; what the thread raised afterwards is not lost without a word, and harms nobody."""
    with gate() as go:

        def stuck():
            go.wait()
            raise LookupError("late")

        async with new_pool(size=1) as pool:
            job = await pool.submit(stuck)
            await working(pool, 1)
            await stop_by("cancel", pool, job)
            go.set()
            await at_rest(pool)
            assert job.status is JobStatus.CANCELLED
            assert "late" in caplog.text
            assert await pool.run(double, 1) == 2


@real
@pytest.mark.parametrize("on_leak", ["hold", "replace"])
async def test_a_thread_that_outlives_two_graces_is_leaked(new_pool, on_leak):
    """It is named; by choice its slot goes to another, and comes back once, not twice, when it ends."""
    with gate() as go:
        async with new_pool(size=1, cancel_grace=0.02, on_leak=on_leak, max_threads=2) as pool:
            job = await pool.submit(go.wait)
            await working(pool, 1)
            report = await pool.cancel(job.id)
            assert (report.leaked, job.leaked, pool.statistics().leaked) == (True, True, 1)
            assert pool.statistics().busy == (on_leak == "hold")
            other = await pool.submit(threading.get_ident)
            if on_leak == "replace":
                await other
            else:
                await asyncio.sleep(0.02)
                assert not other.done()
            go.set()
            await other
            await wait_until(lambda: pool.statistics().leaked == 0)
            await at_rest(pool)
            assert await asyncio.gather(*[pool.run(double, n) for n in range(3)]) == [0, 2, 4]
            assert pool.statistics().busy == 0


@real
@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_thread_that_asks_ends_itself(new_pool, how):
    """`check_cancelled()` raises once its job has been told; `finally` runs, and the slot is back at once."""
    cleaned_up, spins = threading.Event(), []

    def cooperative():
        try:
            while True:
                from_thread.check_cancelled()
                spins.append(1)
                time.sleep(0.001)
        finally:
            cleaned_up.set()

    async with new_pool(size=1, timeout=0.05 if how == "timeout" else None) as pool:
        job = await pool.submit(cooperative)
        await wait_until(lambda: spins)
        await stop_by(how, pool, job)
        await at_rest(pool)
        assert cleaned_up.is_set()
        assert not job.leaked
        assert await pool.with_options(timeout=None).run(from_thread.check_cancelled) is None  # was another's cancel
        assert pool.statistics().leaked == 0


@real
async def test_pool_cancel_waits_for_the_thread_within_the_grace(new_pool):
    """When it returns without a leak, no line of the job will run any more."""
    ended = []

    def cooperative():
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                from_thread.check_cancelled()
                time.sleep(0.001)
        time.sleep(0.02)
        ended.append(1)

    async with new_pool(size=1, cancel_grace=30) as pool:
        job = await pool.submit(cooperative)
        await working(pool, 1)
        report = await pool.cancel(job.id)
        assert (bool(report), report.leaked, ended) == (True, False, [1])


def test_check_cancelled_outside_of_a_thread_of_a_pool():
    """The text says what to write instead."""
    with pytest.raises(RuntimeError, match=r"await asyncio\.sleep"):
        from_thread.check_cancelled()


@real
async def test_a_retry_after_a_time_limit_does_not_overlap(new_pool):
    """The next attempt begins when the thread of the one before has really ended."""
    at_once, most, starts = 0, 0, []
    lock = threading.Lock()

    def slow():
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
            starts.append(time.monotonic())
        try:
            with contextlib.suppress(asyncio.CancelledError):
                while True:
                    from_thread.check_cancelled()
                    time.sleep(0.001)
            time.sleep(0.06)  # it goes on after it was told
            return current_job().attempt
        finally:
            with lock:
                at_once -= 1

    async with new_pool(size=2, cancel_grace=30) as pool:
        retry = Retry(attempts=3, backoff="fixed", delay=0, jitter=0)
        job = await pool.with_options(timeout=0.02, retry=retry).submit(slow)
        await job.wait(30)
        assert job.status is JobStatus.TIMED_OUT
        assert (job.attempt, len(starts), most) == (3, 3, 1)
        assert min(b - a for a, b in itertools.pairwise(starts)) >= 0.06


@real
async def test_a_thread_that_does_not_end_gets_no_other_attempt(new_pool):
    """After two graces it is leaked and timed out, though attempts are left."""
    starts = []
    with gate() as go:

        def stuck():
            starts.append(1)
            go.wait()

        async with new_pool(size=2, cancel_grace=0.02) as pool:
            job = await pool.with_options(timeout=0.02, retry=Retry(attempts=5, delay=0)).submit(stuck)
            await job.wait(30)
            assert (job.status, job.leaked, len(starts)) == (JobStatus.TIMED_OUT, True, 1)
            go.set()
            await at_rest(pool)
            assert len(starts) == 1


# -- fewer threads than slots ------------------------------------------------------------------------------------


@real
async def test_fewer_threads_than_slots(new_pool):
    """`max_threads` holds for plain functions only: coroutines take the other slots meanwhile."""
    at_once, most = 0, 0
    lock = threading.Lock()

    def call():
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.005)
        with lock:
            at_once -= 1

    with gate() as go:
        async with new_pool(size=3, max_threads=1) as pool:
            held = await pool.submit(go.wait)
            await working(pool, 1)
            jobs = [await pool.submit(call) for _ in range(5)]
            # Two slots: one for a call that waits for the thread, one is left.
            jobs[1].cancel()
            assert pool.statistics().threads_busy == 1
            go.set()
            await held
            await pool.join()
            assert most == 1
            assert [job.status for job in jobs] == ["succeeded", "cancelled", *["succeeded"] * 3]


@real
async def test_what_follows_a_thread_starts_in_its_order(new_pool):
    """A slot goes from a thread to plain functions and coroutines in their order; a paused group is passed over."""
    order = []

    async def coroutine(number):
        order.append(number)

    with gate() as go:
        async with new_pool(size=1) as pool:
            held = await pool.submit(go.wait)
            await working(pool, 1)
            plain = order.append
            line = [(5, plain), (5, plain), (5, coroutine), (5, plain), (1, coroutine), (1, plain)]
            for number, (priority, function) in enumerate(line):
                await pool.with_options(priority=priority).submit(function, number)
            parked = await pool.with_options(group="mail", priority=0).submit(order.append, 6)
            pool.pause(group="mail")
            go.set()
            await held
            await wait_until(lambda: len(order) == 6)
            assert order == [4, 5, 0, 1, 2, 3]
            pool.resume(group="mail")
            await parked
            assert order[-1] == 6


@real
async def test_a_function_that_follows_another_in_its_slot_has_its_time_limit(new_pool):
    """TO: whichever way it came to its thread."""
    with gate() as go, gate() as never:
        async with new_pool(size=1) as pool:
            held = await pool.submit(go.wait)
            await working(pool, 1)
            limited = await pool.with_options(timeout=0.01).submit(never.wait)
            go.set()
            await held
            with pytest.raises(JobTimeoutError):
                await limited
            never.set()


@real
@pytest.mark.parametrize("stop", ["retire", "pause"])
async def test_a_slot_that_shrinks_or_pauses_while_in_a_thread_starts_nothing(new_pool, stop):
    """RS, PA: what runs in a thread ends; the next in line waits."""
    with gate() as first, gate() as second:
        async with new_pool(size=2) as pool:
            jobs = [await pool.submit(first.wait), await pool.submit(second.wait)]
            await working(pool, 2)
            waiting = await pool.submit(double, 21)
            if stop == "retire":
                pool.resize(1)
            else:
                pool.pause()
            first.set()
            await jobs[0]
            await asyncio.sleep(0)
            assert waiting.status is JobStatus.QUEUED
            assert pool.statistics().busy == 1
            second.set()
            pool.resume()
            assert await waiting == 42


@real
async def test_a_call_that_no_thread_has_begun_never_runs_once_cancelled(new_pool):
    """It has a slot and waits for a thread: withdrawn in the call, its slot goes to the next in line."""
    ran = []
    with gate() as go:
        async with new_pool(size=2, max_threads=1) as pool:
            held = await pool.submit(go.wait)
            await working(pool, 1)
            waiting = await pool.submit(ran.append, 1)
            await wait_until(lambda: waiting.status is JobStatus.RUNNING)
            assert waiting.cancel()
            assert await pool.run(double, 21) == 42  # its slot is free, though the thread is not
            assert waiting.status is JobStatus.CANCELLED
            assert pool.statistics().busy == 1
            go.set()
            await held
        assert ran == []


@real
async def test_the_slot_of_a_thread_goes_to_the_next_in_line_though_its_worker_is_gone(new_pool):
    """Foreign code has cancelled the worker: its job goes on in the thread, and keeps the slot as long."""
    with gate() as go:
        before = asyncio.all_tasks()
        async with new_pool(size=1, restart=Restart(delay=0)) as pool:
            held = await pool.submit(go.wait)
            await working(pool, 1)
            [worker] = [task for task in asyncio.all_tasks() - before if task.get_name().startswith("pool-worker")]
            worker.cancel()
            await wait_until(lambda: worker.done() and not pool._state.supervisor.restarting)
            following = await pool.submit(double, 21)
            await asyncio.sleep(0)
            assert (held.status, following.status) == (JobStatus.RUNNING, JobStatus.QUEUED)
            go.set()
            await wait_until(following.done)
            assert (held.result(), following.result()) == (True, 42)


# -- shutdown and exit -------------------------------------------------------------------------------------------


@real
async def test_shutdown_waits_no_longer_than_the_grace_for_an_abandoned_thread(new_pool):
    """Its job has ended long ago; the report names it all the same, because it runs."""
    with gate() as go:
        pool = new_pool(size=1, timeout=0.02)
        async with pool:
            job = await pool.submit(go.wait)
            await job.wait()
            assert job.status is JobStatus.TIMED_OUT
            began = time.monotonic()
            report = await pool.shutdown(timeout=HOUR, grace=0.05)
            assert time.monotonic() - began < 10
            assert [leak.id for leak in report.leaked] == [job.id]
            assert "thread" in report.leaked[0].stack
            assert not report.clean
        assert pool.status is PoolStatus.CLOSED
        assert pool.statistics().threads_abandoned == 1
        go.set()
        await at_rest(pool)


EXIT = """
    import asyncio, sys, threading, time
    from aiopool import Pool

    async def main():
        pool = Pool(size=2, isolation=sys.argv[1], cancel_grace=0.05)
        async with pool:
            stuck = await pool.with_options(timeout=0.05).submit(time.sleep, 3600)
            await stuck.wait()
            print(stuck.status, flush=True)
            print(await pool.run(int), flush=True)
            await pool.shutdown(timeout=0.05)

    asyncio.run(main())
    print([t.name for t in threading.enumerate() if t.daemon] and "left", flush=True)
"""


def test_the_interpreter_exits_though_a_thread_is_stuck(child, isolation):
    """A function that never returns keeps no program from its end, and nothing is printed on the way."""
    process = child(EXIT, isolation)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out.split() == ["timed_out", "0", "left"]
    assert process.returncode == 0
    assert "Fatal" not in err
    assert "Traceback" not in err


# -- calls from other threads ----------------------------------------------------------------------------------


@real
async def test_sixteen_threads_cancel_the_same_jobs(new_pool):
    """Each job ends once, the books are right, no slot is lost; a canceller never raises."""
    errors, calls = [], []

    async def job():
        await asyncio.sleep(HOUR)

    async with new_pool(size=4, queue_size=None) as pool:
        kinds = [pool, pool.with_options(delay=HOUR), pool.with_options(timeout=HOUR, group="g")]
        jobs = [await kinds[n % 3].submit(job) for n in range(300)]
        ends = []
        for each in jobs:
            each.add_done_callback(ends.append)
        await wait_until(lambda: pool.statistics().running == 4)
        barrier = threading.Barrier(16)

        def cancel_them(k):
            try:
                barrier.wait(30)
                for each in jobs[k:] + jobs[:k]:
                    calls.append(each.cancel(f"thread {k}"))
                    pool.statistics()
            except BaseException as error:
                errors.append(error)

        with restless_interpreter():
            threads = [threading.Thread(target=cancel_them, args=(k,)) for k in range(16)]
            for thread in threads:
                thread.start()
            await wait_until(lambda: not any(thread.is_alive() for thread in threads))
        await pool.join()
        assert errors == []
        assert len(calls) == 16 * 300
        assert all(each.status is JobStatus.CANCELLED for each in jobs)
        assert len(ends) == 300
        assert pool.statistics().cancelled == 300
        assert pool.statistics().busy == 0
        assert await pool.run(double, 1) == 2


@real
async def test_a_cancel_from_a_thread_wakes_the_loop(new_pool):
    """It takes effect at once though nothing else happens in the loop; and after the end it is False."""
    async with new_pool(size=1) as pool:
        job = await pool.submit(asyncio.sleep, HOUR)
        await wait_until(lambda: job.status is JobStatus.RUNNING)
        timer = threading.Timer(0.02, job.cancel, ["from outside"])
        timer.start()
        began = time.monotonic()
        with pytest.raises(JobCancelledError, match="from outside"):
            await job
        assert time.monotonic() - began < 30
        await wait_until(lambda: not timer.is_alive())
        answer = []
        thread = threading.Thread(target=lambda: answer.append(job.cancel()))
        thread.start()
        await wait_until(lambda: not thread.is_alive())
        assert answer == [False]


def test_a_cancel_from_a_thread_after_the_end_of_the_loop():
    """The job was done with its pool: the answer is False, there is no error and no hang."""

    async def main():
        async with Pool(size=1) as pool:
            job = await pool.submit(double, 1)
        return job

    job = asyncio.run(main())
    answer = []
    thread = threading.Thread(target=lambda: answer.append(job.cancel()))
    thread.start()
    thread.join(30)
    assert answer == [False]


# -- where it is -------------------------------------------------------------------------------------------------------


@real
async def test_the_stack_of_a_thread_is_told(new_pool, caplog):
    """By the job while it runs, in the log when it leaks, and in the report: the line that holds it up."""
    gate = threading.Event()

    def stuck_here():
        gate.wait()

    try:
        pool = await new_pool(1, cancel_grace=0.01, max_threads=1).__aenter__()
        job = await pool.submit(stuck_here)
        await wait_until(lambda: list(job.stack()))
        assert job.stack()[0].name == "stuck_here"
        assert "gate.wait()" in "".join(job.stack().format())
        waits = await pool.submit(stuck_here)
        assert list(waits.stack()) == []
        report = await pool.shutdown(timeout=0)
        [leak] = report.leaked
        for text in (leak.stack, caplog.text):
            assert text.count("(in a thread)") == 1
            assert "in stuck_here" in text
            assert "_runtime/threads.py" not in text
        assert "asyncio.run() will wait" not in str(report)
    finally:
        gate.set()


@real
async def test_a_call_that_no_thread_has_begun_has_no_stack(new_pool):
    """It waits for a thread; the marker stands alone."""
    gate = threading.Event()
    try:
        async with new_pool(2, max_threads=1) as pool:
            first = await pool.submit(gate.wait)
            second = await pool.submit(gate.wait)
            await wait_until(lambda: list(first.stack()))
            assert list(second.stack()) == []
            gate.set()
    finally:
        gate.set()
