"""`Sweeper`: has the store do what has to be done now and then, from any process that runs jobs.

Jobs of dead processes go back to the queue, jobs whose time is over end, old history goes. Each step is bounded, and
the moments are spread at random, so that a thousand processes do not come at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import final

from aiopool._durable.flusher import backoff
from aiopool._runtime import failpoints
from aiopool._runtime.ending import end_tasks
from aiopool._runtime.faults import log_fault
from aiopool._runtime.runtime import Runtime
from aiopool.errors import StoreError
from aiopool.stores._protocol import Store
from aiopool.stores._rows import SweepReport

__all__ = ["Sweeper"]

logger = logging.getLogger("aiopool.store")


@final
class Sweeper:
    """Sweeps the store of one open pool.

    Attributes:
        rescued, dead, timed_out: the sums of its reports.
    """

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        ready: asyncio.Event,
        names: Callable[[], tuple[str, ...]],
        found_work: Callable[[], object],
    ) -> None:
        """What it does.

        Args:
            store, runtime: what is swept, and in whose loop.
            ready: the store is open.
            names: those of the handlers.
            found_work: called when jobs came back to the queue.
        """
        self._store = store
        self._runtime = runtime
        self._ready = ready
        self._names = names
        self._found_work = found_work
        self._task: asyncio.Task[None] | None = None
        self.rescued = self.dead = self.timed_out = 0

    def begin(self) -> None:
        """Begin."""
        self._task = self._runtime.task(self._run(), "aiopool-store-sweep")

    async def stop(self) -> None:
        """End, in the middle of a step if need be: the store does it wholly or not at all."""
        await end_tasks(self._task)

    async def _run(self) -> None:
        failures = 0
        while True:
            more = False
            await self._ready.wait()
            try:
                if failpoints.ACTIVE:
                    failpoints.reach("sweep.before")
                report = await self._store.sweep(self._names())
                if failpoints.ACTIVE:
                    failpoints.reach("sweep.after")
            except StoreError as error:
                failures += 1
                if failures == 1 or failures % 20 == 0:
                    log_fault(logger, "the store cannot be swept: %s", error, fields={}, level=logging.WARNING)
                await asyncio.sleep(backoff(failures, self._runtime.random))
            else:
                failures, more = 0, report.more
                self._note(report)
            await asyncio.sleep(0 if more else self._store.sweep_every * (0.5 + self._runtime.random.random()))

    def _note(self, report: SweepReport) -> None:
        self.rescued += report.rescued
        self.dead += report.dead
        self.timed_out += report.timed_out
        if report.rescued or report.dead:
            text = "jobs of dead processes: %d went back to the queue, %d were given up"
            log_fault(logger, text, report.rescued, report.dead, fields={}, level=logging.WARNING)
        if report.rescued or report.unparked:
            self._found_work()
