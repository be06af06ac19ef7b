"""The page of features keeps its word: each *yes* of ours names a test that exists, and all tables agree about us."""

import re

from pages import ROOT

PAGE = ROOT / "docs" / "explanation" / "features.md"
ROWS = 110
ANSWERS = {"yes", "part", "–", "n/a"}
# What is no question of yes or no: the versions of Python, the licence.
TEXTS = {94, 95}


def tables() -> list[dict[int, list[str]]]:
    """Return each table of the page: the cells of each row, by its number."""
    return [
        {
            int(cells[0]): cells[1:]
            for line in table.splitlines()
            if (cells := [cell.strip(" *") for cell in line.strip().strip("|").split("|")])[0].isdigit()
        }
        for table in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    ]


def named(cells: list[str]) -> list[str]:
    return re.findall(r"`([\w/]+\.py::\w+)`", cells[-1])


def test_each_yes_of_ours_names_a_test() -> None:
    """The file is there, and has a test of that name."""
    ours = tables()[0]
    assert list(ours) == [*range(1, ROWS + 1)]
    for number, cells in ours.items():
        assert number in TEXTS or cells[1] in ANSWERS, (number, cells)
        assert (cells[1] != "yes") or named(cells), (number, cells)
        for name in named(cells):
            file, _, test = name.partition("::")
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^\s*(async )?def {test}\(", source, re.MULTILINE), (number, name)


def test_all_tables_have_the_same_rows_and_say_the_same_of_us() -> None:
    """Each row has as many cells as its table has columns, and an answer in each."""
    ours, *peers = tables()
    assert len(peers) == 4
    for table in peers:
        assert {number: cells[:2] for number, cells in table.items()} == {n: cells[:2] for n, cells in ours.items()}
        widths = {len(cells) for cells in table.values()}
        assert len(widths) == 1
        for number, cells in table.items():
            assert number in TEXTS or set(cells[1:]) <= ANSWERS, (number, cells)
