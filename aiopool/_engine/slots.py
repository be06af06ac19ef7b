"""`Slots`: counts how many jobs of a pool run, and says whether another may start.

A job starts only while `active < limit`. A worker acquires a slot, keeps it from job to job, and releases it when it
finds none. A job that waits for another job of its pool *lends* its slot (`lending.py`), and reclaims one before it
goes on: a free slot, or the next one that is released, before any queued job starts. A leaked job whose slot another
may have (`on_leak="replace"`) counts in `replaced`.

Invariant: `active` is the number of workers that hold a slot, less `lent` and `replaced`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import final

__all__ = ["Slots"]


@final
class Slots:
    """The slots of one open pool.

    Attributes:
        size: how many jobs may run at once.
        paused: no job starts.
        limit: with fewer slots taken than this a job may start: `size`, or 0 in a paused pool.
        active: how many slots are taken.
        lent: how many jobs have lent their slot.
        replaced: how many leaked jobs have no slot any more.
        held: no job starts until a chore of the engine is done.
        uncontended: a worker that ends a job may take the next one of the queue: nothing else has to be asked.
        reclaims: the futures of the jobs that want a slot back, in the order in which they asked.
        fit_waiters: futures that are set when no more slots are taken than the size allows.
    """

    __slots__ = (
        "_wake_workers",
        "active",
        "fit_waiters",
        "held",
        "lent",
        "limit",
        "paused",
        "reclaims",
        "replaced",
        "size",
        "uncontended",
    )

    def __init__(self, size: int, wake_workers: Callable[[], object]) -> None:
        """`wake_workers` is called when a slot becomes free in another way than by `release`."""
        self._wake_workers = wake_workers
        self.size = self.limit = size
        self.paused = self.held = False
        self.active = self.lent = self.replaced = 0
        self.uncontended = True
        self.reclaims: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self.fit_waiters: dict[asyncio.Future[None], None] = {}

    def set_size(self, size: int, *, paused: bool) -> None:
        """Change how many jobs may run; those that run go on."""
        self.size, self.paused = size, paused
        self.limit = 0 if paused else size
        self._update()

    def hold(self, held: bool) -> None:
        """Let no job start while the engine has a chore to do, or let them start again."""
        self.held = held
        self._update()

    def _update(self) -> None:
        self.uncontended = self.active <= self.limit and not self.reclaims and not self.held
        if self.fit_waiters and self.active <= self.size:
            for future in self.fit_waiters:
                if not future.done():
                    future.set_result(None)
            self.fit_waiters.clear()

    # -- a worker's slot -------------------------------------------------------------------------------------------

    def acquire(self) -> None:
        """Take a slot for a worker; the caller knows that one is free."""
        self.active += 1

    def release(self) -> None:
        """Give a worker's slot back."""
        self.active -= 1
        if not self.uncontended:
            self._update()

    def replace(self, change: int) -> None:
        """Let another job have the slot of a leaked job (1), or not any more: its code has ended (-1)."""
        self.replaced += change
        self.active -= change  # at the end of the leaked job its worker releases a slot
        self._update()
        self._wake_workers()

    # -- a job's slot, lent while it waits ---------------------------------------------------------------------------

    def lend(self) -> None:
        """Free the slot of a job that waits."""
        self.lent += 1
        self.active -= 1
        self._update()
        self._wake_workers()

    def end_loan(self, *, granted: bool = False) -> None:
        """Count the slot of a job that waits no longer; `granted`: it is counted already."""
        self.lent -= 1
        if not granted:
            self.active += 1
            self._update()

    def reclaim(self, future: asyncio.Future[bool]) -> bool:
        """Set `future` to True with a slot, now or before the next queued job starts; whether that was now."""
        if self.active < self.size and not self.reclaims:
            self.active += 1
            future.set_result(True)
            return True
        self.reclaims[future] = None
        self._update()
        return False

    def withdraw(self, future: asyncio.Future[bool]) -> bool:
        """Forget a job that wanted a slot back; whether it was still waiting for one."""
        if future not in self.reclaims:
            return False
        del self.reclaims[future]
        self._update()
        return True

    def grant_next(self) -> bool:
        """Give a slot to the first job that wants its own back; whether there was one."""
        while self.reclaims:
            future, _ = self.reclaims.popitem(last=False)
            if not future.done():
                self.active += 1
                future.set_result(True)
                self._update()
                return True
        self._update()
        return False

    def return_grant(self) -> None:
        """Free a slot that was granted to a job which has no use for it any more."""
        self.active -= 1
        self._update()
        self._wake_workers()
