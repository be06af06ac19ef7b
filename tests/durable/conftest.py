"""Pools with a store: each test that asks for `new_pool` runs on every kind of store."""

import itertools
import sys
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from aiopool import Pool
from aiopool.stores import Memory

sys.path.insert(0, str(Path(__file__).parents[1] / "stores"))

import pg_server
import redis_servers
from kinds import KINDS

_names = itertools.count()


@asynccontextmanager
async def _memory(folder):
    name = f"durable-{next(_names)}"
    held = Memory(name)  # holds the data between two openings

    def make(**options):
        return Memory(name, **options)

    make.held = held
    yield make


@pytest_asyncio.fixture(params=list(KINDS))
async def new_store(request, tmp_path):
    """Make stores on the same data."""
    kind = KINDS[request.param]
    if (why := kind.skip()) is not None:
        pytest.skip(why)
    # The clock of the reference stands still in its own tests.
    async with (_memory if request.param == "memory" else kind.data)(tmp_path) as make:
        yield make


@pytest.fixture
def new_pool(new_store):
    """Make pools that share one store, as those of several processes do."""

    def make(handlers, **options):
        store_options = options.pop("store_options", {})
        options.setdefault("on_error", lambda job, error: None)
        return Pool(store=new_store(**store_options), handlers=handlers, **options)

    return make


@pytest.fixture(params=["valkey", "postgres"])
def short_lease(request):
    """The URL of a new queue on a server, with leases of one second."""
    name = f"lease{uuid.uuid4().hex[:8]}"
    if request.param == "valkey":
        if (why := redis_servers.why_not(redis_servers.VALKEY)) is not None:
            pytest.skip(why)
        return f"{redis_servers.shared(redis_servers.VALKEY).url}?lease=1&prefix={name}"
    if (why := pg_server.why_not_package()) is not None:
        pytest.skip(why)
    url = pg_server.package_server()
    return f"{url}{'&' if '?' in url else '?'}lease=1&schema={name}"
