"""Which threads are at work, and which only wait for some.

asyncio's default executor and anyio both keep their threads for the next call. Such a thread is neither a
leak nor a reason to wait, so the two are told apart here. Any thread of another kind counts as working:
nobody can know better.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

__all__ = ["busy_for", "idle"]


def idle(thread: threading.Thread) -> bool:
    """Whether `thread` belongs to asyncio's default executor, or to anyio, and waits for work."""
    if _of_anyio(thread):
        return not _queue(thread).unfinished_tasks
    if not thread.name.startswith("asyncio_") or thread.ident is None:
        return False
    frame = sys._current_frames().get(thread.ident)
    # Inside `queue.get()`, written in C, the innermost Python frame is that of the worker itself.
    return (
        frame is not None
        and frame.f_code.co_name == "_worker"
        and frame.f_globals.get("__name__") == "concurrent.futures.thread"
    )


def busy_for(loop: asyncio.AbstractEventLoop) -> list[threading.Thread]:
    """Return anyio's worker threads that run a call for `loop` right now."""
    if threading.active_count() == 1:
        return []
    return [
        thread
        for thread in threading.enumerate()
        if _of_anyio(thread) and getattr(thread, "loop", None) is loop and _queue(thread).unfinished_tasks
    ]


def _of_anyio(thread: threading.Thread) -> bool:
    return type(thread).__module__ == "anyio._backends._asyncio" and hasattr(thread, "queue")


def _queue(thread: threading.Thread) -> Any:
    return thread.queue  # type: ignore[attr-defined]  # anyio's WorkerThread
