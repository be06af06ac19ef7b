"""`VirtualLoop`: an event loop that never waits, and that can be asked for another legal order.

It is asyncio's own selector loop with three parts exchanged: the clock (a number), the selector (which
moves the clock instead of waiting), and the queue of what is ready (`_schedule.py`). So sockets, threads,
signals, `asyncio.timeout`, task groups, eager tasks, debug mode and anyio work on it unchanged.

What it knows: when nothing is ready, the next thing that can happen is the next timer, so it is *now* the
time of that timer. What it refuses to know: how long anything outside the loop takes. A clock that jumps
leaps over a working thread, a process and a reply on a socket. The rule, therefore:

1. Something is ready → it runs. The clock stands still while code runs.
2. Nothing is ready, and the clock is held → the loop waits in real time, at most `patience` seconds, for
   news from outside. The clock is held by `hold_clock()`, by a call in `run_in_executor` or
   `asyncio.to_thread`, and by a call in a thread of anyio or of a pool (these unless `offload="leap"`).
   Held work takes no virtual time, so no time limit strikes it.
3. Nothing is ready and a timer is armed → the clock jumps there.
4. Nothing is ready and no timer is armed → if a thread, a socket or a signal handler might wake the loop,
   it waits as in 2; then it raises `DeadlockError`. If nothing can, it raises at once.

Invariant: a program without threads and without I/O is a pure function of its seed: the same seed gives the
same trace.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import math
import random
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypedDict

from ._parts import DeadlockError, Events, Hold, NumberedTask, Seam, SpinError, Watch
from ._report import deadlock_text, describe_callback, held_text, spin_text, task_title
from ._schedule import Mode, Ready, owner, ready_queue
from ._threads import busy_for, idle, processes_of

__all__ = ["LoopOptions", "VirtualLoop"]

# One moment in which 1,000 jobs start and end takes some 10,000 steps; a spin takes this many in two seconds.
_MAX_STEPS_AT_ONCE = 200_000
_MAX_STEPS = 2_000_000
# Longer than any thread in a sane test, shorter than a reader's patience.
_PATIENCE = 5.0
_LOOK = 0.005  # real seconds between two looks at a condition, while a thread holds the clock
_TRACE = 1_000  # steps kept for the report; the hash covers all


class LoopOptions(TypedDict, total=False):
    """What `run_virtual`, `VirtualRunner` and `explore` hand on to `VirtualLoop`; explained there."""

    max_steps: int
    max_steps_at_once: int
    patience: float
    offload: Literal["hold", "leap"]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a virtual clock, which starts at 0 and jumps, and a schedule drawn from a seed.

    The same program on the same seed and mode takes the same steps, as long as no thread and no I/O is
    involved.

    Args:
        seed: what the schedule is drawn from; None draws a seed, which `seed` then tells.
        mode: `"fifo"` is asyncio's documented order. `"tasks"` lets any task that is ready go next, keeps
            the order of all other callbacks, and leaves the order of equal timers open: an order that asyncio
            might really produce.
        max_steps: raise `SpinError` after this many callbacks.
        max_steps_at_once: raise `SpinError` after this many callbacks while the clock stands still.
        patience: how long to wait for threads and I/O, in *real* seconds, before that is called a deadlock.
        offload: `"hold"` stops the clock while a thread of `run_in_executor`, of anyio or of a pool works for
            this loop; `"leap"` leaps over it (for tests of threads that never come back).

    Raises:
        ValueError: there is no such mode.
        DeadlockError: from `run_until_complete` and the like: nothing can ever happen again.
        SpinError: from `run_until_complete` and the like: the step budget is used up.

    Example:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(asyncio.sleep(3600))       # takes no time
    """

    _ready: Ready
    _scheduled: list[asyncio.TimerHandle]
    _closed = True  # until the base class has made a loop: a failed __init__ leaves nothing to close

    def __init__(
        self,
        *,
        seed: int | None = None,
        mode: Mode = "fifo",
        max_steps: int = _MAX_STEPS,
        max_steps_at_once: int = _MAX_STEPS_AT_ONCE,
        patience: float = _PATIENCE,
        offload: Literal["hold", "leap"] = "hold",
    ) -> None:
        if offload not in ("hold", "leap"):
            raise ValueError(f"offload={offload!r}: use offload='hold' or offload='leap'")
        self.seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        self.mode: Mode = mode
        self.unhandled: list[str] = []
        self._budget, self._budget_at_once, self._patience = max_steps, max_steps_at_once, patience
        self._offload = offload
        self._gave_up = False
        self._now = 0.0
        self._steps = self._steps_before = self._steps_at_jump = self._turns = self._tasks_made = 0
        self._trace: deque[str] = deque(maxlen=_TRACE)
        self._digest = hashlib.blake2b(digest_size=8)
        self._numbers: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()
        self._holds: list[Hold] = []
        self._quiet: list[asyncio.Future[None]] = []
        self._watches: list[Watch] = []
        # A daemon that was here first serves somebody else; the main thread may well serve this loop.
        self._strangers = weakref.WeakSet(thread for thread in threading.enumerate() if thread.daemon)
        ready = ready_queue(mode, self.seed, self._taken, self._number)
        self._seam = Seam(self._poll)
        super().__init__(self._seam)
        self._ready = ready
        self._own_files = len(self._seam.get_map())

    def __repr__(self) -> str:
        state = "running" if self.is_running() else "closed" if self.is_closed() else "idle"
        return f"<VirtualLoop {state} at {self._now:g} s, step {self._steps}, {self._where()}>"

    # -- what a test may ask ------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the virtual time in seconds; it begins at 0 and stands still while code runs."""
        return self._now

    @property
    def steps(self) -> int:
        """How many callbacks have run."""
        return self._steps

    @property
    def turns(self) -> int:
        """How often the loop has gone round: at rest a few times per virtual second, or something polls."""
        return self._turns

    @property
    def trace(self) -> tuple[str, ...]:
        """The last 1,000 steps: when and what; without addresses, so that runs compare."""
        return tuple(self._trace)

    def trace_hash(self) -> str:
        """Return a short hash of every step so far: equal hashes mean equal runs."""
        return self._digest.hexdigest()

    def armed(self) -> list[asyncio.TimerHandle]:
        """Return the timers that will still fire, the next one first."""
        return sorted(handle for handle in self._scheduled if not handle.cancelled())

    def ready(self) -> list[asyncio.Handle]:
        """Return the callbacks that are ready to run."""
        return [handle for handle in self._ready if not handle.cancelled()]

    @contextmanager
    def hold_clock(self, reason: str = "hold_clock()") -> Iterator[None]:
        """Stop the clock inside the `with` block, while something outside the loop is at work.

        Code and I/O go on; timers wait. When nothing comes from outside for `patience` real seconds,
        `DeadlockError` is raised.

        Args:
            reason: what is waited for, for the message of that error.

        Example:
            with loop.hold_clock("the server's answer"):
                answer = await stream.receive()
        """
        hold = Hold(reason)
        self._holds.append(hold)
        try:
            yield
        finally:
            self._holds.remove(hold)

    def until_quiet(self) -> asyncio.Future[None]:
        """Return a future that is done when nothing is ready, before the clock moves; for `settle`."""
        future: asyncio.Future[None] = self.create_future()
        self._quiet.append(future)
        return future

    def watch(self, condition: Callable[[], object]) -> asyncio.Future[None]:
        """Return a future that is done in the turn in which `condition()` is true; for `wait_until`."""
        future: asyncio.Future[None] = self.create_future()
        self._watches.append(Watch(condition, future, contextvars.copy_context()))
        return future

    # -- the seam: what happens where another loop waits ---------------------------------------------------

    def _poll(self, timeout: float | None) -> Events:
        self._turns += 1
        self._check_budget()
        if self._watches:
            self._look()
        events = self._seam.real.select(0)
        if events or self._ready or (timeout is not None and timeout <= 0):
            return events
        if self._quiet:
            quiet, self._quiet = self._quiet, []
            for future in quiet:
                if not future.done():
                    future.set_result(None)
            return events
        return self._idle()

    def _look(self) -> None:
        for watch in self._watches:
            watch.look()
        self._watches = [watch for watch in self._watches if not watch.future.done()]

    def _idle(self) -> Events:
        """Nothing is ready: wait for the outside, or let the clock jump, or give up."""
        holds = self._holding()
        if holds:
            news = self._wait_outside(held=True)
            if news is not None:
                return news
            holds = self._holding()
            if not all(hold.leap for hold in holds):
                self._gave_up = True
                reasons = [hold.reason for hold in holds]
                raise DeadlockError(held_text(reasons, self._patience, self._moment(), self._pending()))
        if self._ready:  # the last thread ended between two lines of ours; its outcome came first
            return []
        when = self._scheduled[0].when() if self._scheduled else math.inf
        if when < math.inf:
            self._now = max(self._now, when)
            # At a very late hour a nanosecond is less than a float can tell, and no timer would ever be due.
            self._clock_resolution = max(1e-9, 2 * math.ulp(self._now))
            self._steps_at_jump = self._steps
            return []
        outside = self._outside()
        if self._ready:
            return []
        news = self._wait_outside() if outside else None
        if news is None:
            self._gave_up = True
            raise DeadlockError(deadlock_text(outside, self._patience, self._moment(), self._pending()))
        return news

    def _wait_outside(self, *, held: bool = False) -> Events | None:
        """Wait in real time for I/O or a thread; None if nothing came, or the clock that was `held` is free."""
        end = time.monotonic() + self._patience
        while (left := end - time.monotonic()) > 0:
            # What a thread has changed without telling the loop is seen by looking only. So is that it has ended: it
            # may hand over its outcome some lines before.
            events = self._seam.real.select(min(left, _LOOK) if self._watches or held else left)
            if self._watches:
                self._look()
            if events or self._ready:
                return events
            if held and not self._holding():
                return None
        return None

    def _holding(self) -> list[Hold]:
        if self._offload == "leap":
            return self._holds
        threads = [Hold(f"a call in thread {name!r}") for name in busy_for(self)]
        return self._holds + threads + [Hold(f"a call in a process of {name!r}") for name in processes_of(self)]

    def _outside(self) -> list[str]:
        """Name what might wake the loop although no timer is armed."""
        me = threading.current_thread()
        names = [
            f"thread {thread.name!r}"
            for thread in threading.enumerate()
            if thread is not me and thread not in self._strangers and not idle(thread)
        ]
        files = len(self._seam.get_map()) - self._own_files
        if files > 0:
            names.append(f"{files} sockets or pipes")
        if getattr(self, "_signal_handlers", None):
            names.append("signal handlers")
        return names

    # -- asyncio's own methods, made to fit ----------------------------------------------------------------

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Make a task as asyncio does; its name and hash are the same in every run."""
        if self.get_task_factory() is not None:
            return super().create_task(coro, **options)
        self._check_closed()  # type: ignore[attr-defined]
        self._tasks_made += 1
        if options.get("name") is None:
            options["name"] = f"Task-{self._tasks_made}"
        task: asyncio.Task[Any] = NumberedTask(coro, number=self._tasks_made, loop=self, **options)
        try:
            return task
        finally:
            del task  # an exception that came out of an eager start must not keep it alive

    def run_in_executor(  # type: ignore[override]  # the stub's own signature needs 3.11's TypeVarTuple
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        """Run `func` in a thread as asyncio does; with `offload="hold"` the clock stands still meanwhile."""
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        if self._offload == "hold" and not future.done():
            hold = Hold(f"{describe_callback(func)} in an executor")
            self._holds.append(hold)
            future.add_done_callback(lambda _: self._holds.remove(hold))
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """End the default executor; after `patience` real seconds warn and leave it, as asyncio does."""
        executor = self._default_executor  # type: ignore[attr-defined]
        self._executor_shutdown_called = True
        if executor is None:
            return
        done = self.create_future()
        end = self._do_shutdown  # type: ignore[attr-defined]
        thread = threading.Thread(target=end, args=(done,), daemon=True)
        hold = Hold("the end of the default executor", leap=True)
        self._holds.append(hold)
        thread.start()
        try:
            async with asyncio.timeout(1.0):  # virtual: it strikes only when the real patience has ended
                await done
        except TimeoutError:
            warnings.warn(
                f"a thread of the default executor was still at work after {self._patience} s of real time",
                RuntimeWarning,
                stacklevel=2,
            )
            executor.shutdown(wait=False)
        else:
            thread.join()
        finally:
            self._holds.remove(hold)

    def close(self) -> None:
        """Close the loop; tasks that have been reported as stuck are ended by closing their coroutines."""
        if self._gave_up and not self.is_closed() and not self.is_running():
            for task in asyncio.all_tasks(self):
                # Left to the garbage collector they would complain in the middle of another test.
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                try:
                    task.get_coro().close()  # type: ignore[union-attr]
                except Exception as error:
                    message = f"closing the stuck task {task.get_name()}"
                    self.call_exception_handler({"message": message, "exception": error})
        super().close()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Note the report in `unhandled` (as text: it keeps nothing alive), and hand it on."""
        error = context.get("exception")
        self.unhandled.append(f"{context.get('message')}{'' if error is None else f': {error!r}'}")
        super().call_exception_handler(context)

    # -- trace and budget ----------------------------------------------------------------------------------

    def _number(self, task: asyncio.Task[Any]) -> int:
        if isinstance(task, NumberedTask):
            return task.number
        number = self._numbers.get(task)
        if number is None:
            self._tasks_made += 1
            number = self._numbers[task] = self._tasks_made
        return number

    def _taken(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        self._steps += 1
        task = owner(handle)
        if task is not None:
            label = f"{self._now!r} task {self._number(task)} {task_title(task)}"
        else:
            kind = "timer" if isinstance(handle, asyncio.TimerHandle) else "call"
            label = f"{self._now!r} {kind} {describe_callback(handle._callback)}"  # type: ignore[attr-defined]
        self._trace.append(label)
        self._digest.update(label.encode())

    def _check_budget(self) -> None:
        at_once = self._steps - max(self._steps_at_jump, self._steps_before)
        if at_once < self._budget_at_once and self._steps - self._steps_before < self._budget:
            return
        self._gave_up = True
        self._steps_before = self._steps  # whoever cleans up now gets a budget of his own
        how = f"{self._budget} steps in all"
        if at_once >= self._budget_at_once:
            how = f"{at_once} steps while the clock stood still"
        raise SpinError(spin_text(how, self.trace, self._moment(), self._pending()))

    def _where(self) -> str:
        return f"seed={self.seed}, mode={self.mode!r}"

    def _moment(self) -> str:
        return f"virtual time {self._now:g} s, step {self._steps}, {self._where()}"

    def _pending(self) -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks(self) if not task.done()]
