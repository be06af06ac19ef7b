"""`FailingCall` and `fail_calls`: the n-th call of the loop fails, and a run that goes wrong is replayed."""

import asyncio
import contextlib
import threading

import pytest

from aiopool.testing import (
    CALLS,
    ERRORS,
    FailingCall,
    fail_calls,
    run_virtual,
)


def _real_loops():
    yield pytest.param(asyncio.run, id="asyncio")
    try:
        import uvloop
    except ImportError:
        return
    yield pytest.param(uvloop.run, id="uvloop")


RUNS = [pytest.param(run_virtual, id="virtual"), *_real_loops()]


def call(loop, name):
    """Make one call of the named kind, and return a future that is done when it has had its effect."""
    done = loop.create_future()

    def finish():
        if not done.done():
            done.set_result(None)

    async def main():
        finish()

    if name == "create_task":
        coroutine = main()
        try:
            loop.create_task(coroutine)
        except RecursionError:
            coroutine.close()
            raise
    elif name == "Thread.start":
        threading.Thread(target=lambda: loop.call_soon_threadsafe(finish)).start()
    elif name == "call_later":
        loop.call_later(0.001, finish)
    elif name == "call_at":
        loop.call_at(loop.time() + 0.001, finish)
    else:
        getattr(loop, name)(finish)
    return done


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", CALLS)
def test_the_call_that_was_named_fails_and_the_others_have_their_effect(name, run):
    """On any loop: the second of three calls raises; after the block the method is what it was."""

    async def main():
        loop = asyncio.get_running_loop()
        before = threading.Thread.start
        with FailingCall(name, 2, RecursionError) as fault:
            first = call(loop, name)
            with pytest.raises(RecursionError, match=f"made to fail: {name}, call 2"):
                call(loop, name)
            third = call(loop, name)
            await asyncio.wait_for(asyncio.gather(first, third), 5)
        assert fault.failed
        assert fault.count >= 3
        assert not vars(loop).keys() & set(CALLS)
        assert threading.Thread.start is before

    run(main())


def test_all_calls_from_the_nth_on_fail_if_that_is_asked_for():
    """`lasting`: the second call and each one after it."""

    async def main():
        loop = asyncio.get_running_loop()
        with FailingCall("call_soon", 2, lasting=True) as fault:
            loop.call_soon(int)
            for _ in range(3):
                with pytest.raises(MemoryError):
                    loop.call_soon(int)
        assert fault.count == 4
        assert repr(fault) == "FailingCall('call_soon', 2, MemoryError, lasting=True)"

    run_virtual(main)


def test_the_calls_with_which_asyncio_wakes_its_tasks_are_not_counted():
    """Tasks, futures and events go on: no program can do anything about a wake-up that asyncio has lost."""

    async def main():
        with FailingCall("call_soon") as fault:
            event = asyncio.Event()
            tasks = [asyncio.ensure_future(event.wait()) for _ in range(3)]
            await asyncio.sleep(0)
            event.set()
            await asyncio.gather(*tasks)
            await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])
        assert (fault.count, fault.failed) == (0, False)

    run_virtual(main)


@pytest.mark.parametrize("run", RUNS)
def test_every_call_is_made_to_fail_in_a_run_of_its_own(run):
    """Three calls and three errors: nine failures, and a run without one for each row."""
    seen = []

    async def scenario(fault):
        with fault:
            for _ in range(3):
                with contextlib.suppress(fault.error):
                    asyncio.get_running_loop().call_soon(int)
        seen.append((fault.n, fault.error, fault.failed))

    report = fail_calls(scenario, calls=["call_soon"], run=run)
    assert (report.runs, report.calls) == (12, {"call_soon": 9})
    assert seen == [(n, error, n <= 3) for error in ERRORS for n in (1, 2, 3, 4)]


def test_a_scenario_without_an_argument_is_under_the_fault_as_a_whole():
    """It has to bear the error itself."""

    async def bears():
        with contextlib.suppress(MemoryError):
            await asyncio.sleep(1)

    async def does_not():
        await asyncio.sleep(1)

    fail_calls(bears, errors=[MemoryError])
    with pytest.raises(AssertionError) as caught:
        fail_calls(does_not, errors=[MemoryError])
    assert isinstance(caught.value.__cause__, MemoryError)


def test_a_run_that_goes_wrong_ends_in_the_line_that_replays_it():
    """The cause is the scenario's own error; the line brings the one run back, and only that."""
    runs = []

    async def scenario(fault):
        runs.append(fault.n)
        lost = 0
        with fault:
            for _ in range(3):
                try:
                    asyncio.get_running_loop().call_soon(int)
                except fault.error:
                    lost += 1
        assert not (lost and fault.n == 3), "the third one matters"

    with pytest.raises(AssertionError, match="the third one matters") as caught:
        fail_calls(scenario)
    line = str(caught.value).splitlines()[-1]
    assert line == "replay: fail_calls(scenario, calls=['call_soon'], errors=[MemoryError], n=3)"
    assert runs == [1, 2, 3]
    with pytest.raises(AssertionError, match="the third one matters"):
        eval(line.removeprefix("replay: "), {"fail_calls": fail_calls, "scenario": scenario})
    assert runs == [1, 2, 3, 3]


def test_a_scenario_that_would_wait_for_ever_after_a_failure_is_found():
    """In virtual time a hang is an error, and the search names the call."""

    async def scenario(fault):
        done = asyncio.Event()
        with fault, contextlib.suppress(fault.error):
            asyncio.get_running_loop().call_later(1, done.set)
        await done.wait()

    with pytest.raises(AssertionError, match=r"call 1 of call_later failed .*DeadlockError(?s:.*)n=1\)\Z"):
        fail_calls(scenario)


def test_wrong_uses_of_a_failing_call_say_what_to_write():
    """An unknown call, a number below 1, a block without a loop, entered twice, nothing to test."""
    with pytest.raises(ValueError, match="use one of 'call_soon', 'call_later'"):
        FailingCall("call_sooner")
    with pytest.raises(ValueError, match="counted from 1"):
        FailingCall("call_soon", 0)
    with pytest.raises(RuntimeError, match="no running event loop"), FailingCall("call_soon"):
        pass
    with FailingCall("Thread.start") as fault, pytest.raises(RuntimeError, match="entered twice"), fault:
        pass
    with pytest.raises(ValueError, match="nothing was tested"):
        fail_calls(test_wrong_uses_of_a_failing_call_say_what_to_write, errors=[])
