"""Which process is meant, whether it still is, and who descends from it.

A pid is a number that the system gives out again. Everything here speaks of `ProcessId`: the pid together
with the moment at which that process began, so that a stranger who got the same number later is never taken
for it, never signalled and never waited for. Where the system has pidfds (Linux), a signal goes through one
that was opened before the start time was compared: no moment is left in which the number could change hands.

One `ProcessTable` is one look at all processes: their parents, sessions and start times, from which the
descendants of any number of roots follow without looking again. `ExitWaiter` sleeps until one of many
processes is over, children or not, without polling and without reaping them: the exit code stays for whoever
started the process.

Start times are as fine as the system tells them: on Linux a clock tick, 10 ms. A number comes round again
only after all others were given out, so that two bearers within one tick cannot be but by force.

A zombie counts as over: it runs no code any more, it only waits to be asked for its exit code.

What this module refuses to know: services, deadlines, in what order things are ended.

Invariant: nothing here ever signals a process whose start time was not compared right before.
"""

import os
import select
import signal
import sys
import time
import types
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import final

__all__ = [
    "Child",
    "ExitWaiter",
    "ProcessId",
    "ProcessTable",
    "alive",
    "ancestors",
    "children",
    "identify",
    "send",
    "system_id",
]

_LINUX = sys.platform.startswith("linux")

# Only where a process can be watched by no event at all (no pidfds): how often it is looked at.
_POLL = 0.02

# A poll takes no more milliseconds than a C int holds, which is 24 days.
_LONGEST_POLL = 86400.0


@final
@dataclass(frozen=True, slots=True, order=True)
class ProcessId:
    """One process and no other: its pid, and when it began.

    Attributes:
        pid: the number.
        started: the start time in the system's own unit (Linux: clock ticks since boot). Comparable for
            equality, on one machine, within one boot.
    """

    pid: int
    started: float


@final
@dataclass(frozen=True, slots=True)
class Child:
    """A child at one moment.

    Attributes:
        process: which one.
        session: the session that it is in; 0 for one outside of this pid namespace.
        zombie: it is over, and its parent has not asked for its exit code.
    """

    process: ProcessId
    session: int
    zombie: bool


@final
@dataclass(frozen=True, slots=True)
class _Entry:
    pid: int
    parent: int
    session: int
    started: float
    zombie: bool


def _read(pid: int) -> _Entry | None:
    """Look at one process; `None` if there is none with this pid."""
    if not _LINUX:
        found = _posix().read(pid)
        return None if found is None else _Entry(pid, *found)
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        line = os.read(descriptor, 4096)
    except ProcessLookupError:  # it went between the two calls
        return None
    finally:
        os.close(descriptor)
    # The second field is the program's name in brackets, and may itself hold blanks and brackets.
    fields = line[line.rindex(b")") + 2 :].split()
    return _Entry(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in (b"Z", b"X", b"x"))


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()] if _LINUX else _posix().all_pids()


def _posix() -> types.ModuleType:
    from aiopool.services import _process_posix

    return _process_posix


@cache
def system_id() -> tuple[str, str]:
    """Name the boot and the pid namespace within which pids and start times mean something."""
    if not _LINUX:
        return _posix().boot_id(), ""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return boot, os.readlink("/proc/self/ns/pid")


def identify(pid: int) -> ProcessId | None:
    """Say which process has this pid now; `None` if none has, or only a zombie."""
    entry = _read(pid)
    return None if entry is None or entry.zombie else ProcessId(pid, entry.started)


def alive(process: ProcessId) -> bool:
    """Say whether that very process still runs."""
    entry = _read(process.pid)
    return entry is not None and not entry.zombie and entry.started == process.started


def ancestors(pid: int) -> list[int]:
    """The parent of a process, its parent, and so on up to the first process."""
    line: list[int] = []
    while (entry := _read(pid)) is not None and entry.parent > 0 and entry.parent not in line:
        pid = entry.parent
        line.append(pid)
    return line


def children(pid: int) -> list[Child]:
    """The children of a process, whichever of its threads has started them, zombies included.

    Complete: who is its child all the time while we look is found.
    """
    entries = (entry for number in _all_pids() if (entry := _read(number)) is not None)
    return [
        Child(ProcessId(entry.pid, entry.started), entry.session, entry.zombie)
        for entry in entries
        if entry.parent == pid
    ]


def _open_pidfd(pid: int) -> int | None:
    """Open a pidfd; `None` where the system gives none.

    Raises:
        ProcessLookupError: there is no such process.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # an old kernel, a sandbox that forbids it, or no file descriptor left
        return None


def send(process: ProcessId, signum: int) -> bool:
    """Send a signal to that very process.

    Returns:
        `False` if it was over before.

    Raises:
        PermissionError: it belongs to somebody else.
    """
    try:
        descriptor = _open_pidfd(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(process):
            return False
        if descriptor is None:
            os.kill(process.pid, signum)
        else:
            signal.pidfd_send_signal(descriptor, signum)
    except ProcessLookupError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


@final
class ProcessTable:
    """One look at all processes of the machine.

    Example:
        >>> table = ProcessTable()
        >>> me = identify(os.getpid())
        >>> me in table, me in table.session(os.getsid(0))
        (True, True)
    """

    __slots__ = ("_children", "_entries", "_marked")

    def __init__(self) -> None:
        self._marked: dict[str, dict[str, set[ProcessId]]] = {}
        self._entries: dict[int, _Entry] = {}
        self._children: dict[int, list[int]] = {}
        for pid in _all_pids():
            entry = _read(pid)
            if entry is not None:
                self._entries[pid] = entry
                self._children.setdefault(entry.parent, []).append(pid)

    def __contains__(self, process: ProcessId) -> bool:
        entry = self._entries.get(process.pid)
        return entry is not None and not entry.zombie and entry.started == process.started

    def children_of(self, process: ProcessId) -> set[ProcessId]:
        """The running children, their children, and so on; never this process of ours or what is below it.

        A zombie that somebody has yet to reap may still have children until it is really gone; they count.
        """
        entry = self._entries.get(process.pid)
        if entry is None or entry.started != process.started:
            return set()
        found: set[ProcessId] = set()
        mine = os.getpid()
        todo = list(self._children.get(process.pid, ()))
        while todo:
            pid = todo.pop()
            entry = self._entries[pid]
            # A start before the parent's own would mean that the pid changed hands while we looked.
            if pid == mine or entry.started < process.started:
                continue
            if not entry.zombie:
                found.add(ProcessId(pid, entry.started))
            todo.extend(self._children.get(pid, ()))
        return found

    def lineage(self, pid: int) -> set[ProcessId]:
        """That process, and all that it descends from."""
        line: set[ProcessId] = set()
        while (entry := self._entries.get(pid)) is not None and (one := ProcessId(pid, entry.started)) not in line:
            line.add(one)
            pid = entry.parent
        return line

    def session(self, session: int) -> set[ProcessId]:
        """The running processes of one session."""
        return {
            ProcessId(entry.pid, entry.started)
            for entry in self._entries.values()
            if entry.session == session and not entry.zombie
        }

    def session_of(self, process: ProcessId) -> int | None:
        """The session of that very process; `None` if it is over."""
        return self._entries[process.pid].session if process in self else None

    def marked(self, name: str) -> dict[str, set[ProcessId]]:
        """The running processes whose environment has this variable, by each of its comma-separated values.

        Linux only; elsewhere nothing is found. The environment is the one with which a program was started,
        inherited by all that it starts in turn.
        """
        if name in self._marked:
            return self._marked[name]
        found: dict[str, set[ProcessId]] = {}
        prefix = name.encode() + b"="
        for entry in self._entries.values() if _LINUX else ():
            # Kernel threads, other users' processes, and what ended meanwhile are not ours to read.
            with suppress(OSError), open(f"/proc/{entry.pid}/environ", "rb") as file:
                for line in file.read().split(b"\0"):
                    if line.startswith(prefix) and not entry.zombie:
                        for value in line[len(prefix) :].decode(errors="replace").split(","):
                            found.setdefault(value, set()).add(ProcessId(entry.pid, entry.started))
        self._marked[name] = found
        return found


@final
class ExitWaiter:
    """Sleep until one of many processes is over.

    Works for any process, not only for children, and never reaps one. A `with` block: it holds a file
    descriptor for each process that it watches.

    Example:
        >>> import subprocess
        >>> child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        >>> process = identify(child.pid)
        >>> with ExitWaiter([process]) as watch:
        ...     child.stdin.close()
        ...     watch.wait(10) == {process}, child.wait()
        (True, 0)
    """

    # The mutable state of a watch is the processes left, and the descriptors by which they are watched.
    __slots__ = ("_descriptors", "_plain", "_poll")

    def __init__(self, processes: Iterable[ProcessId] = ()) -> None:
        self._poll = select.poll()
        self._descriptors: dict[int, ProcessId] = {}
        self._plain: set[ProcessId] = set()
        self.add(processes)

    def __enter__(self) -> "ExitWaiter":
        return self

    def __exit__(self, *exc: object) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._plain.clear()

    @property
    def processes(self) -> set[ProcessId]:
        """Those that were not yet reported as over."""
        return {*self._descriptors.values(), *self._plain}

    def add(self, processes: Iterable[ProcessId]) -> None:
        """Watch these too; one that is watched already, or over, is no fault."""
        watched = self.processes
        for process in processes:
            if process in watched:
                continue
            try:
                descriptor = _open_pidfd(process.pid)
            except ProcessLookupError:
                descriptor = None
            if descriptor is None or not alive(process):
                if descriptor is not None:
                    os.close(descriptor)
                self._plain.add(process)  # over, or to be looked at by hand: the next wait finds out
            else:
                self._descriptors[descriptor] = process
                self._poll.register(descriptor, select.POLLIN)

    def wait(self, timeout: float) -> set[ProcessId]:
        """Wait until at least one of them is over.

        Args:
            timeout: at most this many seconds; 0 only looks.

        Returns:
            Those that are over; they are watched no longer. Empty if the time ran out first.
        """
        deadline = time.monotonic() + max(0.0, timeout)
        while self._plain or self._descriptors:
            over = {process for process in self._plain if not alive(process)}
            self._plain -= over
            left = 0.0 if over else max(0.0, deadline - time.monotonic())
            nap = min(left, _POLL if self._plain else _LONGEST_POLL)
            # Rounded up: a poll that wakes a fraction of a millisecond early would spin until the deadline.
            for descriptor, _ in self._poll.poll(-int(-nap * 1000 // 1)):
                over.add(self._descriptors.pop(descriptor))
                self._poll.unregister(descriptor)
                os.close(descriptor)
            if over or left <= 0:
                return over
        return set()
