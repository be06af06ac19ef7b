"""The lock of all writers of one SQLite file: whoever wants to write queues in the kernel.

Why not SQLite's own: its busy handler sleeps and asks again, nobody queues, and a writer may wait for seconds while
another one works on. And two connections that write or checkpoint at once can meet SQLite's bug of the log's reset
(before 3.51.3), which damages the file: under this lock no two ever do.

    writer ──▶ turn (exclusive) ──▶ lock (exclusive) ──▶ turn is given back ──▶ BEGIN IMMEDIATE … COMMIT ──▶ unlock

Rule 1: there are two locks, and the *turn* is only held by whoever waits for the lock. A writer that has just unlocked
and comes again finds the turn taken by the next one, and cannot overtake it.

Rule 2: `flock`, not `fcntl`: it belongs to what was opened, so that two stores in one process exclude each other as
two processes do, and it lasts when some other part of the program opens and closes the same file.

Rule 3: a wait is for the kernel, but has an end. Without a rival two calls take both locks, in the writer's thread.
With one a thread of our own waits, which may hang as long as it likes (a holder may be stopped): the writer stops
waiting for it after a while, or when the store closes. A lock that comes when nobody waits any more is given
back at once.

Rule 4: it unlocks by name, never by closing: a child that was forked in between has the same open file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path
from typing import final

from aiopool.errors import StoreUnavailableError

__all__ = ["WriteLock"]


@final
class WriteLock:
    """See the module. One for each store object; `acquire` and `release` are called in one thread."""

    def __init__(self, path: Path, turn: int) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except BaseException:
            os.close(turn)
            raise
        self.turn = turn  # an open directory: its own lock is the turn
        self._changed = threading.Condition()
        self._wanted = self._got = self._has_turn = self._closed = False
        self._waiting = False  # the other thread waits in the kernel
        self._thread: threading.Thread | None = None

    def acquire(self, timeout: float) -> None:
        """Take the lock, after those who came before.

        Raises:
            StoreUnavailableError: not within so many seconds, or the store closes.
        """
        if not self._waiting and self._try():
            return
        with self._changed:
            self._wanted = True
            if not self._waiting:
                self._waiting = True
                if self._thread is None:
                    self._thread = threading.Thread(target=self._wait, name="aiopool-sqlite-lock", daemon=True)
                    self._thread.start()
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._got or self._closed, timeout)
            self._wanted = False
            if self._got:
                self._got = False
                return
        raise StoreUnavailableError(
            f"waited {timeout:g} s to write, and another process holds {self.path}: it is stopped, or its disk hangs; "
            "`fuser` or `lslocks` tell which"
        )

    def release(self) -> None:
        """Give the lock back."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def interrupt(self) -> None:
        """Let nobody wait any more, now or later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def close(self) -> None:
        """Give everything back. A thread that waits in the kernel closes the file when it comes back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._thread is None:
                self._close()

    def drop(self) -> None:
        """Close the files, in a child that was forked: the locks stay with the parent."""
        for fd in (self.fd, self.turn):
            with contextlib.suppress(OSError):
                os.close(fd)

    def _try(self) -> bool:
        try:
            fcntl.flock(self.turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._has_turn = True  # the other thread goes on from here
            return False
        fcntl.flock(self.turn, fcntl.LOCK_UN)
        return True

    def _wait(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    self._close()
                    return
            if not self._has_turn:
                fcntl.flock(self.turn, fcntl.LOCK_EX)
            self._has_turn = False
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            fcntl.flock(self.turn, fcntl.LOCK_UN)
            with self._changed:
                self._waiting = False
                if self._wanted and not self._closed:
                    self._got = True
                    self._changed.notify_all()
                else:
                    fcntl.flock(self.fd, fcntl.LOCK_UN)

    def _close(self) -> None:
        os.close(self.fd)
        os.close(self.turn)
