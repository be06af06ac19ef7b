"""`MapRun`: lines in, through `pool.map`, results out.

It ends in one of five ways: the input is done; a signal drains it (queued lines are given back, running ones finish);
a second signal cancels it; there are too many failures, which cancels or drains it; the output is broken. Each of the
last four stops the source, and then takes what `pool.map` still has: what was done is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, final

from aiopool import JobCancelledError, JobOptions, JobStatus, MapResult, Pool, PoolClosedError
from aiopool.cli._board import ProgressDisplay, Rate, duration
from aiopool.cli._call import BadLineError
from aiopool.cli._json import ResultError
from aiopool.cli._options import MapOptions
from aiopool.cli._record import Record, trace_of
from aiopool.cli._results import Results
from aiopool.cli._source import Item, Source
from aiopool.cli._words import FAILED, FINE, one_line

__all__ = ["MapRun"]

# Seconds between two looks at the numbers: as often as eyes can follow.
TICK: Final = 0.1
# Failures that are shown as they happen; all of them are in the results.
SHOWN: Final = 10


@final
class MapRun:
    """One run of `aiopool map`; give it an open pool, `pool`, and call it."""

    def __init__(
        self,
        options: MapOptions,
        function: Callable[[Item], Any],
        source: Source,
        record: Record,
        results: Results,
        board: ProgressDisplay,
        *,
        failed_before: int = 0,
    ) -> None:
        self._options = options
        self._function = function
        self._source = source
        self._record = record
        self._results = results
        self._board = board
        self._failed_before = failed_before
        self._meter = Rate(source.total)
        self._stopped = False  # by a signal, by --halt or by an output that is broken
        self._interrupted = False  # by a signal
        self.pool: Pool

    async def __call__(self) -> int | None:
        """Do it, and return the exit code; None if a signal cut it short."""
        pool = self.pool
        self._results.on_broken = lambda: self._stop("the results cannot be written")
        ticker = asyncio.create_task(self._tick(pool), name="aiopool-map-tick")
        options = self._options
        stream = pool.map(
            self._function,
            self._source,
            ordered=options.ordered,
            buffersize=options.buffersize,
            options=_options_of if options.priority_field is not None or options.key_field is not None else None,
            errors="yield",
        )
        try:
            async with stream:
                async for result in stream:
                    if self._take(result) and not self._stopped:
                        await self._results.drained()
            await self._results.drained(0)
        except PoolClosedError:
            if not self._interrupted:
                raise
            # A line was on its way when the signal closed the pool.
        finally:
            ticker.cancel()
            await asyncio.wait([ticker])
        self._sum_up(pool)
        if self._interrupted and not (self._source.ended and not self._meter.cancelled and not self._given_back):
            return None
        return FAILED if self._meter.failed or self._failed_before or self._source.unreadable else FINE

    # -- each result -------------------------------------------------------------------------------------------------

    def _take(self, result: MapResult[Item, Any]) -> bool:
        """Count and write a result; return whether the writing should be waited for."""
        item, error = result.input, result.error
        attempts, seconds = result.attempts, result.seconds
        line: str | None
        if error is None:
            try:
                line = self._record.succeeded(item, result.value, attempts, seconds)
                self._meter.count(item.size)
            except ResultError as unsaid:
                line = self._failed(item, one_line(unsaid), None, attempts, seconds)
        elif isinstance(error, BadLineError):
            line = self._failed(item, str(error), None, 0, 0.0)
        elif self._stopped and isinstance(error, JobCancelledError):
            if not attempts:
                return False  # given back before it was started
            self._meter.cancelled += 1
            line = self._record.failed(item, one_line(error), None, attempts, seconds, cancelled=True)
        else:
            line = self._failed(item, one_line(error), trace_of(error), attempts, seconds)
        return line is not None and self._results.add(line)

    def _failed(self, item: Item, problem: str, trace: str | None, attempts: int, seconds: float) -> str | None:
        """Count a failure, and show the first of them; all, if the results do not have them."""
        meter, options = self._meter, self._options
        meter.count(item.size, ok=False)
        if meter.failed <= SHOWN or options.raw:
            self._board.say(problem if problem.startswith(item.place) else f"{item.place}: {problem}")
            if trace is not None and options.show_traceback:
                for line in trace.splitlines():
                    self._board.say(f"    {line}")
        elif meter.failed == SHOWN + 1:
            self._board.say("further failures are not shown here; all of them are in the results")
        halt = options.halt
        if halt is not None and not self._stopped and halt.reached(meter.failed, meter.done):
            running = self._stop(f"stopped by --halt {halt.text}", queued_only=halt.soon)
            finishing = f": finishing the {running} under way" if running else ""
            self._board.say(f"{meter.failed:,} failed of {meter.done:,} done, so --halt {halt.text} stops{finishing}")
        return self._record.failed(item, problem, trace, attempts, seconds)

    # -- how it ends -------------------------------------------------------------------------------------------------

    def on_signal(self, count: int) -> None:
        """A signal came, and the pool is about to be shut down: give back what was not started, and say so."""
        self._interrupted = True
        running = self._stop("interrupted", queued_only=True)
        if not running:
            return
        if count == 1:
            self._board.say(f"interrupted: finishing the {running} under way; once more cancels them")
        else:
            self._board.say(f"cancelling the {running} under way; once more leaves at once")

    def _stop(self, why: str, *, queued_only: bool = False) -> int:
        """Read no further, and cancel the jobs; return how many go on."""
        self._stopped = True
        self._source.stop()
        self._results.release()
        going_on = 0
        for job in self.pool.jobs():
            if queued_only and not (job.status is JobStatus.QUEUED and job.attempt == 0):
                going_on += 1
            else:
                job.cancel(why)
        return going_on

    @property
    def _given_back(self) -> int:
        """How many lines were read and not started."""
        return self._source.read - self._meter.done - self._meter.cancelled

    # -- what is shown -----------------------------------------------------------------------------------------------

    async def _tick(self, pool: Pool) -> None:
        while True:
            numbers = pool.statistics()
            self._board.show(self._meter.progress(numbers.running, numbers.retries, self._source.skipped_size))
            await asyncio.sleep(TICK)

    def _sum_up(self, pool: Pool) -> None:
        """Say what was done."""
        meter, broken, name = self._meter, self._results.error, self._results.name
        seconds, retries = meter.elapsed, pool.statistics().retries
        self._board.close()
        if isinstance(broken, BrokenPipeError):
            return  # whoever read it has seen enough
        if broken is not None:
            self._board.say(
                f"{name} cannot be written: {broken.strerror}; it has {self._results.written:,} complete results"
            )
        words = [f"{meter.done - meter.failed:,} succeeded", f"{meter.failed:,} failed"]
        words += [f"{meter.cancelled:,} cancelled"] if meter.cancelled else []
        words += [f"{retries:,} retried"] if retries else []
        words += [f"{self._given_back:,} read but not started"] if self._given_back else []
        rate = f" ({meter.done / seconds:,.0f}/s)" if seconds > 0 else ""
        where = f"; results in {name}" if self._results.path is not None and broken is None else ""
        if self._source.past is not None:
            self._say_past()
        if self._options.dry_run:
            self._board.say(f"{meter.done:,} lines read: nothing was called (--dry-run)")
            return
        self._board.say(f"{meter.done:,} done in {duration(seconds)}{rate}: {', '.join(words)}{where}")

    def _say_past(self) -> None:
        source = self._source
        if source.skipped:
            failed = f", {self._failed_before:,} of them failed: --retry-failed runs these again" * bool(
                self._failed_before
            )
            self._board.say(f"{source.skipped:,} had their results before{failed}")
        if source.changed:
            self._board.say(
                f"{source.changed:,} have changed since, and were run: {self._results.name} has two results of each, "
                "the later one is of the line as it is now"
            )


def _options_of(item: Item) -> JobOptions:
    return JobOptions(priority=item.priority, key=item.key)
