"""Which threads and processes are at work, and which only wait for some.

asyncio's default executor, anyio and a pool all keep their threads for the next call. Such a thread is
neither a
leak nor a reason to wait, so the two are told apart here: by what the threads show of themselves, without
importing anyio or the pool. Any thread of another kind counts as working: nobody can know better.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

__all__ = ["busy_for", "idle", "processes_of"]

_ANYIO = "anyio._backends._asyncio"
_THREADS = "aiopool._runtime.threads"
_PROCESSES = "aiopool._runtime.processes"


def idle(thread: threading.Thread) -> bool:
    """Whether `thread` belongs to asyncio's default executor, to anyio or to a pool, and waits for work."""
    kind, its = type(thread).__module__, _attributes(thread)
    if kind == _ANYIO:
        return not its.queue.unfinished_tasks
    if kind == _THREADS:
        return its.call is None and not its.arriving
    if not thread.name.startswith("asyncio_") or thread.ident is None:
        return False
    frame = sys._current_frames().get(thread.ident)
    # Inside `queue.get()`, written in C, the innermost Python frame is that of the worker itself.
    return (
        frame is not None
        and frame.f_code.co_name == "_worker"
        and frame.f_globals.get("__name__") == "concurrent.futures.thread"
    )


def busy_for(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Name the threads of anyio and of pools that have a call of `loop` whose outcome has not come back.

    A call that a pool has abandoned does not count: nobody waits for it any more. The outcome of a call is
    ready in the loop before the call is struck off, so there is no gap in which it is neither.
    """
    if threading.active_count() == 1:
        return []
    return [thread.name for thread in threading.enumerate() if _works_for(thread, loop)]


def processes_of(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Name the processes of pools from which an outcome for `loop` is to come, or their end."""
    module: Any = sys.modules.get(_PROCESSES)
    if module is None:
        return []
    return [runner.name for runner in tuple(module.open_runners) if runner.loop is loop and runner.at_work]


def _works_for(thread: threading.Thread, loop: asyncio.AbstractEventLoop) -> bool:
    kind, its = type(thread).__module__, _attributes(thread)
    if kind == _ANYIO:
        return its.loop is loop and its.queue.unfinished_tasks > 0
    if kind == _THREADS:
        runner = getattr(its, "runner", None)  # let go of in the thread's last line
        return runner is not None and runner.loop is loop and any(not c.abandoned for c in runner._calls.values())
    return False


def _attributes(thread: Any) -> Any:
    """Return the thread for a look at attributes that `threading.Thread` has not."""
    return thread
