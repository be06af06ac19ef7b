"""A small world around a pool: jobs of every kind, whoever hands them in, waits and cancels; and what must hold of it.

The same world is driven by a Hypothesis machine (`test_machine.py`), by seeded schedules (`test_schedules.py`) and by a
long run (`test_soak.py`). It knows the public face of the pool only, so that it can be held against the promises:
`promises.md` lists them.
"""

import asyncio
import contextvars
import dataclasses
from typing import Any

import anyio
from helpers import balanced, now

from aiopool import (
    Job,
    JobCancelledError,
    JobStatus,
    Pool,
    PoolClosedError,
    PoolStatus,
    QueueFullError,
    Retry,
    current_job,
    events,
)
from aiopool.errors import JobDroppedError
from aiopool.testing import ERRORS

FINAL = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.TIMED_OUT, JobStatus.CANCELLED}
KINDS = ("ok", "instant", "fail", "flaky", "stubborn", "cleanup", "self_cancel", "raise_cancel", "nested")
# They end at once when they are told to.
OBEDIENT = {"ok", "instant", "fail", "flaky"}

VARIABLE: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default=None)


@dataclasses.dataclass(eq=False)
class Record:
    """What the world knows of one job."""

    number: int
    kind: str = "ok"
    seconds: float = 0.0
    timeout: float | None = None
    attempts: int = 1
    job: Job[Any] | None = None
    context: Any = None
    starts: int = 0
    began: float = 0.0
    inside: bool = False
    lent: bool = False
    forbidden: str | None = None
    cancelled_in: int | None = None
    final: JobStatus | None = None
    outcome: Any = None
    ended: bool = False
    heard: list[Any] = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.number} {self.seconds:g}s of {self.job!r}>"


ENDS = {
    "Succeeded": JobStatus.SUCCEEDED,
    "Failed": JobStatus.FAILED,
    "TimedOut": JobStatus.TIMED_OUT,
    "Cancelled": JobStatus.CANCELLED,
}


class World:
    """See the module. Faults that are met inside jobs are collected, and raised by `check`."""

    def __init__(self, *, listen: bool = True, **options: Any) -> None:
        self.faults: list[str] = []
        self.records: list[Record] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.waiting = 0
        options.setdefault("on_error", lambda job, error: None)
        options.setdefault("cancel_grace", 0.5)
        if listen:
            options.setdefault("keep_finished", 100_000)
        self.pool = Pool(**options)
        # Who pushes another job out takes its place, ahead of the streams, which wait for room even then.
        self.drops = str(options.get("overflow", "")).startswith("drop")
        self.paused = False
        self._moment, self._allowed = 0.0, self.pool.size
        self.stories: dict[int | str, list[str]] = {}
        self.listen = listen

    async def open(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self.pool.__aenter__()
        if self.listen:
            self.pool.listen(self._hear, events.JobEvent)

    def fault(self, text: str) -> None:
        self.faults.append(f"{text} (at {now():g} s)")

    # -- jobs ----------------------------------------------------------------------------------------------------

    def record(self, kind: str = "ok", seconds: float = 0.0, **known: Any) -> Record:
        made = Record(len(self.records), kind, seconds, **known)
        self.records.append(made)
        return made

    async def body(self, record: Record) -> Any:
        self._enter(record)
        try:
            return await getattr(self, f"_{record.kind}")(record)
        finally:
            self._leave(record)

    def _enter(self, record: Record) -> None:
        me = current_job()
        record.job = me
        if record.forbidden:
            self.fault(f"{record!r} was entered: {record.forbidden}")
        if me.done():
            self.fault(f"{record!r} was entered after its end")
        if record.inside:
            self.fault(f"two attempts of {record!r} overlap")
        record.starts += 1
        if record.starts > record.attempts or record.starts != me.attempt:
            self.fault(f"attempt {me.attempt} of {record.attempts}, start {record.starts} of {record!r}")
        task = asyncio.current_task()
        assert task is not None
        if task.cancelling():
            self.fault(f"{record!r} began in a task with cancelling() == {task.cancelling()}")
        if VARIABLE.get() != record.context:
            self.fault(f"{record!r} sees {VARIABLE.get()!r} in place of {record.context!r}")
        VARIABLE.set(f"set by job {record.number}")
        holding = sum(other.inside and not other.lent for other in self.records)
        if holding >= self.allowed():
            self.fault(f"{record!r} began while {holding} ran with size {self.pool.size}")
        if self.paused and self.pool.status is PoolStatus.OPEN:
            self.fault(f"{record!r} began in a paused pool")
        # A blocked submitter gets in with the job that goes: so what came in this moment may have come after it.
        early = now() if self.pool._queue_size is not None else float("inf")
        queued = self.pool.jobs(JobStatus.QUEUED)
        line = [job for job in queued if job.waiting_for == "slot" and job.submitted_at < early]
        best = min(line, key=_location, default=me)
        if _location(best) < _location(me) and not self.drops:
            self.fault(f"{record!r} began before {best!r}")
        record.inside, record.lent, record.began = True, False, now()

    def _leave(self, record: Record) -> None:
        record.inside = False
        if record.timeout is not None and record.kind in OBEDIENT and now() - record.began > record.timeout + 1e-9:
            self.fault(f"{record!r} ran for {now() - record.began:g} s with timeout={record.timeout:g}")
        assert record.job is not None
        if record.job.done() and not record.job.leaked:
            self.fault(f"{record!r} ran after its end")

    async def _ok(self, record: Record) -> Any:
        await asyncio.sleep(record.seconds)
        record.outcome = object()
        return record.outcome

    async def _instant(self, record: Record) -> Any:
        record.outcome = object()
        return record.outcome

    async def _fail(self, record: Record) -> Any:
        await asyncio.sleep(record.seconds)
        record.outcome = ValueError(record.number)
        raise record.outcome

    async def _flaky(self, record: Record) -> Any:
        return await (self._fail if record.starts < 2 else self._ok)(record)

    async def _stubborn(self, record: Record) -> Any:
        for _ in range(3):
            try:
                return await self._ok(record)
            except asyncio.CancelledError:
                pass

    async def _cleanup(self, record: Record) -> Any:
        try:
            return await self._ok(record)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.25)

    async def _self_cancel(self, record: Record) -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return await self._ok(record)

    async def _raise_cancel(self, record: Record) -> Any:
        raise asyncio.CancelledError

    async def _nested(self, record: Record) -> Any:
        kind = ("ok", "instant", "fail")[record.number % 3]
        child = self.record(kind, record.seconds, context=VARIABLE.get())
        record.lent = True
        try:
            await self.pool.run(self.body, child)
        except (ValueError, JobCancelledError, JobDroppedError, PoolClosedError, QueueFullError, *ERRORS):
            pass
        except asyncio.CancelledError:
            raise  # its clean-up waits for no slot
        record.lent = False
        return await self._ok(record)

    # -- whoever uses the pool -------------------------------------------------------------------------------------

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = self.loop.create_task(coroutine)
        self.tasks.append(task)
        return task

    def view(self, record: Record, *, retry: Retry | None = None, **options: Any) -> Any:
        if retry is not None:
            record.attempts = retry.attempts
        record.timeout = options.get("timeout")
        return self.pool.with_options(retry=retry, **options)

    async def submit(self, record: Record, view: Any, *, nowait: bool = False) -> None:
        record.context = f"set by submitter {record.number}"
        VARIABLE.set(record.context)
        try:
            if nowait:
                record.job = view.submit_nowait(self.body, record)
            else:
                self.waiting += 1
                try:
                    record.job = await view.submit(self.body, record)
                finally:
                    self.waiting -= 1
        except (PoolClosedError, QueueFullError, JobCancelledError, *ERRORS):
            record.forbidden = "it was refused"
        except asyncio.CancelledError:
            record.forbidden = "its submitter was cancelled"
            if record.job is not None and not record.job.done():
                self.fault(f"{record!r} is an orphan: its submitter was cancelled")
            raise

    async def wait(self, record: Record, patience: float | None = None) -> None:
        if record.job is None:
            return
        try:
            async with asyncio.timeout(patience):
                record.heard.append(await record.job)
        except TimeoutError as error:
            if record.job.done() and record.job.status is JobStatus.TIMED_OUT and error is record.job.exception():
                record.heard.append(error)
        except Exception as error:
            if not made_to_fail(error) or error is record.job.exception():  # else the timer of this wait
                record.heard.append(error)

    def cancel(self, record: Record) -> None:
        job = record.job
        if job is None:
            return
        before = job.status
        said = job.cancel("on purpose")
        if said and before in FINAL:
            self.fault(f"cancel() of {record!r} said True after its end")
        if said and record.cancelled_in is not None:
            self.fault(f"cancel() of {record!r} said True twice")
        if before in (JobStatus.QUEUED, JobStatus.SCHEDULED):
            if not said or job.status is not JobStatus.CANCELLED:
                self.fault(f"cancel() of a {before} job left {record!r}")
            record.forbidden = "it was cancelled while it waited"
        if said:
            record.cancelled_in = job.attempt

    async def cancel_and_wait(self, record: Record) -> None:
        if record.job is None or record.job.done():
            return
        report = await self.pool.cancel(record.job.id)
        if record.inside and not report.leaked and not record.job.leaked:
            self.fault(f"{record!r} runs after pool.cancel() has returned {report}")

    async def resize(self, size: int) -> None:
        self._moment, self._allowed = now(), max(size, self.allowed())
        self.pool.resize(size)

    async def shutdown(self, timeout: float | None, grace: float | None) -> None:
        self.paused = (
            False  # to end is to finish: from here on, and not if this task is cancelled before its first step
        )
        await self.pool.shutdown(timeout, grace)

    def allowed(self) -> int:
        return max(self.pool.size, self._allowed) if self._moment == now() else self.pool.size

    def pause(self, on: bool) -> None:
        if self.pool.status is not PoolStatus.OPEN:
            return
        (self.pool.pause if on else self.pool.resume)()
        self.paused = on

    async def group(self, records: list[Record], on_error: Any) -> None:
        VARIABLE.set("group")
        for record in records:
            record.context = "group"
        try:
            async with self.pool.group(on_error=on_error) as group:
                for record in records:
                    record.job = await group.submit(self.body, record)
        except* (ValueError, JobCancelledError, JobDroppedError, PoolClosedError, QueueFullError, *ERRORS):
            pass
        finally:
            for record in records:
                if record.inside and not (record.job is not None and record.job.leaked):
                    self.fault(f"{record!r} runs after its group was left")
                record.forbidden = "its group was left"

    async def map(self, records: list[Record], taken: int, ordered: bool) -> None:
        VARIABLE.set("map")
        for record in records:
            record.context = "map"
        try:
            async with self.pool.map(self.body, records, ordered=ordered, buffersize=2) as stream:
                for _ in range(taken):
                    await anext(stream)
        except (ValueError, JobCancelledError, JobDroppedError, PoolClosedError, StopAsyncIteration, *ERRORS):
            pass
        finally:
            for record in records:
                if record.inside and not (record.job is not None and record.job.leaked):
                    self.fault(f"BP4: {record!r} runs after its map was closed")
                record.forbidden = "its map was closed"

    # -- what must hold ------------------------------------------------------------------------------------------------

    def _hear(self, event: events.JobEvent) -> None:
        name = type(event).__name__.removeprefix("Job")
        story = self.stories.setdefault(event.job_id, [])
        last = story[-1] if story else None
        after = {
            None: {"Submitted"},
            "Submitted": {"Started", "TimedOut", "Cancelled"},
            "Started": {"Retrying", "Succeeded", "Failed", "TimedOut", "Cancelled", "Leaked"},
            "Retrying": {"Started", "TimedOut", "Cancelled"},
            "Leaked": {"TimedOut", "Cancelled", "Failed", "Retrying"},
        }.get(last, {"Leaked"})
        if name not in after:
            self.faults.append(f"{name} after {story} of job {event.job_id}")
        story.append(name)

    def check(self) -> None:
        """What holds at every moment."""
        for record in self.records:
            job = record.job
            if job is None:
                continue
            status = job.status
            if job.done() != (status in FINAL):
                self.faults.append(f"{record!r}: done() is {job.done()} and its status {status}")
            if record.final is None:
                record.final = status if status in FINAL else None
            elif status is not record.final:
                self.faults.append(f"{record!r} was {record.final}, and is {status}")
        if not balanced(self.pool.statistics()):
            self.faults.append(f"the numbers do not add up: {self.pool.statistics()}")
        unhandled = getattr(self.loop, "unhandled", None)
        if unhandled:
            self.faults.append(f"the loop's exception handler was called: {unhandled}")
        assert not self.faults, "\n".join(self.faults)

    def check_at_rest(self) -> None:
        """What holds when nothing is ready: all that can happen now has happened."""
        self.check()
        if self.pool.status is not PoolStatus.OPEN:
            return
        numbers = self.pool.statistics()
        free = 0 if self.paused else numbers.size - numbers.busy
        if free > 0 and numbers.queued:
            self.faults.append(f"a free slot and a queued job: {numbers}")
        running = {job for job in self.pool.jobs() if job.status is JobStatus.RUNNING}
        if set(found := self.pool.running_jobs()) != running or len(found) != len(running):
            self.faults.append(f"{running} run, and running_jobs() are {found}")
        line = self.pool.next_jobs(1000)
        if self.pool._aging is None and line != sorted(line, key=_location):
            self.faults.append(f"next_jobs() are not in order: {line}")
        limit = self.pool._queue_size
        if numbers.waiting and limit is not None and numbers.queued < limit + max(0, free):
            self.faults.append(f"room and a blocked submitter: {numbers}")
        if numbers.waiting > self.waiting + sum(record.lent for record in self.records) + len(self.tasks):
            self.faults.append(f"more wait than submit: {numbers}")
        self.check()

    async def close(self, timeout: float | None = 0.0, grace: float | None = None) -> None:
        """End the pool, and look at all that was left."""
        began = now()
        await self.pool.shutdown(timeout, grace)
        if timeout is not None:
            limit = timeout + (1.0 if grace is None else grace)
            if now() - began > limit + 1e-6:
                self.faults.append(f"the shutdown took {now() - began:g} s of {limit:g} s")
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=60)
        await asyncio.sleep(30)  # what was left behind comes to its own end
        for task in self.tasks:
            if not task.done():
                self.faults.append(f"{task!r} still waits after the end of the pool")
                task.cancel()
            elif not task.cancelled() and not made_to_fail(error := task.exception()):
                self.faults.append(f"{task!r} raised {error!r}")
        for record in self.records:
            if record.inside:
                self.faults.append(f"{record!r} still runs")
            if record.job is None:
                continue
            if not record.job.done():
                self.faults.append(f"{record!r} has not ended")
                continue
            self._check_outcome(record, record.job)
        numbers = self.pool.statistics()
        if numbers.queued or numbers.running or numbers.scheduled or numbers.busy or numbers.leaked:
            self.faults.append(f"something is left: {numbers}")
        for id, story in self.stories.items():
            ends = ENDS.keys() & set(story)
            if len(ends) != 1:
                self.faults.append(f"a story without one end: {story}")
            elif (kept := self.pool.find(id)) is None or kept.status is not ENDS[ends.pop()]:
                self.faults.append(f"{story}, and what is remembered of it is {kept!r}")
        self.check()

    def _check_outcome(self, record: Record, job: Job[Any]) -> None:
        got = job.result() if job.status is JobStatus.SUCCEEDED else job.exception()
        if any(heard is not got for heard in record.heard):
            self.faults.append(f"{record!r} ended with {got!r}; its waiters heard {record.heard!r}")
        own = job.status in (JobStatus.SUCCEEDED, JobStatus.FAILED) and record.outcome is not None
        if own and record.kind in OBEDIENT and got is not record.outcome:
            self.faults.append(f"{record!r} made {record.outcome!r} and ended with {got!r}")
        if record.cancelled_in is not None and job.attempt != record.cancelled_in:
            self.faults.append(f"{record!r} was cancelled in attempt {record.cancelled_in}, and tried again")
        if record.cancelled_in == 0 and job.status is not JobStatus.CANCELLED:
            self.faults.append(f"{record!r} was cancelled while it waited")


def made_to_fail(error: BaseException | None) -> bool:
    """Whether an error is none, or one that a `FailingCall` has raised."""
    return error is None or str(error).startswith("made to fail")


def _location(job: Job[Any]) -> tuple[int, int]:
    """Where a job stands in line: by priority, then by submission."""
    return job.priority, job._sequence
