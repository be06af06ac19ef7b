"""The how-to of services: its lifespan runs, and what it says about the signatures is true."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

from services.support import (
    ROOT,
    nothing_left,  # noqa: F401 - a check around every test of this module
    running,
)

PAGE = (ROOT / "docs" / "how-to" / "services.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def block(text: str) -> str:
    (found,) = (block for block in BLOCKS if text in block)
    return found


async def test_the_lifespan_runs(tmp_path, monkeypatch) -> None:
    """As a framework calls it."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(block("def lifespan"), names)
    app = SimpleNamespace(state=SimpleNamespace())
    async with names["lifespan"](app):  # type: ignore[operator]
        pid = app.state.services.status()["watcher"].pid
        assert running(pid)
    assert not running(pid)


def test_the_page_names_no_foreign_place() -> None:
    """Install lines use the checkout."""
    assert "pip install aiopool" not in PAGE
    assert str(Path.home()) not in PAGE or os.path.expanduser("~") == "/"
