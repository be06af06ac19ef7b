"""The diagram of a job's statuses in the docs shows the table in `aiopool._jobs.status`, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from aiopool._jobs.status import FINAL, TRANSITIONS, JobStatus

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs/assets/how-a-job-travels.svg"
PAGE = ROOT / "docs/reference/statuses.md"
SVG = "{http://www.w3.org/2000/svg}"

ROWS = {(str(before or ""), event, str(after)) for before, row in TRANSITIONS.items() for event, after in row.items()}


def _groups(kind: str) -> list[ElementTree.Element]:
    tree = ElementTree.parse(PICTURE)
    return [group for group in tree.iter(f"{SVG}g") if group.get("class") == kind]


def test_every_arrow_of_the_picture_is_a_row_of_the_table_and_the_other_way_round():
    arrows = [(g.get("data-from"), g.get("data-event"), g.get("data-to")) for g in _groups("transition")]
    assert len(arrows) == len(set(arrows))
    assert set(arrows) == ROWS


def test_every_arrow_shows_its_event():
    assert all(group.findtext(f"{SVG}text") == group.get("data-event") for group in _groups("transition"))


@pytest.mark.parametrize(("kind", "statuses"), [("final", FINAL), ("live", set(JobStatus) - FINAL)])
def test_every_status_is_drawn_once_as_what_it_is(kind, statuses):
    assert sorted(group.get("data-status") for group in _groups(kind)) == sorted(statuses)
    assert all(group.findtext(f"{SVG}text") == group.get("data-status") for group in _groups(kind))


def test_the_table_on_the_page_has_the_same_rows():
    text = PAGE.read_text(encoding="utf-8").partition("transitions: begin")[2].partition("transitions: end")[0]
    found = re.findall(r"^\| (?:\*\(new\)\*|`(\w+)`) \| ([\w ]+) \| `(\w+)`( \(final\))? \|$", text, re.M)
    assert {(before, event, after) for before, event, after, _ in found} == ROWS
    assert all(bool(final) == (after in FINAL) for _, _, after, final in found)


@pytest.mark.parametrize("script", ["scripts/diagram.py", "scripts/rooms.py"])
def test_what_is_checked_in_is_what_the_script_draws(script):
    check = subprocess.run([sys.executable, script, "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert check.returncode == 0, f"{check.stdout}{check.stderr}: run python {script}"
