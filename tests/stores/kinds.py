"""The kinds of stores that the conformance tests run on: one entry each.

To add one, write an async context manager that gives a `Maker`, and enter it in `KINDS`. All stores that one maker
makes are on the same data, as those of several processes are; the data of two makers have nothing in common.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from aiopool.stores._memory import Memory
from aiopool.stores._protocol import Store

__all__ = ["KINDS", "Kind", "Maker"]


class Maker(Protocol):
    """Makes stores on one data."""

    def __call__(self, **options: Any) -> Store:
        """Return a new store, not yet open: one incarnation. Options are those of the constructor, as `keep`."""

    async def kill(self, store: Store) -> None:
        """Let an open store die as SIGKILL would, at once: it says no word any more, and when this returns the next
        sweep of another one finds it dead (of a store with leases: its lease is over)."""

    async def shift_clock(self, seconds: float) -> None:
        """Set the clock of all of these stores, open and to come, ahead, or back. Leases of the living go along.

        Only called if the kind says that it `shifts`.
        """


class Kind(NamedTuple):
    """How to get at a store.

    Attributes:
        data: opens new data, and gives the maker of stores on it; gets an empty directory.
        shifts: the clock can be set. Without that, tests that ask for `shift_clock` are skipped.
        skip: why it cannot run here: a server, a library that is not there. None: it can.
        kills: `kill` works.
    """

    data: Callable[[Path], AbstractAsyncContextManager[Maker]]
    shifts: bool = True
    skip: Callable[[], str | None] = lambda: None
    kills: bool = True


# -- memory ------------------------------------------------------------------------------------------------------------

_names = itertools.count()


class _MemoryMaker:
    def __init__(self) -> None:
        self._name = f"test-{next(_names)}"
        self._now = time.time()  # stands still: a test lets it go on
        self._first = Memory(self._name)  # holds the data between two openings

    def __call__(self, **options: Any) -> Store:
        return Memory(self._name, clock=lambda: self._now, **options)

    async def kill(self, store: Store) -> None:
        assert isinstance(store, Memory)
        store.kill()

    async def shift_clock(self, seconds: float) -> None:
        self._now += seconds


@asynccontextmanager
async def _memory(folder: Path) -> AsyncIterator[Maker]:
    yield _MemoryMaker()


# -- the others --------------------------------------------------------------------------------------------------------

KINDS: dict[str, Kind] = {
    "memory": Kind(_memory),
    # "sqlite": Kind(_sqlite), …: an entry here, its maker above
}
