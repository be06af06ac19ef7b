"""`assert_no_leaks`: every kind of leak is found, and clean code has none."""

import asyncio
import signal
import threading
import types

import anyio
import anyio.to_thread
import pytest
from testing.support import Gate

from aiopool._runtime.threads import _Thread
from aiopool.testing import (
    LeakError,
    assert_no_leaks,
    run_virtual,
)
from aiopool.testing._threads import _works_for


async def clean():
    async with asyncio.timeout(5):
        await asyncio.gather(asyncio.sleep(0), asyncio.to_thread(int), anyio.to_thread.run_sync(int))


async def leave_task():
    asyncio.get_running_loop().left = asyncio.create_task(asyncio.sleep(10**6), name="forgotten")


async def leave_timer():
    asyncio.get_running_loop().call_later(1000, print)


async def leave_handler():
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)


async def leave_report():
    asyncio.get_running_loop().call_soon(int, "x")


async def leave_unretrieved():
    async def fail():
        raise KeyError("nobody asked")

    asyncio.create_task(fail())
    await asyncio.sleep(0)


async def leave_signal():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)


LEAKS = {
    leave_task: r"task forgotten: sleep",
    leave_timer: r"timer, due in \S+ s: print",
    leave_handler: r"the loop's exception handler was replaced",
    leave_report: r"report to the loop's exception handler: Exception in callback",
    leave_unretrieved: r"never retrieved: KeyError",
    leave_signal: r"signal handler of SIGUSR1: was .*SIG_DFL",
}


def quiet(main):
    """Run without the loop's own logging, which is what these tests provoke."""

    async def wrapped():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        return await main()

    return wrapped()


@pytest.mark.parametrize("run", [run_virtual, asyncio.run])
@pytest.mark.parametrize("leave", LEAKS, ids=lambda leave: leave.__name__)
def test_every_kind_of_leak_is_found(run, leave):
    """In virtual and in real time, by name."""

    async def main():
        before = asyncio.get_running_loop().get_exception_handler()
        try:
            with pytest.raises(LeakError, match=LEAKS[leave]):
                async with assert_no_leaks(timeout=0.05):
                    await leave()
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)
        if leave is not leave_handler:
            assert asyncio.get_running_loop().get_exception_handler() is before

    run(quiet(main))


@pytest.mark.parametrize("run", [run_virtual, asyncio.run])
def test_clean_code_leaks_nothing(run):
    """No idle thread of asyncio or anyio, nothing that ends soon, not the caller's own time limit."""

    async def main():
        async with asyncio.timeout(100):
            async with assert_no_leaks():
                await clean()
                asyncio.create_task(asyncio.sleep(0)).add_done_callback(lambda task: task.result())

    run(main())


def test_a_thread_is_given_time_to_end():
    """One that ends is no leak, one that stays is named with its place."""
    gate, stuck = Gate(), Gate()
    gate.open.set()
    with assert_no_leaks():
        threading.Thread(target=gate).start()
    thread = threading.Thread(target=stuck, name="abandoned")
    with pytest.raises(LeakError, match=r"thread 'abandoned' in .*wait \(threading.py"):
        with assert_no_leaks(timeout=0.05):
            thread.start()
    stuck.open.set()
    thread.join()

    async def main():
        other = Gate()
        with pytest.raises(LeakError, match="thread "):
            async with assert_no_leaks(timeout=0.05):
                threading.Thread(target=other).start()
        other.open.set()

    run_virtual(main)


def test_the_check_may_span_two_runs_of_a_runner():
    """As in an async fixture: each run has a task and a SIGINT handler of its own."""
    with asyncio.Runner() as runner:
        check = assert_no_leaks(timeout=0.05)
        runner.run(check.__aenter__())
        runner.run(asyncio.sleep(0))
        runner.run(check.__aexit__(None, None, None))


def test_the_error_of_the_block_stays():
    """What was left is a note to it."""

    async def main():
        with pytest.raises(KeyError) as caught:
            async with assert_no_leaks(timeout=0.05):
                await leave_task()
                raise KeyError("mine")
        assert "task forgotten" in caught.value.__notes__[0]
        with pytest.raises(KeyError) as caught:
            with assert_no_leaks(timeout=0.05):
                await leave_timer()
                raise KeyError("mine")
        assert "timer, due in 1000 s: print" in caught.value.__notes__[0]

    run_virtual(main)


def test_a_thread_in_its_last_line_works_for_nobody():
    """It is alive still, and has let go of its runner."""
    thread = _Thread(runner := types.SimpleNamespace(loop=(loop := object()), _calls={}), "last")
    assert not _works_for(thread, loop)
    runner._calls[1] = types.SimpleNamespace(abandoned=False)
    assert _works_for(thread, loop)
    del thread.runner
    assert not _works_for(thread, loop)
