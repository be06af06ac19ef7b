"""`Inbox`: what other threads hand to the event loop, taken there in batches.

Many threads put, one loop takes. Whoever puts into an empty inbox wakes the loop; whoever comes before the loop has got
round to it only adds to the batch. So a burst costs one wake-up, however many threads take part. No lock is taken: a
deque and a flag will do.

Invariants:
- What one thread puts is taken in that order.
- A thread adds first and looks at the flag second; the loop puts the flag down first and takes second. Whichever way
  the two meet, this round sees the item or another round is on its way.
- The loop is not held for longer than a slice; what is left then comes in its next turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar, final

from aiopool._runtime.runtime import Runtime

__all__ = ["Inbox"]

T = TypeVar("T")

# Seconds for which the loop takes items in one turn.
SLICE = 0.002


@final
class Inbox(Generic[T]):
    """See the module.

    Args:
        runtime: whose loop takes the items.
        take: called in the loop with each item; it must not raise.
    """

    __slots__ = ("_items", "_notified", "_runtime", "_take")

    def __init__(self, runtime: Runtime, take: Callable[[T], object]) -> None:
        self._runtime = runtime
        self._take = take
        self._items: deque[T] = deque()
        self._notified = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Hand in an item; from any thread.

        Raises:
            RuntimeError: the loop is closed.
            BaseException: the loop could not be told; the item may be taken all the same, later.
        """
        self._items.append(item)
        if not self._notified:
            self.notify()

    def notify(self) -> None:
        """Tell the loop that there is something, unless it has been told; from any thread."""
        if self._notified or not self._items:
            return
        self._notified = True  # first: the loop may listen before we are back
        try:
            self._runtime.loop.call_soon_threadsafe(self._deliver, context=self._runtime.context)
        except BaseException:
            self._notified = False
            raise

    def take_all(self) -> None:
        """Take what is there, at once; in the loop."""
        while self._items:
            self._take(self._items.popleft())

    def _deliver(self) -> None:
        self._notified = False
        items, take, now = self._items, self._take, self._runtime.now
        ends = now() + SLICE
        # Not `while items`: what comes meanwhile waits for the next turn of the loop, as the work of others does.
        for _ in range(len(items)):
            take(items.popleft())
            if now() >= ends:
                break
        if items and not self._notified:
            self._runtime.soon(self._deliver)
            self._notified = True
