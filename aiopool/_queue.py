"""`JobQueue`: the line in which jobs wait, best priority first, first come first served among equals.

It is an `asyncio.PriorityQueue` by that class's own three hooks, and behaves as one for any item. What it adds is
speed and honesty for jobs: `push` and `pop` cost the same however long the line is, jobs are never
compared, and a discarded job leaves the count at once.

Two orders, one interface. `_Buckets` has a FIFO for each priority: O(1) in and out. `_Heap` serves many distinct
priorities (a FIFO for each would waste memory) and aging, where every job has a key of its own. The queue begins with
buckets and moves to the heap by itself.

Invariant: an entry counts as long as its `_place` is the container that holds it. Whoever takes a job out of the line
clears its place; the entry left behind is stale, is skipped on the way out, and stale entries are swept when
they outnumber the live ones.

The queue knows no limits, no pause and no worker.
"""

from __future__ import annotations

import asyncio
import heapq
import operator
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol, final

__all__ = ["Entry", "JobQueue"]

# A deque takes about 600 bytes; past this many priorities a heap is smaller.
MAX_BUCKETS = 256
# Sweeping fewer stale entries than this is not worth the call.
MIN_STALE = 64


class _Plan(Protocol):
    @property
    def priority(self) -> Any: ...


class Entry(Protocol):
    """What the queue knows of a job."""

    _place: Any
    sequence: int

    @property
    def _plan(self) -> _Plan: ...

    @property
    def _submitted_at(self) -> float: ...


@final
class _Item:
    """Any item that is no job, put by the methods of `asyncio.Queue`: it is its own priority."""

    __slots__ = ("_place", "item", "sequence")

    def __init__(self, item: Any, sequence: int) -> None:
        self.item = item
        self.sequence = sequence
        self._place: Any = None

    @property
    def _plan(self) -> _Item:
        return self

    @property
    def _submitted_at(self) -> float:
        return 0.0

    @property
    def priority(self) -> Any:
        return self.item


_sequence = operator.attrgetter("sequence")


@final
class _Buckets:
    """A FIFO for each priority, and a heap of the priorities present."""

    __slots__ = ("best", "buckets", "keys", "outgrown", "stale")

    def __init__(self, outgrown: Callable[[], _Heap]) -> None:
        self.outgrown = outgrown
        self.stale = 0
        self.buckets: dict[Any, deque[Any]] = {}
        self.keys: list[Any] = []
        # The bucket of the best key: where nearly every pop finds its entry.
        self.best: deque[Any] = deque()

    @property
    def live(self) -> int:
        # Counted when asked, not at each push and pop: there are few buckets, and many jobs. A copy, made in one step:
        # another thread may ask, too (`statistics()`), while the loop opens a bucket.
        return sum(map(len, tuple(self.buckets.values()))) - self.stale

    def push(self, entry: Any) -> None:
        key = entry._plan.priority
        bucket = self.buckets.get(key)
        if bucket is None:
            if len(self.buckets) >= MAX_BUCKETS:
                return self.outgrown().push(entry)
            bucket = self._open(key)
        entry._place = bucket
        bucket.append(entry)

    def push_in_order(self, entry: Any) -> None:
        """Put an entry back among its equals by its sequence; near the front, where it nearly always belongs."""
        key = entry._plan.priority
        bucket = self.buckets.get(key)
        if bucket is None:
            return self.push(entry)
        entry._place = bucket
        if not bucket or bucket[-1].sequence < entry.sequence:
            bucket.append(entry)
        else:
            at = next((at for at, other in enumerate(bucket) if other.sequence > entry.sequence), len(bucket))
            bucket.insert(at, entry)

    def _open(self, key: Any) -> deque[Any]:
        bucket = self.buckets[key] = deque()
        heapq.heappush(self.keys, key)
        self.best = self.buckets[self.keys[0]]
        return bucket

    def pop(self) -> Any:
        """Take the best entry out, or return None. Its place is for the taker to assign."""
        bucket = self.best
        while True:
            while bucket:
                entry = bucket.popleft()
                if entry._place is bucket:
                    return entry
                self.stale -= 1
            if len(self.keys) <= 1:
                return None
            # One empty bucket is kept open: the usual pool has one priority, and would open it for every job.
            del self.buckets[heapq.heappop(self.keys)]
            bucket = self.best = self.buckets[self.keys[0]]

    def peek(self) -> Any:
        """Return the best entry, or None; it stays."""
        entry = self.pop()
        if entry is not None:
            self.best.appendleft(entry)
        return entry

    def discard(self, entry: Any) -> None:
        entry._place = None
        self.stale += 1
        if self.stale > MIN_STALE and self.stale > self.live:
            for bucket in self.buckets.values():
                kept = [entry for entry in bucket if entry._place is bucket]
                bucket.clear()
                bucket.extend(kept)
            self.stale = 0

    def remove(self, entry: Any) -> None:
        entry._place.remove(entry)
        entry._place = None

    def oldest(self) -> Any:
        firsts = (next((e for e in bucket if e._place is bucket), None) for bucket in self.buckets.values())
        return min((e for e in firsts if e is not None), key=_sequence, default=None)

    def counts(self) -> dict[Any, int]:
        if not self.stale:
            return {key: len(bucket) for key, bucket in self.buckets.items() if bucket}
        counts = {key: sum(e._place is bucket for e in bucket) for key, bucket in self.buckets.items()}
        return {key: count for key, count in counts.items() if count}

    def last(self) -> Any:
        for key in sorted(self.buckets, reverse=True):
            bucket = self.buckets[key]
            for entry in reversed(bucket):
                if entry._place is bucket:
                    return entry
        return None

    def __iter__(self) -> Iterator[Any]:
        for key in sorted(self.buckets):
            bucket = self.buckets[key]
            yield from (entry for entry in bucket if entry._place is bucket)


@final
class _Heap:
    """A heap of `(key, sequence, entry)`; with aging, the key of a job falls behind as others wait.

    Linear aging needs no rescan: of two waiting jobs the one with the lower
    `priority + submitted_at / aging` is ahead, at whatever moment one looks.
    """

    __slots__ = ("aging", "heap", "live", "stale")

    def __init__(self, aging: float | None) -> None:
        self.aging = aging
        self.live = 0
        self.stale = 0
        self.heap: list[tuple[Any, int, Any]] = []

    def push(self, entry: Any) -> None:
        key = entry._plan.priority
        if self.aging is not None:
            key += entry._submitted_at / self.aging
        row = (key, entry.sequence, entry)
        entry._place = row
        heapq.heappush(self.heap, row)
        self.live += 1

    push_in_order = push

    def pop(self) -> Any:
        """Take the best entry out, or return None."""
        while self.heap:
            row = heapq.heappop(self.heap)
            entry = row[2]
            if entry._place is row:
                self.live -= 1
                return entry
            self.stale -= 1
        return None

    def peek(self) -> Any:
        """Return the best entry, or None; it stays."""
        entry = self.pop()
        if entry is not None:
            heapq.heappush(self.heap, entry._place)
            self.live += 1
        return entry

    def discard(self, entry: Any) -> None:
        entry._place = None
        self.live -= 1
        self.stale += 1
        if self.stale > MIN_STALE and self.stale > self.live:
            self.heap = [row for row in self.heap if row[2]._place is row]
            heapq.heapify(self.heap)
            self.stale = 0

    def oldest(self) -> Any:
        return min((row[2] for row in self.heap if row[2]._place is row), key=_sequence, default=None)

    def counts(self) -> dict[Any, int]:
        return dict(Counter(row[2]._plan.priority for row in self.heap if row[2]._place is row))

    def last(self) -> Any:
        return max((row for row in self.heap if row[2]._place is row), key=lambda row: row[:2], default=(None,) * 3)[2]

    # A row is made anew at each push: one left behind cannot be taken for it.
    remove = discard

    def __iter__(self) -> Iterator[Any]:
        return (row[2] for row in sorted(self.heap, key=lambda row: row[:2]) if row[2]._place is row)


@final
class JobQueue(asyncio.PriorityQueue[Any]):
    """Jobs in line: by priority, lower first, then by submission.

    The methods of `asyncio.PriorityQueue` are all here and take any item. The pool uses the four below, which wake
    nobody and count no unfinished work; the pool does that itself.

    Args:
        maxsize: as in `asyncio.Queue`.
        aging: seconds of waiting that weigh as much as one step of priority; None: never.

    Example:
        queue = JobQueue()
        queue.push(job)
        assert queue.pop() is job
    """

    def __init__(self, maxsize: int = 0, *, aging: float | None = None) -> None:
        self._aging = aging
        self._items = 0
        super().__init__(maxsize)

    # The hooks of asyncio.Queue.

    def _init(self, maxsize: int) -> None:
        self._order: _Buckets | _Heap = _Buckets(self._to_heap) if self._aging is None else _Heap(self._aging)
        self._bind()

    def _put(self, item: Any) -> None:
        self._items += 1
        entry: Any = item if hasattr(item, "_plan") else _Item(item, self._items)
        try:
            self.push(entry)
        except TypeError:  # an unhashable item has no bucket
            self._to_heap().push(entry)

    def _get(self) -> Any:
        entry = self.pop()
        return entry.item if type(entry) is _Item else entry

    def qsize(self) -> int:
        """Return how many live entries wait."""
        return self._order.live

    def empty(self) -> bool:
        """Return whether no live entry waits."""
        return not self._order.live

    # The pool's own verbs. `push` and `pop` are bound to the present order: no extra call on the hot path.

    def _bind(self) -> None:
        self.push = self._order.push
        self.pop = self._order.pop

    def push_in_order(self, entry: Entry) -> None:
        """Put an entry back at the place that its sequence gives it among its equals."""
        self._order.push_in_order(entry)

    def discard(self, entry: Entry) -> None:
        """Take an entry out, wherever it stands; it leaves the count at once."""
        self._order.discard(entry)

    def peek(self) -> Any:
        """Return the best entry, or None; it stays in line."""
        return self._order.peek()

    def remove(self, entry: Entry) -> None:
        """Take an entry out that will be pushed again: nothing of it stays behind."""
        self._order.remove(entry)

    def _to_heap(self) -> _Heap:
        entries = list(self._order)
        self._order = heap = _Heap(self._aging)
        self._bind()
        for entry in entries:
            heap.push(entry)
        return heap

    def jobs(self) -> Iterator[Any]:
        """Iterate over the waiting entries, best first."""
        return iter(self._order)

    def counts(self) -> dict[Any, int]:
        """Return how many entries wait with each priority."""
        return self._order.counts()

    def oldest(self) -> Any:
        """Return the entry that was submitted first, or None."""
        return self._order.oldest()

    def last(self) -> Any:
        """Return the entry that is last in line, or None."""
        return self._order.last()
