"""The thread runner: plain functions go out into threads, their outcomes come back to the loop in batches.

It knows calls, threads and one event loop. It does not know jobs, time limits, retries or the size of a pool:
who starts a call gives a *token* with it (any object) and hears of it under that token, exactly once, in the
loop.

Why not `ThreadPoolExecutor`: there each call costs a `concurrent.futures.Future`, a lock and a condition, an
asyncio future, and a wake-up of the loop of its own. Here a call is one slotted object, and all calls that
end before the loop gets round to it come back in one wake-up. And its threads are joined when the interpreter
exits, so that one function which never returns keeps the program from ending; ours are daemon threads, so
that an abandoned call can hold up nobody. (The price: a daemon thread is stopped dead at exit, in the middle
of a line. Whoever needs the line to end must wait for the call before the loop ends; that is what the pool's
shutdown does.)

    loop thread                                     threads
    start ──▶ _waiting (first come, first served) ──▶ _Thread.run ──▶ context.run(fn, …)
                                                                          │
    on_done ◀── _deliver ◀── one call_soon_threadsafe ◀── _done ◀─────────┘

Invariants:
- Never more than `max_threads` threads, abandoned calls included: a thread is taken until its call returns. Those
  whose function waits for another call of the same runner are not counted (`block_thread`).
- A call waits only while that many threads exist and are busy, or while a thread is on its way to it.
- A thread that has ended a call takes the next one that waits, without a word to anybody. If none waits it makes way
  for the loop, once, before it lies down: what it has just ended is often what the next call was waiting for.
- Before a thread runs a call or lies down, the loop has been told of all that has ended; or another thread is on its
  way here, which will tell it. So short calls that wait together are run together, and told together.
- At rest nothing wakes up: an idle thread sleeps on a lock of its own, and ends after `idle_seconds`.
- When `on_done` returns, the runner holds nothing of the call.
"""

import asyncio
import contextvars
import functools
import itertools
import logging
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Generic, TypeVar, final

from aiopool._runtime.faults import describe_error, drop_frame, is_kind, log_fault

__all__ = ["ThreadRunner", "check_cancelled", "current_runner"]

T = TypeVar("T")

_logger = logging.getLogger("aiopool.threads")

# Seconds until a thread that the loop would not listen to tries again.
_TRY_AGAIN = 0.01
# An outcome older than so many seconds is not left to the next thread that arrives. Longer than some short calls take,
# shorter than anybody notices.
_HOLD = 0.0002


def check_cancelled() -> None:
    """Raise if the call that is running in this thread has been asked to stop.

    A thread cannot be stopped from outside. A long function that calls this every now and then can stop
    itself: it costs well under a microsecond, so a loop may ask on every turn.

    Raises:
        asyncio.CancelledError: the call was cancelled, or ran into its time limit. Not an `Exception`, so
            that `except Exception` does not swallow it; clean up in `finally`, and let it pass.
        RuntimeError: this thread runs no call of a pool.

    Example:
        >>> def resize_all(paths):
        ...     for path in paths:
        ...         aiopool.from_thread.check_cancelled()
        ...         resize(path)
    """
    thread = threading.current_thread()
    call = thread.call if isinstance(thread, _Thread) else None
    if call is None:
        raise RuntimeError(
            "check_cancelled() was called outside of a function that a pool runs in a thread; "
            "in a coroutine write `await asyncio.sleep(0)`, in a thread of your own use a threading.Event"
        )
    if call.cancelled:
        raise asyncio.CancelledError(*call.cancel_args)


def current_runner() -> "ThreadRunner[Any] | None":
    """Return the runner in whose thread this is, while it runs a call there."""
    thread = threading.current_thread()
    return thread.runner if isinstance(thread, _Thread) and thread.call is not None else None


class _Call:
    """One call: what to run, and whether anybody still wants it."""

    # No __init__: one is made for each call, and bare stores are half the price.
    __slots__ = ("abandoned", "args", "cancel_args", "cancelled", "context", "fn", "key")

    fn: Callable[..., object]
    args: tuple[Any, ...]
    context: contextvars.Context
    key: Any
    abandoned: bool
    cancelled: bool
    cancel_args: tuple[str, ...]


# Lets go of the interpreter's lock, once, and asks for it again. `time.sleep(0)` may sleep for longer than a short
# call takes: it is for systems that have nothing better.
_yield_gil: Callable[[], object] = getattr(os, "sched_yield", functools.partial(time.sleep, 0))


class _Thread(threading.Thread):
    """One thread of a runner: takes calls until there are none for a while."""

    def __init__(self, runner: "ThreadRunner[Any]", name: str) -> None:
        # The thread's own context is an empty one: it must not keep the variables of whoever started the
        # first call alive. (3.14 may copy the starter's context; before, a thread begins with an empty one.)
        if sys.version_info >= (3, 14):  # pragma: no cover: newer than the Pythons that the tests run on
            super().__init__(name=name, daemon=True, context=contextvars.Context())
        else:
            super().__init__(name=name, daemon=True)
        self.runner = runner
        self.call: _Call | None = None  # what it runs now; check_cancelled and the gauges look here
        self.wake = threading.Lock()  # held while there is nothing to wake up for
        self.wake.acquire()

    @property
    def arriving(self) -> bool:
        """Whether it was created, woken or freed, and has not looked for a call yet."""
        runner = getattr(self, "runner", None)  # let go of in the thread's last line
        return runner is not None and self in runner._arriving

    def run(self) -> None:
        # In line, and with names for everything: this is the part of a call that every thread pays for while it
        # holds the interpreter's lock.
        runner = self.runner
        lock, waiting, threads, idle, arriving = (
            runner._lock,
            runner._waiting,
            runner._threads,
            runner._idle,
            runner._arriving,
        )
        arrive, arrived, take = arriving.add, arriving.discard, waiting.popitem
        ended, monotonic = runner._done, time.monotonic
        done = ended.append
        call: _Call | None
        outcome: tuple[Any, bool, Any] | None
        leaving = False
        while True:
            with lock:
                arrived(self)
                if waiting and len(threads) <= runner._max_threads:
                    call = self.call = take(False)[1]
                    if waiting and idle and not arriving:
                        runner._wake_one()
                else:
                    call = None
                    leaving = runner._should_exit(self)
                    if not leaving:
                        idle.append(self)
            # Telling the loop lets go of the interpreter's lock, and another thread takes it: once for many short calls
            # is enough. Whoever arrives after us is here as soon as our next call blocks, and tells it then.
            if ended and not runner._notified and (not arriving or monotonic() >= runner._tell_at):
                runner._notify()
            if call is None:
                if leaving or runner._sleep(self):
                    break
                continue
            try:
                outcome = call.key, True, call.context.run(call.fn, *call.args)
            except BaseException as exc:  # SystemExit too: what it means is decided in the loop, not in a thread
                # Without the first entry, which is this frame and of no use to the reader.
                outcome = call.key, False, drop_frame(exc)
            self.call = call = None
            if not ended:
                runner._tell_at = monotonic() + _HOLD
            done(outcome)
            # A thread that waits must not keep the last result alive. And if it is an exception: its frames refer to
            # this one (`f_back`), a circle that only the garbage collector could open.
            outcome = None
            # From here on a call that comes in needs to wake nobody: this thread is about to look.
            arrive(self)
            if not waiting and len(arriving) == 1:
                if not runner._notified:
                    runner._notify()
                else:
                    _yield_gil()
        runner._drop_unheard()
        # An exception that was raised in this thread, and is kept by the user, keeps this frame and the thread.
        del self.runner, runner, lock, waiting, threads, idle, arriving, arrive, arrived, take, done, ended


@final
class ThreadRunner(Generic[T]):
    """Run plain functions in threads, and bring their outcomes back to the loop.

    All methods belong to the thread of the loop, except `busy`, `waiting`, `threads` and `abandoned`, which
    may be read anywhere. None of them waits, except `close(wait)`.

    Args:
        loop: where outcomes are delivered. It may be closed while calls run; their outcomes are then dropped
            (an exception is logged).
        max_threads: how many threads there may be at once, at least 1.
        name: threads are called `name-1`, `name-2`, …
        on_done: called in the loop as `on_done(token, ok, value)`, once for each call that was started and
            not withdrawn, in the order in which they ended. `ok` tells whether `value` was returned or
            raised. `BaseException`s are delivered like any other. If it raises, the loop's exception handler
            is told, and the other outcomes are delivered all the same.
        idle_seconds: a thread that had nothing to do for this long ends.

    Raises:
        TypeError, ValueError: an argument that cannot work.

    Example:
        >>> runner = ThreadRunner(loop=loop, max_threads=8, name="mail", on_done=print)
        >>> runner.start("a token", contextvars.copy_context(), pow, (2, 10))  # prints: a token True 1024
    """

    # The mutable state of a runner is
    #   _waiting   calls that no thread has begun, oldest first; removing one from the middle costs O(1)
    #   _calls     every call that was started and not yet delivered or withdrawn, by the id of its token;
    # loop only   _threads   threads that exist, or are about to
    #   _idle      threads that sleep; the last one in is the first one out, so that the others can end
    #   _arriving  threads that were created, woken or freed and have not looked for a call yet
    #   _closed    no new calls, and no thread goes to sleep any more
    # – all but `_calls` under `_lock`, save that a call is added without it, and that a thread says without it that
    # it is about to look – and, without a lock:
    #   _done      outcomes that were not delivered; _notified  whether the loop was told of them;
    #   _tell_at   until when the oldest of them may be left to another thread.
    #
    # Invariant, whenever the lock is free: as many threads exist as may, or every waiting call has a thread
    # arriving or asleep: len(_waiting) <= len(_arriving) + len(_idle). And if calls wait and threads sleep, one
    # thread is arriving, and it will wake the next: under the GIL a chain of wake-ups is cheaper than a
    # stampede, and a thread that comes free on the way takes the call without any.

    stops = False  # a thread can only be asked
    ended = None
    __slots__ = (
        "_arriving",
        "_blocked",
        "_calls",
        "_closed",
        "_done",
        "_idle",
        "_lock",
        "_max_threads",
        "_notified",
        "_numbers",
        "_on_done",
        "_tell_at",
        "_threads",
        "_waiting",
        "idle_seconds",
        "loop",
        "name",
    )

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        max_threads: int,
        name: str,
        on_done: Callable[[T, bool, Any], object],
        idle_seconds: float = 10.0,  # long against the gaps in a burst, short against a quiet night
    ) -> None:
        _check_threads(max_threads)
        if not 0 <= idle_seconds <= threading.TIMEOUT_MAX:
            raise ValueError(
                f"ThreadRunner: idle_seconds must be a number between 0 and {threading.TIMEOUT_MAX:g}, "
                f"got {idle_seconds!r}"
            )
        self.loop = loop
        self._max_threads = max_threads  # those of `_blocked` included
        self._blocked = 0  # threads whose function waits for another call
        self.name = name
        self.idle_seconds = idle_seconds
        self._on_done = on_done
        self._waiting: OrderedDict[int, _Call] = OrderedDict()
        self._calls: dict[int, _Call] = {}
        self._threads: set[_Thread] = set()
        self._idle: list[_Thread] = []
        self._arriving: set[_Thread] = set()
        self._closed = False
        self._done: deque[tuple[T, bool, Any]] = deque()
        self._notified = False
        self._tell_at = 0.0
        self._numbers = itertools.count(1)
        # Reentrant: a finalizer, or a signal handler, that runs in the middle of `start` may call `start`
        # itself.
        self._lock = threading.RLock()

    def start(
        self,
        token: T,
        context: contextvars.Context,
        fn: Callable[..., object],
        args: tuple[Any, ...] = (),
    ) -> None:
        """Hand a call to a thread; it waits in line while `max_threads` calls are running.

        Args:
            token: under which the outcome is delivered; one token, one call at a time (by identity).
            context: the contextvars of the call; a copy that nobody else is running in.
            fn: the function.
            args: its arguments.

        Where the system has no thread to give, the call waits for one of those that there are; if there is none, the
        error is its outcome.

        Raises:
            RuntimeError: the runner is closed, or the token is in use.
        """
        if self._closed:
            raise RuntimeError(f"{self!r} is closed: it takes no new calls; open a new pool")
        key = id(token)  # stays this object's own: the call keeps the token alive
        call = _Call()
        if self._calls.setdefault(key, call) is not call:
            raise RuntimeError(f"{self!r} runs a call for {token!r}; give each attempt a token of its own")
        call.fn = fn
        call.args = args
        call.context = context
        call.key = token
        call.abandoned = call.cancelled = False
        self._waiting[key] = call
        arriving, threads = self._arriving, self._threads
        if arriving and len(threads) >= self._max_threads:
            return  # without the lock: whoever arrives is struck off first and looks second, so it sees this call
        with self._lock:
            if self._idle and not arriving:
                self._wake_one()
                return
            if len(threads) >= self._max_threads or len(self._waiting) <= len(arriving) + len(self._idle):
                return
            thread = self._new_thread()
        self._create(thread)

    def withdraw(self, token: T) -> bool:
        """Take back a call that no thread has begun.

        Returns:
            Whether it was taken back. If so, it never runs and `on_done` is never called for it. If not, it
            is running, or has ended, or was never started.
        """
        key = id(token)
        with self._lock:
            if self._waiting.pop(key, None) is None:
                return False
        del self._calls[key]
        return True

    def cancel(self, token: T, reason: str | None = None) -> bool:
        """Ask a call to stop: from now on `check_cancelled()` raises inside it.

        Args:
            token: whose call.
            reason: the text of the `CancelledError`.

        Returns:
            Whether there is such a call. That it was asked does not mean that it will listen.
        """
        call = self._calls.get(id(token))
        if call is None:
            return False
        call.cancel_args = () if reason is None else (reason,)
        call.cancelled = True  # last: the other thread looks here first
        return True

    def abandon(self, token: T) -> bool:
        """Say that nobody waits for a running call any more; it is counted in `abandoned` until it ends.

        Nothing else changes: it keeps its thread, and its outcome is still delivered, so that what it holds
        can be given back when it really ends.

        Returns:
            Whether a call was running under this token. One that waits should be withdrawn.
        """
        key = id(token)
        call = self._calls.get(key)
        if call is None or key in self._waiting:
            return False
        call.abandoned = True
        return True

    def frames(self, token: T) -> list[FrameType]:
        """Return where the function of a call is in its thread: its frames, the outermost first; none if it waits.

        It goes on meanwhile: they are those of one moment.
        """
        for thread in tuple(self._threads):
            call, number = thread.call, thread.ident
            if call is not None and call.key is token and number is not None:
                found: list[FrameType] = []
                frame = sys._current_frames().get(number)
                while frame is not None and frame.f_code is not _Thread.run.__code__:
                    found.append(frame)
                    frame = frame.f_back
                return found[::-1] if thread.call is call else []
        return []

    def close(self, wait: float = 0.0) -> int:
        """Take no new calls, and let the threads end: idle ones now, the others when their function returns.

        Calls that no thread has begun are delivered as cancelled (`asyncio.CancelledError`), in the loop,
        later. Calls that run go on, and their outcomes are delivered as ever. Closing twice is closing once.

        Args:
            wait: how many seconds to wait for running calls. This blocks the loop; 0 does not wait.

        Returns:
            How many calls are still running.
        """
        with self._lock:
            self._closed = True
            self._fail_waiting(lambda: asyncio.CancelledError("closed before a thread came free"))
            while self._idle:
                self._wake_one()
        if self._done:
            self._notify()
        deadline = time.monotonic() + wait
        for thread in tuple(self._threads):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            thread.join(left)
        return self.busy

    @property
    def max_threads(self) -> int:
        """How many threads there may be; set it, and it holds at once.

        More: calls that wait get their threads. Fewer: idle threads end now, busy ones when their call returns;
        nothing is interrupted, and no thread beyond the limit begins another call.
        """
        return self._max_threads - self._blocked

    @max_threads.setter
    def max_threads(self, max_threads: int) -> None:
        _check_threads(max_threads)
        self._limit(max_threads + self._blocked)

    def block_thread(self, change: int) -> None:
        """Count a thread (1) whose function waits for another call of this runner, until it waits no more (-1).

        It runs nothing meanwhile, so that another thread may.
        """
        self._blocked += change
        self._limit(self._max_threads + change)

    def _limit(self, max_threads: int) -> None:
        recruits: list[_Thread] = []
        with self._lock:
            self._max_threads = max_threads
            while len(self._waiting) > len(self._arriving) + len(self._idle) and len(self._threads) < max_threads:
                recruits.append(self._new_thread())
            for _ in range(min(len(self._idle), len(self._threads) - max_threads)):
                self._wake_one()  # to see that it is one too many
        for thread in recruits:
            self._create(thread)

    @property
    def busy(self) -> int:
        """How many calls are running in a thread now, abandoned ones included."""
        return sum(1 for thread in tuple(self._threads) if thread.call is not None)

    @property
    def waiting(self) -> int:
        """How many calls were started that no thread has begun."""
        return len(self._waiting)

    @property
    def threads(self) -> int:
        """How many threads there are, idle ones included."""
        return len(self._threads)

    @property
    def abandoned(self) -> int:
        """How many of the running calls were abandoned."""
        running = [thread.call for thread in tuple(self._threads)]
        return sum(1 for call in running if call is not None and call.abandoned)

    def __repr__(self) -> str:
        state = "closed, " if self._closed else ""
        return (
            f"<ThreadRunner {self.name!r} {state}{self.busy} busy ({self.abandoned} abandoned), "
            f"{self.waiting} waiting, {self.threads} of {self.max_threads} threads>"
        )

    # ---- in the loop -----------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Tell of all calls that have ended."""
        # First the flag, then the calls: a thread appends first and looks at the flag second, so whichever
        # way the two meet, either this round sees its call or another round is on its way.
        self._notified = False
        done, calls, on_done = self._done, self._calls, self._on_done
        token: Any
        try:
            # Not `while done`: calls that end while we deliver wait for the next turn of the loop, as others
            # do.
            for _ in range(len(done)):
                token, ok, value = done.popleft()
                del calls[id(token)]
                on_done(token, ok, value)
        finally:
            token = value = None
            if done:
                self._notify()

    def _new_thread(self) -> _Thread:
        """Count a new thread, which `_create` is to start. (With the lock held.)"""
        thread = _Thread(self, f"{self.name}-{next(self._numbers)}")
        self._threads.add(thread)
        self._arriving.add(thread)
        return thread

    def _create(self, thread: _Thread) -> None:
        """Start a thread that is counted already; where the system has none left, make do with ours.

        If we have none either, the calls that wait fail: in the next turn of the loop, as if a thread had run them.
        Told here and now, whoever hears of it would start the next call, and so on until the stack ends.
        """
        try:
            thread.start()
        except Exception as error:
            if thread.ident is not None:
                raise  # it runs all the same
            cause = error
        else:
            return
        with self._lock:
            self._threads.discard(thread)
            self._arriving.discard(thread)
            if not self._threads:
                self._fail_waiting(lambda: _no_thread(cause))
            elif self._waiting and self._idle and not self._arriving:
                self._wake_one()
        _logger.warning("%r could not create another thread: %s", self, describe_error(cause))
        if self._done:
            self._notify()

    def _fail_waiting(self, error: Callable[[], BaseException]) -> None:
        """Let each call that no thread has begun end by an error of its own. (With the lock held.)"""
        while self._waiting:
            _, call = self._waiting.popitem(last=False)
            self._done.append((call.key, False, error()))
            del call

    # ---- in the threads --------------------------------------------------------------------------------

    def _should_exit(self, thread: _Thread) -> bool:
        """Strike a thread off if it is not to go on; whether it is to end. (With the lock held.)"""
        if not self._closed and len(self._threads) <= self._max_threads:
            return False
        self._threads.discard(thread)
        if self._waiting and self._idle and not self._arriving:
            self._wake_one()  # whoever leaves hands on what it may have been woken for
        return True

    def _sleep(self, thread: _Thread) -> bool:
        """Sleep until there is something to look for, or for `idle_seconds`: whether the thread is to end."""
        self._drop_unheard()
        if thread.wake.acquire(True, self.idle_seconds):
            return False
        with self._lock:
            if thread in self._arriving:  # woken after it had given up waiting, and before we got here
                thread.wake.acquire()
                return False
            self._idle.remove(thread)
            # First struck off, then a look: `start` adds a call first and counts threads second.
            self._threads.discard(thread)
            if self._waiting:
                self._threads.add(thread)
                return False
            return True

    def _wake_one(self) -> None:
        """Wake the thread that fell asleep last. (With the lock held.)"""
        thread = self._idle.pop()
        self._arriving.add(thread)
        thread.wake.release()

    def _notify(self) -> None:
        """Tell the loop that calls have ended, unless it has been told.

        The flag is set first, for the loop may listen before we are back. If the call fails, whoever waits for the
        outcomes must not wait for ever: a thread tries again until it is heard, the loop's own thread another way.
        """
        while not self._notified:
            self._notified = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
                return  # the flag is the loop's now: it may have listened already, and put it down
            except Exception:
                self._notified = False
                if self.loop.is_closed():
                    return self._drop()
                if not isinstance(threading.current_thread(), _Thread):
                    self.loop.call_later(0, self._deliver)
                    self._notified = True
                else:
                    time.sleep(_TRY_AGAIN)

    def _drop_unheard(self) -> None:
        """Let go of outcomes if the loop was told of them, and closed before it listened: nobody will come for them."""
        if self._done and self.loop.is_closed():
            self._drop()

    def _drop(self) -> None:
        """Let go of outcomes that nobody can be told of any more; an exception is at least logged."""
        while True:
            try:
                _, ok, value = self._done.popleft()
            except IndexError:
                return
            if not ok and not is_kind(value, asyncio.CancelledError):
                text = "a call in a thread of %r failed after its event loop was closed; nobody can be told: %s"
                log_fault(_logger, text, self.name, value, error=value)


def _no_thread(cause: BaseException) -> RuntimeError:
    """Return the error of a call for which there is no thread."""
    error = RuntimeError(
        f"no thread could be started for this call, and none is there that it could wait for: {describe_error(cause)}. "
        "The system limits threads and memory: a smaller max_threads of the pool leaves room for others"
    )
    error.__cause__ = cause
    return error


def _check_threads(max_threads: object) -> None:
    if isinstance(max_threads, bool) or not isinstance(max_threads, int):
        raise TypeError(f"ThreadRunner: max_threads must be a whole number, got {max_threads!r}")
    if max_threads < 1:
        raise ValueError(f"ThreadRunner: max_threads must be at least 1, got {max_threads}")
