"""What the registry tells: frozen snapshots of services, and the report of a stop.

Snapshots are made without waiting for anything, also while a stop is under way. They have a typed shape, and
as dictionaries the shape that an HTTP endpoint or an older worker manager would hand out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, final

__all__ = ["RegistryStatus", "ServiceState", "ServiceStatus", "StopReport", "TypeReport"]

ServiceState = Literal["new", "starting", "running", "restarting", "ended", "stopping", "stopped", "failed"]
"""Where a service is.

`new`: registered, not started. `restarting`: it crashed and waits for its next start. `ended`: by itself, and
it is not to be started again. `failed`: it did not start, was given up after too many crashes, or could not
be stopped.
"""


@final
@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service at one moment.

    Attributes:
        type, name: as registered.
        status: where it is.
        alive: whether it runs, as far as it can be asked.
        pid: its (first) process; `None` for a service without one, or before it started.
        pids: all processes that were last seen to belong to it, descendants included.
        restarts: how often it was started again since it was registered.
        registered_at: when it was registered (UTC).
        error: what last went wrong with it.
        extra: what else came along when it was registered.
    """

    type: str
    name: str
    status: ServiceState
    alive: bool
    pid: int | None
    pids: tuple[int, ...]
    restarts: int
    registered_at: datetime
    error: str | None = None
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def as_dict(self) -> dict[str, Any]:
        """The five fields that a status endpoint shows of each service."""
        return {
            "type": self.type,
            "pid": self.pid,
            "name": self.name,
            "alive": self.alive,
            "registered_at": self.registered_at.isoformat(),
        }


@final
@dataclass(frozen=True, slots=True)
class RegistryStatus:
    """All services of a registry at one moment, in order of registration.

    Example:
        >>> RegistryStatus(()).as_dict()
        {'total_workers': 0, 'by_type': {}, 'workers': []}
    """

    services: tuple[ServiceStatus, ...]

    def __getitem__(self, name: str) -> ServiceStatus:
        """The service of this name.

        Raises:
            KeyError: there is none.
        """
        for service in self.services:
            if service.name == name:
                return service
        raise KeyError(f"no service {name!r}; there are {[service.name for service in self.services]}")

    def __contains__(self, name: object) -> bool:
        return any(service.name == name for service in self.services)

    def as_dict(self) -> dict[str, Any]:
        """The snapshot with `total_workers`, `by_type` (each: `count`, `pids`, `names`) and `workers`."""
        by_type: dict[str, dict[str, Any]] = {}
        for service in self.services:
            entry = by_type.setdefault(service.type, {"count": 0, "pids": [], "names": []})
            entry["count"] += 1
            entry["names"].append(service.name)
            if service.pid is not None:
                entry["pids"].append(service.pid)
        return {
            "total_workers": len(self.services),
            "by_type": by_type,
            "workers": [service.as_dict() for service in self.services],
        }


@final
@dataclass(frozen=True, slots=True)
class TypeReport:
    """What became of the services of one type."""

    stopped: int = 0
    failed: int = 0
    errors: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class StopReport:
    """What became of a stop; always with all fields.

    Attributes:
        success: nothing failed. True also if there was nothing to stop.
        stopped: services that are verified to be over.
        failed: services that are not; they stay registered.
        errors: one text for each thing that went wrong, beginning with the name of its service. A service may
            have raised an error and be stopped all the same.
        message: all this in one sentence.
        by_type: the same for each type.
        killed: names of the services that had to be ended by force.
        seconds: how long it took.
    """

    success: bool
    stopped: int
    failed: int
    errors: tuple[str, ...]
    message: str
    by_type: Mapping[str, TypeReport]
    killed: tuple[str, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The report as a dictionary; the totals stand under both of their customary names."""
        return {
            "success": self.success,
            "stopped": self.stopped,
            "failed": self.failed,
            "total_stopped": self.stopped,
            "total_failed": self.failed,
            "errors": list(self.errors),
            "message": self.message,
            "by_type": {
                type: {"stopped": entry.stopped, "failed": entry.failed, "errors": list(entry.errors)}
                for type, entry in self.by_type.items()
            },
        }
