"""`Adaptive`: how many jobs another side can bear, found from how long it takes and from its overload errors.

Everything here is a decision, taken from its arguments alone, the time included. Who watches the jobs, and changes the
size, is `_engine/adapter.py`.

How it is found. Jobs are watched in *windows*. While a server has a place for each call, the time that a call takes
does not depend on how many there are; beyond that calls only wait inside of it, and the time grows with their number.
So the size follows the *gradient*, the time without load divided by the time of this window: `size * gradient +
headroom`. It is what TCP Vegas does (Brakmo and Peterson, 1995), and the `Gradient` limits of Netflix'
concurrency-limits (2018). The headroom is half of the square root of the size: enough to find out that there is more
room, and little to wait. From the start the size doubles until the gradient falls, as TCP does (slow start, RFC
5681).

The time without load changes, too. So from time to time one window is a *probe*: it runs at half of the size, and its
time is the new one. A size that has shrunk much is probed at once: perhaps the server is slower, and not full.

An overload error takes a tenth of the size, once for all jobs that ran together (AIMD; Chiu and Jain, 1989).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, final

from aiopool._jobs.limits import is_overload
from aiopool._jobs.match import Match, check_match, verdict
from aiopool._jobs.size_rule import SizeRule
from aiopool._runtime.faults import is_kind
from aiopool._runtime.keywords import explain_keywords
from aiopool.errors import JobTimeoutError

__all__ = ["Adaptation", "Adaptive", "is_too_much"]

# A window takes so many seconds at least, and has so many jobs, or twice as many as run at once if that is more.
MIN_SECONDS: Final = 0.1
MIN_JOBS: Final = 20
# By so much the time may grow before it means anything.
TOLERANCE: Final = 1.1
# No window makes the size smaller than by this.
MIN_GRADIENT: Final = 0.5
# Below this the time has grown for the number of jobs, not by chance: the size doubles no more.
CONGESTED: Final = 0.85
# What is left of the size after an overload error.
BACKOFF: Final = 0.9
# A probe comes after so many windows, or when less than this is left of the size.
PROBE_AFTER: Final = 40
SHRUNK: Final = 0.7
# How much the time without load follows what a probe finds, and what other windows find while they are not congested.
# A time that differs by more than the last of these is another one altogether.
PROBED: Final = 0.5
SEEN: Final = 0.1
ANOTHER: Final = 0.3


def is_too_much(error: BaseException) -> bool:
    """Return whether an error says that the other side has too much to do: a 429, a 503, or a time limit of a job."""
    return is_kind(error, JobTimeoutError) or is_overload(error)


@final
@explain_keywords
@dataclass(frozen=True, slots=True)
class Adaptive(SizeRule):
    """Let the pool find out how many jobs the other side can bear, and follow it.

    The size grows while jobs take no longer for it, and shrinks when they do (the gradient of latency), or when one
    fails with an overload error (AIMD). So it comes to rest a little above the number of calls that a server works on
    at once. Only jobs that succeed are timed, and that did not wait for other jobs of the pool. It grows only while
    jobs fill all slots; a pool at rest keeps its size, and has no timer.

    For jobs of one kind, that call one server: if short and long ones are mixed, a change of the mix looks like a
    change of the server. A server that does not answer at all is not seen before a `timeout` of the jobs.

    Args:
        min_size: the least size, with which the pool opens.
        max_size: the largest size.
        on: which errors mean overload: a class, a tuple of classes, or a predicate. By default those that say 429, 503
            or `retry_after`, and `JobTimeoutError`.

    Raises:
        TypeError, ValueError: an argument has a value that it cannot have.

    Example:
        Pool(size=Adaptive(1, 200), timeout=10)
    """

    min_size: int
    max_size: int
    on: Match = is_too_much

    def __post_init__(self) -> None:
        self._check_bounds()
        check_match("Adaptive", "on", self.on)

    def means_overload(self, error: BaseException) -> bool:
        """Return whether an error means overload."""
        return verdict("Adaptive", "on", self.on, error) is not False


@final
class Adaptation:
    """The decisions of one open pool.

    Attributes:
        filled: in this window jobs have taken all slots.
    """

    __slots__ = (
        "_began",
        "_doubling",
        "_highest",
        "_jobs",
        "_limit",
        "_overload_at",
        "_probing",
        "_rule",
        "_seconds",
        "_unloaded",
        "_windows",
        "filled",
    )

    def __init__(self, rule: Adaptive, now: float) -> None:
        self._rule = rule
        self._limit = self._highest = float(rule.min_size)  # the size, before it is rounded; the largest since a probe
        self._unloaded = 0.0  # seconds of a job without load; 0: not known yet
        self._doubling = True
        self._probing = False
        self._windows = 0  # since the last probe
        self._overload_at = -math.inf
        self._open(now)

    def _open(self, now: float) -> None:
        """Begin a window."""
        self._began = now
        self._jobs, self._seconds = 0, 0.0
        self.filled = False

    @property
    def size(self) -> int:
        """How many jobs may run at once."""
        limit = self._limit / 2 if self._probing else self._limit
        return max(self._rule.min_size, int(limit))

    def succeeded(self, started_at: float, now: float) -> bool:
        """A job succeeded; whether the window is complete. One that has started before the window tells nothing."""
        if started_at < self._began:
            return False
        self._jobs += 1
        self._seconds += now - started_at
        return self._jobs >= max(MIN_JOBS, 2 * self.size) and now - self._began >= MIN_SECONDS

    def overloaded(self, started_at: float, now: float) -> bool:
        """A job met an overload; whether that makes the size smaller. Jobs that ran together have met the same one."""
        if started_at < self._overload_at:
            return False
        self._overload_at = now
        self._doubling = self._probing = False
        self._limit = max(self._rule.min_size, self._limit * BACKOFF)
        self._open(now)
        return True

    def decide(self, now: float) -> int:
        """Decide the size at the end of a window, and begin the next one."""
        seconds, unloaded = self._seconds / self._jobs, self._unloaded
        gradient = max(MIN_GRADIENT, min(1.0, TOLERANCE * unloaded / seconds)) if unloaded and seconds else 1.0
        other = abs(seconds - unloaded) > ANOTHER * unloaded
        if not unloaded or (other and (self._probing or seconds < unloaded)):
            self._unloaded = seconds
            # A server that has become slower as such may bear any number: find it out as at the start.
            self._doubling |= self._probing and seconds > unloaded
        elif self._probing or gradient == 1.0:
            self._unloaded += (PROBED if self._probing else SEEN) * (seconds - unloaded)
        if self._probing:
            self._probing, self._windows, self._highest = False, 0, self._limit
        elif self.filled:
            self._adjust(gradient)
        self._open(now)
        return self.size

    def _adjust(self, gradient: float) -> None:
        self._doubling &= gradient > CONGESTED
        if self._doubling and gradient == 1.0:
            limit = 2 * self._limit
        else:
            limit = self._limit * gradient + math.sqrt(self._limit) / 2
        self._limit = max(float(self._rule.min_size), min(float(self._rule.max_size), limit))
        self._highest = max(self._highest, self._limit)
        self._windows += 1
        self._probing = self._windows >= PROBE_AFTER or self._limit < SHRUNK * self._highest
