"""Arguments and results as JSON, by the annotations of a function; and errors as records.

What comes out of a store is not trusted: values are validated by the annotations, and no class is ever looked up by a
name that stands in a row. An exception comes back as itself if it is one of Python's own and has plain arguments, else
as a `RecordedError`, which has its name and its text.

pydantic does the work, so whatever it knows goes through: dataclasses, models, datetimes, UUIDs, enums, sets, bytes.
Without an annotation a value comes back as JSON has it: a tuple as a list, a UUID as a text.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import json
import traceback
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import PydanticSerializationError, ValidationError

from aiopool._jobs.job import Job
from aiopool._jobs.json_values import MAX_TEXT, bounded, json_value
from aiopool._runtime.faults import describe, type_name
from aiopool.errors import JobCancelledError, JobDeadError, JobTimeoutError, PayloadError, RecordedError

__all__ = ["Signature", "decode_error", "encode_error", "json_text"]

_CONFIG: Final = ConfigDict(
    ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings", arbitrary_types_allowed=False
)
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
# Of a traceback so many innermost calls are kept.
_FRAMES: Final = 20


@final
class Signature:
    """How the arguments and the result of one function are written, and read again."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        """`name`: under which the function is registered.

        Raises:
            TypeError: an annotation cannot be written as JSON.
        """
        self._name = name
        parameters = inspect.signature(function).parameters
        hints = _hints(function)
        self._order = [p.name for p in parameters.values() if p.kind in _POSITIONAL]
        self._many = next((p.name for p in parameters.values() if p.kind is p.VAR_POSITIONAL), None)
        self._others = next((p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD), None)
        fields: dict[str, Any] = {}
        for parameter in parameters.values():
            kind: Any = hints.get(parameter.name, Any)
            if parameter.kind is parameter.VAR_POSITIONAL:
                kind = list.__class_getitem__(kind)
            elif parameter.kind is parameter.VAR_KEYWORD:
                kind = dict.__class_getitem__((str, kind))
            needed = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            )
            fields[parameter.name] = _extensions().Required[kind] if needed else _extensions().NotRequired[kind]
        arguments: Any = _extensions().TypedDict("Arguments", fields)  # type: ignore[operator,unused-ignore]
        arguments.__pydantic_config__ = ConfigDict(**{**_CONFIG, "extra": "forbid"})
        # In a tuple: only so the settings for bytes hold for whatever is inside.
        self._arguments = self._adapter(tuple[arguments])  # type: ignore[valid-type,unused-ignore]
        self._result = self._adapter(tuple[hints.get("return", Any)])  # type: ignore[misc]

    def schema(self) -> dict[str, Any]:
        """Return a JSON schema of the arguments, as an object."""
        whole = self._arguments.json_schema()
        found: dict[str, Any] = whole["prefixItems"][0]
        return found | ({"$defs": whole["$defs"]} if "$defs" in whole else {})

    def _adapter(self, kind: Any) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(kind, config=_CONFIG)
        except Exception as error:  # pydantic has many, and so have the classes that it looks into
            raise TypeError(
                f"the jobs of {self._name!r} cannot be kept in a store: {_first_line(error)}. Annotate arguments and "
                "result with what JSON can hold: texts, numbers, lists, dicts, dataclasses, pydantic models, datetimes"
            ) from error

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], most: int) -> str:
        """Return the arguments of a call as JSON; the call has been checked against the signature.

        Raises:
            PayloadError: they cannot be written, or are more than `most` bytes.
        """
        values = dict(zip(self._order, args, strict=False))
        if len(args) > len(self._order):
            assert self._many is not None
            values[self._many] = list(args[len(self._order) :])
        if kwargs:
            if self._others is None:
                values.update(kwargs)
            else:
                more = {name: value for name, value in kwargs.items() if name not in self._order}
                values.update({name: value for name, value in kwargs.items() if name in self._order})
                if more:
                    values[self._others] = more
        return self._write(self._arguments, values, most, "arguments")

    def encode_result(self, value: Any, most: int) -> str:
        """Return a result as JSON.

        Raises:
            PayloadError: it cannot be written, or is more than `most` bytes.
        """
        return self._write(self._result, value, most, "result")

    def _write(self, adapter: TypeAdapter[Any], value: Any, most: int, what: str) -> str:
        try:
            data = adapter.serializer.to_json((value,), warnings="error")
        except (PydanticSerializationError, UnicodeError, RecursionError, ValueError) as error:
            try:  # 1 for a float, a text for a UUID: what it means may be clear all the same
                data = adapter.serializer.to_json(adapter.validate_python((value,)), warnings="error")
            except Exception:
                raise PayloadError(
                    f"the {what} of {self._name!r} cannot be written as JSON: {_first_line(error)}. Pass plain values: "
                    f"texts, numbers, lists, dicts, or what the function is annotated with"
                ) from error
        if len(data) - 2 > most:
            raise PayloadError(
                f"the {what} of {self._name!r} are {len(data) - 2:,} bytes, and the store takes {most:,}: keep what is "
                "big in a file or an object store, and pass its name"
            )
        return data[1:-1].decode()

    def decode(self, payload: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call, for `function(*args, **kwargs)`.

        Raises:
            PayloadError: they are not those of this function.
        """
        values = self._read(self._arguments, payload, "arguments")
        args: list[Any] = []
        for name in self._order:
            if name not in values:
                break
            args.append(values.pop(name))
        if self._many is not None and self._many in values:
            args += values.pop(self._many)
        if self._others is not None:
            values.update(values.pop(self._others, {}))
        return tuple(args), values

    def decode_result(self, text: str | None) -> Any:
        """Return a result.

        Raises:
            PayloadError: it is not what the function is annotated with: it was another version of it.
        """
        return None if text is None else self._read(self._result, text, "result")

    def _read(self, adapter: TypeAdapter[Any], text: str, what: str) -> Any:
        try:
            return adapter.validator.validate_json(f"[{text}]")[0]
        except (ValidationError, ValueError, TypeError, RecursionError) as error:
            raise PayloadError(
                f"the {what} in the store are not those of {self._name!r} as it is here: {_first_line(error)}. They "
                "were written by another version: give a changed function a new name"
            ) from error


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function, with names resolved; without those that cannot be."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:
        return {}


def _extensions() -> Any:
    import typing_extensions  # pydantic brings it; below Python 3.12 it takes no other TypedDict

    return typing_extensions


def _first_line(error: BaseException) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines()[:3])
    return bounded(text) or type_name(error)


def json_text(value: Any, what: str) -> str | None:
    """Return metadata, or the like, as JSON.

    Raises:
        PayloadError: it cannot be written.
    """
    if not value:
        return None
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(
            f"{what}={describe(value)} cannot be kept in a store ({error}): write texts, numbers, lists and dicts"
        ) from error


# -- errors ------------------------------------------------------------------------------------------------------------


def encode_error(error: BaseException) -> str:
    """Return a record of an exception, as JSON."""
    record: dict[str, Any] = {"type": type_name(error), "message": bounded(_text(error))}
    if isinstance(error, JobTimeoutError):
        record |= {"limit": error.limit, "seconds": error.seconds}
    elif type(error) in _OWN and all(type(value) in (str, int, float, bool, type(None)) for value in error.args):
        record["args"] = [json_value(value) for value in error.args]
    calls = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    lines = "".join(traceback.format_list(calls))
    if lines:
        record["traceback"] = lines[-MAX_TEXT:]
    return json.dumps(record, separators=(",", ":"))


# Exceptions of Python's own, by their names: these come back as themselves.
_OWN: Final = frozenset(
    kind
    for kind in vars(builtins).values()
    if isinstance(kind, type)
    and issubclass(kind, Exception)
    and not issubclass(kind, (StopIteration, StopAsyncIteration, UnicodeError, BaseExceptionGroup, ImportError))
)
_OURS: Final = {kind.__name__: kind for kind in (JobDeadError, PayloadError)}
_BY_NAME: Final = {kind.__name__: kind for kind in _OWN}


def decode_error(text: str | None, job: Job[Any], reason: str | None = None) -> Exception:
    """Return the exception of a job that has ended, from its record."""
    record = _record(text)
    name, message = str(record.get("type", "Exception")), str(record.get("message", ""))
    recorded = RecordedError(f"{name}: {message}" if message else name, name, str(record.get("traceback", "")))
    about = f"job {job.name!r} id {job.id!r}"
    error: Exception
    if name == "JobTimeoutError":
        limit: Any = record.get("limit", "total_timeout")
        seconds = record.get("seconds")
        told = message or f"{about} waited for longer than its {limit} allows"
        error = JobTimeoutError(told, limit, float(seconds) if isinstance(seconds, (int, float)) else 0.0)
    elif name in _OURS:
        return _OURS[name](message)
    elif name == "JobCancelledError":
        return JobCancelledError(f"{about} was cancelled" + (f": {reason}" if reason else ""))
    elif name in _BY_NAME and isinstance(record.get("args"), list):
        try:
            error = _BY_NAME[name](*record["args"])
        except Exception:  # it takes other arguments in another version of Python
            return recorded
    else:
        return recorded
    error.__cause__ = recorded if recorded.traceback else None
    return error


def _record(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = {"message": text}
    return found if isinstance(found, dict) else {"message": text}


def _text(error: BaseException) -> str:
    try:
        return str(error).replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    except BaseException as fault:  # an exception may fail to say what it is
        return f"<{type_name(fault)} while it was read>"
