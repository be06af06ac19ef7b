"""`LineFields`: where a line says its priority, and its key."""

from __future__ import annotations

import dataclasses
from typing import Any, final
from urllib.parse import urlsplit

from aiopool import Priority

__all__ = ["FieldError", "LineFields"]


class FieldError(ValueError):
    """A line does not say what it must."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class LineFields:
    """The names of two fields of JSON objects; None: lines do not have it.

    Attributes:
        priority: lower goes first; a line without the field has the usual one.
        key: what a limit goes by; each line must have it. In a line that is no JSON: the number of a column, from 1, or
            `host`, of a URL.
    """

    priority: str | None = None
    key: str | None = None

    @property
    def any(self) -> bool:
        """Whether lines have to be asked."""
        return self.priority is not None or self.key is not None

    def of_value(self, value: Any) -> tuple[int, str | int | None]:
        """Return the priority and the key of a JSON object.

        Raises:
            FieldError: it does not have them.
        """
        priority, key = int(Priority.NORMAL), None
        if self.priority is not None:
            priority = _object(value, self.priority).get(self.priority, priority)
            if type(priority) is not int:
                raise FieldError(f"its priority, the field {self.priority!r}, is {priority!r}, not a whole number")
        if self.key is not None:
            key = _object(value, self.key).get(self.key)
            if type(key) not in (str, int):
                raise FieldError(f"its key, the field {self.key!r}, is {key!r}, not a text or a whole number")
        return priority, key

    def of_text(self, text: str) -> str:
        """Return the key of a line that is no JSON.

        Raises:
            FieldError: it has none.
        """
        assert self.key is not None
        if self.key == "host":
            try:
                host = urlsplit(text.strip()).hostname
            except ValueError:
                host = None
            if not host:
                raise FieldError(f"this is no URL with a host: {text!r}")
            return host
        columns = text.split()
        if len(columns) < int(self.key):
            raise FieldError(f"it has no column {self.key}, which holds its key: {text!r}")
        return columns[int(self.key) - 1]


def _object(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FieldError(f"this is no JSON object, so it has no field {field!r}")
    return value
