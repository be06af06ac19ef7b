"""What is left of a job that has ended: frozen records of it and of its attempts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from aiopool._jobs.status import JobStatus
from aiopool._runtime.faults import describe_fields

if TYPE_CHECKING:  # it comes with whoever asks for a moment by the wall clock
    import datetime

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
        started_time: when it began, by the clock on the wall, in UTC.
    """

    number: int
    seconds: float
    error: BaseException
    delay: float
    started_time: datetime.datetime

    __repr__ = describe_fields

    @property
    def ended_time(self) -> datetime.datetime:
        """When it ended, by the clock on the wall, in UTC."""
        import datetime

        return self.started_time + datetime.timedelta(seconds=self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict that `json.dumps` takes; see `JobOutcome.to_dict`."""
        from aiopool._jobs.json_values import error_text, json_value

        return {
            "number": self.number,
            "started_time": self.started_time.isoformat(),
            "ended_time": self.ended_time.isoformat(),
            "seconds": self.seconds,
            "error": error_text(self.error),
            "delay": json_value(self.delay),
        }


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
        priority: its priority, lower first.
        group: the name of its group, or None.
        metadata: its option `metadata`.
        parent: the id of the job that submitted it; see `Job.parent`.
        submitted_time: when it was submitted, by the clock on the wall, in UTC.
        started_time: when its last attempt began; None: there was none.
        finished_time: when it was done.
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
    priority: int
    group: str | None
    metadata: Mapping[str, Any]
    parent: int | str | None
    submitted_time: datetime.datetime
    started_time: datetime.datetime | None
    finished_time: datetime.datetime

    __repr__ = describe_fields

    @property
    def ok(self) -> bool:
        """Whether the job succeeded."""
        return self.status is JobStatus.SUCCEEDED

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict that `json.dumps` takes.

        Values that JSON has stay: texts, finite numbers, lists, dicts with texts for keys. Moments become ISO 8601
        texts, exceptions their type and text, and any other object its `repr`; each of these texts has at most 4,000
        characters.

        Example:
            print(json.dumps(job.outcome().to_dict()))
        """
        from aiopool._jobs.json_values import error_text, json_value

        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: json_value(value) for name, value in fields.items()} | {
            "id": json_value(self.id),
            "status": self.status.value,
            "error": None if self.error is None else error_text(self.error),
            "metadata": json_value(dict(self.metadata)),
            "history": [attempt.to_dict() for attempt in self.history],
        }
