"""What limits cost, and what they keep: python -m benchmarks.limits [--jobs 20000] [--rounds 5]

Four tables, each with its rows interleaved over the rounds, all in one run:

- the CPU of a no-op job under a limit, against the same pool without one, and against what people write by hand;
- a nested job: one that hands in a child and waits for it, against a task that awaits a task;
- the rate that comes out, against the one that was asked for, and how many starts the fullest second had;
- ten tenants, of which one floods: how long a job of the others waits.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from aiopool import Limit, Pool

Trial = Callable[[int], Awaitable[None]]


async def noop(index: int) -> int:
    return index


# -- a no-op job ------------------------------------------------------------------------------------------------------


def pool_trial(view: Callable[[Pool, int], Any] | None = None, **options: Any) -> Trial:
    """Jobs through one pool; `view` chooses the options of each."""

    async def run(jobs: int) -> None:
        async with Pool(100, None, **options) as pool:
            for index in range(jobs):
                await (pool if view is None else view(pool, index)).submit(noop, index)

    return run


def keyed(keys: int) -> Callable[[Pool, int], Any]:
    views: dict[tuple[int, int], Any] = {}

    def view(pool: Pool, index: int) -> Any:
        key = index * 7919 % keys
        known = views.get((id(pool), key))
        if known is None:
            if keys > 1000:
                return pool.with_options(key=key)  # as a program would: a view for each job
            known = views[id(pool), key] = pool.with_options(key=key)
        return known

    return view


def by_hand(keys: int) -> Trial:
    """A dict of semaphores, and a task for each job: nothing is bounded but what runs."""

    async def run(jobs: int) -> None:
        locks: dict[int, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(1))

        async def one(index: int) -> int:
            async with locks[index * 7919 % keys]:
                return await noop(index)

        await asyncio.gather(*[asyncio.create_task(one(index)) for index in range(jobs)])

    return run


SERIAL = Limit(max_at_once=1)
NOOPS: dict[str, Trial] = {
    "no limit": pool_trial(),
    "limit of the pool, never reached": pool_trial(limit=Limit(max_at_once=1000)),
    "rate of the pool, never reached": pool_trial(limit=Limit(max_per_second=1e9, burst=1000)),
    "1 key, one at a time": pool_trial(keyed(1), key_limit=SERIAL),
    "100 keys, one at a time": pool_trial(keyed(100), key_limit=SERIAL),
    "100,000 keys, a view for each job": pool_trial(keyed(100_000), key_limit=SERIAL),
    "fair shares, 100 keys": pool_trial(keyed(100), fair_keys=True),
    "by hand: task + semaphore, 1 key": by_hand(1),
    "by hand: task + semaphore, 100,000 keys": by_hand(100_000),
}


# -- a nested job -----------------------------------------------------------------------------------------------------


def nested_pool(**options: Any) -> Trial:
    async def run(jobs: int) -> None:
        async with Pool(100, None, **options) as pool:

            async def parent(index: int) -> int:
                return await pool.run(noop, index)

            await pool.map(parent, range(jobs), ordered=False).collect()

    return run


async def nested_tasks(jobs: int) -> None:
    """A hundred loops by hand, each with a task that awaits a task."""
    indexes = iter(range(jobs))

    async def parent(index: int) -> int:
        return await asyncio.create_task(noop(index))

    async def loop() -> None:
        for index in indexes:
            await asyncio.create_task(parent(index))

    await asyncio.gather(*[loop() for _ in range(100)])


NESTED: dict[str, Trial] = {
    "task that awaits a task": nested_tasks,
    "job that awaits a job": nested_pool(),
    "job that awaits a job, both under a limit": nested_pool(limit=Limit(max_at_once=50)),
}


# -- rates ------------------------------------------------------------------------------------------------------------


async def rate(limit: Limit, seconds: float) -> tuple[float, int]:
    """Return the starts a second that came out, and the most of any second."""
    starts: list[float] = []
    async with Pool(100, None, limit=limit) as pool:
        pool.pause()
        count = max(limit.burst + 1, round((limit.max_per_second or 0) * seconds))
        jobs = [await pool.submit(noop, index) for index in range(count)]
        pool.resume()
        await pool.join()
        starts = [job.started_at or 0.0 for job in jobs]
    first, most = 0, 0
    for last, at in enumerate(starts):
        while at - starts[first] >= 1:
            first += 1
        most = max(most, last - first + 1)
    return (len(starts) - limit.burst) / (starts[-1] - starts[0]), most


# -- fairness ---------------------------------------------------------------------------------------------------------


async def waits(fair: bool) -> list[float]:
    """Return the waits of the jobs of nine tenants, while a tenth has 5,000 in line."""
    found: list[float] = []

    async def work(since: float | None) -> None:
        if since is not None:
            found.append(time.perf_counter() - since)
        await asyncio.sleep(0.001)

    async with Pool(10, None, fair_keys=fair) as pool:
        for _ in range(5000):
            await pool.with_options(key="flood").submit(work, None)
        for _ in range(10):
            await asyncio.sleep(0.01)
            for tenant in range(9):
                await pool.with_options(key=tenant).submit(work, time.perf_counter())
    return found


# -- tables -----------------------------------------------------------------------------------------------------------


def table(title: str, trials: dict[str, Trial], jobs: int, rounds: int) -> None:
    """Measure each of some trials in each round, and print the medians and their ratios to the first."""
    costs: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(rounds):
        for name, trial in trials.items():
            begin = time.process_time()
            asyncio.run(trial(jobs))  # type: ignore[arg-type]
            costs[name].append((time.process_time() - begin) / jobs * 1e6)
    base = statistics.median(next(iter(costs.values())))
    print(f"\n{title}: CPU µs a job, {jobs:,} jobs, median of {rounds} (least–most), ratio")
    for name, values in costs.items():
        middle = statistics.median(values)
        print(f"  {name:44}{middle:7.2f}  ({min(values):.2f}–{max(values):.2f})  {middle / base:5.2f}")


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each rate is measured")
    options = parser.parse_args()
    table("A no-op job", NOOPS, options.jobs, options.rounds)
    table("A nested job", NESTED, options.jobs, options.rounds)
    print("\nRates: asked for, came out, the most starts in any second")
    for per_second in (10, 100, 1000, 10_000):
        for burst in (1, 10, 100):
            if burst <= per_second * options.seconds / 2:
                got, most = asyncio.run(rate(Limit(max_per_second=per_second, burst=burst), options.seconds))
                print(f"  {per_second:6} a second, burst {burst:3}: {got:9.1f} ({got / per_second:4.0%})   {most:3}")
    print("\nTen tenants, one with 5,000 jobs in line: how long a job of the others waits, ms")
    for fair in (False, True):
        found = sorted(1e3 * wait for wait in asyncio.run(waits(fair)))
        name = "fair_keys=True" if fair else "by submission"
        print(f"  {name:16} median {statistics.median(found):8.1f}   most {found[-1]:8.1f}")


if __name__ == "__main__":
    main()
