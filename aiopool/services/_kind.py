"""What every kind of service has to answer, whatever it is made of.

Five questions: start, are you alive, which processes are you, stop, how did you end. The adapters that answer
them are in `_process_kinds`, `_task_kinds` and `_object_kind`; `_adapt` chooses between them.

What an adapter refuses to know: names, types, restarts, other services, what the registry does with the
answers. It knows how to *ask* its own kind to end; ending processes by force is the same for all, and done in
`_families`.
"""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final

from aiopool._runtime.faults import type_name
from aiopool.services._process import ProcessId

__all__ = ["Ended", "ServiceAdapter", "accepted", "shown"]


@final
@dataclass(frozen=True, slots=True)
class Ended:
    """How a service ended without being asked to."""

    ok: bool
    why: str
    error: BaseException | None = None


class ServiceAdapter(Protocol):
    """What the registry needs of a service."""

    @property
    def restartable(self) -> bool:
        """Whether `start` may be called again after an end."""
        ...

    @property
    def own_session(self) -> bool:
        """Whether each of its processes was started as the leader of a session."""
        ...

    @property
    def mark(self) -> str | None:
        """The mark in the environment of its processes, if they have one."""
        ...

    @property
    def asks(self) -> bool:
        """Whether there is more to stopping it than ending its processes."""
        ...

    def own_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop without which it cannot be stopped; `None`: any will do."""
        ...

    async def start(self, wake: Callable[[], None]) -> None:
        """Start it; `wake` may be called, from its loop, when it has ended."""
        ...

    def alive(self) -> bool | None:
        """Whether it runs; `None`: it does not say."""
        ...

    def roots(self) -> list[ProcessId]:
        """The processes that it consists of now."""
        ...

    async def stop(self, force_at: float, deadline: float) -> None:
        """Ask it to end and wait, insist from `force_at` on, give up at `deadline` with `TimeoutError`."""
        ...

    async def outcome(self) -> Ended:
        """Say how it ended."""
        ...


def shown(target: object) -> str:
    """Return what a message calls the target of a service: its name or its class, and never what is in it.

    The `repr` of a process, or of a function with arguments, shows its arguments, and these may be secrets.
    """
    name = getattr(target, "__qualname__", None)
    return name if isinstance(name, str) else f"this {type_name(target)}"


def accepted(function: Callable[..., Any], offered: dict[str, float]) -> dict[str, float]:
    """Those of the arguments that a function has parameters for."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return {}
    return {name: value for name, value in offered.items() if name in parameters}
