"""What each verb of a store takes on this machine, as `aiopool/_plan/costs.py` has it.

    python -m benchmarks.engine_costs --store sqlite        # or postgresql, redis
    python -m benchmarks.engine_costs --store postgresql --url postgresql://user@host/database

Each verb is called with 1, 10, 100 and 1,000 rows, in turn, and a line is laid through the lower deciles (least squares
of the relative errors, so that small calls count as much as large ones): neighbours on the machine only add time.

Two things are told apart: what the engine does, and what the process that calls does.

- SQLite is in our process: its engine is the time for which the lock of all writers is held.
- PostgreSQL and Redis are other processes: the caller's part is the processor time of our process, and all else is the
  engine. They run on the same machine here, so the network is not in it; `network` is an assumption of 0.5 ms.

What a hint costs is the processor time of the server with and without 20 processes that listen, divided by them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

import aiopool
from aiopool._durable.ids import new_id
from aiopool._plan.costs import COSTS, EngineCosts, HostCosts, Verb
from aiopool.stores._open import open_store
from aiopool.stores._rows import Incarnation, NewJob, Settlement

ROWS = (1, 10, 100, 1000)
CALLS = {1: 200, 10: 100, 100: 40, 1000: 8}
LISTENERS = 20
PAYLOAD = json.dumps([["x" * 180], {}])

Point = tuple[int, float, float]  # rows, seconds of the engine, seconds of the caller


def me(runs_jobs: bool = True) -> Incarnation:
    return Incarnation(uuid.uuid4().hex, "bench", os.getpid(), runs_jobs)


class Meter:
    """Tells the engine's seconds of a call from the caller's."""

    def __init__(self, store: Any) -> None:
        self.lock = getattr(store, "_lock", None)
        self.held = 0.0
        if self.lock is not None:
            acquire, release = self.lock.acquire, self.lock.release

            def timed_acquire(timeout: float) -> None:
                acquire(timeout)
                self._since = time.perf_counter()

            def timed_release() -> None:
                self.held += time.perf_counter() - self._since
                release()

            self.lock.acquire, self.lock.release = timed_acquire, timed_release

    async def call(self, steps: Awaitable[Any]) -> tuple[Any, float, float]:
        self.held, processor, wall = 0.0, time.process_time(), time.perf_counter()
        answer = await steps
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        if self.lock is not None:
            return answer, self.held, wall - self.held
        return answer, max(0.0, wall - processor), processor


def quiet(times: list[float]) -> float:
    """Return the time of a call that nothing has disturbed: the lower decile. A neighbour only ever adds to it."""
    return sorted(times)[len(times) // 10]


Pick = Callable[[list[float]], float]


def line(points: list[tuple[int, float]], pick: Pick) -> tuple[float, float]:
    """Return what a call and what a row takes: least squares of the relative errors, neither below 0."""
    medians = [(n, pick([t for m, t in points if m == n])) for n in ROWS]
    weights = [1 / max(t, 1e-9) ** 2 for _, t in medians]
    total = sum(weights)
    x = sum(w * n for w, (n, _) in zip(weights, medians, strict=True)) / total
    y = sum(w * t for w, (_, t) in zip(weights, medians, strict=True)) / total
    xx = sum(w * (n - x) ** 2 for w, (n, _) in zip(weights, medians, strict=True))
    slope = sum(w * (n - x) * (t - y) for w, (n, t) in zip(weights, medians, strict=True)) / xx if xx else 0.0
    slope = max(0.0, slope)
    return round(max(0.0, y - slope * x), 7), round(slope, 8)


def verb(points: list[Point], pick: Pick) -> Verb:
    call, row = line([(n, engine) for n, engine, _ in points], pick)
    host_call, host_row = line([(n, host) for n, _, host in points], pick)
    return Verb(call, row, host_call, host_row)


# -- the engine --------------------------------------------------------------------------------------------------------


async def measure_verbs(url: str, rounds: int, pick: Pick) -> dict[str, Any]:
    store: Any = open_store(url)
    mine = me()
    await store.open("bench", mine, lambda kind: None)
    meter = Meter(store)
    points: dict[str, list[Point]] = {name: [] for name in ("submit", "claim", "settle", "empty", "sweep")}
    try:
        for _ in range(rounds):
            for rows in ROWS:
                for _ in range(CALLS[rows]):
                    jobs = [NewJob(new_id(), "job", PAYLOAD, submitter=mine.id) for _ in range(rows)]
                    _, engine, host = await meter.call(store.submit(jobs))
                    points["submit"].append((rows, engine, host))
                    while rows and (answer := await meter.call(store.claim(rows)))[0].jobs:
                        claim, engine, host = answer
                        points["claim"].append((len(claim.jobs), engine, host))
                        ends = [Settlement(job.id, job.fence, "succeeded", result="null") for job in claim.jobs]
                        _, engine, host = await meter.call(store.settle(ends))
                        points["settle"].append((len(ends), engine, host))
                        if len(ends) == rows:
                            break
            for _ in range(100):
                for name, steps in (("empty", store.claim(10)), ("sweep", store.sweep(("job",)))):
                    _, engine, host = await meter.call(steps)
                    points[name].append((0, engine, host))
    finally:
        await store.close()
    found: dict[str, Any] = {name: verb(points[name], pick) for name in ("submit", "claim", "settle")}
    for name in ("empty", "sweep"):
        engine, host = (pick([point[at] for point in points[name]]) for at in (1, 2))
        free = meter.lock is not None  # it took no lock: all of it is the caller's, and no engine is held up
        found[name] = Verb(round(host if free and not engine else engine, 7), 0.0, 0.0 if free else round(host, 7), 0.0)
    return found | {"poll": store.poll, "sweep_every": store.sweep_every, "lease": store.lease}


async def measure_beat(url: str) -> Verb:
    """A heartbeat, in a connection of its own."""
    store: Any = open_store(url)
    await store.open("bench", me(), lambda kind: None)
    keeper = store.keeper()
    if keeper is None:
        await store.close()
        return Verb(0.0, 0.0, 0.0, 0.0)
    await keeper.open()
    meter, points = Meter(None), []
    for _ in range(200):
        _, engine, host = await meter.call(keeper.beat())
        points.append((engine, host))
    await keeper.close()
    await store.close()
    engine, host = (round(quiet([point[at] for point in points]), 7) for at in (0, 1))
    return Verb(engine, 0.0, host, 0.0)


def listen(url: str, count: int, ready: Any, end: Any) -> None:
    """Another process, that has the store open so many times, and does nothing when it is told of work."""

    async def run() -> None:
        stores: list[Any] = [open_store(url) for _ in range(count)]
        for store in stores:
            await store.open("bench", me(), lambda kind: None)
        ready.set()
        while not end.is_set():
            await asyncio.sleep(0.05)
        for store in stores:
            await store.close()

    asyncio.run(run())


async def measure_hint(url: str, server: Callable[[], float] | None, pick: Pick) -> float:
    """Seconds of the engine for each process that is told of work."""
    spawn = multiprocessing.get_context("spawn")
    ready, end = spawn.Event(), spawn.Event()
    calls = 1500 if server else 300

    async def cost() -> float:
        store: Any = open_store(url)
        mine = me(runs_jobs=False)
        await store.open("bench", mine, lambda kind: None)
        before, wall = server() if server else 0.0, []
        for _ in range(calls):
            began = time.perf_counter()
            await store.submit([NewJob(new_id(), "job", PAYLOAD, submitter=mine.id)])
            wall.append(time.perf_counter() - began)
        after = server() if server else 0.0
        await store.close()
        return (after - before) / calls if server else pick(wall)

    alone = await cost()
    child = spawn.Process(target=listen, args=(url, LISTENERS, ready, end), daemon=True)
    child.start()
    await asyncio.to_thread(ready.wait, 60)
    together = await cost()
    end.set()
    await asyncio.to_thread(child.join, 20)
    return round(max(0.0, together - alone) / LISTENERS, 7)


# -- the lock of SQLite ------------------------------------------------------------------------------------------------


def rival(path: str, ready: Any, end: Any) -> None:
    """Another process that takes the lock again and again."""
    lock = _lock(path)
    ready.set()
    while not end.is_set():
        lock.acquire(10)
        _work()
        lock.release()


HOLD = 0.0003


def _work() -> None:
    """Hold the lock as long as a small transaction does."""
    until = time.perf_counter() + HOLD
    while time.perf_counter() < until:
        pass


def _lock(path: str) -> Any:
    from aiopool.stores._sqlite_lock import WriteLock

    folder = Path(path)
    return WriteLock(folder / "lock", os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def measure_handoff() -> float:
    """Seconds from one process that lets go of the lock to the next one that goes on."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ready, end = spawn.Event(), spawn.Event()
        child = spawn.Process(target=rival, args=(folder, ready, end), daemon=True)
        child.start()
        ready.wait(30)
        lock, count = _lock(folder), 2000
        cycles: list[float] = []
        for _ in range(count):
            began = time.perf_counter()
            lock.acquire(10)
            _work()
            lock.release()
            cycles.append(time.perf_counter() - began)
        end.set()
        child.join(10)
        lock.close()
    return round(max(0.0, statistics.median(cycles) / 2 - HOLD), 7)


# -- a job in a pool ---------------------------------------------------------------------------------------------------


async def _lateness() -> list[float]:
    """How late a loop that waits is woken."""
    found = []
    for _ in range(100):
        began = time.perf_counter()
        await asyncio.sleep(0.01)
        found.append(max(0.0, time.perf_counter() - began - 0.01))
    return found


def measure_host(pick: Pick, count: int = 4000) -> HostCosts:
    """Processor time of a job in a pool whose store takes nothing."""
    handlers = aiopool.Handlers()

    @handlers.register("job")
    async def job(text: str) -> None: ...

    async def run() -> tuple[float, float]:
        name = f"memory://{uuid.uuid4().hex}"
        async with aiopool.Pool(1, name="bench", store=name, handlers=handlers, role="producer") as pool:

            async def submitter(jobs: int) -> None:
                for _ in range(jobs):
                    await pool.submit(job, "x" * 180)

            began = time.process_time()
            await asyncio.gather(*(submitter(count // 100) for _ in range(100)))
            submit = time.process_time() - began
            began = time.process_time()
            async with aiopool.Pool(100, name="bench", store=name, handlers=handlers, role="worker") as worker:
                while (await worker.fleet.statistics()).ended["succeeded"] < count:  # type: ignore[index]
                    await asyncio.sleep(0.001)
            return submit / count, (time.process_time() - began) / count

    pairs = [asyncio.run(run()) for _ in range(3)]
    submit, job_run = (round(pick([pair[at] for pair in pairs]), 7) for at in (0, 1))
    late = round(pick(asyncio.run(_lateness())), 7)
    return HostCosts(submit, job_run, late)


# -- all together ------------------------------------------------------------------------------------------------------


def processor_of(name: str) -> Callable[[], float]:
    """Return what tells the processor time of all server processes whose program has this in its name."""

    def seconds() -> float:
        total = 0.0
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                if name in (process.info["name"] or ""):
                    times = process.cpu_times()
                    total += times.user + times.system
        return total

    return seconds


@contextlib.asynccontextmanager
async def server_of(store: str) -> AsyncIterator[tuple[str, Callable[[], float] | None]]:
    """Start an engine from a package, and give its URL."""
    if store == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/jobs.db", None
        return
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "stores"))
    if store == "postgresql":
        from pg_server import package_server

        yield package_server(), processor_of("postgres")
        return
    from redis_servers import VALKEY, Server

    server = Server(VALKEY)
    try:
        yield server.url, processor_of("valkey")
    finally:
        server.remove()


async def measure(store: str, url: str | None = None, *, rounds: int = 1, pick: Pick = quiet) -> EngineCosts:
    """Return the costs of an engine on this machine."""
    async with contextlib.AsyncExitStack() as stack:
        server = None
        if url is None:
            url, server = await stack.enter_async_context(server_of(store))
        found = await measure_verbs(url, rounds, pick)
        beat = await measure_beat(url)
        hint = await measure_hint(url, server, pick)
    is_file, cores = store == "sqlite", os.cpu_count() or 1
    return EngineCosts(
        store=store,
        source=f"python -m benchmarks.engine_costs --store {store}",
        submit=found["submit"],
        claim=found["claim"],
        settle=found["settle"],
        empty=found["empty"],
        sweep=found["sweep"],
        beat=beat,
        hint=hint,
        handoff=await asyncio.to_thread(measure_handoff) if is_file else 0.0,
        host=await _in_thread(lambda: measure_host(pick)),
        servers=cores if store == "postgresql" else 1,
        reads_are_free=is_file,
        waits_for_disk=store != "redis",
        one_machine=is_file,
        cores=cores,
        connections={"sqlite": 0, "postgresql": 4, "redis": 4}[store],
        max_connections={"sqlite": None, "postgresql": 97, "redis": 10_000}[store],
        network=0.0 if is_file else 0.0005,
        poll=found["poll"],
        sweep_every=found["sweep_every"],
        lease=found["lease"],
    )


async def _in_thread(function: Callable[[], Any]) -> Any:
    """Call what runs loops of its own."""
    answer: list[Any] = []
    thread = threading.Thread(target=lambda: answer.append(function()))
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.05)
    return answer[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True, choices=("sqlite", "postgresql", "redis"))
    parser.add_argument("--url", help="an engine that runs already; without it one is started from a package")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put them into aiopool/_plan/costs.py")
    options = parser.parse_args()
    costs = asyncio.run(measure(options.store, options.url, rounds=options.rounds))
    print(as_code(costs))
    if options.write:
        write(costs)


def as_code(costs: EngineCosts) -> str:
    """Return an entry of the table, as it is written in Python."""
    lines = [f'    "{costs.store}": EngineCosts(']
    for field in dataclasses.fields(costs):
        value = getattr(costs, field.name)
        text = json.dumps(value) if isinstance(value, str) else repr(value)
        lines.append(f"        {field.name}={text},")
    return "\n".join([*lines, "    ),"])


def write(costs: EngineCosts) -> None:
    """Put an entry into the table, in place of the one that is there."""
    path = Path(aiopool.__file__).parent / "_plan" / "costs.py"
    text = path.read_text(encoding="utf-8")
    entries = {**COSTS, costs.store: costs}
    start = text.index("COSTS: Final[")
    body = "\n".join(as_code(entries[store]) for store in sorted(entries))
    path.write_text(f"{text[:start]}COSTS: Final[dict[str, EngineCosts]] = {{\n{body}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
