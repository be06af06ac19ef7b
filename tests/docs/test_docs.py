"""Every block of code in README.md and docs/ runs, and says what the page says that it says.

The rules, for whoever writes a page:

- Blocks marked `python` run one after another, in one namespace for each page, with `await` allowed at the top level.
- A `text` block right after one is its output; `…` stands for anything.
- Blocks with `test_` functions are also run by pytest, all blocks of the page as one file.
- A block marked `sh` runs if a line `<!-- run -->` stands before it; `python` and `aiopool` are the ones of the tests.
- A block that cannot run is marked by its language alone, such as `python no-run`; there has to be a good reason.

Each page runs in a process of its own. By hand: `python tests/docs/test_docs.py docs/page.md`.
"""

import ast
import asyncio
import contextlib
import dataclasses
import difflib
import inspect
import io
import os
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Whole programs and processes: `test_services_docs.py` runs that one.
OTHERS = {ROOT / "docs/how-to/services.md"}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(set((ROOT / "docs").rglob("*.md")) - OTHERS)]
# To find and load all that are installed would take two seconds a page.
PLUGINS = ["-p", "pytest_asyncio.plugin", "-p", "anyio.pytest_plugin", "-p", "aiopool.pytest_plugin"]
FENCE = re.compile(
    r"(?P<mark><!-- run -->\n+)?^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass
class Block:
    """One fenced block: its language, its text, its first line in the page, and the output that stands after it."""

    info: str
    body: str
    line: int
    marked: bool
    expected: str | None = None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        indent = match["indent"]
        body = re.sub(f"^{indent}", "", match["body"], flags=re.MULTILINE)
        info, line = match["info"].strip(), text.count("\n", 0, match.start("body")) + 1
        if info == "text" and found and not text[end : match.start()].strip():
            found[-1].expected = body
        else:
            found.append(Block(info, body, line, match["mark"] is not None))
        end = match.end()
    return found


def same(expected: str, output: str) -> bool:
    """Whether an output is what the page says; `…` in the page stands for anything."""
    pattern = ".*?".join(re.escape(part) for part in expected.rstrip().split("…"))
    return re.fullmatch(pattern, output.rstrip(), re.DOTALL) is not None


def compare(page: Path, block: Block, output: str) -> None:
    if block.expected is None or same(block.expected, output):
        return
    diff = difflib.unified_diff(
        block.expected.rstrip().splitlines(), output.rstrip().splitlines(), "the page", "the output", lineterm=""
    )
    raise SystemExit("\n".join([f"{page}, line {block.line}: the output is another one", *diff]))


def run_page(page: Path) -> None:
    """Run the blocks of a page in this process."""
    module = types.ModuleType("__main__")
    # Without a `__file__`: processes that are spawned would run it, and it is not Python.
    sys.modules["__main__"] = module
    with contextlib.closing(Once()) as loop, tempfile.TemporaryDirectory() as directory:
        os.symlink(ROOT / "examples", Path(directory, "examples"))
        for name, words in {"python": "", "aiopool": " -m aiopool"}.items():
            script = Path(directory, ".bin", name)
            script.parent.mkdir(exist_ok=True)
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
            script.chmod(0o755)
        os.environ["PATH"] = os.pathsep.join([str(Path(directory, ".bin")), os.environ["PATH"]])
        os.chdir(directory)
        for block in blocks(page):
            output = io.StringIO()
            if block.info == "python":
                tree = compile("\n" * (block.line - 1) + block.body, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                with contextlib.redirect_stdout(output):
                    loop.run(tree, module.__dict__)
            elif block.info == "sh" and block.marked:
                done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.body], capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(
                        f"{page}, line {block.line}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
                    )
                output.write(done.stdout)
            else:
                continue
            compare(page, block, output.getvalue())


class Once:
    """An event loop for those blocks that await at the top level; made when the first one comes."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, code: types.CodeType, namespace: dict[str, object]) -> None:
        if not code.co_flags & inspect.CO_COROUTINE:
            exec(code, namespace)
            return
        if self._runner is None:
            self._runner = asyncio.Runner()

        async def body() -> None:
            await eval(code, namespace)

        self._runner.run(body())

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()


def environment() -> dict[str, str]:
    """This checkout, and no warning unnoticed."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "NO_COLOR": "1"}


def pages() -> list[Path]:
    return [page for page in PAGES if page.exists()]


if __name__ == "__main__":
    run_page(Path(sys.argv[1]).resolve())
else:
    import pytest

    @pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
    def test_page(page: Path, tmp_path: Path) -> None:
        code = [block for block in blocks(page) if block.info == "python" or block.marked]
        if not code:
            return
        done = subprocess.run(
            [sys.executable, __file__, str(page)], env=environment(), capture_output=True, text=True, timeout=100
        )
        missing = re.search(r"^ModuleNotFoundError: No module named '([^']*)'$", done.stderr, re.MULTILINE)
        if missing is not None and not missing[1].startswith("aiopool"):
            pytest.skip(f"the page is about {missing[1]}, which is not installed; it is in the extra docs")
        assert done.returncode == 0, done.stdout + done.stderr
        python = [block.body for block in code if block.info == "python"]
        if any("def test_" in body for body in python):
            (tmp_path / "test_page.py").write_text("\n\n".join(python))
            (tmp_path / "pytest.ini").write_text(
                "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
            )
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-q",
                    "-p",
                    "no:cacheprovider",
                    *PLUGINS,
                    "test_page.py",
                ],
                env={**environment(), "PYTHONWARNINGS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=100,
            )
            assert done.returncode == 0, done.stdout + done.stderr

    def test_every_block_has_a_language() -> None:
        """What has none, or a mistyped one, would not be run and nobody would notice."""
        known = {
            "python",
            "python no-run",
            "text",
            "sh",
            "console",
            "toml",
            "yaml",
            "ini",
            "json",
            "dockerfile",
            "mermaid",
        }
        strange = [
            f"{page.relative_to(ROOT)}:{block.line}: {block.info!r}"
            for page in pages()
            for block in blocks(page)
            if block.info not in known
        ]
        assert strange == []

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
        for page in [*pages(), *ROOT.glob("aiopool/**/*.py"), ROOT / "pyproject.toml"]:
            text = page.read_text(encoding="utf-8")
            assert not re.search(r"(pip3?|pipx|uv|poetry|pdm) (pip )?(install|add) (-\S+ )*[\"']?aiopool\b", text), page
