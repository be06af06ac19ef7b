"""`Memory`: the reference store. It keeps every promise of a store but one: nothing survives the process.

It knows: who has opened it, whom to wake, and when. What becomes of jobs is in `_memory_queue.py`.

Rule 1: a verb yields to the loop nowhere, and holds a lock: it is carried out as a whole, also if pools of several
loops, in several threads, share the store.

Rule 2: `Memory` objects with one name share their jobs, as processes share a database, for as long as one of them is
there; one without a name has its own.

Rule 3: an incarnation lives until it is closed, so there is no lease, and nobody takes a job from one that lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final, final
from urllib.parse import parse_qsl, urlsplit

from aiopool.errors import StoreError
from aiopool.stores._memory_queue import STEP, Member, Queue
from aiopool.stores._memory_rows import Row
from aiopool.stores._protocol import Keeper, Wake
from aiopool.stores._rows import (
    ENDED,
    LIVE,
    CancelAnswer,
    Claim,
    Facts,
    Finished,
    Incarnation,
    LimitRow,
    NewJob,
    ScheduleRow,
    Settlement,
    StoredJob,
    StoredStatus,
    StoreStatistics,
    Submitted,
    SweepReport,
    WorkerRow,
)

__all__ = ["Memory"]

_DAY: Final = 86400.0


@final
class _Shared:
    """What the `Memory` objects of one name share."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.queues: dict[str, Queue] = {}


_named: weakref.WeakValueDictionary[str, _Shared] = weakref.WeakValueDictionary()
_named_lock = threading.Lock()


def _shared(name: str) -> _Shared:
    if not name:
        return _Shared()
    with _named_lock:
        shared = _named.get(name)
        if shared is None:
            shared = _named[name] = _Shared()
        return shared


class Memory:
    """Keep jobs in the memory of this process: for tests, and to try things out.

    It does what every store does, but nothing survives the process.

    Args:
        name: objects with the same name share their jobs; the empty one is shared with nobody.
        keep: seconds for which jobs that succeeded are kept in the history.
        keep_failed: seconds for which all others are kept there.
        max_payload: bytes that the arguments, or the result, of a job may have.
        clock: tells the seconds since 1970; for tests in virtual time.

    Raises:
        ValueError: a number is below zero.

    Example:
        pool = Pool(store="memory://", handlers=handlers)
    """

    def __init__(
        self,
        name: str = "",
        *,
        keep: float = _DAY,
        keep_failed: float = 7 * _DAY,
        max_payload: int = 1_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for option, value in (("keep", keep), ("keep_failed", keep_failed), ("max_payload", max_payload)):
            if not value >= 0:
                raise ValueError(f"{option}={value!r}: it must be a number from 0 up")
        self.url = f"memory://{name}"
        self.durability = "nothing survives the process"
        self.poll = 1.0
        self.sweep_every = 1.0
        self.lease: float | None = None
        self.max_payload = max_payload
        self.keep = (keep, keep_failed)
        self._clock = clock
        self._shared = _shared(name)
        self._queue: Queue | None = None
        self._member: Member | None = None

    @classmethod
    def from_url(cls, url: str) -> Memory:
        """Return the store that a URL names: `memory://`, or `memory://name?keep=3600`.

        Raises:
            ValueError: the URL has something that this store does not know.
        """
        parts = urlsplit(url)
        if parts.path.strip("/") or parts.fragment:
            raise ValueError(f"store={url!r}: a name has no path; write memory:// or memory://name")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        known = {"keep": float, "keep_failed": float, "max_payload": int}
        for option, value in options.items():
            if option not in known:
                raise ValueError(f"store={url!r}: no option {option!r}; there are {', '.join(known)}")
            try:
                known[option](value)
            except ValueError:
                raise ValueError(f"store={url!r}: {option}={value!r} is no number") from None
        return cls(
            parts.netloc,
            keep=float(options.get("keep", _DAY)),
            keep_failed=float(options.get("keep_failed", 7 * _DAY)),
            max_payload=int(options.get("max_payload", 1_000_000)),
        )

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    async def open(self, queue: str, me: Incarnation, on_wake: Callable[[Wake], object]) -> None:
        """Register. See `Store.open`."""
        if self._member is not None:
            raise StoreError(f"{self.url} was opened a second time: one object is one incarnation; make another one")
        loop = asyncio.get_running_loop()

        def wake(kind: Wake) -> None:
            with contextlib.suppress(RuntimeError):  # that loop is closed: a hint may get lost
                loop.call_soon_threadsafe(on_wake, kind)

        with self._shared.lock:
            jobs = self._shared.queues.setdefault(queue, Queue())
            if me.id in jobs.members:
                raise StoreError(f"{self.url} is open as {me.id!r} already: each opening has a fresh id")
            self._queue = jobs
            self._member = jobs.members[me.id] = Member(me, wake, self._clock())

    async def close(self) -> None:
        """Unregister; what is held goes back to the queue. See `Store.close`."""
        member, queue, self._member = self._member, self._queue, None
        if member is None or queue is None or not member.alive:
            return
        with self._shared.lock:
            now = self._clock()
            member.alive = False
            for row in list(member.rows.values()):
                queue.rescue(row, now)
            queue.members.pop(member.me.id, None)
            self._wake_others(queue, member)

    def kill(self) -> None:
        """Die as by SIGKILL, in a test: what is held stays so until somebody else sweeps."""
        if self._member is not None:
            with self._shared.lock:
                self._member.alive = False

    def keeper(self) -> Keeper | None:
        """Return None: nothing has to be kept alive."""
        return None

    async def now(self) -> float:
        """Return the time by the store's clock: seconds since 1970."""
        return self._clock()

    def _opened(self) -> tuple[Queue, Member]:
        if self._queue is None or self._member is None or not self._member.alive:
            raise StoreError(f"{self.url} is not open: call `await store.open(...)` first, and nothing after `close()`")
        return self._queue, self._member

    def _wake_others(self, queue: Queue, by: Member) -> None:
        """Send the hints that have come up: one of each kind for each member; `by` knows of the work."""
        waking, queue.waking = queue.waking, set()
        for id, kind in waking:
            if (member := queue.members.get(id)) is not None and member.alive:
                member.wake(kind)
        if queue.has_work:
            queue.has_work = False
            for member in queue.members.values():
                if member is not by and member.alive and member.me.runs_jobs:
                    member.wake("work")

    # -- the way of a job ----------------------------------------------------------------------------------------------

    async def submit(self, jobs: Sequence[NewJob], *, within: object | None = None) -> list[Submitted]:
        """Take jobs in. See `Store.submit`."""
        if within is not None:
            raise TypeError(f"within={within!r}: {self.url} has no transactions; leave it out")
        queue, member = self._opened()
        with self._shared.lock:
            now = self._clock()
            if any(job.start for job in jobs):
                queue.bring_due(now)
            before = queue.next_moment()
            answers = [queue.submit(job, now) for job in jobs]
            after = queue.next_moment()
            if after is not None and (before is None or after < before):
                queue.has_work = True  # those who wait for a moment wait for an earlier one
            self._wake_others(queue, member)
            return answers

    async def claim(self, limit: int) -> Claim:
        """Take the best jobs that may start. See `Store.claim`."""
        queue, member = self._opened()
        with self._shared.lock:
            now = self._clock()
            member.seen_at = now
            jobs, next_in, more = [], None, False
            if not queue.paused:
                due = queue.bring_due(now)
                jobs = queue.claim(member, limit, now)
                moment = queue.next_moment()
                next_in = None if moment is None else max(0.0, moment - now)
                more = due or len(queue.queued) > 0
            queue.has_work = False
            self._wake_others(queue, member)
            cancels = [(row.id, row.fence, row.reason) for row in member.cancels.values()]
            return Claim(jobs, cancels, next_in, more, queue.paused)

    async def settle(self, ends: Sequence[Settlement]) -> list[bool]:
        """Write ends. See `Store.settle`."""
        queue, member = self._opened()
        with self._shared.lock:
            now = self._clock()
            answers = [queue.settle(end, member.me.id, now) for end in ends]
            self._wake_others(queue, member)
            return answers

    async def cancel(self, ids: Sequence[str], reason: str | None) -> list[CancelAnswer]:
        """Cancel jobs. See `Store.cancel`."""
        queue, member = self._opened()
        with self._shared.lock:
            now = self._clock()
            answers = [queue.cancel(id, reason, member.me.id, now) for id in ids]
            self._wake_others(queue, member)
            return answers

    async def report_progress(self, rows: Sequence[tuple[str, int, float, str]]) -> None:
        """Note how far jobs are. See `Store.report_progress`."""
        queue, _ = self._opened()
        with self._shared.lock:
            for id, fence, fraction, message in rows:
                row = queue.live.get(id)
                if row is not None and row.status is StoredStatus.RUNNING and row.fence == fence:
                    row.progress = fraction, message

    async def sweep(self, names: Sequence[str]) -> SweepReport:
        """Rescue, end what is late, bring back what was parked, purge. See `Store.sweep`."""
        queue, member = self._opened()
        with self._shared.lock:
            now = self._clock()
            member.seen_at = now
            rescued = dead = 0
            for other in [other for other in queue.members.values() if not other.alive]:
                for row in list(other.rows.values())[: STEP - rescued]:
                    dead += queue.rescue(row, now)
                    rescued += 1
                if not other.rows:
                    del queue.members[other.me.id]
            late = queue.end_late(now, STEP)
            unparked = queue.unpark(names, now, STEP)
            purged = sum(
                queue.purge(success, now - keep, STEP) for success, keep in zip((True, False), self.keep, strict=True)
            )
            queue.bring_due(now)
            if queue.has_work and member.me.runs_jobs:
                member.wake("work")
            self._wake_others(queue, member)
            more = max(rescued, late, unparked, purged) >= STEP
            return SweepReport(rescued, dead, late, purged, unparked, more)

    async def owned(self) -> list[tuple[str, int]]:
        """Return (id, fence) of all that this incarnation holds."""
        _, member = self._opened()
        with self._shared.lock:
            return [(row.id, row.fence) for row in member.rows.values()]

    # -- who waits, who looks ------------------------------------------------------------------------------------------

    async def finished(self, ids: Sequence[str]) -> list[Finished]:
        """Return the ends of those of some jobs that have ended."""
        queue, _ = self._opened()
        with self._shared.lock:
            return [queue.history[id].end() for id in dict.fromkeys(ids) if id in queue.history]

    async def find(self, ids: Sequence[str]) -> list[StoredJob]:
        """Return what is known of some jobs."""
        queue, _ = self._opened()
        with self._shared.lock:
            rows = (queue.live.get(id) or queue.history.get(id) for id in dict.fromkeys(ids))
            return [row.stored() for row in rows if row is not None]

    async def page(
        self,
        *,
        status: StoredStatus | None = None,
        name: str | None = None,
        group: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[StoredJob], str | None]:
        """Return a page of jobs, the newest first. See `Store.page`."""
        queue, _ = self._opened()
        ended = status in ENDED

        def key(row: Row) -> tuple[int, str]:
            return row.ended_number if ended else row.position, row.id

        before: tuple[int, str] | None = None
        if cursor is not None:
            number, _, id = cursor.partition(":")
            try:
                before = int(number), id
            except ValueError:
                raise ValueError(f"cursor={cursor!r}: it is none that a page has returned") from None
        with self._shared.lock:
            found = [
                row
                for row in (queue.history if ended else queue.live).values()
                if (status is None or row.status is status)
                and (name is None or row.name == name)
                and (group is None or row.group == group)
                and (before is None or key(row) < before)
            ]
            rows = heapq.nlargest(limit, found, key=key)
            more = rows and len(found) > len(rows)
            return [row.stored() for row in rows], "{}:{}".format(*key(rows[-1])) if more else None

    async def statistics(self) -> StoreStatistics:
        """Return the store in numbers."""
        queue, _ = self._opened()
        with self._shared.lock:
            oldest = min((row.created_at for row in queue.queued), default=None)
            return StoreStatistics(
                {status: queue.counts[status] for status in StoredStatus if status in LIVE},
                {status: queue.ended[status] for status in StoredStatus if status in ENDED},
                None if oldest is None else max(0.0, self._clock() - oldest),
                [
                    WorkerRow(m.me.id, m.me.host, m.me.pid, m.started_at, m.seen_at, len(m.rows))
                    for m in queue.members.values()
                    if m.alive and m.me.runs_jobs
                ],
                queue.rescued,
                queue.paused,
                None,
            )

    async def schedules(self, limit: int = 200) -> list[ScheduleRow]:
        """Return the schedules that have had a moment, those of the latest first."""
        queue, _ = self._opened()
        with self._shared.lock:
            return heapq.nlargest(limit, itertools.starmap(ScheduleRow, queue.ticks.items()), key=lambda row: row.last)

    # -- steering ------------------------------------------------------------------------------------------------------

    async def set_paused(self, paused: bool) -> None:
        """Let nobody of the fleet start a job, or let them."""
        queue, member = self._opened()
        with self._shared.lock:
            queue.paused = paused
            self._wake_everybody(queue, member)

    async def set_limits(self, limits: Sequence[LimitRow]) -> None:
        """Set the limits of these rules, for the whole fleet."""
        queue, member = self._opened()
        with self._shared.lock:
            queue.set_limits(list(limits), self._clock())
            self._wake_everybody(queue, member)

    async def requeue(self, ids: Sequence[str] | None, status: StoredStatus | None) -> int:
        """Put jobs that have ended back into the queue. See `Store.requeue`."""
        queue, member = self._opened()
        with self._shared.lock:
            now = self._clock()
            chosen = list(queue.history) if ids is None else list(dict.fromkeys(ids))
            rows = [queue.history[id] for id in chosen if id in queue.history]
            count = sum(queue.requeue(row, now) for row in rows if status is None or row.status is status)
            self._wake_everybody(queue, member)
            return count

    async def forget_history(self, older_than: float) -> int:
        """Remove the rows of jobs that ended so many seconds ago, or earlier; return how many."""
        queue, _ = self._opened()
        with self._shared.lock:
            until = self._clock() - older_than
            return sum(queue.purge(success, until, len(queue.history)) for success in (True, False))

    def _wake_everybody(self, queue: Queue, member: Member) -> None:
        queue.has_work = True
        if member.me.runs_jobs:
            member.wake("work")
        self._wake_others(queue, member)

    # -- to another store ----------------------------------------------------------------------------------------------

    async def export(self, limit: int) -> list[StoredJob]:
        """Take live jobs that do not run, to move them elsewhere. See `Store.export`."""
        queue, member = self._opened()
        with self._shared.lock:
            now = self._clock()
            rows = heapq.nsmallest(
                limit,
                (row for row in queue.live.values() if row.status is not StoredStatus.RUNNING),
                key=lambda row: (row.status is not StoredStatus.MOVING, row.order),
            )
            for row in rows:
                if row.status is not StoredStatus.MOVING:
                    queue.move(row, now)
            self._wake_others(queue, member)
            return [row.stored() for row in rows]

    async def restore(self, jobs: Sequence[StoredJob]) -> None:
        """Take in jobs that another store has exported. See `Store.restore`."""
        queue, member = self._opened()
        with self._shared.lock:
            now = self._clock()
            for job in jobs:
                queue.restore(job, now)
            self._wake_everybody(queue, member)

    async def forget_moved(self, ids: Sequence[str]) -> None:
        """Remove jobs that are moving, and have arrived."""
        queue, _ = self._opened()
        with self._shared.lock:
            for id in ids:
                row = queue.live.get(id)
                if row is not None and row.status is StoredStatus.MOVING:
                    queue.forget_moved(row)

    # -- what an operator asks -----------------------------------------------------------------------------------------

    async def facts(self) -> Facts:
        """Return what there is to know about it."""
        warnings = ["jobs live in the memory of this process: none survives its end; write store='sqlite:///jobs.db'"]
        return {"engine": "memory", "durability": self.durability, "warnings": warnings}
