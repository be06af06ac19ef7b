"""Wrong calls say what to write instead: an unknown keyword argument, `with` in place of `async with`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

__all__ = ["AsyncOnly", "explain_keywords"]

F = TypeVar("F", bound=Callable[..., Any])

# What other libraries call it.
_ELSEWHERE: Final = {
    "concurrency": "size",
    "limit": "size",
    "max_concurrency": "size",
    "max_size": "size",
    "max_workers": "size",
    "num_workers": "size",
    "workers": "size",
    "maxsize": "queue_size",
    "prio": "priority",
    "deadline": "total_timeout",
    "retries": "retry",
    "max_retries": "attempts",
    "max_attempts": "attempts",
    "tries": "attempts",
    "exceptions": "on",
    "ahead": "buffersize",
    "buffer": "buffersize",
    "chunksize": "buffersize",
}


def explain_keywords(function: F) -> F:
    """Have a function, or the constructor of a class, say what to write in place of an unknown keyword argument.

    A call costs some 0.3 µs more; `__wrapped__` goes without.
    """
    made: Any = function
    if isinstance(made, type):
        made.__init__ = explain_keywords(made.__init__)  # type: ignore[misc]
        return function
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    owner = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            if kwargs.keys() <= known:
                raise
        import difflib  # seldom needed

        wrong = next(name for name in kwargs if name not in known)
        near = _ELSEWHERE.get(wrong)
        if near not in known:
            near = next(iter(difflib.get_close_matches(wrong, names, 1)), None)
        hint = f"it takes {', '.join(names)}" if near is None else f"write {owner}({near}=...)"
        raise TypeError(f"{owner}() takes no argument {wrong!r}: {hint}") from None

    known = frozenset(names)
    return call  # type: ignore[return-value]  # it has the signature of the function


class AsyncOnly:
    """A base of what is used with `async with`: plain `with` says so."""

    __slots__ = ()
    _instead = ""  # what else there is, as the end of the sentence

    if not TYPE_CHECKING:  # type checkers say it by themselves

        def __enter__(self) -> NoReturn:
            raise TypeError(
                f"a {type(self).__name__} waits when it is left: write `async with` in place of `with`, in a coroutine"
                f"{self._instead}"
            )

        def __exit__(self, *error: object) -> None: ...  # without it Python does not ask for `__enter__`
