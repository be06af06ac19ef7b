"""`Results`: a line of JSON for each line of input, written within some milliseconds, each line in one piece.

Writing is done in a thread: where nobody may be reading (a pipe into a pager), jobs and their time limits go on. The
thread takes all that is there at once, so the faster lines come, the fewer writes there are. What waits for it is
bounded: `add` says so, and `drained` waits.

The descriptors 0 and 1 are not ours while jobs run: see `take_standard_streams`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import json
import math
import os
import stat
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring
from queue import SimpleQueue
from typing import Any, Final, final

from aiopool._runtime.faults import describe_error, type_name
from aiopool.cli._source import FileId
from aiopool.cli._words import Refusal

__all__ = ["STDOUT_NAMES", "ResultError", "Results", "check_output", "take_standard_streams", "to_json"]

# Bytes that may wait to be written: enough for a writer that is slow for a moment.
MAX_WAITING: Final = 1024 * 1024

# Seconds between two writes, at least, while lines keep coming: each takes a change of thread, which costs as much as
# several lines do.
PAUSE: Final = 0.005

STDOUT_NAMES: Final = frozenset(("-", "/dev/stdout", "/dev/fd/1"))


# -- values as JSON ----------------------------------------------------------------------------------------------------


@final
class ResultError(Exception):
    """What a function returned cannot be said in JSON."""


def _is(value: object, kinds: type | tuple[type, ...]) -> bool:
    """Return whether a value is of a class. `isinstance` would ask the value, too, which may raise."""
    return issubclass(type(value), kinds)


def to_json(value: Any) -> str:
    """Return a result as JSON.

    Raises:
        ResultError: JSON has no such value; the text says where, and what to return instead.
    """
    if value is None:
        return "null"
    if type(value) is str:
        return encode_basestring(value)
    try:
        if _is(value, (dict, list, tuple)):
            _check_keys(value, ())
        return _encode(value)
    except ResultError:
        raise
    except RecursionError:
        raise ResultError("the result contains itself, or is nested too deeply: return a flat copy") from None
    except Exception as error:
        text = f"the result cannot be read: {describe_error(error)}"
        with contextlib.suppress(Exception):
            text = _problem(value, "the result", 0) or text
        raise ResultError(text) from None


def _plain(value: Any) -> Any:
    """Return what JSON has in place of a value that it does not have, where nothing is lost."""
    if dataclasses.is_dataclass(type(value)):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if _is(value, (datetime.date, datetime.time)):  # a datetime is a date, too
        return value.isoformat()
    if _is(value, os.PathLike):
        return os.fspath(value)
    if _is(value, uuid.UUID):
        return str(value)
    if _is(value, Mapping):
        mapping = dict(value)
        _check_keys(mapping, ())
        return mapping
    raise TypeError(type_name(value))


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain).encode


def _check_keys(value: Any, within: tuple[int, ...]) -> None:
    """Refuse keys that are no text: `json` would make them text, and 1 and "1" the same."""
    if id(value) in within:
        raise RecursionError
    within = (*within, id(value))
    if _is(value, dict):
        for key in value:
            if not _is(key, str):
                raise ResultError(
                    f"the result has a key of type {type_name(key)}, and in JSON a key is text: return "
                    "{str(key): value for …}"
                )
        value = value.values()
    for item in value:
        if _is(item, (dict, list, tuple)):
            _check_keys(item, within)


_INSTEAD: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    ((set, frozenset), "return a list, such as sorted(…)"),
    ((bytes, bytearray, memoryview), "return text, such as ….decode() or base64.b64encode(…).decode()"),
    (complex, "return a list of its two parts"),
)


def _problem(value: Any, where: str, depth: int) -> str | None:
    """Return where in a value is what JSON does not have, and what to return instead; None if it is not found."""
    if value is None or _is(value, (str, bool)) or depth > 50:
        return None
    if _is(value, float):
        return None if math.isfinite(value) else f"{where} is {value!r}, which JSON does not have: return None, or text"
    if _is(value, int):
        with contextlib.suppress(ValueError):
            return str(value) and None
        return f"{where} is a whole number of too many digits: return hex(…)"
    if _is(value, dict):
        found = (_problem(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items())
        return next(filter(None, found), None)
    if _is(value, (list, tuple)):
        found = (_problem(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value))
        return next(filter(None, found), None)
    with contextlib.suppress(TypeError):
        try:
            return _problem(_plain(value), where, depth + 1)
        except ResultError as error:
            return str(error)
    instead = next((words for kind, words in _INSTEAD if _is(value, kind)), None)
    if instead is None and hasattr(type(value), "__next__"):
        instead = "return list(…)"
    return f"{where} is of type {type_name(value)}, which JSON does not have: " + (
        instead or "return a dict, a dataclass or text"
    )


# -- where they go -----------------------------------------------------------------------------------------------------


def take_standard_streams() -> tuple[int, int]:
    """Take standard input and output for ourselves; return their new descriptors.

    What jobs and the programs that they start read from descriptor 0 is nothing, and what they write to descriptor 1
    goes to standard error: it must not come between the results. The new descriptors are not inherited; the one of a
    stream that is closed is -1.
    """
    closed = set()
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        closed.add(null)
        os.set_inheritable(null, True)
    stdin, stdout = (-1 if number in closed else os.dup(number) for number in (0, 1))
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return stdin, stdout


def check_output(path: str | None, stdout: int, inputs: Mapping[FileId, str]) -> None:
    """Refuse an output that is also something else, before it is opened, for opening it empties it.

    Raises:
        Refusal: it is read, it is the source of a module that the function needs, or it is taken.
    """
    name = "standard output" if path is None else path
    try:
        state = os.fstat(stdout) if path is None else os.stat(path)
    except OSError as error:
        if path is None:
            raise Refusal(f"{name} cannot be written: {error.strerror}; write the results with --output") from None
        return  # there is none yet, or it says so when it is opened
    if stat.S_ISDIR(state.st_mode):
        raise Refusal(
            f"{name} cannot be written: it is a directory; name a file in it: --output {name.rstrip('/')}/results"
        )
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISFIFO(state.st_mode) or stat.S_ISBLK(state.st_mode)):
        return
    this = state.st_dev, state.st_ino
    if this in inputs:
        raise Refusal(
            f"{name} is the same file as {inputs[this]}, which is read: it would be emptied, or never end; "
            "write the results to another file, such as --output results.jsonl"
        )
    if not stat.S_ISREG(state.st_mode):
        return
    for module in list(sys.modules.values()):
        source = getattr(module, "__file__", None)
        if isinstance(source, str) and _identity(source) == this:
            raise Refusal(f"{name} is the source of module {module.__name__!r}: write the results to another file")
    if path is not None:
        for descriptor, stream in ((stdout, "standard output"), (2, "standard error")):
            if _identity(descriptor) == this:
                raise Refusal(f"{name} is where {stream} goes: write the results to another file")


def _identity(file: str | int) -> FileId | None:
    try:
        state = os.stat(file)
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino


@final
class Results:
    """Where results go: a file, standard output, or a function that shows them on the screen.

    Args:
        path: a file, which is emptied; None is standard output.
        stdout: the descriptor of standard output.
        show: instead of standard output, where it is a terminal with a progress bar on it; None writes as it is.
        on_broken: called in the event loop when nothing can be written any more.

    Attributes:
        error: why nothing can be written any more.
        written: how many lines were written, all of each.

    Raises:
        Refusal: the file cannot be written.
    """

    def __init__(
        self,
        path: str | None,
        stdout: int,
        *,
        show: Callable[[str], object] | None = None,
    ) -> None:
        self.path = path
        self._show = show if path is None else None
        self._descriptor = stdout if path is None else _open(path)
        self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._lines: list[str] = []  # since the last flush
        self._next_flush = 0.0  # by the loop's clock: the thread is woken no earlier
        self._waiting = 0  # bytes for the thread, under the lock
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room: asyncio.Future[None] | None = None
        self._released = False
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="aiopool-cli-write", daemon=True)
        self.on_broken: Callable[[], object] = lambda: None
        self.error: OSError | None = None
        self.written = 0
        # A child of os.fork() is not us: it writes no result, and does not keep a pipe open for its reader.
        os.register_at_fork(after_in_child=self._forget)

    @property
    def name(self) -> str:
        """What messages call it."""
        return "standard output" if self.path is None else self.path

    def add(self, line: str) -> bool:
        """Write a line soon; return whether the caller should wait for `drained` before the next one."""
        if self._show is not None:
            self._show(line)
            return False
        if not self._lines:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
                self._thread.start()
            # A line that comes alone at once, those that follow closely together.
            if self._loop.time() < self._next_flush:
                self._loop.call_at(self._next_flush, self._flush)
            else:
                self._loop.call_soon(self._flush)
        self._lines.append(line)
        return self._waiting > MAX_WAITING

    async def drained(self, most: int = MAX_WAITING) -> None:
        """Wait until no more than so many bytes wait, or nothing can be written any more, or `release` is called."""
        self._flush()
        while self._waiting > most and self.error is None and not self._released:
            assert self._loop is not None
            self._room = self._loop.create_future()
            try:
                # Look once more: the thread looks for the future after it has counted.
                if self._waiting > most and self.error is None:
                    await self._room
            finally:
                self._room = None

    def release(self) -> None:
        """Let nobody wait any more: neither now nor later."""
        self._released = True
        self._wake()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines or self.error is not None:
            return
        assert self._loop is not None
        self._next_flush = self._loop.time() + PAUSE
        lines.append("")
        # Bytes of a file name that are no UTF-8 become `\udc80` and so on, which is how JSON says it, too.
        data = "\n".join(lines).encode("utf-8", "backslashreplace")
        with self._lock:
            self._waiting += len(data)
        self._queue.put(data)

    def _run(self) -> None:
        """The thread: write what comes, all of it at once; a None is the end."""
        more = True
        while more:
            chunks = [self._queue.get()]
            while not self._queue.empty():
                chunks.append(self._queue.get())
            if chunks[-1] is None:
                more = False
                chunks.pop()
            data = b"".join(chunk for chunk in chunks if chunk is not None)
            try:
                self._put(data)
            except OSError as error:
                self.error = error
                self._tell(self._break)
                return
            with self._lock:
                self._waiting -= len(data)
            if self._room is not None:
                self._tell(self._wake)

    def _tell(self, callback: Callable[[], object]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback)

    def _break(self) -> None:
        self._wake()
        self.on_broken()

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

    def _take_back(self, count: int) -> None:
        """Take back the beginning of a line whose end found no place: what is in a file shall be complete."""
        if not self._regular or not count:
            return
        with contextlib.suppress(OSError):
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            if end == os.fstat(self._descriptor).st_size:  # else somebody else writes there, too
                os.ftruncate(self._descriptor, end - count)

    def _forget(self) -> None:
        self._lines.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        """Write what is left, however long nobody reads (an interrupt ends that), and close."""
        self._flush()
        if self._thread.ident is not None:
            self._queue.put(None)
            self._thread.join()
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _open(path: str) -> int:
    try:
        # A FIFO that nobody reads would hold us up for ever: O_NONBLOCK refuses it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.stat(path).st_mode):
                raise Refusal(f"{path} cannot be written: nobody reads this FIFO; start its reader first") from None
        raise Refusal(f"{path} cannot be written: {error.strerror}") from None
    os.set_blocking(descriptor, True)
    return descriptor


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
