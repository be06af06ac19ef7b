"""`Pool`: the face. It wires the parts together when it is opened, checks what it is given, and has no logic of its
own.

How a job travels: `submit` makes a `Job` and hands it to the engine (`_engine/engine.py`), which puts it into the line
(`_engine/queue.py`). A worker (`_engine/worker.py`) takes the best one, runs it, and the engine decides: done, or again
after a delay. The supervisor keeps the workers alive; the shutdown ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, final

from aiopool._engine.engine import Engine
from aiopool._engine.error_reporter import ErrorReporter
from aiopool._engine.resizing import Resizing
from aiopool._engine.supervisor import Supervisor
from aiopool._engine.walk import walk
from aiopool._engine.worker import Worker
from aiopool._jobs.fair_shares import FairShares, check_weights
from aiopool._jobs.job import Job, OnError, running_job
from aiopool._jobs.layered import Layer
from aiopool._jobs.limits import Limit, PoolLimits
from aiopool._jobs.options import (
    DEFAULTS,
    MAX_SIZE,
    JobOptions,
    Offload,
    Overflow,
    Priority,
    check_count,
    check_seconds,
)
from aiopool._jobs.restart import Restart
from aiopool._jobs.retry import Retry
from aiopool._jobs.size_rule import SizeRule
from aiopool._jobs.statistics import Statistics, adds_up
from aiopool._jobs.status import JobStatus, PoolStatus
from aiopool._pool.bulk_cancel import cancel_jobs
from aiopool._pool.cancel_report import CancelReport
from aiopool._pool.completed import CompletedJobs
from aiopool._pool.durability import Durability, Role, make_durability
from aiopool._pool.group import Group
from aiopool._pool.job_scan import JobScan
from aiopool._pool.lanes import Lanes
from aiopool._pool.open_pools import list_pool, unlist_pool
from aiopool._pool.runners import runners_of
from aiopool._pool.shutdown import OnShutdown, Shutdown, ShutdownReport, only
from aiopool._pool.state import PoolState
from aiopool._pool.submitter import Submitter
from aiopool._runtime.keywords import AsyncOnly, explain_keywords
from aiopool._runtime.registration import Registration
from aiopool._runtime.runners import Runners
from aiopool._runtime.runtime import Runtime, shield
from aiopool._runtime.signals import OpenPools, SignalHandler, register_open_pool
from aiopool.errors import PoolClosedError, RestartLimitError

if TYPE_CHECKING:  # they come with whoever listens or asks
    from aiopool._engine.resource import WorkerContext
    from aiopool._engine.watchdog import BlockWatch
    from aiopool._engine.worker_info import WorkerInfo
    from aiopool._jobs.keep_finished import KeepFinished
    from aiopool._jobs.records import JobOutcome
    from aiopool._pool.fleet import Fleet
    from aiopool.events import EventStream, Listener, PoolEvent

__all__ = ["Pool"]

J = TypeVar("J", bound=Job[Any])

StartMethod = Literal["spawn", "forkserver", "fork"]
"""How the processes of a pool are made."""

logger = logging.getLogger("aiopool.pool")


class TaskStatus(Protocol):
    """What `anyio`'s `TaskGroup.start` passes to the function that it starts."""

    def started(self, value: Any = None) -> None: ...


@final
@explain_keywords
class Pool(Submitter, AsyncOnly):
    """A supervised pool of coroutine workers.

    Three promises. Never more than `size` jobs start to run at once, not even after a timeout or a cancel. Jobs start
    by priority, then in the order of submission, also after a retry. A shutdown ends in the time that you set, whatever
    the jobs do, and its report lists what could not finish. (A job that ignores its cancel is left behind; but
    `asyncio.run()`, unlike `aiopool.run()`, waits for it.)

    Making a pool binds to no loop, installs nothing and starts nothing; `async with` opens it. It may be opened in
    one task and closed in another, and opened again after it was closed, in the same loop or another.

    Args:
        size: how many jobs may run at once. Any size costs the same to open: a worker is made when a job needs it. Or a
            rule by which the size changes: an `Autoscale` or an `Adaptive` of `aiopool.sizing`.
        queue_size: how many more may wait; None: any number; 0: none, a job is handed to a free worker or waits
            outside. A job that comes back for another attempt, or after its delay, needs no room.
        name: what the pool is called in logs.
        priority, timeout, queue_timeout, total_timeout, retry: options of all jobs; see `with_options`.
        isolation: `"task"`: each attempt is a task of its own, and harms only itself. `"scope"`: the fast lane; the
            worker
            drives the job in its own task, under an anyio cancel scope.
        overflow: what `submit` does when the queue is full: `"wait"` for room; `"reject"` with `QueueFullError`;
            or drop a job of the queue for it: the oldest (`"drop_oldest"`), or the last in line, if it is of lower
            priority (`"drop_lowest"`).
        aging: seconds in the queue that count as one step of priority, so that low ones cannot starve; None: never.
        cancel_grace: seconds that a cancelled job has to end, before it is told again; after a second grace it is
            *leaked*.
        on_leak: `"hold"`: a leaked job keeps its slot until it ends. `"replace"`: another job may take it.
        on_error: called as `on_error(job, error)` for a failure that nobody awaits; the log, by default.
        max_threads: how many plain functions may run in threads at once; `size` by default.
        offload: where plain functions run that do not say so: see `with_options`; in threads, by default.
        max_processes: how many processes (or interpreters) there may be; as many as processors, by default. They are
            made when jobs need them, and kept until the pool closes.
        dask: the cluster of `offload="dask"`: the address of its scheduler, such as `"tcp://scheduler:8786"`; or a
            cluster or a `Client` of `dask.distributed`, whose address and certificates are taken.
        start_method: how processes are made, as in `multiprocessing`: `"spawn"`, `"forkserver"` or `"fork"`, which is
            not safe in a program with threads.
        restart: how often workers may crash before the pool gives up.
        handle_signals: shut down at the first SIGINT or SIGTERM, cancel at the second, exit at the third; where
            `aiopool.run` does not do so already.
        shutdown_timeout: seconds that jobs have to finish when the pool is left or shut down; then they are cancelled.
            The whole end takes this, a grace (twice `cancel_grace`) and a second for callbacks. None: as long as the
            jobs take. If a store does not answer, ten seconds more.
        seed: of the pool's random numbers (jitter), for tests.
        limit: a `Limit` of all jobs together, such as a rate.
        limits: a `Limit` by name: of a group, of a function (or of the option `name`), or of a key.
        key_limit: a `Limit` of each key (see `with_options`) that has none of its own in `limits`.
        keep_finished: so many jobs that have ended are remembered, for `find`, `finished_jobs` and what `cancel` says;
            `aiopool.records.KeepFinished` says more. None: none, and nothing is built.
        layers: what is done around each attempt of all jobs: `async def layer(job, call)`, the outermost first.
        fair_keys: among jobs of equal priority the keys take turns, so that one that floods the pool delays its own
            jobs only. A mapping gives some keys another weight than 1: with 3, three jobs for each of another's.
        worker_context: called for each worker; the context manager that it returns is open while the worker lives, and
            gives `aiopool.current_worker().resource` to its jobs. One that cannot be opened is a crash, see `restart`.
        recycle_after: so many attempts a worker runs; then it ends, and another takes its place. None: any number.
        count_by_worker: count what each worker does, for `workers()`.
        watchdog: seconds for which a job may hold up the event loop before a thread says so in the log: which job it
            is, and where, while it does. None: nobody looks.
        store: where the jobs are kept, so that they survive this process: a URL, such as `"sqlite:///jobs.db"`,
            `"postgresql://host/database"`, `"redis://host"` or `"memory://"`; or a store of `aiopool.stores`. Pools
            that have the same `name` there share their jobs, on any number of hosts. None: in memory.
        handlers: the functions whose jobs the store keeps: an `aiopool.Handlers`.
        role: of a pool with a store: whether it runs jobs (`"worker"`), submits them (`"producer"`), or both. A
            worker may submit, too.

    Example:
        async with Pool(size=8) as pool:
            job = await pool.submit(fetch, url)
            page = await job
    """

    _instead = "; a program without an event loop takes `with aiopool.blocking.BlockingPool(...) as pool:`"
    __slots__ = (
        "__weakref__",
        "_aging",
        "_callbacks",
        "_cancel_grace",
        "_closing",
        "_count_by_worker",
        "_fatal",
        "_groups",
        "_isolation",
        "_max_processes",
        "_max_threads",
        "_on_error",
        "_on_leak",
        "_queue_size",
        "_recycle_after",
        "_report",
        "_resizing",
        "_restart",
        "_roster",
        "_runners",
        "_seed",
        "_shutdown",
        "_shutdown_timeout",
        "_signals",
        "_size",
        "_watch",
        "_watchdog",
        "_worker_context",
    )

    def __init__(
        self,
        size: int | SizeRule = 10,
        queue_size: int | None = 1000,
        *,
        name: str = "pool",
        priority: int = Priority.NORMAL,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        total_timeout: float | None = None,
        retry: Retry | None = None,
        isolation: Literal["task", "scope"] = "task",
        overflow: Overflow = "wait",
        aging: float | None = None,
        # Long enough for `await connection.close()`, short enough for a container's 10 s.
        cancel_grace: float = 1.0,
        on_leak: Literal["hold", "replace"] = "hold",
        on_error: OnError | None = None,
        max_threads: int | None = None,
        offload: Offload = "thread",
        max_processes: int | None = None,
        start_method: StartMethod = "spawn",
        dask: object | None = None,
        restart: Restart | None = None,
        handle_signals: bool = False,
        shutdown_timeout: float | None = None,
        seed: int | None = None,
        limit: Limit | None = None,
        limits: Mapping[str, Limit] | None = None,
        key_limit: Limit | None = None,
        fair_keys: bool | Mapping[str | int, float] = False,
        layers: Iterable[Layer] | None = None,
        keep_finished: int | KeepFinished | None = None,
        worker_context: WorkerContext | None = None,
        recycle_after: int | None = None,
        count_by_worker: bool = False,
        watchdog: float | None = None,
        store: object | None = None,
        handlers: object | None = None,
        role: Role = "both",
    ) -> None:
        if not isinstance(size, SizeRule):
            check_count("size", size, least=1, most=MAX_SIZE)
        if queue_size is not None:
            check_count("queue_size", queue_size)
        if max_threads is not None:
            check_count("max_threads", max_threads, least=1)
        if max_processes is not None:
            check_count("max_processes", max_processes, least=1)
        if recycle_after is not None:
            check_count("recycle_after", recycle_after, least=1)
        if watchdog is not None and check_seconds("watchdog", watchdog) == 0:
            raise ValueError("watchdog=0: every job holds up the event loop for some time; write None for no watchdog")
        if worker_context is not None:
            from aiopool._engine.resource import check_worker_context

            check_worker_context(worker_context)
        check_seconds("cancel_grace", cancel_grace)
        if shutdown_timeout is not None:
            check_seconds("shutdown_timeout", shutdown_timeout)
        if aging is not None and check_seconds("aging", aging) == 0:
            raise ValueError("aging=0: no time at all would be worth a step of priority; write None for no aging")
        _check_choice("isolation", isolation, ("task", "scope"))
        _check_choice("overflow", overflow, ("wait", "reject", "drop_oldest", "drop_lowest"))
        _check_choice("on_leak", on_leak, ("hold", "replace"))
        _check_choice("offload", offload, ("thread", "process", "interpreter", "dask"))
        _check_choice("start_method", start_method, ("spawn", "forkserver", "fork"))
        if dask is not None:
            from aiopool._runtime.dask import check_cluster

            check_cluster(dask)
        weights = check_weights(fair_keys)
        if weights is not None and aging is not None:
            raise ValueError("aging and fair_keys are two orders among waiting jobs: choose one of them")
        options = JobOptions(
            priority=priority,
            timeout=timeout,
            queue_timeout=queue_timeout,
            total_timeout=total_timeout,
            retry=retry,
            offload=offload,
            layers=layers,
        ).over(DEFAULTS)
        _check_choice("role", role, ("both", "producer", "worker"))
        state = PoolState(name, options, overflow, PoolLimits(limit, limits, key_limit, weights))
        state.dask = dask
        if store is not None:
            if weights is not None or aging is not None:
                raise ValueError(
                    "fair_keys and aging order the jobs of one process, and a store its own: leave them out"
                )
            if overflow != "wait":
                raise ValueError(f"overflow={overflow!r} is for a queue in memory: a store takes any number of jobs")
            state.durability = make_durability(state, store, handlers, role)
        elif handlers is not None or role != "both":
            raise ValueError('handlers= and role= are for a pool with a store: write store="sqlite:///jobs.db", too')
        super().__init__(state, JobOptions(), options)
        if keep_finished is not None:
            from aiopool._observe.finished_jobs import FinishedJobs

            self._state.observers.keep(FinishedJobs.of(keep_finished))
        self._size = size
        self._queue_size = queue_size
        self._isolation = isolation
        self._aging = aging
        self._cancel_grace = cancel_grace
        self._on_leak: Literal["hold", "replace"] = on_leak
        self._on_error = on_error
        self._max_threads = max_threads
        self._max_processes = max_processes
        self._state.start_method = start_method
        self._restart = restart or Restart()
        self._signals = SignalHandler(self._on_signal) if handle_signals else None
        self._shutdown_timeout = shutdown_timeout
        self._seed = seed
        self._worker_context = worker_context
        self._recycle_after = recycle_after
        self._count_by_worker = count_by_worker
        self._watchdog = watchdog
        self._watch: BlockWatch | None = None
        self._callbacks: list[OnShutdown] = []
        self._groups = 0
        self._runners: Runners | None = None
        self._resizing: Resizing | None = None
        self._roster: OpenPools | None = None
        self._shutdown: Shutdown | None = None
        self._closing: asyncio.Task[ShutdownReport] | None = None
        self._report: ShutdownReport | None = None
        self._fatal: BaseException | None = None

    # -- open and close ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the pool in the running loop. Its workers come when they are wanted."""
        state = self._state
        if state.status in (PoolStatus.OPEN, PoolStatus.CLOSING):
            raise RuntimeError(
                f"pool {state.name!r} is {state.status}: it is opened once at a time; make another Pool(...)"
            )
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                f"pool {state.name!r} runs on asyncio, and no event loop of asyncio runs here: write "
                'asyncio.run(main()), or anyio.run(main, backend="asyncio") in place of trio'
            ) from None
        runtime = Runtime(loop, self._seed)
        self._runners = runners_of(
            state.name,
            loop,
            threads=lambda: max(self._max_threads or self.size, 1),
            processes=self._max_processes,
            start_method=state.start_method,
            dask=state.dask,
        )
        # The engine is made first: the supervisor below needs it, and is needed when the first job is to start.
        engine = Engine(
            runtime,
            size=self._first_size,
            queue_size=self._queue_size,
            aging=self._aging,
            shares=None if state.limits.weights is None else FairShares(state.limits.weights),
            cancel_grace=self._cancel_grace,
            on_leak=self._on_leak,
            owner=state,
            errors=ErrorReporter(state.name, runtime, self._on_error, state.hooks),
            wake_worker=lambda: wake_worker(),
            on_fatal=self._on_fatal,
        )
        counts = None
        if self._count_by_worker or self._recycle_after is not None:
            from aiopool._engine.worker_info import WorkerCounts

            counts = WorkerCounts(self._recycle_after)
        state.observers.count(counts)
        supervisor = Supervisor(
            engine,
            self._runners,
            isolation=self._isolation,
            restart=self._restart,
            name=state.name,
            worker_context=self._worker_context,
            counts=counts,
            on_give_up=self._give_up,
        )
        self._resizing = Resizing(
            engine, supervisor, self._runners, state.observers, own_threads=self._max_threads is not None
        )
        wake_worker = supervisor.wake_worker
        if self._watchdog is not None and not runtime.virtual:  # in virtual time nothing takes any
            wake_worker = self._watched(engine, self._watchdog, wake_worker)
        self._closing = self._shutdown = self._report = self._fatal = None
        if state.overflow == "drop_oldest":
            engine.queue.oldest()  # asked for the first time it looks at all jobs: there are none
        state.opened(engine, supervisor, self._runners)
        if state.durability is not None:
            await self._open_store(state.durability)
        if isinstance(self._size, SizeRule):
            self._resizing.resize(self._size)
        self._roster = register_open_pool(runtime.loop, self)
        if self._signals is not None and self._roster is None:  # else the program hears them, for all of its pools
            self._signals.install(runtime.loop)
        list_pool(self)
        return self

    async def _open_store(self, durability: Durability) -> None:
        """Open the store. If that fails, or the caller is cancelled, the pool is closed again."""
        try:
            await durability.open()
        except BaseException:
            await self._close(timeout=0)
            raise

    def _watched(self, engine: Engine, limit: float, wake_worker: Callable[[], bool]) -> Callable[[], bool]:
        """Return a `wake_worker` that has the loop watched from then on: an idle pool is not."""
        from aiopool._engine.watchdog import BlockWatch

        watch = self._watch = BlockWatch(engine, limit, self.name)

        def watched() -> bool:
            watch.arm()
            return wake_worker()

        return watched

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave, by a shutdown that begins at once: see `shutdown`.

        Normally it lets the work finish, for at most `shutdown_timeout` seconds, what jobs submit meanwhile included;
        by an exception, and if the caller is cancelled, it cancels the jobs. A pool that is paused, or of size 0, goes
        on, and cannot be held any more: to leave is to finish.
        """
        state = self._state
        if kind is None:
            await self._close(timeout=self._shutdown_timeout)
            if state.failure is not None:
                raise state.failure
        elif error is not None and only(error, PoolClosedError) and state.status is not PoolStatus.OPEN:
            # The body met a shutdown under way: that one sets the time. It was begun so that the jobs could finish.
            await self._close(timeout=None)
        else:
            await self._close(timeout=0)

    async def _close(self, timeout: float | None) -> None:
        """Shut down and wait for it, whatever happens to the caller; each cancel of it makes the shutdown hurry."""
        closing = self._start_shutdown(timeout=timeout, grace=None, cancel_pending=False)
        cancelled: asyncio.CancelledError | None = None
        hurried = timeout == 0  # left by an exception: the jobs have been told, and have no more than their grace
        while not closing.done():
            try:
                with shield() if hurried else contextlib.nullcontext():
                    await asyncio.wait([closing])
            except asyncio.CancelledError as error:
                assert self._shutdown is not None
                self._shutdown.hurry(0, 0 if hurried else None)
                cancelled, hurried = error, True
        if cancelled is not None:
            raise cancelled

    async def serve(self, *, task_status: TaskStatus | None = None) -> None:
        """Open the pool, and keep it open until it is shut down or the caller is cancelled; for `anyio` task groups.

        Args:
            task_status: given by `TaskGroup.start`; it is told when the pool is open, with the pool.

        If the caller is cancelled, the jobs are cancelled, and it returns when they have ended or leaked.

        Example:
            async with anyio.create_task_group() as tg:
                pool = await tg.start(Pool(size=4).serve)
        """
        async with self:
            if task_status is not None:
                task_status.started(self)
            await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the pool is shut down.

        If the caller is cancelled, nothing happens to the pool.
        """
        if self._state.status is PoolStatus.CLOSED:
            return
        engine = self._engine("wait_closed")
        future: asyncio.Future[None] = engine.runtime.loop.create_future()
        self._state.close_waiters[future] = None
        try:
            await engine.lending.wait_for(future)
        finally:
            self._state.close_waiters.pop(future, None)

    async def shutdown(
        self, timeout: float | None = None, grace: float | None = None, *, cancel_pending: bool = False
    ) -> ShutdownReport:
        """End the pool within a time that you set, and report what was left.

        From now on only the pool's own jobs may submit. Jobs run to their end until `timeout` is over, with those that
        they submit meanwhile. Then nobody may submit; what is left is cancelled, and has `grace` to end; what has not
        ended by then is *leaked*: it is named in the report, and its waiters are released. Then the callbacks of
        `on_shutdown` run, all at once, in what is left of `timeout` and one second more.

        A leaked job goes on in its task. The pool is closed without it, but `asyncio.run()`, which waits for every task
        without a limit, is not left before the job ends. `aiopool.run()` is.

        Calling it again, from anywhere, also from inside a job, joins the shutdown under way, and can only make it
        hurry. The job that calls it is not waited for.

        Args:
            timeout: seconds for jobs to finish; `shutdown_timeout` of the pool by default; 0 cancels at once.
            grace: seconds for cancelled jobs to end; twice `cancel_grace` by default.
            cancel_pending: cancel at once what has not started, and refuse what the pool's own jobs submit.

        Returns:
            The report; the same one to all callers.

        If the caller is cancelled, the shutdown goes on.

        Example:
            report = await pool.shutdown(timeout=30, grace=5)
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        if grace is not None:
            check_seconds("grace", grace)
        if self._state.status is PoolStatus.CLOSED and self._report is not None:
            return self._report
        engine = self._engine("shutdown")
        closing = self._start_shutdown(
            timeout=self._shutdown_timeout if timeout is None else timeout,
            grace=grace,
            cancel_pending=cancel_pending,
        )
        done: asyncio.Future[None] = engine.runtime.loop.create_future()
        closing.add_done_callback(lambda _: None if done.done() else done.set_result(None))
        await engine.lending.wait_for(done)
        return closing.result()

    def _start_shutdown(
        self, *, timeout: float | None, grace: float | None, cancel_pending: bool
    ) -> asyncio.Task[ShutdownReport]:
        engine = self._engine("shutdown")
        if self._shutdown is None:
            assert self._state.supervisor is not None
            assert self._runners is not None
            self._shutdown = Shutdown(
                engine,
                self._state.supervisor,
                self._runners,
                self._callbacks,
                self._state.name,
                self._state.hooks,
            )
            self._state.status = PoolStatus.CLOSING
            if self._state.durability is not None:
                self._state.durability.stop_claiming()
        caller = running_job.get()
        if caller is not None and caller._spec.owner is self._state and caller._finished_at is None:
            self._shutdown.called_by(caller)
        self._shutdown.hurry(timeout, grace, cancel_pending=cancel_pending)
        if self._closing is None:
            self._state.observers.event("PoolClosing", timeout=timeout)
            # It has begun at once: a cancel, whenever it comes, is met inside.
            end, name = self._end(self._shutdown), f"{self._state.name}-shutdown"
            self._closing = engine.runtime.start_task(end, name=name, context=Context())
        return self._closing

    async def _end(self, shutdown: Shutdown) -> ShutdownReport:
        try:
            self._report = await shutdown.run()
            return self._report
        finally:
            if self._state.durability is not None:
                await self._state.durability.close()
            if self._watch is not None:
                self._watch.stop()
                self._watch = None
            if self._signals is not None:
                self._signals.restore()
            if self._roster is not None and self._report is not None:
                self._roster.broken |= bool(self._report.callback_errors)
            self._state.closed(len(self._report.leaked) if self._report else 0)
            unlist_pool(self)

    def on_shutdown(self, callback: OnShutdown) -> Registration:
        """Have `callback()` called (and awaited, if it is asynchronous) at the end of the shutdown.

        All callbacks run at once, begun last in first out. They share what is left of the shutdown's `timeout` and one
        second more; without a timeout they have five seconds. One that fails, or is late and cancelled, does not stop
        the others: it is logged, named in the report, and makes `aiopool.run` exit with 1.

        Returns:
            A handle: its `remove()` takes the callback back.

        Example:
            pool.on_shutdown(client.aclose)
        """
        self._callbacks.append(callback)
        return Registration(lambda: self._callbacks.remove(callback))

    def _give_up(self, fault: BaseException) -> None:
        """Workers crashed too often: fail visibly. Every waiting job ends, nothing hangs."""
        engine = self._engine("restart")
        text = f"workers of pool {self._state.name!r} crashed more often than {self._restart!r} allows"
        self._state.failure = RestartLimitError(f"{text}: the pool has given up")
        self._state.failure.__cause__ = fault
        self._state.status = PoolStatus.CLOSING
        engine.admission.close()

        # First: the shutdown would cancel them, with another reason.
        def evict_each() -> Iterator[None]:
            for job in walk(engine.jobs):
                if job is not None and job._status is not JobStatus.RUNNING:
                    error = RestartLimitError(f"{text}: {job!r} was given up")
                    error.__cause__ = fault
                    engine.evict(job, error)
                yield

        engine.chores.work_off(evict_each())
        self._start_shutdown(timeout=0, grace=None, cancel_pending=False)

    def _on_fatal(self, error: BaseException) -> None:
        """A job raised SystemExit or KeyboardInterrupt: end the program, by a bounded shutdown first."""
        if self._fatal is not None:
            return
        self._fatal = error
        closing = self._start_shutdown(timeout=0, grace=None, cancel_pending=True)

        def leave(_: object) -> None:
            raise error  # out of the event loop, as asyncio does with these two

        closing.add_done_callback(leave, context=self._engine("exit").runtime.context)

    def _on_signal(self, count: int) -> None:
        """First signal: shut down. Second: cancel. (The third is the watch's own: exit.)"""
        timeout = self._shutdown_timeout if count == 1 else 0
        self._start_shutdown(timeout=timeout, grace=None, cancel_pending=count > 1)

    # -- steering ----------------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Wait until no job is left, and stay open. Called inside a job, it waits for all others.

        With a store: until no live job is left in it, whoever submitted it and wherever it runs; but those that are
        parked, for no process knows their names.

        If the caller is cancelled, the jobs go on.
        """
        engine = self._engine("join")
        if self._state.durability is not None:
            await self._state.durability.join()
        await engine.join_waiters.wait()

    def as_completed(self, jobs: Iterable[J]) -> AsyncIterator[J]:
        """Return jobs of this pool as they end, for `async for`.

        Those that have ended come first, in the order of their ends, then the others as they end; each comes once, also
        if it was given twice. A failure is not raised here: ask the job. A caller that is a job of this pool lends its
        slot while it waits.

        From this call on the failures of the jobs are the consumer's, as if it awaited each of them. If the loop is
        left early, those that nobody took are reported; no job is cancelled.

        Args:
            jobs: any iterable of jobs of this pool; it is read at once.

        Raises:
            TypeError: something in it is no job.
            ValueError: a job is one of another pool.
            RuntimeError: the pool was never opened; or a job waits for itself.

        If the consumer is cancelled, the jobs go on.

        Example:
            async for job in pool.as_completed(jobs):
                print(job.id, job.result())
        """
        return CompletedJobs(self._state, self._engine("as_completed"), jobs)

    async def cancel(self, id: int | str, reason: str | None = None) -> CancelReport:
        """Cancel a job by its id, in whichever place it is, and return when no line of it will run any more.

        Args:
            id: the job's id; `7` and `"7"` are one id.
            reason: for the log, and for whoever awaits the job, or waits in `submit` for its room.

        Returns:
            Where the job was, and how it ended; whether it leaked. False if nothing was cancelled. `str()` says it in
            words. With `keep_finished` it tells how and when a job had ended before.

        Raises:
            PoolClosedError: the pool has closed, and the job, which another process runs, had not ended.

        If the caller is cancelled, the job's cancel goes on.

        Example:
            await pool.cancel("invoice-17", reason="paid twice")
        """
        engine = self._engine("cancel")
        if self._state.durability is not None:
            return await self._state.durability.cancel(str(id), reason)
        job = self.get_job(id)
        if job is None or job.done():
            finished = self._state.observers.finished
            found = None if finished is None else finished.ago(id)
            if found is None:
                return CancelReport(id, None, None)
            record, ago = found
            return CancelReport(id, record.status, record.status, record.leaked, ago)
        was = job.status
        if job is running_job.get():
            job.cancel(reason)  # one's own end cannot be waited for
        else:
            await self._state.stop(job, reason)
        del engine
        return CancelReport(id, was, job.status, job.leaked)

    async def cancel_all(
        self,
        reason: str | None = None,
        *,
        group: str | None = None,
        where: Callable[[Job[Any]], object] | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Cancel all jobs, or some of them, and return when they have ended, or leaked; the pool stays open.

        Those that wait for room are refused. Jobs that are submitted meanwhile are spared. Many are cancelled in slices
        of the event loop's time; until the last one no job starts.

        Args:
            reason: for the log, and for whoever awaits the jobs.
            group: the name of a group; None: the whole pool.
            where: called as `where(job)`; a job for which it returns something false is spared. It must be quick.
            on_progress: called as `on_progress(done, total)`, in jobs that were looked at: once in a thousand, and at
                the end.

        Returns:
            How many jobs were cancelled.

        Raises:
            BaseException: what `where` or `on_progress` raised; from then on nothing more was cancelled.

        If the caller is cancelled, the cancel of the jobs goes on.

        With a store: all live jobs of the fleet, as `pool.fleet.cancel_all`; those that run end soon after.

        Example:
            await pool.cancel_all("wrong text", group="newsletter")
            await pool.cancel_all(where=lambda job: job.metadata.get("tenant") == 7)
        """
        engine = self._engine("cancel_all")
        if self._state.durability is not None:
            if where is not None or on_progress is not None:
                raise ValueError(
                    "where= and on_progress= are for jobs in memory: in a store look through `pool.fleet.jobs()`, and "
                    "cancel by id"
                )
            return await self.fleet.cancel_all(reason, group=group)
        return await cancel_jobs(self._state, engine, reason, group, where, on_progress)

    async def stop_worker(self, id: int, *, graceful: bool = True) -> bool:
        """End a worker, close its resource, and make the pool smaller by one: fewer jobs run at once from now on.

        If it was the last one, the pool is held, as by `resize(0)`. A second call for the same worker makes nothing
        smaller: it can cancel the job that a first one has waited for.

        Args:
            id: of the worker, as in `pool.workers()`.
            graceful: let its job end first, however long that takes. False: cancel its job.

        Returns:
            Whether the worker has ended; False if there is no such worker, or its job leaked: then it ends after it.
            From inside of its own job: True at once, and it ends with that job.

        If the caller is cancelled, the worker ends all the same.

        Example:
            await pool.stop_worker(pool.workers()[0].id)
        """
        from aiopool._pool.workers import STOPPED, end_worker

        worker = self._worker("stop_worker", id)
        if worker is None:
            return False
        supervisor = self._state.supervisor
        assert supervisor is not None
        if worker not in supervisor.removed:
            supervisor.removed.add(worker)
            self.resize(max(self.size - 1, 0))
        return await end_worker(self._state, worker, graceful=graceful, reason=STOPPED)

    async def restart_worker(self, id: int, *, graceful: bool = True) -> bool:
        """End a worker, and close its resource; another is made, with a resource of its own, when a job needs one.

        The size of the pool stays.

        Args:
            id: of the worker, as in `pool.workers()`.
            graceful: let its job end first, however long that takes. False: cancel its job.

        Returns:
            As `stop_worker`.

        If the caller is cancelled, the worker ends all the same.

        Example:
            for worker in pool.workers():
                await pool.restart_worker(worker.id)
        """
        from aiopool._pool.workers import RESTARTED, end_worker

        worker = self._worker("restart_worker", id)
        if worker is None:
            return False
        return await end_worker(self._state, worker, graceful=graceful, reason=RESTARTED)

    def _worker(self, what: str, id: int) -> Worker | None:
        if isinstance(id, bool) or not isinstance(id, int):
            raise TypeError(f"{what}() takes the number of a worker, as in pool.workers(), got {id!r}")
        self._engine(what)
        assert self._state.supervisor is not None
        return self._state.supervisor.worker(id)

    def resize(self, size: int | SizeRule, *, cancel_excess: bool = False) -> None:
        """Change how many jobs may run at once. 0 holds the pool.

        It is a request, and returns at once. More: from the next turn of the loop on. Fewer: as running jobs end; none
        is stopped, unless you ask for it. `await pool.resized()` waits until no more run.

        Args:
            size: the new size; it ends the rule of a pool that has one. Or a rule, from now on.
            cancel_excess: cancel the running jobs that are too many: those that were started last. A job that calls
                this is not among them, nor is one that waits for another job of the pool. A job that does not end
                within its grace keeps its slot, as after any cancel.

        Raises:
            TypeError, ValueError: it is no number of jobs, or more than 10 million, for which no machine has room.

        Example:
            pool.resize(pool.size * 2)
        """
        if not isinstance(size, SizeRule):
            check_count("size", size, most=MAX_SIZE)
        self._engine("resize")
        assert self._resizing is not None
        self._resizing.resize(size)
        if cancel_excess:
            self._resizing.cancel_excess()

    async def resized(self) -> None:
        """Wait until no more jobs run than the size allows: after a `resize` to fewer, as those too many have ended.

        It returns at once if that is so, and when the pool has closed. A leaked job counts as long as it holds a slot.
        A job that calls this lends its slot meanwhile.

        If the caller is cancelled, nothing happens to the pool.

        Example:
            pool.resize(2)
            await pool.resized()  # from here on two jobs run, or fewer
        """
        self._engine("resized")
        assert self._resizing is not None
        await self._resizing.settled(self._state.close_waiters)

    def reprioritize(self, id: int | str, priority: int) -> bool:
        """Give a waiting job another priority. Among jobs of equal priority, older ones go first.

        A job that waits for its delay, its next attempt or admission takes the priority along into the queue.

        Args:
            id: of the job.
            priority: lower goes first.

        Returns:
            Whether it was waiting.
        """
        JobOptions(priority=priority)
        engine = self._engine("reprioritize")
        job = engine.ids.get(id)
        return job is not None and engine.reprioritize(job, priority)

    def change_timeout(self, id: int | str, timeout: float | None) -> bool:
        """Give a waiting job another time limit, for each of its attempts to come; see `Job.timeout`.

        A running attempt has the limit with which it began, unless it calls `Job.set_timeout` itself.

        Args:
            id: of the job.
            timeout: seconds; None: no limit.

        Returns:
            Whether it was waiting.

        Raises:
            RuntimeError: the pool has a store, whose jobs keep the limit with which they were submitted.

        Example:
            pool.change_timeout("report-7", 600)
        """
        JobOptions(timeout=timeout)
        engine = self._engine("change_timeout")
        if self._state.durability is not None:
            raise RuntimeError(
                f"job {id!r} is one of a store, and keeps the timeout with which it was submitted: cancel it, and "
                "submit it anew: pool.with_options(timeout=...).submit(...)"
            )
        job = engine.ids.get(id)
        return job is not None and engine.change_timeout(job, timeout)

    def pause(self, *, group: str | None = None) -> None:
        """Let no job start until `resume()`, or none of a group; running ones go on.

        Args:
            group: the name of a group, of live jobs or jobs to come; None: the whole pool.
        """
        if group is None:
            self._engine("pause").set_slots(paused=True)
        else:
            self._engine("pause").pause_group(group)

    def resume(self, *, group: str | None = None) -> None:
        """Let jobs start again, in their order: those of the pool, or those of a group. Each has its own pause.

        Args:
            group: the name of a group; None: the whole pool.
        """
        if group is None:
            self._engine("resume").set_slots(paused=False)
        else:
            self._engine("resume").resume_group(group)

    @contextlib.asynccontextmanager
    async def paused(self, *, group: str | None = None) -> AsyncIterator[None]:
        """Hold the pool, or a group, for a block: no job of it starts inside. What was paused before stays so.

        Args:
            group: the name of a group; None: the whole pool.

        Example:
            async with pool.paused(group="imports"):
                await migrate()
        """
        engine = self._engine("paused")
        group_state = None if group is None else engine.groups.get(group)
        before = engine.slots.paused if group is None else group_state is not None and group_state.paused
        self.pause(group=group)
        try:
            yield
        finally:
            if not before and self._state.status is PoolStatus.OPEN:
                self.resume(group=group)

    @explain_keywords
    def group(
        self,
        name: str | None = None,
        *,
        on_error: Literal["cancel", "collect"] = "cancel",
        timeout: float | None = None,
        options: JobOptions | None = None,
    ) -> Group:
        """Return a group: a block that is left when all of its jobs are done.

        Args:
            name: its name, for `cancel_all(group=name)` and the like; made up by default.
            on_error: `"cancel"`: the first failure cancels the other jobs and the body, and leaving raises an
                `ExceptionGroup`. `"collect"`: the others go on; see `group.errors`.
            timeout: seconds for the whole block; then its jobs are cancelled, and leaving raises `TimeoutError`.
            options: options of its jobs, where neither a view nor the function says otherwise.

        Example:
            async with pool.group("import") as group:
                for row in rows:
                    await group.submit(load, row)
        """
        _check_choice("on_error", on_error, ("cancel", "collect"))
        if timeout is not None:
            check_seconds("timeout", timeout)
        if name is None:
            self._groups += 1
            name = f"group-{self._groups}"
        base = JobOptions(group=name).over(options or JobOptions()).over(self._base)
        return Group(self._state, name, JobOptions(), base, on_error=on_error, timeout=timeout)

    def lanes(self, limit: Limit) -> Lanes:
        """Return a limit for keys that are made on the fly: each key has a lane of its own, under this limit.

        A lane is there as long as it has jobs, or its last start counts: any number of keys may come and go.

        Args:
            limit: of each of the keys.

        Returns:
            `lanes[key]` is the key for `with_options(key=…)` or `JobOptions(key=…)`.

        Example:
            hosts = pool.lanes(Limit(max_at_once=2, max_per_second=1))
            await pool.with_options(key=hosts[url.host]).submit(fetch, url)
        """
        return Lanes(self._state, limit)

    def set_limit(self, name: str, limit: Limit) -> None:
        """Replace a limit of `Pool(limits=…)` by another; it holds at once, also for jobs that wait.

        Fewer at once: as running jobs end; none is stopped.

        Args:
            name: the name under which the limit was given.
            limit: the new one.

        Raises:
            KeyError: the pool has no limit of this name.
            RuntimeError: the pool has a store: its limits are those of the fleet.

        Example:
            pool.set_limit("mail", Limit(max_at_once=1))
        """
        if self._state.durability is not None:
            raise RuntimeError(
                f"set_limit({name!r}) is for the limits of one process, and those of a pool with a store hold for the "
                f"whole fleet: write `await pool.fleet.set_limit({name!r}, ...)`"
            )
        engine = None if self._state.engine is None else self._engine("set_limit")
        rule = self._state.limits.replace(name, limit)
        if engine is not None:
            engine.lanes.change(rule)

    # -- what happens ------------------------------------------------------------------------------------------------

    def listen(self, function: Callable[[Any], object], /, *types: type[PoolEvent]) -> Listener:
        """Have `function(event)` called at once for each event of some classes (see `aiopool.events`), or of all.

        It is called in the event loop, between two steps of the pool, and holds everything up while it runs: be quick,
        or use `events()`. It may submit and cancel jobs. It hears all events in the order in which they happened. If it
        raises, that is logged once, and it is removed; no job and no other listener notices. The pool may be opened
        before or after.

        Args:
            function: a plain function of one event. It sees no context variables of jobs.
            types: classes of events, base classes too: `JobEvent` means all events of jobs. None: all events.

        Returns:
            A handle: call its `remove()`, or use it as a `with` block.

        Example:
            pool.listen(lambda event: print(event.name, event.error), aiopool.events.JobFailed)
        """
        return self._state.observers.listen(function, types)

    def events(self, *types: type[PoolEvent], buffer: int = 1000) -> EventStream:
        """Return the events of some classes (see `aiopool.events`), or of all, from now on; for `async for`.

        It ends after `PoolClosed`. A slow reader holds up nobody: when the buffer is full, the oldest event is dropped
        for the newest, and the next read gives an `EventsDropped` with the number that is missing.

        Args:
            types: classes of events, base classes too. None: all events.
            buffer: how many events may wait to be read.

        If the reader is cancelled, no event is lost; it may go on reading.

        Example:
            async for event in pool.events(aiopool.events.JobFailed):
                await report(event)
        """
        check_count("buffer", buffer, least=1)
        stream = self._state.observers.stream(types, buffer)
        if self._state.status is PoolStatus.CLOSED:
            stream.close()  # there is nothing to hear any more
        return stream

    @property
    def fleet(self) -> Fleet:
        """All pools that share the store and the name of this one: see `aiopool.fleet.Fleet`.

        Raises:
            RuntimeError: the pool has no store.

        Example:
            await pool.fleet.pause()
            print(await pool.fleet.statistics())
        """
        if self._state.durability is None:
            raise RuntimeError(
                f"pool {self.name!r} has no store, and so no fleet: write Pool(store=..., handlers=...), or ask "
                "the pool itself"
            )
        return self._state.durability.fleet

    # -- questions ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The pool's name."""
        return self._state.name

    @property
    def size(self) -> int:
        """How many jobs may run at once."""
        if self._state.engine is not None:
            return self._state.engine.slots.size
        return self._first_size

    @property
    def _first_size(self) -> int:
        return self._size.min_size if isinstance(self._size, SizeRule) else self._size

    @property
    def status(self) -> PoolStatus:
        """Where the pool is in its life: new, open, closing, closed."""
        return self._state.status

    def get_job(self, id: int | str) -> Job[Any] | None:
        """Return the live job with an id, or None; from any thread.

        Args:
            id: the id that was given with `with_options(id=…)`, or the job's number. A text finds a number, too, such
                as one that comes from a URL: `7` and `"7"` are one id.

        Raises:
            TypeError: `id` is neither a text nor a number.
        """
        return self._engine("get_job").ids.get(id)

    def find(self, id: int | str) -> Job[Any] | JobOutcome[Any] | None:
        """Return the live job with an id, or the record of one that has ended, or None; from any thread.

        Records are there with `Pool(keep_finished=…)`, also when the pool is closed; until it is opened again. A record
        is plain: its `value` is None unless `KeepFinished(values=True)` asks for it, and its `error` is a
        `aiopool.errors.RecordedError`, which has the type, the text and the calls of the exception.

        Args:
            id: as in `get_job`. Of several jobs that had one id after the other, the live one is found, or the last.

        Raises:
            TypeError: `id` is neither a text nor a number.

        Example:
            found = pool.find("invoice-17")
            print("unknown" if found is None else found.status)
        """
        job, finished = self._engine("find").ids.get(id), self._state.observers.finished
        return job if job is not None or finished is None else finished.find(id)

    def finished_jobs(self, limit: int = 50, *, skip: int = 0) -> list[JobOutcome[Any]]:
        """Return the records of the jobs that ended last, the newest first; see `find`. From any thread.

        Args:
            limit: so many at most. Some 5 µs for each of them.
            skip: leave out so many of the newest.
        """
        check_count("limit", limit)
        check_count("skip", skip)
        engine, finished = self._engine("finished_jobs"), self._state.observers.finished
        return [] if finished is None else engine.runtime.read(lambda: finished.newest(limit, skip))

    def running_jobs(self) -> list[Job[Any]]:
        """Return the jobs that run, in the order in which they began; from any thread.

        It is read off the workers: however many jobs wait, it costs what the running ones do.
        """
        engine, supervisor = self._engine("running_jobs"), self._state.supervisor
        assert supervisor is not None
        rows = engine.runtime.read(lambda: [(worker, worker.job) for worker in supervisor.living()])
        found = [
            job
            for worker, job in rows
            if job is not None and job._location is worker and job._status is JobStatus.RUNNING
        ]
        return sorted(found, key=lambda job: (job._started_at, job._sequence))

    def next_jobs(self, limit: int = 50) -> list[Job[Any]]:
        """Return the first jobs of the queue, in the order in which they are to start; from any thread.

        A job whose group is paused, or whose limit has no place, is passed over when its turn comes, and then waits
        beside the queue. Until then it is in the list; `job.waiting_for` tells.

        Args:
            limit: so many at most. However long the queue is, it costs what these do.

        Example:
            for place, job in enumerate(pool.next_jobs(10), 1):
                print(place, job.id, job.name)
        """
        check_count("limit", limit)
        engine = self._engine("next_jobs")
        return engine.runtime.read(lambda: engine.queue.head(limit))

    def scan(
        self,
        status: JobStatus | str | None = None,
        *,
        name: str | None = None,
        group: str | None = None,
        where: Callable[[Job[Any]], object] | None = None,
        cursor: int | None = None,
        newest_first: bool = False,
        look_at_most: int | None = None,
    ) -> JobScan:
        """Return the live jobs one after the other, for `async for`, the oldest first, while the event loop goes on.

        It takes a millisecond of each turn of the loop. A job is returned once, if it is there when the scan begins and
        matches when it comes by; it may end before that.

        Args:
            status, name, group: only jobs with these.
            where: only jobs for which this is true; it is called with each job that fits the rest.
            cursor: that of another scan (`scan.cursor`), to go on behind the job that came last there.
            newest_first: begin with the job that was submitted last.
            look_at_most: end after so many jobs, those that did not match included; `scan.cursor` goes on behind them.

        Example:
            async for job in pool.scan("queued", name="send"):
                print(job.id, job.submitted_time)
        """
        wanted = None if status is None else JobStatus(status)
        if cursor is not None:
            check_count("cursor", cursor)
        if look_at_most is not None:
            check_count("look_at_most", look_at_most)
        return JobScan(self._engine("scan"), wanted, name, group, where, cursor, newest_first, look_at_most)

    def jobs(self, status: JobStatus | str | None = None) -> list[Job[Any]]:
        """Return the live jobs, the oldest first; each says in `job.waiting_for` why it does not run.

        A copy of all of them is made: 3 ms for 100,000 live jobs, in which the event loop does nothing else. At no such
        price `statistics()` counts them, `running_jobs()` and `next_jobs()` list some, and `scan()` goes through all.

        Args:
            status: only those with this status. `"running"` costs no copy.
        """
        wanted = None if status is None else JobStatus(status)
        if wanted is JobStatus.RUNNING:
            return sorted(self.running_jobs(), key=lambda job: job._sequence)
        engine = self._engine("jobs")
        live = engine.runtime.read(lambda: list(engine.jobs.values()))
        return [job for job in live if wanted is None or job.status is wanted]

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers of now, the oldest first: what each is about, and with `count_by_worker` what it has done.

        A worker is made when a job needs one, so there may be fewer than `size`; and more while jobs wait for others of
        the pool, or have leaked. From any thread, as `statistics()`.

        Example:
            busy = [worker.job for worker in pool.workers() if worker.state == "busy"]
        """
        from aiopool._pool.workers import worker_infos

        runtime, supervisor = self._engine("workers").runtime, self._state.supervisor
        assert supervisor is not None
        return runtime.read(lambda: worker_infos(supervisor))

    def statistics(self) -> Statistics:
        """Return the pool in numbers, of one moment, as a frozen snapshot; from any state after the first opening.

        From any thread: another than the loop's waits for the loop, for at most 50 ms.
        """
        return self._engine("statistics").runtime.read(self._statistics, adds_up)

    def _statistics(self) -> Statistics:
        engine = self._engine("statistics")
        assert self._runners is not None
        counters, threads = engine.counters, self._runners.get("thread")  # None: no plain function came yet
        return Statistics(
            submitted=counters.submitted,
            succeeded=counters.succeeded,
            failed=counters.failed,
            timed_out=counters.timed_out,
            cancelled=counters.cancelled,
            rejected=counters.rejected,
            queued=engine.queued(),
            scheduled=engine.scheduled,
            running=engine.running(),
            waiting=len(engine.admission.waiting),
            leaked=engine.endings.leaked,
            size=engine.slots.size,
            busy=engine.slots.active,
            idle=max(0, engine.slots.size - engine.slots.active),
            retries=counters.retries,
            restarts=counters.restarts,
            threads_busy=0 if threads is None else threads.busy,
            threads_abandoned=0 if threads is None else threads.abandoned,
            dropped=counters.dropped,
            recovered=counters.recovered,
            not_recovered=counters.not_recovered,
            given_back=counters.given_back,
            uptime=self._state.uptime(),
        )

    def _engine(self, what: str) -> Engine:
        engine = self._state.engine
        if engine is None:
            raise self._state.not_open(what)
        # Reading is harmless; everything else belongs to the loop.
        if what not in _READERS:
            engine.caller.check(what)
            self._state.take_from_threads()  # it concerns them, too: to leave is to finish what was handed in
        return engine

    def __repr__(self) -> str:
        engine = self._state.engine
        doing = "" if engine is None else f" {engine.running()} running, {engine.queued()} queued"
        return f"<Pool {self.name!r} {self.status} size {self.size}{doing}>"

    # The defaults are there also when the interpreter goes down, and has emptied this module.
    def __del__(self, _warn: Callable[..., None] = warnings.warn, _open: PoolStatus = PoolStatus.OPEN) -> None:
        state = getattr(self, "_state", None)  # __init__ may have raised
        if state is not None and state.status is _open:
            _warn(
                f"pool {state.name!r} was dropped while it was open: write `async with Pool(...)`, or "
                "`await pool.shutdown()`",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )


# What may be asked from any thread.
_READERS = frozenset(
    (
        "find",
        "finished_count",
        "finished_jobs",
        "get_job",
        "groups",
        "is_paused",
        "jobs",
        "loop_of",
        "next_jobs",
        "running_code",
        "running_jobs",
        "statistics",
        "workers",
    )
)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: it must be one of {', '.join(map(repr, choices))}")
