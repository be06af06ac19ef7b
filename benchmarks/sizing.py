"""Whether `Adaptive` finds the size: python -m benchmarks.sizing [--seconds 20] [--no-server]

First against a simulated server that works on so many calls at once, in virtual time: the calls a second and the time
of a call, against those of the best fixed size; then the same while its capacity halves and recovers. After that
against a real server, uvicorn with a limited pool behind it, with real clients: fixed sizes, and `Adaptive`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from aiopool import Pool
from aiopool.sizing import Adaptive
from aiopool.testing import run_virtual

Times = list[tuple[float, float]]


class Server:
    """Works on `capacity` calls at once, each for about `seconds`; the others wait inside."""

    def __init__(self, capacity: int, seconds: float = 0.1) -> None:
        self.capacity, self.seconds = capacity, seconds
        self.times: Times = []
        self._chance = random.Random(1)
        self._inside = 0
        self._line: deque[asyncio.Future[None]] = deque()

    async def call(self, _: object) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        if self._inside >= self.capacity or self._line:
            turn = loop.create_future()
            self._line.append(turn)
            await turn
        else:
            self._inside += 1
        await asyncio.sleep(self.seconds * self._chance.uniform(0.5, 1.5))
        self._inside -= 1
        self.let_in()
        self.times.append((loop.time(), loop.time() - begin))

    def let_in(self) -> None:
        while self._line and self._inside < self.capacity:
            self._inside += 1
            self._line.popleft().set_result(None)


def between(times: Times, begin: float, end: float) -> tuple[float, float]:
    """Return the calls a second that ended in some time, and their mean time."""
    found = [seconds for at, seconds in times if begin <= at < end]
    return len(found) / (end - begin), statistics.fmean(found)


async def flood(pool: Pool, call: Callable[[object], Awaitable[None]], seconds: float) -> None:
    """Keep the pool busy for some seconds."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds

    def calls() -> Iterator[None]:
        while loop.time() < ends:
            yield None

    async for _ in pool.map(call, calls(), ordered=False):
        pass


def simulated(size: int | Adaptive, capacity: int, seconds: float) -> tuple[float, float]:
    found: list[tuple[float, float]] = []

    async def main() -> None:
        server = Server(capacity)
        begin = asyncio.get_running_loop().time()
        async with Pool(size) as pool:
            await flood(pool, server.call, seconds + 5)
        found.append(between(server.times, begin + 5, begin + 5 + seconds))

    run_virtual(main)
    return found[0]


def changing() -> list[tuple[float, int, float, float]]:
    """Return, for each two seconds, the moment, the capacity, the calls a second and their time."""
    found: list[tuple[float, int, float, float]] = []

    async def main() -> None:
        server = Server(20)
        begin = asyncio.get_running_loop().time()
        capacities = []
        async with Pool(Adaptive(1, 500)) as pool:
            flooding = asyncio.create_task(flood(pool, server.call, 30))
            for second in range(0, 30, 2):
                server.capacity = 10 if 10 <= second < 20 else 20
                server.let_in()
                capacities.append(server.capacity)
                await asyncio.sleep(2)
            await flooding
        for at, capacity in zip(range(0, 30, 2), capacities, strict=True):
            found.append((at, capacity, *between(server.times, begin + at, begin + at + 2)))

    run_virtual(main)
    return found


# -- a real server ----------------------------------------------------------------------------------------------------

APP = """
import asyncio
pool = asyncio.Semaphore(8)
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    async with pool:
        await asyncio.sleep(0.05)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@contextlib.contextmanager
def uvicorn() -> Iterator[str]:
    """Run a server that has a pool of 8 behind it, whose work takes 50 ms; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.listen(2048)
        port = listening.getsockname()[1]
        # No connection is closed because it was idle: a client that just then takes it would see it break.
        options = "log_level='error', lifespan='off', timeout_keep_alive=3600"
        code = f"{APP}\nimport uvicorn\nuvicorn.run(app, fd={listening.fileno()}, {options})"
        process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[listening.fileno()])
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait()


async def real(size: int | Adaptive, address: str, seconds: float) -> tuple[float, float, int]:
    import httpx

    times: Times = []
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:

        async def call(_: object) -> None:
            begin = time.monotonic()
            (await client.get(address)).raise_for_status()
            times.append((time.monotonic(), time.monotonic() - begin))

        begin = time.monotonic()
        async with Pool(size) as pool:
            await flood(pool, call, seconds)
            size_then = pool.size
    return *between(times, begin + seconds / 2, begin + seconds), size_then


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--no-server", action="store_true", help="the simulated one only")
    options = parser.parse_args()
    print("simulated server, 0.1 s a call (half more or less): Adaptive(1, 500) against the best fixed size")
    for capacity in (4, 10, 40):
        best, own = (
            simulated(capacity, capacity, options.seconds),
            simulated(Adaptive(1, 500), capacity, options.seconds),
        )
        print(
            f"  {capacity:3} at once: {own[0]:6.1f} calls a second, {own[0] / best[0]:4.0%} of {best[0]:6.1f};  "
            f"{own[1]:.3f} s a call, {own[1] / best[1]:.2f} x"
        )
    print("the same while its capacity of 20 halves at 10 s and recovers at 20 s")
    for at, capacity, rate, seconds in changing():
        print(f"  {at:2} s: capacity {capacity}, {rate / (capacity / 0.1):4.0%} of its calls, {seconds:.3f} s a call")
    if options.no_server:
        return
    if importlib.util.find_spec("httpx") is None or importlib.util.find_spec("uvicorn") is None:
        print("a real server: left out, for httpx and uvicorn are not both installed")
        return
    print("uvicorn with a pool of 8 behind it, 50 ms a call: calls a second, s a call, size at the end")
    with uvicorn() as address:
        for size in (4, 8, 32, 128, Adaptive(1, 500)):
            rate, seconds, at_end = asyncio.run(real(size, address, options.seconds))
            print(f"  {size!s:36.36} {rate:6.1f}  {seconds:.3f}  {at_end:4}")


if __name__ == "__main__":
    main()
