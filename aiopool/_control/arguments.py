"""`Arguments`: those of a request, read one by one; each has a bound, and an unknown one is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, final

from aiopool._control.problems import Problem

__all__ = ["Arguments"]

# Of a name or a reason. Longer ones than this are no words.
MAX_TEXT = 500


@final
class Arguments:
    """The arguments of one request, as JSON has them; a text stands for a number, too, as in a URL or a shell."""

    __slots__ = ("_given", "_left")

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self._left = dict(given)

    def _take(self, name: str) -> Any:
        value = self._left.pop(name, None)
        return None if value == "" else value

    def text(self, name: str, most: int = MAX_TEXT) -> str | None:
        """Return a text, or None if there is none."""
        value = self._take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise self.refused(name, value, "a text")
        if len(str(value)) > most:
            raise Problem("invalid", f"{name} has {len(str(value))} characters: give {most} at most")
        return str(value)

    def needed(self, name: str) -> str:
        """Return a text that must be there."""
        value = self.text(name)
        if value is None:
            raise Problem("invalid", f"{name} is missing: write {name}=...")
        return value

    def whole(self, name: str, default: int | None = None, *, least: int = 0, most: int) -> int:
        """Return a whole number."""
        value = self._take(name)
        if value is None:
            if default is None:
                raise Problem("invalid", f"{name} is missing: write {name}={least}")
            return default
        try:
            if isinstance(value, (bool, float)):
                raise ValueError
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            raise self.refused(name, value, "a whole number") from None
        if not least <= number <= most:
            raise Problem("invalid", f"{name}={number}: it lies between {least} and {most}")
        return number

    def seconds(self, name: str, *, most: float) -> float | None:
        """Return seconds, or None."""
        value = self._take(name)
        if value is None:
            return None
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise self.refused(name, value, "a number of seconds") from None
        if not (math.isfinite(number) and 0 <= number <= most):
            raise Problem("invalid", f"{name}={number:g}: it lies between 0 and {most:g} seconds")
        return number

    def is_none(self, name: str) -> bool:
        """Whether something is to be taken away: `name=none`. (What is not given stays as it is.)"""
        if self._left.get(name) != "none":
            return False
        self._take(name)
        return True

    def has(self, name: str) -> bool:
        """Whether an argument was given."""
        return self._given.get(name) not in (None, "")

    def flag(self, name: str) -> bool:
        """Return whether something is wanted."""
        value = self._take(name)
        if value is None or value is False or value in ("false", "no", "0"):
            return False
        if value is True or value in ("true", "yes", "1"):
            return True
        raise self.refused(name, value, "true or false")

    def choice(self, name: str, choices: Iterable[str]) -> str | None:
        """Return one of some words, or None."""
        value, words = self._take(name), tuple(choices)
        if value is None:
            return None
        if value not in words:
            raise self.refused(name, value, f"one of {', '.join(words)}")
        return str(value)

    def texts(self, name: str, most: int) -> list[str] | None:
        """Return a list of texts, or None; one text stands for a list of one."""
        value = self._take(name)
        if value is None:
            return None
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(
            isinstance(one, (str, int)) and not isinstance(one, bool) and len(str(one)) <= MAX_TEXT for one in value
        ):
            raise self.refused(name, value, "a list of texts")
        if len(value) > most:
            raise Problem("invalid", f"{name} has {len(value)} entries: give {most} at most")
        return [str(one) for one in value]

    def end(self) -> None:
        """Refuse what nobody has asked for."""
        if self._left:
            known = sorted(set(self._given) - set(self._left))
            raise Problem(
                "invalid",
                f"there is no argument {next(iter(self._left))!r:.100}"
                + (f"; of those given, {', '.join(known)} would do" if known else " here"),
            )

    @staticmethod
    def refused(name: str, value: object, wanted: str) -> Problem:
        """Return the problem of a value that cannot be used."""
        return Problem("invalid", f"{name}={value!r:.100}: it must be {wanted}")
