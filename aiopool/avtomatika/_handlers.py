"""The handlers of a worker: by the name of their tasks, each with what it wants to be given.

A handler is called with what it declares and nothing else: `params`, and of `OFFERED` what its signature names. All is
found out at registration, so that a handler that cannot be called is an error of the line that registers it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

from aiopool.avtomatika._task import Task

__all__ = ["OFFERED", "Handler", "Handlers"]

OFFERED: Final = ("params", "task_id", "job_id", "priority", "deadline", "metadata", "tracing_context")
"""What a handler may declare."""

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@final
@dataclass(frozen=True, slots=True)
class Handler:
    """One registered function.

    Attributes:
        name: of its tasks.
        task_type: the category, whose limit its tasks share; None: it has none.
        function: as it was given.
        wants: what is passed by name.
        first: the first argument is `params`, whatever it is called.
        options: of the pool, for its jobs.
        description: what the orchestrator is told about it.
    """

    name: str
    task_type: str | None
    function: Callable[..., Any]
    wants: tuple[str, ...]
    first: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    description: str | None = None

    @property
    def category(self) -> str:
        """By what it is limited: its type, or its name where it has none."""
        return self.name if self.task_type is None else self.task_type

    def arguments(self, task: Task) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what the function is called with for a task."""
        return (task.params,) if self.first else (), {name: getattr(task, name) for name in self.wants}

    def skill(self) -> dict[str, Any]:
        """Return what the orchestrator is told."""
        told = {"name": self.name, "type": self.task_type, "description": self.description}
        return {name: value for name, value in told.items() if value is not None}


@final
class Handlers:
    """All handlers of a worker; they are added before it runs."""

    def __init__(self) -> None:
        self._by_name: dict[str, Handler] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Handler | None:
        """Return the handler of a name."""
        return self._by_name.get(name)

    def add(self, name: str, task_type: str | None, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
        """Register a function.

        Raises:
            TypeError: the function has a parameter that no task can fill.
            ValueError: the name is taken.
        """
        if name in self._by_name:
            there = self._by_name[name].function
            raise ValueError(f"@worker.task({name!r}) stands above two functions, of which {there!r} is the first")
        first, wants = _wants(name, function)
        about = inspect.getdoc(function)
        line = about.partition("\n")[0] if about else None
        self._by_name[name] = Handler(name, task_type, function, wants, first, dict(options), line)


def _wants(name: str, function: Callable[..., Any]) -> tuple[bool, tuple[str, ...]]:
    parameters = list(inspect.signature(function).parameters.values())
    first = bool(parameters) and parameters[0].kind in _POSITIONAL and parameters[0].name not in OFFERED[1:]
    wants = []
    for parameter in parameters[first:]:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            wants += [offered for offered in OFFERED[1:] if offered not in wants]
        elif parameter.name in OFFERED and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            wants.append(parameter.name)
        elif parameter.default is inspect.Parameter.empty:
            raise TypeError(
                f"@worker.task({name!r}): nothing can be given for the parameter {parameter.name!r}. A handler takes "
                f"`params` first, and of these what it wants: {', '.join(OFFERED[1:])}"
            )
    return first, tuple(wants)
