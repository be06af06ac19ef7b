"""What is not a ratio of CPU time: memory, latency, gaps, cancelling, the price of options, import.

Each probe is one coroutine (or function) for one contender, runs in a process of its own, and returns
plain numbers with their unit in the name. A probe may leave its backlog behind; `child` ends the process.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks import command
from benchmarks.backlogs import BACKLOGS, Backlog
from benchmarks.contenders import CREATE_TASK, SCOPE, Isolation
from benchmarks.growth import measure
from benchmarks.prices import prices
from benchmarks.watching import ask, compare, ways_to_log, ways_to_trace, ways_to_watch
from benchmarks.workers import ways_to_work
from benchmarks.workloads import noop, spin_5_microseconds

Numbers = dict[str, float]

WARM_UP = 200
"""Jobs through the idle pool before one counts."""

_left_open = AsyncExitStack()
"""Holds what a probe leaves behind. Nobody closes it, but it must not be collected while the probe runs."""


def isolation_of(contender: str) -> Isolation:
    """Return the isolation that the name of one of our own contenders stands for."""
    return "scope" if contender == SCOPE else "task"


async def open_backlog(contender: str, concurrency: int) -> Backlog:
    """Open a contender to which jobs can be added without waiting; it is never closed."""
    return await _left_open.enter_async_context(BACKLOGS[contender](concurrency))


# --- memory -------------------------------------------------------------------------------------------


async def memory(contender: str, count: int) -> Numbers:
    """Queue `count` jobs behind one that never ends; bytes of resident memory per job.

    The job's argument and its place in the caller's list of handles are in it.
    """
    backlog = await open_backlog(contender, 1)
    backlog.add(asyncio.Event().wait)
    await turns(10)
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    handles = [backlog.add(noop, index) for index in range(count)]
    await turns(10)  # so that tasks which wait by themselves have got to where they wait
    after = process.memory_info().rss
    assert len(handles) == count
    return {"bytes_per_job": (after - before) / count}


async def turns(count: int) -> None:
    """Let the event loop turn over `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- latency ------------------------------------------------------------------------------------------


async def critical(contender: str, count: int, samples: int = 20) -> Numbers:
    """Add CRITICAL jobs while `count` LOW ones of 5 µs each are drained; from when it was due to its start.

    "Due" is the moment for which a timer was set: a pool that starves the event loop delays the
    submission itself, and whoever wants to submit waits for that too.

    By two clocks, as in `gap`. The CPU clock cannot be read at the due moment itself; the first LOW job that
    ends after it reads it, some microseconds later.
    """
    loop = asyncio.get_running_loop()
    backlog = await open_backlog(contender, 100)
    dues: list[float] = []
    cpu_at_due: list[float] = []

    async def low(index: int) -> None:
        spin_5_microseconds(index)
        while len(cpu_at_due) < len(dues) and dues[len(cpu_at_due)] <= loop.time():
            cpu_at_due.append(time.process_time())

    for index in range(count):
        backlog.add(low, index)
    waits: list[float] = []
    cpu_waits: list[float] = []
    all_started = loop.create_future()

    async def urgent(sample: int) -> None:
        waits.append(loop.time() - dues[sample])
        # With no LOW job between due and start, the wait is shorter than one of them.
        cpu_waits.append(time.process_time() - cpu_at_due[sample] if sample < len(cpu_at_due) else 0.0)
        if len(waits) == samples:
            all_started.set_result(None)

    start = loop.time()
    dues += [start + 0.005 * (sample + 1) for sample in range(samples)]
    for sample, due in enumerate(dues):
        loop.call_at(due, backlog.add_urgent, urgent, sample)
    await all_started
    return {
        "median_ms": statistics.median(waits) * 1e3,
        "worst_ms": max(waits) * 1e3,
        "worst_cpu_ms": max(cpu_waits) * 1e3,
    }


async def gap(contender: str, count: int) -> Numbers:
    """Drain `count` no-ops; the longest time between two turns of the event loop, by two clocks.

    The CPU clock leaves out what other processes took away; the wall clock does not.
    """
    loop = asyncio.get_running_loop()
    backlog = await open_backlog(contender, 100)
    handles = [backlog.add(noop, index) for index in range(count)]
    last_wall, last_cpu = time.perf_counter(), time.process_time()
    worst_wall = worst_cpu = 0.0
    running = True

    def tick() -> None:
        nonlocal last_wall, last_cpu, worst_wall, worst_cpu
        wall, cpu = time.perf_counter(), time.process_time()
        worst_wall, worst_cpu = max(worst_wall, wall - last_wall), max(worst_cpu, cpu - last_cpu)
        last_wall, last_cpu = wall, cpu
        if running:
            loop.call_soon(tick)

    loop.call_soon(tick)
    await backlog.wait_for(handles[-1])
    running = False
    return {"worst_ms": worst_wall * 1e3, "worst_cpu_ms": worst_cpu * 1e3}


async def light(contender: str, count: int) -> Numbers:
    """Submit one job at a time to an idle pool; µs until it starts, and until its result is back."""
    clock = time.perf_counter_ns

    async def stamp() -> int:
        return clock()

    starts: list[int] = []
    trips: list[int] = []
    if contender == CREATE_TASK:
        for _ in range(WARM_UP + count):
            begin = clock()
            started = await asyncio.create_task(stamp())
            trips.append(clock() - begin)
            starts.append(started - begin)
    else:
        from aiopool import Pool

        async with Pool(size=100, isolation=isolation_of(contender)) as pool:
            for _ in range(WARM_UP + count):
                begin = clock()
                started = await (await pool.submit(stamp))
                trips.append(clock() - begin)
                starts.append(started - begin)
    del starts[:WARM_UP], trips[:WARM_UP]
    return {
        "start_p50_us": percentile(starts, 50) / 1e3,
        "start_p99_us": percentile(starts, 99) / 1e3,
        "trip_p50_us": percentile(trips, 50) / 1e3,
        "trip_p99_us": percentile(trips, 99) / 1e3,
    }


def percentile(values: list[int], percent: int) -> float:
    """Return the `percent`-th percentile of `values`."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


# --- cancelling, options, import ------------------------------------------------------------------------


async def cancel(contender: str, count: int, cancels: int) -> Numbers:
    """Queue `count` jobs and cancel some of them by id, in random order; µs of CPU for each cancel."""
    from aiopool import Pool

    pool = await _left_open.enter_async_context(Pool(size=1, queue_size=None, isolation=isolation_of(contender)))
    pool.submit_nowait(asyncio.Event().wait)
    await turns(10)
    jobs = [pool.submit_nowait(noop, index) for index in range(count)]
    chosen = random.Random(17).sample(jobs, cancels)
    ids = [job.id for job in chosen]
    begin = time.process_time()
    for id in ids:
        await pool.cancel(id)
    spent = time.process_time() - begin
    if not all(job.done() for job in chosen):
        raise AssertionError("a cancelled job is not done")
    return {"us_per_cancel": spent / cancels * 1e6}


async def options(contender: str, count: int, repeats: int) -> Numbers:
    """Run no-ops with and without each option in turn; ns of CPU that the option adds to a job."""
    return await prices(isolation_of(contender), count, repeats)


async def watching(contender: str, count: int, repeats: int) -> Numbers:
    """Run no-ops bare and watched in each way in turn; ns of CPU that watching adds to a job."""
    return await compare(ways_to_watch(), isolation_of(contender), count, repeats)


async def logging(contender: str, count: int, repeats: int) -> Numbers:
    """The same for logs."""
    return await compare(ways_to_log(), isolation_of(contender), count, repeats)


async def tracing(contender: str, count: int, repeats: int) -> Numbers:
    """The same for OpenTelemetry."""
    return await compare(ways_to_trace(), isolation_of(contender), count, repeats)


async def workers(contender: str, count: int, repeats: int) -> Numbers:
    """The same for workers that hold a resource, are counted, renewed or watched."""
    return await compare(ways_to_work(), isolation_of(contender), count, repeats)


async def asking(contender: str, count: int) -> Numbers:
    """Ask a pool with a backlog how it is; µs of CPU for each question."""
    return await ask(isolation_of(contender), count)


async def growth(contender: str, verb: str, count: int, gaps: bool = False) -> Numbers:
    """Do one verb of the face to `count` jobs; µs of CPU for each, or the largest gap of the loop."""
    return await measure(verb, isolation_of(contender), count, gaps=gaps)


def import_time(contender: str) -> Numbers:
    """Import the module `contender` in a fresh interpreter that has asyncio already; ms.

    Its bytecode is there, as it is after an installation: the compiler is not what is measured.
    """
    code = (
        "import asyncio, time; w, c = time.perf_counter(), time.process_time();"
        f"import {contender};"
        "print(time.perf_counter() - w, time.process_time() - c)"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", f"import {contender}"], check=True, capture_output=True, env=env)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=env)
    wall, cpu = map(float, done.stdout.split())
    return {"wall_ms": wall * 1e3, "cpu_ms": cpu * 1e3}


def command_line(contender: str, count: int) -> Numbers:
    """Run the command over `count` lines; µs of CPU of its whole process for each of them."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        command.prepare(here, count)
        return {"cpu_us": command.cost(command.COMMANDS[contender], here, Path.cwd()) / count * 1e6}


PROBES: dict[str, Callable[..., Coroutine[Any, Any, Numbers]]] = {
    "memory": memory,
    "critical": critical,
    "gap": gap,
    "light": light,
    "cancel": cancel,
    "options": options,
    "watching": watching,
    "logging": logging,
    "tracing": tracing,
    "workers": workers,
    "asking": asking,
    "growth": growth,
}


OUTSIDE: dict[str, Callable[..., Numbers]] = {"import": import_time, "command": command_line}
"""What is measured in a process of its own, without a loop in this one."""


def run(name: str, contender: str, parameters: dict[str, Any]) -> Numbers:
    """Run the probe `name` for `contender` in a loop that is never closed."""
    if name in OUTSIDE:
        return OUTSIDE[name](contender, **parameters)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(fail)
    return loop.run_until_complete(PROBES[name](contender, **parameters))


def fail(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End the process: after an error in a callback a probe would wait for ever for what that should do."""
    print(context["message"], repr(context.get("exception")), file=sys.stderr, flush=True)
    os._exit(1)
