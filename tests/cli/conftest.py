"""A directory to run the command in."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.support import TARGETS


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with the module `targets`."""
    (tmp_path / "targets.py").write_text(TARGETS)
    return tmp_path


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for sockets that no other program uses; its path is short, as that of a socket has to be."""
    with tempfile.TemporaryDirectory(prefix="door-") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        monkeypatch.delenv("AIOPOOL_CONTROL", raising=False)
        yield Path(directory) / "aiopool"
