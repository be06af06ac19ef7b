"""`Lease`: who has given a job to the pool for one attempt, and takes it back.

A pool keeps most of its jobs from their submission to their end. A job of a store is there for one attempt only: how it
ended is written into the store, and another attempt may run in another process. This is all that the engine knows of
it; who the other side is stands in `_durable/`.
"""

from __future__ import annotations

from typing import Any

from aiopool._jobs.waiters import JobObserver

__all__ = ["Lease"]


class Lease(JobObserver):
    """One attempt of a job of a store, as the engine sees it. It is told of the end as an observer of the job.

    Attributes:
        crashes: how many earlier attempts have ended by the death of their worker: those are no failures.
        total_timeout: seconds from submission to the end; None: no limit.
    """

    # No abstract class, for the reason that `JobObserver` gives.

    __slots__ = ("crashes", "total_timeout")

    crashes: int
    total_timeout: float | None

    def retry(self, job: Any, error: BaseException, delay: float) -> None:
        """The attempt has failed, and there is to be another one in `delay` seconds. Then the job is given back."""
        raise NotImplementedError  # pragma: no cover: the one kind of lease does this itself

    def excuses(self, error: BaseException) -> bool:
        """Whether a failure is nobody's: the job is given back, and the attempt was none."""
        raise NotImplementedError  # pragma: no cover: the one kind of lease does this itself

    def takes_back(self, job: Any) -> bool:
        """Whether a job that was told to stop is not cancelled, but given back: for another process."""
        raise NotImplementedError  # pragma: no cover: the one kind of lease does this itself

    def given_back(self, job: Any) -> None:
        """The job has left the pool without an end of its own. Its code may still run, in a thread."""
        raise NotImplementedError  # pragma: no cover: the one kind of lease does this itself

    def ended_late(self, job: Any) -> None:
        """The code of a job that had been left behind has ended."""
        raise NotImplementedError  # pragma: no cover: the one kind of lease does this itself
