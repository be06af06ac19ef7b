"""Failpoints: named places at which a process can be made to die, to see what survives it.

    AIOPOOL_FAILPOINT=settle.before:3          SIGKILL at the third pass of "settle.before"
    AIOPOOL_FAILPOINT=settle.before:3:SIGSTOP  another signal

It is the environment's to say, once, before the program starts. Inactive, a point is one test of a flag:

    if failpoints.ACTIVE:
        failpoints.reach("settle.before")
"""

from __future__ import annotations

import itertools
import os
import signal
from typing import Final

__all__ = ["ACTIVE", "NAMES", "reach"]

# The points there are. Those of `submit` are passed by whoever submits, the others by whoever runs jobs.
NAMES: Final = (
    "submit.before",
    "submit.after",
    "claim.after",
    "start.before",
    "job.ended",
    "settle.before",
    "settle.after",
    "beat.before",
    "sweep.before",
    "sweep.after",
    "close.before",
    "commit.before",
    "commit.after",
    "migrate.inside",
)


def _parse(text: str) -> tuple[str, int, signal.Signals]:
    name, _, rest = text.partition(":")
    number, _, sign = rest.partition(":")
    try:
        found = name, int(number or 1), signal.Signals[sign or "SIGKILL"]
    except (KeyError, ValueError):
        found = "", 0, signal.SIGKILL
    if found[0] not in NAMES or found[1] < 1:
        raise ValueError(
            f"AIOPOOL_FAILPOINT={text!r}: write name:n or name:n:SIGNAL, with n from 1, a signal such as SIGKILL, and "
            f"one of the names {', '.join(NAMES)}"
        )
    return found


_text = os.environ.get("AIOPOOL_FAILPOINT", "")
ACTIVE: Final = bool(_text)
_name, _at, _signal = _parse(_text) if ACTIVE else ("", 0, signal.SIGKILL)
_passes = itertools.count(1)  # one step of it is atomic: points are passed in several threads


def reach(name: str) -> None:
    """Pass a point: here the process may be sent its signal."""
    if name == _name and next(_passes) == _at:
        os.kill(os.getpid(), _signal)
