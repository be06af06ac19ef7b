"""What can be said about a function before it is called: its name, its kind, and which arguments it takes.

Whatever is known to fail is refused when it is submitted, where the traceback shows the line to change.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from inspect import CO_COROUTINE, CO_VARARGS
from types import AsyncGeneratorType, BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType
from typing import Any

__all__ = ["arity", "check_call", "check_function", "function_name", "is_asynchronous"]


def function_name(function: Callable[..., object]) -> str:
    """Return a short name for any callable."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def check_function(function: object) -> bool:
    """Return whether a callable is asynchronous (runs in the loop) or not (runs in a thread).

    Raises:
        TypeError: it cannot be run as a job; the text shows the line to write instead.
    """
    plain: object = function.__func__ if type(function) is MethodType else function
    if type(plain) is FunctionType and plain.__code__.co_flags & CO_COROUTINE:
        return True  # nearly every one
    plain = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    if inspect.iscoroutine(function) or isinstance(function, asyncio.Future):
        if inspect.iscoroutine(function):
            name = function.__qualname__
            function.close()
        else:
            name = "function"
        raise TypeError(
            f"submit() takes a function, and {name}(...) was called already: a coroutine object cannot be started "
            f"later, nor tried again. Write submit({name}, ...) in place of submit({name}(...))"
        )
    if not callable(plain):
        if isinstance(function, Awaitable):
            raise TypeError(f"submit() takes a function, and {function!r} is to be awaited: write `await ...`")
        raise TypeError(f"submit() takes a function, not {function!r} ({type(function).__name__})")
    if inspect.isasyncgenfunction(plain):
        raise TypeError(
            f"{function_name(plain)} is an async generator function: it yields many values and returns none. "
            "Write an async def that consumes it and returns the result"
        )
    cached = getattr(plain, "__wrapped__", None) if hasattr(plain, "cache_info") else None
    if cached is not None and inspect.iscoroutinefunction(cached) and not inspect.iscoroutinefunction(plain):
        raise TypeError(
            f"{function_name(plain)} is an async def under functools.cache: what it keeps is a coroutine, which can be "
            "awaited once. Keep the results in a dict of your own, or use a cache that is made for async def"
        )
    return is_asynchronous(plain)


def is_asynchronous(function: Callable[..., object]) -> bool:
    """Return whether calling this gives a coroutine, as far as one can see."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    if isinstance(function, FunctionType):
        # `functools.singledispatch`: as its functions, if they are all of one kind.
        registry = getattr(function, "registry", None)
        return isinstance(registry, Mapping) and all(map(is_asynchronous, registry.values()))
    if isinstance(function, (BuiltinFunctionType, MethodWrapperType)):
        # `anext`, and `__anext__`, `asend`, ... of an async generator, give what can be awaited.
        return function is anext or isinstance(getattr(function, "__self__", None), AsyncGeneratorType)
    if isinstance(function, type):
        return False
    # An object with an `async def __call__`.
    return inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - the method itself


def _code_of(function: object) -> tuple[FunctionType | None, int]:
    """Return the function whose code tells the arguments, and how many of them a method has already."""
    bound = 0
    if type(function) is MethodType:
        function, bound = function.__func__, 1
    # (with a signature of its own a function may take what its code does not tell)
    if type(function) is FunctionType and "__signature__" not in function.__dict__:
        return function, bound
    return None, 0


def arity(function: Callable[..., object]) -> tuple[int, int]:
    """Return how many arguments a call without keywords must and may have, as far as one can see.

    It is asked for each new view of a pool, so it reads the code: `inspect.signature` takes fifty times longer.
    """
    plain, bound = _code_of(function)
    if plain is None:
        return 0, sys.maxsize
    code, defaults = plain.__code__, plain.__defaults__
    if code.co_kwonlyargcount > len(plain.__kwdefaults__ or ()):
        return 1, 0  # none will do
    least = code.co_argcount - bound - (0 if defaults is None else len(defaults))
    return least, sys.maxsize if code.co_flags & CO_VARARGS else code.co_argcount - bound


def check_call(call: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise if a function will not take these arguments, as far as one can see.

    Args:
        call: the method that was given the function.
        function, args, kwargs: the call that will be made.

    Raises:
        TypeError: it will not; the text has its signature, and the line to write instead.
    """
    plain, bound = _code_of(function)
    if plain is None or (kwargs and _surely_takes(plain, bound + len(args), kwargs)):
        return
    signature = inspect.signature(function, follow_wrapped=False)  # of what will be called
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = function_name(function)
        text = f"{call}({name}, ...): {name}{_names(signature)} cannot be called so: {error}. "
        if call == "map":
            text += "It is called with one item: write map(function_of_one_argument, items)"
        else:
            text += f"Write {call}({name}{''.join(f', {word}' for word in _needed(signature))})"
    else:
        return
    raise TypeError(text)


def _surely_takes(plain: FunctionType, given: int, kwargs: dict[str, Any]) -> bool:
    """Whether these keyword arguments are all that are missing, and no others: so it is in the usual call."""
    code, defaults = plain.__code__, plain.__defaults__ or ()
    count = code.co_argcount
    names = code.co_varnames[: count + code.co_kwonlyargcount]
    needed = {*names[given : count - len(defaults)], *names[count:]} - (plain.__kwdefaults__ or {}).keys()
    return given <= count and needed <= kwargs.keys() <= {*names[max(given, code.co_posonlyargcount) :]}


def _names(signature: inspect.Signature) -> str:
    """Return a signature without its annotations, which may be long."""
    empty = inspect.Parameter.empty
    plain = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=empty))


def _needed(signature: inspect.Signature) -> list[str]:
    """Return the arguments that a call must have, as they are written."""
    return [
        f"{name}=..." if parameter.kind is parameter.KEYWORD_ONLY else name
        for name, parameter in signature.parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
