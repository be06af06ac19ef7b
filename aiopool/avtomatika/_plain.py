"""From what a handler returns to what JSON can say, and the orchestrator can read.

Dates, UUIDs, decimals, enums, dataclasses, tuples and sets are turned into their usual text or list. All else that JSON
cannot say is an error that names the place. So are a number beyond 64 bits, NaN, half a surrogate pair and a nesting of
more than 24: the orchestrator answers those with an error each time, and the result would be sent for ever.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["NotPlainError", "plain"]

# The orchestrator stops at 30, and the result stands inside of a message.
_DEPTH: Final = 24
_LEAST, _MOST = -(2**63), 2**64 - 1


class NotPlainError(TypeError):
    """A value cannot go into a result."""


def plain(value: Any, where: str = "data") -> Any:
    """Return a value as plain JSON data.

    Raises:
        NotPlainError: a part of it cannot be said in JSON: which, and where.
    """
    return _plain(value, where, _DEPTH)


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth < 0:
        raise NotPlainError(f"{where[:60]}…: it is nested more than {_DEPTH} levels deep: send a flatter one")
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int):
        return _number(int(value), value, where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotPlainError(f"{where} is {value!r}, which JSON cannot say: send None")
        return _number(float(value), value, where) if value.is_integer() else float(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (uuid.UUID, decimal.Decimal)):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(inner, f"{where}.{key}", depth - 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner, f"{where}[{n}]", depth - 1) for n, inner in enumerate(value)]
    raise NotPlainError(f"{where} is {_shown(value)}, which JSON cannot say: send text, numbers, lists or dicts")


def _number(number: Any, value: Any, where: str) -> Any:
    if not _LEAST <= number <= _MOST:
        raise NotPlainError(f"{where} is {_shown(value)}, beyond 64 bits: send it as text")
    return number


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NotPlainError(f"{where} is {_shown(value)}, which has half a surrogate pair: it is no UTF-8") from None
    return str(value)


def _key(key: Any, where: str) -> str:
    if isinstance(key, str) and not isinstance(key, enum.Enum):
        return _text(key, f"a key of {where}")
    if isinstance(key, (enum.Enum, int, uuid.UUID, datetime.date)):
        return str(_plain(key, where, 0))
    raise NotPlainError(f"{where} has the key {_shown(key)}: keys are texts in JSON")


def _shown(value: object) -> str:
    text = ascii(value) if isinstance(value, str) else repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '…'} ({type(value).__name__})"
