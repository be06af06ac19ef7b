"""`RemoteJob`: what a job is in another process, where there is no pool: who it is, and how far.

It is what `current_job()` returns there, so that a function need not know where it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from aiopool._jobs.job import Job, remote_job

__all__ = ["RemoteJob"]


@final
class RemoteJob:
    """A job as seen by its function in a process of the pool."""

    __slots__ = ("_note", "attempt", "id", "idempotency_key", "name")

    def __init__(self, id: int | str, name: str, attempt: int, idempotency_key: str) -> None:
        self.id = id
        self.name = name
        self.attempt = attempt
        self.idempotency_key = idempotency_key
        self._note: Callable[[object], object] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return RemoteJob, (self.id, self.name, self.attempt, self.idempotency_key)

    def __repr__(self) -> str:
        return f"<RemoteJob {self.name} id={self.id!r} attempt={self.attempt}>"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a job that runs in a process knows its `id`, `name`, `attempt` and `idempotency_key`, and can "
            f"`report_progress`; .{name} is in the process of the pool"
        )

    @classmethod
    def of(cls, job: Job[Any]) -> RemoteJob:
        """Return what the process of a job is told about it."""
        return cls(job.id, job.name, job.attempt, job.idempotency_key)

    def begin(self, note: Callable[[object], object]) -> None:
        """Become the current job; called in the process. `note(x)` sends `x` home."""
        self._note = note
        remote_job.set(self)

    def report_progress(self, fraction: float, message: str = "") -> None:
        """Tell the pool how far the job is; at most fifty times a second it is sent, and the last one always."""
        assert self._note is not None
        self._note((fraction, message))
