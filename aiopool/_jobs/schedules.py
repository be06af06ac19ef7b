"""Schedules: at which moments something happens again and again. Decisions only: nothing waits here.

Two clocks. An *interval* counts on the event loop's clock, from the moment at which it begins, so that it does not
drift: the n-th moment is `n` intervals after that, however late the ones before it were. A *cron* text names moments of
the clock on the wall, in a time zone; the library `cronsim` knows when they are, summer time included.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any, Protocol, final

__all__ = ["Cron", "Interval", "Schedule", "SharedInterval", "last_before", "schedule_of"]


class Schedule(Protocol):
    """Moments, on the loop's clock."""

    def next_after(self, now: float, wall: Callable[[float], datetime.datetime]) -> float:
        """Return the first moment after `now`; `wall` tells the time on the wall of a moment."""
        ...

    def count_between(self, after: float, now: float, wall: Callable[[float], datetime.datetime]) -> int:
        """Return how many moments there are after one and up to another."""
        ...


@final
class Interval:
    """Each `seconds`, from `begin` on."""

    __slots__ = ("begin", "seconds")

    def __init__(self, seconds: float, begin: float) -> None:
        self.seconds = seconds
        self.begin = begin

    def next_after(self, now: float, wall: Callable[[float], datetime.datetime]) -> float:
        number = math.floor((now - self.begin) / self.seconds) + 1
        moment = self.begin + number * self.seconds
        # By a rounding it may be `now` itself.
        return moment if moment > now else self.begin + (number + 1) * self.seconds

    def count_between(self, after: float, now: float, wall: Callable[[float], datetime.datetime]) -> int:
        return max(0, round((self.next_after(now, wall) - self.next_after(after, wall)) / self.seconds))

    def __str__(self) -> str:
        return f"every {self.seconds:g} s"


@final
class SharedInterval:
    """Each `seconds` by the clock on the wall, counted from 1970: at the same moments in every process."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def next_after(self, now: float, wall: Callable[[float], datetime.datetime]) -> float:
        here = wall(now).timestamp()
        moment = (math.floor(here / self.seconds) + 1) * self.seconds
        return now + max(moment - here, 0.0)

    def count_between(self, after: float, now: float, wall: Callable[[float], datetime.datetime]) -> int:
        return max(0, round((now - after) // self.seconds))

    def __str__(self) -> str:
        return f"every {self.seconds:g} s"


@final
class Cron:
    """The moments of a cron text in a time zone."""

    __slots__ = ("_parse", "text", "zone")

    def __init__(self, text: str, zone: datetime.tzinfo) -> None:
        self._parse = _cronsim()
        self.text = text
        self.zone = zone
        self._after(datetime.datetime.now(zone))  # what is wrong with it is said here

    def _after(self, moment: datetime.datetime) -> Any:
        try:
            return self._parse(self.text, moment)
        except Exception as error:
            raise ValueError(
                f"{self.text!r} is no cron text ({error}): write five fields, minute hour day month weekday, such as "
                '"30 3 * * *" for 3:30 each night'
            ) from None

    def next_after(self, now: float, wall: Callable[[float], datetime.datetime]) -> float:
        here = wall(now)
        found = next(self._after(here.astimezone(self.zone)), None)
        return math.inf if found is None else now + (found - here).total_seconds()

    def count_between(self, after: float, now: float, wall: Callable[[float], datetime.datetime]) -> int:
        count, end = 0, wall(now)
        for moment in self._after(wall(after).astimezone(self.zone)):
            if moment > end or count == MOST_COUNTED:
                break
            count += 1
        return count

    def __str__(self) -> str:
        return f"cron {self.text!r}"


def last_before(schedule: Schedule, now: float, wall: Callable[[float], datetime.datetime]) -> float:
    """Return the last moment that is not after `now`; if there was none in a year, `now`."""
    span = 60.0
    while span < LOOKED_BACK:
        moment = schedule.next_after(now - span, wall)
        if moment <= now:
            while (later := schedule.next_after(moment, wall)) <= now and later > moment:
                moment = later
            return moment
        span *= 4
    return now


LOOKED_BACK = 366 * 86400.0
# A machine that slept for a year has missed many minutes: nobody needs to know how many.
MOST_COUNTED = 1000


def _cronsim() -> Callable[[str, datetime.datetime], Any]:
    try:
        from cronsim import CronSim
    except ImportError:
        raise RuntimeError(
            "a cron text is read by cronsim, which is not installed: install aiopool with the extra `cron`, as in "
            'pip install -e ".[cron]". A number of seconds needs nothing'
        ) from None
    return CronSim


def schedule_of(when: object, begin: float, zone: datetime.tzinfo | None, *, shared: bool = False) -> Schedule:
    """Return the schedule that `when` says: seconds, a timedelta, or a cron text; `shared` by several processes."""
    if isinstance(when, str):
        return Cron(when, zone or datetime.UTC)
    if zone is not None:
        raise TypeError(f"tz={zone!r} is for a cron text; an interval has no time zone")
    if isinstance(when, datetime.timedelta):
        when = when.total_seconds()
    if isinstance(when, bool) or not isinstance(when, (int, float)):
        raise TypeError(f'every({when!r}): write a number of seconds, a timedelta, or a cron text such as "30 3 * * *"')
    if not 0 < when < math.inf:
        raise ValueError(f"every({when!r}): an interval is above 0 seconds, and finite")
    return SharedInterval(when) if shared else Interval(when, begin)
