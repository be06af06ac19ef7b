"""Every call of the loop's and of the threads' may fail once: the pool works afterwards, and nobody waits for ever.

Each scenario is run once for each call that can fail (`aiopool.testing.fail_calls`). What the failing call belongs to
may fail with that error, or nothing happens; then a fresh job succeeds, the numbers add up, whoever waits is released,
and the shutdown is bounded.
"""

import asyncio
import contextlib
import gc
import logging
import sys

import pytest
from helpers import BOTH, assert_counters_balance, double, echo, nap, now, virtual

from aiopool import JobStatus, Pool, PoolStatus, Retry, current_job
from aiopool.testing import ERRORS, FailingCall, fail_calls, run_virtual, settle

pytestmark = pytest.mark.both_isolations


@pytest.fixture(autouse=True)
def _quiet():
    """What fails is in the log as well, hundreds of times."""
    logger = logging.getLogger("aiopool")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


def sleepy(value=None):
    """A plain function."""
    return value


async def coroutines(pool):
    """Jobs that do not suspend."""
    for n in range(4):
        with bearing():
            await pool.run(echo, n)


async def suspending(pool):
    """Jobs that suspend, more than there are slots."""
    await gather(pool, [(nap, 1, n) for n in range(5)])


async def threads(pool):
    """Plain functions, more than there are slots."""
    await gather(pool, [(sleepy, n) for n in range(5)])


async def retries(pool):
    """Jobs that fail at first, with and without a pause."""

    async def flaky():
        if current_job().attempt < 3:
            raise ValueError
        return "at last"

    await gather(pool.with_options(retry=Retry(attempts=3, delay=1, jitter=0)), [(flaky,)] * 3)
    await gather(pool.with_options(retry=Retry(attempts=3, delay=0, jitter=0)), [(flaky,)] * 3)


async def delays(pool):
    """Jobs that come due, together and one after the other."""
    await gather(pool.with_options(delay=1), [(nap, 1, n) for n in range(3)])
    await gather(pool.with_options(delay=2), [(echo, n) for n in range(3)])


async def limits(pool):
    """Limits of every kind, that are kept and that are not."""
    for options in ({"timeout": 2}, {"total_timeout": 2}, {"queue_timeout": 2}):
        await gather(pool.with_options(**options), [(nap, 1), (nap, 3), (nap, 1), (nap, 3)])


async def listeners(pool):
    """Events are told, and read."""
    heard = []
    listener = pool.listen(heard.append)
    stream = pool.events()
    await gather(pool, [(nap, 1), (sleepy,), (echo,)])
    listener.remove()
    stream.close()


async def room(pool):
    """Submitters wait for room."""
    await gather(pool, [(nap, 1, n) for n in range(8)])


async def groups(pool):
    """A group that succeeds, one that fails, and one with a time limit."""
    with bearing(ValueError):
        async with pool.group() as group:
            for n in range(4):
                await group.submit(nap, 1, n)
    with bearing(ValueError):
        async with pool.group() as group:
            await group.submit(nap, 5)
            await group.submit(raising)
    with bearing(TimeoutError):
        async with pool.group(timeout=2) as group:
            await group.submit(nap, 5)


async def maps(pool):
    """Streams over a list and over an asynchronous source."""

    async def source():
        for n in range(6):
            await asyncio.sleep(0)
            yield n

    with bearing():
        assert await pool.map(double, range(6)).collect() == [0, 2, 4, 6, 8, 10]
    with bearing():
        async with pool.map(double, source(), ordered=False) as stream:
            assert sorted([n async for n in stream]) == [0, 2, 4, 6, 8, 10]


async def nested(pool):
    """Jobs wait for jobs, deeper than the pool is wide."""

    async def parent(depth):
        if depth:
            await pool.run(parent, depth - 1)
        await asyncio.sleep(1)

    await gather(pool, [(parent, 3), (parent, 3)])


async def cancelled(pool):
    """Jobs are cancelled while they wait and while they run."""
    jobs = []
    for function, *args in [(nap, 5), (nap, 5), (sleepy,), (nap, 5), (nap, 5)]:
        with bearing():
            jobs.append(await pool.submit(function, *args))
    await pause(1)
    for job in jobs:
        with bearing():
            job.cancel()
    for job in jobs:
        await job.wait()


async def resized(pool):
    """The pool shrinks, grows, is paused and goes on while jobs wait."""
    jobs = []
    for n in range(6):
        with bearing():
            jobs.append(await pool.submit(nap, 1, n))
    for size in (1, 4, 2):
        with bearing():
            if asyncio.iscoroutine(resizing := pool.resize(size)):
                await resizing
        await pause(1)
    for act in (pool.pause, pool.resume):
        with bearing():
            act()
    pool.resume()
    for job in jobs:
        await job.wait()


SCENARIOS = [
    coroutines,
    suspending,
    threads,
    retries,
    delays,
    limits,
    listeners,
    room,
    groups,
    maps,
    nested,
    cancelled,
    resized,
]
BORNE = (*ERRORS, asyncio.CancelledError, TimeoutError, ValueError)


@contextlib.contextmanager
def bearing(*expected):
    """Bear what a failing call may cause, alone or in an exception group."""
    try:
        yield
    except (*ERRORS, *expected):
        pass
    except BaseExceptionGroup as group:
        if group.split((*ERRORS, *expected))[1] is not None:
            raise


async def pause(seconds):
    """Sleep in the test: its own timer may fail as well."""
    with bearing():
        await asyncio.sleep(seconds)


async def raising():
    """Fail at once."""
    raise ValueError


async def gather(pool, calls):
    """Hand in calls, by tasks of their own, and wait for the end of each."""

    async def one(function, *args):
        try:
            await pool.run(function, *args)
        except (*ERRORS, TimeoutError, ValueError):
            pass

    # Tasks of the test's own: their wake-ups are asyncio's. Made by the class, for `create_task` fails as well.
    loop = asyncio.get_running_loop()
    await asyncio.wait([asyncio.Task(one(*call), loop=loop) for call in calls])


async def works(pool):
    """The pool runs jobs of both kinds, and its numbers add up."""
    assert await pool.run(double, 21) == 42
    assert await pool.run(sleepy, "thread") == "thread"
    assert await pool.with_options(delay=1, timeout=3).run(nap, 1, "later") == "later"
    assert await pool.map(double, range(5)).collect() == [0, 2, 4, 6, 8]
    await pool.join()
    numbers = pool.statistics()
    assert_counters_balance(numbers)
    assert (numbers.queued, numbers.scheduled, numbers.running, numbers.busy, numbers.waiting) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("isolation", BOTH)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_any_call_may_fail_once(scenario, isolation):
    """Whichever call fails: the pool works afterwards, and closes in time."""

    async def run(fault):
        queue_size = 1 if scenario is room else None
        async with Pool(size=2, queue_size=queue_size, isolation=isolation, cancel_grace=0.5) as pool:
            with fault:
                await scenario(pool)
                await settle()
            await works(pool)
            began = now()
        assert now() == began

    failed = fail_calls(run)
    assert sum(failed.calls.values()) > 0


@pytest.mark.parametrize("isolation", BOTH)
def test_opening_and_closing_bear_a_failing_call(isolation):
    """Open, work and shut down: it may raise, but it never hangs, and the pool is closed afterwards."""

    async def run(fault):
        pool = Pool(size=2, isolation=isolation, cancel_grace=0.5)
        with fault, bearing():
            async with pool:
                job = await pool.submit(nap, 100)
                await pool.submit(nap, 100)
                await pool.submit(nap, 100)
                await asyncio.sleep(1)
                with bearing():
                    await pool.shutdown(1)
        with bearing():
            if pool.status is not PoolStatus.CLOSED:
                await pool.shutdown(1)
        assert now() <= 10
        assert job.status in (JobStatus.CANCELLED, JobStatus.FAILED)

    fail_calls(run)


@pytest.mark.parametrize("error", ERRORS)
@virtual
async def test_without_a_thread_each_plain_function_fails(isolation, error):
    """No thread can be started, and 400 plain functions are in line: each fails with a clear error, none hangs."""
    async with Pool(size=2, isolation=isolation) as pool:
        with FailingCall("Thread.start", error=error, lasting=True) as fault:
            jobs = [await pool.submit(sleepy, n) for n in range(400)]
            for job in jobs:
                await job.wait()
        assert fault.failed
        for job in jobs:
            assert job.status is JobStatus.FAILED
            assert isinstance(job.exception(), RuntimeError)
            assert "no thread could be started" in str(job.exception())
            assert isinstance(job.exception().__cause__, error)
        await works(pool)


@virtual
async def test_a_plain_function_without_a_thread_may_be_tried_again(isolation):
    """That there was no thread is an error like any other: `retry` applies."""
    async with Pool(size=2, isolation=isolation, retry=Retry(attempts=3, delay=1, jitter=0)) as pool:
        with FailingCall("Thread.start"):
            job = await pool.submit(sleepy, "at last")
            assert await job == "at last"
        assert job.attempt == 2


@virtual
async def test_an_outcome_reaches_the_loop_although_the_loop_would_not_hear_it_at_first(isolation):
    """A thread that cannot wake the loop tries again, as often as it takes."""
    async with Pool(size=2, isolation=isolation) as pool:
        with FailingCall("call_soon_threadsafe", error=RuntimeError) as fault:
            assert await asyncio.gather(*[pool.run(sleepy, n) for n in range(20)]) == list(range(20))
        assert fault.failed
        await works(pool)


def at_depth(frames, function):
    """Call a function with so many frames left below it, in a recursion that goes to the limit."""

    def down(left):
        return function() if left <= 0 else down(left - 1)

    here, frame = 0, sys._getframe()
    while frame is not None:
        here, frame = here + 1, frame.f_back
    gc.disable()  # a collection down there would run the finalizers of whatever was left by others, without frames
    try:
        return down(sys.getrecursionlimit() - here - frames - 3)
    finally:
        gc.enable()


@pytest.mark.parametrize("isolation", BOTH)
@pytest.mark.parametrize("act", ["submit", "delayed", "named", "offload", "cancel", "resume", "listened"])
def test_a_call_from_a_deep_recursion_leaves_a_pool_that_works(act, isolation):
    """However few frames are left: the call raises, or it is done; the pool works in either case."""

    async def run(frames):
        async with Pool(size=2, isolation=isolation) as pool:
            if act == "listened":
                pool.listen(lambda event: None)
            if act == "cancel":
                victim = await pool.submit(nap, 5)
                await settle()
            if act == "resume":
                pool.pause()
                waiting = await pool.submit(echo, 1)
            call = {
                "submit": lambda: pool.submit_nowait(echo),
                "delayed": lambda: pool.with_options(delay=1, total_timeout=3).submit_nowait(echo),
                "named": lambda: pool.with_options(id="mine", group="ours").submit_nowait(nap, 1),
                "offload": lambda: pool.submit_nowait(sleepy),
                "cancel": lambda: victim.cancel(),
                "resume": pool.resume,
                "listened": lambda: pool.submit_nowait(echo),
            }[act]
            done = None
            try:
                done = at_depth(frames, call)
            except RecursionError:
                pass
            if act == "resume":
                pool.resume()
                await waiting
            if act == "cancel":
                victim.cancel()
                await victim.wait()
            elif done is not None:
                await done
            await settle()
            await works(pool)
            return done is not None

    done = [run_virtual(lambda frames=frames: run(frames)) for frames in range(1, 40)]
    assert done[0] is False
    if act not in ("resume", "cancel"):
        assert done[-1] is True


def _real_loops():
    yield pytest.param(asyncio.run, id="asyncio")
    try:
        import uvloop
    except ImportError:
        return
    yield pytest.param(uvloop.run, id="uvloop")


@pytest.mark.parametrize("isolation", BOTH)
@pytest.mark.parametrize("run", [*_real_loops()])
def test_any_call_may_fail_once_on_a_real_loop(run, isolation):
    """Coroutines, threads and retries, on the loops that programs run on."""

    async def flaky():
        if current_job().attempt < 2:
            raise ValueError

    async def scenario(fault):
        async with asyncio.timeout(20), Pool(size=2, isolation=isolation) as pool:
            with fault:
                await gather(pool, [(echo, 1), (nap, 0.001), (sleepy, 2), (nap, 0), (sleepy, 3)])
                await gather(pool.with_options(retry=Retry(attempts=2, delay=0.001), timeout=5), [(flaky,)])
            assert await asyncio.gather(*[pool.run(f, n) for n in range(4) for f in (echo, sleepy)])
            await pool.join()
            numbers = pool.statistics()
            assert_counters_balance(numbers)

    failed = fail_calls(scenario, run=run)
    assert failed.calls["call_soon"] > 0
    assert failed.calls["call_soon_threadsafe"] > 0
    assert failed.calls["Thread.start"] > 0
