"""The public face as a type checker sees it: `tests/typing/api.py`, checked by mypy here and by pyright in CI."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
API = ROOT / "tests" / "typing" / "api.py"


def mypy(*args):
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


needs_mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")


@needs_mypy
@pytest.mark.timeout(240)
def test_mypy_sees_the_types_that_we_promise():
    """Each `assert_type` holds, and each line that must not type-check does not (an unused ignore is an error)."""
    run = mypy(str(API))
    assert run.returncode == 0, run.stdout + run.stderr


@needs_mypy
@pytest.mark.timeout(240)
def test_a_wrong_promise_would_be_found(tmp_path):
    """The test tests itself: one type exchanged for another is an error."""
    text = API.read_text()
    promise = 'assert_type(await pool.submit(fetch, "a"), Job[bytes])'
    assert text.count(promise) == 1
    wrong = tmp_path / "api.py"
    wrong.write_text(text.replace(promise, promise.replace("bytes", "str"), 1))
    run = mypy(str(wrong))
    assert run.returncode == 1
    assert 'Expression is of type "Job[bytes]", not "Job[str]"' in run.stdout


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright is not installed")
@pytest.mark.timeout(240)
def test_pyright_sees_them_too():
    """The same file under pyright; in the long run only, since it brings an interpreter of its own."""
    run = subprocess.run(["pyright", str(API)], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout
