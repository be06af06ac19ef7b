"""Layers around attempts: their order, their places, what they see; the breaker, hedging, the cache, and the others."""

import asyncio
import logging
import pickle
import threading

import anyio
import pytest
from helpers import assert_counters_balance, echo, nap, now, virtual

import aiopool
from aiopool import JobCancelledError, JobOptions, JobTimeoutError, Pool, Retry, current_job
from aiopool.layers import Cache, CircuitBreaker, CircuitOpenError, Hedge, log_calls, validate_arguments
from aiopool.testing import advance, explore, settle, wait_until

pytestmark = pytest.mark.both_isolations


def noting(log, name):
    async def layer(job, call):
        log.append(f"{name}>")
        try:
            return await call()
        finally:
            log.append(f"<{name}")

    return layer


# -- places and order --------------------------------------------------------------------------------------------------


@virtual
async def test_layers_add_up_from_the_pool_to_the_view(isolation):
    """The pool's are outermost, then the group's, the function's, the view's; in each list the first is outermost."""
    log = []

    @aiopool.job(layers=[noting(log, "function")])
    async def work():
        log.append("work")
        return 7

    async with Pool(isolation=isolation, layers=[noting(log, "pool 1"), noting(log, "pool 2")]) as pool:
        async with pool.group(options=JobOptions(layers=[noting(log, "group")])) as group:
            view = group.with_options(layers=[noting(log, "view")])
            assert await view.with_options(layers=(noting(log, "inner"),)).run(work) == 7
        names = ["pool 1", "pool 2", "group", "function", "view", "inner"]
        assert log == [f"{name}>" for name in names] + ["work"] + [f"<{name}" for name in reversed(names)]
        log.clear()
        assert await pool.with_options(layers=None).run(echo, 1) == 1
        assert log == []
        results = await pool.map(echo, [1, 2], options=JobOptions(layers=[noting(log, "map")])).collect()
        assert (results, log.count("map>")) == ([1, 2], 2)
        log.clear()
        options = JobOptions(layers=[noting(log, "item")])
        assert await pool.map(echo, [1, 2], options=lambda item: options).collect() == [1, 2]
        assert log.count("item>") == 2


@virtual
async def test_a_layer_sees_each_attempt(isolation):
    """It is called anew for each attempt, with the job; it may answer in place of the function, or ask twice."""
    seen = []

    async def layer(job, call):
        seen.append((job.id, job.attempt, job is current_job(), call.function, call.args, call.keywords))
        return await call()

    async def flaky(x, *, y):
        if current_job().attempt == 1:
            raise OSError
        return x + y

    async def instead(job, call):
        return "instead"

    async def twice(job, call):
        return [await call(), await call.with_arguments(2)()]

    async with Pool(isolation=isolation, retry=Retry(attempts=2, delay=1)) as pool:
        assert await pool.with_options(layers=[layer]).run(flaky, 1, y=2) == 3
        assert seen == [(1, n, True, flaky, (1,), {"y": 2}) for n in (1, 2)]
        assert await pool.with_options(layers=[instead]).run(flaky, 1, y=2) == "instead"
        assert await pool.with_options(layers=[twice]).run(echo, 1) == [1, 2]


@virtual
async def test_cancel_and_time_limits_go_through_layers(isolation):
    """A layer is cancelled with its attempt, and its clean-up runs; the outcome is that of any other job."""
    log = []
    async with Pool(isolation=isolation) as pool:
        view = pool.with_options(layers=[noting(log, "a")])
        job = await view.submit(nap, 100)
        await settle()
        await pool.cancel(job.id)
        with pytest.raises(JobCancelledError):
            await job
        assert log == ["a>", "<a"]
        with pytest.raises(JobTimeoutError):
            await view.with_options(timeout=1).run(nap, 100)
        assert_counters_balance(pool)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (5, "write a list of layers"),
        ("abc", "write a list"),
        ([5], "no async function"),
        ([lambda job, call: call()], "no async function.*return await call"),
        ([CircuitBreaker], r"a class: write layers=\[Layer\(\.\.\.\)\]"),
    ],
)
def test_what_is_no_layer_is_refused(layers, words):
    """Where it is written, with the line to write."""
    for place in (Pool, Pool().with_options, JobOptions):
        with pytest.raises(TypeError, match=words):
            place(layers=layers)


# -- plain functions ---------------------------------------------------------------------------------------------------


def add(x, y=0):
    return x + y


def wait_for(event):
    while not event.wait(0.001):
        aiopool.from_thread.check_cancelled()


@pytest.mark.loops("real")
async def test_a_plain_function_inside_of_layers(new_pool):
    """It runs in a thread, in the context of its job; the layers are in the loop."""
    log = []
    async with new_pool(2, layers=[noting(log, "a")]) as pool:
        assert await pool.run(add, 1, y=2) == 3
        assert log == ["a>", "<a"]
        assert await pool.run(threading.get_ident) != threading.get_ident()
        assert await pool.run(lambda: current_job().name) == "test_a_plain_function_inside_of_layers.<locals>.<lambda>"
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 / 0)
        with pytest.raises(TypeError, match="returned an awaitable"):
            await pool.run(lambda: echo(1))


@pytest.mark.loops("real")
async def test_a_cancelled_thread_inside_of_layers_ends_before_its_job(new_pool):
    """It is asked to stop; while it runs, the job has not ended, and holds its slot."""
    event, begun, log = threading.Event(), threading.Event(), []

    def deaf_to_it():
        begun.set()
        event.wait(30)

    async with new_pool(1, layers=[noting(log, "a")], cancel_grace=20) as pool:
        job = await pool.submit(wait_for, event)
        await wait_until(lambda: log == ["a>"])
        await pool.cancel(job.id)
        assert (job.cancelled(), log) == (True, ["a>", "<a"])
        deaf = await pool.submit(deaf_to_it)
        waiting = await pool.submit(add, 1)
        await wait_until(begun.is_set)
        deaf.cancel()
        await asyncio.sleep(0)
        assert waiting.status == "queued"
        event.set()
        assert await waiting == 1
        assert deaf.done()


@pytest.mark.loops("real")
async def test_a_call_inside_of_layers_that_no_thread_has_begun(new_pool):
    """Its job is cancelled at once."""
    event = threading.Event()
    async with new_pool(2, layers=[noting([], "a")], max_threads=1) as pool:
        first = await pool.submit(event.wait, 30)
        await wait_until(lambda: pool.statistics().threads_busy == 1)
        second = await pool.submit(add, 1)
        await wait_until(lambda: second.status == "running")
        await pool.cancel(second.id)
        assert second.cancelled()
        event.set()
        assert await first is True


@pytest.mark.loops("real")
async def test_a_deaf_thread_inside_of_layers_is_leaked(new_pool):
    """It is told again and again; its waiters are released, and its slot is held until it has ended."""
    begun, event = threading.Event(), threading.Event()

    def deaf_to_it():
        begun.set()
        event.wait(30)

    async with new_pool(1, layers=[noting([], "a")], cancel_grace=0.02) as pool:
        job = await pool.submit(deaf_to_it)
        await wait_until(begun.is_set)
        await pool.cancel(job.id)
        assert job.leaked
        waiting = await pool.submit(add, 1)
        await asyncio.sleep(0)
        assert waiting.status == "queued"
        event.set()
        assert await waiting == 1


@pytest.mark.loops("real")
async def test_a_function_in_a_process_inside_of_layers(new_pool):
    """Layers see its arguments, and may change them."""
    seen = []

    async def layer(job, call):
        seen.append((call.function, call.args, call.keywords))
        return await call.with_arguments(call.args[0] + 1, **call.keywords)()

    async with new_pool(1, layers=[layer], offload="process") as pool:
        assert await pool.run(pow, 2, exp=5) == 243
    assert seen == [(pow, (2,), {"exp": 5})]


# -- circuit breaker ---------------------------------------------------------------------------------------------------


@virtual
async def test_a_breaker_opens_tries_and_closes(isolation):
    """Five failures in a row open it for 60 s; then one attempt tries; its success closes it, its failure opens it."""
    down, calls = [True], []

    async def request():
        calls.append(now())
        if down:
            raise OSError
        return "ok"

    breaker = CircuitBreaker(failures=5, recovery=60, name="api")
    async with Pool(isolation=isolation, layers=[breaker]) as pool:
        for _ in range(5):
            assert breaker.state == "closed"
            with pytest.raises(OSError):
                await pool.run(request)
        assert breaker.state == "open"
        with pytest.raises(CircuitOpenError, match=r"api is open after 5 failures in a row: .* in 60 s") as met:
            await pool.run(request)
        assert met.value.retry_after == 60
        assert breaker.statistics() == aiopool.layers.BreakerStatistics("open", 5, 1, 1, 60)
        await asyncio.sleep(60)
        assert breaker.state == "half_open"
        with pytest.raises(OSError):
            await pool.run(request)
        assert (breaker.state, len(calls)) == ("open", 6)
        await asyncio.sleep(60)
        down.clear()
        assert await pool.run(request) == "ok"
        assert breaker.statistics() == aiopool.layers.BreakerStatistics("closed", 0, 2, 1, 0)


@virtual
async def test_half_open_lets_one_through_and_a_cancelled_probe_makes_way(isolation):
    """While one tries, the others are refused; a probe that is cancelled says nothing, and another may try."""
    breaker = CircuitBreaker(failures=1, recovery=10, on=OSError)

    async def fail():
        raise OSError

    async with Pool(isolation=isolation, layers=[breaker], on_error=lambda *_: None) as pool:
        await (await pool.submit(fail)).wait()
        await asyncio.sleep(10)
        probe = await pool.submit(nap, 5)
        await settle()
        for _ in range(3):
            with pytest.raises(CircuitOpenError, match="half-open") as met:
                await pool.run(echo)
            assert met.value.retry_after == 1
        probe.cancel()
        await probe.wait()
        assert breaker.state == "half_open"
        assert await pool.run(echo, 1) == 1
        assert breaker.state == "closed"


@virtual
async def test_a_server_that_hangs_opens_the_breaker(isolation):
    """The time limit of an attempt is a failure, a probe's too; a cancel and the total time limit are none."""
    breaker = CircuitBreaker(failures=2, recovery=10, on=TimeoutError)
    async with Pool(isolation=isolation, layers=[breaker], on_error=lambda *_: None) as pool:
        limited, overall = pool.with_options(timeout=1), pool.with_options(total_timeout=1)
        for view, failures in ((limited, 1), (overall, 1), (limited, 2)):
            await (await view.submit(nap, 60)).wait()
            assert breaker.statistics().failures == failures
        assert breaker.state == "open"
        with pytest.raises(CircuitOpenError):
            await pool.run(echo)
        await asyncio.sleep(10)
        with pytest.raises(JobTimeoutError):
            await pool.with_options(timeout=1).run(nap, 60)
        assert (breaker.state, breaker.statistics().opened) == ("open", 2)


@virtual
async def test_other_errors_and_late_outcomes_do_not_count(isolation):
    """What `on` does not mean shows that somebody answered; and what began before it opened says nothing any more."""
    breaker = CircuitBreaker(failures=2, recovery=10, on=OSError)

    async def fail(error, seconds=0):
        await asyncio.sleep(seconds)
        raise error

    async with Pool(isolation=isolation, layers=[breaker], on_error=lambda *_: None) as pool:
        for error in (OSError, ValueError, OSError, ValueError):
            await (await pool.submit(fail, error)).wait()
        assert breaker.state == "closed"
        late = await pool.submit(nap, 5)
        late_failure = await pool.submit(fail, OSError, 11)
        for _ in range(2):
            await (await pool.submit(fail, OSError)).wait()
        assert breaker.state == "open"
        await late.wait()
        assert breaker.state == "open"
        await late_failure.wait()
        assert (breaker.state, breaker.statistics().opened) == ("half_open", 1)


@virtual
async def test_a_retry_waits_until_the_breaker_lets_one_through(isolation):
    """`CircuitOpenError` names the seconds, and `Retry` obeys."""
    breaker = CircuitBreaker(failures=1, recovery=30)
    starts = []

    async def flaky():
        starts.append(now())
        if len(starts) == 1:
            raise OSError
        return "ok"

    retry = Retry(attempts=3, delay=1, jitter=0)
    async with Pool(isolation=isolation, layers=[breaker], retry=retry) as pool:
        assert await pool.run(flaky) == "ok"
    assert starts == [0, 30]


def test_a_breaker_refuses_what_makes_no_sense():
    """Where it is written; and its error survives a pickle."""
    for arguments in ({"failures": 0}, {"recovery": -1}, {"probes": 0}):
        with pytest.raises(ValueError):
            CircuitBreaker(**arguments)
    with pytest.raises(TypeError, match="CircuitBreaker: on"):
        CircuitBreaker(on=5)
    copy = pickle.loads(pickle.dumps(CircuitOpenError("open", 3.5)))
    assert (copy.args, copy.retry_after) == (("open",), 3.5)


# -- hedging -----------------------------------------------------------------------------------------------------------


@virtual
async def test_a_second_call_wins_and_the_first_is_cancelled(isolation):
    """It starts when the first is slow; the loser has ended when the job ends."""
    log = []

    async def request():
        n = len(log)
        log.append(("start", n, now()))
        try:
            await asyncio.sleep(10 if n == 0 else 1)
            return n
        finally:
            log.append(("end", n, now()))

    async with Pool(isolation=isolation, layers=[Hedge(after=0.5)]) as pool:
        assert await pool.run(request) == 1
        assert log == [("start", 0, 0), ("start", 1, 0.5), ("end", 1, 1.5), ("end", 0, 1.5)]
        assert now() == 1.5


@virtual
async def test_hedging_when_calls_fail(isolation):
    """A failure starts the next at once; if all fail, the first error is raised; a quick success needs no second."""
    starts = []

    async def request(outcomes):
        starts.append(now())
        error, seconds = outcomes.pop(0)
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return "ok"

    async with Pool(isolation=isolation, layers=[Hedge(after=5, most=3)]) as pool:
        assert await pool.run(request, [(None, 1)]) == "ok"
        assert len(starts) == 1
        assert await pool.run(request, [(OSError("1"), 1), (None, 1)]) == "ok"
        assert now() == 3
        with pytest.raises(OSError, match="1"):
            await pool.run(request, [(OSError("1"), 1), (OSError("2"), 1), (OSError("3"), 1)])
        assert_counters_balance(pool)


@virtual
async def test_what_else_has_failed_is_told(isolation, caplog):
    """The error of a call that did not decide is logged, once: before the winner, or in the clean-up of a loser."""
    calls = []

    async def request():
        calls.append(now())
        if len(calls) == 1:
            raise OSError("first")
        if len(calls) == 2:
            try:
                await asyncio.sleep(10)
            finally:
                raise KeyError("clean-up")
        return "ok"

    async with Pool(isolation=isolation, layers=[Hedge(after=1, most=3)]) as pool:
        with caplog.at_level(logging.WARNING, "aiopool.layers"):
            assert await pool.run(request) == "ok"
    assert caplog.text.count("beside the one that decided") == 2
    assert "OSError: first" in caplog.text
    assert "KeyError: 'clean-up'" in caplog.text


@virtual
async def test_a_cancelled_hedge_leaves_nothing(isolation):
    """All calls have ended when the job has; also one that takes its time."""
    ended = []

    async def request():
        try:
            await asyncio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.2)
            ended.append(now())

    async with Pool(isolation=isolation, layers=[Hedge(after=1, most=3)]) as pool:
        job = await pool.submit(request)
        await advance(2.5)
        await pool.cancel(job.id)
        assert job.cancelled()
        assert ended == [2.7] * 3


# -- cache -------------------------------------------------------------------------------------------------------------


@virtual
async def test_a_cache_keeps_results_for_a_while(isolation):
    """By function and arguments; not errors; the one that was not asked for the longest goes first."""
    calls = []

    async def square(x, *, plus=0):
        calls.append(x)
        if x < 0:
            raise ValueError
        return x * x + plus

    cache = Cache(seconds=10, most=2)
    async with Pool(isolation=isolation, layers=[cache]) as pool:
        assert [await pool.run(square, 2) for _ in range(3)] == [4, 4, 4]
        assert await pool.run(square, 2, plus=1) == 5
        assert (calls, cache.hits, cache.misses, len(cache)) == ([2, 2], 2, 2, 2)
        assert await pool.run(square, 2) == 4
        assert await pool.run(square, 3) == 9
        assert await pool.run(square, 2) == 4
        assert calls == [2, 2, 3]
        for _ in range(2):
            with pytest.raises(ValueError):
                await pool.run(square, -1)
        assert calls == [2, 2, 3, -1, -1]
        await asyncio.sleep(10)
        assert await pool.run(square, 2) == 4
        assert calls[-1] == 2
        cache.clear()
        assert (len(cache), bool(cache)) == (0, True)
        with pytest.raises(TypeError, match="write Cache\\(key="):
            await pool.run(echo, [1])
        keyed = Cache(key=lambda call: call.args[0][0] or None)
        view = pool.with_options(layers=None).with_options(layers=[keyed])
        assert [await view.run(echo, [1, n]) for n in range(2)] == [[1, 0], [1, 0]]
        assert [await view.run(echo, [0, n]) for n in range(2)] == [[0, 0], [0, 1]]


# -- the others --------------------------------------------------------------------------------------------------------


@virtual
async def test_log_calls(isolation, caplog):
    """A line for each attempt, with its seconds; failures as warnings; arguments only if they are asked for."""
    async with Pool(isolation=isolation, on_error=lambda *_: None) as pool:
        with caplog.at_level(logging.INFO, "aiopool.calls"):
            await pool.with_options(layers=[log_calls()], id="j").run(nap, 2)
            with pytest.raises(TypeError):
                await pool.with_options(layers=[log_calls(arguments=True)]).run(nap, "x", value=3)
    first, second = caplog.messages
    assert first == "nap id 'j' attempt 1 returned after 2.000 s"
    assert second == "nap id 2 attempt 1 ('x', value=3) raised TypeError after 0.000 s"
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


@virtual
async def test_validate_arguments(isolation):
    """Pydantic converts and checks them; what does not fit is refused before the function is called."""
    calls = []

    async def send(to: str, times: int = 1, *, urgent: bool = False) -> str:
        calls.append((to, times, urgent))
        return to

    async with Pool(isolation=isolation, layers=[validate_arguments()]) as pool:
        assert await pool.run(send, "a", "3", urgent="yes") == "a"
        assert await pool.run(send, "b") == "b"
        with pytest.raises(ValueError, match="valid integer"):
            await pool.run(send, "a", "many")
    assert calls == [("a", 3, True), ("b", 1, False)]


# -- once --------------------------------------------------------------------------------------------------------------


class Source:
    """Counts its calls."""

    def __init__(self):
        self.calls = 0

    async def fetch(self, seconds=1.0, error=None):
        self.calls += 1
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return object()


@virtual
async def test_cancelling_one_of_three_leaves_the_others_their_result(isolation):
    """One job for three who wait; the cancel of one is the cancel of one."""
    source = Source()
    async with Pool(isolation=isolation) as pool:
        once = pool.once("rates")
        tasks = [asyncio.create_task(once.run(source.fetch)) for _ in range(3)]
        await advance(0.5)
        tasks[0].cancel()
        first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(first, asyncio.CancelledError)
        assert second is third
        assert (source.calls, now()) == (1, 1)
        assert pool._state.flights == {}
        assert await once.run(source.fetch) is not second
        assert source.calls == 2


@virtual
async def test_when_all_are_cancelled_the_job_is(isolation):
    """The last takes it along, and waits for its end; who asks afterwards gets another."""
    source = Source()
    async with Pool(isolation=isolation) as pool:
        tasks = [asyncio.create_task(pool.once("k").run(source.fetch, 100)) for _ in range(3)]
        await advance(1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert pool.statistics().cancelled == 1
        assert pool.statistics().running == 0
        await pool.once("k").run(source.fetch)
        assert source.calls == 2


@virtual
async def test_a_failure_is_that_of_all_who_wait_and_is_reported_to_nobody_else(isolation):
    """The very same object for each; not kept; and no report, for it was taken."""
    source, reported = Source(), []
    error = OSError("down")
    async with Pool(isolation=isolation, on_error=lambda job, error: reported.append(error)) as pool:
        once = pool.once("k", keep=60)
        outcomes = await asyncio.gather(*(once.run(source.fetch, 1, error) for _ in range(3)), return_exceptions=True)
        assert all(outcome is error for outcome in outcomes)
        assert await once.run(source.fetch) is not None
        assert source.calls == 2
    assert reported == []


@virtual
async def test_a_result_is_kept(isolation):
    """For so many seconds after its end; `submit` gives the job itself, also while it is kept."""
    source = Source()
    async with Pool(isolation=isolation) as pool:
        once = pool.once("k", keep=10)
        first = await once.run(source.fetch)
        await asyncio.sleep(9)
        assert await once.run(source.fetch) is first
        assert (await once.submit(source.fetch)).result() is first
        await asyncio.sleep(2)
        assert await once.run(source.fetch) is not first
        assert source.calls == 2
        assert len(pool._state.flights) == 1
    for keep in (-1, "1m"):
        with pytest.raises((ValueError, TypeError)):
            pool.once("k", keep=keep)
    with pytest.raises(TypeError):
        pool.once([])


@virtual
async def test_who_holds_the_job_keeps_it_alive(isolation):
    """With a caller of `submit` there, the cancel of the last caller of `run` does not cancel the job."""
    source = Source()
    async with Pool(isolation=isolation) as pool:
        job = await pool.once("k").submit(source.fetch, 5)
        task = asyncio.create_task(pool.once("k").run(source.fetch))
        await advance(1)
        task.cancel()
        await asyncio.wait([task])
        assert await job is not None
        assert source.calls == 1
        other = await pool.once("k").submit(source.fetch, 5)
        task = asyncio.create_task(pool.once("k").run(source.fetch))
        await advance(1)
        other.cancel()
        with pytest.raises(JobCancelledError):
            await task


@virtual
async def test_nobody_joins_a_job_that_was_told_to_stop(isolation):
    """Who asks while a cancelled job cleans up gets a job of its own."""
    source = Source()

    async def slow_to_end():
        try:
            return await source.fetch(5)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.5)

    async with Pool(isolation=isolation) as pool:
        first = await pool.once("k").submit(slow_to_end)
        await advance(1)
        first.cancel()
        assert await pool.once("k").run(source.fetch) is not None
        assert first.cancelled()
        assert pool._state.flights == {}


@virtual
async def test_a_group_shares_with_itself_only(isolation):
    """A group waits for its own jobs, and cancels them: the key of somebody else is another one."""
    source = Source()
    async with Pool(isolation=isolation) as pool, pool.group() as group:
        inner, outer = await group.once("k").submit(source.fetch), await pool.once("k").submit(source.fetch)
        assert inner is not outer
        assert await group.once("k").submit(source.fetch) is inner
        group.cancel()
        assert await outer is not None


@virtual
async def test_the_first_waits_for_room_and_is_cancelled(isolation):
    """One of those who wait behind it hands in its own call."""
    source = Source()
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 10)
        tasks = [asyncio.create_task(pool.once("k").run(source.fetch)) for _ in range(3)]
        await advance(1)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        second, third = await asyncio.gather(*tasks[1:])
        assert second is third
        assert source.calls == 1
        assert_counters_balance(pool)


@virtual
async def test_once_inside_of_jobs_does_not_deadlock(isolation):
    """Jobs of a pool of size 1 without a queue all want the same: each lends its slot while it waits."""
    source = Source()
    async with Pool(1, 0, isolation=isolation) as pool:

        async def work():
            return await pool.once("k").run(source.fetch)

        results = await asyncio.gather(*(pool.run(work) for _ in range(5)))
        assert len(set(map(id, results))) <= 5
        assert source.calls >= 1
        assert pool.statistics().busy == 0


def flights(isolation):
    """Callers come, wait and are cancelled at any moment."""

    async def run(rng):
        source = Source()
        async with Pool(2, 1, isolation=isolation, on_error=lambda *_: None) as pool:

            async def caller():
                try:
                    keep = rng.choice((0, 0.5))
                    await pool.once(rng.choice("ab"), keep=keep).run(source.fetch, rng.choice((0, 0.25, 1)))
                except JobCancelledError:
                    raise AssertionError("a caller who was not cancelled met a cancel") from None

            tasks = []
            for _ in range(12):
                tasks.append(asyncio.create_task(caller()))
                await asyncio.sleep(rng.choice((0, 0, 0.25)))
                if rng.random() < 0.4:
                    rng.choice(tasks).cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            for outcome in done:
                assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
            await asyncio.sleep(1)
            assert pool._state.flights == {}
            assert_counters_balance(pool)

    run.__name__ = run.__qualname__ = f"flights[{isolation}]"
    return run


def test_once_under_many_schedules(isolation, seeds):
    """Nobody meets the cancel of another, and no key is left."""
    explore(flights(isolation), seeds=seeds(150))
