"""`Job`: one submitted call, and the awaitable handle of it.

A job does not know its pool: its spec names an owner with four verbs, and while it runs it has a place (the
worker). This is the only module that assigns a job's status; each method that does is named after an event of the table
in `status.py`.

The mutable state of a job is its status, the number of its attempt, four moments, its outcome, who waits for it, and
its place: the bucket of the queue in which it lies, or the worker that runs it. Whatever few jobs have (a group, a
stop request, progress, callbacks, earlier failures) lives in `JobExtra`, made on first use: a queued job
must stay small.
"""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import copy_context
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from aiopool._jobs.fair_shares import Share
from aiopool._jobs.lease import Lease
from aiopool._jobs.limits import Key
from aiopool._jobs.records import AttemptRecord, JobOutcome
from aiopool._jobs.spec import JobSpec
from aiopool._jobs.status import JobStatus
from aiopool._jobs.stop import StopRequest
from aiopool._jobs.waiters import JobObserver, notify
from aiopool._runtime.faults import set_traceback
from aiopool.errors import JobPendingError

if TYPE_CHECKING:  # it comes with whoever asks for a moment by the wall clock
    import datetime

__all__ = [
    "Job",
    "JobExtra",
    "OnError",
    "current_job",
    "make_job",
    "remote_job",
    "running_job",
]

T = TypeVar("T")

# Bound once: an attribute of an enum class costs a lookup through its metaclass on every job.
SCHEDULED = JobStatus.SCHEDULED
QUEUED = JobStatus.QUEUED
RUNNING = JobStatus.RUNNING
SUCCEEDED = JobStatus.SUCCEEDED

running_job: contextvars.ContextVar[Job[Any] | None] = contextvars.ContextVar("aiopool_running_job", default=None)
# In a process of a pool: what stands for the job there (`RemoteJob`). It is no job of any pool in this process.
remote_job: contextvars.ContextVar[Any] = contextvars.ContextVar("aiopool_remote_job", default=None)


_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class JobExtra:
    """What few jobs have. Defaults of the class, not slots: most of it is never set, and unset it costs nothing."""

    id: int | str | None = None  # the user's own
    lease: Lease | None = None  # of a job that a store has given to the pool, for one attempt
    delay = 0.0  # seconds until it enters the queue
    group: Any = None  # a `GroupState`
    stop: StopRequest | None = None
    callbacks: list[tuple[Callable[[Job[Any]], object], contextvars.Context]] | None = None
    parked: Any = None  # a `GroupState` that is paused, or a `Lane` without a place: it came out of the queue
    returned: Any = None  # the `Lane` out of which it came back to the queue, to start
    share: Share | None = None  # of its key, until it starts
    share_tag = 0.0
    reserved: tuple[Any, ...] = ()  # lanes that are kept for it while it is parked in another
    places: Sequence[Any] = ()  # the lanes in which the running attempt has a place
    entered_at = 0.0  # when it took them
    missing: Any = ()  # of these, a list of those that are lent
    on_ready: Callable[[], object] | None = None  # called when it has them back
    due_at: float | None = None  # when a scheduled job enters the queue
    history: list[AttemptRecord] | None = None
    awaiters = 0  # of a job that has failed: who will be told, and has not been cancelled since
    has_lent = False  # it has waited for another job of the pool
    lent = 0  # how many of its tasks wait for another job of the pool
    away = 0.0  # seconds since submission that it did not wait in line, by its delays and attempts
    reclaim_waiter: asyncio.Future[bool] | None = None  # the one of them that wants a slot back
    leaked = False
    abandoned = False  # outlived its outcome: the code still runs
    cancel_reason: str | None = None  # the reason given for a cancel
    exit_waiters: list[asyncio.Future[None]] | None = None  # wait until no line of it runs
    progress: tuple[float, str] | None = None
    timeout: float | None = None  # seconds, of the limit that was changed by the running attempt
    parent: int | str | None = None  # noted where records of jobs that have ended are kept; see `Job.parent`
    check_at: float | None = None  # when the running attempt is to be checked, if not at its time limit


@final
class Job(Generic[T]):
    """One submitted call, and the awaitable handle of it.

    Await it for its result. Awaiting never cancels the job: cancel the job for that. Any number of tasks may await
    it, before and after it is done; each gets the same object, returned or raised.

    Raises (when awaited):
        JobCancelledError: the job was cancelled. An ordinary exception: the awaiting task was not.
        JobTimeoutError: one of its time limits ran out.
        BaseException: whatever the function raised in its last attempt, with a note about the attempt.

    If the caller is cancelled while it waits, the job goes on.

    Example:
        job = await pool.submit(fetch, url)
        page = await job
    """

    # `make_job` sets all of these but three, because every store is paid for by every job: `_location` comes with the
    # place, `_started_at` with the first attempt, and `_value` with the end.
    _function: Callable[..., Any] | None
    _args: tuple[Any, ...]
    _context: contextvars.Context | None
    _spec: JobSpec
    _sequence: int
    _status: JobStatus
    _attempt: int
    _submitted_at: float
    _started_at: float
    _finished_at: float | None
    _location: Any  # the bucket of the queue, then the worker; None in between, before and after
    _waiters: Any  # None, one waiter, or a dict: futures and observers; see `waiters.py`
    _extra: JobExtra | None
    _value: Any

    __slots__ = (
        "__weakref__",
        "_args",
        "_attempt",
        "_context",
        "_extra",
        "_finished_at",
        "_function",
        "_location",
        "_sequence",
        "_spec",
        "_started_at",
        "_status",
        "_submitted_at",
        "_value",
        "_waiters",
    )

    # -- questions ---------------------------------------------------------------------------------------------

    @property
    def id(self) -> int | str:
        """The id that was given with `with_options(id=…)`, or the job's number in its pool."""
        extra = self._extra
        return self._sequence if extra is None or extra.id is None else extra.id

    @property
    def idempotency_key(self) -> str:
        """A text that is the same in each attempt of the job, and of no other job: for the other side of a call.

        Of a job of a store it is the id, which is the same on every host. Of another it names the pool, too; it is
        unique while the process lives.

        Example:
            await bank.transfer(amount, idempotency_key=current_job().idempotency_key)
        """
        extra = self._extra
        if extra is not None and extra.lease is not None:
            return str(self.id)
        return f"{self._spec.owner.name}-{self.id}"

    @property
    def name(self) -> str:
        """What the job is called in logs: its option `name`, or the function's name."""
        return self._spec.name

    @property
    def status(self) -> JobStatus:
        """Where the job is."""
        return self._status

    @property
    def priority(self) -> int:
        """Its place in line: lower goes first."""
        return self._spec.priority

    @property
    def timeout(self) -> float | None:
        """How many seconds an attempt of it may run, unless that attempt changes it; None: any number."""
        return self._spec.timeout

    @property
    def group(self) -> str | None:
        """The name of its group."""
        return self._spec.group

    @property
    def key(self) -> Key | None:
        """What it has to do with: its option `key`, for limits."""
        return self._spec.key

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Its option `metadata`, to be read only; empty if it has none."""
        metadata = self._spec.metadata
        return _NO_METADATA if metadata is None else MappingProxyType(metadata)

    @property
    def parent(self) -> int | str | None:
        """The id of the job of the same pool inside of which it was submitted, or None.

        Nothing is stored for it: it is read off the context of a live job. Of a job that has ended it is known only
        where the pool keeps that (`Pool(keep_finished=…)`).
        """
        extra = self._extra
        if extra is not None and extra.parent is not None:
            return extra.parent
        found = None if self._context is None else self._context.get(running_job)
        if found is self:
            found = self._location.submitter() if self._status is RUNNING else None
        return None if found is None or found._spec.owner is not self._spec.owner else found.id

    @property
    def attempt(self) -> int:
        """The number of the attempt that runs or ran last, from 1; 0 before the first."""
        return self._attempt

    @property
    def pool_name(self) -> str:
        """The name of its pool."""
        return self._spec.owner.name

    @property
    def worker_id(self) -> int | None:
        """The number of the worker that runs it; None if it is not running."""
        worker: int | None = self._location.id if self._status is RUNNING else None
        return worker

    @property
    def submitted_at(self) -> float:
        """When it was submitted, on the loop's clock (seconds), to a tenth of a millisecond."""
        return self._submitted_at

    @property
    def submitted_time(self) -> datetime.datetime:
        """When it was submitted, by the clock on the wall, in UTC.

        The pool keeps moments of the loop's clock (`submitted_at`), which is never set back; this one is worked out
        when it is asked for. It is the same each time, unless the wall clock was set meanwhile.
        """
        return self._spec.owner.wall_time(self._submitted_at)

    @property
    def started_at(self) -> float | None:
        """When its last attempt began, on the loop's clock (seconds)."""
        return self._started_at if self._attempt else None

    @property
    def started_time(self) -> datetime.datetime | None:
        """When its last attempt began, by the clock on the wall, in UTC; None before that."""
        return self._spec.owner.wall_time(self._started_at) if self._attempt else None

    @property
    def finished_at(self) -> float | None:
        """When it was done, on the loop's clock (seconds)."""
        return self._finished_at

    @property
    def finished_time(self) -> datetime.datetime | None:
        """When it was done, by the clock on the wall, in UTC; None before that."""
        return None if self._finished_at is None else self._spec.owner.wall_time(self._finished_at)

    @property
    def progress(self) -> tuple[float, str] | None:
        """What the job last said with `report_progress`: a fraction and a message; None before that."""
        return None if self._extra is None else self._extra.progress

    @property
    def history(self) -> tuple[AttemptRecord, ...]:
        """The attempts that have failed so far, the first one first."""
        extra = self._extra
        return () if extra is None or extra.history is None else tuple(extra.history)

    @property
    def leaked(self) -> bool:
        """Whether its waiters were released while its code would not end."""
        return self._extra is not None and self._extra.leaked

    @property
    def waiting_for(self) -> str | None:
        """Why the job does not run; None if it runs, or is done.

        `"slot"`, `"admission"` (its `submit` waits), `"delay"`, `"backoff"`, `"pool paused"`, `"group paused"` or
        `"limit"` (as many run, or have started, as a `Limit` allows).
        """
        return self._spec.owner.waiting_for(self)

    def stack(self) -> traceback.StackSummary:
        """Return where the running job is suspended, or what its thread does now: its calls, the outermost first.

        Empty if it does not run, or runs in a process. Costs some microseconds; the lines are read from their files
        when they are printed.

        Example:
            print("".join(job.stack().format()))
        """
        frames = self._location.call_frames() if self._status is RUNNING else ()
        rows = ((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) for frame in frames)
        return traceback.StackSummary.from_list(
            [traceback.FrameSummary(file, line, name, lookup_line=False) for file, line, name in rows]
        )

    def done(self) -> bool:
        """Whether the job has ended, in whichever way."""
        return self._finished_at is not None

    def cancelled(self) -> bool:
        """Whether the job ended by a cancel."""
        return self._status is JobStatus.CANCELLED

    def result(self) -> T:
        """Return what the job returned, or raise what awaiting it raises.

        Raises:
            JobPendingError: the job is not done.
        """
        if self._status is SUCCEEDED:
            value: T = self._value
            return value
        self._require_done("result")
        error, traceback = self._value
        try:
            # The first traceback each time, or it would grow with every awaiter.
            raise set_traceback(error, traceback)
        finally:
            del self, error, traceback  # this frame is in the traceback now: no cycle through it

    def exception(self) -> BaseException | None:
        """Return what awaiting the job raises, or None if it succeeded.

        Raises:
            JobPendingError: the job is not done.
        """
        if self._status is SUCCEEDED:
            return None
        self._require_done("exception")
        error: BaseException = self._value[0]
        return error

    def outcome(self) -> JobOutcome[T]:
        """Return how the job ended, as a frozen record.

        Raises:
            JobPendingError: the job is not done.
        """
        self._require_done("outcome")
        assert self._finished_at is not None
        ok, extra, wall_time = self._status is SUCCEEDED, self._extra, self._spec.owner.wall_time
        started = self._started_at if self._attempt else self._finished_at
        return JobOutcome(
            id=self.id,
            name=self._spec.name,
            status=self._status,
            value=self._value if ok else None,
            error=None if ok else self._value[0],
            attempts=self._attempt,
            waited=started - self._submitted_at,
            seconds=self._finished_at - started,
            reason=None if extra is None else extra.cancel_reason,
            leaked=self.leaked,
            history=self.history,
            priority=self._spec.priority,
            group=self._spec.group,
            metadata=dict(self._spec.metadata or {}),
            parent=self.parent,
            submitted_time=wall_time(self._submitted_at),
            started_time=wall_time(self._started_at) if self._attempt else None,
            finished_time=wall_time(self._finished_at),
        )

    def _require_done(self, what: str) -> None:
        if self._finished_at is None:
            raise JobPendingError(f"{what}() of {self!r}: it is not done. Write `await job`, or ask job.done() first")

    # -- waiting -----------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T]:
        if self._finished_at is None:
            yield from self._spec.owner.wait(self, running_job.get())
        if self._status is SUCCEEDED:
            value: T = self._value
            return value
        try:
            return self.result()
        finally:
            del self

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job is done, for at most `timeout` seconds; never raise its exception.

        If the caller is cancelled, the job goes on.

        Returns:
            Whether it is done.
        """
        if self._finished_at is not None:
            return True
        try:
            async with asyncio.timeout(timeout):
                await _Wait(self)
        except TimeoutError:
            return self.done()
        return True

    def add_done_callback(self, callback: Callable[[Job[T]], object]) -> None:
        """Call `callback(job)` when the job is done; at once, if it is.

        It runs in the loop, before the awaiters go on, in the context of whoever added it, as with a future of asyncio.
        If it raises, that is logged and hurts nobody. `KeyboardInterrupt` and `SystemExit` end the program, as they do
        from a job.
        """
        if self._finished_at is not None:
            self._spec.owner.call_back(self, callback)
            return
        extra = self._ensure_extra()
        if extra.callbacks is None:
            extra.callbacks = []
        extra.callbacks.append((callback, copy_context()))
        self._spec.owner.expect(self)

    def remove_done_callback(self, callback: Callable[[Job[T]], object]) -> int:
        """Take a callback back that was added with `add_done_callback`; return how often it was there.

        With these two, `asyncio.wait` takes jobs as it takes tasks.
        """
        extra = self._extra
        if extra is None or extra.callbacks is None:
            return 0
        kept = [row for row in extra.callbacks if row[0] != callback]
        removed = len(extra.callbacks) - len(kept)
        extra.callbacks = kept or None
        return removed

    # -- acting ------------------------------------------------------------------------------------------------

    def cancel(self, reason: str | None = None) -> bool:
        """Ask the job to end; from any thread.

        A queued or scheduled job is gone when this returns. A running one is told; it ends at its next `await`, and
        may clean up. Use `await pool.cancel(job.id)` to wait for that.

        Args:
            reason: goes into the error, the event and the log.

        Returns:
            Whether this call asked: False if the job was done, or had been asked before. From another thread than
            the loop's: True if it was not done when asked.
        """
        return self._spec.owner.cancel(self, reason)

    def report_progress(self, fraction: float, message: str = "") -> None:
        """Store how far the job is, for readers of `job.progress`; for the job itself, in the loop or in its thread.

        Nothing else happens: no event, no line of the log. The last report stays, through retries and after the end.

        Args:
            fraction: the part that is done, from 0 to 1; it is not checked.
            message: what the job does now.

        Example:
            current_job().report_progress(0.5, "second half")
        """
        self._ensure_extra().progress = (fraction, message)

    def set_timeout(self, seconds: float | None) -> None:
        """Give the running attempt `seconds` from now, in place of its time limit; None takes the limit away."""
        self._spec.owner.set_timeout(self, seconds)

    def _ensure_extra(self) -> JobExtra:
        if self._extra is None:
            self._extra = JobExtra()
        return self._extra

    @property
    def _aged_from(self) -> float:
        """The moment from which its waiting counts, if waiting weighs."""
        return self._submitted_at if self._extra is None else self._submitted_at + self._extra.away

    @property
    def _share_tag(self) -> float:
        """Its place among jobs of its priority, if keys have fair shares."""
        return 0.0 if self._extra is None else self._extra.share_tag

    @property
    def _first_delay(self) -> float:
        """Seconds from submission until it first entered, or enters, the queue."""
        return 0.0 if self._extra is None else self._extra.delay

    # -- the doors: every change of status, named after its event ------------------------------------------------

    def _delay(self, due: float) -> None:
        """delay, retry: it waits for a moment."""
        self._status = SCHEDULED
        self._ensure_extra().due_at = due

    def _come_due(self) -> None:
        """come due: the moment is here."""
        self._status = QUEUED
        extra = self._ensure_extra()
        assert extra.due_at is not None
        # What lies behind it was no waiting in line: the delay, or an attempt and its backoff.
        extra.away += extra.due_at - (self._started_at if self._attempt else self._aged_from)
        extra.due_at = None

    def _start(self, worker: object, now: float) -> None:
        """start: a worker has it."""
        self._status = RUNNING
        self._location = worker
        self._attempt += 1
        self._started_at = now

    def _ran(self, attempt: int, started_at: float) -> None:
        """It has run in a place that we do not know, this often: see `_durable/handles.py`. Then it ends."""
        self._attempt = attempt
        self._started_at = started_at

    def _finish(self, status: JobStatus, value: Any, now: float) -> None:
        """return, raise, expire, cancel: the end, once; the call is let go of, and who waits is woken."""
        self._status = status
        self._value = value
        self._finished_at = now
        self._function = self._context = self._location = None
        self._args = ()
        if self._waiters is not None:
            notify(self)

    def __repr__(self) -> str:
        about = f"attempt {self._attempt}" if self._attempt else f"priority {self.priority}"
        return f"<Job {self.id!r} {self._spec.name} {self._status} {about}>"


_new: Callable[[type[Job[Any]]], Job[Any]] = Job.__new__


def make_job(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    spec: JobSpec,
    sequence: int,
    now: float,
    owner: JobObserver | None,
) -> Job[Any]:
    """submit: make a job that is about to be queued, in a copy of the caller's context.

    A function, for a class with an `__init__` is called in a third more time (3.11).
    """
    job = _new(Job)
    job._function = function
    job._args = args
    job._context = copy_context()
    job._spec = spec
    job._sequence = sequence
    job._submitted_at = now
    job._status = QUEUED
    job._attempt = 0
    job._finished_at = job._extra = None
    job._waiters = owner
    return job


class _Wait:
    """Await a job that is not done, without its outcome."""

    __slots__ = ("_job",)

    def __init__(self, job: Job[Any]) -> None:
        self._job = job

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._job._spec.owner.wait(self._job, running_job.get())


OnError = Callable[[Job[Any], BaseException], object]
"""What is called with a job that failed while nobody awaited it, and its exception."""


def current_job() -> Job[Any]:
    """Return the job in which the caller runs, in its own task, a task it made, its thread or its process.

    In a process it has only `id`, `name`, `attempt` and `report_progress`.

    Raises:
        RuntimeError: the caller is in no job.
    """
    job = running_job.get()
    if job is None:
        job = remote_job.get()
    if job is None:
        raise RuntimeError(
            "current_job() was called outside of any job. Call it in a function that a pool runs: "
            "`await pool.submit(function)`"
        )
    return job
