"""`EventLog`: the last events of a pool, while somebody asks for them."""

from __future__ import annotations

import datetime
import time
from collections import deque
from typing import Any, final

from aiopool._control.views import event_view
from aiopool._pool.pool import Pool
from aiopool.events import Listener, PoolEvent

__all__ = ["EventLog"]

MAX_EVENTS = 500
# Seconds after the last question until it stops to listen.
PATIENCE = 30.0


@final
class EventLog:
    """Listens to a pool from the first question on, and stops by itself when nobody has asked for a while.

    An event costs a pool a little, so nothing is heard while nobody looks. Its methods belong to the loop of the pool.
    """

    __slots__ = ("_asked_at", "_events", "_listener", "_next", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # As they are shown: an event itself would keep an exception, and the frames of its traceback.
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._listener: Listener | None = None
        self._next = 1
        self._asked_at = 0.0

    @property
    def listening(self) -> bool:
        """Whether the pool has to tell it events."""
        return self._listener is not None

    def after(self, number: int, types: frozenset[str], limit: int, job: str | None = None) -> dict[str, Any]:
        """Return the events after a number, the oldest first.

        Args:
            number: of the last one that is known; 0: from the first that is kept.
            types: only these; empty: all.
            limit: so many at most.
            job: only those of the job with this id.

        Returns:
            `items`; `next`, the number to ask with; `gap`: events after `number` are not kept, or were not heard.
        """
        self._asked_at = time.monotonic()
        began = self._listener is None
        if self._listener is None:
            self._next += 1  # what happened meanwhile is missing, if only one event
            self._listener = self._pool.listen(self._hear)
        first: int = self._events[0]["number"] if self._events else self._next
        items: list[dict[str, Any]] = []
        last = number
        for event in self._events:
            if event["number"] > number and len(items) < limit:
                last = event["number"]
                if (not types or event["type"] in types) and (job is None or str(event.get("job_id")) == job):
                    items.append(event)
        gap = number > 0 and (began or number + 1 < first or number >= self._next)
        return {"items": items, "next": max(last, first - 1) if last < self._next else self._next - 1, "gap": gap}

    def _hear(self, event: PoolEvent) -> None:
        if time.monotonic() - self._asked_at > PATIENCE:
            self.stop()
            return
        wall = datetime.datetime.now(datetime.UTC)
        self._events.append({"number": self._next} | event_view(event, wall))
        self._next += 1

    def stop(self) -> None:
        """Hear no more, and forget."""
        if self._listener is not None:
            self._listener.remove()
            self._listener = None
        self._events.clear()
