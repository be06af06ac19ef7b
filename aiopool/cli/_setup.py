"""`Setup`: what `--setup` names: something to be opened, used by the calls, and closed at the end.

It is a function that returns a context manager, plain or async: a client, a connection, a model. What it gives is the
second argument of the function. There is one for the whole run, for each worker, or for each process. If the one for
the run cannot be opened, nothing is run; where there are several, each call that would need a broken one fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from types import AsyncGeneratorType, CoroutineType
from typing import Any, final

from aiopool.cli._call import SetupError
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
        self._target = target
        self._make: Callable[..., Any] = find_function(target, "--setup ")

    async def open(self, stack: contextlib.AsyncExitStack) -> Any:
        """Open it, and return what it gives; the stack closes it.

        Raises:
            SetupError: it cannot be opened.
        """
        try:
            manager = self._made()
            if hasattr(type(manager), "__aenter__"):
                return await stack.enter_async_context(manager)
            return stack.enter_context(manager)
        except Exception as error:
            raise self._failed(error) from None

    def open_plain(self, stack: contextlib.ExitStack) -> Any:
        """Do the same where there is no event loop.

        Raises:
            SetupError: it cannot be opened, or only in an event loop.
        """
        try:
            manager = self._made()
            if not hasattr(type(manager), "__enter__"):
                raise Refusal(
                    "is async, and functions in processes have no event loop: write @contextlib.contextmanager and "
                    "def, or leave out --processes"
                )
            return stack.enter_context(manager)
        except Exception as error:
            raise self._failed(error) from None

    @contextlib.asynccontextmanager
    async def open_each(self) -> AsyncIterator[Any]:
        """Open one for a worker; if that fails, what it gives is the `SetupError`, for the calls to raise."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                resource = await self.open(stack)
            except SetupError as error:
                resource = error
            yield resource

    def _failed(self, error: Exception) -> SetupError:
        why = str(error) if isinstance(error, Refusal) else f"failed: {one_line(error)}"
        return SetupError(f"--setup {self._target} {why}")

    def _made(self) -> Any:
        manager = self._make()
        kind = type(manager)
        if hasattr(kind, "__enter__") or hasattr(kind, "__aenter__"):
            return manager
        if isinstance(manager, CoroutineType):
            manager.close()  # nobody awaits it
        is_async = isinstance(manager, (CoroutineType, AsyncGeneratorType))
        decorator = "asynccontextmanager" if is_async else "contextmanager"
        raise Refusal(
            f"returns {kind.__name__}, which is no context manager: write @contextlib.{decorator} above it, and yield "
            "what the function needs"
        )
