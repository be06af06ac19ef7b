"""`OrphanReaper`: the duty of process 1 in a container, to reap the orphans of others.

A process that loses its parent is given to process 1 of its pid namespace. When it ends it stays in the process table
until its new parent asks for its exit code, and a program that does not know of it never asks: zombies pile up.

To ask for *any* child would be wrong: `subprocess`, `asyncio` and `multiprocessing` wait for the children that they
have started, and whoever comes too late finds another exit code. So only those are reaped of whom it is proved that
they were somebody else's child before. There are two proofs, both by how Linux hands out children:

- *The session.* A child is born in its parent's session, and may leave it for one of its own only. One that is in
  neither ours nor its own has come from elsewhere. So have the orphans of a `Command`, which has a session of its own,
  and daemons.
- *The age.* A child is ours from its birth on, or was adopted later. One that is older than our last look, and was not
  our child then, was adopted.

What escapes both, an orphan in our own session whose parent lived for less than the time between two looks (`sh -c
"program &"`), stays a zombie until the program ends. A container that starts many of these wants a real init in front
(`docker run --init`), and so do the docs say.

Invariant: no exit code is ever taken from whoever started a process.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import final

from aiopool.services._process import Child, ProcessId, children

__all__ = ["OrphanReaper"]

# Seconds between two looks: a zombie costs nothing but its place in the table.
_EVERY = 1.0


@final
class OrphanReaper:
    """Looks at the children of this process, again and again, and reaps those that are not its own.

    The children that it has when the reaper is made count as its own.
    """

    # The mutable state of a reaper is what it saw last: when, which children, in which sessions we were; and who was
    # proved to be adopted and is not over yet.
    __slots__ = ("_adopted", "_looked", "_own", "_sessions", "_tick")

    def __init__(self) -> None:
        self._tick = os.sysconf("SC_CLK_TCK")
        self._sessions = {os.getsid(0)}
        self._looked = self._now()
        self._own = {child.process for child in children(os.getpid())}
        self._adopted: set[ProcessId] = set()

    def _now(self) -> int:
        """The moment in the unit in which the system tells when a process began."""
        return int(time.clock_gettime(time.CLOCK_BOOTTIME) * self._tick)

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look once a second, for as long as the event loop turns."""
        self.look()
        loop.call_later(_EVERY, self.watch, loop)

    def look(self) -> int:
        """Reap the orphans that are over, and say how many that were."""
        now = self._now()
        # Before and after, for another thread may call setsid() meanwhile.
        self._sessions.add(os.getsid(0))
        found = children(os.getpid())
        self._sessions.add(os.getsid(0))
        known = self._own | self._adopted
        self._adopted.update(child.process for child in found if child.process not in known and self._foreign(child))
        reaped = sum(_reap(child.process) for child in found if child.zombie and child.process in self._adopted)
        present = {child.process for child in found}
        self._adopted &= present
        self._own = present - self._adopted
        self._looked = now
        return reaped

    def _foreign(self, child: Child) -> bool:
        """Whether a child that was not ours at the last look can only have been adopted since."""
        if child.session not in self._sessions and child.session != child.process.pid:
            return True
        # Born in a tick before that of the last look: then it was there, and not among our children.
        return child.process.started < self._looked


def _reap(process: ProcessId) -> bool:
    with suppress(ChildProcessError):
        return os.waitpid(process.pid, os.WNOHANG)[0] == process.pid
    return False
