"""What may be submitted: all that can be called. Each is run as what it is, or refused with an advice that fits."""

import asyncio
import functools
import operator

import pytest
from helpers import virtual

from aiopool import Pool


async def same(value):
    await asyncio.sleep(0)
    return value


def plain(value):
    return value


@functools.wraps(same)
def wrapper(value):
    return same(value)


@functools.wraps(same)
async def async_wrapper(value):
    return await same(value)


@functools.cache
def cached(value):
    return value


@functools.lru_cache
async def cached_async(value):
    return value


@functools.singledispatch
async def dispatching(value):
    return value


@dispatching.register
async def _(value: int):
    return -value


@functools.singledispatch
def plain_dispatching(value):
    return value


class Callable:
    async def __call__(self, value):
        return value

    async def method(self, value):
        return value

    def plain(self, value):
        return value

    @classmethod
    async def of_class(cls, value):
        return value

    @staticmethod
    async def static(value):
        return value


async def values(count=1):
    for value in range(1, count + 1):
        yield value


RUN = {
    "async def": lambda: (same, 1),
    "plain": lambda: (plain, 1),
    "async wrapper": lambda: (async_wrapper, 1),
    "partial": lambda: (functools.partial(same, 1),),
    "partial of a partial": lambda: (functools.partial(functools.partial(Callable(), 1)),),
    "cached": lambda: (cached, 1),
    "dispatched": lambda: (dispatching, "a"),
    "plain dispatched": lambda: (plain_dispatching, 1),
    "callable": lambda: (Callable(), 1),
    "method": lambda: (Callable().method, 1),
    "plain method": lambda: (Callable().plain, 1),
    "class method": lambda: (Callable.of_class, 1),
    "static method": lambda: (Callable.static, 1),
    "builtin": lambda: (len, [1]),
    "class": lambda: (int, "1"),
    "anext": lambda: (anext, values()),
    "__anext__": lambda: (values().__anext__,),
    "asend": lambda: (values().asend, None),
}


@pytest.mark.parametrize("kind", RUN)
def test_what_can_be_called_is_run(kind, isolation):
    """Async ones run in the loop, plain ones in a thread, however they are bound, wrapped or dispatched."""

    async def main():
        function, *args = RUN[kind]()
        async with Pool(1, isolation=isolation) as pool:
            assert await pool.run(function, *args) == ("a" if kind == "dispatched" else 1)

    asyncio.run(main())


@virtual
async def test_dispatched_by_the_type_of_the_argument(isolation):
    """`functools.singledispatch` over async functions picks the one for the argument."""
    async with Pool(1, isolation=isolation) as pool:
        assert await pool.run(dispatching, 3) == -3


REFUSED = {
    "plain wrapper": (wrapper, 1, r"Its decorator wraps an async def in a plain function: write `async def` for that"),
    "lambda": (lambda value: same(value), 1, r"Submit the async function itself: submit\(function, \.\.\.\), not"),
    "method caller": (operator.methodcaller("method", 1), Callable(), r"write an `async def` that has `return await"),
    "cached async def": (cached_async, 1, r"what it keeps is a coroutine, which can be awaited once"),
    "partial of it": (functools.partial(cached_async), 1, r"what it keeps is a coroutine"),
    "async generator": (values, 1, r"Write an async def that consumes it"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_run_is_refused_with_an_advice_that_fits(kind, isolation):
    """A plain function that gives a coroutine, and what can only be awaited once, say what to write instead."""

    async def main():
        function, argument, advice = REFUSED[kind]
        async with Pool(1, isolation=isolation) as pool:
            with pytest.raises(TypeError, match=advice):
                await pool.run(function, argument)

    asyncio.run(main())
