"""A worker: runs the jobs that the engine chooses, one at a time.

`Worker` holds what both kinds share: its life, plain functions outside of the loop, and how a job is stopped in steps.
`TaskWorker` is the default containment, *a job can harm only itself*: each attempt is an asyncio task of its own. The
other kind is in `scope_worker.py`.

A worker is woken while it is idle. It acquires a slot, runs jobs as long as the engine has one for it, releases the
slot and is idle again. It lives as long as its coroutine: the supervisor notices its end, and replaces it. A
`TaskWorker` takes its next job at the tail of the last one, in that job's task, in the same turn of the loop: waking a
coroutine for it would cost more than the rest of its work.

A job is stopped in steps: a cancel, a second one after a grace, after another grace it is *leaked*, and cancelled again
every second from then on. A *check* of the worker does this, a row of the timers. It is not one for each job: a worker
whose check comes too early for the job that it has then is checked again later.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextvars import Context, Token
from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Self, final

from aiopool._engine.engine import Engine
from aiopool._jobs.job import Job, running_job
from aiopool._jobs.status import JobStatus, WorkerState
from aiopool._jobs.stop import StopCause, StopRequest, coroutine_frames
from aiopool._runtime.eager import has_factory
from aiopool._runtime.faults import drop_frame, is_kind, type_name
from aiopool._runtime.runners import Runners
from aiopool._runtime.timers import Timer

if TYPE_CHECKING:  # few workers have one
    from aiopool._engine.resource import Resource

__all__ = ["TaskWorker", "Worker", "is_in_attempt", "refuse_awaitable"]

INF = math.inf
# What functions mostly return, and what is quickly seen to be no awaitable: to ask `isawaitable` costs five times more.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, tuple, list, dict, set})
# A leaked job is told again this often, in seconds, or once a grace if that is longer.
RECANCEL_INTERVAL = 1.0
# Above the stack of a job outside of the loop, or in place of it.
OFFLOADED = {
    "thread": "  (in a thread)",
    "process": "  (in a process)",
    "interpreter": "  (in an interpreter)",
    "dask": "  (on a Dask cluster)",
}


class Worker(ABC):
    """What both kinds of workers share.

    The mutable state of a worker is: the job it runs, whether it holds a slot (`busy`), and whether it is to end
    (`retiring`).
    """

    __slots__ = (
        "__weakref__",
        "_check",
        "_on_idle",
        "busy",
        "check_at",
        "engine",
        "id",
        "job",
        "outer",
        "resource",
        "retiring",
        "runners",
        "started_at",
        "stopped",
        "tainted",
    )

    def __init__(self, engine: Engine, runners: Runners, on_idle: Callable[[Self], object]) -> None:
        """`on_idle(worker)` is called when it has released its slot and can be woken."""
        self.engine = engine
        self.runners = runners
        self._on_idle: Callable[[Any], object] = on_idle
        self.id = engine.runtime.next_worker()
        self.started_at = engine.now()
        self.resource: Resource | None = None  # set before it starts, and never after
        self.job: Job[Any] | None = None
        # Made when the running job became the current one: it knows which one was before.
        self.outer: Token[Job[Any] | None] | None = None
        self.busy = False
        self.retiring = False
        self.check_at = INF  # when it is checked next
        self._check: Timer | None = None
        # A job left this worker's task in a bad state, so the worker ends. The supervisor counts no crash.
        self.tainted = False
        self.stopped: asyncio.Future[None] = engine.runtime.loop.create_future()

    @abstractmethod
    async def run(self) -> None:
        """Live until retired. Raises what broke it."""

    @abstractmethod
    def run_next(self, now: float) -> None:
        """Go on to the next job after one that ended outside of the worker's own code."""

    @abstractmethod
    def request_cancel(self, stop: StopRequest) -> None:
        """Tell the coroutine of the running job to stop."""

    @property
    @abstractmethod
    def task(self) -> asyncio.Task[Any] | None:
        """The task in which the coroutine of the running job runs."""

    @abstractmethod
    def frames(self) -> list[Any]:
        """Return the frames of the running job's coroutine."""

    def submitter(self) -> Job[Any] | None:
        """Return the job in which the running job was submitted, or None; for a job that has become the current one."""
        found = None if self.outer is None else self.outer.old_value
        return found if isinstance(found, Job) else None

    def start(self, name: str) -> asyncio.Task[None]:
        """Make the task in which it lives; with a resource, it opens that first, and is idle then."""
        resource = self.resource
        if resource is None:
            return self.engine.runtime.task(self.run(), name)
        resource.task = self.engine.runtime.task(resource.hold(self.run, self.stopped, self._opened), name)
        return resource.task

    def _opened(self) -> None:
        if not self.retiring:
            self._on_idle(self)
            self.engine.wake_workers()

    def wake(self) -> bool:
        """Acquire a slot and run jobs; whether another worker may be woken in the same turn of the loop."""
        self.busy = True
        self.engine.slots.acquire()
        self.run_next(self.engine.now())
        return True

    def prepare(self, job: Job[Any]) -> Context | None:
        """Do what few jobs need at the start of an attempt; return its context, or None: it runs elsewhere."""
        if job._spec.limits:
            job._started_at = job._ensure_extra().entered_at  # the moment that its limits have counted
        if job._spec.offload:
            self.offload(job)
            return None
        context = job._context if job._spec.retry is None else self.context(job)
        if self.engine.observers:
            self.engine.observers.started(job, self.id, context)
        return context

    def end(self) -> None:
        """End between two jobs: it is retiring."""
        if self.busy:  # else it has crashed in a job's own step, and has released its slot
            self.release()
            self.engine.wake_workers()
        if not self.stopped.done():
            self.stopped.set_result(None)

    def release(self) -> None:
        """Release the slot, and run no more jobs."""
        self.job = self.outer = None
        self.busy = False
        self.engine.release_slot()

    def release_and_idle(self) -> None:
        """Release the slot, and be woken for the next one."""
        self.release()
        self._on_idle(self)
        if self.engine.queue.live:
            self.engine.wake_workers()  # the slot that was released made space for a job

    def retire(self) -> None:
        """End when the present job ends; at once if there is none."""
        self.retiring = True
        if self.resource is not None and self.resource.state is WorkerState.OPENING:
            self.tainted = True  # it ends as cancelled, and that is no crash
            self.resource.give_up()
        if not self.busy and not self.stopped.done():
            self.stopped.set_result(None)

    def crash(self, fault: BaseException) -> None:
        """End because of a fault that is not the job's: the job in hand fails with it, the supervisor hears of it."""
        job, self.retiring = self.job, True
        try:
            if job is not None and is_in_attempt(job):
                self.engine.attempt_ended(job, None, fault, self.engine.now())
        finally:
            if self.busy:
                self.release()
                self.engine.wake_workers()
            if not self.stopped.done():
                self.stopped.set_exception(fault)

    def context(self, job: Job[Any]) -> Context:
        """Return the context for an attempt of a job that may have several: a fresh copy of the submitter's."""
        context = job._context
        retry = job._spec.retry
        assert context is not None
        assert retry is not None
        if job._attempt == 1 and retry.budget is not None:
            retry.budget.deposit(now=self.engine.now())
        return context.copy()

    # -- plain functions, outside of the loop ----------------------------------------------------------------------

    def offload(self, job: Job[Any]) -> None:
        """Run a plain function in a thread, or as it wishes; `offload_done` is called with its outcome."""
        context: Any = job._context if job._spec.retry is None else self.context(job)
        self.outer = context.run(running_job.set, job)
        function: Any = job._function
        if self.engine.observers:
            # `inside`: a listener may cancel the job, and is called once the runner has the call.
            self.engine.observers.started(job, self.id, context, inside=True)
        self.runners[job._spec.offload].start(self, context, function, job._args)

    def offload_done(self, ok: bool, outcome: Any) -> None:
        """The function has ended outside of the loop; we are in it."""
        job: Any = self.job
        engine = self.engine
        now = engine.now()
        try:
            if not ok:
                engine.attempt_ended(job, None, outcome, now)
            elif type(outcome) not in _PLAIN and _is_awaitable(outcome):
                engine.attempt_ended(job, None, _awaitable_refused(job, outcome), now)
            elif job._finished_at is not None:
                engine.attempt_ended(job, outcome, None, now)
            else:
                engine.attempt_returned(job, outcome, now)
            self.run_next(now)
        except BaseException as fault:
            self.crash(fault)

    def _stop_offloaded(self, job: Job[Any], stop: StopRequest, now: float) -> None:
        engine, runner = self.engine, self.runners[job._spec.offload]
        stop.cancel_count = 1
        if runner.withdraw(self):  # it had not begun
            engine.attempt_ended(job, None, asyncio.CancelledError(), now)
            self.job = None
            # Not now: another job would start inside of the canceller's call.
            engine.runtime.soon(lambda: self.run_next(engine.now()))
            return
        runner.cancel(self)
        if not runner.stops and (stop.cause is not StopCause.TIMEOUT or job._spec.retry is None):
            # A thread cannot be stopped, only asked: those who await the job do not wait for that.
            runner.abandon(self)
            engine.endings.abandon(job, now)
        self.recheck(job, now + 2 * engine.cancel_grace)

    # -- stopping a job ------------------------------------------------------------------------------------------------

    def stop_job(self, stop: StopRequest, now: float) -> None:
        """Tell the running job to stop, and check it again after a grace."""
        job = self.job
        assert job is not None
        if job._spec.offload:
            self._stop_offloaded(job, stop, now)
            return
        try:
            self.recheck(job, now + self.engine.cancel_grace)
        finally:
            self.request_cancel(stop)  # either may fail, and the other is done: cancelled, or checked again

    def recheck(self, job: Job[Any], when: float) -> None:
        """Have the running attempt checked at `when`, whatever its time limit."""
        job._ensure_extra().check_at = when
        self.check_by(when)

    def check_by(self, when: float) -> None:
        """Be checked at `when` or earlier."""
        if when < self.check_at:
            timers, before = self.engine.timers, self._check
            self._check, self.check_at = timers.add(when, Worker.check, self), when
            if before is not None:
                timers.cancel(before)

    def check_no_more(self) -> None:
        """Be checked no more: it has ended, and has no job."""
        if self._check is not None:
            self.engine.timers.cancel(self._check)
            self._check, self.check_at = None, INF

    def check(self) -> None:
        """Do what is due, and be checked again when the present attempt is to be."""
        self._check, self.check_at = None, INF
        now = self.engine.now()
        if self.deadline() <= now:
            self.check_deadline(now)
        self.check_by(self.deadline())

    def deadline(self) -> float:
        """Return when the running attempt is to be checked.

        Its time limit is stored nowhere: it follows from the job, and the start of a job costs less.
        """
        job = self.job
        if job is None:
            return INF
        extra = job._extra
        if extra is not None and extra.check_at is not None:
            return extra.check_at
        limit = job._spec.timeout
        return INF if limit is None else job._started_at + limit

    def check_deadline(self, now: float) -> None:
        """Its moment has come: a time limit is over, or a job that was told to stop still runs."""
        job, engine = self.job, self.engine
        assert job is not None
        extra = job._ensure_extra()
        extra.check_at = INF
        stop = extra.stop
        if stop is None:
            engine.attempt_expired(job)
        elif job._spec.offload:
            if not extra.abandoned:
                self.runners[job._spec.offload].abandon(self)
            self.leak(now)
        elif stop.cancel_count < 2:
            self.request_cancel(stop)
            self.recheck(job, now + engine.cancel_grace)
        else:
            self.leak(now)
            self.request_cancel(stop)
            self.recheck(job, now + max(RECANCEL_INTERVAL, engine.cancel_grace))

    def leak(self, now: float) -> None:
        """Call the job leaked that did not end within its grace; once."""
        job = self.job
        assert job is not None
        if not job.leaked:
            self.engine.endings.leak(job, self.id, self.stack(), now)

    def stack(self) -> str:
        """Say where the running job is, as lines of a traceback."""
        job = self.job
        kind = None if job is None else job._spec.offload
        frames = self.call_frames()
        lines = traceback.format_list(traceback.StackSummary.extract((f, f.f_lineno) for f in frames))
        if kind is not None:
            lines.insert(0, OFFLOADED[kind] + "\n" * bool(lines))
        return "".join(lines)

    def call_frames(self) -> list[Any]:
        """Return the frames of the running job, wherever it runs; none if that is another process."""
        job = self.job
        kind = None if job is None else job._spec.offload
        if kind is None:
            return self.frames()
        found: list[Any] = self.runners[kind].frames(self) if kind == "thread" else []
        return found


def is_in_attempt(job: Job[Any]) -> bool:
    """Return whether the attempt of a worker's job has not ended; if it has, the job may wait for its next one."""
    return job._finished_at is None and job._status is not JobStatus.SCHEDULED


def _is_awaitable(outcome: object) -> bool:
    """Return what `inspect.isawaitable` does, by the type alone: an object of the user's may answer anything."""
    kind = type(outcome)
    return issubclass(kind, Awaitable) or (issubclass(kind, GeneratorType) and inspect.isawaitable(outcome))


def refuse_awaitable(job: Job[Any], outcome: Any) -> Any:
    """Return what a plain function returned.

    Raises:
        TypeError: it is an awaitable: the function is no plain one.
    """
    if type(outcome) not in _PLAIN and _is_awaitable(outcome):
        raise _awaitable_refused(job, outcome)
    return outcome


def _awaitable_refused(job: Job[Any], outcome: Any) -> TypeError:
    if type(outcome) is CoroutineType:
        outcome.close()
    kind, name = type_name(outcome), job._spec.name
    inner = getattr(job._function, "__wrapped__", None)
    if inner is not None and inspect.iscoroutinefunction(inner):
        advice = (
            "Its decorator wraps an async def in a plain function: write `async def` for that, and "
            f"`return await {name}(...)` in it"
        )
    else:
        advice = (
            "Submit the async function itself: submit(function, ...), not submit(lambda: function(...)); or write an "
            f"`async def` that has `return await {name}(...)` in it"
        )
    return TypeError(
        f"{name} is a plain function, so it ran in a thread, and it returned an awaitable ({kind}). {advice}"
    )


@final
class TaskWorker(Worker):
    """Runs each attempt in an asyncio task of its own, started eagerly."""

    __slots__ = ("_of_factory", "_start", "_task")

    def __init__(self, engine: Engine, runners: Runners, on_idle: Callable[[Self], object]) -> None:
        super().__init__(engine, runners, on_idle)
        self._start = engine.runtime.start_task
        self._of_factory = has_factory(engine.runtime.loop)
        self._task: asyncio.Task[None] | None = None  # that of an attempt which has suspended

    @property
    def task(self) -> asyncio.Task[Any] | None:
        return self._task

    async def run(self) -> None:
        await self.stopped

    def run_next(self, now: float) -> None:
        self.run_jobs(now)

    def run_jobs(self, now: float) -> None:
        """Run jobs until one suspends, or none may start.

        When it returns it refers to no job: an error's frames refer to this one, too (`f_back`).
        """
        engine = self.engine
        job: Any
        context: Any
        task: asyncio.Task[None] | None
        job = context = task = None
        try:
            while not self.retiring:
                job = engine.take_job()
                if job is None:
                    self.release_and_idle()
                    return
                self.job = job
                job._start(self, now)
                spec, context = job._spec, job._context
                if spec.timeout is not None and now + spec.timeout < self.check_at:
                    self.check_by(now + spec.timeout)
                if (not spec.swift or engine.observers) and (context := self.prepare(job)) is None:
                    return
                task = self._start(self._attempt(job), name=spec.name, context=context)
                if not task.done():
                    self._suspended(job, task)
                    return
                now = job._finished_at or engine.now()
                job = None
                if now >= engine.slice_ends and not self.retiring:
                    self.release_and_idle()
                    engine.wake_workers()
                    return
            self.end()
        except BaseException as fault:
            self.crash(fault)
        finally:
            job = context = task = None

    def _suspended(self, job: Job[Any], task: asyncio.Task[None]) -> None:
        """The first step of an attempt is over, and there is more."""
        self._task = task
        if self._of_factory:
            task.add_done_callback(self._skipped)
        extra = job._extra
        if extra is not None and extra.stop is not None and not extra.stop.cancel_count:
            self.request_cancel(extra.stop)  # it was told in its first step

    def _skipped(self, task: asyncio.Task[None]) -> None:
        """A task of a factory has ended: perhaps without its attempt, as one that is cancelled before it begins."""
        job = self.job
        if self._task is task and job is not None:
            self._task = None
            now = self.engine.now()
            try:
                self.engine.attempt_ended(job, None, asyncio.CancelledError(), now)
                self.run_jobs(now)
            except BaseException as fault:
                self.crash(fault)

    async def _attempt(self, job: Job[Any]) -> None:
        """The task of one attempt. What the job raises ends here; what follows the job follows in its tail."""
        self.outer = running_job.set(job)
        engine = self.engine
        function = job._function
        try:
            value = await function(*job._args)  # type: ignore[misc]
        except BaseException as error:
            if is_kind(error, GeneratorExit) and not engine.runtime.loop.is_running():
                raise  # the loop is gone, and this coroutine with it
            now = engine.now()
            try:
                # Without this frame: it refers to the job, and the job to the error.
                engine.attempt_ended(job, None, drop_frame(error), now)
            except BaseException as fault:
                self.crash(fault)
                return
            # The frames of the error refer to this one all the same (`f_back`): it must not refer to the job.
            del job, function
        else:
            now = engine.now()
            try:
                engine.attempt_returned(job, value, now)
            except BaseException as fault:
                self.crash(fault)
                return
        if self._task is not None:
            self._task = None  # it would keep the job alive, by its context, while the worker rests
            self.run_jobs(now)

    def request_cancel(self, stop: StopRequest) -> None:
        task, job = self._task, self.job
        if task is not None:  # else it takes its first step, inside of ours, and is told after that
            stop.cancel_count += 1
            assert job is not None
            task.cancel(stop.reason)

    def frames(self) -> list[Any]:
        # `Task.get_stack` tells only the outermost frame of a task that waits: here `_attempt`, which is ours.
        return [] if self._task is None else coroutine_frames(self._task.get_coro())[1:]
