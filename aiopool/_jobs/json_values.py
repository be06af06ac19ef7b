"""Values as JSON has them: for records that leave the process.

What JSON has stays as it is. A moment becomes its ISO 8601 text. Anything else becomes its `repr`, cut to a length that
nobody minds: a record is there to be read, not to bring the object back.
"""

from __future__ import annotations

import datetime
import math
from typing import Any

from aiopool._runtime.faults import describe, describe_error
from aiopool.errors import RecordedError

__all__ = ["MAX_TEXT", "bounded", "error_text", "json_value"]

# Characters of one text that stands for an object.
MAX_TEXT = 4000
# So deep a value is looked into; what is deeper is shown as its `repr`. A value that contains itself ends there, too.
MAX_DEPTH = 20


def json_value(value: Any, depth: int = 0) -> Any:
    """Return what `json.dumps` takes in place of a value: itself, if it is one of JSON's own."""
    kind: type[Any] = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if kind is datetime.datetime:
        moment: datetime.datetime = value
        return moment.isoformat()
    if depth < MAX_DEPTH:
        if kind in (list, tuple):
            return [json_value(item, depth + 1) for item in value]
        if kind is dict and all(type(key) is str for key in value):
            return {key: json_value(item, depth + 1) for key, item in value.items()}
    return bounded(describe(value))


def error_text(error: BaseException) -> str:
    """Return an exception as its type and its text; what stands for one says it by itself."""
    return str(error) if type(error) is RecordedError else bounded(describe_error(error))


def bounded(text: str) -> str:
    """Return a text, cut if it is long."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
