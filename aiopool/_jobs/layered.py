"""Layers: what is done around each attempt of a job: `async def layer(job, call)`, which awaits `call()`, or does not.

A layer sees an attempt as the worker does: it is called anew for each, it is cancelled with it, and what it returns or
raises is what the attempt returned or raised. The first layer of a list is the outermost. Those of several places add
up: the pool's are outside of the group's, these outside of the function's, and the view's are the innermost.

Always true: a job without layers knows nothing of them; one that has some carries another function.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias, final

from aiopool._jobs.callables import function_name, is_asynchronous

__all__ = ["Call", "Layer", "check_layers", "layered"]


@final
class Call:
    """What a layer wraps: the layers inside of it, and the function.

    Await `call()` for the outcome; more than once, if it may run more than once.

    Attributes:
        function: the function that was submitted.
        args: its arguments.
        keywords: its keyword arguments.
    """

    __slots__ = ("_index", "_layers", "_run", "args", "function", "job", "keywords")

    def __init__(
        self,
        job: Any,
        layers: tuple[Layer, ...],
        index: int,
        run: Callable[[Callable[..., Any], tuple[Any, ...]], Awaitable[Any]],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> None:
        """`run(function, args)` is called inside of the last layer."""
        self.job = job
        self._layers = layers
        self._index = index
        self._run = run
        self.function = function
        self.args = args
        self.keywords = keywords

    def __call__(self) -> Awaitable[Any]:
        """Run what is inside."""
        if self._index == len(self._layers):
            function = functools.partial(self.function, **self.keywords) if self.keywords else self.function
            return self._run(function, self.args)
        return self._layers[self._index](self.job, self._next(self.args, self.keywords))

    def with_arguments(self, *args: Any, **keywords: Any) -> Call:
        """Return the same call with other arguments; the layers inside see them."""
        call = self._next(args, keywords)
        call._index = self._index
        return call

    def _next(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> Call:
        return Call(self.job, self._layers, self._index + 1, self._run, self.function, args, keywords)

    def __repr__(self) -> str:
        return f"<Call of {function_name(self.function)}, {len(self._layers) - self._index} layers inside>"


Layer: TypeAlias = Callable[[Any, Call], Awaitable[Any]]
"""An `async def layer(job, call)`, or an object with such a `__call__`."""


def check_layers(layers: object) -> tuple[Layer, ...]:
    """Return layers as a tuple.

    Raises:
        TypeError: they are no list, or one is no async function of a job and a call.
    """
    if isinstance(layers, (str, bytes)) or not isinstance(layers, Iterable):
        raise TypeError(f"layers={layers!r}: write a list of layers, such as layers=[log_calls()]")
    found = tuple(layers)
    for layer in found:
        if isinstance(layer, type) or not callable(layer) or not is_asynchronous(layer):
            what = "a class: write layers=[Layer(...)]" if isinstance(layer, type) else "no async function"
            raise TypeError(
                f"layers has {layer!r}, which is {what}. A layer is `async def layer(job, call): return await call()`"
            )
    return found


def layered(
    job: Any, layers: tuple[Layer, ...], run: Callable[[Callable[..., Any], tuple[Any, ...]], Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    """Return what a job calls in place of its function, so that its layers are around it."""
    function: Any = job._function
    keywords: dict[str, Any] = {}
    if job._spec.sent:
        function, job._args = function.parts()  # what the layers see, and may change; it is pickled again
    if type(function) is functools.partial and function.keywords and not function.args:
        function, keywords = function.func, function.keywords  # `submit` has put them there

    def call(*args: Any) -> Awaitable[Any]:
        return Call(job, layers, 0, run, function, args, dict(keywords))()

    return call
