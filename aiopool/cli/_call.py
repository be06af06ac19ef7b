"""`contained`: a user's function as one of an `Item`, that ends nothing but its own call."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from types import CoroutineType
from typing import Any, NoReturn, final

from aiopool import current_worker
from aiopool._runtime.faults import describe
from aiopool.cli._source import Item

__all__ = ["Arguments", "BadLineError", "ExitedError", "SetupError", "contained"]


@final
class ExitedError(Exception):
    """The function called `sys.exit()`: that ends its call, not the others."""


@final
class SetupError(Exception):
    """What a call needs, as `--setup` says, cannot be had."""


@final
class BadLineError(Exception):
    """A line cannot be used: the function was not called with it."""


@final
@dataclasses.dataclass(slots=True)
class Arguments:
    """What a function is called with, besides its line.

    Attributes:
        named: keyword arguments.
        resource: what `--setup` gives, as one more argument; empty if there is none. A placeholder until it is open.
        per_worker: whether the worker that runs the call has it.
    """

    named: Mapping[str, Any]
    resource: tuple[Any, ...] = ()
    per_worker: bool = False

    @property
    def positional(self) -> tuple[Any, ...]:
        """What comes after the line, in the call that asks.

        Raises:
            SetupError: its worker has nothing; there will be another attempt to open it.
        """
        if not self.per_worker:
            return self.resource
        worker = current_worker()
        if isinstance(worker.resource, SetupError):
            worker.recycle()
            raise SetupError(*worker.resource.args)
        return (worker.resource,)


def contained(function: Callable[..., Any], arguments: Arguments) -> Callable[[Item], Any]:
    """Return the function as one of an item, that ends nothing but its own call.

    Its `sys.exit()` is an ordinary failure: one bad line must not end the whole run. And what comes back in a child of
    `os.fork()` goes no further: there is one run, and it is the parent's.
    """
    us = os.getpid()
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):

        @functools.wraps(function)
        async def call(item: Item) -> Any:
            if item.problem is not None:
                raise BadLineError(item.problem)
            try:
                return await function(item.value, *arguments.positional, **arguments.named)
            except SystemExit as error:
                raise ExitedError(f"it called sys.exit({describe(error.code)})") from error
            finally:
                if os.getpid() != us:
                    _leave_child()

        return call

    @functools.wraps(function)
    def call_plain(item: Item) -> Any:
        if item.problem is not None:
            raise BadLineError(item.problem)
        try:
            result = function(item.value, *arguments.positional, **arguments.named)
            if type(result) is CoroutineType:
                result.close()
                raise TypeError("it returned a coroutine, which ran not at all: write `async def`, and await it there")
            return result
        except SystemExit as error:
            raise ExitedError(f"it called sys.exit({describe(error.code)})") from error
        finally:
            if os.getpid() != us:
                _leave_child()

    return call_plain


def _leave_child() -> NoReturn:
    """End a child of `os.fork()` whose function has ended, as Python would end it."""
    error, code = sys.exception(), 0
    while isinstance(error, ExitedError):
        error = error.__cause__
    try:
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            code = 1
            traceback.print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code & 0xFF)
