"""`ProcessTarget`: a function by its name, on its way to another process, which finds it there as the command found it.

The first call in a process imports the module and opens what `--setup` names; both are kept for the calls that follow.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from multiprocessing.util import Finalize
from typing import Any, final

from aiopool.cli._call import Arguments, SetupError, contained
from aiopool.cli._setup import Setup
from aiopool.cli._source import Item
from aiopool.cli._target import find_function
from aiopool.cli._words import Refusal

__all__ = ["ProcessTarget", "check_plain"]


@final
class ProcessTarget:
    """A function that is called in another process; the arguments are as they were written."""

    def __init__(self, target: str, named: Mapping[str, Any], setup: str | None) -> None:
        self.__qualname__ = self.__name__ = target.rpartition(":")[2]
        self._target = target
        self._named = named
        self._setup = setup

    def __call__(self, item: Item) -> Any:
        return (_kept or _find(self._target, self._named, self._setup))(item)


_kept: Callable[[Item], Any] | None = None


def _find(target: str, named: Mapping[str, Any], setup: str | None) -> Callable[[Item], Any]:
    global _kept
    try:
        resource: tuple[Any, ...] = ()
        function = find_function(target)
        if setup is not None:
            stack = contextlib.ExitStack()
            resource = (Setup(setup).open_plain(stack),)
            Finalize(None, stack.close, exitpriority=1)  # what a process runs when it is told to end
    except Refusal as refusal:
        raise SetupError(str(refusal)) from None
    _kept = contained(function, Arguments(named, resource))
    return _kept


def check_plain(target: str, function: Callable[..., Any]) -> None:
    """Check that a function can run in another process.

    Raises:
        Refusal: it is an `async def`.
    """
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        raise Refusal(
            f"{target} is an async function, and those share one event loop: leave out --processes, or write def"
        )
