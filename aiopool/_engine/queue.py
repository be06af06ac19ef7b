"""`JobQueue`: the line in which jobs wait, best priority first, first come first served among equals.

It is an `asyncio.PriorityQueue` by that class's own three hooks, and behaves as one for any item. What it adds is
speed and honesty for jobs: no verb of the pool costs more because the line is long, jobs are never compared, and a
discarded job leaves the count at once.

Two structures. A *FIFO* for each priority takes the jobs that come for the first time: they come in the order of their
numbers. *Sorted rows* take all others: jobs that come back (after a retry, a delay, a pause, with another priority),
jobs of a priority for which a FIFO would be one too many, and every job if there is aging or keys have fair shares. The
best job is the head of the best FIFO or the first row; while there are no rows, which is the rule, nobody looks at
them.

Invariants: the `_location` of an entry is what it was put in: a FIFO, or its row. A row that is discarded is gone. In a
FIFO the entry left behind is stale: it is skipped on the way out, and stale entries are swept, a slice at a time, when
there is one for each sixteen live ones. A FIFO is in the order of numbers.

The queue knows no limits, no pause and no worker.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol, final

from aiopool._runtime.sorted_rows import SortedRows

__all__ = ["Entry", "JobQueue"]

# A deque takes about 600 bytes; past this many priorities rows are smaller.
MAX_FIFOS = 64
# Sweeping fewer stale entries than this is not worth the call.
MIN_STALE = 64
# They are swept when there is one for so many live ones: more would hold up whoever finds them at the head.
STALE_SHARE = 16
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

    @property
    def _share_tag(self) -> float: ...


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
    def _share_tag(self) -> float:
        return 0.0

    @property
    def priority(self) -> Any:
        return self.item


_Row = tuple[Any, int, Any]  # key, sequence, entry
_NOWHERE: deque[Any] = deque()  # always empty: `pop` finds nothing in it, and looks further


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
        fair: jobs of equal priority are in the order of their tags (`_jobs/fair_shares.py`).

    Example:
        queue = JobQueue()
        queue.push(job)
        assert queue.pop() is job
    """

    def __init__(self, maxsize: int = 0, *, aging: float | None = None, fair: bool = False) -> None:
        self._aging = aging
        self._fair = fair
        self._items = 0
        super().__init__(maxsize)
        if aging is not None or fair:
            self.push = self.push_in_order = self._push_row  # type: ignore[method-assign]

    # The hooks of asyncio.Queue.

    def _init(self, maxsize: int) -> None:
        self._fifos: dict[Any, deque[Any]] = {}
        self._keys: list[Any] = []  # of the FIFOs, a heap
        self._rows = SortedRows()
        # The FIFO of the best key, where nearly every `pop` finds its entry; nowhere, while there are rows to look at.
        self._best: deque[Any] = _NOWHERE
        self._stale = 0
        self._swept = 0  # how far the sweep has come in its FIFO
        self._sweep_above = 0
        self._gone: dict[Any, int] = {}  # of a FIFO by its key, how many entries are stale
        self._row_counts: dict[Any, int] = {}  # of a priority, how many entries have a row
        # The entries that have a row, by their numbers; from the first time that the oldest is asked for.
        self._ages: SortedRows | None = None

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
        return JobQueue(aging=self._aging, fair=self._fair)

    @property
    def live(self) -> int:
        """How many entries wait."""
        # Counted when asked, not at each push and pop: there are few FIFOs, and many jobs. A copy, made in one step:
        # another thread may ask, too (`statistics()`), while the loop opens a FIFO.
        return sum(map(len, tuple(self._fifos.values()))) + self._rows.count - self._stale

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
        if self._fair:
            key = key, entry._share_tag
        row = (key, entry._sequence, entry)
        self._rows.add(row)
        entry._location = row
        self._best = _NOWHERE
        if type(entry) is not _Item:  # its priority may have no hash, and nobody asks for it
            self._row_counts[priority] = self._row_counts.get(priority, 0) + 1
            if self._ages is not None:
                self._ages.add((entry._sequence, entry))

    def _forget_row(self, entry: Any) -> None:
        """An entry has no row any more."""
        if type(entry) is not _Item:
            priority = entry._spec.priority
            self._row_counts[priority] -= 1
            if not self._row_counts[priority]:
                del self._row_counts[priority]
            if self._ages is not None:
                self._ages.remove((entry._sequence,))
        if not self._rows.count and self._keys:
            self._best = self._fifos[self._keys[0]]

    def _open(self, key: Any) -> deque[Any]:
        heapq.heappush(self._keys, key)
        fifo = self._fifos[key] = deque()
        if not self._rows.count:
            self._best = self._fifos[self._keys[0]]
        return fifo

    def pop(self) -> Any:
        """Take the best entry out, or return None. Its place is for the taker to assign."""
        best = self._best
        if best:
            entry = best.popleft()
            if entry._location is best:
                return entry
            self._skip(self._keys[0], 1)
        entry = self.peek()
        if entry is None:
            return None
        if type(entry._location) is deque:
            return entry._location.popleft()
        self._rows.pop()
        self._forget_row(entry)
        return entry

    def is_alone(self, entry: Any) -> bool:
        """Whether an entry is the next one, and the only one of its priority."""
        return entry._location is self._best and len(self._best) == 1

    def peek(self) -> Any:
        """Return the best entry, or None; it stays in line."""
        keys, row, fifo = self._keys, self._rows.first(), _NOWHERE
        while keys:
            fifo = self._fifos[keys[0]]
            self._drop_stale(keys[0], fifo)
            if fifo or len(keys) == 1:
                break
            # One empty FIFO is kept open: the usual pool has one priority, and would open it for every job.
            del self._fifos[heapq.heappop(keys)]
        self._best = fifo if row is None else _NOWHERE
        if row is not None and not (fifo and (keys[0], fifo[0]._sequence) < row[:2]):
            return row[2]
        return fifo[0] if fifo else None

    def _drop_stale(self, key: Any, fifo: deque[Any], most: int = sys.maxsize) -> int:
        """Drop the stale entries at the head of a FIFO, or some of them; return how many."""
        count = 0
        while fifo and fifo[0]._location is not fifo and count < most:
            fifo.popleft()
            count += 1
        self._skip(key, count)
        return count

    def discard(self, entry: Any) -> None:
        """Take an entry out, wherever it stands; it leaves the count at once."""
        place, entry._location = entry._location, None
        if type(place) is tuple:
            self._rows.remove(place)
            self._forget_row(entry)
            return
        key = entry._spec.priority
        self._stale += 1
        self._gone[key] = self._gone.get(key, 0) + 1
        if self._stale > max(MIN_STALE, self._sweep_above) and self._stale > self.live // STALE_SHARE:
            self._sweep()

    def _sweep(self) -> None:
        """Forget the stale entries in a slice of a FIFO."""
        key = max(self._gone, key=self._gone.__getitem__)
        fifo = self._fifos[key]
        if self._drop_stale(key, fifo, SWEEP // 8) >= SWEEP // 16:  # jobs are mostly cancelled oldest first
            self._swept = 0
            self._sweep_above = self._next_sweep(SWEEP // 16)
            return
        start = self._swept if self._swept < len(fifo) else 0
        count = min(SWEEP, len(fifo) - start)
        fifo.rotate(-start)
        kept = [entry for _ in range(count) if (entry := fifo.popleft())._location is fifo]
        fifo.extendleft(reversed(kept))
        fifo.rotate(start)
        self._swept = start + len(kept)
        self._skip(key, count - len(kept))
        self._sweep_above = self._next_sweep(SWEEP // 8)

    def _next_sweep(self, more: int) -> int:
        """Return above how many stale entries the next slice is due: a long line is not swept in one turn."""
        return self._stale + more if self._stale > self.live // STALE_SHARE else 0

    def _skip(self, key: Any, count: int) -> None:
        """Stale entries have left their FIFO."""
        if count:
            self._stale -= count
            self._gone[key] -= count
            if not self._gone[key]:
                del self._gone[key]

    def head(self, count: int) -> list[Any]:
        """Return the first entries, best first; the line is not copied for it."""
        rows = heapq.merge(self._rows, self._in_fifos(), key=lambda row: row[:2])
        return [row[2] for row in itertools.islice(rows, count)]

    def _in_fifos(self) -> Iterator[_Row]:
        for key in sorted(self._fifos):
            fifo = self._fifos[key]
            self._drop_stale(key, fifo)
            for entry in fifo:
                if entry._location is fifo:
                    yield key, entry._sequence, entry

    def jobs(self) -> Iterator[Any]:
        """Iterate over the waiting entries, best first; a copy of the line is made for it."""
        rows = [*self._rows]
        for key, fifo in self._fifos.items():
            rows += [(key, entry._sequence, entry) for entry in fifo if entry._location is fifo]
        rows.sort(key=lambda row: row[:2])
        return (row[2] for row in rows)

    def counts(self) -> dict[Any, int]:
        """Return how many entries wait with each priority."""
        counts = {key: len(fifo) - self._gone.get(key, 0) for key, fifo in self._fifos.items()}
        for key, count in self._row_counts.items():
            counts[key] = counts.get(key, 0) + count
        return {key: count for key, count in counts.items() if count}

    def oldest(self) -> Any:
        """Return the entry that was submitted first, or None; asked for the first time, it looks at all rows."""
        if self._ages is None:
            self._ages = SortedRows(row[1:] for row in self._rows if type(row[2]) is not _Item)
        row = self._ages.first()
        found = None if row is None else row[1]
        for key, fifo in self._fifos.items():
            self._drop_stale(key, fifo)
            if fifo and (found is None or fifo[0]._sequence < found._sequence):
                found = fifo[0]
        return found

    def last(self) -> Any:
        """Return the entry that is last in line, or None."""
        row = self._rows.last()
        for key in sorted(self._fifos, reverse=True):
            fifo, count = self._fifos[key], 0
            while fifo and fifo[-1]._location is not fifo:
                fifo.pop()
                count += 1
            self._skip(key, count)
            if fifo:
                if row is None or row[:2] < (key, fifo[-1]._sequence):
                    return fifo[-1]
                break
        return None if row is None else row[2]
