"""`Durability`: what a pool asks of whoever keeps its jobs in a store. This is the one seam.

The pool knows a store as an argument, and hands every submission to the other side, which stands above it
(`_durable/`): that side takes jobs out of the store, and has the engine run them, one attempt each (`_jobs/lease.py`).
Imports point down, so the face tells us once who makes one.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from aiopool._jobs.job import Job
from aiopool._jobs.spec import JobSpec
from aiopool._pool.cancel_report import CancelReport

if TYPE_CHECKING:  # few pools have a store
    from aiopool._observe.store_numbers import StoreNumbers
    from aiopool._pool.fleet import Fleet

__all__ = ["Durability", "Role", "StoreCall", "make_durability", "provide"]

Role = Literal["both", "producer", "worker"]
"""What a pool with a store does: run jobs, submit them, or both."""


class StoreCall(NamedTuple):
    """A submission to a store.

    Attributes:
        spec: the options of the job, complete.
        delay: seconds, or a moment of the clock on the wall.
        unique, within: the options of this name.
        block: the group block that it belongs to.
        tick: (schedule, moment): it is one of the jobs of a schedule.
    """

    spec: JobSpec
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    id: int | str | None = None
    delay: float | datetime.datetime = 0.0
    unique: str | None = None
    within: object | None = None
    block: Any = None  # a `JobBlock`, which stands above
    tick: tuple[str, float] | None = None


class Durability(Protocol):
    """The jobs of one pool in its store."""

    @property
    def fleet(self) -> Fleet:
        """What is asked of all pools that share the store."""
        ...

    async def open(self) -> None:
        """Open the store, and begin to claim jobs if the pool runs any. The pool is open already."""
        ...

    def numbers(self) -> StoreNumbers:
        """Return what the pool has to do with its store, in numbers."""
        ...

    def stop_claiming(self) -> None:
        """Take no more jobs; the pool is closing."""
        ...

    async def close(self) -> None:
        """Write what is left to write, give back what is held, and close the store; within some seconds."""
        ...

    async def submit(self, call: StoreCall) -> Job[Any]:
        """Hand in a job, and return it when it is committed."""
        ...

    def hand_in(self, call: StoreCall) -> Job[Any]:
        """Hand in a job, and return it at once: if it is not taken, it ends with that error."""
        ...

    def submit_tick(self, periodic: Any, call: StoreCall, about: str, due: float, *, skips: bool) -> Job[Any]:
        """Hand in the job of a moment of a schedule, for the first process that does; `about` is the schedule.

        `periodic.passed_over()` is called if it was not this one, or with `skips` the job before has not ended.
        """
        ...

    def expect(self, job: Job[Any]) -> bool:
        """Somebody is about to wait for a job; whether it is one of the store."""
        ...

    async def cancel(self, id: str, reason: str | None) -> CancelReport:
        """See `Pool.cancel`."""
        ...

    async def join(self) -> None:
        """Wait until no job of the fleet is left; see `Pool.join`."""
        ...


_make: Callable[..., Durability] | None = None


def provide(make: Callable[..., Durability]) -> None:
    """Say who makes a `Durability`: the face does."""
    global _make
    _make = make


def make_durability(state: Any, store: object, handlers: object, role: Role) -> Durability:
    """Make what keeps the jobs of a pool in a store."""
    assert _make is not None  # the face has been imported: it is the package
    return _make(state, store, handlers, role)
