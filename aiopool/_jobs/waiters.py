"""Who waits for the end of a job: futures of those who await it, and observers.

The first waiter is kept as it is and only a second one makes a dict: nearly every job has one waiter, or none. The dict
is an ordered set: however many wait for one job, each may leave at once.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

__all__ = ["JobObserver", "add_waiter", "awaiter_count", "notify", "remove_waiter"]


class JobObserver:
    """Is told of the end of jobs that it does not await: the block of a group, a map, a task that has lent its slot."""

    # No abstract class: `isinstance` is asked for each waiter of a job, and costs ten times more for one.

    __slots__ = ()

    def handles_errors(self) -> bool:
        """Whether a failure of its jobs is its own business, so that nobody else has to be told."""
        raise NotImplementedError  # pragma: no cover: each kind of observer answers this itself

    def job_done(self, job: Any) -> None:
        """Take note that a job has ended. It must not raise."""
        raise NotImplementedError  # pragma: no cover: each kind of observer does this itself


class Awaited(Protocol):
    """What is known of a job here."""

    _waiters: Any  # None, one waiter, or a dict of them


def add_waiter(job: Awaited, waiter: asyncio.Future[Any] | JobObserver) -> None:
    """Have a future set, or an observer told, at the end of a job."""
    waiters = job._waiters
    if waiters is None:
        job._waiters = waiter
    elif type(waiters) is dict:
        waiters[waiter] = None
    else:
        job._waiters = {waiters: None, waiter: None}


def remove_waiter(job: Awaited, waiter: asyncio.Future[Any] | JobObserver) -> None:
    """Take a waiter back, if it is there; nothing of it stays."""
    waiters = job._waiters
    if waiters is waiter:
        job._waiters = None
    elif type(waiters) is dict:
        waiters.pop(waiter, None)
        if not waiters:
            job._waiters = None


def awaiter_count(job: Awaited) -> int:
    """Return how many will hear of the outcome; a future that was cancelled in this turn will not."""
    waiters = job._waiters
    if waiters is None:
        return 0
    if type(waiters) is not dict:
        waiters = (waiters,)
    return sum(w.handles_errors() if isinstance(w, JobObserver) else not w.done() for w in waiters)


def notify(job: Awaited) -> None:
    """Tell all waiters that the job is done, in the order in which they came; none is kept."""
    waiters, job._waiters = job._waiters, None
    if isinstance(waiters, JobObserver):
        waiters.job_done(job)
        return
    for waiter in waiters if type(waiters) is dict else (waiters,):
        if isinstance(waiter, JobObserver):
            waiter.job_done(job)
        elif not waiter.done():
            waiter.set_result(None)
