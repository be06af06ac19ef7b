"""`ErrorReporter`: where failures go that nobody awaits, and those of the user's callbacks.

Without `on_error` they go to the log. There a thousand failures of one kind are not a thousand tracebacks: the first of
a kind is told whole, the next ones are counted, and told by number every ten seconds and at the end of the pool. A kind
is what failed (the name of the job), with what (the class) and where (the line).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from typing import Any, final

from aiopool._jobs.job import Job, OnError
from aiopool._runtime.faults import class_name, log_fault, traceback_of
from aiopool._runtime.hooks import HookGuard
from aiopool._runtime.runtime import Runtime

__all__ = ["ErrorReporter"]

logger = logging.getLogger("aiopool.job")

# Seconds in which failures like one that was told are counted.
QUIET = 10.0
# So many kinds are remembered. What is beyond them is told whole: nothing is lost, and the memory is bounded.
MAX_KINDS = 100

Kind = tuple[str, type[BaseException], str, int]


@final
class _Told:
    """A kind of failure that was told whole: until when others like it are counted, and how many there are."""

    __slots__ = ("more", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.more = 0


@final
class ErrorReporter:
    """The user's `on_error`, or the log. The mutable state is: what was told of late, and the timer that tells more."""

    __slots__ = ("_hooks", "_on_error", "_pool", "_runtime", "_timer", "_told")

    def __init__(self, pool: str, runtime: Runtime, on_error: OnError | None, hooks: HookGuard) -> None:
        self._pool = pool
        self._hooks = hooks
        self._runtime = runtime
        self._on_error = on_error
        self._told: dict[Kind, _Told] = {}
        self._timer: asyncio.TimerHandle | None = None  # while there is something to tell by number

    def report(self, job: Job[Any], error: BaseException, worker: int | None = None) -> None:
        """Take a failure that nobody awaits."""
        if self._on_error is not None:
            # A copy: the one of the runtime may be entered.
            self.call_hook(self._runtime.context.copy(), self._on_error, job, error)
        elif not self._counts(_kind_of(job, error)):
            self.log("job %.200r id %.200r failed, and nobody was awaiting it", job, worker=worker, error=error)

    def unheard(self, job: Job[Any]) -> None:
        """Whoever waited for a job was cancelled; if the job had failed before, and nobody else is told, report it."""
        extra = job._extra
        if extra is not None and extra.awaiters:
            extra.awaiters -= 1
            if not extra.awaiters:
                self.report(job, job._value[0])

    def _counts(self, kind: Kind) -> bool:
        """Count a failure if one of its kind was told of late; whether it did."""
        now, told = self._runtime.now(), self._told.get(kind)
        if told is not None and (told.more or now < told.until):
            if self._timer is None:
                self._timer = self._runtime.later(max(0.0, told.until - now), self._tell_numbers)
            told.more += 1
            return True
        if told is None and len(self._told) >= MAX_KINDS:
            self._told = {kind: told for kind, told in self._told.items() if told.more or now < told.until}
        if told is not None or len(self._told) < MAX_KINDS:
            self._told[kind] = _Told(now + QUIET)
        return False

    def _tell_numbers(self) -> None:
        """Tell how many failures there were beside those that were told whole, and begin to count anew."""
        self._timer = None
        now, counted = self._runtime.now(), False
        for (job, error, file, line), told in list(self._told.items()):
            if told.more:
                where = f" at {file}:{line}" if file else ""
                text = "job %.200r failed %d more times with %s%s, and nobody was awaiting it"
                log_fault(
                    logger, text, job, told.more, class_name(error), where, fields={"job": job, "pool": self._pool}
                )
                told.until, told.more, counted = now + QUIET, 0, True
            elif now >= told.until:
                del self._told[job, error, file, line]
        if counted:
            self._timer = self._runtime.later(QUIET, self._tell_numbers)

    def close(self) -> None:
        """Tell what was counted and not told yet: the pool has closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._tell_numbers()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._told.clear()

    def log(
        self, text: str, job: Job[Any], *more: object, worker: int | None, error: BaseException | None = None
    ) -> None:
        """Log what became of a job; `text` has places for its name, its id, and `more`."""
        fields = {
            "job_id": job.id,
            "job": job._spec.name,
            "attempt": job._attempt,
            "worker": worker,
            "pool": self._pool,
        }
        log_fault(logger, text, job._spec.name, job.id, *more, error=error, fields=fields)

    def call_hook(self, context: Context, function: Callable[..., object], *args: Any) -> None:
        """Call a callback of the user's, in nobody's job."""
        self._hooks.call(context, function, *args, logger=logger, text="a callback of the pool failed: %s")


def _kind_of(job: Job[Any], error: BaseException) -> Kind:
    """Return which kind of failure this is."""
    trace = traceback_of(error)
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    file, line = ("", 0) if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    return job._spec.name, type(error), file, line
