"""`Fleet`: what is asked of all pools that share a store and a name, on whichever host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, final

from aiopool._jobs.job import Job
from aiopool._jobs.limits import Limit, check_limit
from aiopool.errors import UnknownJobError
from aiopool.stores._protocol import Store
from aiopool.stores._rows import LimitRow, StoredJob, StoredStatus, StoreStatistics

__all__ = ["Fleet", "limit_row"]


def limit_row(name: str, limit: Limit) -> LimitRow:
    """Return a limit as a store has it.

    Raises:
        ValueError: it has a cooldown, which is a matter of one process.
    """
    if limit.cooldown is not None:
        raise ValueError(
            f"the limit {name!r} has a cooldown, which holds in one process only: with a store write "
            "Limit(max_at_once=..., max_per_second=...), or a circuit breaker as a layer"
        )
    return LimitRow(name, limit.max_at_once, limit.max_per_second, limit.burst)


@final
class Fleet:
    """All pools that share the store and the name of one: what `pool.fleet` returns.

    Every method asks the store, and raises `StoreError` if that cannot answer. If the caller is cancelled, what was
    asked may have been done.

    Attributes:
        store: the store of the pool.
    """

    __slots__ = ("_handle", "store")

    def __init__(self, store: Store, handle: Callable[[str, str], Job[Any]]) -> None:
        """`handle(id, name)` returns the handle of a job that the store knows."""
        self.store = store
        self._handle = handle

    async def statistics(self) -> StoreStatistics:
        """Return the jobs of the fleet in numbers: by status, the age of the oldest, the processes that run jobs."""
        return await self.store.statistics()

    async def find(self, id: int | str) -> StoredJob | None:
        """Return all that the store knows of a job, live or ended; None: it knows none with this id."""
        rows = await self.store.find([str(id)])
        return rows[0] if rows else None

    async def job(self, id: int | str) -> Job[Any]:
        """Return a job by its id, to await it or to cancel it, whoever has submitted it.

        Raises:
            UnknownJobError: the store knows no such job.

        Example:
            report = await (await pool.fleet.job(id))
        """
        row = await self.find(id)
        if row is None:
            raise UnknownJobError(
                f"the store knows no job with the id {id!r}: it was never submitted, or its row was removed some time "
                "after its end"
            )
        return self._handle(row.id, row.name)

    async def jobs(
        self,
        status: StoredStatus | str | None = None,
        *,
        name: str | None = None,
        group: str | None = None,
    ) -> AsyncIterator[StoredJob]:
        """Return jobs one after the other, for `async for`, the newest first; live ones, if no status is named.

        Example:
            async for row in pool.fleet.jobs("dead"):
                print(row.id, row.error)
        """
        wanted, cursor = None if status is None else StoredStatus(status), None
        while True:
            rows, cursor = await self.store.page(status=wanted, name=name, group=group, limit=100, cursor=cursor)
            for row in rows:
                yield row
            if cursor is None:
                return

    async def cancel_all(self, reason: str | None = None, *, group: str | None = None, name: str | None = None) -> int:
        """Cancel all live jobs of the fleet, or those of a group or a name; return how many were told.

        Those that wait are gone when it returns; those that run end soon after.
        """
        told, cursor, store = 0, None, self.store
        while True:
            rows, cursor = await store.page(name=name, group=group, limit=500, cursor=cursor)
            if rows:
                answers = await store.cancel([row.id for row in rows], reason)
                told += sum(answer.was in ("queued", "running") for answer in answers)
            if cursor is None:
                return told

    async def pause(self) -> None:
        """Let no job start, in any process of the fleet, until `resume()`; running ones go on."""
        await self.store.set_paused(True)

    async def resume(self) -> None:
        """Let jobs start again."""
        await self.store.set_paused(False)

    async def retry(self, *ids: int | str) -> int:
        """Put jobs that have ended back into the queue, with all of their attempts; return how many."""
        return await self.store.requeue([str(id) for id in ids], None)

    async def requeue_dead(self, status: StoredStatus | str = StoredStatus.DEAD) -> int:
        """Put all jobs with a final status back into the queue, by default those given up; return how many."""
        return await self.store.requeue(None, StoredStatus(status))

    async def set_limit(self, name: str, limit: Limit) -> None:
        """Set a limit of `Pool(limits=...)` for the whole fleet; it holds at once.

        A pool that opens sets its own again.

        Args:
            name: the name under which the limit was given.
            limit: the new one.
        """
        check_limit("limit", limit)
        await self.store.set_limits([limit_row(name, limit)])
