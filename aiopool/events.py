"""What happens in a pool, as frozen events in the past tense; and how to hear of it.

    PoolEvent
    ├── JobEvent
    │   ├── JobSubmitted
    │   ├── JobStarted        an attempt begins
    │   ├── JobRetrying       an attempt failed, and there will be another
    │   ├── JobSucceeded      ┐
    │   ├── JobFailed         │ the end of a job: exactly one of these four, and nothing of the job after it …
    │   ├── JobTimedOut       │
    │   ├── JobCancelled      ┘
    │   ├── JobGivenBack      a job of a store left the pool without an end: another process may run it
    │   └── JobLeaked         … but this: code that would not end was left behind
    ├── WorkerEvent
    │   ├── WorkerStarted
    │   ├── WorkerCrashed
    │   └── WorkerStopped
    ├── PoolOpened, PoolResized, PoolPaused, PoolResumed, PoolClosing, PoolClosed
    ├── LoopBlocked           told afterwards, by a pool with a watchdog
    └── EventsDropped         in `pool.events()`: the reader was too slow

Events carry plain values and keep no job alive. Moments are seconds on the loop's clock, as `job.started_at` is.

Two ways to hear: `pool.listen(function)` calls a plain function at once, and `async for event in pool.events()` reads
at its own pace from a bounded buffer. Nobody listens: nothing is built, and a job pays three tests for None.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, final

from aiopool._runtime.faults import describe, describe_error, describe_fields

__all__ = [
    "EventStream",
    "EventsDropped",
    "JobCancelled",
    "JobEvent",
    "JobFailed",
    "JobGivenBack",
    "JobLeaked",
    "JobRetrying",
    "JobStarted",
    "JobSubmitted",
    "JobSucceeded",
    "JobTimedOut",
    "Listener",
    "LoopBlocked",
    "PoolClosed",
    "PoolClosing",
    "PoolEvent",
    "PoolOpened",
    "PoolPaused",
    "PoolResized",
    "PoolResumed",
    "WorkerCrashed",
    "WorkerEvent",
    "WorkerStarted",
    "WorkerStopped",
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PoolEvent:
    """Something happened in a pool.

    Attributes:
        pool: the pool's name.
        at: when, in seconds on the loop's clock.
    """

    pool: str
    at: float

    __repr__ = describe_fields


# -- jobs --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobEvent(PoolEvent):
    """Something happened to a job.

    Attributes:
        job_id: the job's id.
        name: the job's name.
        attempt: the number of the attempt that runs or ran last, from 1; 0 before the first.
        priority: its priority, lower first.
        group: the name of its group, or None.
        metadata: a copy of its option `metadata`; empty if it has none.
    """

    job_id: int | str
    name: str
    attempt: int
    priority: int
    group: str | None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobSubmitted(JobEvent):
    """A job was taken in.

    Attributes:
        delay: seconds until it enters the queue; 0: it is there.
    """

    delay: float


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobStarted(JobEvent):
    """An attempt begins: told before the first line of the function runs (with a thread: about when it does).

    Attributes:
        worker: the number of the worker that runs it.
        waited: seconds since the job was submitted.
    """

    worker: int
    waited: float


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobRetrying(JobEvent):
    """An attempt failed or ran into its time limit, and there will be another.

    Attributes:
        worker: the number of the worker that ran it.
        seconds: how long it ran.
        error: what it raised.
        delay: seconds until the next attempt.
    """

    worker: int | None
    seconds: float
    error: BaseException
    delay: float


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobSucceeded(JobEvent):
    """A job returned.

    Attributes:
        worker: the number of the worker that ran it.
        seconds: how long the last attempt ran.
    """

    worker: int | None
    seconds: float


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobFailed(JobEvent):
    """A job raised, and is not tried again.

    Attributes:
        worker: the number of the worker that ran it; None if it was not running.
        seconds: how long the last attempt ran; 0 if there was none.
        error: what it raised.
        awaited: somebody was waiting for the job, and gets the error. If not, the log or `on_error` got it.
    """

    worker: int | None
    seconds: float
    error: BaseException
    awaited: bool


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobTimedOut(JobEvent):
    """One of a job's time limits ran out, and it is not tried again.

    Attributes:
        worker, seconds, error, awaited: as in `JobFailed`; the error says which limit it was.
    """

    worker: int | None
    seconds: float
    error: BaseException
    awaited: bool


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobCancelled(JobEvent):
    """A job was cancelled, or dropped.

    Attributes:
        worker: the number of the worker that ran it; None if it was not running.
        seconds: how long the last attempt ran; 0 if there was none.
        reason: the words of whoever cancelled it.
        error: what its awaiters get.
    """

    worker: int | None
    seconds: float
    reason: str | None
    error: BaseException


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobGivenBack(JobEvent):
    """A job of a store left the pool without an end of its own, by a shutdown or the like: another process may run it.

    Attributes:
        worker: the number of the worker that ran it; None if it was not running.
        seconds: how long it ran; 0 if it did not.
        reason: why it was told to stop.
    """

    worker: int | None
    seconds: float
    reason: str | None


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JobLeaked(JobEvent):
    """The code of a job that was told to stop did not end within its grace. It may come before or after the job's end.

    Attributes:
        worker: the number of the worker whose slot it holds.
        seconds: how long it has been running.
        stack: where it is, as lines of a traceback.
    """

    worker: int | None
    seconds: float
    stack: str


# -- workers -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WorkerEvent(PoolEvent):
    """Something happened to a worker.

    Attributes:
        worker: its number.
    """

    worker: int


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WorkerStarted(WorkerEvent):
    """A worker was made: a job is to start, a slot is free, and no worker rests."""


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WorkerCrashed(WorkerEvent):
    """A worker ended by a fault that is not a job's.

    Attributes:
        error: what ended it.
        delay: seconds until it is replaced; None: the pool gives up.
    """

    error: BaseException
    delay: float | None


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WorkerStopped(WorkerEvent):
    """A worker ended because it was not needed any more, or a job had left it dirty (`isolation="scope"`)."""


# -- the pool ----------------------------------------------------------------------------------------------------------


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PoolOpened(PoolEvent):
    """The pool takes jobs.

    Attributes:
        size: how many may run at once.
    """

    size: int


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PoolResized(PoolEvent):
    """The size was changed.

    Attributes:
        size: how many jobs may run at once from now on.
        before: how many it was.
    """

    size: int
    before: int


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PoolPaused(PoolEvent):
    """No job starts any more, until `PoolResumed`."""


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PoolResumed(PoolEvent):
    """Jobs start again; a shutdown resumes a paused pool, too."""


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PoolClosing(PoolEvent):
    """A shutdown has begun: no job is taken any more.

    Attributes:
        timeout: seconds that jobs have to finish; None: as long as they take.
    """

    timeout: float | None


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PoolClosed(PoolEvent):
    """The pool is shut down; nothing is told after this, not even the end of a job that itself called the shutdown.

    Attributes:
        leaked: how many jobs had to be left behind.
    """

    leaked: int


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LoopBlocked(PoolEvent):
    """Something has held up the event loop for longer than `Pool(watchdog=…)` allows; told when the loop goes on.

    Attributes:
        job_id: the job that did; None: code that is no job of this pool.
        job_name: the job's name, or None.
        seconds: how long the loop was blocked.
        stack: where it was, as lines of a traceback.
    """

    job_id: int | str | None
    job_name: str | None
    seconds: float
    stack: str


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EventsDropped(PoolEvent):
    """Events were dropped here: the reader of `pool.events()` was too slow for its buffer.

    Attributes:
        count: how many. They lie between the event before this one and the event after it.
    """

    count: int


# -- who hears ---------------------------------------------------------------------------------------------------------


@final
class Listener:
    """A function that hears of events: what `pool.listen` returns. Usable as a `with` block, too.

    Attributes:
        types: the classes of events that it hears.
        error: what it raised. A listener that raises is logged once, and removed.
    """

    __slots__ = ("_forget", "error", "function", "types")

    def __init__(
        self,
        function: Callable[[PoolEvent], object],
        types: tuple[type[PoolEvent], ...],
        forget: Callable[[Listener], object],
    ) -> None:
        self.function = function
        self.types = types
        self.error: BaseException | None = None
        self._forget: Callable[[Listener], object] | None = forget

    @property
    def active(self) -> bool:
        """Whether it hears."""
        return self._forget is not None

    def remove(self) -> None:
        """Hear no more, from now on; removing twice is removing once."""
        forget, self._forget = self._forget, None
        if forget is not None:
            forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        raised = "" if self.error is None else f": it raised {describe_error(self.error)}"
        return f"<Listener {describe(self.function)} {'active' if self.active else f'removed{raised}'}>"


@final
class EventStream:
    """The events of a pool, read with `async for`: what `pool.events` returns.

    It hears from the moment it is made. Its buffer is bounded: when it is full, the oldest event is dropped for the
    newest, and the next read gives an `EventsDropped` that says how many are missing; the read after that gives the
    event behind the gap. It ends after `PoolClosed`. A stream that is let go of hears no more.

    If the reader is cancelled while it waits, no event is lost.

    Attributes:
        dropped: how many events were dropped so far.
    """

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_ended",
        "_forget",
        "_lost",
        "_lost_at",
        "_next",
        "_pool",
        "_size",
        "_wake",
        "dropped",
    )

    def __init__(self, pool: str, size: int) -> None:
        self._pool = pool
        self._size = size
        self._buffer: deque[PoolEvent] = deque()
        self._lost = 0
        self._lost_at = 0.0
        # The event behind a gap that was told: it is out of the buffer, so that a reader who is always too slow reads
        # events, and not gaps alone.
        self._next: PoolEvent | None = None
        self._wake: asyncio.Future[None] | None = None
        self._ended = False
        self._forget: Callable[[], object] | None = None
        self.dropped = 0

    def put(self, event: PoolEvent) -> None:
        """Take an event in; meant for the pool."""
        if len(self._buffer) >= self._size:
            self._lost_at = self._buffer.popleft().at
            self._lost += 1
            self.dropped += 1
        self._buffer.append(event)
        self._ring()

    def close(self) -> None:
        """Hear no more. What is in the buffer can still be read; then the stream ends."""
        self._ended = True
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()
        self._ring()

    def _ring(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PoolEvent:
        if self._next is not None:
            event, self._next = self._next, None
            return event
        while not self._buffer:
            if self._ended:
                raise StopAsyncIteration
            if self._wake is not None:
                raise RuntimeError("two tasks read one stream of events: call pool.events() once for each of them")
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        if self._lost:
            count, self._lost = self._lost, 0
            self._next = self._buffer.popleft()
            return EventsDropped(pool=self._pool, at=self._lost_at, count=count)
        return self._buffer.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._buffer.clear()
        self._next = None

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        waiting = f"{len(self._buffer) + (self._next is not None)} of {self._size} waiting"
        return f"<EventStream of {self._pool!r} {state}, {waiting}, {self.dropped} dropped>"
