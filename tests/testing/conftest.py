"""The tests of `aiopool.testing` need their own seeds."""

import pytest


@pytest.fixture(autouse=True)
def _no_seeds_from_outside(monkeypatch):
    """The self-tests need their own seeds."""
    monkeypatch.delenv("AIOPOOL_SEEDS", raising=False)
