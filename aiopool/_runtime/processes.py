"""The process runner: plain functions go out into processes, their outcomes come back to the loop.

It has the interface of the thread runner (`runners.py`), and one power more: a call that is cancelled is stopped, by
SIGKILL, and another process takes its place. It knows calls, processes and one event loop, and no job: who starts a
call gives a token with it.

Why not `ProcessPoolExecutor`, or `anyio.to_process`: in the first, one process that dies breaks them all, and none can
be stopped. The second stops them, but knows one way to make them, carries no progress, tells no exit code, and
unpickles each result on the loop's time.

Processes are kept, and made when a call waits and no process is free. The loop watches two descriptors of each: the
connection, and the process itself (a pidfd), which tells its end whatever has become of the connection. There are no
threads, but for two things that may take long: to start a fork server, and to unpickle a large result.

Always true:
- Never more than `max_processes` processes that may run something. A call that was cancelled ends when its process has
  ended and is buried, so whatever it held is free.
- Each call that was started ends once, by `on_done`, in a later turn of the loop; or it was withdrawn.
- A process that dies takes no call along but its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import itertools
import logging
import multiprocessing
import multiprocessing.util
import os
import pickle
import socket
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, final

from aiopool._runtime.faults import describe_error, log_fault
from aiopool._runtime.messages import CALL, FAILED, NOTE, QUIT, READY, RETURNED, Buffer
from aiopool._runtime.pickled_call import PROTOCOL, PickledCall, pickle_call
from aiopool._runtime.process_child import run_calls
from aiopool._runtime.process_handle import Process
from aiopool._runtime.process_outcomes import died, no_process, read_outcome

__all__ = ["ProcessRunner", "usable_processors"]

logger = logging.getLogger("aiopool.processes")

_READ_AT_ONCE = 1 << 20  # bytes of one process that are read in one turn of the loop
_LARGE = 1 << 18  # a pickle of so many bytes is not unpickled on the loop's time
_EXIT_SECONDS = 0.5  # for an idle process to end by itself
_BURIAL = 0.002, 500  # seconds between two looks for an exit code that is late, and how many


@final
class _Call:
    """One call: what to run, and in which process it is."""

    __slots__ = ("name", "payload", "process", "stopped", "token")

    def __init__(self, token: Any, payload: PickledCall) -> None:
        self.token = token
        self.name = payload.name
        self.payload: PickledCall | None = payload
        self.process: Process | None = None
        self.stopped = False


@final
class ProcessRunner:
    """Run plain functions in processes, and bring their outcomes back to the loop.

    All methods belong to the thread of the loop, and none of them waits.

    Args:
        loop: where outcomes are delivered.
        max_processes: how many processes there may be at once, at least 1.
        start_method: how they are made; see `multiprocessing.get_context`.
        name: processes are called `name-1`, `name-2`, …
        on_done: called in the loop as `on_done(token, ok, value)`, once for each call that was not withdrawn.
        describe: called with a token when its call begins; it returns an object that pickles. In the process
            `begin(note)` of it is called before the function, with a function that sends a note home; its `name` is for
            messages.
        on_note: called as `on_note(token, note)`, with what a call has sent home.
    """

    stops = True

    __slots__ = (
        "__weakref__",
        "_calls",
        "_closed",
        "_context",
        "_describe",
        "_idle",
        "_max_processes",
        "_numbers",
        "_on_done",
        "_on_note",
        "_processes",
        "_starting",
        "_waiting",
        "ended",
        "loop",
        "name",
    )

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        max_processes: int,
        start_method: str,
        name: str,
        on_done: Callable[[Any, bool, Any], object],
        describe: Callable[[Any], Any],
        on_note: Callable[[Any, Any], object],
    ) -> None:
        self.loop = loop
        self.name = name
        self._max_processes = max_processes
        self._context: Any = multiprocessing.get_context(start_method)
        self._on_done = on_done
        self._describe = describe
        self._on_note = on_note
        self._calls: dict[int, _Call] = {}
        self._waiting: OrderedDict[int, _Call] = OrderedDict()
        self._processes: set[Process] = set()
        self._idle: list[Process] = []
        self._starting = 0
        self._numbers = itertools.count(1)
        self._closed = False
        self.ended: asyncio.Future[None] | None = None  # once closed: done when the last process is gone
        open_runners.add(self)

    # -- calls -------------------------------------------------------------------------------------------------------

    def start(
        self, token: Any, context: contextvars.Context, fn: Callable[..., object], args: tuple[Any, ...] = ()
    ) -> None:
        """Hand a call to a process; it waits in line while `max_processes` run. Context variables are not carried.

        Raises:
            RuntimeError: the runner is closed, or the token is in use.
        """
        if self._closed or id(token) in self._calls:
            what = "runs a call for this token already" if id(token) in self._calls else "is closed"
            raise RuntimeError(f"{self!r} {what}")
        try:
            payload = pickle_call(fn, args)
        except BaseException as error:
            call = self._calls[id(token)] = _Call(token, PickledCall(b"", ""))
            self.loop.call_soon(self._deliver, call, False, error)
            return
        call = self._calls[id(token)] = _Call(token, payload)
        self._waiting[id(token)] = call
        self._serve()

    def withdraw(self, token: Any) -> bool:
        """Take back a call that no process has begun; whether it was."""
        if self._waiting.pop(id(token), None) is None:
            return False
        del self._calls[id(token)]
        return True

    def cancel(self, token: Any, reason: str | None = None) -> bool:
        """Stop a call by killing its process; its outcome is a `CancelledError`. Whether there is such a call.

        A call whose outcome is on its way already keeps that.
        """
        call = self._calls.get(id(token))
        if call is None:
            return False
        call.stopped = True
        if call.process is not None:
            call.process.kill()
        return True

    def abandon(self, token: Any) -> bool:
        """Do nothing: a call that was stopped ends soon, unless the kernel cannot end its process."""
        return id(token) in self._calls

    def close(self, wait: float = 0.0) -> int:
        """Take no more calls, and end all processes: idle ones by a word, the others by SIGKILL.

        Calls that wait are delivered as cancelled. `ended` is done when no process is left.

        Returns:
            How many calls were running.
        """
        busy = sum(process.call is not None for process in self._processes)
        if self._closed:
            return busy
        self._closed = True
        self.ended = self.loop.create_future()
        self._fail_waiting(lambda: asyncio.CancelledError("closed before a process came free"))
        for process in tuple(self._processes):
            if process.call is None and process.ready:
                process.dying = True
                self._send(process, QUIT)
                continue
            if process.call is not None:
                process.call.stopped = True
            process.kill()
        self._idle.clear()
        if self._processes:
            self.loop.call_later(_EXIT_SECONDS, self.kill_all)
        else:
            self._end()
        return busy

    def kill_all(self) -> None:
        """Kill what is left."""
        for process in tuple(self._processes):
            process.kill()

    def _end(self) -> None:
        open_runners.discard(self)
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)

    @property
    def at_work(self) -> bool:
        """Whether something is to come from a process: an outcome, or its end after `close`."""
        return bool(self._calls) or (self.ended is not None and not self.ended.done())

    def __repr__(self) -> str:
        return (
            f"<ProcessRunner {self.name!r} {len(self._calls) - len(self._waiting)} busy, {len(self._waiting)} waiting, "
            f"{len(self._processes)} of {self._max_processes} processes>"
        )

    # -- the line ----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Give waiting calls to idle processes, and make more if there are too few."""
        while self._waiting and self._idle:
            process = self._idle.pop()
            if process.has_ended():  # while it was idle; `_bury` is on its way
                process.dying = True
            else:
                self._hand_over(process, self._waiting.popitem(last=False)[1])
        while len(self._waiting) > self._starting and len(self._processes) < self._max_processes and not self._closed:
            if not self._make():
                return

    def _hand_over(self, process: Process, call: _Call) -> None:
        process.call, call.process = call, process
        payload = call.payload
        assert payload is not None
        call.payload = None
        about = pickle.dumps(self._describe(call.token), PROTOCOL)
        self._send(process, CALL, [about, payload.payload])

    def _fail_waiting(self, error: Callable[[], BaseException]) -> None:
        while self._waiting:
            self.loop.call_soon(self._deliver, self._waiting.popitem(last=False)[1], False, error())

    def _deliver(self, call: _Call, ok: bool, value: Any) -> None:
        """Tell the outcome of a call."""
        del self._calls[id(call.token)]
        self._on_done(call.token, ok, value)

    # -- making processes --------------------------------------------------------------------------------------------

    def _make(self) -> bool:
        """Start a process; whether one is on its way."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        handle = self._context.Process(
            target=run_calls, args=(theirs,), name=f"{self.name}-{next(self._numbers)}", daemon=False
        )
        process = Process(handle, ours)
        self._processes.add(process)
        self._starting += 1
        if self._context.get_start_method() != "forkserver":
            # Here, for the kernel takes the thread that starts a process for its parent.
            return self._started(process, theirs, _copy_refused(self._context) or _try(handle.start))

        def start() -> None:
            # The first time it waits until there is a server.
            error = _try(handle.start)
            with contextlib.suppress(RuntimeError):  # the loop is closed: `kill_all` at exit
                self.loop.call_soon_threadsafe(self._started, process, theirs, error)

        thread = threading.Thread(target=start, name=f"{handle.name}-start", daemon=True)
        if _try(thread.start) is None:
            return True
        return self._started(process, theirs, _try(handle.start))  # no thread is left: the loop waits

    def _started(self, process: Process, theirs: socket.socket, error: BaseException | None) -> bool:
        theirs.close()
        if error is not None:
            self._starting -= 1
            self._processes.discard(process)
            process.connection.close()
            log_fault(logger, "%s could not be started", process.handle.name, error=error)
            self._not_started(lambda: no_process(f"it could not be started: {describe_error(error)}", None))
            return False
        with contextlib.suppress(OSError, AttributeError):  # an old kernel, or another system
            process.pidfd = os.pidfd_open(process.handle.pid)
        self.loop.add_reader(process.watched, self._bury, process)
        self.loop.add_reader(process.connection.fileno(), self._read, process)
        if process.dying:
            process.kill()
        return True

    def _not_started(self, error: Callable[[], BaseException]) -> None:
        """A process has died before it could run anything. The next one will, too: so nobody waits for it."""
        if len(self._processes) == self._starting:
            self._fail_waiting(error)
        if self._closed and not self._processes:
            self._end()

    # -- the connection ----------------------------------------------------------------------------------------------

    def _send(self, process: Process, kind: int, parts: list[Buffer] | None = None) -> None:
        if process.send(kind, parts):
            self.loop.add_writer(process.connection.fileno(), self._write_on, process)

    def _write_on(self, process: Process) -> None:
        if process.write():
            self.loop.remove_writer(process.connection.fileno())

    def _read(self, process: Process) -> None:
        """Read what has come, a slice at most: other things happen in this loop."""
        if not self._take_in(process, _READ_AT_ONCE):
            self.loop.remove_reader(process.connection.fileno())
            process.dying = True
            self.loop.call_later(_EXIT_SECONDS, self._cut_off, process)

    def _cut_off(self, process: Process) -> None:
        """A process that has closed its end, and does not die of itself, is of no more use."""
        process.cut = not process.gone
        process.kill()

    def _take_in(self, process: Process, most: float) -> bool:
        """Read and act on it; whether more may come."""
        while most > 0:
            try:
                got = process.reader.read()
            except BlockingIOError:
                return True
            except (EOFError, OSError):
                return False
            if isinstance(got, int):
                most -= got
            else:
                most -= 1024
                self._on_message(process, *got)
        return True

    def _on_message(self, process: Process, kind: int, parts: list[Buffer]) -> None:
        call = process.call
        if kind == READY:
            process.ready = True
            self._starting -= 1
            self._free(process)
        elif call is not None and kind == NOTE:
            self._on_note(call.token, pickle.loads(parts[0]))  # noqa: S301 - our own process
        elif call is not None and kind in (RETURNED, FAILED):
            process.call = call.process = None
            if len(parts[0]) < _LARGE:
                self.loop.call_soon(self._deliver, call, *read_outcome(call.name, kind, parts))
            else:
                self._unpickle_aside(call, kind, parts)
            self._free(process)

    def _free(self, process: Process) -> None:
        """A process can take a call."""
        if not process.dying:
            self._idle.append(process)
            self._serve()

    def _unpickle_aside(self, call: _Call, kind: int, parts: list[Buffer]) -> None:
        """Unpickle a large outcome in a thread of its own."""

        def unpickle() -> None:
            outcome = read_outcome(call.name, kind, parts)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self.loop.call_soon_threadsafe(self._deliver, call, *outcome)

        if _try(threading.Thread(target=unpickle, name=f"{self.name}-unpickle", daemon=True).start) is not None:
            unpickle()  # the system has no thread left: then it takes the time of the loop

    # -- the end of a process ----------------------------------------------------------------------------------------

    def _bury(self, process: Process) -> None:
        """A process has ended: tell the outcome of its call, and forget it."""
        if process not in self._processes:
            return
        if not process.late:
            self.loop.remove_reader(process.watched)
            self._take_in(process, float("inf"))  # it may have said its last word before
        code = process.handle.exitcode
        if code is None and process.late < _BURIAL[1]:
            # A fork server tells it with a delay; and somebody else's `waitpid` may have got it.
            process.late += 1
            self.loop.call_later(_BURIAL[0], self._bury, process)
            return
        self._forget(process)
        call = process.call
        if call is not None:
            process.call = None
            name = self._describe(call.token).name
            error = asyncio.CancelledError() if call.stopped else died(name, code, cut=process.cut)
            self.loop.call_soon(self._deliver, call, False, error)
        if not process.ready:
            self._starting -= 1
            self._not_started(lambda: no_process("it ended before it could run anything", code))
        if self._closed and not self._processes:
            self._end()
        self._serve()

    def _forget(self, process: Process) -> None:
        process.gone = True
        self._processes.discard(process)
        if process in self._idle:
            self._idle.remove(process)
        descriptor = process.connection.fileno()
        self.loop.remove_reader(descriptor)
        self.loop.remove_writer(descriptor)
        process.connection.close()
        if process.pidfd is not None:
            os.close(process.pidfd)
        with contextlib.suppress(ValueError):  # its exit code is unknown
            process.handle.close()


def _copy_refused(context: Any) -> BaseException | None:
    """Why this process cannot be copied: seen on CPython 3.13, the copy dies of a signal before it runs a line."""
    interpreters: Any = sys.modules.get("_interpreters")
    if context.get_start_method() != "fork" or interpreters is None or len(interpreters.list_all()) < 2:
        return None
    return RuntimeError(
        'this process has interpreters, and a fork of such a process crashes: write start_method="forkserver"'
    )


def _try(function: Callable[[], object]) -> BaseException | None:
    try:
        function()
    except Exception as error:
        return error
    return None


def usable_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# What is open when the interpreter ends: `multiprocessing`, which waits for each child, would wait for ever.
open_runners: weakref.WeakSet[ProcessRunner] = weakref.WeakSet()
_owner = os.getpid()


def _at_exit() -> None:
    if os.getpid() == _owner:
        for runner in tuple(open_runners):
            runner.kill_all()


atexit.register(_at_exit)  # after `multiprocessing.util` has registered its own, so it is called before that
