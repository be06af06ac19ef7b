"""`CancelReport`: what became of a cancel by id, as a record and in words."""

from __future__ import annotations

import dataclasses

from aiopool._jobs.status import JobStatus

__all__ = ["CancelReport"]


@dataclasses.dataclass(frozen=True, slots=True)
class CancelReport:
    """What `pool.cancel(id)` met, and what came of it. True if the job is cancelled.

    Attributes:
        id: the id that was asked for.
        was: where the job was when it was asked; None if no live job has the id.
        status: where it is now: `cancelled`, or another final status if the cancel lost the race.
        leaked: its code still runs: it did not end within its grace.
        ended_ago: seconds since the job had ended, if it had before it was asked for, and the pool remembers it
            (`Pool(keep_finished=…)`); else None.
    """

    id: int | str
    was: JobStatus | None
    status: JobStatus | None
    leaked: bool = False
    ended_ago: float | None = None

    def __bool__(self) -> bool:
        return self.status is JobStatus.CANCELLED and self.ended_ago is None

    def __str__(self) -> str:
        """Say it in words."""
        if self.was is None:
            return f"no job with the id {self.id!r} is known"
        if self.ended_ago is not None:
            return f"job {self.id!r} {_words(self.status)} {_ago(self.ended_ago)} ago"
        left = ", and its code still runs: it leaked" if self.leaked else ""
        return f"job {self.id!r} was {self.was}, and {_words(self.status)}{left}"


def _words(status: JobStatus | None) -> str:
    """Say how a job ended."""
    return {JobStatus.TIMED_OUT: "ran into a time limit", JobStatus.CANCELLED: "was cancelled"}.get(
        status or JobStatus.CANCELLED, str(status)
    )


def _ago(seconds: float) -> str:
    """Return a duration in words, in the largest unit of which there is one."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.3g} s"
