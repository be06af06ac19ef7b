"""`Group`: jobs that belong together, as a block: it is left when all of them are done.

The rules are those of `asyncio.TaskGroup`: the first failure cancels the others and the body; leaving raises an
`ExceptionGroup` of all failures. With `on_error="collect"` the others go on, and the failures are in `errors`.

A group does not hold a task group or a cancel scope open; it may be opened in one task and left in another, but then a
failure does not cancel the body.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Literal, Self, final

from aiopool._engine import Engine
from aiopool._faults import is_kind
from aiopool._home import Home
from aiopool._job import Claim, Job
from aiopool._options import JobOptions
from aiopool._runtime import shield
from aiopool._status import JobStatus
from aiopool._submitter import Submitter
from aiopool.errors import JobCancelledError

__all__ = ["Group"]


@final
class Group(Submitter, Claim):
    """Jobs that are awaited, paused and cancelled together; made by `pool.group(...)`.

    Attributes:
        name: its name; `pool.cancel_group(name)` and `with_options(group=name)` mean the same jobs.

    Example:
        async with pool.group("import") as group:
            for row in rows:
                await group.submit(load, row)
        # all rows are loaded; or an ExceptionGroup tells which were not
    """

    __slots__ = (
        "_body",
        "_cancelled_body",
        "_cancelling",
        "_done",
        "_ending",
        "_entered",
        "_errors",
        "_left",
        "_live",
        "_on_error",
        "_timeout",
        "_timer",
        "_timer_error",
        "name",
    )

    def __init__(
        self,
        home: Home,
        name: str,
        options: JobOptions,
        base: JobOptions,
        *,
        on_error: Literal["cancel", "collect"],
        timeout: float | None,
    ) -> None:
        super().__init__(home, options, base)
        self.name = name
        self._on_error = on_error
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._timer_error: TimeoutError | None = None
        self._live: dict[Job[Any], None] = {}
        self._errors: list[BaseException] = []
        self._done: asyncio.Future[None] | None = None
        self._body: asyncio.Task[Any] | None = None
        self._cancelled_body = False
        self._cancelling = 0  # how many cancels of the body's task were there before us
        self._ending: str | None = None  # why no more jobs are taken
        self._entered = False
        self._left = False
        self._block = self

    @property
    def jobs(self) -> list[Job[Any]]:
        """The jobs of this block that are not done, oldest first."""
        return list(self._live)

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """What its jobs have failed with so far."""
        return tuple(self._errors)

    def cancel(self, reason: str | None = None) -> int:
        """Ask all jobs of this block to end; return how many were asked."""
        engine = self._engine()
        return sum(engine.cancel(job, reason) for job in list(self._live))

    def pause(self) -> None:
        """Let no queued job of the group start."""
        self._engine().pause_group(self.name)

    def resume(self) -> None:
        """Let the jobs of the group start again, in their order."""
        self._engine().resume_group(self.name)

    def _engine(self) -> Engine:
        if self._home.engine is None:
            raise self._home.not_open("group")
        return self._home.engine

    def adopt_nowait(self, job: Job[Any]) -> None:
        """Take a job into the block; before it is taken in by the pool, so that it cannot end unseen."""
        self._welcome(job)
        waiters = job._waiters
        job._waiters = self if waiters is None else [self, *(waiters if type(waiters) is list else (waiters,))]

    async def adopt(self, job: Job[Any], entering: Coroutine[Any, Any, None]) -> None:
        """Take a job into the block, and give it up if it does not get into the pool."""
        try:
            self.adopt_nowait(job)
        except RuntimeError:
            entering.close()
            raise
        try:
            await entering
        except BaseException:
            if job.sequence not in self._engine().jobs:
                self._live.pop(job, None)
            raise

    def accompany(self, job: Job[Any]) -> None:
        """Take a job of a stream into the block: waited for and cancelled with it; its outcome is the stream's."""
        self._welcome(job)
        job._waiters = [job._waiters, _Companion(self)]

    def _welcome(self, job: Job[Any]) -> None:
        if self._left:
            raise _left(self.name)
        if self._ending:
            raise RuntimeError(f"group {self.name!r} takes no more jobs: it is ending, for {self._ending}")
        self._live[job] = None

    def hears(self) -> bool:
        return not self._left

    def settled(self, job: Job[Any]) -> None:
        """A job of the group is done."""
        if job._status is not JobStatus.SUCCEEDED:
            error = job._value[0]
            if not is_kind(error, JobCancelledError):
                self._errors.append(error)
                if self._on_error == "cancel":
                    self.let_go(job)  # first: whatever becomes of the others, nobody waits for this one
                    self._fail()
                    return
        self.let_go(job)

    def let_go(self, job: Job[Any]) -> None:
        """Be done with a job of the block."""
        self._live.pop(job, None)
        if not self._live and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self) -> None:
        """The first failure: cancel the others, and the body if it still runs."""
        engine = self._engine()
        self._ending = "one of its jobs failed"
        for other in list(self._live):
            engine.cancel(other, f"another job of group {self.name!r} failed")
        if self._body is not None and not self._cancelled_body and self._done is None:
            # async with pool.group() as group:
            #     await group.submit(fails)
            #     await forever()            <- CancelledError arrives here; __aexit__ takes it back
            self._cancelled_body = True
            self._body.cancel()

    def _give_up(self) -> None:
        """Whoever leaves the block was cancelled."""
        engine = self._engine()
        for job in list(self._live):
            engine.cancel(job, f"group {self.name!r} was cancelled")

    def _expire(self) -> None:
        self._timer_error = TimeoutError(f"group {self.name!r} was not done within {self._timeout:g} s")
        engine = self._engine()
        self._ending = "its time limit is over"
        for job in list(self._live):
            engine.cancel(job, f"the time limit of group {self.name!r} is over")
        if self._body is not None and not self._cancelled_body and self._done is None:
            self._cancelled_body = True
            self._body.cancel()

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError(f"group {self.name!r} was entered before: make another with pool.group(...)")
        self._entered = True
        engine = self._engine()
        self._body = asyncio.current_task()
        if self._body is not None:
            self._cancelling = self._body.cancelling()
        if self._timeout is not None:
            self._timer = engine.runtime.later(self._timeout, self._expire)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        engine = self._engine()
        here = asyncio.current_task()
        outer: BaseException | None = None  # a cancel that is not ours has to get out
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            outer = error
        ours = self._cancelled_body and self._body is here and here is not None
        if ours and here is not None and here.uncancel() <= self._cancelling:
            outer = None  # the cancel of the body was ours alone
        if kind is not None:
            self._ending = self._ending or f"its body was left by {kind.__name__}"
            for job in list(self._live):
                engine.cancel(job, f"the body of group {self.name!r} was left by {kind.__name__}")
        while self._live:
            self._done = engine.runtime.loop.create_future()
            try:
                with contextlib.nullcontext() if outer is None else shield():
                    await engine.loans.wait_for(self._done, self._give_up)
            except asyncio.CancelledError as cancelled:
                if outer is None:
                    outer = cancelled
                self._give_up()
        self._body, self._left = None, True
        self._block = _Left(self.name)
        if self._timer is not None:
            self._timer.cancel()
        try:
            own = [] if error is None or is_kind(error, asyncio.CancelledError) else [error]
            if not own and not (self._errors and self._on_error == "cancel"):
                if outer is not None:
                    raise outer
                if self._timer_error is not None:
                    raise self._timer_error
                return True if self._cancelled_body else None
            errors = [*self._errors, *own, *([] if self._timer_error is None else [self._timer_error])]
            for stop in errors:
                if is_kind(stop, (SystemExit, KeyboardInterrupt)):
                    raise stop
            if outer is not None and here is not None and here.cancelling():
                # try:
                #     async with pool.group() as group: ...   <- somebody cancels us, and a clean-up raises
                # except* ValueError: ...                     <- must not be where that cancel ends
                here.uncancel()
                here.cancel()
            raise _together(f"jobs of group {self.name!r} failed", errors) from None
        finally:
            # Break the cycle of this frame, the traceback and the exceptions.
            error = outer = None
            own = errors = []
            self._timer_error = None


def _together(text: str, errors: list[BaseException]) -> BaseException:
    """Return a group of errors; the first alone if Python cannot make one, for it asks errors for their `__class__`."""
    try:
        return BaseExceptionGroup(text, errors)
    except BaseException:
        return errors[0]


@final
class _Companion(Claim):
    """What a block knows of a job of a stream: only when it is done."""

    __slots__ = ("_group",)

    def __init__(self, group: Group) -> None:
        self._group = group

    def hears(self) -> bool:
        return False

    def settled(self, job: Job[Any]) -> None:
        self._group.let_go(job)


@final
class _Left:
    """The block of a group that was left: it takes nothing, and does not keep the group."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def adopt_nowait(self, job: Job[Any]) -> None:
        raise _left(self._name)

    async def adopt(self, job: Job[Any], entering: Coroutine[Any, Any, None]) -> None:
        entering.close()
        raise _left(self._name)

    def accompany(self, job: Job[Any]) -> None:
        raise _left(self._name)

    def let_go(self, job: Job[Any]) -> None:
        """It has taken none."""


def _left(name: str) -> RuntimeError:
    return RuntimeError(f"group {name!r} was left: submit inside its `async with` block")
