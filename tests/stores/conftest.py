"""The fixtures of the conformance tests: every test that asks for `fleet` runs on each kind of store in `kinds.py`.

A test that asks for `shift_clock` is left out where a clock cannot be set; one that asks for `kill`, where nobody can
be made to die.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from fleet import Fleet, Peer
from kinds import KINDS, Kind, Maker

pytest.register_assert_rewrite("walk")  # what fails there shows its values


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """A kind of store."""
    chosen: Kind = KINDS[request.param]
    if (why := chosen.skip()) is not None:
        pytest.skip(why)
    return chosen


@pytest_asyncio.fixture
async def maker(kind: Kind, tmp_path: Path) -> AsyncIterator[Maker]:
    """New data of this kind."""
    async with kind.data(tmp_path) as made:
        yield made


@pytest_asyncio.fixture
async def fleet(maker: Maker) -> AsyncIterator[Fleet]:
    """Nobody has opened it yet."""
    made = Fleet(maker)
    try:
        yield made
    finally:
        await made.close()


@pytest_asyncio.fixture
async def peer(fleet: Fleet) -> Peer:
    """One incarnation."""
    return await fleet.join()


@pytest_asyncio.fixture
async def other(fleet: Fleet, peer: Peer) -> Peer:
    """Another one."""
    return await fleet.join()


@pytest.fixture
def shift_clock(kind: Kind, maker: Maker) -> Callable[[float], Awaitable[None]]:
    """Set the clock of the store."""
    if not kind.shifts:
        pytest.skip("its clock cannot be set")
    return maker.shift_clock


@pytest.fixture
def kill(kind: Kind, fleet: Fleet) -> Callable[[Peer], Awaitable[None]]:
    """Let an incarnation die."""
    if not kind.kills:
        pytest.skip("its incarnations cannot be made to die")
    return fleet.kill
