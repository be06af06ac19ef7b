"""The how-to of services: every whole program in it runs, and what it says about the signatures is true."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from services.helpers import (
    ROOT,
    environment,
    nothing_left,  # noqa: F401 - a check around every test of this module
    running,
)

import aiopool

PAGE = (ROOT / "docs" / "how-to" / "services.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def block(text: str) -> str:
    (found,) = (block for block in BLOCKS if text in block)
    return found


def test_the_first_program_runs() -> None:
    """As it stands."""
    done = subprocess.run(
        [sys.executable, "-c", block("send_mail")], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


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


async def test_the_lines_about_stopping_run() -> None:
    """With a registry that has these services."""
    registry = aiopool.ServiceRegistry()
    registry.add("storage", aiopool.Command(["sleep", "600"]), name="redis")
    registry.add("mail", asyncio.Event().wait)
    await registry.start()
    names: dict[str, object] = {"registry": registry}
    body = "".join(f"    {line}\n" for line in block("# by type").splitlines())
    exec(f"async def run():\n{body}    return report", names)
    assert (await names["run"]()).success  # type: ignore[operator]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_compiles(number) -> None:
    """Also those that are no whole programs."""
    import ast

    compile(BLOCKS[number], "services.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_page_names_no_foreign_place() -> None:
    """Install lines use the checkout."""
    assert "pip install aiopool" not in PAGE
    assert str(Path.home()) not in PAGE or os.path.expanduser("~") == "/"
