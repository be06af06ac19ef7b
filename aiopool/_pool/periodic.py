"""`Periodic`: a function that is submitted again and again, at the moments of a schedule.

It holds no task: one row of the pool's timers is for its next moment. A moment is not moved by the jitter, nor by the
lateness, of the one before it. Each is answered in one of three ways: a job is submitted; it is *skipped*, because the
job before it has not ended, or the queue is full; or it was *missed*, because the event loop was busy, or the machine
asleep, until after the next one. What is missed or late is told.

It ends by `cancel()`, and when the pool, or the group of its view, takes no more jobs.
"""

from __future__ import annotations

import contextvars
import datetime
import logging
import math
from collections.abc import Callable
from typing import Any, final

from aiopool._engine.engine import Engine
from aiopool._jobs.job import Job
from aiopool._jobs.schedules import Cron, Schedule, last_before
from aiopool._pool.state import PoolState
from aiopool._runtime.faults import log_fault
from aiopool._runtime.timers import Timer
from aiopool.errors import QueueFullError

__all__ = ["Periodic"]

logger = logging.getLogger("aiopool.periodic")

# The clock on the wall may be set while we wait for a moment of it: then it is looked at again after so many seconds.
LONGEST_WAIT = 60.0
# So many seconds a moment may be late before that is told.
TOLD_LATE = 1.0
# So many seconds pass before the same is told again.
TOLD_EVERY = 60.0


@final
class Periodic:
    """What `pool.every(...)` returns: a function that is submitted at each moment of a schedule.

    Attributes:
        name: of its jobs.
        job: the job of the last moment; None before the first.
        runs: how many jobs were submitted.
        skipped: how many moments were passed over, because the job before had not ended or the queue was full.
        missed: how many moments were over before anybody looked: the event loop was busy, or the machine asleep.
        elsewhere: of a pool with a store: how many moments were another process's, or skipped by one.
        late: seconds by which the last moment was late.
    """

    __slots__ = (
        "__weakref__",
        "_context",
        "_due",
        "_is_open",
        "_jitter",
        "_planned",
        "_schedule",
        "_skips",
        "_state",
        "_submitted",
        "_timer",
        "_told",
        "elsewhere",
        "job",
        "late",
        "missed",
        "name",
        "runs",
        "skipped",
    )

    def __init__(
        self,
        state: PoolState,
        schedule: Schedule,
        name: str,
        submit: Callable[[Periodic, float], Job[Any]],
        *,
        is_open: Callable[[], bool],
        jitter: float,
        skips: bool,
        at_once: bool,
    ) -> None:
        """What it does.

        Args:
            state, schedule, name: the pool, the moments, and what the jobs are called.
            submit: hands in the job of a moment, or raises.
            is_open: whether jobs can be handed in, now and later.
            jitter: seconds.
            skips: no job is handed in while the one before it has not ended.
            at_once: the job of the last moment before now is handed in, too.
        """
        self._is_open = is_open
        self._state = state
        self._schedule = schedule
        self.name = name
        self._submitted = submit
        self._jitter = jitter
        self._skips = skips
        self._context = contextvars.copy_context()  # that of whoever asked for it, each time
        self._timer: Timer | None = None
        self._due = self._planned = 0.0  # the next moment, and the same with its jitter
        self.job: Job[Any] | None = None
        self.runs = self.skipped = self.missed = self.elsewhere = 0
        self.late = 0.0
        self._told: dict[str, float] = {}  # when it was logged last, by the text
        engine = self._engine()
        if at_once:
            self._due = last_before(schedule, engine.now(), engine.runtime.wall_time)
            self._submit()
        self._plan(schedule.next_after(engine.now(), engine.runtime.wall_time))
        state.periodics.add(self)

    @property
    def when(self) -> str:
        """The moments, in words: `every 60 s`, `cron '30 3 * * *'`."""
        return str(self._schedule)

    @property
    def active(self) -> bool:
        """Whether there will be another moment."""
        return self._timer is not None and self._is_open()

    @property
    def next_at(self) -> float | None:
        """The next moment on the loop's clock (seconds), jitter included; None: there is none."""
        return self._planned if self.active else None

    @property
    def next_time(self) -> datetime.datetime | None:
        """The next moment by the clock on the wall, in UTC; None: there is none."""
        return self._engine().runtime.wall_time(self._planned) if self.active else None

    def cancel(self) -> None:
        """Submit no more jobs. Those that have been submitted go on."""
        timer, self._timer = self._timer, None
        if timer is not None:
            self._engine().timers.cancel(timer)

    def _engine(self) -> Engine:
        engine = self._state.engine
        assert engine is not None  # the pool was open
        return engine

    def _plan(self, due: float) -> None:
        engine = self._engine()
        self._due, self._planned = due, due + self._jitter * engine.runtime.random.random()
        self._wait()

    def _wait(self) -> None:
        engine = self._engine()
        if math.isinf(self._due):
            self._timer = None  # a cron text may name a day that does not come again
            return
        when = self._planned
        if type(self._schedule) is Cron and not engine.runtime.virtual:
            when = min(when, engine.now() + LONGEST_WAIT)
        self._timer = engine.timers.add(when, Periodic._come_due, self)

    def _come_due(self) -> None:
        self._timer = None
        engine = self._engine()
        now, wall = engine.now(), engine.runtime.wall_time
        if not self._is_open():
            return
        if now < self._planned:
            # Longer than one looks ahead; and perhaps the clock was set meanwhile.
            due = self._schedule.next_after(now, wall)
            self._planned += due - self._due
            self._due = due
            self._wait()
            return
        missed = self._schedule.count_between(self._due, now, wall)
        self.late = now - self._planned
        self.missed += missed
        if missed or self.late > TOLD_LATE:
            self._log("%s: %s is %.3g s late, and has missed %s moments so far", self.late, self.missed)
        self._submit()
        self._plan(self._schedule.next_after(now, wall))

    def _submit(self) -> None:
        if self._skips and self.job is not None and not self.job.done():
            self.skipped += 1
            return
        try:
            self.job = self._context.run(self._submitted, self, self._due)
        except QueueFullError:
            self.skipped += 1
            self._log("%s: %s finds the queue full, and is skipped")
        except Exception as error:  # its id is taken, no memory: the next moment may be better
            self.skipped += 1
            self._log("%s: %s could not be submitted, and is skipped", error=error)
        else:
            self.runs += 1

    def passed_over(self) -> None:
        """The job of the last moment was not taken: another process has submitted it, or its job before still runs."""
        self.runs -= 1
        self.elsewhere += 1

    def _log(self, text: str, *args: object, error: BaseException | None = None) -> None:
        """Log, but not the same thing again and again: all of it is counted."""
        now = self._engine().now()
        if now < self._told.get(text, -math.inf) + TOLD_EVERY:
            return
        self._told[text] = now
        what, pool = f"{self.name}, {self._schedule}", self._state.name
        log_fault(logger, text, pool, what, *args, error=error, fields={"pool": pool}, level=logging.WARNING)

    def __repr__(self) -> str:
        state = f"next at {self._planned:g}" if self.active else "ended"
        return f"<Periodic {self._schedule} {state} runs {self.runs} skipped {self.skipped} missed {self.missed}>"
