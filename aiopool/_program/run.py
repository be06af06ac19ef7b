"""`run`: a whole asynchronous program, which ends politely when it is told to.

    signal    first                    second               third
    pools     finish their jobs        cancel their jobs
    main      may use the results, then it is cancelled     the process exits
    services  are stopped in reverse   have one more grace  are killed

Every step has its time limit. Invariant: once a signal has come, the process ends within `timeout` plus a few graces,
whatever the jobs, `main` and the services do; what would not end is named in the log, and no service outlives it.

Who started the program is told how far it is (`_notifier`). As process 1 of a container it reaps the orphans that are
given to it (`orphans.py`).

This module knows signals, `main` and the pools that are open. How a pool ends is its own affair, and how services end
that of `_companions`.
"""

from __future__ import annotations

import asyncio
import io
import logging
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, final, overload

from aiopool._jobs.callables import function_name
from aiopool._jobs.options import check_seconds
from aiopool._jobs.status import PoolStatus
from aiopool._jobs.stop import coroutine_frames
from aiopool._pool.pool import Pool
from aiopool._pool.shutdown import CALLBACK_EXTRA, only
from aiopool._program.service_sequence import ServiceSequence
from aiopool._program.systemd import SystemdNotifier
from aiopool._runtime.signals import OpenPools, SignalHandler
from aiopool.errors import JobCancelledError, PoolClosedError

if TYPE_CHECKING:  # large, and seldom used: whoever has one has imported it
    from aiopool._program.orphans import OrphanReaper
    from aiopool.services import ServiceRegistry

__all__ = ["run"]

R = TypeVar("R")

logger = logging.getLogger("aiopool.run")

# At most so many graces after `timeout`, and so many seconds, one for the callbacks of the pools and three to close the
# event loop: the time that systemd is told.
_GRACES = 8
_CLOSING = 3.0
_SECONDS = CALLBACK_EXTRA + _CLOSING

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@overload
def run(
    main: Callable[[], Coroutine[Any, Any, R]],
    *,
    pool: None = None,
    services: ServiceRegistry | None = None,
    timeout: float | None = 30,
    grace: float = 2,
    loop_factory: LoopFactory | None = None,
    debug: bool | None = None,
) -> R: ...
@overload
def run(
    main: Callable[[Pool], Coroutine[Any, Any, R]],
    *,
    pool: Pool,
    services: ServiceRegistry | None = None,
    timeout: float | None = 30,
    grace: float = 2,
    loop_factory: LoopFactory | None = None,
    debug: bool | None = None,
) -> R: ...
def run(
    main: Callable[..., Coroutine[Any, Any, R]],
    *,
    pool: Pool | None = None,
    services: ServiceRegistry | None = None,
    # Kubernetes kills 30 s after its SIGTERM; Docker after 10 s: give less there.
    timeout: float | None = 30,
    grace: float = 2,
    loop_factory: LoopFactory | None = None,
    debug: bool | None = None,
) -> R:
    """Run an async program from start to end, and let it end politely on SIGINT and SIGTERM.

    The first signal drains: all pools that `main` has open take no more jobs and finish those they have. Meanwhile
    `main` goes on; its `submit` raises `PoolClosedError`, which it need not catch. When the pools are closed, `main`
    has `grace` seconds to return; then it is cancelled. (One that has nothing else to wait for waits with `await
    pool.wait_closed()`, and returns at once.) The second signal cancels the jobs. The third exits at once.

    Services are started one after the other before the pool is opened, and stopped in reverse after `main` has ended,
    within what is left of `timeout`, and one `grace` at least; near its end they are killed. If one cannot be started,
    those before it are stopped, `main` is not called, and its error is raised. No service outlives the process, also if
    the third signal ends it; only what ends Python without asking (SIGKILL, a crash) leaves them behind.

    The exit code of a program that a signal ended is 0 if everything was finished in time, and 128 + the signal's
    number if something was cancelled, killed, left behind or hurried. Else, and without a signal, it is 1 if a callback
    of `on_shutdown` failed. What does not end by `timeout` and the graces is
    named in the log, and the process is left without it. The signal handlers that were there before are put back.

    Under systemd (`Type=notify`) it says when it is ready, stopping and alive. As process 1 of a container it reaps
    orphans. Outside of the main thread there is none of this, and no signal to handle: then it is `asyncio.run` with a
    pool and services.

    Args:
        main: an `async def`; called with the pool if you give one, without arguments if not.
        pool: opened before `main` and closed after it, as `async with pool` does. Pools that `main` opens by itself end
            in the same way.
        services: run while `main` does. Its own `handle_signals` is not needed, and has no effect here.
        timeout: seconds for the jobs to finish after the first signal, and for the services to end; None: as long as
            the jobs take, and for the services the `stop_timeout` of their registry.
        grace: seconds for each later step: cancelled jobs to end; `main` to return; `main` to end after a cancel; what
            is left in the event loop to end.
        loop_factory: makes the event loop, as in `asyncio.Runner`; `uvloop.new_event_loop`, for example.
        debug: the event loop's debug mode; None leaves it to the environment.

    Returns:
        What `main` returns.

    Raises:
        BaseException: what `main` raises.
        SystemExit: a signal ended the program before `main` returned, or a callback of `on_shutdown` failed.
        TypeError: `main` is no function, or `services` no `ServiceRegistry`.
        RuntimeError: an event loop runs in this thread.

    Example:
        async def main(pool):
            async for order in incoming():
                await pool.submit(handle, order)

        aiopool.run(main, pool=Pool(size=8), timeout=20)
    """
    _check(main, services, timeout, grace)
    life = _ProgramRun(main, pool, ServiceSequence(services), timeout, grace)
    runner = asyncio.Runner(debug=debug, loop_factory=loop_factory)
    try:
        life.watch(runner.get_loop())
        result = runner.run(life.run())
    finally:
        life.close(runner)
    if life.exit_code is not None:
        raise SystemExit(life.exit_code)
    return result  # type: ignore[return-value]  # None goes with an exit code


def _check(main: object, services: object, timeout: float | None, grace: float) -> None:
    if asyncio.iscoroutine(main):
        name = getattr(main, "__name__", "main")
        main.close()
        raise TypeError(f"run() was given a coroutine, not a function: write aiopool.run({name}), without calling it")
    if not callable(main):
        raise TypeError(f"run() takes an async function, not {main!r}: write aiopool.run(main)")
    if services is not None and not hasattr(services, "stop_all"):
        raise TypeError(
            f"run() takes a registry of services, not {services!r}: write registry = "
            "aiopool.services.ServiceRegistry(), registry.add(type, service) for each, "
            "and aiopool.run(main, services=registry)"
        )
    if timeout is not None:
        check_seconds("timeout", timeout)
    check_seconds("grace", grace)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "run() starts an event loop, and one runs in this thread: write `async with Pool(...) as pool:` there, with "
        "handle_signals=True if it shall hear signals"
    )


def _reaper() -> OrphanReaper:
    """Return what reaps orphans: for a process to which they are given, the first one of its pid namespace."""
    from aiopool._program.orphans import OrphanReaper

    return OrphanReaper()


@final
class _ProgramRun(Generic[R]):
    """One run. Its mutable state: `main`'s task, how far the end has come, and with which code to exit."""

    def __init__(
        self,
        main: Callable[..., Coroutine[Any, Any, R]],
        pool: Pool | None,
        services: ServiceSequence,
        timeout: float | None,
        grace: float,
    ) -> None:
        self._function = main
        self._pool = pool
        self._services = services
        self._timeout = timeout
        self._grace = grace
        self._watch = SignalHandler(self._on_signal, before_exit=services.kill if services else None)
        # Who started the program listens to its main thread only: a run in another one is not the program.
        program = threading.current_thread() is threading.main_thread()
        self._notifier = SystemdNotifier(os.environ if program else {})
        self._orphans = _reaper() if program and os.getpid() == 1 and sys.platform.startswith("linux") else None
        self._roster: OpenPools
        self._main: asyncio.Task[R]
        self._stopping: asyncio.Task[None] | None = None
        self._hurrying: set[asyncio.Task[None]] = set()
        self._patience: asyncio.Future[None] | None = None  # ends a wait for main early
        self._ends_at = math.inf  # when the time is up, once a signal has come
        self._forced = False
        self.exit_code: int | None = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen to signals; before the runner does, which else would have its own handler for SIGINT."""
        self._roster = OpenPools(loop)
        self._watch.install(loop)

    async def run(self) -> R | None:
        loop = self._roster.loop
        self._roster.begin()
        self._notifier.start_watchdog(loop)
        if self._orphans is not None:
            self._orphans.watch(loop)
        self._main = loop.create_task(self._body(), name=function_name(self._function))
        try:
            await asyncio.wait([self._main])
        finally:  # cancelled: by KeyboardInterrupt or SystemExit out of a job
            self._main.cancel()
        if self._stopping is not None:
            await self._stopping
        await self._stop_services()
        return self._outcome()

    async def _body(self) -> R:
        if len(self._services):
            self._notifier.notify(f"starting services: {len(self._services)}")
        await self._services.start()
        if self._pool is None:
            return await self._call()
        async with self._pool:
            return await self._call(self._pool)

    async def _call(self, *arguments: Pool) -> R:
        if self._stopping is None:
            self._notifier.notify("running", READY=1)
        try:
            return await self._function(*arguments)
        finally:
            if self._stopping is None:  # by itself: its pool will finish the jobs, and take the time that they need
                self._tell_stopping("main has ended")

    def _tell_stopping(self, why: str) -> None:
        if not self._notifier.listening:
            return
        fields = {"STOPPING": 1}
        if self._stopping is not None and self._timeout is not None:
            fields["EXTEND_TIMEOUT_USEC"] = int((self._timeout + _GRACES * self._grace + _SECONDS) * 1e6)
        self._notifier.notify(f"{why}: finishing {self._jobs()} jobs", **fields)

    async def _stop_services(self) -> None:
        """Stop the services: in what is left of the time, and one grace at least."""
        if not self._services.running:
            return
        self._notifier.notify(f"stopping services: {len(self._services)}")
        timeout = self._timeout
        if self._forced:
            timeout = self._grace
        elif self._stopping is not None and timeout is not None:
            timeout = max(self._grace, self._ends_at - self._roster.loop.time())
        clean = await self._services.stop(timeout)
        self._forced |= not clean

    # -- being told to end -------------------------------------------------------------------------------------------

    def _on_signal(self, count: int) -> None:
        loop = self._roster.loop
        if count == 1:
            logger.info("%s: finishing %d jobs", self._signal(), self._jobs())
            if self._timeout is not None:
                self._ends_at = loop.time() + self._timeout
            for pool in self._open_pools():  # at once: from here on, nobody outside of them may submit
                pool._start_shutdown(timeout=self._timeout, grace=self._grace, cancel_pending=False)
            self._stopping = loop.create_task(self._stop(), name="aiopool-run-stop")
            self._tell_stopping(self._signal())
            return
        text = f"second {self._signal()}: cancelling {self._jobs()} jobs; once more leaves at once"
        logger.warning(text)
        self._notifier.notify(text)
        self._forced, self._ends_at = True, loop.time()
        self._services.hurry(self._grace)
        for pool in self._open_pools():
            task = loop.create_task(self._shut_down(pool, 0, cancel_pending=True), name="aiopool-run-cancel")
            self._hurrying.add(task)
            task.add_done_callback(self._hurrying.discard)
        if self._patience is not None and not self._patience.done():
            self._patience.set_result(None)

    def _signal(self) -> str:
        return "Ctrl-C" if self._watch.last == signal.SIGINT else signal.Signals(self._watch.last or 0).name

    def _jobs(self) -> int:
        places = [pool.statistics() for pool in self._open_pools()]
        return sum(now.queued + now.scheduled + now.running for now in places)

    def _open_pools(self) -> list[Pool]:
        return [pool for pool in self._roster.pools if pool.status in (PoolStatus.OPEN, PoolStatus.CLOSING)]

    async def _stop(self) -> None:
        """Close the pools, then end `main`; told twice, as a job is."""
        pools = self._open_pools()
        if pools:
            await asyncio.gather(*(self._shut_down(pool, self._timeout) for pool in pools))
            # The last results have just come: main may have something to do with them.
            await self._wait_for_main()
        for again in (False, True):
            if self._main.done():
                return
            self._forced |= again
            self._main.cancel()
            await self._wait_for_main()
        if not self._main.done():
            self._leave(f"main did not end: {_where(self._main)}")

    async def _shut_down(self, pool: Pool, timeout: float | None, *, cancel_pending: bool = False) -> None:
        report = await pool.shutdown(timeout, self._grace, cancel_pending=cancel_pending)
        late = self._roster.loop.time() >= self._ends_at
        # Jobs that were not finished for want of time. (One that somebody cancelled was not cut short.)
        self._forced |= bool(report.leaked or (late and report.cancelled))

    async def _wait_for_main(self) -> None:
        """Wait until `main` has ended, for the grace, or until the next signal."""
        if self._main.done():
            return
        self._patience = self._roster.loop.create_future()
        ends: list[asyncio.Future[Any]] = [self._main, self._patience]
        await asyncio.wait(ends, timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
        self._patience = None

    def _outcome(self) -> R | None:
        """What to return, or the exit code; raises what `main` raised, unless it comes of the stop."""
        if self._stopping is None:
            result = self._main.result()
            self.exit_code = 1 if self._roster.broken else None
            return result
        if not self._main.cancelled():
            error = self._main.exception()
            ours = (PoolClosedError, JobCancelledError, asyncio.CancelledError) if self._forced else (PoolClosedError,)
            if error is not None and not only(error, ours):
                raise error
            if error is None and not self._forced and not self._roster.broken:
                return self._main.result()
        self.exit_code = self._code() if self._forced else int(self._roster.broken)
        return None

    def _code(self) -> int:
        return 128 + (self._watch.last or 0)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, runner: asyncio.Runner) -> None:
        """Close the event loop; what is left in it has one grace to end, and holds up nobody."""
        loop = runner.get_loop()
        watchdog: threading.Timer | None = None
        try:
            if self._stopping is not None:
                # For what Python waits for without a limit, such as a thread of the loop's executor.
                limit = 3 * self._grace + _CLOSING
                watchdog = threading.Timer(limit, self._leave, ["the event loop could not be closed"])
                watchdog.daemon = True
                watchdog.start()
            stuck = self._cancel_rest(loop)
            if self._services.running:  # an exit out of a job, say, which nobody in the loop could wait for
                loop.run_until_complete(self._services.stop(self._grace))
            self._watch.leave_loop()
            for task in stuck:
                logger.error("a task did not end, and is left behind: %s", _where(task))
            if not stuck:
                runner.close()
            elif self._stopping is not None:
                self._forced = True
                self._leave("tasks did not end")
            else:
                loop.run_until_complete(loop.shutdown_asyncgens())
                asyncio.set_event_loop(None)
                loop.close()
        finally:
            if watchdog is not None:
                watchdog.cancel()
            self._notifier.close()
            self._watch.restore()

    def _cancel_rest(self, loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
        rest = asyncio.all_tasks(loop)
        for task in rest:
            task.cancel()
        return loop.run_until_complete(_wait(rest, self._grace)) if rest else set()

    def _leave(self, why: str) -> NoReturn:
        logger.error("leaving the process at once: %s", why)
        self._services.kill()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
                continue  # closed, broken, or None: nobody to tell
        os._exit(self._code())


async def _wait(tasks: set[asyncio.Task[Any]], timeout: float) -> set[asyncio.Task[Any]]:
    _, pending = await asyncio.wait(tasks, timeout=timeout)
    return pending


def _where(task: asyncio.Task[Any]) -> str:
    frames = ((frame, frame.f_lineno) for frame in coroutine_frames(task.get_coro()))
    return f"{task.get_name()}\n" + "".join(traceback.StackSummary.extract(frames).format()).rstrip()
