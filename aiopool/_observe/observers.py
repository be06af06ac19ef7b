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
    from aiopool._observe.emitter import Teller
    from aiopool._observe.metrics import Meter
    from aiopool.events import EventStream, Listener, PoolEvent

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
    """Who hears of one pool. The mutable state is: the meter, the recorders, the listeners and their teller."""

    __slots__ = ("__weakref__", "_hooks", "_recorders", "_rows", "_runtime", "_seat", "_teller", "meter", "pool")

    def __init__(self, pool: str, hooks: HookGuard) -> None:
        self.pool = pool
        self._hooks = hooks
        self.meter: Meter | None = None
        self._recorders: tuple[Recorder, ...] = ()
        self._rows: tuple[Listener, ...] = ()
        self._teller: Teller | None = None  # from the first listener on
        self._seat: Seat | None = None
        self._runtime: Runtime | None = None  # while the pool is open

    # -- who hears ---------------------------------------------------------------------------------------------------

    def listen(self, function: Callable[[Any], object], types: tuple[type[PoolEvent], ...]) -> Listener:
        """Add a listener for some classes of events and their subclasses; for all, if none are named."""
        listener = _tellers().listener(function, types, self._forget)
        self._rows += (listener,)
        self._changed()
        return listener

    def stream(self, types: tuple[type[PoolEvent], ...], buffer: int) -> EventStream:
        """Return a stream of events; the hub does not keep it alive."""
        stream, listener = _tellers().stream(self.pool, types, buffer, self._forget)
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
        rows = (*self._rows, *_everywhere)
        if self._teller is None and rows:
            self._teller = _tellers()(self.pool, self._hooks)
            self._teller.attach(self._runtime)
        if self._teller is not None:
            self._teller.tell_to(rows)
        if self._seat is not None:
            self._seat.listeners = self if rows or self._recorders or self.meter else None

    def measure(self, meter: Meter) -> None:
        """Count and time jobs from now on."""
        self.meter = meter
        self._changed()

    def attach(self, seat: Seat, runtime: Runtime) -> None:
        """Hear of a pool that opens."""
        self._seat, self._runtime = seat, runtime
        if self.meter is not None:
            self.meter.rows.clear()  # as the pool's own counters: they begin at its opening
        if self._teller is not None:
            self._teller.attach(runtime)
        _open_hubs.add(self)
        self._changed()

    def detach(self) -> None:
        """Hear no more of a pool that has closed."""
        if self._seat is not None:
            self._seat.listeners = None
        _open_hubs.discard(self)
        self._seat = self._runtime = None
        if self._teller is not None:
            self._teller.attach(None)

    def _call_recorders(self, method: str, *args: Any) -> None:
        for recorder in self._recorders:
            try:
                getattr(recorder, method)(*args)
            except BaseException as error:
                self.unrecord(recorder)
                self._hooks.caught(error, logger, "%s of pool %.200r failed, and records no more", recorder, self.pool)

    # -- what happens to the pool and its workers --------------------------------------------------------------------

    def opened(self, size: int) -> None:
        """The pool takes jobs."""
        if self._teller is not None:
            self._teller.opened(size)

    def closing(self, timeout: float | None) -> None:
        """A shutdown has begun."""
        if self._teller is not None:
            self._teller.closing(timeout)

    def closed(self, leaked: int) -> None:
        """The pool is shut down."""
        if self._teller is not None:
            self._teller.closed(leaked)

    def slots_changed(self, before: tuple[int, bool], after: tuple[int, bool]) -> None:
        """The size was set, or a pause begun or ended."""
        if self._teller is not None:
            self._teller.slots_changed(before, after)

    def worker_started(self, worker: int) -> None:
        """A worker was started."""
        if self._teller is not None:
            self._teller.worker_started(worker)

    def worker_stopped(self, worker: int) -> None:
        """A worker ended, and was meant to."""
        if self._teller is not None:
            self._teller.worker_stopped(worker)

    def worker_crashed(self, worker: int, error: BaseException, delay: float | None) -> None:
        """A worker ended by a fault; it is replaced in `delay` seconds, or not at all."""
        if self._teller is not None:
            self._teller.worker_crashed(worker, error, delay)

    # -- what happens to jobs ----------------------------------------------------------------------------------------

    def submitted(self, job: Job[Any], *, inside: bool = False) -> None:
        """A job was taken in; `inside` of a step of the engine, or at its end."""
        if self._teller is not None:
            self._teller.submitted(job, inside=inside)

    def begin(self, job: Job[Any], worker: int, context: contextvars.Context | None, *, inside: bool = False) -> None:
        """An attempt begins, before its first line; `inside` of a step of the engine, or at its end."""
        if self.meter is not None:
            self.meter.started(job)
        if self._recorders:
            assert context is not None
            context.run(self._call_recorders, "started", job, worker)
        if self._teller is not None:
            self._teller.begin(job, worker, inside=inside)

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        """An attempt has ended, and there will be another."""
        if self.meter is not None:
            self.meter.retrying(job, now)
        if self._recorders:
            self._call_recorders("retrying", job, worker, error, delay, now)
        if self._teller is not None:
            self._teller.retrying(job, worker, error, delay, now)

    def ended(self, job: Job[Any], worker: int | None, now: float, *, awaited: bool = False) -> None:
        """A job is done; `worker` ran it at that moment, or nobody did."""
        if self.meter is not None:
            self.meter.ended(job, worker is not None, now)
        if self._recorders:
            self._call_recorders("ended", job, worker, now)
        if self._teller is not None:
            self._teller.ended(job, worker, now, awaited=awaited)

    def leaked(self, job: Job[Any], worker: int | None, stack: str, now: float) -> None:
        """The code of a job would not end."""
        if self._teller is not None:
            self._teller.leaked(job, worker, stack, now)


def _tellers() -> type[Teller]:
    """Return the class of tellers: the one door behind which the classes of events are."""
    from aiopool._observe.emitter import Teller

    return Teller


# Who hears of every pool of the program, and the hubs of the pools that are open.
_everywhere: tuple[Listener, ...] = ()
_open_hubs: weakref.WeakSet[Listeners] = weakref.WeakSet()


def listen_everywhere(function: Callable[[Any], object], types: tuple[type[PoolEvent], ...]) -> Listener:
    """Add a listener that hears of every pool, of those that are open and of those to come."""
    listener = _tellers().listener(function, types, _forget_everywhere)
    _set_everywhere((*_everywhere, listener))
    return listener


def _forget_everywhere(listener: Listener) -> None:
    _set_everywhere(tuple(row for row in _everywhere if row is not listener))


def _set_everywhere(listeners: tuple[Listener, ...]) -> None:
    global _everywhere
    _everywhere = listeners
    for hub in list(_open_hubs):
        hub._changed()
