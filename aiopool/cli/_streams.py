"""Standard input, output and error: which of them is a terminal, and whose they are while jobs run."""

from __future__ import annotations

import io
import os
import sys

from aiopool.cli._words import BROKEN_PIPE, FINE

__all__ = ["STDOUT_NAMES", "close_broken_output", "screen", "take_standard_streams", "write_output"]

STDOUT_NAMES = frozenset(("-", "/dev/stdout", "/dev/fd/1"))


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


def write_output(text: str) -> int:
    """Write to standard output, and return the exit code: whoever has closed it has seen enough."""
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a name with an emoji, on a terminal without
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        close_broken_output()
        return BROKEN_PIPE
    return FINE
