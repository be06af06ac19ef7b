"""Choose the adapter for what a user registers, and make services anew.

Invariant: whatever cannot be stopped is refused here, with the line to write instead; nothing is dropped
silently.
"""

import asyncio
import inspect
import multiprocessing.process
import subprocess
from collections.abc import Callable, Iterable
from typing import Any, final

from aiopool.services._command import Command
from aiopool.services._kind import Ended, ServiceAdapter, shown
from aiopool.services._object_kind import ObjectAdapter
from aiopool.services._process import ProcessId
from aiopool.services._process_kinds import CommandAdapter, HandleAdapter, PidAdapter
from aiopool.services._task_kinds import ContextAdapter, CoroutineAdapter

__all__ = ["FactoryAdapter", "adapt"]


@final
class FactoryAdapter:
    """A function that makes the service anew for each start; what it makes is of one of the other kinds."""

    restartable = True

    def __init__(self, factory: Callable[[], Any], pids: Callable[[], Iterable[int]] | None = None) -> None:
        self._factory = factory
        self._pids = pids
        self._made: ServiceAdapter | None = None

    @property
    def own_session(self) -> bool:
        return self._made is not None and self._made.own_session

    @property
    def mark(self) -> str | None:
        return None if self._made is None else self._made.mark

    @property
    def asks(self) -> bool:
        return self._made is not None and self._made.asks

    def own_loop(self) -> asyncio.AbstractEventLoop | None:
        return None if self._made is None else self._made.own_loop()

    async def start(self, wake: Callable[[], None]) -> None:
        made = self._factory()
        if inspect.isawaitable(made):
            made = await made
        kind = adapt(made, pids=self._pids)
        self._made = kind
        if kind.alive() is not True:
            await kind.start(wake)

    def alive(self) -> bool | None:
        return False if self._made is None else self._made.alive()

    def roots(self) -> list[ProcessId]:
        return [] if self._made is None else self._made.roots()

    async def stop(self, force_at: float, deadline: float) -> None:
        if self._made is not None:
            await self._made.stop(force_at, deadline)

    async def outcome(self) -> Ended:
        return Ended(False, "was never started") if self._made is None else await self._made.outcome()


def adapt(target: Any, *, pids: Callable[[], Iterable[int]] | None = None) -> ServiceAdapter:
    """Choose the adapter for what a user registers.

    Args:
        target: the service, or what makes it.
        pids: for objects: gives the pids of the processes that they started.

    Raises:
        TypeError: it is nothing that could be started or stopped.
        ProcessLookupError: it is a pid, and there is no such process.
    """
    if isinstance(target, bool) or target is None or isinstance(target, str):
        raise TypeError(_refusal(target))
    if isinstance(target, int):
        return PidAdapter(target)
    if isinstance(target, (list, tuple)):
        return CommandAdapter(Command(target))
    if isinstance(target, Command):
        return CommandAdapter(target)
    if inspect.iscoroutine(target):
        target.close()
        raise TypeError(
            f"{shown(target)} is a coroutine that can run only once; register the function: registry.add(type, "
            f"{target.__name__}), or with arguments functools.partial({target.__name__}, ...)"
        )
    if isinstance(target, (multiprocessing.process.BaseProcess, subprocess.Popen)) or _is_handle(target):
        return HandleAdapter(target)
    if inspect.iscoroutinefunction(target) or _is_async_callable(target):
        return CoroutineAdapter(target)
    if inspect.isclass(target):
        return FactoryAdapter(target, pids)
    if isinstance(getattr(target, "pid", None), int) and callable(getattr(target, "create_time", None)):
        return PidAdapter(target.pid)  # psutil.Process
    if callable(getattr(target, "stop", None)):
        return ObjectAdapter(target, pids)
    if hasattr(type(target), "__aenter__"):
        return ContextAdapter(target)
    if callable(target):
        return FactoryAdapter(target, pids)
    raise TypeError(_refusal(target))


def _is_async_callable(target: Any) -> bool:
    call = getattr(type(target), "__call__", None)  # noqa: B004 - not whether it can be called, but how
    return not inspect.isclass(target) and inspect.iscoroutinefunction(call)


def _refusal(target: Any) -> str:
    return (
        f"{shown(target)} is nothing that a registry can start or stop; give it a process (multiprocessing, "
        "subprocess, asyncio), a pid, a Command, an object with stop(), an async context manager, a "
        "coroutine function, or a function that makes one of these"
    )


def _is_handle(target: Any) -> bool:
    """A process by its looks, as asyncio's, anyio's and trio's are: a pid, a return code, and `kill`."""
    if inspect.isclass(target):
        return False
    pid = getattr(target, "pid", None)
    return isinstance(pid, int) and hasattr(target, "returncode") and callable(getattr(target, "kill", None))
