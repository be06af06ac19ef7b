"""`publish`: the one place where a public name gets its public address."""

from types import FunctionType
from typing import Any

__all__ = ["publish"]


def publish(namespace: dict[str, Any]) -> None:
    """Give the classes and functions that a public module lists in `__all__` its address.

    Tracebacks, pickles and docs then say `aiopool.Job`, and not where its file happens to be. What is at home in
    another public module keeps that address.

    Args:
        namespace: `globals()` of the module; called at its end.
    """
    for name in namespace["__all__"]:
        thing = namespace[name]
        if isinstance(thing, (type, FunctionType)) and "._" in thing.__module__:
            thing.__module__ = namespace["__name__"]
