"""What the tests of the Dask offload run in the workers of a cluster. Jobs tell what they do by lines of a file."""

import os
import signal
import sys
import time
from pathlib import Path

from aiopool import current_job


def say(folder, word):
    """Add a line to the file; whole, whoever writes at the same moment."""
    line = f"{time.time()} {word} {current_job().id} {os.getpid()}\n"
    file = os.open(Path(folder) / "said", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def said(folder):
    """Return the lines: (moment, word, id, pid)."""
    path = Path(folder) / "said"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(float(moment), word, id, int(pid)) for moment, word, id, pid in lines]


def wait_for(folder, name="gate"):
    say(folder, "begun")
    while not (Path(folder) / name).exists():
        time.sleep(0.01)
    say(folder, "ended")
    return name


def nap(folder: str, seconds: float) -> str:
    say(folder, "begun")
    time.sleep(seconds)
    say(folder, "ended")
    return "slept"


def die_the_first_time(folder):
    say(folder, "begun")
    if sum(word == "begun" for _, word, _, _ in said(folder)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    sys.exit(3)


def progress():
    for step in range(5):
        current_job().report_progress(step / 5, f"step {step}")
    current_job().report_progress(1)
    return current_job().id, current_job().attempt
