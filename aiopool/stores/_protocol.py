"""`Store`: what every store can do. Six batch verbs, one stream of hints, one lifecycle; and what an operator asks.

A store belongs to one *queue*: pools whose `name` is the same share their jobs, and see nothing of others'.

What every store promises, and `tests/stores/` checks for each of them:

- **Accepted is kept.** When `submit` returns, the rows are committed as durably as the store says it commits.
- **One owner.** A job that is running has one owner and one fence. Only that fence settles it; a final status is
  written once. A job is claimed by one process, whatever others do at the same moment.
- **In order.** A claim gives jobs by priority, then in the order of their submission; retried and released ones keep
  their place. (Claims that are under way at the same moment do not wait for each other.)
- **Limits hold.** Over the whole fleet a lane never has more running jobs than its rule allows, nor more starts in any
  second. A job that has no place there holds up no job of another lane.
- **The dead are noticed.** The jobs of a process that has died go back to the queue by a `sweep` of any other process
  that runs jobs; never while it lives, however busy it is, unless its lease is lost (then its fence is void).
- **Batches.** One row of a batch that meets a conflict changes nothing for the others. A verb that raises may have been
  carried out (the connection broke): it may be sent again as it is, with the same effect as once.

Verbs are called in the event loop in which `open` was called. There is one `claim` at a time, one `settle` and one
`submit` (besides those `within` a connection); different verbs overlap. A verb that is cancelled may have been carried
out.

Errors: `StoreError` and its subclasses. `StoreUnavailableError`: the other side cannot be reached now, or has no room;
try again later. Any other `StoreError` will not go away by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from aiopool.stores._rows import (
    Beat,
    CancelAnswer,
    Claim,
    Facts,
    Finished,
    Incarnation,
    LimitRow,
    NewJob,
    ScheduleRow,
    Settlement,
    StoredJob,
    StoredStatus,
    StoreStatistics,
    Submitted,
    SweepReport,
)

__all__ = ["Keeper", "Store", "Wake"]

Wake = Literal["work", "cancel", "finished"]
"""A hint: there may be jobs to claim; a running job may have been cancelled; an awaited job may have ended. Losing one
costs time, never a job: everything is also found by asking again."""


class Keeper(Protocol):
    """Keeps the leases of one incarnation, with a connection of its own, in a thread of its own.

    All of its methods are called in that thread's event loop, which goes on running between them: so a blocked loop of
    the pool does not look dead.
    """

    async def open(self) -> None:
        """Connect, and begin to live."""
        ...

    async def beat(self) -> Beat:
        """Live for another lease."""
        ...

    async def close(self) -> None:
        """Disconnect. The incarnation lives on until its lease ends, or the store is closed."""
        ...


class Store(Protocol):
    """See the module.

    Attributes:
        url: how to open it again, without secrets; for logs.
        durability: in words, what survives: `"process"`, `"power"`, … as the store knows it once it is open.
        poll: seconds after which whoever waits asks again, though no hint has come.
        sweep_every: seconds between two sweeps of one process.
        lease: seconds for which an incarnation lives after a beat; None: the kernel tells who is alive, and there is no
            keeper.
        max_payload: bytes that the arguments, or the result, of a job may have.
        keep: seconds for which jobs that have ended stay in the history: those that succeeded, all others.
    """

    url: str
    durability: str
    poll: float
    sweep_every: float
    lease: float | None
    max_payload: int
    keep: tuple[float, float]

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    async def open(self, queue: str, me: Incarnation, on_wake: Callable[[Wake], object]) -> None:
        """Connect, bring the tables up to date, and register. `on_wake` is called in this loop, and must not raise.

        A store that was closed may be opened again, as another incarnation.

        Raises:
            StoreError: it cannot be used: what is wrong, and what to do.
        """
        ...

    async def close(self) -> None:
        """Unregister and disconnect. What the incarnation still holds goes back to the queue, as from a dead one."""
        ...

    def keeper(self) -> Keeper | None:
        """Return what keeps the leases of this incarnation, if it runs jobs; None: nothing has to."""
        ...

    async def now(self) -> float:
        """Return the time by the store's clock: seconds since 1970."""
        ...

    # -- the way of a job ----------------------------------------------------------------------------------------------

    async def submit(self, jobs: Sequence[NewJob], *, within: object | None = None) -> list[Submitted]:
        """Take jobs in, in this order; one answer each.

        `within`: an open connection of the caller's, in whose transaction they become true or not; only where the store
        has such.

        Raises:
            TypeError: `within` is nothing that this store can write through.
        """
        ...

    async def claim(self, limit: int) -> Claim:
        """Take the best `limit` jobs that may start, for this incarnation; 0 takes none, and asks for the rest."""
        ...

    async def settle(self, ends: Sequence[Settlement]) -> list[bool]:
        """Write ends; False: the job is not running under that fence any more, and nothing was changed."""
        ...

    async def cancel(self, ids: Sequence[str], reason: str | None) -> list[CancelAnswer]:
        """Cancel jobs: those that wait are cancelled when this returns, and never start; the owners of those that run
        are told. One that is `moving` is `unknown`: it may run elsewhere already."""
        ...

    async def report_progress(self, rows: Sequence[tuple[str, int, float, str]]) -> None:
        """Note how far jobs are: (id, fence, fraction, message)."""
        ...

    async def sweep(self, names: Sequence[str]) -> SweepReport:
        """Do what has to be done now and then, some of it, in one bounded step: rescue the jobs of the dead, end jobs
        whose time is over, bring back jobs that are parked and have one of these `names`, remove old history."""
        ...

    async def owned(self) -> list[tuple[str, int]]:
        """Return (id, fence) of all that this incarnation holds: for whoever has lost an answer."""
        ...

    # -- who waits, who looks ------------------------------------------------------------------------------------------

    async def finished(self, ids: Sequence[str]) -> list[Finished]:
        """Return the ends of those of some jobs that have ended, in any order."""
        ...

    async def find(self, ids: Sequence[str]) -> list[StoredJob]:
        """Return what is known of some jobs, in any order; unknown ones are left out."""
        ...

    async def page(
        self,
        *,
        status: StoredStatus | None = None,
        name: str | None = None,
        group: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[StoredJob], str | None]:
        """Return a page of jobs, the newest first, and the cursor of the next one; None: this was the last.

        Without a status: live ones. `name`, `group`: only those.
        """
        ...

    async def statistics(self) -> StoreStatistics:
        """Return the store in numbers."""
        ...

    async def schedules(self, limit: int = 200) -> list[ScheduleRow]:
        """Return the schedules that have had a moment, by `NewJob.tick`: those of the latest moments first."""
        ...

    # -- steering ------------------------------------------------------------------------------------------------------

    async def set_paused(self, paused: bool) -> None:
        """Let nobody of the fleet start a job, or let them."""
        ...

    async def set_limits(self, limits: Sequence[LimitRow]) -> None:
        """Set the limits of these rules, for the whole fleet; they hold at once. Others stay as they are."""
        ...

    async def requeue(self, ids: Sequence[str] | None, status: StoredStatus | None) -> int:
        """Put jobs that have ended back into the queue, with all of their attempts: these, or all with a status.

        Their ids stay; they stand behind those that wait, and their time limits begin anew. Returns how many. A job
        whose `unique` a live job has stays where it is.
        """
        ...

    async def forget_history(self, older_than: float) -> int:
        """Remove the rows of jobs that ended so many seconds ago, or earlier; return how many."""
        ...

    # -- to another store ----------------------------------------------------------------------------------------------

    async def export(self, limit: int) -> list[StoredJob]:
        """Take up to `limit` live jobs that do not run, to move them elsewhere: from now on they are `moving`.

        It may be fewer although there are more. They do not start here any more. Those that are `moving` already come
        first: whoever was interrupted goes on.
        """
        ...

    async def restore(self, jobs: Sequence[StoredJob]) -> None:
        """Take in jobs that another store has exported, with their attempts, moments and order.

        One that is here already, live or ended, is left as it is. One whose `unique` a live job has loses it.
        """
        ...

    async def forget_moved(self, ids: Sequence[str]) -> None:
        """Remove jobs that are `moving`, and have arrived."""
        ...

    # -- what an operator asks -----------------------------------------------------------------------------------------

    async def facts(self) -> Facts:
        """Return what there is to know about the engine, by plain words: its version, how durable it is set, how long a
        commit takes, the file system; for `aiopool doctor`. `warnings` is a list of texts: what breaks a promise;
        `notes` is another one: what is worth knowing, and breaks none."""
        ...
