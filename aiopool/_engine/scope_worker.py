"""The fast lane: a worker that runs each job in its own task, under one anyio cancel scope.

`isolation="scope"`. The worker sends into the job's coroutine itself, inside the job's context; no task is made and no
scope is entered for a job. A job is stopped as anyio stops: by level, shields respected. The price: `current_task()` is
the worker's, so a job can leave it *tainted*: by a cancel that it swallowed (`cancelling() > 0`), or a scope that it
did not close. A tainted worker is replaced before it takes another job, and the scope is renewed after each use. One
thing cannot be seen: an `asyncio.timeout` that a job has entered and not left. It will cancel the worker's task later.

Four verbs. *Start*: it makes its task, enters a scope and rests. *Step*: whoever wakes it has it take its next step at
once, inside of his own; no turn of the loop is spent. *Taint*: after each job it looks at what the job has left behind.
*Stop*: the job is told by a cancel of the scope.
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
from aiopool._engine.worker import Worker, is_in_attempt
from aiopool._jobs.job import running_job
from aiopool._jobs.stop import StopRequest, coroutine_frames
from aiopool._runtime.eager import has_factory, run_step
from aiopool._runtime.faults import drop_frame, is_kind
from aiopool._runtime.runners import Runners
from aiopool._runtime.runtime import running_loop_or_none

__all__ = ["ScopeWorker", "load_backend", "scope_state"]


def load_backend() -> None:
    """Have anyio load its backend now, and not with the first job: that would hold the loop for 25 ms."""
    anyio.current_time()


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


def _scope_of(task: asyncio.Task[Any]) -> Any:
    """Return the anyio scope in which a task is, or None; see `scope_state`."""
    state: Any = None
    with anyio.CancelScope():  # noqa: ASYNC100 - it is left at once
        state = scope_state(task)
    return state.cancel_scope


# What a runner yields when its job has ended.
_ENDED = object()


@types.coroutine
def _run_jobs(worker: ScopeWorker) -> Generator[Any, Any, None]:
    """Run the jobs that are sent in, one after the other; yield what they wait for, and `_ENDED` after each.

    One generator for all jobs of a worker: to drive each coroutine from outside would cost an exception
    (`StopIteration`) for each. Every step is sent inside the context of the job. What the job raises ends here; what
    the engine raises ends the runner, and the worker with it.
    """
    engine = worker.engine
    job = yield _ENDED
    while True:
        worker.outer = running_job.set(job)
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


def _drive(worker: ScopeWorker, context: Context, yielded: Any) -> Generator[Any, Any, None]:
    """Yield what a suspended job waits for, and take its steps, each inside its own context, to its end."""
    runner = worker.job_runner
    run, send, throw = context.run, runner.send, runner.throw
    sent: Any = None
    raised: Any = None
    try:
        while yielded is not _ENDED:
            try:
                sent = yield yielded
            except BaseException as error:
                raised = drop_frame(error)  # taken out: the job shall not run while we handle it
            else:
                yielded = run(send, sent)
                continue
            yielded = None  # a future, which refers to its exception
            if is_kind(raised, GeneratorExit):
                with contextlib.suppress(RuntimeError):  # the job awaits in its clean-up, which nothing runs any more
                    runner.close()
                raise raised
            if worker.leak_shield is not None:
                worker.leak_shield.shield = True  # it was told; once
            elif worker.has_leaked():
                yield from _drive_shielded(worker, context, raised)
                return
            yielded, raised = run(throw, raised), None
    finally:
        # An error's frames refer to this one, too, and the context to its job.
        del run, send, throw, context, runner, worker, yielded, sent, raised


def _drive_shielded(worker: ScopeWorker, context: Context, error: BaseException | None) -> Generator[Any, Any, None]:
    """Go on with a job that has leaked behind a shield, which `request_cancel` opens, and what comes through closes.

    Without it anyio would tell the job in every turn of the loop: that costs a processor.
    """
    yielded: Any = None
    try:
        with contextlib.suppress(RuntimeError):  # the job left a scope open in there: this worker ends with it
            with anyio.CancelScope(shield=True) as worker.leak_shield:  # noqa: ASYNC100 - the job waits in it
                yielded, error = context.run(worker.job_runner.throw, error), None
                yield from _drive(worker, context, yielded)
    finally:
        worker.leak_shield = None
        del context, worker, error, yielded


class _Rest:
    """What a worker at rest waits for: it may take its next step at once, in the step of whoever wakes it.

    asyncio knows it for a future by `_asyncio_future_blocking`. A future of its own lets its task go on in the next
    turn of the loop only.
    """

    __slots__ = ("_asyncio_future_blocking", "_loop", "_step_soon", "context", "wakeup")

    def __init__(self, loop: asyncio.AbstractEventLoop, step_soon: Callable[[], object]) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._step_soon = step_soon
        self.wakeup: Callable[[_Rest], object] | None = None  # takes the step; None: the worker is not at rest
        self.context = Context()

    def begin(self) -> _Rest:
        """Return what is to be yielded to the task."""
        self._asyncio_future_blocking = True
        return self

    def add_done_callback(self, wakeup: Callable[[_Rest], object], *, context: Context) -> None:
        """Take from the task what wakes it."""
        self.wakeup, self.context = wakeup, context

    def result(self) -> None:
        """Tell the task that it may go on."""

    def cancel(self, msg: object = None) -> bool:
        """Have the task take a step, in which it will cancel itself, for the answer is that we do not."""
        self._step_soon()
        return False


@final
class ScopeWorker(Worker):
    """Runs jobs in its own task, under a cancel scope that is re-used while it is clean."""

    __slots__ = ("_called", "_rest", "_scope", "_state", "_steps", "_task", "_used", "job_runner", "leak_shield")

    def __init__(self, engine: Engine, runners: Runners, on_idle: Callable[[Self], object]) -> None:
        super().__init__(engine, runners, on_idle)
        self._rest = _Rest(engine.runtime.loop, self._step_soon)
        self._called = False  # it was woken before its first step
        self._scope: anyio.CancelScope | None = None
        self._used = False  # the scope was cancelled, or left behind by a job: it serves no other
        self.job_runner: Any = _run_jobs(self)
        next(self.job_runner)
        self._steps: Generator[Any, Any, None] | None = None  # what is left of a job that has suspended
        self.leak_shield: anyio.CancelScope | None = None  # keeps anyio's cancels from a job that has leaked
        self._task: asyncio.Task[Any] | None = None
        self._state: Any = None

    @property
    def task(self) -> asyncio.Task[Any] | None:
        return self._task

    # -- start -----------------------------------------------------------------------------------------------------

    def start(self, name: str) -> asyncio.Task[None]:
        """Make the task in which it lives; its first step, to its rest, is taken now if no task factory prevents it."""
        runtime = self.engine.runtime
        if self.resource is not None or has_factory(runtime.loop):
            return super().start(name)
        return runtime.start_task(self.run(), name=name, context=Context())

    async def run(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None
        if self._called:
            self._on_idle(self)
            self.engine.wake_workers()
        outer = None if self.resource is None else _scope_of(self._task)  # a resource may be a task group
        try:
            while not self.stopped.done():
                try:
                    with anyio.CancelScope() as scope:
                        self._scope, self._used = scope, False
                        self._state = scope_state(self._task)
                        await self._serve()
                except RuntimeError:
                    if not self.engine.runtime.loop.is_running():
                        return  # the loop is gone, and this coroutine with it: anyio needs one to leave a scope
                    if not self.tainted:
                        raise
                    # anyio refuses to leave our scope before the one that a job left open: known, and the reason
                    # why this worker ends.
                if self.tainted or self._task.cancelling() > 0 or self._state.cancel_scope is not outer:
                    self.tainted = True
                    return
            await self.stopped
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as fault:
            self.crash(fault)
            if is_kind(fault, (KeyboardInterrupt, SystemExit)):
                await asyncio.sleep(0)  # it ends the loop, not whoever's step this was
            await self.stopped
        finally:
            self.retiring = True
            if self.busy and self.job is None:  # else a thread still runs its job: `run_next` releases the slot
                self.release()
                self.engine.wake_workers()

    # -- step ------------------------------------------------------------------------------------------------------

    @types.coroutine
    def _serve(self) -> Generator[Any, Any, None]:
        """Run jobs whenever there is a slot, until the scope is used up or the worker has to end.

        No `async def`: it yields what a job waits for as it is, which saves each job that suspends a coroutine.
        """
        rest = self._rest
        try:
            while not self._used and not self.stopped.done():
                if not self.busy or self.job is not None:
                    yield rest.begin()
                    continue
                self.run_jobs(self.engine.now())
                if self._steps is not None:
                    steps, self._steps = self._steps, None
                    yield from steps
                    del steps
                    self._job_over()
        except GeneratorExit:
            self._closed()
            raise

    def run_jobs(self, now: float) -> None:
        """Run jobs until one suspends or taints the scope, or none may start; as that of `TaskWorker`.

        Neither is a function of its own for the step in the middle: a call more would cost 2 to 6 % of a no-op.
        """
        engine, state, scope = self.engine, self._state, self._scope
        send, cancelling = self.job_runner.send, self._task.cancelling  # type: ignore[union-attr]
        job: Any
        context: Any
        yielded: Any
        job = context = yielded = None
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
                yielded = context.run(send, job)
                if yielded is not _ENDED:
                    self._steps = _drive(self, context, yielded)
                    return
                if state.cancel_scope is not scope or self._used or cancelling():
                    self._job_over()
                    return
                now = job._finished_at or engine.now()
                if now >= engine.slice_ends and not self.retiring:
                    self.release_and_idle()
                    engine.wake_workers()
                    return
            self.end()
        except BaseException as fault:
            self.crash(fault)
        finally:
            job = context = yielded = None

    def _step(self) -> None:
        """Take the next step of the worker's task now, if it is at rest."""
        rest = self._rest
        wakeup, rest.wakeup = rest.wakeup, None
        if wakeup is None:
            return
        try:
            run_step(self.engine.runtime.loop, rest.context, wakeup, rest)
        except BaseException as fault:  # the step was not taken
            if self._task is not None and not self._task.done():
                rest.wakeup = wakeup
            self.crash(fault)

    def _step_soon(self) -> None:
        if self._rest.wakeup is not None:
            self.engine.runtime.soon(self._step)

    def wake(self) -> bool:
        if self._rest.wakeup is None:  # it has not begun
            self._called = True
            return False
        return super().wake()

    def run_next(self, now: float) -> None:
        self.job = None
        if self._task is not None and self._task.done():
            self.release()
            self.engine.wake_workers()
        else:
            self._step()

    # -- taint -----------------------------------------------------------------------------------------------------

    def _job_over(self) -> None:
        """See what a job has left behind: whether this scope serves another, and this task."""
        self.job = None
        if self._state.cancel_scope is not self._scope:
            self.tainted = self._used = True
        elif self._task.cancelling():  # type: ignore[union-attr]
            self._used = True  # whether the task itself is clean shows once the scope is left

    def _closed(self) -> None:
        """End, for foreign code has closed the coroutine, of which asyncio knows nothing: have the task notice it.

        That code may be a job: asyncio closes what waits for a future that has failed with a `GeneratorExit`.
        """
        engine, job = self.engine, self.job
        if not engine.runtime.loop.is_running():
            return
        self.tainted = self.retiring = True
        if job is not None and not job._spec.offload:
            if is_in_attempt(job) or job._ensure_extra().abandoned:  # its runner could not end it
                engine.attempt_ended(job, None, RuntimeError("the coroutine of its worker was closed"), engine.now())
            self.job = None
        assert self._task is not None
        engine.runtime.soon(self._task.cancel)

    # -- stop ------------------------------------------------------------------------------------------------------

    def retire(self) -> None:
        super().retire()
        self._step_soon()

    def crash(self, fault: BaseException) -> None:
        super().crash(fault)
        self._step_soon()

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
