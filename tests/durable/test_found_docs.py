"""What was found by writing the docs of durable jobs as a stranger would."""

import pytest

from aiopool import Handlers, Limit, Pool


async def greet(name: str) -> str:
    return f"Hello, {name}!"


async def test_a_function_has_one_registered_name():
    """A second name is refused with what to write: the first one would not work any more, in whatever handlers."""
    first, second = Handlers(), Handlers()
    first.register("greet")(greet)
    second.register("greet")(greet)  # the same name elsewhere is fine
    for handlers in (first, second):
        with pytest.raises(ValueError, match="a function of its own that calls it"):
            handlers.register("welcome")(greet)
    async with Pool(store="memory://", handlers=first) as pool:
        assert await pool.run(greet, "Ann") == "Hello, Ann!"


async def test_a_limit_of_a_fleet_is_not_changed_in_one_process():
    """`pool.set_limit` would change nothing for the jobs of a store; the error has the line to write."""
    handlers = Handlers()
    handlers.register("greet")(greet)
    async with Pool(store="memory://", handlers=handlers, limits={"greet": Limit(max_at_once=1)}) as pool:
        with pytest.raises(RuntimeError, match=r"await pool\.fleet\.set_limit\('greet'"):
            pool.set_limit("greet", Limit(max_at_once=2))
        await pool.fleet.set_limit("greet", Limit(max_at_once=2))
