"""The two threads of a SQLite store: one writes, one reads. The loop gives them functions, and awaits what comes back.

Rule 1: a verb is one hop there and one hop back, however many statements it has. All that has come in while the disk
was busy goes into one transaction: on a slow disk a commit is shared by the verbs that overlap. If anything fails in
it, each of them is carried out once more, alone, so nobody bears the error of another.

Rule 2: everything that writes, checkpoints, opens or closes does so under the lock of all writers (`_sqlite_lock.py`).

Rule 3: answers and wake-ups leave after the commit, never before.

Rule 4: when the disk does not confirm a write, nothing more is written: what is on it is unknown, and a second try
would only look fine.

Rule 5: they are daemon threads: a disk that hangs keeps no program from its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, final

from aiopool._runtime import failpoints
from aiopool.errors import StoreError, StoreUnavailableError
from aiopool.stores._sqlite_lock import WriteLock
from aiopool.stores._sqlite_schema import is_fatal, story_of
from aiopool.stores._sqlite_tx import Transaction

__all__ = ["Reader", "Writer"]

T = TypeVar("T")

_TOGETHER: Final = 16  # verbs of one transaction


class _Thread:
    """A thread that carries out what it is given, in order."""

    def __init__(self, path: Path, name: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self.path = path
        self.connection: sqlite3.Connection | None = None
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closed = False
        self._last: asyncio.Future[Any] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def post(self, item: Any) -> asyncio.Future[Any]:
        if self._closed:
            raise StoreError(f"the store {self.path} is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._inbox.put((future, item))
        return future

    async def open(self) -> None:
        """Connect."""
        await self.post(None)

    async def close(self, timeout: float) -> bool:
        """Carry out what was given before, and disconnect; return whether that was done in time."""
        if self._last is None:
            self._last = self.post(False)
            self._closed = True
        await asyncio.wait({self._last}, timeout=timeout)
        if not self._last.done():
            return False
        self._last.exception()  # it is closed all the same
        return True

    def deliver(self, answers: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(_deliver, answers)

    def _run(self) -> None:
        while True:
            batch = [self._inbox.get()]
            while len(batch) < _TOGETHER and not self._inbox.empty():
                batch.append(self._inbox.get())
            todo: list[tuple[asyncio.Future[Any], Any]] = []
            last = None
            for future, item in batch:
                if item is None:
                    self._call(future, self._open)
                elif item is False:
                    last = future
                else:
                    todo.append((future, item))
            if todo:
                self.work(todo)
            if last is not None:
                self._call(last, self.disconnect)
                return
            del batch, todo  # an idle thread keeps nothing alive
            future = item = None

    def _call(self, future: asyncio.Future[Any], function: Callable[[], object]) -> None:
        error: BaseException | None = None
        try:
            function()
        except BaseException as caught:
            error = story_of(caught, self.path, "opened")
        self.deliver([(future, None, error)])

    def _open(self) -> None:
        self.connection = self._connect()

    def disconnect(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def work(self, todo: list[tuple[asyncio.Future[Any], Any]]) -> None:
        """Carry out what was given."""
        raise NotImplementedError


def _deliver(answers: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, result, error in answers:
        if future.done():  # whoever waited has been cancelled
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


@final
class Reader(_Thread):
    """The thread that reads."""

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Carry a function out."""
        result: T = await self.post(function)
        return result

    def work(self, todo: list[tuple[asyncio.Future[Any], Any]]) -> None:
        for future, function in todo:
            result, error = None, None
            try:
                result = function(self.connection)
            except BaseException as caught:
                error = story_of(caught, self.path, "read")
            self.deliver([(future, result, error)])


@final
class Writer(_Thread):
    """The thread that writes.

    Attributes:
        wait: seconds to wait for the lock of all writers.
        begin: makes a transaction of a connection.
        wake: sends what a transaction has noted.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        connect: Callable[[], sqlite3.Connection],
        lock: WriteLock,
        begin: Callable[[sqlite3.Connection], Transaction],
        wake: Callable[[sqlite3.Connection, set[tuple[str | None, bytes]]], None],
    ) -> None:
        self.lock = lock
        self.wait = 10.0
        self._begin = begin
        self._wake = wake
        self._broken: StoreError | None = None
        super().__init__(path, name, connect)

    async def write(
        self,
        function: Callable[[Transaction], T],
        look: Callable[[sqlite3.Connection], T | None] | None = None,
        after: Callable[[], object] | None = None,
    ) -> T:
        """Carry a function out in a transaction.

        Args:
            function: may be called more than once, if it shares a transaction with others.
            look: reads only, before; if it returns an answer, there is nothing to write, and no need for the lock.
            after: called in the end, whatever has happened, also if nobody waits any more; must not raise.
        """
        result: T = await self.post((function, look, after))
        return result

    def _open(self) -> None:
        self.lock.acquire(self.wait)
        try:
            self.connection = self._connect()
        finally:
            self.lock.release()

    def disconnect(self) -> None:
        """Close the connection; the last one that closes writes the log back into the file."""
        if self.connection is None:
            return
        try:
            self.lock.acquire(self.wait)
        except StoreUnavailableError:
            # Whoever holds the lock has the file open, so this is not the last connection, and writes nothing back.
            super().disconnect()
            return
        try:
            super().disconnect()
        finally:
            self.lock.release()

    def work(self, todo: list[tuple[asyncio.Future[Any], Any]]) -> None:
        try:
            rest = self._without_idle(todo)
            if len(rest) == 1 or (rest and not self._shared(rest)):
                for future, function in rest:
                    result, error = None, None
                    try:
                        (result,) = self._together([function])
                    except BaseException as caught:
                        error = story_of(caught, self.path, "wrote to")
                    self.deliver([(future, result, error)])
        finally:
            for _, (_, _, after) in todo:
                if after is not None:
                    after()

    def _without_idle(self, todo: list[tuple[asyncio.Future[Any], Any]]) -> list[tuple[asyncio.Future[Any], Any]]:
        """Answer those that have nothing to write, and come before all that do; return the others."""
        rest: list[tuple[asyncio.Future[Any], Any]] = []
        for future, (function, look, _) in todo:
            if look is not None and self._broken is None and self.connection is not None:
                try:
                    answer = look(self.connection)
                except BaseException as caught:
                    self.deliver([(future, None, story_of(caught, self.path, "read"))])
                    continue
                if answer is not None and not rest:
                    self.deliver([(future, answer, None)])
                    continue
            rest.append((future, function))
        return rest

    def _shared(self, rest: list[tuple[asyncio.Future[Any], Any]]) -> bool:
        """Carry all out in one transaction; False: one of them has failed, and nothing was changed."""
        try:
            results = self._together([function for _, function in rest])
        except StoreError as error:  # the lock, or the disk: it is the same for all
            self.deliver([(future, None, error) for future, _ in rest])
            return True
        except Exception:  # whose fault it was shows when each is alone
            return False
        self.deliver([(future, result, None) for (future, _), result in zip(rest, results, strict=True)])
        return True

    def _together(self, functions: list[Callable[[Transaction], Any]]) -> list[Any]:
        connection = self.connection
        if self._broken is not None:
            raise self._broken
        if connection is None:
            raise StoreError(f"the store {self.path} is not open")
        wakes: set[tuple[str | None, bytes]] = set()
        results: list[Any] = []
        self.lock.acquire(self.wait)
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for function in functions:
                    tx = self._begin(connection)
                    results.append(function(tx))
                    wakes |= tx.wakes
                if failpoints.ACTIVE:
                    failpoints.reach("commit.before")
                connection.execute("COMMIT")
                if failpoints.ACTIVE:
                    failpoints.reach("commit.after")
            except BaseException as caught:
                if is_fatal(caught):
                    broken = story_of(caught, self.path, "wrote to")
                    assert isinstance(broken, StoreError)
                    self._broken = broken
                elif connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        finally:
            self.lock.release()
        if wakes:
            with contextlib.suppress(sqlite3.Error):  # hints
                self._wake(connection, wakes)
        return results
