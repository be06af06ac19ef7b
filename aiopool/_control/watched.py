"""`Watched`: a pool that somebody looks at, what was seen of its event loop, and who did what to it.

There is one for each pool, made at the first look, and gone with the pool. Invariant: while nobody asks, it costs
nothing: no timer, no thread, no listener.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextvars import Context
from typing import Any, final

from aiopool._control.events import EventLog
from aiopool._control.history import History
from aiopool._control.problems import Problem
from aiopool._control.views import frames_view, moment
from aiopool._observe.metrics import label_text  # no line of a log breaks by it
from aiopool._pool.pool import Pool
from aiopool.health import HealthMonitor
from aiopool.inspection import loop_of, open_pools, running_code

__all__ = ["Action", "Operation", "Watched", "find_pool", "watched", "watched_pools"]

# Seconds without an answer from which on we say that the loop is blocked, and look who it is.
LATE = 0.05
MAX_SPELLS = 50
MAX_ACTIONS = 200
MAX_ABOUT = 500  # characters
MAX_OPERATIONS = 20


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """Something that somebody did to a pool.

    Attributes:
        at: when.
        who: by whom.
        verb: what was asked.
        about: its arguments, in words.
    """

    at: datetime.datetime
    who: str
    verb: str
    about: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"time": moment(self.at), "who": self.who, "verb": self.verb, "about": self.about}


@final
@dataclasses.dataclass(slots=True)
class Operation:
    """Something that is done to many jobs, in slices of the loop's time.

    Attributes:
        id: its number.
        verb: what is done to each of them.
        total: how many there are, as counted before.
        done: how many it was done to.
        skipped: how many could not have it done to them any more.
        ended: it is over.
        stopped: somebody has stopped it.
        error: why it has ended in the middle, if it has.
        task: does it.
    """

    id: int
    verb: str
    total: int
    done: int = 0
    skipped: int = 0
    ended: bool = False
    stopped: bool = False
    error: str | None = None
    task: asyncio.Task[None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "id": self.id,
            "verb": self.verb,
            "total": self.total,
            "done": self.done,
            "skipped": self.skipped,
            "ended": self.ended,
            "stopped": self.stopped,
            "error": self.error,
        }


@final
class Watched:
    """What is known of one pool besides what it says itself."""

    __slots__ = (
        "_asked_at",
        "_health",
        "_lags",
        "_lock",
        "_on_answer",
        "_spell",
        "actions",
        "events",
        "history",
        "key",
        "operations",
        "paused_by",
        "pool_ref",
        "spells",
    )

    def __init__(self, pool: Pool, key: str) -> None:
        self.key = key
        self.pool_ref = weakref.ref(pool)
        self.events = EventLog(pool)
        self.history = History()
        self.actions: deque[Action] = deque(maxlen=MAX_ACTIONS)
        self.operations: dict[int, Operation] = {}
        self.paused_by: Action | None = None
        self.spells: deque[dict[str, Any]] = deque(maxlen=MAX_SPELLS)  # in which the loop was blocked
        self._health: HealthMonitor | None = None
        self._lock = threading.Lock()
        self._asked_at: float | None = None  # when the loop was asked, and has not answered since
        self._on_answer: list[Callable[[], object]] = []
        self._spell: dict[str, Any] | None = None  # in which it is now
        self._lags: deque[tuple[float, float]] = deque(maxlen=600)  # when it was asked, and how late it answered

    @property
    def pool(self) -> Pool:
        """The pool.

        Raises:
            Problem: it is gone.
        """
        pool = self.pool_ref()
        if pool is None:
            raise Problem("not-found", f"pool {self.key!r} is gone")
        return pool

    @property
    def health(self) -> HealthMonitor:
        """What says how the pool is; from the first question on it remembers."""
        if self._health is None:
            self._health = HealthMonitor(self.pool)
        return self._health

    # -- the event loop ------------------------------------------------------------------------------------------------

    def ask_loop(self, on_answer: Callable[[], object]) -> None:
        """Ask the event loop for an answer, unless it owes us one; from another thread than its own.

        Args:
            on_answer: called in the loop of the pool when it answers.
        """
        with self._lock:
            self._on_answer.append(on_answer)
            if self._asked_at is not None:
                return
            self._asked_at = time.monotonic()
        try:
            loop_of(self.pool).call_soon_threadsafe(self._answered, context=Context())
        except RuntimeError:  # it is closed
            self._answered()

    def _answered(self) -> None:
        now = time.monotonic()
        with self._lock:
            if self._asked_at is not None:
                self._lags.append((time.time(), now - self._asked_at))
                if self._spell is not None:
                    self._spell["seconds"] = round(now - self._asked_at, 3)
            self._asked_at = self._spell = None
            calls, self._on_answer = self._on_answer, []
        for call in calls:
            call()

    def look_at_loop(self) -> dict[str, Any] | None:
        """Return who blocks the event loop, if it has not answered for too long.

        None: it answers, or no code runs in it: then it is late because its thread got no time, and nobody blocks it.
        """
        with self._lock:
            asked = self._asked_at
        if asked is None or time.monotonic() - asked < LATE:
            return None
        code = running_code(self.pool)
        if code is None:
            return None
        seconds = time.monotonic() - asked
        found = {
            "time": moment(datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)),
            "seconds": round(seconds, 3),
            "where": str(code),
            "job": code.job_id,
            "name": code.job_name,
            "stack": frames_view(list(code.stack)),
        }
        with self._lock:
            if self._asked_at == asked:
                if self._spell is None:
                    self._spell = found
                    self.spells.append(found)
                else:
                    self._spell.update(found)
        return found

    def lags(self) -> list[tuple[float, float]]:
        """Return when the loop was asked lately, by the clock on the wall, and how many seconds it took to answer."""
        with self._lock:
            return list(self._lags)

    def blocked_problem(self) -> Problem:
        """Return why a request had no answer."""
        found = self.look_at_loop()
        if found is None:
            return Problem("loop-blocked", "the event loop has not answered in time: ask again")
        return Problem("loop-blocked", f"loop blocked for {found['seconds']:.1f} s at {found['where']}", blocked=found)

    # -- what was done -------------------------------------------------------------------------------------------------

    def note(self, who: str, verb: str, arguments: Mapping[str, Any]) -> Action:
        """Write down what somebody did."""
        about = " ".join(f"{name}={value}" for name, value in arguments.items() if value not in (None, ""))
        action = Action(datetime.datetime.now(datetime.UTC), who, verb, label_text(about, MAX_ABOUT))
        self.actions.append(action)
        if verb in ("pause", "resume") and not arguments.get("group"):
            self.paused_by = action if verb == "pause" else None
        return action

    def begin(self, verb: str, total: int) -> Operation:
        """Make an operation; the oldest ones that are over are forgotten."""
        number = max(self.operations, default=0) + 1
        operation = self.operations[number] = Operation(number, verb, total)
        over = [id for id, one in self.operations.items() if one.ended]
        for old in over[: max(0, len(self.operations) - MAX_OPERATIONS)]:
            del self.operations[old]
        return operation


_lock = threading.Lock()
_watched: weakref.WeakKeyDictionary[Pool, Watched] = weakref.WeakKeyDictionary()


def watched(pool: Pool) -> Watched:
    """Return what is known of a pool."""
    with _lock:
        found = _watched.get(pool)
        if found is None:
            found = _watched[pool] = Watched(pool, pool.name)
        return found


def watched_pools(among: Collection[Pool] | None = None) -> list[Watched]:
    """Return the open pools of this process, the oldest first.

    The key of each is its name; with a number, if an older one that is open has that.

    Args:
        among: only those of these pools; their keys are the same.
    """
    found: dict[str, Watched] = {}
    for pool in open_pools():
        watch, number = watched(pool), 1
        if watch.key in found:
            watch.key = pool.name
            while watch.key in found:
                number += 1
                watch.key = f"{pool.name}-{number}"
        found[watch.key] = watch
    return [watch for watch in found.values() if among is None or watch.pool_ref() in among]


def find_pool(key: str | None, among: Collection[Pool] | None = None) -> Watched:
    """Return the pool with a key; the only one there is, if no key is given.

    Args:
        key: of the pool.
        among: there are only these pools.

    Raises:
        Problem: there is no such pool, or there are several.
    """
    pools = watched_pools(among)
    keys = ", ".join(one.key for one in pools) or "none"
    if key is None:
        if len(pools) == 1:
            return pools[0]
        raise Problem("not-found", "no pool is open here" if not pools else f"say which pool: {keys}", pools=keys)
    for one in pools:
        if one.key == key:
            return one
    raise Problem("not-found", f"no open pool is called {key!r:.100}; there are: {keys}")
