"""`ThreadBridge`: how calls of other threads come into a pool, and how its outcomes get back to them.

    a thread                                       the thread of the loop
    hand_in ──▶ Inbox ──▶ one wake-up for many ──▶ _take ──▶ view._try_submit ──▶ the job
                                                     └─ no room ──▶ a task that waits for it, as `await submit` does
    future.result() ◀───────────────────────────── _settle ◀── the end of the job

A thread does not touch the pool: it makes a call and its future, and the loop does the rest in the context of that
thread. It reads two numbers to see whether there is room: if there surely is, it goes on at once, so that its next call
comes in the same batch. Else it waits until its job was taken in: that is the back-pressure.

A plain function that runs in a thread of the pool, and waits for a job of the pool, lends its slot by a task in the
loop that awaits the job on its behalf, in its context.

Invariant: each future in `pending` will be settled: by the end of its job, by a refusal, by its own cancel, or by the
watch, if the loop dies.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from typing import Any, Protocol, final
from weakref import ReferenceType

from aiopool._engine.engine import Engine
from aiopool._jobs.job import Job, running_job
from aiopool._jobs.status import JobStatus
from aiopool._jobs.waiters import JobObserver, add_waiter
from aiopool._pool.job_future import POLL, JobFuture
from aiopool._runtime.faults import is_kind, log_fault
from aiopool._runtime.inbox import Inbox
from aiopool._runtime.loop_watch import WATCH
from aiopool._runtime.threads import check_cancelled, current_runner
from aiopool.errors import PoolClosedError

__all__ = ["ThreadBridge", "View"]

logger = logging.getLogger("aiopool.pool")

SUCCEEDED = JobStatus.SUCCEEDED


class View(Protocol):
    """What a call asks of the pool, view or group that it was made with; in the loop."""

    def _try_submit(
        self, what: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Job[Any] | None: ...
    def _submit_when_space(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, patient: bool
    ) -> Coroutine[Any, Any, Job[Any]]: ...


class Parcel(Protocol):
    """What goes to the loop."""

    def unpack(self) -> None: ...


@final
class ThreadBridge:
    """See the module. One for each opening of a pool that other threads use.

    Attributes:
        pending: futures that are not settled.
        checked: the function that was checked last, and how many arguments it takes.
    """

    __slots__ = ("_closed", "_inbox", "_loop_thread", "_lost", "_name", "_watched", "checked", "engine", "pending")

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.pending: set[JobFuture[Any]] = set()
        self.checked: tuple[ReferenceType[Any], int, int] | None = None
        self._name = name
        self._inbox: Inbox[Parcel] = Inbox(engine.runtime, _unpack)
        # None: the thread of the loop has ended.
        number = engine.runtime.thread
        self._loop_thread = next((thread for thread in threading.enumerate() if thread.ident == number), None)
        self._watched = False
        self._lost = False  # the loop is dead
        self._closed = False  # the pool is

    # -- in a thread -------------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether there surely is room for one more job, as far as one can see from outside."""
        engine = self.engine
        return len(engine.jobs) + len(self._inbox) < engine.admission.limit

    def hand_in(
        self,
        view: View,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        patient: bool = False,
    ) -> JobFuture[Any]:
        """Hand a call to the loop, and return its future.

        Args:
            view: the pool, view or group that it was made with.
            function, args, kwargs: the call.
            patient: it waits for room, whatever the overflow policy says.

        Raises:
            PoolClosedError: the loop is closed.
        """
        call = _Call()
        call.bridge = self
        call.view = view
        call.function = function
        call.args = args
        call.kwargs = kwargs
        call.patient = patient
        call.context = copy_context()
        future: JobFuture[Any] = JobFuture(self)
        call.future = future
        self.pending.add(future)
        if not self._watched:
            self._watched = True
            WATCH.add(self)
        elif WATCH.asleep:
            WATCH.wake()
        try:
            if self._lost:  # the watch says so first, and looks at `pending` second
                raise self._dead()
            self._inbox.put(call)
        except BaseException as error:
            self.pending.discard(future)
            future._heard = True
            future.cancel()
            if is_kind(error, RuntimeError) and self._is_dead():
                raise self._dead() from None
            raise
        return future

    def check_thread(self, what: str, *, in_loop: bool = False) -> None:
        """Raise in a forked child; and in the thread of the loop, which must not wait for itself, if it may not be."""
        runtime = self.engine.runtime
        if runtime.forked:
            self.engine.caller.check(f"from_thread.{what}")
        if not in_loop and runtime.on_loop_thread():
            line = "async for result in pool.map(...)" if what == "map" else f"await pool.{what}(...)"
            raise RuntimeError(
                f"from_thread.{what}() was called in the thread of the pool's event loop, which would wait for itself: "
                f"write `{line}` there"
            )

    def may_wait(self) -> Job[Any] | None:
        """Raise if the caller may not wait; return the job inside of which it does, if that is one of this pool."""
        runtime = self.engine.runtime
        if runtime.forked:
            self.engine.caller.check("JobFuture.result")
        if runtime.on_loop_thread():
            raise RuntimeError(
                "result() or exception() of a future that is not done was called in the thread of the pool's event "
                "loop, which would wait for itself: write `await asyncio.wrap_future(future)`, or "
                "`await pool.run(...)` in place of from_thread"
            )
        caller = running_job.get()
        return caller if self.engine.is_own(caller) else None

    def check_lender(self) -> None:
        """Raise `CancelledError` if the job in whose thread this is was told to stop."""
        with suppress(RuntimeError):  # a thread that the job has started by itself: nobody can ask it to stop
            check_cancelled()

    @contextmanager
    def blocked_thread(self) -> Iterator[None]:
        """Have another thread take the place of this one, if it is one of the pool's, while it waits for the pool."""
        runner = current_runner()
        if runner is None:
            yield
            return
        self._later(runner.block_thread, 1)
        try:
            yield
        finally:
            self._later(runner.block_thread, -1)

    def wait_lent(self, future: JobFuture[Any], timeout: float | None) -> None:
        """Wait until a future is settled, inside of a job of this pool, which lends its slot meanwhile."""
        waiting = _LentWait(self, future, timeout)
        self._inbox.put(waiting)
        try:
            while not waiting.back.done() and not self._is_dead():
                with suppress(TimeoutError):
                    waiting.back.exception(POLL)
                self.check_lender()
        except BaseException:
            self._later(waiting.cancel)
            raise
        if waiting.back.done():
            waiting.back.result()

    def withdraw(self, future: JobFuture[Any], reason: str | None) -> None:
        """A future was cancelled: so is its job, wherever it is."""
        self.pending.discard(future)
        if future._job is not None:
            with suppress(RuntimeError):  # the loop is closed, or we are in a forked child: no job is left
                future._job.cancel(reason)
        elif future._entering is not None:
            self._later(_cancel_entering, future)

    def unheard(self, job: Job[Any] | None, error: BaseException) -> None:
        """A future was dropped, and nobody had asked for its exception."""
        if job is None or not self._later(self.engine.reporter.report, job, error):
            text = "a call of a thread was refused by pool %r, and nobody asked for its outcome: %s"
            if job is not None:
                text = "a job of pool %r failed, its event loop is closed, and nobody asked for its outcome: %s"
            log_fault(logger, text, self._name, error, error=error)

    def _later(self, function: Callable[..., object], *args: Any) -> bool:
        """Have the loop call a function; whether it will."""
        try:
            self.engine.runtime.loop.call_soon_threadsafe(function, *args, context=self.engine.runtime.context)
        except RuntimeError:
            return False
        return True

    # -- the watch ---------------------------------------------------------------------------------------------------

    def waits(self) -> bool:
        """Whether a thread may be waiting."""
        return bool(self.pending)

    def is_over(self) -> bool:
        """Whether nobody will wait any more."""
        return self._closed and not self.pending

    def look(self) -> None:
        """Release who waits, if the loop is dead; and tell a loop that could not be told."""
        if self._is_dead():
            self.fail_all()
        else:
            with suppress(Exception):
                self._inbox.notify()

    def fail_all(self) -> None:
        """Nobody will run the loop any more: whoever waits gets an error, and so does whoever comes later."""
        self._lost = True
        while self.pending:
            with suppress(KeyError):  # another thread was first
                self._refuse(self.pending.pop(), self._dead())
        WATCH.discard(self)

    def _is_dead(self) -> bool:
        loop = self.engine.runtime.loop
        if loop.is_closed():
            return True
        return not loop.is_running() and (self._loop_thread is None or not self._loop_thread.is_alive())

    def _dead(self) -> PoolClosedError:
        return PoolClosedError(
            f"the event loop of pool {self._name!r} has ended, and the pool with it: nobody can run the job, nor tell "
            "its outcome. Wait for your threads before you leave `async with Pool(...)`"
        )

    # -- in the loop -------------------------------------------------------------------------------------------------

    def take_all(self) -> None:
        """Take in, now, what is on its way."""
        self._inbox.take_all()

    def close(self) -> None:
        """The pool has closed: what is still on its way is refused."""
        self._inbox.take_all()
        self._closed = True
        if self._watched:
            self._watched = False
            if not self.pending:  # else somebody has come in this moment, and is still to be told
                WATCH.discard(self)

    def take(self, call: _Call) -> None:
        """Make a job of a call, or have a task wait for room, or refuse it."""
        future = call.future
        if future.done():
            return
        context = call.context
        try:
            job = context.run(call.view._try_submit, "submit", call.function, call.args, call.kwargs)
            if job is None:
                enter = self._enter(call)
                future._entering = self.engine.runtime.start_task(
                    enter, name=f"{self._name}-from-thread", context=context
                )
                if future._entering.done():
                    future._entering = None
                elif future.done():  # cancelled meanwhile
                    _cancel_entering(future)
                return
        except BaseException as error:
            self._refuse(future, error)
            return
        self._attach(future, job)

    async def _enter(self, call: _Call) -> None:
        future = call.future
        try:
            job = await call.view._submit_when_space(call.function, call.args, call.kwargs, patient=call.patient)
        except (asyncio.CancelledError, GeneratorExit):
            # By the future's own cancel; or by whoever ends the loop.
            self._refuse(future, self._dead())
            raise
        except BaseException as error:
            self._refuse(future, error)
        else:
            self._attach(future, job)
        finally:
            future._entering = None

    def _attach(self, future: JobFuture[Any], job: Job[Any]) -> None:
        future._enter(job)
        if job._finished_at is not None:
            self.settle(future, job)
            return
        add_waiter(job, _Reply(self, future))
        job._spec.owner.expect(job)
        if future.done():  # cancelled since we looked
            job.cancel("its future was cancelled")

    def settle(self, future: JobFuture[Any], job: Job[Any]) -> None:
        """A job is done: so is its future."""
        self.pending.discard(future)
        ok = job._status is SUCCEEDED
        try:
            if ok:
                future.set_result(job._value)
            else:
                future.set_exception(job._value[0])
        except InvalidStateError:  # cancelled: whoever did that does not want to know
            pass
        except BaseException as error:  # a callback of the future's; an ordinary exception was logged
            self._fatal(error)

    def _refuse(self, future: JobFuture[Any], error: BaseException) -> None:
        self.pending.discard(future)
        try:
            future.set_exception(error)
        except InvalidStateError:
            pass
        except BaseException as fault:
            self._fatal(fault)

    def _fatal(self, error: BaseException) -> None:
        """A callback of a future raised what is no ordinary exception."""
        if is_kind(error, (SystemExit, KeyboardInterrupt)):
            self.engine.end_program(error)
        else:
            log_fault(logger, "a callback of a future failed: %s", error, error=error)


@final
class _Call:
    """A call of another thread, on its way to the loop."""

    # No __init__, as of a job: bare stores are half the price.
    __slots__ = ("args", "bridge", "context", "function", "future", "kwargs", "patient", "view")

    args: tuple[Any, ...]
    bridge: ThreadBridge
    context: Context
    function: Callable[..., Any]
    future: JobFuture[Any]
    kwargs: dict[str, Any]
    patient: bool
    view: View

    def unpack(self) -> None:
        """It has arrived."""
        self.bridge.take(self)


@final
class _LentWait:
    """A thread that runs a job waits for another: its wait in the loop, by a task of the job."""

    __slots__ = ("_bridge", "_context", "_future", "_task", "_timeout", "back")

    def __init__(self, bridge: ThreadBridge, future: JobFuture[Any], timeout: float | None) -> None:
        self._bridge = bridge
        self._future = future
        self._timeout = timeout
        self._context = copy_context()
        self._task: asyncio.Task[None] | None = None
        self.back: Future[None] = Future()

    def unpack(self) -> None:
        """It has arrived."""
        runtime = self._bridge.engine.runtime
        try:
            self._task = runtime.task(self._wait(), "aiopool-lent-wait", self._context)
        except BaseException as error:
            self.back.set_exception(error)
            return
        self._task.add_done_callback(self._done, context=runtime.context)

    async def _wait(self) -> None:
        future = self._future
        if future._entering is not None:
            await asyncio.wait([future._entering], timeout=self._timeout)  # it lends the slot by itself
        if future._job is not None and not future.done():
            await future._job.wait(self._timeout)

    def _done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            self.back.set_result(None)
        else:
            self.back.set_exception(error)

    def cancel(self) -> None:
        """The thread waits no more."""
        if self._task is not None:
            self._task.cancel()


@final
class _Reply(JobObserver):
    """Waits for the end of a job, on behalf of a future."""

    __slots__ = ("_bridge", "_future")

    def __init__(self, bridge: ThreadBridge, future: JobFuture[Any]) -> None:
        self._bridge = bridge
        self._future = future

    def handles_errors(self) -> bool:
        return not self._future.done()

    def job_done(self, job: Job[Any]) -> None:
        self._bridge.settle(self._future, job)


def _unpack(parcel: Parcel) -> None:
    parcel.unpack()


def _cancel_entering(future: JobFuture[Any]) -> None:
    if future._entering is not None:
        future._entering.cancel()
