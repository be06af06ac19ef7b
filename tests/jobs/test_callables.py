"""What may be submitted: all that can be called. Each is run as what it is, or refused with an advice that fits."""

import asyncio
import functools
import inspect
import operator
import re

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


async def two(url, depth, /, *, limit):
    return url, depth, limit


async def three(url, depth=1, *rest, limit=None, **others):
    return url


class Client:
    async def get(self, url):
        return url


@functools.wraps(two)
async def wraps_two(*args, **kwargs):
    return "the wrapper decides"


async def declares_its_own(*args, **kwargs):
    return args


declares_its_own.__signature__ = inspect.signature(lambda: None)

WRONG = {
    "one too few": (same, (), {}, "same(value) cannot be called so: missing a required argument: 'value'"),
    "the line": (same, (), {}, "Write submit(same, value)"),
    "one too many": (same, (1, 2), {}, "too many positional arguments"),
    "unknown name": (same, (1,), {"depth": 2}, "got an unexpected keyword argument 'depth'"),
    "given twice": (same, (1,), {"value": 2}, "multiple values for argument 'value'"),
    "no keyword": (two, (1, 2), {}, "Write submit(two, url, depth, limit=...)"),
    "positional only": (two, (1,), {"depth": 2, "limit": 3}, "'depth'"),
    "with defaults": (three, (), {"depth": 2}, "missing a required argument: 'url'"),
    "with defaults, given twice": (three, (1,), {"url": 2}, "multiple values for argument 'url'"),
    "method": (Client().get, (), {}, "Client.get(url) cannot be called so"),
    "function of a class": (Client.get, ("a",), {}, "missing a required argument: 'url'"),
    "plain function": (plain, (), {}, "plain(value) cannot be called so"),
}


@pytest.mark.parametrize("call", ["submit", "submit_nowait", "run"])
@pytest.mark.parametrize("kind", WRONG)
async def test_a_call_that_cannot_work_is_refused_where_it_is_written(kind, call):
    """The arguments are checked against the signature at submission, each time; no job is made."""
    function, args, kwargs, text = WRONG[kind]
    async with Pool(1) as pool:
        for _ in range(2):
            with pytest.raises(TypeError, match=re.escape(text.replace("submit(", f"{call}("))):
                job = getattr(pool, call)(function, *args, **kwargs)
                await job
        assert pool.statistics().submitted == 0


RIGHT = {
    "all by keyword": (same, (), {"value": 1}),
    "every kind": (two, (1, 2), {"limit": 3}),
    "default": (three, (1,), {}),
    "rest": (three, (1, 2, 3, 4), {}),
    "other names": (three, (1,), {"limit": 2, "colour": "red"}),
    "method": (Client().get, ("a",), {}),
    "function of a class": (Client.get, (None, "a"), {}),
    "what it wraps would refuse": (wraps_two, (), {}),
    "what it declares would refuse": (declares_its_own, (1,), {}),
    "class": (dict, (), {"a": 1}),
    "partial": (functools.partial(same, value=1), (), {}),
}


@pytest.mark.parametrize("kind", RIGHT)
async def test_a_call_that_works_is_accepted(kind):
    """What the code takes is taken, whatever a signature says; what does not tell its arguments is called."""
    function, args, kwargs = RIGHT[kind]
    async with Pool(1) as pool:
        await pool.run(function, *args, **kwargs)


async def test_each_function_of_a_name_is_checked_by_its_own_arguments():
    """Two functions may have one name; and a function known to a view is checked again for each call."""

    def make(count):
        async def function(*args):
            return len(args)

        async def one(value):
            return value

        one.__qualname__ = function.__qualname__ = "the same"
        return function if count is None else one

    async with Pool(1) as pool:
        assert await pool.run(make(None), 1, 2) == 2
        with pytest.raises(TypeError, match=re.escape("submit(the same, ...): the same(value) cannot be called so")):
            await pool.submit(make(1), 1, 2)
        assert await pool.run(make(1), 1) == 1


async def test_map_takes_a_function_of_one_argument():
    """Another is refused before anything is read of the items."""
    read = []

    def items():
        read.append(1)
        yield 1

    async with Pool(1) as pool:
        for function in (two, arguments_none):
            with pytest.raises(TypeError, match=re.escape("write map(function_of_one_argument, items)")):
                pool.map(function, items())
        assert await pool.map(three, [1]).collect() == [1]
    assert not read


async def arguments_none():
    pass
