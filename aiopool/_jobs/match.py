"""Which errors: a class, a tuple of classes, or a function of the user's that is asked; and what it may answer.

`Retry`, and whatever else asks about errors, name themselves as the `owner`: what goes wrong is told in their words.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from datetime import timedelta
from types import CoroutineType
from typing import TypeAlias

from aiopool._runtime.faults import describe, describe_error, is_kind
from aiopool._runtime.validation import as_float

__all__ = ["Match", "ask", "check_match", "retry_after", "seconds_of", "verdict", "wrong_type"]

Match: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool | float]
"""Which errors: a class, a tuple of classes, or a predicate (`True`, `False`, or the delay in seconds)."""

_ENDS = (KeyboardInterrupt, SystemExit)  # ends the program, from a function of the user's too


def verdict(owner: str, name: str, match: Match, error: BaseException) -> bool | float:
    """Return whether an error is meant: no, yes, or yes with the seconds that the predicate or the error names."""
    if isinstance(match, (type, tuple)):
        meant = is_kind(error, match)
    else:
        answer = ask(owner, name, match, error, error)
        if not isinstance(answer, bool):
            return seconds_of(owner, name, match, answer, error, "True, False or a number of seconds")
        meant = answer
    named = retry_after(owner, error) if meant else None
    return meant if named is None else named


def retry_after(owner: str, error: BaseException) -> float | None:
    """The seconds in the error's own `retry_after`; None when there are none, or none that make sense.

    What stands there comes from a server, through somebody else's library. A value that makes no sense is no
    reason to fail a job that the backoff can serve; a property that raises is a bug, and is told.
    """
    try:
        told = getattr(error, "retry_after", None)
    except BaseException as exc:
        if not any("retry_after" in vars(base) for base in type(error).__mro__):
            return None  # it has none, and cannot say so
        if is_kind(exc, _ENDS):
            raise
        text = f"{owner}: reading retry_after of {describe(error)} raised {describe_error(exc)}"
        raise ValueError(text) from exc
    if isinstance(told, timedelta):
        told = told.total_seconds()
    if isinstance(told, bool) or not isinstance(told, (int, float)):
        return None
    seconds = as_float(told)
    return seconds if 0 <= seconds < math.inf else None


def ask(
    owner: str, name: str, function: Callable[..., object], argument: object, error: BaseException | None
) -> object:
    """Call a function of the user; what it raises comes out as a ValueError that says whose fault it is."""
    try:
        return function(argument)
    except BaseException as exc:
        if is_kind(exc, _ENDS):
            raise
        about = f", asked about {describe(error)}," if error is not None else ""
        text = f"{owner}: the function given as {name}={describe(function)}{about} raised {describe(exc)}"
        raise ValueError(text) from exc


def seconds_of(
    owner: str, name: str, function: object, answer: object, error: BaseException | None, allowed: str
) -> float:
    """Check the number that a function of the user returned."""
    if isinstance(answer, bool) or not isinstance(answer, (int, float)):
        raise wrong_type(owner, name, function, answer, allowed) from error
    seconds = as_float(answer)
    if not 0 <= seconds < math.inf:
        raise ValueError(
            f"{owner}: the function given as {name}={describe(function)} returned {answer!r}; "
            "a delay is a finite number of seconds, 0 or more"
        ) from error
    return seconds


def wrong_type(owner: str, name: str, function: object, answer: object, allowed: str) -> TypeError:
    if type(answer) is CoroutineType:
        answer.close()  # else Python adds a warning about a coroutine that was never awaited
    text = f"{owner}: the function given as {name}={describe(function)} returned {describe(answer)}; expected {allowed}"
    return TypeError(text)


def check_match(owner: str, name: str, match: object) -> None:
    if isinstance(match, tuple):
        fits = all(isinstance(one, type) and issubclass(one, BaseException) for one in match)
    elif isinstance(match, type):
        fits = issubclass(match, BaseException)
    else:
        fits = callable(match) and not inspect.iscoroutinefunction(match)
    if not fits:
        raise TypeError(
            f"{owner}: {name} must be an exception class, a tuple of exception classes or a plain function, "
            f"got {match!r}; write {name}=(ConnectionError, TimeoutError)"
        )
