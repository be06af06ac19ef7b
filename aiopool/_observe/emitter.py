"""`EventEmitter`: gives the listeners of one pool frozen events of what happens in it (`events.py`).

Three rules keep listeners from harming the pool.

1. *One after the other.* An event that happens while another is delivered waits for it: every listener gets all events
   in the order in which they happened, and a listener that submits or cancels jobs does not grow the stack.
2. *Only in a consistent state.* An event that happens in the middle of a step of the engine is delivered after that
   step: with the next event, at the latest in the next turn of the loop.
3. *Faults end here.* A listener that raises is logged once and removed.

Listeners run in one context of the emitter's own: they see nobody's context variables, and leak none.

The emitter comes with the first listener, and so does the module of events: most programs have none (`observers.py`).
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, final

from aiopool._jobs.callables import is_asynchronous
from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus
from aiopool._observe.observer import EventName, Observer
from aiopool._runtime.hooks import HookGuard
from aiopool._runtime.runtime import Runtime
from aiopool.events import (
    EventStream,
    JobCancelled,
    JobFailed,
    JobGivenBack,
    JobLeaked,
    JobRetrying,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
    JobTimedOut,
    Listener,
    LoopBlocked,
    PoolClosed,
    PoolClosing,
    PoolEvent,
    PoolOpened,
    PoolPaused,
    PoolResized,
    PoolResumed,
    WorkerCrashed,
    WorkerEvent,
    WorkerStarted,
    WorkerStopped,
)

__all__ = ["EventEmitter"]

logger = logging.getLogger("aiopool.events")


@final
class EventEmitter(Observer):
    """Delivers events. The mutable state is: the listeners, and the events that are not delivered yet."""

    __slots__ = (
        "_by_type",
        "_context",
        "_emitting",
        "_hooks",
        "_listeners",
        "_now",
        "_pool",
        "_queue",
        "_runtime",
        "_scheduled",
    )

    def __init__(self, pool: str, hooks: HookGuard) -> None:
        self._pool = pool
        self._hooks = hooks
        self._listeners: tuple[Listener, ...] = ()
        self._by_type: dict[type[PoolEvent], tuple[Listener, ...]] = {}
        self._queue: deque[PoolEvent] = deque()
        self._emitting = False
        self._scheduled = False
        self._context = contextvars.Context()
        self._runtime: Runtime | None = None
        self._now: Callable[[], float] = float

    # -- who listens ---------------------------------------------------------------------------------------------------

    @staticmethod
    def listener(
        function: Callable[[Any], object], types: tuple[type[PoolEvent], ...], forget: Callable[[Listener], object]
    ) -> Listener:
        """Return a listener for some classes of events and their subclasses; for all, if none are named."""
        if not callable(function):
            raise TypeError(f"listen() takes a function, not {function!r} ({type(function).__name__})")
        if is_asynchronous(function):
            raise TypeError(
                f"a listener is a plain function, called at once, and {function!r} is asynchronous. "
                "Write `async for event in pool.events(): ...` in a task of your own"
            )
        return Listener(function, check_types("listen", types) or (PoolEvent,), forget)

    @staticmethod
    def stream(
        pool: str, types: tuple[type[PoolEvent], ...], buffer: int, forget: Callable[[Listener], object]
    ) -> tuple[EventStream, Listener]:
        """Return a stream of events, and the listener that fills it, which does not keep it alive."""
        wanted = check_types("events", types) or (PoolEvent,)
        stream = EventStream(pool, buffer)
        weak = weakref.ref(stream)

        def hear(event: PoolEvent) -> None:
            live = weak()
            if live is not None:
                if isinstance(event, wanted):
                    live.put(event)
                if isinstance(event, PoolClosed):
                    live.close()

        listener = Listener(hear, (*wanted, PoolClosed), forget)
        stream._forget = listener.remove
        weakref.finalize(stream, listener.remove).atexit = False
        return stream, listener

    def attach(self, runtime: Runtime | None) -> None:
        """Deliver in the loop of a pool that is open; None: it has closed."""
        if runtime is None:
            self._runtime, self._now = None, float
        else:
            self._runtime, self._now = runtime, runtime.now

    def set_listeners(self, listeners: tuple[Listener, ...]) -> None:
        """Deliver to these from now on, and to no others."""
        self._listeners = listeners
        self._by_type = {}

    def listeners_for(self, kind: type[PoolEvent]) -> tuple[Listener, ...]:
        """Return the listeners of a class of events."""
        found = self._by_type.get(kind)
        if found is None:
            found = self._by_type[kind] = tuple(one for one in self._listeners if issubclass(kind, one.types))
        return found

    # -- delivering --------------------------------------------------------------------------------------------------

    def emit(self, event: PoolEvent) -> None:
        """Deliver an event now, or after the one that is being delivered."""
        self._queue.append(event)
        if not self._emitting:
            self._deliver()

    def emit_soon(self, event: PoolEvent) -> None:
        """Deliver an event that happened in the middle of a step: with the next one, or in the next turn."""
        self._queue.append(event)
        if not self._emitting and not self._scheduled and self._runtime is not None:
            self._runtime.soon(self._deliver_soon)
            self._scheduled = True

    def _deliver_soon(self) -> None:
        self._scheduled = False
        if not self._emitting:
            self._deliver()

    def _deliver(self) -> None:
        self._emitting = True
        try:
            self._context.run(self._drain)
        finally:
            self._emitting = False

    def _drain(self) -> None:
        queue = self._queue
        while queue:
            event = queue.popleft()
            for listener in self.listeners_for(type(event)):
                if listener.active:
                    try:
                        answer = listener.function(event)
                        if answer is not None and inspect.iscoroutine(answer):
                            answer.close()
                            raise TypeError(_NOT_AWAITED)
                    except BaseException as error:
                        self._remove_failed(listener, event, error)

    def _remove_failed(self, listener: Listener, event: PoolEvent, error: BaseException) -> None:
        """Remove a listener that raised."""
        listener.error = error
        listener.remove()
        self._hooks.caught(
            error,
            logger,
            "a listener of pool %.200r raised, and hears no more: %s, at %s. Catch what you expect inside of it",
            self._pool,
            listener.function,
            type(event).__name__,
        )

    def event(self, name: EventName, **values: Any) -> None:
        """Something happened to the pool, or to a worker: maybe inside of a step of the engine."""
        kind = _BY_NAME[name]
        if self.listeners_for(kind):
            event = kind(pool=self._pool, at=self._now(), **values)
            self.emit_soon(event) if issubclass(kind, WorkerEvent) else self.emit(event)

    # -- what happens to jobs ----------------------------------------------------------------------------------------

    def submitted(self, job: Job[Any], *, inside: bool) -> None:
        """A job was taken in; `inside` of a step of the engine, or at its end."""
        if self.listeners_for(JobSubmitted):
            event = JobSubmitted(at=job._submitted_at, delay=job._first_delay, **self._about(job))
            self.emit_soon(event) if inside else self.emit(event)

    def started(self, job: Job[Any], worker: int, context: contextvars.Context | None, *, inside: bool) -> None:
        """An attempt begins; `inside` of a step of the engine, or at its end."""
        if self.listeners_for(JobStarted):
            at = job._started_at
            event = JobStarted(at=at, worker=worker, waited=at - job._submitted_at, **self._about(job))
            self.emit_soon(event) if inside else self.emit(event)

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        """An attempt has ended, and there will be another."""
        if self.listeners_for(JobRetrying):
            seconds = now - job._started_at
            self.emit(JobRetrying(at=now, worker=worker, seconds=seconds, error=error, delay=delay, **self._about(job)))

    def given_back(self, job: Job[Any], worker: int | None, now: float) -> None:
        """A job of a store has gone back to it."""
        if self.listeners_for(JobGivenBack):
            seconds = now - job._started_at if worker is not None else 0.0
            reason = None if job._extra is None else job._extra.cancel_reason
            self.emit(JobGivenBack(at=now, worker=worker, seconds=seconds, reason=reason, **self._about(job)))

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool) -> None:
        """A job is done; `worker` ran it at that moment, or nobody did."""
        kind = _ENDS[job._status]
        if not self.listeners_for(kind):
            return
        values = self._about(job)
        values.update(at=now, worker=worker, seconds=now - job._started_at if job._attempt else 0.0)
        if kind is not JobSucceeded:
            values["error"] = job._value[0]
            if kind is JobCancelled:
                values["reason"] = None if job._extra is None else job._extra.cancel_reason
            else:
                values["awaited"] = awaited
        self.emit(kind(**values))

    def leaked(self, job: Job[Any], worker: int | None, stack: str, now: float) -> None:
        """The code of a job would not end."""
        if self.listeners_for(JobLeaked):
            seconds = now - job._started_at
            self.emit_soon(JobLeaked(at=now, worker=worker, seconds=seconds, stack=stack, **self._about(job)))

    def _about(self, job: Job[Any]) -> dict[str, Any]:
        spec = job._spec
        return {
            "pool": self._pool,
            "job_id": job.id,
            "name": job._spec.name,
            "attempt": job._attempt,
            "priority": spec.priority,
            "group": spec.group,
            "metadata": dict(spec.metadata) if spec.metadata else {},
        }


_NOT_AWAITED = (
    "a listener is a plain function, and it returned a coroutine, which nobody awaits. Write "
    "`async for event in pool.events(): ...` in a task of your own"
)
_BY_NAME: dict[str, type[PoolEvent]] = {
    kind.__name__: kind
    for kind in (
        LoopBlocked,
        PoolClosed,
        PoolClosing,
        PoolOpened,
        PoolPaused,
        PoolResized,
        PoolResumed,
        WorkerCrashed,
        WorkerStarted,
        WorkerStopped,
    )
}
_ENDS: dict[JobStatus, type[PoolEvent]] = {
    JobStatus.SUCCEEDED: JobSucceeded,
    JobStatus.FAILED: JobFailed,
    JobStatus.TIMED_OUT: JobTimedOut,
    JobStatus.CANCELLED: JobCancelled,
}


def check_types(what: str, types: tuple[Any, ...]) -> tuple[type[PoolEvent], ...]:
    """Return the classes of events, checked."""
    for kind in types:
        if not isinstance(kind, type) or not issubclass(kind, PoolEvent):
            raise TypeError(
                f"{what}() takes classes of events after the function, and {kind!r} is none: write "
                f"pool.{what}({'function, ' if what == 'listen' else ''}aiopool.events.JobFailed)"
            )
    return types
