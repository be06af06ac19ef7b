"""`Work`: lines in, through a pool, results out.

The mutable state is the window: the lines that were read and whose results are not written yet. It is bounded, and that
is the whole back-pressure: a line is read when there is place in the window.

It ends in one of five ways: the input is done; a signal drains it (queued lines are given back, running ones finish);
a second signal cancels it; `fail_fast` cancels it at the first failure; the output is broken.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections import deque
from collections.abc import Callable
from typing import Any, Final, final

from aiopool import Job, JobStatus, Pool, PoolClosedError, PoolStatus, Priority
from aiopool.cli._board import Board, Meter, duration
from aiopool.cli._results import Results, record
from aiopool.cli._source import Item, Source
from aiopool.cli._words import BROKEN_PIPE, FAILED, FINE, one_line

__all__ = ["Plan", "Work"]

# Seconds between two looks at the numbers: as often as eyes can follow.
TICK: Final = 0.1
# Failures that are shown as they happen; all of them are in the results.
SHOWN: Final = 10


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to do with each line.

    Attributes:
        function: called with the line.
        ordered: results in the order of the lines.
        fail_fast: stop at the first failure.
        priority_field: the field of a JSON object that holds its priority.
        window: how many lines are between input and output, at most.
    """

    function: Callable[[Any], Any]
    ordered: bool
    fail_fast: bool
    priority_field: str | None
    window: int


@final
@dataclasses.dataclass(slots=True, eq=False)
class Entry:
    """A line in the window; itself, whatever other lines say. Without a job it has failed already."""

    item: Item
    job: Job[Any] | None

    def done(self) -> bool:
        return self.job is None or self.job.done()


@final
class Work:
    """One run of `aiopool map`; call it with an open pool."""

    def __init__(self, plan: Plan, source: Source, results: Results, board: Board) -> None:
        self._plan = plan
        self._source = source
        self._results = results
        self._board = board
        self._meter = Meter(source.total)
        self._room = asyncio.Semaphore(plan.window)
        self._changed = asyncio.Event()
        self._window: dict[Entry, None] = {}  # in the order of the lines
        self._finished: deque[Entry] = deque()
        self._read_all = False
        self._cut_short = False  # by a signal
        self._failed_fast = False
        self._given_back = 0
        self._shown = 0

    async def __call__(self, pool: Pool) -> int | None:
        """Do it, and return the exit code; None if a signal cut it short."""
        feeder = asyncio.create_task(self._feed(pool), name="aiopool-map-read")
        ticker = asyncio.create_task(self._tick(pool), name="aiopool-map-tick")
        feeder.add_done_callback(lambda _: self._changed.set())
        broken: OSError | None = None
        try:
            while not (feeder.done() and not self._window):
                await self._changed.wait()
                self._changed.clear()
                if self._cut_short or pool.status is not PoolStatus.OPEN:
                    feeder.cancel()
                await self._write(pool, self._take())
                if self._failed_fast:
                    feeder.cancel()
        except OSError as error:
            broken = error
            self._cancel_all()
        except asyncio.CancelledError:
            # We were interrupted, and our time is up, because nobody reads the results: that is not theirs to suffer.
            self._results.write_late(self._lines(self._take()))
            self._cut_short = True
        finally:
            feeder.cancel()
            ticker.cancel()
            await asyncio.wait([feeder, ticker])
        if not feeder.cancelled():
            feeder.result()
        self._sum_up(pool, broken)
        if broken is not None:
            return BROKEN_PIPE if isinstance(broken, BrokenPipeError) else FAILED
        if self._cut_short and not (self._read_all and not self._given_back):
            return None
        return FAILED if self._meter.failed or self._source.unreadable else FINE

    # -- in ------------------------------------------------------------------------------------------------------------

    async def _feed(self, pool: Pool) -> None:
        async for item in self._source:
            await self._room.acquire()
            entry = Entry(item, None)
            if item.problem is None:
                try:
                    await self._submit(pool, entry)
                except PoolClosedError:
                    self._given_back += 1
                    return
                except ValueError as error:
                    item = dataclasses.replace(item, problem=f"{item.place}: {error}")
                    entry = Entry(item, None)
            self._window[entry] = None
            if entry.job is None:
                self._finish(entry)
            else:
                entry.job.add_done_callback(functools.partial(self._finish, entry))
        self._read_all = True

    async def _submit(self, pool: Pool, entry: Entry) -> None:
        field = self._plan.priority_field
        if field is None:
            entry.job = await pool.submit(self._plan.function, entry.item.value)
            return
        value = entry.item.value
        if not isinstance(value, dict):
            raise ValueError(f"this is no JSON object, so it has no field {field!r}")
        priority = value.get(field, int(Priority.NORMAL))
        if not isinstance(priority, int) or isinstance(priority, bool):
            raise ValueError(f"its priority, the field {field!r}, is {priority!r}, not a whole number")
        entry.job = await pool.with_options(priority=priority).submit(self._plan.function, value)

    # -- out -----------------------------------------------------------------------------------------------------------

    def _finish(self, entry: Entry, job: Job[Any] | None = None) -> None:
        self._finished.append(entry)
        self._changed.set()

    def _take(self) -> list[Entry]:
        """Take out of the window what can be written."""
        if not self._plan.ordered:
            taken = list(self._finished)
        else:
            taken = []
            for entry in self._window:
                if not entry.done():
                    break
                taken.append(entry)
        self._finished.clear()
        for entry in taken:
            del self._window[entry]
            self._room.release()
        return taken

    async def _write(self, pool: Pool, entries: list[Entry]) -> None:
        if lines := self._lines(entries):
            await self._results.write(lines)
        if self._plan.fail_fast and self._meter.failed and not self._failed_fast:
            self._failed_fast = True
            self._board.say("stopping at the first failure (--fail-fast)")
            self._cancel_all()

    def _lines(self, entries: list[Entry]) -> list[str]:
        return [line for line in map(self._line, entries) if line is not None]

    def _line(self, entry: Entry) -> str | None:
        """Return the line of results for an entry; None if its job was given back before it started."""
        item, job = entry.item, entry.job
        if job is None:
            self._count(item, item.problem)
            return record(item.value, ok=False, outcome=item.problem, attempts=0, seconds=0.0)
        outcome = job.outcome()
        if outcome.attempts == 0 and outcome.status is JobStatus.CANCELLED:
            self._given_back += 1
            return None
        if outcome.ok:
            self._count(item, None)
            result = outcome.value
        else:
            assert outcome.error is not None
            result = one_line(outcome.error)
            self._count(item, f"{item.place}: {result}")
        return record(item.value, ok=outcome.ok, outcome=result, attempts=outcome.attempts, seconds=outcome.seconds)

    def _count(self, item: Item, problem: str | None) -> None:
        self._meter.count(item.size, ok=problem is None)
        if problem is not None and self._results.path is not None:
            self._shown += 1
            if self._shown <= SHOWN:
                self._board.say(problem)
            elif self._shown == SHOWN + 1:
                self._board.say(f"further failures are not shown here, see {self._results.name}")

    # -- meanwhile, and at the end -------------------------------------------------------------------------------------

    async def _tick(self, pool: Pool) -> None:
        while True:
            numbers = pool.statistics()
            self._board.show(self._meter.progress(numbers.running, numbers.retries))
            await asyncio.sleep(TICK)

    def on_signal(self, count: int) -> None:
        """A signal came, and the pool is about to be shut down: give back what was not started, and say so."""
        self._cut_short = True
        running = 0
        for entry in list(self._window):
            if entry.job is not None and not entry.job.done():
                if entry.job.status is JobStatus.QUEUED and entry.job.attempt == 0:
                    entry.job.cancel("it was not started when the work was interrupted")
                else:
                    running += 1
        self._changed.set()
        if not running:
            return
        if count == 1:
            self._board.say(f"interrupted: finishing the {running} under way; once more cancels them")
        else:
            self._board.say(f"cancelling the {running} under way; once more leaves at once")

    def _cancel_all(self) -> None:
        for entry in list(self._window):
            if entry.job is not None:
                entry.job.cancel("the work was stopped")

    def _sum_up(self, pool: Pool, broken: OSError | None) -> None:
        meter, seconds = self._meter, self._meter.elapsed
        self._board.close()
        if isinstance(broken, BrokenPipeError):
            return  # whoever read it has seen enough
        if broken is not None:
            name, written = self._results.name, self._results.written
            self._board.say(f"{name} cannot be written: {broken.strerror}; it has {written:,} complete results")
        retries = pool.statistics().retries
        words = [f"{meter.done - meter.failed:,} succeeded", f"{meter.failed:,} failed"]
        words += [f"{retries:,} retried"] if retries else []
        words += [f"{self._given_back:,} read but not started"] if self._given_back else []
        rate = f" ({meter.done / seconds:,.0f}/s)" if seconds > 0 else ""
        where = f"; results in {self._results.path}" if self._results.path is not None and broken is None else ""
        self._board.say(f"{meter.done:,} done in {duration(seconds)}{rate}: {', '.join(words)}{where}")
