"""Limits: how many jobs of a name, a group or a key may run at once, and how many may start in a second.

Everything here is a decision, taken from its arguments alone, the time included: nothing waits, and nobody is held
*here*. Who holds the jobs back is `_engine/lanes.py`.

The rate has two rules, and both hold. The *pace*, by the generic cell rate algorithm (GCRA; ITU-T I.371, 1996): starts
are spaced evenly, with up to `burst` of them together after a rest. And the *window*: no more than `max_per_second` in
any second, wherever it begins. The pace alone would let nearly twice as many through in the second after a rest, which
a server that counts answers with 429.

A timer comes late, by a millisecond or so. If a job waited for it, the pace does not lose that time: the next start is
due when it would have been. So the rate that comes out is the one that was asked for, and the window bounds it.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from aiopool._jobs.checks import check_count, check_seconds
from aiopool._jobs.match import Match, check_match, retry_after, verdict
from aiopool._jobs.retry import RetryAfter
from aiopool._runtime.faults import is_kind
from aiopool._runtime.keywords import explain_keywords

__all__ = [
    "NO_LIMITS",
    "Cooldown",
    "Key",
    "LaneKey",
    "Limit",
    "LimitRule",
    "PoolLimits",
    "Rate",
    "check_key",
    "check_limit",
    "is_overload",
    "keys_of",
    "share_key",
]

# The pace catches up on so many seconds by which a start was late.
MAX_LATE = 0.02
# "Too many requests", "service unavailable".
_OVERLOAD = (429, 503)


def is_overload(error: BaseException) -> bool:
    """Return whether an error says that a server has too much to do.

    It does if it is a `RetryAfter`, has a number of seconds as `retry_after`, or has the status 429 or 503: in
    `status`, `status_code`, `code`, or one of these of its `response`, as the errors of the usual clients have.
    """
    if is_kind(error, RetryAfter) or retry_after("Cooldown", error) is not None:
        return True
    told = (error, getattr(error, "response", None))
    return any(getattr(one, name, None) in _OVERLOAD for one in told for name in ("status", "status_code", "code"))


@final
@explain_keywords
@dataclass(frozen=True, slots=True, kw_only=True)
class Cooldown:
    """Hold a limit's jobs for a while after one of them failed because a server has too much to do.

    What runs goes on; no other starts until the hold is over. The error names the seconds, as `RetryAfter(30)` or by a
    `retry_after` of its own; else they are `seconds`, and grow by `factor` with each failure in a row. Failures of jobs
    that ran together count as one. The first job that succeeds ends the row.

    Args:
        on: which errors: a class, a tuple of classes, or a predicate. By default those that say 429, 503 or
            `retry_after`.
        seconds: how long the first hold is, where the error does not say.
        factor: how much the next one is longer; at least 1.
        max_seconds: no hold is longer, where the error does not say.

    Raises:
        TypeError, ValueError: an argument has a value that it cannot have.

    Example:
        Pool(limits={"api.example.org": Limit(max_at_once=4, cooldown=Cooldown(seconds=5))})
    """

    on: Match = is_overload
    seconds: float = 1.0
    factor: float = 2.0
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_match("Cooldown", "on", self.on)
        for name in ("seconds", "factor", "max_seconds"):
            value = check_seconds(name, getattr(self, name))
            if math.isinf(value):
                raise ValueError(f"{name}={value!r}: a hold has an end; to hold jobs by hand, pause their group")
        if self.factor < 1:
            raise ValueError(f"factor={self.factor!r}: it must be at least 1: a hold never shrinks")

    def hold(self, error: BaseException, row: int) -> float | None:
        """Return for how many seconds a failure holds; None: it does not. `row`: failures in a row before it."""
        answer = verdict("Cooldown", "on", self.on, error)
        if not isinstance(answer, bool):
            return answer
        if not answer:
            return None
        # The exponent is cut: 2.0 ** 1024 is too large for a float, and any factor above 1 is at the cap long before.
        return min(self.max_seconds, self.seconds * self.factor ** min(row, 64))


@final
@explain_keywords
@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Say how many jobs may run at once, and how many may start in a second, of those that the limit is for.

    A job that may not run yet is parked: it holds no worker and no slot, and others overtake it. Among the jobs of one
    limit the order is that of the pool: by priority, then by submission; with `max_at_once=1` one begins when the one
    before it has ended.

    Args:
        max_at_once: how many may run at once; None: as many as the pool has slots. It counts code that runs: a job that
            was cancelled, or is in a thread, counts until its code has ended.
        max_per_second: how many may start in a second, attempts counted; None: any number. 0.5 is one every two
            seconds; 100 a minute are `100 / 60`.
        burst: so many may start together after a rest; else they are spaced evenly. In *any* second no more than
            `max_per_second` start (rounded up), and not more than `burst` in `burst / max_per_second` seconds if that
            is longer.
        cooldown: hold all of them when one fails with an overload error; see `Cooldown`.

    Raises:
        TypeError, ValueError: an argument has a value that it cannot have, or all are missing.

    Example:
        Pool(limits={"mail": Limit(max_at_once=2, max_per_second=10)})
    """

    max_at_once: int | None = None
    max_per_second: float | None = None
    burst: int = 1
    cooldown: Cooldown | None = None

    def __post_init__(self) -> None:
        if self.max_at_once is None and self.max_per_second is None and self.cooldown is None:
            raise ValueError("Limit() limits nothing: write Limit(max_at_once=2), or Limit(max_per_second=10)")
        if self.max_at_once is not None:
            check_count("max_at_once", self.max_at_once, least=1)
        check_count("burst", self.burst, least=1)
        rate: object = self.max_per_second
        if rate is None:
            if self.burst != 1:
                raise ValueError(f"burst={self.burst}: it is a part of a rate: write max_per_second=..., too")
        else:
            if isinstance(rate, bool) or not isinstance(rate, (int, float)):
                raise TypeError(f"max_per_second={rate!r} is a {type(rate).__name__}: write a number, such as 10")
            if not 0 < rate < math.inf:
                raise ValueError(
                    f"max_per_second={rate!r}: it must be above 0, and finite; 0.1 is one in ten seconds, and None any "
                    "number"
                )
        if self.cooldown is not None and not isinstance(self.cooldown, Cooldown):
            raise TypeError(f"cooldown={self.cooldown!r} is no Cooldown: write cooldown=Cooldown(seconds=5)")

    @property
    def window(self) -> tuple[int, float]:
        """How many jobs start at most in any window of how many seconds; of one that has a rate."""
        assert self.max_per_second is not None
        most = max(math.ceil(self.max_per_second), self.burst)
        return most, most / self.max_per_second


class Rate:
    """The last starts of jobs under one limit, and when the next ones are allowed."""

    __slots__ = ("_due", "_starts")

    def __init__(self) -> None:
        self._due = -math.inf  # when the next start is due by the pace: GCRA's theoretical arrival time
        self._starts: deque[float] = deque()  # those that are in the window

    def next_at(self, limit: Limit, now: float, ahead: int, *, waited: bool) -> float:
        """Return when another job may start, after `ahead` others; `waited`: somebody has waited since it was due."""
        assert limit.max_per_second is not None
        due = self._since(now, waited) + (ahead + 1 - limit.burst) / limit.max_per_second
        starts, (most, seconds) = self._starts, limit.window
        while starts and starts[0] + seconds <= now:
            starts.popleft()
        at = len(starts) + ahead - most
        if at < 0:
            return due
        # Of those ahead that have not started nobody knows when they will.
        return max(due, starts[at] + seconds) if at < len(starts) else math.inf

    def started(self, limit: Limit, now: float, *, waited: bool) -> None:
        """A job has started."""
        assert limit.max_per_second is not None
        self._due = self._since(now, waited) + 1 / limit.max_per_second
        self._starts.append(now)

    def _since(self, now: float, waited: bool) -> float:
        return max(self._due, now - MAX_LATE if waited else now)

    def rested_at(self, limit: Limit) -> float:
        """Return when the last start counts no more."""
        return self._starts[-1] + limit.window[1] if self._starts else -math.inf


_numbers = itertools.count()


@final
class LimitRule:
    """One limit of a pool, and what it is for: a name, or any number of keys, each of which has a lane of its own.

    The limit may be replaced by another while the pool is open.
    """

    __slots__ = ("limit", "name", "number")

    def __init__(self, name: str, limit: Limit) -> None:
        self.name = name
        self.limit = limit
        self.number = next(_numbers)


@final
@dataclass(frozen=True, slots=True)
class LaneKey:
    """A key of one `Lanes`, for `with_options(key=…)`; made by `lanes[key]`."""

    rule: LimitRule
    key: str

    def __repr__(self) -> str:
        return f"{self.rule.name}[{self.key!r}]"


Key: TypeAlias = str | int | LaneKey | tuple[str | int | LaneKey, ...]
"""What a job has to do with: a tenant, a host; or several, as a tuple. As with ids, `7` and `"7"` are one key."""


@final
class PoolLimits:
    """The limits of one pool, by what they are for: all of its jobs, names, and keys.

    Attributes:
        named: the limits of names: of groups, of functions (or of the option `name`), and of keys.
        each_key: the limit of each key that has none of its own; None: there is none.
        all_jobs: the limit of all jobs together; None: there is none.
        weights: of the keys, which have fair shares; None: they have none.
    """

    __slots__ = ("all_jobs", "each_key", "named", "weights")

    def __init__(
        self,
        all_jobs: Limit | None = None,
        named: Mapping[str, Limit] | None = None,
        each_key: Limit | None = None,
        weights: Mapping[Hashable, float] | None = None,
    ) -> None:
        self.weights = weights
        for name, limit in (("limit", all_jobs), ("key_limit", each_key)):
            if limit is not None:
                check_limit(name, limit)
        self.all_jobs = None if all_jobs is None else LimitRule("pool", all_jobs)
        self.each_key = None if each_key is None else LimitRule("key", each_key)
        self.named: dict[str, LimitRule] = {}
        if named is not None and not isinstance(named, Mapping):
            raise TypeError(f'limits={named!r} is no mapping: write limits={{"mail": Limit(max_at_once=2)}}')
        for name, limit in (named or {}).items():
            if not isinstance(name, str):
                raise TypeError(f"limits has the name {name!r} ({type(name).__name__}): a name is a str")
            check_limit(f"limits[{name!r}]", limit)
            self.named[name] = LimitRule(name, limit)

    def replace(self, name: str, limit: Limit) -> LimitRule:
        """Give a name another limit, and return its rule.

        Raises:
            KeyError: it has none.
        """
        check_limit("limit", limit)
        if name not in self.named:
            known = ", ".join(map(repr, self.named)) or "none"
            raise KeyError(f"the pool has no limit {name!r}, but {known}: name it in Pool(limits={{{name!r}: ...}})")
        rule = self.named[name]
        rule.limit = limit
        return rule

    def of(self, name: str, group: str | None, key: Key | None) -> tuple[tuple[LimitRule, Hashable], ...]:
        """Return the lanes of a job: each is a rule and, where the rule is for many keys, one of them.

        Any two jobs have those that they share in the same order.
        """
        found: dict[tuple[LimitRule, Hashable], None] = {}
        for key_of in keys_of(key):
            if isinstance(key_of, LaneKey):
                found[key_of.rule, key_of.key] = None
            elif str(key_of) in self.named:
                found[self.named[str(key_of)], None] = None
            elif self.each_key is not None:
                found[self.each_key, str(key_of)] = None
        # A function inside of another is called `main.<locals>.fetch`; whoever limits it writes "fetch".
        for one in (name, name.rpartition("<locals>.")[2], group):
            if one is not None and one in self.named:
                found[self.named[one], None] = None
        if self.all_jobs is not None:
            found[self.all_jobs, None] = None
        return tuple(sorted(found, key=_lane_order)) if len(found) > 1 else tuple(found)


NO_LIMITS: Final = PoolLimits()


def keys_of(key: Key | None) -> Iterable[str | int | LaneKey]:
    """Return the keys that a job has."""
    return () if key is None else key if isinstance(key, tuple) else (key,)


def _lane_order(lane: tuple[LimitRule, Hashable]) -> tuple[bool, int, str]:
    """Lanes of keys come first: the others have more jobs, and are taken for the shortest time."""
    rule, key = lane
    return key is None, -rule.number, repr(key)


def share_key(key: Key | None) -> Hashable:
    """Return the key of whose share a job is: of several, the first."""
    first = next(iter(keys_of(key)), None)
    return first if first is None or isinstance(first, LaneKey) else str(first)


def check_key(key: object) -> None:
    """Raise if this is no key that a job can have."""
    for one in key if isinstance(key, tuple) else (key,):
        if not isinstance(one, (str, int, LaneKey)) or isinstance(one, bool):
            raise TypeError(
                f'key={key!r}: a key is a str, an int, or one of pool.lanes(...), as in key=hosts["example.org"]; or a '
                "tuple of these"
            )


def check_limit(name: str, value: object) -> None:
    """Raise if this is no limit."""
    if not isinstance(value, Limit):
        count = value if type(value) is int and value > 0 else 2
        raise TypeError(f"{name}={value!r} is no Limit: write Limit(max_at_once={count}), or Limit(max_per_second=10)")
