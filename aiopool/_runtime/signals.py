"""`SignalHandler`: SIGINT and SIGTERM, counted; installed when asked, and put back as it was.

Any number of watches hear the same signals; the handlers stand while there is at least one watch. The handler itself
only counts and wakes the event loop; what is to be done is done there, so nothing is ever raised into a job. It is a
handler of Python's, not of the loop's, so that the third signal ends the program also while a job blocks the loop. What
has to be done before it (`before_exit`: services are killed) is done by a thread, because a handler that waits would
wait inside whatever the main thread was doing, with its locks held.

What is ignored stays ignored. A forked child that inherits the handlers acts as if they were not there.

Beside it stands `OpenPools`: the pools that are open, for `run()`, which shuts them down when the program is told to
end.

The mutable state is `_SignalDispatcher`: who watches, how many signals have come, and the handlers that were there
before.
"""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, final

__all__ = ["OpenPools", "SignalHandler", "register_open_pool"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger("aiopool.run")

# For what is done before the third signal exits. Killing services takes a half second, and has its own limit.
_LAST_MOMENTS = 6.0


@final
class SignalHandler:
    """Calls `on_signal(count)` in the event loop at the first and at the second signal; the third exits at once.

    The exit code of the third is 128 + its number.

    Args:
        on_signal: hears how many signals there were.
        before_exit: called at the third signal, in a thread, before the exit; bounded by six seconds.
    """

    __slots__ = ("_context", "_loop", "_on_signal", "_told", "before_exit")

    def __init__(self, on_signal: Callable[[int], object], before_exit: Callable[[], object] | None = None) -> None:
        self._on_signal = on_signal
        self.before_exit = before_exit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None
        self._told = 0

    @property
    def last(self) -> int | None:
        """The number of the last of them."""
        return _desk.last

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch from now on; does nothing outside of the main thread, where there are no signals to watch."""
        if self._loop is not None or threading.current_thread() is not threading.main_thread():
            return
        self._loop = loop
        # Of whoever installs: a signal may come in the middle of a job, and must not act in the job's name.
        self._context = contextvars.copy_context()
        _desk.add(self, loop)
        self._told = _desk.count

    def restore(self) -> None:
        """Watch no more; the last watch puts the handlers back that were there before."""
        if self._loop is not None:
            self._loop = None
            _desk.remove(self)

    def leave_loop(self) -> None:
        """Take back what the loop has of us before it is closed: closing takes handlers away, whosever they are."""
        if self._loop is not None:
            _desk.leave_loop()

    def wake(self) -> None:
        """Have the event loop look at the count; called in a signal handler."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._call_handlers, context=self._context)

    def _call_handlers(self) -> None:
        while self._loop is not None and self._told < _desk.count:
            self._told += 1
            self._on_signal(self._told)


class _SignalDispatcher:
    """The one place where signals arrive: they belong to the process."""

    def __init__(self) -> None:
        self.count = 0
        self.last: int | None = None
        self._watches: list[SignalHandler] = []
        self._before: dict[signal.Signals, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken_by: signal.Signals | None = None
        self._pid = 0

    def add(self, watch: SignalHandler, loop: asyncio.AbstractEventLoop) -> None:
        self._watches.append(watch)
        if len(self._watches) > 1:
            return
        self.count, self.last, self._loop, self._pid = 0, None, loop, os.getpid()
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before is signal.SIG_IGN:  # as for a background job of a shell: whoever said so meant it
                continue
            if self._woken_by is None:
                # Only for the loop's wake-up socket: without it, a signal that comes just before the loop goes to sleep
                # is seen when it wakes for another reason.
                try:
                    loop.add_signal_handler(number, _nothing)
                    self._woken_by = number
                except (NotImplementedError, RuntimeError, ValueError):
                    pass  # a loop without signals: the handler below works, with that delay
            signal.signal(number, self.handle)
            self._before[number] = before

    def remove(self, watch: SignalHandler) -> None:
        self._watches.remove(watch)
        if self._watches:
            return
        self.leave_loop()
        for number, before in self._before.items():
            if signal.getsignal(number) == self.handle:  # else somebody has put another one there: left alone
                signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before.clear()

    def leave_loop(self) -> None:
        number, loop = self._woken_by, self._loop
        self._woken_by = self._loop = None
        if number is None or loop is None:
            return
        if loop.is_closed():  # it has put the default action there
            signal.signal(number, self.handle)
            return
        current = signal.getsignal(number)
        loop.remove_signal_handler(number)
        signal.signal(number, current)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # pragma: no cover: a forked child, which dies of it, and the measurement with it
            before = self._before.get(signal.Signals(number))
            signal.signal(number, signal.SIG_DFL if before is None else before)
            os.kill(os.getpid(), number)
            return
        self.count += 1
        self.last = number
        if self.count >= 3:
            self._exit(128 + number)
            return
        for watch in tuple(self._watches):
            watch.wake()

    def _exit(self, code: int) -> None:
        last = [watch.before_exit for watch in self._watches if watch.before_exit is not None]
        if not last:
            os._exit(code)
        if self.count > 3:  # somebody is impatient, and the exit is under way
            return
        try:
            # Not threading.Thread: its start takes a lock that the interrupted main thread may be holding.
            _thread.start_new_thread(_exit_after, (code, last))
            _thread.start_new_thread(_exit_later, (code,))
        except RuntimeError:  # the interpreter is going down, or there is no thread left
            _exit_after(code, last)


def _exit_after(code: int, calls: list[Callable[[], object]]) -> None:
    try:
        for call in calls:
            call()
    except BaseException:
        logger.exception("the last call before the exit failed")
    finally:
        os._exit(code)


def _exit_later(code: int) -> None:  # pragma: no cover: in a bare thread, which tracers do not see
    time.sleep(_LAST_MOMENTS)
    os._exit(code)


def _nothing() -> None:
    pass


_desk = _SignalDispatcher()


@final
class OpenPools:
    """The pools that were opened by a program in its event loop, as far as they still exist.

    Attributes:
        broken: a callback of `on_shutdown` of one of them, also of one that exists no more, has failed.
    """

    __slots__ = ("broken", "loop", "pools")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.broken = False
        self.pools: weakref.WeakSet[Any] = weakref.WeakSet()

    def begin(self) -> None:
        """Take note of the pools that the caller, and the tasks that it starts, will open."""
        _roster.set(self)


_roster: contextvars.ContextVar[OpenPools | None] = contextvars.ContextVar("aiopool_roster", default=None)


def register_open_pool(loop: asyncio.AbstractEventLoop, pool: object) -> OpenPools | None:
    """Put a pool on the roster of the program that opens it, if there is one for this loop; return that."""
    roster = _roster.get()
    if roster is None or roster.loop is not loop:
        return None
    roster.pools.add(pool)
    return roster
