"""The fast lane: a worker that drives each job in its own task, under one anyio cancel scope.

`isolation="scope"`. The worker sends into the job's coroutine itself, inside the job's context; no task is made and no
scope is entered for a job. A job is stopped as anyio stops: by level, shields respected. The price:
`current_task()` is the worker's, so a job can leave it dirty: a cancel it swallowed (`cancelling() > 0`), a scope it
did not close. A dirty worker is replaced before it takes another job, and the scope is renewed after each use.
What nobody can see is an `asyncio.timeout` that a job has entered and not left: it will cancel the worker's task later.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator
from contextvars import Context
from typing import Any, final

import anyio

# The one private name of anyio that we read, never write: which scope a task stands in. The public way to ask is to
# leave the scope and enter another, 2 to 3 µs a job. The range of anyio in pyproject.toml is what the tests run on.
from anyio._backends._asyncio import _task_states

from aiopool._bridge import ThreadBridge
from aiopool._engine import Engine
from aiopool._job import Job, running_job
from aiopool._runtime import in_loop
from aiopool._scope import StopRequest
from aiopool._worker import Worker

__all__ = ["ScopeWorker"]


def _begin(job: Job[Any]) -> tuple[Any, Any]:
    """Make the coroutine of a job and take its first step; raises StopIteration if that was the last one too."""
    running_job.set(job)
    function, args, kwargs = job._function, job._args, job._kwargs
    assert function is not None
    del job  # an error refers to this frame (`f_back`), and the job to the error
    coroutine = function(*args) if kwargs is None else function(*args, **kwargs)
    return coroutine, coroutine.send(None)


@types.coroutine
def _drive(coroutine: Any, context: Context, yielded: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that has suspended, each step inside its own context."""
    run, send, throw = context.run, coroutine.send, coroutine.throw
    try:
        while True:
            try:
                sent = yield yielded
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                yielded = run(throw, error)
            else:
                yielded = run(send, sent)
    except StopIteration as stop:
        return stop.value
    except BaseException:
        del run, send, throw, context, coroutine  # as above: the context refers to the job
        raise


@final
class ScopeWorker(Worker):
    """Runs jobs in its own task, under a cancel scope that is re-used while it is clean."""

    __slots__ = ("_bell", "_coroutine", "_host", "_scope", "_state", "_used")

    def __init__(self, engine: Engine, bridge: ThreadBridge[Any]) -> None:
        super().__init__(engine, bridge)
        self._bell: asyncio.Future[None] | None = None
        self._scope: anyio.CancelScope | None = None
        self._used = False  # the scope was cancelled: it serves no other job
        self._coroutine: Any = None
        self._host: asyncio.Task[Any] | None = None
        self._state: Any = None

    async def run(self) -> None:
        self._host = asyncio.current_task()
        assert self._host is not None
        self.engine.arrive(self)
        try:
            while not self.end.done():
                try:
                    with anyio.CancelScope() as scope:
                        self._scope, self._used = scope, False
                        self._state = _task_states[self._host]
                        await self._serve(scope)
                except RuntimeError:
                    if not self.clean:
                        raise
                    # anyio refuses to leave our scope before the one that a job left open: known, and the reason
                    # why this worker ends.
                if self.clean or self._host.cancelling() > 0 or self._state.cancel_scope is not None:
                    self.clean = True
                    return
            await self.end
        except asyncio.CancelledError:
            raise
        except BaseException as fault:
            self.crash(fault)
            await self.end
        finally:
            self.retiring = True
            if self.busy and self.job is None:  # else a thread still runs its job: `go_on` gives the slot back
                self.engine.leave(self)
                self.engine.nudge()

    async def _serve(self, scope: anyio.CancelScope) -> None:
        """Take job after job, until the scope is used up or the worker has to end."""
        engine, host, state = self.engine, self._host, self._state
        assert host is not None
        context: Any
        while not self.end.done():
            if not self.busy or self.job is not None:
                context = job = None  # at rest a worker holds nothing
                await self._rest()  # until there is a slot, or a thread has come back
                continue
            if self.retiring:
                engine.leave(self)
                engine.nudge()
                self.end.set_result(None)
                return
            now = engine.now()
            while (job := engine.next(self, now)) is not None:
                plan, suspended = job._plan, False
                context = job._context
                if not plan.swift:
                    self.arm(job, now)
                    if plan.offload:
                        self.offload(job)
                        if engine.idle and engine.queue._order.live:
                            engine.nudge()
                        break
                    context = self.context(job)
                if engine.listeners:
                    engine.listeners.begin(job, self.id, context)
                # In line, not in a function of its own: a coroutine more would cost a fifth of the job.
                try:
                    try:
                        self._coroutine, yielded = context.run(_begin, job)
                    except StopIteration as stop:
                        value = stop.value
                    else:
                        suspended = True
                        if engine.idle and engine.queue._order.live:
                            engine.nudge()
                        value = await _drive(self._coroutine, context, yielded)
                        self._coroutine = None
                except BaseException as error:
                    if isinstance(error, GeneratorExit) and not engine.runtime.loop.is_running():
                        raise
                    _strip(error)
                    now = engine.now()
                    self._coroutine = None
                    engine.conclude(self, job, None, error, now)
                else:
                    now = engine.now()
                    engine.returned(self, job, value, now)
                value = self.job = None
                if state.cancel_scope is not scope or self._used or host.cancelling():
                    self.clean = state.cancel_scope is not scope
                    context = job = None
                    return  # used up; whether the task itself is clean shows once the scope is left
                if self.retiring:
                    break
                if not suspended and now >= engine.slice_ends:
                    engine.rest(self)
                    engine.nudge()
                    break

    async def _rest(self) -> None:
        """Wait for an offer of work, or for a thread that comes back."""
        engine = self.engine
        self._bell = engine.runtime.loop.create_future()
        try:
            await self._bell
        finally:
            self._bell = None
        engine.slice_ends = max(engine.slice_ends, engine.now() + engine.slice)
        if not self.busy and not self.end.done():
            # The slot is taken here, not with the offer: until now a job could have had it for the room it is.
            if engine.active < engine.slots:
                engine.take_slot(self)
            else:
                engine.idle.append(self)

    def _ring_bell(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    def offer(self) -> bool:
        self._ring_bell()
        return False

    def go_on(self, now: float) -> None:
        self.job = None
        if self._host is not None and self._host.done():
            self.engine.leave(self)
            self.engine.nudge()
        else:
            self._ring_bell()

    def retire(self) -> None:
        super().retire()
        self._ring_bell()

    def crash(self, fault: BaseException) -> None:
        super().crash(fault)
        self._ring_bell()

    def tell(self, stop: StopRequest) -> None:
        stop.told += 1
        self._used = True
        # By level: a scope that was cancelled once goes on telling.
        scope = self._scope
        if scope is not None and not scope.cancel_called:
            if in_loop() is None:  # between two runs of the loop; anyio needs a running one
                self.engine.runtime.soon(scope.cancel, stop.reason)
            else:
                scope.cancel(stop.reason)

    def frames(self) -> list[Any]:
        frames, coroutine = [], self._coroutine
        while coroutine is not None:
            frame = getattr(coroutine, "cr_frame", None)
            if frame is not None:
                frames.append(frame)
            coroutine = getattr(coroutine, "cr_await", None)
        return frames


_OURS = frozenset(function.__code__ for function in (_begin, _drive, ScopeWorker._serve))


def _strip(error: BaseException) -> None:
    """Take our own frames off the head of a traceback: they refer to the job, and the job to the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code in _OURS and trace.tb_next is not None:
        trace = trace.tb_next
    error.__traceback__ = trace
