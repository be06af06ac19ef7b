"""A finished line as text: `JsonRecord` says all of it, `RawRecord` only what the function returned."""

from __future__ import annotations

import os
import traceback
from json.encoder import encode_basestring
from typing import Any, Final, Protocol, final

from aiopool._runtime.faults import describe_error
from aiopool.cli._json import ResultError, to_json
from aiopool.cli._source import Item

__all__ = ["JsonRecord", "RawRecord", "Record", "trace_of"]

PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Record(Protocol):
    """How a finished line is written."""

    def succeeded(self, item: Item, value: Any, attempts: int, seconds: float) -> str | None:
        """Return what is written for a value; None: nothing. Raises `ResultError` if it cannot be written."""

    def failed(
        self, item: Item, problem: str, trace: str | None, attempts: int, seconds: float, *, cancelled: bool = False
    ) -> str | None:
        """Return what is written for a failure, or for a line that was cancelled; None: nothing."""


@final
class JsonRecord:
    """A line of JSON, with the number and the text of its line. `several`: whether it names the file, too."""

    def __init__(self, *, several: bool) -> None:
        self._several = several

    def succeeded(self, item: Item, value: Any, attempts: int, seconds: float) -> str:
        return (
            f'{self._head(item)}, "ok": true, "result": {to_json(value)}, '
            f'"attempts": {attempts}, "seconds": {seconds:.6f}}}'
        )

    def failed(
        self, item: Item, problem: str, trace: str | None, attempts: int, seconds: float, *, cancelled: bool = False
    ) -> str:
        told = '"cancelled": true, ' if cancelled else ""
        more = "" if trace is None else f', "traceback": {encode_basestring(trace)}'
        return (
            f'{self._head(item)}, "ok": false, {told}"error": {encode_basestring(problem)}, '
            f'"attempts": {attempts}, "seconds": {seconds:.6f}{more}}}'
        )

    def _head(self, item: Item) -> str:
        file = f'"file": {encode_basestring(item.name)}, ' if self._several else ""
        value = item.text if item.is_json else encode_basestring(item.text)
        return f'{{{file}"line": {item.number}, "input": {value}'


@final
class RawRecord:
    """The value alone, as text; nothing for None or a failure. A last line end is not doubled."""

    def succeeded(self, item: Item, value: Any, attempts: int, seconds: float) -> str | None:
        if value is None:
            return None
        try:
            if isinstance(value, (bytes, bytearray, memoryview)):
                text = bytes(value).decode("utf-8", "surrogateescape")
            else:
                text = str(value)
                text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ResultError("the result is text that UTF-8 does not have: return bytes") from None
        except Exception as error:
            raise ResultError(f"the result cannot be written as text: {describe_error(error)}") from None
        return text.removesuffix("\n")

    def failed(
        self, item: Item, problem: str, trace: str | None, attempts: int, seconds: float, *, cancelled: bool = False
    ) -> None:
        return None


def trace_of(error: BaseException) -> str | None:
    """Return the traceback of a failure, without our own frames; None if it has none, or it cannot be printed."""
    if error.__traceback__ is None and not hasattr(error, "__notes__"):  # a note has that of another process
        return None
    try:
        trace = traceback.TracebackException(type(error), error, error.__traceback__, lookup_lines=False)
        _without_ours(trace)
        return "".join(trace.format()).rstrip("\n")
    except BaseException:
        return None


def _without_ours(trace: traceback.TracebackException) -> None:
    theirs = [frame for frame in trace.stack if not frame.filename.startswith(PACKAGE)]
    if theirs:
        trace.stack[:] = theirs
    for other in (trace.__cause__, trace.__context__):
        if other is not None:
            _without_ours(other)
