"""What a job does: the four bodies that every contender runs.

Each takes its index and returns it, so that a lost, doubled or swapped result shows in the checksum.
They are as small as a job can be: this is about overhead, and a real job only dilutes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

AsyncFunction = Callable[[int], Coroutine[Any, Any, int]]
Function = Callable[[int], Any]


async def noop(index: int) -> int:
    """Never suspend: the harshest case, where nothing hides the overhead."""
    return index


async def sleep_zero(index: int) -> int:
    """Give way to the loop once."""
    await asyncio.sleep(0)
    return index


async def sleep_millisecond(index: int) -> int:
    """Wait for a timer, as a job that talks to a fast service does."""
    await asyncio.sleep(0.001)
    return index


def block_100_microseconds(index: int) -> int:
    """Block the thread and let go of the GIL, as a small file or database call does."""
    time.sleep(0.0001)
    return index


def spin_5_microseconds(index: int) -> int:
    """Burn about 5 µs of CPU without suspending."""
    end = time.perf_counter_ns() + 5_000
    while time.perf_counter_ns() < end:
        pass
    return index


WORKLOADS: dict[str, Function] = {
    "no-op": noop,
    "sleep(0)": sleep_zero,
    "sleep(1 ms)": sleep_millisecond,
    "block 100 µs": block_100_microseconds,
}
