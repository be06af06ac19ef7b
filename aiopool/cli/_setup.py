"""`Setup`: what `--setup` names: something to be opened once, used by every call, and closed at the end.

It is a function that returns a context manager, plain or async: a client, a connection, a model. What it gives is the
second argument of the function.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType
from typing import Any, final

from aiopool.cli._target import find_function
from aiopool.cli._words import Refusal, one_line

__all__ = ["Setup"]


@final
class Setup:
    """A context manager that is named on the command line.

    Raises:
        Refusal: there is no such function.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._make: Callable[..., Any] = find_function(target, "--setup ")

    async def open(self, stack: contextlib.AsyncExitStack) -> Any:
        """Open it, and return what it gives; the stack closes it.

        Raises:
            Refusal: it cannot be opened.
        """
        manager = self._made()
        try:
            if hasattr(type(manager), "__aenter__"):
                return await stack.enter_async_context(manager)
            return stack.enter_context(manager)
        except Exception as error:
            raise Refusal(f"--setup {self.target} failed, and nothing was run: {one_line(error)}") from None

    def open_plain(self, stack: contextlib.ExitStack) -> Any:
        """Do the same where there is no event loop.

        Raises:
            Refusal: it cannot be opened, or only in an event loop.
        """
        manager = self._made()
        if not hasattr(type(manager), "__enter__"):
            raise Refusal(
                f"--setup {self.target} is async, and functions in processes have no event loop: write "
                "@contextlib.contextmanager and def, or leave out --processes"
            )
        try:
            return stack.enter_context(manager)
        except Exception as error:
            raise Refusal(f"--setup {self.target} failed: {one_line(error)}") from None

    def _made(self) -> Any:
        try:
            manager = self._make()
        except Exception as error:
            raise Refusal(f"--setup {self.target} failed, and nothing was run: {one_line(error)}") from None
        kind = type(manager)
        if hasattr(kind, "__enter__") or hasattr(kind, "__aenter__"):
            return manager
        if isinstance(manager, CoroutineType):
            manager.close()  # nobody awaits it
        is_async = isinstance(manager, (CoroutineType, AsyncGeneratorType))
        decorator = "asynccontextmanager" if is_async else "contextmanager"
        raise Refusal(
            f"--setup {self.target} returns {kind.__name__}, which is no context manager: write "
            f"@contextlib.{decorator} above it, and yield what the function needs"
        )
