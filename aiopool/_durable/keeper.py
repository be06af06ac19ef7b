"""`LeaseKeeper`: renews the lease of this process, in a thread of its own with an event loop of its own.

So a job that holds up the pool's event loop does not make the process look dead. The thread says in the log when that
loop does not answer: nothing is lost then, but nothing is claimed either.

A process whose lease was lost (frozen, or cut off for longer than it) must not go on as if nothing had happened: the
jobs that it runs are somebody else's. It is told once, and begins anew.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import final

from aiopool._runtime import failpoints
from aiopool._runtime.faults import log_fault
from aiopool._runtime.runtime import Runtime
from aiopool._runtime.stop_signal import StopSignal
from aiopool.stores._protocol import Keeper

__all__ = ["LeaseKeeper"]

logger = logging.getLogger("aiopool.store")

# A lease is renewed so often while it lasts.
BEATS = 3


@final
class LeaseKeeper:
    """Keeps one lease until it is stopped."""

    def __init__(self, keeper: Keeper, lease: float, runtime: Runtime, lost: Callable[[], object]) -> None:
        """`lost()` is called once, in the pool's loop, when the lease is over."""
        self._keeper = keeper
        self._lease = lease
        self._runtime = runtime
        self._lost = lost
        self._stop = StopSignal()
        self._thread = threading.Thread(target=self._main, name="aiopool-lease-keeper", daemon=True)
        self._begun = threading.Event()
        self._ended: asyncio.Future[None] = runtime.loop.create_future()
        self._answered = 0.0
        self._asked = False

    async def begin(self) -> None:
        """Start the thread, and return when the lease is held.

        Raises:
            Exception: it cannot be had.
        """
        opened: asyncio.Future[None] = self._runtime.loop.create_future()
        self._opened = opened
        self._thread.start()
        await opened

    async def stop(self) -> None:
        """End the thread; the lease ends by itself, or with the store."""
        self._stop.set()
        if self._thread.ident is not None:  # it was started
            await self._ended

    def _main(self) -> None:
        try:
            asyncio.run(self._keep())
        except BaseException as error:
            self._tell(self._failed, error)
        finally:
            self._tell(self._over)

    def _over(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _is_held(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    def _failed(self, error: BaseException) -> None:
        if not self._opened.done():
            self._opened.set_exception(error)
        else:
            log_fault(logger, "the lease keeper has failed", error=error, fields={})
            self._lost()

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._runtime.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return  # the pool's loop is closed: nobody is there

    async def _keep(self) -> None:
        now = asyncio.get_running_loop().time
        if self._stop.is_set:
            return
        await self._keeper.open()
        try:
            alive = (await self._keeper.beat()).alive
            held_until = now() + self._lease
            self._tell(self._is_held)
            interval = self._lease / BEATS
            while alive:
                self._watch(now(), interval)
                try:
                    async with asyncio.timeout(interval):
                        await self._stop.wait()
                    return
                except TimeoutError:
                    pass
                if failpoints.ACTIVE:
                    failpoints.reach("beat.before")
                began = now()
                try:
                    async with asyncio.timeout(self._lease):
                        alive = (await self._keeper.beat()).alive
                except Exception as error:
                    # Short of the end of the lease nobody has taken anything from us.
                    log_fault(logger, "a lease could not be renewed: %s", error, fields={}, level=logging.WARNING)
                    interval = min(1.0, self._lease / 10)
                    alive = now() < held_until
                else:
                    held_until, interval = began + self._lease, self._lease / BEATS
                    if (took := now() - began) > interval:
                        text = "a lease of %.3g s took %.3g s to renew: make it longer"
                        log_fault(logger, text, self._lease, took, fields={}, level=logging.WARNING)
            self._tell(self._lost)
        finally:
            await self._keeper.close()

    def _watch(self, now: float, interval: float) -> None:
        """Ask the pool's loop for a sign of life, and say so if the last one has not come."""
        if self._asked and now - self._answered > max(interval, 1.0):
            text = "the event loop of the pool has been blocked for %.3g s: its jobs are kept, and no others claimed"
            log_fault(logger, text, now - self._answered, fields={}, level=logging.WARNING)
            return
        if not self._asked:
            self._asked, self._answered = True, now
            self._tell(self._answer)

    def _answer(self) -> None:
        self._asked = False
