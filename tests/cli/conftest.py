"""A directory to run the command in."""

from pathlib import Path

import pytest
from cli.support import TARGETS


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with the module `targets`."""
    (tmp_path / "targets.py").write_text(TARGETS)
    return tmp_path
