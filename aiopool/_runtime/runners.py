"""`Runner`: what runs plain functions outside of the event loop, whichever way; `Runners`: one of each kind.

A call is started under a *token* (any object), and ends by `on_done(token, ok, value)` in the loop, once, unless
it was withdrawn. So whoever starts calls needs to know one thing only about the way in which they run: whether a call
can be stopped, or no more than asked.

Always true: a runner that nobody has asked for does not exist, and costs nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from typing import Any, Protocol, final

__all__ = ["Runner", "Runners"]


class Runner(Protocol):
    """Runs plain functions, and brings their outcomes back to the loop; all methods belong to the loop's thread."""

    @property
    def stops(self) -> bool:
        """Whether `cancel` ends the call, and soon; else it is only asked, and may run on."""
        ...

    @property
    def ended(self) -> asyncio.Future[None] | None:
        """Of a runner that was closed: done when nothing is left that has to be waited for; None: nothing is."""

    def start(
        self, token: Any, context: contextvars.Context, fn: Callable[..., object], args: tuple[Any, ...] = ()
    ) -> None:
        """Take a call; it waits in line while as many run as may."""

    def withdraw(self, token: Any) -> bool:
        """Take back a call that has not begun; whether it was."""
        ...

    def cancel(self, token: Any, reason: str | None = None) -> bool:
        """Stop a call that runs, or ask it to stop; whether there is one."""
        ...

    def abandon(self, token: Any) -> bool:
        """Say that nobody waits for a running call any more; its end is told all the same."""
        ...

    def close(self, wait: float = 0.0) -> int:
        """Take no more calls; how many run still."""
        ...


@final
class Runners(dict[str | None, Any]):
    """The runners of one pool by kind, such as `"thread"`; each is made when it is first asked for."""

    def __init__(self, makers: Mapping[str, Callable[[], Runner]]) -> None:
        super().__init__()
        self._makers = makers

    def __missing__(self, kind: str | None) -> Runner:
        assert kind is not None
        runner = self[kind] = self._makers[kind]()
        return runner

    def close(self) -> None:
        """Let no runner take calls any more."""
        for runner in self.values():
            runner.close()

    def endings(self) -> list[asyncio.Future[None]]:
        """Return what has to be waited for after `close`; each ends soon, if the system lets it."""
        return [runner.ended for runner in self.values() if runner.ended is not None]
