"""The fast lane: a worker that runs each job in its own task, under one anyio cancel scope.

`isolation="scope"`. The worker sends into the job's coroutine itself, inside the job's context; no task is made and no
scope is entered for a job. A job is stopped as anyio stops: by level, shields respected. The price: `current_task()` is
the worker's, so a job can leave it *tainted*: by a cancel that it swallowed (`cancelling() > 0`), or a scope that it
did not close. A tainted worker is replaced before it takes another job, and the scope is renewed after each use. One
thing cannot be seen: an `asyncio.timeout` that a job has entered and not left. It will cancel the worker's task later.
"""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Callable, Generator
from contextvars import Context
from importlib.metadata import version
from types import CoroutineType
from typing import Any, Self, final

import anyio

from aiopool._engine.engine import Engine
from aiopool._engine.worker import Worker
from aiopool._jobs.job import running_job
from aiopool._jobs.stop import StopRequest, coroutine_frames
from aiopool._runtime.faults import drop_frame, is_kind
from aiopool._runtime.runtime import running_loop_or_none
from aiopool._runtime.threads import ThreadRunner

__all__ = ["ScopeWorker", "scope_state"]


def scope_state(task: asyncio.Task[Any]) -> Any:
    """Return an object whose `cancel_scope` is the anyio scope in which a task is, at any time, or None.

    For a task that is in a scope now. This reads the one private name of anyio that is used here, and never writes it:
    the public way to ask is to leave the scope and enter another, which costs 2 to 3 µs a job.

    Raises:
        RuntimeError: this version of anyio keeps it elsewhere.
    """
    try:
        from anyio._backends._asyncio import _task_states

        state = _task_states[task]
        if isinstance(state.cancel_scope, anyio.CancelScope):
            return state
    except (ImportError, LookupError, AttributeError):
        pass
    raise RuntimeError(
        f"anyio {version('anyio')} does not say in which cancel scope a task is: install `anyio>=4.15,<5`, or open the "
        'pool with isolation="task"'
    )


# What a runner yields when its job has ended.
_ENDED = object()


@types.coroutine
def _lane(worker: ScopeWorker) -> Generator[Any, Any, None]:
    """Run the jobs that are sent in, one after the other; yield what they wait for, and `_ENDED` after each.

    One generator for all jobs of a worker: to drive each coroutine from outside would cost an exception
    (`StopIteration`) for each. Every step is sent inside the context of the job. What the job raises ends here; what
    the engine raises ends the runner, and the worker with it.
    """
    engine = worker.engine
    job = yield _ENDED
    while True:
        running_job.set(job)
        try:
            call: Any = job._function(*job._args)
            steps: Any = call if type(call) is CoroutineType else call.__await__()
            value = yield from steps
        except BaseException as error:
            if is_kind(error, GeneratorExit) and not engine.runtime.loop.is_running():
                raise  # the loop is gone, and this generator with it
            engine.attempt_ended(job, None, drop_frame(error), engine.now())
        else:
            engine.attempt_returned(job, value, engine.now())
        # The frames of an error refer to this one (`f_back`): it must not refer to the job, which refers to the error.
        job = call = steps = value = None
        job = yield _ENDED


def _drive(worker: ScopeWorker, context: Context, error: BaseException | None) -> Generator[Any, Any, None]:
    """Go on with a job whose wait has raised something, each step inside its own context, to its end."""
    runner = worker.job_runner
    run, send, throw = context.run, runner.send, runner.throw
    try:
        while error is not None:
            if is_kind(error, GeneratorExit):
                with contextlib.suppress(RuntimeError):  # the job awaits in its clean-up, which nothing runs any more
                    runner.close()
                raise error
            if worker.leak_shield is not None:
                worker.leak_shield.shield = True  # it was told; once
            elif worker.has_leaked():
                yield from _drive_shielded(worker, context, error)
                return
            yielded, error = run(throw, error), None
            while yielded is not _ENDED and error is None:
                try:
                    sent = yield yielded
                except BaseException as raised:
                    error = drop_frame(raised)
                else:
                    yielded = run(send, sent)
    finally:
        # An error's frames refer to this one, too, and the context to its job.
        del run, send, throw, context, runner, worker, error


def _drive_shielded(worker: ScopeWorker, context: Context, error: BaseException | None) -> Generator[Any, Any, None]:
    """Go on with a job that has leaked behind a shield, which `tell` opens, and what comes through closes.

    Without it anyio would tell the job in every turn of the loop: that costs a processor.
    """
    try:
        with contextlib.suppress(RuntimeError):  # the job left a scope open in there: this worker ends with it
            with anyio.CancelScope(shield=True) as worker.leak_shield:  # noqa: ASYNC100 - the job waits in it
                yield from _drive(worker, context, error)
    finally:
        worker.leak_shield = None
        del context, worker, error


@final
class ScopeWorker(Worker):
    """Runs jobs in its own task, under a cancel scope that is re-used while it is clean."""

    __slots__ = ("_scope", "_state", "_task", "_used", "_wakeup", "job_runner", "leak_shield")

    def __init__(self, engine: Engine, threads: ThreadRunner[Any], on_idle: Callable[[Self], object]) -> None:
        super().__init__(engine, threads, on_idle)
        # It is made to be called, and that may be before its first step.
        self._wakeup: asyncio.Future[None] | None = engine.runtime.loop.create_future()
        self._scope: anyio.CancelScope | None = None
        self._used = False  # the scope was cancelled: it serves no other job
        self.job_runner: Any = _lane(self)
        next(self.job_runner)
        self.leak_shield: anyio.CancelScope | None = None  # keeps anyio's cancels from a job that has leaked
        self._task: asyncio.Task[Any] | None = None
        self._state: Any = None

    @property
    def task(self) -> asyncio.Task[Any] | None:
        return self._task

    async def run(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None
        try:
            while not self.stopped.done():
                try:
                    with anyio.CancelScope() as scope:
                        self._scope, self._used = scope, False
                        self._state = scope_state(self._task)
                        await self._serve(scope)
                except RuntimeError:
                    if not self.tainted:
                        raise
                    # anyio refuses to leave our scope before the one that a job left open: known, and the reason
                    # why this worker ends.
                if self.tainted or self._task.cancelling() > 0 or self._state.cancel_scope is not None:
                    self.tainted = True
                    return
            await self.stopped
        except asyncio.CancelledError:
            raise
        except GeneratorExit:
            if not self.engine.runtime.loop.is_running():
                raise  # the loop is gone, and this coroutine with it
            self._closed()
        except BaseException as fault:
            self.crash(fault)
            await self.stopped
        finally:
            self.retiring = True
            if self.busy and self.job is None:  # else a thread still runs its job: `run_next` releases the slot
                self.release()
                self.engine.wake_workers()

    @types.coroutine
    def _serve(self, scope: anyio.CancelScope) -> Generator[Any, Any, None]:
        """Take job after job, until the scope is used up or the worker has to end.

        No `async def`: it yields what a job waits for as it is, which saves each job that suspends a coroutine.
        """
        engine, host, state, runner = self.engine, self._task, self._state, self.job_runner
        assert host is not None
        slots, send, cancelling = engine.slots, runner.send, host.cancelling
        context: Any
        drive: Any
        try:
            while not self.stopped.done():
                if not self.busy or self.job is not None:
                    context = job = None  # at rest a worker holds nothing
                    resting: Any = self._rest()  # until there is a slot, or a thread has come back
                    yield from resting
                    resting = None
                    continue
                if self.retiring:
                    self.release()
                    engine.wake_workers()
                    self.stopped.set_result(None)
                    return
                now = engine.now()
                while (job := engine.take_job()) is not None:
                    self.job = job
                    job._start(self, now)
                    spec, suspended = job._spec, False
                    context = job._context
                    if spec.timeout is not None and now + spec.timeout < self.check_at:
                        self.check_by(now + spec.timeout)
                    if not spec.swift:
                        if spec.offload:
                            self.offload(job)
                            if slots.active < slots.limit and engine.queue.live:
                                engine.wake_workers()
                            break
                        context = self.context(job)
                    if engine.observers:
                        engine.observers.started(job, self.id, context)
                    # In line, not in a function of its own: a coroutine more would cost a fifth of the job.
                    yielded = context.run(send, job)
                    if yielded is not _ENDED:
                        suspended = True
                        if slots.active < slots.limit and engine.queue.live:
                            engine.wake_workers()
                        while yielded is not _ENDED:
                            try:
                                sent = yield yielded
                            except BaseException as error:
                                # Taken out: the job shall not run while we handle it; who drives it lets go of it.
                                drive = _drive(self, context, drop_frame(error))
                            else:
                                yielded = context.run(send, sent)
                                continue
                            yielded = None  # a future, which refers to its exception
                            yield from drive
                            drive = None
                            break
                        yielded = sent = None
                    self.job = None
                    if state.cancel_scope is not scope or self._used or cancelling():
                        self.tainted = state.cancel_scope is not scope
                        context = job = None
                        return  # used up; whether the task itself is clean shows once the scope is left
                    if self.retiring:
                        break
                    now = job._finished_at or engine.now()
                    if not suspended and now >= engine.slice_ends:
                        self.release_and_idle()
                        engine.wake_workers()
                        break
                else:
                    self.release_and_idle()
        except GeneratorExit:
            self._closed()
            raise

    async def _rest(self) -> None:
        """Wait for an offer of work, or for a thread that comes back."""
        if self._wakeup is None:
            self._wakeup = self.engine.runtime.loop.create_future()
        try:
            await self._wakeup
        finally:
            self._wakeup = None
        engine = self.engine
        engine.extend_slice()
        if not self.busy and not self.stopped.done():
            # The slot is taken here, not with the offer: until now another could have had it.
            if engine.slots.active < engine.slots.limit:
                self.busy = True
                engine.slots.acquire()
            else:
                self._on_idle(self)

    def _closed(self) -> None:
        """End, for foreign code has closed the coroutine, of which asyncio knows nothing: have the task notice it.

        That code may be a job: asyncio closes what waits for a future that has failed with a `GeneratorExit`.
        """
        engine, job = self.engine, self.job
        if not engine.runtime.loop.is_running():
            return
        self.tainted = self.retiring = True
        if job is not None and not job._spec.offload:
            if job._finished_at is None or job._ensure_extra().abandoned:
                engine.attempt_ended(job, None, RuntimeError("the coroutine of its worker was closed"), engine.now())
            self.job = None
        if self._task is not None:
            engine.runtime.soon(self._task.cancel)

    def _ring_bell(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def wake(self) -> bool:
        self._ring_bell()
        return False

    def run_next(self, now: float) -> None:
        self.job = None
        engine = self.engine
        if self._task is not None and self._task.done():
            self.release()
            engine.wake_workers()
        elif self._wakeup is None or self.retiring or not engine.next_is_for_thread():
            self._ring_bell()
        elif (job := engine.take_job()) is None:
            self.release_and_idle()
        else:
            # To a thread from here: waking the coroutine for it would cost more than the rest of the way.
            self.job = job
            job._start(self, now)
            limit = job._spec.timeout
            if limit is not None:
                self.check_by(now + limit)
            self.offload(job)

    def retire(self) -> None:
        super().retire()
        self._ring_bell()

    def crash(self, fault: BaseException) -> None:
        super().crash(fault)
        self._ring_bell()

    def request_cancel(self, stop: StopRequest) -> None:
        stop.cancel_count += 1
        self._used = True
        if self.leak_shield is not None:
            self.leak_shield.shield = False
            return
        # By level: a scope that was cancelled once goes on telling.
        scope = self._scope
        if scope is not None and not scope.cancel_called:
            if running_loop_or_none() is None:  # between two runs of the loop; anyio needs a running one
                self.engine.runtime.soon(scope.cancel, stop.reason)
            else:
                try:
                    scope.cancel(stop.reason)
                except Exception:  # it could not arrange to tell the job again in each turn
                    assert self._task is not None
                    self._task.cancel(stop.reason)

    def has_leaked(self) -> bool:
        """Whether the job has leaked, and stands in no scope of its own, which would be left in the wrong order."""
        return self.job is not None and self.job.leaked and self._state.cancel_scope is self._scope

    def frames(self) -> list[Any]:
        return coroutine_frames(self.job_runner)[1:]  # without the runner, which is ours
