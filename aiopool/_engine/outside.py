"""A plain function that a coroutine of its job awaits: what runs when layers are around it.

A job whose function runs outside of the loop is, without layers, the business of its worker. With layers it is a
coroutine in the loop, and the function is started by it. The promise is the same: while a line of the function may run,
the job has not ended, and holds its slot.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, final

from aiopool._engine.worker import refuse_awaitable
from aiopool._jobs.job import Job
from aiopool._runtime.runners import Runner
from aiopool._runtime.runtime import shield

__all__ = ["deliver", "run_outside"]


@final
class _Started:
    """A call that was started, under which its outcome is delivered."""

    __slots__ = ("future", "job")

    def __init__(self, job: Job[Any], future: asyncio.Future[tuple[bool, Any]]) -> None:
        self.job = job
        self.future = future

    def offload_done(self, ok: bool, outcome: Any) -> None:
        if not self.future.done():
            self.future.set_result((ok, outcome))


def deliver(token: Any, ok: bool, outcome: Any) -> None:
    """Tell a worker, or a call of ours, how a call has ended."""
    token.offload_done(ok, outcome)


async def run_outside(runner: Runner, job: Job[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run a plain function outside of the loop, and wait for its end.

    If the caller is cancelled, the function is asked to stop, or is stopped where that can be done, and has ended when
    the cancellation goes on.
    """
    started = _Started(job, asyncio.get_running_loop().create_future())
    runner.start(started, contextvars.copy_context(), function, args)
    try:
        await asyncio.shield(started.future)
    except asyncio.CancelledError:
        if runner.withdraw(started):
            raise
        runner.cancel(started)
        with shield():
            while not started.future.done():
                try:
                    await asyncio.wait([started.future])
                except asyncio.CancelledError:
                    continue  # it was told again: it knows
        raise
    ok, outcome = started.future.result()
    if not ok:
        raise outcome
    return refuse_awaitable(job, outcome)
