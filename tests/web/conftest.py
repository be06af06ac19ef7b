"""The fleet page is shown for every kind of store."""

import sys
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parents[1] / "stores"))

from kinds import KINDS


@pytest_asyncio.fixture(params=list(KINDS))
async def new_store(request, tmp_path):
    """Make stores on new data of one kind."""
    kind = KINDS[request.param]
    if (why := kind.skip()) is not None:
        pytest.skip(why)
    async with kind.data(tmp_path) as make:
        yield make
