"""Exceptions and objects of users that do what they should not: each of their methods may raise anything."""

import asyncio
import dataclasses


class Stop(KeyboardInterrupt):
    """A subclass, as libraries have them."""


# What code likes to take for something else than an error.
BASE_KINDS = (asyncio.CancelledError, GeneratorExit, MemoryError, RecursionError, SystemExit, KeyboardInterrupt, Stop)


def bomb(kind):
    """Return a method that raises."""

    def method(self, *args, **kwargs):
        raise kind("a method of the user's")

    return method


# (not `__init_subclass__` and the like: those are of the class; `__del__` is reported by Python itself)
METHODS = (
    "__bool__ __eq__ __ne__ __hash__ __str__ __repr__ __format__ __len__ __iter__ __contains__ __getattr__ "
    "__getattribute__ __setattr__ __delattr__ __dir__ __reduce__ __reduce_ex__ __setstate__ __sizeof__ __lt__ __call__ "
    "__copy__ __deepcopy__ __enter__ __await__ with_traceback add_note"
).split()
ATTRIBUTES = ("__class__", "__traceback__", "__context__", "__cause__", "__notes__", "__suppress_context__", "args")


def all_bombs(kind):
    """Return the body of a class whose every method and attribute raises."""
    return {name: bomb(kind) for name in METHODS} | {name: property(bomb(kind)) for name in ATTRIBUTES}


def object_whose_everything_raises(kind=ValueError):
    """Return an object: a result, an argument, a function."""
    body = all_bombs(kind)
    del body["__await__"]  # else it is an awaitable, and that is refused
    return type("Hostile", (), body)()


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """As client libraries ship them."""

    code: str = "NoSuchKey"


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlots(Exception):
    code: str = "NoSuchKey"


class Slots(Exception):
    __slots__ = ()


class Unwritable(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(name)


class Odd(Exception):
    """Nothing raises, and nothing is what it should be."""

    __notes__ = 3
    __str__ = __repr__ = lambda self: 3
    __bool__ = __eq__ = lambda self, *args: "perhaps"
    __hash__ = None
    with_traceback = add_note = lambda self, *args: None

    def __getattr__(self, name):
        return self


class Falsy(Exception):
    __len__ = __bool__ = lambda self: 0


def exceptions():
    """Return makers of exceptions, by name."""
    makers = {kind.__name__: kind for kind in (Frozen, FrozenSlots, Slots, Unwritable, Odd, Falsy)}
    for name in (*METHODS, *ATTRIBUTES):
        body = {name: property(bomb(ValueError)) if name in ATTRIBUTES else bomb(ValueError)}
        makers[f"its {name} raises"] = type("Hostile", (Exception,), body)
    for kind in (ValueError, AttributeError, *BASE_KINDS):
        makers[f"everything raises {kind.__name__}"] = type("Hostile", (Exception,), all_bombs(kind))
    makers["everything raises, no Exception"] = type("Hostile", (BaseException,), all_bombs(ValueError))
    group = type("HostileGroup", (ExceptionGroup,), all_bombs(ValueError))
    makers["everything raises, a group"] = lambda: group("several", [ValueError("one")])
    return makers
