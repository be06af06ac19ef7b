"""What all parts of the command line agree on: exit codes, and the one error that is a message to the user."""

from __future__ import annotations

import signal
from typing import Final, final

from aiopool._runtime.faults import describe_error

__all__ = ["BROKEN_PIPE", "FAILED", "FINE", "MISUSED", "Refusal", "one_line"]

FINE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
# What a shell reports of a program that SIGPIPE ended, as it does with `cat`.
BROKEN_PIPE: Final = 128 + int(getattr(signal, "SIGPIPE", 13))


@final
class Refusal(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """Why a command cannot do what was asked, in one line for the user."""


def one_line(error: BaseException) -> str:
    """Return an exception as one line: its type and its text, whatever its methods raise."""
    return " ".join(describe_error(error).split())
