"""`MODULE:FUNCTION`: find the function, or the object, that a command needs, or say in one line why it cannot be had.

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
from types import ModuleType
from typing import Any, TypeVar, cast

from aiopool.cli._call import Arguments
from aiopool.cli._words import Refusal, one_line

__all__ = ["check_function", "find_function", "find_object"]

T = TypeVar("T")


def find_function(target: str, option: str = "") -> Callable[..., Any]:
    """Return what `MODULE:FUNCTION` names; `option` is where that was written.

    Raises:
        Refusal: there is no such thing, or it cannot be called.
    """
    found, _ = _find(target, "function", callable, option)
    if not callable(found):
        raise Refusal(f"{target} is not a function, but {type(found).__name__}")
    return cast("Callable[..., Any]", found)


def find_object(target: str, kind: type[T], noun: str) -> T:
    """Return the object that `MODULE:NAME` names; `noun` is what it is called.

    Raises:
        Refusal: there is no such thing, or it is of another class.
    """
    found, module = _find(target, noun, lambda value: isinstance(value, kind))
    if not isinstance(found, kind):
        others = [name for name, value in vars(module).items() if isinstance(value, kind)]
        hint = f"; {others[0]} is one" if others else f"; write {noun} = aiopool.{kind.__name__}() there"
        raise Refusal(f"{target} is not an aiopool.{kind.__name__}, but {type(found).__name__}{hint}")
    return found


def _find(target: str, noun: str, fits: Callable[[Any], bool], option: str = "") -> tuple[Any, ModuleType]:
    where, colon, name = target.rpartition(":")
    if not (where and colon and name):
        word = noun.upper()
        article = "a " if noun == "function" else ""
        raise Refusal(
            f"{target!r} does not name {article}{noun}: write {option}MODULE:{word} or {option}path/to/file.py:{word}"
        )
    module = _load(where)
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            article = "no function" if noun == "function" else "no"
            raise Refusal(f"{where} has {article} {name!r}{_suggestion(module, name, fits)}") from None
    return found, module


def check_function(target: str, function: Callable[..., Any], arguments: Arguments) -> None:
    """Check that a function can be called with a line, and would run.

    Raises:
        Refusal: it is a generator function, or takes other arguments.
    """
    _check_kind(target, function)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin that does not tell
    try:
        signature.bind(None, *arguments.resource, **arguments.named)
    except TypeError as error:
        given = "one argument, the line" if not arguments.resource else "two arguments, the line and what --setup gives"
        given += "".join(f", {name}" for name in arguments.named)
        raise Refusal(f"{target}{signature} cannot be called with {given}: {error}") from None


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


def _suggestion(module: ModuleType, name: str, fits: Callable[[Any], bool]) -> str:
    import difflib

    near = difflib.get_close_matches(name, [key for key, value in vars(module).items() if fits(value)], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


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
