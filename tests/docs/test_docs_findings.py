"""What was found by writing the docs as a stranger would."""

from __future__ import annotations

import importlib
import inspect
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


REFERENCE = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md")}
PUBLIC = [
    "aiopool",
    "aiopool.errors",
    "aiopool.events",
    "aiopool.fleet",
    "aiopool.from_thread",
    "aiopool.health",
    "aiopool.instrumentation.logging",
    "aiopool.instrumentation.opentelemetry",
    "aiopool.instrumentation.prometheus",
    "aiopool.instrumentation.system",
    "aiopool.instrumentation.tracing",
    "aiopool.metrics",
    "aiopool.pytest_plugin",
    "aiopool.services",
    "aiopool.settings",
    "aiopool.sizing",
    "aiopool.stores",
    "aiopool.testing",
]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_in_the_reference(name):
    """Each name of a public module has one entry, or its module is shown whole."""
    module = importlib.import_module(name)
    entries = re.findall(r"^::: (\S+)$", "\n".join(REFERENCE.values()), re.MULTILINE)
    assert len(entries) == len(set(entries))
    shown = {f"{name}.{member}" for member in re.findall(r"^        - (\w+)$", REFERENCE["testing.md"], re.MULTILINE)}
    if name == "aiopool.testing":
        entries = [*entries, *shown]
    elif name in entries:
        return  # shown whole
    missing = [public for public in module.__all__ if f"{name}.{public}" not in entries]
    # The errors are shown by their module, wherever else they can be imported from.
    assert set(missing) <= set(aiopool.errors.__all__), f"write `::: {name}.<name>` on a page of docs/reference"


def test_every_option_of_a_job_has_one_row():
    """In the order of `JobOptions`."""
    rows = re.findall(r"^\| `(\w+)` \| ", REFERENCE["job-options.md"], re.MULTILINE)
    assert sorted(rows) == sorted(inspect.signature(aiopool.JobOptions).parameters)


@pytest.mark.parametrize(
    "call", [aiopool.Pool, aiopool.Retry, aiopool.RetryBudget, aiopool.Restart, aiopool.run, aiopool.Pool.map]
)
def test_every_argument_is_explained_once(call):
    """In the `Args:` of the docstring, from which the reference is made."""
    text = inspect.cleandoc(call.__doc__ or "") + "\n" + inspect.cleandoc(call.__init__.__doc__ or "")
    part = re.search(r"^(?:Args|Attributes):\n((?:    .*\n|\n)+)", text + "\n", re.MULTILINE)
    assert part is not None
    explained = re.findall(r"^    ((?:\*{0,2}\w+(?:, )?)+):", part[1], re.MULTILINE)
    names = [name.lstrip("*") for names in explained for name in names.split(", ")]
    assert sorted(names) == sorted(name for name in inspect.signature(call).parameters if name != "self")
