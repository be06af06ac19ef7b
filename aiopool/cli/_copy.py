"""`aiopool jobs copy`: the live jobs of one store go to another, while producers and workers of both go on.

The move itself is `move_jobs`; here is what is around it: two stores, progress, going on for what is submitted later,
and ending between two batches when told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import Final, final

from aiopool._runtime.signals import SignalHandler
from aiopool.cli._board import duration
from aiopool.cli._store import complain, hidden, named_store, open_for_command, run_command
from aiopool.cli._streams import write_output
from aiopool.cli._table import table_lines
from aiopool.cli._words import FINE, MISUSED
from aiopool.errors import StoreUnavailableError
from aiopool.stores._move import move_jobs
from aiopool.stores._protocol import Store, Wake
from aiopool.stores._rows import StoredStatus, StoreStatistics

__all__ = ["copy_jobs"]

# Clocks that differ by more than that shift the moments of jobs so that somebody would notice.
_CLOCKS: Final = 2.0
# Seconds between two tries of a store that is not to be had.
_SLOWEST: Final = 10.0


class _Stop(Exception):  # noqa: N818 - it is no error
    """The copy was told to end, and nothing is on its way."""


def copy_jobs(
    source: str, target: str, queue: str, to_queue: str | None, *, batch: int, follow: bool, every: float
) -> int:
    """Move jobs from the store of one URL to that of another, and return the exit code."""
    if source == target and to_queue in (None, queue):
        complain("--from and --to are the same: write the store to which the jobs shall go behind --to")
        return MISUSED
    wake = asyncio.Event()

    def hint(kind: Wake) -> None:
        if kind == "work":
            wake.set()

    async def work() -> int:
        old, new = named_store(source, option="--from"), named_store(target, option="--to", made=True)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(open_for_command(old, queue, hint))
            await stack.enter_async_context(open_for_command(new, to_queue or queue))
            return await _Copy(old, new, batch, follow, every, wake, (source, target)).run()

    return run_command(work, source, target)


@final
class _Copy:
    """One run: how many were moved, and whether it was told to end."""

    def __init__(
        self,
        source: Store,
        target: Store,
        batch: int,
        follow: bool,
        every: float,
        wake: asyncio.Event,
        urls: tuple[str, str],
    ) -> None:
        self._source = source
        self._target = target
        self._batch = batch
        self._follow = follow
        self._every = every
        self._wake = wake
        self._urls = urls
        self._before = 0  # moved by the calls of move_jobs that are over
        self._now = 0  # by the one that is under way
        self._began = self._told = time.monotonic()
        self._total = 0
        self._stopped = False

    async def run(self) -> int:
        watch = SignalHandler(self._on_signal)
        self._task = asyncio.current_task()
        watch.install(asyncio.get_running_loop())
        try:
            await self._compare_clocks()
            self._total = _waiting(await self._source.statistics())
            try:
                await self._move()
            except (_Stop, asyncio.CancelledError):
                if not self._stopped:
                    raise
                if self._task is not None:
                    self._task.uncancel()
            left = await self._sum_up()
            if left and self._stopped:
                self._say(f"{left:,} jobs are still to be moved: the same command goes on")
            return 128 + (watch.last or 0) if left and self._stopped and not self._follow else FINE
        finally:
            watch.restore()

    async def _move(self) -> None:
        delay = 0.0
        while True:
            try:
                await move_jobs(self._source, self._target, batch=self._batch, on_progress=self._on_progress)
                delay = 0.0
            except StoreUnavailableError as error:
                if not self._follow:
                    self._say("the same command goes on where this one ends")
                    raise
                complain(hidden(str(error), *self._urls))
                delay = min(_SLOWEST, 2 * delay or 0.5)
            self._before, self._now = self._before + self._now, 0
            if not self._follow:
                return
            if not self._stopped:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), delay or self._source.poll)
            if self._stopped:
                raise _Stop

    def _on_progress(self, moved: int) -> None:
        self._now = moved
        moment = time.monotonic()
        if moment >= self._told + self._every:
            self._told = moment
            of = f" of {self._total:,}" if not self._follow else ""
            self._say(f"{self._moved:,}{of} moved, {self._moved / (moment - self._began):,.0f}/s")
        if self._stopped:
            raise _Stop

    @property
    def _moved(self) -> int:
        return self._before + self._now

    def _on_signal(self, count: int) -> None:
        """Finish the batch, or leave it; in both cases the same command goes on."""
        self._stopped = True
        self._wake.set()
        if count > 1 and self._task is not None:
            self._task.cancel()

    async def _compare_clocks(self) -> None:
        ahead = await self._target.now() - await self._source.now()
        if abs(ahead) > _CLOCKS:
            self._say(
                f"warning: the clock of the target is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}: jobs "
                f"with a moment start, and end, so much {'earlier' if ahead > 0 else 'later'}"
            )

    async def _sum_up(self) -> int:
        """Print how it stands on both sides; return how many are still to be moved."""
        left = 0
        rows: list[tuple[str, ...]] = []
        for name, store in (("from", self._source), ("to", self._target)):
            numbers = await store.statistics()
            waiting, running = _waiting(numbers), numbers.live.get(StoredStatus.RUNNING, 0)
            left = left if rows else waiting
            rows.append((name, store.url, f"{waiting:,}", f"{running:,}", f"{sum(numbers.ended.values()):,}"))
            if name == "from" and running and not self._follow:
                self._say(f"{running:,} jobs run at the source, and stay there; --follow takes those that are retried")
        write_output("".join(table_lines(("", "store", "waiting", "running", "ended"), rows)))
        self._say(f"{self._moved:,} moved in {duration(time.monotonic() - self._began)}")
        return left

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _waiting(numbers: StoreStatistics) -> int:
    """Return how many live jobs do not run."""
    return sum(count for status, count in numbers.live.items() if status is not StoredStatus.RUNNING)
