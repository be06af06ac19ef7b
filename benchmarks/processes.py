"""What a job in a process costs, against `ProcessPoolExecutor`: python -m benchmarks.processes [--rounds 5]

The rows are interleaved over the rounds, all in one run, and both start their processes by `spawn`:

- no-op jobs, one after the other: the way there and back;
- no-op jobs, 1,000 at once, through two processes;
- the first job: a process is started;
- a result of 50 MB, and how long the event loop was held up meanwhile.

All numbers but the last are seconds on the wall: a job in a process is paid for by two processes.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiopool import Pool

Submit = Callable[..., Awaitable[Any]]
OURS, THEIRS = "aiopool", "executor"
PROCESSES = 2


def noop(index: int) -> int:
    return index


def large(size: int) -> bytes:
    return b"x" * size


async def one_by_one(submit: Submit, jobs: int = 500) -> float:
    """Seconds for a job, of jobs that wait for each other."""
    began = time.perf_counter()
    for index in range(jobs):
        await submit(noop, index)
    return (time.perf_counter() - began) / jobs


async def at_once(submit: Submit, jobs: int = 1000) -> float:
    """Seconds for a job, of many that are handed in together."""
    began = time.perf_counter()
    await asyncio.gather(*[submit(noop, index) for index in range(jobs)])
    return (time.perf_counter() - began) / jobs


async def result(submit: Submit, size: int = 50_000_000) -> float:
    """Seconds for a large result."""
    began = time.perf_counter()
    await submit(large, size)
    return time.perf_counter() - began


async def held_up(submit: Submit, size: int = 50_000_000) -> float:
    """The longest gap, in seconds, between two turns of the loop while a large result comes."""
    longest = 0.0
    waiting = asyncio.ensure_future(submit(large, size))
    last = time.perf_counter()
    while not waiting.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await waiting
    return longest


ROWS: dict[str, Callable[[Submit], Awaitable[float]]] = {
    "one after the other, a job": one_by_one,
    "1,000 at once, a job": at_once,
    "a result of 50 MB": result,
    "the loop held up by it": held_up,
}
FIRST = "the first job, with its process"


async def contest(samples: dict[str, dict[str, list[float]]]) -> None:
    """One round: each row once with each of the two, beside each other."""
    loop = asyncio.get_running_loop()
    with concurrent.futures.ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as executor:
        async with Pool(1000, None, offload="process", max_processes=PROCESSES) as pool:

            async def theirs(function: Callable[..., Any], *args: Any) -> Any:
                return await loop.run_in_executor(executor, function, *args)

            contenders: dict[str, Submit] = {OURS: pool.run, THEIRS: theirs}
            for name, submit in contenders.items():
                began = time.perf_counter()
                await submit(noop, 0)
                samples[FIRST][name].append(time.perf_counter() - began)
                await asyncio.gather(*[submit(noop, 0) for _ in range(100)])  # all processes are there
            for row, measure in ROWS.items():
                for name, submit in contenders.items():
                    samples[row][name].append(await measure(submit))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = max(1, parser.parse_args().rounds)
    samples: dict[str, dict[str, list[float]]] = {row: {OURS: [], THEIRS: []} for row in (FIRST, *ROWS)}
    for _ in range(rounds):
        asyncio.run(contest(samples))
    print(f"median of {rounds} rounds   {OURS:>12} {THEIRS:>12}   ratio (median of the rounds)")
    for row, times in samples.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(times[OURS], times[THEIRS], strict=True))
        middle = [f"{statistics.median(times[name]) * 1e3:.3f} ms" for name in (OURS, THEIRS)]
        print(f"{row:<32} {middle[0]:>12} {middle[1]:>12}   {ratio:.2f}")


if __name__ == "__main__":
    main()
