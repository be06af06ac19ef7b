"""`PickledCall`: a call on its way to another process or interpreter, and what is said if it does not pickle.

What is known to fail is refused in the process where the line to change is, before anything runs.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, final

from aiopool._runtime.faults import describe_error, type_name
from aiopool.errors import NotPicklableError

__all__ = ["PickledCall", "check_sendable", "pickle_call"]

PROTOCOL = 5


@final
class PickledCall:
    """A function and its arguments, as bytes; called without arguments, where it has arrived.

    Attributes:
        payload: the pickle of (function, args).
        name: of the function, for messages.
    """

    __slots__ = ("name", "payload")

    def __init__(self, payload: bytes, name: str) -> None:
        self.payload = payload
        self.name = name

    def __reduce__(self) -> tuple[object, ...]:
        return PickledCall, (self.payload, self.name)

    def parts(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return the function and its arguments."""
        parts: tuple[Callable[..., Any], tuple[Any, ...]] = pickle.loads(self.payload)  # noqa: S301 - from our own process
        return parts

    def __call__(self) -> Any:
        try:
            function, args = self.parts()
        except Exception as error:
            raise NotPicklableError(
                f"{self.name}: the call did not arrive where it is to run: {describe_error(error)}. What it needs must "
                "be importable there: define functions and classes at the top of a module, not under "
                '`if __name__ == "__main__"`'
            ) from error
        return function(*args)


def pickle_call(function: Callable[..., object], args: tuple[Any, ...]) -> PickledCall:
    """Return a call as bytes; keyword arguments are in a `functools.partial`.

    Raises:
        NotPicklableError: the function or an argument does not pickle; the text says which, and what to write.
    """
    if isinstance(function, PickledCall):
        return function
    try:
        return PickledCall(pickle.dumps((function, args), PROTOCOL), _name(function))
    except Exception as error:
        keywords: dict[str, Any] = {}
        while isinstance(function, functools.partial):
            args, keywords, function = (*function.args, *args), {**function.keywords, **keywords}, function.func
        check_sendable(function, "process", copied=True)
        named = [(f"argument {place}", value) for place, value in enumerate(args, 1)]
        named += [(f"argument {name!r}", value) for name, value in keywords.items()]
        where = next((f"{what} ({type_name(value)})" for what, value in named if not _pickles(value)), "an argument")
        raise NotPicklableError(
            f"{_name(function)}: {where} cannot be sent to another process: {describe_error(error)}. Send what it is "
            'made from (a path, a number, a text) and open it there; or run the function in a thread: offload="thread"'
        ) from error


def check_sendable(function: Callable[..., object], offload: str, *, copied: bool = False) -> None:
    """Raise if another process or interpreter would not find this function.

    Args:
        function: any callable.
        offload: where it is to run.
        copied: the process will be a copy of this one (a fork), and has what this one has.

    Raises:
        NotPicklableError: it would not; the text says why, and the line to write instead.
        RuntimeError: this process is itself one that only imports the file of a program.
    """
    _check_not_starting()
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = inner.__func__ if type(inner) is MethodType else inner
    name = _name(function)
    try:
        pickle.dumps(inner, PROTOCOL)
    except Exception as error:
        if type(inner) is FunctionType and (inner.__name__ == "<lambda>" or "<locals>" in inner.__qualname__):
            kind = "a lambda" if inner.__name__ == "<lambda>" else "defined inside of another function"
            advice = f"is {kind}, which another process cannot import: write `def` at the top of a module"
        else:
            advice = f"cannot be sent to another process: {describe_error(error)}"
        raise NotPicklableError(f'{name} {advice}; or run it in a thread: offload="thread"') from error
    if copied or getattr(inner, "__module__", None) != "__main__":
        return
    if offload == "interpreter":
        raise NotPicklableError(
            f"{name} is in the main file of the program, which an interpreter does not import: move it to a module "
            'of its own; or run it in a process: offload="process"'
        )
    if _is_interactive():
        raise NotPicklableError(
            f"{name} was defined in an interactive session, which another process cannot import: write it into a file, "
            f'work.py, and `from work import {name}`; or run it in a thread: offload="thread"'
        )


def _check_not_starting() -> None:
    """Raise if this process was started to run jobs, and imports the file of a program that has no guard."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "this process was started to run jobs, and imports the file of the program for that; it must not start the "
            'program again. Put the line that starts it under a guard:\n\n    if __name__ == "__main__":\n'
            "        asyncio.run(main())"
        )


def _is_interactive() -> bool:
    """Whether `__main__` is no file: a prompt, a notebook, `python -c`, the standard input."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return (file is None or not os.path.exists(file)) and getattr(main, "__spec__", None) is None


def _name(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type_name(function)


def _pickles(value: object) -> bool:
    try:
        pickle.dumps(value, PROTOCOL)
    except Exception:
        return False
    return True
