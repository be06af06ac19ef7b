"""`Listeners`: the hub between a pool and whoever hears of it. The core asks one thing before anything is built:
`if self.listeners:`, which is None while nobody listens.

Three kinds hear. The *meter* (`metrics.py`) counts, and is called first. A *recorder* is a door of ours (tracing): it
is called next, with the live job, at the start of an attempt inside the job's context, and no event is built for it. A
*listener* is a user's function: the *teller* (`emitter.py`) gives it frozen events (`events.py`).

What seldom is there is loaded when it comes: the teller and the module of events with the first listener, the meter
with whoever wants metrics. The hub itself is small, and every pool has one.

Faults end here: a listener or recorder that raises is logged once and removed.
"""

from __future__ import annotations

import contextvars
import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, final

from aiopool._jobs.job import Job
from aiopool._runtime.hooks import HookGuard
from aiopool._runtime.runtime import Runtime

if TYPE_CHECKING:  # they come with the first who listens or measures
    from aiopool._observe.emitter import EventEmitter
    from aiopool._observe.metrics import MetricsRecorder
    from aiopool.events import EventStream, Listener, PoolEvent

__all__ = ["Observers", "Tracer", "listen_to_all_pools"]

logger = logging.getLogger("aiopool.events")


class Tracer(Protocol):
    """What looks at every attempt of a pool, with the job in hand: a tracer. It must be quick, and touch nothing."""

    def started(self, job: Job[Any], worker: int) -> None:
        """An attempt is about to begin; called inside of its context: what is set there, the job sees."""

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        """An attempt has ended, and there will be another in `delay` seconds."""

    def ended(self, job: Job[Any], worker: int | None, now: float) -> None:
        """A job is done. If `worker` is not None, an attempt has ended with it."""


class Seat(Protocol):
    """The part of a pool that asks whether anybody listens."""

    observers: Observers | None


@final
class Observers:
    """Who hears of one pool. The mutable state is: the meter, the recorders, the listeners and their teller."""

    __slots__ = ("__weakref__", "_emitter", "_hooks", "_rows", "_runtime", "_seat", "_tracers", "pool", "recorder")

    def __init__(self, pool: str, hooks: HookGuard) -> None:
        self.pool = pool
        self._hooks = hooks
        self.recorder: MetricsRecorder | None = None
        self._tracers: tuple[Tracer, ...] = ()
        self._rows: tuple[Listener, ...] = ()
        self._emitter: EventEmitter | None = None  # from the first listener on
        self._seat: Seat | None = None
        self._runtime: Runtime | None = None  # while the pool is open

    # -- who hears ---------------------------------------------------------------------------------------------------

    def listen(self, function: Callable[[Any], object], types: tuple[type[PoolEvent], ...]) -> Listener:
        """Add a listener for some classes of events and their subclasses; for all, if none are named."""
        listener = _emitter_class().listener(function, types, self._forget)
        self._rows += (listener,)
        self._changed()
        return listener

    def stream(self, types: tuple[type[PoolEvent], ...], buffer: int) -> EventStream:
        """Return a stream of events; the hub does not keep it alive."""
        stream, listener = _emitter_class().stream(self.pool, types, buffer, self._forget)
        self._rows += (listener,)
        self._changed()
        return stream

    def add_tracer(self, recorder: Tracer) -> None:
        """Add a recorder, once."""
        if recorder not in self._tracers:
            self._tracers += (recorder,)
            self._changed()

    def remove_tracer(self, recorder: Tracer) -> None:
        """Remove a recorder."""
        self._tracers = tuple(other for other in self._tracers if other is not recorder)
        self._changed()

    def _forget(self, listener: Listener) -> None:
        self._rows = tuple(row for row in self._rows if row is not listener)
        self._changed()

    def _changed(self) -> None:
        rows = (*self._rows, *_global_listeners)
        if self._emitter is None and rows:
            self._emitter = _emitter_class()(self.pool, self._hooks)
            self._emitter.attach(self._runtime)
        if self._emitter is not None:
            self._emitter.set_listeners(rows)
        if self._seat is not None:
            self._seat.observers = self if rows or self._tracers or self.recorder else None

    def measure(self, meter: MetricsRecorder) -> None:
        """Count and time jobs from now on."""
        self.recorder = meter
        self._changed()

    def attach(self, seat: Seat, runtime: Runtime) -> None:
        """Hear of a pool that opens."""
        self._seat, self._runtime = seat, runtime
        if self.recorder is not None:
            self.recorder.rows.clear()  # as the pool's own counters: they begin at its opening
        if self._emitter is not None:
            self._emitter.attach(runtime)
        _open_hubs.add(self)
        self._changed()

    def detach(self) -> None:
        """Hear no more of a pool that has closed."""
        if self._seat is not None:
            self._seat.observers = None
        _open_hubs.discard(self)
        self._seat = self._runtime = None
        if self._emitter is not None:
            self._emitter.attach(None)

    def _call_tracers(self, method: str, *args: Any) -> None:
        for recorder in self._tracers:
            try:
                getattr(recorder, method)(*args)
            except BaseException as error:
                self.remove_tracer(recorder)
                self._hooks.caught(error, logger, "%s of pool %.200r failed, and records no more", recorder, self.pool)

    # -- what happens to the pool and its workers --------------------------------------------------------------------

    def opened(self, size: int) -> None:
        """The pool takes jobs."""
        if self._emitter is not None:
            self._emitter.opened(size)

    def closing(self, timeout: float | None) -> None:
        """A shutdown has begun."""
        if self._emitter is not None:
            self._emitter.closing(timeout)

    def closed(self, leaked: int) -> None:
        """The pool is shut down."""
        if self._emitter is not None:
            self._emitter.closed(leaked)

    def slots_changed(self, before: tuple[int, bool], after: tuple[int, bool]) -> None:
        """The size was set, or a pause begun or ended."""
        if self._emitter is not None:
            self._emitter.slots_changed(before, after)

    def worker_started(self, worker: int) -> None:
        """A worker was started."""
        if self._emitter is not None:
            self._emitter.worker_started(worker)

    def worker_stopped(self, worker: int) -> None:
        """A worker ended, and was meant to."""
        if self._emitter is not None:
            self._emitter.worker_stopped(worker)

    def worker_crashed(self, worker: int, error: BaseException, delay: float | None) -> None:
        """A worker ended by a fault; it is replaced in `delay` seconds, or not at all."""
        if self._emitter is not None:
            self._emitter.worker_crashed(worker, error, delay)

    # -- what happens to jobs ----------------------------------------------------------------------------------------

    def submitted(self, job: Job[Any], *, inside: bool = False) -> None:
        """A job was taken in; `inside` of a step of the engine, or at its end."""
        if self._emitter is not None:
            self._emitter.submitted(job, inside=inside)

    def begin(self, job: Job[Any], worker: int, context: contextvars.Context | None, *, inside: bool = False) -> None:
        """An attempt begins, before its first line; `inside` of a step of the engine, or at its end."""
        if self.recorder is not None:
            self.recorder.started(job)
        if self._tracers:
            assert context is not None
            context.run(self._call_tracers, "started", job, worker)
        if self._emitter is not None:
            self._emitter.begin(job, worker, inside=inside)

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        """An attempt has ended, and there will be another."""
        if self.recorder is not None:
            self.recorder.retrying(job, now)
        if self._tracers:
            self._call_tracers("retrying", job, worker, error, delay, now)
        if self._emitter is not None:
            self._emitter.retrying(job, worker, error, delay, now)

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool = False) -> None:
        """A job is done; `worker` ran it at that moment, or nobody did."""
        if self.recorder is not None:
            self.recorder.ended(job, worker is not None, now)
        if self._tracers:
            self._call_tracers("ended", job, worker, now)
        if self._emitter is not None:
            self._emitter.ended(job, worker, now, awaited=awaited)

    def leaked(self, job: Job[Any], worker: int | None, stack: str, now: float) -> None:
        """The code of a job would not end."""
        if self._emitter is not None:
            self._emitter.leaked(job, worker, stack, now)


def _emitter_class() -> type[EventEmitter]:
    """Return the class of tellers: the one door behind which the classes of events are."""
    from aiopool._observe.emitter import EventEmitter

    return EventEmitter


# Who hears of every pool of the program, and the hubs of the pools that are open.
_global_listeners: tuple[Listener, ...] = ()
_open_hubs: weakref.WeakSet[Observers] = weakref.WeakSet()


def listen_to_all_pools(function: Callable[[Any], object], types: tuple[type[PoolEvent], ...]) -> Listener:
    """Add a listener that hears of every pool, of those that are open and of those to come."""
    listener = _emitter_class().listener(function, types, _forget_everywhere)
    _set_everywhere((*_global_listeners, listener))
    return listener


def _forget_everywhere(listener: Listener) -> None:
    _set_everywhere(tuple(row for row in _global_listeners if row is not listener))


def _set_everywhere(listeners: tuple[Listener, ...]) -> None:
    global _global_listeners
    _global_listeners = listeners
    for hub in list(_open_hubs):
        hub._changed()
