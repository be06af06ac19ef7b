"""The small parts that `VirtualLoop` puts in the place of asyncio's own, and what it raises.

Each knows one thing: a task its number, the seam whom to ask instead of waiting, a hold its reason, a watch
its condition. None of them knows the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["DeadlockError", "Events", "Hold", "NumberedTask", "Seam", "SpinError", "Watch"]

_T = TypeVar("_T")
Events = list[tuple[selectors.SelectorKey, int]]


class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is armed, and nothing from outside came: the program would wait for ever.

    The text lists every pending task and the line in which it waits.
    """


class SpinError(RuntimeError):
    """The loop took more steps than its budget: something runs round in circles.

    The text names the steps that came most often of late.
    """


class NumberedTask(asyncio.Task[_T]):
    """A task whose hash is its number, so that a set of tasks has the same order in every run.

    asyncio's `TaskGroup` and anyio's scopes keep their tasks in sets and cancel them in that order.
    """

    def __init__(self, coro: Any, *, number: int, **options: Any) -> None:
        self.number = number  # first: the base class puts the task into a set
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number


class Seam(selectors.BaseSelector):
    """The real selector, except that `select` asks the loop what to do instead of waiting."""

    def __init__(self, poll: Callable[[float | None], Events]) -> None:
        self.real = selectors.DefaultSelector()
        self._poll = poll

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self.real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.real.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> Events:
        return self._poll(timeout)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self.real.get_map()

    def close(self) -> None:
        self.real.close()


@dataclass(eq=False, slots=True)
class Hold:
    """One reason for which the clock stands still; `leap`: when patience ends, go on instead of failing."""

    reason: str
    leap: bool = False


@dataclass(eq=False, slots=True)
class Watch:
    """A condition that is looked at once a turn, in the context of the one who waits for it."""

    condition: Callable[[], object]
    future: asyncio.Future[None]
    context: contextvars.Context

    def look(self) -> None:
        if self.future.done():
            return
        try:
            true = self.context.run(self.condition)
        except Exception as error:
            self.future.set_exception(error)
        else:
            if true:
                self.future.set_result(None)
