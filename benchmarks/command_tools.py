"""`aiopool map` beside the tools that people use for lines: GNU parallel, `xargs -P`, a page of `multiprocessing`.

    python -m benchmarks.command_tools [--lines 1000] [--rounds 3]

Three kinds of work, each with rows of its own: a function that does nothing, a program that does nothing, and a
function that computes for some milliseconds. Rounds are interleaved. A row has the time on the clock and the CPU of all
processes for each line, the start included, and its ratio to the first row of its kind. What is not installed is left
out, and said.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

TARGETS = """
import asyncio, hashlib

def nothing(line): return None
async def coroutine(line): return None

async def program(line):
    return await (await asyncio.create_subprocess_exec("true", line)).wait()

def compute(line):
    data = line.encode()
    for _ in range(5000):
        data = hashlib.sha256(data).digest()
    return data.hex()
"""

BY_HAND = """
import json, multiprocessing, sys
import targets
if __name__ == "__main__":
    function = getattr(targets, sys.argv[1])
    with multiprocessing.Pool() as pool, open("in") as lines, open("out", "w") as out:
        for result in pool.imap_unordered(function, (line.rstrip() for line in lines)):
            print(json.dumps({"ok": True, "result": result}), file=out)
"""

AIOPOOL = [sys.executable, "-m", "aiopool", "map", "in", "-o", "out", "--overwrite"]


def aiopool(function: str, *options: str) -> list[str]:
    """Return the command line for a function of the targets."""
    return [*AIOPOOL[:4], f"targets:{function}", *AIOPOOL[4:], *options]


KINDS: dict[str, dict[str, list[str]]] = {
    "a function that does nothing": {
        "aiopool map, async def": aiopool("coroutine"),
        "aiopool map, plain function": aiopool("nothing"),
        "aiopool map --processes": aiopool("nothing", "--processes"),
        "multiprocessing.Pool, by hand": [sys.executable, "by_hand.py", "nothing"],
    },
    "a program that does nothing": {
        "aiopool map, async def that starts it": aiopool("program", "--size", str(PROCESSORS)),
        "xargs -P": ["xargs", "-a", "in", "-n", "1", "-P", str(PROCESSORS), "true"],
        "GNU parallel": ["parallel", "--will-cite", "-a", "in", "-j", str(PROCESSORS), "true"],
    },
    "a function that computes": {
        "aiopool map --processes": aiopool("compute", "--processes"),
        "multiprocessing.Pool, by hand": [sys.executable, "by_hand.py", "compute"],
        "aiopool map, in threads": aiopool("compute", "--size", str(PROCESSORS)),
    },
}


def measure(command: list[str], here: Path) -> tuple[float, float]:
    """Return the seconds of a command on the clock, and of CPU, its children included."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), str(here)))}
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=here, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure, and print a table for each kind of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    missing = {row[0] for rows in KINDS.values() for row in rows.values() if shutil.which(row[0]) is None}
    for tool in sorted(missing):
        print(f"{tool} is not installed: its row is left out")
    kinds = {kind: {name: row for name, row in rows.items() if row[0] not in missing} for kind, rows in KINDS.items()}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        (here / "targets.py").write_text(TARGETS)
        (here / "by_hand.py").write_text(BY_HAND)
        (here / "in").write_text("".join(f"{number}\n" for number in range(options.lines)))
        for _ in range(options.rounds):
            for kind, rows in kinds.items():
                for name, row in rows.items():
                    found.setdefault((kind, name), []).append(measure(row, here))
    for kind, rows in kinds.items():
        print(f"\n{kind}: {options.lines:,} lines, {PROCESSORS} processors, median of {options.rounds}")
        print(f"{'':40}{'µs a line':>12}{'ratio':>8}{'µs of CPU':>12}{'ratio':>8}")
        first: tuple[float, ...] | None = None
        for name in rows:
            numbers = tuple(
                statistics.median(column) / options.lines * 1e6 for column in zip(*found[kind, name], strict=True)
            )
            first = first or numbers
            cells = "".join(f"{number:12,.0f}{number / base:8.2f}" for number, base in zip(numbers, first, strict=True))
            print(f"{name:40}{cells}")


if __name__ == "__main__":
    main()
