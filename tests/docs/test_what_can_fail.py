"""The page *What can fail* promises nothing without a test: each of its lines names one that exists. So do the tests of
*What a store promises*."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
PAGE = ROOT / "docs/explanation/what-can-fail.md"
NAME = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def promises(text: str = PAGE.read_text(encoding="utf-8")) -> list[str]:
    """Return the bullets of the page, or of a part of another one."""
    return re.findall(r"^- .*(?:\n  .*)*", text, re.MULTILINE)


def of_stores() -> list[str]:
    """Return the bullets with the tests of stores."""
    page = ROOT / "docs/explanation/what-a-store-promises.md"
    return promises(page.read_text(encoding="utf-8").partition("## The tests")[2])


def test_each_line_names_its_test() -> None:
    assert len(promises()) > 40
    assert len(of_stores()) > 5
    assert [line for line in promises() + of_stores() if not NAME.search(line)] == []


@pytest.mark.parametrize("file", sorted({file for file, _ in NAME.findall("\n".join(promises() + of_stores()))}))
def test_each_test_that_is_named_exists(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    known = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    named = {name for other, name in NAME.findall("\n".join(promises() + of_stores())) if other == file}
    assert named - known == set()
