"""The thread bridge: plain functions go out into threads, their outcomes come back to the loop in batches.

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
    start ──▶ _waiting (first come, first served) ──▶ _next ──▶ context.run(fn, …)
                                                                     │
    on_done ◀── _deliver ◀── one call_soon_threadsafe ◀── _done ◀────┘

Invariants:
- Never more than `max_threads` threads, abandoned calls included: a thread is taken until its call returns.
- A call waits only while that many threads exist and are busy, or while a thread is on its way to it.
- At rest nothing wakes up: an idle thread sleeps on a lock of its own, and ends after `idle_seconds`.
- When `on_done` returns, the bridge holds nothing of the call.
"""

import asyncio
import contextvars
import itertools
import logging
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

__all__ = ["ThreadBridge", "check_cancelled"]

T = TypeVar("T")

_logger = logging.getLogger("aiopool.bridge")


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


class _Call:
    """One call: what to run, and what came of it."""

    # No __init__: one is made for each call, and bare stores are half the price.
    __slots__ = (
        "abandoned",
        "args",
        "cancel_args",
        "cancelled",
        "context",
        "fn",
        "ok",
        "token",
        "value",
    )

    fn: Callable[..., object]
    args: tuple[Any, ...]
    context: contextvars.Context
    token: Any
    ok: bool
    value: object
    abandoned: bool
    cancelled: bool
    cancel_args: tuple[str, ...]

    def run(self) -> None:
        """Run the function, and keep what it returned or raised."""
        try:
            self.value = self.context.run(self.fn, *self.args)
            self.ok = True
        except BaseException as exc:  # SystemExit too: what it means is decided in the loop, not in a thread
            # Without the first entry, which is this frame and of no use to the reader.
            traceback = exc.__traceback__
            self.value = exc.with_traceback(traceback.tb_next if traceback is not None else None)
            self.ok = False
            del traceback
        finally:
            # The frames in the traceback keep this one alive (`f_back`), and with it `self`, whose value is
            # the exception: a circle that only the garbage collector could open, if it were not broken here.
            del self


class _Thread(threading.Thread):
    """One thread of a bridge: takes calls until there are none for a while."""

    def __init__(self, bridge: "ThreadBridge[Any]", name: str) -> None:
        # The thread's own context is an empty one: it must not keep the variables of whoever started the
        # first call alive. (3.14 may copy the starter's context; before, a thread begins with an empty one.)
        if sys.version_info >= (3, 14):
            super().__init__(name=name, daemon=True, context=contextvars.Context())
        else:
            super().__init__(name=name, daemon=True)
        self.bridge = bridge
        self.call: _Call | None = None  # what it runs now; check_cancelled and the gauges look here
        self.arriving = True  # created or woken, and has not looked for a call yet; under the bridge's lock
        self.wake = threading.Lock()  # held while there is nothing to wake up for
        self.wake.acquire()

    def run(self) -> None:
        bridge = self.bridge
        next_call, done, notify = bridge._next, bridge._done, bridge._notify
        while (call := next_call(self)) is not None:
            call.run()
            self.call = None
            done.append(call)
            del call  # a thread that waits must not keep the last result alive
            notify()
        # An exception that was raised in this thread, and is kept by the user, keeps this frame and the thread.
        del self.bridge, bridge, next_call, done, notify


@final
class ThreadBridge(Generic[T]):
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
        >>> bridge = ThreadBridge(loop=loop, max_threads=8, name="mail", on_done=print)
        >>> bridge.start("a token", contextvars.copy_context(), pow, (2, 10))  # prints: a token True 1024
    """

    # The mutable state of a bridge is
    #   _waiting   calls that no thread has begun, oldest first; removing one from the middle costs O(1)
    #   _calls     every call that was started and not yet delivered or withdrawn, by the id of its token;
    # loop only   _threads   threads that exist, or are about to
    #   _idle      threads that sleep; the last one in is the first one out, so that the others can end
    #   _arriving  how many threads were woken or created and have not looked for a call yet
    #   _closed    no new calls, and no thread goes to sleep any more
    # – all but `_calls` under `_lock` – and, without a lock:
    #   _done      calls that ended and were not delivered; _notified  whether the loop was told of them.
    #
    # Invariant, whenever the lock is free: as many threads exist as may, or every waiting call has a thread
    # arriving or asleep: len(_waiting) <= _arriving + len(_idle). And if calls wait and threads sleep, one
    # thread is arriving, and it will wake the next: under the GIL a chain of wake-ups is cheaper than a
    # stampede, and a thread that comes free on the way takes the call without any.

    __slots__ = (
        "_arriving",
        "_calls",
        "_closed",
        "_done",
        "_idle",
        "_lock",
        "_max_threads",
        "_notified",
        "_numbers",
        "_on_done",
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
                f"ThreadBridge: idle_seconds must be a number between 0 and {threading.TIMEOUT_MAX:g}, "
                f"got {idle_seconds!r}"
            )
        self.loop = loop
        self._max_threads = max_threads
        self.name = name
        self.idle_seconds = idle_seconds
        self._on_done = on_done
        self._waiting: OrderedDict[int, _Call] = OrderedDict()
        self._calls: dict[int, _Call] = {}
        self._threads: set[_Thread] = set()
        self._idle: list[_Thread] = []
        self._arriving = 0
        self._closed = False
        self._done: deque[_Call] = deque()
        self._notified = False
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

        Raises:
            RuntimeError: the bridge is closed, the token is in use, or the very first thread cannot be
                created.
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
        call.token = token
        call.abandoned = call.cancelled = False
        thread: _Thread | None = None
        with self._lock:
            waiting = self._waiting
            waiting[key] = call
            if len(waiting) > self._arriving + len(self._idle):
                if len(self._threads) < self._max_threads:
                    thread = self._recruit()
            elif not self._arriving:
                self._wake_one()
        if thread is not None:
            self._create(thread, key)

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
            while self._waiting:
                _, call = self._waiting.popitem(last=False)
                call.ok, call.value = False, asyncio.CancelledError("closed before a thread came free")
                self._done.append(call)
                del call
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
        return self._max_threads

    @max_threads.setter
    def max_threads(self, max_threads: int) -> None:
        _check_threads(max_threads)
        recruits: list[_Thread] = []
        with self._lock:
            self._max_threads = max_threads
            while len(self._waiting) > self._arriving + len(self._idle) and len(self._threads) < max_threads:
                recruits.append(self._recruit())
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
            f"<ThreadBridge {self.name!r} {state}{self.busy} busy ({self.abandoned} abandoned), "
            f"{self.waiting} waiting, {self.threads} of {self.max_threads} threads>"
        )

    # ---- in the loop -----------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Tell of all calls that have ended."""
        # First the flag, then the calls: a thread appends first and looks at the flag second, so whichever
        # way the two meet, either this round sees its call or another round is on its way.
        self._notified = False
        done, calls, on_done = self._done, self._calls, self._on_done
        try:
            # Not `while done`: calls that end while we deliver wait for the next turn of the loop, as others
            # do.
            for _ in range(len(done)):
                call = done.popleft()
                token, ok, value = call.token, call.ok, call.value
                del calls[id(token)], call
                on_done(token, ok, value)
        finally:
            token = value = None
            if done:
                self._notify()

    def _recruit(self) -> _Thread:
        """Count a new thread, which `_create` is to start. (With the lock held.)"""
        thread = _Thread(self, f"{self.name}-{next(self._numbers)}")
        self._threads.add(thread)
        self._arriving += 1
        return thread

    def _create(self, thread: _Thread, key: int | None = None) -> None:
        """Start a thread that is counted already; where the system has none left, make do with ours."""
        try:
            thread.start()
        except RuntimeError as exc:
            with self._lock:
                self._threads.discard(thread)
                self._arriving -= 1
                if self._threads or key is None or self._waiting.pop(key, None) is None:
                    if self._waiting and self._idle and not self._arriving:
                        self._wake_one()
                    _logger.warning("%r could not create another thread: %s", self, exc)
                    return
            del self._calls[key]
            raise

    # ---- in the threads --------------------------------------------------------------------------------

    def _next(self, thread: _Thread) -> _Call | None:
        """Give the thread its next call, or None: it is to end. Sleeps until there is one or the other."""
        while True:
            with self._lock:
                if thread.arriving:
                    thread.arriving = False
                    self._arriving -= 1
                if self._waiting and len(self._threads) <= self._max_threads:
                    _, call = self._waiting.popitem(last=False)
                    thread.call = call
                    if self._waiting and self._idle and not self._arriving:
                        self._wake_one()
                    return call
                if self._closed or len(self._threads) > self._max_threads:
                    self._threads.discard(thread)
                    if self._waiting and self._idle and not self._arriving:
                        self._wake_one()  # whoever leaves hands on what it may have been woken for
                    return None
                self._idle.append(thread)
            if not thread.wake.acquire(True, self.idle_seconds) and self._retire(thread):
                return None

    def _retire(self, thread: _Thread) -> bool:
        """End a thread that slept for too long – unless it is needed just now."""
        with self._lock:
            if thread.arriving:  # woken after it had given up waiting, and before we got here
                thread.wake.acquire()
                return False
            self._idle.remove(thread)
            if self._waiting:
                return False
            self._threads.discard(thread)
            return True

    def _wake_one(self) -> None:
        """Wake the thread that fell asleep last. (With the lock held.)"""
        thread = self._idle.pop()
        thread.arriving = True
        self._arriving += 1
        thread.wake.release()

    def _notify(self) -> None:
        """Tell the loop that calls have ended, unless it has been told."""
        if self._notified:
            # Told, and then closed before it listened? Then nobody will come for the outcomes.
            if self.loop.is_closed():
                self._drop()
            return
        self._notified = True
        try:
            self.loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            if not self.loop.is_closed():
                raise
            self._drop()

    def _drop(self) -> None:
        """Let go of outcomes that nobody can be told of any more; an exception is at least logged."""
        while True:
            try:
                call = self._done.popleft()
            except IndexError:
                return
            if not call.ok and not isinstance(call.value, asyncio.CancelledError):
                assert isinstance(call.value, BaseException)
                _logger.warning(
                    "a call in a thread of %r failed after its event loop was closed; nobody can be told: %r",
                    self.name,
                    call.value,
                    exc_info=call.value,
                )


def _check_threads(max_threads: object) -> None:
    if isinstance(max_threads, bool) or not isinstance(max_threads, int):
        raise TypeError(f"ThreadBridge: max_threads must be a whole number, got {max_threads!r}")
    if max_threads < 1:
        raise ValueError(f"ThreadBridge: max_threads must be at least 1, got {max_threads}")
