"""Each test of settings has an empty directory, no variables of ours, and leaves no logs switched on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiopool.instrumentation.logging import reset_logging


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("AIOPOOL_"):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Pools that are made of settings with `logs` switch them on for the whole program."""
    yield
    reset_logging()
