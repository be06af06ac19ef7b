"""`Supervisor`: keeps the workers: makes them when they are needed, wakes idle ones, replaces those that crash.

It has no task of its own that could die: a callback on a worker's task tells it of the worker's end.
`_jobs/restart.py` decides whether and when a crashed worker is replaced; past its limit the supervisor gives up,
visibly.

A worker is made when a job is to start, a slot is free and no worker is idle. There are never more than the pool has
slots, and one more for each job that has lent its slot or leaked and is replaced: such a job keeps its worker. After
its job a worker is idle, and is used again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import final

from aiopool._engine.engine import Engine
from aiopool._engine.worker import TaskWorker, Worker
from aiopool._jobs.restart import Restart, RestartHistory
from aiopool._runtime.faults import log_fault
from aiopool._runtime.runners import Runners

__all__ = ["Supervisor"]

logger = logging.getLogger("aiopool.supervisor")

# So many idle workers are retired in one turn of the loop when the pool was made smaller: some 0.2 ms.
MAX_RETIRED = 100


@final
class Supervisor:
    """The workers of one open pool."""

    __slots__ = (
        "_detached",
        "_engine",
        "_history",
        "_name",
        "_restarts",
        "_runners",
        "_tasks",
        "_trimming",
        "_worker_class",
        "closing",
        "idle",
        "on_give_up",
    )

    def __init__(
        self,
        engine: Engine,
        runners: Runners,
        *,
        isolation: str,
        restart: Restart,
        name: str,
        on_give_up: Callable[[BaseException], object],
    ) -> None:
        self._engine = engine
        self._runners = runners
        self._history = RestartHistory(restart)
        self._name = name
        self.on_give_up = on_give_up
        self._tasks: dict[Worker, asyncio.Task[None]] = {}
        self.idle: dict[Worker, None] = {}  # a stack; a worker that ends is taken out of its middle
        self._trimming = False
        # Busy without a coroutine of their own: foreign code has cancelled them.
        self._detached: weakref.WeakSet[Worker] = weakref.WeakSet()
        self._worker_class: type[Worker] = TaskWorker
        self._restarts: dict[int, asyncio.TimerHandle] = {}  # of crashed workers, that wait for their backoff
        self.closing = False
        if isolation == "scope":
            # Here, not above: a pool of tasks does not need anyio's event loop backend, and start-up is short.
            from aiopool._engine.scope_worker import ScopeWorker, load_backend

            load_backend()
            self._worker_class = ScopeWorker

    def workers(self) -> list[Worker]:
        """Return the living workers, oldest first."""
        return list(self._tasks)

    @property
    def restarting(self) -> int:
        """How many crashed workers wait to be replaced."""
        return len(self._restarts)

    def _wanted(self) -> int:
        slots = self._engine.slots
        return slots.size + slots.lent + slots.replaced

    def wake_worker(self) -> bool:
        """Wake an idle worker, or a new one; whether another may be woken in this turn of the loop."""
        worker = self.idle.popitem()[0] if self.idle else self.spawn()
        return worker is not None and worker.wake()

    def _add_idle(self, worker: Worker) -> None:
        """Keep a worker that has no job, or retire it if as many are idle as the pool has slots."""
        if len(self.idle) >= self._engine.slots.size:
            worker.retire()
        else:
            self.idle[worker] = None

    def retire_excess(self) -> None:
        """Retire idle workers that are more than the pool has slots; some in each turn of the loop."""
        if len(self.idle) > self._engine.slots.size and not self._trimming:
            self._engine.runtime.soon(self._retire_some)
            self._trimming = True

    def _retire_some(self) -> None:
        self._trimming = False
        for _ in range(min(MAX_RETIRED, len(self.idle) - self._engine.slots.size)):
            self.idle.popitem()[0].retire()
        self.retire_excess()

    def spawn(self) -> Worker | None:
        """Make a worker, and return it; None if there are enough, one waits to be restarted, or none can be made."""
        engine = self._engine
        if self.closing or len(self._tasks) + len(self._restarts) >= self._wanted():
            return None
        worker = self._worker_class(engine, self._runners, self._add_idle)
        if engine.observers:
            engine.observers.event("WorkerStarted", worker=worker.id)
        try:
            task = worker.start(f"{self._name}-worker-{worker.id}")
        except Exception as fault:  # no memory, or a task factory of the user's: it has crashed before it began
            self._crashed(worker, fault, self._history.crashed(now=engine.now()))
            return None
        self._tasks[worker] = task
        task.add_done_callback(functools.partial(self._ended, worker), context=engine.runtime.context)
        return worker

    def _ended(self, worker: Worker, task: asyncio.Task[None]) -> None:
        del self._tasks[worker]
        engine = self._engine
        self.idle.pop(worker, None)
        # Cancelled by foreign code: its job goes on in its own task, and releases the slot.
        worker.retiring = True
        if worker.busy:
            self._detached.add(worker)
        else:
            worker.check_no_more()
        fault: BaseException | None = asyncio.CancelledError() if task.cancelled() else task.exception()
        observers = engine.observers
        if observers and (fault is None or worker.tainted or self.closing):
            observers.event("WorkerStopped", worker=worker.id)
        if self.closing:
            return
        if worker.tainted:
            # asyncio ends a task as cancelled also if the cancel came in its very last step: here, in that of a job.
            fault = None
        if fault is None:
            engine.wake_workers()  # it left dirty; or it was retired, and the pool has grown again since
            return
        # To be cancelled by foreign code is no fault: a sweep over all tasks must not use up the restarts.
        history = self._history
        delay = history.policy.delay if task.cancelled() else history.crashed(now=engine.now())
        self._crashed(worker, fault, delay)

    def _crashed(self, worker: Worker, fault: BaseException, delay: float | None) -> None:
        """Replace a worker in `delay` seconds; None: give up."""
        engine = self._engine
        engine.counters.restarts += 1
        if engine.observers:
            engine.observers.event("WorkerCrashed", worker=worker.id, error=fault, delay=delay)
        if delay is None:
            text = "worker %s crashed, once more than the pool restarts workers"
            log_fault(logger, text, worker.id, error=fault, fields={"worker": worker.id, "pool": self._name})
            self.on_give_up(fault)
            return
        if not isinstance(fault, asyncio.CancelledError):
            text = "worker %s crashed, and is replaced in %g s"
            log_fault(logger, text, worker.id, delay, error=fault, fields={"worker": worker.id, "pool": self._name})
        self._restarts[worker.id] = engine.runtime.later(delay, self._restart, worker.id)

    def _restart(self, id: int) -> None:
        del self._restarts[id]
        self._engine.wake_workers()

    def busy(self) -> list[Worker]:
        """Return the workers whose jobs still run."""
        return [worker for worker in self.living() if worker.busy and worker.job is not None]

    def living(self) -> tuple[Worker, ...]:
        """Return all workers, and those without a coroutine that still have a job."""
        return (*self._tasks, *(worker for worker in self._detached if worker.busy))

    def stop(self) -> Iterator[asyncio.Task[None] | None]:
        """Have all workers end, one a step; yield the task of each that has no job, and so will end at once."""
        self.closing = True
        for timer in self._restarts.values():
            timer.cancel()
        self._restarts.clear()
        for worker in list(self._tasks):
            task = self._tasks.get(worker)
            worker.retiring = True
            if not worker.stopped.done():
                worker.stopped.set_result(None)
            worker.retire()
            yield task if not worker.busy or worker.job is None else None  # or on its way to a job that is gone
