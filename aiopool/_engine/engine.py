"""`Engine`: the one door through which jobs enter, start, end, wait again and are stopped.

It holds the state of one open pool: jobs, slots and counters. It knows no worker, but what runs a job (its
`_location`) can be told to stop it. Everything here is synchronous: the engine decides and marks; waiting happens
elsewhere.

The mutable state here is the table of live jobs. What is a matter of its own has a module of its own: who may call
(`caller.py`), ids (`job_ids.py`), the queue (`queue.py`), the slots (`slots.py`), groups (`groups.py`), moments to come
(`_runtime/timers.py`, `deadlines.py`), jobs that wait for each other (`lending.py`), for space (`admission.py`) or for
the end of all jobs (`join_waiters.py`), work that concerns many jobs (`chores.py`), what an end means
(`_jobs/outcome.py`) and what it does (`endings.py`), and failures that nobody awaits (`error_reporter.py`).

Turns. Jobs that never suspend would hold the event loop: after `TIME_SLICE` seconds of them a worker rests, and goes on
in the next turn of the loop. After a suspension a worker always may take one more job: it is a turn of its own.
"""

from __future__ import annotations

import functools
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context
from copy import copy
from threading import get_ident
from typing import Any, Literal, final

from aiopool._engine.admission import Admission
from aiopool._engine.caller import CallerCheck
from aiopool._engine.chores import Chores
from aiopool._engine.deadlines import Limits
from aiopool._engine.endings import Endings
from aiopool._engine.error_reporter import ErrorReporter
from aiopool._engine.groups import GroupRegistry
from aiopool._engine.job_ids import JobIds
from aiopool._engine.join_waiters import JoinWaiters
from aiopool._engine.lanes import Lane, LaneTable
from aiopool._engine.lending import SlotLending
from aiopool._engine.queue import JobQueue
from aiopool._engine.slots import Slots
from aiopool._jobs.fair_shares import FairShares
from aiopool._jobs.job import Job, JobExtra, make_job
from aiopool._jobs.layered import layered
from aiopool._jobs.lease import Lease
from aiopool._jobs.limits import share_key
from aiopool._jobs.outcome import failure_of, next_delay, timeout_error
from aiopool._jobs.records import AttemptRecord
from aiopool._jobs.spec import JobOwner, JobSpec
from aiopool._jobs.statistics import Counters
from aiopool._jobs.status import JobStatus
from aiopool._jobs.stop import StopCause, StopRequest, outcome_status
from aiopool._jobs.waiters import JobObserver, add_waiter, awaiter_count, remove_waiter
from aiopool._observe.observers import Observers
from aiopool._runtime.faults import set_context
from aiopool._runtime.runtime import Runtime
from aiopool._runtime.timers import TimerQueue

__all__ = ["TIME_SLICE", "Engine"]

# Long enough that a turn of the loop (2 µs) does not count, short enough that nobody notices.
TIME_SLICE = 0.002
# So many turns of the loop it takes, at most, until a free worker begins a job; one after the other.
MAX_START_TURNS = 4
# So many jobs of paused groups are parked in one turn, while a worker looks for one that may start.
MAX_PARKED = 64

# Jobs submitted within so many seconds share one moment, while nobody listens: a number of its own would be 32 bytes
# more for each.
CLOCK_RESOLUTION = 0.0001

# So deep a cancel goes, the event loop's part of it included. If the stack ended on the way, asyncio would lose the
# wake-up of whoever waits for the job: a job that is cancelled from a recursion too deep is not cancelled at all.
CANCEL_FRAMES = 24
# On a stack deeper than this no job is started: it would have less of it than others have, and pools that await each
# other's jobs would go down and down.
INLINE_FRAMES = 128

SCHEDULED, QUEUED, RUNNING = JobStatus.SCHEDULED, JobStatus.QUEUED, JobStatus.RUNNING
SUCCEEDED, FAILED = JobStatus.SUCCEEDED, JobStatus.FAILED
TIMED_OUT, CANCELLED = JobStatus.TIMED_OUT, JobStatus.CANCELLED


@final
class Engine:
    """The state of one open pool; see the module."""

    __slots__ = (
        "_inline_ends",
        "_late",
        "_late_turn",
        "_looks_later",
        "_wake_worker",
        "_waking",
        "admission",
        "caller",
        "cancel_grace",
        "chores",
        "clock_cache",
        "counters",
        "endings",
        "groups",
        "ids",
        "jobs",
        "join_waiters",
        "lanes",
        "lending",
        "no_more_retries",
        "now",
        "observers",
        "on_fatal",
        "on_free",
        "owner",
        "queue",
        "queue_limits",
        "reporter",
        "runtime",
        "scheduled",
        "shares",
        "slice",
        "slice_ends",
        "slots",
        "timers",
        "total_limits",
    )

    def __init__(
        self,
        runtime: Runtime,
        *,
        size: int,
        queue_size: int | None,
        aging: float | None,
        shares: FairShares | None,
        cancel_grace: float,
        on_leak: Literal["hold", "replace"],
        owner: JobOwner,
        errors: ErrorReporter,
        wake_worker: Callable[[], bool],
        on_fatal: Callable[[BaseException], object],
    ) -> None:
        """What it is made of.

        Args:
            runtime: the pool's clock, loop and random numbers.
            size, queue_size, aging, cancel_grace, on_leak: the arguments of `Pool`.
            shares: gives the keys of jobs fair shares; None: they have none.
            owner: the pool, as its jobs know it.
            errors: takes failures that nobody awaits.
            wake_worker: wakes a worker that has no job; whether another may be woken in this turn of the loop.
            on_fatal: is called for an exception that ends the program.
        """
        self.observers: Observers | None = None  # None while there is no observer: one test, nothing built
        self.runtime = runtime
        self.now = runtime.now
        self.caller = CallerCheck(runtime)
        self.owner = owner
        self.reporter = errors
        self.counters = Counters()
        self.scheduled = 0
        self.clock_cache = -math.inf
        # Where jobs are.
        self.jobs: dict[int, Job[Any]] = {}
        self.ids = JobIds(self.jobs, runtime.next_job)
        self.queue = JobQueue(aging=aging, fair=shares is not None)
        self.shares = shares
        self.groups = GroupRegistry(self.queue)
        self.timers = TimerQueue(runtime, self._work_off)
        self.lanes = LaneTable(self.queue, self.timers, self.now, self._came_back)
        # How many run, and when.
        self.slots = Slots(size, self.wake_workers)
        self._wake_worker = wake_worker
        self._waking = False
        # A clock that stands still while code runs never comes to the end of a slice: there, each job is one.
        self.slice = 0.0 if runtime.virtual else TIME_SLICE
        self.slice_ends = 0.0
        # Jobs that an awaiter starts: for so long, until when since the last turn of the loop (0: there was none yet).
        self._inline_ends = 0.0
        # Jobs whose `queue_timeout` is over while a slot is free, and until which turn of the loop they may start.
        self._late: deque[tuple[Job[Any], int]] = deque()
        self._late_turn = 0
        self._looks_later = False
        # Who waits: for another job, for the end of all jobs, for space.
        self.lending = SlotLending(self.slots, self.lanes, runtime.loop, self.is_own, errors.unheard)
        self.join_waiters = JoinWaiters(self.jobs, self.lending, self.submitters_wait)
        self.chores = Chores(runtime, self.slots, self.queue, self.lending, self.wake_workers)
        self.admission = Admission(
            runtime,
            self.slots,
            queue_size,
            queued=self.queued,
            enter=self._enter_held,
            is_own=self.is_own,
            work_off=self.chores.work_off,
            on_refused=self.join_waiters.wake_if_idle,
        )
        self.total_limits = Limits(self.timers, self.now, self.jobs, self._total_expired)
        self.queue_limits = Limits(self.timers, self.now, self.jobs, self._queue_expired)
        # Ends.
        self.no_more_retries = False  # the pool is leaving: there will be no worker for another
        self.cancel_grace = cancel_grace
        self.on_fatal = on_fatal
        self.on_free: Callable[[], object] | None = None  # called when there may be a free slot, and no job for it
        self.endings = Endings(
            now=self.now,
            jobs=self.jobs,
            ids=self.ids,
            groups=self.groups,
            lanes=self.lanes,
            counters=self.counters,
            slots=self.slots,
            lending=self.lending,
            join_waiters=self.join_waiters,
            reporter=errors,
            on_leak=on_leak,
            on_fatal=on_fatal,
        )

    def _came_back(self) -> None:
        """A job is in the queue again. Within the end of another one there is no free slot: its worker takes it."""
        if self.slots.active < self.slots.limit:
            self.wake_workers()
        elif self.observers:
            self.observers.waits()

    def _work_off(self, steps: Iterator[object]) -> None:
        self.chores.work_off(steps)

    def observe(self, observers: Observers | None) -> None:
        """Report what happens from now on; None: there is no observer."""
        self.observers = self.endings.observers = observers

    # -- entering ----------------------------------------------------------------------------------------------

    def try_submit(
        self, spec: JobSpec, function: Callable[..., Any], args: tuple[Any, ...], owner: JobObserver | None = None
    ) -> Job[Any] | None:
        """Make a job and take it in, or return None: it would have to wait for room, or is refused.

        The hot path: what most jobs do not have is asked for once (`spec.plain`). `make` and `enter` are the same in
        two steps, for a job that has to wait in between.

        Raises:
            RuntimeError: in another thread than the loop's.
        """
        if get_ident() != self.caller.loop._thread_id:
            self.caller.check("submit")
        # With fewer jobs than may wait there is room.
        if len(self.jobs) >= self.admission.limit and (self.admission.is_full() or not self.admission.open_to_caller()):
            return None
        now = self.now()
        if now - self.clock_cache > CLOCK_RESOLUTION or self.observers:
            self.clock_cache = now
        job = make_job(function, args, spec, self.ids.next(), self.clock_cache, owner)
        if not self._waking and self.slots.active < self.slots.limit:
            self.wake_workers()  # first what may fail: then nothing has happened
        if not spec.plain:
            self._arrange(job, spec)
        self.queue.push(job)
        self.jobs[job._sequence] = job
        self.counters.submitted += 1
        if self.observers:
            self.observers.submitted(job)
        return job

    def try_submit_one(
        self,
        spec: JobSpec,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        owner: JobObserver | None,
        id: int | str | None,
        delay: float,
    ) -> Job[Any] | None:
        """Make a job with an id or a delay of its own and take it in, or return None; see `try_submit`.

        Raises:
            ValueError: its id is taken.
        """
        if get_ident() != self.caller.loop._thread_id:
            self.caller.check("submit")
        if len(self.jobs) >= self.admission.limit and (self.admission.is_full() or not self.admission.open_to_caller()):
            return None
        job = self.make(spec, function, args, owner, id, delay)
        self.enter(job)
        return job

    def make(
        self,
        spec: JobSpec,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        owner: JobObserver | None,
        id: int | str | None,
        delay: float,
    ) -> Job[Any]:
        """Make a job without taking it in: `enter` does that, or nobody."""
        if id is not None:
            self.ids.check(id)
        job = make_job(function, args, spec, self.ids.next(), self.now(), owner)
        job._location = None
        if id is not None or delay:
            extra = job._extra = JobExtra()
            extra.id, extra.delay = id, delay
        return job

    def end_program(self, error: BaseException) -> None:
        """End the program, soon, for what a hook has raised; from any thread."""
        self.runtime.loop.call_soon_threadsafe(self._end_program, error, context=self.runtime.context)

    def _end_program(self, error: BaseException) -> None:
        self.on_fatal(error)

    def register(self, job: Job[Any]) -> None:
        """Count a job, and note what it has beside a priority."""
        if job._extra is not None or not job._spec.plain:
            self._arrange(job, job._spec)
        self.counters.submitted += 1
        self.jobs[job._sequence] = job

    def enter(self, job: Job[Any]) -> None:
        """Take a job in that was made before: into the queue, or into the timers if it has a delay."""
        if not self._waking and self.slots.active < self.slots.limit:
            self.wake_workers()  # first what may fail: then nothing has happened
        self.register(job)
        if job._status is QUEUED:
            self.queue.push_in_order(job)  # others may have come since it was made
        if self.observers:
            self.observers.submitted(job)

    def enter_leased(
        self, spec: JobSpec, function: Callable[..., Any], args: tuple[Any, ...], lease: Lease, id: str, **about: Any
    ) -> Job[Any]:
        """Take in a job of a store, for one attempt; whatever the size of the queue.

        Args:
            spec, function, args: what it runs.
            lease: who takes it back.
            id: its id.
            about: `attempt`, the number of this one, from 1; `age`, seconds since its submission.
        """
        now = self.now()
        job = make_job(function, args, spec, self.ids.next(), now - about["age"], lease)
        job._location = None
        job._attempt = about["attempt"] - 1
        extra = job._extra = JobExtra()
        extra.id, extra.lease = id, lease
        self.enter(job)
        return job

    def _enter_held(self, job: Job[Any]) -> None:
        """Take a job in that has waited for admission, inside of another step; see `admission.py`."""
        self.register(job)
        if job._status is QUEUED:
            job._location = self.admission
            self.admission.entering += 1
        if self.observers:
            self.observers.submitted(job, inside=True)

    async def enter_when_space(self, job: Job[Any]) -> None:
        """Wait until a job that found the queue full is admitted; a caller that is cancelled withdraws it.

        Raises:
            PoolError: it was cancelled, or refused because the pool is closing.
        """
        admission = self.admission
        future = admission.wait(job)
        self.ids.take(job)
        if self.observers:
            self.observers.waits()
        try:
            await self.lending.wait_for(future)
            if job._location is admission:  # it was not cancelled meanwhile
                if not self._waking and self.slots.active < self.slots.limit:
                    self.wake_workers()
                admission.entering -= 1
                self.queue.push_in_order(job)
        except BaseException:
            if job._location is admission:
                self.cancel(job, "its submitter was cancelled")
            raise
        finally:
            if job.id == job._sequence or not future.done() or future.cancelled() or future.exception() is not None:
                self.ids.release(job)

    def _arrange(self, job: Job[Any], spec: JobSpec) -> None:
        """Note what a job has beside a priority: an id, a group, a delay, limits that run from now."""
        if spec.layers:
            run = functools.partial(self.owner.run_inside_layers, job)
            job._function = layered(job, spec.layers, run)
        extra = job._extra
        if spec.total_timeout is not None and (extra is None or extra.lease is None):
            self.total_limits.add(spec.total_timeout, job)
        if spec.queue_timeout is not None:
            self.queue_limits.add(spec.queue_timeout + (0.0 if extra is None else extra.delay), job)
        if extra is not None:
            if extra.delay:
                self._schedule(job, job._submitted_at + extra.delay)
            if extra.id is not None:
                self.ids.take(job)
        if self.shares is not None:
            self._share(job)
        if spec.limits:
            job._ensure_extra()  # by this it is asked for its lanes when it is to start
        if spec.group is not None:
            self.groups.join(job, job._ensure_extra(), spec.group)

    # -- starting ----------------------------------------------------------------------------------------------

    def wake_workers(self) -> None:
        """Wake workers for the queued jobs in the next turn of the loop: idle ones, then new ones."""
        if not self._waking:
            self.runtime.soon(self._dispatch)
            self._waking = True

    def start_awaited(self, job: Job[Any]) -> bool:
        """Start a job for which somebody is about to suspend, if nothing stands in its way; whether it is done.

        The awaiter gives up control anyway, so a job that is alone in the queue need not wait for a turn of the loop,
        and one that never suspends is done without any. The turn that was asked for stays on its way. When a slice has
        passed, nothing is started here any more: the loop has to turn.

        The job must not see in whose step it begins: not the context, nor the exception that the awaiter handles, nor
        a stack that is nearly used up.
        """
        slots = self.slots
        if not (
            self.slice
            and self._waking
            and slots.active < slots.limit
            and slots.uncontended
            and self.queue.is_alone(job)
        ):
            return False
        if (
            get_ident() != self.caller.loop._thread_id
            or not self.caller.in_running_loop()
            or sys.exception() is not None
            or _deep()
        ):
            return False
        now = self.now()
        if not self._inline_ends:
            self._inline_ends = now + self.slice
        if now >= self._inline_ends:
            return False
        add_waiter(job, _AWAITED)
        slice_ends, self.slice_ends = self.slice_ends, now  # this job, and no other
        try:
            Context().run(self._wake_worker)
        finally:
            self.slice_ends = slice_ends
            remove_waiter(job, _AWAITED)
        return job._finished_at is not None

    def _dispatch(self) -> None:
        self._waking = False
        self._inline_ends = 0.0
        if self.chores.pending:
            self.chores.work()
        self.slice_ends = self.now() + self.slice
        slots = self.slots
        while slots.active < slots.size and slots.grant_next():
            pass
        if self.admission.waiting:
            self.admission.admit()  # a slot that was lent is space too
        most = slots.limit - slots.active
        while slots.active < slots.limit and self.queue.live and not self.chores.pending:
            if not self._wake_worker():
                break
            most -= 1
            if (most <= 0 or (self.slice and self.now() >= self.slice_ends)) and self.queue.live:
                self.wake_workers()
                break
        if self.on_free is not None and slots.active < slots.limit:
            self.on_free()

    def take_job(self) -> Job[Any] | None:
        """Decide which job a worker that holds a slot starts now; None: none, and the worker releases its slot."""
        if not self.slots.uncontended:
            return self._take_job_contended()
        job: Job[Any] | None = self.queue.pop()
        if job is not None:
            if job._extra is not None and not self._may_start(job):
                return self._take_job_contended()
            if self.admission.waiting:
                self._admit_after(job)
        return job

    def _take_job_contended(self) -> Job[Any] | None:
        slots = self.slots
        # Not `limit`: in a paused pool, what runs goes on.
        if slots.active <= slots.size and slots.reclaims and slots.grant_next():
            return None  # the grant has counted the slot for the job that gets it back; the worker releases its own
        if slots.active <= slots.limit and not slots.held:
            for _ in range(MAX_PARKED):  # of a paused group there may be more: then in the next turn
                job: Job[Any] | None = self.queue.pop()
                if job is None:
                    break
                if job._extra is None or self._may_start(job):
                    self._admit_after(job)
                    return job
        return None

    def _may_start(self, job: Job[Any]) -> bool:
        """Whether a job that came out of the queue may start; else its group or a lane has parked it."""
        extra = job._extra
        assert extra is not None
        if extra.group is not None and self.groups.park(job):
            return False
        if job._spec.limits and not self.lanes.enter(job):
            return False
        if self.shares is not None and extra.share is not None:
            self.shares.start(extra.share, extra.share_tag)
            extra.share = None
        return True

    def _share(self, job: Job[Any]) -> None:
        """Give a job its place among those of its priority."""
        assert self.shares is not None
        extra = job._ensure_extra()
        extra.share, extra.share_tag = self.shares.enter(share_key(job._spec.key), job.priority)

    def _leave_share(self, job: Job[Any]) -> None:
        assert self.shares is not None
        extra = job._extra
        if extra is not None and extra.share is not None:
            self.shares.leave(extra.share)
            extra.share = None

    def _admit_after(self, job: Job[Any]) -> None:
        """A job has left the queue: another may come. If that fails, it goes back: no worker has it yet."""
        try:
            self.admission.admit()
        except BaseException:
            if job._extra is not None and job._extra.places:
                self.lanes.leave(job._extra)
            self.queue.push_in_order(job)
            raise

    def release_slot(self) -> None:
        """Take back the slot of a worker."""
        self.slots.release()
        if self.admission.waiting:
            self.admission.admit()
        if self.on_free is not None:
            self.on_free()

    # -- size and pause ------------------------------------------------------------------------------------------

    def set_slots(self, size: int | None = None, *, paused: bool | None = None) -> None:
        """Change the size, or pause; running jobs go on. A closing pool cannot be held: to leave is to finish."""
        slots = self.slots
        before = slots.size, slots.paused
        closing = self.admission.restricted
        if size is None:
            size = slots.size
        elif closing:
            size = max(size, 1)
        slots.set_size(size, paused=slots.paused if paused is None else paused and not closing)
        self.admission.admit()
        if self.queue.live or slots.reclaims or self.on_free is not None:
            self.wake_workers()
        if self.observers:
            if slots.size != before[0]:
                self.observers.event("PoolResized", size=slots.size, before=before[0])
            if slots.paused != before[1]:
                self.observers.event("PoolPaused" if slots.paused else "PoolResumed")

    def pause_group(self, name: str) -> None:
        """Let no job of a group start; as `set_slots`, not while the pool is closing."""
        if not self.admission.restricted:
            self.groups.pause(name)

    def resume_group(self, name: str) -> None:
        """Let the jobs of a group start again."""
        steps = self.groups.resume(name)
        if steps is not None:
            self.chores.work_off(steps)
            if self.observers:
                self.observers.waits()

    # -- ending --------------------------------------------------------------------------------------------------

    def attempt_returned(self, job: Job[Any], value: Any, now: float) -> None:
        """An attempt returned."""
        if job._extra is None and not self.observers:
            del self.jobs[job._sequence]
            self.counters.succeeded += 1
            job._finish(SUCCEEDED, value, now)
            if self.join_waiters.futures:
                self.join_waiters.wake_if_idle()
        elif (job._extra is None or job._extra.stop is None) and job._finished_at is None:
            self.endings.finish(job, SUCCEEDED, value, now)
            if job._extra is not None and job._extra.places:
                self.lanes.leave(job._extra, succeeded=True)
        else:
            self.attempt_ended(job, value, None, now)

    def attempt_ended(self, job: Job[Any], value: Any, error: BaseException | None, now: float) -> None:
        """An attempt ended: decide what that means, and act on it."""
        try:
            self._end_attempt(job, value, error, now)
        finally:
            if job._extra is not None and job._extra.places:
                self.lanes.leave(job._extra)

    def _end_attempt(self, job: Job[Any], value: Any, error: BaseException | None, now: float) -> None:
        extra = job._extra
        if job._finished_at is not None:
            self.endings.ended_late(job, error)
            return
        stop = None if extra is None else extra.stop
        status = outcome_status(stop, error)
        if status is SUCCEEDED:
            self.endings.finish(job, status, value, now)
        elif status is CANCELLED:
            foreign = error if stop is None else None
            self.endings.finish_cancelled(job, now, cause=foreign)
        else:
            failure = failure_of(job, stop, error, status)
            if stop is None and extra is not None and extra.lease is not None and extra.lease.excuses(failure):
                self.endings.give_back(job, extra.lease, now)
                if extra.exit_waiters is not None:
                    self.endings.wake_exit_waiters(extra)
                return
            if stop is None or stop.cause is StopCause.TIMEOUT:
                try:
                    if extra is not None and extra.places:
                        self.lanes.failed(extra, failure, job._started_at, now)
                    lease = None if extra is None else extra.lease
                    over = self.no_more_retries and lease is None
                    delay = None if over else next_delay(job, failure, now=now, rng=self.runtime.random)
                    if delay is not None:
                        if lease is None:
                            self._retry(job, failure, delay, now)
                        else:
                            self._retry_elsewhere(job, lease, failure, delay, now)
                        return
                except BaseException as fault:
                    # The user's predicate or backoff is broken, or no timer can be had: that is how the job fails.
                    set_context(fault, failure)
                    failure, status = fault, FAILED
            self.endings.finish_failed(job, status, failure, now)
        if extra is not None and extra.exit_waiters is not None:
            self.endings.wake_exit_waiters(extra)

    def _retry(self, job: Job[Any], failure: BaseException, delay: float, now: float) -> None:
        """retry: let the job wait for its next attempt; it holds no worker."""
        extra = job._ensure_extra()
        started, worker = job._started_at, job._location.id
        self._schedule(job, now + delay)  # first what may fail
        extra.stop = extra.timeout = extra.check_at = None
        if extra.history is None:
            extra.history = []
        extra.history.append(
            AttemptRecord(
                number=job._attempt,
                seconds=now - started,
                error=failure,
                delay=delay,
                started_time=self.runtime.wall_time(started),
            )
        )
        self.counters.retries += 1
        if extra.lent:
            self.lending.cancel_loan(extra)
            job._extra = copy(job._extra)  # the old record is for tasks of this attempt that wait on,
            extra.places = ()  # and they have no place any more
        if self.observers:
            self.observers.retrying(job, worker, failure, delay, now)

    def _retry_elsewhere(self, job: Job[Any], lease: Lease, failure: BaseException, delay: float, now: float) -> None:
        """retry: give a job of a store back, for its next attempt."""
        self.counters.retries += 1
        lease.retry(job, failure, delay)
        worker = job._location.id
        if self.observers:
            self.observers.retrying(job, worker, failure, delay, now)
        self.endings.give_back(job, lease, now, retried=True)
        extra = job._extra
        if extra is not None and extra.exit_waiters is not None:
            self.endings.wake_exit_waiters(extra)

    def _schedule(self, job: Job[Any], due: float) -> None:
        timer = self.timers.add(due, self._come_due, job)
        job._delay(due)
        job._location = timer
        self.scheduled += 1

    def _come_due(self, job: Job[Any]) -> None:
        """come due: the job goes to its own place in line, not to the end."""
        self.scheduled -= 1
        job._come_due()
        self.queue.push_in_order(job)
        self._came_back()

    # -- stopping ------------------------------------------------------------------------------------------------

    def cancel(self, job: Job[Any], reason: str | None = None) -> bool:
        """Cancel a job in whichever place it is; from any thread. See `Job.cancel`."""
        if not self.runtime.on_loop_thread():
            if job._finished_at is not None:
                return False
            if self.runtime.forked:
                self.caller.check("cancel")
            self.runtime.loop.call_soon_threadsafe(self.cancel, job, reason)
            return True
        if job._finished_at is not None:
            return False
        _need_frames(CANCEL_FRAMES)
        if job._status is RUNNING:
            extra = job._ensure_extra()
            if extra.stop is not None:
                return self._overrule(job, extra.stop, StopRequest(StopCause.CANCEL, reason))
            extra.cancel_reason = reason
            self._stop(job, StopRequest(StopCause.CANCEL, reason))
            return True
        if job._sequence not in self.jobs:
            return self.admission.cancel(job, reason)
        if reason is not None:
            job._ensure_extra().cancel_reason = reason
        self.dequeue(job)
        self.endings.finish_cancelled(job, self.now())
        self.admission.admit()
        return True

    def evict(self, job: Job[Any], error: BaseException) -> None:
        """End a queued or scheduled job with an error of the pool's: dropped, or given up."""
        self.dequeue(job)
        awaiters = awaiter_count(job)
        self.endings.finish(job, CANCELLED, (error, None), self.now())
        if awaiters:
            job._ensure_extra().awaiters = awaiters
        else:
            self.reporter.report(job, error)

    def droppable(self, *, oldest: bool) -> Job[Any] | None:
        """Return the job that a full queue drops: the oldest, or the last in line. If limits hold all, one of these."""
        job: Job[Any] | None = self.queue.oldest() if oldest else self.queue.last()
        return job if job is not None else self.lanes.droppable(oldest=oldest)

    def dequeue(self, job: Job[Any]) -> None:
        """Take a queued, parked or scheduled job out of its place."""
        if self.shares is not None:
            self._leave_share(job)
        if job._status is SCHEDULED:
            self.timers.cancel(job._location)
            self.scheduled -= 1
        elif job._extra is not None and job._extra.parked is not None:
            (self.lanes if type(job._extra.parked) is Lane else self.groups).discard(job)
        elif job._location is self.admission:
            self.admission.entering -= 1
        else:
            self.queue.discard(job)
            if job._extra is not None and job._extra.returned is not None:
                self.lanes.discard(job)

    def reprioritize(self, job: Job[Any], priority: int) -> bool:
        """Give a waiting job another priority; among its new equals it stands by its age."""
        if job._status is RUNNING or job._finished_at is not None:
            return False
        extra = job._extra
        line = self.queue if extra is None or extra.parked is None else extra.parked.line
        # Else it takes its priority along into the queue: from admission, or when its time comes.
        queued = job._status is QUEUED and job._sequence in self.jobs and job._location is not self.admission
        if queued:
            line.discard(job)
        job._spec = job._spec.with_priority(priority)
        if self.shares is not None and extra is not None and extra.share is not None:
            self._leave_share(job)
            self._share(job)
        if queued:
            line.push_in_order(job)
        return True

    def change_timeout(self, job: Job[Any], seconds: float | None) -> bool:
        """Give the attempts of a waiting job another time limit."""
        if job._status is RUNNING or job._finished_at is not None:
            return False
        job._spec = job._spec.with_timeout(seconds)
        return True

    def _queue_expired(self, job: Job[Any]) -> None:
        if job._attempt or job._finished_at is not None:
            return
        free = self.slots.limit - self.slots.active
        if free > 0:
            # A worker is on its way. This matters to a limit of 0: the job of an idle pool waits for nobody.
            self._late.append((job, self._late_turn + MAX_START_TURNS * min(free, self.queue.live)))
            self._look_later()
        else:
            self._expire(job, StopCause.QUEUE_TIMEOUT)

    def _look_later(self) -> None:
        if self._late and not self._looks_later:
            self.runtime.soon(self._look_at_late)
            self._looks_later = True

    def _look_at_late(self) -> None:
        """Once a turn: end the late jobs for which no worker has come in time."""
        self._looks_later = False
        try:
            if not self.chores.pending:  # else no job starts
                self._late_turn += 1
                self.chores.work_off(self._expire_late())
        finally:
            self._look_later()

    def _expire_late(self) -> Iterator[None]:
        while self._late:
            job, last_turn = self._late[0]
            begun = job._attempt or job._finished_at is not None
            if not begun and self.slots.active < self.slots.limit and self._late_turn <= last_turn:
                return
            self._late.popleft()
            if not begun:
                self._expire(job, StopCause.QUEUE_TIMEOUT)
            yield

    def leased_expired(self, job: Job[Any]) -> None:
        """The total time of a job of a store is over."""
        if job._finished_at is None:
            self._expire(job, StopCause.TOTAL_TIMEOUT)

    def _total_expired(self, job: Job[Any]) -> None:
        self._expire(job, StopCause.TOTAL_TIMEOUT)

    def _expire(self, job: Job[Any], cause: StopCause) -> None:
        if job._status is RUNNING:
            stop = job._ensure_extra().stop
            if stop is None:
                self._stop(job, StopRequest(cause))
            else:
                self._overrule(job, stop, StopRequest(cause))
            return
        self.dequeue(job)
        self.endings.finish_failed(job, TIMED_OUT, timeout_error(job, cause), self.now())
        self.admission.admit()

    def attempt_expired(self, job: Job[Any]) -> None:
        """The time limit of the running attempt is over."""
        self._stop(job, StopRequest(StopCause.TIMEOUT))

    def _overrule(self, job: Job[Any], stop: StopRequest, new: StopRequest) -> bool:
        """A job that was told to stop shall stop for another reason; whether that makes a difference.

        It does if the time limit of an attempt told it: there would be another attempt, and now there will be none.
        """
        if stop.cause is not StopCause.TIMEOUT or job._spec.retry is None:
            return False
        stop.cause, stop.reason = new.cause, new.reason
        job._ensure_extra().cancel_reason = new.reason
        return True

    def _stop(self, job: Job[Any], stop: StopRequest) -> None:
        extra = job._ensure_extra()
        extra.stop = stop
        now = self.now()
        self.chores.stops += 1
        job._location.stop_job(stop, now)
        self.lending.release(extra)

    # -- what would not end --------------------------------------------------------------------------------------

    def begin_stopping(self, grace: float | None) -> float:
        """Give each job `grace` seconds in all to stop, from now on; return them."""
        if grace is not None:
            self.cancel_grace = grace / 2  # a job is told twice
        return 2 * self.cancel_grace

    # -- what others ask -----------------------------------------------------------------------------------------

    def queued(self) -> int:
        """How many jobs wait for a worker."""
        return self.queue.live + self.groups.parked + self.lanes.parked + self.admission.entering

    def submitters_wait(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self.admission.waiting)

    def is_own(self, job: Job[Any] | None) -> bool:
        """Whether this is a job of the pool that has not finished."""
        return job is not None and job._spec.owner is self.owner and job._finished_at is None

    def running(self) -> int:
        """How many jobs run."""
        return len(self.jobs) - self.queued() - self.scheduled

    def waiting_for(self, job: Job[Any]) -> str | None:
        """Say why a job does not run; see `Job.waiting_for`."""
        if job._finished_at is not None or job._status is RUNNING:
            return None
        if job._sequence not in self.jobs:
            return "admission"
        if job._status is SCHEDULED:
            return "backoff" if job._attempt else "delay"
        extra = job._extra
        if self.slots.paused:
            return "pool paused"
        if extra is not None and extra.group is not None and extra.group.paused:
            return "group paused"
        if extra is not None and type(extra.parked) is Lane:
            return "limit"
        return "slot"

    def set_timeout(self, job: Job[Any], seconds: float | None) -> None:
        """Give the running attempt of a job `seconds` from now; None: no limit."""
        if job._status is not RUNNING or (job._extra is not None and job._extra.stop is not None):
            return
        job._ensure_extra().timeout = seconds
        job._location.recheck(job, math.inf if seconds is None else self.now() + seconds)


def _deep() -> bool:
    """Whether a job that is started here and now would miss a good part of the stack."""
    try:
        sys._getframe(INLINE_FRAMES)
    except ValueError:
        return False
    return True


class _Awaited(JobObserver):
    """Stands for an awaiter who starts the job itself, and does not have to be woken."""

    __slots__ = ()

    def handles_errors(self) -> bool:
        return True

    def job_done(self, job: Job[Any]) -> None:
        pass


_AWAITED = _Awaited()


def _need_frames(count: int) -> None:
    """Raise `RecursionError` if the stack has no room for so many frames more."""
    if count:
        _need_frames(count - 1)
