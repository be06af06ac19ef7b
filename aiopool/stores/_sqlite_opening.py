"""One opening of a SQLite file by one incarnation: its threads, its lock, its place among the living; and its end.

What it knows: in which order these come and go. What it refuses to know: what is written and read through it.

Rule 1: it is among the living before it is in the table, and leaves the table before it stops to live: whoever is in
the table and not alive is dead.

Rule 2: it ends in a bounded time, whoever holds the lock. What it could not give back is rescued by the others.

Rule 3: in a child that was forked it lets go of all files, and raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, final

from aiopool._runtime.daemon_thread import run_in_daemon_thread
from aiopool.errors import StoreError, StoreUnavailableError
from aiopool.stores import _sqlite_files as files
from aiopool.stores._protocol import Wake
from aiopool.stores._rows import Incarnation
from aiopool.stores._sqlite_chores import rescue
from aiopool.stores._sqlite_live import Presence
from aiopool.stores._sqlite_lock import WriteLock
from aiopool.stores._sqlite_schema import connect, migrate
from aiopool.stores._sqlite_threads import Reader, Writer
from aiopool.stores._sqlite_tx import Transaction

__all__ = ["Opening"]

T = TypeVar("T")

_WAKES: Final[dict[int, Wake]] = {ord("w"): "work", ord("c"): "cancel", ord("f"): "finished"}
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_CLOSING: Final = 3.0  # seconds that a close waits for the lock, and for each thread
_RESCUED: Final = 1000  # rows that one transaction gives back


@final
class Opening:
    """See the module.

    Attributes:
        q: the number of the queue, once it is open.
        presence: this one among the living.
    """

    def __init__(
        self,
        path: Path,
        me: Incarnation,
        on_wake: Callable[[Wake], object],
        *,
        full: bool,
        clock: Callable[[], float],
    ) -> None:
        self.path = path
        self.me = me
        self.q = 0
        self.presence: Presence | None = None
        self.lock: WriteLock | None = None
        self.writer: Writer | None = None
        self.reader: Reader | None = None
        self._on_wake: Callable[[Wake], object] | None = on_wake
        self._full = full
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._forked = False

    async def open(self, queue: str) -> None:
        """Enter, connect and register.

        Raises:
            StoreError: it cannot be used.
        """
        files.OPEN.add(self)
        try:
            presence, lock = await run_in_daemon_thread(self._enter, name="aiopool-sqlite-open")
            self.presence, self.lock = presence, lock
            name = f"aiopool-sqlite-{self.path.name}"
            self.writer = Writer(self.path, f"{name}-writer", self._connect, lock, self._begin, self._wake)
            await self.writer.open()
            await self.write(lambda tx: self._register(tx, queue))
            self.reader = Reader(self.path, f"{name}-reader", self._connect_reader)
            await self.reader.open()
        except BaseException:
            await self.shut()
            raise
        if presence.socket is not None:
            self._loop.add_reader(presence.socket, self._receive, presence.socket)

    async def close(self) -> None:
        """Give back what is held, and leave."""
        if os.getpid() != self._pid:
            return
        try:
            with contextlib.suppress(StoreError):  # the others see that its file is not locked any more
                while await asyncio.wait_for(self.write(self._unregister), _CLOSING):
                    pass
        except TimeoutError:
            pass
        finally:
            await self.shut()

    async def shut(self, *, silently: bool = False) -> None:
        """Close everything; `silently`: leave behind what a killed process does, for tests."""
        files.OPEN.discard(self)
        writer, reader, presence, lock = self.writer, self.reader, self.presence, self.lock
        self.writer = self.reader = self._on_wake = None
        if presence is not None and presence.socket is not None:
            self._loop.remove_reader(presence.socket)
        if reader is not None:
            await reader.close(_CLOSING)
        closed = writer is None or await writer.close(_CLOSING)
        if writer is not None and lock is not None and not closed:
            lock.interrupt()
            closed = await writer.close(_CLOSING)
        if lock is not None and closed:  # else it hangs in a commit, which has to stay under the lock
            lock.close()
        if presence is not None:
            presence.drop() if silently else presence.leave()

    def after_fork(self) -> None:
        """Let go of all files, in a child: called by the hook of `_sqlite_files.py`."""
        self._forked = True
        if self.presence is not None:
            self.presence.drop()
        if self.lock is not None:
            self.lock.drop()
        for thread in (self.writer, self.reader):
            if thread is not None and thread.connection is not None:
                files.never_close(thread.connection)

    async def write(
        self,
        function: Callable[[Transaction], T],
        look: Callable[[sqlite3.Connection], T | None] | None = None,
        after: Callable[[], object] | None = None,
    ) -> T:
        """Carry a function out in a transaction; see `Writer.write`."""
        self._check()
        if self.writer is None:
            raise StoreError(f"the store {self.path} is not open")
        return await self.writer.write(function, look, after)

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Carry a function out that reads."""
        self._check()
        if self.reader is None:
            raise StoreError(f"the store {self.path} is not open")
        return await self.reader.read(function)

    def _check(self) -> None:
        if self._forked or self._pid != os.getpid():
            raise StoreError(
                f"the store {self.path} was opened before a fork, by process {self._pid}, and this is its child "
                f"{os.getpid()}; open the store in each process, after the fork"
            )

    # -- coming in -----------------------------------------------------------------------------------------------------

    def _enter(self) -> tuple[Presence, WriteLock]:
        files.check_place(self.path)
        presence = None
        try:
            presence = Presence(files.beside(self.path, "-live"))
            turn = os.open(presence.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            lock = WriteLock(files.beside(self.path, "-lock"), turn)
            try:
                presence.enter(self.me.id)
            except BaseException:
                lock.close()
                raise
        except BaseException as error:
            if presence is not None:
                presence.leave()
            if not isinstance(error, OSError):
                raise
            if error.errno in _NO_ROOM:
                raise StoreUnavailableError(f"opened {self.path} as a store: {error}; try again with room") from error
            raise StoreError(
                f"opened {self.path} as a store, and its lock files cannot be made: {error}; let this user write in "
                f"{self.path.parent}"
            ) from error
        return presence, lock

    def _connect(self) -> sqlite3.Connection:
        assert self.lock is not None
        files.check_file(self.path, self.lock.fd)
        connection = connect(self.path, full=self._full)
        try:
            migrate(connection, self.path)
            files.mark_made(self.lock.fd)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        return connect(self.path, full=self._full, reads_only=True)

    def _begin(self, connection: sqlite3.Connection) -> Transaction:
        return Transaction(connection, self.q, self.me.id, self._clock())

    def _register(self, tx: Transaction, queue: str) -> None:
        connection, me = tx.connection, self.me
        connection.execute("INSERT INTO queues (name) VALUES (?) ON CONFLICT DO NOTHING", (queue,))
        (self.q,) = connection.execute("SELECT q FROM queues WHERE name = ?", (queue,)).fetchone()
        connection.execute(
            "INSERT INTO incarnations (id, q, host, pid, runs_jobs, started_at) VALUES (?, ?, ?, ?, ?, ?)",
            (me.id, self.q, me.host, me.pid, int(me.runs_jobs), tx.now),
        )

    def _unregister(self, tx: Transaction) -> bool:
        rescued, _ = rescue(tx, self.me.id, _RESCUED)
        tx.finish()
        return rescued == _RESCUED

    # -- waking --------------------------------------------------------------------------------------------------------

    def _wake(self, connection: sqlite3.Connection, wakes: set[tuple[str | None, bytes]]) -> None:
        """Send what a transaction has noted; called in the writer's thread."""
        presence, mine = self.presence, self.me.id
        if presence is None:
            return
        others = connection.execute(
            "SELECT id, runs_jobs FROM incarnations WHERE q = ? AND id <> ?", (self.q, mine)
        ).fetchall()
        for target, what in wakes:
            if target == mine:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._tell, what[0])
                continue
            for who, runs_jobs in others:
                if target == who or (target is None and runs_jobs):
                    presence.send(who, what)

    def _receive(self, receiver: object) -> None:
        got: set[int] = set()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                got.update(receiver.recv(16))  # type: ignore[attr-defined]  # a socket
        for what in sorted(got):
            self._tell(what)

    def _tell(self, what: int) -> None:
        if what in _WAKES and self._on_wake is not None:
            self._on_wake(_WAKES[what])
