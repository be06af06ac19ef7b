"""`Process`: one process of a pool, from this side: its connection, what tells its end, and how it is killed.

Always true: after it has ended (`gone`) its number is used no more, for it may be that of another process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections import deque
from typing import Any, final

from aiopool._runtime.messages import Buffer, MessageReader, encode

__all__ = ["Process"]


@final
class Process:
    """One process, from this side."""

    __slots__ = (
        "_outgoing",
        "call",
        "connection",
        "cut",
        "dying",
        "gone",
        "handle",
        "late",
        "pidfd",
        "reader",
        "ready",
    )

    def __init__(self, handle: Any, connection: socket.socket) -> None:
        self.handle = handle
        self.connection = connection
        self.reader = MessageReader(connection)
        self._outgoing: deque[memoryview] = deque()
        self.pidfd: int | None = None
        self.call: Any = None
        self.ready = False  # it has imported what it needs
        self.cut = False  # it has closed its end of the connection
        self.dying = False  # it gets no more calls
        self.gone = False  # it has ended, and its number may be that of another process
        self.late = 0  # how often its exit code was not there yet

    @property
    def watched(self) -> int:
        """What tells its end."""
        descriptor: int = self.handle.sentinel if self.pidfd is None else self.pidfd
        return descriptor

    def has_ended(self) -> bool:
        """Ask the system, for the loop may not have heard of it yet."""
        poll = select.poll()
        poll.register(self.watched, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self) -> None:
        """End it now, and what its call has started with it."""
        self.dying = True
        if self.gone or self.handle.pid is None:
            return  # it is being started, and `_started` looks; or it has ended
        if self.ready:
            with contextlib.suppress(OSError):
                os.killpg(self.handle.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            if self.pidfd is None:
                self.handle.kill()
            else:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def send(self, kind: int, parts: list[Buffer] | None = None) -> bool:
        """Send a message, now or as the connection takes it; whether somebody has to call `write` later."""
        had_more = bool(self._outgoing)
        self._outgoing += map(memoryview, encode(kind, parts or []))
        return not had_more and not self.write()

    def write(self) -> bool:
        """Send what the connection takes; whether that is all."""
        outgoing = self._outgoing
        while outgoing:
            try:
                sent = self.connection.send(outgoing[0])
            except BlockingIOError:
                return False
            except OSError:  # it dies, and that is told elsewhere
                outgoing.clear()
                return True
            if sent == len(outgoing[0]):
                outgoing.popleft()
            else:
                outgoing[0] = outgoing[0][sent:]
        return True
