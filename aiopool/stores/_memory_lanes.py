"""The limits of the fleet in the memory store: how many run in a lane, when the next may start, who is held there.

Rule 1: a place that becomes free calls one row back, the best that is held there; so does a moment at which the rate
opens. A row that was called and does not take the place (it was cancelled, or another of its lanes is full) passes the
call on. So no row waits for a place that is free, and nobody scans those that are blocked. One that was called while a
better one was elsewhere does not stand in the way of that one: both are called, and the better one finds the place.

Rule 2: running jobs are counted in each of their lanes, whether it has a rule or not: a rule that comes later counts
those that run already.

Rule 3: the rate has two rules, as that of a pool has (`_jobs/limits.py`): the pace (GCRA), and the window. The pace
alone would let nearly twice as many start in the second after a rest.

Rule 4: a lane that holds nothing, and whose last starts no longer count, is forgotten. A clock that was set back holds
nobody for longer than a whole burst takes.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import deque
from typing import final

from aiopool.stores._memory_rows import Line, Row
from aiopool.stores._rows import LimitRow

__all__ = ["Lanes"]

# A moment that was waited for is not missed by the rounding of a sum.
_ROUNDING = 1e-6


@final
class _Lane:
    __slots__ = ("called", "held", "next_at", "running", "starts")

    def __init__(self) -> None:
        self.running = 0
        self.called: list[tuple[int, int, str]] = []  # who was called back and has not come yet, by their order
        self.held = Line()
        self.next_at = -math.inf  # the theoretical arrival time of the next start
        self.starts: deque[float] = deque()  # the last ones, as many as the window may have


@final
class _Alarms:
    """One moment for each name, the earliest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._moments: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._moments

    def set(self, name: str, moment: float) -> None:
        if self._moments.get(name) != moment:
            self._moments[name] = moment
            heapq.heappush(self._heap, (moment, name))

    def clear(self, name: str) -> None:
        self._moments.pop(name, None)

    def first(self) -> float | None:
        while self._heap:
            moment, name = self._heap[0]
            if self._moments.get(name) == moment:
                return moment
            heapq.heappop(self._heap)
        return None

    def pop(self, now: float) -> str | None:
        """Take out a name whose moment has come."""
        moment = self.first()
        if moment is None or moment > now:
            return None
        _, name = heapq.heappop(self._heap)
        del self._moments[name]
        return name


@final
class Lanes:
    """All lanes of a queue."""

    def __init__(self) -> None:
        self._rules: dict[str, LimitRow] = {}
        self._lanes: dict[str, _Lane] = {}
        self._openings = _Alarms()  # of lanes that hold somebody
        self._rests = _Alarms()  # of the others, when their last starts count no more

    def __len__(self) -> int:
        return len(self._lanes)

    def full(self, row: Row, now: float) -> str | None:
        """Return the first lane of a row that has no place for it; None: it may start."""
        for name in row.lanes:
            rule = self._rule(name)
            lane = self._lanes.get(name)
            if rule is not None and lane is not None and not self._free(lane, rule, now):
                return name
        return None

    def start(self, row: Row, now: float) -> None:
        """A row takes a place in each of its lanes."""
        for name in row.lanes:
            lane = self._lanes.setdefault(name, _Lane())
            lane.running += 1
            rule = self._rule(name)
            if rule is not None and rule.max_per_second is not None:
                lane.next_at = max(lane.next_at, now) + 1 / rule.max_per_second
                lane.starts.append(now)
                self._wait(name, lane, rule, now)

    def stop(self, row: Row, now: float) -> list[Row]:
        """A row gives its places back; return the rows that are called for them."""
        called: list[Row] = []
        for name in row.lanes:
            lane = self._lanes.get(name)
            if lane is not None and lane.running:
                lane.running -= 1
                called += self._call(name, lane, now)
        return called

    def hold(self, row: Row, name: str, now: float) -> None:
        """Hold a row in the lane that has no place for it."""
        lane = self._lanes.setdefault(name, _Lane())
        row.held_in = name
        lane.held.add(row.order, row)
        rule = self._rule(name)
        if rule is not None:
            self._wait(name, lane, rule, now)

    def leave(self, row: Row, now: float) -> list[Row]:
        """A row is not held any more, nor on its way to a place; return the rows that are called in its stead."""
        if row.held_in is not None:
            name, row.held_in = row.held_in, None
            lane = self._lanes.get(name)
            if lane is not None:
                lane.held.discard(row)
                self._forget(name, lane)
        if row.called_by is None:
            return []
        name, row.called_by = row.called_by, None
        lane = self._lanes.get(name)
        if lane is None:
            return []
        lane.called.remove(row.order)
        return self._call(name, lane, now)

    def open(self, now: float, most: int) -> list[Row]:
        """Return the rows that are called because a rate has opened; looks at so many lanes at most."""
        called: list[Row] = []
        for alarms in (self._openings, self._rests):
            for _ in range(most):
                name = alarms.pop(now)
                if name is None:
                    break
                lane = self._lanes.get(name)
                if lane is not None:
                    called += self._call(name, lane, now)
        return called

    def next_opening(self) -> float | None:
        """Return the moment at which the next rate opens for somebody who is held."""
        return self._openings.first()

    def set_rules(self, rules: list[LimitRow], now: float) -> list[Row]:
        """Set rules; return the rows that are called, as there are places now."""
        changed = {rule.rule for rule in rules}
        self._rules.update((rule.rule, rule) for rule in rules)
        called: list[Row] = []
        for name, lane in list(self._lanes.items()):
            if name.partition("\x1f")[0] in changed:
                self._openings.clear(name)
                self._rests.clear(name)
                called += self._call(name, lane, now)
        return called

    def _rule(self, name: str) -> LimitRow | None:
        return self._rules.get(name.partition("\x1f")[0])

    def _free(self, lane: _Lane, rule: LimitRow, now: float) -> bool:
        if rule.max_at_once is not None and lane.running >= rule.max_at_once:
            return False
        return rule.max_per_second is None or self._opens_at(lane, rule, now) <= now + _ROUNDING

    @staticmethod
    def _window(rule: LimitRow, rate: float) -> int:
        return max(math.ceil(rate), rule.burst)

    def _opens_at(self, lane: _Lane, rule: LimitRow, now: float, ahead: int = 0) -> float:
        """Return the moment from which on the rate lets another one start, after so many that were called."""
        rate = rule.max_per_second
        if rate is None:
            return now
        size = self._window(rule, rate)
        if lane.next_at > now + (size + 1) / rate:  # the clock was set back
            lane.next_at = now + (size + 1) / rate
        while lane.starts and (lane.starts[0] > now + _ROUNDING or len(lane.starts) > size):
            lane.starts.popleft()
        moment = max(lane.next_at, now) + ahead / rate if ahead else lane.next_at
        moment -= (rule.burst - 1) / rate
        oldest = len(lane.starts) + ahead - size
        if 0 <= oldest < len(lane.starts):
            moment = max(moment, lane.starts[oldest] + size / rate)
        return moment

    def _call(self, name: str, lane: _Lane, now: float) -> list[Row]:
        """Call as many of the held as there are places, besides those that were called before and are better."""
        rule = self._rule(name)
        called: list[Row] = []
        while (row := lane.held.first()) is not None:
            ahead = bisect.bisect(lane.called, row.order)
            if rule is not None:
                if rule.max_at_once is not None and lane.running + ahead >= rule.max_at_once:
                    break
                if self._opens_at(lane, rule, now, ahead) > now + _ROUNDING:
                    break
            lane.held.pop()
            lane.called.insert(ahead, row.order)
            row.held_in, row.called_by = None, name
            called.append(row)
        if rule is not None:
            self._wait(name, lane, rule, now)
        self._forget(name, lane)
        return called

    def _wait(self, name: str, lane: _Lane, rule: LimitRow, now: float) -> None:
        """See to it that somebody looks at the lane when its rate opens, or its last starts count no more."""
        if rule.max_per_second is None:
            return
        if len(lane.held):
            moment = self._opens_at(lane, rule, now, len(lane.called))
            self._rests.clear(name)
            if moment > now + _ROUNDING:
                self._openings.set(name, moment)
            else:
                self._openings.clear(name)  # it waits for a place, or for those that were called
        else:
            moment = self._rested_at(lane, rule)
            self._openings.clear(name)
            if moment > now + _ROUNDING:
                self._rests.set(name, moment)

    def _rested_at(self, lane: _Lane, rule: LimitRow) -> float:
        rate = rule.max_per_second
        if rate is None or not lane.starts:
            return -math.inf
        return max(lane.next_at, lane.starts[-1] + self._window(rule, rate) / rate)

    def _forget(self, name: str, lane: _Lane) -> None:
        if not (lane.running or lane.called or len(lane.held) or name in self._rests):
            self._lanes.pop(name, None)
