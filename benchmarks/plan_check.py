"""Whether the simulation of `aiopool plan` tells the truth: real processes on a SQLite file, and the same simulated.

    python -m benchmarks.plan_check                 # 1, 2 and 4 processes; two minutes
    python -m benchmarks.plan_check --hosts 1 2 --seconds 3

The costs of the engine are measured before and after each real run, in the same minute, for what the neighbours on the
machine do is in both. Compared are the throughput and the median wait (from the submission of a job to its start).

Two loads: *steady*, which the fleet can carry (what counts is how long a job waits), and *full*, more than there are
slots for (what counts is how many end; how long they wait is then a matter of how long it goes on).
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from typing import Any, NamedTuple

import aiopool
from aiopool._plan.costs import EngineCosts, HostCosts, Verb
from aiopool._plan.load import Arrival, drawn
from aiopool._plan.simulate import Scenario, simulate
from benchmarks.engine_costs import measure

SIZE = 10
MEAN = 0.04
SHARE = {"steady": 0.5, "full": 1.5}
TOLERANCE = 0.2

handlers = aiopool.Handlers()
_rows: list[tuple[float, float]] = []


class Result(NamedTuple):
    """Of one run: jobs a second that ended while they came, and the median wait in seconds."""

    throughput: float
    wait: float


@handlers.register("job")
async def job(due: float, seconds: float) -> None:
    _rows.append((due, time.time()))
    await asyncio.sleep(seconds)


def work(url: str, ready: Any, end: Any, answer: Any) -> None:
    """A process that runs jobs."""

    async def run() -> None:
        async with aiopool.Pool(SIZE, name="check", store=url, handlers=handlers, role="worker"):
            ready.release()
            while not end.is_set():
                await asyncio.sleep(0.02)

    asyncio.run(run())
    answer.put(_rows)


def produce(url: str, jobs: list[Arrival], begin: float) -> None:
    """A process that submits."""

    async def run() -> None:
        tasks = set()
        async with aiopool.Pool(1, name="check", store=url, handlers=handlers, role="producer") as pool:
            for each in jobs:
                if (wait := begin + each.at - time.time()) > 0:
                    await asyncio.sleep(wait)
                tasks.add(asyncio.ensure_future(pool.submit(job, begin + each.at, each.seconds)))
            await asyncio.gather(*tasks)

    asyncio.run(run())


def real(jobs: list[Arrival], seconds: float, hosts: int) -> Result:
    """Run the jobs in real processes."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/jobs.db"
        ready, end, answer = spawn.Semaphore(0), spawn.Event(), spawn.Queue()
        workers = [spawn.Process(target=work, args=(url, ready, end, answer)) for _ in range(hosts)]
        for process in workers:
            process.start()
        for _ in workers:
            assert ready.acquire(timeout=60)
        begin = time.time() + 3.0  # until then the producer is there
        producer = spawn.Process(target=produce, args=(url, jobs, begin))
        producer.start()
        time.sleep(max(0.0, begin + seconds - time.time()))
        ended = asyncio.run(_ended(url))
        end.set()
        rows = [row for _ in workers for row in answer.get(timeout=60)]
        for process in workers:
            process.join(30)
        producer.join(60)
    in_time = [(due, start) for due, start in rows if start <= begin + seconds]
    return Result(ended / seconds, statistics.median(start - due for due, start in in_time))


async def _ended(url: str) -> int:
    async with aiopool.Pool(1, name="check", store=url, handlers=handlers, role="producer") as pool:
        found = await pool.fleet.statistics()
        return sum(found.ended.values())


def simulated(costs: EngineCosts, jobs: list[Arrival], seconds: float, hosts: int) -> Result:
    """Run them in virtual time."""
    report = simulate(Scenario(costs, jobs, seconds, hosts=hosts, size=SIZE, drain=0.0))
    return Result(report.throughput, report.waits[0])


def between(one: EngineCosts, two: EngineCosts) -> EngineCosts:
    """Return the means of two measurements."""

    def mean(left: Any, right: Any) -> Any:
        if isinstance(left, (Verb, HostCosts)):
            kind = type(left)
            return kind(*(mean(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left)))
        return (left + right) / 2 if isinstance(left, float) else left

    return dataclasses.replace(
        one, **{f.name: mean(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(one)}
    )


def check(hosts: int, load: str, seconds: float) -> dict[str, Any]:
    """Run one load for real and simulated, and return both."""
    rate = SHARE[load] * hosts * SIZE / MEAN
    jobs = drawn(rate, seconds, mean=MEAN, spread=0.5, seed=hosts)
    before = asyncio.run(measure("sqlite", rounds=1, pick=statistics.fmean))
    was = real(jobs, seconds, hosts)
    costs = between(before, asyncio.run(measure("sqlite", rounds=1, pick=statistics.fmean)))
    told = simulated(costs, jobs, seconds, hosts)
    return {
        "hosts": hosts,
        "load": load,
        "offered": round(len(jobs) / seconds),
        "real": was._asdict(),
        "simulated": told._asdict(),
        "throughput": told.throughput / was.throughput - 1,
        "wait": told.wait / was.wait - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--load", choices=(*SHARE, "both"), default="both")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wrong = 0
    for load in SHARE if options.load == "both" else (options.load,):
        for hosts in options.hosts:
            row = check(hosts, load, options.seconds)
            wrong += abs(row["throughput"]) > TOLERANCE or abs(row["wait"]) > TOLERANCE
            if options.json:
                print(json.dumps(row), flush=True)
                continue
            was, told = row["real"], row["simulated"]
            print(
                f"{load:7} {hosts} processes, {row['offered']:5}/s offered:  ended/s real {was['throughput']:7.0f}  "
                f"simulated {told['throughput']:7.0f} ({row['throughput']:+.0%});  wait p50 real "
                f"{was['wait'] * 1000:8.2f} ms  simulated {told['wait'] * 1000:8.2f} ms ({row['wait']:+.0%})",
                flush=True,
            )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
