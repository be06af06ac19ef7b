"""`Source`: lines of files and of standard input, read as they are needed.

Reading may take for ever (a pipe, a terminal, a file system far away), so it is done in a thread, a chunk at a time;
a daemon thread, because a read that never returns must not hold up the end. Never more than a chunk of lines is held:
a file of any length costs the same memory. (One endless line does not.)
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final, TypeVar, final

from aiopool.cli._words import Refusal

__all__ = ["Item", "Source", "in_thread"]

T = TypeVar("T")

# About a thousand lines: one change of thread for them is not worth counting.
CHUNK: Final = 64 * 1024


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One line of input.

    Attributes:
        value: what the function is called with; the line as it was read, if that is no JSON.
        size: how many bytes it took.
        place: the file and the number of the line.
        problem: why the line cannot be used; None if it can.
    """

    value: Any
    size: int
    place: str
    problem: str | None = None


@final
class Source:
    """An async iterable of `Item`; made for one pass.

    Args:
        names: paths of files; `-` is standard input; none at all is standard input too.
        as_json: each line is a JSON value; empty lines are skipped.
        complain: called with one line for each file that cannot be read to its end.

    Raises:
        Refusal: a file cannot be opened, seen before anything is read.
    """

    def __init__(self, names: Sequence[str], *, as_json: bool, complain: Callable[[str], object]) -> None:
        self._names = list(names) or ["-"]
        self._as_json = as_json
        self._complain = complain
        self.total: int | None = 0  # bytes; None if it cannot be known
        for name in self._names:
            size = _check(name)
            self.total = None if size is None or self.total is None else self.total + size
        self.unreadable = 0  # files that failed later

    @property
    def names(self) -> list[str]:
        """What is read, in order."""
        return self._names

    async def __aiter__(self) -> AsyncIterator[Item]:
        for name in self._names:
            try:
                descriptor = 0 if name == "-" else os.open(name, os.O_RDONLY)
                number = 0
                async for lines in _chunks_of_lines(descriptor):
                    for line in lines:
                        number += 1
                        item = self._item(line, f"{_called(name)}, line {number}", first=number == 1)
                        if item is not None:
                            yield item
            except OSError as error:
                self.unreadable += 1
                self._complain(f"{_called(name)} cannot be read: {error.strerror or error}")

    def _item(self, line: bytes, place: str, *, first: bool) -> Item | None:
        size = len(line) + 1
        if first and line.startswith(b"\xef\xbb\xbf"):  # a byte order mark
            line = line[3:]
        # Names of files may be any bytes; they come out as they went in.
        text = line.decode("utf-8", "surrogateescape").rstrip("\r")
        if not self._as_json:
            return Item(text, size, place)
        if not text.strip():
            return None
        try:
            return Item(json.loads(text), size, place)
        except ValueError as error:
            return Item(text, size, place, f"{place}: this is not JSON: {error}")
        except RecursionError:
            return Item(text, size, place, f"{place}: this JSON is nested too deeply")


async def _chunks_of_lines(descriptor: int) -> AsyncIterator[list[bytes]]:
    """Yield lists of lines, without their ends. Closes the descriptor, unless it is standard input."""
    rest: list[bytes] = []  # the pieces of a line that is longer than a chunk
    reading = False
    try:
        while True:
            reading = True
            chunk = await in_thread(lambda: os.read(descriptor, CHUNK))
            reading = False
            if not chunk:
                break
            head, newline, tail = chunk.partition(b"\n")
            rest.append(head)
            if newline:
                lines = [b"".join(rest), *tail.split(b"\n")]
                rest = [lines.pop()]
                yield lines
        last = b"".join(rest)
        if last:
            yield [last]
    finally:
        if descriptor != 0 and not reading:  # a thread may still be reading: its descriptor must not be used again
            os.close(descriptor)


async def in_thread(function: Callable[[], T]) -> T:
    """Call a function in a daemon thread of its own.

    If the caller is cancelled, the thread goes on, and nobody waits for it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(error: BaseException | None, value: T | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def body() -> None:
        error, value = None, None
        try:
            value = function()
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, error, value)

    threading.Thread(target=body, name="aiopool-cli", daemon=True).start()
    return await future


def _called(name: str) -> str:
    return "standard input" if name == "-" else name


def _check(name: str) -> int | None:
    """Return how many bytes there are to read, None if nobody knows; raise if it cannot be read."""
    try:
        if name == "-":
            state = os.fstat(0)
        else:
            state = os.stat(name)
            if stat.S_ISDIR(state.st_mode):
                raise Refusal(f"{name} cannot be read: it is a directory")
            if not stat.S_ISFIFO(state.st_mode):  # opening one would wait for whoever writes
                os.close(os.open(name, os.O_RDONLY))
    except OSError as error:
        raise Refusal(f"{_called(name)} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Refusal(f"{name!r} cannot be read: {error}") from None
    if not stat.S_ISREG(state.st_mode):
        return None
    return max(0, state.st_size - os.lseek(0, 0, os.SEEK_CUR)) if name == "-" else state.st_size


def reads_terminal(source: Source) -> bool:
    """Whether somebody has to type the input."""
    return "-" in source.names and sys.stdin is not None and sys.stdin.isatty()


def paths(source: Source) -> Iterator[str]:
    """The files of a source."""
    return (name for name in source.names if name != "-")
