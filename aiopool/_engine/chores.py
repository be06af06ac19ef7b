"""`Chores`: work that concerns many jobs at once, done in slices.

All that is due, a group that is resumed, a cancel of everything: such a chore is an iterator of steps, and some of them
are done in each turn of the event loop. No job starts until the last step: the effect is that of one step.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import final

from aiopool._engine.lending import SlotLending
from aiopool._engine.queue import JobQueue
from aiopool._engine.slots import Slots
from aiopool._runtime.runtime import Runtime

__all__ = ["Chores"]

# Seconds of one turn of the loop; with it so many steps until the next look at the clock, and in one turn of a virtual
# clock.
SLICE = 0.001
STEPS = 16
# So many running jobs are told to stop in one turn: each of them ends in the next one, for some 50 µs.
MOST_STOPS = 32


@final
class Chores:
    """The chores of one open pool.

    Attributes:
        pending: what is not done yet, in order.
        stops: how many running jobs were told to stop in this slice.
    """

    __slots__ = ("_lending", "_queue", "_runtime", "_slots", "_wake_workers", "pending", "stops")

    def __init__(
        self,
        runtime: Runtime,
        slots: Slots,
        queue: JobQueue,
        lending: SlotLending,
        wake_workers: Callable[[], object],
    ) -> None:
        """`wake_workers()` asks for a turn of the loop, in which `work` is called again."""
        self._runtime = runtime
        self._slots = slots
        self._queue = queue
        self._lending = lending
        self._wake_workers = wake_workers
        self.pending: deque[Iterator[object]] = deque()
        self.stops = 0

    def work_off(self, steps: Iterator[object]) -> None:
        """Do a chore: a slice of it now, and the rest in slices, one a turn. No job starts until it is done."""
        self.pending.append(steps)
        self._slots.hold(True)
        if len(self.pending) == 1:
            self.work()

    async def worked_off(self, steps: Iterator[object]) -> None:
        """Do a chore, and wait for its end; if the caller is cancelled, it goes on."""
        end: asyncio.Future[None] = self._lending.create_future()

        def all_steps() -> Iterator[object]:
            try:
                yield from steps
            finally:
                if not end.done():
                    end.set_result(None)

        self.work_off(all_steps())
        if not end.done():
            await self._lending.wait_for(end)

    def work(self) -> None:
        """Do a slice of what is pending."""
        chores, ends, self.stops = self.pending, self._runtime.now() + SLICE, 0
        try:
            while chores:
                steps = 0
                for _ in itertools.islice(chores[0], STEPS):
                    steps += 1
                    if self.stops >= MOST_STOPS:
                        return
                if steps < STEPS:
                    chores.popleft()
                elif self._runtime.virtual or self._runtime.now() >= ends:
                    break
        except BaseException:
            chores.popleft()  # it has ended by this
            raise
        finally:
            self._slots.hold(bool(chores))
            if chores or (self._slots.active < self._slots.limit and self._queue.live):
                self._wake_workers()
