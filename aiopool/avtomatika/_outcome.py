"""From what became of a handler to the result of its task.

What decides whether the orchestrator tries a task again is the error's code, and nothing else; it knows no status
`retry`. So the words of a handler are put into those of the protocol here, and its own code stays in `details`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from aiopool import JobCancelledError, JobTimeoutError
from aiopool.avtomatika._errors import TaskError
from aiopool.avtomatika._plain import NotPlainError, plain
from aiopool.avtomatika._task import Result, Task

__all__ = [
    "CONTRACT_VIOLATION",
    "DEPENDENCY_MISSING",
    "INTERNAL",
    "INVALID_INPUT",
    "RESOURCE_EXHAUSTED",
    "SECURITY",
    "TIMEOUT",
    "TRANSIENT",
    "RetryAs",
    "cancelled",
    "failed",
    "failure",
    "returned",
]

RetryAs: TypeAlias = Literal["failure", "retry"]

CONTRACT_VIOLATION: Final = "CONTRACT_VIOLATION_ERROR"
DEPENDENCY_MISSING: Final = "DEPENDENCY_MISSING_ERROR"
INTERNAL: Final = "INTERNAL_ERROR"
INVALID_INPUT: Final = "INVALID_INPUT_ERROR"
RESOURCE_EXHAUSTED: Final = "RESOURCE_EXHAUSTED_ERROR"
SECURITY: Final = "SECURITY_ERROR"
TIMEOUT: Final = "TIMEOUT_ERROR"
TRANSIENT: Final = "TRANSIENT_ERROR"

# What handlers call it, and the protocol's code that the orchestrator treats as the word means.
_WORDS: Final = {"NOT_FOUND": INVALID_INPUT, "TIMEOUT": TIMEOUT, "VALIDATION_ERROR": INVALID_INPUT}
# The orchestrator never tries a task again that failed with one of these.
_FINAL: Final = frozenset(
    (
        CONTRACT_VIOLATION,
        "DEPENDENCY_ERROR",
        "INTEGRITY_MISMATCH_ERROR",
        INVALID_INPUT,
        "PERMANENT_ERROR",
        SECURITY,
    )
)


def returned(task: Task, value: Any, retry_as: RetryAs = "failure") -> Result:
    """Make the result of what a handler returned.

    A dict with a `status` is taken at its word; any other dict is the data of a success; None is a success without
    data; any other value becomes `{"result": value}`.
    """
    try:
        if isinstance(value, Mapping) and isinstance(value.get("status"), str) and value["status"]:
            return _told(task, value, retry_as)
        data = None if value is None else value if isinstance(value, Mapping) else {"result": value}
        return Result(task.task_id, task.job_id, "success", plain(data))
    except NotPlainError as error:
        return failure(task, INTERNAL, f"the result of the handler {task.name!r} cannot be sent: {error}")


def _told(task: Task, value: Mapping[str, Any], retry_as: RetryAs) -> Result:
    status, data = value["status"], plain(value.get("data"))
    if data is not None and not isinstance(data, dict):
        data = {"result": data}
    if status not in ("failure", "retry"):
        error = None if value.get("error") is None else _error(value["error"], "", again=False)
        return Result(task.task_id, task.job_id, status, data, error)
    again = status == "retry"
    error = _error(value.get("error"), f"the handler {task.name!r} returned the status {status!r}", again=again)
    return Result(task.task_id, task.job_id, retry_as if again else "failure", data, error)


def _error(told: Any, otherwise: str, *, again: bool) -> dict[str, Any]:
    """Return an error of the protocol. `again`: the handler wants another run, whatever its code says."""
    if not isinstance(told, Mapping):
        return {"code": TRANSIENT, "message": otherwise if told is None else str(told)}
    code = str(told.get("code") or TRANSIENT)
    details = plain(told.get("details"), "error.details")
    message = str(told.get("message") or otherwise or code)
    return _coded(code, message, details, again=again)


def _coded(code: str, message: str, details: Any, *, again: bool) -> dict[str, Any]:
    sent = _WORDS.get(code, code)
    if again and sent in _FINAL:
        sent = TRANSIENT
    if sent != code:
        details = {**(details if isinstance(details, dict) else {} if details is None else {"details": details})}
        details.setdefault("code", code)
    elif details is not None and not isinstance(details, dict):
        details = {"details": details}
    # Half a surrogate pair would be refused, and an error has to arrive.
    error: dict[str, Any] = {"code": sent, "message": message.encode(errors="replace").decode()}
    return error if details is None else {**error, "details": details}


def failure(task: Task, code: str, message: str) -> Result:
    """Make the result of a task that has failed for a reason of ours."""
    return Result(task.task_id, task.job_id, "failure", error=_coded(code, message, None, again=False))


def cancelled(task: Task, why: str) -> Result:
    """Make the result of a task that the orchestrator cancelled."""
    return Result(task.task_id, task.job_id, "cancelled", error=_coded("CANCELLED", why, None, again=False))


def failed(task: Task, error: BaseException) -> Result:
    """Make the result of what a handler raised: its message is the text of the exception."""
    if isinstance(error, TaskError):
        try:
            details = plain(error.details, "details")
        except NotPlainError as wrong:
            details = {"not_sent": str(wrong)}
        return Result(task.task_id, task.job_id, "failure", error=_coded(error.code, str(error), details, again=False))
    return failure(task, _code_of(error), str(error) or type(error).__name__)


def _code_of(error: BaseException) -> str:
    if isinstance(error, (JobTimeoutError, TimeoutError)):
        return TIMEOUT
    if isinstance(error, MemoryError):
        return RESOURCE_EXHAUSTED
    if isinstance(error, ValueError) and not isinstance(error, JobCancelledError):
        return INVALID_INPUT  # the same input would fail again
    return TRANSIENT
