"""`Cancels`: cancels of jobs of the store, by whoever holds a handle or knows an id.

A job that waits is cancelled when the store says so. One that runs is told where it runs: here at once, elsewhere when
that process hears of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import final

from aiopool._durable.attempts import Attempts
from aiopool._durable.flusher import Flusher
from aiopool._durable.handles import current_job_id
from aiopool._durable.submissions import SUBMIT_PATIENCE, Submissions
from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus
from aiopool._pool.cancel_report import CancelReport
from aiopool._runtime.faults import log_fault
from aiopool._runtime.runtime import Runtime
from aiopool.errors import PoolClosedError
from aiopool.stores._protocol import Store
from aiopool.stores._rows import CancelAnswer, StoredStatus

__all__ = ["Cancels"]

logger = logging.getLogger("aiopool.store")

_STATUS = {
    StoredStatus.SUCCEEDED: JobStatus.SUCCEEDED,
    StoredStatus.FAILED: JobStatus.FAILED,
    StoredStatus.DEAD: JobStatus.FAILED,
    StoredStatus.TIMED_OUT: JobStatus.TIMED_OUT,
    StoredStatus.CANCELLED: JobStatus.CANCELLED,
}


@final
class Cancels:
    """The cancels of one open pool.

    Attributes:
        flusher: writes those that nobody waits for.
    """

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        ready: asyncio.Event,
        submissions: Submissions,
        attempts: Attempts,
        *,
        look_again: Callable[[], object],
        watch: Callable[[str, str], Job[object]],
        is_open: Callable[[], bool],
    ) -> None:
        """What it does.

        Args:
            store, runtime, submissions, attempts: the parts that it works with.
            ready: the store is open.
            look_again: has those asked about whom somebody waits for.
            watch: returns the handle of a job, by its id and its name.
            is_open: whether handles hear of ends.
        """
        self._store = store
        self._ready = ready
        self._submissions = submissions
        self._attempts = attempts
        self._look_again = look_again
        self._watch = watch
        self._is_open = is_open
        self.flusher: Flusher[tuple[str, str | None], CancelAnswer] = Flusher(
            "cancels",
            runtime,
            self._write,
            self._answered,
            self._failed,
            patience=SUBMIT_PATIENCE,
            weigh=lambda row: 0,
        )

    def soon(self, id: str, reason: str | None) -> None:
        """Cancel a job; nobody waits for that."""
        self.flusher.add((id, reason))

    async def now(self, id: str, reason: str | None) -> CancelReport:
        """Cancel a job, and return when it has ended; see `Pool.cancel`."""
        answer = (await self._cancel([id], reason))[0]
        if answer.was == "unknown":
            return CancelReport(id, None, None)
        if answer.was == "ended":
            return await self._ended(id)
        self._answered((id, reason), answer)
        if answer.was == "queued":
            return CancelReport(id, JobStatus.QUEUED, JobStatus.CANCELLED)
        status = JobStatus.CANCELLED
        if current_job_id() != id:  # one's own end cannot be waited for
            handle = self._watch(id, "")
            await handle.wait()
            error = handle.exception()
            if not self._is_open() and isinstance(error, PoolClosedError):
                raise error  # the handle has ended with its pool, and of the job nothing is known
            status = handle.status
        return CancelReport(id, JobStatus.RUNNING, status)

    async def _ended(self, id: str) -> CancelReport:
        rows = await self._store.find([id])
        if not rows or rows[0].finished_at is None:
            return CancelReport(id, None, None)
        status = _STATUS[rows[0].status]
        ago = max(0.0, await self._store.now() - rows[0].finished_at)
        return CancelReport(id, status, status, ended_ago=ago)

    async def _cancel(self, ids: Sequence[str], reason: str | None) -> list[CancelAnswer]:
        await self._ready.wait()
        await self._submissions.flusher.drain()  # what is on its way there is found
        return await self._store.cancel(ids, reason)

    async def _write(self, batch: Sequence[tuple[str, str | None]], again: bool) -> Sequence[CancelAnswer]:
        answers: dict[str, CancelAnswer] = {}
        for reason in {reason for _, reason in batch}:
            ids = list({id: None for id, why in batch if why == reason})
            answers |= {answer.id: answer for answer in await self._cancel(ids, reason)}
        return [answers[id] for id, _ in batch]

    def _answered(self, row: tuple[str, str | None], answer: CancelAnswer) -> None:
        if answer.was == "running":
            self._attempts.cancel(answer.id, None, row[1])
        self._look_again()

    def _failed(self, row: tuple[str, str | None], error: BaseException) -> None:
        log_fault(logger, "job %s could not be cancelled", row[0], error=error, fields={})
