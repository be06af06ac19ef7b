"""`Supervisor`: keeps the workers: makes them when they are needed, wakes idle ones, replaces those that crash.

It has no task of its own that could die: a callback on a worker's task tells it of the worker's end.
`_jobs/restart.py` decides whether and when a crashed worker is replaced; past its limit the supervisor gives up,
visibly.

A worker is made when a job is to start, a slot is free and no worker is idle. There are never more than the pool has
slots, and one more for each job that has lent its slot or leaked and is replaced: such a job keeps its worker. After
its job a worker is idle, and is used again.

A worker that holds a resource (`worker_context`) opens it first, and is idle then. No more of them open theirs at once
than jobs wait; those that fail together count as one crash. When the pool is made smaller, all of them are counted, not
the idle ones alone.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, final

from aiopool._engine.engine import Engine
from aiopool._engine.worker import TaskWorker, Worker
from aiopool._jobs.restart import Restart, RestartHistory
from aiopool._runtime.faults import log_fault
from aiopool._runtime.runners import Runners

if TYPE_CHECKING:  # few pools have them
    from aiopool._engine.resource import WorkerContext
    from aiopool._engine.worker_info import WorkerCounts

__all__ = ["Supervisor"]

logger = logging.getLogger("aiopool.supervisor")

# So many idle workers are retired in one turn of the loop when the pool was made smaller: some 0.2 ms.
MAX_RETIRED = 100
# So many workers begin to open their resource in one turn.
MAX_OPENED = 100


@final
class Supervisor:
    """The workers of one open pool."""

    __slots__ = (
        "_context",
        "_detached",
        "_engine",
        "_failed_opening",
        "_history",
        "_leaving",
        "_name",
        "_opening",
        "_restarts",
        "_runners",
        "_stuck",
        "_tasks",
        "_trimming",
        "_worker_class",
        "closing",
        "counts",
        "idle",
        "on_give_up",
        "removed",
    )

    def __init__(
        self,
        engine: Engine,
        runners: Runners,
        *,
        isolation: str,
        restart: Restart,
        name: str,
        worker_context: WorkerContext | None,
        counts: WorkerCounts | None,
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
        self.counts = counts
        self._context = worker_context
        self._opening: dict[Worker, int] = {}  # and how many openings had failed when each began
        self._failed_opening: tuple[int, float | None] = 0, None  # how many times, and the delay after the last one
        self._leaving: set[Worker] = set()  # workers with a resource that were retired
        self.removed: set[Worker] = set()  # they were stopped by hand, and the pool is smaller for it
        self._stuck: set[Worker] = set()  # they do not close their resource, and nobody waits for them
        if isolation == "scope":
            # Here, not above: a pool of tasks does not need anyio's event loop backend, and start-up is short.
            from aiopool._engine.scope_worker import ScopeWorker, load_backend

            load_backend()
            self._worker_class = ScopeWorker

    def workers(self) -> list[Worker]:
        """Return the living workers, oldest first."""
        return list(self._tasks)

    def worker(self, id: int) -> Worker | None:
        """Return the worker with a number, or None."""
        return next((worker for worker in self.living() if worker.id == id), None)

    def task_of(self, worker: Worker) -> asyncio.Task[None] | None:
        """Return the task in which a worker lives; None: it has ended."""
        return self._tasks.get(worker)

    @property
    def restarting(self) -> int:
        """How many crashed workers wait to be replaced."""
        return len(self._restarts)

    def _wanted(self) -> int:
        slots = self._engine.slots
        return slots.size + slots.lent + slots.replaced + len(self._stuck)

    @property
    def holds_resources(self) -> bool:
        """Whether the workers hold a resource."""
        return self._context is not None

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

    def _add_open(self, worker: Worker) -> None:
        """Keep a worker with a resource that has no job, or retire it if there are too many of them, idle or not."""
        self._opening.pop(worker, None)
        self.idle[worker] = None
        if self._excess() > 0:
            self._retire(worker)

    def _excess(self) -> int:
        """How many idle workers there are too many."""
        if self._context is None:
            return len(self.idle) - self._engine.slots.size
        return min(len(self.idle), len(self._tasks) - len(self._leaving) - self._wanted())

    def _retire(self, worker: Worker) -> None:
        self.idle.pop(worker, None)
        if self._context is not None:
            self._leaving.add(worker)
        worker.retire()

    def retire(self, worker: Worker) -> None:
        """Have a worker end when its job ends; at once if it has none."""
        if worker in self._tasks:
            self._retire(worker)

    def retire_excess(self) -> None:
        """Retire idle workers that are too many for the size of the pool; some in each turn of the loop."""
        if self._excess() > 0 and not self._trimming:
            self._engine.runtime.soon(self._retire_some)
            self._trimming = True

    def _retire_some(self) -> None:
        self._trimming = False
        for _ in range(min(MAX_RETIRED, self._excess())):
            self._retire(next(reversed(self.idle)))
        self.retire_excess()

    def spawn(self) -> Worker | None:
        """Make a worker, and return it if it can be woken.

        None: there are enough, one waits to be restarted, or none can be made. With resources always: new workers are
        on the way, as many as jobs wait that may start, and each wakes itself when its resource is open.
        """
        if self._context is None:
            return self._make()
        engine, slots = self._engine, self._engine.slots
        missing = min(engine.queue.live, slots.limit - slots.active) - len(self._opening) - len(self._restarts)
        for _ in range(min(missing, MAX_OPENED)):
            if self._make() is None:
                return None
        if missing > MAX_OPENED:
            engine.wake_workers()
        return None

    def _make(self) -> Worker | None:
        engine = self._engine
        if self.closing or len(self._tasks) + len(self._restarts) >= self._wanted():
            return None
        worker = self._worker_class(engine, self._runners, self._add_idle if self._context is None else self._add_open)
        if self._context is not None:
            from aiopool._engine.resource import Resource

            worker.resource = Resource(
                self._context,
                worker.id,
                engine.runtime,
                limit=lambda: 2 * engine.cancel_grace,
                on_stuck=functools.partial(self._add_stuck, worker),
            )
            self._opening[worker] = self._failed_opening[0]
        if self.counts is not None:
            self.counts.add(worker)
        if engine.observers:
            engine.observers.event("WorkerStarted", worker=worker.id)
        try:
            task = worker.start(f"{self._name}-worker-{worker.id}")
        except Exception as fault:  # no memory, or a task factory of the user's: it has crashed before it began
            self._forget(worker)
            self._crashed(worker, fault, self._history.crashed(now=engine.now()))
            return None
        self._tasks[worker] = task
        task.add_done_callback(functools.partial(self._ended, worker), context=engine.runtime.context)
        return worker

    def _add_stuck(self, worker: Worker) -> None:
        """Make another worker in place of one that does not end."""
        if worker in self._tasks:
            self._stuck.add(worker)
            self._engine.wake_workers()

    def _forget(self, worker: Worker) -> int | None:
        """Forget a worker that has ended.

        Returns:
            How many openings had failed when it began its own; None: it had opened, or has nothing to open.
        """
        self._leaving.discard(worker)
        self._stuck.discard(worker)
        self.removed.discard(worker)
        if self.counts is not None:
            self.counts.discard(worker)
        return self._opening.pop(worker, None)

    def _ended(self, worker: Worker, task: asyncio.Task[None]) -> None:
        del self._tasks[worker]
        engine = self._engine
        self.idle.pop(worker, None)
        failed_before = self._forget(worker)
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
        if task.cancelled():
            delay: float | None = history.policy.delay
        elif failed_before is not None:
            delay = self._opening_failed(failed_before)
        else:
            delay = history.crashed(now=engine.now())
        self._crashed(worker, fault, delay)

    def _opening_failed(self, failed_before: int) -> float | None:
        """Return the delay after a resource was not opened; if another one failed meanwhile, that one has counted."""
        times, delay = self._failed_opening
        if times == failed_before:
            delay = self._history.crashed(now=self._engine.now())
            self._failed_opening = times + 1, delay
        return delay

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

    def retire_all(self) -> Iterator[None]:
        """Have each worker end as soon as it has no job, one a step: no job will start any more."""
        for worker in list(self._tasks):
            self.retire(worker)
            yield

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
