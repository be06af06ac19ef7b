"""What the tests of the service registry share: stubborn programs, and waiting for what can be seen."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

# A shell that ignores SIGTERM, says so, and waits in a way that needs no CPU.
STUBBORN = ["sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 60; done']
# The same with a grandchild that is not stubborn, and one in a session of its own.
PATIENT = ["sleep", "600"]


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
