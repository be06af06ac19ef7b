"""What runs in a process of a pool: it takes one call after another, and sends back what became of it.

It ends when it is told to, when the pool's side of the connection is gone, and at the latest with the pool's process
(on Linux the kernel sees to that). Whether a call is to stop is not its business: the pool kills the process.

SIGINT and SIGTERM do nothing here. A terminal, or systemd, sends them to all processes of a program, and the pool's
decides what becomes of the jobs. The process leads a group of its own, so that what a call has started is killed with
it.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, final

from aiopool._runtime.die_with_parent import die_with_parent
from aiopool._runtime.faults import describe_error, drop_frame, type_name
from aiopool._runtime.messages import FAILED, NOTE, QUIT, READY, RETURNED, Buffer, MessageReader, encode
from aiopool._runtime.pickled_call import PROTOCOL, PickledCall
from aiopool.errors import NotPicklableError

__all__ = ["run_calls"]

# Seconds between two notes of a call: nobody reads faster. The last one is always sent.
_NOTE_INTERVAL = 0.02


def run_calls(connection: socket.socket) -> None:
    """Run the calls that come over a connection, until it is closed."""
    if sys.platform.startswith("linux"):
        die_with_parent()
    signal.set_wakeup_fd(-1)  # a fork has that of its parent's event loop
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)  # no SIG_IGN: what a call starts would inherit that
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    # When nobody is there any more, there is nothing to do.
    with connection, contextlib.suppress(EOFError, ConnectionError):
        line = _Line(connection)
        line.send(READY)
        while (call := line.next_call()) is not None:
            _run(call, line)
            del call


def _ignore(number: int, frame: object) -> None:
    pass


@final
class _Line:
    """This process's end of the connection; several threads of a call may send notes."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connection = connection
        self._reader = MessageReader(connection)
        self._lock = threading.Lock()
        self._note: Any = None
        self._noted_at = 0.0

    def next_call(self) -> list[Buffer] | None:
        """Wait for the next call, or None: there are no more."""
        while isinstance(message := self._reader.read(), int):
            pass
        kind, parts = message
        return None if kind == QUIT else parts

    def send(self, kind: int, parts: list[Buffer] | None = None) -> None:
        with self._lock:
            for piece in encode(kind, parts or []):
                self._connection.sendall(piece)

    def note(self, note: object) -> None:
        """Send a note of the running call, or keep it if the last one was sent just now."""
        now = time.monotonic()
        if now - self._noted_at < _NOTE_INTERVAL:
            self._note = note
        else:
            self._note, self._noted_at = None, now
            self.send(NOTE, [pickle.dumps(note, PROTOCOL)])

    def send_outcome(self, kind: int, parts: list[Buffer]) -> None:
        note, self._note, self._noted_at = self._note, None, 0.0
        if note is not None:
            self.send(NOTE, [pickle.dumps(note, PROTOCOL)])
        self.send(kind, parts)


def _run(parts: list[Buffer], line: _Line) -> None:
    """Run one call, and send its outcome."""
    about = pickle.loads(parts[0])  # noqa: S301 - from the pool
    call = PickledCall(bytes(parts[1]), about.name)
    try:
        # A context of its own: what it sets there is not for the next call.
        value = contextvars.Context().run(_call, about, call, line.note)
    except BaseException as error:
        # Without our own three frames, which tell the reader nothing.
        outcome = _failed(call.name, drop_frame(drop_frame(drop_frame(error))))
    else:
        outcome = _returned(call.name, value)
        del value
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the call may have closed it, which is no failure of the call
            stream.flush()  # the process may be killed before it does so by itself
    line.send_outcome(*outcome)


def _call(about: Any, call: PickledCall, note: Callable[[object], None]) -> Any:
    about.begin(note)
    return call()


def _returned(name: str, value: object) -> tuple[int, list[Buffer]]:
    try:
        try:
            buffers: list[pickle.PickleBuffer] = []
            first = pickle.dumps(value, PROTOCOL, buffer_callback=buffers.append)
            return RETURNED, [first, *[buffer.raw() for buffer in buffers]]
        except BufferError:  # memory with gaps
            return RETURNED, [pickle.dumps(value, PROTOCOL)]
    except BaseException as error:
        return _failed(
            name,
            NotPicklableError(
                f"{name} returned a value ({type_name(value)}) that cannot be sent back from its process: "
                f"{describe_error(error)}. Return what it is made of (a path, a number, a text, a dict of these); or "
                'run the function in a thread: offload="thread"'
            ),
        )


def _failed(name: str, error: BaseException) -> tuple[int, list[Buffer]]:
    trace = _format(error)
    try:
        data = pickle.dumps(error, PROTOCOL)
        if type(pickle.loads(data)) is type(error):  # noqa: S301 - our own; many do not come out of it again
            return FAILED, [data, trace]
        reason = "it comes out of its pickle as another type"
    except BaseException as fault:
        reason = describe_error(fault)
    stand_in = NotPicklableError(
        f"{name} raised {describe_error(error)}, and that exception cannot be sent back from its process: {reason}. "
        f"Give {type_name(error)} a __reduce__ that returns the class and its arguments"
    )
    return FAILED, [pickle.dumps(stand_in, PROTOCOL), trace]


def _format(error: BaseException) -> bytes:
    try:
        return "".join(traceback.format_exception(error)).encode("utf-8", "replace")
    except BaseException:
        return describe_error(error).encode("utf-8", "replace")
