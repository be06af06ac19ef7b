"""Stop everything when the program is told to end, and then let it end as it would have.

On a signal the work is done by a thread, while the program goes on: the handler itself only starts that
thread, because a handler that waits would wait inside whatever the main thread was doing, with its locks held
and its event loop standing still. When all is stopped, the handlers that were there before are put back and
the signal is passed on to them: the default action ends the process with the right code, asyncio's cancels
the main task, a server's begins its own shutdown. A second signal while we are at it stops by force.

What this module refuses to know: services. It is given one function that stops them.

Invariants: a signal is never swallowed. A forked child never does its parent's work. What is ignored stays
ignored.
"""

import _thread
import asyncio
import atexit
import logging
import multiprocessing.util  # noqa: F401 - registers its own exit function, which must run after ours
import os
import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, final

from aiopool.services._calls import running_loop

__all__ = ["ExitHandlers"]

_log = logging.getLogger("aiopool.services")

# How long the event loop gets to pass the signal on before the main thread is interrupted for it.
_LOOP_ANSWERS = 1.0


@final
class ExitHandlers:
    """Signal handlers and an exit function that stop something.

    Args:
        stop: stops it; called with a timeout in seconds, from another thread, possibly twice at the same time
            (the second time with 0), and once more at exit. Must not raise.
        timeout: what `stop` is called with.
    """

    # The mutable state is what was there before, and how far the work for the first signal has come.
    def __init__(self, stop: Callable[[float], object], timeout: float) -> None:
        self._stop = stop
        self._timeout = timeout
        self._pid = os.getpid()
        self._previous: dict[int, Any] = {}
        self._received: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False
        self._passed_on = threading.Event()

    def install(self, signals: Iterable[int], *, at_exit: bool) -> None:
        """Put the handlers in place.

        A signal that is ignored stays ignored, and one whose handler was not set by Python is left alone, for
        it could not be put back.

        Raises:
            RuntimeError: not in the main thread, where alone Python sets signal handlers.
        """
        wanted = list(signals)
        if wanted and threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "signal handlers can be set in the main thread only; call registry.install_handlers() there, "
                "or leave the signals out: registry.install_handlers(signals=())"
            )
        for signum in wanted:
            before = signal.getsignal(signum)
            if before is None or before is signal.SIG_IGN:
                continue
            self._previous[signum] = before
            signal.signal(signum, self._on_signal)
        if at_exit:
            atexit.register(self._on_exit)

    def uninstall(self) -> None:
        """Put back what was there before; a handler that was set after ours stays."""
        if threading.current_thread() is threading.main_thread():
            for signum, before in self._previous.items():
                if signal.getsignal(signum) == self._on_signal:
                    signal.signal(signum, before)
        atexit.unregister(self._on_exit)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid or self._stopped:
            self._pass_on(signum, frame)
            return
        first = self._received is None
        if first:
            self._received = signum
            self._loop = running_loop()
        timeout = self._timeout if first else 0.0
        try:
            # Not threading.Thread: its start takes a lock that the interrupted main thread may be holding.
            _thread.start_new_thread(self._work, (timeout,))
        except RuntimeError:  # the interpreter is going down
            self._work(timeout)

    def _work(self, timeout: float) -> None:
        try:
            self._stop(timeout)
        except BaseException:
            _log.exception("stopping the services on a signal failed")
        self._stopped = True
        assert self._received is not None, "work is done for a signal"
        if self._loop is not None and self._loop.is_running():
            # To its own loop, and not by sending the signal again: a handler that hangs on the loop
            # (add_signal_handler) has heard it the first time, and would take it for a second one.
            try:
                self._loop.call_soon_threadsafe(self._pass_on, self._received, None)
            except RuntimeError:
                pass
            else:
                self._passed_on.wait(_LOOP_ANSWERS)
        if not self._passed_on.is_set():
            main = threading.main_thread().ident
            assert main is not None, "the main thread was started"
            signal.pthread_kill(main, self._received)

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        """In the main thread: put back what was there before, and give it the signal."""
        if os.getpid() == self._pid:
            if self._passed_on.is_set():
                return
            self._passed_on.set()
        self.uninstall()
        before = self._previous.get(signum, signal.SIG_DFL)
        if callable(before):
            before(signum, frame)
        elif before == signal.SIG_DFL:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            if os.getpid() == 1:  # in a container, where the default action does nothing to the first process
                os._exit(128 + signum)

    def _on_exit(self) -> None:
        if os.getpid() != self._pid:
            return
        try:
            self._stop(self._timeout)
        except BaseException:
            _log.exception("stopping the services at exit failed")
        received = self._received
        # The program has come to its end while we were stopping for a signal. Had we not been there, that
        # signal would have ended it, and whoever sent it looks at the exit code.
        if received is not None and self._previous.get(received) == signal.SIG_DFL:
            self._pass_on(received, None)
