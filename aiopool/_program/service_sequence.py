"""`ServiceSequence`: the services of one `run()`, there before `main` and gone after it.

    start    in the order in which they were added, each ready before the next
    stop     in reverse: each is asked when those that were added after it are over, or its turn has come anyway
    kill     at once, from a thread, when the process is about to leave without waiting for anybody

What starts, watches and ends them is the registry's own affair. Here is only the order, and the one deadline.

Invariant: `stop` returns by its deadline, however many services ignore it: each waits for those before it no longer
than an even part of the time that is left, and whoever is still there near the end is killed with all the others.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:  # the registry is imported by whoever makes one, not by `import aiopool`
    from aiopool.services import ServiceRegistry, StopReport

__all__ = ["ServiceSequence"]

logger = logging.getLogger("aiopool.run")

# Killing takes the registry half a second at most, and a look at all processes before.
_KILLED_WITHIN = 3.0


@final
class ServiceSequence:
    """The services of one run; of none, if there is no registry."""

    # The mutable state is whether there is anything to stop, a call to hurry while that is under way, and the thread
    # that kills.
    __slots__ = ("_hurry", "_killer", "_registry", "_running", "_within")

    def __init__(self, registry: ServiceRegistry | None) -> None:
        self._registry = registry
        self._running = False
        self._hurry: asyncio.Event | None = None
        self._within = 0.0
        self._killer: threading.Thread | None = None

    def __bool__(self) -> bool:
        """Whether there is a registry at all."""
        return self._registry is not None

    def __len__(self) -> int:
        return 0 if self._registry is None else len(self._registry)

    @property
    def running(self) -> bool:
        """Whether any may run: they were started, and not stopped since."""
        return self._running

    async def start(self) -> None:
        """Start them. If one fails to start, those before it run on: `stop` is for the caller to call."""
        if self._registry is not None:
            self._running = True
            await self._registry.start()

    async def stop(self, timeout: float | None) -> bool:
        """Stop them in reverse.

        Args:
            timeout: for all together, in seconds; None: what the registry says (`stop_timeout`).

        Returns:
            Whether all have ended without force.
        """
        registry = self._registry
        if registry is None or not self._running:
            return True
        self._hurry = hurry = asyncio.Event()
        deadline = time.monotonic() + (registry._stop_timeout if timeout is None else timeout)
        hurried = asyncio.ensure_future(hurry.wait())
        stops: list[asyncio.Task[StopReport]] = []
        names = [service.name for service in registry.status().services]
        try:
            while names and not hurried.done():
                left = max(0.0, deadline - time.monotonic())
                stop = asyncio.ensure_future(registry.stop(names[-1], timeout=left))
                stops.append(stop)
                turn: list[asyncio.Future[Any]] = [stop, hurried]
                await asyncio.wait(turn, timeout=left / len(names), return_when=asyncio.FIRST_COMPLETED)
                names.pop()
            if stops:
                turn = [asyncio.gather(*stops, return_exceptions=True), hurried]
                await asyncio.wait(turn, return_when=asyncio.FIRST_COMPLETED)
            if hurry.is_set():
                deadline = min(deadline, time.monotonic() + self._within)
            # All that is left, together; and nothing is watched any longer.
            left = max(0.0, deadline - time.monotonic())
            reports = [await registry.stop_all(timeout=left)]
            if not reports[0].success:
                registry._kill_known()  # nobody comes after us
        finally:
            hurried.cancel()
            for stop in stops:
                stop.cancel()  # only the waiting: a stop goes on to its deadline
        self._running = False
        reports += [stop.result() for stop in stops if stop.done() and not stop.cancelled()]
        return self._judge(reports, hurried=hurry.is_set())

    def _judge(self, reports: list[StopReport], *, hurried: bool) -> bool:
        for report in reports:
            if report.killed or not report.success:
                logger.error("stopping the services: %s", report.message)
        return not hurried and all(report.success and not report.killed for report in reports)

    def hurry(self, within: float) -> None:
        """Ask all of them now, and kill what is there after so many seconds; in the event loop.

        Without effect, unless `stop` is under way.
        """
        self._within = within
        if self._hurry is not None:
            self._hurry.set()

    def kill(self) -> None:
        """Kill what still runs, without the event loop; from any thread, in some three seconds at most.

        A stop that is under way goes on beside it, and who comes second waits for the same end.
        """
        registry = self._registry
        if registry is None or not self._running:
            return
        if self._killer is None:
            self._killer = threading.Thread(
                target=registry.stop_all_sync, kwargs={"timeout": 0}, name="aiopool-run-kill", daemon=True
            )
            self._killer.start()
        self._killer.join(_KILLED_WITHIN)
        if self._killer.is_alive():
            # Too slow, on a machine that has no time: it may have stopped them (SIGSTOP) to kill them all together.
            registry._kill_known()
