"""What a worker counts: plain numbers, which a collector of Prometheus reads.

Written in the event loop only; read from any thread.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, final

__all__ = ["BUCKETS", "Counts", "Durations"]

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, math.inf)


@final
class Durations:
    """A histogram of seconds.

    Attributes:
        counts: how many took up to 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300 and 1,800
            seconds, and longer.
        sum: of all of them.
    """

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * len(BUCKETS)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds


@final
@dataclass(slots=True)
class Counts:
    """All numbers of one worker, since it was made.

    Attributes:
        tasks: ended ones, by name and status.
        durations: of the tasks, by name.
        received: tasks that came.
        polls: by how they ended: `task`, `empty`, `error`.
        results: by what became of them: `accepted`, `ignored`, `refused`; and `again`, each attempt that failed.
        registrations: how often it has registered.
        rate_limited: answers 429, by kind of call.
        cancels: commands to cancel that found their task.
        connected: the channel of commands is open.
    """

    tasks: Counter[tuple[str, str]] = field(default_factory=Counter)
    durations: dict[str, Durations] = field(default_factory=dict)
    received: int = 0
    polls: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    registrations: int = 0
    rate_limited: Counter[str] = field(default_factory=Counter)
    cancels: int = 0
    connected: bool = False

    def task_ended(self, name: str, status: str, seconds: float) -> None:
        """Count a task that has ended."""
        self.tasks[name, status] += 1
        self.durations.setdefault(name, Durations()).add(seconds)
