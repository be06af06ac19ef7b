"""The tasks that this worker has taken: each is a job of the pool, and ends as a result in the outbox.

    take ──▶ job of the pool ──▶ outcome ──▶ result ──▶ outbox
             (parked by the limit of its type, tried again, cancelled, out of time: all of that is the pool's)

Always true: a task that was taken has exactly one result, whatever becomes of its job. How many handlers run is the
pool's promise; how many tasks are *held* beyond that is bounded here, by `wait_room`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, final

from aiopool import Job, JobCancelledError, JobStatus, Pool, PoolClosedError, Priority
from aiopool.avtomatika import _outcome as outcome
from aiopool.avtomatika._counts import Counts
from aiopool.avtomatika._handlers import Handler, Handlers
from aiopool.avtomatika._outbox import Outbox
from aiopool.avtomatika._task import Result, Task

__all__ = ["Tasks"]

logger = logging.getLogger("aiopool.avtomatika")

_WAITING: Final = (JobStatus.QUEUED, JobStatus.SCHEDULED)
# Why a job holds no slot, and will get none by itself for a while.
_PARKED: Final = ("limit", "backoff", "delay")
# A job that was just handed over is parked a moment later, and nobody says so.
_MOMENT: Final = 0.02


@dataclass(slots=True)
class _Held:
    task: Task
    job: Job[Any] | None = None
    taken: asyncio.Event = field(default_factory=asyncio.Event)  # by the pool, or it has ended before
    cancelled: str | None = None  # by the orchestrator: why
    handed_back: str | None = None  # by us: why
    progress: tuple[float, str] | None = None  # as it was told last


@final
class Tasks:
    """The tasks of one worker, while its pool is open."""

    def __init__(
        self,
        pool: Pool,
        handlers: Handlers,
        outbox: Outbox,
        counts: Counts,
        *,
        max_waiting: int,
        retry_as: outcome.RetryAs,
    ) -> None:
        self._pool = pool
        self._handlers = handlers
        self._outbox = outbox
        self._counts = counts
        self._max_waiting = max_waiting
        self._retry_as: outcome.RetryAs = retry_as
        self._held: dict[str, _Held] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def ids(self) -> list[str]:
        """The ids of all tasks that are held."""
        return list(self._held)

    async def take(self, task: Task) -> None:
        """Run a task, and put its result into the outbox. Returns when the pool has it.

        If the caller is cancelled, the task goes on.
        """
        if task.task_id in self._held:
            logger.warning("task %s came twice: it runs once", task.task_id)
            return
        self._counts.received += 1
        held = self._held[task.task_id] = _Held(task)
        begun = asyncio.create_task(self._run(held), name=f"avtomatika-{task.task_id}")
        self._running.add(begun)
        begun.add_done_callback(self._running.discard)
        await held.taken.wait()
        await asyncio.sleep(0)  # in this turn it starts, or is parked

    # -- room --------------------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether another task may be taken: a slot is free for it, and not too many wait for the limit of their type.

        Those that wait hold no slot. So light tasks are taken while heavy ones wait for their turn, and yet a flood of
        heavy ones is not taken in whole.
        """
        why = [None if held.job is None else held.job.waiting_for for held in self._held.values()]
        parked = sum(reason in _PARKED for reason in why)
        return len(why) - parked < self._pool.size and parked + self._unsettled() < self._max_waiting

    def _unsettled(self) -> int:
        """How many tasks may be parked or started any moment."""
        jobs = [held.job for held in self._held.values()]
        return sum(job is None or job.waiting_for == "slot" for job in jobs)

    async def wait_room(self) -> None:
        """Wait until another task may be taken."""
        while not self.has_room():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MOMENT if self._unsettled() else None):
                    await self._changed.wait()

    def startable(self) -> list[str]:
        """Return the names of the tasks whose type is not at its limit."""
        busy = {
            handler.category
            for held in self._held.values()
            if held.job is not None
            and held.job.waiting_for == "limit"
            and (handler := self._handlers.get(held.task.name)) is not None
        }
        return [handler.name for handler in self._handlers if handler.category not in busy]

    # -- the end of tasks --------------------------------------------------------------------------------------------

    async def cancel(self, task_id: str | None, job_id: str | None, why: str) -> bool:
        """Cancel a task, because the orchestrator says so; True: it was here. Returns when no line of it runs."""
        found = [
            held for held in self._held.values() if task_id in (held.task.task_id, held.task.job_id)
            or (task_id is None and job_id == held.task.job_id)
        ]  # fmt: skip
        for held in found:
            held.cancelled = why
            if held.job is not None:
                await self._pool.cancel(held.task.task_id, why)
        return bool(found)

    def hand_back(self, why: str, *, running: bool) -> int:
        """Give tasks back to the orchestrator, which lets another worker have them: those that do not run, or all.

        Returns:
            How many.
        """
        count = 0
        for held in self._held.values():
            if held.job is not None and not held.job.done() and (running or held.job.status in _WAITING):
                held.handed_back = why
                held.job.cancel(why)
                count += 1
        return count

    async def wait_empty(self) -> None:
        """Wait until no task is held, and each result is in the outbox."""
        while self._held:
            await self._changed.wait()

    def told_progress(self) -> Iterable[tuple[Task, float, str]]:
        """Return the tasks that have got further since the last call."""
        for held in list(self._held.values()):
            progress = None if held.job is None else held.job.progress
            if progress is not None and progress != held.progress:
                held.progress = progress
                yield held.task, *progress

    # -- one task ----------------------------------------------------------------------------------------------------

    async def _run(self, held: _Held) -> None:
        loop, task = asyncio.get_running_loop(), held.task
        begin = loop.time()
        try:
            result = await self._result(held)
        except Exception as error:  # a fault of ours; the task must have its result all the same
            logger.exception("task %s could not be run", task.task_id)
            result = outcome.failed(task, error)
        started = begin if held.job is None or held.job.started_at is None else held.job.started_at
        self._counts.task_ended(task.name, result.status, max(0.0, loop.time() - started))
        try:
            held.taken.set()
            await self._outbox.put(result)
        finally:
            del self._held[task.task_id]
            self.wake()

    def wake(self) -> None:
        """Something has changed: whoever waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _result(self, held: _Held) -> Result:
        task, handler = held.task, self._handlers.get(held.task.name)
        if task.signed is False:
            logger.critical("task %s has no valid signature of the orchestrator: it is not run", task.task_id)
            return outcome.failure(task, outcome.SECURITY, "the signature of the task is missing or wrong")
        if handler is None:
            return outcome.failure(
                task, outcome.DEPENDENCY_MISSING, f"this worker has no handler for tasks of the name {task.name!r}"
            )
        left = task.seconds_left()
        if left is not None and left <= 0:
            return outcome.failure(task, outcome.TIMEOUT, "the deadline was over before the task could start")
        try:
            held.job = await self._submit(handler, task, left)
        except PoolClosedError:
            return outcome.failure(task, outcome.TRANSIENT, "the worker is stopping, and has not begun the task")
        if held.cancelled is not None:  # while the job was submitted
            held.job.cancel(held.cancelled)
        held.job.add_done_callback(lambda _: self.wake())
        held.taken.set()
        self.wake()
        return await self._outcome(held, held.job)

    async def _submit(self, handler: Handler, task: Task, left: float | None) -> Job[Any]:
        options = dict(handler.options)
        if left is not None:
            options["total_timeout"] = min(left, options.get("total_timeout") or left)
        view = self._pool.with_options(
            id=task.task_id,
            name=handler.name,
            key=handler.category,
            priority=Priority.NORMAL - round(max(-1000.0, min(task.priority, 1000.0))),
            metadata={"task_id": task.task_id, "job_id": task.job_id},
            **options,
        )
        args, kwargs = handler.arguments(task)
        return await view.submit(handler.function, *args, **kwargs)

    async def _outcome(self, held: _Held, job: Job[Any]) -> Result:
        task = held.task
        try:
            value = await job
        except JobCancelledError as error:
            if held.cancelled is not None:
                return outcome.cancelled(task, held.cancelled)
            why = held.handed_back or str(error)
            return outcome.failure(task, outcome.TRANSIENT, f"the task was cancelled in the worker: {why}")
        except Exception as error:
            # The client asked for the end, and so it is one, whatever the handler made of it.
            if held.cancelled is not None:
                return outcome.cancelled(task, held.cancelled)
            logger.warning("task %s (%s) failed", task.task_id, task.name, exc_info=error)
            return outcome.failed(task, error)
        return outcome.returned(task, value, self._retry_as)
