"""Processes where there is no `/proc`: the same questions as `_process` asks, answered by psutil.

Not loaded on Linux. Start times are seconds since the epoch here, and there are no marks: the environment of another
process cannot be read everywhere.
"""

import os

import psutil

__all__ = ["all_pids", "boot_id", "read"]


def read(pid: int) -> tuple[int, int, float, bool] | None:
    """Return the parent, session and start time of a process, and whether it is a zombie; `None` if there is none."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            started, parent = process.create_time(), process.ppid()
            zombie = process.status() == psutil.STATUS_ZOMBIE
    except psutil.ZombieProcess:
        return 0, 0, 0.0, True
    except psutil.NoSuchProcess:
        return None
    try:
        session = os.getsid(pid)
    except OSError:
        session = 0
    return parent, session, started, zombie


def all_pids() -> list[int]:
    return psutil.pids()


def boot_id() -> str:
    """Name the boot within which start times mean something."""
    return f"boot-{psutil.boot_time():.0f}"
