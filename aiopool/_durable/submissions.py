"""`Submissions`: jobs on their way into the store, until they are committed, or not taken.

A submission that finds a free slot here, and nobody who waits before it, may start as it is committed: that saves a
claim. Its slot is reserved meanwhile. The store decides; what is said here is only that it may.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

from aiopool._durable.claimer import Claimer
from aiopool._durable.flusher import Flusher
from aiopool._durable.handles import Handles, current_job_id
from aiopool._durable.ids import new_id
from aiopool._durable.plans import MAX_TEXT, Plans, check_text
from aiopool._jobs.job import Job
from aiopool._pool.durability import StoreCall
from aiopool._runtime import failpoints
from aiopool._runtime.runtime import Runtime
from aiopool.stores._protocol import Store
from aiopool.stores._rows import Claimed, Incarnation, NewJob, Submitted, schedule_text

__all__ = ["SUBMIT_PATIENCE", "Submissions"]

# Seconds for which a submission is tried while the store cannot be reached.
SUBMIT_PATIENCE = 10.0


class Pending(NamedTuple):
    """A submission on its way; `answer`: of who waits for it."""

    row: NewJob
    handle: Job[Any]
    answer: asyncio.Future[Submitted] | None


@final
class Submissions:
    """The submissions of one open pool.

    Attributes:
        flusher: writes them.
        starting: the ids of those that may start here at once.
    """

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        ready: asyncio.Event,
        plans: Plans,
        handles: Handles,
        claimer: Claimer,
        *,
        me: Callable[[], Incarnation],
        starts: bool,
        start: Callable[[Claimed], object],
    ) -> None:
        """What it does.

        Args:
            store, runtime, plans, handles, claimer: the parts that it works with.
            ready: the store is open.
            me: who we are now.
            starts: this pool runs what it submits, too.
            start: begins a job that may start at once.
        """
        self._store = store
        self._runtime = runtime
        self._ready = ready
        self._plans = plans
        self._handles = handles
        self._claimer = claimer
        self._me = me
        self._starts = starts
        self._start = start
        self.starting: set[str] = set()
        self.flusher: Flusher[Pending, Submitted] = Flusher(
            "submissions",
            runtime,
            self._write,
            self._submitted,
            self._not_submitted,
            patience=SUBMIT_PATIENCE,
            weigh=lambda pending: len(pending.row.payload),
        )

    async def submit(self, call: StoreCall) -> Job[Any]:
        """Hand in a job, and return it when it is committed."""
        pending = self._prepare(call, awaited=True)
        if call.within is None:
            assert pending.answer is not None
            return self._handle_of(pending, await pending.answer)
        try:  # in a transaction of the caller's
            answer = (await self._store.submit([pending.row], within=call.within))[0]
        except BaseException:
            self._handles.forget(pending.handle)
            raise
        return self._handle_of(pending, answer)

    def hand_in(self, call: StoreCall) -> Job[Any]:
        """Hand in a job, and return it at once."""
        return self._prepare(call, awaited=False).handle

    def submit_tick(self, periodic: Any, call: StoreCall, about: str, due: float, *, skips: bool) -> Job[Any]:
        """See `Durability.submit_tick`."""
        # To the millisecond: the moment is worked out from two clocks, and must be the same in every process.
        moment = round(self._runtime.wall_time(due).timestamp(), 3)
        handler = self._plans.of(call.spec, call.function).handler
        payload = handler.signature.encode(call.args, call.kwargs, self._store.max_payload)
        schedule = schedule_text(call.spec.name, about, payload)
        unique = f"every {schedule}"[:MAX_TEXT] if skips else None
        job = self.hand_in(call._replace(tick=(schedule, moment), unique=unique))

        def passed_over(job: Job[Any]) -> None:
            if isinstance(job.exception(), NotTakenError):
                periodic.passed_over()

        job.add_done_callback(passed_over)
        return job

    def _prepare(self, call: StoreCall, *, awaited: bool) -> Pending:
        """Make the row and the handle of a call, and have the row written."""
        plan = self._plans.of(call.spec, call.function)
        spec, handler = call.spec, plan.handler
        payload = handler.signature.encode(call.args, call.kwargs, self._store.max_payload)
        id = new_id() if call.id is None else check_text("id", str(call.id))
        if call.unique is not None:
            check_text("unique", call.unique)
        delay, run_at = 0.0, None
        if isinstance(call.delay, datetime.datetime):
            run_at = call.delay.timestamp()
        else:
            delay = call.delay
        start = (
            self._starts
            and not (delay or plan.lanes)
            and run_at is call.within is call.tick is None
            and self._claimer.could_start()
        )
        if start:
            self._claimer.reserved += 1
            self.starting.add(id)
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
            self._me().id,
            start,
            call.tick,
        )
        handle = self._handles.make(plan.handle, id, delay, call.block)
        if call.block is not None:
            call.block.add(handle)
        pending = Pending(row, handle, self._runtime.loop.create_future() if awaited else None)
        if call.within is None:
            self.flusher.add(pending)
        return pending

    # -- what the store says -------------------------------------------------------------------------------------------

    async def _write(self, batch: Sequence[Pending], again: bool) -> Sequence[Submitted]:
        await self._ready.wait()
        if failpoints.ACTIVE:
            failpoints.reach("submit.before")
        answers = await self._store.submit([pending.row for pending in batch])
        if failpoints.ACTIVE:
            failpoints.reach("submit.after")
        if not again:
            return answers
        # It was sent before, and the answer was lost: what is there under our name is what we sent.
        self._claimer.doubt()
        return [
            answer._replace(outcome="queued")
            if answer.outcome == "same_id" and answer.submitter == pending.row.submitter
            else answer
            for pending, answer in zip(batch, answers, strict=True)
        ]

    def _submitted(self, pending: Pending, answer: Submitted) -> None:
        """A submission is committed, or was not taken."""
        row, handle = pending.row, pending.handle
        if row.start:
            self._claimer.reserved -= 1
            self.starting.discard(row.id)
        if answer.outcome == "running":
            self._start(claimed_at_once(row))
        elif answer.outcome == "queued":
            self._claimer.hint()
        else:
            self._handles.forget(handle)
            if pending.answer is None:  # nobody is there to get another job, or an error
                self._handles.refused(handle, not_taken(row, answer))
        if pending.answer is not None and not pending.answer.done():
            pending.answer.set_result(answer)

    def _not_submitted(self, pending: Pending, error: BaseException) -> None:
        if pending.row.start:
            self._claimer.reserved -= 1
            self._claimer.doubt()
            self.starting.discard(pending.row.id)
        if pending.answer is None or pending.answer.done():
            self._handles.refused(pending.handle, error)
        else:
            self._handles.forget(pending.handle)
            pending.answer.set_exception(error)

    def _handle_of(self, pending: Pending, answer: Submitted) -> Job[Any]:
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
            found = self._handles.by_id.get(answer.id)
            return found or self._handles.make(handle._spec, answer.id, 0.0, None)
        raise not_taken(row, answer)


def claimed_at_once(row: NewJob) -> Claimed:
    """Return a job that was committed as running here, as a claim would have given it."""
    return Claimed(
        id=row.id,
        name=row.name,
        payload=row.payload,
        priority=row.priority,
        attempt=1,
        crashes=0,
        fence=1,
        age=0.0,
        time_left=row.total_timeout,
        group=row.group,
        keys=row.keys,
        metadata=row.metadata,
        trace=row.trace,
        parent=row.parent,
    )


class NotTakenError(ValueError):
    """A job was not taken: another one has its id, its `unique`, or its moment."""


def not_taken(row: NewJob, answer: Submitted) -> NotTakenError:
    """Return the error of a submission that was not taken."""
    if answer.outcome == "same_id":
        return NotTakenError(
            f"id={row.id!r} is taken: the store has a job with it, or remembers one that has ended. Choose another id; "
            f"unique={row.id!r} is for one live job at a time"
        )
    if answer.outcome == "same_unique":
        return NotTakenError(f"unique={row.unique!r} is taken by job {answer.id!r}")
    return NotTakenError(f"the moment {row.tick!r} is over: another process has submitted its job")
