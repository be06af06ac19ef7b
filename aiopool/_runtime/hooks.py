"""`HookGuard`: what becomes of whatever a hook of the user's raises; one answer for all hooks of a pool.

A hook is a function of the user's that the pool calls in the middle of its own work: `on_error`, a listener, a
recorder, a callback of a job, a health check. A job that raises has an awaiter; a hook has none. So:

- `KeyboardInterrupt` and `SystemExit` end the program, as from a job: by a shutdown of the pool, which is bounded.
- Anything else, `CancelledError`, `GeneratorExit`, `MemoryError` and `RecursionError` too, is logged, once, and hurts
  nobody. A `CancelledError` cancels nothing: it is what `future.result()` of a cancelled future raises.

Functions that decide about a job are another matter: what a predicate or a backoff of a `Retry` raises is
how that job fails, and what a source of `map` raises is what its consumer gets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context
from typing import Any, final

from aiopool._runtime.faults import is_kind, log_fault

__all__ = ["HookGuard"]


@final
class HookGuard:
    """The guard of one pool.

    Attributes:
        end_program: end the program for an exception, soon, from any thread; None while the pool is not open.
    """

    __slots__ = ("end_program",)

    def __init__(self) -> None:
        self.end_program: Callable[[BaseException], object] | None = None

    def call(
        self, context: Context, function: Callable[..., object], *args: Any, logger: logging.Logger, text: str
    ) -> None:
        """Call a hook; `text` says what failed if it raises, and has a place for the hook."""
        try:
            context.run(function, *args)
        except BaseException as error:
            self.caught(error, logger, text, function)

    def caught(self, error: BaseException, logger: logging.Logger, text: str, *args: object) -> None:
        """Take what a hook has raised; never raise."""
        if self.end_program is not None and is_kind(error, (KeyboardInterrupt, SystemExit)):
            try:
                self.end_program(error)
                return
            except BaseException as fault:  # the loop is closed, and all is over
                log_fault(logger, "the program could not be ended", error=fault)
        log_fault(logger, text, *args, error=error)
