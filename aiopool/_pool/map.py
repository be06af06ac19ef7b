"""`MapStream`: what `pool.map(...)` returns; lazy on one side, bounded in the middle, a stream on the other.

This is the consumer's side: it takes jobs that have ended from the feed (`map_feed.py`), and gives out their results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar, cast, final

from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus
from aiopool._pool.map_feed import MapFeed, raisable
from aiopool._runtime.faults import describe_fields
from aiopool._runtime.keywords import AsyncOnly

__all__ = ["MapResult", "MapStream"]

T_co = TypeVar("T_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)

SUCCEEDED = JobStatus.SUCCEEDED


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
        job: its job.
    """

    input: T_co
    ok: bool
    value: R_co | None
    error: BaseException | None
    attempts: int
    seconds: float
    job: Job[Any]

    __repr__ = describe_fields


@final
class MapStream(Generic[R_co], AsyncOnly):
    """The results of `pool.map(...)`, as an async iterator; see there.

    Use it as `async with … as results`, as a bare `async for`, or `await stream.collect()`.

    Example:
        async with pool.map(fetch, urls) as pages:
            async for page in pages:
                print(f"{pages.done} done, {pages.failed} failed, {pages.running} running")
    """

    __slots__ = ("__weakref__", "_feed")

    def __init__(self, feed: MapFeed) -> None:
        self._feed = feed

    # -- results -----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R_co:
        feed = self._feed
        while (job := feed.take()) is None:
            if feed.ended:
                self._end()
                raise StopAsyncIteration
            await feed.wait(None)
        try:
            if feed.inputs is None and job._status is SUCCEEDED:
                value: R_co = job._value
                return value
            return self._result(job)
        finally:
            del job  # this frame is in the traceback of its error: no cycle through it

    async def collect(self) -> list[R_co]:
        """Return all results as a list; cancel the rest if one fails or the caller is cancelled.

        Example:
            pages = await pool.map(fetch, urls).collect()
        """
        results: list[R_co] = []
        feed, job = self._feed, None
        async with self:
            try:
                while True:
                    if feed.inputs is None:
                        feed.take_values(results)
                    job = feed.take()
                    if job is not None:
                        results.append(self._result(job))
                    elif feed.ended:
                        self._end()
                        return results
                    else:
                        await feed.wait(feed.cancel)
            finally:
                job = None  # as above

    def _result(self, job: Job[Any]) -> R_co:
        """Return what the consumer gets for a job, or raise it."""
        feed, ok = self._feed, job._status is SUCCEEDED
        assert job._finished_at is not None
        error: Any = None if ok else job._value[0]
        try:
            if feed.inputs is None:
                feed.cancel()  # a bare `async for` will not tell us that it has ended
                if raisable(error, "") is not error:
                    raise raisable(error, repr(job))
                return cast("R_co", job.result())
            seconds = job._finished_at - job._started_at if job._attempt else 0.0
            value = job._value if ok else None
            result = MapResult(feed.inputs.pop(job), ok, value, error, job._attempt, seconds, job)
            return cast("R_co", result)
        finally:
            del job, error  # as above

    def _end(self) -> None:
        """Close the stream; raise the error of its source, if it has one."""
        failure, self._feed.failure = self._feed.failure, None
        self._feed.close()
        try:
            if failure is not None:
                raise failure
        finally:
            del failure

    # -- how far it is -----------------------------------------------------------------------------------------------

    @property
    def submitted(self) -> int:
        """For how many items there is, or was, a job."""
        return self._feed.submitted

    @property
    def done(self) -> int:
        """How many of its jobs have ended, in whichever way."""
        return self._feed.done

    @property
    def failed(self) -> int:
        """How many of its jobs have ended without success: failed, timed out or cancelled."""
        return self._feed.failed

    @property
    def running(self) -> int:
        """How many of its jobs run now; the others that are not done wait. The price grows with `buffersize`."""
        return sum(job._status is JobStatus.RUNNING for job in self._feed.unfinished())

    # -- the end -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._feed.aclose()

    async def aclose(self) -> None:
        """Cancel what is left over, and return when it has ended (or leaked). Failures nobody took are reported.

        If the caller is cancelled, it waits all the same, and the cancellation goes on then.
        """
        await self._feed.aclose()

    def __del__(self) -> None:
        """Nobody will take what is left: a bare loop has broken."""
        feed = getattr(self, "_feed", None)
        if feed is None or feed.closed or not feed.opened or sys.is_finalizing():
            return
        # In a turn of its own: this may be in the middle of a step, or in whichever thread.
        with contextlib.suppress(RuntimeError):  # the loop is closed, and everything has ended
            runtime = feed.engine.runtime
            runtime.loop.call_soon_threadsafe(feed.close, context=runtime.context)

    if not TYPE_CHECKING:  # type checkers say it by themselves

        def __iter__(self) -> NoReturn:
            raise TypeError(
                "map() returns a stream of results that come later: write `async for result in pool.map(...)`, or "
                "`for result in await pool.map(...).collect()`"
            )

        def __await__(self) -> NoReturn:
            raise TypeError(
                "map() returns a stream, which cannot be awaited: write `results = await pool.map(...).collect()` for "
                "a list, or `async for result in pool.map(...)`"
            )
