"""`SQLite`: durable jobs in one file, for all processes of one machine. Nothing to install, nothing to run.

    verb ──▶ writer thread ──▶ lock of all writers ──▶ BEGIN IMMEDIATE … COMMIT ──▶ unlock ──▶ answers, wake-ups
    find, page, … ──▶ reader thread (its own connection; waits for no commit)

Beside `jobs.db` lie `jobs.db-wal` and `jobs.db-shm`, which are SQLite's; `jobs.db-lock`, which writers take in turn;
and `jobs.db-live/`, with one file and one socket for each process that has it open.

Rule 1: one file, many processes, one writer at a time. Each write transaction, with the checkpoint that its commit may
bring, and each opening and closing is under an exclusive lock of `jobs.db-lock`. So writers queue in the kernel and
none starves, as they do behind SQLite's own busy handler; and no two connections ever write or checkpoint at once,
which is what SQLite's bug of the log's reset needs (before 3.51.3): it damages the file.

Rule 2: the kernel tells who lives (`_sqlite_live.py`): no leases, no heartbeat, no clock. The jobs of a killed process
are back in the queue a quarter of a second later; those of one that is stopped or busy never are.

Rule 3: it is only for a local disk. A network file system has neither the shared memory nor the locks, and is refused.

Rule 4: a store belongs to the process that opened it. In a child that was forked it raises, and touches nothing.

What happens in a transaction is in `_sqlite_jobs.py`, `_sqlite_lanes.py`, `_sqlite_chores.py`, `_sqlite_moves.py`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar, final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from aiopool.errors import StoreError
from aiopool.stores import _sqlite_chores as chores
from aiopool.stores import _sqlite_files as files
from aiopool.stores import _sqlite_jobs as way
from aiopool.stores import _sqlite_moves as moves
from aiopool.stores import _sqlite_reads as reads
from aiopool.stores._protocol import Keeper, Wake
from aiopool.stores._rows import (
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
)
from aiopool.stores._sqlite_live import Presence
from aiopool.stores._sqlite_opening import Opening
from aiopool.stores._sqlite_schema import LEAST_VERSION
from aiopool.stores._sqlite_tx import Transaction

__all__ = ["SQLite"]

T = TypeVar("T")

_STRANGERS_EVERY: Final = 60.0


@final
class SQLite:
    """Keep jobs in a SQLite file on a local disk.

    Args:
        path: the file; it is made if it is not there, its directory is not.
        durability: `"power"`: what was accepted survives the loss of power (each commit waits for the disk);
            `"process"`: it survives the death of all processes, and the loss of power may take the last commits.
        keep: seconds for which jobs that succeeded stay in the history.
        keep_failed: seconds for which all others stay there.
        max_payload: bytes that the arguments, or the result, of a job may have.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> store = SQLite("jobs.db", durability="process", keep=3600)
        >>> async with Pool(store=store, handlers=handlers) as pool:
        ...     await pool.submit(send_mail, "a@example.org")
    """

    lease: float | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: str = "power",
        keep: float = 86400.0,
        keep_failed: float = 604800.0,
        max_payload: int = 1 << 20,
    ) -> None:
        if durability not in ("power", "process"):
            raise ValueError(f'durability={durability!r}: it is "power" or "process"')
        for name, value in (("keep", keep), ("keep_failed", keep_failed), ("max_payload", max_payload)):
            if not value >= 0:
                raise ValueError(f"{name}={value!r}: it must be 0 or more")
        self.path = Path(os.path.abspath(path))
        options = {
            name: value
            for name, value, usual in (
                ("durability", durability, "power"),
                ("keep", keep, 86400),
                ("keep_failed", keep_failed, 604800),
                ("max_payload", max_payload, 1 << 20),
            )
            if value != usual
        }
        self.url = f"sqlite:///{quote(str(self.path))}" + (f"?{urlencode(options)}" if options else "")
        self.durability = durability
        self.keep = (float(keep), float(keep_failed))
        self.max_payload = max_payload
        self.poll = 0.25
        self.sweep_every = 0.25
        self._clock: Callable[[], float] = time.time
        self._opening: Opening | None = None
        self._q = 0
        self._me = ""
        self._strangers_at = 0.0

    @classmethod
    def from_url(cls, url: str) -> SQLite:
        """Return the store that a URL names: `sqlite:///relative.db`, `sqlite:////absolute.db?keep=3600`.

        Raises:
            ValueError: it names no file, or an option is unknown.
        """
        rest, _, query = url.partition("?")
        host, slash, name = rest.removeprefix("sqlite://").partition("/")
        if host or not slash or not name:
            raise ValueError(f"store={url!r}: write sqlite:///relative.db, or sqlite:////absolute.db")
        options: dict[str, object] = {}
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key == "durability":
                options[key] = value
            elif key in ("keep", "keep_failed", "max_payload"):
                try:
                    options[key] = int(value) if key == "max_payload" else float(value)
                except ValueError:
                    raise ValueError(f"store={url!r}: {key}={value!r} is no number") from None
            else:
                raise ValueError(
                    f"store={url!r}: it has no option {key!r}, but durability, keep, keep_failed, max_payload"
                )
        return cls(unquote(name), **options)  # type: ignore[arg-type]  # each was made what it has to be

    def __repr__(self) -> str:
        return f"SQLite({str(self.path)!r})"

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    async def open(self, queue: str, me: Incarnation, on_wake: Callable[[Wake], object]) -> None:
        """See `Store.open`."""
        if self._opening is not None:
            raise StoreError(f"opened {self.path}, which this store has open already; make another SQLite(...)")
        if sqlite3.sqlite_version_info < LEAST_VERSION:
            raise StoreError(
                f"this Python has SQLite {sqlite3.sqlite_version}, and the store needs "
                f"{'.'.join(map(str, LEAST_VERSION))}; use a newer Python, or another store"
            )
        opening = Opening(self.path, me, on_wake, full=self.durability == "power", clock=self._clock)
        await opening.open(queue)
        self._opening, self._q, self._me = opening, opening.q, me.id

    async def close(self) -> None:
        """See `Store.close`."""
        opening, self._opening = self._opening, None
        if opening is not None:
            await opening.close()

    async def _die(self) -> None:
        """Let go of everything without a word, as at a SIGKILL; for tests."""
        opening, self._opening = self._opening, None
        if opening is not None:
            await opening.shut(silently=True)

    def keeper(self) -> Keeper | None:
        """Return None: the kernel tells who lives."""
        return None

    async def now(self) -> float:
        """See `Store.now`."""
        return self._clock()

    # -- the way of a job ----------------------------------------------------------------------------------------------

    async def submit(self, jobs: Sequence[NewJob], *, within: object | None = None) -> list[Submitted]:
        """See `Store.submit`."""
        if within is not None:
            raise TypeError(
                f"within={type(within).__name__}: jobs of a SQLite store have a file of their own, so they cannot be "
                "part of another transaction; leave `within` out, or use a Postgres store"
            )
        if not jobs:
            return []
        return await self._write(lambda tx: way.submit(tx, jobs))

    async def claim(self, limit: int) -> Claim:
        """See `Store.claim`."""
        return await self._write(
            lambda tx: way.claim(tx, limit),
            lambda connection: way.look_before_claim(connection, self._q, self._me, self._clock(), limit),
        )

    async def settle(self, ends: Sequence[Settlement]) -> list[bool]:
        """See `Store.settle`."""
        if not ends:
            return []
        return await self._write(lambda tx: way.settle(tx, ends))

    async def cancel(self, ids: Sequence[str], reason: str | None) -> list[CancelAnswer]:
        """See `Store.cancel`."""
        if not ids:
            return []
        return await self._write(lambda tx: chores.cancel(tx, ids, reason))

    async def report_progress(self, rows: Sequence[tuple[str, int, float, str]]) -> None:
        """See `Store.report_progress`."""
        if rows:
            await self._write(lambda tx: chores.report_progress(tx, rows))

    async def sweep(self, names: Sequence[str]) -> SweepReport:
        """See `Store.sweep`."""
        texts = json.dumps(list(names))
        opening = self._opened()
        presence = opening.presence
        seized: dict[str, int] = {}
        clean: list[str] = []

        def look(connection: sqlite3.Connection) -> SweepReport | None:
            if presence is not None:
                self._seize_the_dead(presence, connection, seized)
            return None if seized else chores.look_before_sweep(connection, self._q, self._clock(), texts, self.keep)

        def write(tx: Transaction) -> SweepReport:
            report, clean[:] = chores.sweep(tx, texts, self.keep, list(seized))
            return report

        def after() -> None:
            for who, fd in seized.items():
                assert presence is not None
                presence.bury(who, fd, remove=who in clean)

        return await opening.write(write, look, after)

    def _seize_the_dead(self, presence: Presence, connection: sqlite3.Connection, seized: dict[str, int]) -> None:
        """Find those of this queue that are dead, with their files, which are locked until they are buried."""
        known = connection.execute("SELECT id, q FROM incarnations").fetchall()
        for who, q in known:
            if who != self._me and q == self._q:
                fd = presence.seize(who)
                if fd is not None:
                    seized[who] = fd
        moment = time.monotonic()
        if moment >= self._strangers_at:
            self._strangers_at = moment + _STRANGERS_EVERY
            presence.strangers({who for who, _ in known} | {self._me})

    async def owned(self) -> list[tuple[str, int]]:
        """See `Store.owned`."""
        return await self._read(
            lambda connection: connection.execute(
                "SELECT id, fence FROM jobs WHERE q = ? AND status = 'running' AND owner = ?",
                (self._q, self._me),
            ).fetchall()
        )

    # -- who waits, who looks ------------------------------------------------------------------------------------------

    async def finished(self, ids: Sequence[str]) -> list[Finished]:
        """See `Store.finished`."""
        return await self._read(lambda connection: reads.finished(connection, self._q, ids)) if ids else []

    async def find(self, ids: Sequence[str]) -> list[StoredJob]:
        """See `Store.find`."""
        return await self._read(lambda connection: reads.find(connection, self._q, ids)) if ids else []

    async def page(
        self,
        *,
        status: StoredStatus | None = None,
        name: str | None = None,
        group: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[StoredJob], str | None]:
        """See `Store.page`."""
        return await self._read(lambda connection: reads.page(connection, self._q, status, name, group, limit, cursor))

    async def statistics(self) -> StoreStatistics:
        """See `Store.statistics`."""

        presence = self._opened().presence

        def read(connection: sqlite3.Connection) -> StoreStatistics:
            return reads.statistics(
                connection,
                self._q,
                self._clock(),
                sum(files.sizes(self.path).values()),
                lambda who: who == self._me or (presence is not None and presence.lives(who)),
            )

        return await self._read(read)

    async def schedules(self, limit: int = 200) -> list[ScheduleRow]:
        """See `Store.schedules`."""
        return await self._read(lambda connection: reads.schedules(connection, self._q, limit))

    # -- steering ------------------------------------------------------------------------------------------------------

    async def set_paused(self, paused: bool) -> None:
        """See `Store.set_paused`."""
        await self._write(lambda tx: chores.set_paused(tx, paused))

    async def set_limits(self, limits: Sequence[LimitRow]) -> None:
        """See `Store.set_limits`."""
        await self._write(lambda tx: chores.set_limits(tx, limits))

    async def requeue(self, ids: Sequence[str] | None, status: StoredStatus | None) -> int:
        """See `Store.requeue`."""
        total, after = 0, 0
        (until,) = await self._read(
            lambda reader: reader.execute("SELECT coalesce(max(number), 0) FROM history").fetchone()
        )
        while True:
            some, follows = await self._write(lambda tx, after=after: moves.requeue(tx, ids, status, after, until))  # type: ignore[misc]
            total += some
            if follows is None:
                return total
            after = follows

    async def forget_history(self, older_than: float) -> int:
        """See `Store.forget_history`."""
        total = 0
        while some := await self._write(lambda tx: chores.forget_history(tx, older_than)):
            total += some
        return total

    # -- to another store ----------------------------------------------------------------------------------------------

    async def export(self, limit: int) -> list[StoredJob]:
        """See `Store.export`."""
        return await self._write(lambda tx: moves.export(tx, limit))

    async def restore(self, jobs: Sequence[StoredJob]) -> None:
        """See `Store.restore`."""
        if jobs:
            await self._write(lambda tx: moves.restore(tx, jobs))

    async def forget_moved(self, ids: Sequence[str]) -> None:
        """See `Store.forget_moved`."""
        if ids:
            await self._write(lambda tx: moves.forget_moved(tx, ids))

    # -- what an operator asks -----------------------------------------------------------------------------------------

    async def facts(self) -> Facts:
        """See `Store.facts`."""
        facts = await self._read(lambda connection: files.facts(connection, self.path))
        facts["durability"] = self.durability
        return facts

    # -- inside --------------------------------------------------------------------------------------------------------

    def _opened(self) -> Opening:
        if self._opening is None:
            raise StoreError(f"the store {self.path} is not open: call `await store.open(...)` first")
        return self._opening

    async def _write(
        self, function: Callable[[Transaction], T], look: Callable[[sqlite3.Connection], T | None] | None = None
    ) -> T:
        return await self._opened().write(function, look)

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        return await self._opened().read(function)
