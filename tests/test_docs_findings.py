"""What was found by writing the docs as a stranger would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import aiopool

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
