"""One registered service: what it is, where it is, and which processes belong to it.

    new ──start──▶ starting ──started──▶ running ──ended──▶ ended ──restart──▶ restarting
                       │                    ▲                                      │
                       └──start_failed──▶ failed                    start ◀────────┘

A stop is possible from everywhere, and wins: what was about to start or to restart finds its way closed.

Invariant: `apply` is the only line that assigns `status`, and a service is started by one starter at a time.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, final

from aiopool._jobs.restart import Restart, RestartHistory
from aiopool._runtime.faults import describe_error, log_fault
from aiopool.services._families import ProcessTree
from aiopool.services._kind import ServiceAdapter
from aiopool.services._pidfile import PidRecord
from aiopool.services._status import ServiceState, ServiceStatus

__all__ = ["RestartPolicy", "Service"]

RestartPolicy = Literal["always", "on_failure", "never"]

_log = logging.getLogger("aiopool.services")

_TRANSITIONS: dict[ServiceState, dict[str, ServiceState]] = {
    "new": {"start": "starting", "adopt": "running", "stop": "stopping"},
    "starting": {"started": "running", "start_failed": "failed", "stop": "stopping"},
    "running": {"ended": "ended", "stop": "stopping"},
    "ended": {"start": "starting", "restart": "restarting", "give_up": "failed", "stop": "stopping"},
    "restarting": {"start": "starting", "stop": "stopping"},
    "stopping": {"stopped": "stopped", "stop_failed": "failed", "stop": "stopping"},
    # Two stops may overlap; the second one to finish finds the service where the first one left it.
    "stopped": {"start": "starting", "stop": "stopping", "stopped": "stopped", "stop_failed": "failed"},
    "failed": {
        "start": "starting",
        "restart": "restarting",
        "give_up": "failed",
        "stop": "stopping",
        "stopped": "stopped",
        "stop_failed": "failed",
    },
}


@final
class Service:
    """One registered service.

    Args:
        type, name, kind, target: what it is.
        restart: when it is started again.
        intensity: how often at most.
        extra: whatever the user wants to find again in the status.
        lock: the lock of its registry.
    """

    # The mutable state of a service is its status, the last error, its family, and who starts or asks it now.
    __slots__ = (
        "asking",
        "error",
        "extra",
        "family",
        "generation",
        "history",
        "kind",
        "lock",
        "loop",
        "name",
        "registered_at",
        "restart",
        "restarts",
        "starting",
        "status",
        "target",
        "type",
    )

    def __init__(
        self,
        type: str,
        name: str,
        kind: ServiceAdapter,
        target: object,
        *,
        restart: RestartPolicy,
        intensity: Restart,
        extra: Mapping[str, Any],
        lock: threading.RLock,
    ) -> None:
        self.type = type
        self.name = name
        self.kind = kind
        self.target = target
        self.restart: RestartPolicy = restart
        self.history = RestartHistory(intensity)
        self.extra = MappingProxyType(dict(extra))
        self.registered_at = datetime.now(UTC)
        self.status: ServiceState = "new"
        self.error: str | None = None
        self.restarts = 0
        self.generation = 0  # counts starts and stops: who slept meanwhile sees that his turn is over
        self.family: ProcessTree | None = None
        self.starting: tuple[Callable[[], None], concurrent.futures.Future[None]] | None = None
        self.asking: concurrent.futures.Future[None] | None = None
        self.lock = lock
        self.loop: asyncio.AbstractEventLoop | None = None  # where it was last started

    def __repr__(self) -> str:
        return f"<Service {self.name!r} ({self.type}) {self.status}>"

    def apply(self, event: str) -> bool:
        """Follow the table; `False` if the event comes too late for where the service is now."""
        with self.lock:
            after = _TRANSITIONS[self.status].get(event)
            if after is None:
                return False
            if event in ("start", "stop"):
                self.generation += 1
            self.status = after
            return True

    def alive(self) -> bool:
        """Whether it runs: by its own word, or, if it does not say, because it was started."""
        try:
            answer = self.kind.alive()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a CancelledError, too, is an answer of the object: nobody cancels in here
            self.error = f"cannot be asked whether it runs: {describe_error(error)}"
            log_fault(_log, "service %r cannot be asked whether it runs; taken for ended", self.name, error=error)
            return False
        return self.status == "running" if answer is None else answer

    def process_tree(self) -> ProcessTree | None:
        """Its family, with the roots of now; `None` if it never had a process."""
        try:
            roots = self.kind.roots()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            log_fault(_log, "service %r cannot be asked for its processes", self.name, error=error)
            roots = []
        if roots and (self.family is None or self.family.roots != tuple(roots)):
            members = () if self.family is None else self.family.members
            self.family = ProcessTree(roots, members=members, own_session=self.kind.own_session, mark=self.kind.mark)
        return self.family

    async def start(self, wake: Callable[[], None]) -> None:
        """Start it, unless somebody else does or a stop forbids it.

        Raises:
            RuntimeError: it was stopped while it was starting.
            Exception: whatever its own start raises.
        """
        if not self.apply("start"):
            return
        loop = self.loop = asyncio.get_running_loop()
        # A Task, and not loop.create_task: an eager task factory would run it before a stop could find it here.
        task = asyncio.Task(self.kind.start(wake), loop=loop, name=f"start of service {self.name}")
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def cancel() -> None:
            loop.call_soon_threadsafe(task.cancel)

        self.starting = cancel, done
        try:
            await task
        except BaseException as error:
            self.error = f"failed to start: {type(error).__name__}: {error}"
            self.apply("start_failed")
            current = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and current is not None and not current.cancelling():
                raise RuntimeError(f"service {self.name!r} was stopped while it was starting") from None
            raise
        else:
            if self.apply("started"):
                self.error = None
        finally:
            self.process_tree()
            self.starting = None
            done.set_result(None)

    async def start_within(self, timeout: float, wake: Callable[[], None]) -> None:
        """Start it by hand: what it has failed at before is forgotten.

        Raises:
            TimeoutError: it was not started in time.
            Exception: as `start` does, with a note that names the service.
        """
        self.history.clear()
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                await self.start(wake)
        except BaseException as error:
            if isinstance(error, TimeoutError) and limit.expired():
                raise TimeoutError(
                    f"service {self.name!r} was not started within {timeout:g} s. (A function that "
                    "returns a coroutine is taken for a factory and awaited: register the coroutine "
                    "function itself.)"
                ) from error
            error.add_note(f"while starting service {self.name!r} ({self.type})")
            raise

    def pid(self) -> int | None:
        """Its (first) process."""
        family = self.process_tree()
        return family.roots[0].pid if family is not None and family.roots else None

    def snapshot(self) -> ServiceStatus:
        """Where it is at this moment."""
        alive = self.alive()
        family = self.process_tree()
        return ServiceStatus(
            type=self.type,
            name=self.name,
            status=self.status,
            alive=alive,
            pid=self.pid(),
            pids=() if family is None else tuple(sorted(process.pid for process in family.members)),
            restarts=self.restarts,
            registered_at=self.registered_at,
            error=self.error,
            extra=self.extra,
        )

    def record(self) -> PidRecord | None:
        """What a later run must know to end what is left of it; `None` if there is nothing."""
        family = self.process_tree()
        if family is None or not family.members:
            return None
        members = tuple(sorted(family.members))
        return PidRecord(self.type, self.name, family.roots, members, family.own_session, family.mark)
