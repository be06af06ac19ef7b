"""`Adapter`: times the jobs, and sets the size by an `Adaptive`.

What the size becomes is decided in `_jobs/adaptive.py`. It has no timer: the end of a job is the moment to decide, and
it acts in the next turn of the event loop, for it is told in the middle of a step of the engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context
from typing import Any, final

from aiopool._engine.engine import Engine
from aiopool._jobs.adaptive import Adaptation, Adaptive
from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus
from aiopool._observe.observer import Observer
from aiopool._runtime.hooks import HookGuard

__all__ = ["Adapter"]

logger = logging.getLogger("aiopool.pool")


@final
class Adapter(Observer):
    """Sets the size of one open pool."""

    __slots__ = ("_acting", "_decisions", "_engine", "_hooks", "_resize", "_rule", "_stopped")

    def __init__(self, rule: Adaptive, engine: Engine, hooks: HookGuard, resize: Callable[[int], object]) -> None:
        self._rule = rule
        self._engine = engine
        self._hooks = hooks
        self._resize = resize
        self._decisions = Adaptation(rule, engine.now())
        self._acting = self._stopped = False

    def begin(self) -> None:
        """Begin with the least size."""
        self._act()

    def stop(self) -> None:
        """Set the size no more."""
        self._stopped = True

    # -- what happens ------------------------------------------------------------------------------------------------

    def started(self, job: Job[Any], worker: int, context: Context | None, *, inside: bool) -> None:
        slots = self._engine.slots
        if slots.active >= slots.size:
            self._decisions.filled = True

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        self._failed(job, error, now)

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool) -> None:
        if worker is None:
            return
        if job._status is JobStatus.SUCCEEDED:
            # The time that a job has waited for others of the pool says nothing about the other side.
            if (job._extra is None or not job._extra.has_lent) and self._decisions.succeeded(job._started_at, now):
                self._decisions.decide(now)
                self._act_soon()
        elif job._status is not JobStatus.CANCELLED:
            self._failed(job, job._value[0], now)

    def _failed(self, job: Job[Any], error: BaseException, now: float) -> None:
        try:
            overload = self._rule.means_overload(error)
        except BaseException as fault:
            self._hooks.caught(fault, logger, "%r cannot say whether %.200r was an overload", self._rule, job)
            return
        if overload and self._decisions.overloaded(job._started_at, now):
            self._act_soon()

    # -- acting ------------------------------------------------------------------------------------------------------

    def _act_soon(self) -> None:
        if not self._acting:
            self._engine.runtime.soon(self._act)
            self._acting = True

    def _act(self) -> None:
        self._acting = False
        if not self._stopped and self._engine.slots.size != self._decisions.size:
            self._resize(self._decisions.size)
