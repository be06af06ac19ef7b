"""The limits of the fleet in the SQLite store: who may start in a lane, who is held there, who is called back.

Rule 1: a row that finds no place in one of its lanes becomes `limited`, and is held in that lane. When there are
places, the best rows that are held there are called back: they are `queued` again, and the lane stays noted on them
until they have started or gone elsewhere. As many as there are places are called, always the best: one that was called
and is met by a claim when a better one has taken its place is held again. So each row moves few times, and nobody scans
those that are held.

Rule 2: whatever may free a place *looks* at the lane: an end, a rescue, a rate that opens, a called row that goes
without starting, a new limit. All looks of a transaction happen at its end, once for each lane.

Rule 3: running jobs are counted in each of their lanes, whether it has a rule or not: a rule that comes later counts
those that run already.

Rule 4: a rate has two rules: the pace (GCRA: starts are spaced evenly, up to `burst` together after a rest), and the
window (never more than the larger of rate and burst in the time that so many take). Starts of one moment are one entry.

Rule 5: a lane that holds nothing and remembers nothing has no row.
"""

from __future__ import annotations

import json
import math
import sqlite3
from typing import Final, final

from aiopool.stores._rows import LimitRow

__all__ = ["ROUNDING", "Lanes"]

ROUNDING: Final = 1e-6  # a moment that was waited for is not missed by the rounding of a sum
_MOST_CALLED: Final = 1000  # rows of one lane that are called and have not come yet


@final
class _Lane:
    __slots__ = ("next_at", "running", "starts", "stored")

    def __init__(self, running: int, next_at: float, starts: list[list[float]], *, stored: bool) -> None:
        self.running = running
        self.next_at = next_at
        self.starts = starts
        self.stored = stored


@final
class Lanes:
    """The lanes of a queue, inside of one transaction."""

    __slots__ = ("_connection", "_lanes", "_looks", "_now", "_q", "_rules")

    def __init__(self, connection: sqlite3.Connection, q: int, now: float) -> None:
        self._connection = connection
        self._q = q
        self._now = now
        self._rules: dict[str, LimitRow] | None = None
        self._lanes: dict[str, _Lane] = {}
        self._looks: dict[str, None] = {}

    def full(self, lanes: list[str]) -> str | None:
        """Return the first of these lanes that has no place; None: all have one."""
        for name in lanes:
            rule = self._rule(name)
            if rule is not None and self._places(self._lane(name), rule) < 1:
                return name
        return None

    def take(self, lanes: list[str]) -> None:
        """Take a place in each of these."""
        for name in lanes:
            lane, rule = self._lane(name), self._rule(name)
            lane.running += 1
            if rule is not None and rule.max_per_second is not None:
                lane.next_at = max(lane.next_at, self._now) + 1 / rule.max_per_second
                if lane.starts and lane.starts[-1][0] == self._now:
                    lane.starts[-1][1] += 1
                else:
                    lane.starts.append([self._now, 1])
            self._looks[name] = None

    def give(self, lanes: str) -> None:
        """Give the places of a row back: its lanes, as JSON text."""
        for name in json.loads(lanes):
            lane = self._lane(name)
            lane.running = max(lane.running - 1, 0)
            self._looks[name] = None

    def look(self, name: str) -> None:
        """Look at a lane at the end of the transaction: something may have changed there."""
        self._looks[name] = None

    def look_due(self, limit: int) -> bool:
        """Look at the lanes whose moment has come, at so many of them; return whether there may be more."""
        due = self._connection.execute(
            "SELECT lane FROM lanes WHERE q = ? AND look_at <= ? ORDER BY look_at LIMIT ?",
            (self._q, self._now + ROUNDING, limit),
        ).fetchall()
        for (name,) in due:
            self._looks[name] = None
        return len(due) == limit

    def look_rested(self, limit: int) -> bool:
        """Look at the lanes whose last starts count no more, as `look_due`."""
        due = self._connection.execute(
            "SELECT lane FROM lanes WHERE q = ? AND forget_at <= ? LIMIT ?", (self._q, self._now, limit)
        ).fetchall()
        self._looks.update((name, None) for (name,) in due)
        return len(due) == limit

    def look_at_rule(self, rule: str) -> None:
        """Look at all lanes of a rule at which anything is held, or runs."""
        bounds: tuple[int | str, ...] = (self._q, rule + "\x1f", rule + "\x20")
        for table, column in (("jobs", "held"), ("lanes", "lane")):
            for where, values in (("{0} = ?", (self._q, rule)), ("{0} >= ? AND {0} < ?", bounds)):
                condition = where.format(column)
                found = self._connection.execute(
                    f"SELECT DISTINCT {column} FROM {table} WHERE q = ? AND {condition}",  # noqa: S608
                    values,
                )
                self._looks.update((name, None) for (name,) in found)

    def settle(self) -> bool:
        """Call back as many as have places, and write down what has changed; return whether any were called."""
        called = False
        while self._looks:
            names, self._looks = list(self._looks), {}
            for name in names:
                called = self._settle(name) or called
        return called

    def _settle(self, name: str) -> bool:
        connection, q, now = self._connection, self._q, self._now
        lane, rule = self._lane(name), self._rule(name)
        look_at = None
        places = math.inf if rule is None else max(self._places(lane, rule), 0)
        most = int(min(places, _MOST_CALLED))
        # One that was called before may be worse than one that came since: those that are best now are called.
        best = connection.execute(
            "SELECT rowid, status FROM jobs WHERE q = ? AND held = ? ORDER BY priority, position LIMIT ?",
            (q, name, most + 1),
        ).fetchall()
        call = [rowid for rowid, status in best[:most] if status == "limited"]
        if call:
            connection.execute(
                "UPDATE jobs SET status = 'queued' WHERE rowid IN (SELECT value FROM json_each(?))", (json.dumps(call),)
            )
        by_rate = rule is not None and (rule.max_at_once is None or lane.running + most < rule.max_at_once)
        if len(best) > most and by_rate and rule is not None and rule.max_per_second is not None:
            look_at = max(self._opens_at(lane, rule, most), now)
        forget_at = None
        if look_at is None and rule is not None and rule.max_per_second is not None and not lane.running:
            rested = self._rested_at(lane, rule)
            forget_at = rested if rested > now else None
        if lane.running or look_at is not None or forget_at is not None:
            starts = json.dumps(lane.starts) if lane.starts else None
            connection.execute(
                "INSERT OR REPLACE INTO lanes (q, lane, running, next_at, starts, look_at, forget_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (q, name, lane.running, lane.next_at, starts, look_at, forget_at),
            )
            lane.stored = True
        elif lane.stored:
            connection.execute("DELETE FROM lanes WHERE q = ? AND lane = ?", (q, name))
            lane.stored = False
        return bool(call)

    def _lane(self, name: str) -> _Lane:
        lane = self._lanes.get(name)
        if lane is None:
            row = self._connection.execute(
                "SELECT running, next_at, starts FROM lanes WHERE q = ? AND lane = ?", (self._q, name)
            ).fetchone()
            if row is None:
                lane = _Lane(0, 0.0, [], stored=False)
            else:
                lane = _Lane(row[0], row[1], json.loads(row[2]) if row[2] else [], stored=True)
            self._lanes[name] = lane
        return lane

    def _rule(self, name: str) -> LimitRow | None:
        if self._rules is None:
            rows = self._connection.execute(
                "SELECT rule, max_at_once, max_per_second, burst FROM limits WHERE q = ?", (self._q,)
            )
            self._rules = {row[0]: LimitRow(*row) for row in rows}
        return self._rules.get(name.partition("\x1f")[0])

    def _places(self, lane: _Lane, rule: LimitRow) -> float:
        """Return how many may start in a lane now."""
        places = math.inf if rule.max_at_once is None else rule.max_at_once - lane.running
        rate = rule.max_per_second
        if rate is not None and places > 0:
            self._tidy(lane, rule, rate)
            behind = max(lane.next_at - self._now, 0.0) - ROUNDING
            places = min(places, math.floor(rule.burst - behind * rate), self._window(rule, rate) - self._recent(lane))
        return places

    def _opens_at(self, lane: _Lane, rule: LimitRow, ahead: int) -> float:
        """Return the moment from which on the rate lets another one start, after so many that were called."""
        rate = rule.max_per_second
        assert rate is not None
        self._tidy(lane, rule, rate)
        moment = (max(lane.next_at, self._now) if ahead else lane.next_at) + (ahead + 1 - rule.burst) / rate
        size = self._window(rule, rate)
        over = self._recent(lane) + ahead + 1 - size  # so many of the oldest have to leave the window first
        for at, count in lane.starts:
            if over <= 0:
                break
            over -= int(count)
            moment = max(moment, at + size / rate)
        return moment

    def _rested_at(self, lane: _Lane, rule: LimitRow) -> float:
        """Return the moment at which the last starts count no more."""
        rate = rule.max_per_second
        assert rate is not None
        self._tidy(lane, rule, rate)
        last = lane.starts[-1][0] + self._window(rule, rate) / rate if lane.starts else 0.0
        return max(lane.next_at, last)

    @staticmethod
    def _window(rule: LimitRow, rate: float) -> int:
        return max(math.ceil(rate), rule.burst)

    @staticmethod
    def _recent(lane: _Lane) -> int:
        return int(sum(count for _, count in lane.starts))

    def _tidy(self, lane: _Lane, rule: LimitRow, rate: float) -> None:
        """Forget the starts that count no more; and those of the future: the clock was set back."""
        size, now = self._window(rule, rate), self._now
        since = now - size / rate + ROUNDING
        if lane.starts and not (lane.starts[0][0] > since and lane.starts[-1][0] <= now + ROUNDING):
            lane.starts = [start for start in lane.starts if since < start[0] <= now + ROUNDING]
        lane.next_at = min(lane.next_at, now + (size + 1) / rate)
