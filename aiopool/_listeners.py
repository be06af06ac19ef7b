"""`Listeners`: the hub between a pool and whoever hears of it. The core asks one thing before anything is built:
`if self.listeners:`, which is None while nobody listens.

Three kinds hear. A *listener* is a user's function and gets frozen events (`events.py`). A *recorder* is a door of ours
(tracing): it is called before, with the live job, at the start of an attempt inside the job's context, and no event is
built for it. The *meter* (`_metrics.py`) counts, and is called first.

Three rules keep listeners from harming the pool:

1. *One after the other.* An event that happens while another is being told waits for it: every listener hears all
   events in the order in which they happened, and a listener that submits or cancels jobs does not grow the stack.
2. *Only where the books are closed.* An event that happens in the middle of a step of the engine is posted: told with
   the next one, at the latest in the next turn of the loop.
3. *Faults end at the hub.* A listener or recorder that raises is logged once and removed.

Listeners run in one context of the hub's own: they see nobody's context variables, and leak none.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, final

from aiopool._faults import log_fault
from aiopool._job import Job
from aiopool._metrics import Meter
from aiopool._options import is_asynchronous
from aiopool._runtime import Runtime
from aiopool._status import JobStatus
from aiopool.events import (
    EventStream,
    JobCancelled,
    JobFailed,
    JobLeaked,
    JobRetrying,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
    JobTimedOut,
    Listener,
    PoolClosed,
    PoolEvent,
    PoolPaused,
    PoolResized,
    PoolResumed,
    WorkerEvent,
)

__all__ = ["Listeners", "Recorder", "listen_everywhere"]

logger = logging.getLogger("aiopool.events")


class Recorder(Protocol):
    """What looks at every attempt of a pool, with the job in hand: a tracer. It must be quick, and touch nothing."""

    def started(self, job: Job[Any], worker: int) -> None:
        """An attempt is about to begin; called inside of its context: what is set there, the job sees."""

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        """An attempt has ended, and there will be another in `delay` seconds."""

    def ended(self, job: Job[Any], worker: int | None, now: float) -> None:
        """A job is done. If `worker` is not None, an attempt has ended with it."""


class Seat(Protocol):
    """The part of a pool that asks whether anybody listens."""

    listeners: Listeners | None


@final
class Listeners:
    """Who hears of one pool. The mutable state is: the listeners, the recorders, and the events not told yet."""

    __slots__ = (
        "__weakref__",
        "_by_type",
        "_context",
        "_loop",
        "_now",
        "_posted",
        "_queue",
        "_recorders",
        "_rows",
        "_seat",
        "_telling",
        "meter",
        "pool",
    )

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self._rows: tuple[Listener, ...] = ()
        self._by_type: dict[type[PoolEvent], tuple[Listener, ...]] = {}
        self._recorders: tuple[Recorder, ...] = ()
        self.meter: Meter | None = None
        self._queue: deque[PoolEvent] = deque()
        self._telling = False
        self._posted = False
        self._context = contextvars.Context()
        self._seat: Seat | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._now: Callable[[], float] = float

    # -- who hears ---------------------------------------------------------------------------------------------------

    def listen(self, function: Callable[[Any], object], types: tuple[type[PoolEvent], ...]) -> Listener:
        """Add a listener for some classes of events and their subclasses; for all, if none are named."""
        if not callable(function):
            raise TypeError(f"listen() takes a function, not {function!r} ({type(function).__name__})")
        if is_asynchronous(function):
            raise TypeError(
                f"a listener is a plain function, told at once, and {function!r} is asynchronous. "
                "Write `async for event in pool.events(): ...` in a task of your own"
            )
        listener = Listener(function, check_types("listen", types) or (PoolEvent,), self._forget)
        self._rows += (listener,)
        self._changed()
        return listener

    def stream(self, types: tuple[type[PoolEvent], ...], buffer: int) -> EventStream:
        """Return a stream of events; the hub does not keep it alive."""
        wanted = check_types("events", types) or (PoolEvent,)
        stream = EventStream(self.pool, buffer)
        weak = weakref.ref(stream)

        def hear(event: PoolEvent) -> None:
            live = weak()
            if live is not None:
                if isinstance(event, wanted):
                    live.put(event)
                if isinstance(event, PoolClosed):
                    live.close()

        listener = Listener(hear, (*wanted, PoolClosed), self._forget)
        stream._forget = listener.remove
        weakref.finalize(stream, listener.remove).atexit = False
        self._rows += (listener,)
        self._changed()
        return stream

    def record(self, recorder: Recorder) -> None:
        """Add a recorder, once."""
        if recorder not in self._recorders:
            self._recorders += (recorder,)
            self._changed()

    def unrecord(self, recorder: Recorder) -> None:
        """Remove a recorder."""
        self._recorders = tuple(other for other in self._recorders if other is not recorder)
        self._changed()

    def _forget(self, listener: Listener) -> None:
        self._rows = tuple(row for row in self._rows if row is not listener)
        self._changed()

    def _changed(self) -> None:
        self._by_type = {}
        if self._seat is not None:
            wanted = self._rows or _everywhere or self._recorders or self.meter
            self._seat.listeners = self if wanted else None

    def measure(self, meter: Meter) -> None:
        """Count and time jobs from now on."""
        self.meter = meter
        self._changed()

    def attach(self, seat: Seat, runtime: Runtime) -> None:
        """Hear of a pool that opens."""
        self._seat, self._loop, self._now = seat, runtime.loop, runtime.now
        if self.meter is not None:
            self.meter.rows.clear()  # as the pool's own counters: they begin at its opening
        _open_hubs.add(self)
        self._changed()

    def detach(self) -> None:
        """Hear no more of a pool that has closed."""
        if self._seat is not None:
            self._seat.listeners = None
        _open_hubs.discard(self)
        self._seat = self._loop = None
        self._now = float

    # -- telling -----------------------------------------------------------------------------------------------------

    def hearers(self, kind: type[PoolEvent]) -> tuple[Listener, ...]:
        """Return who hears a class of events."""
        found = self._by_type.get(kind)
        if found is None:
            heard = (*self._rows, *_everywhere)
            found = self._by_type[kind] = tuple(row for row in heard if issubclass(kind, row.types))
        return found

    def tell(self, event: PoolEvent) -> None:
        """Tell of an event now, or after the one that is being told."""
        self._queue.append(event)
        if not self._telling:
            self._deliver()

    def post(self, event: PoolEvent) -> None:
        """Tell of an event that happened in the middle of a step: with the next one, or in the next turn."""
        self._queue.append(event)
        if not self._telling and not self._posted and self._loop is not None:
            self._posted = True
            self._loop.call_soon(self._deliver_posted)

    def pool_event(self, kind: type[PoolEvent], **values: Any) -> None:
        """Tell of something that happened to the pool, if somebody hears it."""
        if self.hearers(kind):
            self.tell(kind(pool=self.pool, at=self._now(), **values))

    def worker_event(self, kind: type[WorkerEvent], worker: int, **values: Any) -> None:
        """Tell of something that happened to a worker, maybe inside of a step of the engine."""
        if self.hearers(kind):
            self.post(kind(pool=self.pool, at=self._now(), worker=worker, **values))

    def slots_changed(self, before: tuple[int, bool], after: tuple[int, bool]) -> None:
        """The size was set, or a pause begun or ended."""
        if before[0] != after[0]:
            self.pool_event(PoolResized, size=after[0], before=before[0])
        if before[1] != after[1]:
            self.pool_event(PoolPaused if after[1] else PoolResumed)

    def _deliver_posted(self) -> None:
        self._posted = False
        if not self._telling:
            self._deliver()

    def _deliver(self) -> None:
        self._telling = True
        try:
            self._context.run(self._drain)
        finally:
            self._telling = False

    def _drain(self) -> None:
        queue = self._queue
        while queue:
            event = queue.popleft()
            for listener in self.hearers(type(event)):
                if listener.active:
                    try:
                        answer = listener.function(event)
                        if answer is not None and inspect.iscoroutine(answer):
                            answer.close()
                            raise TypeError(_NOT_AWAITED)
                    except BaseException as error:
                        self._faulty(listener, event, error)

    def _faulty(self, listener: Listener, event: PoolEvent, error: BaseException) -> None:
        """Remove a listener that raised, and say so, once."""
        listener.error = error
        listener.remove()
        if isinstance(error, (SystemExit, KeyboardInterrupt)) and self._loop is not None:
            self._loop.call_soon(_leave, error)  # out of the event loop, as asyncio does with these two
            return
        log_fault(
            logger,
            "a listener of pool %.200r raised, and hears no more: %r, at %s. Catch what you expect inside of it",
            self.pool,
            listener.function,
            type(event).__name__,
            error=error,
        )

    def _call_recorders(self, method: str, *args: Any) -> None:
        for recorder in self._recorders:
            try:
                getattr(recorder, method)(*args)
            except Exception as error:
                self.unrecord(recorder)
                log_fault(logger, "%r of pool %.200r failed, and records no more", recorder, self.pool, error=error)

    # -- what happens to jobs ----------------------------------------------------------------------------------------

    def submitted(self, job: Job[Any], *, inside: bool = False) -> None:
        """A job was taken in; `inside` of a step of the engine, or at its end."""
        if self.hearers(JobSubmitted):
            event = JobSubmitted(at=job._submitted_at, delay=job._plan.delay or 0.0, **self._about(job))
            self.post(event) if inside else self.tell(event)

    def starting(self, job: Job[Any], worker: int, context: contextvars.Context | None) -> None:
        """An attempt is about to begin: it is counted, and the recorders look at it, in its context."""
        if self.meter is not None:
            self.meter.started(job)
        if self._recorders:
            assert context is not None
            context.run(self._call_recorders, "started", job, worker)

    def begin(self, job: Job[Any], worker: int, context: contextvars.Context | None, *, inside: bool = False) -> None:
        """An attempt begins, before its first line; `inside` of a step of the engine, or at its end."""
        if self.meter is not None:
            self.meter.started(job)
        if self._recorders:
            assert context is not None
            context.run(self._call_recorders, "started", job, worker)
        if self.hearers(JobStarted):
            at = job._started_at
            event = JobStarted(at=at, worker=worker, waited=at - job._submitted_at, **self._about(job))
            self.post(event) if inside else self.tell(event)

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        """An attempt has ended, and there will be another."""
        if self.meter is not None:
            self.meter.retrying(job, now)
        if self._recorders:
            self._call_recorders("retrying", job, worker, error, delay, now)
        if self.hearers(JobRetrying):
            seconds = now - job._started_at
            self.tell(JobRetrying(at=now, worker=worker, seconds=seconds, error=error, delay=delay, **self._about(job)))

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool = False) -> None:
        """A job is done; `worker` ran it at that moment, or nobody did."""
        if self.meter is not None:
            self.meter.ended(job, worker is not None, now)
        if self._recorders:
            self._call_recorders("ended", job, worker, now)
        kind = _ENDS[job._status]
        if not self.hearers(kind):
            return
        values = self._about(job)
        values.update(at=now, worker=worker, seconds=now - job._started_at if job._attempt else 0.0)
        if kind is not JobSucceeded:
            values["error"] = job._value[0]
            if kind is JobCancelled:
                values["reason"] = None if job._extra is None else job._extra.lost
            else:
                values["awaited"] = awaited
        self.tell(kind(**values))

    def leaked(self, job: Job[Any], worker: int | None, stack: str, now: float) -> None:
        """The code of a job would not end."""
        if self.hearers(JobLeaked):
            seconds = now - job._started_at
            self.post(JobLeaked(at=now, worker=worker, seconds=seconds, stack=stack, **self._about(job)))

    def _about(self, job: Job[Any]) -> dict[str, Any]:
        plan = job._plan
        return {
            "pool": self.pool,
            "job_id": job.sequence if plan.id is None else plan.id,
            "name": job._plan.name,
            "kind": None,
            "attempt": job._attempt,
            "priority": plan.priority,
            "group": plan.group,
        }


# Who hears of every pool of the program, and the hubs of the pools that are open.
_everywhere: tuple[Listener, ...] = ()
_open_hubs: weakref.WeakSet[Listeners] = weakref.WeakSet()


def listen_everywhere(function: Callable[[Any], object], types: tuple[type[PoolEvent], ...]) -> Listener:
    """Add a listener that hears of every pool, of those that are open and of those to come."""
    listener = Listener(function, types, _forget_everywhere)
    _set_everywhere((*_everywhere, listener))
    return listener


def _forget_everywhere(listener: Listener) -> None:
    _set_everywhere(tuple(row for row in _everywhere if row is not listener))


def _set_everywhere(listeners: tuple[Listener, ...]) -> None:
    global _everywhere
    _everywhere = listeners
    for hub in list(_open_hubs):
        hub._changed()


_NOT_AWAITED = (
    "a listener is a plain function, and it returned a coroutine, which nobody awaits. Write "
    "`async for event in pool.events(): ...` in a task of your own"
)
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


def _leave(error: BaseException) -> None:
    raise error
