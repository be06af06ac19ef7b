"""`to_json`: what a function returned, as JSON; or, in one line, why JSON has no such value, and what to do instead."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import os
import uuid
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any, Final, final

from aiopool._runtime.faults import describe_error, type_name

__all__ = ["ResultError", "to_json"]


@final
class ResultError(Exception):
    """What a function returned cannot be said in JSON."""


def _is(value: object, kinds: type | tuple[type, ...]) -> bool:
    """Return whether a value is of a class. `isinstance` would ask the value, too, which may raise."""
    return issubclass(type(value), kinds)


def to_json(value: Any) -> str:
    """Return a result as JSON.

    Raises:
        ResultError: JSON has no such value; the text says where, and what to return instead.
    """
    if value is None:
        return "null"
    if type(value) is str:
        return encode_basestring(value)
    try:
        if _is(value, (dict, list, tuple)):
            _check_keys(value, ())
        return _encode(value)
    except ResultError:
        raise
    except RecursionError:
        raise ResultError("the result contains itself, or is nested too deeply: return a flat copy") from None
    except Exception as error:
        text = f"the result cannot be read: {describe_error(error)}"
        with contextlib.suppress(Exception):  # a result that fails when it is looked at is told as above
            text = _problem(value, "the result", 0) or text
        raise ResultError(text) from None


def _plain(value: Any) -> Any:
    """Return what JSON has in place of a value that it does not have, where nothing is lost."""
    if dataclasses.is_dataclass(type(value)):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if _is(value, (datetime.date, datetime.time)):  # a datetime is a date, too
        return value.isoformat()
    if _is(value, os.PathLike):
        return os.fspath(value)
    if _is(value, uuid.UUID):
        return str(value)
    if _is(value, Mapping):
        mapping = dict(value)
        _check_keys(mapping, ())
        return mapping
    raise TypeError(type_name(value))


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain).encode


def _check_keys(value: Any, within: tuple[int, ...]) -> None:
    """Refuse keys that are no text: `json` would make them text, and 1 and "1" the same."""
    if id(value) in within:
        raise RecursionError
    within = (*within, id(value))
    if _is(value, dict):
        for key in value:
            if not _is(key, str):
                raise ResultError(
                    f"the result has a key of type {type_name(key)}, and in JSON a key is text: return "
                    "{str(key): value for …}"
                )
        value = value.values()
    for item in value:
        if _is(item, (dict, list, tuple)):
            _check_keys(item, within)


_INSTEAD: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    ((set, frozenset), "return a list, such as sorted(…)"),
    ((bytes, bytearray, memoryview), "return text, such as ….decode() or base64.b64encode(…).decode()"),
    (complex, "return a list of its two parts"),
)


def _problem(value: Any, where: str, depth: int) -> str | None:
    """Return where in a value is what JSON does not have, and what to return instead; None if it is not found."""
    if value is None or _is(value, (str, bool)) or depth > 50:
        return None
    if _is(value, float):
        return (
            None
            if math.isfinite(value)
            else f"{where} is {value!r}, which JSON does not have: return None or text, or write --raw"
        )
    if _is(value, int):
        with contextlib.suppress(ValueError):
            return str(value) and None
        return f"{where} is a whole number of too many digits: return hex(…)"
    if _is(value, dict):
        found = (_problem(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items())
        return next(filter(None, found), None)
    if _is(value, (list, tuple)):
        found = (_problem(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value))
        return next(filter(None, found), None)
    with contextlib.suppress(TypeError):
        try:
            return _problem(_plain(value), where, depth + 1)
        except ResultError as error:
            return str(error)
    instead = next((words for kind, words in _INSTEAD if _is(value, kind)), None)
    if instead is None and hasattr(type(value), "__next__"):
        instead = "return list(…)"
    instead = instead or "return a dict, a dataclass or text"
    return f"{where} is of type {type_name(value)}, which JSON does not have: {instead}, or write --raw"
