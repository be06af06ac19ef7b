"""`machine_check`: whether the machine has CPU, memory and disk left, as a check for a `HealthMonitor`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import psutil

from aiopool.health import Finding, HealthStatus

__all__ = ["machine_check"]


def machine_check(
    *, cpu: float | None = 0.9, memory: float | None = 0.9, disk: float | None = 0.95, disks: Sequence[str] = ("/",)
) -> Callable[[], Finding | None]:
    """Return a check that is degraded at four fifths of a limit, and failing above it.

    In a container these are the numbers of the host, but for the disks.

    Args:
        cpu: part of all CPUs that is busy, since the last call. None: not looked at.
        memory: part of the memory that is not available.
        disk: part of each file system that is used.
        disks: paths on the file systems to look at; one that is not there is left out.

    Example:
        HealthMonitor(pool, checks={"machine": machine_check(disks=["/var/lib/spool"])})
    """
    limits: dict[str, float] = {}
    for name, limit in (("cpu", cpu), ("memory", memory), ("disk", disk)):
        if limit is not None:
            if not 0 < limit <= 1:
                raise ValueError(f"{name}={limit!r}: it is a part of the whole, between 0 and 1")
            limits[name] = limit
    if "cpu" in limits:
        psutil.cpu_percent()  # from here on the next call counts

    def check() -> Finding | None:
        parts = [(name, part, limits[kind]) for kind, name, part in _parts(limits, disks)]
        worst = max(parts, key=lambda row: row[1] / row[2], default=None)
        if worst is None or worst[1] <= 0.8 * worst[2]:
            return None
        name, part, limit = worst
        status = HealthStatus.FAILING if part > limit else HealthStatus.DEGRADED
        return Finding("machine", status, f"{part:.0%} of the {name} is in use (limit {limit:.0%})")

    return check


def _parts(limits: dict[str, float], disks: Sequence[str]) -> list[tuple[str, str, float]]:
    rows: list[tuple[str, str, float]] = []
    if "cpu" in limits:
        rows.append(("cpu", "CPU", psutil.cpu_percent() / 100))
    if "memory" in limits:
        rows.append(("memory", "memory", psutil.virtual_memory().percent / 100))
    if "disk" in limits:
        for path in disks:
            with contextlib.suppress(OSError):
                rows.append(("disk", f"file system at {path}", psutil.disk_usage(path).percent / 100))
    return rows
