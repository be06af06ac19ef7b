"""Who is alive among the processes of one SQLite file, and how they wake each other.

Rule 1: the kernel tells. Each incarnation holds an exclusive `flock` on a file of its own; the kernel drops it when the
process dies, however it dies, and never before: one that is stopped, or whose loop is blocked, is alive. There is no
lease and no clock in it.

Rule 2: a name never comes back, and whoever has locked a file checks that it is still the one in the directory: it may
have been removed between its making and its locking.

Rule 3: a wake-up is one byte in a datagram, sent without waiting; when it cannot be sent, it is not. It costs time
then, never a job.

Rule 4: a path of a socket has at most 107 bytes, so sockets are named through the open directory
(`/proc/self/fd/N/...`); without `/proc` by their path, if that is short enough; else there are no wake-ups.

Rule 5: a child that was forked has the same open files, and would keep its dead parent alive: it closes them first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import socket
import time
from pathlib import Path
from typing import Final, final

from aiopool.errors import StoreError

__all__ = ["Presence"]

_LONGEST: Final = 107
_TRIES: Final = 100


def _file_name(incarnation: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", incarnation):
        return incarnation
    return "x" + hashlib.sha256(incarnation.encode()).hexdigest()[:40]


@final
class Presence:
    """This incarnation among the others."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.socket: socket.socket | None = None
        self._lock: int | None = None
        self._name = ""

    def enter(self, incarnation: str) -> None:
        """Begin to live."""
        name = _file_name(incarnation)
        for _ in range(_TRIES):
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666, dir_fd=self.fd)
            try:
                with contextlib.suppress(FileNotFoundError, BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.stat(name, dir_fd=self.fd).st_ino == os.fstat(fd).st_ino:
                        break
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
            time.sleep(0.01)  # one that looks whether it is dead holds it for a moment
        else:
            raise StoreError(f"opened the store as {incarnation!r}, and somebody is that already: use a fresh id")
        self._lock, self._name = fd, name
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            receiver.bind(self._address(name))
        except (OSError, ValueError):
            receiver.close()
        else:
            self.socket = receiver

    def lives(self, incarnation: str) -> bool:
        """Return whether another one lives."""
        fd = self._open(incarnation)
        if fd is None:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def seize(self, incarnation: str) -> int | None:
        """Return the locked file of a dead one, -1 if it has none; None: it lives, or somebody else has seized it."""
        fd = self._open(incarnation)
        if fd is None:
            return -1
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def bury(self, incarnation: str, seized: int, *, remove: bool) -> None:
        """Let go of what was seized; remove it, if the dead one has left nothing behind."""
        if remove:
            with contextlib.suppress(OSError):  # it has left meanwhile
                self._remove(_file_name(incarnation))
        if seized >= 0:
            os.close(seized)

    def strangers(self, known: set[str]) -> None:
        """Remove the files of those who died before they were known, or after they were forgotten."""
        names = {_file_name(incarnation) for incarnation in known}
        for entry in os.listdir(self.fd)[:1000]:
            name = entry.removesuffix(".sock")
            if name in names or name == self._name:
                continue
            try:
                fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666, dir_fd=self.fd)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove(name)
            except BlockingIOError:
                pass
            finally:
                os.close(fd)

    def send(self, incarnation: str, what: bytes) -> None:
        """Wake another one, if that can be done at once."""
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.sendto(what, self._address(_file_name(incarnation)))

    def leave(self) -> None:
        """Live no more."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        if self._lock is not None:
            self._remove(self._name)
            os.close(self._lock)
            self._lock = None
        fd, self.fd = self.fd, -1
        os.close(fd)

    def drop(self) -> None:
        """Close all files, in a child that was forked: the locks stay with the parent."""
        if self.socket is not None:
            self.socket.close()
        for fd in (self._lock, self.fd):
            if fd is not None:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def _open(self, incarnation: str) -> int | None:
        try:
            return os.open(_file_name(incarnation), os.O_RDWR | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return None

    def _address(self, name: str) -> str:
        address = f"/proc/self/fd/{self.fd}/{name}.sock"
        if os.path.isdir("/proc/self/fd"):
            return address
        address = f"{self.directory}/{name}.sock"
        if len(os.fsencode(address)) > _LONGEST:
            raise ValueError("the path of a socket is too long")
        return address

    def _remove(self, name: str) -> None:
        for each in (name + ".sock", name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(each, dir_fd=self.fd)
