"""`Engine`: the one door through which jobs enter, start, end, wait again and are stopped.

It holds the state of one open pool: jobs, slots and counters. It knows no worker, but what runs a job (its
`_location`) can be told to stop it. Everything here is synchronous: the engine decides and marks; waiting happens
elsewhere.

The mutable state here is: the live jobs, their ids, and the chores. What is a matter of its own has a module of its
own: the slots (`slots.py`), the queue (`queue.py`), moments to come (`_runtime/timers.py`), groups (`groups.py`), jobs
that wait for each other (`lending.py`), for space (`admission.py`) or for the end of all jobs (`join_waiters.py`), what
an end means (`_jobs/outcome.py`), and failures that nobody awaits (`error_reporter.py`).

Turns. Jobs that never suspend would hold the event loop: after `TIME_SLICE` seconds of them a worker rests, and goes on
in the next turn of the loop. After a suspension a worker always may take one more job: it is a turn of its own.

Chores. What concerns many jobs at once (all that are due, a group that is resumed, a cancel of everything) is done in
steps, a slice of them a turn (`work_off`). Until the last step no job starts: the effect is that of one step.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextvars import Context
from threading import get_ident
from typing import Any, Literal, final

from aiopool._engine.admission import Admission
from aiopool._engine.deadlines import Limits
from aiopool._engine.error_reporter import ErrorReporter
from aiopool._engine.groups import GroupRegistry
from aiopool._engine.join_waiters import JoinWaiters
from aiopool._engine.lending import SlotLending
from aiopool._engine.queue import JobQueue
from aiopool._engine.slots import Slots
from aiopool._jobs.job import AttemptRecord, Job, JobExtra, make_job
from aiopool._jobs.options import id_key, id_number
from aiopool._jobs.outcome import add_note, cancelled_error, failure_of, next_delay, timeout_error
from aiopool._jobs.retry import RetryAfter
from aiopool._jobs.spec import JobOwner, JobSpec
from aiopool._jobs.statistics import Counters
from aiopool._jobs.status import JobStatus
from aiopool._jobs.stop import StopCause, StopRequest, outcome_status
from aiopool._jobs.waiters import JobObserver, add_waiter, awaiter_count, remove_waiter
from aiopool._observe.observers import Observers
from aiopool._runtime.faults import is_kind, set_context, traceback_of
from aiopool._runtime.runtime import Runtime, running_loop_or_none
from aiopool._runtime.timers import TimerQueue

__all__ = ["TIME_SLICE", "Engine"]

# Long enough that a turn of the loop (2 µs) does not count, short enough that nobody notices.
TIME_SLICE = 0.002
# Of chores in one turn; with it so many steps until the next look at the clock, and in one turn of a virtual clock.
CHORES = 0.001
STEPS = 64
# So many running jobs are told to stop in one turn: each of them ends in the next one, for some 50 µs.
MOST_STOPS = 32
# So many turns of the loop it takes, at most, until a free worker begins a job; one after the other.
MAX_START_TURNS = 4

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
        "__weakref__",
        "_inline_ends",
        "_inline_slice",
        "_loop",
        "_reserved",
        "_stops",
        "_wake_worker",
        "_waking",
        "admission",
        "cancel_grace",
        "chores",
        "clock_cache",
        "counters",
        "groups",
        "ids",
        "jobs",
        "join_waiters",
        "leaked",
        "lending",
        "next_job",
        "no_more_retries",
        "now",
        "observers",
        "on_fatal",
        "on_leak",
        "owner",
        "queue",
        "queue_limits",
        "reporter",
        "runtime",
        "scheduled",
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
        cancel_grace: float,
        on_leak: Literal["hold", "replace"],
        owner: JobOwner,
        errors: ErrorReporter,
        wake_worker: Callable[[], bool],
        inline: bool,
        check_deadlines: Callable[[float], Generator[None, None, float]],
        on_fatal: Callable[[BaseException], object],
    ) -> None:
        """What it is made of.

        Args:
            runtime: the pool's clock, loop and random numbers.
            size, queue_size, aging, cancel_grace, on_leak: the arguments of `Pool`.
            owner: the pool, as its jobs know it.
            errors: takes failures that nobody awaits.
            wake_worker: wakes a worker that has no job; whether another may be woken in this turn of the loop.
            inline: a worker that is woken runs its job at once, so an awaiter may wake it; see `start_awaited`.
            check_deadlines: checks the jobs that run, one a step; returns the next moment at which it is to be called.
            on_fatal: is called for an exception that ends the program.
        """
        self.observers: Observers | None = None  # None while there is no observer: one test, nothing built
        self.runtime = runtime
        self.now = runtime.now
        self.next_job = runtime.next_job
        # Which thread it runs in, if it runs; asyncio's own loops know, for others it is the thread of the opening.
        self._loop: Any = runtime.loop if hasattr(runtime.loop, "_thread_id") else _AnyLoop(runtime.thread)
        _engines.add(self)
        self.queue = JobQueue(aging=aging)
        self.timers = TimerQueue(runtime, check_deadlines, self.work_off)
        self.counters = Counters()
        self.jobs: dict[int, Job[Any]] = {}
        # By the keys of their ids: jobs with an id of the user's, and all that wait for room.
        self.ids: dict[str, Job[Any]] = {}
        self._reserved: set[int] = set()  # ids of the user's that are numbers: no job gets them as its own
        self.total_limits = Limits(self.timers, self.now, self.jobs, self._total_expired)
        self.queue_limits = Limits(self.timers, self.now, self.jobs, self._queue_expired)
        self.groups = GroupRegistry(self.queue)
        self.clock_cache = -math.inf
        self.scheduled = 0
        self.leaked = 0
        self.slots = Slots(size, self.wake_workers)
        # A clock that stands still while code runs never comes to the end of a slice: there, each job is one.
        self.slice = 0.0 if runtime.virtual else TIME_SLICE
        self.slice_ends = 0.0
        # Jobs that an awaiter starts: for so long, until when since the last turn of the loop (0: there was none yet).
        self._inline_slice = self.slice if inline else 0.0
        self._inline_ends = 0.0
        self._waking = False
        self.chores: deque[Iterator[object]] = deque()
        self._stops = 0  # how many running jobs were told to stop in this slice of them
        # Who waits: for another job, for the end of all jobs, for space.
        self.lending = SlotLending(self.slots, runtime.loop, self.is_own, self.unheard)
        self.join_waiters = JoinWaiters(self.jobs, self.lending, self.submitters_wait)
        self.admission = Admission(
            runtime,
            self.slots,
            queue_size,
            queued=self.queued,
            enter=self._enter_held,
            is_own=self.is_own,
            work_off=self.work_off,
            on_refused=self.join_waiters.wake_if_idle,
        )
        self.no_more_retries = False  # the pool is leaving: there will be no worker for another
        # Policies.
        self.cancel_grace = cancel_grace
        self.on_leak = on_leak
        self.reporter = errors
        self.on_fatal = on_fatal
        self.owner = owner
        self._wake_worker = wake_worker

    def observe(self, observers: Observers | None) -> None:
        """Report what happens from now on; None: there is no observer."""
        self.observers = observers

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
        if get_ident() != self._loop._thread_id:
            self.check_caller("submit")
        # With fewer jobs than may wait there is room.
        if len(self.jobs) >= self.admission.limit and (self.admission.is_full() or not self.admission.open_to_caller()):
            return None
        now = self.now()
        if now - self.clock_cache > CLOCK_RESOLUTION or self.observers:
            self.clock_cache = now
        job = make_job(function, args, spec, self.next_job(), self.clock_cache, owner)
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
        if get_ident() != self._loop._thread_id:
            self.check_caller("submit")
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
        if get_ident() != self._loop._thread_id:
            self.check_caller("submit")
        if id is not None:
            self.check_id(id)
        job = make_job(function, args, spec, self.next_job(), self.now(), owner)
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

    def check_caller(self, what: str) -> None:
        """Raise if the caller is not in the pool's own event loop; between two runs of the loop, its thread will do."""
        running = running_loop_or_none()
        if running is self.runtime.loop and self.runtime.on_loop_thread():
            return
        if self.runtime.forked:
            raise RuntimeError(
                f"{what}() was called in a child process that was forked while the pool was open: the pool and its "
                "event loop live in the parent. Open a pool in the child, `async with Pool(...) as pool:`"
            )
        if not self.runtime.on_loop_thread():
            raise RuntimeError(
                f"{what}() was called in another thread than that of the pool's event loop, which it would corrupt. "
                f"There, write `asyncio.run_coroutine_threadsafe(pool.{what}(...), loop)`, or "
                "`loop.call_soon_threadsafe(...)` for a method that does not wait; `job.cancel()` may be called "
                "anywhere"
            )
        if running is not None:
            raise RuntimeError(
                f"{what}() was called in another event loop than that of the pool, which does not run meanwhile: a "
                "pool serves the loop in which it was opened. Open another here, `async with Pool(...) as pool:`"
            )

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
        self.take_id(job)
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
                self.release_id(job)

    def _arrange(self, job: Job[Any], spec: JobSpec) -> None:
        """Note what a job has beside a priority: an id, a group, a delay, limits that run from now."""
        extra = job._extra
        delay = 0.0 if extra is None else extra.delay
        if spec.total_timeout is not None:
            self.total_limits.add(spec.total_timeout, job)
        if spec.queue_timeout is not None:
            self.queue_limits.add(spec.queue_timeout + delay, job)
        if delay:
            self._schedule(job, job._submitted_at + delay)
        if extra is not None and extra.id is not None:
            self.take_id(job)
        if spec.group is not None:
            self.groups.join(job, job._ensure_extra(), spec.group)

    # -- ids -----------------------------------------------------------------------------------------------------

    def get_job(self, id: int | str) -> Job[Any] | None:
        """Return the live job that answers to an id, or None; also one that waits for room. From any thread."""
        key = id_key(id)
        job = self.ids.get(key)
        if job is None and (number := id_number(key)) is not None:
            job = self.jobs.get(number)
            if job is not None and job.id != job._sequence:
                return None  # it has an id of its own, and answers to that
        return None if job is None or job._finished_at is not None else job

    def check_id(self, id: int | str) -> None:
        """Raise if a live job, or one that waits for room, answers to this id."""
        other = self.get_job(id)
        if other is not None:
            raise ValueError(
                f"id={id!r} is taken by a live job ({other!r}): cancel or await that one first, or choose another id"
            )

    def take_id(self, job: Job[Any]) -> None:
        """Let a job answer to its id from now on."""
        id = job.id
        key = id_key(id)
        self.ids[key] = job
        if id != job._sequence and (number := id_number(key)) is not None:
            self._reserved.add(number)
            self.next_job = self._next_free

    def release_id(self, job: Job[Any]) -> None:
        """Let another job have the id, if it is still this one's."""
        id = job.id
        key = id_key(id)
        if self.ids.get(key) is not job:
            return
        del self.ids[key]
        if id != job._sequence and (number := id_number(key)) is not None:
            self._reserved.discard(number)
            if not self._reserved:
                self.next_job = self.runtime.next_job

    def _next_free(self) -> int:
        """Number the next job: `next_job` while a live job has a number for an id of its own."""
        while (number := self.runtime.next_job()) in self._reserved:
            pass
        return number

    # -- starting ----------------------------------------------------------------------------------------------

    def wake_workers(self) -> None:
        """Wake workers for the queued jobs in the next turn of the loop: idle ones, then new ones."""
        if not self._waking:
            self.runtime.soon(self._dispatch)
            self._waking = True

    def work_off(self, steps: Iterator[object]) -> None:
        """Do a chore: a slice of it now, and the rest in slices, one a turn. No job starts until it is done."""
        self.chores.append(steps)
        self.slots.hold(True)
        if len(self.chores) == 1:
            self._work()

    async def worked_off(self, steps: Iterator[object]) -> None:
        """Do a chore, and wait for its end; if the caller is cancelled, it goes on."""
        end: asyncio.Future[None] = self.runtime.loop.create_future()

        def all_steps() -> Iterator[object]:
            try:
                yield from steps
            finally:
                if not end.done():
                    end.set_result(None)

        self.work_off(all_steps())
        if not end.done():
            await self.lending.wait_for(end)

    def _work(self) -> None:
        chores, ends, self._stops = self.chores, self.now() + CHORES, 0
        try:
            while chores:
                steps = 0
                for _ in itertools.islice(chores[0], STEPS):
                    steps += 1
                    if self._stops >= MOST_STOPS:
                        return
                if steps < STEPS:
                    chores.popleft()
                elif self.runtime.virtual or self.now() >= ends:
                    break
        except BaseException:
            chores.popleft()  # it has ended by this
            raise
        finally:
            self.slots.hold(bool(chores))
            if chores or (self.slots.active < self.slots.limit and self.queue.live):
                self.wake_workers()

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
            self._inline_slice
            and self._waking
            and slots.active < slots.limit
            and slots.uncontended
            and self.queue.is_alone(job)
        ):
            return False
        if get_ident() != self._loop._thread_id or not self._loop_runs() or sys.exception() is not None or _deep():
            return False
        now = self.now()
        if not self._inline_ends:
            self._inline_ends = now + self._inline_slice
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

    def _loop_runs(self) -> bool:
        """Whether the loop runs, if we are in its thread; to ask asyncio for the running one costs a microsecond."""
        return self._loop is self.runtime.loop or running_loop_or_none() is self.runtime.loop

    def _dispatch(self) -> None:
        self._waking = False
        self._inline_ends = 0.0
        if self.chores:
            self._work()
        self.slice_ends = self.now() + self.slice
        slots = self.slots
        while slots.active < slots.size and slots.grant_next():
            pass
        if self.admission.waiting:
            self.admission.admit()  # a slot that was lent is space too
        most = slots.limit - slots.active
        while slots.active < slots.limit and self.queue.live and not self.chores:
            if not self._wake_worker():
                break
            most -= 1
            if (most <= 0 or (self.slice and self.now() >= self.slice_ends)) and self.queue.live:
                self.wake_workers()
                break

    def extend_slice(self) -> None:
        """Let jobs run for a whole slice from now: a worker was woken in a later turn of the loop."""
        self.slice_ends = max(self.slice_ends, self.now() + self.slice)

    def take_job(self) -> Job[Any] | None:
        """Decide which job a worker that holds a slot starts now; None: none, and the worker releases its slot."""
        if not self.slots.uncontended:
            return self._take_job_contended()
        job: Job[Any] | None = self.queue.pop()
        if job is not None:
            if job._extra is not None and self.groups.park(job):
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
            for _ in range(STEPS):  # of a paused group there may be more: then in the next turn
                job: Job[Any] | None = self.queue.pop()
                if job is None:
                    break
                if job._extra is None or not self.groups.park(job):
                    self._admit_after(job)
                    return job
        return None

    def _admit_after(self, job: Job[Any]) -> None:
        """A job has left the queue: another may come. If that fails, it goes back: no worker has it yet."""
        try:
            self.admission.admit()
        except BaseException:
            self.queue.push_in_order(job)
            raise

    def next_is_for_thread(self) -> bool:
        """Whether `take_job` will certainly return a job whose function runs in a thread."""
        job: Job[Any] | None = self.queue.peek() if self.slots.uncontended else None
        return job is not None and job._spec.offload and job._extra is None

    def release_slot(self) -> None:
        """Take back the slot of a worker."""
        self.slots.release()
        if self.admission.waiting:
            self.admission.admit()

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
        if self.queue.live or slots.reclaims:
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
            self.work_off(steps)

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
            self._finish(job, SUCCEEDED, value, now)
            if job._extra is not None and job._extra.exit_waiters is not None:
                self._wake_exit_waiters(job._extra)
        else:
            self.attempt_ended(job, value, None, now)

    def attempt_ended(self, job: Job[Any], value: Any, error: BaseException | None, now: float) -> None:
        """An attempt ended: decide what that means, and act on it."""
        extra = job._extra
        if job._finished_at is not None:
            self._ended_late(job, error)
            return
        stop = None if extra is None else extra.stop
        status = outcome_status(stop, error)
        if status is SUCCEEDED:
            self._finish(job, status, value, now)
        elif status is CANCELLED:
            foreign = error if stop is None else None
            self._finish_cancelled(job, now, cause=foreign)
        else:
            failure = failure_of(job, stop, error, status)
            if stop is None or stop.cause is StopCause.TIMEOUT:
                try:
                    delay = None if self.no_more_retries else next_delay(job, failure, now=now, rng=self.runtime.random)
                except BaseException as fault:
                    # The user's predicate or backoff is broken: that is how the job fails.
                    set_context(fault, failure)
                    delay, failure, status = None, fault, FAILED
                if delay is not None:
                    self._retry(job, failure, delay, now)
                    return
            self._finish_failed(job, status, failure, now)
        if extra is not None and extra.exit_waiters is not None:
            self._wake_exit_waiters(extra)

    def _retry(self, job: Job[Any], failure: BaseException, delay: float, now: float) -> None:
        """retry: let the job wait for its next attempt; it holds no worker."""
        extra = job._ensure_extra()
        extra.stop = extra.timeout = extra.check_at = None
        started, worker = job._started_at, job._location.id
        if extra.history is None:
            extra.history = []
        extra.history.append(AttemptRecord(job._attempt, now - started, failure, delay))
        self.counters.retries += 1
        self._schedule(job, now + delay)
        if extra.lent:
            self.lending.cancel_loan(extra)
        if self.observers:
            self.observers.retrying(job, worker, failure, delay, now)

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
        if self.slots.active < self.slots.limit:
            self.wake_workers()

    def _finish_failed(self, job: Job[Any], status: JobStatus, error: BaseException, now: float) -> None:
        add_note(error, job)
        awaiters = awaiter_count(job)
        worker = _worker_of(job)
        self._finish(job, status, (error, traceback_of(error)), now)
        if is_kind(error, (SystemExit, KeyboardInterrupt)):
            self.on_fatal(error)
        elif awaiters:
            job._ensure_extra().awaiters = awaiters
        else:
            self.reporter.report(job, error, worker)

    def unheard(self, job: Job[Any]) -> None:
        """Whoever waited for a job was cancelled; if the job had failed before, and nobody else is told, report it."""
        extra = job._extra
        if extra is not None and extra.awaiters:
            extra.awaiters -= 1
            if not extra.awaiters:
                self.reporter.report(job, job._value[0])

    def _finish_cancelled(self, job: Job[Any], now: float, *, cause: BaseException | None = None) -> None:
        self._finish(job, CANCELLED, (cancelled_error(job, cause), None), now)

    def _finish(self, job: Job[Any], status: JobStatus, value: Any, now: float) -> None:
        """End a job, in any way but the plainest (`attempt_returned`)."""
        observers = self.observers
        worker = _worker_of(job) if observers else None
        awaited = bool(observers) and status is not SUCCEEDED and awaiter_count(job) > 0
        del self.jobs[job._sequence]
        counters = self.counters
        if status is SUCCEEDED:
            counters.succeeded += 1
        else:
            name = status.value
            setattr(counters, name, getattr(counters, name) + 1)
        extra = job._extra
        if extra is not None:
            if extra.id is not None:
                self.release_id(job)
            if extra.group is not None:
                self.groups.leave(job, extra.group)
            if extra.lent:
                self.lending.cancel_loan(extra)
        job._finish(status, value, now)
        if extra is not None and extra.callbacks is not None:
            callbacks, extra.callbacks = extra.callbacks, None
            for callback, context in callbacks:
                self.reporter.call_hook(context, callback, job)
        self.join_waiters.wake_if_idle()
        if observers:
            observers.ended(job, worker, now, awaited=awaited)

    def when_ended(self, job: Job[Any]) -> asyncio.Future[None] | None:
        """Return a future for the moment at which no line of a job will run any more, or it leaked; None: that is so.

        For a job that was told to stop, or waits.
        """
        extra = job._extra
        if extra is None or extra.leaked or (job._finished_at is not None and not extra.abandoned):
            return None
        future: asyncio.Future[None] = self.runtime.loop.create_future()
        if extra.exit_waiters is None:
            extra.exit_waiters = []
        extra.exit_waiters.append(future)
        return future

    def _wake_exit_waiters(self, extra: JobExtra) -> None:
        for future in extra.exit_waiters or ():
            if not future.done():
                future.set_result(None)
        extra.exit_waiters = None

    # -- stopping ------------------------------------------------------------------------------------------------

    def cancel(self, job: Job[Any], reason: str | None = None) -> bool:
        """Cancel a job in whichever place it is; from any thread. See `Job.cancel`."""
        if not self.runtime.on_loop_thread():
            if job._finished_at is not None:
                return False
            if self.runtime.forked:
                self.check_caller("cancel")
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
        self._finish_cancelled(job, self.now())
        self.admission.admit()
        return True

    def evict(self, job: Job[Any], error: BaseException) -> None:
        """End a queued or scheduled job with an error of the pool's: dropped, or given up."""
        self.dequeue(job)
        awaiters = awaiter_count(job)
        self._finish(job, CANCELLED, (error, None), self.now())
        if awaiters:
            job._ensure_extra().awaiters = awaiters
        else:
            self.reporter.report(job, error)

    def dequeue(self, job: Job[Any]) -> None:
        """Take a queued, parked or scheduled job out of its place."""
        if job._status is SCHEDULED:
            self.timers.cancel(job._location)
            self.scheduled -= 1
        elif job._extra is not None and job._extra.parked:
            self.groups.discard(job)
        elif job._location is self.admission:
            self.admission.entering -= 1
        else:
            self.queue.discard(job)
        job._location = None

    def reprioritize(self, job: Job[Any], priority: int) -> bool:
        """Give a waiting job another priority; among its new equals it stands by its age."""
        if job._status is RUNNING or job._finished_at is not None or job._sequence not in self.jobs:
            return False
        extra = job._extra
        line = extra.group.parked if extra is not None and extra.parked else self.queue
        queued = job._status is QUEUED and job._location is not self.admission
        if queued:
            line.discard(job)
        job._spec = job._spec.with_priority(priority)
        if queued:
            line.push_in_order(job)
        return True

    def _queue_expired(self, job: Job[Any], turns: int | None = None) -> None:
        if job._attempt or job._finished_at is not None:
            return
        free = self.slots.limit - self.slots.active
        if turns is None:
            turns = MAX_START_TURNS * min(free, self.queue.live)
        if free > 0 and (turns > 0 or self.chores):
            # A worker is on its way. This matters to a limit of 0: the job of an idle pool waits for nobody.
            self.runtime.soon(self._queue_expired, job, turns - 1)
        else:
            self._expire(job, StopCause.QUEUE_TIMEOUT)

    def _total_expired(self, job: Job[Any]) -> None:
        if job._finished_at is None:
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
        self._finish_failed(job, TIMED_OUT, timeout_error(job, cause), self.now())
        self.admission.admit()

    def attempt_expired(self, job: Job[Any]) -> None:
        """The time limit of the running attempt is over."""
        if job._ensure_extra().stop is None:
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
        self._stops += 1
        job._location.stop_job(stop, now)
        self.lending.release(extra)

    def check_at(self, job: Job[Any], when: float) -> None:
        """Have the running attempt of a job checked at `when`, whatever its time limit."""
        job._ensure_extra().check_at = when
        self.timers.schedule_check(when)

    # -- what would not end --------------------------------------------------------------------------------------

    def begin_stopping(self, grace: float | None) -> float:
        """No attempt follows those under way, and a job has `grace` seconds in all to stop; return them."""
        self.no_more_retries = True
        if grace is not None:
            self.cancel_grace = grace / 2  # a job is told twice
        return 2 * self.cancel_grace

    def leak(self, job: Job[Any], worker: int, stack: str, now: float) -> None:
        """Call a job leaked: it was told to stop, and did not end within its grace. It may be abandoned already."""
        self._mark_leaked(job, worker, stack)
        if not job._ensure_extra().abandoned:
            self.abandon(job, now)

    def abandon(self, job: Job[Any], now: float) -> None:
        """Release a job's waiters although its code still runs; it keeps its slot until its code ends.

        A job that has leaked, or that runs in a thread: that cannot be told to stop, so nobody waits for it.
        """
        extra = job._ensure_extra()
        stop = extra.stop
        assert stop is not None
        extra.abandoned = True
        if stop.cause is StopCause.CANCEL:
            self._finish_cancelled(job, now)
        else:
            self._finish_failed(job, TIMED_OUT, timeout_error(job, stop.cause), now)

    def _mark_leaked(self, job: Job[Any], worker: int, stack: str) -> None:
        """Log a job that did not end, and by choice give its slot to another."""
        extra = job._ensure_extra()
        extra.leaked = True
        self.counters.leaked_total += 1
        self.reporter.log(
            "job %.200r id %.200r was told to stop, and did not end within its grace: it leaked%s\n%s",
            job,
            " and is replaced" if self.on_leak == "replace" else ", and holds its slot until it ends",
            stack,
            worker=worker,
        )
        self._count_leak(1)
        self._wake_exit_waiters(extra)
        if self.observers:
            self.observers.leaked(job, worker, stack, self.now())

    def _count_leak(self, change: int) -> None:
        """Count a job that has leaked (1), or whose code has ended after all (-1).

        `on_leak="replace"` is no more than this: meanwhile the job has no slot, and another may start.
        """
        self.leaked += change
        if self.on_leak == "replace":
            self.slots.replace(change)

    def _ended_late(self, job: Job[Any], error: BaseException | None) -> None:
        """The code of a job that had been left behind has ended at last."""
        extra = job._ensure_extra()
        extra.abandoned = False
        if extra.leaked:
            self._count_leak(-1)
        self._wake_exit_waiters(extra)
        if error is not None and not is_kind(error, (asyncio.CancelledError, RetryAfter)):
            self.reporter.report(job, error)

    # -- what others ask -----------------------------------------------------------------------------------------

    def queued(self) -> int:
        """How many jobs wait for a worker."""
        return self.queue.live + self.groups.parked + self.admission.entering

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
        return "slot"

    def set_timeout(self, job: Job[Any], seconds: float | None) -> None:
        """Give the running attempt of a job `seconds` from now; None: no limit."""
        if job._status is not RUNNING or (job._extra is not None and job._extra.stop is not None):
            return
        job._ensure_extra().timeout = seconds
        self.check_at(job, math.inf if seconds is None else self.now() + seconds)


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


class _AnyLoop:
    """A stand-in for a loop that does not tell in which thread it runs."""

    __slots__ = ("_thread_id",)

    def __init__(self, thread: int) -> None:
        self._thread_id = thread


# No thread has this number.
_FORKED = _AnyLoop(-1)
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: nobody is in the loop of a pool of the parent's."""
    for engine in _engines:
        engine._loop = _FORKED
        engine.runtime.thread = _FORKED._thread_id


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _worker_of(job: Job[Any]) -> int | None:
    """Return the number of the worker that runs a job, or None."""
    worker: int | None = job._location.id if job._status is RUNNING else None
    return worker
