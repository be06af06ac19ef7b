"""`Run`: one attempt of a job of the store in this process, from its claim to the moment at which its end is written.

A run is the lease of the job that the engine runs (`_jobs/lease.py`), and turns its end into a settlement. It is
fenced: what it writes counts only if the store has given the job to nobody else meanwhile.
"""

from __future__ import annotations

from typing import Any, Protocol, final

from aiopool._durable.handlers import Handler
from aiopool._durable.payloads import encode_error
from aiopool._engine.resizing import REASON as RESIZED
from aiopool._jobs.job import Job
from aiopool._jobs.lease import Lease
from aiopool._jobs.status import JobStatus
from aiopool._pool.shutdown import REASON as SHUT_DOWN
from aiopool._pool.workers import RESTARTED, STOPPED
from aiopool._runtime.faults import is_kind
from aiopool._runtime.timers import Timer
from aiopool.errors import ClusterLostError, PayloadError
from aiopool.stores._rows import Settlement

__all__ = ["Run", "RunOwner"]

# Who is told to stop for one of these has not been cancelled by anybody: another process may run it.
_NOT_ITS_FAULT = frozenset((SHUT_DOWN, RESIZED, STOPPED, RESTARTED))


class RunOwner(Protocol):
    """Who keeps the runs of a process."""

    max_payload: int

    def is_awaited(self, id: str) -> bool:
        """Whether somebody in this process awaits the job."""
        ...

    def settle(self, run: Run, end: Settlement) -> None:
        """Write how an attempt ended."""
        ...

    def drop(self, run: Run) -> None:
        """An attempt has ended that is somebody else's by now."""
        ...


@final
class Run(Lease):
    """See the module.

    Attributes:
        id, fence: of the job, and of this claim.
        handler: what it runs.
        job: the job of the engine.
        cancelled: somebody has cancelled the job, here or elsewhere.
        lost: the job is somebody else's by now: nothing of this run counts.
        progress: what was last written of it.
    """

    __slots__ = (
        "_owner",
        "_parted",
        "_retry",
        "cancelled",
        "fence",
        "handler",
        "id",
        "job",
        "lost",
        "progress",
        "timer",
    )

    def __init__(
        self, owner: RunOwner, handler: Handler, id: str, fence: int, crashes: int, total_timeout: float | None
    ) -> None:
        self._owner = owner
        self.handler = handler
        self.id = id
        self.fence = fence
        self.crashes = crashes
        self.total_timeout = total_timeout
        self.job: Job[Any] | None = None
        self.timer: Timer | None = None  # of the total time
        self.cancelled = self.lost = False
        self.progress: tuple[float, str] | None = None
        self._parted = False  # the engine has given the job back
        self._retry: Settlement | None = None

    # -- what the engine tells -----------------------------------------------------------------------------------------

    def handles_errors(self) -> bool:
        return self._owner.is_awaited(self.id)

    def retry(self, job: Job[Any], error: BaseException, delay: float) -> None:
        self._retry = Settlement(self.id, self.fence, "retry", delay=delay, error=encode_error(error))

    def excuses(self, error: BaseException) -> bool:
        return is_kind(error, ClusterLostError)

    def takes_back(self, job: Job[Any]) -> bool:
        extra = job._extra
        return self.lost or (not self.cancelled and extra is not None and extra.cancel_reason in _NOT_ITS_FAULT)

    def given_back(self, job: Job[Any]) -> None:
        self._parted = True
        if self._retry is not None:
            self._owner.settle(self, self._retry)
        elif job._extra is None or not job._extra.abandoned:
            self._release()
        # Else its code runs on, in a thread: while it does, nobody else gets the job.

    def ended_late(self, job: Job[Any]) -> None:
        if self._parted and self._retry is None:
            self._release()

    def _release(self) -> None:
        if self.lost:
            self._owner.drop(self)
        else:
            self._owner.settle(self, Settlement(self.id, self.fence, "release"))

    def job_done(self, job: Job[Any]) -> None:
        """The job has ended here: write how."""
        if self._parted:
            return
        if self.lost:
            self._owner.drop(self)
            return
        self._owner.settle(self, self._end_of(job))

    def _end_of(self, job: Job[Any]) -> Settlement:
        if job._status is JobStatus.SUCCEEDED:
            try:
                result = self.handler.signature.encode_result(job._value, self._owner.max_payload)
            except PayloadError as error:
                return Settlement(self.id, self.fence, "failed", error=encode_error(error))
            return Settlement(self.id, self.fence, "succeeded", result=result)
        outcome: Any = job._status.value
        reason = None if job._extra is None else job._extra.cancel_reason
        return Settlement(self.id, self.fence, outcome, error=encode_error(job._value[0]), reason=reason)
