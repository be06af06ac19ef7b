"""A task as it comes from the orchestrator, checked; and the result of one, as it goes back.

Both are values: they know no handler, no pool, no network.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from aiopool.avtomatika._signing import verify

__all__ = ["NotATaskError", "Result", "Task", "read_task"]

# What the orchestrator adds to a task after it has signed it.
_UNSIGNED: Final = ("sig", "orchestrator_signature", "skill_version", "skill_type")


class NotATaskError(ValueError):
    """What came is no task."""


@final
@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        name: of the handler: the orchestrator's `type`.
        priority: higher goes first, as the orchestrator counts.
        deadline: the moment after which nobody wants the result, in seconds since 1970; None: there is none.
    """

    task_id: str
    job_id: str
    name: str
    params: dict[str, Any]
    priority: float
    deadline: float | None
    metadata: dict[str, Any]
    tracing_context: dict[str, Any]
    signed: bool | None  # by the orchestrator; None: nobody has asked

    def seconds_left(self) -> float | None:
        """Return the seconds until the deadline; None: there is none."""
        return None if self.deadline is None else self.deadline - time.time()


def read_task(payload: Mapping[str, Any], secret: str = "") -> Task:
    """Read a task.

    Args:
        payload: what the orchestrator sent.
        secret: of the orchestrator; empty: the signature is not looked at.

    Raises:
        NotATaskError: it has no id or no type.
    """
    ids = [payload.get(name) for name in ("task_id", "job_id", "type")]
    if not all(isinstance(text, str) and text for text in ids):
        raise NotATaskError(f"a task has task_id, job_id and type, all of them texts; this one is {payload!r:.500}")
    task_id, job_id, name = map(str, ids)
    signature = payload.get("sig")
    signed = None if not secret else isinstance(signature, str) and verify(payload, signature, secret, _UNSIGNED)
    return Task(
        task_id=task_id,
        job_id=job_id,
        name=name,
        params=_mapping(payload.get("params")),
        priority=_number(payload.get("priority")) or 0.0,
        deadline=_number(payload.get("deadline")),
        metadata=_mapping(payload.get("metadata")),
        tracing_context=_mapping(payload.get("tracing_context")),
        signed=signed,
    )


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


@final
@dataclass(frozen=True, slots=True)
class Result:
    """The result of a task, without its time and signature: these are made anew each time it is sent.

    Attributes:
        status: `"success"`, `"failure"`, `"cancelled"`, or the name of a transition of the blueprint.
        data, error: plain JSON data; of an error `code`, `message` and maybe `details`.
    """

    task_id: str
    job_id: str
    status: str
    data: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        """Return it as a part of a message."""
        told = {
            "task_id": self.task_id,
            "job_id": self.job_id,
            "status": self.status,
            "data": self.data,
            "error": self.error,
        }
        return {name: value for name, value in told.items() if value is not None}
