"""Settings in processes of their own: what is loaded, and the command `aiopool settings`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from settings.support import POOLS, ROOT, SCHEMA, variable

from aiopool.settings import PoolSettings


def child(here: Path, *arguments: str, stdout: int = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIOPOOL_")}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=here,
        env={**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **env},
        timeout=100,
    )


def in_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[Any, str, str]:
    """The command in this process: its exit code, and what it wrote."""
    from aiopool.cli import main

    monkeypatch.setattr(sys, "argv", ["aiopool", *arguments])
    try:
        main()
        code: Any = 0
    except SystemExit as end:
        code = end.code or 0
    return code, *capfd.readouterr()


def test_the_package_does_not_load_pydantic(here):
    done = child(here, "-c", "import sys, aiopool; aiopool.Pool(); print([m for m in sys.modules if 'pydantic' in m])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_without_pyyaml(here):
    """The error says what to write; the other formats are read."""
    (here / "a.yaml").write_text("size: 4")
    (here / "a.toml").write_text("size = 4")
    script = (
        "import sys; sys.modules['yaml'] = None\n"
        "from aiopool.settings import *\n"
        "print(PoolSettings.load('a.toml').size)\n"
        "PoolSettings(size=5).save('b.yaml')\n"
        "try: PoolSettings.load('a.yaml')\n"
        "except SettingsError as error: print(error)"
    )
    done = child(here, "-c", script)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "4"
    assert 'pip install -e ".[yaml]"' in done.stdout
    assert PoolSettings.load("b.yaml").size == 5


def rows(text: str) -> dict[str, tuple[str, str]]:
    return {line.split()[0]: tuple(re.split(r"  +", line)[1:]) for line in text.splitlines() if "  " in line}  # type: ignore[misc]


def test_the_command(here):
    """Every setting, its value, and where it comes from."""
    (here / ".env").write_text("AIOPOOL_NAME=😀\n")
    (here / "a.yaml").write_text("size: 4\nretry:\n  on: [OSError, here_only:Mine]\n  give_up_on: []\n")
    (here / "here_only.py").write_text("class Mine(Exception): pass")
    done = child(
        here, "-m", "aiopool", "settings", "--file", "a.yaml", AIOPOOL_TIMEOUT="1h30m", AIOPOOL_PRIORITY="HIGH"
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = rows(done.stdout)
    assert found["size"] == ("4", "a.yaml line 1")
    assert found["name"] == ("😀", ".env line 1, AIOPOOL_NAME")
    assert found["timeout"] == ("5400", "environment variable AIOPOOL_TIMEOUT")
    assert found["priority"] == ("high", "environment variable AIOPOOL_PRIORITY")
    assert found["retry.on"] == ("OSError, here_only:Mine", "a.yaml line 3")
    assert found["retry.give_up_on"] == ("none", "a.yaml line 4")
    assert found["queue_timeout"] == ("none", "default")
    assert found["handle_signals"] == ("false", "default")
    assert [name.split(".")[0] for name in found if "." not in name or name == "retry.attempts"] == list(SCHEMA)
    ascii_only = child(here, "-m", "aiopool", "settings", PYTHONIOENCODING="ascii")
    assert (ascii_only.returncode, ascii_only.stderr) == (0, "")
    assert "\\U0001f600" in ascii_only.stdout


def test_what_the_command_prints_can_be_used(here):
    """Each value, as printed, is a value for the variable of its setting."""
    printed = rows(child(here, "-m", "aiopool", "settings").stdout)
    environ = {variable(name): value for name, (value, _) in printed.items()}
    assert PoolSettings.load(environ=environ, env_file=None) == PoolSettings.from_dict({})


def test_the_command_with_pools(here, monkeypatch, capfd):
    (here / "a.yaml").write_text(POOLS["yaml"])
    _, one, _ = in_here(monkeypatch, capfd, "settings", "-f", "a.yaml", "--pool", "mail")
    assert re.findall(r"^\[(.*)\]$", one, re.M) == ["mail"]
    _, lines, _ = in_here(monkeypatch, capfd, "settings", "-f", "a.yaml", "--json")
    monkeypatch.setenv("AIOPOOL_FILE", "a.yaml")
    _, every, _ = in_here(monkeypatch, capfd, "settings")
    assert re.findall(r"^\[(.*)\]$", every, re.M) == ["every pool", "mail", "web-eu", "idle"]
    monkeypatch.setenv("AIOPOOL_POOL", "mail")
    assert in_here(monkeypatch, capfd, "settings") == (0, one, "")
    found = {row["pool"]: row["settings"] for row in map(json.loads, lines.splitlines())}
    assert list(found) == [None, "mail", "web-eu", "idle"]
    assert found["mail"]["size"] == {"value": 4, "source": "a.yaml line 5"}
    assert found[None]["retry"] == {"value": None, "source": "default"}


def test_the_command_refuses(here, monkeypatch, capfd):
    """Exit code 2, every reason, no traceback."""
    (here / "a.yaml").write_text("sise: 4\n")
    done = child(here, "-m", "aiopool", "settings", "--file", "a.yaml", AIOPOOL_SIZE="four")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "aiopool: 2 settings cannot be used:",
        "  sise (a.yaml line 1): there is no such setting; did you mean 'size'?",
        "  size='four' (environment variable AIOPOOL_SIZE): it must be a whole number, 1 or more",
    ]
    code, _, said = in_here(monkeypatch, capfd, "settings", "--file", "none.yaml")
    assert (code, said) == (2, "aiopool: file='none.yaml' (argument): there is no such file\n")
    assert in_here(monkeypatch, capfd, "settings", "--sise", "4")[0] == 2
    (here / "a.yaml").write_text("size: 4\n")
    (here / "a.yaml").chmod(0o666)
    code, _, said = in_here(monkeypatch, capfd, "settings", "--file", "a.yaml")
    assert code == 0
    assert said.startswith("aiopool: warning: ")
    assert "a.yaml' can be changed by everybody" in said


def test_the_command_with_nobody_reading(here):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = child(here, "-m", "aiopool", "settings", stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
