"""`move_jobs`: take the live jobs of one store to another, while producers and workers of both go on.

It knows the three verbs that this takes, and no engine:

    export        these are `moving`: nobody starts them here
    restore       they are in the other store, and committed there; one that is there already stays as it is
    forget_moved  they are removed here

It may end between any two of them, in whatever way: `export` gives what is `moving` first, so the same move goes on
where it was. Always true: a job is removed here only when `restore` has returned with it; until then it starts nowhere
but there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiopool.errors import StoreError
from aiopool.stores._protocol import Store
from aiopool.stores._rows import LIVE, StoredStatus

__all__ = ["move_jobs"]

# Jobs by which two stores are told apart.
_LOOK: Final = 50


async def move_jobs(
    source: Store, target: Store, *, batch: int = 500, on_progress: Callable[[int], object] | None = None
) -> int:
    """Move all live jobs that do not run from one store to another.

    Jobs keep their ids, attempts, moments and order. Those that run stay, and so does what is submitted to the source
    after this has returned: call it again. The history, the limits of the fleet and the moments of schedules stay too.

    It may be killed at any moment: the same move, to the same target, goes on with what was on its way. Nothing is
    lost, and nothing is there twice, as long as the target still knows what it got: so go on before the time is over
    for which it keeps its history.

    Args:
        source: an open store.
        target: another open store.
        batch: jobs that are on their way at once, up to 1000.
        on_progress: called after each batch with the number of jobs moved until now. What it raises ends the move,
            between two batches: nothing is on its way then.

    Returns:
        How many jobs were moved.

    Raises:
        ValueError: `batch` is not from 1 to 1000.
        StoreError: one of the stores failed, or both are the same one.

    Example:
        moved = await move_jobs(old, new, on_progress=print)
    """
    if not 1 <= batch <= 1000:
        raise ValueError(f"batch={batch!r}: write how many jobs are on their way at once, from 1 to 1000")
    if await _are_same(source, target):
        raise _same_store(source, target)
    moved = 0
    while jobs := await source.export(batch):
        ids = [job.id for job in jobs]
        # In one and the same store they would be left as they are, and then be removed.
        if any(job.status is StoredStatus.MOVING for job in await target.find(ids)):
            raise _same_store(source, target)
        await target.restore(jobs)
        await source.forget_moved(ids)
        moved += len(jobs)
        if on_progress is not None:
            on_progress(moved)
    return moved


async def _are_same(source: Store, target: Store) -> bool:
    """Return whether two stores are one, under two names perhaps, as far as that shows before anything is changed.

    A job that is live in both, and is on its way in none, is one that was never moved: there is one store.
    """
    page, _ = await source.page(limit=_LOOK)
    there = await _settled(target, [job.id for job in page])
    here = await _settled(source, list(there))  # again: another move may have taken some of them over meanwhile
    return any(there[id] == submission for id, submission in here.items())


async def _settled(store: Store, ids: list[str]) -> dict[str, tuple[float, str]]:
    """Return by which submission each of some jobs is here; those that are ended, or on their way, are left out."""
    jobs = await store.find(ids) if ids else []
    staying = LIVE - {StoredStatus.MOVING}
    return {job.id: (job.created_at, job.submitter) for job in jobs if job.status in staying}


def _same_store(source: Store, target: Store) -> StoreError:
    return StoreError(
        f"jobs cannot be moved from {source.url} to {target.url}: they are in the target already, so it is the same "
        "store, or is being moved elsewhere itself. Nothing was removed; move to another store, or finish the other "
        "move first"
    )
