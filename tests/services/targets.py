"""Targets for `multiprocessing`, importable so that forkserver and spawn find them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
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


def bound_when_orphaned(ready: Connection) -> None:
    """Die with the parent, but ask only when it is dead."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    ready.send("ready")
    parent.join()
    die_with_parent()
    time.sleep(600)


def bound_politely(ready: Connection) -> None:
    """Be told by SIGTERM, and write down that this was heard."""
    descriptor, path = tempfile.mkstemp()

    def clear_up(*_: object) -> None:
        os.write(descriptor, b"cleared up")
        os._exit(0)

    signal.signal(signal.SIGTERM, clear_up)
    die_with_parent(signal.SIGTERM)
    ready.send(path)
    while True:
        signal.pause()


def bound_and_done(ready: Connection) -> None:
    """Die with the parent, or before."""
    die_with_parent()
    ready.send("ready")
    sys.exit(7)
