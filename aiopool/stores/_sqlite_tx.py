"""One transaction of the SQLite store: whose it is, at what moment, and whom it will wake; and how a job ends in it.

Rule 1: a transaction has one moment. All that it writes has the same.

Rule 2: it wakes nobody while it runs: what is noted here is sent after the commit.

Rule 3: it changes nothing but the database, so that it can be carried out once more from its beginning.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, final

from aiopool.stores._sqlite_lanes import Lanes

__all__ = ["DEAD", "Ending", "Transaction", "limit_error"]

_KEPT: Final = (
    "q, id, priority, position, attempt, crashes, max_crashes, fence, created_at, run_at, queue_until, total_until, "
    "started_at, name, unique_key, group_name, keys, lanes, metadata, trace, parent, submitter, progress, "
    "progress_text, payload"
)
_END: Final = (
    f"INSERT INTO history ({_KEPT}, status, result, error, reason, finished_at, seconds) SELECT {_KEPT}, ?, ?, "  # noqa: S608
    "coalesce(?, CASE WHEN ? <> 'succeeded' THEN error END), ?, ?, "
    "CASE status WHEN 'running' THEN max(? - started_at, 0.0) ELSE coalesce(seconds, 0.0) END "
    "FROM jobs WHERE rowid = ?"
)
_DELETE: Final = "DELETE FROM jobs WHERE rowid IN (SELECT value FROM json_each(?))"

DEAD: Final = json.dumps(
    {"type": "JobDeadError", "message": "its workers died while they ran it, as often as it may happen"}
)


def limit_error(limit: str) -> str:
    """Return the error of a job whose time was over while it waited."""
    return json.dumps({"type": "JobTimeoutError", "limit": limit})


class Ending(NamedTuple):
    """How one row ends. `lanes`: in which it holds places; `called`: the lane that had called it back."""

    status: str
    result: str | None
    error: str | None
    reason: str | None
    row: int
    submitter: str
    lanes: str | None
    called: str | None


@final
class Transaction:
    """See the module. `lanes` is made when the first job with a lane is met."""

    __slots__ = ("connection", "lanes", "me", "now", "q", "wakes")

    def __init__(self, connection: sqlite3.Connection, q: int, me: str, now: float) -> None:
        self.connection = connection
        self.q = q
        self.me = me
        self.now = now
        self.wakes: set[tuple[str | None, bytes]] = set()  # None: all who run jobs
        self.lanes = Lanes(connection, q, now)

    def end(self, endings: Sequence[Ending], *, tell_me: bool = False) -> None:
        """Move rows to the history, give their places back, and wake those who await them; whoever ends its own jobs
        knows it, unless it is told."""
        if not endings:
            return
        now, connection = self.now, self.connection
        connection.executemany(
            _END, [(each[0], each[1], each[2], each[0], each[3], now, now, each[4]) for each in endings]
        )
        self.remove(each[4] for each in endings)
        me, wakes = self.me, self.wakes
        for each in endings:
            if each.submitter != me or tell_me:
                wakes.add((each.submitter, b"f"))
            if each.lanes is not None:
                self.lanes.give(each.lanes)
            if each.called is not None:
                self.lanes.look(each.called)

    def remove(self, rows: Iterable[int]) -> None:
        """Remove live rows."""
        self.connection.execute(_DELETE, (json.dumps(list(rows)),))

    def queued_for_all(self) -> None:
        """There is work for all, the caller too: it does not know of these rows."""
        self.wakes |= {(None, b"w"), (self.me, b"w")}

    def finish(self) -> bool:
        """Do what the places that became free ask for; return whether jobs were called. The last of a verb."""
        called = self.lanes.settle()
        if called:
            self.wakes.add((None, b"w"))
        return called
