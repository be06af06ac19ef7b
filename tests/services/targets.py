"""Targets for `multiprocessing`, importable so that forkserver and spawn find them."""

import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection

from aiopool.services import die_with_parent


def serve(ready: Connection) -> None:
    """Run until SIGTERM."""
    ready.send("ready")
    time.sleep(600)


def ignore(ready: Connection) -> None:
    """Run on through SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.send("ready")
    time.sleep(600)


def with_grandchild(ready: Connection) -> None:
    """Start a program that nobody but its parent knows."""
    child = subprocess.Popen(["sleep", "600"])
    ready.send(child.pid)
    time.sleep(600)


def crash(code: int) -> None:
    sys.exit(code)


def bound(ready: Connection) -> None:
    """Die with the parent."""
    die_with_parent()
    ready.send("ready")
    time.sleep(600)
