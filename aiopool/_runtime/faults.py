"""Exceptions of the user's, handled with care: to describe one, to ask for its kind, to log it.

An exception is an object of somebody else's class, and so is a result, a function or an argument. Each of its methods
may raise, and so may every lookup of an attribute. So nothing here, nor in any other file, calls a method of an
exception, assigns to an attribute of it, or asks `isinstance`, which reads `__class__`: what `BaseException` itself
knows is asked for by the slots of `BaseException`, and what an object says is asked for under a guard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

__all__ = [
    "class_name",
    "describe",
    "describe_error",
    "describe_fields",
    "drop_frame",
    "is_kind",
    "log_fault",
    "members",
    "set_context",
    "set_traceback",
    "traceback_of",
    "type_name",
]

class_name: Callable[[type], str] = type.__dict__["__name__"].__get__  # a metaclass may have an idea of its own, too
"""Return the name of a class."""

traceback_of: Callable[[BaseException], TracebackType | None] = BaseException.__dict__["__traceback__"].__get__
"""Return the traceback of an exception."""

set_traceback: Callable[[BaseException, TracebackType | None], BaseException] = BaseException.with_traceback
"""Give an exception another traceback, and return the exception."""

set_context: Callable[[BaseException, BaseException], None] = BaseException.__dict__["__context__"].__set__
"""Note during the handling of which exception another one was raised."""


members: Callable[[BaseException], tuple[BaseException, ...]] = BaseExceptionGroup.__dict__["exceptions"].__get__
"""Return the exceptions of a group."""


def is_kind(error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """Return whether an exception is of a class, as `except` decides it: by its type alone."""
    return issubclass(type(error), kinds)


def drop_frame(error: BaseException) -> BaseException:
    """Take the outermost frame off a traceback, which is the caller's own, and return the exception.

    A frame that still runs must be in no traceback that users get: `traceback.clear_frames` would close its generator.
    And an exception that is kept would keep whatever the frame refers to.
    """
    trace = traceback_of(error)
    return error if trace is None else set_traceback(error, trace.tb_next)


def type_name(thing: object) -> str:
    """Return the name of an object's class."""
    return class_name(type(thing))


def describe(thing: object) -> str:
    """Return the `repr` of any object; if that raises, the name of its type."""
    try:
        return _plain(repr(thing))
    except BaseException:
        return f"<{type_name(thing)} object, whose repr() fails>"


def describe_error(error: BaseException) -> str:
    """Return the type and the text of any exception; only the type if it has no text, or `str()` fails."""
    try:
        text = _plain(str(error))
    except BaseException:
        text = "<its str() fails>"
    return f"{type_name(error)}: {text}" if text else type_name(error)


def describe_fields(self: Any) -> str:
    """Return what the `__repr__` of a dataclass returns, whatever its fields hold: to be its `__repr__`."""
    fields = (f"{field.name}={describe(getattr(self, field.name))}" for field in dataclasses.fields(self))
    return f"{type(self).__qualname__}({', '.join(fields)})"


def _plain(text: str) -> str:
    """Return a text as an exact `str`: a subclass may have methods that raise later."""
    return text if type(text) is str else "".join([text])


def log_fault(
    logger: logging.Logger,
    text: str,
    *args: object,
    error: BaseException | None = None,
    fields: Mapping[str, Any] | None = None,
    level: int = logging.ERROR,
) -> None:
    """Log, with the traceback of `error`; never raise, whatever the objects and the handlers do.

    Each of `args` that is no text and no number is described here: a handler would lose the whole line to a `__repr__`
    that raises. If a handler raises, the fault and the handler's own go to stderr.
    """
    words = [arg if type(arg) in (str, int, float) else describe(arg) for arg in args]
    # A tuple, not the error: `logging` asks whether it is true, and an exception may have its own idea of that.
    trace = None if error is None else (type(error), error, traceback_of(error))
    if error is not None and _print(error) is None:
        text, trace = f"{text}\n%s", None
        words.append(_frames(error))
    try:
        logger.log(level, text, *words, exc_info=trace, extra=fields)
    except BaseException as broken:
        # Each by itself: what cannot be printed must not hide the others.
        _to_stderr(text % tuple(words))
        for fault in (error, broken):
            if fault is not None:
                _to_stderr(_print(fault) or _frames(fault))


def _print(error: BaseException) -> str | None:
    """Return an exception as a traceback prints it; None if it cannot be printed."""
    try:
        return "".join(traceback.format_exception(type(error), error, traceback_of(error)))
    except BaseException:
        return None


def _frames(error: BaseException) -> str:
    """Return the frames and the type of an exception that cannot be printed."""
    try:
        frames = "".join(traceback.format_tb(traceback_of(error)))
    except BaseException:
        frames = ""
    return f"{frames}{describe_error(error)}"


def _to_stderr(text: str) -> None:
    with contextlib.suppress(BaseException):
        print(text, file=sys.stderr)
