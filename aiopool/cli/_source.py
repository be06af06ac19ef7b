"""`Source`: lines of files and of standard input, read as they are needed.

Reading may take for ever (a pipe, a terminal, a file system far away), so it is done in a thread, a chunk at a time;
a daemon thread, because a read that never returns must not hold up the end. Never more than a chunk of lines is held:
a file of any length costs the same memory. (One endless line does not.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, NoReturn, Protocol, final

from aiopool import Priority
from aiopool.cli._fields import FieldError, LineFields
from aiopool.cli._words import Refusal

__all__ = ["STDIN_NAMES", "Item", "Source"]

# About a thousand lines, or ten thousand short ones: one change of thread for them is not worth counting.
CHUNK: Final = 64 * 1024

STDIN_NAMES: Final = frozenset(("-", "/dev/stdin", "/dev/fd/0"))

FileId = tuple[int, int]


@final
class Item:
    """One line of input.

    Attributes:
        value: what the function is called with.
        text: the line itself.
        name: the file, as messages call it.
        number: the number of the line in its file, from 1.
        size: how many bytes it took, on the average of its chunk.
        priority: of its job.
        key: what its limit goes by; None if lines have none.
        problem: why the line cannot be used; None if it can.
        is_json: whether the line itself is JSON.
    """

    __slots__ = ("is_json", "key", "name", "number", "priority", "problem", "size", "text", "value")

    def __init__(self, text: str, name: str, number: int, size: float) -> None:
        self.value: Any = text
        self.text = text
        self.name = name
        self.number = number
        self.size = size
        self.priority: int = Priority.NORMAL
        self.key: str | int | None = None
        self.problem: str | None = None
        self.is_json = False

    @property
    def place(self) -> str:
        """The file and the number of the line."""
        return f"{self.name}, line {self.number}"


class Skips(Protocol):
    """What knows the lines that have their results."""

    def has(self, item: Item) -> bool | None:
        """Return whether a line has its result; None if the result is of another text."""


@final
class Source:
    """An async iterable of `Item`; made for one pass.

    Args:
        names: paths of files; `-` is standard input; none at all is standard input too.
        stdin: the descriptor of standard input.
        as_json: each line is a JSON value; empty lines are skipped.
        null: lines end with a zero byte, and may be text of several lines.
        fields: how the priority and the key of a line are found.
        lines: how many lines there are, if somebody knows: then all numbers are lines, not bytes.
        complain: called with one line for each file that cannot be read to its end.

    Attributes:
        total: bytes in all files; None if it cannot be known.
        read: lines that were handed out.
        past: the lines that need not be handed out, for they have results; None: all are.
        skipped: how many were not.
        skipped_size: their bytes.
        changed: lines that have a result of another text, and were handed out.
        ended: whether all lines were.
        unreadable: files that failed on the way.

    Raises:
        Refusal: a file cannot be opened, seen before anything is read.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        stdin: int,
        as_json: bool,
        null: bool,
        fields: LineFields,
        lines: int | None,
        complain: Callable[[str], object],
    ) -> None:
        self._names = ["-" if name in STDIN_NAMES else name for name in names] or ["-"]
        self._stdin = stdin
        self._as_json = as_json
        self._null = null
        self._fields = fields
        self._complain = complain
        self._stopped = False
        self._chunk: asyncio.Future[bytes] | None = None  # what is waited for
        self.files: dict[FileId, str] = {}  # by device and inode, to be told from the results
        self.total: int | None = 0
        for name in self._names:
            size = self._check(name)
            self.total = None if size is None or self.total is None else self.total + size
        self._by_line = lines is not None
        if lines is not None:
            self.total = lines
        self.read = 0
        self.past: Skips | None = None
        self.skipped = 0
        self.skipped_size = 0.0
        self.changed = 0
        self.ended = False
        self.unreadable = 0

    @property
    def only(self) -> str | None:
        """The only file, as results call it; None if there are several."""
        return None if self.several else _shown(self._names[0])

    @property
    def several(self) -> bool:
        """Whether a line's number says too little without its file."""
        return len(self._names) > 1

    @property
    def from_terminal(self) -> bool:
        """Whether somebody has to type the input."""
        return "-" in self._names and os.isatty(self._stdin)

    def stop(self) -> None:
        """Hand out no further line, and wait for none."""
        self._stopped = True
        if self._chunk is not None and not self._chunk.done():
            self._chunk.set_result(b"")

    async def __aiter__(self) -> AsyncIterator[Item]:
        make = self._json_item if self._as_json else self._text_item if self._fields.key else Item
        for name in self._names:
            shown, number = _shown(name), 0
            try:
                descriptor = self._stdin if name == "-" else os.open(name, os.O_RDONLY)
                async for lines, size in self._lines(descriptor):
                    for line in lines:
                        number += 1
                        item = make(line, shown, number, size)
                        if item is None or (self.past is not None and self._skips(item)):
                            continue
                        if self._stopped:
                            return
                        self.read += 1
                        yield item
            except OSError as error:
                self.unreadable += 1
                self._complain(f"{shown} cannot be read: {error.strerror or error}")
            if self._stopped:
                return
        self.ended = True

    def _json_item(self, text: str, name: str, number: int, size: float) -> Item | None:
        if not text or text.isspace():
            return None
        item = Item(text, name, number, size)
        try:
            item.value = json.loads(text, parse_constant=_no_constant)
            # Ends of lines stand between its parts, never in a text of it.
            item.is_json, item.text = True, text.strip().replace("\n", " ").replace("\r", " ")
            if self._fields.any:
                item.priority, item.key = self._fields.of_value(item.value)
        except FieldError as error:
            item.problem = f"{item.place}: {error}"
        except ValueError as error:
            item.problem = f"{item.place}: this is not JSON: {error}"
        except RecursionError:
            item.problem = f"{item.place}: this JSON is nested too deeply"
        return item

    def _text_item(self, text: str, name: str, number: int, size: float) -> Item:
        item = Item(text, name, number, size)
        try:
            item.key = self._fields.of_text(text)
        except FieldError as error:
            item.problem = f"{item.place}: {error}"
        return item

    def _skips(self, item: Item) -> bool:
        """Return whether a line has its result already, and count it."""
        assert self.past is not None
        had = self.past.has(item)
        self.changed += had is None
        if had:
            self.skipped += 1
            self.skipped_size += item.size
        return bool(had)

    async def _lines(self, descriptor: int) -> AsyncIterator[tuple[list[str], float]]:
        """Yield lists of lines, without their ends, and the bytes of a line. Closes the descriptor, unless it is
        standard input.
        """
        end = b"\0" if self._null else b"\n"
        rest: list[bytes] = []  # the pieces of a line that is longer than a chunk
        first = True
        try:
            while chunk := await self._read(descriptor):
                if first:
                    first, chunk = False, chunk.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
                head, newline, tail = chunk.rpartition(end)
                if not newline:
                    rest.append(tail)
                    continue
                rest.append(head)
                data = b"".join(rest)
                rest = [tail]
                lines = self._decode(data)
                yield lines, 1.0 if self._by_line else (len(data) + 1) / len(lines)
            if (last := b"".join(rest)) and not self._stopped:
                yield self._decode(last), 1.0 if self._by_line else len(last)
        finally:
            # A thread may still be reading: its descriptor must not be used again.
            if descriptor != self._stdin and self._chunk is None:
                os.close(descriptor)

    async def _read(self, descriptor: int) -> bytes:
        """Read a chunk in a daemon thread; nothing at the end, or when told to stop.

        Then, and if the caller is cancelled, the thread goes on, and nobody waits for it.
        """
        if self._stopped:
            return b""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        self._chunk = future

        def settle(error: BaseException | None, chunk: bytes) -> None:
            if not future.done():
                if error is None:
                    future.set_result(chunk)
                else:
                    future.set_exception(error)

        def read() -> None:
            error, chunk = None, b""
            try:
                chunk = os.read(descriptor, CHUNK)
            except BaseException as caught:
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, error, chunk)

        threading.Thread(target=read, name="aiopool-cli-read", daemon=True).start()
        try:
            return await future
        finally:
            if not (self._stopped or future.cancelled()):
                self._chunk = None

    def _decode(self, data: bytes) -> list[str]:
        # Names of files may be any bytes; they come out as they went in.
        text = data.decode("utf-8", "surrogateescape")
        if self._null:
            return text.split("\0")
        lines = text.split("\n")
        return [line.rstrip("\r") for line in lines] if "\r" in text else lines

    def _check(self, name: str) -> int | None:
        """Return how many bytes there are to read, None if nobody knows; raise if it cannot be read."""
        try:
            if name == "-":
                state = os.fstat(self._stdin)
            else:
                state = os.stat(name)
                if stat.S_ISDIR(state.st_mode):
                    raise Refusal(f"{name} cannot be read: it is a directory; name its files: {name.rstrip('/')}/*")
                if not stat.S_ISFIFO(state.st_mode):  # opening one would wait for whoever writes
                    os.close(os.open(name, os.O_RDONLY))
        except OSError as error:
            raise Refusal(f"{_shown(name)} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise Refusal(f"{name!r} cannot be read: {error}") from None
        self.files.setdefault((state.st_dev, state.st_ino), _shown(name))
        if not stat.S_ISREG(state.st_mode):
            return None
        return max(0, state.st_size - os.lseek(self._stdin, 0, os.SEEK_CUR)) if name == "-" else state.st_size


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value; write null, or a text")


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name
