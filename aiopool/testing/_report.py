"""Where tasks wait, in words: what a failure of the simulation says.

Knows coroutines, frames and handles; knows nothing of the loop's clock or its schedule. Everything here only
looks: no frame is kept, no object is changed.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import linecache
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

__all__ = [
    "deadlock_text",
    "describe_callback",
    "describe_condition",
    "describe_tasks",
    "held_text",
    "spin_text",
    "takes_argument",
    "task_title",
]

_MAX_TASKS = 30  # a report that nobody reads to the end helps nobody
_MAX_FRAMES = 6


def describe_tasks(tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
    """Return one line per task: its name, and the chain of awaits down to where it waits."""
    ordered = sorted(tasks, key=lambda task: _natural(task.get_name()))
    lines = [f"  {task.get_name()}: {_chain(task)}" for task in ordered[:_MAX_TASKS]]
    if len(ordered) > _MAX_TASKS:
        lines.append(f"  … and {len(ordered) - _MAX_TASKS} more")
    return lines


def task_title(task: asyncio.Task[Any]) -> str:
    """Return the name of the function that the task runs: the same text in every run."""
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", None) or type(coroutine).__name__


def takes_argument(scenario: Callable[..., object]) -> bool:
    """Whether a scenario asks for an argument."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in kinds and p.default is p.empty for p in inspect.signature(scenario).parameters.values())


def describe_callback(callback: object) -> str:
    """Return the name of a callback, without an address in it."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    return getattr(callback, "__qualname__", None) or type(callback).__qualname__


def describe_condition(condition: Callable[[], object]) -> str:
    """Return the source of `condition`, if there is one, and the values of its free variables."""
    if not isinstance(condition, FunctionType):
        return repr(condition)
    code = condition.__code__
    text = _body(code) if code.co_name == "<lambda>" else code.co_qualname
    values = inspect.getclosurevars(condition).nonlocals
    free = ", ".join(f"{name} = {value!r}" for name, value in values.items())
    place = f"{Path(code.co_filename).name}:{code.co_firstlineno}"
    return f"{text}   ({place}{'; ' + free if free else ''})"


def _body(code: CodeType) -> str:
    """Return the source of a lambda's body: the span of all its instructions."""
    spans = [
        ((line, column), (end_line, end_column))
        for line, end_line, column, end_column in code.co_positions()
        if line and end_line and column is not None and end_column
    ]
    if not spans:
        return code.co_name
    (first, start), (last, end) = min(span[0] for span in spans), max(span[1] for span in spans)
    # Columns count bytes.
    lines = [linecache.getline(code.co_filename, number).encode() for number in range(first, last + 1)]
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    return " ".join(line.decode(errors="replace").strip() for line in lines) or code.co_name


def deadlock_text(outside: list[str], patience: float, moment: str, pending: list[asyncio.Task[Any]]) -> str:
    """Say that nothing can happen any more, what was waited for in vain, and who waits."""
    waited = ""
    if outside:
        waited = f" Nothing came in {patience:g} s of real time from: {', '.join(outside)}."
    return f"nothing is ready and no timer is armed ({moment}).{waited}\n{_pending_text(pending)}"


def held_text(reasons: list[str], patience: float, moment: str, pending: list[asyncio.Task[Any]]) -> str:
    """Say who has held the clock for too long, and what to do about it."""
    return (
        f"the clock has been held for {patience:g} s of real time by: {', '.join(reasons)} ({moment}).\n"
        f"{_pending_text(pending)}\n"
        "If a thread is meant to be stuck, use offload='leap'; if it is slow, give it patience=<seconds>."
    )


def spin_text(how: str, trace: tuple[str, ...], moment: str, pending: list[asyncio.Task[Any]]) -> str:
    """Say which steps came most often of late, and who waits meanwhile."""
    often = Counter(label.split(" ", 1)[1] for label in trace).most_common(5)
    steps = "\n".join(f"  {count} × {label}" for label, count in often)
    return (
        f"{how}: something runs round in circles ({moment}).\n"
        f"Of the last {len(trace)} steps:\n{steps}\n{_pending_text(pending)}\n"
        "If the program is really this long, raise max_steps or max_steps_at_once."
    )


def _pending_text(pending: list[asyncio.Task[Any]]) -> str:
    count = f"{len(pending)} pending task{'' if len(pending) == 1 else 's'}:"
    return "\n".join([count, *describe_tasks(pending)])


def _chain(task: asyncio.Task[Any]) -> str:
    frames = list(_frames(task.get_coro()))
    if not frames:
        return f"{task_title(task)} (nothing to see: not started, or running)"
    shown = frames if len(frames) <= _MAX_FRAMES else [*frames[:2], None, *frames[2 - _MAX_FRAMES :]]
    steps = " → ".join("…" if frame is None else _place(frame) for frame in shown)
    # The innermost line of the user's own says more than the line of asyncio that it ends in.
    own = next((frame for frame in reversed(frames) if "asyncio" not in Path(frame.f_code.co_filename).parts), None)
    line = "" if own is None else linecache.getline(own.f_code.co_filename, own.f_lineno).strip()
    return f"{steps}{f'   | {line}' if line else ''}"


def _frames(awaitable: object) -> Iterable[FrameType]:
    """Walk from a coroutine to what it awaits, and on, as far as Python shows it."""
    while awaitable is not None:
        for frame_name, next_name in (
            ("cr_frame", "cr_await"),
            ("gi_frame", "gi_yieldfrom"),
            ("ag_frame", "ag_await"),
        ):
            if hasattr(awaitable, frame_name):
                frame = getattr(awaitable, frame_name)
                if frame is not None:
                    yield frame
                awaitable = getattr(awaitable, next_name)
                break
        else:
            return


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})"


def _natural(name: str) -> tuple[str, int]:
    """Sort `Task-2` before `Task-10`."""
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)
