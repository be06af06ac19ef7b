"""`PoolState`: what a pool shares with its views, groups and streams.

They all refer to the state, and it to the engine while the pool is open; none of them refers to the pool, so
that a pool which is dropped without being closed can be noticed.
"""

from __future__ import annotations

import asyncio
import types
import weakref
from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, final

from aiopool._engine.engine import Engine
from aiopool._engine.outside import run_outside
from aiopool._engine.supervisor import Supervisor
from aiopool._jobs.job import Job, running_job
from aiopool._jobs.limits import PoolLimits
from aiopool._jobs.options import JobOptions, Overflow
from aiopool._jobs.status import PoolStatus
from aiopool._observe.observers import Observers
from aiopool._runtime.hooks import HookGuard
from aiopool._runtime.loop_lag import LoopLag
from aiopool._runtime.runners import Runners
from aiopool.errors import PoolClosedError

if TYPE_CHECKING:  # they come with whoever measures or asks
    import datetime

    from aiopool._observe.health import HealthLimits
    from aiopool._observe.metrics import MetricsRecorder
    from aiopool._pool.durability import Durability
    from aiopool._pool.thread_bridge import ThreadBridge

__all__ = ["PoolState"]


@final
class PoolState:
    """The parts of one pool; `engine` and `supervisor` are there from its opening on."""

    __slots__ = (
        "_measures_loop",
        "bridges",
        "close_waiters",
        "closed_at",
        "dask",
        "durability",
        "engine",
        "failure",
        "flights",
        "health_limits",
        "hooks",
        "lag",
        "limits",
        "name",
        "observers",
        "opened_at",
        "opened_by",
        "openings",
        "options",
        "overflow",
        "periodics",
        "runners",
        "start_method",
        "status",
        "supervisor",
    )

    def __init__(self, name: str, options: JobOptions, overflow: Overflow, limits: PoolLimits) -> None:
        self.name = name
        self.durability: Durability | None = None  # of a pool with a store; set before its first view is made
        self.options = options
        self.limits = limits
        self.overflow = overflow
        self.start_method = "spawn"  # of processes
        self.dask: object | None = None  # the cluster of plain functions that run there
        self.status = PoolStatus.NEW
        self.engine: Engine | None = None
        self.bridges: dict[Engine, ThreadBridge] = {}  # to the engine, when another thread wants it: one at most
        self.supervisor: Supervisor | None = None
        self.runners: Runners | None = None
        self.failure: BaseException | None = None
        self.flights: dict[Hashable, Any] = {}  # of `once`, by their keys
        self.periodics: weakref.WeakSet[Any] = weakref.WeakSet()  # of `every`, which stands above
        self.hooks = HookGuard()
        self.observers = Observers(name, self.hooks)
        self.lag: LoopLag | None = None  # while it is wanted and the pool is open
        self._measures_loop = False
        self.opened_at = 0.0
        self.openings = 0
        self.opened_by = "async with Pool"  # for errors
        self.closed_at: float | None = None
        self.health_limits: HealthLimits | None = None  # what the settings say: the default of a `HealthMonitor`
        self.close_waiters: dict[asyncio.Future[None], None] = {}  # who waits for the end of the pool

    def opened(self, engine: Engine, supervisor: Supervisor, runners: Runners) -> None:
        """Take jobs from now on, and tell."""
        self.runners = runners
        self.flights = {}
        self.engine, self.supervisor, self.status, self.failure = engine, supervisor, PoolStatus.OPEN, None
        self.bridges = {}
        self.openings += 1
        self.opened_at, self.closed_at = engine.runtime.now(), None
        self.hooks.end_program = engine.end_program
        self.observers.attach(engine.runtime, engine.observe, engine.jobs, engine.queued)
        self._start_lag()
        self.observers.event("PoolOpened", size=engine.slots.size)

    def uptime(self) -> float:
        """Return for how many seconds the pool has been open, or was."""
        until = self._open_engine().runtime.now() if self.closed_at is None else self.closed_at
        return until - self.opened_at

    def closed(self, leaked: int) -> None:
        """Be closed, and tell."""
        self.status = PoolStatus.CLOSED
        self.closed_at = self._open_engine().runtime.now()
        if self.lag is not None:
            self.lag.stop()
            self.lag = None
        for bridge in self.bridges.values():
            bridge.close()
        self._open_engine().reporter.close()
        self.wake_close_waiters()
        self.observers.event("PoolClosed", leaked=leaked)
        self.observers.detach()

    def take_from_threads(self) -> None:
        """Take in what other threads have handed in, and is on its way."""
        for bridge in self.bridges.values():
            bridge.take_all()

    def measure(self, meter: MetricsRecorder) -> None:
        """Count and time jobs by their names, and watch the loop; from any thread."""
        self.observers.measure(meter)
        self.measure_loop()

    def measure_loop(self) -> None:
        """Measure from now on how late the event loop is; from any thread."""
        if not self._measures_loop:
            self._measures_loop = True
            if self.engine is not None and self.status is not PoolStatus.CLOSED:
                try:
                    self.engine.runtime.loop.call_soon_threadsafe(self._start_lag)
                except BaseException:
                    self._measures_loop = False  # first it was set, for the loop may look before we are back
                    raise

    def _start_lag(self) -> None:
        if (
            self._measures_loop
            and self.lag is None
            and self.engine is not None
            and self.status is not PoolStatus.CLOSED
        ):
            self.lag = LoopLag(self.engine.runtime)

    def wake_close_waiters(self) -> None:
        """Wake those who wait for the end of the pool."""
        for future in self.close_waiters:
            if not future.done():
                future.set_result(None)
        self.close_waiters.clear()

    def not_open(self, what: str) -> RuntimeError:
        """Return the error for a call that needs an open pool."""
        return RuntimeError(
            f"{what}() on pool {self.name!r}, which is {self.status}: write `{self.opened_by}(...) as pool:` around it"
        )

    def check_accepting(self, job: Job[Any] | None = None) -> None:
        """Raise if the caller may not submit any more; see `_engine/admission.py`."""
        if self.status is PoolStatus.OPEN or (
            self.status is PoolStatus.CLOSING and self._open_engine().admission.open_to_caller()
        ):
            return
        what = "" if job is None else f"job {job.name!r} id {job.id!r} was refused: "
        block = self.opened_by.rpartition(" ")[0]
        raise PoolClosedError(
            f"{what}pool {self.name!r} is {self.status}. Submit before the `{block}` block ends"
        ) from self.failure

    def takes(self, job: Job[Any]) -> bool:
        """Return whether a job is one of this pool, or of its store; whoever asks is about to wait for it."""
        return job._spec.owner is self or (self.durability is not None and self.durability.expect(job))

    # -- what a job asks of its owner ----------------------------------------------------------------------------

    def _open_engine(self) -> Engine:
        assert self.engine is not None  # there is a job
        return self.engine

    def cancel(self, job: Job[Any], reason: str | None) -> bool:
        """See `Job.cancel`."""
        return self._open_engine().cancel(job, reason)

    def call_back(self, job: Job[Any], callback: Callable[[Any], object]) -> None:
        """See `Job.add_done_callback`."""
        self._open_engine().reporter.call_hook(copy_context(), callback, job)

    def run_inside_layers(self, job: Job[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> Awaitable[Any]:
        """Run the function of a job that has layers around it."""
        kind = job._spec.runner
        if kind is None:
            result: Awaitable[Any] = function(*args)
            return result
        assert self.runners is not None
        return run_outside(self.runners[kind], job, function, args)

    def set_timeout(self, job: Job[Any], seconds: float | None) -> None:
        """See `Job.set_timeout`."""
        self._open_engine().set_timeout(job, seconds)

    def wall_time(self, at: float) -> datetime.datetime:
        """See `Job.submitted_time`."""
        return self._open_engine().runtime.wall_time(at)

    def expect(self, job: Job[Any]) -> None:
        """Somebody will wait for a job: nothing has to be done, for it ends here."""

    def waiting_for(self, job: Job[Any]) -> str | None:
        """See `Job.waiting_for`."""
        return self._open_engine().waiting_for(job)

    def wait(self, job: Job[Any], waiter: Job[Any] | None) -> Iterable[Any]:
        """Wait until a job is done; the waiter lends its slot, if it has one here."""
        engine = self._open_engine()
        if not engine.is_own(waiter) and engine.start_awaited(job):
            return ()
        return engine.lending.wait(job, waiter)

    @types.coroutine
    def wait_or_cancel(self, job: Job[Any], reason: str) -> Generator[Any, None, None]:
        """Wait until a job is done; a caller that is cancelled takes it along, and does not wait for its end."""
        engine, waiter = self._open_engine(), running_job.get()
        if self.durability is not None:
            self.durability.expect(job)
        elif not engine.is_own(waiter) and engine.start_awaited(job):
            return
        yield from engine.lending.wait(job, waiter, lambda: job.cancel(reason))

    async def stop(self, job: Job[Any], reason: str | None) -> None:
        """Cancel a job, and return when no line of it will run any more, or it leaked.

        If the caller is cancelled, the job goes on ending.
        """
        engine = self.engine
        assert engine is not None
        if self.durability is not None:
            await self.durability.cancel(str(job.id), reason)
            return
        engine.cancel(job, reason)
        ended = engine.endings.when_ended(job)
        if ended is not None:
            await engine.lending.wait_for(ended)
