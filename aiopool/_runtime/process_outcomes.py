"""What comes of a call in a process: its value or error, read; and what is said if the process died, or never was."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

from aiopool._runtime.faults import describe_error
from aiopool._runtime.messages import FAILED, RETURNED, Buffer
from aiopool._runtime.sliced import load_in_slices
from aiopool.errors import NotPicklableError, ProcessDiedError

__all__ = ["died", "no_process", "read_outcome"]


def read_outcome(name: str, kind: int, parts: list[Buffer]) -> tuple[bool, Any]:
    """Return whether a call succeeded, and its value or error."""
    try:
        value = load_in_slices(parts[0], parts[1:] if kind == RETURNED else ())
    except BaseException as error:
        fault = NotPicklableError(
            f"{name} has ended in its process, but what it returned or raised cannot be read here: "
            f"{describe_error(error)}. Its class must be importable in both processes"
        )
        fault.__cause__ = error
        return False, fault
    if kind == FAILED:
        value.add_note("In its process:\n" + bytes(parts[1]).decode().rstrip())
    return kind == RETURNED, value


def died(name: str, code: int | None, *, cut: bool) -> ProcessDiedError:
    hint = ""
    if code == -signal.SIGKILL:
        hint = ". It had closed its connection to the pool" if cut else ". It was not the pool: perhaps memory ran out"
    return ProcessDiedError(f"the process that ran {name} died: {_describe_code(code)}{hint}", code)


def no_process(what: str, code: int | None) -> ProcessDiedError:
    text = f"there is no process to run the job: {what}"
    if code is not None:
        text += (
            f" ({_describe_code(code)}; its standard error tells why). Each process imports the file of the program: "
            'the lines that start it belong under `if __name__ == "__main__":`'
        )
    return ProcessDiedError(text, code)


def _describe_code(code: int | None) -> str:
    if code is None:
        return "its exit code is unknown"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}, exit code {code}"
    return f"exit code {code}"
