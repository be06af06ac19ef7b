"""What the measurement of coverage leaves out says why."""

import re
from pathlib import Path

import pytest

import aiopool

PACKAGE = Path(aiopool.__file__).parent
MARK = re.compile(r"#\s*pragma\b.*", re.IGNORECASE)
REASON = re.compile(r"# pragma: no (cover|branch): \w.{9,}")


def unexplained(source: str) -> list[str]:
    """Return the marks that give no reason."""
    return [mark[0] for mark in MARK.finditer(source) if not REASON.fullmatch(mark[0])]


def test_each_mark_gives_its_reason() -> None:
    """A mark of coverage in the package is followed by a reason, on its line."""
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 40
    found = {str(path.relative_to(PACKAGE)): unexplained(path.read_text(encoding="utf-8")) for path in files}
    assert {path: marks for path, marks in found.items() if marks} == {}


@pytest.mark.parametrize(
    "line", ["if x:  # pragma: no cover", "# pragma: no branch: ?", "# PRAGMA no-cover", "# pragma"]
)
def test_a_mark_without_a_reason_is_found(line: str) -> None:
    """However it is written."""
    assert len(unexplained(line)) == 1


def test_a_mark_with_a_reason_is_accepted() -> None:
    assert unexplained("if x:  # pragma: no cover: Windows, where no tests run") == []
