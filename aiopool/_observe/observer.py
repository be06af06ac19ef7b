"""`Observer`: what may observe a pool. The hub that calls the observers is in `observers.py`."""

from __future__ import annotations

import contextvars
from typing import Any, Literal

from aiopool._jobs.job import Job

__all__ = ["EventName", "Observer"]

EventName = Literal[
    "LoopBlocked",
    "PoolClosed",
    "PoolClosing",
    "PoolOpened",
    "PoolPaused",
    "PoolResized",
    "PoolResumed",
    "WorkerCrashed",
    "WorkerStarted",
    "WorkerStopped",
]
"""Classes of `events.py`, by name: that module is loaded with the first listener."""


class Observer:
    """What is called for everything that happens in a pool. It does nothing where it is not overridden.

    It must be quick, and must not raise. `inside`: it is called in the middle of a step of the engine, where no code of
    the user may run.
    """

    __slots__ = ()

    def submitted(self, job: Job[Any], *, inside: bool) -> None:
        """A job was taken in."""

    def waits(self) -> None:
        """A job that was not submitted just now is in line, or waits for room."""

    def started(self, job: Job[Any], worker: int, context: contextvars.Context | None, *, inside: bool) -> None:
        """An attempt begins, before its first line; `context` is the one it runs in."""

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        """An attempt has ended, and there will be another in `delay` seconds."""

    def given_back(self, job: Job[Any], worker: int | None, now: float) -> None:
        """A job of a store has left the pool without an end, and not for another attempt: that is `retrying`."""

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool) -> None:
        """A job is done; `worker` ran it at that moment, or none did. `awaited`: its outcome reaches somebody."""

    def leaked(self, job: Job[Any], worker: int | None, stack: str, now: float) -> None:
        """The code of a job did not end."""

    def event(self, name: EventName, **values: Any) -> None:
        """Something happened to the pool or to a worker; `values` are the fields of the event."""
