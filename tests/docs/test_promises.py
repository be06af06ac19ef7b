"""`tests/promises.md` promises nothing without a test: each of its lines names files that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def promises() -> list[str]:
    """Return the bullets of the list."""
    return re.findall(r"^- .*(?:\n  .*)*", (TESTS / "promises.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_each_promise_names_the_files_that_test_it() -> None:
    """A promise is a sentence and the test files behind it, and those files are there."""
    assert len(promises()) >= 20
    for promise in promises():
        files = re.findall(r"`([\w/]+\.py)`", promise)
        assert any(Path(file).name.startswith("test_") for file in files), promise
        assert [file for file in files if not (TESTS / file).is_file()] == [], promise


def test_each_test_file_can_be_run_alone() -> None:
    """A test file imports from its own folder, from the top one, or by the name of a folder: those are on the path."""
    files = {file.stem: file for file in TESTS.rglob("*.py") if file.name not in ("conftest.py", "__init__.py")}
    astray = [
        f"{file.relative_to(TESTS)} imports {name}"
        for file in files.values()
        for name in re.findall(r"^(?:from|import) (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        if name in files and files[name].parent not in (TESTS, file.parent)
    ]
    assert astray == []
