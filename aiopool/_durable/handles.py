"""`Handles`: the jobs that this process has submitted, or asks about, as those who hold them see them.

A handle is a `Job` like any other; but what runs the job may be another process, so its owner is not the engine: it is
this. A handle learns of its end when this process has written it, or by asking the store. Only jobs that somebody waits
for are asked about; a handle that nobody holds is forgotten.
"""

from __future__ import annotations

import datetime
import weakref
from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context
from itertools import islice
from typing import Any, Protocol, final

from aiopool._durable.handlers import Handlers
from aiopool._durable.payloads import decode_error
from aiopool._engine.engine import Engine
from aiopool._jobs.job import Job, JobExtra, make_job, running_job
from aiopool._jobs.spec import JobSpec
from aiopool._jobs.status import JobStatus
from aiopool._jobs.waiters import JobObserver
from aiopool.errors import JobCancelledError, PoolClosedError
from aiopool.stores._rows import Finished, StoredStatus

__all__ = ["Handles"]

# So many jobs are asked about at once.
MAX_ASKED = 1000

_ENDS = {
    StoredStatus.SUCCEEDED: JobStatus.SUCCEEDED,
    StoredStatus.FAILED: JobStatus.FAILED,
    StoredStatus.DEAD: JobStatus.FAILED,
    StoredStatus.TIMED_OUT: JobStatus.TIMED_OUT,
    StoredStatus.CANCELLED: JobStatus.CANCELLED,
}


class Canceller(Protocol):
    """Who cancels jobs of the store."""

    def __call__(self, id: str, reason: str | None) -> None: ...


@final
class Handles:
    """The handles of one open pool.

    Attributes:
        name: of the pool.
        by_id: those that somebody holds.
        expected: those that somebody waits for, in the order in which they are asked about.
        is_here: whether a job runs here, or its end is being written: nobody has to be asked then.
        on_expected: called when there is one more to ask about.
    """

    def __init__(self, name: str, engine: Engine, handlers: Handlers, cancel: Canceller) -> None:
        self.name = name
        self.by_id: weakref.WeakValueDictionary[str, Job[Any]] = weakref.WeakValueDictionary()
        self.expected: dict[str, Job[Any]] = {}
        self.is_here: Callable[[str], bool] = _nowhere
        self.on_expected: Callable[[], object] | None = None
        self._unasked: dict[str, Job[Any]] = {}
        self._engine = engine
        self._handlers = handlers
        self._cancel = cancel

    def make(self, spec: JobSpec, id: str, delay: float, block: JobObserver | None) -> Job[Any]:
        """Make the handle of a job; its spec names us as the owner."""
        job = make_job(_elsewhere, (), spec, 0, self._engine.now(), block)
        job._context = job._location = None
        extra = job._extra = JobExtra()
        extra.id = id
        if delay:
            extra.delay = delay
            job._delay(self._engine.now() + delay)
        if block is not None:
            self.expect(job)
        self.by_id[id] = job
        return job

    def expect(self, job: Job[Any]) -> None:
        """Somebody waits for a job: have it asked about, for it may have ended before anybody did."""
        if job._finished_at is None and (id := str(job.id)) not in self.expected:
            self.expected[id] = job
            if not self.is_here(id):
                self.ask_about(id)

    def ask_about(self, id: str) -> None:
        """Have a job asked about at once, if somebody waits for it."""
        job = self.expected.get(id)
        if job is not None and self.on_expected is not None:
            self._unasked[id] = job
            self.on_expected()

    def next_asked(self, *, again: bool) -> list[str]:
        """Return the ids of some jobs that are waited for: those that were not asked about yet; `again`: and then the
        others, in turn."""
        asked: list[str] = []
        is_here = self.is_here
        for id in list(islice(self._unasked, MAX_ASKED)):
            job = self._unasked.pop(id)
            if job._finished_at is None and id in self.expected and not is_here(id):
                asked.append(id)
        if again:
            known = set(asked)
            for id in list(islice(self.expected, MAX_ASKED - len(asked))):
                job = self.expected.pop(id)
                extra = job._extra
                waited = job._waiters is not None or (extra is not None and extra.callbacks)
                if job._finished_at is None and waited:
                    self.expected[id] = job
                    if id not in known and not is_here(id):
                        asked.append(id)
        return asked

    @property
    def are_unasked(self) -> bool:
        """Whether some were not asked about yet."""
        return bool(self._unasked)

    # -- the end -------------------------------------------------------------------------------------------------------

    def succeeded(self, id: str, text: str | None, attempt: int, started: float) -> None:
        """A job has ended here, and its end is written."""
        job = self.by_id.get(id)
        if job is not None and job._finished_at is None:
            job._ran(attempt, started)
            self._end_with_result(job, text)

    def finished(self, end: Finished) -> None:
        """The store says how a job has ended."""
        job = self.by_id.get(end.id) or self.expected.get(end.id)
        if job is None or job._finished_at is not None:
            return
        now = self._engine.now()
        job._ran(end.attempt, now - end.seconds)
        status = _ENDS[end.status]
        if status is JobStatus.SUCCEEDED:
            self._end_with_result(job, end.result)
            return
        if end.reason is not None and job._extra is not None:
            job._extra.cancel_reason = end.reason
        if status is JobStatus.CANCELLED:
            why = f": {end.reason}" if end.reason else ""
            error: Exception = JobCancelledError(f"job {job.name!r} id {job.id!r} was cancelled{why}")
        else:
            error = decode_error(end.error, job, end.reason)
        self._end(job, status, (error, None))

    def refused(self, job: Job[Any], error: BaseException) -> None:
        """A job was not taken in."""
        self.forget(job)
        if job._finished_at is None:
            self._end(job, JobStatus.FAILED, (error, None))

    def close(self) -> None:
        """The pool has closed: nobody hears of an end any more, so nobody waits for one."""
        for job in list(self.by_id.values()):
            if job._finished_at is None:
                text = (
                    f"pool {self.name!r} has closed, and job {job.name!r} id {job.id!r} had not ended: it is in the "
                    "store. Await it in another pool of this name: `await (await pool.fleet.job(id))`"
                )
                self._end(job, JobStatus.FAILED, (PoolClosedError(text), None))

    def forget(self, job: Job[Any]) -> None:
        """Nothing more is to be heard of a job by this handle."""
        if self.by_id.get(str(job.id)) is job:
            del self.by_id[str(job.id)]
        self.expected.pop(str(job.id), None)

    def _end_with_result(self, job: Job[Any], text: str | None) -> None:
        handler = self._handlers.get(job.name)
        try:
            value = text if handler is None else handler.signature.decode_result(text)
        except Exception as error:
            self._end(job, JobStatus.FAILED, (error, None))
        else:
            self._end(job, JobStatus.SUCCEEDED, value)

    def _end(self, job: Job[Any], status: JobStatus, value: Any) -> None:
        # Whoever asks for the job by its id from now on asks the store: it may be put back.
        self.forget(job)
        extra = job._extra
        job._finish(status, value, self._engine.now())
        if extra is not None and extra.callbacks is not None:
            callbacks, extra.callbacks = extra.callbacks, None
            for callback, context in callbacks:
                self._engine.reporter.call_hook(context, callback, job)

    # -- what a job asks of its owner ----------------------------------------------------------------------------------

    def cancel(self, job: Job[Any], reason: str | None) -> bool:
        """See `Job.cancel`: the store is told, and the job ends when that has come round."""
        runtime = self._engine.runtime
        if job._finished_at is not None:
            return False
        if runtime.on_loop_thread():
            self.expect(job)
            self._cancel(str(job.id), reason)
        else:
            runtime.loop.call_soon_threadsafe(self.cancel, job, reason)
        return True

    def wait(self, job: Job[Any], waiter: Job[Any] | None) -> Iterable[Any]:
        """Wait until a job is done; a waiter that runs in this pool lends its slot."""
        self.expect(job)
        return self._engine.lending.wait(job, waiter)

    def call_back(self, job: Job[Any], callback: Callable[[Any], object]) -> None:
        """See `Job.add_done_callback`."""
        self._engine.reporter.call_hook(copy_context(), callback, job)

    def set_timeout(self, job: Job[Any], seconds: float | None) -> None:
        """Only the job itself, where it runs, can do this."""
        raise RuntimeError(
            f"{job!r} runs in some process of the fleet: only the job itself can change its time limit, with "
            "current_job().set_timeout(...)"
        )

    def waiting_for(self, job: Job[Any]) -> str | None:
        """See `Job.waiting_for`."""
        return None if job._finished_at is not None else "store"

    def wall_time(self, at: float) -> datetime.datetime:
        """See `Job.submitted_time`."""
        return self._engine.runtime.wall_time(at)

    def run_inside_layers(self, job: Job[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> Awaitable[Any]:
        """No attempt of a handle runs."""
        raise NotImplementedError  # pragma: no cover: nobody can ask


def _nowhere(id: str) -> bool:
    return False


def _elsewhere() -> None:
    """Stands for the function of a handle, which is never called."""


def current_job_id() -> str | None:
    """Return the id of the job of the store in which the caller runs, or None."""
    job = running_job.get()
    if job is None or job._extra is None or job._extra.lease is None:
        return None
    return str(job.id)
