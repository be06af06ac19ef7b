"""`Output`: the descriptor that results are written to, opened so that nothing is destroyed that was not given up.

A file that has something in it is emptied, added to or gone on with only if that was asked for. While we write a file
we hold its lock: two runs do not write into one another's lines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import stat
import sys
from collections.abc import Mapping
from typing import Literal, final

from aiopool.cli._past import Past, copy_kept, mend_end, read_past
from aiopool.cli._source import FileId
from aiopool.cli._words import Refusal

__all__ = ["Output", "OutputMode", "check_output", "open_output", "read_output"]

OutputMode = Literal["new", "overwrite", "append", "resume"]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """What was opened.

    Attributes:
        descriptor: where to write.
        path: the file; None is standard output.
        cut: bytes of a torn line that were cut from its end.
    """

    descriptor: int
    path: str | None
    cut: int = 0


def open_output(path: str, mode: OutputMode, past: Past, *, raw: bool) -> Output:
    """Open a file for results, and with `resume` read into `past` what it has.

    Raises:
        Refusal: it cannot be written, or has something in it that would be lost.
    """
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            if mode == "resume":
                raise Refusal(f"{path} is no file, so it has no earlier results: leave out --resume")
            return Output(_open(path, os.O_WRONLY | os.O_NONBLOCK), path)
    descriptor = _open(path, (os.O_RDWR if mode in ("append", "resume") else os.O_WRONLY) | os.O_CREAT)
    try:
        _lock(descriptor, path)
        cut = 0
        if mode == "overwrite":
            os.ftruncate(descriptor, 0)
        elif mode == "new":
            if os.fstat(descriptor).st_size:
                raise Refusal(
                    f"{path} has something in it: write --resume to go on with the lines that it has no results of, "
                    "--append to add to it, --overwrite to replace it, or name another file"
                )
        else:
            if mode == "resume":
                read_past(descriptor, path, past)
                if past.again:
                    descriptor = _dropped(descriptor, path, past)
            cut = mend_end(descriptor, path, raw=raw)
    except OSError as error:
        os.close(descriptor)
        raise Refusal(f"{path} cannot be written: {error.strerror}") from None
    except BaseException:
        os.close(descriptor)
        raise
    return Output(descriptor, path, cut)


def read_output(path: str, past: Past) -> None:
    """Read into `past` what a file has, and leave it alone; none is fine.

    Raises:
        Refusal: it has something else than results.
    """
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            read_past(descriptor, path, past)
        finally:
            os.close(descriptor)


def _open(path: str, flags: int) -> int:
    try:
        # A FIFO that nobody reads would hold us up for ever: O_NONBLOCK refuses it.
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.stat(path).st_mode):
                raise Refusal(f"{path} cannot be written: nobody reads this FIFO; start its reader first") from None
        raise Refusal(f"{path} cannot be written: {error.strerror}") from None
    os.set_blocking(descriptor, True)
    return descriptor


def _lock(descriptor: int, path: str) -> None:
    """Take a file for ourselves. Where the file system has no locks there is none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refusal(f"{path} is being written by another run: wait for its end, or name another file") from None
    except OSError:
        return
    if _identity(path) != _identity(descriptor):
        raise Refusal(f"{path} has just been replaced by another run: start this one again")


def _dropped(descriptor: int, path: str, past: Past) -> int:
    """Put a copy without the results that are run again in the place of a file, and return its descriptor, locked.

    At each moment the path is one of the two, whole: a kill loses nothing.
    """
    path = os.path.realpath(path)
    directory, name = os.path.split(path)
    beside = os.path.join(directory, f".{name}.aiopool")
    new = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(new, stat.S_IMODE(os.fstat(descriptor).st_mode))
        with contextlib.suppress(OSError):
            fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
        copy_kept(descriptor, new, past)
        os.replace(beside, path)
    except BaseException:
        os.close(new)
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    os.close(descriptor)
    return new


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
