"""Run the blocks of code of a page as a reader runs them, and compare what they print with what the page says.

The rules, for whoever writes a page:

- A block marked `python` is a program: it is written to a file of its own, and that file is started.
- A block continues the program above it if the paragraph before it says "in the same file". All blocks of a page are
  one program if the text above the first says "one file, one below the other".
- A `text` block right after a block is what the block prints; `…` in it stands for anything. Without it, the block
  prints nothing.
- A program with `test_` functions is run by pytest.
- A block marked `pycon` is typed into `python -m asyncio`, and its lines without `>>>` are what is printed.
- A block marked `sh` runs if a line `<!-- run -->` stands before it; `python` and `aiopool` are the ones of the tests.
- A block marked `python no-run` is an excerpt of the file that the paragraph before it links to.
- A block of Python that the paragraph before it says to "save as `name.py`" is written under that name; a later block
  runs it, or imports it.
- A program with `DATABASE_URL` or `REDIS_URL` in it gets the address of a server that was started for it.

By hand: `python tests/pages.py docs/how-to/logs.md`.
"""

import dataclasses
import difflib
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "python no-run", "pycon", "text", "sh", "console", "toml", "yaml", "ini", "json", "dockerfile"}
CONTINUES = "in the same file"
SAVED = re.compile(r"[Ss]ave (?:it|this|them) as `(\w+\.py)`")
ONE_FILE = "one file, one below the other"
# To find and load all that are installed would take two seconds a page.
PLUGINS = ["-p", "pytest_asyncio.plugin", "-p", "anyio.pytest_plugin", "-p", "aiopool.pytest_plugin"]
FENCE = re.compile(
    r"(?P<mark><!-- run -->\n+)?^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


def _server(variable: str) -> str:
    """Return the address of a server, which is started now if it was not before."""
    sys.path.insert(0, str(ROOT / "tests" / "stores"))
    module = importlib.import_module(SERVERS[variable])
    return str(module.package_server() if variable == "DATABASE_URL" else module.shared(module.VALKEY).url)


def why_not(page: Path) -> str | None:
    """Return why a page cannot run here: a server that cannot be had; None: it can."""
    sys.path.insert(0, str(ROOT / "tests" / "stores"))
    for variable in {variable for program in programs(page) for variable in program.servers}:
        module = importlib.import_module(SERVERS[variable])
        why: str | None = module.why_not_package() if variable == "DATABASE_URL" else module.why_not(module.VALKEY)
        if why is not None:
            return why
    return None


# By the variable that a program reads: the module in `tests/stores` that has the server.
SERVERS = {"DATABASE_URL": "pg_server", "REDIS_URL": "redis_servers"}


@dataclasses.dataclass
class Block:
    """One fenced block: language, text, first line in the page, the paragraph before it, and the output after it."""

    info: str
    body: str
    line: int
    marked: bool
    before: str
    expected: str = ""


@dataclasses.dataclass
class Program:
    """What a reader runs: a file of one or more blocks, or the lines of a shell block."""

    blocks: list[Block]

    @property
    def text(self) -> str:
        return "\n\n".join(block.body for block in self.blocks)

    @property
    def expected(self) -> str:
        return "".join(block.expected for block in self.blocks)

    @property
    def where(self) -> str:
        return "line " + ", ".join(str(block.line) for block in self.blocks)

    @property
    def name(self) -> str | None:
        """Under which it is saved, for other programs of the page; None: it is run itself."""
        found = SAVED.search(" ".join(self.blocks[0].before.split())) if self.blocks[0].info == "python" else None
        return found[1] if found else None

    @property
    def servers(self) -> list[str]:
        """The variables in which it looks for the address of a server."""
        return [variable for variable in SERVERS if variable in self.text]

    def command(self, directory: Path) -> list[str]:
        if self.blocks[0].info == "pycon":
            return [sys.executable, "-m", "asyncio"]
        if self.blocks[0].info == "sh":
            return ["bash", "-euo", "pipefail", "-c", self.text]
        if re.search(r"^(async )?def test_", self.text, re.MULTILINE):
            (directory / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
            (directory / "test_program.py").write_text(self.text)
            return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGINS, "test_program.py"]
        (directory / "program.py").write_text(self.text)
        return [sys.executable, "program.py"]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        body = re.sub(f"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        info, line = match["info"].strip(), text.count("\n", 0, match.start("body")) + 1
        between = text[end : match.start()].strip()
        if info == "text" and found and not between:
            found[-1].expected = body
        else:
            found.append(Block(info, body, line, match["mark"] is not None, between.split("\n\n")[-1]))
        end = match.end()
    return found


def programs(page: Path) -> list[Program]:
    """What runs on a page, in the order of the first blocks."""
    found: list[Program] = []
    python: Program | None = None
    head = page.read_text(encoding="utf-8").partition("```python")[0]
    for block in blocks(page):
        if block.info == "sh" and block.marked:
            found.append(Program([block]))
        elif block.info == "pycon":
            block.body, block.expected = session(block.body)
            found.append(Program([block]))
        elif block.info == "python":
            if python is not None and (in_words(ONE_FILE, head) or in_words(CONTINUES, block.before)):
                python.blocks.append(block)
            else:
                found.append(python := Program([block]))
    return found


def session(text: str) -> tuple[str, str]:
    """What is typed in a session with a console, and what it prints."""
    typed = [line[4:] for line in text.splitlines() if line.startswith((">>> ", "... "))]
    printed = [line for line in text.splitlines() if not line.startswith((">>> ", "... "))]
    return "\n".join(typed) + "\n", "\n".join(printed) + "\n"


def in_words(words: str, text: str) -> bool:
    """Whether a text has these words, whatever its line breaks and markup."""
    return words in " ".join(re.sub(r"[*_`]", "", text).split())


def same(expected: str, output: str) -> bool:
    """Whether an output is what the page says; `…` in the page stands for anything."""
    pattern = ".*?".join(re.escape(part) for part in expected.rstrip().split("…"))
    return re.fullmatch(pattern, output.rstrip(), re.DOTALL) is not None


def problem(program: Program, directory: Path) -> str | None:
    """Run a program in a directory. Return what went wrong, or None."""
    if program.name is not None:
        (directory / program.name).write_text(program.text)
        return None
    command = program.command(directory)
    testing = "pytest" in command
    bin_path = os.pathsep.join([str(directory / ".bin"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": bin_path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    environment |= {variable: _server(variable) for variable in program.servers}
    if testing:
        environment |= {"PYTHONWARNINGS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    else:
        environment |= {"PYTHONWARNINGS": "error"}  # no warning unnoticed
    typed = program.text if command[1:] == ["-m", "asyncio"] else ""
    done = subprocess.run(
        command, input=typed, env=environment, cwd=directory, capture_output=True, text=True, timeout=100
    )
    if done.returncode:
        return f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    output = re.sub(r"^(>>> )+", "", done.stdout, flags=re.MULTILINE) if typed else done.stdout
    if testing or same(program.expected, output):
        return None
    diff = difflib.unified_diff(
        program.expected.rstrip().splitlines(), output.rstrip().splitlines(), "the page", "the output", lineterm=""
    )
    return "\n".join(["the output is another one", *diff, done.stderr])


def run_page(page: Path, directory: Path) -> Iterator[str]:
    """Run the programs of a page, in one directory. Yield what went wrong."""
    (directory / "examples").symlink_to(ROOT / "examples")
    (directory / ".bin").mkdir()
    for name, words in {"python": "", "aiopool": " -m aiopool"}.items():
        script = directory / ".bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        script.chmod(0o755)
    for program in programs(page):
        if (text := problem(program, directory)) is not None:
            yield f"{page}, {program.where}: {text}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit("\n\n".join(run_page(Path(sys.argv[1]).resolve(), Path(temporary))) or None)
