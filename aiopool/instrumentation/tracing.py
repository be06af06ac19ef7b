"""For tracers of your own: an object that is called at the start and at the end of every attempt, with the job itself.

`add_tracer` adds one to a pool. `aiopool.instrumentation.opentelemetry` is made of it. For all else there are events.
"""

import weakref

from aiopool import Pool
from aiopool._observe.observers import Tracer
from aiopool._runtime.public import publish
from aiopool._runtime.registration import Registration

__all__ = ["Tracer", "add_tracer"]


def add_tracer(pool: Pool, tracer: Tracer) -> Registration:
    """Have a tracer called at every attempt of a pool; from any thread, before or after the pool opens.

    It is called before the first line of an attempt, inside of the job's context, and at its end. It must be quick, and
    change nothing. One that raises is logged once, and removed.

    Args:
        pool: the pool.
        tracer: an object with the methods of `Tracer`. The pool keeps it alive.

    Returns:
        A handle: its `remove()` ends it. It does not keep the pool alive.

    Example:
        handle = add_tracer(pool, MyTracer())
    """
    observers = pool._state.observers
    observers.add_tracer(tracer)
    there = weakref.ref(observers)  # the handle does not keep the pool alive

    def remove() -> None:
        if (observers := there()) is not None:
            observers.remove_tracer(tracer)

    return Registration(remove)


publish(globals())
