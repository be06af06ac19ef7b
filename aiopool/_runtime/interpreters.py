"""The interpreter runner: plain functions in interpreters of their own, each in a thread of this process (Python 3.13).

anyio keeps the interpreters and their threads (`anyio.to_interpreter`); here is the line in front of them, and the
interface of the other runners. An interpreter has a lock of its own, so several compute at once; it shares no objects,
so a call is pickled; and like a thread it cannot be stopped from outside.

Always true: never more than `max_interpreters` calls run, abandoned ones included.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, final

from anyio import CapacityLimiter, to_interpreter

from aiopool._runtime.pickled_call import PickledCall, pickle_call

__all__ = ["InterpreterRunner"]


@final
class InterpreterRunner:  # pragma: no cover: for Python 3.13, where nothing is measured
    """Run plain functions in interpreters, and bring their outcomes back to the loop.

    All methods belong to the thread of the loop, and none of them waits.

    Args:
        loop: where outcomes are delivered.
        max_interpreters: how many calls may run at once, at least 1.
        name: of the tasks that wait for the interpreters.
        on_done: called in the loop as `on_done(token, ok, value)`, once for each call that was not withdrawn.
    """

    stops = False
    ended = None

    __slots__ = ("_closed", "_limiter", "_max_interpreters", "_on_done", "_running", "_waiting", "loop", "name")

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        max_interpreters: int,
        name: str,
        on_done: Callable[[Any, bool, Any], object],
    ) -> None:
        self.loop = loop
        self.name = name
        self._max_interpreters = max_interpreters
        self._on_done = on_done
        self._limiter = CapacityLimiter(max_interpreters)
        self._waiting: OrderedDict[int, tuple[Any, PickledCall]] = OrderedDict()
        self._running: dict[int, asyncio.Task[Any]] = {}
        self._closed = False

    def start(
        self, token: Any, context: contextvars.Context, fn: Callable[..., object], args: tuple[Any, ...] = ()
    ) -> None:
        """Hand a call to an interpreter; it waits in line while `max_interpreters` run. Context variables stay here.

        Raises:
            RuntimeError: the runner is closed.
        """
        if self._closed:
            raise RuntimeError(f"{self.name} is closed")
        try:
            call = pickle_call(fn, args)
        except BaseException as error:
            self.loop.call_soon(self._on_done, token, False, error)
            return
        self._waiting[id(token)] = token, call
        self._serve()

    def withdraw(self, token: Any) -> bool:
        """Take back a call that has not begun; whether it was."""
        return self._waiting.pop(id(token), None) is not None

    def cancel(self, token: Any, reason: str | None = None) -> bool:
        """Do nothing: code in an interpreter can neither be stopped nor asked. Whether the call runs."""
        return id(token) in self._running

    def abandon(self, token: Any) -> bool:
        """Say that nobody waits for a call any more; it runs on, and its end is told. Whether it runs."""
        return id(token) in self._running

    def close(self, wait: float = 0.0) -> int:
        """Take no more calls; those that wait are delivered as cancelled. Returns how many run."""
        self._closed = True
        while self._waiting:
            _, (token, _) = self._waiting.popitem(last=False)
            self.loop.call_soon(self._on_done, token, False, asyncio.CancelledError("closed before it began"))
        return len(self._running)

    def _serve(self) -> None:
        while self._waiting and len(self._running) < self._max_interpreters:
            key, (token, call) = self._waiting.popitem(last=False)
            # In a context of its own: anyio keeps its interpreters by loop, and the submitter's variables stay here.
            task = self.loop.create_task(self._run(call), name=self.name, context=contextvars.Context())
            self._running[key] = task
            task.add_done_callback(functools.partial(self._ended, token))

    async def _run(self, call: PickledCall) -> tuple[bool, Any]:
        try:
            return True, await to_interpreter.run_sync(_call, sys.path, call, limiter=self._limiter)
        except BaseException as error:
            return False, error

    def _ended(self, token: Any, task: asyncio.Task[tuple[bool, Any]]) -> None:
        del self._running[id(token)]
        ok, value = (False, asyncio.CancelledError()) if task.cancelled() else task.result()
        self._on_done(token, ok, value)
        self._serve()


def _call(path: list[str], call: PickledCall) -> Any:  # pragma: no cover: the same: it runs in an interpreter
    """Run a call, in an interpreter; one that is new does not know where the program looks for its modules."""
    sys.path[:] = path
    return call()
