"""Unpickle large data in a thread, without holding up the others.

`pickle.loads` holds the interpreter's lock from the first byte to the last. When it reads from a file that is written
in Python, it lets others run at each read; a pickle is read in frames of 64 KiB, and larger objects in the slices of
`readinto` below.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterable
from typing import Any, final

__all__ = ["load_in_slices"]

_SLICE = 1 << 20


def load_in_slices(data: bytes | bytearray | memoryview, buffers: Iterable[Any] = ()) -> Any:
    """Unpickle, and let other threads run every now and then if the data are large."""
    if len(data) < _SLICE:
        return pickle.loads(data, buffers=buffers)  # noqa: S301 - our own process
    return pickle.load(_Slices(memoryview(data)), buffers=buffers)  # noqa: S301 - our own process


@final
class _Slices:
    """A file for the unpickler."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def read(self, count: int) -> bytes:
        start, self._at = self._at, min(self._at + count, len(self._data))
        return bytes(self._data[start : self._at])

    def readinto(self, target: Any) -> int:
        target = memoryview(target).cast("B")
        start = self._at
        self._at = end = min(start + len(target), len(self._data))
        for place in range(start, end, _SLICE):
            stop = min(place + _SLICE, end)
            target[place - start : stop - start] = self._data[place:stop]
            time.sleep(0)
        return end - start

    def readline(self) -> bytes:
        """Be there: `pickle` asks for it, and a pickle of protocol 4 or newer has no lines."""
        raise pickle.UnpicklingError("a pickle with lines, which no process of a pool sends")
