"""`LaneTable`: the lanes of a pool: jobs that share a limit, how many of them run, and those that have to wait for it.

A job comes out of the queue when a worker is free. If a limit of it (`_jobs/limits.py`) has no place, it is *parked* in
the lane of that limit, and the worker takes the next one. When the lane has a place again, by the end of a job or by
the time, its best parked job *returns* to its own place in the queue. So the order of the queue is that of every lane,
and nobody polls.

A job takes a place in all of its lanes, or in none. Only a lane that runs one job at a time is *reserved* for a job
that waits in another: it promises strict order, so no other may overtake. All jobs look at their lanes in the same
order, and so nobody waits in a circle. A job that lends its slot (`lending.py`) lends its places, too, and gets them
back, one after the other in the order in which the lanes were made, before a parked job returns.

Invariant: while a lane has parked jobs, as many have returned, and not been looked at since, as there are places that
are not reserved.

A lane of a key is there as long as it holds something: jobs, or the moment of its last start while that still counts.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, final

from aiopool._engine.queue import JobQueue
from aiopool._jobs.job import Job, JobExtra
from aiopool._jobs.limits import LimitRule, Rate
from aiopool._runtime.timers import Timer, TimerQueue

__all__ = ["Lane", "LaneTable"]

# So many parked jobs return to the queue in one turn of the loop.
MAX_RETURNED = 64


@final
class Lane:
    """The jobs that share one limit.

    Attributes:
        rule, key: the limit, and which key of it; the key is None if the limit has one lane.
        number: the lanes in the order in which they were made.
        running: how many places are taken.
        line: the jobs that are parked; None: there are none.
        returned: how many jobs went back to the queue, and no worker has looked at them since.
        reserved: how many jobs that are parked in another lane keep their place here: it runs one job at a time.
        most: how many may run at once.
        timed: time may forbid a start, by a rate or a cooldown.
        held_until: no job starts before this moment, by a cooldown.
        behind: more parked jobs have a place than could return in one turn of the loop.
    """

    __slots__ = (
        "_held_since",
        "behind",
        "failures",
        "held_until",
        "key",
        "lent",
        "line",
        "most",
        "number",
        "rate",
        "reclaims",
        "reserved",
        "returned",
        "rule",
        "running",
        "timed",
        "timer",
    )

    def __init__(self, rule: LimitRule, key: Hashable, number: int) -> None:
        self.rule = rule
        self.key = key
        self.number = number
        self.running = 0
        self.lent = 0  # places that are lent: the lane must not vanish meanwhile
        self.line: JobQueue | None = None
        self.returned = 0
        self.reserved = 0
        self.rate: Rate | None = None
        self.held_until = self._held_since = -1.0
        self.failures = 0  # failures in a row that held it
        self.reclaims: OrderedDict[JobExtra, None] = OrderedDict()  # who want their places back
        self.timer: Timer | None = None
        self.behind = False
        self.refresh()

    def refresh(self) -> None:
        """Look at the limit anew."""
        limit = self.rule.limit
        if limit.max_per_second is None:
            self.rate = None
        elif self.rate is None:
            self.rate = Rate()
        self.most = sys.maxsize if limit.max_at_once is None else limit.max_at_once
        self.timed = limit.max_per_second is not None or limit.cooldown is not None

    def is_open(self, now: float, ahead: int) -> bool:
        """Whether a job may start now, after `ahead` others that may, and those that want their places back."""
        return self.running + len(self.reclaims) + ahead < self.most and (
            not self.timed or self.opens_at(now, ahead) <= now
        )

    def opens_at(self, now: float, ahead: int) -> float:
        """Return the moment from which on time does not forbid a start; infinity: that depends on those ahead."""
        if self.rate is None:
            return self.held_until
        waited = self.line is not None or self.returned > 0
        return max(self.held_until, self.rate.next_at(self.rule.limit, now, ahead, waited=waited))

    def count_start(self, now: float, *, waited: bool) -> None:
        """A job starts; `waited`: it was parked here."""
        if self.rate is not None:
            self.rate.started(self.rule.limit, now, waited=waited)

    def failed(self, error: BaseException, started: float, now: float) -> None:
        """A job failed: hold the lane, if its limit has a cooldown for that error."""
        cooldown = self.rule.limit.cooldown
        # Jobs that ran together have met the same overload: they make the row no longer.
        together = started <= self._held_since
        seconds = None if cooldown is None else cooldown.hold(error, max(0, self.failures - together))
        if seconds is not None:
            if not together:
                self.failures += 1
                self._held_since = now
            self.held_until = max(self.held_until, now + seconds)

    @property
    def empty(self) -> bool:
        """Whether it has no jobs, running, parked or on their way."""
        return self.line is None and not (self.running or self.lent or self.returned or self.reserved or self.reclaims)

    def rested_at(self) -> float:
        """Return the moment from which on nothing of the past counts."""
        return self.held_until if self.rate is None else max(self.held_until, self.rate.rested_at(self.rule.limit))


@final
class LaneTable:
    """The lanes of one open pool; see the module.

    Attributes:
        parked: how many jobs are parked, in all lanes.
    """

    __slots__ = ("_came_back", "_count", "_lanes", "_lined", "_now", "_queue", "_timers", "parked")

    def __init__(
        self,
        queue: JobQueue,
        timers: TimerQueue,
        now: Callable[[], float],
        came_back: Callable[[], object],
    ) -> None:
        """`came_back()` is called when a parked job has returned to the queue."""
        self._queue = queue
        self._timers = timers
        self._now = now
        self._came_back = came_back
        self._lanes: dict[tuple[LimitRule, Hashable], Lane] = {}
        self._lined: dict[Lane, None] = {}  # those that have a line
        self._count = 0
        self.parked = 0

    def __iter__(self) -> Iterator[Lane]:
        return iter(tuple(self._lanes.values()))

    def count(self, rule: LimitRule) -> int:
        """Return how many lanes of a rule hold something."""
        return sum(lane.rule is rule for lane in self)

    def _make(self, at: tuple[LimitRule, Hashable]) -> Lane:
        self._count += 1
        lane = self._lanes[at] = Lane(*at, self._count)
        return lane

    # -- starting ----------------------------------------------------------------------------------------------------

    def enter(self, job: Job[Any]) -> bool:
        """Let a job that came out of the queue take its places, or park it; whether it may start."""
        extra, now = job._ensure_extra(), self._now()
        came_from = extra.returned
        if came_from is not None:
            extra.returned = None
            came_from.returned -= 1
        mine = extra.reserved
        places: list[Lane] = []
        for at in job._spec.limits:
            lane = self._lanes.get(at) or self._make(at)
            ahead = lane.reserved
            if mine and lane in mine:
                ahead -= 1
            if not lane.is_open(now, ahead) or (lane.behind and lane is not came_from):
                self._park(job, extra, lane, places)
                if came_from is not None and came_from is not lane:
                    self._settle(came_from)  # another may have its place there
                return False
            places.append(lane)
        if mine:
            extra.reserved = ()
            for lane in mine:
                lane.reserved -= 1
        extra.entered_at = now
        extra.places = places
        for lane in places:
            lane.running += 1
            if lane.timed:
                lane.count_start(now, waited=lane is came_from)
            if lane.line is not None and lane.timer is None:
                self._settle(lane)
        return True

    def _park(self, job: Job[Any], extra: JobExtra, lane: Lane, others: list[Lane]) -> None:
        """Park a job in a lane without a place; of the lanes before it, it keeps those that run one job at a time."""
        before, extra.reserved = extra.reserved, tuple(one for one in others if one.most == 1)
        for one in extra.reserved:
            one.reserved += 1
        for one in before:
            one.reserved -= 1
        for one in {*before, *others}:
            self._settle(one)
        if lane.line is None:
            lane.line = self._queue.another()
            self._lined[lane] = None
        lane.line.push_in_order(job)
        extra.parked = lane
        self.parked += 1
        self._settle(lane)

    def leave(self, extra: JobExtra, *, succeeded: bool = False) -> None:
        """Take back the places of a job: no line of its attempt will run any more, or it leaked and is replaced."""
        if extra.missing:
            self.end_loan(extra)
        places, extra.places = extra.places, ()
        for lane in places:
            if succeeded:
                lane.failures = 0
            lane.running -= 1
            if lane.line is not None or not lane.running or lane.reclaims:
                self._settle(lane)

    def failed(self, extra: JobExtra, error: BaseException, started: float, now: float) -> None:
        """An attempt failed: hold those of its lanes that have a cooldown for that."""
        for lane in extra.places:
            lane.failed(error, started, now)

    def discard(self, job: Job[Any]) -> None:
        """Forget a job that ends in the queue, or parked, in place of starting."""
        extra = job._extra
        assert extra is not None
        if extra.parked is not None:
            lane, extra.parked = extra.parked, None
            lane.line.discard(job)
            self.parked -= 1
            if not lane.line.live:
                self._end_line(lane)
        else:
            lane, extra.returned = extra.returned, None
            lane.returned -= 1
        self._settle(lane)
        reserved, extra.reserved = extra.reserved, ()
        for lane in reserved:
            lane.reserved -= 1
            self._settle(lane)

    def droppable(self, *, oldest: bool) -> Any:
        """Return a parked job that may be dropped for another: of one lane the oldest, or the last in line; or None."""
        line = next(iter(self._lined)).line if self._lined else None
        return None if line is None else line.oldest() if oldest else line.last()

    def change(self, rule: LimitRule) -> None:
        """The limit of a rule is another one now."""
        for lane in self:
            if lane.rule is rule:
                lane.refresh()
                self._settle(lane)

    def _settle(self, lane: Lane) -> None:
        """Give free places to those who want theirs back, then to parked jobs; else be called again in time."""
        while lane.reclaims and lane.running < lane.most:
            extra, _ = lane.reclaims.popitem(last=False)
            lane.running += 1
            self._reclaim_next(extra)
        if lane.line is not None:
            now = self._now()
            self._bring_back(lane, lane.line, now)
            if lane.behind:
                self._call_at(lane, now)
            elif lane.line is not None:
                opens_at = lane.opens_at(now, lane.returned + lane.reserved)
                if opens_at > now:  # else it is full, and the end of a job does it
                    self._call_at(lane, opens_at)
        if lane.key is not None and lane.empty:
            # Nobody is there who would come by: if its past still counts, it is looked at once more, to go.
            rested, now = lane.rested_at(), self._now()
            if rested > now:
                self._call_at(lane, rested)
            else:
                self._lanes.pop((lane.rule, lane.key), None)

    def _bring_back(self, lane: Lane, line: JobQueue, now: float) -> None:
        """Let parked jobs return that have a place; some of them now, if they are many."""
        for _ in range(MAX_RETURNED):
            if not lane.is_open(now, lane.returned + lane.reserved):
                lane.behind = False
                return
            job = line.pop()
            if job is None:
                self._end_line(lane)
                return
            self.parked -= 1
            extra = job._extra
            extra.parked, extra.returned = None, lane
            lane.returned += 1
            self._queue.push_in_order(job)
            self._came_back()
        lane.behind = True

    def _end_line(self, lane: Lane) -> None:
        lane.behind, lane.line = False, None
        del self._lined[lane]

    def _call_at(self, lane: Lane, when: float) -> None:
        """Settle a lane at a moment, or earlier. Infinity: somebody else will."""
        timer = lane.timer
        if when < math.inf and (timer is None or when < timer.when):
            lane.timer = self._timers.add(when, self._due, lane)
            if timer is not None:
                self._timers.cancel(timer)

    def _due(self, lane: Lane) -> None:
        lane.timer = None
        self._settle(lane)

    # -- places that are lent ----------------------------------------------------------------------------------------

    def lend(self, extra: JobExtra) -> None:
        """Free the places of a job that lends its slot."""
        extra.missing = sorted(extra.places, key=_number, reverse=True)
        for lane in extra.places:
            lane.running -= 1
            lane.lent += 1
            self._settle(lane)

    def reclaim(self, extra: JobExtra, on_ready: Callable[[], object]) -> None:
        """Take the places of a job back, now or before the next job of a lane starts; then call `on_ready()`."""
        extra.on_ready = on_ready
        self._reclaim_next(extra, first=True)

    def _reclaim_next(self, extra: JobExtra, *, first: bool = False) -> None:
        missing = extra.missing
        if not first:
            missing.pop().lent -= 1
        while missing:
            lane = missing[-1]
            if lane.reclaims or lane.running >= lane.most:
                lane.reclaims[extra] = None
                return
            lane.running += 1
            missing.pop().lent -= 1
        on_ready, extra.on_ready = extra.on_ready, None
        assert on_ready is not None
        on_ready()

    def withdraw(self, extra: JobExtra) -> bool:
        """Forget a job that wants its places back; lend those again that it has got; whether it still wanted some."""
        waiting, extra.on_ready = extra.on_ready is not None, None
        if waiting:
            extra.missing[-1].reclaims.pop(extra, None)
        got = [lane for lane in extra.places if lane not in extra.missing]
        extra.missing = sorted(extra.places, key=_number, reverse=True)
        for lane in got:
            lane.running -= 1
            lane.lent += 1
            self._settle(lane)
        return waiting

    def end_loan(self, extra: JobExtra) -> None:
        """Count the places of a job that waits no longer: it goes on, or it was told to stop and does not wait."""
        if extra.on_ready is not None:
            extra.missing[-1].reclaims.pop(extra, None)
            extra.on_ready = None
        for lane in extra.missing:
            lane.running += 1
            lane.lent -= 1
        extra.missing = []


def _number(lane: Lane) -> int:
    return lane.number
