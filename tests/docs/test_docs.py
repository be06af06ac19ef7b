"""Every block of code in README.md and docs/ runs, and prints what the page says. The rules are in `pages.py`."""

import itertools
import re
from pathlib import Path

import pytest
import yaml
from pages import LANGUAGES, PAGES, ROOT, blocks, programs, run_page, why_not

# What a stranger reads first runs every time.
FIRST = ("README.md", "docs/tutorial/")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name_of(page), marks=[pytest.mark.long] * (not name_of(page).startswith(FIRST)))
        for page in PAGES
        if programs(page)
    ],
)
def test_page(page: Path, tmp_path: Path) -> None:
    """Every program of a page runs."""
    if (why := why_not(page)) is not None:
        pytest.skip(why)
    found = "\n\n".join(run_page(page, tmp_path))
    missing = re.search(r"^ModuleNotFoundError: No module named '([^']*)'$", found, re.MULTILINE)
    if missing is not None and not missing[1].startswith("aiopool"):
        pytest.skip(f"the page is about {missing[1]}, which is not installed; it is in the extra docs")
    assert not found, found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```python\nprint(1)\n```\n\n```text\n1\n```\n", ""),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "line 2: the output is another one"),
        ("```python\nprint(1)\n```\n", "line 2: the output is another one"),
        ("```python\nawait main()\n```\n", "SyntaxError"),
        ("```python\nx = 1\n```\n\n```python\nx\n```\n", "NameError"),
        ("```python\nx = 1\n```\n\nBelow it, in the same\nfile:\n\n```python\nx\n```\n", ""),
        ("Save it as `one.py`:\n\n```python\nx = 1\n```\n\nThen:\n\n```python\nimport one\n```\n", ""),
        ("Save it as `one.py`:\n\n```python\nx\n```\n\nThen:\n\n```python\nimport one\n```\n", "NameError"),
        ("One file, *one file,\none below the other*.\n\n```python\nx = 1\n```\n\n```python\nx\n```\n", ""),
    ],
)
def test_a_block_that_does_not_run_is_found(text: str, found: str, tmp_path: Path) -> None:
    """Each block is a program, unless the page says where it goes."""
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    (tmp_path / "run").mkdir()
    problems = "".join(run_page(page, tmp_path / "run"))
    assert (found in problems) if found else not problems


def test_every_block_has_a_language() -> None:
    """What has none, or a mistyped one, would not be run and nobody would notice."""
    strange = [
        f"{page.relative_to(ROOT)}:{block.line}: {block.info!r}"
        for page in PAGES
        for block in blocks(page)
        if block.info not in LANGUAGES
    ]
    assert strange == []


def test_no_line_of_code_is_cut_off() -> None:
    """96 columns are shown in a window of 1280 pixels (`docs/assets/extra.css`); output wraps."""
    wide = [
        f"{page.relative_to(ROOT)}:{block.line + number}: {len(line)} columns"
        for page in PAGES
        if page.is_relative_to(ROOT / "docs")
        for block in blocks(page)
        for number, line in enumerate(block.body.splitlines())
        if len(line) > 96 and block.info != "text"
    ]
    assert wide == []


def test_what_is_not_run_is_an_excerpt() -> None:
    """A block that is not run stands, line for line, in a file that the paragraph before it links to."""
    for page in PAGES:
        for block in blocks(page):
            if block.info == "python no-run":
                files = re.findall(r"\]\(([^)#\s]+\.py)\)", block.before)
                assert any(block.body in (page.parent / file).read_text() for file in files), (page, block.line)


def test_links_within_the_checkout_exist() -> None:
    """mkdocs checks those of docs/; README and CONTRIBUTING are read outside of it."""
    broken = []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


@pytest.mark.parametrize("heading", ["Run it", "Test it"])
def test_readme_has_each_command_as_one_line(heading: str) -> None:
    """`.ci/run` takes them from there, and runs them as they stand."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    commands = re.findall(r"^```sh\n(.*?)^```$", found[1], re.MULTILINE | re.DOTALL)
    assert len(commands) == 1
    assert commands[0].count("\n") == 1


def test_nobody_is_sent_to_a_stranger() -> None:
    """The name on the public index belongs to another package: install lines use the checkout."""
    for page in [*PAGES, *ROOT.glob("aiopool/**/*.py"), ROOT / "pyproject.toml"]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(pip3?|pipx|uv|poetry|pdm) (pip )?(install|add) (-\S+ )*[\"']?aiopool\b", text), page


def test_the_index_of_how_to_has_the_groups_of_the_nav() -> None:
    """The same groups in the same order, with every page once."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    [pages] = [section["How-to"] for section in nav if isinstance(section, dict) and "How-to" in section]
    groups = {
        name: [path.removeprefix("how-to/") for path in paths] for group in pages[1:] for name, paths in group.items()
    }
    index = (ROOT / "docs" / "how-to" / "index.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", index, flags=re.MULTILINE)[1:]
    listed = {
        name: re.findall(r"^- \[.+?\]\((.+?)\)", text, re.MULTILINE)
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }
    assert listed == groups
    assert sorted(itertools.chain(*groups.values(), ["index.md"])) == sorted(
        page.name for page in (ROOT / "docs" / "how-to").glob("*.md")
    )
