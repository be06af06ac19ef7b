"""`end_tasks`: cancel background tasks of ours, and wait for their end."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["end_tasks"]

# Seconds until a task that has not ended is told again.
AGAIN = 0.1


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks, and wait until they have ended; one that goes on is told again.

    A library may swallow a cancel: before Python 3.12 `asyncio.wait_for` does, if what it waits for ends in the same
    turn of the loop. A task that runs for ever would then do so, and so would whoever waits for it.

    Args:
        tasks: those that are None, or have ended, are left alone. What they raise is not looked at.
    """
    pending = {task for task in tasks if task is not None and not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN)
    for ended in tasks:
        if ended is not None and not ended.cancelled():
            ended.exception()  # it is known: asyncio need not say that nobody has asked
