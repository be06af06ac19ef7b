"""`StoreJobs`: the jobs of one pool in its store. It wires the parts together, and is what the pool knows as its
`Durability`.

    submit ──▶ flusher ──▶ store.submit ──▶ queued there ── claimer ──▶ a run here, or in another process
                                       └──▶ running at once, if a slot is free here and nobody waits
    a run ends ──▶ flusher ──▶ store.settle ──▶ its handle, here or elsewhere, ends

The order of the end: claim no more; keep the leases; let what runs end, or give it back; write the ends, then what was
submitted; let go of the leases; close.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import logging
import math
import os
import socket
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple, final

from aiopool._durable.claimer import Claimer
from aiopool._durable.flusher import Flusher
from aiopool._durable.handlers import Handlers
from aiopool._durable.handles import Handles, current_job_id
from aiopool._durable.ids import new_id
from aiopool._durable.keeper import LeaseKeeper
from aiopool._durable.payloads import encode_error
from aiopool._durable.plans import MAX_TEXT, Plans, check_text, limit_rows
from aiopool._durable.runs import Run
from aiopool._durable.sweeper import Sweeper
from aiopool._engine.engine import Engine
from aiopool._jobs.job import Job
from aiopool._jobs.status import JobStatus
from aiopool._observe.store_numbers import StoreNumbers
from aiopool._pool.cancel_report import CancelReport
from aiopool._pool.durability import Role, StoreCall
from aiopool._pool.fleet import Fleet
from aiopool._pool.state import PoolState
from aiopool._runtime import failpoints
from aiopool._runtime.faults import log_fault
from aiopool._runtime.runtime import Runtime
from aiopool.errors import PayloadError, StoreError, StoreUnavailableError
from aiopool.stores._open import open_store
from aiopool.stores._protocol import Store, Wake
from aiopool.stores._rows import (
    CancelAnswer,
    Claimed,
    Incarnation,
    NewJob,
    Settlement,
    StoredStatus,
    StoreStatistics,
    Submitted,
)

__all__ = ["StoreJobs", "store_jobs"]

logger = logging.getLogger("aiopool.store")

# Seconds for which a submission is tried while the store cannot be reached.
SUBMIT_PATIENCE = 10.0
# Seconds that the end of a pool takes at most, for what is left to write.
CLOSE_SECONDS = 5.0
# Seconds between two reports of progress.
PROGRESS_EVERY = 0.5
# Seconds between two looks at the numbers of the fleet, while metrics are wanted.
COUNTED_EVERY = 5.0


class _Pending(NamedTuple):
    """A submission on its way."""

    row: NewJob
    handle: Job[Any]
    answer: asyncio.Future[Submitted] | None


class _Ended(NamedTuple):
    """An end on its way; None: of a job that did not run here."""

    run: Run | None
    end: Settlement


@final
class StoreJobs:
    """See the module."""

    def __init__(self, state: PoolState, store: Store, handlers: Handlers, role: Role) -> None:
        self.store = store
        self.role = role
        self.max_payload = store.max_payload
        self.fleet = Fleet(store, self.watch)
        self.runs: dict[str, Run] = {}
        self._ending: dict[str, int] = {}  # the fences of jobs whose attempt has ended here, and is not written yet
        self.lost_settlements = 0
        self._limits = limit_rows(state.limits)
        self._state = state
        self._handlers = handlers
        self._is_open = self._closing = False

    # -- open and close ------------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The engine of the open pool."""
        engine = self._state.engine
        assert engine is not None
        return engine

    @property
    def runtime(self) -> Runtime:
        """Its runtime."""
        return self.engine.runtime

    async def open(self) -> None:
        """See `Durability`."""
        runtime, engine, store = self.runtime, self.engine, self.store
        self.runs, self._ending, self._closing = {}, {}, False
        self._starting: set[str] = set()  # submissions on their way that may start here at once
        self._background: set[asyncio.Task[Any]] = set()
        self._ready = asyncio.Event()
        self._look_hint = asyncio.Event()
        self._may_have_ended = False
        self._fleet_numbers: StoreStatistics | None = None
        self.handles = Handles(self._state.name, engine, self._handlers, self._cancel_soon)
        self.handles.is_here = self._is_here
        self.handles.on_expected = self._look_hint.set
        self.plans = Plans(self._state, self._handlers, self.handles)
        self.submits: Flusher[_Pending, Submitted] = Flusher(
            "submissions", runtime, self._write_jobs, self._submitted, self._not_submitted, patience=SUBMIT_PATIENCE
        )
        self.ends: Flusher[_Ended, bool] = Flusher(
            "ends of jobs", runtime, self._write_ends, self._settled, self._not_settled, patience=None
        )
        self.cancels: Flusher[tuple[str, str | None], CancelAnswer] = Flusher(
            "cancels",
            runtime,
            self._write_cancels,
            self._cancel_answered,
            self._not_cancelled,
            patience=SUBMIT_PATIENCE,
        )
        self.claimer = Claimer(store, engine, self._start, self._cancelled_elsewhere, self._give_back_unknown)
        self.sweeper = Sweeper(store, runtime, lambda: self._handlers.names, self.claimer.hint)
        self._keeper: LeaseKeeper | None = None
        if self.role != "producer" and self._state.dask is None:
            self.plans.refuse("dask", 'is to run on a Dask cluster: write Pool(dask="tcp://scheduler:8786"), too')
        await self._connect()
        self._is_open = True
        self._looker = runtime.task(self._look(), "aiopool-store-look")
        if self.role != "producer":
            self.claimer.begin()
            self.sweeper.begin()
            for handler in self._handlers:
                if handler.every is not None:
                    self.plans.view.every(handler.every, handler.function, tz=handler.tz, missed=handler.missed)

    async def _connect(self) -> None:
        """Open the store as a new incarnation."""
        self.me = Incarnation(uuid.uuid4().hex, socket.gethostname(), os.getpid(), self.role != "producer")
        await self.store.open(self._state.name, self.me, self._on_wake)
        try:
            if self._limits:
                await self.store.set_limits(self._limits)
            keeper = self.store.keeper() if self.me.runs_jobs else None
            if keeper is not None:
                assert self.store.lease is not None
                self._keeper = LeaseKeeper(keeper, self.store.lease, self.runtime, self._lease_lost)
                await self._keeper.begin()
        except BaseException:
            await self.store.close()
            raise
        self._ready.set()

    def stop_claiming(self) -> None:
        """See `Durability`."""
        self._closing = True
        if self._is_open:
            self.claimer.stop()

    async def close(self) -> None:
        """See `Durability`."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.claimer.ended()
                for flusher in (self.cancels, self.ends, self.submits):
                    await flusher.drain()
        except TimeoutError:
            text = "pool %s has closed, and %d ends of its jobs are not written: another process will run them again"
            log_fault(logger, text, self._state.name, len(self.ends), fields={})
        for flusher in (self.cancels, self.ends, self.submits):
            flusher.give_up()
            await flusher.drain()
        await self.sweeper.stop()
        self._looker.cancel()
        for task in tuple(self._background):
            task.cancel()
        await asyncio.wait([self._looker, *self._background])
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._keeper is not None:
                    await self._keeper.stop()
                if failpoints.ACTIVE:
                    failpoints.reach("close.before")
                await self.store.close()
        except (TimeoutError, StoreError) as error:
            log_fault(logger, "the store of pool %s could not be closed", self._state.name, error=error, fields={})

    def _lease_lost(self) -> None:
        """This process was taken for dead: what it runs is somebody else's. Begin anew, as another."""
        if self._closing or not self._is_open or not self._ready.is_set():
            return
        self._ready.clear()
        text = "the lease of pool %s was lost (the process was frozen, or cut off): its %d jobs run elsewhere now"
        log_fault(logger, text, self._state.name, len(self.runs), fields={})
        for run in tuple(self.runs.values()):
            run.lost = True
            if run.job is not None:
                self.engine.cancel(run.job, "its lease was lost")
        self._spawn(self._begin_anew(), "reopen")

    async def _begin_anew(self) -> None:
        if self._keeper is not None:
            await self._keeper.stop()
            self._keeper = None
        while not self._closing:
            try:
                await self.store.close()
                await self._connect()
            except StoreError as error:
                log_fault(logger, "the store cannot be opened again: %s", error, fields={}, level=logging.WARNING)
                await asyncio.sleep(1.0)
            else:
                self.claimer.hint()
                return

    def _spawn(self, steps: Any, name: str) -> None:
        task = self.runtime.task(steps, f"aiopool-store-{name}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _on_wake(self, wake: Wake) -> None:
        if wake == "work":
            self.claimer.hint()
        elif wake == "cancel":
            self.claimer.look()
        else:
            self._look_again()

    # -- submitting ----------------------------------------------------------------------------------------------------

    async def submit(self, call: StoreCall) -> Job[Any]:
        """See `Durability`."""
        pending = self._prepare(call, awaited=True)
        assert pending.answer is not None
        if call.within is not None:
            return await self._submit_within(pending, call.within)
        answer = await pending.answer
        return self._handle_of(pending, answer)

    def hand_in(self, call: StoreCall) -> Job[Any]:
        """See `Durability`."""
        return self._prepare(call, awaited=False).handle

    def submit_tick(self, periodic: Any, call: StoreCall, about: str, due: float, *, skips: bool) -> Job[Any]:
        """See `Durability`."""
        # To the millisecond: the moment is worked out from two clocks, and must be the same in every process.
        moment = round(self.runtime.wall_time(due).timestamp(), 3)
        payload = self.plans.of(call.spec, call.function).handler.signature.encode(call.args, {}, self.max_payload)
        schedule = f"{call.spec.name} {about} {payload}"
        unique = f"every {schedule}"[:MAX_TEXT] if skips else None
        job = self.hand_in(call._replace(tick=(schedule, moment), unique=unique))

        def passed_over(job: Job[Any]) -> None:
            if isinstance(job.exception(), _NotTakenError):
                periodic.passed_over()

        job.add_done_callback(passed_over)
        return job

    def _prepare(self, call: StoreCall, *, awaited: bool) -> _Pending:
        """Make the row and the handle of a call, and have the row written."""
        plan = self.plans.of(call.spec, call.function)
        spec, handler = call.spec, plan.handler
        payload = handler.signature.encode(call.args, call.kwargs, self.max_payload)
        id = new_id() if call.id is None else check_text("id", str(call.id))
        if call.unique is not None:
            check_text("unique", call.unique)
        delay, run_at = 0.0, None
        if isinstance(call.delay, datetime.datetime):
            run_at = call.delay.timestamp()
        else:
            delay = call.delay
        start = (
            self.role == "both"
            and not delay
            and run_at is None
            and not plan.lanes
            and call.within is None
            and call.tick is None
            and not self.claimer.may_be_more
            and not self.claimer.paused
            and self.claimer.free() > 0
        )
        if start:
            self.claimer.reserved += 1
            self._starting.add(id)
        row = NewJob(
            id,
            handler.name,
            payload,
            spec.priority,
            delay,
            run_at,
            spec.queue_timeout,
            spec.total_timeout,
            handler.max_crashes,
            call.unique,
            spec.group,
            plan.keys,
            plan.lanes,
            plan.metadata,
            plan.options,
            current_job_id(),
            self.me.id,
            start,
            call.tick,
        )
        handle = self.handles.make(plan.handle, id, 0.0 if run_at is not None else delay, call.block)
        if call.block is not None:
            call.block.add(handle)
        pending = _Pending(row, handle, self.runtime.loop.create_future() if awaited else None)
        if call.within is None:
            self.submits.add(pending)
        return pending

    async def _submit_within(self, pending: _Pending, connection: object) -> Job[Any]:
        """Write a job in a transaction of the caller's."""
        try:
            answer = (await self.store.submit([pending.row], within=connection))[0]
        except BaseException:
            self.handles.forget(pending.handle)
            raise
        return self._handle_of(pending, answer)

    async def _write_jobs(self, batch: Sequence[_Pending], again: bool) -> Sequence[Submitted]:
        await self._ready.wait()
        if failpoints.ACTIVE:
            failpoints.reach("submit.before")
        answers = await self.store.submit([pending.row for pending in batch])
        if failpoints.ACTIVE:
            failpoints.reach("submit.after")
        if not again:
            return answers
        # It was sent before, and the answer was lost: what is there under our name is what we sent.
        self.claimer.doubtful = True
        self.claimer.look()
        return [
            answer._replace(outcome="queued")
            if answer.outcome == "same_id" and answer.submitter == pending.row.submitter
            else answer
            for pending, answer in zip(batch, answers, strict=True)
        ]

    def _submitted(self, pending: _Pending, answer: Submitted) -> None:
        """A submission is committed, or was not taken."""
        row, handle = pending.row, pending.handle
        if row.start:
            self.claimer.reserved -= 1
            self._starting.discard(row.id)
        if answer.outcome == "running":
            total = row.total_timeout
            self._start(
                Claimed(
                    row.id, row.name, row.payload, row.priority, 1, 0, 1, 0.0, total, row.group, row.keys, row.metadata,
                    row.trace, row.parent,
                )
            )  # fmt: skip
        elif answer.outcome == "queued":
            self.claimer.hint()
        else:
            self.handles.forget(handle)
            if pending.answer is None:  # nobody is there to get another job, or an error
                self.handles.refused(handle, _not_taken(row, answer))
        if pending.answer is not None and not pending.answer.done():
            pending.answer.set_result(answer)

    def _not_submitted(self, pending: _Pending, error: BaseException) -> None:
        if pending.row.start:
            self.claimer.reserved -= 1
            self.claimer.doubtful = True
            self._starting.discard(pending.row.id)
        if pending.answer is None or pending.answer.done():
            self.handles.refused(pending.handle, error)
        else:
            self.handles.forget(pending.handle)
            pending.answer.set_exception(error)

    def _handle_of(self, pending: _Pending, answer: Submitted) -> Job[Any]:
        """Return the job that a submission has come to.

        Raises:
            ValueError: its id is taken.
        """
        row, handle = pending.row, pending.handle
        if answer.outcome in ("queued", "running"):
            return handle
        block: Any = handle._waiters
        if block is not None and hasattr(block, "remove"):
            block.remove(handle)
        if answer.outcome == "same_unique":
            found = self.handles.by_id.get(answer.id)
            return found or self.handles.make(handle._spec, answer.id, 0.0, None)
        raise _not_taken(row, answer)

    # -- running -------------------------------------------------------------------------------------------------------

    def _start(self, claimed: Claimed) -> None:
        """Have the engine run a job that the store has given to us."""
        handler = self._handlers.get(claimed.name)
        if handler is None:
            self._add_end(_Ended(None, Settlement(claimed.id, claimed.fence, "park")))
            return
        if self._closing:
            self._add_end(_Ended(None, Settlement(claimed.id, claimed.fence, "release")))
            return
        total = None if claimed.time_left is None else claimed.age + claimed.time_left
        run = Run(self, handler, claimed.id, claimed.fence, claimed.crashes, total)
        try:
            args, kwargs = handler.signature.decode(claimed.payload)
            function = functools.partial(handler.function, **kwargs) if kwargs else handler.function
            spec = self.plans.run_spec(handler, claimed)
            if spec.sent:
                from aiopool._runtime.pickled_call import pickle_call  # few functions run in processes

                function, args = pickle_call(function, args), ()
        except Exception as error:  # a row that cannot be run must not stop those behind it
            record = encode_error(error if isinstance(error, PayloadError) else _unreadable(claimed, error))
            self._add_end(_Ended(None, Settlement(claimed.id, claimed.fence, "dead", error=record)))
            text = "job %s id %s cannot be run, and is given up"
            log_fault(logger, text, claimed.name, claimed.id, error=error, fields={})
            return
        if failpoints.ACTIVE:
            failpoints.reach("start.before")
        self.runs[claimed.id] = run
        engine = self.engine
        run.job = engine.enter_leased(spec, function, args, run, claimed.id, attempt=claimed.attempt, age=claimed.age)
        if claimed.parent is not None:
            run.job._ensure_extra().parent = claimed.parent
        if claimed.time_left is not None:
            run.timer = engine.timers.add(engine.now() + claimed.time_left, engine.leased_expired, run.job)

    async def _give_back_unknown(self) -> None:
        """Give back what the store says that this process holds, and it has not heard of: the answer was lost.

        What is on its way is known. What has ended meanwhile is told by its fence: the store does not take it back.
        """
        for id, fence in await self.store.owned():
            run = self.runs.get(id)
            is_known = (run is not None and run.fence == fence) or self._ending.get(id) == fence or id in self._starting
            if not is_known:
                logger.warning("job %s was given to this process, which did not hear of it: it is given back", id)
                self._add_end(_Ended(None, Settlement(id, fence, "release")))

    def _add_end(self, ended: _Ended) -> None:
        self._ending[ended.end.id] = ended.end.fence
        self.ends.add(ended)

    def _is_written(self, end: Settlement) -> None:
        if self._ending.get(end.id) == end.fence:
            del self._ending[end.id]

    def is_awaited(self, id: str) -> bool:
        """See `RunOwner`."""
        handle = self.handles.by_id.get(id)
        return handle is not None and handle._waiters is not None

    def settle(self, run: Run, end: Settlement) -> None:
        """See `RunOwner`."""
        if failpoints.ACTIVE:
            failpoints.reach("job.ended")
        self._let_go(run)
        self._add_end(_Ended(run, end))

    def drop(self, run: Run) -> None:
        """See `RunOwner`."""
        self._let_go(run)
        self.lost_settlements += 1

    def _let_go(self, run: Run) -> None:
        if self.runs.get(run.id) is run:
            del self.runs[run.id]
        if run.timer is not None:
            self.engine.timers.cancel(run.timer)
            run.timer = None

    async def _write_ends(self, batch: Sequence[_Ended], again: bool) -> Sequence[bool]:
        await self._ready.wait()
        if failpoints.ACTIVE:
            failpoints.reach("settle.before")
        counted = await self.store.settle([ended.end for ended in batch])
        if failpoints.ACTIVE:
            failpoints.reach("settle.after")
        return counted

    def _settled(self, ended: _Ended, counted: bool) -> None:
        """The end of an attempt is written; or it was somebody else's by now."""
        run, end = ended
        self._is_written(end)
        if end.outcome == "release" and counted:
            self.claimer.hint()
        self.lost_settlements += not counted
        if counted and end.outcome == "succeeded" and run is not None and run.job is not None:
            self.handles.succeeded(run.id, end.result, run.job._attempt, run.job._started_at)
        else:
            self.handles.ask_about(end.id)  # whoever waits for it here asks the store, as others do

    def _not_settled(self, ended: _Ended, error: BaseException) -> None:
        """It could not be written at all: the store will notice that nobody holds the job."""
        self._is_written(ended.end)
        text = "the end of job %s (%s) could not be written; it will run again"
        log_fault(logger, text, ended.end.id, ended.end.outcome, error=error, fields={})

    def _cancelled_elsewhere(self, id: str, fence: int, reason: str | None) -> None:
        run = self.runs.get(id)
        if run is not None and run.fence == fence and not run.cancelled and run.job is not None:
            run.cancelled = True
            self.engine.cancel(run.job, reason)

    # -- cancelling ----------------------------------------------------------------------------------------------------

    def _cancel_soon(self, id: str, reason: str | None) -> None:
        self.cancels.add((id, reason))

    async def _write_cancels(self, batch: Sequence[tuple[str, str | None]], again: bool) -> Sequence[CancelAnswer]:
        await self._ready.wait()
        await self.submits.drain()  # what is on its way there is found
        answers: dict[str, CancelAnswer] = {}
        for reason in {reason for _, reason in batch}:
            ids = list({id: None for id, why in batch if why == reason})
            answers |= {answer.id: answer for answer in await self.store.cancel(ids, reason)}
        return [answers[id] for id, _ in batch]

    def _cancel_answered(self, row: tuple[str, str | None], answer: CancelAnswer) -> None:
        if answer.was == "running":
            run = self.runs.get(answer.id)
            if run is not None and run.job is not None and not run.cancelled:
                run.cancelled = True
                self.engine.cancel(run.job, row[1])
        self._look_again()

    def _not_cancelled(self, row: tuple[str, str | None], error: BaseException) -> None:
        log_fault(logger, "job %s could not be cancelled", row[0], error=error, fields={})

    async def cancel(self, id: str, reason: str | None) -> CancelReport:
        """See `Durability`."""
        await self._ready.wait()
        await self.submits.drain()
        answer = (await self.store.cancel([id], reason))[0]
        if answer.was == "unknown":
            return CancelReport(id, None, None)
        if answer.was == "ended":
            rows = await self.store.find([id])
            if not rows:
                return CancelReport(id, None, None)
            status = _STATUS[rows[0].status]
            ago = max(0.0, await self.store.now() - (rows[0].finished_at or 0.0))
            return CancelReport(id, status, status, ended_ago=ago)
        self._cancel_answered((id, reason), answer)
        was = JobStatus.QUEUED if answer.was == "queued" else JobStatus.RUNNING
        status = JobStatus.CANCELLED
        if was is JobStatus.RUNNING and not self._is_current(id):
            status = await self._ended_status(id)
        return CancelReport(id, was, status)

    def _is_current(self, id: str) -> bool:
        return current_job_id() == id

    async def _ended_status(self, id: str) -> JobStatus:
        """Wait for the end of a job, wherever it runs, and return its status."""
        handle = self.handles.by_id.get(id)
        if handle is None:
            handle = self.watch(id, "")
        await handle.wait()
        return handle.status

    def watch(self, id: str, name: str) -> Job[Any]:
        """Return a handle of a job that was submitted elsewhere."""
        found = self.handles.by_id.get(id)
        if found is not None:
            return found
        handler = self._handlers.get(name)
        function = _unknown if handler is None else handler.function
        spec = self.plans.view._look_up(function).with_priority(5)
        spec.owner, spec.name = self.handles, name or id
        return self.handles.make(spec, id, 0.0, None)

    # -- numbers -----------------------------------------------------------------------------------------------------

    def numbers(self) -> StoreNumbers:
        """See `Durability`."""
        if not self._is_open:
            return StoreNumbers(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, None)
        flushers = (self.submits, self.ends)
        since = [one.failing_since for one in (*flushers, self.claimer) if one.failing_since is not None]
        return StoreNumbers(
            commits=sum(flusher.writes for flusher in flushers),
            rows=sum(flusher.rows for flusher in flushers),
            waiting=sum(len(flusher) for flusher in flushers),
            leases=len(self.runs),
            claims=self.claimer.claims,
            claimed=self.claimer.jobs,
            lost=self.lost_settlements,
            rescued=self.sweeper.rescued,
            dead=self.sweeper.dead,
            outage=self.engine.now() - min(since) if since else 0.0,
            fleet=self._fleet_numbers,
        )

    # -- who waits -----------------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """See `Durability`."""
        await self.submits.drain()
        for handle in list(self.handles.by_id.values()):
            if handle._finished_at is None:
                await handle.wait()
        while self.runs or self.ends.busy:
            await self.ends.drain()
            await asyncio.sleep(0 if not self.runs else 0.01)

    def expect(self, job: Job[Any]) -> bool:
        """See `Durability`."""
        ours = job._spec.owner is self.handles
        if ours:
            self.handles.expect(job)
        return ours

    def _is_here(self, id: str) -> bool:
        return id in self.runs or id in self._ending

    def _look_again(self) -> None:
        """Some job may have ended, whichever it is."""
        self._may_have_ended = True
        self._look_hint.set()

    async def _look(self) -> None:
        """Ask about jobs that somebody waits for, and write how far those are that run here."""
        runs, hint, handles = self.runs, self._look_hint, self.handles
        wrote = counted = polled = -math.inf
        while True:
            waits = handles.expected or self.me.runs_jobs or self._state.observers.recorder is not None
            seconds = min(self.store.poll, PROGRESS_EVERY) if waits else None
            try:
                async with asyncio.timeout(seconds):
                    await hint.wait()
            except TimeoutError:
                pass
            hint.clear()
            try:
                await self._ready.wait()
                now = self.engine.now()
                again = (
                    self._may_have_ended or now - polled >= self.store.poll
                )  # hints may come all the time, or get lost
                self._may_have_ended, polled = False, now if again else polled
                asked = handles.next_asked(again=again)
                if handles.are_unasked:
                    hint.set()
                if asked:
                    for end in await self.store.finished(asked):
                        handles.finished(end)
                if runs and now - wrote >= PROGRESS_EVERY:
                    wrote = now
                    await self._write_progress()
                if self._state.observers.recorder is not None and now - counted >= COUNTED_EVERY:
                    counted = now
                    self._fleet_numbers = await self.store.statistics()
            except StoreUnavailableError:
                await asyncio.sleep(self.store.poll)
            except StoreError as error:
                log_fault(logger, "the store cannot be asked about jobs: %s", error, fields={})
                await asyncio.sleep(self.store.poll)

    async def _write_progress(self) -> None:
        rows = []
        for run in self.runs.values():
            extra = None if run.job is None else run.job._extra
            if extra is not None and extra.progress is not None and extra.progress != run.progress:
                run.progress = extra.progress
                rows.append((run.id, run.fence, *extra.progress))
        if rows:
            await self.store.report_progress(rows)


_STATUS: dict[StoredStatus, JobStatus] = {
    StoredStatus.SCHEDULED: JobStatus.SCHEDULED,
    StoredStatus.RUNNING: JobStatus.RUNNING,
    StoredStatus.SUCCEEDED: JobStatus.SUCCEEDED,
    StoredStatus.FAILED: JobStatus.FAILED,
    StoredStatus.DEAD: JobStatus.FAILED,
    StoredStatus.TIMED_OUT: JobStatus.TIMED_OUT,
    StoredStatus.CANCELLED: JobStatus.CANCELLED,
}


async def _unknown() -> None:
    """Stands for a function that is not known here."""


def _unreadable(claimed: Claimed, error: BaseException) -> PayloadError:
    fault = PayloadError(f"job {claimed.name!r} id {claimed.id!r} cannot be read: {error}")
    fault.__cause__ = error
    return fault


class _NotTakenError(ValueError):
    """A job was not taken: another one has its id, its `unique`, or its moment."""


def _not_taken(row: NewJob, answer: Submitted) -> ValueError:
    if answer.outcome == "same_id":
        return _NotTakenError(
            f"id={row.id!r} is taken: the store has a job with it, or remembers one that has ended. Choose another id; "
            f"unique={row.id!r} is for one live job at a time"
        )
    if answer.outcome == "same_unique":
        return _NotTakenError(f"unique={row.unique!r} is taken by job {answer.id!r}")
    return _NotTakenError(f"the moment {row.tick!r} is over: another process has submitted its job")


def store_jobs(state: PoolState, store: object, handlers: object, role: Role) -> StoreJobs:
    """Make what keeps the jobs of a pool in a store; checks what the user gave.

    Raises:
        TypeError, ValueError: it is no store, or no handlers.
    """
    if isinstance(store, str):
        store = open_store(store)
    elif not hasattr(store, "claim"):
        raise TypeError(f'store={store!r} is no store: write a URL, such as store="sqlite:///jobs.db"')
    if not isinstance(handlers, Handlers):
        raise TypeError(
            f"handlers={handlers!r}: a store keeps jobs by registered names: write handlers = aiopool.Handlers(), "
            'register functions with @handlers.register("name"), and Pool(store=..., handlers=handlers)'
        )
    found: Any = store
    return StoreJobs(state, found, handlers, role)
