"""What was found by writing the docs as a stranger would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import aiopool
import aiopool.testing

ROOT = Path(aiopool.__file__).parents[1]


def test_the_command_runs_as_a_module_too():
    """Where the script is not on the path, `python -m aiopool` is what people try."""
    done = subprocess.run(
        [sys.executable, "-m", "aiopool", "map", "math:factorial", "--json"],
        input="5\n",
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert '"input": 5, "ok": true, "result": 120' in done.stdout


@pytest.mark.parametrize("module", [aiopool, aiopool.testing], ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(module):
    """A name that nobody can look up is not public."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md"))
    missing = [name for name in module.__all__ if not re.search(rf"\b{name}\b", pages)]
    # The errors are shown by their module, name by name.
    missing = [name for name in missing if name not in aiopool.errors.__all__]
    assert missing == [], "write `::: aiopool.<name>` on a page of docs/reference"
