"""`Flusher`: many coroutines, one write.

What is added while a write is under way goes into the next one, so the size of a batch adapts itself: one row when
little happens, hundreds when much does. There is one write at a time. After one that answered many it waits for some
turns of the loop: who got an answer is likely to add the next row, and rows that come together share a commit.

A write that fails because the store cannot be reached is sent again, as it is, until `patience` is over: every verb of
a store may be sent twice. Only then do those who wait get the error.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar, final

from aiopool._runtime.faults import log_fault
from aiopool._runtime.runtime import Runtime
from aiopool.errors import StoreUnavailableError

__all__ = ["MAX_ROWS", "Flusher", "backoff"]

T = TypeVar("T")
A = TypeVar("A")

logger = logging.getLogger("aiopool.store")

# So many rows go into one write.
MAX_ROWS = 1000
# And no more of them once there are so many bytes: one write is one message, and one transaction.
MAX_BYTES = 8 << 20
# Turns of the loop between two writes. Who got an answer goes on in the first, the jobs that were begun end in the next
# ones; then ends and submissions come together, and a store that has one thread for both writes them as one.
TURNS = 3
# Seconds between the first two tries of a write, and at most.
FIRST_DELAY, MAX_DELAY = 0.05, 2.0


def backoff(tries: int, rng: random.Random) -> float:
    """Return the seconds before another try, after so many."""
    return min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(tries, 10)) * (0.5 + rng.random() / 2)


@final
class Flusher(Generic[T, A]):
    """Writes rows of one kind.

    Attributes:
        writes, rows: how many there were.
        failing_since: when the store was found out of reach, on the loop's clock; None: it answers.
    """

    __slots__ = (
        "_answered",
        "_failed",
        "_name",
        "_patience",
        "_rows",
        "_runtime",
        "_task",
        "_weigh",
        "_write",
        "failing_since",
        "rows",
        "writes",
    )

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        write: Callable[[Sequence[T], bool], Awaitable[Sequence[A]]],
        answered: Callable[[T, A], object],
        failed: Callable[[T, BaseException], object],
        *,
        patience: float | None,
        weigh: Callable[[T], int],
    ) -> None:
        """What it does.

        Args:
            name: for the log.
            runtime: whose loop it runs in.
            write: writes a batch; `again`: it may have been written before.
            answered, failed: called with each row, and its answer or error; must not raise.
            patience: seconds for which a write is tried; None: until it is closed.
            weigh: returns about how many bytes a row has, where that may be many.
        """
        self._name = name
        self._runtime = runtime
        self._write = write
        self._answered = answered
        self._failed = failed
        self._patience = patience
        self._weigh = weigh
        self._rows: deque[T] = deque()
        self._task: asyncio.Task[Any] | None = None
        self.writes = self.rows = 0
        self.failing_since: float | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def busy(self) -> bool:
        """Whether something is not written yet."""
        return bool(self._rows) or self._task is not None

    def add(self, row: T) -> None:
        """Have a row written, with those that come in the same turn of the loop."""
        self._rows.append(row)
        if self._task is None:
            self._task = self._runtime.task(self._run(), f"aiopool-store-{self._name}")

    async def drain(self) -> None:
        """Wait until all is written, or has failed."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def give_up(self) -> None:
        """Try no more: what cannot be written now has failed."""
        self._patience = 0.0
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        batch: list[T] = []
        try:
            while self._rows:
                batch = self._next()
                await self._flush(batch)
                turns, batch = TURNS if len(batch) > 1 else 0, []
                for _ in range(turns):
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            error = StoreUnavailableError(f"the pool has closed before its {self._name} could be written")
            rows, self._rows = [*batch, *self._rows], deque()
            for row in rows:
                self._failed(row, error)
        finally:
            self._task = None
            if self._rows:  # what came in the last step
                self._task = self._runtime.task(self._run(), f"aiopool-store-{self._name}")

    def _next(self) -> list[T]:
        """Return the rows of the next write, and forget them."""
        rows, weigh, weight = self._rows, self._weigh, 0
        batch: list[T] = []
        while rows and len(batch) < MAX_ROWS and weight < MAX_BYTES:
            weight += weigh(rows[0])
            batch.append(rows.popleft())
        return batch

    async def _flush(self, batch: list[T]) -> None:
        now = self._runtime.now
        began, tries = now(), 0
        while True:
            try:
                answers = await self._write(batch, tries > 0)
            except StoreUnavailableError as error:
                delay = backoff(tries, self._runtime.random)
                if self._patience is not None and now() - began + delay > self._patience:
                    return self._fail(batch, error)
                tries += 1
                self.failing_since = self.failing_since or began
                if tries == 1 or tries % 20 == 0:
                    text = "%d rows (%s) could not be written, and are tried again: %s"
                    log_fault(logger, text, len(batch), self._name, error, fields={}, level=logging.WARNING)
                await asyncio.sleep(delay)
            except Exception as error:
                return self._fail(batch, error)
            else:
                self.failing_since = None
                self.writes += 1
                self.rows += len(batch)
                for row, answer in zip(batch, answers, strict=True):
                    self._answered(row, answer)
                return None

    def _fail(self, batch: list[T], error: BaseException) -> None:
        for row in batch:
            self._failed(row, error)
