"""The one object through which a pool meets the outside: time, chance, numbers, and its event loop.

No other module calls a clock, a random generator or `uuid`. That is what makes a seeded simulation of a whole
pool possible: give it a loop with a virtual clock and a seed, and every run is the same run.

Every call of the loop may fail, for lack of memory, for the depth of the stack, or by the fault of a loop or a task
factory that somebody else wrote. `soon`, `later` and `task` therefore try a second way. If that fails too, they raise
and have done nothing. So a flag that says "it is on its way" is set after such a call, never before.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, final

from aiopool._runtime.eager import task_starter

if TYPE_CHECKING:  # it comes with whoever asks for a moment by the wall clock
    import datetime

__all__ = ["Runtime", "running_loop_or_none", "shield"]

T = TypeVar("T")

# A reader in another thread waits this long for the event loop to answer, and tries so often to read from outside.
LOOP_REPLY_TIMEOUT = 0.05
TRIES = 100
# A loop clock this near the system's monotonic clock *is* that clock. uvloop caches its reading for a whole
# turn, to the millisecond, so the distance is not zero.
_SAME_CLOCK = 0.1
# By so many seconds the wall clock and the loop's may drift apart before they are compared anew.
CLOCKS_DIFFER = 0.5


@final
class Runtime:
    """What one open pool uses of the world.

    Attributes:
        loop: the event loop that the pool is bound to.
        now: seconds on the loop's clock. Where that is the system's monotonic clock it is read directly: cheaper,
            and true inside a long turn of uvloop.
        virtual: the clock is somebody else's (a simulation): it stands still while code runs.
        start_task: makes a task in a given context that takes its first step at once.
        random: the pool's random numbers (jitter).
        next_job, next_worker: 1, 2, 3 …
        context: an empty context for everything that is not a job, so that no submitter's context variables are
            kept alive by the pool.
    """

    __slots__ = (
        "_silent",
        "_wall_offset",
        "context",
        "loop",
        "next_job",
        "next_worker",
        "now",
        "random",
        "start_task",
        "thread",
        "virtual",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int | None = None) -> None:
        self.loop = loop
        self.virtual = abs(loop.time() - time.monotonic()) > _SAME_CLOCK
        self.now: Callable[[], float] = loop.time if self.virtual else time.monotonic
        self.start_task = task_starter(loop)
        self._wall_offset = time.time() - self.now()
        self._silent = False  # it has not answered the last reader yet: the next one does not wait for it
        self.random = random.Random(seed)  # noqa: S311 - jitter is no secret
        self.next_job: Callable[[], int] = itertools.count(1).__next__
        self.next_worker: Callable[[], int] = itertools.count(1).__next__
        self.context = contextvars.Context()
        self.thread = threading.get_ident()

    @property
    def forked(self) -> bool:
        """Whether this is a child that was forked while the pool was open."""
        return self.thread == -1

    def read(self, function: Callable[[], T], whole: Callable[[T], bool] = lambda found: True) -> T:
        """Call a function that only reads, between two steps of the event loop; from any thread.

        If the loop does not run, or does not answer in time, it is read from outside, until what is found is `whole`.
        """
        if self.on_loop_thread():
            return function()
        if self._silent or self.forked or not self.loop.is_running():
            return _patiently(function, whole)
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def call() -> None:
            self._silent = False
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(function())
                except BaseException as error:
                    answer.set_exception(error)

        try:
            self.loop.call_soon_threadsafe(call, context=self.context)
        except RuntimeError:  # closed in this moment
            return _patiently(function, whole)
        try:
            return answer.result(LOOP_REPLY_TIMEOUT)
        except concurrent.futures.TimeoutError:
            self._silent = True  # before it is taken back: the call may just begin
            if answer.cancel():
                return _patiently(function, whole)
            self._silent = False
            return answer.result()

    def wall_time(self, at: float) -> datetime.datetime:
        """Return a moment of the loop's clock by the clock on the wall, in UTC; the same each time it is asked.

        Unless the wall clock was set, or the machine slept: then the two clocks are compared anew. A virtual clock goes
        on from the moment at which the pool opened.
        """
        import datetime

        if not self.virtual:
            offset = time.time() - self.now()
            if abs(offset - self._wall_offset) > CLOCKS_DIFFER:
                self._wall_offset = offset
        return datetime.datetime.fromtimestamp(self._wall_offset + at, datetime.UTC)

    def seconds_until(self, moment: datetime.datetime) -> float:
        """Return the seconds from now until a moment of the clock on the wall; 0 if it is over."""
        return max(0.0, (moment - self.wall_time(self.now())).total_seconds())

    def on_loop_thread(self) -> bool:
        """Whether the caller is in the loop's own thread."""
        return threading.get_ident() == self.thread

    def task(
        self, coroutine: Coroutine[Any, Any, Any], name: str, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        """Start a task of the pool itself, in an empty context if no other is given."""
        if context is None:
            # One of its own: an eager task factory enters it at once, and the caller may be inside `self.context`.
            context = contextvars.Context()
        try:
            return self.loop.create_task(coroutine, name=name, context=context)
        except Exception:
            if inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED:
                raise
        try:
            return asyncio.Task(coroutine, loop=self.loop, name=name, context=context)
        except BaseException:
            coroutine.close()
            raise

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function` in the next turn of the loop, or very soon after, in the empty context."""
        try:
            self.loop.call_soon(function, *args, context=self.context)
        except Exception:
            self.loop.call_later(0, function, *args, context=self.context)

    def later(self, delay: float, function: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call `function` in `delay` seconds, in the empty context."""
        try:
            return self.loop.call_later(delay, function, *args, context=self.context)
        except Exception:
            return self.loop.call_at(self.loop.time() + delay, function, *args, context=self.context)


def _patiently(function: Callable[[], T], whole: Callable[[T], bool]) -> T:
    """Call a function that reads what another thread may change meanwhile."""
    for _ in range(TRIES):
        try:
            found = function()
        except RuntimeError:  # a dict or a deque has changed under us
            pass
        else:
            if whole(found):
                return found
        time.sleep(0.001)
    return function()


def shield() -> contextlib.AbstractContextManager[object]:
    """Keep anyio's cancels out of a block that a cancelled caller has to wait in.

    A cancelled scope of anyio tells its tasks again in every turn: whoever waited on would spin, and a caller that
    takes each cancel for an order to hurry would give nobody a grace. A cancel by asyncio gets through.
    """
    if _ANYIO not in sys.modules:  # nobody has made a scope yet, and its event loop backend is not cheap to load
        return contextlib.nullcontext()
    import anyio

    return anyio.CancelScope(shield=True)


_ANYIO = "anyio._backends._asyncio"


def running_loop_or_none() -> asyncio.AbstractEventLoop | None:
    """Return the running loop of this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
