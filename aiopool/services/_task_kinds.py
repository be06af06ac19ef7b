"""Services that live as a task on an event loop: coroutine functions, and async context managers.

Such a service belongs to the loop on which it was started: only there can it be cancelled and awaited, and
when that loop is closed, it is over.
"""

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable
from typing import Any, final

from aiopool.services._kind import Ended, accepted
from aiopool.services._process import ProcessId

__all__ = ["ContextAdapter", "CoroutineAdapter"]

# A task that ignored its cancellation is told again at this beat, until the deadline.
_TELL_AGAIN = 0.1

# What a function under `@asynccontextmanager` returns can be entered once. Its class has no public name.
_ONCE = contextlib._AsyncGeneratorContextManager


class _InTask:
    """What the kinds that run as a task have in common: where it lives, and how it is made to end."""

    restartable = True
    own_session = False
    mark: str | None = None
    asks = True

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _run(self, body: Any, name: str, wake: Callable[[], None]) -> "asyncio.Task[Any]":
        self._loop = asyncio.get_running_loop()
        # Not loop.create_task: an eager task factory would run the body before anybody knew that it lives.
        self._task = asyncio.Task(body, loop=self._loop, name=name)
        self._task.add_done_callback(lambda _: wake())
        return self._task

    def own_loop(self) -> asyncio.AbstractEventLoop | None:
        return self._loop if self.alive() else None

    def alive(self) -> bool | None:
        if self._task is None or self._loop is None or self._loop.is_closed():
            return False  # no line of it will ever run again
        return not self._task.done()

    def roots(self) -> list[ProcessId]:
        return []

    async def _cancel(self, force_at: float, deadline: float) -> None:
        """Cancel the task once, and from `force_at` on again and again."""
        task = self._task
        if task is None or task.done():
            return
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "its event loop is not running, so that it can be neither cancelled nor awaited; "
                "write `await registry.stop_all()` before that loop ends"
            )
        until = force_at
        while not task.done():
            if (now := time.monotonic()) >= deadline:
                raise TimeoutError("was cancelled, and runs on")
            task.cancel("the service registry stops this service")
            await asyncio.wait({task}, timeout=max(0.0, until - now))
            until = min(deadline, time.monotonic() + _TELL_AGAIN)

    def _raise(self) -> None:
        """Raise what it ended with, other than its cancellation."""
        task = self._task
        if task is not None and task.done() and not task.cancelled() and (error := task.exception()):
            raise error

    async def outcome(self) -> Ended:
        if self._task is None or not self._task.done():
            return Ended(False, "was lost with its event loop")
        if self._task.cancelled():
            return Ended(False, "was cancelled")
        if (error := self._task.exception()) is not None:
            return Ended(False, f"failed: {type(error).__name__}: {error}", error)
        return Ended(True, "returned")


@final
class CoroutineAdapter(_InTask):
    """A coroutine function that runs for long; stopped by cancelling it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self._function = function

    async def start(self, wake: Callable[[], None]) -> None:
        self._run(self._function(), f"service {getattr(self._function, '__qualname__', 'coroutine')}", wake)

    async def stop(self, force_at: float, deadline: float) -> None:
        if not self.alive():
            return  # what it ended with was told when it ended
        await self._cancel(force_at, deadline)
        self._raise()


@final
class ContextAdapter(_InTask):
    """An async context manager, such as a `Pool`: entered and left by one task, as anyio's scopes demand."""

    def __init__(self, manager: Any) -> None:
        super().__init__()
        self.restartable = not isinstance(manager, _ONCE)
        self._manager = manager
        self._leave: asyncio.Event | None = None
        self._until = (0.0, 0.0)

    async def start(self, wake: Callable[[], None]) -> None:
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        task = self._run(self._live(entered, self._leave), f"service {type(self._manager).__name__}", wake)
        try:
            await asyncio.wait({task, entered}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not entered.done():
            await task  # it has failed to enter: this raises

    async def _live(self, entered: "asyncio.Future[None]", leave: asyncio.Event) -> None:
        async with self._manager:
            entered.set_result(None)
            await leave.wait()
            force_at, deadline = self._until
            shutdown = getattr(self._manager, "shutdown", None)
            if inspect.iscoroutinefunction(shutdown):
                now = time.monotonic()
                limits = {"timeout": max(0.0, force_at - now), "grace": max(0.0, (deadline - force_at) / 2)}
                await shutdown(**accepted(shutdown, limits))

    async def stop(self, force_at: float, deadline: float) -> None:
        if self._task is None or not self.alive():
            return
        if self._loop is not asyncio.get_running_loop():
            return await self._cancel(force_at, deadline)  # which says why that cannot be
        assert self._leave is not None, "a task that lives was started"
        self._until = (force_at, deadline)
        self._leave.set()
        # Leaving may take until the force begins, and a pool uses that time for its jobs.
        await asyncio.wait({self._task}, timeout=max(0.0, (force_at + deadline) / 2 - time.monotonic()))
        await self._cancel(deadline, deadline)
        self._raise()
