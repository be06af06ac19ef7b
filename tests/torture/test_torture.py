"""Real fleets are tortured, on each kind of store, and every promise is kept."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aiopool._torture.report import as_text
from aiopool._torture.servers import PACKAGES
from aiopool._torture.torture import Options, torture

SERVERS = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed"),
    )
    for kind, package in PACKAGES.items()
]


@pytest.mark.timeout(300)
async def test_sqlite_keeps_its_promises_while_processes_are_killed(tmp_path: Path) -> None:
    """Six deaths, at failpoints and by chance, and nothing is lost, doubled or changed."""
    outcome = await torture(Options(kills=6, hosts=2, seconds=6, seed=1, rate=40, keep=tmp_path))
    assert outcome.ok, as_text(outcome)
    assert outcome.kills >= 6
    assert outcome.account.acknowledged > 0


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", SERVERS)
async def test_a_server_keeps_its_promises_while_processes_are_killed(server: str, tmp_path: Path) -> None:
    """The same on a server, which is killed, too, and whose connections are cut, delayed and frozen."""
    outcome = await torture(
        Options(server=server, kills=6, hosts=2, seconds=6, seed=2, rate=40, poisons=0, keep=tmp_path)
    )
    assert outcome.ok, as_text(outcome)
    assert outcome.account.acknowledged > 0


# It takes minutes, and tries the engines: once, on the newest Python, is enough.
newest = pytest.mark.skipif(sys.version_info < (3, 13), reason="a hundred deaths are tried on the newest Python")


@newest
@pytest.mark.long
@pytest.mark.timeout(900)
async def test_sqlite_survives_a_hundred_deaths(tmp_path: Path) -> None:
    """The same, for longer."""
    outcome = await torture(Options(kills=100, hosts=4, seconds=40, keep=tmp_path))
    assert outcome.ok, as_text(outcome)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("server", SERVERS)
async def test_a_server_survives_a_hundred_deaths(server: str, tmp_path: Path) -> None:
    """Hosts, producers and the server itself are killed, and connections cut, delayed and frozen."""
    outcome = await torture(Options(server=server, kills=100, hosts=4, seconds=100, clock=True, keep=tmp_path))
    assert outcome.ok, as_text(outcome)


@pytest.mark.parametrize("point", ["claim.after", "settle.before"])
def test_a_failpoint_kills_the_process_at_its_pass(point: str) -> None:
    """The process dies by the signal, at the pass that was named, not before."""
    code = (
        f"from aiopool._runtime.failpoints import reach\nreach({point!r}); print('once', flush=True); reach({point!r})"
    )
    died = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AIOPOOL_FAILPOINT": f"{point}:2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, "once\n")


def test_an_unknown_failpoint_is_an_error_that_names_the_known_ones() -> None:
    """A typing error must not look like a process that survives."""
    died = subprocess.run(
        [sys.executable, "-c", "import aiopool._runtime.failpoints"],
        env={**os.environ, "AIOPOOL_FAILPOINT": "setle.before:2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == 1
    assert "settle.before" in died.stderr


def test_the_command_refuses_a_store_in_memory() -> None:
    """No other process can see it: the exit code is 2, and the text says why."""
    said = subprocess.run(
        [sys.executable, "-m", "aiopool", "torture", "--store", "memory://", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2
    assert "die with their process" in said.stderr


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_command_prints_one_line_of_json(tmp_path: Path) -> None:
    """A program can read what came of it."""
    said = subprocess.run(
        [sys.executable, "-m", "aiopool", "torture", "--kills", "2", "--seconds", "3", "--json", "--keep", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    outcome = json.loads(said.stdout)
    assert (said.returncode, outcome["violations"]) == (0, [])
