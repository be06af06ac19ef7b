"""`Claimer`: takes jobs out of the store, as many as there are free slots, and never more: nothing waits here that
another process could run.

It asks when there may be something: a slot has become free and the last answer said that there is more; a hint has come
from the store, or from a submission of this process; a moment has come that the store had named. And at least every
`poll` seconds, for hints may be lost; then it also hears which of its jobs were cancelled elsewhere.

An answer may be lost as well, and what it gave us is ours, though we do not know it. So now and then, and after each
failure, it is compared what the store says that we hold, and what we hold: between two claims, when none is on its way.

A pool that closes takes nothing more, and goes on asking: its last jobs may be cancelled elsewhere, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, final

from aiopool._durable.flusher import MAX_ROWS, backoff
from aiopool._engine.engine import Engine
from aiopool._runtime import failpoints
from aiopool._runtime.faults import log_fault
from aiopool.errors import StoreError
from aiopool.stores._protocol import Store
from aiopool.stores._rows import Claimed

__all__ = ["Claimer"]

logger = logging.getLogger("aiopool.store")

# Seconds for which it does not ask again because of a moment that the store has named: its clock may tick slower.
LEAST_WAIT = 0.001
# Seconds between two comparisons of what this process holds: a store may send a claim again by itself.
COMPARE_EVERY = 5.0


@final
class Claimer:
    """Claims jobs for one open pool.

    Attributes:
        may_be_more: the store may have jobs that could start.
        paused: the fleet is paused, by the last answer.
        doubtful: an answer may have been lost: what this process holds is to be compared.
        reserved: slots that are kept for jobs which may start as they are submitted.
        claims, jobs: how many answers there were, and jobs in them.
        failing_since: when the store was found out of reach, on the loop's clock; None: it answers.
    """

    __slots__ = (
        "_cancelled",
        "_compare",
        "_compared",
        "_ended",
        "_engine",
        "_ready",
        "_start",
        "_stopped",
        "_store",
        "_task",
        "_wakeup",
        "_woken",
        "claims",
        "doubtful",
        "failing_since",
        "jobs",
        "may_be_more",
        "paused",
        "reserved",
    )

    def __init__(
        self,
        store: Store,
        engine: Engine,
        ready: asyncio.Event,
        start: Callable[[Claimed], object],
        cancelled: Callable[[str, int, str | None], object],
        compare: Callable[[], Awaitable[object]],
    ) -> None:
        """What it does.

        Args:
            store, engine: where jobs come from, and who runs them.
            ready: the store is open.
            start: begins a job.
            cancelled: `cancelled(id, fence, reason)`: one that runs here was cancelled.
            compare: gives back what the store says that we hold, and we do not.
        """
        self._store = store
        self._engine = engine
        self._ready = ready
        self._start = start
        self._cancelled = cancelled
        self._compare = compare
        self._compared = engine.now()
        self.doubtful = False
        self._task: asyncio.Task[Any] | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self._woken = self._stopped = self._ended = False
        self.may_be_more = True
        self.paused = False
        self.reserved = self.claims = self.jobs = 0
        self.failing_since: float | None = None

    def begin(self) -> None:
        """Begin to claim."""
        self._engine.on_free = self._slot_freed
        self._task = self._engine.runtime.task(self._run(), "aiopool-store-claim")

    def stop(self) -> None:
        """Claim no more jobs, and go on asking for cancels. What is on its way is given back by whoever gets it."""
        self._stopped = True
        self._engine.on_free = None

    async def end(self) -> None:
        """Ask for nothing more, and wait for the last answer."""
        self._stopped = self._ended = True
        self._wake()
        if self._task is not None:
            await asyncio.wait([self._task])

    def free(self) -> int:
        """How many jobs could start now."""
        slots = self._engine.slots
        return 0 if self._stopped else slots.limit - slots.active - self._engine.queue.live - self.reserved

    def could_start(self) -> bool:
        """Whether a job that is submitted now could start at once: a slot is free, and nobody waits that we know of."""
        return not self.may_be_more and not self.paused and self.free() > 0

    def doubt(self) -> None:
        """An answer may have been lost: compare what this process holds, soon."""
        self.doubtful = True
        self.look()

    def hint(self) -> None:
        """There may be something to claim, or to cancel."""
        self.may_be_more = True
        self._wake()

    def look(self) -> None:
        """Something may have been cancelled: ask, though there may be no free slot."""
        self._woken = True
        self._wake()

    def _slot_freed(self) -> None:
        if self.may_be_more:
            self._wake()

    def _wake(self) -> None:
        wakeup = self._wakeup
        if wakeup is not None and not wakeup.done():
            wakeup.set_result(None)

    async def _run(self) -> None:
        failures = 0
        while not self._ended:
            try:
                await self._ready.wait()
                if self.doubtful or self._engine.now() - self._compared >= COMPARE_EVERY:
                    self.doubtful = False
                    self._compared = self._engine.now()
                    await self._compare()
                wait = await self._claim()
                failures, self.failing_since = 0, None
            except StoreError as error:
                wait = backoff(failures, self._engine.runtime.random)
                failures += 1
                self.doubtful = True
                self.failing_since = self.failing_since or self._engine.now()
                if failures == 1 or failures % 20 == 0:
                    log_fault(logger, "no jobs can be claimed: %s", error, fields={}, level=logging.WARNING)
                self.may_be_more = False
            if not self._ended:
                await self._wait(wait)

    async def _claim(self) -> float:
        """Ask once, and return for how many seconds to wait for a hint."""
        limit = min(max(self.free(), 0), MAX_ROWS)
        if limit:
            self.may_be_more = False  # first: a hint that comes meanwhile must not be lost
        self._woken = False
        answer = await self._store.claim(limit)
        if failpoints.ACTIVE and answer.jobs:
            failpoints.reach("claim.after")
        self.claims += 1
        self.jobs += len(answer.jobs)
        self.paused = answer.paused
        for job in answer.jobs:
            self._start(job)
        for id, fence, reason in answer.cancels:
            self._cancelled(id, fence, reason)
        self.may_be_more |= answer.more or (limit > 0 and len(answer.jobs) == limit)
        random = self._engine.runtime.random.random()
        poll = self._store.poll * (0.75 + random / 2)
        return poll if answer.next_in is None else min(poll, max(answer.next_in, LEAST_WAIT))

    async def _wait(self, seconds: float) -> None:
        """Wait for something to do."""
        if self._woken or (self.may_be_more and self.free() > 0):
            await asyncio.sleep(0)
            if self._woken or (self.may_be_more and self.free() > 0):
                return
        loop = self._engine.runtime.loop
        wakeup = self._wakeup = loop.create_future()
        timer = self._engine.runtime.later(seconds, self._wake)
        try:
            while True:
                await wakeup
                if self._ended or self._woken or not timer.when() > loop.time() or self.free() > 0:
                    return
                wakeup = self._wakeup = loop.create_future()
        finally:
            self._wakeup = None
            timer.cancel()
