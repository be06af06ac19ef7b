"""`JobQueue`: the line in which jobs wait, best priority first, first come first served among equals.

It is an `asyncio.PriorityQueue` by that class's own three hooks, and behaves as one for any item. What it adds is
speed and honesty for jobs: no verb of the pool costs more because the line is long, jobs are never compared, and a
discarded job leaves the count at once.

Two standard structures. A *FIFO* for each priority takes the jobs that come for the first time: they come in the order
of their numbers. One *heap* takes all others: jobs that come back (after a retry, a delay, a pause, with another
priority), jobs of a priority for which a FIFO would be one too many, and every job if there is aging. The best job is
the head of the best FIFO or that of the heap; while the heap is empty, which is the rule, nobody looks at it.

Invariants: an entry counts as long as its `_location` is what it was put in: a FIFO, or its row of the heap. Whoever
takes a job out of the line clears its place; the entry left behind is stale, is skipped on the way out, and stale
entries are swept when they outnumber the live ones. A FIFO is in the order of numbers.

The queue knows no limits, no pause and no worker.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol, final

__all__ = ["Entry", "JobQueue"]

# A deque takes about 600 bytes; past this many priorities a heap is smaller.
MAX_FIFOS = 64
# Sweeping fewer stale entries than this is not worth the call.
MIN_STALE = 64
# So many entries of a FIFO are looked at in one sweep.
SWEEP = 4096


class _Spec(Protocol):
    @property
    def priority(self) -> Any: ...


class Entry(Protocol):
    """What the queue knows of a job."""

    _location: Any
    _sequence: int

    @property
    def _spec(self) -> _Spec: ...

    @property
    def _aged_from(self) -> float: ...


@final
class _Item:
    """Any item that is no job, put by the methods of `asyncio.Queue`: it is its own priority."""

    __slots__ = ("_location", "_sequence", "item")

    def __init__(self, item: Any, sequence: int) -> None:
        self.item = item
        self._sequence = sequence
        self._location: Any = None

    @property
    def _spec(self) -> _Item:
        return self

    @property
    def _aged_from(self) -> float:
        return 0.0

    @property
    def priority(self) -> Any:
        return self.item


_Row = tuple[Any, int, Any]  # key, sequence, entry
_NOWHERE: deque[Any] = deque()  # always empty: `pop` finds nothing in it, and looks further


@final
class _Index:
    """The rows of the heap in another order, for the policies that drop jobs; made when one is first asked for."""

    __slots__ = ("_count", "_heap", "_rank")

    def __init__(self, rank: Callable[[_Row], Any], rows: list[_Row]) -> None:
        self._rank = rank
        self._count = itertools.count()  # rows are never compared
        self._heap = [(rank(row), next(self._count), row) for row in rows]
        heapq.heapify(self._heap)

    def push(self, row: _Row) -> None:
        heapq.heappush(self._heap, (self._rank(row), next(self._count), row))

    def first(self) -> _Row | None:
        heap = self._heap
        while heap:
            row = heap[0][2]
            live: bool = row[2]._location is row
            if live:
                return row
            heapq.heappop(heap)
        return None


def _by_age(row: _Row) -> Any:
    return row[1]


def _from_the_end(row: _Row) -> Any:
    return -row[0], -row[1]


@final
class JobQueue(asyncio.PriorityQueue[Any]):
    """Jobs in line: by priority, lower first, then by submission.

    The methods of `asyncio.PriorityQueue` are all here and take any item. The pool uses its own verbs, which wake
    nobody and count no unfinished work; the pool does that itself.

    Linear aging needs no rescan: of two waiting jobs the one with the lower `priority + waits_since / aging` is ahead,
    at whatever moment one looks.

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
        if aging is not None:
            self.push = self.push_in_order = self._push_row  # type: ignore[method-assign]

    # The hooks of asyncio.Queue.

    def _init(self, maxsize: int) -> None:
        self._fifos: dict[Any, deque[Any]] = {}
        self._keys: list[Any] = []  # of the FIFOs, a heap
        self._heap: list[_Row] = []
        # The FIFO of the best key, where nearly every `pop` finds its entry; nowhere, while there is a heap to look at.
        self._best: deque[Any] = _NOWHERE
        self._stale = 0
        self._swept = 0  # how far the sweep has come in its FIFO
        self._sweep_above = 0
        # Of a FIFO by its key, how many entries are stale; of a priority, how many live ones are in the heap.
        self._gone: dict[Any, int] = {}
        self._rows: dict[Any, int] = {}
        self._ages: _Index | None = None
        self._ends: _Index | None = None

    def _put(self, item: Any) -> None:
        self._items += 1
        entry: Any = item if hasattr(item, "_spec") else _Item(item, self._items)
        try:
            self.push(entry)
        except TypeError:  # an unhashable item has no FIFO
            self._push_row(entry)

    def _get(self) -> Any:
        entry = self.pop()
        return entry.item if type(entry) is _Item else entry

    def qsize(self) -> int:
        """Return how many live entries wait."""
        return self.live

    def empty(self) -> bool:
        """Return whether no live entry waits."""
        return not self.live

    # The pool's own verbs.

    def another(self) -> JobQueue:
        """Return an empty queue with the same order."""
        return JobQueue(aging=self._aging)

    @property
    def live(self) -> int:
        """How many entries wait."""
        # Counted when asked, not at each push and pop: there are few FIFOs, and many jobs. A copy, made in one step:
        # another thread may ask, too (`statistics()`), while the loop opens a FIFO.
        return sum(map(len, tuple(self._fifos.values()))) + len(self._heap) - self._stale

    def push(self, entry: Any) -> None:
        """Put an entry in line that is younger than all that came before."""
        key = entry._spec.priority
        fifo = self._fifos.get(key)
        if fifo is None:
            if len(self._fifos) >= MAX_FIFOS:
                return self._push_row(entry)
            fifo = self._open(key)
        entry._location = fifo
        fifo.append(entry)

    def push_in_order(self, entry: Any) -> None:
        """Put an entry at the place that its number gives it among its equals."""
        fifo = self._fifos.get(entry._spec.priority)
        # With a stale entry of its own in the FIFO, its number is not above that of the last.
        if fifo is None or not fifo or fifo[-1]._sequence < entry._sequence:
            self.push(entry)
        else:
            self._push_row(entry)

    def _push_row(self, entry: Any) -> None:
        key = priority = entry._spec.priority
        if self._aging is not None:
            key += entry._aged_from / self._aging
        row = (key, entry._sequence, entry)
        heapq.heappush(self._heap, row)
        entry._location = row
        self._best = _NOWHERE
        if type(entry) is not _Item:  # its priority may have no hash, and nobody asks for it
            self._rows[priority] = self._rows.get(priority, 0) + 1
        if self._ages is not None:
            self._ages.push(row)
        if self._ends is not None:
            self._ends.push(row)

    def _open(self, key: Any) -> deque[Any]:
        heapq.heappush(self._keys, key)
        fifo = self._fifos[key] = deque()
        if not self._heap:
            self._best = self._fifos[self._keys[0]]
        return fifo

    def pop(self) -> Any:
        """Take the best entry out, or return None. Its place is for the taker to assign."""
        best = self._best
        while best:
            entry = best.popleft()
            if entry._location is best:
                return entry
            self._skip(self._keys[0])
        first = self._first()
        if first is None:
            return None
        if isinstance(first, deque):
            return first.popleft()
        entry = heapq.heappop(self._heap)[2]
        entry._location = None  # an index has the row, still
        self._forget_row(entry)
        if not self._heap and self._keys:
            self._best = self._fifos[self._keys[0]]
        return entry

    def is_alone(self, entry: Any) -> bool:
        """Whether an entry is the next one, and the only one of its priority."""
        return entry._location is self._best and len(self._best) == 1

    def peek(self) -> Any:
        """Return the best entry, or None; it stays in line."""
        first = self._first()
        if first is None:
            return None
        return first[0] if isinstance(first, deque) else first[0][2]

    def _first(self) -> deque[Any] | list[_Row] | None:
        """Return what holds the best entry at its head, or None; drop what is stale before it."""
        heap, keys = self._heap, self._keys
        while heap and heap[0][2]._location is not heap[0]:
            heapq.heappop(heap)
            self._stale -= 1
        fifo = _NOWHERE
        while keys:
            fifo = self._fifos[keys[0]]
            while fifo and fifo[0]._location is not fifo:
                fifo.popleft()
                self._skip(keys[0])
            if fifo or len(keys) == 1:
                break
            # One empty FIFO is kept open: the usual pool has one priority, and would open it for every job.
            del self._fifos[heapq.heappop(keys)]
        self._best = _NOWHERE if heap else fifo
        if heap and not (fifo and (keys[0], fifo[0]._sequence) < heap[0][:2]):
            return heap
        return fifo or None

    def discard(self, entry: Any) -> None:
        """Take an entry out, wherever it stands; it leaves the count at once."""
        place, entry._location = entry._location, None
        self._stale += 1
        if type(place) is tuple:
            self._forget_row(entry)
        else:
            key = entry._spec.priority
            self._gone[key] = self._gone.get(key, 0) + 1
        if self._stale > max(MIN_STALE, self._sweep_above) and self._stale > self.live:
            self._sweep()

    def _sweep(self) -> None:
        """Forget stale entries: those of the heap, if they are the most of it, and those in a slice of a FIFO."""
        if len(self._heap) > 2 * sum(self._rows.values()) + MIN_STALE:
            before = len(self._heap)
            self._heap[:] = [row for row in self._heap if row[2]._location is row]
            heapq.heapify(self._heap)
            self._stale -= before - len(self._heap)
            self._ages = self._ends = None
        self._sweep_above = 0
        if not self._gone:
            return
        key = max(self._gone, key=self._gone.__getitem__)
        fifo = self._fifos[key]
        start = self._swept if self._swept < len(fifo) else 0
        count = min(SWEEP, len(fifo) - start)
        fifo.rotate(-start)
        kept = [entry for _ in range(count) if (entry := fifo.popleft())._location is fifo]
        fifo.extendleft(reversed(kept))
        fifo.rotate(start)
        self._swept = start + len(kept)
        for _ in range(count - len(kept)):
            self._skip(key)
        if self._stale > self.live:  # the next slice comes with more of them: a long line is not swept in one turn
            self._sweep_above = self._stale + SWEEP // 4

    def _skip(self, key: Any) -> None:
        """A stale entry has left its FIFO."""
        self._stale -= 1
        self._gone[key] -= 1
        if not self._gone[key]:
            del self._gone[key]

    def _forget_row(self, entry: Any) -> None:
        if type(entry) is _Item:
            return
        priority = entry._spec.priority
        self._rows[priority] -= 1
        if not self._rows[priority]:
            del self._rows[priority]

    def jobs(self) -> Iterator[Any]:
        """Iterate over the waiting entries, best first; a copy of the line is made for it."""
        rows = [row for row in self._heap if row[2]._location is row]
        for key, fifo in self._fifos.items():
            rows += [(key, entry._sequence, entry) for entry in fifo if entry._location is fifo]
        rows.sort(key=lambda row: row[:2])
        return (row[2] for row in rows)

    def counts(self) -> dict[Any, int]:
        """Return how many entries wait with each priority."""
        counts = {key: len(fifo) - self._gone.get(key, 0) for key, fifo in self._fifos.items()}
        for key, count in self._rows.items():
            counts[key] = counts.get(key, 0) + count
        return {key: count for key, count in counts.items() if count}

    def oldest(self) -> Any:
        """Return the entry that was submitted first, or None."""
        found = None
        for key, fifo in self._fifos.items():
            while fifo and fifo[0]._location is not fifo:
                fifo.popleft()
                self._skip(key)
            if fifo and (found is None or fifo[0]._sequence < found._sequence):
                found = fifo[0]
        if self._heap:
            if self._ages is None:
                self._ages = _Index(_by_age, self._heap)
            row = self._ages.first()
            if row is not None and (found is None or row[1] < found._sequence):
                found = row[2]
        return found

    def last(self) -> Any:
        """Return the entry that is last in line, or None."""
        found: _Row | None = None
        for key in sorted(self._fifos, reverse=True):
            fifo = self._fifos[key]
            while fifo and fifo[-1]._location is not fifo:
                fifo.pop()
                self._skip(key)
            if fifo:
                found = key, fifo[-1]._sequence, fifo[-1]
                break
        if self._heap:
            if self._ends is None:
                self._ends = _Index(_from_the_end, self._heap)
            row = self._ends.first()
            if row is not None and (found is None or found[:2] < row[:2]):
                found = row
        return None if found is None else found[2]
