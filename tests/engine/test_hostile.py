"""What users' objects do when they are asked: an exception, a result, a function whose every method raises."""

import asyncio
import contextlib
import dataclasses
import gc
import io
import logging
import sys
import traceback
import weakref

import anyio
import pytest
from helpers import assert_counters_balance, double, now, virtual
from hostile import BASE_KINDS, Frozen, all_bombs, exceptions, object_whose_everything_raises

from aiopool import Pool, Retry, current_job
from aiopool._engine.engine import Engine
from aiopool._runtime.faults import (
    describe,
    describe_error,
    describe_fields,
    drop_frame,
    is_kind,
    log_fault,
    set_context,
    traceback_of,
    type_name,
)
from aiopool.instrumentation.logging import configure_logging, reset_logging

pytestmark = pytest.mark.both_isolations

HOSTILE = exceptions()
kinds = pytest.mark.parametrize("kind", [ValueError, *BASE_KINDS])


def raised(make):
    """Return an exception that was raised, with its traceback."""
    try:
        raise make()
    except BaseException:
        return sys.exc_info()[1]


# -- describing ----------------------------------------------------------------------------------------------------


@kinds
def test_any_object_is_described(kind):
    """What cannot be printed is described by its type."""
    thing = object_whose_everything_raises(kind)
    assert describe(thing) == "<Hostile object, whose repr() fails>"
    assert type_name(thing) == "Hostile"
    error = type("Broken", (Exception,), all_bombs(kind))()
    assert describe_error(error) == "Broken: <its str() fails>"


def test_what_can_be_printed_is_printed():
    """An ordinary exception is described as a traceback does it."""
    assert describe([1, "x"]) == "[1, 'x']"
    assert describe_error(KeyError("x")) == "KeyError: 'x'"
    assert describe_error(ValueError()) == "ValueError"


def test_a_text_of_a_class_of_its_own_is_made_plain():
    """A `__str__` may return a str whose methods raise later."""
    text = type("Text", (str,), {"__format__": all_bombs(ValueError)["__format__"]})("hello")
    error = type("Error", (Exception,), {"__str__": lambda self: text})()
    assert describe_error(error) == "Error: hello"
    assert type(describe(type("Thing", (), {"__repr__": lambda self: text})())) is str


def test_a_record_is_printed_whatever_it_holds():
    """A dataclass of ours can be printed if a field of it cannot."""

    @dataclasses.dataclass(frozen=True)
    class Record:
        number: int
        thing: object

        __repr__ = describe_fields

    assert repr(Record(1, object_whose_everything_raises())).endswith(
        "Record(number=1, thing=<Hostile object, whose repr() fails>)"
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_any_exception_can_be_asked(name):
    """Its kind, its traceback and its words are had without a call of a method that may raise."""
    error = raised(HOSTILE[name])
    assert is_kind(error, BaseException)
    assert not is_kind(error, (SystemExit, KeyboardInterrupt))
    trace = traceback_of(error)
    assert trace is not None
    assert trace.tb_frame.f_code.co_name == "raised"
    assert drop_frame(error) is error
    assert traceback_of(error) is trace.tb_next
    assert describe_error(error)
    set_context(error, ValueError())


@pytest.mark.parametrize("name", HOSTILE)
def test_any_exception_can_be_logged(name, caplog, capsys):
    """A line is written, with the type and the place, and nothing raises; also with a chain."""
    error = raised(HOSTILE[name])
    set_context(error, raised(HOSTILE[name]))
    log_fault(logging.getLogger("aiopool.job"), "it failed: %s, %s", error, 3, error=error)
    (record,) = caplog.records
    assert record.getMessage().startswith("it failed: ")
    assert "in raised" in caplog.text
    assert type_name(error) in caplog.text
    assert "Logging error" not in capsys.readouterr().err


@kinds
def test_a_handler_that_raises_hides_nothing(kind, capsys):
    """The line, the fault and the handler's own fault go to stderr."""

    class Broken(logging.Handler):
        def emit(self, record):
            raise kind("the disk is full")

    logger = logging.getLogger("aiopool.test.broken")
    handler = Broken()
    logger.addHandler(handler)
    try:
        log_fault(logger, "it failed: %s", "x", error=raised(Frozen))
    finally:
        logger.removeHandler(handler)
    err = capsys.readouterr().err
    assert "it failed: x" in err
    assert "Frozen" in err
    assert "the disk is full" in err


def test_a_line_without_an_error_is_not_lost_in_a_handler_that_raises(capsys):
    """It goes to stderr, with the handler's fault and nothing else."""

    class Broken(logging.Handler):
        def emit(self, record):
            raise OSError("the disk is full")

    logger = logging.getLogger("aiopool.test.broken")
    handler = Broken()
    logger.addHandler(handler)
    try:
        log_fault(logger, "%s was left behind", "x")
    finally:
        logger.removeHandler(handler)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == "x was left behind"
    assert rest[0].startswith("Traceback")
    assert "OSError: the disk is full" in rest


# -- in a pool: each exception in each place -------------------------------------------------------------------------


def job_that_raises(error):
    async def job(*args):
        raise error

    return job


async def outcome(awaitable):
    """Await, and return what was raised."""
    try:
        await awaitable
    except BaseException:
        return sys.exc_info()[1]
    return None


async def in_its_first_step(pool, error):
    assert await outcome(pool.run(job_that_raises(error))) is error


async def after_a_wait(pool, error):
    async def job():
        await asyncio.sleep(0)
        raise error

    assert await outcome(pool.run(job)) is error


async def from_a_future(pool, error):
    async def job():
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, error)
        await future

    assert await outcome(pool.run(job)) is error


async def from_a_thread(pool, error):
    def job():
        raise error

    assert await outcome(pool.run(job)) is error


async def from_a_nested_job(pool, error):
    async def outer():
        await pool.run(job_that_raises(error))

    assert await outcome(pool.run(outer)) is error


async def in_a_map(pool, error):
    assert await outcome(pool.map(job_that_raises(error), [1, 2, 3]).collect()) is error
    results = await pool.map(job_that_raises(error), [1, 2], errors="yield").collect()
    assert [result.error is error for result in results] == [True, True]
    assert "error=" in repr(results)


async def in_a_group(pool, error):
    async def block():
        async with pool.group("g") as group:
            await group.submit(job_that_raises(error))

    caught = await outcome(block())
    assert caught is error or caught.exceptions[0] is error  # Python groups no exception that hides its class


async def in_a_group_that_collects(pool, error):
    async with pool.group("g", on_error="collect") as group:
        await group.submit(job_that_raises(error))
    assert group.errors[0] is error


async def out_of_the_body_of_a_group(pool, error):
    async def block():
        async with pool.group("g"):
            raise error

    caught = await outcome(block())
    assert caught is error or caught.exceptions[0] is error


async def after_retries(pool, error):
    attempts = []

    async def job():
        attempts.append(1)
        raise error

    job = await pool.with_options(retry=Retry(attempts=3, on=BaseException, delay=1)).submit(job)
    assert await outcome(job) is error
    assert len(attempts) == 3
    assert [record.error is error for record in job.outcome().history] == [True, True]
    assert repr(job.outcome())


async def with_a_predicate(pool, error):
    retry = Retry(attempts=2, delay=1, on=lambda e: e is error, give_up_on=lambda e: False)
    assert await outcome(pool.with_options(retry=retry).run(job_that_raises(error))) is error


async def with_a_time_limit(pool, error):
    async def job():
        try:
            await asyncio.sleep(10)
        finally:
            raise error

    assert await outcome(pool.with_options(timeout=1).run(job)) is error


async def with_a_cancel(pool, error):
    async def job():
        try:
            await asyncio.sleep(10)
        finally:
            raise error

    job = await pool.submit(job)
    await asyncio.sleep(1)
    job.cancel()
    assert await outcome(job) is error


async def after_its_job_was_left_behind(pool, error):
    async def job():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        with anyio.CancelScope(shield=True):
            while now() < 10:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1)
        raise error

    job = await pool.submit(job)
    await asyncio.sleep(1)
    job.cancel()
    await outcome(job)
    await asyncio.sleep(60)
    assert pool.statistics().leaked == 0


async def for_nobody(pool, error):
    await pool.submit(job_that_raises(error))
    await pool.join()


async def for_a_callback(pool, error):
    got = []
    job = await pool.submit(job_that_raises(error))
    job.add_done_callback(lambda job: got.append(job.exception()))
    await outcome(job)
    assert got[0] is error


async def for_a_listener(pool, error):
    texts = []
    with pool.listen(lambda event: texts.append(repr(event))) as listener:
        await outcome(pool.run(job_that_raises(error)))
        assert listener.active
    assert any("error=" in text for text in texts)


async def in_a_source(pool, error):
    def items():
        yield 1
        raise error

    assert await outcome(pool.map(double, items()).collect()) is error


PLACES = [
    in_its_first_step,
    after_a_wait,
    from_a_future,
    from_a_thread,
    from_a_nested_job,
    in_a_map,
    in_a_group,
    in_a_group_that_collects,
    out_of_the_body_of_a_group,
    after_retries,
    with_a_predicate,
    with_a_time_limit,
    with_a_cancel,
    after_its_job_was_left_behind,
    for_nobody,
    for_a_callback,
    for_a_listener,
    in_a_source,
]


@virtual(leaks=False)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("told", ["log", "on_error", "configure_logging"])
async def test_whatever_an_exception_does_it_is_its_jobs_failure(isolation, place, told, caplog):
    """The awaiter gets that very object, wherever it comes from; no worker is harmed, and the numbers add up."""
    reported, failure = [], ""
    options = {"on_error": lambda job, error: reported.append(error)} if told == "on_error" else {}
    if told == "configure_logging":
        configure_logging("DEBUG", stream=io.StringIO())
    try:
        for name, make in HOSTILE.items():
            error = make()
            async with Pool(2, isolation=isolation, cancel_grace=1, **options) as pool:
                try:
                    await place(pool, error)
                    assert await pool.run(double, 4) == 8
                    assert await pool.map(double, [1, 2, 3]).collect() == [2, 4, 6]
                    numbers = pool.statistics()
                    assert (numbers.restarts, numbers.running, numbers.busy) == (0, 0, 0)
                    assert_counters_balance(numbers)
                except BaseException as fault:
                    failure = f"{name}: {describe_error(fault)}\n{''.join(traceback.format_tb(traceback_of(fault)))}"
            assert not failure  # as a text: pytest could not print it
            if place is for_nobody and told == "on_error":
                assert reported.pop() is error
            elif place is for_nobody:
                assert any(type_name(error) in f"{record.exc_text}{record.getMessage()}" for record in caplog.records)
            caplog.clear()
            assert not reported or place in (after_its_job_was_left_behind, in_a_map), name
            reported.clear()
    finally:
        reset_logging()


@virtual
@kinds
async def test_a_hostile_result_argument_or_function_harms_nobody(isolation, kind):
    """What a job is given and what it returns is passed on as it is, in the loop and in threads."""
    thing = object_whose_everything_raises(kind)

    async def give():
        return thing

    def take(value):
        return value

    async with Pool(2, isolation=isolation) as pool:
        assert await pool.run(give) is thing
        assert await pool.run(take, thing) is thing
        results = await pool.map(take, [thing, thing], errors="yield").collect()
        assert results[0].value is thing
        assert repr(results)
        job = await pool.submit(give)
        await job
        assert repr(job.outcome())
        numbers = pool.statistics()
        assert (numbers.restarts, numbers.busy) == (0, 0)
        assert_counters_balance(numbers)


# -- frames and references -------------------------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize(
    "place", ["first step", "after a wait", "a future", "a thread", "a nested job", "a wrong call"]
)
async def test_frames_of_a_failure_may_be_cleared(isolation, place):
    """As `assertRaises` of unittest does it: no frame of the pool's that still runs is in a traceback."""

    async def work():
        if place == "after a wait":
            await asyncio.sleep(1)
        elif place == "a future":
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(1, future.set_exception, LookupError())
            await future
        elif place == "a nested job":
            await pool.run(job_that_raises(LookupError()))
        raise LookupError

    def plain():
        raise LookupError

    async with Pool(1, isolation=isolation) as pool:
        if place == "a wrong call":
            error = await outcome(pool.run(double, 1, 2))
        else:
            error = await outcome(pool.run(plain if place == "a thread" else work))
        traceback.clear_frames(error.__traceback__)
        assert await asyncio.wait_for(pool.run(double, 1), 10) == 2
        assert pool.statistics().restarts == 0
        report = await asyncio.wait_for(pool.shutdown(1, 1), 10)
        assert report.clean


@virtual
async def test_frames_of_an_error_may_be_cleared_while_the_job_goes_on(isolation):
    """A job that catches an error and clears its frames, and then waits on, is not closed."""

    async def work():
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, future.set_exception, LookupError())
        try:
            await future
        except LookupError as error:
            caught = error
        task = asyncio.create_task(asyncio.sleep(1))
        task.add_done_callback(lambda _: traceback.clear_frames(caught.__traceback__.tb_next))
        await asyncio.sleep(2)
        return "to its end"

    async with Pool(1, isolation=isolation) as pool:
        assert await asyncio.wait_for(pool.run(work), 10) == "to its end"
        assert pool.statistics().restarts == 0


@virtual
async def test_an_error_that_a_job_has_handled_is_not_kept(isolation):
    """It is gone while the job goes on, however it came: raised in the job, or by what it waited for."""
    kept = []

    async def work():
        for wait in (False, True):
            future = asyncio.get_running_loop().create_future()
            error = Frozen()
            kept.append(weakref.ref(error))
            if wait:
                asyncio.get_running_loop().call_soon(future.set_exception, error)
            else:
                future.set_exception(error)
            del error
            with contextlib.suppress(Frozen):
                await future
            del future
        await asyncio.sleep(10)

    async with Pool(1, isolation=isolation) as pool:
        job = await pool.submit(work)
        await asyncio.sleep(5)
        assert job.status == "running"
        gc.collect()
        assert [ref() for ref in kept] == [None, None]


@virtual
@pytest.mark.parametrize("what", ["busy", "idle", "cleaning up"])
@pytest.mark.parametrize("closed", ["its coroutine", "the inside of it"])
async def test_a_worker_whose_coroutine_is_closed_is_replaced(isolation, what, closed):
    """Its job fails, its slot is free, the shutdown does not wait for it; and it does not count as a crash."""

    async def work():
        try:
            await asyncio.sleep(5)
        finally:
            if what == "cleaning up":
                with contextlib.suppress(GeneratorExit):
                    await asyncio.sleep(1)

    async with Pool(1, isolation=isolation) as pool:
        await pool.run(double, 1)
        job = None if what == "idle" else await pool.submit(work)
        await asyncio.sleep(1)
        (worker,) = [task for task in asyncio.all_tasks() if task.get_name().startswith("pool-worker")]
        inside = isolation == "scope" and closed == "the inside of it"
        (worker.get_coro().cr_await if inside else worker.get_coro()).close()
        await asyncio.sleep(10)
        if job is not None and isolation == "task":
            assert await job is None  # it has a task of its own
        elif job is not None:
            error = await outcome(job)
            if what == "cleaning up":  # which nothing runs any more
                assert (type(error), str(error)) == (RuntimeError, "coroutine ignored GeneratorExit")
            else:
                assert type(error) is GeneratorExit
        assert await asyncio.wait_for(pool.run(double, 1), 10) == 2
        assert (pool.statistics().busy, pool.statistics().restarts) == (0, 0)
        await asyncio.wait_for(pool.shutdown(1, 1), 20)


@virtual
@pytest.mark.parametrize("kind", [GeneratorExit, type("Exit", (GeneratorExit,), {})])
async def test_a_future_that_fails_with_a_generator_exit_ends_the_job_that_waits_for_it(isolation, kind):
    """asyncio closes what waits for it: the job fails with that, nobody else does, and it does not count as a crash."""

    async def work():
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, future.set_exception, kind("of the future"))
        await future

    async with Pool(1, isolation=isolation) as pool:
        job = await pool.submit(work)
        behind = await pool.submit(double, 1)
        assert isinstance(await outcome(job), GeneratorExit)
        assert await asyncio.wait_for(behind, 10) == 2
        assert (pool.statistics().busy, pool.statistics().restarts) == (0, 0)
        await asyncio.wait_for(pool.shutdown(1, 1), 20)


@virtual
async def test_a_job_whose_worker_is_closed_is_retried_once(isolation):
    """What it raises then is a failure of its attempt like any other: the next attempt runs, in another worker."""
    attempts = []

    async def work():
        attempts.append(current_job().worker_id)
        if len(attempts) > 1:
            return "at last"
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, future.set_exception, GeneratorExit())
        try:
            await future
        finally:
            raise OSError

    async with Pool(1, isolation=isolation, retry=Retry(attempts=3, delay=1)) as pool:
        job = await pool.submit(work)
        assert await asyncio.wait_for(job, 20) == "at last"
        assert [type(record.error) for record in job.outcome().history] == [OSError]
        assert (len(attempts), attempts[0] == attempts[1]) == (2, isolation == "task")
        assert (pool.statistics().retries, pool.statistics().restarts) == (1, 0)
        assert_counters_balance(pool)


@virtual
async def test_a_job_that_cannot_be_ended_when_its_worker_is_closed_is_ended_all_the_same(monkeypatch):
    """The engine fails where it ends the job: what closes the worker ends it, and says why; the next one runs."""
    original, faults = Engine.attempt_ended, [RuntimeError("in the engine")]

    def fails_once(*args):
        if faults:
            raise faults.pop()
        return original(*args)

    async with Pool(1, isolation="scope") as pool:
        job = await pool.submit(asyncio.sleep, 5)
        await asyncio.sleep(1)
        (worker,) = [task for task in asyncio.all_tasks() if task.get_name().startswith("pool-worker")]
        monkeypatch.setattr(Engine, "attempt_ended", fails_once)
        worker.get_coro().close()
        with pytest.raises(RuntimeError, match="the coroutine of its worker was closed"):
            await asyncio.wait_for(job, 10)
        assert await asyncio.wait_for(pool.run(double, 1), 10) == 2
        assert (pool.statistics().busy, pool.statistics().restarts) == (0, 0)
