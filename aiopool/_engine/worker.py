"""A worker: takes jobs from the line and runs them, one at a time.

`Worker` holds what both kinds share: its life, plain functions in threads, and the steps of telling a job to stop.
`TaskWorker` is the default containment, *a job can harm only itself*: each attempt is an asyncio task of its own. The
other kind is in `scope_worker.py`.

A worker's coroutine owns its slot: the worker can be given work while that coroutine lives, and whatever ends it
ends the worker. The supervisor watches it and replaces it. A `TaskWorker` takes its next job at the tail of the last
one, in that job's task, in the same turn of the loop: waking a coroutine for it would cost more than the rest of its
work.

Telling a job to stop is a small ladder: told, told again after a grace, left behind after a second one, and told at a
slow beat from then on. One sweep over the workers climbs it (`ring`), not a timer for each job.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextvars import Context
from types import CoroutineType, GeneratorType
from typing import Any, final

from aiopool._engine.engine import Engine, Hand
from aiopool._jobs.job import Job, running_job
from aiopool._jobs.status import WorkerStatus
from aiopool._jobs.stop import StopCause, StopRequest, coroutine_frames
from aiopool._runtime.eager import has_factory
from aiopool._runtime.faults import drop_frame, is_kind, type_name
from aiopool._runtime.threads import ThreadRunner

__all__ = ["TaskWorker", "Worker"]

INF = math.inf
# What functions mostly return, and what is quickly seen to be no awaitable: to ask `isawaitable` costs five times more.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, tuple, list, dict, set})
# A leaked job is told again this often, in seconds, or once a grace if that is longer.
RECANCEL_INTERVAL = 1.0
# In place of the stack of a job in a thread.
IN_A_THREAD = "  (in a thread)"


class Worker(Hand, ABC):
    """What both kinds of workers share.

    The mutable state of a worker is: the job it runs, whether it holds a slot (`busy`), when that job is to be looked
    at (`alarm`, if it is another moment than the end of its time limit), and whether it is to end (`retiring`).
    """

    __slots__ = ("engine", "retiring", "stopped", "tainted", "threads")

    def __init__(self, engine: Engine, bridge: ThreadRunner[Any]) -> None:
        self.engine = engine
        self.threads = bridge
        self.id = engine.runtime.next_worker()
        self.job: Job[Any] | None = None
        self.check_at = INF
        self.check_job = 0  # which job the alarm was set for: others have the time limit of their plan
        self.busy = False
        self.retiring = False
        # Whether its end, if it comes by itself, is nobody's fault: a job left it dirty.
        self.tainted = False
        self.stopped: asyncio.Future[None] = engine.runtime.loop.create_future()

    @property
    def status(self) -> WorkerStatus:
        """What it does."""
        if self.stopped.done():
            return WorkerStatus.STOPPED
        return WorkerStatus.BUSY if self.busy else WorkerStatus.IDLE

    @abstractmethod
    async def run(self) -> None:
        """Live: be offered work until retired. Raises what broke it."""

    @abstractmethod
    def wake(self) -> bool:
        """Take a slot and look for work; whether to offer some to the next worker at once."""

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

    def retire(self) -> None:
        """End when the present job ends; at once if there is none."""
        self.retiring = True
        if not self.busy and not self.stopped.done():
            self.stopped.set_result(None)

    def crash(self, fault: BaseException) -> None:
        """End because of a fault that is not the job's: the job in hand fails with it, the supervisor hears of it."""
        job, self.retiring = self.job, True
        try:
            if job is not None and job._finished_at is None:
                self.engine.attempt_ended(self, job, None, fault, self.engine.now())
        finally:
            if self.busy:
                self.engine.release_slot(self)
                self.engine.wake_workers()
            if not self.stopped.done():
                self.stopped.set_exception(fault)

    def context(self, job: Job[Any]) -> Context:
        """Return the context for an attempt: the submitter's, and a fresh copy if there may be another attempt."""
        context = job._context
        assert context is not None
        retry = job._spec.retry
        if retry is None:
            return context
        if job._attempt == 1 and retry.budget is not None:
            retry.budget.deposit(now=self.engine.now())
        return context.copy()

    # -- plain functions, in threads -------------------------------------------------------------------------------

    def offload(self, job: Job[Any]) -> None:
        """Run a plain function in a thread; `thread_done` is called with its outcome."""
        context: Any = job._context if job._spec.retry is None else self.context(job)
        context.run(running_job.set, job)
        function: Any = job._function
        if self.engine.observers:
            # Told once the call is in place and the worker at rest: a listener may cancel it.
            self.engine.observers.begin(job, self.id, context, inside=True)
        self.threads.start(self, context, function, job._args)

    def thread_done(self, ok: bool, outcome: Any) -> None:
        """The thread came back, in the loop."""
        job: Any = self.job
        engine = self.engine
        now = engine.now()
        try:
            if not ok:
                engine.attempt_ended(self, job, None, outcome, now)
            elif type(outcome) not in _PLAIN and _is_awaitable(outcome):
                engine.attempt_ended(self, job, None, _refuse_awaitable(job, outcome), now)
            elif job._finished_at is not None:
                engine.attempt_ended(self, job, outcome, None, now)
            else:
                engine.attempt_returned(self, job, outcome, now)
            self.run_next(now)
        except BaseException as fault:
            self.crash(fault)

    def _stop_thread(self, job: Job[Any], stop: StopRequest, now: float) -> None:
        engine = self.engine
        stop.cancel_count = 1
        if self.threads.withdraw(self):  # no thread had begun it
            engine.attempt_ended(self, job, None, asyncio.CancelledError(), now)
            self.job = None
            engine.runtime.soon(self._run_next_later)  # not now: another job would start inside of the canceller's call
            return
        self.threads.cancel(self)
        if stop.cause is not StopCause.TIMEOUT or job._spec.retry is None:
            # A thread cannot be told, only asked: whoever awaits it does not wait for that.
            self.threads.abandon(self)
            engine.finish_early(self, job, leaked=False, now=now)
        engine.check_at(self, now + 2 * engine.cancel_grace)

    def _run_next_later(self) -> None:
        try:
            self.run_next(self.engine.now())
        except BaseException as fault:
            self.crash(fault)

    # -- the ladder ------------------------------------------------------------------------------------------------

    def stop_job(self, stop: StopRequest, now: float) -> None:
        """Tell the running job to stop, and look again after a grace."""
        job = self.job
        assert job is not None
        if job._spec.offload:
            self._stop_thread(job, stop, now)
            return
        try:
            self.engine.check_at(self, now + self.engine.cancel_grace)
        finally:
            self.request_cancel(stop)  # either may fail, and the other is done: told, or looked at again

    def deadline(self) -> float:
        """Return when the running attempt is to be looked at.

        Its time limit is written down nowhere: it follows from the job, and the start of a job costs less.
        """
        job = self.job
        if job is None:
            return INF
        if self.check_job == job._sequence:
            return self.check_at
        limit = job._spec.timeout
        return INF if limit is None else job._started_at + limit

    def check_deadline(self, now: float) -> None:
        """Its moment is here: a time limit is over, or a job that was told to stop is still there."""
        job, engine = self.job, self.engine
        assert job is not None
        self.check_at, self.check_job = INF, job._sequence
        extra = job._extra
        stop = None if extra is None else extra.stop
        if stop is None:
            engine.attempt_expired(job)
        elif job._spec.offload:
            if not job._ensure_extra().abandoned:
                self.threads.abandon(self)
            engine.abandon(self, job, now)
        elif stop.cancel_count < 2:
            self.request_cancel(stop)
            engine.check_at(self, now + engine.cancel_grace)
        else:
            engine.abandon(self, job, now)
            self.request_cancel(stop)
            engine.check_at(self, now + max(RECANCEL_INTERVAL, engine.cancel_grace))

    def stack(self) -> str:
        """Say where the running job is, as lines of a traceback."""
        job = self.job
        if job is not None and job._spec.offload:
            return IN_A_THREAD
        return "".join(traceback.format_list(traceback.StackSummary.extract((f, f.f_lineno) for f in self.frames())))

    def __repr__(self) -> str:
        doing = f" {self.job!r}" if self.job is not None else ""
        return f"<{type(self).__name__} {self.id} {self.status}{doing}>"


def _is_awaitable(outcome: object) -> bool:
    """Return what `inspect.isawaitable` does, by the type alone: an object of the user's may answer anything."""
    kind = type(outcome)
    return issubclass(kind, Awaitable) or (issubclass(kind, GeneratorType) and inspect.isawaitable(outcome))


def _refuse_awaitable(job: Job[Any], outcome: Any) -> TypeError:
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

    __slots__ = ("_in_first_step", "_of_factory", "_start", "_task")

    def __init__(self, engine: Engine, bridge: ThreadRunner[Any]) -> None:
        super().__init__(engine, bridge)
        self._in_first_step = False  # an attempt takes its first step, inside of ours
        self._start = engine.runtime.start_task
        self._of_factory = has_factory(engine.runtime.loop)
        self._task: asyncio.Task[None] | None = None

    @property
    def task(self) -> asyncio.Task[Any] | None:
        return self._task

    async def run(self) -> None:
        await self.stopped

    def wake(self) -> bool:
        self.engine.acquire_slot(self)
        self.run_jobs(self.engine.now())
        return True

    def run_next(self, now: float) -> None:
        self.run_jobs(now)

    def run_jobs(self, now: float) -> None:
        """Run jobs until one suspends, or none may start.

        When it returns it refers to no job: an error's frames refer to this one, too (`f_back`).
        """
        engine = self.engine
        timers = engine.timers
        context: Any
        task: asyncio.Task[None] | None
        try:
            while not self.retiring:
                job = engine.take_job(self, now)
                if job is None:
                    context = task = None
                    return
                plan, context = job._spec, job._context
                if plan.timeout is not None and now + plan.timeout < timers.next_check_at:
                    timers.schedule_check(now + plan.timeout)
                if not plan.swift:
                    if plan.offload:
                        self.offload(job)
                        job = context = task = None
                        return
                    context = self.context(job)
                if engine.observers:
                    engine.observers.begin(job, self.id, context)
                self._in_first_step = True
                task = self._start(self._attempt(job), name=plan.name, context=context)
                self._in_first_step = False
                if not task.done():
                    self._suspended(job, task)
                    job = context = task = None
                    return
                now = job._finished_at or engine.now()
                job = None
                if now >= engine.slice_ends and not self.retiring:
                    context = task = None
                    engine.release_and_idle(self)
                    engine.wake_workers()
                    return
            if self.busy:  # else it has crashed in a job's own step, and given its slot back
                engine.release_slot(self)
                engine.wake_workers()
            if not self.stopped.done():
                self.stopped.set_result(None)
        except BaseException as fault:
            self._in_first_step = False
            self.crash(fault)

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
                self.engine.attempt_ended(self, job, None, asyncio.CancelledError(), now)
                self.run_jobs(now)
            except BaseException as fault:
                self.crash(fault)

    async def _attempt(self, job: Job[Any]) -> None:
        """The task of one attempt. What the job raises ends here; what follows the job follows in its tail."""
        running_job.set(job)
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
                engine.attempt_ended(self, job, None, drop_frame(error), now)
            except BaseException as fault:
                self.crash(fault)
                return
            # The frames of the error refer to this one all the same (`f_back`): it must not refer to the job.
            del job, function
        else:
            now = engine.now()
            try:
                engine.attempt_returned(self, job, value, now)
            except BaseException as fault:
                self.crash(fault)
                return
        if not self._in_first_step:
            self._task = None  # it would keep the job alive, by its context, while the worker rests
            self.run_jobs(now)

    def request_cancel(self, stop: StopRequest) -> None:
        task, job = self._task, self.job
        if not self._in_first_step and task is not None:
            stop.cancel_count += 1
            assert job is not None
            task.cancel(stop.reason)

    def frames(self) -> list[Any]:
        # `Task.get_stack` tells only the outermost frame of a task that waits: here `_attempt`, which is ours.
        return [] if self._task is None else coroutine_frames(self._task.get_coro())[1:]
