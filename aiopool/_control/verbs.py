"""What can be asked of a pool: a closed list of verbs, by name. Nothing is looked up by the words of a request.

The verbs stand in `looking`, `steering`, `many`, `store_verbs` and `settings_verb`, which `call` imports. One reads its
arguments, refuses what it does not know, and answers with JSON. Those that are `outside` read what may be read from any
thread, and answer while the event loop is blocked; the others run in the loop of the pool.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Coroutine
from typing import Any, final

from aiopool._control.arguments import Arguments
from aiopool._control.watched import Watched

__all__ = ["VERBS", "Access", "Verb", "inside", "outside"]


class Access(enum.IntEnum):
    """What somebody may do: look, steer jobs, end the pool; each includes those before it."""

    READ = 1
    OPERATE = 2
    ADMIN = 3


Outside = Callable[[Watched, Arguments], dict[str, Any]]
Inside = Callable[[Watched, Arguments], Coroutine[Any, Any, dict[str, Any]]]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Verb:
    """Something that can be asked.

    Attributes:
        name: its name.
        access: what it takes to ask it.
        about: what it does, in one line; the first of the function's docstring.
        outside: the function, if it may be called in any thread; else None.
        inside: the function, if it runs in the loop of the pool; else None.
    """

    name: str
    access: Access
    about: str
    outside: Outside | None = None
    inside: Inside | None = None


VERBS: dict[str, Verb] = {}


def outside(access: Access) -> Callable[[Outside], Outside]:
    def add(function: Outside) -> Outside:
        VERBS[function.__name__] = Verb(function.__name__, access, _about(function), outside=function)
        return function

    return add


def inside(access: Access) -> Callable[[Inside], Inside]:
    def add(function: Inside) -> Inside:
        VERBS[function.__name__] = Verb(function.__name__, access, _about(function), inside=function)
        return function

    return add


def _about(function: Callable[..., object]) -> str:
    return (function.__doc__ or "").partition("\n")[0]
