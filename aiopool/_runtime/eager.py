"""Start a task eagerly: it takes its first step while it is made, in every Python.

From 3.12 on asyncio can do this itself. On 3.11 a new task asks its loop to call its first step soon; here it finds a
loop that takes the step down instead of queueing it, and the step is called at once: no handle is made and no turn
of the loop is spent. A job that never suspends then costs a quarter of what it costs otherwise (measured, asyncio's own
loop and uvloop).

If the loop has a task factory when the pool is opened (tracers set one), each task comes from that.

Invariant: outside of a call of the starter the loop is as it was.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import _current_tasks, _enter_task, _leave_task  # type: ignore[attr-defined]
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol, cast, final

__all__ = ["Start", "has_factory", "run_step", "task_starter"]


class Start(Protocol):
    """Make a task, and run it to its end or its first suspension."""

    def __call__(self, coroutine: Coroutine[Any, Any, Any], *, name: str, context: Context) -> asyncio.Task[Any]: ...


def has_factory(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether tasks of a loop come from a task factory; that of asyncio makes the same tasks as we do."""
    return loop.get_task_factory() not in (None, getattr(asyncio, "eager_task_factory", None))


def run_step(loop: asyncio.AbstractEventLoop, context: Context, step: Callable[..., object], *args: Any) -> None:
    """Run a step of a task inside of another's step, or outside of any: one task steps aside, and comes back."""
    # These two are there in every Python, and outside of any task as well.
    outer = asyncio.current_task(loop)
    if outer is not None:
        _leave_task(loop, outer)
    try:
        context.run(step, *args)
    finally:
        if outer is not None:
            _enter_task(loop, outer)
        del context, step, args, outer  # an error's frames refer to this one (`f_back`), and the context to its job


def task_starter(loop: asyncio.AbstractEventLoop) -> Start:
    """Return what starts tasks on a loop; it may be called in another task's step, or outside of any."""
    if has_factory(loop):
        return _FactoryStarter(loop)
    if sys.version_info < (3, 12):
        return _own_starter(loop)
    new_task = asyncio.Task

    # No `functools.partial`: it would make a dictionary of the keywords for each task.
    def start(coroutine: Coroutine[Any, Any, Any], *, name: str, context: Context) -> asyncio.Task[Any]:
        try:
            return new_task(coroutine, loop=loop, name=name, context=context, eager_start=True)
        except BaseException:
            coroutine.close()
            raise
        finally:
            del coroutine, context  # an error's frames refer to this one (`f_back`), and the context to its job

    return start


def _own_starter(loop: asyncio.AbstractEventLoop) -> Start:
    """Return `eager_start` for Python 3.11, whose insides change no more."""
    attributes, call_soon = loop.__dict__, loop.call_soon
    new_task = asyncio.Task
    entered: Context | None = None  # that of the task which is being made
    step: Callable[[], object] | None = None

    def take_down(call: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        nonlocal step
        # Nobody else has this context: a task has it from its making on.
        if context is entered is not None:
            step = call
            return None
        # A task is made of new objects: a collection may run now, and with it whatever `__del__` wants done soon.
        return call_soon(call, *args, context=context)

    # A closure, not a class: that saves a no-op job a sixteenth.
    def start(coroutine: Coroutine[Any, Any, Any], *, name: str, context: Context) -> asyncio.Task[Any]:
        nonlocal entered, step
        before = attributes.get("call_soon")  # somebody may have put one of his own there
        outside, entered = entered, context
        attributes["call_soon"] = take_down
        try:
            task = new_task(coroutine, loop=loop, name=name, context=context)
        except BaseException:
            coroutine.close()
            raise
        finally:
            if before is None:
                del attributes["call_soon"]
            else:
                attributes["call_soon"] = before
            entered = outside
        first, step = step, None
        assert first is not None
        # As `asyncio` does it from 3.12 on: one task steps aside for another, and comes back.
        outer = _current_tasks.pop(loop, None)
        try:
            context.run(first)
        finally:
            if outer is not None:
                _current_tasks[loop] = outer
            # An error's frames refer to this one (`f_back`), and these to its job.
            del coroutine, context, first, outer, outside
        return task

    return start


@final
class _FactoryStarter:
    """Start tasks of the loop's own task factory at once, in every Python.

    The factory may wrap the coroutine, and give a task of any class. Its first step is taken down, as above, and called
    here. If there is none to take down, the task is eager already, or it starts when it likes.
    """

    __slots__ = ("_call_soon", "_loop", "_steps", "_take_down")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._call_soon: Callable[..., Any] = loop.call_soon
        self._steps: list[tuple[Callable[..., object], tuple[Any, ...], Context | None]] = []

        def take_down(call: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
            if not args and isinstance(getattr(call, "__self__", None), asyncio.Task):
                self._steps.append((call, args, context))
                return None
            return self._call_soon(call, *args, context=context)

        self._take_down = take_down

    def __call__(self, coroutine: Coroutine[Any, Any, Any], *, name: str, context: Context) -> asyncio.Task[Any]:
        loop, attributes = self._loop, self._loop.__dict__
        before = attributes.get("call_soon")
        cast("Any", coroutine).__qualname__ = name  # what tracers call it by
        attributes["call_soon"] = self._take_down
        try:
            # Not `context=`: a factory of two arguments is refused that. The task has a copy of the context.
            task: asyncio.Task[Any] = context.run(loop.create_task, coroutine, name=name)
        finally:
            if before is None:
                del attributes["call_soon"]
            else:
                attributes["call_soon"] = before
            steps, self._steps = self._steps, []
        first: Callable[..., object] | None = None
        inside: Context | None = None
        for step, args, its_context in steps:
            if first is None and getattr(step, "__self__", None) is task:
                first, inside = step, its_context
            else:  # the factory has made other tasks, too
                self._call_soon(step, *args, context=its_context)
        if first is not None and inside is not None:
            run_step(loop, inside, first)
        del coroutine, context, steps, first, inside  # an error's frames refer to this one (`f_back`)
        return task
