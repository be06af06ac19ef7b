"""Putting jobs of a store that have ended back into its queue: which are meant, how many, and a slice at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiopool._control.filters import Filter
from aiopool._control.problems import Problem
from aiopool._control.store_views import fleet_of, stored_view
from aiopool._pool.fleet import Fleet
from aiopool._pool.pool import Pool
from aiopool.stores._rows import ENDED, StoredJob, StoredStatus

__all__ = ["ENDED_STORED", "check_ended", "count_ended", "fleet_to_retry", "put_back"]

ENDED_STORED = tuple(sorted(status.value for status in ENDED))
# So many rows are read, and put back, at once.
SLICE = 200


def fleet_to_retry(pool: Pool) -> Fleet:
    """Return what is asked of the store of a pool.

    Raises:
        Problem: the pool has none, and so no job of it can run once more.
    """
    fleet = fleet_of(pool)
    if fleet is None:
        raise Problem(
            "conflict",
            "a pool in memory keeps no arguments of jobs that have ended, so it cannot run one again: submit it anew, "
            "or give the pool a store: Pool(store=..., handlers=...)",
        )
    return fleet


def check_ended(wanted: Filter, ids: list[str] | None) -> None:
    """Check a filter of jobs that have ended.

    Raises:
        Problem: it does not say how they ended, or is about what only live ones have.
    """
    if ids is None and wanted.status is None:
        raise Problem("invalid", f"status is missing: write status=dead, or another of {', '.join(ENDED_STORED)}")
    if wanted.waits_for is not None:
        raise Problem("invalid", f"waits_for={wanted.waits_for!r:.100}: jobs that have ended wait for nothing")


async def count_ended(fleet: Fleet, wanted: Filter, ids: list[str] | None) -> int:
    """Count the jobs that are meant."""
    if ids is None and wanted.status is not None and wanted.is_only_status:
        return (await fleet.statistics()).ended.get(StoredStatus(wanted.status), 0)
    return sum([len(found) async for found in _slices(fleet, wanted, ids)])


async def put_back(fleet: Fleet, wanted: Filter, ids: list[str] | None) -> AsyncIterator[tuple[int, int]]:
    """Put the jobs that are meant back into the queue, a slice at a time.

    Yields:
        How many of a slice are in the queue, and how many could not be put there: they are live already.
    """
    async for found in _slices(fleet, wanted, ids):
        done = await fleet.retry(*found) if found else 0
        yield done, len(found) - done


async def _slices(fleet: Fleet, wanted: Filter, ids: list[str] | None) -> AsyncIterator[list[str]]:
    store = fleet.store
    if ids is not None:
        for at in range(0, len(ids), SLICE):
            yield [row.id for row in await store.find(ids[at : at + SLICE]) if row.status in ENDED]
        return
    assert wanted.status is not None
    status, now, cursor = StoredStatus(wanted.status), await store.now(), None
    while True:  # the newest first: those that run and end once more meanwhile are not met again
        rows, cursor = await store.page(status=status, name=wanted.name, group=wanted.group, limit=SLICE, cursor=cursor)
        yield [row.id for row in rows if _fits(row, wanted, now)]
        if cursor is None:
            return


def _fits(row: StoredJob, wanted: Filter, now: float) -> bool:
    """Whether a job is meant; its status, name and group are known to fit."""
    if wanted.older_than is not None and now - row.created_at <= wanted.older_than:
        return False
    if wanted.error is None and wanted.label is None:
        return True
    view = stored_view(row, now=now, whole=True)
    return wanted.fits_error(view["error"]) and wanted.fits_labels(view["labels"])
