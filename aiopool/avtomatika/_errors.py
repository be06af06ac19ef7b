"""What goes wrong between a worker and its orchestrator, and how a handler says what went wrong with its task.

`AwayError` is no fault of anybody: whoever meets it waits and asks again. `RefusedError` is an answer: asking again
with the same words would get the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiopool.errors import PoolError

__all__ = ["AwayError", "OrchestratorError", "RefusedError", "TaskError"]


class OrchestratorError(PoolError):
    """Base of what a worker raises about its orchestrator."""


class AwayError(OrchestratorError):
    """The orchestrator cannot be reached, or has trouble of its own; later it may answer."""


class RefusedError(OrchestratorError):
    """The orchestrator refused a message: a token that it does not know, or a body that it does not take.

    Attributes:
        status: of HTTP: 403 for a token, a signature or a time; 400 for a body.
        reason: what the orchestrator said.
    """

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.status, self.reason)


class TaskError(Exception):
    """Raise it in a handler to let a task fail with a code of your choice.

    Args:
        message: what went wrong, for whoever reads the job.
        code: decides whether the orchestrator tries again; see the reference.
        details: more about it: anything that JSON can say.

    Example:
        raise TaskError("no user 7", code="NOT_FOUND")
    """

    def __init__(
        self, message: str, *, code: str = "TRANSIENT_ERROR", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.details = details

    def __reduce__(self) -> tuple[object, ...]:
        return _task_error, (self.args[0], self.code, self.details)  # it may come out of another process


def _task_error(message: str, code: str, details: Mapping[str, Any] | None) -> TaskError:
    return TaskError(message, code=code, details=details)
