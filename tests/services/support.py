"""What the tests of the service registry share: stubborn programs, and waiting for what can be seen."""

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

# Ignores SIGTERM (an ignored signal stays ignored through exec), says so, and waits.
STUBBORN = ["sh", "-c", 'trap "" TERM; echo ready; exec sleep 600']
PATIENT = ["sleep", "600"]


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that leaves a process behind; modules have this check by importing it."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("SERVICES_TEST_MARK", mark)
    yield
    monkeypatch.undo()
    deadline = time.monotonic() + 10
    while left := [process for process in map(psutil.Process, marked(mark)) if not _ours_to_keep(process)]:
        if time.monotonic() >= deadline:
            told = [(process.pid, process.cmdline()) for process in left]
            for process in left:
                process.kill()
            pytest.fail(f"left behind: {told}")
        time.sleep(0.01)


def _ours_to_keep(process: psutil.Process) -> bool:
    """The helpers of `multiprocessing` stay until the test run ends."""
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return True  # gone this moment
    return "resource_tracker" in words or "multiprocessing.forkserver" in words


def wait_until(condition: Callable[[], object], timeout: float = 20.0, what: str = "condition") -> None:
    """Wait for something that can be seen; never a fixed sleep."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} was not seen within {timeout:g} s"
        time.sleep(0.005)


async def until(condition: Callable[[], object], timeout: float = 20.0, what: str = "condition") -> None:
    """The same, without holding up the event loop."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} was not seen within {timeout:g} s"
        await asyncio.sleep(0.005)


def running(pid: int) -> bool:
    """Whether this pid runs and is no zombie, asked of psutil, not of the code under test."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stubborn() -> "subprocess.Popen[str]":
    """Start a child that ignores SIGTERM already when this returns."""
    child = subprocess.Popen(STUBBORN, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.stdout.close()
    return child


def environment() -> dict[str, str]:
    """Ours, with the package importable from the checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE.parent)])}


def script(name: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start one of the helper scripts beside this file, in a program of its own."""
    return subprocess.Popen(
        [sys.executable, str(HERE / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def line(child: "subprocess.Popen[str]") -> list[str]:
    """The next line of a script's output, in words; what it wrote to stderr if it ended instead."""
    assert child.stdout is not None
    assert child.stderr is not None
    text = child.stdout.readline()
    assert text, f"the script ended: {child.stderr.read()}"
    return text.split()


def marked(text: str) -> list[int]:
    """All running processes in whose environment or command line this text occurs."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = [*process.cmdline(), *(f"{k}={v}" for k, v in process.environ().items())]
        except psutil.Error:
            continue
        if any(text in word for word in words):
            found.append(process.pid)
    return found
