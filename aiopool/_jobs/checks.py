"""What arguments may be: seconds, counts and ids; an error says what to write instead."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

__all__ = [
    "Offload",
    "check_count",
    "check_id",
    "check_metadata",
    "check_moment",
    "check_offload",
    "check_seconds",
    "check_unique",
]

Offload = Literal["thread", "process", "interpreter", "dask"]
"""Where a plain function runs."""


def check_seconds(name: str, value: object) -> float:
    """Return `value` if it is a number of seconds, zero or more (infinity included)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = " (texts with units are for settings)" if isinstance(value, str) else ""
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}: write a number of seconds, such as {name}=2.5{hint}"
        )
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name}={value!r}: a duration is zero or more seconds")
    return value


def check_count(name: str, value: object, *, least: int = 0, most: int | None = None) -> int:
    """Return `value` if it is an int of at least `least`, and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}: it must be an int of at least {least}")
    if value < least:
        raise ValueError(f"{name}={value!r}: it must be at least {least}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most:_}: no machine has room for more jobs at once")
    return value


def check_id(id: object) -> None:
    """Raise if this is no id that a job can have."""
    if not isinstance(id, (str, int)) or isinstance(id, bool):
        raise TypeError(f"id={id!r} is a {type(id).__name__}: an id is a str or an int")


def check_unique(unique: object) -> None:
    """Raise if this is nothing that one live job alone can have."""
    if not isinstance(unique, str) or not unique:
        raise TypeError(f'unique={unique!r} ({type(unique).__name__}): write a text, such as unique="welcome-42"')


def check_metadata(metadata: object) -> dict[str, Any]:
    """Return a copy of a mapping that a job can have as its metadata."""
    if not isinstance(metadata, Mapping):
        raise TypeError(
            f"metadata={metadata!r} is a {type(metadata).__name__}: write a mapping, such as "
            'metadata={"tenant": "acme"}'
        )
    copy = dict(metadata)
    for key in copy:
        if not isinstance(key, str):
            raise TypeError(f"metadata={metadata!r}: the key {key!r} is a {type(key).__name__}: it must be a str")
    return copy


def check_moment(name: str, value: object) -> datetime:
    """Return `value` if it is a moment of the clock on the wall, with a time zone."""
    if not isinstance(value, datetime):
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}: write a datetime with a time zone; or, for seconds from "
            "now, delay=..."
        )
    if value.utcoffset() is None:
        raise ValueError(
            f"{name}={value!r} has no time zone: write {name}=moment.astimezone() if it is local time, or "
            "datetime(..., tzinfo=ZoneInfo(...))"
        )
    return value


def check_offload(offload: object) -> None:
    """Raise if this is no place for a plain function, or this Python has none."""
    if offload not in ("thread", "process", "interpreter", "dask"):
        raise ValueError(f'offload={offload!r}: it must be "thread", "process", "interpreter" or "dask"')
    if offload == "interpreter" and sys.version_info < (3, 13):
        raise ValueError('offload="interpreter" needs Python 3.13 or newer: write offload="process"')
