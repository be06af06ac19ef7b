"""Journals: what each process saw, one JSON line per event, in a file of its own.

Rule 1: a line is one `write` to a file that is open for appending, so it outlives the process that is killed the moment
after. What a producer was promised is on the disk, too, before the next step.

Rule 2: moments are of the monotonic clock, which all processes of one machine share.

Rule 3: a last line that is torn is no line.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

__all__ = ["Event", "Journal", "read_journals"]

Event = dict[str, Any]
"""What happened (`what`), when (`at`), in which process (`pid`); the rest depends on what it is."""


@final
class Journal:
    """The journal of this process."""

    def __init__(self, directory: Path, role: str) -> None:
        self._pid = os.getpid()
        self.path = directory / f"{role}-{self._pid}-{time.monotonic_ns()}.jsonl"
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, what: str, *, sure: bool = False, **facts: Any) -> None:
        """Write down an event; `sure`: it is on the disk when this returns."""
        line = {"what": what, "at": time.monotonic(), "pid": self._pid, **facts}
        os.write(self._fd, json.dumps(line, separators=(",", ":")).encode() + b"\n")
        if sure:
            os.fdatasync(self._fd)

    def size(self) -> int:
        """How many bytes it has."""
        return os.fstat(self._fd).st_size


def read_journals(directory: Path) -> list[Event]:
    """Return all events of a directory, in the order in which they happened."""
    events = [event for path in directory.glob("*.jsonl") for event in _lines(path)]
    events.sort(key=lambda event: event["at"])
    return events


def _lines(path: Path) -> Iterator[Event]:
    for line in path.read_bytes().split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        yield event
