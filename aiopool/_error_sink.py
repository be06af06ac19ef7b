"""`ErrorSink`: where failures go that nobody awaits, and those of the user's callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context
from typing import Any, final

from aiopool._faults import log_fault
from aiopool._hooks import HookGuard
from aiopool._job import Job, OnError
from aiopool._runtime import Runtime

__all__ = ["ErrorSink"]

logger = logging.getLogger("aiopool.job")


@final
class ErrorSink:
    """The user's `on_error`, or the log."""

    __slots__ = ("_hooks", "_on_error", "_pool", "_runtime")

    def __init__(self, pool: str, runtime: Runtime, on_error: OnError | None, hooks: HookGuard) -> None:
        self._pool = pool
        self._hooks = hooks
        self._runtime = runtime
        self._on_error = on_error

    def report(self, job: Job[Any], error: BaseException, worker: int | None = None) -> None:
        """Take a failure that nobody awaits."""
        if self._on_error is not None:
            # A copy: the one of the runtime may be entered.
            self.call(self._runtime.context.copy(), self._on_error, job, error)
        else:
            self.log("job %.200r id %.200r failed, and nobody was awaiting it", job, worker=worker, error=error)

    def log(
        self, text: str, job: Job[Any], *more: object, worker: int | None, error: BaseException | None = None
    ) -> None:
        """Log what became of a job; `text` has places for its name, its id, and `more`."""
        fields = {
            "job_id": job.id,
            "job": job._plan.name,
            "kind": None,
            "attempt": job._attempt,
            "worker": worker,
            "pool": self._pool,
        }
        log_fault(logger, text, job._plan.name, job.id, *more, error=error, fields=fields)

    def call(self, context: Context, function: Callable[..., object], *args: Any) -> None:
        """Call a callback of the user's, in nobody's job."""
        self._hooks.call(context, function, *args, logger=logger, text="a callback of the pool failed: %s")
