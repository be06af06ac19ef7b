"""Amounts as they are written on a command line: rates, periods, limits of keys, bounds of failures, arguments."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final, final

from aiopool import Limit
from aiopool.cli._words import Refusal

__all__ = ["Halt", "parse_arguments", "parse_halt", "parse_key_limit", "parse_period", "parse_rate"]

UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
PERIODS: Final = {**UNITS, "d": 86400.0, "w": 7 * 86400.0}

# A share of the lines says nothing while there are only a few.
LEAST_FAILURES: Final = 3


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Halt:
    """How many failures are too many.

    Attributes:
        most: as many as that; or the share of the lines that are done, from 0 to 1.
        is_share: which of both.
        soon: finish what is under way; otherwise cancel it.
        text: as it was written.
    """

    most: float
    is_share: bool
    soon: bool
    text: str

    def reached(self, failed: int, done: int) -> bool:
        """Return whether it is time to stop."""
        if self.is_share:
            return failed >= LEAST_FAILURES and failed >= self.most * done
        return failed >= self.most


def parse_halt(text: str) -> Halt:
    """Return `fail=3`, `fail=10%`, or one of them after `soon,` or `now,`."""
    match = re.fullmatch(r"(?:(now|soon),)?fail=(\d+(?:\.\d+)?)(%?)", text)
    if match is not None:
        when, number, percent = match.groups()
        most = float(number)
        if percent and 0 < most <= 100:
            return Halt(most / 100, True, when == "soon", text)
        if not percent and most >= 1 and most.is_integer():
            return Halt(most, False, when == "soon", text)
    raise Refusal(
        f"--halt {text}: write --halt fail=3 or --halt fail=10%; soon,fail=3 finishes what is under way instead of "
        "cancelling it"
    )


def _rate(text: str) -> float | None:
    """Return how many a second `10/s`, `10`, `600/m` or `1/h` are; None if it is no rate."""
    number, _, unit = text.partition("/")
    try:
        rate = float(number) / UNITS[unit.strip()]
    except (ValueError, KeyError):
        return None
    return rate if 0 < rate < math.inf else None


def parse_rate(text: str) -> Limit:
    """Return how many may start in a second, of all."""
    rate = _rate(text)
    if rate is None:
        raise Refusal(f"--rate {text}: write how many may start in a second, a minute or an hour: 10/s, 100/m or 1/h")
    return Limit(max_per_second=rate)


def parse_period(option: str, text: str) -> float:
    """Return how many seconds `3600`, `90s`, `30m`, `12h`, `7d` or `2w` are."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text)
    if match is None or match[2] not in PERIODS:
        raise Refusal(f"{option} {text}: write seconds, minutes, hours, days or weeks: 3600, 30m, 12h, 7d or 2w")
    return float(match[1]) * PERIODS[match[2]]


def parse_key_limit(text: str) -> Limit:
    """Return `2` (at once), `10/s`, or both: `2,10/s`."""
    at_once: int | None = None
    rate: float | None = None
    good = True
    for part in text.split(","):
        if "/" in part:
            good = good and rate is None and (rate := _rate(part)) is not None
        else:
            good = good and at_once is None and part.strip().isdecimal() and (at_once := int(part)) > 0
    if not good:
        raise Refusal(
            f"--key-limit {text}: write how many of one key may run at once (2), how many may start (10/s), or both "
            "(2,10/s)"
        )
    return Limit(max_at_once=at_once, max_per_second=rate)


def parse_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Return `name=text` and `name:=JSON` as keyword arguments."""
    arguments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        as_json = name.endswith(":")
        name = name.removesuffix(":")
        if not equals or not name.isidentifier():
            raise Refusal(f"--arg {text}: write --arg name=text, or --arg name:=3 for a JSON value")
        if name in arguments:
            raise Refusal(f"--arg {text}: {name} is given twice")
        try:
            arguments[name] = json.loads(value) if as_json else value
        except (ValueError, RecursionError):
            raise Refusal(f"--arg {text}: {value!r} is no JSON value; for a text write --arg {name}={value}") from None
    return arguments
