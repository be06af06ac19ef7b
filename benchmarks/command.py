"""What `aiopool map` costs: CPU of the whole process, start included, for each line of trivial work.

    python -m benchmarks.command [--lines 200000] [--rounds 3] [--source PATH]

Beside it what people write by hand: `ThreadPoolExecutor.map` over the lines of a file, with a line of JSON for each.
`--source` takes `aiopool` from another checkout, to compare two versions; rounds of all are interleaved.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = "async def coroutine(line): return None\ndef plain(line): return None\n"

BY_HAND = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from targets import plain
with ThreadPoolExecutor(10) as pool, open("in") as lines, open("out", "w") as out:
    lines = [line.rstrip() for line in lines]
    for line, result in zip(lines, pool.map(plain, lines)):
        print(json.dumps({"input": line, "ok": True, "result": result}), file=out)
"""


COROUTINE = "aiopool map, async def"
PLAIN = "aiopool map, plain function"
_AIOPOOL = ["-m", "aiopool", "map"]
COMMANDS = {
    COROUTINE: [*_AIOPOOL, "targets:coroutine", "in", "-o", "out", "--overwrite"],
    f"{COROUTINE}, --ordered": [*_AIOPOOL, "targets:coroutine", "in", "-o", "out", "--overwrite", "--ordered"],
    PLAIN: [*_AIOPOOL, "targets:plain", "in", "-o", "out", "--overwrite"],
    "ThreadPoolExecutor.map, by hand": ["-c", BY_HAND],
}


def prepare(here: Path, lines: int) -> None:
    """Write the functions and the lines."""
    (here / "targets.py").write_text(TARGETS)
    (here / "in").write_text("".join(f"{number}\n" for number in range(lines)))


def cost(command: list[str], here: Path, source: Path) -> float:
    """Return the seconds of CPU of a process."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(source), str(here)))}
    process = subprocess.Popen([sys.executable, *command], cwd=here, env=env, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[1])
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        prepare(here, options.lines)
        for _ in range(options.rounds):
            for name, command in COMMANDS.items():
                seconds[name].append(cost(command, here, options.source.resolve()))
    print(f"CPU µs a line, {options.lines:,} lines, median of {options.rounds} (least–most)")
    for name, values in seconds.items():
        least, middle, most = (
            value / options.lines * 1e6 for value in (min(values), statistics.median(values), max(values))
        )
        print(f"{name:36}{middle:6.1f}  ({least:.1f}–{most:.1f})")


if __name__ == "__main__":
    main()
