"""The jobs of one queue in the memory store: where each is, and each way from there to elsewhere.

Rule 1: a row is in exactly one place: a line in which it waits, its owner's hands, or the history. `_leave` takes it
out of where it is, and one of `_wait`, `_run` and `_end` puts it where it goes. Nobody else changes a status.

Rule 2: nothing here scans all rows, but for those who ask for lists and numbers.

Rule 3: it knows no clock and no loop: `now` is given, and whom to wake is what `waking` collects.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, final

from aiopool.stores._memory_lanes import Lanes
from aiopool.stores._memory_rows import Line, Row
from aiopool.stores._protocol import Wake
from aiopool.stores._rows import (
    CancelAnswer,
    Claimed,
    Incarnation,
    LimitRow,
    NewJob,
    Settlement,
    StoredJob,
    StoredStatus,
    Submitted,
)

__all__ = ["STEP", "Member", "Queue"]

STEP: Final = 1000
"""So many rows are moved in one step, at most."""

_FINAL = {
    status.value: status
    for status in (
        StoredStatus.SUCCEEDED,
        StoredStatus.FAILED,
        StoredStatus.TIMED_OUT,
        StoredStatus.CANCELLED,
        StoredStatus.DEAD,
    )
}


@final
class Member:
    """An incarnation that has opened the store, and what it holds."""

    def __init__(self, me: Incarnation, wake: Callable[[Wake], object], now: float) -> None:
        self.me = me
        self.wake = wake
        self.alive = True
        self.started_at = now
        self.seen_at = now
        self.rows: dict[str, Row] = {}
        self.cancels: dict[str, Row] = {}


@final
class Queue:
    """All that pools of one name share."""

    def __init__(self) -> None:
        self.live: dict[str, Row] = {}
        self.history: dict[str, Row] = {}  # in the order in which they ended
        self.members: dict[str, Member] = {}
        self.counts: Counter[StoredStatus] = Counter()  # live ones
        self.ended: Counter[StoredStatus] = Counter()
        self.rescued = 0
        self.paused = False
        self.lanes = Lanes()
        self.waking: set[tuple[str, Wake]] = set()
        self.has_work = False  # something was queued since somebody looked
        self.queued = Line()
        self._scheduled = Line()
        self._deadlines = Line()
        self._parked: dict[str, dict[str, Row]] = {}  # by name, by id
        self._kept: dict[bool, dict[str, Row]] = {True: {}, False: {}}  # the history: that of success, and the rest
        self._unique: dict[str, Row] = {}
        self.ticks: dict[str, float] = {}
        self._position = 0
        self._ended_number = 0

    # -- submit, restore ---------------------------------------------------------------------------------------------

    def submit(self, job: NewJob, now: float) -> Submitted:
        known = self.live.get(job.id) or self.history.get(job.id)
        if known is not None:
            return Submitted("same_id", job.id, known.submitter)
        if job.tick is not None and job.tick[1] <= self.ticks.get(job.tick[0], float("-inf")):
            return Submitted("tick_over", job.id, "")
        if job.unique is not None and (other := self._unique.get(job.unique)) is not None:
            return Submitted("same_unique", other.id, other.submitter)
        if job.tick is not None:
            self.ticks[job.tick[0]] = job.tick[1]
        self._position += 1
        row = Row.of(job, self._position, now)
        self._take_in(row)
        self._wait(row, now)
        if job.start and self._may_start_at_once(job, row):
            self._run(row, self.members[job.submitter], now)
            return Submitted("running", job.id, job.submitter)
        return Submitted("queued", job.id, job.submitter)

    def restore(self, job: StoredJob, now: float) -> None:
        if job.id in self.live or job.id in self.history:
            return
        row = Row(job)
        if row.unique in self._unique:
            row.unique = None  # two that were accepted elsewhere are two jobs
        row.owner = row.started_at = row.finished_at = None
        self._position = max(self._position, row.position)
        self._take_in(row)
        if job.status is StoredStatus.PARKED:
            self._park(row)
        else:
            self._wait(row, now)

    def _take_in(self, row: Row) -> None:
        self.live[row.id] = row
        self.counts[row.status] += 1
        if row.unique is not None:
            self._unique[row.unique] = row

    def _may_start_at_once(self, job: NewJob, row: Row) -> bool:
        member = self.members.get(job.submitter)
        if member is None or not member.alive or self.paused or job.lanes:
            return False
        return row.status is StoredStatus.QUEUED and self.queued.first() is row

    def set_limits(self, limits: list[LimitRow], now: float) -> None:
        self._call(self.lanes.set_rules(limits, now))

    # -- from place to place -----------------------------------------------------------------------------------------

    def _status(self, row: Row, status: StoredStatus) -> None:
        self.counts[row.status] -= 1
        self.counts[status] += 1
        row.status = status

    def _leave(self, row: Row, now: float) -> None:
        """Take a row out of where it is."""
        if row.status is StoredStatus.RUNNING:
            if row.owner is not None and (member := self.members.get(row.owner)) is not None:
                member.rows.pop(row.id, None)
                member.cancels.pop(row.id, None)
            row.owner = None
            row.seconds = 0.0 if row.started_at is None else max(0.0, now - row.started_at)
            self._call(self.lanes.stop(row, now))
            return
        self.queued.discard(row)
        self._scheduled.discard(row)
        self._deadlines.discard(row)
        if row.status is StoredStatus.PARKED and (parked := self._parked.get(row.name)) is not None:
            parked.pop(row.id, None)
            if not parked:
                del self._parked[row.name]

    def _drop_call(self, row: Row, now: float) -> None:
        self._call(self.lanes.leave(row, now))

    def _wait(self, row: Row, now: float) -> None:
        """A row waits: for its moment, or for a worker."""
        if row.run_at is not None and row.run_at > now:
            self._status(row, StoredStatus.SCHEDULED)
            self._scheduled.add((row.run_at,), row)
        else:
            self._queue(row)
        if (deadline := row.deadline()) is not None:
            self._deadlines.add((deadline[0],), row)

    def _park(self, row: Row) -> None:
        self._status(row, StoredStatus.PARKED)
        self._parked.setdefault(row.name, {})[row.id] = row
        if (deadline := row.deadline()) is not None:
            self._deadlines.add((deadline[0],), row)

    def _call(self, rows: Iterable[Row]) -> None:
        """A lane has places for rows that it held."""
        for row in rows:
            self._queue(row)

    def _queue(self, row: Row) -> None:
        self._status(row, StoredStatus.QUEUED)
        self.queued.add(row.order, row)
        self.has_work = True

    def _run(self, row: Row, member: Member, now: float) -> None:
        self._leave(row, now)
        self.lanes.start(row, now)
        self._drop_call(row, now)
        self._status(row, StoredStatus.RUNNING)
        row.attempt += 1
        row.fence += 1
        row.owner = member.me.id
        row.started_at = now
        row.progress = None
        member.rows[row.id] = row

    def _end(self, row: Row, status: StoredStatus, now: float, *, tell: bool, by: str = "") -> None:
        """A row ends; its submitter is told, unless that is who ends it, and knows."""
        self._leave(row, now)
        self._drop_call(row, now)
        self.counts[row.status] -= 1
        self.ended[status] += 1
        row.status = status
        row.finished_at = now
        row.cancel_asked = False
        self._ended_number += 1
        row.ended_number = self._ended_number
        del self.live[row.id]
        if row.unique is not None and self._unique.get(row.unique) is row:
            del self._unique[row.unique]
        self.history[row.id] = row
        self._kept[status is StoredStatus.SUCCEEDED][row.id] = row
        if tell or row.submitter != by:
            self.waking.add((row.submitter, "finished"))

    def time_over(self, row: Row, now: float) -> bool:
        """End a row that waits if its time is over; whether it is."""
        deadline = row.deadline()
        if deadline is None or deadline[0] > now:
            return False
        row.error = json.dumps({"type": "JobTimeoutError", "limit": deadline[1]})
        self._end(row, StoredStatus.TIMED_OUT, now, tell=True)
        return True

    # -- claim -------------------------------------------------------------------------------------------------------

    def bring_due(self, now: float) -> bool:
        """Queue what was scheduled until now, and what a rate lets go; whether there is more of it."""
        for _ in range(STEP):
            row = self._scheduled.first()
            if row is None or row.run_at is None or row.run_at > now:
                break
            self._scheduled.discard(row)
            self._queue(row)
        self._call(self.lanes.open(now, STEP))
        row = self._scheduled.first()
        return row is not None and row.run_at is not None and row.run_at <= now

    def claim(self, member: Member, limit: int, now: float) -> list[Claimed]:
        jobs: list[Claimed] = []
        for _ in range(limit + STEP):
            if len(jobs) >= limit or (row := self.queued.first()) is None:
                break
            if self.time_over(row, now):
                continue
            full = self.lanes.full(row, now)
            if full is None:
                self._run(row, member, now)
                jobs.append(_claimed(row, now))
            else:
                self.queued.discard(row)
                self._status(row, StoredStatus.LIMITED)
                self._drop_call(row, now)
                self.lanes.hold(row, full, now)
        return jobs

    def next_moment(self) -> float | None:
        """Return the moment at which there may be more to claim, without anybody's doing."""
        row = self._scheduled.first()
        moments = [row.run_at if row is not None else None, self.lanes.next_opening()]
        return min((moment for moment in moments if moment is not None), default=None)

    # -- settle, cancel ----------------------------------------------------------------------------------------------

    def settle(self, end: Settlement, by: str, now: float) -> bool:
        row = self.live.get(end.id)
        if row is None or row.status is not StoredStatus.RUNNING or row.fence != end.fence:
            return False
        if end.error is not None:
            row.error = end.error
        status = _FINAL.get(end.outcome)
        if status is None and row.cancel_asked:
            status = StoredStatus.CANCELLED
        if status is not None:
            row.result = end.result
            if status is StoredStatus.SUCCEEDED:
                row.error = None  # that of an attempt before
            row.reason = end.reason or row.reason if status is StoredStatus.CANCELLED else end.reason
            self._end(row, status, now, tell=False, by=by)
            return True
        self._leave(row, now)
        if end.outcome == "retry":
            row.run_at = now + end.delay if end.delay > 0 else row.run_at
        else:
            row.attempt -= 1
        if end.outcome == "park":
            self._park(row)
        else:
            self._wait(row, now)
        return True

    def cancel(self, id: str, reason: str | None, by: str, now: float) -> CancelAnswer:
        row = self.live.get(id)
        if row is None:
            return CancelAnswer(id, "ended" if id in self.history else "unknown")
        if row.status is StoredStatus.MOVING:
            return CancelAnswer(id, "unknown")  # it may have arrived elsewhere, and run there
        if row.status is StoredStatus.RUNNING:
            if not row.cancel_asked:
                row.cancel_asked, row.reason = True, reason
            if row.owner is not None and (member := self.members.get(row.owner)) is not None:
                member.cancels[id] = row
                self.waking.add((row.owner, "cancel"))
            return CancelAnswer(id, "running")
        row.reason = reason
        self._end(row, StoredStatus.CANCELLED, now, tell=False, by=by)
        return CancelAnswer(id, "queued")

    # -- the dead, the late, the old ---------------------------------------------------------------------------------

    def rescue(self, row: Row, now: float) -> bool:
        """Take a row from an owner that is dead; whether it was given up, as too many of them died."""
        self.rescued += 1
        row.crashes += 1
        if row.cancel_asked:
            self._end(row, StoredStatus.CANCELLED, now, tell=True)
            return False
        if row.crashes >= row.max_crashes:
            died = f"{row.crashes} of its workers" if row.crashes > 1 else "its worker"
            row.error = json.dumps({"type": "JobDeadError", "message": f"{died} died while it ran"})
            self._end(row, StoredStatus.DEAD, now, tell=True)
            return True
        self._leave(row, now)
        self._wait(row, now)
        return False

    def end_late(self, now: float, most: int) -> int:
        """End rows whose time is over; return how many."""
        count = 0
        while count < most and (row := self._deadlines.first()) is not None and self.time_over(row, now):
            count += 1
        return count

    def unpark(self, names: Iterable[str], now: float, most: int) -> int:
        """Queue parked rows that have one of these names; return how many."""
        count = 0
        for name in names:
            for row in list(self._parked.get(name, {}).values())[: most - count]:
                self._leave(row, now)
                self._wait(row, now)
                count += 1
        return count

    def purge(self, success: bool, ended_until: float, most: int) -> int:
        """Remove rows of the history that ended until a moment; return how many."""
        kept = self._kept[success]
        count = 0
        while count < most and kept:
            row = next(iter(kept.values()))
            if row.finished_at is not None and row.finished_at > ended_until:
                break
            self._forget_ended(row)
            count += 1
        return count

    def _forget_ended(self, row: Row) -> None:
        del self.history[row.id]
        del self._kept[row.status is StoredStatus.SUCCEEDED][row.id]
        self.ended[row.status] -= 1

    def requeue(self, row: Row, now: float) -> bool:
        """Put a row of the history back into the queue, as if it were submitted now; whether it could be."""
        if row.unique is not None and row.unique in self._unique:
            return False
        self._forget_ended(row)
        row.queue_until = None if row.queue_timeout is None else now + row.queue_timeout
        if row.total_until is not None:
            row.total_until += now - row.created_at
        row.created_at = now
        row.attempt = row.crashes = 0
        row.run_at = row.started_at = row.finished_at = None
        row.result = row.error = row.reason = row.progress = None
        row.seconds = 0.0
        self._position += 1
        row.position = self._position
        row.status = StoredStatus.QUEUED
        self._take_in(row)
        self._wait(row, now)
        return True

    # -- to another store --------------------------------------------------------------------------------------------

    def move(self, row: Row, now: float) -> None:
        """A row is on its way to another store."""
        self._leave(row, now)
        self._drop_call(row, now)
        self._status(row, StoredStatus.MOVING)

    def forget_moved(self, row: Row) -> None:
        """A row has arrived."""
        self.counts[row.status] -= 1
        del self.live[row.id]
        if row.unique is not None and self._unique.get(row.unique) is row:
            del self._unique[row.unique]


def _claimed(row: Row, now: float) -> Claimed:
    return Claimed(
        row.id,
        row.name,
        row.payload,
        row.priority,
        row.attempt,
        row.crashes,
        row.fence,
        now - row.created_at,
        None if row.total_until is None else row.total_until - now,
        row.group,
        row.keys,
        row.metadata,
        row.trace,
        row.parent,
    )
