"""ServiceRegistry: the long-lived companions of a program, started, watched and stopped in one place.

A registry is a table of services, and the order in which things are asked of them. How each kind is started
and asked to end is the business of its adapter (`_adapt`), how they are stopped together that of
`_stop`, how they are kept alive that of `_monitor`.

It can be used from several event loops, from other threads and without any loop, so the table has a lock;
nobody ever waits while holding it, and a status is therefore told at any moment. Time here is real time:
operating system processes do not live in a simulated one.

Invariants: a service leaves the table only when it is verified to be over, or when it is removed by hand.
Construction starts nothing, writes nothing and installs nothing. A forked child cannot stop what belongs to
its parent.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import anyio

from aiopool._jobs.restart import Restart
from aiopool._runtime.daemon_thread import run_in_daemon_thread
from aiopool.services._adapt import adapt
from aiopool.services._exit_handlers import ExitHandlers
from aiopool.services._families import refresh_trees
from aiopool.services._kind import shown
from aiopool.services._leftovers import end_leftovers
from aiopool.services._monitor import Watch
from aiopool.services._service import RestartPolicy, Service
from aiopool.services._status import RegistryStatus, ServiceStatus, StopReport
from aiopool.services._stop import Deadlines, StopCoordinator
from aiopool.services._table import ServiceTable

__all__ = ["ServiceRegistry"]

_log = logging.getLogger("aiopool.services")

# What an info mapping may hold as the service itself, the surest handle first: a pid alone tells least.
_HANDLES = ("process", "queue_system", "worker", "pid")


@final
class ServiceRegistry:
    """Start, watch, report and stop the long-lived companions of a program.

    As an async context manager it starts everything on the way in and stops everything on the way out; if it is
    cancelled while it does, it stops by force before it leaves. It needs no `async with`, though, and for services
    that are plain processes not even an event loop.

    Args:
        name: for the log, the repr and the pid file.
        pid_dir: a directory in which the processes are written down, with their start times, so that the next
            start finds and ends what a killed run has left. One directory for all runs of one program. If another
            user can change it, registering or starting raises `PermissionError`. `None`: nothing is written.
        restart: how often services are started again at most, unless `add` says otherwise.
        check_every: seconds between two looks at services whose end is no event.
        stop_timeout: the total time for stopping everything when the `async with` block is left, in seconds.
        handle_signals: inside the `async with` block, stop everything on SIGTERM and SIGINT and at exit, as
            `install_handlers` does.
        on_error: called with the status of a service and an exception when it crashes, cannot be started
            again, or is given up (`RestartLimitError`).

    Example:
        >>> async def main():
        ...     registry = ServiceRegistry(pid_dir="run")
        ...     registry.add("queue", Command(["redis-server"]), name="redis", restart="always")
        ...     registry.add("mail", send_mail_for_ever, restart="on_failure")
        ...     async with registry:
        ...         await serve()
    """

    # The mutable state of a registry is its table of services, who watches them, its stops and its exit handlers.
    _shared: "ServiceRegistry | None" = None
    _shared_lock = threading.Lock()

    def __init__(
        self,
        name: str = "services",
        *,
        pid_dir: str | os.PathLike[str] | None = None,
        restart: Restart | None = None,
        check_every: float = 1.0,
        stop_timeout: float = 30.0,
        handle_signals: bool = False,
        on_error: Callable[[ServiceStatus, Exception], None] | None = None,
    ) -> None:
        if not check_every > 0:
            raise ValueError(f"ServiceRegistry: check_every must be above 0 seconds, got {check_every!r}")
        Deadlines.within(stop_timeout, now=0.0)
        self.name = name
        self._owner = os.getpid()
        self._restart = Restart() if restart is None else restart
        self._check_every = check_every
        self._stop_timeout = stop_timeout
        self._handle_signals = handle_signals
        self._on_error = on_error
        self._directory = None if pid_dir is None else Path(pid_dir).absolute()
        self._table = ServiceTable(name, self._directory)
        self._looked_back = False
        self._watch = Watch(self._table, self._told, check_every)
        self._stops = StopCoordinator(self._settle)
        self._handlers: ExitHandlers | None = None

    @classmethod
    def shared(cls) -> "ServiceRegistry":
        """Give the one registry that the whole process shares; any thread may ask first.

        A forked child gets one of its own: what its parent has registered is not the child's to stop.
        """
        with cls._shared_lock:
            if cls._shared is None or cls._shared._owner != os.getpid():
                cls._shared = cls("shared")
            return cls._shared

    def __repr__(self) -> str:
        states = ", ".join(f"{service.name}: {service.status}" for service in self._table.select())
        return f"<ServiceRegistry {self.name!r} {states or 'empty'}>"

    def __len__(self) -> int:
        return len(self._table.select())

    def __contains__(self, name: object) -> bool:
        return any(service.name == name for service in self._table.select())

    # -- the table ---------------------------------------------------------------------------------

    def add(
        self,
        type: str,
        target: Any,
        *,
        name: str | None = None,
        restart: RestartPolicy = "never",
        intensity: Restart | None = None,
        started: bool | None = None,
        pids: Callable[[], Iterable[int]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Register a service; nothing is started yet.

        Args:
            type: what it belongs to; services can be stopped by type. Any string.
            target: the service, or what makes it:

                - a `Command`, or a list of words: a program, started in a session of its own;
                - a coroutine function: runs as a task, is stopped by cancelling it;
                - an object with `stop()`, mostly with `start()`, plain or async. A plain `stop()` is called
                in a
                  thread. Parameters named `timeout` are given the seconds left;
                - an async context manager, such as a `Pool`;
                - a process: of `multiprocessing` (started or not), `subprocess`, asyncio or anyio, a
                  `psutil.Process`, or a pid. Whatever has this pid *now* is meant, and nobody who gets it
                  later;
                - a function or class that makes one of these, anew for each start. It may be awaitable.
            name: a name of its own; `None` makes one from the type.
            restart: start it again when it ends by itself: `"always"`, `"on_failure"` or `"never"`. Needs a
                running `start()`, since something has to watch.
            intensity: how often at most.
            started: it runs already, and is never to be started. `None` finds out, if it can be asked.
            pids: for objects: gives the pids of the processes that they have started, so that what these
                leave behind is ended as well. Queue systems of `queuemgr` need none.
            extra: shown again in the status.

        Returns:
            Its name.

        Raises:
            TypeError: it cannot be started or stopped; the text says what can.
            ValueError: the name is taken, this very target is registered already, or it should be restarted
                and cannot be.
            ProcessLookupError: there is no process with this pid.
            OSError: the pid file cannot be written.
        """
        self._check_owner()
        if restart not in ("always", "on_failure", "never"):
            raise ValueError(f'restart must be "always", "on_failure" or "never", got {restart!r}')
        kind = adapt(target, pids=pids)
        if restart != "never" and not kind.restartable:
            raise ValueError(
                f"restart={restart!r}: {shown(target)} runs once and cannot be started again; register the function "
                f"that makes it: registry.add({type!r}, lambda: multiprocessing.Process(target=...), "
                f"restart={restart!r}); or what is run anew each time: registry.add({type!r}, Command([...]), "
                f"restart={restart!r})"
            )
        with self._table.lock:
            service = Service(
                type,
                self._table.free_name(type, name),
                kind,
                target,
                restart=restart,
                intensity=self._restart if intensity is None else intensity,
                extra={} if extra is None else extra,
                lock=self._table.lock,
            )
            if started or (started is None and kind.alive() is True):
                service.apply("adopt")
            self._table.insert(service)
        self._watch.wake()
        return service.name

    def register(self, type: str, info: Mapping[str, Any]) -> str:
        """Register something that runs already, described by a mapping.

        Args:
            type: what it belongs to.
            info: one of `process`, `queue_system`, `worker` or `pid` (if there are several, the first of
                these in this order), optionally `name`; everything else is shown again in the status. The
                mapping is read, never changed.

        Returns:
            Its name.

        Raises:
            ValueError: the mapping holds nothing that could be stopped, or what `add` refuses.

        Example:
            >>> import subprocess
            >>> registry, process = ServiceRegistry(), subprocess.Popen(["sleep", "60"])
            >>> registry.register("files", {"process": process, "name": "watcher", "db_path": "files.db"})
            'watcher'
            >>> registry.stop_all_sync(timeout=5).stopped
            1
        """
        target = next((info[key] for key in _HANDLES if info.get(key) is not None), None)
        if target is None:
            raise ValueError(
                f"register({type!r}, info): nothing in info can be stopped; give one of {', '.join(_HANDLES)}"
            )
        extra = {key: value for key, value in info.items() if key not in (*_HANDLES, "name")}
        started = True if target is info.get("worker") else None
        return self.add(type, target, name=info.get("name"), started=started, extra=extra)

    def remove(self, name: str | None = None, *, type: str | None = None, pid: int | None = None) -> int:
        """Forget services without stopping them.

        Args:
            name: this one; or
            type: those of this type, and of these
            pid: only the one with this pid.

        Returns:
            How many were forgotten. What is not there is no fault.

        Raises:
            TypeError: neither name nor type nor pid was given.
        """
        if name is None and type is None and pid is None:
            raise TypeError("remove() needs a name, a type or a pid; to stop everything: registry.stop_all_sync()")
        found = [s for s in self._table.select(name, type) if pid is None or s.pid() == pid]
        self._table.drop(found)
        return len(found)

    def status(self, type: str | None = None) -> RegistryStatus:
        """Tell where all services are at this moment.

        Never waits, neither for a stop that is under way nor for a service.

        Args:
            type: only those of this type.
        """
        return RegistryStatus(tuple(service.snapshot() for service in self._table.select(None, type)))

    # -- start -------------------------------------------------------------------------------------

    async def start(self, name: str | None = None, *, type: str | None = None, timeout: float = 30.0) -> None:
        """Start the services that do not run, one after the other, in the order in which they were added.

        The first call also ends what an earlier run has left behind (`pid_dir`), and begins to watch. If one
        fails to start, those before it run on: leave it to `async with` to stop them.

        Cancelled: what was just starting is cancelled too; the others stay as they are.

        Args:
            name: only this one.
            type: only those of this type.
            timeout: for each service, in seconds.

        Raises:
            KeyError: there is no service of this name.
            TimeoutError: one was not started in time.
            OSError: the pid file cannot be written.
            Exception: what the start of the service has raised, with a note that names it.
        """
        self._check_owner()
        if name is not None and not self._table.select(name):
            raise KeyError(f"no service {name!r}; there are {[s.name for s in self._table.select()]}")
        self._table.check_file()
        if self._directory is not None and not self._looked_back:
            self._looked_back = True
            await self.end_leftovers()
        monitor = self._watch.here()
        for service in self._table.select(name, type):
            done = service.status == "ended" and not service.kind.restartable and name is None
            if done or service.status in ("starting", "running", "stopping") or service.alive():
                continue
            try:
                await service.start_within(timeout, monitor.wake)
            finally:
                self._table.note_pids()
                monitor.wake()

    async def end_leftovers(self, *, timeout: float = 3.0) -> StopReport:
        """End what runs that are over have left behind, according to their pid files.

        Only processes that still are the same ones: whoever got such a pid later is left alone, and so are
        the processes of runs that still go on. `start` does this by itself the first time.

        Cancelled: goes on in the background, to its deadline.

        Args:
            timeout: in total, in seconds.

        Raises:
            ValueError: the registry has no `pid_dir`.
        """
        return await run_in_daemon_thread(
            lambda: self.end_leftovers_sync(timeout=timeout), name="aiopool-services-leftovers"
        )

    def end_leftovers_sync(self, *, timeout: float = 3.0) -> StopReport:
        """Do what `end_leftovers` does, from plain code: it blocks until it is done."""
        if self._directory is None:
            raise ValueError("no pid_dir, so nothing was written down: write ServiceRegistry(pid_dir=...)")
        return end_leftovers(self._directory, timeout)

    # -- stop --------------------------------------------------------------------------------------

    async def stop(self, name: str | None = None, *, type: str | None = None, timeout: float = 10.0) -> StopReport:
        """Stop one service, or all of one type; all at the same time.

        Processes are asked (SIGTERM), then killed, together with their descendants; objects are awaited. When
        this returns, what is reported as stopped is over. What could not be stopped stays registered.

        Cancelled: the stop goes on in the background, to its deadline.

        Args:
            name: this one.
            type: those of this type.
            timeout: for all of them together, in seconds. The last fifth of it, at most one second, is for
                force. 0 kills at once; a half second is always granted to make sure.

        Returns:
            What became of them. An unknown name or type is no fault: nothing was stopped.

        Raises:
            TypeError: neither name nor type was given.
        """
        chosen = self._chosen(name, type)
        return await self._stops.run(lambda: chosen, timeout, _nothing(name, type))

    async def stop_all(self, *, timeout: float = 30.0) -> StopReport:
        """Stop everything, all at the same time, and watch no longer; what is added meanwhile is stopped, too.

        As `stop`, which see. May be called again, also while another stop is under way: the earlier deadline
        holds.

        Args:
            timeout: for everything together, in seconds.
        """
        try:
            return await self._stops.run(self._chosen_all, timeout)
        finally:
            if (monitor := self._watch.end()) is not None and monitor.loop is asyncio.get_running_loop():
                await monitor.closed()

    def stop_sync(self, name: str | None = None, *, type: str | None = None, timeout: float = 10.0) -> StopReport:
        """Do what `stop` does, from plain code: it blocks until it is done.

        From a thread without an event loop: services that live on a loop are stopped there, if it runs. In
        the thread of a running event loop it blocks that loop, and works for whatever does not live on it.

        Raises:
            RuntimeError: a service lives on the event loop of this very thread, so that waiting for it here
                would stop it from ever ending. Nothing was stopped.
        """
        chosen = self._chosen(name, type)
        return self._stops.run_blocking(lambda: chosen, timeout, _nothing(name, type))

    def stop_all_sync(self, *, timeout: float = 30.0) -> StopReport:
        """Do what `stop_all` does, from plain code; see `stop_sync`."""
        try:
            return self._stops.run_blocking(self._chosen_all, timeout)
        finally:
            self._watch.end()

    def _kill_known(self) -> None:
        """Kill all processes that one look finds, for a process that cannot wait for more."""
        families = [family for service in self._table.select() if (family := service.process_tree()) is not None]
        refresh_trees(families)
        for family in families:
            family.send(family.members, signal.SIGKILL)

    def _settle(self, services: Sequence[Service]) -> None:
        # What was handed over running, and cannot be started again, has nothing left to be known for.
        self._table.drop([s for s in services if s.status == "stopped" and not s.kind.restartable])

    # -- exit --------------------------------------------------------------------------------------

    def install_handlers(
        self,
        signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT),
        *,
        at_exit: bool = True,
        timeout: float = 30.0,
    ) -> None:
        """Stop everything on these signals and at exit, and let the program end as it would have.

        On a signal the services are stopped while the program goes on; then the handlers that were there
        before are put back and get the signal. A second signal meanwhile stops by force. Ignored signals stay
        ignored. Forked children do not inherit the work: there, the earlier handlers get the signal at once.

        Args:
            signals: which ones.
            at_exit: also when the interpreter ends by itself.
            timeout: for everything together, in seconds.

        Raises:
            RuntimeError: installed already, or not in the main thread.
        """
        self._check_owner()
        Deadlines.within(timeout, now=0.0)
        if self._handlers is not None:
            raise RuntimeError("the handlers are installed already; first registry.uninstall_handlers()")
        handlers = ExitHandlers(self._stop_at_exit, timeout)
        handlers.install(signals, at_exit=at_exit)
        self._handlers = handlers

    def uninstall_handlers(self) -> None:
        """Put back the handlers that were there before; without effect if none are installed."""
        if self._handlers is not None:
            self._handlers.uninstall()
            self._handlers = None

    def _stop_at_exit(self, timeout: float) -> None:
        outcome = self._stops.run_to_end(self._chosen_all, timeout)
        if not outcome.success:
            _log.error("services could not be stopped on the way out: %s", outcome.message)

    # -- as a block --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._handle_signals:
            self.install_handlers(timeout=self._stop_timeout)
        try:
            await self.start()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        try:
            # A scope of anyio that is cancelled would cancel this wait as well, and the program could end before its
            # services.
            with anyio.CancelScope(shield=True):
                try:
                    outcome = await self.stop_all(timeout=self._stop_timeout)
                except asyncio.CancelledError:
                    # Whoever is told to hurry (a second Ctrl-C) hurries, but leaves nobody behind.
                    await self.stop_all(timeout=0)
                    raise
                if not outcome.success:
                    _log.error("registry %r: %s", self.name, outcome.message)
        finally:
            if self._handle_signals:
                self.uninstall_handlers()

    # -- inside ------------------------------------------------------------------------------------

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError(
                f"this registry belongs to process {self._owner}, this is {os.getpid()}, a fork of it: what "
                "is registered there is not for this process to start or stop. Make a new "
                "ServiceRegistry() here"
            )

    def _chosen(self, name: str | None, type: str | None) -> list[Service]:
        self._check_owner()
        if name is None and type is None:
            raise TypeError("stop() needs a name or a type; to stop everything: stop_all()")
        return self._table.select(name, type)

    def _chosen_all(self) -> list[Service]:
        self._check_owner()
        return self._table.select()

    def _told(self, service: Service, error: Exception) -> None:
        if self._on_error is not None:
            self._on_error(service.snapshot(), error)


def _nothing(name: str | None, type: str | None) -> str:
    if name is not None:
        return f"nothing to stop: no service {name!r}"
    return f"nothing to stop: no service of type {type!r}"
