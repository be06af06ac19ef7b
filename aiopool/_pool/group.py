"""`Group`: jobs that belong together, as a block: it is left when all of them are done.

The rules are those of `asyncio.TaskGroup`: the first failure cancels the others and the body; leaving raises an
`ExceptionGroup` of all failures. With `on_error="collect"` the others go on, and the failures are in `errors`.

A group does not hold a task group or a cancel scope open; it may be opened in one task and left in another, but then a
failure does not cancel the body.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Any, Literal, Self, final

from aiopool._jobs.job import Job
from aiopool._jobs.options import JobOptions
from aiopool._pool.block import JobBlock
from aiopool._pool.state import PoolState
from aiopool._pool.submitter import Submitter
from aiopool._runtime.faults import is_kind, type_name
from aiopool._runtime.keywords import AsyncOnly
from aiopool._runtime.runtime import shield

__all__ = ["Group"]


@final
class Group(Submitter, AsyncOnly):
    """Jobs that are awaited, paused and cancelled together; made by `pool.group(...)`.

    Attributes:
        name: its name; `pool.cancel_all(group=name)` and `with_options(group=name)` mean the same jobs.

    Example:
        async with pool.group("import") as group:
            for row in rows:
                await group.submit(load, row)
        # all rows are loaded; or an ExceptionGroup tells which were not
    """

    __slots__ = ("_cancels_before", "_entered", "_members", "_on_error", "_timed_out", "_timeout", "_timer", "name")

    def __init__(
        self,
        state: PoolState,
        name: str,
        options: JobOptions,
        base: JobOptions,
        *,
        on_error: Literal["cancel", "collect"],
        timeout: float | None,
    ) -> None:
        self._members = JobBlock(state, name, cancel_on_error=on_error == "cancel")
        super().__init__(state, options, base, self._members)
        self.name = name
        self._on_error = on_error
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._timed_out: TimeoutError | None = None
        self._entered = False
        self._cancels_before = 0  # cancels of the body's task that were there before the block

    @property
    def jobs(self) -> list[Job[Any]]:
        """The jobs of this block that are not done, oldest first."""
        return list(self._members.jobs)

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """What its jobs have failed with so far."""
        return tuple(self._members.errors)

    def cancel(self, reason: str | None = None) -> int:
        """Ask all jobs of this block to end.

        Args:
            reason: goes into the errors, the events and the log.

        Returns:
            How many were asked.
        """
        return self._members.cancel(reason)

    def pause(self) -> None:
        """Let no queued job of the group start."""
        self._members.engine.pause_group(self.name)

    def resume(self) -> None:
        """Let the jobs of the group start again, in their order."""
        self._members.engine.resume_group(self.name)

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError(f"group {self.name!r} was entered before: make another with pool.group(...)")
        engine = self._members.engine
        engine.caller.check("group")
        runtime = engine.runtime
        self._entered = True
        task = self._members.body = asyncio.current_task()
        if task is not None:
            self._cancels_before = task.cancelling()
        if self._timeout is not None:
            self._timer = runtime.later(self._timeout, self._expire)
        return self

    def _expire(self) -> None:
        self._timed_out = TimeoutError(f"group {self.name!r} was not done within {self._timeout:g} s")
        self._members.stop("its time limit is over", f"the time limit of group {self.name!r} is over")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        members, cancel = self._members, None
        try:
            cancel = self._outer_cancel(error)
            if error is not None:
                what = type_name(error)
                members.stop(f"its body was left by {what}", f"the body of group {self.name!r} was left by {what}")
            cancel = await self._wait_for_jobs(cancel)
            members.left = True
            if self._timer is not None:
                self._timer.cancel()
            self._raise_outcome(error, cancel)
        finally:
            # The frames of an exception that is raised here must not refer to it: that would be a cycle.
            del self, members, error, cancel, trace

    def _outer_cancel(self, error: BaseException | None) -> BaseException | None:
        """Return the cancel with which the body ended, if it has to get out of the block."""
        task, body = asyncio.current_task(), self._members.body
        self._members.body = None  # from here on a failure cancels only jobs
        # async with pool.group() as group:
        #     await group.submit(fails)
        #     await forever()            <- the block has cancelled us here, and takes that back
        ours = self._members.cancelled_body and task is not None and task is body
        if ours and task is not None and task.uncancel() <= self._cancels_before:
            return None  # and nobody else has cancelled us
        return error if error is not None and is_kind(error, asyncio.CancelledError) else None

    async def _wait_for_jobs(self, cancel: BaseException | None) -> BaseException | None:
        """Wait until all jobs have ended; return the cancel that has to get out, the first of them."""
        while self._members.jobs:
            try:
                # A caller that was cancelled by anyio is cancelled again in every turn: it waits behind a shield.
                with contextlib.nullcontext() if cancel is None else shield():
                    await self._members.wait()
            except asyncio.CancelledError as again:
                # async with pool.group() as group:
                #     await group.submit(work)
                #                            <- somebody cancels us here: the jobs are cancelled, and waited for
                cancel = again if cancel is None else cancel
                self._members.cancel_abandoned()
        return cancel

    def _raise_outcome(self, error: BaseException | None, cancel: BaseException | None) -> None:
        """Raise what the block ends with, if that is not just the exception of its body."""
        failures = list(self._members.errors)
        raised = None if error is None or is_kind(error, asyncio.CancelledError) else error
        try:
            if raised is None and not (failures and self._on_error == "cancel"):
                # No failure, or failures that are collected: they are in `group.errors`.
                if cancel is not None and cancel is not error:
                    raise cancel
                if cancel is None and self._timed_out is not None:
                    raise self._timed_out
                return
            failures += [failure for failure in (raised, self._timed_out) if failure is not None]
            fatal = [failure for failure in failures if is_kind(failure, (SystemExit, KeyboardInterrupt))]
            if fatal:
                raise fatal.pop(0)  # these two end the program: they are not hidden in a group
            task = asyncio.current_task()
            if cancel is not None and task is not None and task.cancelling():
                # try:
                #     async with pool.group() as group: ...   <- somebody cancels us, and a clean-up raises
                # except* ValueError: ...                     <- that cancel must not end here:
                # await anything()                            <- it arrives here
                task.uncancel()
                task.cancel()
            raise _together(f"jobs of group {self.name!r} failed", failures) from None
        finally:
            self._timed_out = None
            del self, failures, raised, error, cancel  # no cycle, as in `__aexit__`


def _together(text: str, errors: list[BaseException]) -> BaseException:
    """Return a group of errors; the first alone if Python cannot make one, for it asks errors for their `__class__`."""
    try:
        return BaseExceptionGroup(text, errors)
    except BaseException:
        return errors[0]
