"""What a pool without a store pays for the seam to one: python -m benchmarks.no_store --against PATH

Two checkouts run the same no-op jobs, this one and another one, such as that of the commit before durable jobs:

    git worktree add ../before COMMIT
    python -m benchmarks.no_store --against ../before

What is counted does not depend on the machine: the instructions of Python that a job takes, and the calls of functions
that are written in C. They are counted in a run of their own. The CPU time is measured besides, in fresh processes that
take turns; it is noisy, so its ratio is that of the medians of many rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any

OUTSTANDING = 1_000
WAYS = ("submit and await", "map", "scope")


async def _noop(index: int) -> int:
    return index


async def _steady(pool: Any, count: int) -> None:
    """Run jobs with `OUTSTANDING` in flight."""
    window: deque[Any] = deque()
    for index in range(count):
        if len(window) == OUTSTANDING:
            await window.popleft()
        window.append(await pool.submit(_noop, index))
    while window:
        await window.popleft()


async def _map(pool: Any, count: int) -> None:
    await pool.map(_noop, range(count)).collect()


class _Counter:
    """Counts what this thread does while it is on."""

    def __init__(self) -> None:
        self.instructions = self.calls = 0

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self.instructions += 1
        return self._trace

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        self.calls += event == "c_call"

    def begin(self) -> None:
        sys.setprofile(self._profile)
        sys.settrace(self._trace)

    def end(self) -> None:
        sys.settrace(None)
        sys.setprofile(None)


async def _measured(way: str, count: int, counted: bool) -> dict[str, float]:
    """Return what a job takes: instructions and calls, or nanoseconds of CPU."""
    from aiopool import Pool

    run = _map if way == "map" else _steady
    async with Pool(100, None, isolation="scope" if way == "scope" else "task", seed=1) as pool:
        await run(pool, 2 * OUTSTANDING)
        gc.collect()
        if not counted:
            began = time.process_time()
            await run(pool, count)
            return {"ns": (time.process_time() - began) / count * 1e9}
        gc.disable()
        counter = _Counter()

        async def steps() -> None:  # a frame that begins while it is counted
            await run(pool, count)

        counter.begin()
        await asyncio.ensure_future(steps())
        counter.end()
        return {"instructions": counter.instructions / count, "calls": counter.calls / count}


def ask(checkout: Path, way: str, count: int, *, counted: bool) -> dict[str, float]:
    """Measure one checkout in a fresh process."""
    order = json.dumps({"way": way, "count": count, "counted": counted})
    # -P: the folder of this file has names of other modules in it.
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--child", order]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    if done.returncode:
        raise RuntimeError(f"{checkout}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    words = json.loads(done.stdout)
    if not Path(words.pop("file")).is_relative_to(checkout):
        raise RuntimeError(f"{checkout}: another aiopool was imported")
    numbers: dict[str, float] = words
    return numbers


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.no_store", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout; without it, this one is measured twice")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9, help="of the CPU time (default 9)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        import aiopool

        print(json.dumps({"file": aiopool.__file__, **asyncio.run(_measured(**json.loads(options.child)))}))
        return 0
    here = Path(__file__).resolve().parent.parent
    sides = {"here": here, "there": (options.against or here).resolve()}
    print(f"{'a no-op job':<18} {'':<14} {'here':>10} {'there':>10} {'ratio':>8}")
    for way in WAYS:
        counts = {side: ask(path, way, 2 * OUTSTANDING, counted=True) for side, path in sides.items()}
        for what in ("instructions", "calls"):
            ours, theirs = counts["here"][what], counts["there"][what]
            title = "calls into C" if what == "calls" else what
            print(f"{way:<18} {title:<14} {ours:>10.1f} {theirs:>10.1f} {ours / theirs:>8.3f}")
        times: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(options.rounds):
            for side in list(sides)[:: -1 if turn % 2 else 1]:
                times[side].append(ask(sides[side], way, options.jobs, counted=False)["ns"])
        ours, theirs = (statistics.median(times[side]) for side in sides)
        print(f"{way:<18} {'ns of CPU':<14} {ours:>10.0f} {theirs:>10.0f} {ours / theirs:>8.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
