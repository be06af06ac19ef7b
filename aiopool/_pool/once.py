"""`Once`: one call at a time under a key, for all who want its result, and the result for a while after it.

The first who asks hands in a job; all others who ask before it has ended wait for the same job (*single flight*). A
caller of `run` who is cancelled leaves the job to the others; when the last of them is, the job is cancelled, too. A
caller of `submit` holds the job itself, and nobody cancels it but by `job.cancel()`.

Always true: a key is known while its job is under way, or its result is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, final

from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus
from aiopool._jobs.stop import StopCause
from aiopool._pool.state import PoolState
from aiopool._runtime.runtime import shield

__all__ = ["Flight", "Once"]


@final
class Flight:
    """A job that several may wait for, from the moment at which the first of them asks.

    Attributes:
        job: None while the one who hands it in waits for room.
        waiting: how many callers of `run` wait for it.
        held: somebody has the job itself.
    """

    __slots__ = ("held", "job", "known", "waiting")

    def __init__(self, known: asyncio.Future[None]) -> None:
        self.job: Job[Any] | None = None
        self.known = known  # done when there is a job, or there will be none
        self.waiting = 0
        self.held = False


@final
class Once:
    """One call at a time under a key; made by `pool.once(key)`."""

    __slots__ = ("_key", "_seconds", "_state", "_submit")

    def __init__(self, state: PoolState, submit: Callable[..., Any], key: Hashable, seconds: float) -> None:
        """`submit` hands in a job, as the method of a view does."""
        self._state = state
        self._submit = submit
        self._key = key
        self._seconds = seconds

    async def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Return the job that is under way under this key, or whose result is kept; else hand in a call.

        Args, raises: as `pool.submit`. If the caller is cancelled while it waits for room, another who waits under the
        key hands in its own call.
        """
        flight = await self._join(function, args, kwargs)
        flight.held = True
        assert flight.job is not None
        return flight.job

    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of the job that is under way under this key, or that is kept; else of this call.

        Args, raises: as `pool.run`; all who wait get the same object, returned or raised. If the caller is cancelled,
        the job goes on for the others; the last takes it along, and it has ended (or leaked) when the cancellation goes
        on.
        """
        flight = await self._join(function, args, kwargs)
        job = flight.job
        assert job is not None
        flight.waiting += 1
        try:
            await job.wait()
            return job.result()
        except asyncio.CancelledError:
            if flight.waiting == 1 and not flight.held and not job.done():
                self._forget(flight)  # who asks from now on gets another job
                with shield():
                    await self._state.stop(job, "all callers of once() were cancelled")
            raise
        finally:
            flight.waiting -= 1
            del job, flight  # this frame is in the traceback of its error: no cycle through it

    async def _join(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flight:
        flights = self._state.flights
        while True:
            flight: Flight | None = flights.get(self._key)
            if flight is None:
                return await self._lead(function, args, kwargs)
            if flight.job is not None and _told_to_stop(flight.job):
                self._forget(flight)  # nobody wants its result any more
                continue
            if flight.job is None:
                engine = self._state.engine
                assert engine is not None  # somebody hands in a job
                await engine.lending.wait_for(asyncio.shield(flight.known))
                if flight.job is None:
                    continue  # its submitter was refused or cancelled: one of us is next
            return flight

    async def _lead(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flight:
        flights = self._state.flights
        flight = flights[self._key] = Flight(asyncio.get_running_loop().create_future())
        try:
            job = flight.job = await self._submit(function, *args, **kwargs)
        except BaseException:
            self._forget(flight)
            raise
        finally:
            flight.known.set_result(None)
        job.add_done_callback(lambda job: self._landed(flight, job))
        return flight

    def _landed(self, flight: Flight, job: Job[Any]) -> None:
        engine = self._state.engine
        if self._seconds > 0 and job.status is JobStatus.SUCCEEDED and engine is not None:
            engine.timers.add(engine.now() + self._seconds, self._forget, flight)
        else:
            self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        if self._state.flights.get(self._key) is flight:
            del self._state.flights[self._key]


def _told_to_stop(job: Job[Any]) -> bool:
    stop = None if job.done() or job._extra is None else job._extra.stop
    return stop is not None and stop.cause is StopCause.CANCEL
