"""Watch the services of a registry, and start again what shall not be down.

The end of a task or of a process is an event; nothing is polled for these. What can only be asked (somebody's
`is_running()`) is asked at a slow beat, and at the same beat the descendants of all processes are looked up,
because they cannot be found any more once their parent has died.

Whether to start again is decided by `decide`, a pure function: the policy of the service, how it ended, and
how often it has ended of late. What a crashed service leaves behind is ended before it is started again.

Invariant: a stop wins. Between any two waits the monitor asks whether the service is still its to start.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import final

from aiopool._jobs.restart import RestartHistory
from aiopool._runtime.daemon_thread import run_in_daemon_thread
from aiopool._runtime.hooks import HookGuard
from aiopool.errors import RestartLimitError
from aiopool.services._calls import call_at, running_loop
from aiopool.services._families import refresh_trees
from aiopool.services._kind import Ended
from aiopool.services._process import ProcessId, alive
from aiopool.services._service import RestartPolicy, Service
from aiopool.services._stop import end_in_thread
from aiopool.services._table import ServiceTable

__all__ = ["Monitor", "Watch", "decide"]

_log = logging.getLogger("aiopool.services")

# What a crashed service leaves behind is asked to end for this long, and killed after that, in seconds.
_LEFT_GRACE = 1.0


def decide(policy: RestartPolicy, ended: Ended, history: RestartHistory, *, now: float) -> float | str:
    """Decide what follows when a service has ended by itself.

    Args:
        policy: when it is to be started again.
        ended: how it ended.
        history: how often it has ended of late; this end is added, if it leads to a restart or to giving up.
        now: monotonic seconds.

    Returns:
        Seconds to wait before it is started again, or `"leave"`: it is not to be, or `"give up"`: it ended
        too often.

    Example:
        >>> from aiopool._jobs.restart import Restart
        >>> history = RestartHistory(Restart(max_restarts=1, delay=0.5))
        >>> crash = Ended(False, "ended with exit code 1")
        >>> [decide("on_failure", end, history, now=0.0) for end in (Ended(True, "returned"), crash, crash)]
        ['leave', 0.5, 'give up']
    """
    if policy == "never" or (policy == "on_failure" and ended.ok):
        return "leave"
    delay = history.crashed(now=now)
    return "give up" if delay is None else delay


@final
class Watch:
    """Who watches a registry: one monitor at most, on the loop on which services were last started.

    Args: as for `Monitor`.
    """

    # The mutable state of a watch is its monitor.
    __slots__ = ("_check_every", "_monitor", "_on_error", "_table")

    def __init__(self, table: ServiceTable, on_error: Callable[[Service, Exception], None], check_every: float) -> None:
        self._table = table
        self._on_error = on_error
        self._check_every = check_every
        self._monitor: Monitor | None = None

    def here(self) -> "Monitor":
        """The monitor; on the running loop, if there is none whose own loop runs."""
        with self._table.lock:
            monitor = self._monitor
            if monitor is None or not monitor.usable() or not monitor.loop.is_running():
                monitor = self._monitor = Monitor(self._table, self._on_error, self._check_every)
            return monitor

    def wake(self) -> None:
        """Look now, if anybody does."""
        if (monitor := self._monitor) is not None:
            monitor.wake()

    def end(self) -> "Monitor | None":
        """Watch no longer; from any thread. Returns who is to end, so that it can be awaited on its loop."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None and monitor.usable():
            if monitor.loop is running_loop():
                monitor.close()
            else:
                with suppress(RuntimeError):  # closed since, and nothing is watched any more
                    monitor.loop.call_soon_threadsafe(monitor.close)
        return monitor


@final
class Monitor:
    """Watch services on the running event loop, until closed.

    Args:
        table: the services, and their pid file.
        on_error: called with a service and what went wrong with it.
        check_every: the beat, in seconds.
    """

    # The mutable state of a monitor is its own task, one task per service that it deals with, one pidfd per
    # process whose end it waits for, and the roots that it has seen to be gone.
    def __init__(self, table: ServiceTable, on_error: Callable[[Service, Exception], None], check_every: float) -> None:
        self._table = table
        self._on_error = on_error
        self._check_every = check_every
        self.loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._descriptors: dict[ProcessId, int] = {}
        self._gone: set[ProcessId] = set()
        self._busy: dict[Service, asyncio.Task[None]] = {}
        # Not loop.create_task: an eager task factory would run them before they are noted here.
        self._task = asyncio.Task(self._run(), loop=self.loop, name="aiopool service monitor")
        self._task.add_done_callback(self._died)

    def wake(self) -> None:
        """Look now; from any thread."""
        try:
            self.loop.call_soon_threadsafe(self._woken.set)
        except RuntimeError:  # the loop is closed, and nothing is watched any more
            return

    def usable(self) -> bool:
        """Whether it still watches."""
        return not self._task.done() and not self.loop.is_closed()

    def close(self) -> None:
        """Watch no longer; from the loop's own thread."""
        for task in self._tasks():
            task.cancel()

    async def closed(self) -> None:
        """Wait until nothing of it runs any more; on its own loop, after `close`."""
        if tasks := self._tasks():
            await asyncio.wait(tasks)

    def _tasks(self) -> "list[asyncio.Task[None]]":
        return [task for task in (self._task, *self._busy.values()) if not task.done()]

    def _died(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("the service monitor failed; nothing is restarted any more", exc_info=error)

    async def _run(self) -> None:
        try:
            while True:
                self._woken.clear()
                running: list[Service] = []
                for service in self._table.select():
                    if service.status != "running" or service in self._busy:
                        continue
                    if service.alive():
                        running.append(service)
                    else:
                        self._deal_with(service)
                self._watch(running)
                try:
                    async with asyncio.timeout(self._check_every if running else None):
                        await self._woken.wait()
                except TimeoutError:
                    await self._look(running)
        finally:
            for process in list(self._descriptors):
                self._forget(process)

    async def _look(self, services: Sequence[Service]) -> None:
        """Find out who descends from whom, while it can still be found out."""
        families = [family for service in services if (family := service.process_tree()) is not None]
        if families:
            await run_in_daemon_thread(lambda: refresh_trees(families), name="aiopool-services-look")
            self._table.note_pids()

    def _watch(self, services: Sequence[Service]) -> None:
        """Be woken when a process ends."""
        roots = {root for service in services for root in _roots(service)}
        wanted = {root for root in roots if alive(root)}
        # A root that ended since its service was asked: ask again. But only once for each root, for there are services
        # that say they run without it, and they would keep us busy.
        if roots - wanted - self._gone:
            self._woken.set()
        self._gone = roots - wanted
        for process in [process for process in self._descriptors if process not in wanted]:
            self._forget(process)
        for process in wanted - self._descriptors.keys():
            try:
                descriptor = os.pidfd_open(process.pid)
                self._descriptors[process] = descriptor
                self.loop.add_reader(descriptor, self._over, process)
            except ProcessLookupError:  # gone this very moment
                self._gone.add(process)
                self._woken.set()
            except (AttributeError, OSError, NotImplementedError):
                continue  # no such thing here: the beat finds out

    def _over(self, process: ProcessId) -> None:
        self._forget(process)
        self._woken.set()

    def _forget(self, process: ProcessId) -> None:
        descriptor = self._descriptors.pop(process, None)
        if descriptor is not None:
            if not self.loop.is_closed():
                self.loop.remove_reader(descriptor)
            os.close(descriptor)

    def _deal_with(self, service: Service) -> None:
        task = asyncio.Task(self._after_end(service), loop=self.loop, name=f"restart of service {service.name}")
        self._busy[service] = task

        def done(task: "asyncio.Task[None]") -> None:
            self._busy.pop(service, None)
            self._woken.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("service %r: the monitor failed with it", service.name, exc_info=error)

        task.add_done_callback(done)

    async def _after_end(self, service: Service) -> None:
        """A service has ended by itself: clear up, and start it again if it is to be."""
        ended = await service.kind.outcome()
        if not service.apply("ended"):
            return  # somebody is stopping it
        generation = service.generation
        while service.generation == generation:
            service.error = None if ended.ok else ended.why
            if not ended.ok:
                self._tell(service, _crash(service, ended))
            await self._clear(service)
            answer = decide(service.restart, ended, service.history, now=time.monotonic())
            if answer == "leave":
                return
            if isinstance(answer, str):
                service.apply("give_up")
                self._tell(service, _given_up(service, ended))
                return
            service.apply("restart")
            await asyncio.sleep(answer)
            if service.generation != generation:
                return
            service.restarts += 1
            try:
                await self._start(service)
            except Exception as error:
                ended = Ended(False, f"failed to start: {type(error).__name__}: {error}", error)
                generation = service.generation if service.status == "failed" else generation
            else:
                self._table.note_pids()
                return

    async def _start(self, service: Service) -> None:
        """Start it on its own loop: what it talks to lives there."""
        its_loop = service.loop
        if its_loop is None or its_loop is self.loop or not its_loop.is_running():
            await service.start(self.wake)
        else:
            name = f"restart of service {service.name!r}"
            await call_at(its_loop, lambda: service.start(self.wake), until=math.inf, name=name)

    async def _clear(self, service: Service) -> None:
        family = service.family
        if family is None:
            return
        now = time.monotonic()
        await end_in_thread([family], force_at=now + _LEFT_GRACE, deadline=now + 2 * _LEFT_GRACE)
        if left := family.living():
            pids = sorted(process.pid for process in left)
            _log.error("service %r left processes behind that cannot be ended: %s", service.name, pids)
        family.forced = False
        self._table.note_pids()

    def _tell(self, service: Service, error: Exception) -> None:
        _log.error("%s", error, exc_info=error.__cause__)
        try:
            self._on_error(service, error)
        except BaseException as raised:
            HookGuard().caught(raised, _log, "on_error raised while it was told of service %r", service.name)


def _roots(service: Service) -> tuple[ProcessId, ...]:
    family = service.process_tree()
    return () if family is None else tuple(root for root in family.roots if root in family.members)


def _crash(service: Service, ended: Ended) -> Exception:
    error = RuntimeError(f"service {service.name!r} ({service.type}) {ended.why}")
    error.__cause__ = ended.error
    return error


def _given_up(service: Service, ended: Ended) -> Exception:
    policy = service.history.policy
    error = RestartLimitError(
        f"service {service.name!r} ({service.type}) ended more than {policy.max_restarts} times within "
        f"{policy.within:g} s and is not started again; it last {ended.why}. Start it by hand with "
        f"`await registry.start({service.name!r})`, or allow more: Restart(max_restarts=..., within=...)"
    )
    error.__cause__ = ended.error
    return error
