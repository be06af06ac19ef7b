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

import asyncio
import contextlib
import errno
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar, final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from aiopool._runtime.daemon_thread import run_in_daemon_thread
from aiopool.errors import StoreError, StoreUnavailableError
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
    Settlement,
    StoredJob,
    StoredStatus,
    StoreStatistics,
    Submitted,
    SweepReport,
)
from aiopool.stores._sqlite_live import Presence
from aiopool.stores._sqlite_lock import WriteLock
from aiopool.stores._sqlite_schema import LEAST_VERSION, connect, migrate
from aiopool.stores._sqlite_threads import Reader, Writer
from aiopool.stores._sqlite_tx import Transaction

__all__ = ["SQLite"]

T = TypeVar("T")

_WAKES: Final[dict[int, Wake]] = {ord("w"): "work", ord("c"): "cancel", ord("f"): "finished"}
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_CLOSING: Final = 3.0  # seconds that a close waits for the lock, and for each thread
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
        self._pid = 0
        self._q = 0
        self._me = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._presence: Presence | None = None
        self._lock: WriteLock | None = None
        self._on_wake: Callable[[Wake], object] | None = None
        self._strangers_at = 0.0
        self._forked = False

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
        if self._writer is not None:
            raise StoreError(f"opened {self.path}, which this store has open already; make another SQLite(...)")
        if sqlite3.sqlite_version_info < LEAST_VERSION:
            raise StoreError(
                f"this Python has SQLite {sqlite3.sqlite_version}, and the store needs "
                f"{'.'.join(map(str, LEAST_VERSION))}; use a newer Python, or another store"
            )
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._forked = False
        self._me = me.id
        self._on_wake = on_wake
        files.OPEN.add(self)
        try:
            await run_in_daemon_thread(self._enter, name="aiopool-sqlite-open")
            assert self._lock is not None
            assert self._presence is not None
            name = f"aiopool-sqlite-{self.path.name}"
            self._writer = Writer(self.path, f"{name}-writer", self._connect, self._lock, self._begin, self._wake)
            await self._writer.open()
            await self._write(lambda tx: self._register(tx, queue, me))
            self._reader = Reader(self.path, f"{name}-reader", self._connect_reader)
            await self._reader.open()
        except BaseException:
            await self._shut()
            raise
        if self._presence.socket is not None:
            self._loop.add_reader(self._presence.socket, self._receive, self._presence.socket)

    def _enter(self) -> None:
        files.check_place(self.path)
        try:
            self._presence = Presence(files.beside(self.path, "-live"))
            turn = os.open(self._presence.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock = WriteLock(files.beside(self.path, "-lock"), turn)
            self._presence.enter(self._me)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise StoreUnavailableError(f"opened {self.path} as a store: {error}; try again with room") from error
            raise StoreError(
                f"opened {self.path} as a store, and its lock files cannot be made: {error}; let this user write in "
                f"{self.path.parent}"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        assert self._lock is not None
        files.check_file(self.path, self._lock.fd)
        connection = connect(self.path, full=self.durability == "power")
        try:
            migrate(connection, self.path)
            files.mark_made(self._lock.fd)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        return connect(self.path, full=self.durability == "power", reads_only=True)

    def _register(self, tx: Transaction, queue: str, me: Incarnation) -> None:
        connection = tx.connection
        connection.execute("INSERT INTO queues (name) VALUES (?) ON CONFLICT DO NOTHING", (queue,))
        (self._q,) = connection.execute("SELECT q FROM queues WHERE name = ?", (queue,)).fetchone()
        connection.execute(
            "INSERT INTO incarnations (id, q, host, pid, runs_jobs, started_at) VALUES (?, ?, ?, ?, ?, ?)",
            (me.id, self._q, me.host, me.pid, int(me.runs_jobs), tx.now),
        )

    async def close(self) -> None:
        """See `Store.close`."""
        if self._writer is None:
            return
        if os.getpid() != self._pid:
            return
        try:
            with contextlib.suppress(StoreError):  # the others see that its file is not locked any more
                while await asyncio.wait_for(self._write(self._unregister), _CLOSING):
                    pass
        except TimeoutError:
            pass
        finally:
            await self._shut()

    def _unregister(self, tx: Transaction) -> bool:
        rescued, _ = chores.rescue(tx, self._me, 1000)
        tx.finish()
        return rescued == 1000

    async def _die(self) -> None:
        """Let go of everything without a word, as at a SIGKILL; for tests."""
        presence, self._presence = self._presence, None
        if presence is not None and presence.socket is not None and self._loop is not None:
            self._loop.remove_reader(presence.socket)
        await self._shut()
        if presence is not None:
            presence.drop()

    async def _shut(self) -> None:
        files.OPEN.discard(self)
        writer, reader, presence, lock = self._writer, self._reader, self._presence, self._lock
        self._writer = self._reader = self._presence = self._lock = None
        if presence is not None and presence.socket is not None and self._loop is not None:
            self._loop.remove_reader(presence.socket)
        if reader is not None:
            await reader.close(_CLOSING)
        if writer is not None and not await writer.close(_CLOSING) and lock is not None:
            lock.interrupt()
            await writer.close(_CLOSING)
        if lock is not None:
            lock.close()
        if presence is not None:
            presence.leave()

    def after_fork(self) -> None:
        """Let go of all files, in a child: called by the hook of `_sqlite_files.py`."""
        self._forked = True
        if self._presence is not None:
            self._presence.drop()
        if self._lock is not None:
            self._lock.drop()
        for thread in (self._writer, self._reader):
            if thread is not None and thread.connection is not None:
                files.never_close(thread.connection)

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
        presence = self._presence
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

        return await self._write(write, look, after)

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

        def read(connection: sqlite3.Connection) -> StoreStatistics:
            presence = self._presence
            return reads.statistics(
                connection,
                self._q,
                self._clock(),
                sum(files.sizes(self.path).values()),
                lambda who: who == self._me or (presence is not None and presence.lives(who)),
            )

        return await self._read(read)

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

    def _begin(self, connection: sqlite3.Connection) -> Transaction:
        return Transaction(connection, self._q, self._me, self._clock())

    def _check(self) -> None:
        if self._forked or (self._pid and self._pid != os.getpid()):
            raise StoreError(
                f"the store {self.path} was opened before a fork, by process {self._pid}, and this is its child "
                f"{os.getpid()}; open the store in each process, after the fork"
            )

    async def _write(
        self,
        function: Callable[[Transaction], T],
        look: Callable[[sqlite3.Connection], T | None] | None = None,
        after: Callable[[], object] | None = None,
    ) -> T:
        self._check()
        if self._writer is None:
            raise StoreError(f"the store {self.path} is not open")
        return await self._writer.write(function, look, after)

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        self._check()
        if self._reader is None:
            raise StoreError(f"the store {self.path} is not open")
        return await self._reader.read(function)

    def _wake(self, connection: sqlite3.Connection, wakes: set[tuple[str | None, bytes]]) -> None:
        """Send what a transaction has noted; called in the writer's thread."""
        presence = self._presence
        if presence is None:
            return
        others = connection.execute(
            "SELECT id, runs_jobs FROM incarnations WHERE q = ? AND id <> ?", (self._q, self._me)
        ).fetchall()
        for target, what in wakes:
            if target == self._me and self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._tell, what[0])
        for who, runs_jobs in others:
            for target, what in wakes:
                if target == who or (target is None and runs_jobs):
                    presence.send(who, what)

    def _receive(self, receiver: object) -> None:
        got: set[int] = set()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                got.update(receiver.recv(16))  # type: ignore[attr-defined]  # a socket
        for what in got:
            self._tell(what)

    def _tell(self, what: int) -> None:
        if what in _WAKES and self._on_wake is not None and self._presence is not None:
            self._on_wake(_WAKES[what])
