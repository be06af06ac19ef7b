"""Services that are objects with `stop`, and mostly with `start`: somebody's queue system, consumer, watcher.

Their methods may be plain or async, may or may not take a timeout, and may or may not tell whether they run.
What they start in processes of their own is ours to clear away if they do not.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, final

from aiopool._runtime.daemon_thread import run_in_daemon_thread
from aiopool.services._calls import call_at, running_loop
from aiopool.services._kind import Ended, accepted, shown
from aiopool.services._process import ProcessId, identify

__all__ = ["ObjectAdapter"]

_log = logging.getLogger("aiopool.services")

_LOOK_AGAIN = 0.02
# What a crashed object may take to be stopped before it is started again, in seconds.
_TIDY = 5.0
# The questions by which objects in the wild say whether they run; methods or plain attributes.
_LIVENESS = ("is_running", "is_alive", "running", "alive")


@final
class ObjectAdapter:
    """An object with `stop`, and mostly with `start`, plain or async."""

    restartable = True
    own_session = False
    mark: str | None = None
    asks = True

    def __init__(self, target: Any, pids: Callable[[], Iterable[int]] | None = None) -> None:
        self._target = target
        self._pids = pids
        self._begun = self.alive() is True
        # Any loop will do for queue systems that keep nothing of the one on which they were started.
        self._anywhere = _is_queue_system(target) or not _is_async(target, "stop")
        self._loop = None if self._anywhere else running_loop()
        self.restartable = callable(getattr(target, "start", None))

    def own_loop(self) -> asyncio.AbstractEventLoop | None:
        if self._loop is not None and self._loop.is_closed():
            return None  # a new loop may do, or its stop() says why not
        return self._loop

    async def start(self, wake: Callable[[], None]) -> None:
        start = getattr(self._target, "start", None)
        if start is None:
            raise RuntimeError(
                f"{shown(self._target)} has no start(). If it runs already, write "
                "registry.add(type, target, started=True)"
            )
        if self._begun:
            await self._tidy()
        if not self._anywhere:
            self._loop = asyncio.get_running_loop()
        self._begun = True
        # A plain start() on the loop's own thread: most of them only create tasks, threads or processes.
        result = start()
        if inspect.isawaitable(result):
            await result

    def alive(self) -> bool | None:
        for name in _LIVENESS:
            answer = getattr(self._target, name, None)
            if callable(answer) and not inspect.iscoroutinefunction(answer):
                answer = answer()
            if isinstance(answer, bool):
                return answer
        return None

    def roots(self) -> list[ProcessId]:
        pids = self._pids() if self._pids is not None else _queue_system_pids(self._target)
        return [process for pid in pids if pid and (process := identify(pid)) is not None]

    async def _tidy(self) -> None:
        """Before a start after a crash: many objects refuse to start again before they were stopped."""
        try:
            await self._ask(time.monotonic() + _TIDY)
        except Exception as error:
            _log.warning(
                "%s could not be stopped after its crash, and is started all the same: %s", shown(self._target), error
            )

    async def stop(self, force_at: float, deadline: float) -> None:
        if not self._begun and self.alive() is False:
            return  # it never ran: many objects take it amiss to be stopped then
        await self._ask(force_at)
        # Some only set a flag and return. It is over when it says so.
        while self.alive() is True:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{type(self._target).__name__}.stop() returned, but it says that it still runs")
            await asyncio.sleep(_LOOK_AGAIN)
        self._begun = False

    async def _ask(self, until: float) -> None:
        stop = self._target.stop
        limits = accepted(stop, {"timeout": max(0.0, until - time.monotonic())})
        name = f"{type(self._target).__name__}.stop()"

        async def ask() -> None:
            # A plain stop() may block, so it gets a thread: the deadline holds, and the loop goes on.
            asynchronous = inspect.iscoroutinefunction(stop)
            result = stop(**limits) if asynchronous else await run_in_daemon_thread(lambda: stop(**limits), name=name)
            if inspect.isawaitable(result):
                await result

        await call_at(None, ask, until=until, name=name)

    async def outcome(self) -> Ended:
        return Ended(False, "says that it does not run any more")


def _is_async(target: Any, name: str) -> bool:
    return inspect.iscoroutinefunction(getattr(target, name, None))


def _is_queue_system(target: Any) -> bool:
    return type(target).__module__.partition(".")[0] == "queuemgr"


def _queue_system_pids(target: Any) -> list[int]:
    """The manager process of a `queuemgr` queue system.

    Until queuemgr (1.0.25) ends its own job processes: when a job ignores its stop flag, `stop()` leaves the
    job, a helper of the manager and a forkserver alive. They all descend from this process.
    """
    if not _is_queue_system(target):
        return []
    holder = getattr(target, "_manager", target)
    process = getattr(holder, "_process", None)
    pid = getattr(process, "pid", None)
    return [pid] if isinstance(pid, int) else []
