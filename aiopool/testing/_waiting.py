"""Order and patience without sleeping: `Sequencer` and `wait_until`.

Both work on any asyncio loop, in virtual time exactly. Neither knows what is tested.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ._loop import VirtualLoop
from ._report import describe_condition
from ._runner import settle

__all__ = ["Sequencer", "wait_until"]

_TURNS = 20  # turns of a real loop without a pause: enough for most hand-overs
_MAX_PAUSE = 0.02


class Sequencer:
    """Force an order on blocks in different tasks: `async with seq(0)`, then `seq(1)`, and so on, whoever
    comes first.

    A block that is cancelled while it waits for its turn breaks the sequence: all that wait, and all that
    come, get a `RuntimeError` instead of waiting for ever. One sequencer is good for one sequence.

    Example:
        seq = Sequencer()

        async def first():
            async with seq(0):
                ...
            async with seq(2):
                ...

        async def second():
            async with seq(1):
                ...
    """

    def __init__(self) -> None:
        self._turn: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self._claimed: set[int] = set()
        self._broken: int | None = None

    @asynccontextmanager
    async def __call__(self, position: int) -> AsyncIterator[None]:
        """Wait for the end of block `position - 1`, run the block, and let `position + 1` begin.

        Raises:
            RuntimeError: the position was used before, or the sequence is broken.
        """
        if position in self._claimed:
            raise RuntimeError(
                f"seq({position}) was entered twice; give each block its own number, "
                "and each sequence its own Sequencer()"
            )
        self._claimed.add(position)
        self._check()
        if position != 0:
            try:
                await self._turn[position].wait()
            except asyncio.CancelledError:
                self._broken = position
                for event in self._turn.values():
                    event.set()
                raise
            self._check()
        try:
            yield
        finally:
            self._turn[position + 1].set()

    def _check(self) -> None:
        if self._broken is not None:
            raise RuntimeError(f"the sequence is broken: seq({self._broken}) was cancelled before its turn came")


async def wait_until(condition: Callable[[], object], *, timeout: float = 5.0) -> None:
    """Return as soon as `condition()` is true; it is true when this returns.

    On a virtual loop the condition is looked at once a turn, and the call returns at the very moment,
    without changing the schedule. On any other loop it is looked at every turn at first, then every few
    milliseconds. If the caller is cancelled here, nothing else happens.

    In virtual time a condition that is made true by a thread needs a clock that is held, or time leaps to
    the end at once. While a call of a pool, of anyio or of `asyncio.to_thread` is running, it is; for any
    other thread write `with loop.hold_clock(): await wait_until(…)`.

    Args:
        condition: a plain function, quick and without effect: it is called often.
        timeout: seconds on the loop's clock.

    Raises:
        AssertionError: it was not true in time; the text shows the condition and the values of its free
        variables. TypeError: `condition` is an `async def`. Exception: whatever `condition` raised.

    Example:
        await wait_until(lambda: pool.statistics().running == 3)
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    if isinstance(loop, VirtualLoop):
        true = await _watch(loop, condition, deadline)
    else:
        true = await _poll(loop, condition, deadline)
    if not true:
        raise AssertionError(f"not true within {timeout:g} s: {describe_condition(condition)}")


async def _watch(loop: VirtualLoop, condition: Callable[[], object], deadline: float) -> bool:
    while not _ask(condition):
        if loop.time() >= deadline:
            await settle()  # what is due at the deadline is still in time
            return _ask(condition)
        seen = loop.watch(condition)
        timer = loop.call_at(deadline, _give_up, seen)
        try:
            await seen
        finally:
            timer.cancel()
    return True


def _give_up(seen: asyncio.Future[None]) -> None:
    if not seen.done():
        seen.set_result(None)


async def _poll(loop: asyncio.AbstractEventLoop, condition: Callable[[], object], deadline: float) -> bool:
    turn = 0
    while not _ask(condition):
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(0 if turn < _TURNS else min(_MAX_PAUSE, 0.001 * (turn - _TURNS + 1)))
        turn += 1
    return True


def _ask(condition: Callable[[], object]) -> bool:
    answer = condition()
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError(
            f"wait_until takes a plain function, not the async one {condition!r}; "
            "write `await wait_until(lambda: job.done())`"
        )
    return bool(answer)
