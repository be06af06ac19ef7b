"""The test kit tests itself: the clock, the schedules, the search, and the things that it must not miss."""

import asyncio
import contextlib
import contextvars
import functools
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import types
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from virtual import now

import aiopool
from aiopool._runtime.threads import ThreadRunner, _Thread
from aiopool.testing import (
    CALLS,
    DELAYS,
    ERRORS,
    DeadlockError,
    Exploration,
    FailingCall,
    LeakError,
    Sequencer,
    SpinError,
    VirtualLoop,
    VirtualRunner,
    advance,
    assert_no_leaks,
    explore,
    fail_calls,
    run_virtual,
    settle,
    wait_until,
)
from aiopool.testing._threads import _works_for

_ROOT = Path(aiopool.__file__).parents[1]
MODES = ("fifo", "tasks")
EAGER = pytest.param(True, marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks"))


@pytest.fixture(autouse=True)
def _no_seeds_from_outside(monkeypatch):
    """The self-tests need their own seeds."""
    monkeypatch.delenv("AIOPOOL_SEEDS", raising=False)


# -- the clock ---------------------------------------------------------------------------------------------


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


# -- deadlock and spin -------------------------------------------------------------------------------------


async def wait_for_each_other():
    first, second = asyncio.Event(), asyncio.Event()

    async def one():
        await first.wait()  # the line that the report must show
        second.set()

    async def other():
        await second.wait()
        first.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(one(), name="left")
        group.create_task(other(), name="right")


@pytest.mark.parametrize("mode", MODES)
def test_a_deadlock_says_where_every_task_waits(mode):
    """Names, places, the source line, and how to have it again."""
    with pytest.raises(DeadlockError) as caught:
        run_virtual(wait_for_each_other, seed=3, mode=mode)
    text = str(caught.value)
    assert "3 pending tasks" in text
    assert "left: wait_for_each_other.<locals>.one (test_testing.py:" in text
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


# -- schedules ---------------------------------------------------------------------------------------------


async def talk(log):
    """Tasks and callbacks that write down in which order they run."""
    loop = asyncio.get_running_loop()

    async def speaker(name):
        for word in range(4):
            log.append((name, word))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(speaker(name))
        for number in range(4):
            loop.call_soon(log.append, ("callback", number))


def log_of(run):
    log = []
    run(talk(log))
    return log


def test_fifo_is_the_order_of_asyncio():
    """The very same steps as on the standard loop."""
    assert log_of(run_virtual) == log_of(asyncio.run)


def test_tasks_mode_keeps_what_asyncio_promises_and_nothing_else():
    """Each task in its order, the callbacks in theirs, everything else in any."""
    logs = [log_of(functools.partial(run_virtual, seed=seed, mode="tasks")) for seed in range(50)]
    for log in logs:
        for name in ("a", "b", "c", "callback"):
            assert [word for who, word in log if who == name] == [0, 1, 2, 3]
    assert len({tuple(log) for log in logs}) > 45
    assert {log[0][0] for log in logs} == {"a", "b", "c", "callback"}


def test_equal_timers_come_in_any_order_unequal_ones_do_not():
    """asyncio leaves the former undefined, so the search may look at both orders."""

    async def main():
        loop, order = asyncio.get_running_loop(), []
        for name, when in (("late", 2), ("x", 1), ("y", 1)):
            loop.call_at(when, order.append, name)
        await asyncio.sleep(3)
        return "".join(order)

    seen = {run_virtual(main, seed=seed, mode="tasks") for seed in range(20)}
    assert seen == {"xylate", "yxlate"}


def test_a_task_cancelled_through_call_soon_is_a_callback():
    """`call_soon(task.cancel)` is bound to a task, yet keeps its place among the callbacks."""

    async def main():
        loop, order = asyncio.get_running_loop(), []
        task = loop.create_task(asyncio.sleep(math.inf))
        await settle()
        loop.call_soon(order.append, "before")
        loop.call_soon(task.cancel)
        loop.call_soon(lambda: order.append(task.cancelling()))
        await settle()
        return order

    assert all(run_virtual(main, seed=seed, mode="tasks") == ["before", 1] for seed in range(20))


async def crowd(chance):
    """A bit of everything that keeps tasks in sets: groups, scopes, `wait`; on the grid of delays."""

    async def worker():
        for _ in range(3):
            with anyio.move_on_after(chance.choice(DELAYS)):
                await anyio.sleep(chance.choice(DELAYS))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(worker)
        await asyncio.wait({asyncio.ensure_future(asyncio.sleep(chance.choice(DELAYS))) for _ in range(4)})
        await anyio.sleep(0.5)
        group.cancel_scope.cancel()
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(asyncio.sleep(math.inf))
            await asyncio.sleep(0)
            raise KeyError


def hash_of(seed, mode, eager=False):
    async def main():
        if eager:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await crowd(random.Random(seed))
        return asyncio.get_running_loop().trace_hash()

    return run_virtual(main, seed=seed, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_is_the_same_run(mode):
    """Also with the heap in another state, where sets of plain tasks have another order."""
    hashes = []
    for number in range(5):
        ballast = [object() for _ in range(1000 * number)]
        hashes.append(hash_of(162, mode))
        del ballast
    assert len(set(hashes)) == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks")
def test_the_same_seed_is_the_same_run_with_eager_tasks():
    """Tasks that the factory made are numbered when they first wait."""
    assert len({hash_of(7, "tasks", eager=True) for _ in range(5)}) == 1


def test_the_same_seed_is_the_same_run_in_another_process():
    """Neither addresses nor the hash seed of strings get into a run."""
    script = """
        import sys; sys.path[:0] = ["tests", "tests/testing"]
        from test_testing import hash_of
        print(*(hash_of(seed, "tasks") for seed in range(5)))
    """
    outputs = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            cwd=_ROOT,
            env={**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": str(_ROOT)},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for salt in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().split()) == 5


def test_other_seeds_are_other_runs():
    """And a seed that was drawn can be told and used again."""
    assert len({hash_of(seed, "tasks") for seed in range(30)}) > 25
    with VirtualRunner(mode="tasks") as first:
        first.run(talk([]))
        drawn, expected = first.loop.seed, first.loop.trace_hash()
    with VirtualRunner(seed=drawn, mode="tasks") as second:
        second.run(talk([]))
        assert second.loop.trace_hash() == expected


def test_the_trace_tells_what_ran_and_when():
    """Readable, and without addresses."""

    async def main():
        asyncio.get_running_loop().call_later(2, functools.partial(print, end=""))
        await asyncio.sleep(3)
        return asyncio.get_running_loop().trace

    trace = run_virtual(main)
    assert trace[0].endswith("task 1 test_the_trace_tells_what_ran_and_when.<locals>.main")
    assert "2.0 timer print" in trace
    assert not any("0x" in label for label in trace)


def pool_run(seed, mode):
    """Retries with jitter, time limits and priorities in a real pool; return the hash of all its steps."""

    async def main():
        chance = random.Random(seed)

        async def work(seconds, fails):
            await asyncio.sleep(seconds)
            if fails:
                raise KeyError(seconds)

        loop = asyncio.get_running_loop()
        async with aiopool.Pool(size=2, seed=seed, retry=aiopool.Retry(attempts=3), on_error=print) as pool:
            for _ in range(10):
                options = {"timeout": chance.choice([None, 0.25]), "priority": chance.randrange(3)}
                await pool.with_options(**options).submit(work, chance.choice(DELAYS), chance.random() < 0.3)
            await pool.join()
        return loop.trace_hash()

    return run_virtual(main, seed=seed, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_pool_repeats_itself_by_the_seed(mode):
    """Jitter and all: the pool asks nobody but the loop and its own seed."""
    assert len({pool_run(5, mode) for _ in range(3)}) == 1
    assert len({pool_run(seed, mode) for seed in range(5)}) == 5


# -- explore: planted bugs must be found, and sound code must pass ----------------------------------------


async def lost_cancel(chance, planted):
    """A cancel between taking a job off the queue and noting it as running hits neither."""
    queue, running, state = asyncio.Queue(), {}, {}

    async def worker():
        while True:
            job = await queue.get()
            if planted:
                await asyncio.sleep(0)  # now it is neither queued nor running
            if state[job] == "cancelled":
                continue
            running[job] = asyncio.ensure_future(asyncio.sleep(chance.choice(DELAYS)))
            state[job] = "running"
            await asyncio.wait({running[job]})
            state[job] = "cancelled" if running.pop(job).cancelled() else "done"

    def cancel(job):
        if job in running:
            running[job].cancel()
        elif job in queue._queue:
            state[job] = "cancelled"
        elif state[job] == "queued":
            raise AssertionError(f"the cancel of job {job} was lost")

    async def canceller(job):
        await asyncio.sleep(chance.choice(DELAYS))
        cancel(job)

    workers = [asyncio.create_task(worker()) for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        for job in range(4):
            state[job] = "queued"
            queue.put_nowait(job)
            group.create_task(canceller(job))
    await advance(10)
    assert set(state.values()) <= {"cancelled", "done"}
    for task in workers:
        task.cancel()


async def one_too_many(chance, planted):
    """The limit is looked at before a suspension, and trusted after it."""
    running = 0
    room = asyncio.Semaphore(2)

    async def job():
        nonlocal running
        await asyncio.sleep(chance.choice(DELAYS))
        if planted:
            while running >= 2:
                await asyncio.sleep(0.25)
            await asyncio.sleep(0)
        else:
            await room.acquire()
        running += 1
        assert running <= 2
        await asyncio.sleep(chance.choice(DELAYS))
        running -= 1
        room.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(job())


async def lost_wake_up(chance, planted):
    """The event is cleared after the look at the queue: what came in between wakes nobody."""
    items, came, taken = [], asyncio.Event(), []

    async def consumer():
        while len(taken) < 6:
            if planted:
                while items:
                    taken.append(items.pop())
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                came.clear()
            else:
                came.clear()
                while items:
                    taken.append(items.pop())
                    await asyncio.sleep(0)
            if len(taken) < 6:
                await came.wait()

    async def producer():
        for item in range(3):
            await asyncio.sleep(chance.choice(DELAYS))
            items.append(item)
            came.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(consumer())
        group.create_task(producer())
        group.create_task(producer())


async def settled_twice(chance, planted):
    """A result and its time limit at the same moment: who comes second must look."""
    outcome = []

    def settle_once(what):
        if planted or not outcome:
            outcome.append(what)

    loop = asyncio.get_running_loop()
    limit = loop.call_later(1, settle_once, "timed out")
    await asyncio.sleep(chance.choice(DELAYS))
    settle_once("succeeded")
    limit.cancel()
    await asyncio.sleep(2)
    assert len(outcome) == 1


# kernel → how many seeds must suffice to find the planted bug. A bug that is no longer found is a broken
# search.
PLANTED = {lost_cancel: 10, one_too_many: 10, lost_wake_up: 200, settled_twice: 50}


@pytest.mark.parametrize("kernel", PLANTED, ids=lambda kernel: kernel.__name__)
def test_planted_bugs_are_found_and_sound_code_passes(kernel):
    """The same seeds: with the bug one of them fails, without it none."""
    seeds = range(PLANTED[kernel])

    async def broken(chance):
        await kernel(chance, planted=True)

    async def sound(chance):
        await kernel(chance, planted=False)

    with pytest.raises(AssertionError, match=r"replay: explore\(broken, seeds=\[\d+\], mode='tasks'\)\Z"):
        explore(broken, seeds=seeds)
    assert explore(sound, seeds=seeds).runs == len(seeds)


def test_a_failure_ends_in_the_line_that_replays_it():
    """Run that very line: the same error, from the same cause, after no other run."""

    async def scenario(chance):
        await settled_twice(chance, planted=True)

    with pytest.raises(AssertionError) as found:
        explore(scenario, seeds=range(50))
    line = str(found.value).splitlines()[-1]
    assert line.startswith("replay: explore(scenario, seeds=[")
    with pytest.raises(AssertionError) as again:
        eval(line.removeprefix("replay: "), {"explore": explore, "scenario": scenario})
    assert "after 0 runs without a failure" in str(again.value)
    assert str(again.value).splitlines()[1:] == str(found.value).splitlines()[1:]  # trace and all
    assert "'timed out', 'succeeded'" in str(again.value.__cause__)


def test_without_a_failure_the_search_says_what_it_saw():
    """How many runs, how many different ones."""

    async def same():
        await asyncio.sleep(1)

    found = explore(same, seeds=range(7))
    assert found == Exploration(runs=7, schedules=1, steps=found.steps)
    assert explore(lambda: talk([]), seeds=range(20)).schedules > 15
    with pytest.raises(ValueError, match="no seed"):
        explore(same, seeds=[])


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("162", [162]), ("0", [0]), ("3-5", [3, 4, 5]), ("1, 7-8,0", [1, 7, 8, 0]), ("", [99])],
)
def test_seeds_from_the_environment_come_first(monkeypatch, text, seeds):
    """Both ends of a range count; empty is unset."""
    monkeypatch.setenv("AIOPOOL_SEEDS", text)
    ran = []

    async def scenario():
        ran.append(asyncio.get_running_loop().seed)

    explore(scenario, seeds=[99])
    assert ran == seeds


@pytest.mark.parametrize("text", ["x", "1-", "5-3", "-1", "1..5", "1,,2"])
def test_bad_seeds_in_the_environment_are_refused(monkeypatch, text):
    """With the variable, the value, and what to write."""
    monkeypatch.setenv("AIOPOOL_SEEDS", text)
    with pytest.raises(ValueError, match=r"AIOPOOL_SEEDS=.*write AIOPOOL_SEEDS=162 or AIOPOOL_SEEDS=0-20000"):
        explore(lambda: asyncio.sleep(0))


def test_deadlocks_cancels_and_reports_are_failures_too():
    """Everything that a test should not do ends with the line that replays it."""

    async def report():
        asyncio.get_running_loop().call_soon(int, "x")
        await asyncio.sleep(1)

    async def cancelled():
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    for scenario, text in (
        (wait_for_each_other, "DeadlockError"),
        (report, "exception handler was called: .*invalid literal"),
        (cancelled, "CancelledError"),
    ):
        with pytest.raises(AssertionError, match=text) as caught:
            explore(scenario, seeds=[4])
        assert str(caught.value).endswith(f"replay: explore({scenario.__name__}, seeds=[4], mode='tasks')")
    assert explore(report, seeds=[4], allow_unhandled=True).runs == 1


def test_a_skip_is_no_failure():
    """What is no `Exception` goes through, with the seed in a note."""

    async def scenario():
        pytest.skip("not here")

    with pytest.raises(pytest.skip.Exception) as caught:
        explore(scenario, seeds=[4], mode="fifo")
    assert caught.value.__notes__ == ["replay: explore(scenario, seeds=[4], mode='fifo')"]


# -- threads and I/O ---------------------------------------------------------------------------------------


class Gate:
    """A function that a thread runs until it is let out; nothing here sleeps."""

    def __init__(self):
        self.inside, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.inside.set()
        assert self.open.wait(30)
        return "out"


async def through_bridge(gate):
    """The way a pool takes: its own threads."""
    done = asyncio.get_running_loop().create_future()
    bridge = ThreadRunner(
        loop=asyncio.get_running_loop(),
        max_threads=1,
        name="kit",
        on_done=lambda token, ok, value: done.set_result(value),
    )
    bridge.start("token", contextvars.copy_context(), gate)
    try:
        return await done
    finally:
        bridge.close()


OFFLOADS = {"asyncio": asyncio.to_thread, "anyio": anyio.to_thread.run_sync, "pool": through_bridge}


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
        bridge = ThreadRunner(loop=asyncio.get_running_loop(), max_threads=1, name="kit", on_done=lambda *outcome: None)
        bridge.start("token", contextvars.copy_context(), gate)
        await wait_until(gate.inside.is_set)
        bridge.abandon("token")
        await asyncio.sleep(60)
        gate.open.set()
        bridge.close(wait=30)
        return now()

    assert run_virtual(main) == 60


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


# -- settle, advance, wait_until, Sequencer ----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_settle_lets_run_what_is_ready_and_leaves_the_clock(mode):
    """Long chains too; what is due later stays undone."""

    async def main():
        async def chain():
            for _ in range(50):
                await asyncio.sleep(0)
            return "done"

        task, later = asyncio.create_task(chain()), asyncio.create_task(asyncio.sleep(1e-9))
        await asyncio.gather(settle(), settle())
        assert task.done()
        assert not later.done()
        assert now() == 0
        later.cancel()

    run_virtual(main, seed=2, mode=mode)


@pytest.mark.parametrize("seed", range(10))
def test_advance_ends_when_all_that_is_due_has_run(seed):
    """Also what is due at that very moment, whatever the schedule."""

    async def main():
        ticks = []

        async def ticker():
            while True:
                await asyncio.sleep(10)
                ticks.append(now())
                await asyncio.sleep(0)

        task = asyncio.create_task(ticker())
        await advance(60)
        assert ticks == [10, 20, 30, 40, 50, 60]
        await advance(0)
        await advance(9.5)
        assert now() == 69.5
        assert len(ticks) == 6
        task.cancel()

    run_virtual(main, seed=seed, mode="tasks")


@pytest.mark.parametrize("seconds", [-1, math.inf, math.nan])
def test_advance_refuses_what_is_no_step_forward(seconds):
    """Negative, endless, not a number."""
    with pytest.raises(ValueError, match="time goes forward"):
        run_virtual(lambda: advance(seconds))


@pytest.mark.parametrize("helper", [settle, functools.partial(advance, 1)])
async def test_virtual_helpers_on_a_real_loop_say_what_to_do(helper):
    """The clock of a real loop cannot be steered."""
    with pytest.raises(RuntimeError, match=r"needs a virtual clock(?s:.*)run_virtual"):
        await helper()


@pytest.mark.parametrize("mode", MODES)
def test_wait_until_returns_at_the_very_moment(mode):
    """Even in the last one; and it changes nothing of the schedule."""

    async def main(watched):
        state = []
        asyncio.get_running_loop().call_later(2.5, state.append, "true")
        task = asyncio.create_task(asyncio.sleep(2.5))
        if watched:
            await wait_until(lambda: state, timeout=2.5)
            assert state
            assert now() == 2.5
        await task

    run_virtual(main(True), seed=3, mode=mode)


def test_wait_until_says_what_was_not_true():
    """The source of the condition and the values in it, or its repr."""

    async def main():
        running, wanted = [1, 2], 3
        with pytest.raises(AssertionError) as caught:
            await wait_until(lambda: len(running) == wanted, timeout=7)
        assert str(caught.value).startswith("not true within 7 s: len(running) == wanted   (test_testing.py:")
        assert str(caught.value).endswith("; running = [1, 2], wanted = 3)")
        assert now() == 7
        with pytest.raises(AssertionError, match=r"not true within 0 s: <bound method Event.is_set"):
            await wait_until(asyncio.Event().is_set, timeout=0)

        def never():
            return wanted == 4

        with pytest.raises(AssertionError, match=r"<locals>.never   \(test_testing.py:\d+; wanted = 3\)"):
            await wait_until(never, timeout=1)
        with pytest.raises(AssertionError, match=r"wanted in \{ 4, \"ü\", \}   \("):
            await wait_until(
                lambda: wanted in {
                    4,
                    "ü",
                },
                timeout=1,
            )  # fmt: skip

    run_virtual(main)


@pytest.mark.parametrize("run", [run_virtual, asyncio.run])
def test_wait_until_passes_on_errors_and_refuses_coroutines(run):
    """At the first look and at a later one, on both kinds of loop."""

    async def main():
        looks = iter([False, False, 1 / 3])

        def broken():
            return next(looks) and 1 / 0

        with pytest.raises(ZeroDivisionError):
            asyncio.get_running_loop().call_later(0.001, int)
            await wait_until(broken)
        with pytest.raises(TypeError, match="plain function"):
            await wait_until(functools.partial(asyncio.sleep, 0))

    run(main())


async def test_wait_until_on_a_real_loop():
    """Turn by turn first, then with short pauses; and it gives up."""
    turns, ready = [], asyncio.Event()
    asyncio.get_running_loop().call_soon(ready.set)
    await wait_until(ready.is_set)
    asyncio.get_running_loop().call_later(0.03, turns.append, 1)
    await wait_until(lambda: turns)
    with pytest.raises(AssertionError, match="not true within 0 s"):
        await wait_until(lambda: False, timeout=0)


@pytest.mark.parametrize("seed", range(10))
def test_a_sequencer_forces_the_order(seed):
    """Whoever comes first."""

    async def main():
        seq, order = Sequencer(), []

        async def step(*positions):
            for position in positions:
                async with seq(position):
                    order.append(position)
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for positions in ((1, 4), (0, 3), (2, 5)):
                group.create_task(step(*positions))
        assert order == [0, 1, 2, 3, 4, 5]
        with pytest.raises(RuntimeError, match="entered twice"):
            await step(5)

    run_virtual(main, seed=seed, mode="tasks")


def test_a_cancelled_step_breaks_the_sequence():
    """The others are told, instead of waiting for ever."""

    async def main():
        seq = Sequencer()

        async def step(position):
            async with seq(position):
                raise AssertionError("this turn must not come")

        cancelled, waiting = asyncio.create_task(step(1)), asyncio.create_task(step(2))
        await settle()
        cancelled.cancel()
        for task in (waiting, asyncio.create_task(step(3))):
            with pytest.raises(RuntimeError, match=r"seq\(1\) was cancelled"):
                await task
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    run_virtual(main)


# -- leaks -------------------------------------------------------------------------------------------------


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
    """It is alive still, and has let go of its bridge."""
    thread = _Thread(bridge := types.SimpleNamespace(loop=(loop := object()), _calls={}), "last")
    assert not _works_for(thread, loop)
    bridge._calls[1] = types.SimpleNamespace(abandoned=False)
    assert _works_for(thread, loop)
    del thread.bridge
    assert not _works_for(thread, loop)


# -- calls that fail -----------------------------------------------------------------------------------------


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
