"""`Observers`: the hub between a pool and those that observe it.

The core asks one question before anything is built: `if self.observers:`, which is None while there is no observer.

An `Observer` is one of four, called in this order: the rows of *finished jobs* (`finished_jobs.py`); the *recorder* of
metrics (`metrics.py`); the *tracers*, which get the live job, at the start of an attempt inside the job's context; and
the *emitter* (`emitter.py`), which gives frozen events (`events.py`) to listeners, the functions of users.

What is seldom there is loaded when it comes: the emitter and the module of events with the first listener, the recorder
with the first call for metrics. The hub itself is small, and every pool has one.

Faults end here: a tracer that raises is logged once and removed; the emitter does the same with listeners.
"""

from __future__ import annotations

import contextvars
import logging
import weakref
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Any, Protocol, final

from aiopool._jobs.job import Job
from aiopool._observe.observer import EventName, Observer
from aiopool._runtime.hooks import HookGuard
from aiopool._runtime.runtime import Runtime

if TYPE_CHECKING:  # they come with the first listener, or the first call for metrics
    from aiopool._observe.emitter import EventEmitter
    from aiopool._observe.finished_jobs import FinishedJobs
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


@final
class _Tracing(Observer):
    """Calls the tracers of a pool, and removes those that raise."""

    __slots__ = ("_failed", "_tracers")

    def __init__(self, tracers: tuple[Tracer, ...], failed: Callable[[Tracer, BaseException], object]) -> None:
        self._tracers = tracers
        self._failed = failed

    def started(self, job: Job[Any], worker: int, context: contextvars.Context | None, *, inside: bool) -> None:
        assert context is not None
        context.run(self._call, "started", job, worker)

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        self._call("retrying", job, worker, error, delay, now)

    def given_back(self, job: Job[Any], worker: int | None, now: float) -> None:
        self._call("ended", job, worker, now)  # here it has ended as cancelled

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool) -> None:
        self._call("ended", job, worker, now)

    def _call(self, method: str, *args: Any) -> None:
        for tracer in self._tracers:
            try:
                getattr(tracer, method)(*args)
            except BaseException as error:
                self._failed(tracer, error)


@final
class Observers:
    """The observers of one pool. The mutable state is: the recorder, the tracers, the listeners and their emitter."""

    __slots__ = (
        "__weakref__",
        "_counts",
        "_emitter",
        "_listeners",
        "_observers",
        "_queue",
        "_runtime",
        "_set_observers",
        "_steerer",
        "_tracers",
        "finished",
        "hooks",
        "pool",
        "recorder",
    )

    def __init__(self, pool: str, hooks: HookGuard) -> None:
        self.pool = pool
        self.hooks = hooks
        self._counts: Observer | None = None
        self.recorder: MetricsRecorder | None = None
        self.finished: FinishedJobs | None = None
        self._steerer: Observer | None = None
        self._tracers: tuple[Tracer, ...] = ()
        self._listeners: tuple[Listener, ...] = ()
        self._emitter: EventEmitter | None = None  # from the first listener on
        self._observers: tuple[Observer, ...] = ()
        # While the pool is open: how it learns whether it is observed.
        self._set_observers: Callable[[Observers | None], object] | None = None
        self._runtime: Runtime | None = None
        self._queue: tuple[Sized, Callable[[], int]] | None = None  # all live jobs, and a count of those that wait

    # -- who observes ------------------------------------------------------------------------------------------------

    def listen(self, function: Callable[[Any], object], types: tuple[type[PoolEvent], ...]) -> Listener:
        """Add a listener for some classes of events and their subclasses; for all, if none are named."""
        listener = _emitter_class().listener(function, types, self._forget)
        self._listeners += (listener,)
        self._changed()
        return listener

    def stream(self, types: tuple[type[PoolEvent], ...], buffer: int) -> EventStream:
        """Return a stream of events; the hub does not keep it alive."""
        stream, listener = _emitter_class().stream(self.pool, types, buffer, self._forget)
        self._listeners += (listener,)
        self._changed()
        return stream

    def add_tracer(self, tracer: Tracer) -> None:
        """Add a tracer, once."""
        if tracer not in self._tracers:
            self._tracers += (tracer,)
            self._changed()

    def remove_tracer(self, tracer: Tracer) -> None:
        """Remove a tracer."""
        self._tracers = tuple(other for other in self._tracers if other is not tracer)
        self._changed()

    def _forget(self, listener: Listener) -> None:
        self._listeners = tuple(row for row in self._listeners if row is not listener)
        self._changed()

    def _changed(self) -> None:
        listeners = (*self._listeners, *_global_listeners)
        if self._emitter is None and listeners:
            self._emitter = _emitter_class()(self.pool, self.hooks)
            self._emitter.attach(self._runtime)
        first = (self._steerer, self._counts, self.finished, self.recorder)
        observers: list[Observer] = [one for one in first if one is not None]
        if self._tracers:
            observers.append(_Tracing(self._tracers, self._tracer_failed))
        if self._emitter is not None:
            self._emitter.set_listeners(listeners)
            if listeners:
                observers.append(self._emitter)
        self._observers = tuple(observers)
        if self._set_observers is not None:
            self._set_observers(self if observers else None)

    def count(self, counts: Observer | None) -> None:
        """Have the attempts of each worker counted, from the next opening on; None: they are not."""
        self._counts = counts

    def keep(self, finished: FinishedJobs) -> None:
        """Remember the jobs that end from now on."""
        self.finished = finished
        self._changed()

    def measure(self, recorder: MetricsRecorder) -> None:
        """Count and time jobs from now on."""
        self.recorder = recorder
        recorder.queue = self._queue
        self._changed()

    def steer(self, steerer: Observer | None) -> None:
        """Have what sets the size of an open pool observe it, before all others; None: nothing does."""
        self._steerer = steerer
        self._changed()

    def attach(
        self,
        runtime: Runtime,
        set_observers: Callable[[Observers | None], object],
        live: Sized,
        queued: Callable[[], int],
    ) -> None:
        """Observe a pool that opens, with its live jobs and a count of those that wait for a worker.

        `set_observers` gets the hub, or None while there is no observer.
        """
        self._runtime, self._set_observers, self._queue = runtime, set_observers, (live, queued)
        if self.recorder is not None:
            self.recorder.begin(self._queue)  # as the pool's own counters: they begin at its opening
        if self.finished is not None:
            self.finished.begin(runtime)
        if self._emitter is not None:
            self._emitter.attach(runtime)
        _open_hubs.add(self)
        self._changed()

    def detach(self) -> None:
        """Observe a pool no more that has closed."""
        if self._set_observers is not None:
            self._set_observers(None)
        _open_hubs.discard(self)
        self._steerer = None
        self._runtime = self._set_observers = None
        if self._emitter is not None:
            self._emitter.attach(None)

    def _tracer_failed(self, tracer: Tracer, error: BaseException) -> None:
        self.remove_tracer(tracer)
        self.hooks.caught(error, logger, "%s of pool %.200r failed, and records no more", tracer, self.pool)

    # -- what happens --------------------------------------------------------------------------------------------------

    def submitted(self, job: Job[Any], *, inside: bool = False) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.submitted(job, inside=inside)

    def waits(self) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.waits()

    def started(self, job: Job[Any], worker: int, context: contextvars.Context | None, *, inside: bool = False) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.started(job, worker, context, inside=inside)

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.retrying(job, worker, error, delay, now)

    def given_back(self, job: Job[Any], worker: int | None, now: float) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.given_back(job, worker, now)

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool = False) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.ended(job, worker, now, awaited=awaited)

    def leaked(self, job: Job[Any], worker: int | None, stack: str, now: float) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.leaked(job, worker, stack, now)

    def event(self, name: EventName, **values: Any) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.event(name, **values)


def _emitter_class() -> type[EventEmitter]:
    """Return `EventEmitter`: this is the one place that loads the classes of events."""
    from aiopool._observe.emitter import EventEmitter

    return EventEmitter


# The listeners of all pools of the program, and the hubs of the pools that are open.
_global_listeners: tuple[Listener, ...] = ()
_open_hubs: weakref.WeakSet[Observers] = weakref.WeakSet()


def listen_to_all_pools(function: Callable[[Any], object], types: tuple[type[PoolEvent], ...]) -> Listener:
    """Add a listener of all pools: of those that are open and of those to come."""
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
