"""`assert_no_leaks`: after the block the world is as it was before.

Knows five places where an asynchronous program leaves things behind: tasks, timers and ready callbacks,
threads, signal handlers, and reports to the loop's exception handler. It only looks; it never cancels and
never cleans.

Invariant: an exception of the block is never replaced; what was left is told in a note to it.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from ._loop import VirtualLoop
from ._report import describe_callback, describe_tasks
from ._runner import settle
from ._threads import idle

__all__ = ["LeakError", "assert_no_leaks"]

_PAUSE = 0.01


class LeakError(AssertionError):
    """Something was left behind; the text lists it."""


class assert_no_leaks:  # noqa: N801 - reads as the statement that it is
    """Raise `LeakError` if the block leaves a task, timer, thread, signal handler or loop error report
    behind.

    `async with` looks at the running loop too, and first lets it come to rest: in virtual time exactly,
    otherwise for at most `timeout` seconds. `with` looks at threads and signal handlers, and at the loop if
    one runs. Idle threads of asyncio's default executor, of anyio and of an open pool are no leak. Garbage
    is collected first, so that "exception was never retrieved" comes up here and not in another test.

    Args:
        timeout: real seconds that threads (and, with `async with` on a real loop, tasks) have to end.

    Raises:
        LeakError: what was left, one per line. If the block raised, that exception stays and gets a note
        instead.

    Example:
        async with assert_no_leaks():
            async with Pool() as pool:
                await pool.run(fetch, url)
    """

    def __init__(self, *, timeout: float = 2.0) -> None:
        self._timeout = timeout

    def __enter__(self) -> Self:
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._signals = _signal_handlers()
        self._threads = set(threading.enumerate())
        self._reports: list[str] = []
        if self._loop is not None:
            self._tasks = asyncio.all_tasks(self._loop)
            self._handles = set(_handles(self._loop))
            self._handler = self._loop.get_exception_handler()
            self._loop.set_exception_handler(self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        gc.collect()
        end = time.monotonic() + self._timeout
        while self._busy_threads() and time.monotonic() < end:
            time.sleep(_PAUSE)
        self._finish(error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        gc.collect()
        end = time.monotonic() + self._timeout
        virtual = isinstance(self._loop, VirtualLoop)
        try:
            if virtual:
                await settle()
            while (self._busy_threads() if virtual else self._leaks()) and time.monotonic() < end:
                if virtual:  # a sleep would move the clock
                    time.sleep(_PAUSE)  # noqa: ASYNC251
                    await settle()
                else:
                    await asyncio.sleep(_PAUSE)
        finally:
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        leaks = self._leaks()
        loop = self._loop
        if loop is not None:
            if loop.get_exception_handler() == self._hear:
                loop.set_exception_handler(self._handler)
            else:
                leaks.append("the loop's exception handler was replaced")
        del self._threads
        if not leaks:
            return
        text = "left behind:\n" + "\n".join(f"  {leak}" for leak in leaks)
        if error is None:
            raise LeakError(text)
        error.add_note(text)

    def _leaks(self) -> list[str]:
        leaks = [f"thread {_describe_thread(thread)}" for thread in self._busy_threads()]
        now = _signal_handlers()
        for number in {**self._signals, **now}:
            before, after = self._signals.get(number), now.get(number)
            if before != after:
                leaks.append(f"signal handler of {number.name}: was {before!r}, is {after!r}")
        leaks += [f"report to the loop's exception handler: {report}" for report in self._reports]
        return leaks + self._loop_leaks()

    def _loop_leaks(self) -> list[str]:
        loop = self._loop
        if loop is None:
            return []
        new = [task for task in asyncio.all_tasks(loop) - self._tasks if task is not asyncio.current_task(loop)]
        leaks = [f"task {line.strip()}" for line in describe_tasks(new)]
        for handle in _handles(loop):
            if handle in self._handles:
                continue
            what = describe_callback(handle._callback)  # type: ignore[attr-defined]
            if isinstance(handle, asyncio.TimerHandle) and handle.when() > loop.time():
                leaks.append(f"timer, due in {handle.when() - loop.time():g} s: {what}")
            else:
                leaks.append(f"ready callback: {what}")
        return leaks

    def _busy_threads(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in self._threads and not idle(thread)]

    def _hear(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._reports.append(f"{context.get('message')}{'' if error is None else f': {error!r}'}")
        if self._handler is None:
            loop.default_exception_handler(context)
        else:
            self._handler(loop, context)


def _handles(loop: asyncio.AbstractEventLoop) -> list[asyncio.Handle]:
    """Return what is armed or ready; nothing for a loop that does not show it, as uvloop."""
    if isinstance(loop, VirtualLoop):
        return [*loop.armed(), *loop.ready()]
    handles = [*getattr(loop, "_scheduled", ()), *getattr(loop, "_ready", ())]
    return [handle for handle in handles if not handle.cancelled()]


_Handler = Callable[[int, FrameType | None], Any] | int | None


def _signal_handlers() -> dict[signal.Signals, _Handler]:
    return {number: _handler(number) for number in signal.valid_signals() if isinstance(number, signal.Signals)}


def _handler(number: signal.Signals) -> _Handler:
    """Return the handler; each `asyncio.Runner.run` takes the place of the default one, and that is no change."""
    handler = signal.getsignal(number)
    function = handler.func if isinstance(handler, functools.partial) else None
    if isinstance(getattr(function, "__self__", None), asyncio.Runner):
        return signal.default_int_handler
    return handler


def _describe_thread(thread: threading.Thread) -> str:
    frame = None if thread.ident is None else sys._current_frames().get(thread.ident)
    if frame is None:
        return repr(thread.name)
    code = frame.f_code
    return f"{thread.name!r} in {code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})"
