"""`Past`: the lines that a file has results of, and the mending of a file whose last run was killed.

A killed run leaves whole lines, and at most one that is torn, at the end. A torn line is cut, for its job is run again;
a line that only lacks its end gets it. What is no result of ours is never touched: it is refused by name and line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, Final, final

from aiopool.cli._source import Item
from aiopool.cli._words import Refusal

__all__ = ["Past", "copy_kept", "mend_end", "read_past"]

# How a result begins: what is torn, and is ours, begins so, as far as it goes.
BEGINNINGS: Final = (b'{"line": ', b'{"file": ')

# Bytes that are read at once.
BLOCK: Final = 1024 * 1024


@final
class Past:
    """The lines that have their results, and need not be run again.

    Args:
        only: the file that is read now, where it is the only one: results need not name it. None: there are several.
        retry_failed: whether lines that failed are run again.

    Attributes:
        failed: how many of the lines have failed.
        again: how many results are to be dropped, for their lines are run again.
    """

    def __init__(self, *, only: str | None, retry_failed: bool) -> None:
        self.failed = 0
        self.again = 0
        self.only = only
        self._retry_failed = retry_failed
        self._prints: dict[str, dict[int, int]] = {}

    def keeps(self, row: dict[str, Any]) -> bool:
        """Return whether a result stays: a line that was cancelled, or could not be used, has not been worked on."""
        return row["ok"] or not (self._retry_failed or row.get("cancelled") or not row.get("attempts"))

    def add(self, row: dict[str, Any]) -> None:
        """Take note of a result; a later one of the same line counts."""
        lines = self._prints.setdefault(str(row.get("file", self.only)), {})
        if self.keeps(row):
            self.failed += not row["ok"]
            lines[row["line"]] = _print_of(row["input"])
        else:
            self.again += 1
            lines.pop(row["line"], None)

    def has(self, item: Item) -> bool | None:
        """Return whether a line has its result; None if the result is of another text."""
        found = self._prints.get(item.name, {}).get(item.number)
        if found is None:
            return False
        return True if found == _print_of(item.value if item.is_json else item.text) else None


def _print_of(value: Any) -> int:
    """Return a fingerprint of an input: a whole number in place of a text that may be long."""
    return hash(value if type(value) is str else json.dumps(value, sort_keys=True))


def _row(line: bytes) -> dict[str, Any] | None:
    """Return a line as the result that it is; None if it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(row, dict) and type(row.get("line")) is int and type(row.get("ok")) is bool and "input" in row:
        return row
    return None


def _lines(descriptor: int) -> Iterator[bytes]:
    """Yield the lines of a file with their ends, from its beginning; the last one may lack it."""
    with os.fdopen(os.dup(descriptor), "rb", buffering=BLOCK) as file:
        file.seek(0)
        yield from file


def read_past(descriptor: int, path: str, past: Past) -> None:
    """Read the results that a file has.

    Raises:
        Refusal: it has something else, too.
    """
    for number, line in enumerate(_lines(descriptor), start=1):
        row = _row(line)
        if row is None:
            if line.endswith(b"\n") or not _is_torn(line):
                raise Refusal(
                    f"{path}, line {number}: this is no result of aiopool map, so nothing can be resumed from it: name "
                    "another file with --output"
                )
            break
        if past.only is None and not isinstance(row.get("file"), str):
            raise Refusal(
                f"{path}, line {number}: the result does not name its file, and several are read now: name the same "
                "files as before"
            )
        past.add(row)


def copy_kept(descriptor: int, new: int, past: Past) -> None:
    """Copy those results of a file that are to be kept, and put them onto the disk."""
    with os.fdopen(os.dup(new), "wb", buffering=BLOCK) as copy:
        for line in _lines(descriptor):
            row = _row(line)
            if row is not None and past.keeps(row):
                copy.write(line if line.endswith(b"\n") else line + b"\n")
        copy.flush()
        os.fsync(copy.fileno())


def _is_torn(tail: bytes) -> bool:
    """Return whether the last line of a file, which has no end, may be the beginning of a result.

    After a power cut it may be zeros: the file has got its length, and not all of its content.
    """
    tail = tail.rstrip(b"\0")
    return not tail or any(tail.startswith(start) or start.startswith(tail) for start in BEGINNINGS)


def mend_end(descriptor: int, path: str, *, raw: bool) -> int:
    """Let a file end with a whole line, so that more can be added, and return how many bytes were cut.

    Raises:
        Refusal: its last line has no end, and is no result.
    """
    size = os.fstat(descriptor).st_size
    start, tail = size, b""
    while start and b"\n" not in tail:
        block = min(BLOCK, start)
        start -= block
        tail = os.pread(descriptor, block, start) + tail
    tail = tail[tail.rfind(b"\n") + 1 :]
    os.lseek(descriptor, 0, os.SEEK_END)
    if not tail:
        return 0
    if raw or _row(tail) is not None:
        os.write(descriptor, b"\n")
        return 0
    if not _is_torn(tail):
        raise Refusal(f"{path} cannot be added to: its last line has no end, and is no result; end it: echo >> {path}")
    os.ftruncate(descriptor, size - len(tail))
    os.lseek(descriptor, 0, os.SEEK_END)
    return len(tail)
