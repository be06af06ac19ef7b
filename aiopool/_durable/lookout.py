"""`Lookout`: hears how jobs have ended that somebody waits for here, by hints and by asking again.

On the way it says how far those are that run here, and keeps the numbers of the fleet while they are wanted.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any, final

from aiopool._durable.attempts import Attempts
from aiopool._durable.handles import Handles
from aiopool._runtime.ending import end_tasks
from aiopool._runtime.faults import log_fault
from aiopool._runtime.runtime import Runtime
from aiopool.errors import StoreError, StoreUnavailableError
from aiopool.stores._protocol import Store
from aiopool.stores._rows import StoredStatus, StoreStatistics

__all__ = ["Lookout"]

logger = logging.getLogger("aiopool.store")

# Seconds between two reports of progress.
PROGRESS_EVERY = 0.5
# Seconds between two looks at the numbers of the fleet, while metrics are wanted.
COUNTED_EVERY = 5.0
# Seconds between two looks at whether all jobs have ended, at first and at most: to count them may take long.
DRAINED_AFTER, DRAINED_EVERY = 0.02, 2.0


@final
class Lookout:
    """Looks after the handles of one open pool.

    Attributes:
        fleet: the numbers of the fleet, as they were found last; None: nobody has asked.
    """

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        ready: asyncio.Event,
        handles: Handles,
        attempts: Attempts,
        *,
        runs_jobs: bool,
        counts: Callable[[], bool],
    ) -> None:
        """`runs_jobs`: there may be progress to report; `counts()`: whether the numbers of the fleet are wanted."""
        self.fleet: StoreStatistics | None = None
        self._store = store
        self._runtime = runtime
        self._ready = ready
        self._handles = handles
        self._attempts = attempts
        self._runs_jobs = runs_jobs
        self._counts = counts
        self._hint = asyncio.Event()
        self._may_have_ended = False
        self._polled = self._wrote = self._counted = -math.inf
        self._task: asyncio.Task[Any] | None = None
        handles.on_expected = self._hint.set

    def begin(self) -> None:
        """Begin."""
        self._task = self._runtime.task(self._run(), "aiopool-store-look")

    async def stop(self) -> None:
        """End."""
        await end_tasks(self._task)

    def look_again(self) -> None:
        """Some job may have ended, whichever it is."""
        self._may_have_ended = True
        self._hint.set()

    async def drained(self, joining: Callable[[], int]) -> None:
        """Wait until no job of the fleet is left but those that are parked, or on their way elsewhere; and `joining()`
        jobs that wait here themselves."""
        wait = DRAINED_AFTER
        while True:
            await self._ready.wait()
            numbers = await self._store.statistics()
            aside = sum(numbers.live.get(status, 0) for status in (StoredStatus.PARKED, StoredStatus.MOVING))
            if numbers.unfinished - aside <= joining():
                return
            await asyncio.sleep(wait)
            wait = min(2 * wait, DRAINED_EVERY)

    async def _run(self) -> None:
        while True:
            wanted = self._handles.expected or self._runs_jobs or self._counts()
            try:
                async with asyncio.timeout(min(self._store.poll, PROGRESS_EVERY) if wanted else None):
                    await self._hint.wait()
            except TimeoutError:
                pass
            self._hint.clear()
            try:
                await self._ready.wait()
                await self._look(self._runtime.now())
            except StoreUnavailableError:
                await asyncio.sleep(self._store.poll)
            except StoreError as error:
                log_fault(logger, "the store cannot be asked about jobs: %s", error, fields={})
                await asyncio.sleep(self._store.poll)

    async def _look(self, now: float) -> None:
        again = (
            self._may_have_ended or now - self._polled >= self._store.poll
        )  # hints may come all the time, or get lost
        if again:
            self._may_have_ended, self._polled = False, now
        asked = self._handles.next_asked(again=again)
        if self._handles.are_unasked:
            self._hint.set()
        if asked:
            for end in await self._store.finished(asked):
                self._handles.finished(end)
        if self._attempts.runs and now - self._wrote >= PROGRESS_EVERY:
            self._wrote = now
            await self._attempts.write_progress()
        if self._counts() and now - self._counted >= COUNTED_EVERY:
            self._counted = now
            self.fleet = await self._store.statistics()
