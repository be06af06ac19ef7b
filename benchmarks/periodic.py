"""What `pool.every` costs, and how late it is: python -m benchmarks.periodic [--rounds 5] [--seconds 2]

Beside it the loop that people write by hand, which drifts: its next turn counts from the end of the last one. All rows
are interleaved over the rounds, in one run: the CPU of a run, and by how much the last
one is behind its moment.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from aiopool import Pool

Trial = Callable[[float, float], Awaitable[tuple[list[float], int]]]


async def every(interval: float, seconds: float) -> tuple[list[float], int]:
    """Return the moments of the runs, counted from the begin, and how many were missed."""
    moments: list[float] = []

    async def tick() -> None:
        moments.append(loop.time() - begin)

    loop = asyncio.get_running_loop()
    async with Pool() as pool:
        begin = loop.time()
        periodic = pool.every(interval, tick)
        await asyncio.sleep(seconds)
    return moments, periodic.missed


async def by_hand(interval: float, seconds: float) -> tuple[list[float], int]:
    """The same with a task that sleeps."""
    moments: list[float] = []
    loop = asyncio.get_running_loop()
    begin = loop.time()

    async def run() -> None:
        while True:
            await asyncio.sleep(interval)
            moments.append(loop.time() - begin)

    task = asyncio.create_task(run())
    await asyncio.sleep(seconds)
    task.cancel()
    return moments, 0


TRIALS: dict[str, Trial] = {"task that sleeps, by hand": by_hand, "pool.every": every}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--interval", type=float, default=0.005)
    options = parser.parse_args()
    cpu: dict[str, list[float]] = {name: [] for name in TRIALS}
    drift: dict[str, list[float]] = {name: [] for name in TRIALS}
    for _ in range(options.rounds):
        for name, trial in TRIALS.items():
            begin = time.process_time()
            moments, missed = asyncio.run(trial(options.interval, options.seconds))  # type: ignore[arg-type]
            cpu[name].append((time.process_time() - begin) / len(moments) * 1e6)
            drift[name].append((moments[-1] - (len(moments) + missed) * options.interval) * 1e3)
    print(f"every {options.interval * 1e3:g} ms for {options.seconds:g} s, median of {options.rounds}")
    print(f"  {'':28}{'CPU µs a run':>14}{'ratio':>8}{'last run behind its moment, ms':>34}")
    base = statistics.median(next(iter(cpu.values())))
    for name in TRIALS:
        middle = statistics.median(cpu[name])
        print(f"  {name:28}{middle:14.1f}{middle / base:8.2f}{statistics.median(drift[name]):34.1f}")


if __name__ == "__main__":
    main()
