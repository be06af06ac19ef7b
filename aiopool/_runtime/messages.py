"""Messages between a pool and its processes: a kind, and parts of bytes, on a stream socket.

The first part is a pickle. The others are the buffers that it refers to (protocol 5): memory that is sent as it is, and
received into its place, so that an array of 100 MB is copied once on each side.

Always true: a reader takes no more from its socket than the message at hand, so it holds no bytes back.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Sequence
from typing import final

__all__ = ["CALL", "FAILED", "NOTE", "QUIT", "READY", "RETURNED", "Buffer", "Message", "MessageReader", "encode"]

# To a process: run a call; end. From a process: it has started; the call says something; its outcome.
CALL, QUIT, READY, NOTE, RETURNED, FAILED = range(1, 7)

_HEADER = struct.Struct("!BIQ")  # the kind, how many parts, the size of the first
_SIZE = struct.Struct("!Q")
_PAGES = 1 << 20
_JOINED = 65536  # parts of so many bytes are cheaper to copy than to send one by one

Buffer = bytes | bytearray | memoryview
Message = tuple[int, list[Buffer]]


def encode(kind: int, parts: Sequence[Buffer] = ()) -> list[Buffer]:
    """Return what to send, in order, for one message."""
    sizes = [len(part) for part in parts] or [0]
    head = _HEADER.pack(kind, len(parts), sizes[0]) + b"".join(map(_SIZE.pack, sizes[1:]))
    if sum(sizes) <= _JOINED:
        return [b"".join([head, *parts])]
    return [head, *parts]


@final
class MessageReader:
    """Puts messages together from what a socket gives."""

    __slots__ = ("_filled", "_kind", "_missing", "_parts", "_sizes", "_socket", "_target")

    def __init__(self, socket: socket.socket) -> None:
        self._socket = socket
        self._begin()

    def _begin(self) -> None:
        self._kind = 0
        self._missing = 0  # bytes of sizes that are to come
        self._sizes: list[int] = []
        self._parts: list[Buffer] = []
        self._expect(_HEADER.size)

    def _expect(self, size: int) -> None:
        # A `bytearray` is filled with zeros at once, which takes long if it is large; pages are when they are used.
        self._target = memoryview(bytearray(size) if size < _PAGES else mmap.mmap(-1, size))
        self._filled = 0

    def read(self) -> Message | int:
        """Read once: a message if it is complete now, else how many bytes came.

        Raises:
            BlockingIOError: the socket does not block, and nothing is there.
            EOFError: the other side has closed it, or is gone.
        """
        try:
            count = self._socket.recv_into(self._target[self._filled :])
        except ConnectionError:
            count = 0
        if not count:
            raise EOFError
        self._filled += count
        if self._filled < len(self._target):
            return count
        return self._filled_up() or count

    def _filled_up(self) -> Message | None:
        """Go on to what comes next; the message if nothing does."""
        target = self._target
        if not self._kind:
            self._kind, parts, first = _HEADER.unpack(target)
            if parts:
                self._sizes.append(first)
            if parts > 1:
                self._missing = (parts - 1) * _SIZE.size
                self._expect(self._missing)
                return None
        elif self._missing:
            self._missing = 0
            self._sizes += [size for (size,) in _SIZE.iter_unpack(target)]
        else:
            self._parts.append(target)
        while len(self._parts) < len(self._sizes):
            size = self._sizes[len(self._parts)]
            if size:
                self._expect(size)
                return None
            self._parts.append(b"")
        message = self._kind, self._parts
        self._begin()
        return message
