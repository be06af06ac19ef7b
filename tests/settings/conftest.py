"""Each test of settings has an empty directory, no variables of ours, and leaves neither logs nor a door behind."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiopool._control import face
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
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pools that are made of settings with `logs` or `control` switch these on for the whole program."""
    with tempfile.TemporaryDirectory(prefix="door") as directory:  # that of pytest may be too long for a socket
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield
        reset_logging()
        if face._open is not None:
            face._open.close()
