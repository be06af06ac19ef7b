"""Schedules by seed, and the search through them: planted bugs are found, sound code passes."""

import asyncio
import contextlib
import functools
import math
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from testing.support import MODES, wait_for_each_other

import aiopool
from aiopool.testing import (
    DELAYS,
    Exploration,
    VirtualRunner,
    advance,
    explore,
    run_virtual,
    settle,
)

_ROOT = Path(aiopool.__file__).parents[1]


# -- schedules ---------------------------------------------------------------------------------------------------------


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
        from test_explore import hash_of
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


# -- explore: planted bugs must be found, and sound code must pass -----------------------------------------------------


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
