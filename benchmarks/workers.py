"""What it adds to a job that its worker holds a resource, is counted, renewed or watched, in nanoseconds of CPU.

As in `watching`, whose machine this is: the ways take turns, each beside the bare pool of its turn. A client that all
jobs share is a way of its own: the difference to it is what a client for each worker costs.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from aiopool import current_worker
from benchmarks.watching import Way


class Client:
    """Something that jobs use."""

    def use(self, index: int) -> int:
        """Return what was given."""
        return index


SHARED = Client()


@contextlib.asynccontextmanager
async def open_client() -> AsyncIterator[Client]:
    """Open the client of one worker."""
    yield Client()


async def use_shared(index: int) -> int:
    """Use the client of all."""
    return SHARED.use(index)


async def use_own(index: int) -> int:
    """Use the client of the worker."""
    return current_worker(Client).resource.use(index)


def ways_to_work() -> list[Way]:
    """Return the ways."""
    resource = ("worker_context", open_client)
    return [
        Way("another bare pool", options=()),
        Way("a shared client", options=(), function=use_shared),
        Way("a client of the worker's own", options=(resource,), function=use_own),
        Way("one that is open, and not used", options=(resource,)),
        Way("counted by worker", options=(("count_by_worker", True),)),
        Way("recycled after 1,000 jobs", options=(resource, ("recycle_after", 1_000))),
        Way("a watchdog of 0.5 s", options=(("watchdog", 0.5),)),
    ]
