"""`MODULE:FUNCTION`: find the function that a command shall run, or say in one line why it cannot be had.

The module is a name, looked up as `python -m` does (the working directory first), or the path of a `.py` file.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CoroutineType, ModuleType
from typing import Any, NoReturn, final

from aiopool._runtime.faults import describe
from aiopool.cli._source import Item
from aiopool.cli._words import Refusal, one_line

__all__ = ["BadLineError", "ExitedError", "find_function"]


@final
class ExitedError(Exception):
    """The function called `sys.exit()`: that ends its call, not the others."""


@final
class BadLineError(Exception):
    """A line cannot be used: the function was not called with it."""


def find_function(target: str) -> Callable[[Item], Any]:
    """Return the function that `MODULE:FUNCTION` names, as one of an `Item`; it cannot end the program.

    Raises:
        Refusal: there is no such thing, or it cannot be called with one argument, or would run nothing.
    """
    where, colon, name = target.rpartition(":")
    if not (where and colon and name):
        raise Refusal(f"{target!r} does not name a function: write MODULE:FUNCTION or path/to/file.py:FUNCTION")
    module = _load(where)
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Refusal(f"{where} has no function {name!r}{_suggestion(module, name)}") from None
    if not callable(found):
        raise Refusal(f"{target} is not a function, but {type(found).__name__}")
    _check_kind(target, found)
    _check_argument(target, found)
    return _contained(found)


def _load(where: str) -> ModuleType:
    try:
        if where.endswith(".py"):
            return _load_file(Path(where))
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name and (where == error.name or where.startswith(error.name + ".")):
            raise Refusal(f"there is no module {error.name!r} here or in {sys.prefix}") from None
        raise Refusal(f"{where} cannot be imported: {one_line(error)} ({_place(error)})") from None
    except SystemExit as error:
        raise Refusal(f"{where} cannot be imported: it exits when it is imported (code {error.code!r})") from None
    except (KeyboardInterrupt, Refusal):
        raise
    except BaseException as error:
        raise Refusal(f"{where} cannot be imported: {one_line(error)} ({_place(error)})") from None


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Refusal(f"there is no file {str(path)!r}")
    # As if the file had been started: its neighbours can be imported.
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # as dataclasses and pickle expect
    spec.loader.exec_module(module)
    return module


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith("<frozen importlib")]
    return f"{theirs[-1].filename}, line {theirs[-1].lineno}" if theirs else "no place is known"


def _suggestion(module: ModuleType, name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, [key for key, value in vars(module).items() if callable(value)], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _check_argument(target: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin that does not tell
    try:
        signature.bind(None)
    except TypeError as error:
        raise Refusal(f"{target}{signature} cannot be called with one argument, the line: {error}") from None


def _check_kind(target: str, function: Callable[..., Any]) -> None:
    """Refuse a generator function: calling it runs nothing of it, and no line would fail."""
    while isinstance(function, functools.partial):
        function = function.func
    for called in (function, type(function).__call__):
        if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
            kind, start = (
                ("an async generator", "async def") if inspect.isasyncgenfunction(called) else ("a generator", "def")
            )
            raise Refusal(
                f"{target} is {kind} function: calling it runs nothing of it. Return a list instead of yielding: "
                f"{start} {getattr(function, '__name__', 'function')}(line): ...; return [...]"
            )


def _contained(function: Callable[[Any], Any]) -> Callable[[Item], Any]:
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
                return await function(item.value)
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
            result = function(item.value)
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
