"""Kinds: what a setting may be, how it is read from text, and how it is written as text again.

A setting reaches us as a value of the program (`timeout=30`), as a value of a file (`timeout = 30`) or as text
(`AIOPOOL_TIMEOUT=30s`). Each kind reads all of them by the same rules, so that a value means the same wherever it
stands, and says in one phrase what is allowed. Text is read strictly: whole numbers are decimal digits, never `0x10`,
`1e9` or `True`.

This module knows neither where a value came from nor which settings there are. It imports code only where a value
names code to import (`myapp.errors:Transient`); whether that is allowed from the place where it stood is decided by the
caller (`names_code`).

Invariant: what `plain` writes, the kind reads back as an equal value.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, final

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema

from aiopool._jobs.options import Priority
from aiopool._jobs.restart import Restart
from aiopool._jobs.retry import Retry
from aiopool._jobs.retry_budget import RetryBudget
from aiopool._observe.health import HealthLimits
from aiopool.settings._text import duration_of, exception_of, imported, named, number_of, whole_of

__all__ = [
    "Kind",
    "Nested",
    "choice",
    "count",
    "flag",
    "function",
    "plain",
    "priority",
    "restart",
    "retry",
    "seconds",
    "text",
]

NONE: Final = ("none", "null")
# Control characters, halves of characters, and separators of lines and paragraphs.
_UNFIT: Final = ("Cc", "Cs", "Zl", "Zp")
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")


@final
class Kind:
    """How one setting is read; stands in the `Annotated[...]` of a field.

    Args:
        allowed: what is allowed, as the end of the sentence "it must be …".
        read: returns the value, or raises ValueError; with a text, where that says more than `allowed`.
        none: the setting may be none.
        code: its text may name code to import.
    """

    __slots__ = ("allowed", "code", "none", "read")

    def __init__(
        self, allowed: str, read: Callable[[object], object], *, none: bool = False, code: bool = False
    ) -> None:
        self.allowed = f"{allowed}, or none" if none else allowed
        self.read = read
        self.none = none
        self.code = code

    def __call__(self, value: object) -> object:
        """Return the value as the pool takes it; ValueError says what is allowed."""
        if isinstance(value, str):
            value = value.strip()
            if not value:
                raise ValueError(f"it is empty; it must be {self.allowed}")
            if self.none and value.lower() in NONE:
                return None
        if self.none and value is None:
            return None
        try:
            return self.read(value)
        except ValueError as error:
            raise ValueError(str(error) or f"it must be {self.allowed}") from None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self)


def count(*, least: int | None = 0, most: int | None = None, none: bool = False) -> Kind:
    """Return the kind of whole numbers."""

    def read(value: object) -> int:
        number = whole_of(value)
        if least is not None and number < least:
            raise ValueError
        if most is not None and number > most:
            raise ValueError(f"it must be at most {most}")
        return number

    return Kind("a whole number" if least is None else f"a whole number, {least} or more", read, none=none)


def seconds(*, none: bool = False, above_zero: bool = False, finite: bool = False) -> Kind:
    """Return the kind of durations: a number of seconds, or text with units."""

    def read(value: object) -> float:
        number = duration_of(value) if isinstance(value, str) else number_of(value)
        if number < 0 or (above_zero and number == 0) or (finite and number == math.inf):
            raise ValueError
        return number

    least = "above 0" if above_zero else "0 or more"
    return Kind(f'a duration: a number of seconds, {least}, or text such as "30s", "5m", "1h30m"', read, none=none)


def number(*, least: float = 0, most: float = math.inf) -> Kind:
    """Return the kind of finite numbers that are no durations."""

    def read(value: object) -> float:
        found = number_of(value)
        if not least <= found <= most or found == math.inf:
            raise ValueError
        return found

    return Kind(f"a number, {least:g} or more" if most == math.inf else f"a number from {least:g} to {most:g}", read)


def choice(*names: str) -> Kind:
    """Return the kind of a word out of a few."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value.lower() not in names:
            raise ValueError
        return value.lower()

    return Kind(f"one of {', '.join(names)}", read)


def flag(*words: str) -> Kind:
    """Return the kind of true and false; and of some words beside them."""

    def read(value: object) -> bool | str:
        if isinstance(value, str) and value.lower() in words:
            return value.lower()
        if isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
            return value.lower() in _TRUE
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Kind(", ".join(("true or false (yes, no, on, off, 1, 0)", *words)), read)


def text() -> Kind:
    """Return the kind of names for humans; they appear in logs, in one line."""

    def read(value: object) -> str:
        if not isinstance(value, str) or any(unicodedata.category(sign) in _UNFIT for sign in value):
            raise ValueError
        return value

    return Kind("text without control characters", read)


def priority() -> Kind:
    """Return the kind of priorities: a whole number, or a name of one."""
    names = {member.name.lower(): member for member in Priority}

    def read(value: object) -> int:
        if isinstance(value, str) and value.lower() in names:
            return names[value.lower()]
        return value if isinstance(value, Priority) else whole_of(value)

    return Kind(f"a whole number, lower first, or one of {', '.join(names)}", read)


def function() -> Kind:
    """Return the kind of functions: the object itself, or where to import it from."""

    def read(value: object) -> object:
        found = imported(value) if isinstance(value, str) else value
        if not callable(found):
            raise ValueError
        return found

    return Kind('a function, as "module:name"', read, none=True, code=True)


def _match(*, none: bool) -> Kind:
    """Return the kind of `Retry(on=, give_up_on=)`."""

    def read(value: object) -> object:
        if isinstance(value, str) and "," in value:
            value = value.split(",")
        if isinstance(value, (list, tuple)):
            return tuple(exception_of(one.strip() if isinstance(one, str) else one) for one in value)
        found = named(value) if isinstance(value, str) else value
        if isinstance(found, type):
            return exception_of(found)
        if not callable(found):
            raise ValueError
        return found

    def read_or_none(value: object) -> object:
        return () if value is None or (isinstance(value, str) and value.lower() in NONE) else read(value)

    allowed = 'exceptions, such as "ConnectionError, TimeoutError" or "module:name", or a function, as "module:name"'
    return Kind(f"{allowed}, or none" if none else allowed, read_or_none if none else read, code=True)


def _backoff() -> Kind:
    names = ("exponential", "linear", "fixed", "random", "decorrelated")

    def read(value: object) -> object:
        if isinstance(value, str):
            if value.lower() in names:
                return value.lower()
            if ":" not in value:
                raise ValueError
            value = imported(value)
        if not callable(value) or isinstance(value, type):
            raise ValueError
        return value

    return Kind(f'one of {", ".join(names)}, or a function, as "module:name"', read, code=True)


# -- values that have fields of their own ----------------------------------------------------------------------------


@final
class Nested:
    """How a setting with fields of its own is read: from the object, a mapping, or none.

    Fields that a mapping leaves out have the defaults of the class. An empty mapping says nothing: it is none.

    Args:
        made: the class of the object; called with the fields that were given.
        fields: how each of its arguments is read.
        otherwise: what none means.
    """

    __slots__ = ("allowed", "fields", "made", "model")

    def __init__(self, made: type[Any], fields: Mapping[str, Kind | Nested], *, otherwise: str) -> None:
        self.made = made
        self.fields = fields
        self.allowed = f"a mapping with some of {', '.join(fields)}; or none: {otherwise}"
        kinds: dict[str, Any] = {name: (_annotated(kind), None) for name, kind in fields.items()}
        self.model: type[BaseModel] = create_model(made.__name__, __config__=ConfigDict(extra="forbid"), **kinds)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._read, handler.generate_schema(self.model))

    def _read(self, value: object, validate: Callable[[object], BaseModel]) -> object:
        if value is None or isinstance(value, self.made):
            return value
        if isinstance(value, str) and value.strip().lower() in ("", *NONE):
            return None
        if not isinstance(value, Mapping):
            raise ValueError(f"it must be {self.allowed}")
        if not value:
            return None
        given = validate(dict(value))
        try:
            return self.made(**{name: getattr(given, name) for name in given.model_fields_set})
        except (TypeError, ValueError) as error:  # fields that do not go together
            raise ValueError(str(error)) from None


def _annotated(kind: Kind | Nested) -> Any:
    return Annotated[Any, kind]


def retry() -> Nested:
    """Return how `Retry` is read."""
    budget = Nested(
        RetryBudget,
        {"ratio": number(), "min_per_second": number(), "within": seconds(above_zero=True, finite=True)},
        otherwise="no budget",
    )
    fields: dict[str, Kind | Nested] = {
        "attempts": count(least=1),
        "on": _match(none=False),
        "give_up_on": _match(none=True),
        "backoff": _backoff(),
        "delay": seconds(finite=True),
        "factor": number(least=1),
        "max_delay": seconds(finite=True),
        "jitter": number(most=1),
        "max_elapsed": seconds(none=True, finite=True),
        "budget": budget,
    }
    return Nested(Retry, fields, otherwise="no retry")


def restart() -> Nested:
    """Return how `Restart` is read."""
    fields: dict[str, Kind | Nested] = {
        "max_restarts": count(),
        "within": seconds(above_zero=True, finite=True),
        "delay": seconds(finite=True),
        "max_delay": seconds(finite=True),
    }
    return Nested(Restart, fields, otherwise="Restart()")


def health() -> Nested:
    """Return how `HealthLimits` is read."""
    fields: dict[str, Kind | Nested] = {
        "window": seconds(above_zero=True),
        "max_wait": seconds(none=True),
        "stuck_after": seconds(none=True),
        "max_error_ratio": number(most=1),
        "failing_error_ratio": number(most=1),
        "min_jobs": count(),
        "max_restarts": count(none=True),
        "max_loop_lag": seconds(none=True),
        "failing_loop_lag": seconds(none=True),
    }
    return Nested(HealthLimits, fields, otherwise="HealthLimits()")


# -- writing ---------------------------------------------------------------------------------------------------------


def plain(value: object, kind: Kind | Nested) -> Any:
    """Return a value as JSON, YAML and TOML have it: None, bool, int, float, str, list, dict.

    Raises:
        ValueError: it is an object of the program that cannot be found again by a name.
    """
    if isinstance(kind, Nested):
        if value is None:
            return None
        return {name: plain(getattr(value, name), inner) for name, inner in kind.fields.items()}
    if isinstance(value, Priority):
        return value.name.lower()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            return "inf"
        return int(value) if value.is_integer() and abs(value) < 1e15 else value
    if isinstance(value, tuple):
        return [_reference(one) for one in value]
    return _reference(value)


def _reference(value: object) -> str:
    """Return the text that `named` reads as this very object."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str):
        written = name if module == "builtins" and isinstance(value, type) else f"{module}:{name}"
        try:
            if module != "__main__" and named(written) is value:
                return written
        except ValueError:
            pass
    raise ValueError("it cannot be found by a name in a module; give it in code")
