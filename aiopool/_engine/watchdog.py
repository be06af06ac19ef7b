"""`BlockWatch`: says which job blocks the event loop, while it does: to the log at once, as an event afterwards.

The thread and the moments are those of `_runtime/watchdog.py`; here it is found out who it is. A job is known by its
frame, a task or a callback that it has made by its context.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from types import FrameType
from typing import Any, final

from aiopool._engine.engine import Engine
from aiopool._engine.worker import TaskWorker
from aiopool._jobs.job import Job, running_job
from aiopool._runtime.faults import log_fault
from aiopool._runtime.watchdog import Watchdog

__all__ = ["BlockWatch", "running_code"]

logger = logging.getLogger("aiopool.watchdog")


@final
class BlockWatch:
    """Watches the loop of one open pool, while jobs run."""

    __slots__ = ("_engine", "_job", "_name", "_stack", "arm", "stop")

    def __init__(self, engine: Engine, limit: float, name: str) -> None:
        self._engine = engine
        self._name = name
        self._job: Job[Any] | None = None  # what was told last, until the event of it
        self._stack = ""
        slots = engine.slots
        watchdog = Watchdog(
            engine.runtime,
            limit,
            name=f"{name}-watchdog",
            is_busy=lambda: slots.active + slots.lent + slots.replaced > 0,
            on_blocked=self._blocked,
            on_released=self._released,
        )
        self.arm, self.stop = watchdog.arm, watchdog.stop

    def _blocked(self, innermost: FrameType, seconds: float) -> None:
        job, frames, _ = running_code(self._engine, innermost)
        stack = "".join(traceback.format_list(traceback.StackSummary.extract((f, f.f_lineno) for f in frames)))
        self._job, self._stack = job, stack
        fields = {"pool": self._name, "job": None if job is None else job.id}
        who: tuple[str, tuple[object, ...]]
        who = ("code that is no job of pool %s", (self._name,))
        if job is not None:
            who = ("job %.200r id %.200r", (job.name, job.id))
        text = f"{who[0]} has blocked the event loop for %.3g s, and nothing else runs; it is here:\n%s"
        log_fault(logger, text, *who[1], seconds, stack, fields=fields, level=logging.WARNING)

    def _released(self, seconds: float) -> None:
        job, stack = self._job, self._stack
        self._job, self._stack = None, ""
        if self._engine.observers:
            id, name = (None, None) if job is None else (job.id, job.name)
            self._engine.observers.event("LoopBlocked", job_id=id, job_name=name, seconds=seconds, stack=stack)


def running_code(engine: Engine, innermost: FrameType) -> tuple[Job[Any] | None, list[FrameType], bool]:
    """Say whose code runs in the thread of an engine's loop.

    Args:
        engine: of the pool that asks.
        innermost: the frame in which that thread is.

    Returns:
        The job of this pool to which the code belongs, or None; the frames of the code, the outermost first; and
        whether a callback or a task runs at all: an event loop that waits runs none.
    """
    fast_lane = sys.modules.get("aiopool._engine.scope_worker")
    attempts = {TaskWorker._attempt.__code__, None if fast_lane is None else fast_lane._run_jobs.__code__}
    found: Any = None
    frames: list[FrameType] = []
    frame: FrameType | None = innermost
    busy = True
    while frame is not None:
        if frame.f_code in attempts:
            found = frame.f_locals.get("job")
            break
        if frame.f_code is asyncio.Handle._run.__code__:
            found = frame.f_locals["self"]._context.get(running_job)
            break
        frames.append(frame)
        frame = frame.f_back
    else:  # uvloop has no frames of its own
        task = asyncio.current_task(engine.runtime.loop)
        busy = task is not None
        if task is not None and sys.version_info >= (3, 12):
            found = task.get_context().get(running_job)
    own = isinstance(found, Job) and found._spec.owner is engine.owner
    return found if own else None, frames[::-1], busy
