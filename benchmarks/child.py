"""One measurement in a process of its own: `python -m benchmarks.child '{"suite": …}'`.

Reads what to measure from its argument, prints one line of JSON, and ends. It knows nothing of rounds
and ratios. The clock runs from before the pool is opened until it is closed and every result is there.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from typing import Any

from benchmarks import callers, contenders, probes, requests, steady, threads  # noqa: F401 - those without a use register themselves
from benchmarks.workloads import WORKLOADS, Function

WARM_UP = 500
"""Jobs before the clock starts: enough for the specialising interpreter and for lazy imports."""


def measure_cell(
    suite: str, contender: str, workload: str, concurrency: int, count: int, address: str | None = None
) -> dict[str, Any]:
    """Run one contender once and return its CPU and wall time in seconds; `address` is that of a server."""
    entry = contenders.find(suite, contender)

    async def main() -> dict[str, Any]:
        if address is None:
            return await measure(WORKLOADS[workload])
        async with requests.CLIENTS[workload].open(address, concurrency) as function:
            return await measure(function)

    async def measure(function: Function) -> dict[str, Any]:
        await entry.run(function, min(WARM_UP, count), concurrency)
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        results = await entry.run(function, count, concurrency)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        if len(results) != count or sum(results) != count * (count - 1) // 2:
            raise AssertionError(f"{contender} lost or doubled results: {len(results)} of {count}")
        return {"cpu": cpu, "wall": wall, "jobs": count}

    return asyncio.run(main())


def main() -> None:
    """Measure what the argument asks for."""
    order = json.loads(sys.argv[1])
    use_uvloop = order.pop("uvloop", False)
    if use_uvloop:
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if "probe" in order:
        result = probes.run(order["probe"], order["contender"], order["parameters"])
    else:
        result = measure_cell(**order)
    print(json.dumps(result), flush=True)
    # A probe leaves up to a million queued jobs behind. What it had to say is said, and closing them down
    # would only take time: no clock is running any more.
    os._exit(0)


if __name__ == "__main__":
    main()
