"""What the jobs of all libraries do, and how they are submitted; it needs nothing but Python."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

AT_ONCE = 20
EVERY = 0.02

URL = sys.argv[2] if len(sys.argv) > 2 else ""
CONCURRENCY = int(sys.argv[4]) if sys.argv[1:2] == ["work"] else 30
_file = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT) if sys.argv[1:2] == ["work"] else -1


def _note(words: str) -> None:
    os.write(_file, f"{words}\n".encode())


async def nap(index: int) -> None:
    """Take a second."""
    _note(f"begin {index} {time.monotonic()!r} {os.getpid()}")
    await asyncio.sleep(1)
    _note(f"end {index} {time.monotonic()!r} {os.getpid()}")


def noop(index: int) -> None:
    """Take no time."""
    now = time.monotonic()
    _note(f"begin {index} {now!r} {os.getpid()}\nend {index} {now!r} {os.getpid()}")


async def submit(enqueue: Callable[[str, int], Awaitable[Any]]) -> None:
    """Submit what the command line asks for, and print when."""
    job, count, how = sys.argv[4], int(sys.argv[5]), sys.argv[6]
    moments: list[float] = [0.0] * count
    indexes = iter(range(count))

    async def submitter() -> None:
        for index in indexes:
            moments[index] = time.monotonic()
            await enqueue(job, index)
            if how == "slow":
                await asyncio.sleep(EVERY)

    began = time.monotonic()
    await asyncio.gather(*[submitter() for _ in range(1 if how == "slow" else AT_ONCE)])
    print(json.dumps({"began": began, "ended": time.monotonic(), "moments": moments}), flush=True)


def main(
    work: Callable[[], Awaitable[Any]],
    submit: Callable[[], Awaitable[Any]],
    install: Callable[[], Awaitable[Any]] | None = None,
) -> None:
    """Do what the command line asks for."""
    what: Any = {"work": work, "submit": submit, "install": install}[sys.argv[1]]
    if what is not None:
        asyncio.run(what())
