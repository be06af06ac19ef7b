"""`Shutdown`: the end of a pool, in four bounded phases, and the frozen report of it.

1. *Refuse*: no job is taken any more; whoever waits for room is told.
2. *Finish*: jobs run to their end until the deadline. (A paused pool goes on: to leave is to finish.)
3. *Cancel*: what is left is told to stop, and has a grace to clean up; then it is left behind, by name.
4. *Leave*: workers end, callbacks run, last in first out.

The deadline can be brought forward at any time, never back: a second, more impatient shutdown joins the first.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any, final

from aiopool._bridge import ThreadBridge
from aiopool._engine import Engine
from aiopool._job import Job
from aiopool._status import JobStatus
from aiopool._supervisor import Supervisor
from aiopool._worker import Worker

__all__ = ["LeakedJob", "Shutdown", "ShutdownReport", "resume_all"]

# Turns of the loop for jobs that need no time to end, however short the grace: enough for nested task groups.
COURTESY = 10

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
    """What a shutdown found, and what it had to leave.

    Attributes:
        succeeded: jobs that returned since the shutdown began.
        failed: jobs that raised since then.
        timed_out: jobs that ran into a time limit since then.
        cancelled: jobs that were cancelled since then, the ones that never started included.
        never_started: jobs of which no attempt was begun.
        leaked: jobs whose code did not end within its grace.
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


@final
class Shutdown:
    """One shutdown under way."""

    __slots__ = (
        "_bridge",
        "_callbacks",
        "_deadline",
        "_engine",
        "_grace",
        "_grace_ends",
        "_supervisor",
        "_wakeup",
        "callback_timeout",
        "callers",
    )

    def __init__(
        self,
        engine: Engine,
        supervisor: Supervisor,
        bridge: ThreadBridge[Worker],
        callbacks: list[OnShutdown],
        callback_timeout: float,
    ) -> None:
        self._engine = engine
        self._supervisor = supervisor
        self._bridge = bridge
        self._callbacks = callbacks
        self.callback_timeout = callback_timeout
        self.callers: set[Job[Any]] = set()
        self._deadline = math.inf
        self._grace: float | None = None
        self._grace_ends: float | None = None
        self._wakeup: asyncio.Future[None] | None = None

    def called_by(self, job: Job[Any]) -> None:
        """A job has called for the shutdown, and waits for it: it is neither waited for nor cancelled."""
        if job not in self.callers:
            self.callers.add(job)
            self._engine.joiners.spectators += 1
            job.add_done_callback(self._caller_done)

    def _caller_done(self, job: Job[Any]) -> None:
        self._engine.joiners.spectators -= 1

    def hurry(self, timeout: float | None, grace: float | None) -> None:
        """Bring the deadline, the grace, or both forward."""
        now = self._engine.now()
        if timeout is not None:
            self._deadline = min(self._deadline, now + timeout)
        if grace is not None:
            self._grace = grace if self._grace is None else min(self._grace, grace)
            if self._grace_ends is not None:
                self._grace_ends = min(self._grace_ends, now + grace)
        self.wake()

    def wake(self) -> None:
        """Look at the deadline anew."""
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def run(self, *, cancel_pending: bool) -> ShutdownReport:
        """Go through the phases."""
        engine, counters = self._engine, self._engine.counters
        began = engine.now()
        before = (counters.succeeded, counters.failed, counters.timed_out, counters.cancelled)
        engine.room.close()
        never_started = self._cancel_waiting() if cancel_pending else 0
        resume_all(engine)
        await self._finish()
        never_started += self._cancel_waiting()
        leaked = await self._cancel_running()
        await self._stop_workers()
        self._bridge.close(0)
        engine.timetable.close()
        errors = await self._call_back()
        return ShutdownReport(
            succeeded=counters.succeeded - before[0],
            failed=counters.failed - before[1],
            timed_out=counters.timed_out - before[2],
            cancelled=counters.cancelled - before[3],
            never_started=never_started,
            leaked=leaked,
            callback_errors=tuple(errors),
            seconds=engine.now() - began,
        )

    def _cancel_waiting(self) -> int:
        """Cancel what is queued or scheduled; return how many of them never started."""
        engine = self._engine
        waiting = [job for job in engine.jobs.values() if job._status is not JobStatus.RUNNING]
        for job in waiting:
            engine.cancel(job, "the pool was shut down")
        return sum(job._attempt == 0 for job in waiting)

    async def _finish(self) -> None:
        """Wait until no job is left but those that called us, or the deadline has come."""
        engine = self._engine
        while len(engine.jobs.keys() - {job.sequence for job in self.callers}) > 0:
            left = self._deadline - engine.now()
            if left <= 0:
                return
            self._wakeup = engine.runtime.loop.create_future()
            engine.joiners.futures.append(self._wakeup)
            timer = engine.runtime.later(left, self.wake) if left < math.inf else None
            try:
                await self._wakeup
            except asyncio.CancelledError:
                self._cancelled()
            finally:
                if self._wakeup in engine.joiners.futures:
                    engine.joiners.futures.remove(self._wakeup)
                self._wakeup = None
                if timer is not None:
                    timer.cancel()

    async def _cancel_running(self) -> tuple[LeakedJob, ...]:
        """Cancel what runs, and wait until it has ended, leaked, or the grace is over."""
        engine = self._engine
        now = engine.now()
        # By itself the ladder of `_worker.py` ends after two graces.
        if self._grace is not None:
            engine.cancel_grace = self._grace / 2
        self._grace_ends = now + 2 * engine.cancel_grace
        engine.last_attempts = True
        busy = self._busy()
        for worker in busy:
            assert worker.job is not None
            engine.cancel(worker.job, "the pool was shut down")
        for _ in range(COURTESY):
            if not self._busy():
                break
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self._cancelled()
        while (busy := [worker for worker in self._busy() if not _job(worker).leaked]) and (
            left := self._grace_ends - engine.now()
        ) > 0:
            self._wakeup = engine.runtime.loop.create_future()
            timer = engine.runtime.later(left, self.wake)
            for worker in busy:
                extra = _job(worker)._more()
                extra.ended = [*(extra.ended or ()), self._wakeup]
            try:
                await self._wakeup
            except asyncio.CancelledError:
                self._cancelled()
            finally:
                self._wakeup = None
                timer.cancel()
        for worker in busy:
            job = _job(worker)
            if job._more().stop is None:
                engine.cancel(job, "the pool was shut down")
            if job._more().late:
                engine.mark_leaked(worker, job)
            else:
                engine.leave_behind(worker, job, leaked=True, now=engine.now())
        return tuple(LeakedJob(_job(w).id, _job(w).name, w.stack()) for w in self._busy())

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._supervisor.busy() if worker.job not in self.callers]

    async def _stop_workers(self) -> None:
        while True:
            try:
                return await self._supervisor.stop()
            except asyncio.CancelledError:
                self._cancelled()

    def _cancelled(self) -> None:
        """Foreign code cancels our task, as the end of `asyncio.run` does: hurry, but leave nobody waiting."""
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        self.hurry(0, 0)

    async def _call_back(self) -> list[BaseException]:
        """Run the callbacks, last in first out, each within its time limit; one that fails does not stop the others."""
        errors: list[BaseException] = []
        for callback in reversed(self._callbacks):
            try:
                async with asyncio.timeout(self.callback_timeout):
                    outcome = callback()
                    if inspect.isawaitable(outcome):
                        await outcome
            except asyncio.CancelledError as error:  # its own, or foreign code's
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    self._cancelled()
                errors.append(error)
            except Exception as error:
                errors.append(error)
        return errors


def resume_all(engine: Engine) -> None:
    """End every pause, of the pool and of groups, and the hold of size 0: what is there has to be finished."""
    engine.set_slots(size=engine.size or 1, paused=False)
    for label in engine.labels:
        engine.resume_group(label.name)


def only(error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """Return whether an exception is one of some kinds, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kinds)[1] is None
    return isinstance(error, kinds)


def _job(worker: Worker) -> Job[Any]:
    assert worker.job is not None
    return worker.job
