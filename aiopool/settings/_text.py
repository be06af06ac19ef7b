"""From text to numbers, durations, exceptions and functions; each function raises ValueError for what is none.

Text is read strictly: whole numbers are decimal digits, never `0x10`, `1e9` or `True`. An empty ValueError means that
the caller, who knows what is allowed, shall say it; one with a text says more than that.

Code is imported only where a text names code to import, as `module:name`.
"""

from __future__ import annotations

import builtins
import difflib
import importlib
import math
import re
from collections.abc import Iterable
from datetime import timedelta
from fractions import Fraction
from typing import Any, Final

__all__ = ["did_you_mean", "duration_of", "exception_of", "imported", "named", "names_code", "number_of", "whole_of"]

_WHOLE: Final = re.compile(r"[+-]?[0-9]+(?:_[0-9]+)*")
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INFINITE: Final = re.compile(r"\+?\.?inf(?:inity)?", re.IGNORECASE)
# The largest unit first, each once: "1h30m", and neither "30m1h" nor "5m5m".
_UNITS: Final[dict[str, int | Fraction]] = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": Fraction(1, 1000)}
_DURATION: Final = re.compile("".join(rf"(?:(?P<{unit}>[0-9]+(?:\.[0-9]+)?) ?{unit} ?)?" for unit in _UNITS))
_REFERENCE: Final = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
# Nobody writes a longer number; parsing one costs time that grows with its square.
_LONGEST: Final = 100


def whole_of(value: object) -> int:
    if isinstance(value, str):
        if len(value) > _LONGEST or not _WHOLE.fullmatch(value):
            raise ValueError
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return value


def number_of(value: object) -> float:
    """Return a number as a float; it may be infinite, but it is a number."""
    if isinstance(value, str):
        if _INFINITE.fullmatch(value):
            return math.inf
        if len(value) > _LONGEST or not _DECIMAL.fullmatch(value):
            raise ValueError
        value = float(value)
        if math.isinf(value):  # 1e999 is a slip; who wants infinity writes it
            raise ValueError
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    try:
        found = float(value)
    except OverflowError:  # an int with 400 digits
        raise ValueError from None
    if math.isnan(found):
        raise ValueError
    return found


def duration_of(value: str) -> float:
    if value[-1:].isalpha() and len(value) <= _LONGEST and (match := _DURATION.fullmatch(value)):
        # Exact until the end: 1.1s + 0.2ms is the float nearest to it.
        return float(sum(Fraction(part) * _UNITS[unit] for unit, part in match.groupdict().items() if part))
    return number_of(value)


def names_code(value: object) -> bool:
    """Return whether a value of a setting with `code` names code to import."""
    if isinstance(value, (list, tuple)):
        return any(map(names_code, value))
    return isinstance(value, str) and ":" in value


def named(value: str) -> object:
    """Return what a text names: a builtin exception, or what `module:name` imports."""
    if ":" in value:
        return imported(value)
    found = getattr(builtins, value, None)
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    known = [name for name, one in vars(builtins).items() if isinstance(one, type) and issubclass(one, BaseException)]
    raise ValueError(
        f'Python has no exception {value!r}{did_you_mean(value, known)}; one of a module is written "module:name"'
    )


def exception_of(value: object) -> type[BaseException]:
    found = named(value) if isinstance(value, str) else value
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise ValueError
    return found


def imported(value: str) -> object:
    if not _REFERENCE.fullmatch(value):
        raise ValueError(f'{value!r} names nothing to import; it must be written "module:name"')
    module, _, name = value.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a module does while it is imported
        text = " ".join(str(error).split())
        raise ValueError(f"{module} cannot be imported: {type(error).__name__}: {text}") from None
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"{module} has no {name!r}{did_you_mean(name, dir(found))}") from None
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the question, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
