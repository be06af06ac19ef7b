"""Whole programs in processes of their own, for tests that send them signals."""

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

PREFACE = """
import asyncio, multiprocessing, os, signal, sys, threading, time
import aiopool
from aiopool import Pool

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored

def say(*words):
    # In one write; print() may make several, and the words of another process would come between them.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


@contextmanager
def program(
    body: str, loop: str = "asyncio", *, before: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a program, behind a command if one is given; its standard error goes to its standard output."""
    factory = "None" if loop == "asyncio" else "__import__('uvloop').new_event_loop"
    code = PREFACE + f"loop_factory = {factory}\n" + textwrap.dedent(body)
    with subprocess.Popen(
        [*before, sys.executable, "-X", "dev", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        with watched(process):
            yield process


@contextmanager
def watched(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Kill a process in the end, or after a minute."""
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        process.kill()


def wait_for(process: subprocess.Popen[str], line: str) -> list[str]:
    """Read until a line, and return all lines read."""
    assert process.stdout is not None
    lines = []
    for text in process.stdout:
        lines.append(text.rstrip("\n"))
        if lines[-1] == line:
            return lines
    raise AssertionError(f"the program never said {line!r}, but:\n" + "\n".join(lines))


def rest(process: subprocess.Popen[str]) -> tuple[list[str], int]:
    """Read to the end, and return the lines and the exit code.

    What asyncio's debug mode says of a slow step is left out: on a loaded machine any step may be one.
    """
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    kept = [line for line in lines if not line.removeprefix("WARNING:asyncio:").startswith("Executing <")]
    return kept, process.wait()
