"""Which ready callback runs next: two queues that stand where asyncio keeps its own.

asyncio keeps what is ready to run in a deque and takes it from the left. These queues answer the same five
calls (`append`, `popleft`, `len`, iteration, `clear`), so that `BaseEventLoop._run_once` does not know the
difference, and each has its own idea of *next*:

- `FifoReady`: asyncio's documented order.
- `TasksReady`: a *legal* order that asyncio does not promise. Ready callbacks fall into lines: one line per
  task, one per timer (asyncio leaves the order of equal timers undefined), one for all else. Within a line
  the order is kept; which line goes next is drawn.

Invariant: with the same seed and the same program the same order comes out. So nothing here looks at
addresses, and the lines are kept sorted by number, whatever the order in which they became ready.

`append` may be called by any thread (`call_soon_threadsafe`); everything else belongs to the loop's own.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal

__all__ = ["FifoReady", "Mode", "Ready", "TasksReady", "owner", "ready_queue", "resumed"]

Mode = Literal["fifo", "tasks"]
Taken = Callable[[asyncio.Handle], None]
Number = Callable[[asyncio.Task[Any]], int]

# What the two implementations of `asyncio.Task` call the callback that resumes a task. The C step has no
# name.
_RESUMES = frozenset({None, "task_wakeup", "__step", "__wakeup"})


def owner(handle: asyncio.Handle) -> asyncio.Task[Any] | None:
    """Return the task that `handle` will resume, or None for any other callback."""
    return resumed(handle._callback)  # type: ignore[attr-defined]  # no public way to ask


def resumed(callback: object) -> asyncio.Task[Any] | None:
    """Return the task that `callback` resumes, or None.

    `loop.call_soon(task.cancel)` is bound to a task too, yet it is a callback like any other.
    """
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task) and getattr(callback, "__name__", None) in _RESUMES:
        return task
    return None


class FifoReady:
    """First come, first served: what asyncio documents."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._items: deque[asyncio.Handle] = deque()

    def append(self, handle: asyncio.Handle) -> None:
        self._items.append(handle)

    def popleft(self) -> asyncio.Handle:
        handle = self._items.popleft()
        self._taken(handle)
        return handle

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[asyncio.Handle]:
        return iter(tuple(self._items))

    def clear(self) -> None:
        self._items.clear()


class TasksReady:
    """Any line may be next; within a line the order is kept.

    Args:
        taken: told of each callback as it leaves.
        chance: where the choice comes from.
        number: gives each task its number, the same in every run.
    """

    _OTHERS = 0  # the line of all that is neither a task's step nor a timer

    def __init__(self, taken: Taken, chance: random.Random, number: Number) -> None:
        self._taken = taken
        self._chance = chance
        self._number = number
        self._inbox: deque[asyncio.Handle] = deque()  # the only part that other threads touch
        self._lines: dict[tuple[int, int], deque[asyncio.Handle]] = {}
        self._keys: list[tuple[int, int]] = []  # sorted; only lines that are not empty
        self._count = 0
        self._timers = 0

    def append(self, handle: asyncio.Handle) -> None:
        self._inbox.append(handle)

    def popleft(self) -> asyncio.Handle:
        while self._inbox:
            self._sort_in(self._inbox.popleft())
        keys = self._keys
        key = keys[int(self._chance.random() * len(keys))]
        line = self._lines[key]
        handle = line.popleft()
        self._count -= 1
        if not line:
            del self._lines[key]
            del keys[bisect_left(keys, key)]
        self._taken(handle)
        return handle

    def _sort_in(self, handle: asyncio.Handle) -> None:
        task = owner(handle)
        if task is not None:
            key = (1, self._number(task))
        elif isinstance(handle, asyncio.TimerHandle):
            self._timers += 1
            key = (2, self._timers)
        else:
            key = (self._OTHERS, 0)
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = line = deque()
            insort(self._keys, key)
        line.append(handle)
        self._count += 1

    def __len__(self) -> int:
        return self._count + len(self._inbox)

    def __iter__(self) -> Iterator[asyncio.Handle]:
        return iter([handle for key in self._keys for handle in self._lines[key]] + list(self._inbox))

    def clear(self) -> None:
        self._inbox.clear()
        self._lines.clear()
        self._keys.clear()
        self._count = 0


Ready = FifoReady | TasksReady


def ready_queue(mode: Mode, seed: int, taken: Taken, number: Number) -> Ready:
    """Return the queue for `mode`; the whole schedule is drawn from one generator made of `seed`."""
    if mode == "fifo":
        return FifoReady(taken)
    if mode == "tasks":
        return TasksReady(taken, random.Random(seed), number)  # noqa: S311 - a schedule is no secret
    raise ValueError(f"mode={mode!r}: there is no such schedule; use mode='fifo' or mode='tasks'")
