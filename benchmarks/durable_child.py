"""One process of a fleet with durable jobs: `python -m benchmarks.durable_child '{"role": …}'`.

It prints lines of JSON, the last of which is what it measured. Moments are those of `time.monotonic`, which all
processes of a machine share; what starts is noted in a file that they all append to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiopool import Handlers, Pool
from benchmarks import engines

EVERY = 0.02
"""Seconds between two jobs of a queue that is idle."""
WARM_UP = 10
"""Jobs of these that are not counted: the first ones import what they need."""

handlers = Handlers()
_notes = -1
_started = 0
_awaited: asyncio.Event | None = None
_wanted = -1


def note(index: int) -> None:
    """Write down that a job has begun: one line, which no other process cuts in two."""
    os.write(_notes, f"{index} {time.monotonic()!r} {os.getpid()}\n".encode())


@handlers.register("noop")
async def noop(index: int) -> int:
    """Count."""
    global _started
    _started += 1
    if _started == _wanted and _awaited is not None:
        _awaited.set()
    return index


@handlers.register("mark")
async def mark(index: int) -> None:
    """Note the start."""
    note(index)


@handlers.register("hold")
async def hold(index: int, seconds: float) -> None:
    """Note the start, and go on for long."""
    note(index)
    await asyncio.sleep(seconds)


@handlers.register("block")
async def block(index: int, seconds: float) -> None:
    """Note the start, and hold up the event loop."""
    note(index)
    time.sleep(seconds)


def pool_of(order: dict[str, Any], role: Any) -> Pool:
    """Return the pool that an order asks for."""
    return Pool(
        order.get("size", 100), None, name=order["queue"], store=order["url"], handlers=handlers, role=role,
        shutdown_timeout=order.get("shutdown_timeout"),
    )  # fmt: skip


def say(**words: Any) -> None:
    """Tell the process that started this one."""
    print(json.dumps(words), flush=True)


def percentiles(samples: list[float]) -> tuple[float, float]:
    """Return the middle one, and the one that 1 % exceed."""
    ordered = sorted(samples)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


# -- what a process does ----------------------------------------------------------------------------------------------


async def limit(order: dict[str, Any]) -> None:
    """What the engine does without us; see `engines`."""
    rate = await asyncio.to_thread(engines.limit, order["url"], order["seconds"])
    say(rate=rate)


async def complete(order: dict[str, Any]) -> None:
    """So many submit a job and wait for its end, again and again, in one process."""
    submitters, end = order["submitters"], time.perf_counter() + order["seconds"]
    took: list[float] = []
    async with pool_of(order | {"size": max(100, submitters)}, "both") as pool:
        await _several(submitters, time.perf_counter() + min(0.3, order["seconds"]), pool, [])
        began, end = time.perf_counter(), time.perf_counter() + order["seconds"]
        done = await _several(submitters, end, pool, took)
        seconds = time.perf_counter() - began
    p50, p99 = percentiles(took)
    say(rate=done / seconds, submit_p50=p50, submit_p99=p99)


async def _several(submitters: int, end: float, pool: Pool, took: list[float]) -> int:
    done = 0

    async def submitter() -> None:
        nonlocal done
        while (began := time.perf_counter()) < end:
            job = await pool.submit(noop, done)
            took.append(time.perf_counter() - began)
            await job
            done += 1

    await asyncio.gather(*[submitter() for _ in range(submitters)])
    return done


async def produce(order: dict[str, Any]) -> None:
    """Submit at full speed, and wait for nothing but that it is kept."""
    count = 0
    async with pool_of(order, "producer") as pool:
        began = time.monotonic()

        async def submitter() -> None:
            nonlocal count
            while time.monotonic() - began < order["seconds"]:
                count += 1
                await pool.submit(noop, count)

        await asyncio.gather(*[submitter() for _ in range(order["submitters"])])
        say(count=count, began=began, rate=count / (time.monotonic() - began))


async def trickle(order: dict[str, Any]) -> None:
    """Submit one job each 20 ms. `alone`: run it, too."""
    submitted: list[float] = []
    took: list[float] = []
    async with pool_of(order, "both" if order["alone"] else "producer") as pool:
        for index in range(-WARM_UP, order["count"]):
            began = time.monotonic()
            await pool.submit(mark, index)
            submitted.append(began)
            took.append(time.monotonic() - began)
            await asyncio.sleep(EVERY)
        if order["alone"]:
            await pool.join()
    p50, p99 = percentiles(took[WARM_UP:])
    say(submitted=submitted[WARM_UP:], submit_p50=p50, submit_p99=p99)


async def burden(order: dict[str, Any]) -> None:
    """Submit some jobs that hold a slot, or block the loop."""
    function = {"hold": hold, "block": block}[order["job"]]
    async with pool_of(order, "producer") as pool:
        for index in range(order["count"]):
            await pool.submit(function, index, order["seconds"])
    say()


async def work(order: dict[str, Any]) -> None:
    """Run jobs until standard input ends, or SIGTERM comes; a number there: say when so many have ended."""
    global _awaited, _wanted
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def listen(pool: Pool) -> None:
        global _awaited, _wanted
        while line := await reader.readline():
            _awaited, _wanted = asyncio.Event(), int(line)
            if _started < _wanted:
                await _awaited.wait()
            await pool.join()
            say(at=time.monotonic())
        stop.set()

    async with pool_of(order, "worker") as pool:
        say(lease=_lease(order["url"]))
        listening = asyncio.ensure_future(listen(pool))
        await stop.wait()
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


def _lease(url: str) -> float | None:
    from aiopool.stores._open import open_store

    return open_store(url).lease


ROLES: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
    "limit": limit,
    "complete": complete,
    "produce": produce,
    "trickle": trickle,
    "burden": burden,
    "work": work,
}


def main() -> None:
    """Do what the argument asks for."""
    global _notes
    order = json.loads(sys.argv[1])
    if "notes" in order:
        _notes = os.open(order["notes"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    role: Any = ROLES[order["role"]]
    asyncio.run(role(order))


if __name__ == "__main__":
    main()
