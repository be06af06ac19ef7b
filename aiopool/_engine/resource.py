"""`Resource`: what one worker keeps open, such as a client or a connection: one context manager, for all of its jobs.

It knows a context manager and a coroutine, the worker's life, which it runs inside of the manager. It knows no job. The
manager is entered and left in the same task, so what depends on that (task groups, cancel scopes) may stand in it.

Always true: what was entered is left, once, whatever ends the life. Leaving has a limit: after it the manager is
cancelled, and after another one it is *stuck*, and nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, final

from aiopool._jobs.status import WorkerState
from aiopool._runtime.faults import describe, is_kind, log_fault, type_name
from aiopool._runtime.runtime import Runtime

__all__ = ["Resource", "WorkerContext", "check_worker_context"]

logger = logging.getLogger("aiopool.supervisor")

WorkerContext = Callable[[], contextlib.AbstractAsyncContextManager[Any] | contextlib.AbstractContextManager[Any]]
"""What is called for each worker: it returns the context manager of the worker's resource."""


@final
class Resource:
    """The resource of one worker.

    Attributes:
        state: `opening`, `idle` while it is open, `stopping` while it is closed, and afterwards.
        value: what the context manager gave, while it is open.
        task: that of the worker.
    """

    __slots__ = ("_factory", "_limit", "_on_stuck", "_runtime", "_timer", "_worker", "state", "task", "value")

    def __init__(
        self,
        factory: WorkerContext,
        worker: int,
        runtime: Runtime,
        *,
        limit: Callable[[], float],
        on_stuck: Callable[[], object],
    ) -> None:
        """What it is made of.

        Args:
            factory: see `WorkerContext`.
            worker: the worker's number, for the log.
            runtime: the pool's loop and timers.
            limit: says how many seconds it may take to close, before it is cancelled, and again before it is stuck.
            on_stuck: is called when it did not close after all.
        """
        self._factory = factory
        self._worker = worker
        self._runtime = runtime
        self._limit = limit
        self._on_stuck = on_stuck
        self._timer: asyncio.TimerHandle | None = None
        self.state = WorkerState.OPENING
        self.value: Any = None
        self.task: asyncio.Task[Any] | None = None

    async def hold(
        self,
        live: Callable[[], Coroutine[Any, Any, None]],
        stopped: asyncio.Future[None],
        on_open: Callable[[], object],
    ) -> None:
        """Open, live, close.

        Args:
            live: the worker's life: it returns when `stopped` is done.
            stopped: done when the worker is to end.
            on_open: is called between the two, without a turn of the loop on either side.

        Raises:
            BaseException: what kept it from being opened, or ended it before the worker was stopped. What goes wrong
                when it is closed is logged.
        """
        self.task = asyncio.current_task()
        try:
            async with contextlib.AsyncExitStack() as stack:
                self.value = await self._enter(stack)
                self.state = WorkerState.IDLE
                try:
                    on_open()
                    await live()
                    self._forget_cancels()
                finally:
                    self.state = WorkerState.STOPPING
                    self._timer = self._runtime.later(self._limit(), self._hurry, 1)
        except BaseException as error:
            asked = stopped.done() and not stopped.cancelled() and stopped.exception() is None
            if self.state is WorkerState.OPENING:
                if asked and is_kind(error, asyncio.CancelledError):
                    raise
                with contextlib.suppress(Exception):  # an error may refuse notes
                    error.add_note(f"worker {self._worker} was opening its resource: {describe(self._factory)}")
            if not asked:
                raise
            log_fault(
                logger,
                "the resource of worker %s failed while the worker ended: %s",
                self._worker,
                self._factory,
                error=error,
                fields={"worker": self._worker},
            )
        finally:
            self.value, self.state = None, WorkerState.STOPPING
            if self._timer is not None:
                self._timer.cancel()

    async def _enter(self, stack: contextlib.AsyncExitStack) -> Any:
        manager: Any = self._factory()
        kind = type(manager)
        if hasattr(kind, "__aenter__"):
            return await stack.enter_async_context(manager)
        if hasattr(kind, "__enter__"):
            return stack.enter_context(manager)
        if asyncio.iscoroutine(manager):
            manager.close()
        raise TypeError(
            f"worker_context={describe(self._factory)} returned {type_name(manager)}, which is no context manager: "
            "write a function that returns one, such as `@contextlib.asynccontextmanager async def open_client(): "
            "... yield client`"
        )

    def _forget_cancels(self) -> None:
        """Close in a clean task: a job may have left cancels behind that it swallowed."""
        assert self.task is not None
        while self.task.cancelling():
            self.task.uncancel()

    def give_up(self) -> None:
        """Open no more, if it is being opened: the worker is to end."""
        if self.state is WorkerState.OPENING and self.task is not None:
            self.task.cancel()

    def _hurry(self, time: int) -> None:
        assert self.task is not None
        if time == 1:
            self.task.cancel(f"the resource of worker {self._worker} did not close in time")
            self._timer = self._runtime.later(self._limit(), self._hurry, 2)
            return
        text = "the resource of worker %s did not close, and is left behind: %s"
        log_fault(logger, text, self._worker, self._factory, fields={"worker": self._worker})
        self._on_stuck()


def check_worker_context(factory: object) -> None:
    """Raise if a `worker_context` cannot be one.

    Raises:
        TypeError: it cannot be called; or it is one context manager, which cannot serve several workers.
    """
    kind = type(factory)
    is_manager = hasattr(kind, "__exit__") or hasattr(kind, "__aexit__")
    if is_manager or not callable(factory):
        which = "one context manager, and each worker needs its own" if is_manager else "nothing that can be called"
        raise TypeError(
            f"worker_context={describe(factory)} is {which}: give a function that returns a new context manager, such "
            "as Pool(worker_context=open_client), not Pool(worker_context=open_client())"
        )
