"""How a pool is made, opened, used and left.

Elsewhere: the end of a program with an open pool is in test_signals.py, the loops that these tests run on are in
conftest.py. All of this also runs with `-X dev` and `PYTHONASYNCIODEBUG=1`.
"""

import asyncio
import contextlib
import contextvars
import functools
import gc
import math
import random
import signal
import threading
import warnings
from unittest.mock import AsyncMock

import anyio
import pytest
from helpers import double, forever

from aiopool import (
    JobCancelledError,
    JobOptions,
    Pool,
    PoolClosedError,
    PoolStatus,
    Priority,
    Retry,
)
from aiopool.events import JobSubmitted
from aiopool.health import HealthMonitor
from aiopool.testing import DELAYS, FailingCall, advance, explore, settle, wait_until

virtual = pytest.mark.loops("virtual")
real = pytest.mark.loops("real")


async def fail(error):
    raise error


async def submit_later(pool):
    # In a later turn: with eager tasks, a task group of Python 3.12 whose task fails at once leaves a cancel behind.
    await asyncio.sleep(0)
    await pool.submit(double, 1)


@virtual
@pytest.mark.parametrize("grouped", [False, True])
async def test_a_body_that_meets_a_shutdown_lets_the_jobs_finish(new_pool, grouped):
    """Its `PoolClosedError`, alone or in a group of its own, does not cut short the shutdown that it met."""
    pool = new_pool(size=1)
    with pytest.raises(BaseExceptionGroup if grouped else PoolClosedError):
        async with pool:
            jobs = [await pool.submit(asyncio.sleep, 5) for _ in range(2)]
            closing = asyncio.create_task(pool.shutdown())
            await settle()
            if grouped:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(submit_later(pool))
            await pool.submit(double, 1)
    assert [job.status for job in jobs] == ["succeeded"] * 2
    assert asyncio.get_running_loop().time() == 10
    assert (await closing).clean


@virtual
async def test_another_error_of_a_body_that_meets_a_shutdown_cancels_the_jobs(new_pool):
    """A group that has more than the pool's refusal in it is an error like any other."""
    with pytest.raises(ExceptionGroup):
        async with new_pool(size=1) as pool:
            job = await pool.submit(asyncio.sleep, 5)
            await settle()
            closing = asyncio.create_task(pool.shutdown())
            await settle()
            raise ExceptionGroup("two", [PoolClosedError(), ValueError()])
    assert job.cancelled()
    await closing


@virtual
async def test_events_of_a_closed_pool_end_at_once(new_pool):
    """Whoever listens too late hears nothing, and does not wait for it."""
    async with new_pool() as pool:
        pass
    assert [event async for event in pool.events()] == []


@virtual
async def test_a_loop_that_refused_to_be_measured_is_asked_again(new_pool):
    """A probe that fails, for lack of memory, does not count as one that has asked for the measurement."""
    pool = new_pool()
    monitor = HealthMonitor(pool)
    assert monitor.report().status == "failing"
    async with pool:
        with FailingCall("call_soon_threadsafe"), pytest.raises(MemoryError):
            monitor.report()
        assert monitor.report().status == "healthy"
        await settle()
        assert pool._state.lag is not None


@virtual
async def test_a_listener_may_be_a_block(new_pool):
    """Outside of the block it hears nothing."""
    heard = []
    async with new_pool() as pool:
        with pool.listen(heard.append):
            await pool.run(double, 1)
        count = len(heard)
        await pool.run(double, 1)
    assert count > 0
    assert len(heard) == count


@virtual
async def test_a_listener_that_cancels_a_job_as_it_is_submitted(new_pool):
    """The caller of `run` hears of it as of every cancel; the function is not called."""
    async with new_pool() as pool:
        listener = pool.listen(lambda event: pool.get_job(event.job_id).cancel("not this one"), JobSubmitted)
        with pytest.raises(JobCancelledError, match="not this one"):
            await pool.run(fail, ValueError())
        listener.remove()


@virtual
async def test_a_group_waits_for_no_job_that_ended_as_it_was_submitted(new_pool):
    """A listener cancels it: it is no member, and the block is left."""
    async with new_pool() as pool:
        with pool.listen(lambda event: pool.get_job(event.job_id).cancel(), JobSubmitted):
            async with pool.group() as group:
                job = await group.submit(asyncio.sleep, 100)
                assert job.cancelled()
                assert group.jobs == []


@virtual
async def test_a_callback_may_be_taken_back_by_a_block(new_pool):
    """After the block a shutdown does not call it."""
    called = []
    async with new_pool() as pool:
        with pool.on_shutdown(lambda: called.append("in the block")):
            assert await pool.run(double, 1) == 2
        pool.on_shutdown(lambda: called.append("at the end"))
    assert called == ["at the end"]


@virtual
async def test_a_job_with_an_id_is_submitted_in_the_pools_thread_only(new_pool):
    """As every job: another thread is told what to write."""
    refused = []

    def elsewhere():
        with pytest.raises(RuntimeError, match="in another thread"):
            pool.with_options(id="mine").submit_nowait(double, 1)
        refused.append(True)

    async with new_pool() as pool:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert refused
        assert pool.get_job("mine") is None


@virtual
async def test_a_view_may_take_the_delay_back(new_pool):
    """`delay=None` is no delay, in a view of a view that has one."""
    async with new_pool() as pool:
        later = pool.with_options(delay=5)
        assert await later.with_options(delay=None).run(double, 1) == 2
        assert asyncio.get_running_loop().time() == 0
        assert await later.with_options(id="mine").run(double, 1) == 2
        assert asyncio.get_running_loop().time() == 5


# -- making and opening --------------------------------------------------------------------------------------


def make_in_a_thread():
    made = []
    thread = threading.Thread(target=lambda: made.append(Pool(size=1)))
    thread.start()
    thread.join()
    return made[0]


@pytest.mark.parametrize("make", [lambda: Pool(size=1), make_in_a_thread], ids=["no loop", "another thread"])
def test_a_pool_is_made_without_a_loop_and_bound_when_it_is_opened(make):
    """Construction starts nothing; the pool belongs to the loop that opens it."""
    before = threading.active_count(), signal.getsignal(signal.SIGINT)
    pool = make()
    assert pool.status is PoolStatus.NEW
    assert (threading.active_count(), signal.getsignal(signal.SIGINT)) == before

    async def main():
        async with pool:
            assert pool.status is PoolStatus.OPEN
            return await pool.run(double, 21)

    assert asyncio.run(main()) == 42
    assert pool.status is PoolStatus.CLOSED


def test_one_pool_is_opened_in_many_loops_one_after_the_other(isolation):
    """A pool of a module serves 100 programs in a row."""
    pool = Pool(size=2, isolation=isolation)

    async def main(n):
        async with pool:
            return await pool.run(double, n)

    assert [asyncio.run(main(n)) for n in range(100)] == [2 * n for n in range(100)]


def test_nothing_global_changes_before_the_pool_is_opened():
    """Import and construction install no signal handler, and closing puts back what opening replaced."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    pool = Pool(handle_signals=True)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    async def main():
        started_with = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        async with pool:
            assert signal.getsignal(signal.SIGTERM) != started_with[1]
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == started_with

    asyncio.run(main())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@real
@pytest.mark.parametrize("state", ["new", "closed"])
async def test_submit_outside_of_the_open_pool_is_refused_and_touches_nothing(new_pool, state):
    """An immediate error; the function is not called, and no coroutine is left un-awaited."""
    pool, calls = new_pool(), []

    async def job():
        calls.append(1)

    if state == "closed":
        async with pool:
            pass
    expected = RuntimeError if state == "new" else PoolClosedError
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(expected, match="pool"):
            await pool.submit(job)
        with pytest.raises(expected):
            pool.submit_nowait(job)
        with pytest.raises(expected):
            await pool.run(job)
        with pytest.raises(expected):
            await pool.with_options(priority=1).submit(job)
        with pytest.raises(expected):
            await pool.map(double, [1]).collect()
    assert calls == []


@real
async def test_a_pool_is_opened_once_at_a_time(new_pool):
    """The second `async with` gets a clear error, also from another task, and the first is unharmed."""
    pool = new_pool()

    async def open_it():
        async with pool:
            pass

    async with pool:
        job = await pool.submit(forever)
        with pytest.raises(RuntimeError, match="once at a time"):
            await open_it()
        with pytest.raises(RuntimeError, match="once at a time"):
            await asyncio.create_task(open_it())
        assert await pool.run(double, 1) == 2
        job.cancel()


@real
async def test_a_pool_can_be_opened_again_after_it_was_closed(new_pool):
    """The next opening begins with clean books."""
    pool = new_pool()
    for _ in range(3):
        async with pool:
            assert await pool.run(double, 1) == 2
            assert pool.statistics().submitted == 1


# -- leaving -------------------------------------------------------------------------------------------------


def nap(release):
    release.wait()


async def empty(pool):
    pass


async def queued(pool):
    for n in range(5):
        await pool.submit(asyncio.sleep, n)


async def running(pool):
    await pool.submit(asyncio.sleep, 3)
    await settle()


async def in_backoff(pool):
    job = await pool.with_options(retry=Retry(attempts=2, backoff="fixed", delay=60, jitter=0)).submit(fail, OSError())
    job.add_done_callback(lambda job: None)
    await settle()
    assert job.status == "scheduled"
    asyncio.get_running_loop().create_task(reap(job))


async def reap(job):
    with contextlib.suppress(Exception):
        await job


async def delayed(pool):
    await pool.with_options(delay=3600).submit(double, 1)


async def offloading(pool):
    await pool.submit(threading.Event().wait, 0.02)
    await pool.submit(len, "four")


PLACES = [empty, queued, running, in_backoff, delayed, offloading]


@virtual
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_leaving_waits_for_all_work_wherever_it_is(new_pool, place):
    """A normal exit is a join; nothing is cancelled, nothing is left (conftest looks)."""
    async with new_pool(size=2) as pool:
        await place(pool)
    now = pool.statistics()
    assert (now.cancelled, now.queued, now.scheduled, now.running) == (0, 0, 0, 0)


class BodyError(Exception):
    pass


@virtual
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_an_exception_of_the_body_leaves_as_it_is_and_cancels_the_rest(new_pool, place):
    """The same object comes out, at once; running, queued and waiting jobs end cancelled."""
    error = BodyError()
    pool = new_pool(size=2)
    with pytest.raises(BodyError) as caught:
        async with pool:
            await place(pool)
            jobs = pool.jobs()
            raise error
    assert caught.value is error
    assert error.__cause__ is None
    if place is not offloading:  # a thread cannot be cancelled
        assert asyncio.get_running_loop().time() == 0
        assert all(job.cancelled() for job in jobs)


@virtual
async def test_the_exception_of_the_body_wins_over_all_others(new_pool, caplog):
    """A job, a callback of the shutdown and a done-callback fail as well: they are told, and do not replace it."""
    pool, error = new_pool(on_error=lambda job, error: told.append(error)), BodyError()
    told = []

    async def clean_up():
        try:
            await forever()
        finally:
            raise KeyError("in the clean-up of a job")

    @pool.on_shutdown
    def callback():
        raise OSError("callback")

    with pytest.raises(BodyError) as caught:
        async with pool:
            job = await pool.submit(clean_up)
            job.add_done_callback(lambda job: 1 / 0)
            await settle()
            raise error
    assert caught.value is error
    assert [type(e) for e in told] == [KeyError]
    assert isinstance(job.exception(), KeyError)
    report = await pool.shutdown()
    assert [type(e) for e in report.callback_errors] == [OSError]
    assert "ZeroDivisionError" in caplog.text


# -- what is refused where it is written ---------------------------------------------------------------------

NAN, INF = math.nan, math.inf

REFUSED = [
    ({"size": 0}, ValueError),
    ({"size": -1}, ValueError),
    ({"size": True}, TypeError),
    ({"size": 1.5}, TypeError),
    ({"size": "3"}, TypeError),
    ({"size": None}, TypeError),
    ({"queue_size": -1}, ValueError),
    ({"queue_size": 2.0}, TypeError),
    ({"queue_size": False}, TypeError),
    ({"timeout": NAN}, ValueError),
    ({"timeout": -1}, ValueError),
    ({"timeout": "5"}, TypeError),
    ({"timeout": True}, TypeError),
    ({"queue_timeout": -0.1}, ValueError),
    ({"total_timeout": -INF}, ValueError),
    ({"cancel_grace": NAN}, ValueError),
    ({"cancel_grace": None}, TypeError),
    ({"priority": NAN}, TypeError),
    ({"priority": None}, TypeError),
    ({"priority": 1j}, TypeError),
    ({"priority": 1.0}, TypeError),
    ({"priority": True}, TypeError),
    ({"retry": 3}, TypeError),
    ({"aging": 0}, ValueError),
    ({"aging": NAN}, ValueError),
    ({"isolation": "thread"}, ValueError),
    ({"overflow": "drop"}, ValueError),
    ({"on_leak": None}, ValueError),
    ({"max_threads": 0}, ValueError),
    ({"shutdown_timeout": -1}, ValueError),
]


@pytest.mark.parametrize(("options", "error"), REFUSED, ids=lambda value: repr(value) if type(value) is dict else "")
def test_a_setting_that_cannot_work_is_refused_where_it_is_written(options, error):
    """The pool says no, and names the setting, before anything runs."""
    with pytest.raises(error, match=next(iter(options))):
        Pool(**options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"priority": NAN}, TypeError),
        ({"priority": "1"}, TypeError),
        ({"timeout": NAN}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"total_timeout": "1"}, TypeError),
        ({"delay": -1}, ValueError),
        ({"delay": NAN}, ValueError),
        ({"id": 1.5}, TypeError),
        ({"id": True}, TypeError),
        ({"id": ("a",)}, TypeError),
        ({"name": 1}, TypeError),
        ({"group": 1}, TypeError),
        ({"retry": "always"}, TypeError),
    ],
    ids=repr,
)
def test_an_option_that_cannot_work_is_refused_where_it_is_written(options, error):
    """A view, a decorator and a group refuse it, not a worker."""
    with pytest.raises(error, match=next(iter(options))):
        Pool().with_options(**options)
    with pytest.raises(error, match=next(iter(options))):
        JobOptions(**options)


@real
async def test_the_widest_values_are_values(new_pool):
    """Enormous sizes, priorities and limits, infinity and zero, all work."""
    async with new_pool(size=3, queue_size=10**9, timeout=INF, cancel_grace=0, max_threads=10**9) as pool:
        for options in (
            {"priority": 10**30},
            {"priority": -(10**30)},
            {"priority": Priority.BACKGROUND},
            {"timeout": INF, "queue_timeout": INF, "total_timeout": INF},
            {"timeout": 1e308, "total_timeout": 1e308, "queue_timeout": 1e308},
            {"timeout": None, "queue_timeout": None, "total_timeout": None, "retry": None, "delay": None},
            {"delay": 0},
            {"id": ""},
            {"name": ""},
        ):
            assert await pool.with_options(**options).run(double, 1) == 2, options
        job = await pool.with_options(delay=INF).submit(double, 1)
        assert job.status == "scheduled"
        assert job.cancel()


# -- what can be run -----------------------------------------------------------------------------------------


class Adder:
    def __init__(self, n=10):
        self.n = n

    async def method(self, x):
        return self.n + x

    @classmethod
    async def of_class(cls, x):
        return 10 + x

    @staticmethod
    async def static(x):
        return 10 + x

    async def __call__(self, x):
        return self.n + x

    def plain(self, x):
        return self.n + x


class PlainCall:
    def __call__(self, x):
        return 10 + x


async def add(n, x):
    return n + x


def plain_add(n, x):
    return n + x


@functools.lru_cache
def cached(x):
    return 10 + x


@functools.wraps(add)
def plain_wrapper(x):
    return 10 + x


class Sum(int):
    def __new__(cls, x):
        return int.__new__(cls, 10 + x)


CALLABLES = {
    "function": functools.partial(add, 10),
    "partial of partial": functools.partial(functools.partial(add), 10),
    "object": Adder(),
    "method": Adder().method,
    "class method": Adder.of_class,
    "static method": Adder.static,
    "partial of object": functools.partial(Adder()),
    "mock": AsyncMock(side_effect=Adder().method),
    "plain partial": functools.partial(plain_add, 10),
    "plain method": Adder().plain,
    "plain object": PlainCall(),
    "plain lambda": lambda x: 10 + x,
    "builtin": (10).__add__,
    "cached": cached,
    "wrapper": plain_wrapper,
    "class": Sum,
}


@real
@pytest.mark.parametrize("function", CALLABLES.values(), ids=CALLABLES)
async def test_whatever_can_be_called_can_be_run(new_pool, function):
    """Async ones in the loop, plain ones in a thread."""
    async with new_pool() as pool:
        assert await pool.run(function, 5) == 15


async def agen():
    yield 1


@real
@pytest.mark.parametrize(
    ("function", "line"),
    [
        (agen, "async generator"),
        (functools.partial(agen), "async generator"),
        (Adder.method, None),
        (3, "not 3"),
        (None, "not None"),
        ("double", "not 'double'"),
    ],
    ids=["async generator", "its partial", "missing self", "int", "None", "str"],
)
async def test_what_cannot_be_run_is_refused_or_fails_by_itself(new_pool, function, line):
    """Refused at submit, with the reason; a wrong call is the job's own TypeError, never a worker's."""
    async with new_pool(size=1) as pool:
        with pytest.raises(TypeError, match=line):
            await pool.run(function)
        assert await pool.run(double, 1) == 2
        assert pool.statistics().restarts == 0


@real
async def test_a_coroutine_object_is_refused_with_the_line_to_write(new_pool):
    """It cannot be started later; it is closed, so that nobody warns about it."""
    async with new_pool() as pool:
        with pytest.raises(TypeError, match=r"submit\(double, \.\.\.\)"):
            await pool.submit(double(1))
        with pytest.raises(TypeError, match=r"submit\(double, \.\.\.\)"):
            pool.submit_nowait(double(1))
        gc.collect()


@real
async def test_a_plain_function_that_returns_an_awaitable_is_told_so(new_pool):
    """`submit(lambda: fetch(url))` runs in a thread and has no loop to await in."""
    async with new_pool() as pool:
        with pytest.raises(TypeError, match="Submit the async function itself"):
            await pool.run(lambda: double(1))


@real
async def test_an_option_among_the_arguments_gets_the_line_to_write(new_pool):
    """Options and arguments never mix; a function that takes the word gets it."""

    async def fetch(timeout):
        return timeout

    async with new_pool() as pool:
        assert await pool.run(fetch, timeout=30) == 30
        with pytest.raises(TypeError, match=r"pool.with_options\(timeout=5\).submit\(double, \.\.\.\)"):
            await pool.submit(double, 1, timeout=5)


@real
async def test_a_keyword_is_looked_at_however_often_another_was_right(new_pool):
    """Arguments like those of the last call are known; others, and those of another function, are refused at once."""

    async def fetch(url, *, depth=0):
        return url, depth

    async def fetch_all(url):
        return url

    class Client:
        async def fetch(self, url):
            return url

    async with new_pool() as pool:
        for depth in range(3):
            assert await pool.run(fetch, "a", depth=depth) == ("a", depth)
            assert await pool.run(fetch, "a", depth=depth) == ("a", depth)
            with pytest.raises(TypeError, match="unexpected keyword argument 'deep'"):
                pool.submit_nowait(fetch, "a", deep=depth)
            with pytest.raises(TypeError, match="missing a required argument: 'url'"):
                pool.submit_nowait(fetch, depth=depth)
            for other in (Client().fetch, fetch_all):
                with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
                    pool.submit_nowait(other, "a", depth=depth)


VALUES = {
    "None": None,
    "an exception": ValueError("returned, not raised"),
    "NotImplemented": NotImplemented,
    "a class": ValueError,
    "a tuple of an error": (ValueError(), None),
    "Ellipsis": ...,
    "an empty tuple": (),
}


@real
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_whatever_a_job_returns_is_its_result(new_pool, value, kind):
    """The same object, taken for a value, by every waiter and every way to ask."""

    async def give():
        return value

    async with new_pool() as pool:
        job = await pool.submit(give if kind == "async" else lambda: value)
        assert await job is value
        assert await job is value
        assert job.result() is value
        assert job.exception() is None
        assert job.outcome().value is value
        assert job.status == "succeeded"


@real
async def test_a_future_that_an_async_job_returns_is_a_value(new_pool):
    """It is handed over, not awaited."""
    future = asyncio.get_running_loop().create_future()

    async def give():
        return future

    async with new_pool() as pool:
        assert await pool.run(give) is future


# -- dropped, repeated, carried over ---------------------------------------------------------------------------


@real
@pytest.mark.leaves_behind("asyncio tells of each worker that goes with its pool")
@pytest.mark.parametrize("held_by", ["nothing", "a cycle"])
async def test_a_dropped_pool_says_so_once_and_not_before_its_jobs_have_ended(held_by):
    """What runs keeps the pool alive, and so its line; then there is one ResourceWarning, and nothing is left."""
    pool = Pool(size=3, name="forgotten")
    await pool.__aenter__()
    go, jobs = asyncio.Event(), []
    for _ in range(5):
        jobs.append(await pool.submit(go.wait))
    await asyncio.sleep(0)
    if held_by == "a cycle":
        cycle = [pool]
        cycle.append(cycle)
        del cycle
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        del pool
        gc.collect()
        await asyncio.sleep(0.01)
        gc.collect()
        assert heard == []
        go.set()
        await wait_until(lambda: all(job.done() for job in jobs))
        assert [job.status for job in jobs] == ["succeeded"] * 5
        jobs.clear()
        await asyncio.sleep(0.01)
        gc.collect()
        await wait_until(lambda: not others())
    assert [(w.category, "forgotten" in str(w.message)) for w in heard] == [(ResourceWarning, True)]


def test_a_pool_that_outlives_its_loop_says_so_and_nothing_else(isolation, caplog):
    """Dropped when its loop is closed, a pool can do nothing but tell."""
    pool = Pool(isolation=isolation, size=3)
    with asyncio.Runner() as runner:
        runner.run(pool.__aenter__())
    assert pool.status is not PoolStatus.NEW
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del pool
        gc.collect()
    assert [record for record in caplog.records if "destroyed" in record.message] == []


def others():
    return asyncio.all_tasks() - {asyncio.current_task()}


async def start_stop(chance, isolation):
    """Open, hand in a few jobs of each kind, and leave at some moment, in some way."""
    before = asyncio.all_tasks()
    for _ in range(4):
        pool = Pool(size=chance.randint(1, 3), queue_size=chance.choice([None, 0, 2]), isolation=isolation)
        jobs = []
        with contextlib.suppress(BodyError, TimeoutError, PoolClosedError):
            async with asyncio.timeout(chance.choice([None, *DELAYS])), pool:
                for _ in range(chance.randint(0, 5)):
                    options = pool.with_options(timeout=chance.choice([None, 0.25]), delay=chance.choice([None, 0.25]))
                    jobs.append(await options.submit(asyncio.sleep, chance.choice(DELAYS)))
                    jobs[-1].add_done_callback(lambda job: None)
                await asyncio.sleep(chance.choice(DELAYS))
                if chance.random() < 0.3:
                    raise BodyError
                if chance.random() < 0.3:
                    await pool.shutdown(chance.choice(DELAYS))
        assert all(job.done() for job in jobs)
        now = pool.statistics()
        assert now.submitted == now.succeeded + now.timed_out + now.cancelled
        assert now.busy == now.leaked == 0
    await settle()
    assert asyncio.all_tasks() == before
    assert asyncio.get_running_loop().armed() == []


def test_open_and_close_at_random_moments(isolation, seeds):
    """1,000 short lives; each leaves no task and no timer."""

    async def scenario(chance):
        await start_stop(chance, isolation)

    assert explore(scenario, seeds=seeds(125)).schedules > 0.8 * len(seeds(125))


@pytest.mark.soak
def test_open_and_close_at_many_random_moments(isolation):
    """The same for longer."""

    async def scenario(chance):
        await start_stop(chance, isolation)

    explore(scenario, seeds=range(10_000))


@real
async def test_opened_in_one_task_and_closed_in_another(new_pool):
    """No task group and no cancel scope is held open in between."""
    pool = new_pool()
    await asyncio.create_task(pool.__aenter__())
    job = await pool.submit(double, 4)
    await asyncio.create_task(pool.__aexit__(None, None, None))
    assert await job == 8


@real
async def test_opened_inside_a_scope_and_closed_outside_of_it(new_pool):
    """Anyio scopes and `asyncio.timeout` may end while the pool goes on, as with an async fixture."""
    stack = contextlib.AsyncExitStack()
    with anyio.CancelScope() as scope:
        async with asyncio.timeout(100):
            pool = await stack.enter_async_context(new_pool())
        scope.cancel()
    assert await pool.run(double, 1) == 2
    with anyio.CancelScope():
        await stack.aclose()


async def fixture_like(new_pool):
    async with new_pool() as pool:
        yield pool


@real
async def test_a_generator_may_hold_the_pool_open(new_pool):
    """Pytest's async fixtures do so; set-up and teardown run in tasks of their own."""
    generator = fixture_like(new_pool)
    pool = await asyncio.create_task(anext(generator))
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, double, 1)
    with pytest.raises(StopAsyncIteration):
        await asyncio.create_task(anext(generator))
    assert pool.status is PoolStatus.CLOSED


@real
async def test_serve_runs_inside_a_task_group_of_anyio(new_pool):
    """`await tg.start(pool.serve)` hands over the open pool; cancelling the group ends it."""
    async with anyio.create_task_group() as group:
        pool = await group.start(new_pool().serve)
        job = await pool.submit(forever)
        assert await pool.run(double, 2) == 4
        group.cancel_scope.cancel()
    assert pool.status is PoolStatus.CLOSED
    assert job.cancelled()
    assert not job.leaked


@real
async def test_serve_ends_when_the_pool_is_shut_down(new_pool):
    """`serve()` without a task group, ended from a job."""
    pool = new_pool()

    async def stop():
        await pool.shutdown()

    serving = asyncio.create_task(pool.serve())
    await wait_until(lambda: pool.status is PoolStatus.OPEN)
    await pool.submit(stop)
    await serving
    assert pool.status is PoolStatus.CLOSED


@virtual
async def test_an_idle_pool_does_nothing(new_pool):
    """At rest no timer is armed, and the loop does not turn."""
    loop = asyncio.get_running_loop()
    async with new_pool(size=50, timeout=30, total_timeout=60) as pool:
        await pool.run(double, 1)
        await asyncio.sleep(60)  # when the last of the limits would have struck
        assert loop.armed() == []
        turns, steps = loop.turns, loop.steps
        await asyncio.sleep(3600)
        assert loop.turns - turns <= 2
        assert loop.steps - steps <= 2


@real
async def test_the_handle_is_gone_when_nobody_holds_it(new_pool):
    """A job needs no reference to run, and none is kept when it is done."""
    done = asyncio.Event()
    variable = contextvars.ContextVar("variable")

    async def job():
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(0)
        done.set()

    async with new_pool() as pool:
        variable.set(object())
        await pool.submit(job)
        gc.collect()
        await done.wait()


@real
async def test_jobs_outlive_a_collector_that_never_rests(new_pool):
    """No task of ours is only weakly referenced."""
    async with new_pool(size=20) as pool:
        seen = []

        async def job(n):
            for _ in range(3):
                gc.collect(0)
                await asyncio.sleep(0)
            seen.append(n)

        for n in range(200):
            await pool.submit(job, n)
    assert sorted(seen) == list(range(200))


@real
async def test_a_cancelled_job_says_so_by_an_ordinary_exception(new_pool):
    """`except Exception` sees it; the waiter's own cancel it does not."""
    async with new_pool() as pool:
        job = await pool.submit(forever)
        job.cancel("no need")
        with pytest.raises(JobCancelledError, match="no need"):
            await job
        assert asyncio.current_task().cancelling() == 0


@virtual
async def test_random_rests_change_nothing(new_pool):
    """Jobs of random length, as many as there are slots, in the time that the longest line takes."""
    chance = random.Random(3)
    async with new_pool(size=4) as pool:
        for _ in range(100):
            await pool.submit(asyncio.sleep, chance.choice(DELAYS))
        await advance(0)
        assert pool.statistics().running == 4
