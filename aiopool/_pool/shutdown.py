"""`Shutdown`: the end of a pool, in four bounded phases, and the frozen report of it.

    phase     who may submit       what happens                                                      it takes at most
    restrict  the pool's own jobs  other submitters that wait for room are refused; pauses end       no time
    finish    the pool's own jobs  jobs run to their end                                             `timeout`
    cancel    nobody               what is left is cancelled, has a grace, and is left behind        `grace`
    leave     nobody               workers end; all callbacks run together                           the rest, and 1 s

Leaving the block, `serve`, a signal and `shutdown()` all come here: one clock, which starts when the shutdown is made.
The deadline can be brought forward at any time, never back: a second, more impatient shutdown joins the first.

Invariant: every wait has a limit, whatever jobs, callbacks and workers do. (Without a `timeout`, jobs have as long
as they take: the user has chosen that.)
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, final

from aiopool._engine.engine import Engine
from aiopool._engine.supervisor import Supervisor
from aiopool._engine.walk import walk
from aiopool._engine.worker import OFFLOADED, Worker
from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus
from aiopool._runtime.faults import describe, log_fault
from aiopool._runtime.hooks import HookGuard
from aiopool._runtime.runners import Runners

__all__ = ["LeakedJob", "Shutdown", "ShutdownReport", "resume_all"]

logger = logging.getLogger("aiopool.pool")

# Turns of the loop for what needs no time to end, however short the grace: enough for nested task groups.
SHUTDOWN_YIELDS = 10
# So many workers are stopped in one turn of the loop, and so many futures are looked at: a millisecond or two.
STOP_SLICE = 100
DONE_SLICE = 4096
# Seconds that the callbacks have beside what is left of the timeout; and those that they have if there is no timeout.
CALLBACK_EXTRA = 1.0
CALLBACK_TIMEOUT = 5.0
# For processes to be gone: idle ones end by themselves or are killed after half of it.
EXIT_SECONDS = 1.0

REASON = "the pool was shut down"

OnShutdown = Callable[[], Awaitable[object] | object]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class LeakedJob:
    """A job whose code would not end.

    Attributes:
        id: the job's id.
        name: the job's name.
        stack: where it was, as lines of a traceback.
    """

    id: int | str
    name: str
    stack: str


@final
@dataclasses.dataclass(frozen=True, slots=True)
class ShutdownReport:
    """What a shutdown found, and what it had to leave. `str(report)` says it in words.

    Attributes:
        succeeded: jobs that returned since the shutdown began.
        failed: jobs that raised since then.
        timed_out: jobs that ran into a time limit since then.
        cancelled: jobs that were cancelled since then, the ones that never started included.
        never_started: jobs of which no attempt was begun.
        leaked: jobs whose code did not end within its grace. The pool is closed without them, but `asyncio.run()`
            waits for their tasks, without a limit; `aiopool.run()` does not.
        callback_errors: what callbacks of `on_shutdown` raised, or a TimeoutError.
        seconds: how long all of it took.
    """

    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    never_started: int
    leaked: tuple[LeakedJob, ...]
    callback_errors: tuple[BaseException, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether everything was done in time: nothing cancelled, leaked or broken."""
        return not (self.cancelled or self.leaked or self.callback_errors)

    def __str__(self) -> str:
        text = (
            f"the shutdown took {self.seconds:.2f} s: {self.succeeded} jobs succeeded, {self.failed} failed, "
            f"{self.timed_out} timed out, {self.cancelled} were cancelled ({self.never_started} had not started)"
        )
        if self.callback_errors:
            text += f"\n{len(self.callback_errors)} callbacks failed: {', '.join(map(describe, self.callback_errors))}"
        for job in self.leaked:
            # Not those outside of the loop: asyncio does not know them.
            outside = job.stack.startswith(tuple(OFFLOADED.values()))
            hint = "" if outside else "; asyncio.run() will wait for it: aiopool.run() does not"
            text += f"\njob {job.name} (id {job.id!r}) did not end{hint}"
        return text


@final
class Shutdown:
    """One shutdown under way; it begins when it is made."""

    __slots__ = (
        "_before",
        "_began",
        "_callbacks",
        "_cut",
        "_deadline",
        "_engine",
        "_grace",
        "_grace_ends",
        "_hooks",
        "_name",
        "_never_started",
        "_runners",
        "_supervisor",
        "_wakeup",
        "callers",
    )

    def __init__(
        self,
        engine: Engine,
        supervisor: Supervisor,
        runners: Runners,
        callbacks: list[OnShutdown],
        name: str,
        hooks: HookGuard,
    ) -> None:
        self._engine = engine
        self._hooks = hooks
        self._supervisor = supervisor
        self._runners = runners
        self._callbacks = callbacks
        self._name = name
        self.callers: set[Job[Any]] = set()
        self._began = engine.now()
        self._before = copy.copy(engine.counters)
        self._cut: list[int | str] = []  # the ids of the jobs that the shutdown cancelled
        self._never_started = 0
        self._deadline = math.inf
        self._grace: float | None = None
        self._grace_ends: float | None = None
        self._wakeup: asyncio.Future[None] | None = None
        engine.admission.restrict()
        resume_all(engine)

    def called_by(self, job: Job[Any]) -> None:
        """A job has called for the shutdown, and waits for it: it is neither waited for nor cancelled."""
        if job not in self.callers:
            self.callers.add(job)
            self._engine.join_waiters.joining_jobs += 1
            job.add_done_callback(self._caller_done)

    def _caller_done(self, job: Job[Any]) -> None:
        self._engine.join_waiters.joining_jobs -= 1

    def hurry(self, timeout: float | None, grace: float | None, *, cancel_pending: bool = False) -> None:
        """Bring the deadline, the grace, or both forward; `cancel_pending`: let nothing start that has not."""
        now = self._engine.now()
        if timeout is not None:
            self._deadline = min(self._deadline, now + timeout)
        if grace is not None:
            self._grace = grace if self._grace is None else min(self._grace, grace)
            if self._grace_ends is not None:
                self._grace_ends = min(self._grace_ends, now + grace)
        if cancel_pending:
            self._cancel_waiting()
        self.wake()

    def wake(self) -> None:
        """Look at the deadlines anew."""
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def run(self) -> ShutdownReport:
        """Go through the phases."""
        engine, counters, before = self._engine, self._engine.counters, self._before
        await self._yield()  # the first step may be inside of a step of a worker
        await self._finish()
        engine.no_more_retries = True  # first: what fails meanwhile would wait, and nobody would come for it
        self._cancel_waiting()
        while engine.chores.pending:
            await self._yield()
        leaked = await self._cancel_running()
        self._log(leaked)
        await self._stop_workers()
        self._runners.close()
        engine.timers.close()
        errors = await self._call_back()
        ends = engine.now() + EXIT_SECONDS
        for ended in self._runners.endings():
            while not ended.done() and engine.now() < ends:
                await self._wait([ended], ends)
        return ShutdownReport(
            succeeded=counters.succeeded - before.succeeded,
            failed=counters.failed - before.failed,
            timed_out=counters.timed_out - before.timed_out,
            cancelled=counters.cancelled - before.cancelled,
            never_started=self._never_started,
            leaked=leaked,
            callback_errors=tuple(errors),
            seconds=engine.now() - self._began,
        )

    # -- the jobs ----------------------------------------------------------------------------------------------------

    def _cancel_waiting(self) -> None:
        """Let nobody submit any more, and cancel what is queued or scheduled."""
        engine = self._engine
        engine.admission.close()

        def cancel_each() -> Iterator[None]:
            for job in walk(engine.jobs):
                if job is not None and job._status is not JobStatus.RUNNING:
                    self._cancel(job)
                    self._never_started += job._attempt == 0
                yield

        engine.chores.work_off(cancel_each())

    def _cancel(self, job: Job[Any]) -> None:
        if self._engine.cancel(job, REASON):
            self._cut.append(job.id)

    async def _finish(self) -> None:
        """Wait until no job is left but those that called us, or the deadline has come."""
        engine = self._engine
        while any(job not in self.callers for job in engine.jobs.values()) and self._deadline > engine.now():
            idle: asyncio.Future[None] = engine.runtime.loop.create_future()
            engine.join_waiters.futures[idle] = None
            try:
                await self._wait([idle], self._deadline)
            finally:
                engine.join_waiters.futures.pop(idle, None)

    async def _cancel_running(self) -> tuple[LeakedJob, ...]:
        """Cancel what runs, and wait until it has ended or leaked, or the grace is over."""
        engine = self._engine
        self._grace_ends = engine.now() + engine.begin_stopping(self._grace)
        ends: list[asyncio.Future[None]] = []

        def cancel_each() -> Iterator[None]:
            for worker in self._supervisor.living():
                if self._is_busy(worker):
                    job = _job(worker)
                    self._cancel(job)
                    ended = engine.endings.when_ended(job)
                    if ended is not None:
                        ends.append(ended)
                yield

        await self._work_off(cancel_each())
        if self._supervisor.holds_resources:  # to close them takes time, which they have now, and not after the grace
            await self._work_off(self._supervisor.retire_all())
        await self._yield_until(ends)
        while ends and self._grace_ends > engine.now():
            await self._wait([ends[-1]], self._grace_ends)
            await self._drop_done(ends)
        busy: list[Worker] = []

        def leak_each() -> Iterator[None]:
            for worker in self._supervisor.living():
                if self._is_busy(worker):
                    worker.leak(engine.now())
                    busy.append(worker)
                yield

        await self._work_off(leak_each())
        return tuple(LeakedJob(_job(w).id, _job(w).name, w.stack()) for w in busy if self._is_busy(w))

    def _is_busy(self, worker: Worker) -> bool:
        """Whether code of a job runs on a worker, and that job has not called us."""
        job = worker.job
        if job is None or not worker.busy or job in self.callers:
            return False
        return job._finished_at is None or job._ensure_extra().abandoned

    async def _work_off(self, steps: Iterator[None]) -> None:
        """Do what concerns many jobs, in slices."""
        self._engine.chores.work_off(steps)
        while self._engine.chores.pending:
            await self._yield()

    def _log(self, leaked: tuple[LeakedJob, ...]) -> None:
        if not self._cut:
            return
        fields = {
            "pool": self._name,
            "cancelled": len(self._cut),
            "never_started": self._never_started,
            "leaked": len(leaked),
        }
        text = "the shutdown of pool %s cancelled %d jobs: %d had not started, %d did not end"
        words = (self._name, len(self._cut), self._never_started, len(leaked))
        log_fault(logger, text, *words, fields=fields, level=logging.WARNING)
        if logger.isEnabledFor(logging.DEBUG):
            ids = ", ".join(map(describe, self._cut))
            text = "the shutdown of pool %s cancelled the jobs with these ids: %s"
            log_fault(logger, text, self._name, ids, fields={"pool": self._name}, level=logging.DEBUG)

    # -- workers and callbacks ---------------------------------------------------------------------------------------

    async def _stop_workers(self) -> None:
        """End the workers that have no job. It takes a turn of the loop; one that cannot end is left behind.

        Those that hold a resource have what is left of the grace to close it.
        """
        engine = self._engine
        tasks: list[asyncio.Task[None]] = []
        for count, task in enumerate(self._supervisor.stop(), 1):
            if task is not None:
                tasks.append(task)
            if not count % STOP_SLICE:
                await self._yield()
        await self._yield_until(tasks)
        assert self._grace_ends is not None
        while self._supervisor.holds_resources and tasks and self._grace_ends > engine.now():
            await self._wait([tasks[-1]], self._grace_ends)
            await self._drop_done(tasks)
        for task in tasks:
            task.cancel()
        await self._yield_until(tasks)
        for task in tasks:
            if not task.done():
                log_fault(logger, "%s did not end, and is left behind", task.get_name(), fields={"pool": self._name})
        await self._yield()  # the supervisor hears of the ends

    async def _call_back(self) -> list[BaseException]:
        """Run all callbacks at once, begun last in first out; they share the time. Return what went wrong."""
        engine = self._engine
        began = engine.now()
        calls = {
            engine.runtime.task(_call(callback), f"{self._name}-on-shutdown"): callback
            for callback in reversed(self._callbacks)
        }
        while left := [call for call in calls if not call.done()]:
            until = max(began, self._deadline) + CALLBACK_EXTRA
            if until == math.inf:
                until = began + CALLBACK_TIMEOUT
            if until <= engine.now():
                break
            await self._wait(left, until)
        for call in left:
            call.cancel()
        await self._yield_until(left.copy())
        errors: list[BaseException] = []
        for call, callback in calls.items():
            error: BaseException | None
            if call in left:
                seconds = engine.now() - began
                error = TimeoutError(f"{describe(callback)} did not end within the {seconds:g} s of all callbacks")
            else:
                error = asyncio.CancelledError() if call.cancelled() else call.result()
            if error is not None:
                errors.append(error)
                self._hooks.caught(error, logger, "a callback of on_shutdown failed: %s", callback)
        return errors

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def _wait(self, futures: Iterable[asyncio.Future[Any]], until: float) -> None:
        """Wait for one of some futures, for a call of `hurry`, or until a moment."""
        engine = self._engine
        self._wakeup = engine.runtime.loop.create_future()
        left = until - engine.now()
        # A timer of the runtime's, which has a second way; that of `asyncio.wait` has none.
        timer = None if left == math.inf else engine.runtime.later(max(0.0, left), self.wake)
        try:
            await asyncio.wait([*futures, self._wakeup], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._cancelled()
        finally:
            self._wakeup = None
            if timer is not None:
                timer.cancel()

    async def _yield_until(self, ends: list[Any]) -> None:
        """Wait a few turns of the loop for all of some futures; those that are done leave the list."""
        for _ in range(SHUTDOWN_YIELDS):
            await self._drop_done(ends)
            if not ends:
                return
            await self._yield()

    async def _drop_done(self, ends: list[Any]) -> None:
        """Shorten a list of futures by those at its end that are done; if they are many, in slices."""
        count = 0
        while ends and ends[-1].done():
            ends.pop()
            count += 1
            if not count % DONE_SLICE:
                await self._yield()

    async def _yield(self) -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._cancelled()

    def _cancelled(self) -> None:
        """Foreign code cancels our task, as the end of `asyncio.run` does: hurry, but leave nobody waiting."""
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        self.hurry(0, 0)


async def _call(callback: OnShutdown) -> BaseException | None:
    """Call a callback, in a task of its own; return what it raises."""
    try:
        outcome = callback()
        if inspect.isawaitable(outcome):
            await outcome
    except BaseException as error:
        return error
    return None


def resume_all(engine: Engine) -> None:
    """End every pause, of the pool and of groups, and the hold of size 0: what is there has to be finished."""
    engine.set_slots(size=engine.slots.size or 1, paused=False)
    for group_state in engine.groups:
        engine.resume_group(group_state.name)


def only(error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """Return whether an exception is one of some kinds, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kinds)[1] is None
    return isinstance(error, kinds)


def _job(worker: Worker) -> Job[Any]:
    assert worker.job is not None
    return worker.job
