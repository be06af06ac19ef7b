"""`MapFeed`: the source's side of a map. It reads items, makes a job of each, and keeps jobs until they are taken.

The consumer's side, the stream (`map.py`), refers to its feed; the feed does not refer to the stream. A stream that is
dropped in the middle is noticed that way, and the feed lets go of its source.

Invariant: `submitted - taken <= buffersize`. That is the whole back-pressure.

The consumer is woken once, by the first end after which it has something to take, and takes all that there is.

A plain source is read in the consumer's own steps. An asynchronous one is read by a task, the *feeder*, so that a slow
source does not keep finished results from the consumer.

Only `StopIteration` of the source's own `__next__`, or `StopAsyncIteration` of its `__anext__`, is the end of a source.
Whatever else ends it is the error of the stream, raised after the results of the items before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextvars import copy_context
from typing import Any, final

from aiopool._engine.engine import Engine
from aiopool._jobs.job import Job
from aiopool._jobs.spec import JobSpec
from aiopool._jobs.status import JobStatus
from aiopool._jobs.waiters import JobObserver, add_waiter, remove_waiter
from aiopool._pool.block import JobBlock
from aiopool._pool.durability import StoreCall
from aiopool._pool.state import PoolState
from aiopool._runtime.faults import is_kind, log_fault, type_name
from aiopool._runtime.runtime import shield
from aiopool.errors import PoolClosedError, PoolError

__all__ = ["MapFeed", "raisable"]

logger = logging.getLogger("aiopool.pool")

SUCCEEDED = JobStatus.SUCCEEDED
_FAILURES = (JobStatus.FAILED, JobStatus.TIMED_OUT)


@final
class MapFeed(JobObserver):
    """See the module.

    Attributes:
        line: jobs in the order in which they are taken: all that were not, if the results are ordered, else those that
            have ended.
        submitted, done, failed, taken: how many jobs were made, have ended, have not succeeded, were taken.
        exhausted: no more items are read.
        closed: nobody will take anything any more.
        inputs: the items of the jobs, if the consumer wants them.
    """

    __slots__ = (
        "_add",
        "_block",
        "_buffersize",
        "_feeder",
        "_follows_size",
        "_function",
        "_held",
        "_items",
        "_location",
        "_low",
        "_ordered",
        "_source",
        "_spec",
        "_spec_for",
        "_state",
        "_unordered",
        "_wakeup",
        "_watched",
        "closed",
        "done",
        "exhausted",
        "failed",
        "failure",
        "inputs",
        "line",
        "submitted",
        "taken",
    )

    def __init__(
        self,
        state: PoolState,
        block: JobBlock | None,
        spec: JobSpec,
        spec_for: Callable[[Any], tuple[JobSpec, int | str | None, float]] | None,
        function: Callable[[Any], Any],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        ordered: bool,
        buffersize: int | None,
        with_inputs: bool,
    ) -> None:
        self.line: deque[Job[Any]] = deque()
        self.submitted = self.done = self.failed = self.taken = 0
        self.exhausted = self.closed = False
        self.failure: BaseException | None = None  # of the source
        self.inputs: dict[Job[Any], Any] | None = {} if with_inputs else None
        self._state = state
        self._block = block
        self._spec = spec
        self._spec_for = spec_for  # the spec, id and delay of the job of an item, if it has its own
        self._function = function
        self._items: Iterable[Any] | AsyncIterable[Any] = items
        self._source: Iterator[Any] | AsyncIterator[Any] | None = None  # from the first step on
        self._held: list[Any] = []  # an item that was read, and did not get in
        self._ordered = ordered
        self._buffersize = buffersize
        self._follows_size = buffersize is None
        self._low = 0  # the source is read again when so few jobs are left
        self._unordered: dict[Job[Any], None] = {}  # all that were not taken, if not ordered
        # Keeps a job until it is taken; a method in C, for it is called for every job.
        self._add: Callable[[Job[Any]], object] = self.line.append if ordered else self._unordered.setdefault
        self._watched = block is not None  # somebody waits for the end of a job
        self._wakeup: asyncio.Future[None] | None = None  # what the consumer waits for
        self._location: asyncio.Future[None] | None = None  # what the feeder waits for
        self._feeder: asyncio.Task[None] | None = None

    @property
    def engine(self) -> Engine:
        """The engine of the open pool."""
        engine = self._state.engine
        if engine is None:
            raise self._state.not_open("map")
        return engine

    # -- what the consumer asks --------------------------------------------------------------------------------------

    def take(self) -> Job[Any] | None:
        """Return the next job that has ended, or None if there is none yet; read the source again in time."""
        if self.submitted - self.taken <= self._low and not self.exhausted:
            self._read()
        line = self.line
        if not line or line[0]._finished_at is None:
            return None
        job = line.popleft()
        self.taken += 1
        if not self._ordered:
            del self._unordered[job]
        if self._location is not None:
            self._make_place()
        return job

    def take_values(self, values: list[Any]) -> None:
        """Take the jobs that have succeeded, up to the first that has not, and add what they returned to a list."""
        line, unordered, before = self.line, self._unordered, len(values)
        popleft, append = line.popleft, values.append
        while line and line[0]._status is SUCCEEDED:
            job = popleft()
            append(job._value)
            if unordered:
                del unordered[job]
        if len(values) > before:
            self.taken += len(values) - before
            if self._location is not None:
                self._make_place()

    @property
    def opened(self) -> bool:
        """Whether the first item was asked for."""
        return self._source is not None

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come."""
        return self.closed or (self.exhausted and self.submitted == self.taken)

    async def wait(self, give_up: Callable[[], object] | None) -> None:
        """Wait until a job can be taken, or the end is there. Until then, as many items are read as may be.

        `give_up` is called if the caller is cancelled, before it waits for a slot that it had lent.
        """
        if not self.exhausted:
            self._read()
            if not self.exhausted and self.submitted == self.taken and self._feeder is None:
                return await self._read_when_room()  # the pool is full of other people's jobs
        if self.ended or (self.line and self.line[0]._finished_at is not None):
            return
        engine = self.engine
        self._wakeup = wakeup = engine.runtime.loop.create_future()
        self._watched = True
        try:
            await engine.lending.wait_for(wakeup, give_up)
        finally:
            self._stop_waiting()

    def unfinished(self) -> list[Job[Any]]:
        """Return the jobs that have not ended, oldest first."""
        jobs = self.line if self._ordered else self._unordered
        return [job for job in jobs if job._finished_at is None]

    # -- reading -----------------------------------------------------------------------------------------------------

    def _open(self, engine: Engine) -> Iterator[Any] | AsyncIterator[Any]:
        self._measure(engine)
        items, self._items = self._items, ()
        self._source = aiter(items) if isinstance(items, AsyncIterable) else iter(items)
        return self._source

    def _measure(self, engine: Engine) -> None:
        """Take a buffer of twice the size of the pool, which may change, where none was asked for."""
        if self._follows_size:
            self._buffersize = 2 * engine.slots.size or 2
        assert self._buffersize is not None
        self._low = self._buffersize * 3 // 4

    def _read(self) -> None:
        """Read a plain source as far as there is place for its jobs; let the feeder read an asynchronous one."""
        if self._feeder is not None:
            return
        engine = self.engine
        try:
            source = self._source if self._source is not None else self._open(engine)
        except BaseException as error:
            return self._fail(error)
        if isinstance(source, AsyncIterator):
            name = f"{self._state.name}-map-{self._spec.name}"
            # In the consumer's context: the source is his.
            self._feeder = engine.runtime.task(self._feed(engine, source), name, copy_context())
            return
        if self._follows_size:
            self._measure(engine)
        assert self._buffersize is not None
        room, held, spec, function = engine.admission, self._held, self._spec, self._function
        place = self._buffersize - (self.submitted - self.taken)
        may_be_full = len(engine.jobs) + place > room.limit
        # Most maps: nothing has to be noted of a job but that it is there.
        plain = (
            self._spec_for is None and self._block is None and self.inputs is None and self._state.durability is None
        )
        try_submit, add = engine.try_submit, self._add
        while place > 0:
            place -= 1
            if may_be_full and (room.is_full() or not room.open_to_caller()):
                return
            try:
                item = held.pop() if held else next(source)
            except StopIteration:
                self.exhausted = True
                return
            except BaseException as error:
                return self._fail(error)
            try:
                if plain:
                    job = try_submit(spec, function, (item,), self)
                else:
                    job = self._try_submit(engine, item, *self._choose(item))
            except BaseException as error:
                return self._fail(error)
            if job is None:
                held.append(item)  # reading it has filled the pool
                return
            if plain:
                self.submitted += 1
                add(job)
            else:
                self._keep(job, item)

    async def _read_when_room(self) -> None:
        """Wait for room with the next item of a plain source."""
        assert self._source is not None
        try:
            item = self._held.pop() if self._held else next(self._source)  # type: ignore[arg-type]
        except StopIteration:
            self.exhausted = True
            return
        except BaseException as error:
            return self._fail(error)
        try:
            await self._submit(self.engine, item)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fail(error)

    async def _feed(self, engine: Engine, source: AsyncIterator[Any]) -> None:
        """The feeder: read an asynchronous source as far as there is place for its jobs; it ends with the pool."""
        assert self._buffersize is not None
        loop, feeder = engine.runtime.loop, asyncio.current_task()
        assert feeder is not None
        closers, closer = self._state.close_waiters, loop.create_future()
        closer.add_done_callback(lambda _: self._pool_closed(feeder))
        closers[closer] = None
        try:
            while True:
                while self.submitted - self.taken >= self._buffersize:
                    self._measure(engine)
                    self._location = loop.create_future()
                    try:
                        await self._location
                    finally:
                        self._location = None
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    break
                if self.closed:
                    break  # a source that has kept the cancel to itself: nobody will take this
                await self._submit(engine, item)
        except BaseException as error:
            if is_kind(error, GeneratorExit) and not loop.is_running():
                raise  # the loop is gone, and this coroutine with it
            if self.failure is None:
                self._fail(error)
            if is_kind(error, asyncio.CancelledError) and feeder.cancelling():
                raise  # we were cancelled, and the source did not end by itself
        finally:
            self.exhausted = True
            closers.pop(closer, None)
            if loop.is_running():
                await self._close_source(source)
            self._wake()

    def _pool_closed(self, feeder: asyncio.Task[None]) -> None:
        try:
            self._state.check_accepting()
        except PoolClosedError as error:
            self._fail(error)
        feeder.cancel()

    async def _close_source(self, source: AsyncIterator[Any]) -> None:
        """Close a source, if it can be closed, as an async generator can. Its failure has nobody else to go to."""
        task = asyncio.current_task()
        assert task is not None
        cancels = task.cancelling()
        try:
            aclose = getattr(source, "aclose", None)
            if aclose is not None:
                await aclose()
        except BaseException as error:
            if is_kind(error, asyncio.CancelledError) and task.cancelling() > cancels:
                raise  # we were cancelled, and the source does not end by itself
            log_fault(logger, "closing the source of map(%s, ...) failed", self._spec.name, error=error)

    def _fail(self, error: BaseException) -> None:
        """End the stream with an error, after the results of the items before."""
        self.exhausted = True
        if not self.closed:
            self.failure = raisable(error, f"the source of map({self._spec.name}, ...)")
        elif not is_kind(error, asyncio.CancelledError):
            self._report(error)  # its clean-up has failed
        self._wake()

    # -- submitting --------------------------------------------------------------------------------------------------

    def _choose(self, item: Any) -> tuple[JobSpec, int | str | None, float]:
        """Return the spec, the id and the delay of the job of an item."""
        if self._block is not None:
            self._block.check_open()
        return (self._spec, None, 0.0) if self._spec_for is None else self._spec_for(item)

    def _try_submit(
        self, engine: Engine, item: Any, spec: JobSpec, id: int | str | None, delay: float
    ) -> Job[Any] | None:
        """Make a job of an item if there is room; else return None."""
        durability = self._state.durability
        if durability is not None:
            self._state.check_accepting()
            call = StoreCall(spec, self._function, (item,), {}, id, delay)
            job = durability.hand_in(call)
            add_waiter(job, self)
            durability.expect(job)
            return job
        if id is None and not delay:
            return engine.try_submit(spec, self._function, (item,), self)
        return engine.try_submit_one(spec, self._function, (item,), self, id, delay)

    async def _submit(self, engine: Engine, item: Any) -> None:
        """Make a job of an item, and wait for room if there is none. If that is cancelled, the item is kept."""
        spec, id, delay = self._choose(item)
        submitted = self._try_submit(engine, item, spec, id, delay)
        if submitted is not None:
            return self._keep(submitted, item)
        job = engine.make(spec, self._function, (item,), self, id, delay)
        self._state.check_accepting(job)
        self._keep(job, item)
        try:
            await engine.enter_when_space(job)
        except PoolError:
            pass  # cancelled by its id, or the pool is closing: the job has ended with it
        except BaseException:
            if not self.closed:
                self._take_back(job)
                self._held.append(item)  # for a consumer that goes on after a time limit of its own
            engine.admission.withdraw(job)
            raise

    def _keep(self, job: Job[Any], item: Any) -> None:
        """Keep a job until it is taken."""
        self.submitted += 1
        self._add(job)
        if self.inputs is not None:
            self.inputs[job] = item
        if self._block is not None:
            self._block.add(job)
        if self._wakeup is not None and job._finished_at is not None:
            self._wake()  # a listener has cancelled it already

    def _take_back(self, job: Job[Any]) -> None:
        """Forget a job that did not get in, or was cancelled as it got in."""
        remove_waiter(job, self)
        self.submitted -= 1
        if job._finished_at is not None:
            self.done -= 1
            self.failed -= 1
        if job in self.line:
            self.line.remove(job)
        self._unordered.pop(job, None)
        if self.inputs is not None:
            self.inputs.pop(job, None)
        if self._block is not None:
            self._block.remove(job)

    # -- waking ------------------------------------------------------------------------------------------------------

    def handles_errors(self) -> bool:
        return not self.closed

    def job_done(self, job: Job[Any]) -> None:
        """A job of the map has ended."""
        self.done += 1
        if job._status is not SUCCEEDED:
            self.failed += 1
        if not self._ordered:
            self.line.append(job)
        if self._watched:
            self._notify(job)

    def _notify(self, job: Job[Any]) -> None:
        """Let whoever waits for it know that a job has ended."""
        if self.closed:
            self._unordered.pop(job, None)
        elif self._wakeup is not None and self.line and self.line[0]._finished_at is not None:
            self._wake()
        if self._block is not None:
            self._block.remove(job)

    def _wake(self) -> None:
        """Let the consumer look again; once, what ends next need not."""
        wakeup = self._wakeup
        self._stop_waiting()
        if wakeup is not None and not wakeup.done():
            wakeup.set_result(None)

    def _stop_waiting(self) -> None:
        """The consumer does not wait any more."""
        self._wakeup = None
        self._watched = self.closed or self._block is not None

    def _make_place(self) -> None:
        if self._location is not None and not self._location.done():
            self._location.set_result(None)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Read no more, let go of the source, and report the failures that nobody took. Jobs under way go on."""
        if self.closed:
            return
        line, unfinished = self.line, self.unfinished()
        self.line = deque(maxlen=0)  # nobody takes what ends from now on
        # Kept for `cancel`, whatever the order was.
        self._unordered, self._ordered = dict.fromkeys(unfinished), False
        self._add = self._unordered.setdefault
        self.closed = self._watched = True
        if self._feeder is not None and not self.exhausted:
            self._feeder.cancel()
        self.exhausted = True
        self._wake()
        self._items = ()
        self._held.clear()
        if not isinstance(self._source, AsyncIterator):
            self._source = None  # a generator that nobody else holds ends now
        if self.inputs is not None:
            self.inputs.clear()
        for job in line:
            if job._status in _FAILURES:
                self.engine.reporter.report(job, job._value[0])
        failure, self.failure = self.failure, None
        if failure is not None and not is_kind(failure, PoolClosedError):
            self._report(failure)

    def cancel(self) -> None:
        """Close, and cancel the jobs under way."""
        self.close()
        for job in self.unfinished():
            self.engine.cancel(job, "its map was closed")

    async def aclose(self) -> None:
        """Close, cancel the jobs under way, and wait until they have ended or leaked, and the source is closed."""
        if self._state.engine is None:
            self.closed = True
            return
        self.cancel()
        jobs, feeder = self.unfinished(), self._feeder
        if not jobs and (feeder is None or feeder.done()):
            return
        cancelled: asyncio.CancelledError | None = None  # it gets out when nothing of the stream runs any more
        with shield():
            while feeder is not None and not feeder.done():
                try:
                    await asyncio.wait([feeder])
                except asyncio.CancelledError as error:
                    cancelled = error
                    feeder.cancel()
            while jobs:
                try:
                    await self._state.stop(jobs[-1], None)
                    jobs.pop()
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            raise cancelled

    def _report(self, error: BaseException) -> None:
        """Report a fault of the source that nobody will be given."""
        log_fault(
            logger, "the source of map(%s, ...) failed, and nobody takes its results", self._spec.name, error=error
        )


def raisable(error: BaseException, what: str) -> BaseException:
    """Return an exception that says the same, and that no loop, generator or task takes for its own end.

    As PEP 479 does for a generator that raises `StopIteration`.
    """
    if not is_kind(error, (StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError)):
        return error
    instead = RuntimeError(f"{what} raised {type_name(error)}, which would look like an end that it is not")
    instead.__cause__ = error
    return instead
