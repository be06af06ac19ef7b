"""`pool.as_completed(jobs)`: jobs that were submitted one by one, as they end.

The jobs tell a `_Line` of their ends, and the consumer's side, `CompletedJobs`, takes them from it. The line does not
refer to the consumer: one that is dropped in the middle of its loop is noticed that way, and the jobs forget the line.

Invariant: each job is in `pending`, or in `ended`, or was taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar, cast, final

from aiopool._engine.engine import Engine
from aiopool._jobs.job import Job, running_job
from aiopool._jobs.waiters import JobObserver, add_waiter, remove_waiter
from aiopool._pool.state import PoolState
from aiopool._runtime.faults import type_name

__all__ = ["CompletedJobs"]

J = TypeVar("J", bound=Job[Any])

_finished_at = attrgetter("_finished_at")


@final
class CompletedJobs(Generic[J]):
    """What `pool.as_completed(jobs)` returns; see there."""

    __slots__ = ("__weakref__", "_line")

    def __init__(self, state: PoolState, engine: Engine, jobs: Iterable[J]) -> None:
        self._line = _Line(engine, _checked(state, jobs))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> J:
        line = self._line
        while not line.ended:
            if not line.pending:
                raise StopAsyncIteration
            await line.wait()
        return cast("J", line.take())

    def __del__(self) -> None:
        """Nobody will take what is left: the loop was left early, or never begun."""
        line = getattr(self, "_line", None)
        if line is None or not (line.pending or line.ended) or sys.is_finalizing():
            return
        # In a turn of its own: this may be in the middle of a step, or in whichever thread.
        with contextlib.suppress(RuntimeError):  # the loop is closed, and everything has ended
            runtime = line.engine.runtime
            runtime.loop.call_soon_threadsafe(line.close, context=runtime.context)

    if not TYPE_CHECKING:  # type checkers say it by themselves

        def __iter__(self) -> NoReturn:
            raise TypeError("as_completed() waits for jobs: write `async for job in pool.as_completed(jobs)`")

        def __await__(self) -> NoReturn:
            raise TypeError(
                "as_completed() gives jobs one by one, and cannot be awaited: write "
                "`async for job in pool.as_completed(jobs)`"
            )


def _checked(state: PoolState, jobs: Iterable[Any]) -> dict[Job[Any], None]:
    """Return the jobs, each once, in their order; raise if one of them cannot be waited for here."""
    if not isinstance(jobs, Iterable):
        raise TypeError(
            f"as_completed() takes an iterable of jobs, not {jobs!r} ({type_name(jobs)}): write "
            "as_completed([job, ...])"
        )
    checked: dict[Job[Any], None] = {}
    own = running_job.get()
    for job in jobs:
        if not isinstance(job, Job):
            raise TypeError(
                f"as_completed() takes jobs, not {job!r} ({type_name(job)}): write `job = await pool.submit(function, "
                "...)` for each, or `pool.map(function, items, ordered=False)`"
            )
        if not state.takes(job):
            raise ValueError(
                f"as_completed() of pool {state.name!r} was given {job!r} of another pool, {job.pool_name!r}: write "
                "as_completed(jobs) once for each pool, with its own jobs"
            )
        if job is own and job._finished_at is None:
            raise RuntimeError(
                f"{job!r} awaits itself: it would wait for ever. Write `as_completed(job for job in jobs if job is not "
                "current_job())`"
            )
        checked[job] = None
    return checked


@final
class _Line(JobObserver):
    """See the module.

    Attributes:
        ended: jobs that have ended, in the order of their ends.
        pending: jobs that have not, in the order in which they were given.
    """

    __slots__ = ("_earlier", "_wakeups", "ended", "engine", "pending")

    def __init__(self, engine: Engine, jobs: dict[Job[Any], None]) -> None:
        self.engine = engine
        self.ended = deque(sorted((job for job in jobs if job._finished_at is not None), key=_finished_at))
        self._earlier = len(self.ended)  # how many of these had ended before: their failures have been told
        self.pending = jobs
        for job in self.ended:
            del jobs[job]
        for job in jobs:
            add_waiter(job, self)
        self._wakeups: dict[asyncio.Future[None], None] = {}  # what consumers wait for: one, as a rule

    def take(self) -> Job[Any]:
        """Take the next of the jobs that have ended."""
        if self._earlier:
            self._earlier -= 1
        return self.ended.popleft()

    async def wait(self) -> None:
        """Wait until another job has ended; it may be taken by somebody else."""
        wakeup: asyncio.Future[None] = self.engine.runtime.loop.create_future()
        self._wakeups[wakeup] = None
        try:
            await self.engine.lending.wait_for(wakeup)
        finally:
            self._wakeups.pop(wakeup, None)

    def handles_errors(self) -> bool:
        return True

    def job_done(self, job: Job[Any]) -> None:
        """A job has ended."""
        del self.pending[job]
        self.ended.append(job)
        if self._wakeups:
            wakeups, self._wakeups = self._wakeups, {}
            for wakeup in wakeups:
                if not wakeup.done():
                    wakeup.set_result(None)

    def close(self) -> None:
        """Be told of nothing more, and report the failures that nobody took, if nobody else was told of them."""
        for job in self.pending:
            remove_waiter(job, self)
        while self.ended:
            earlier = self._earlier
            job = self.take()
            if not earlier:
                self.engine.reporter.unheard(job)
