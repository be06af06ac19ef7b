"""What is left of a job that has ended: frozen records of it and of its attempts."""

from __future__ import annotations

import dataclasses
from typing import Generic, TypeVar, final

from aiopool._jobs.status import JobStatus
from aiopool._runtime.faults import describe_fields

__all__ = ["AttemptRecord", "JobOutcome"]

T_co = TypeVar("T_co", covariant=True)


@final
@dataclasses.dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt that failed and was followed by another.

    Attributes:
        number: which attempt, from 1.
        seconds: how long it ran.
        error: what it raised.
        delay: seconds until the next attempt.
    """

    number: int
    seconds: float
    error: BaseException
    delay: float

    __repr__ = describe_fields


@final
@dataclasses.dataclass(frozen=True, slots=True)
class JobOutcome(Generic[T_co]):
    """How a job ended: frozen, and safe to keep.

    Attributes:
        id: the job's id.
        name: the job's name.
        status: one of the four final statuses.
        value: what it returned, if it succeeded.
        error: what awaiting it raises, if it did not.
        attempts: how many attempts were started.
        waited: seconds from submission to the start of the last attempt (to the end, if there was none).
        seconds: seconds that the last attempt ran.
        reason: the words of whoever cancelled it.
        leaked: its code had not ended when its waiters were released.
        history: the attempts that failed before the last one.
    """

    id: int | str
    name: str
    status: JobStatus
    value: T_co | None
    error: BaseException | None
    attempts: int
    waited: float
    seconds: float
    reason: str | None
    leaked: bool
    history: tuple[AttemptRecord, ...]

    __repr__ = describe_fields

    @property
    def ok(self) -> bool:
        """Whether the job succeeded."""
        return self.status is JobStatus.SUCCEEDED
