"""`MapStream`: what `pool.map(...)` returns; lazy on one side, bounded in the middle, a stream on the other.

The mutable state of a stream is: the source of items, how many of its jobs are under way, and the finished ones that
the consumer has not taken. `under way + not taken <= buffersize`, always; that is the whole back-pressure.

A synchronous source is read in the consumer's own steps. An asynchronous one is read by a feeder task, so that a slow
source does not keep finished results from the consumer.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import math
import sys
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextvars import copy_context
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, cast, final

from aiopool._engine import Engine
from aiopool._faults import describe_fields
from aiopool._home import Home
from aiopool._job import Claim, Job
from aiopool._plan import Plan
from aiopool._runtime import shield
from aiopool._status import JobStatus
from aiopool.errors import PoolError

__all__ = ["Block", "MapResult", "MapStream"]

T_co = TypeVar("T_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)

SUCCEEDED = JobStatus.SUCCEEDED
_FAILURES = (JobStatus.FAILED, JobStatus.TIMED_OUT)


class Block(Protocol):
    """A group that wants to know of its jobs before they are taken in."""

    def adopt_nowait(self, job: Job[Any]) -> None: ...
    async def adopt(self, job: Job[Any], entering: Coroutine[Any, Any, None]) -> None: ...
    def accompany(self, job: Job[Any]) -> None: ...
    def let_go(self, job: Job[Any]) -> None: ...


@final
@dataclasses.dataclass(frozen=True, slots=True)
class MapResult(Generic[T_co, R_co]):
    """What came of one item, with `errors="yield"`.

    Attributes:
        input: the item.
        ok: whether the function returned.
        value: what it returned.
        error: what it raised, or the pool's reason.
        attempts: how many attempts were started.
        seconds: how long the last one ran.
    """

    input: T_co
    ok: bool
    value: R_co | None
    error: BaseException | None
    attempts: int
    seconds: float

    __repr__ = describe_fields


@final
class MapStream(Claim, Generic[R_co]):
    """The results of `pool.map(...)`, as an async iterator; see there.

    Use it as `async with … as results`, as a bare `async for`, or `await stream.collect()`.
    """

    __slots__ = (
        "__weakref__",
        "_between",
        "_block",
        "_buffersize",
        "_careful",
        "_closed",
        "_exhausted",
        "_failure",
        "_feeder",
        "_function",
        "_home",
        "_inputs",
        "_line",
        "_low",
        "_ordered",
        "_plan",
        "_plan_for",
        "_room",
        "_source",
        "_under_way",
        "_wakeup",
        "_whole",
        "_yields",
    )

    def __init__(
        self,
        home: Home,
        block: Block | None,
        plan: Plan,
        function: Callable[[Any], Any],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        ordered: bool,
        buffersize: int | None,
        errors: Literal["raise", "yield"],
        plan_for: Callable[[Any], Plan] | None,
    ) -> None:
        self._closed = False
        # Jobs between input and consumer: all of them if ordered, the finished ones if not.
        self._line: deque[Job[Any]] = deque()
        self._home = home
        self._block = block
        self._plan = plan
        self._plan_for = plan_for  # what the options of each item are, if they differ
        self._function = function
        self._ordered = ordered
        self._buffersize = buffersize
        self._yields = errors == "yield"
        self._whole = False  # nobody goes on with it if the consumer is cancelled
        self._source: Iterator[Any] | AsyncIterator[Any] = (
            aiter(items) if isinstance(items, AsyncIterable) else iter(items)
        )
        self._exhausted = False
        self._failure: BaseException | None = None  # of the source
        self._under_way = 0
        self._between = 0  # jobs between input and consumer
        self._low: float = math.inf  # the source is read again when so few are left; set at the first step
        # Whether something is to be done about a result beside handing it over.
        self._careful = self._yields or isinstance(self._source, AsyncIterator)
        self._inputs: dict[Job[Any], Any] = {}
        self._wakeup: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None  # what the feeder waits for
        self._feeder: asyncio.Task[None] | None = None

    # -- the consumer's side ---------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R_co:
        line = self._line
        if self._between > self._low and line and line[0]._finished_at is not None and not self._closed:
            # Enough is under way: take what is there, and read the source in larger steps.
            job = line.popleft()
            self._between -= 1
            return self._take(job) if self._careful or job._status is not SUCCEEDED else cast("R_co", job._value)
        return await self._next()

    async def _next(self) -> R_co:
        engine = self._engine()
        if self._buffersize is None:
            self._buffersize = 2 * engine.size or 2
            self._low = self._buffersize * 3 // 4
        line = self._line
        while not self._closed:
            if not self._exhausted and not self._fill(engine):
                await self._feed(engine)
            if line and line[0]._finished_at is not None:
                self._between -= 1
                return self._take(line.popleft())
            if self._exhausted and not self._under_way and not line:
                self._closed = True
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                raise StopAsyncIteration
            self._wakeup = wakeup = engine.runtime.loop.create_future()
            try:
                await engine.loans.wait_for(wakeup, self._give_up if self._whole else None)
            finally:
                self._wakeup = None
        raise StopAsyncIteration

    def _engine(self) -> Engine:
        engine = self._home.engine
        if engine is None:
            raise self._home.not_open("map")
        return engine

    def _take(self, job: Job[Any]) -> R_co:
        """Return what the consumer gets for a finished job."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if not self._yields:
            if job._status is SUCCEEDED:
                return cast("R_co", job._value)
            self._abandon(self._engine())  # a bare `async for` will not tell us that it has ended
            return cast("R_co", job.result())
        ok = job._status is SUCCEEDED
        assert job._finished_at is not None
        seconds = job._finished_at - job._started_at if job._attempt else 0.0
        result = MapResult(
            self._inputs.pop(job),
            ok,
            job._value if ok else None,
            None if ok else job._value[0],
            job._attempt,
            seconds,
        )
        return cast("R_co", result)

    async def collect(self) -> list[R_co]:
        """Return all results as a list; cancel the rest if one fails or the caller is cancelled.

        Example:
            pages = await pool.map(fetch, urls).collect()
        """
        results: list[R_co] = []
        self._whole = True
        async with self:
            async for result in self:
                results.append(result)
                if not self._careful:
                    self._take_ready(results)
        return results

    def _take_ready(self, results: list[Any]) -> None:
        """Take what is there already, as `__anext__` would, in a row and without a coroutine for each."""
        line = self._line
        most = min(len(line), self._between - self._low)
        taken = 0
        while taken < most and line[0]._status is SUCCEEDED:
            results.append(line.popleft()._value)
            taken += 1
        self._between -= taken

    # -- the source's side -----------------------------------------------------------------------------------------

    def _fill(self, engine: Engine) -> bool:
        """Take items from a synchronous source as far as there is place for their jobs; False if that has to wait."""
        assert self._buffersize is not None
        source = self._source
        if isinstance(source, AsyncIterator):
            return False
        make, plan, function = engine.make, self._plan, self._function
        line = self._line.append if self._ordered else None
        place = self._buffersize - self._between
        if (
            self._plan_for is None
            and plan.plain
            and plan.direct
            and not (self._yields or engine.listeners)
            and len(engine.jobs) + place <= engine.room.limit
        ):
            self._fill_at_once(engine, source, place)
            return True
        for _ in range(place):
            room = engine.room
            if len(engine.jobs) >= room.limit and (room.full() or not room.open_to_caller()):
                return self._between > 0
            try:
                item = next(source)
            except StopIteration:
                self._exhausted = True
                return True
            except BaseException as error:
                self._source_failed(error)
                return True
            if self._plan_for is not None:
                try:
                    plan = self._plan_for(item)
                    if plan.id is not None:
                        engine.check_id(plan.id)
                except Exception as error:
                    self._source_failed(error)
                    return True
            job = make(plan, function, (item,), self)
            if job._place is None and job._finished_at is None:
                if self._block is not None:
                    self._block.accompany(job)
                engine.enter(job)
            self._under_way += 1
            self._between += 1
            if line is not None:
                line(job)
            if self._yields:
                self._inputs[job] = item
        return True

    def _fill_at_once(self, engine: Engine, source: Iterator[Any], place: int) -> None:
        """Take the next items where nobody has to be asked about each: this is nearly every stream."""
        made: list[Job[Any]] = []
        try:
            engine.make_all(self._plan, self._function, source, place, self, made)
        except BaseException as error:
            self._source_failed(error)
        else:
            self._exhausted = len(made) < place
        self._under_way += len(made)
        self._between += len(made)
        if self._ordered:
            self._line.extend(made)

    async def _feed(self, engine: Engine) -> None:
        """Take items where that has to wait: for an asynchronous source, or for room in the pool."""
        if not isinstance(self._source, AsyncIterator):
            await self._enter_when_room(engine, self._source)
        elif self._feeder is None:
            name = f"{self._home.name}-map-{self._plan.name}"
            # In the consumer's context: the source is his.
            self._feeder = engine.runtime.task(self._feed_from(engine, self._source), name, copy_context())

    async def _enter_when_room(self, engine: Engine, source: Iterator[Any]) -> None:
        """Wait for room with the next item: the pool is full of other people's jobs."""
        self._home.check_accepting()
        try:
            item = next(source)
        except StopIteration:
            self._exhausted = True
            return
        except BaseException as error:
            self._source_failed(error)
            return
        try:
            job = self._job(engine, item)
        except Exception as error:
            self._source_failed(error)
            return
        await self._queue_up(engine, job)

    async def _queue_up(self, engine: Engine, job: Job[Any]) -> None:
        if job._place is not None or job._finished_at is not None:
            return  # it is in
        self._home.check_accepting(job)
        if not engine.room.full():
            engine.enter(job)
            return
        try:
            await engine.room.wait(job)
        except PoolError:
            pass  # cancelled by its id, or the pool is closing: that is what the consumer gets for this item
        finally:
            if job.sequence not in engine.jobs and job._finished_at is None:
                if not isinstance(self._source, AsyncIterator):
                    # For a consumer that goes on after a time limit of his own.
                    self._source = itertools.chain(job._args, self._source)
                self._forget(job)
                engine.room.withdraw(job)

    async def _feed_from(self, engine: Engine, source: AsyncIterator[Any]) -> None:
        """The feeder: read an asynchronous source, at most as far as there is place; it ends with the pool."""
        assert self._buffersize is not None
        closers, closer = self._home.closers, engine.runtime.loop.create_future()
        me = asyncio.current_task()
        closer.add_done_callback(lambda _: me and me.cancel())
        closers.append(closer)
        try:
            while not self._closed:
                while self._between >= self._buffersize:
                    self._room = engine.runtime.loop.create_future()
                    try:
                        await self._room
                    finally:
                        self._room = None
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    break
                await self._queue_up(engine, self._job(engine, item))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._failure = error
        finally:
            self._exhausted = True
            self._wake()
            if closer in closers:
                closers.remove(closer)
            await _close(source)

    def _job(self, engine: Engine, item: Any) -> Job[Any]:
        plan = self._plan if self._plan_for is None else self._plan_for(item)
        if plan.id is not None:
            engine.check_id(plan.id)
        job = engine.make(plan, self._function, (item,), self)
        if self._block is not None:
            self._block.accompany(job)
        self._under_way += 1
        self._between += 1
        if self._ordered:
            self._line.append(job)
        if self._yields:
            self._inputs[job] = item
        if job._finished_at is not None:
            self._wake()  # a listener has cancelled it already
        return job

    def _forget(self, job: Job[Any]) -> None:
        """Take back a job that did not get in."""
        job._waiters = None
        if self._block is not None:
            self._block.let_go(job)
        self._under_way -= 1
        self._between -= 1
        if job in self._line:
            self._line.remove(job)
        self._inputs.pop(job, None)

    def _source_failed(self, error: BaseException) -> None:
        self._exhausted = True
        self._failure = error

    # -- the pool's side -------------------------------------------------------------------------------------------

    def hears(self) -> bool:
        return not self._closed

    def settled(self, job: Job[Any]) -> None:
        """A job of the stream is done."""
        self._under_way -= 1
        if self._closed:
            return  # nobody hears it here: its failure is reported like that of any job
        if not self._ordered:
            self._line.append(job)
        if self._wakeup is not None and (not self._ordered or (self._line and self._line[0]._finished_at is not None)):
            self._wake()

    def _wake(self) -> None:
        wakeup, self._wakeup = self._wakeup, None  # once: what settles next need not look again
        if wakeup is not None and not wakeup.done():
            wakeup.set_result(None)

    # -- the end ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what is left over, and return when it has ended (or leaked). Failures nobody took are reported."""
        engine, feeder = self._home.engine, self._feeder
        if engine is None:
            self._closed = True
            return
        jobs = self._abandon(engine)
        with shield():
            if feeder is not None:
                await asyncio.wait([feeder])
            elif isinstance(self._source, AsyncIterator):
                await _close(self._source)
            cancelled: asyncio.CancelledError | None = None
            for job in jobs:
                while True:
                    try:
                        await self._home.stop(job, None)
                        break
                    except asyncio.CancelledError as error:
                        cancelled = error  # it gets out, when nothing of the stream runs any more
            if cancelled is not None:
                raise cancelled

    def _give_up(self) -> None:
        self._abandon(self._engine())

    def _abandon(self, engine: Engine) -> list[Job[Any]]:
        """Take no more items, let go of what is done, cancel what is under way; return that."""
        self._closed = True
        self._wake()
        if self._feeder is not None:
            self._feeder.cancel()
        elif not isinstance(self._source, AsyncIterator):
            self._source = iter(())  # let go of it: a generator that nobody else holds ends now
        line, self._line = self._line, deque()
        self._inputs.clear()
        for job in line:
            if job._finished_at is not None:
                self._report(job)
        jobs = [job for job in engine.jobs.values() if _has_claim(job, self)]
        for job in jobs:
            engine.cancel(job, "its map was closed")
        return jobs

    def _report(self, job: Job[Any]) -> None:
        """Report a failure that the consumer did not take."""
        if job._status in _FAILURES:
            self._engine().errors.report(job, job._value[0])

    def __del__(self) -> None:
        """Report the failures that nobody will take: a bare loop has broken, and the last of its jobs has ended."""
        failed = [] if self._closed else [job for job in self._line if job._status in _FAILURES]
        if failed and not sys.is_finalizing():
            engine = self._engine()
            for job in failed:
                # In a turn of its own, for this may be in the middle of a step, or in whichever thread.
                with contextlib.suppress(RuntimeError):  # the loop is closed, and all is over
                    engine.runtime.loop.call_soon_threadsafe(engine.errors.report, job, job._value[0])


def _has_claim(job: Job[Any], claim: Claim) -> bool:
    waiters = job._waiters
    return waiters is claim or (type(waiters) is list and claim in waiters)


async def _close(source: AsyncIterator[Any]) -> None:
    """Close a source, if it is one that can be closed: an async generator."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()
