"""A door of this process, in a directory of the test's own, and a way to knock at it."""

import asyncio
import shutil
import tempfile

import pytest

import aiopool
from aiopool._control.client import Connection


@pytest.fixture
def sockets(monkeypatch):
    """A directory for sockets: a short path, for that of pytest may be longer than an address can be."""
    path = tempfile.mkdtemp(prefix="door")
    monkeypatch.setenv("XDG_RUNTIME_DIR", path)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def door(sockets):
    """The open door of this process."""
    found = aiopool.control()
    yield found
    found.close()


@pytest.fixture
def ask(door):
    """`await ask(verb, **arguments)`: over the socket, from another thread, as another process would."""

    async def ask(verb, pool=None, **arguments):
        def knock():
            with Connection(door.path) as connection:
                return connection.ask(verb, pool, **arguments)

        return await asyncio.to_thread(knock)

    return ask
