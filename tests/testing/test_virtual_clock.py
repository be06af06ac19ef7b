"""`run_virtual`: an hour passes at once, deadlocks and spins are found, threads and sockets are waited for."""

import asyncio
import contextlib
import contextvars
import functools
import math
import multiprocessing
import os
import signal
import sys
import threading

import anyio
import anyio.to_thread
import pytest
from helpers import now
from testing.support import MODES, Gate, wait_for_each_other

from aiopool import Pool
from aiopool._runtime.threads import ThreadRunner
from aiopool.errors import ProcessDiedError
from aiopool.testing import (
    DeadlockError,
    SpinError,
    VirtualLoop,
    VirtualRunner,
    advance,
    explore,
    run_virtual,
    settle,
    wait_until,
)

EAGER = pytest.param(True, marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks"))


# -- the clock ---------------------------------------------------------------------------------------------------------


def test_an_hour_passes_at_once():
    """The clock is exact, however long the sleep and however late the hour."""

    async def main():
        await asyncio.sleep(3600)
        assert now() == 3600
        await asyncio.sleep(10**9)  # more than asyncio's longest select, 11,574 times
        assert now() == 10**9 + 3600
        for _ in range(10):  # here a nanosecond is less than a float can tell
            await asyncio.sleep(1e-6)
        return now()

    assert run_virtual(main) == pytest.approx(10**9 + 3600, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("eager", [False, EAGER])
def test_asyncio_and_anyio_work_unchanged(mode, debug, eager):
    """Time limits, task groups and scopes of both, in every mode."""

    async def main():
        if eager:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.sleep(20)
        assert now() == 10
        assert await asyncio.wait_for(asyncio.sleep(1, "in time"), 2) == "in time"
        assert now() == 11
        with pytest.raises(TimeoutError):
            with anyio.fail_after(5):
                await anyio.sleep_forever()
        assert now() == 16
        async with anyio.create_task_group() as group:
            for seconds in (3, 1, 2):
                group.start_soon(anyio.sleep, seconds)
            with anyio.move_on_after(1, shield=True) as scope:
                await anyio.sleep(100)
            assert scope.cancelled_caught
        assert now() == 19
        with pytest.raises(ExceptionGroup) as failed:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(100))
                group.create_task(fail())
        assert isinstance(failed.value.exceptions[0], KeyError)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep(1)
        assert now() == 20
        return "done"

    async def fail():
        await asyncio.sleep(1)
        raise KeyError

    assert run_virtual(main, seed=5, mode=mode, debug=debug) == "done"


def test_timers_fire_in_the_order_of_their_times():
    """Whatever the order in which they were armed."""
    fired = []

    async def main():
        loop = asyncio.get_running_loop()
        for seconds in (5, 1, 3, 2, 4):
            loop.call_later(seconds, lambda: fired.append(loop.time()))
        await asyncio.sleep(5)

    run_virtual(main, seed=1, mode="tasks")
    assert fired[:4] == [1, 2, 3, 4]


def test_sleeping_for_ever_is_not_waking_up():
    """A timer at infinity never fires: it is a deadlock, not a jump."""
    with pytest.raises(DeadlockError):
        run_virtual(functools.partial(asyncio.sleep, math.inf))


def test_the_loop_takes_a_coroutine_and_ends_as_asyncio_does():
    """What is left is cancelled, async generators are closed, and what main raises comes out."""
    ended = []

    async def endless():
        try:
            await asyncio.sleep(math.inf)
        finally:
            await asyncio.sleep(1)
            ended.append("task")

    async def generate():
        try:
            yield 1
        finally:
            ended.append("generator")

    async def main():
        asyncio.get_running_loop().left = asyncio.create_task(endless())
        asyncio.get_running_loop().generator = generator = generate()
        await anext(generator)
        await asyncio.to_thread(ended.append, "thread")
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run_virtual(main())
    assert ended == ["thread", "task", "generator"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]


def test_several_runs_on_one_loop():
    """Time goes on between them."""
    with VirtualRunner() as runner:
        runner.run(asyncio.sleep(10))
        runner.run(asyncio.sleep(5))
        assert runner.loop.time() == 15
    assert runner.loop.is_closed()
    assert "closed at 15 s" in repr(runner.loop)


async def test_virtual_time_inside_a_running_loop_says_what_to_write():
    """One loop at a time in a thread; nothing is left unclosed or un-awaited."""
    for call in (run_virtual, explore):
        with pytest.raises(RuntimeError, match="make this test a plain `def`"):
            call(settle)


@pytest.mark.parametrize(("option", "value"), [("mode", "random"), ("offload", "wait")])
def test_unknown_options_are_refused(option, value):
    """With the values that are allowed, and without an unclosed loop behind them."""
    with pytest.raises(ValueError, match=f"{option}='{value}'.*use "):
        VirtualLoop(**{option: value})


# -- deadlock and spin -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_deadlock_says_where_every_task_waits(mode):
    """Names, places, the source line, and how to have it again."""
    with pytest.raises(DeadlockError) as caught:
        run_virtual(wait_for_each_other, seed=3, mode=mode)
    text = str(caught.value)
    assert "3 pending tasks" in text
    assert "left: wait_for_each_other.<locals>.one (support.py:" in text
    assert "await first.wait()  # the line that the report must show" in text
    assert "right: wait_for_each_other.<locals>.other" in text
    assert f"seed=3, mode='{mode}'" in text
    if mode != "fifo":
        assert caught.value.__notes__ == [f"replay: run_virtual(…, seed=3, mode='{mode}')"]


def test_a_failing_cleanup_does_not_hide_the_failure():
    """A task that refuses its cancel, and then waits for ever: told beside the first error, or alone."""

    closed = []

    async def refuse():
        try:
            await asyncio.sleep(math.inf)
        except asyncio.CancelledError:
            try:
                await asyncio.Queue().get()
            finally:
                closed.append("in the loop" if asyncio._get_running_loop() else "outside the loop")

    async def main(error):
        asyncio.get_running_loop().left = asyncio.create_task(refuse())
        await asyncio.sleep(1)
        if error:
            raise error

    with pytest.raises(LookupError) as caught:
        run_virtual(main(LookupError("first")))
    assert "while cleaning up: DeadlockError" in caught.value.__notes__[-1]
    with pytest.raises(DeadlockError, match="refuse"):
        run_virtual(main(None))
    assert closed == ["outside the loop"] * 2  # not by the garbage collector, in another test


@pytest.mark.parametrize("mode", MODES)
def test_a_spin_is_found(mode):
    """Round and round at one moment; the report names who."""

    async def spinner():
        while True:
            await asyncio.sleep(0)

    with pytest.raises(SpinError, match=r"2000 steps while the clock stood still(?s:.*)task 1 .*spinner"):
        run_virtual(spinner, seed=1, mode=mode, max_steps_at_once=2000)


def test_a_heartbeat_that_outlives_its_purpose_is_found():
    """Time moves, nothing else does: the total budget ends it."""

    async def heartbeat():
        while True:
            await asyncio.sleep(1)

    async def main():
        asyncio.get_running_loop().left = asyncio.create_task(heartbeat())
        await asyncio.Event().wait()

    with pytest.raises(SpinError, match=r"3000 steps in all(?s:.*)heartbeat(?s:.*)await asyncio.Event\(\).wait"):
        run_virtual(main, max_steps=3000)


def test_the_turns_of_the_loop_are_counted():
    """At rest the loop turns only for its timers; a poller shows."""

    async def turns(pause):
        loop = asyncio.get_running_loop()

        async def poll():
            while True:
                await asyncio.sleep(pause)

        poller = asyncio.create_task(poll())
        await settle()
        before = loop.turns
        await advance(100)
        poller.cancel()
        return loop.turns - before

    assert run_virtual(turns(1000)) < 10
    assert run_virtual(turns(0.01)) > 10_000


# -- threads and I/O ---------------------------------------------------------------------------------------------------


async def through_threads(gate):
    """The way a pool takes: its own threads."""
    done = asyncio.get_running_loop().create_future()
    runner = ThreadRunner(
        loop=asyncio.get_running_loop(),
        max_threads=1,
        name="kit",
        on_done=lambda token, ok, value: done.set_result(value),
    )
    runner.start("token", contextvars.copy_context(), gate)
    try:
        return await done
    finally:
        runner.close()


OFFLOADS = {"asyncio": asyncio.to_thread, "anyio": anyio.to_thread.run_sync, "pool": through_threads}


@pytest.mark.parametrize("offload", OFFLOADS.values(), ids=OFFLOADS)
def test_a_working_thread_holds_the_clock(offload):
    """However long it takes, it takes no virtual time; a condition that it makes true is seen meanwhile."""

    async def main():
        gate = Gate()

        async def release():
            await wait_until(gate.inside.is_set)
            gate.open.set()

        releaser = asyncio.create_task(release())
        async with asyncio.timeout(1):
            assert await offload(gate) == "out"
        await releaser
        assert now() == 0
        await asyncio.sleep(1)  # the thread is idle now, and holds nothing
        return now()

    assert run_virtual(main) == 1


@pytest.mark.parametrize("offload", OFFLOADS.values(), ids=OFFLOADS)
def test_a_stuck_thread_is_a_deadlock_that_names_it(offload):
    """After real patience; the message tells of the other rule."""
    gate = Gate()

    async def main():
        try:
            async with asyncio.timeout(1):
                await offload(gate)
        finally:
            gate.open.set()

    with pytest.raises(DeadlockError, match=r"the clock has been held for 0.05 s.*(?s:.*)use offload='leap'"):
        run_virtual(main, patience=0.05)


def test_leaping_over_a_stuck_thread():
    """For tests of what happens then: the time limit strikes."""
    gate = Gate()

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.to_thread(gate)
        gate.open.set()
        return now()

    assert run_virtual(main, offload="leap") == 1


def test_a_call_that_a_pool_abandoned_holds_nothing():
    """Nobody waits for it any more, so time goes on."""
    gate = Gate()

    async def main():
        runner = ThreadRunner(loop=asyncio.get_running_loop(), max_threads=1, name="kit", on_done=lambda *outcome: None)
        runner.start("token", contextvars.copy_context(), gate)
        await wait_until(gate.inside.is_set)
        runner.abandon("token")
        await asyncio.sleep(60)
        gate.open.set()
        runner.close(wait=30)
        return now()

    assert run_virtual(main) == 60


def die():
    """End the process; not `os._exit` itself, which a measurement of coverage replaces."""
    os._exit(3)


def test_a_working_process_holds_the_clock():
    """Virtual time does not pass while a job runs in a process, nor while the processes end."""

    async def main():
        began, before = now(), set(multiprocessing.active_children())  # of other tests, that still end
        timer = asyncio.create_task(asyncio.sleep(3600))
        async with Pool(offload="process", max_processes=1) as pool:
            assert await pool.run(os.getpid) != os.getpid()
            assert now() == began
            await asyncio.sleep(1)  # the process is idle now, and holds nothing
            assert now() == began + 1
            with pytest.raises(ProcessDiedError, match="exit code 3"):
                await pool.run(die)
            await pool.run(os.getpid)
        assert now() == began + 1
        assert set(multiprocessing.active_children()) <= before
        timer.cancel()

    run_virtual(main)


def test_a_thread_of_ones_own_wakes_the_loop():
    """Without a timer the loop waits for it; with one, `hold_clock` makes it wait."""

    async def main():
        loop, gate = asyncio.get_running_loop(), Gate()
        for timer in (None, loop.call_later(60, print)):
            gate.open.set()
            told = loop.create_future()

            def work(told=told):
                loop.call_soon_threadsafe(told.set_result, gate())

            with contextlib.nullcontext() if timer is None else loop.hold_clock():
                threading.Thread(target=work).start()
                assert await told == "out"
        assert now() == 0

    run_virtual(main)


def test_a_hold_is_named_when_it_takes_too_long():
    """The reason that was given, in the error."""

    async def main():
        with asyncio.get_running_loop().hold_clock("the answer of the server"):
            await asyncio.sleep(1)

    with pytest.raises(DeadlockError, match="by: the answer of the server"):
        run_virtual(main, patience=0.05)


def test_a_thread_that_might_still_wake_the_loop_is_waited_for_and_named():
    """Then it is a deadlock all the same."""
    gate = Gate()

    async def main():
        thread = threading.Thread(target=gate, name="silent one")
        thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            gate.open.set()
            thread.join()

    with pytest.raises(DeadlockError, match=r"Nothing came in 0.05 s of real time from: thread 'silent one'"):
        run_virtual(main, patience=0.05)


def test_a_stuck_default_executor_does_not_hold_up_the_end():
    """As in asyncio there is a warning, and the thread is left."""
    gate = Gate()

    async def main():
        task = asyncio.create_task(asyncio.to_thread(gate))
        await wait_until(gate.inside.is_set)
        task.cancel()

    with pytest.warns(RuntimeWarning, match="still at work after 0.05 s"):
        run_virtual(main, patience=0.05)
    gate.open.set()


def test_sockets_and_signals_work():
    """A conversation over a real socket, then a real signal; the clock stands still when nothing is armed."""

    async def main():
        async def answer(reader, writer):
            writer.write((await reader.readline()).upper())
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            assert await reader.read() == b"HELLO\n"
            writer.close()
            await writer.wait_closed()
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, heard.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await heard.wait()
        loop.remove_signal_handler(signal.SIGUSR1)
        return now()

    assert run_virtual(main) == 0
