"""`settle`, `advance`, `wait_until` and `Sequencer`: waiting without luck."""

import asyncio
import functools
import math

import pytest
from helpers import now
from testing.support import MODES

from aiopool.testing import (
    Sequencer,
    advance,
    run_virtual,
    settle,
    wait_until,
)


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
        assert str(caught.value).startswith("not true within 7 s: len(running) == wanted   (test_waiting.py:")
        assert str(caught.value).endswith("; running = [1, 2], wanted = 3)")
        assert now() == 7
        with pytest.raises(AssertionError, match=r"not true within 0 s: <bound method Event.is_set"):
            await wait_until(asyncio.Event().is_set, timeout=0)

        def never():
            return wanted == 4

        with pytest.raises(AssertionError, match=r"<locals>.never   \(test_waiting.py:\d+; wanted = 3\)"):
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
