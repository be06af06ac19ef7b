"""What `aiopool top` costs the program that it watches: `python -m benchmarks.top_cost`.

A program of its own has 100 jobs that run, 1,000 that wait, and 1,000 that have ended; or jobs come and end all the
time (`--busy`), a tenth of them with an error. In each round it is left alone for some seconds, and watched as long by
a real `aiopool top --plain` in each of the views, in another order each time. Printed is the CPU time of the program,
all of its threads, in milliseconds for each second: alone, and what watching adds. While nobody asks, an open door
costs nothing. It needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VIEWS = ("running", "waiting", "failed", "groups", "loop", "what-if")
ALONE = "alone"
MOST = 0.5  # ms of each second


async def nothing(number: int) -> None:
    """Succeed, or fail once in ten times."""
    if number % 10 == 0:
        raise ValueError("no such page")


async def program(busy: bool) -> None:
    """Be watched, until standard input ends."""
    import aiopool
    from aiopool import Pool

    aiopool.control()
    over = asyncio.Event()
    async with Pool(100, name="mail", keep_finished=1000, queue_size=None, on_error=lambda job, error: None) as pool:
        for number in range(1000):
            await pool.submit(nothing, number)
        await pool.join()
        if not busy:
            for number in range(1100):
                await pool.with_options(group=f"host-{number % 20}").submit(over.wait)
        reader = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        print("ready", flush=True)
        number = 0
        while busy and not reader.done():
            number += 1
            await pool.submit(nothing, number)
            await asyncio.sleep(0.01)
        await reader
        await pool.cancel_all()


@contextlib.contextmanager
def watched_program(directory: str, busy: bool) -> Iterator[subprocess.Popen[str]]:
    """Start the program, and end it."""
    line = [sys.executable, "-m", "benchmarks.top_cost", "--program", *(["--busy"] if busy else [])]
    with subprocess.Popen(
        line, cwd=ROOT, env=environment(directory), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit("benchmarks.top_cost: the program did not start")
        yield process
        process.communicate()


def environment(directory: str) -> dict[str, str]:
    """Return the environment of the program and of `aiopool top`, which draws for a terminal of the usual size."""
    return os.environ | {"XDG_RUNTIME_DIR": directory, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "24"}


def cpu(process: subprocess.Popen[str]) -> float:
    """Return the CPU time of a process, in ms. Linux has a clock for each; what psutil reads has steps of 10 ms."""
    return time.clock_gettime((~process.pid << 3) | 2) * 1e3


def spend(process: subprocess.Popen[str], seconds: float) -> float:
    """Return the CPU time of the program in so many seconds, in ms for each of them."""
    before, begin = cpu(process), time.perf_counter()
    time.sleep(seconds)
    return (cpu(process) - before) / (time.perf_counter() - begin)


def one_turn(process: subprocess.Popen[str], directory: str, view: str, seconds: float) -> float:
    """Measure the program alone, or while somebody looks at a view once a second."""
    if view == ALONE:
        return spend(process, seconds)
    line = [sys.executable, "-m", "aiopool", "top", "mail", "--plain", "--interval", "1", "--show", view]
    with subprocess.Popen(line, cwd=ROOT, env=environment(directory), stdout=subprocess.PIPE, text=True) as top:
        assert top.stdout is not None
        if not top.stdout.readline():
            raise SystemExit("benchmarks.top_cost: aiopool top has ended")
        spent = spend(process, seconds)
        top.kill()
        top.communicate()
    return spent


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.top_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn (default 10)")
    parser.add_argument("--busy", action="store_true", help="jobs come and end while somebody looks")
    parser.add_argument("--program", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.program:
        asyncio.run(program(options.busy))
        return
    spent: dict[str, list[float]] = {name: [] for name in (ALONE, *VIEWS)}
    names = list(spent)
    with tempfile.TemporaryDirectory(prefix="top-") as directory, watched_program(directory, options.busy) as process:
        for number in range(options.rounds):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                spent[name].append(one_turn(process, directory, name, options.seconds))
    print(f"CPU time of the program, ms for each second; {options.rounds} rounds of {options.seconds:g} s")
    alone = spent.pop(ALONE)
    print(f"  {statistics.median(alone):8.3f}  alone ({min(alone):.3f} to {max(alone):.3f})")
    for view, times in spent.items():
        more = [own - base for own, base in zip(times, alone, strict=True)]
        middle = statistics.median(more)
        verdict = "" if middle <= MOST else f"  more than {MOST:g}"
        print(f"  {middle:+8.3f}  {view} ({min(more):+.3f} to {max(more):+.3f}){verdict}")


if __name__ == "__main__":
    main()
