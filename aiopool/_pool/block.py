"""`JobBlock`: the jobs of one `async with pool.group()` block, and what their failures do to it.

A group (`group.py`) is the face of its block. The jobs, the views and the maps of the group refer to the block, and
not to the group.

Invariant: `jobs` holds the jobs of the block that have not ended; the block is left when there are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, final

from aiopool._engine.engine import Engine
from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus
from aiopool._jobs.waiters import JobObserver
from aiopool._pool.state import PoolState
from aiopool._runtime.faults import is_kind
from aiopool.errors import JobCancelledError

__all__ = ["JobBlock"]


@final
class JobBlock(JobObserver):
    """See the module.

    Attributes:
        name: the name of the group.
        jobs: the jobs of the block that have not ended, oldest first.
        errors: what its jobs have failed with. Failures in a map go to the consumer of the map, and are not here.
        body: the task that runs the body; None before it, and from the moment in which the block is being left.
        cancelled_body: the block has cancelled that task.
        left: the block was left: it takes no more jobs.
    """

    __slots__ = (
        "_cancels",
        "_drained",
        "_state",
        "_stopped",
        "body",
        "cancelled_body",
        "errors",
        "jobs",
        "left",
        "name",
    )

    def __init__(self, state: PoolState, name: str, *, cancel_on_error: bool) -> None:
        self.name = name
        self.jobs: dict[Job[Any], None] = {}
        self.errors: list[BaseException] = []
        self.body: asyncio.Task[Any] | None = None
        self.cancelled_body = False
        self.left = False
        self._state = state
        self._cancels = cancel_on_error
        self._stopped: str | None = None  # why no more jobs are taken
        self._drained: asyncio.Future[None] | None = None

    @property
    def engine(self) -> Engine:
        """The engine of the open pool."""
        if self._state.engine is None:
            raise self._state.not_open("group")
        return self._state.engine

    # -- jobs come and go ------------------------------------------------------------------------------------------

    @property
    def takes_jobs(self) -> bool:
        """Whether jobs may be submitted to the block."""
        return not self.left and self._stopped is None

    def check_open(self) -> None:
        """Raise if the block takes no more jobs."""
        if self.left:
            raise RuntimeError(f"group {self.name!r} was left: submit inside its `async with` block")
        if self._stopped is not None:
            raise RuntimeError(f"group {self.name!r} takes no more jobs: it is ending, because {self._stopped}")

    def add(self, job: Job[Any]) -> None:
        """Wait for a job, and cancel it with the others; harmless if it has ended."""
        if job._finished_at is None:
            self.jobs[job] = None

    def remove(self, job: Job[Any]) -> None:
        """A job has ended, or did not get into the pool."""
        self.jobs.pop(job, None)
        if not self.jobs and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def handles_errors(self) -> bool:
        return not self.left

    def job_done(self, job: Job[Any]) -> None:
        """A job that was submitted to the group has ended."""
        self.remove(job)  # first: whatever becomes of the others, nobody waits for this one
        if job._status is not JobStatus.SUCCEEDED:
            error = job._value[0]
            if not is_kind(error, JobCancelledError):
                self.errors.append(error)
                if self._cancels:
                    self.stop("one of its jobs failed", f"another job of group {self.name!r} failed")

    # -- the end -----------------------------------------------------------------------------------------------------

    def cancel(self, reason: str | None) -> int:
        """Ask all jobs to end, in slices if they are many; return how many are asked."""
        engine, jobs, asked = self.engine, list(self.jobs), 0
        jobs.reverse()

        def cancel_each() -> Iterator[None]:
            nonlocal asked
            while jobs:
                asked += jobs.pop().cancel(reason)
                yield

        engine.chores.work_off(cancel_each())
        return asked + len(jobs)  # those whose slice comes later: none of them starts before

    def stop(self, why: str, reason: str) -> None:
        """Take no more jobs, cancel those there are, and cancel the body if it still runs."""
        self._stopped = self._stopped or why
        self.cancel(reason)
        if self.body is not None and not self.cancelled_body:
            self.cancelled_body = True
            self.body.cancel()

    async def wait(self) -> None:
        """Wait until all jobs have ended; if the caller is cancelled, the jobs are cancelled too."""
        engine = self.engine
        while self.jobs:
            self._drained = engine.runtime.loop.create_future()
            await engine.lending.wait_for(self._drained, self.cancel_abandoned)

    def cancel_abandoned(self) -> None:
        """Cancel the jobs: the task that leaves the block was cancelled."""
        self.cancel(f"group {self.name!r} was cancelled")
