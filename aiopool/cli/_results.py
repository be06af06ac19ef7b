"""`Results`: one line of JSON for each line of input, written as soon as it is known, in one piece.

Nothing is held back in a buffer: what was done stays done, whatever happens to the program. Where nobody may be reading
(a pipe into a pager), writing is done in a thread, so that jobs and their time limits go on.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, final

from aiopool.cli._source import in_thread
from aiopool.cli._words import Refusal

__all__ = ["Results", "record"]


def record(value: Any, *, ok: bool, outcome: Any, attempts: int, seconds: float) -> str:
    """Return a line of results, with its end.

    What JSON has no word for is written as the nearest thing it has: a dataclass as an object, a set as a list, bytes
    in base64, everything else as its `repr`.
    """
    row = {
        "input": value,
        "ok": ok,
        "result" if ok else "error": outcome,
        "attempts": attempts,
        "seconds": round(seconds, 6),
    }
    try:
        return _dumps(row)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, a circle, not a number
        row = {**row, "input": _tame(value), ("result" if ok else "error"): _tame(outcome)}
        return _dumps(row)


def _dumps(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a file name that are no UTF-8
        text = json.dumps(row, allow_nan=False, default=_plain)
    return text + "\n"


def _tame(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError):
        return _repr(value)
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return list(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return _repr(value)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__qualname__}, and its repr() fails>"


@final
class Results:
    """Where results go: a file, standard output, or a function that shows them on the screen.

    Args:
        path: a file, which is emptied; None is standard output.
        inputs: files that are read: one of them cannot be the output.
        show: instead of standard output, where it is a terminal with a progress bar on it; None writes as it is.

    Attributes:
        written: how many lines were written, all of each.

    Raises:
        Refusal: the file cannot be written.
    """

    def __init__(
        self, path: str | None, *, inputs: Iterable[str] = (), show: Callable[[str], object] | None = None
    ) -> None:
        self.path = path
        self._show = show if path is None else None
        self._descriptor = 1 if path is None else _open(path, inputs)
        try:
            mode = os.fstat(self._descriptor).st_mode
        except OSError as error:
            raise Refusal(f"{self.name} cannot be written: {error.strerror}") from None
        self._may_wait = not stat.S_ISREG(mode)
        self._idle = threading.Event()  # no thread is writing
        self._idle.set()
        self._late: list[str] = []
        self.written = 0

    @property
    def name(self) -> str:
        """What messages call it."""
        return "standard output" if self.path is None else self.path

    async def write(self, lines: list[str]) -> None:
        """Write lines, all of each.

        If the caller is cancelled while nobody reads, a thread goes on writing; `close` waits for it.

        Raises:
            OSError: it cannot be written; a BrokenPipeError if nobody reads any more.
        """
        if self._show is not None:
            for line in lines:
                self._show(line.rstrip("\n"))
            return
        data = "".join(lines).encode()
        self._idle.clear()
        if self._may_wait:
            await in_thread(lambda: self._put(data))
        else:
            self._put(data)

    def write_late(self, lines: list[str]) -> None:
        """Leave lines to be written by `close`, for a caller that has no time left."""
        self._late += lines

    def _put(self, data: bytes) -> None:
        done = 0
        try:
            with memoryview(data) as view:
                while done < len(data):
                    done += os.write(self._descriptor, view[done:])
        except OSError:
            self._take_back(done - data.rfind(b"\n", 0, done) - 1)
            raise
        finally:
            self.written += data.count(b"\n", 0, done)
            self._idle.set()

    def _take_back(self, count: int) -> None:
        """Take back the beginning of a line whose end found no place: what is in a file shall be complete."""
        if self._may_wait or not count:
            return
        with contextlib.suppress(OSError):
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            if end == os.fstat(self._descriptor).st_size:  # else somebody else writes there, too
                os.ftruncate(self._descriptor, end - count)

    def close(self) -> None:
        """Write what is left, however long nobody reads (an interrupt ends that), and close."""
        self._idle.wait()
        late, self._late = self._late, []
        with contextlib.suppress(OSError):  # nobody reads any more
            if late:
                self._put("".join(late).encode())
        if self.path is not None and self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _open(path: str, inputs: Iterable[str]) -> int:
    try:
        for name in inputs:
            if os.path.exists(path) and os.path.samefile(path, name):
                raise Refusal(f"{path} is read and cannot be written at the same time: choose another --output")
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except OSError as error:
        raise Refusal(f"{path} cannot be written: {error.strerror}") from None


def screen(descriptor: int) -> str | None:
    """Return the terminal behind a descriptor, None if there is none."""
    try:
        return os.ttyname(descriptor)
    except OSError:
        return None


def close_broken_output() -> None:
    """Put nothing in the place of a broken standard output, so that Python does not complain when it flushes it."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
        sys.stdout.flush()
    except (OSError, ValueError):
        pass
