"""`cancel_jobs`: cancels many jobs of a pool, in slices, and waits for their ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, final

from aiopool._engine.engine import Engine
from aiopool._engine.walk import COPIED, walk
from aiopool._jobs.job import Job, running_job
from aiopool._pool.state import PoolState

__all__ = ["cancel_jobs"]

# A progress is told once in so many jobs.
TOLD_EVERY = 1000


async def cancel_jobs(
    state: PoolState,
    engine: Engine,
    reason: str | None,
    group: str | None,
    where: Callable[[Job[Any]], object] | None,
    on_progress: Callable[[int, int], object] | None,
) -> int:
    """Cancel the jobs that there are now; see `Pool.cancel_all`."""
    known = None if group is None else engine.groups.get(group)
    choice = _Choice(group, where)
    refuse_each = engine.admission.cancel_all(choice.takes, reason)  # last: from here on nobody is admitted
    own, cancelled, seen = running_job.get(), 0, 0
    running: list[Job[Any]] = []
    jobs: Iterator[Job[Any] | None]
    if group is None or (known is not None and len(known.members) > COPIED):
        total, jobs = len(engine.jobs), walk(engine.jobs)
    else:
        members = [] if known is None else [job._sequence for job in known.members]
        total, jobs = len(members), map(engine.jobs.get, members)

    def cancel_each() -> Iterator[None]:
        nonlocal cancelled, seen
        for refused in refuse_each:  # first: the others make room
            cancelled += refused
            yield
        for job in jobs:
            if job is not None:
                seen += 1
                if job is not own and choice.takes(job) and job.cancel(reason):
                    if job._extra is not None and job._extra.stop is not None:
                        running.append(job)
                    else:
                        cancelled += job.cancelled()
                if on_progress is not None and seen % TOLD_EVERY == 0:
                    choice.guard(on_progress, seen, total)
            yield

    await engine.chores.worked_off(cancel_each())
    for job in running:
        await state.stop(job, reason)
    if on_progress is not None:
        choice.guard(on_progress, seen, total)
    if choice.fault is not None:
        raise choice.fault
    return cancelled + sum(job.cancelled() for job in running)


@final
class _Choice:
    """Which jobs are cancelled. Once a function of the user's has raised, none is.

    It is asked in the middle of a chore, which must go on to its end.
    """

    __slots__ = ("_group", "_where", "fault")

    def __init__(self, group: str | None, where: Callable[[Job[Any]], object] | None) -> None:
        self._group = group
        self._where = where
        self.fault: BaseException | None = None

    def takes(self, job: Job[Any]) -> bool:
        if self.fault is not None or (self._group is not None and job._spec.group != self._group):
            return False
        return self._where is None or self.guard(self._where, job)

    def guard(self, function: Callable[..., object], *args: Any) -> bool:
        """Call a function of the user's, if none has raised, and return whether its answer is true."""
        try:
            return self.fault is None and bool(function(*args))
        except BaseException as fault:
            self.fault = fault
            return False
