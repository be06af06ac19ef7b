"""What it costs to look at a pool of a million jobs: `python -m benchmarks.looking`.

For each question the largest gap between two turns of the event loop while it is asked, in milliseconds; and the memory
of one record of a job that has ended. The garbage collector is off, as in `growth`. Gaps are of CPU time: what others
do on the machine is not in them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from collections.abc import Awaitable, Callable

import psutil

from aiopool import Pool
from benchmarks.growth import Clock, turns
from benchmarks.workloads import noop

MOST_GAP = 5.0  # ms
RECORDS = 100_000


async def bytes_per_record() -> float:
    """Return the resident memory that a pool has more for each job that it remembers."""
    async with Pool(size=100, queue_size=None, keep_finished=RECORDS) as pool:
        await run_jobs(pool, 1_000)
        gc.collect()
        process = psutil.Process()
        before = process.memory_info().rss
        await run_jobs(pool, RECORDS - 1_000)
        gc.collect()
        return (process.memory_info().rss - before) / (RECORDS - 1_000)


async def run_jobs(pool: Pool, count: int) -> None:
    """Run no-ops, few at a time, so that no backlog grows."""
    for index in range(count):
        await pool.submit(noop, index)
        if not index % 100:
            await pool.join()
    await pool.join()


Ask = Callable[[Pool], Awaitable[object]]
QUESTIONS: dict[str, Ask] = {}


def question(name: str) -> Callable[[Ask], Ask]:
    """Register a question by how it is written."""

    def register(function: Ask) -> Ask:
        QUESTIONS[name] = function
        return function

    return register


@question("statistics()")
async def statistics(pool: Pool) -> object:
    """Count the jobs."""
    return pool.statistics()


@question("find(id)")
async def find(pool: Pool) -> object:
    """Find one of them."""
    return pool.find(500)


@question("running_jobs()")
async def running_jobs(pool: Pool) -> object:
    """List what runs."""
    return pool.running_jobs()


@question('jobs("running")')
async def jobs_running(pool: Pool) -> object:
    """List what runs, by its status."""
    return pool.jobs("running")


@question("next_jobs(50)")
async def next_jobs(pool: Pool) -> object:
    """List what starts next."""
    return pool.next_jobs(50)


@question("scan(), all of them")
async def scan(pool: Pool) -> object:
    """Look at each job."""
    count = 0
    async for _ in pool.scan():
        count += 1
    return count


@question('scan(status="scheduled"), none there')
async def scan_in_vain(pool: Pool) -> object:
    """Look for what is not there."""
    return [job async for job in pool.scan(status="scheduled")]


@question("scan(where=…), none there")
async def scan_where(pool: Pool) -> object:
    """Look for what only a function can tell."""
    return [job async for job in pool.scan(where=lambda job: job._sequence < 0)]


@question("cancel_all(where=…), one in 100")
async def cancel_some(pool: Pool) -> object:
    """Cancel a part of them."""
    return await pool.cancel_all("measured", where=lambda job: job._sequence % 100 == 0)


@question("cancel_all()")
async def cancel_all(pool: Pool) -> object:
    """Cancel the rest."""
    return await pool.cancel_all("measured")


async def gaps(count: int, only: str) -> None:
    """Ask each question to a pool with `count` jobs in its queue, and print the largest gap."""
    async with Pool(size=100, queue_size=None) as pool:
        gate = asyncio.Event()
        for _ in range(pool.size):
            await pool.with_options(priority=-1).submit(gate.wait)
        for number in range(count):
            pool.submit_nowait(noop, number)
            if not number % 1000:
                await asyncio.sleep(0)
        gc.collect()
        gc.disable()
        print(f"{count:,} jobs in the queue; largest gap between two turns of the loop, in ms of CPU time:")
        for name, ask in QUESTIONS.items():
            if only in name:
                clock = Clock(gaps=True)
                await turns(3)
                clock.start()
                await ask(pool)
                await turns(3)
                clock.stop()
                verdict = "" if clock.worst * 1e3 <= MOST_GAP else f"  more than {MOST_GAP:g}"
                print(f"  {clock.worst * 1e3:8.2f}  {name}{verdict}", flush=True)
        gc.enable()
        gate.set()
        await pool.cancel_all()


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.looking", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="jobs in the queue (default 1,000,000)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only questions with TEXT in them, or `record`")
    options = parser.parse_args(arguments)
    if options.only in "record":
        print(f"a record of a job that has ended: {asyncio.run(bytes_per_record()):.0f} bytes")
    if options.only != "record":
        asyncio.run(gaps(options.count, options.only))


if __name__ == "__main__":
    main()
