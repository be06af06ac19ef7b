"""End families of processes, all at once, and make sure that they are gone.

A family is the process of a service and all that descends from it. Ending goes by rising force: ask
(SIGTERM), wait, hold still (SIGSTOP), kill (SIGKILL), look again. It is done for all families together under
one deadline, so that a hundred children that ignore the question take as long as one.

Who belongs to a family is asked of the system several times, for processes come and go: before anything is
sent (afterwards a grandchild's parent may be gone, and with it the trace), whenever a member ends, and before
each round of killing. Three traces are followed: parents, the session (when the family was given one of its
own), and a mark in the environment (when it was given one), which survives a daemon's double fork.

Politeness: a process that looks after children of its own is asked first and they only once it is gone, or it
would start them anew. A family with its own session is asked as a whole, as a terminal or systemd would do
it: a shell that waits for its child cannot answer before that child is over.

Invariant: this process, and what it descends from, belongs to no family, and no trace is followed that leads
to them: a program may be started anew from within what its last run has left.

What this module refuses to know: what a service is, event loops, who reaps whom.
"""

import os
import signal
import time
from collections.abc import Iterable, Sequence
from typing import final

from aiopool.services._process import ExitWaiter, ProcessId, ProcessTable, alive, send

__all__ = ["MARK", "ProcessTree", "end_trees", "refresh_trees"]

MARK = "AIOPOOL_SERVICE"
"""The environment variable that marks the descendants of a command that we started."""

# How long a round of killing waits before it looks for processes that were forked meanwhile.
_KILL_ROUND = 0.2

# Each generation that is born while it is looked for costs a round; more than a few is a race that cannot be won.
_HOLD_ROUNDS = 10

# SIGKILL works at once, but not in no time: what a deadline of zero still grants for being sure,
_VERIFY = 0.5
# and what is granted when even that is over.
_LAST_LOOK = 0.05


@final
class ProcessTree:
    """The processes of one service: its roots, and all that was ever seen to descend from them.

    Args:
        roots: the processes that are asked first.
        members: descendants known from before.
        own_session: each root was started as the leader of a session of its own.
        mark: the value of `MARK` in the environment of the roots.
    """

    # The mutable state of a family is `members`, which only grows while members live, and `errors`.
    __slots__ = ("errors", "forced", "mark", "members", "own_session", "roots")

    def __init__(
        self,
        roots: Iterable[ProcessId],
        *,
        members: Iterable[ProcessId] = (),
        own_session: bool = False,
        mark: str | None = None,
    ) -> None:
        self.roots = tuple(roots)
        self.members = {*members, *self.roots}
        self.own_session = own_session
        self.mark = mark
        self.forced = False
        self.errors: list[str] = []

    def refresh(self, table: ProcessTable) -> None:
        """Add what has come, and forget who is gone."""
        mine = table.lineage(os.getpid())
        known = self.members - mine
        found: set[ProcessId] = set()
        for process in known:
            found |= table.children_of(process)
        traces: list[set[ProcessId]] = []
        if self.own_session:
            # The number of a session is not given out again while it has a member. So if one that we know is in
            # it still, it is the session that we started, even after its leader is gone.
            ours = {table.session_of(process) for process in known | found}
            traces += [table.session(root.pid) for root in self.roots if root.pid in ours]
        if self.mark is not None:
            traces.append(table.marked(MARK).get(self.mark, set()))
        kept = {process for process in known if process in table}
        self.members = kept.union(found, *(trace for trace in traces if trace.isdisjoint(mine)))

    def living(self) -> set[ProcessId]:
        """The members that run now."""
        return {process for process in self.members if alive(process)}

    def to_terminate(self) -> set[ProcessId]:
        """Whom to ask to end: everybody, if no root is left to do it, or the session is our own."""
        living = self.living()
        roots = living.intersection(self.roots)
        return living if self.own_session or not roots else roots

    def send(self, processes: Iterable[ProcessId], signum: int) -> None:
        """Send a signal to some of them; what the system refuses is noted in `errors`."""
        for process in processes:
            try:
                send(process, signum)
            except PermissionError:
                text = f"process {process.pid} may not be signalled: it belongs to another user"
                if text not in self.errors:
                    self.errors.append(text)


def refresh_trees(families: Iterable[ProcessTree]) -> None:
    """Look at all processes once, and tell every family who belongs to it."""
    table = ProcessTable()
    for family in families:
        family.refresh(table)


def end_trees(families: Sequence[ProcessTree], *, force_at: float, deadline: float) -> None:
    """End all processes of all families, together.

    Those that are still there afterwards are in `family.living()`; `family.forced` says that asking was not
    enough.

    Args:
        families: whom.
        force_at: when asking ends and killing begins, in the seconds of `time.monotonic()`.
        deadline: when to give up on what cannot even be killed. Killing is never left out, and is given half
            a second even if the deadline is past.
    """
    refresh_trees(families)
    with ExitWaiter(process for family in families for process in family.members) as watch:
        _terminate(families, watch, force_at)
        _kill(families, watch, max(deadline, time.monotonic() + _VERIFY))


def _terminate(families: Sequence[ProcessTree], watch: ExitWaiter, force_at: float) -> None:
    asked: set[ProcessId] = set()
    while time.monotonic() < force_at:
        living = False
        for family in families:
            todo = family.to_terminate()
            living = living or bool(todo)
            family.send(todo - asked, signal.SIGTERM)
            # A process that is stopped (Ctrl-Z, a debugger) could not answer; systemd does the same.
            family.send(todo - asked, signal.SIGCONT)
            asked |= todo
        if not living:
            return
        watch.wait(force_at - time.monotonic())
        # With a member its traces go; and one that is about to end may have forked on its way out.
        refresh_trees(families)
        watch.add(process for family in families for process in family.members)


def _kill(families: Sequence[ProcessTree], watch: ExitWaiter, deadline: float) -> None:
    while True:
        _freeze(families)
        left = {family: living for family in families if (living := family.living())}
        if not left:
            return
        for family, living in left.items():
            family.forced = True
            family.send(sorted(living, key=lambda process: process not in family.roots), signal.SIGKILL)
        round_ends = max(min(deadline, time.monotonic() + _KILL_ROUND), time.monotonic() + _LAST_LOOK)
        watch.add(process for living in left.values() for process in living)
        while any(map(alive, (process for living in left.values() for process in living))):
            if time.monotonic() >= round_ends:
                break
            watch.wait(round_ends - time.monotonic())
        # Not before the first round: to look may have taken all the time there was, and they stand still by now.
        if time.monotonic() >= deadline:
            return


def _freeze(families: Sequence[ProcessTree]) -> None:
    """Stop all members (SIGSTOP), and find those that they have forked until then.

    Whoever is killed while it forks leaves a child that has lost its parent before anybody saw it. From the
    moment at which SIGSTOP is sent no fork of that process succeeds any more, and its children keep their
    parent.
    """
    held: set[ProcessId] = set()
    for _ in range(_HOLD_ROUNDS):
        refresh_trees(families)
        found = {family: family.living() - held for family in families}
        if not any(found.values()):
            return
        for family, processes in found.items():
            family.send(processes, signal.SIGSTOP)
            held |= processes
