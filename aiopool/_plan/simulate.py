"""`simulate`: a fleet of real pools for some virtual seconds, and what it did.

    producers ── pool.submit ──▶ Modelled ─┐
                                           ├─▶ Engine (one) ── Memory (one queue)
    hosts ── claimer, flusher, sweeper ────┘

Every host is a whole pool: its own engine, claimer, flushers and sweeper, as in production, in one loop with a virtual
clock. Only the store takes modelled time, and so does the processor of each host.

It refuses to know how costs are measured, and what is printed.

Always true: the same scenario and the same seed give the same report; a job is lost only if the report says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, final

from aiopool import Handlers, Limit, Pool
from aiopool._plan.costs import EngineCosts
from aiopool._plan.engine_model import Engine, Modelled
from aiopool._plan.load import Arrival
from aiopool.errors import StoreUnavailableError
from aiopool.stores._memory import Memory
from aiopool.stores._rows import Settlement
from aiopool.testing import VirtualRunner

__all__ = ["Partition", "Report", "Scenario", "simulate"]

QUEUE: Final = "plan"
# Seconds until a killed process is there again, as another.
RESTART: Final = 1.0
# A resource that is busy for more than this share of the time is what holds up the rest.
FULL: Final = 0.9
# Less than this share of what came was finished: it does not keep up.
KEEPS_UP: Final = 0.95
# It does not keep up, and nothing is busy for more than this: jobs lie there until somebody asks.
HALF: Final = 0.5
# Bytes a second of the network of the engine: 1 Gbit/s.
BANDWIDTH: Final = 125_000_000
# Above this share of the engine's time, claims that find nothing are what it is busy with.
CONTENTION: Final = 0.5


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Partition:
    """So many hosts are cut off from the engine, from a moment on, for some seconds."""

    hosts: int
    at: float
    seconds: float


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated.

    Attributes:
        costs: of the engine.
        jobs: when they come, and how long they run; sorted.
        seconds: for so long they come; the numbers are of this time.
        hosts: processes that run jobs.
        size: jobs that each of them runs at once.
        producers: processes that submit, in turn.
        limits: at most so many at once in the fleet, by name.
        crashes_per_hour: processes that run jobs and are killed, in the whole fleet, at random moments.
        partitions: hosts that are cut off.
        slow_disk: seconds that each commit takes longer than measured.
        payload: bytes of the arguments of a job.
        drain: seconds after the end, at most, for what is left.
        seed: of all that is drawn.
    """

    costs: EngineCosts
    jobs: Sequence[Arrival]
    seconds: float
    hosts: int = 1
    size: int = 10
    producers: int = 1
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    crashes_per_hour: float = 0.0
    partitions: Sequence[Partition] = ()
    slow_disk: float = 0.0
    payload: int = 200
    drain: float = 30.0
    seed: int = 0


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What a fleet did.

    Attributes:
        hosts: that ran jobs.
        offered: jobs a second that came.
        throughput: jobs a second that ended, while they came.
        waits: seconds from the submission of a job to its first start: the percentiles 50, 95, 99 and 100.
        submitted, finished: jobs, to the end of the drain.
        left: jobs that are still in the store, or on their way there.
        lost: jobs that are nowhere; always 0, or something is wrong.
        reruns: starts of a job that had been started before.
        crashes, rescued: processes that were killed, and jobs that were taken from dead ones.
        lost_leases: hosts that came back as others, for they were cut off too long.
        used: the share of its time in which each resource was busy: `slots`, `engine`, `host` (the processor of a
            host), `producer`, `machine` (if all share one), `network`, and `connections` (needed, of those there are).
        empty: the share of the engine's time that claims took which found nothing.
        engine: the share of its time, by verb.
        engine_wait: seconds that a call waited for the engine, in the mean.
        calls: of each verb, a second.
        saturated: what holds up the rest; None: nothing does.
    """

    hosts: int
    offered: float
    throughput: float
    waits: tuple[float, float, float, float]
    submitted: int
    finished: int
    left: int
    lost: int
    reruns: int
    crashes: int
    rescued: int
    lost_leases: int
    used: dict[str, float]
    empty: float
    engine: dict[str, float]
    engine_wait: float
    calls: dict[str, float]
    saturated: str | None


def simulate(scenario: Scenario) -> Report:
    """Run a scenario in virtual time, and return what happened.

    Raises:
        RuntimeError: an event loop is running in this thread.
    """
    with _quiet(), VirtualRunner(seed=scenario.seed, max_steps=10**12, max_steps_at_once=10**9) as runner:
        return runner.run(_Simulation(scenario).run)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what pools say of dead hosts out of the log of this process."""
    loggers = [logging.getLogger(name) for name in ("aiopool", "aiopool.store")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@final
class _Simulation:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.chance = random.Random(f"fleet {scenario.seed}")  # noqa: S311 - no secret
        count = len(scenario.jobs)
        self.started: list[float | None] = [None] * count
        self.waits: list[float] = []
        self.lost_leases = self.reruns = self.ended = self.ended_in_time = self.crashes = 0
        self.slot_seconds = 0.0
        self.all_done = asyncio.Event()
        self.is_over = False
        self.producers: list[Modelled] = []
        self.hosts: list[Modelled | None] = [None] * scenario.hosts
        self.lives: dict[Modelled, asyncio.Task[Any]] = {}
        self.machinery: set[asyncio.Task[Any]] = set()
        self.handlers = Handlers()
        # One function for each limit: a limit is found by the name of a function.
        self.functions = {name: self._function(name) for name in {job.limit for job in scenario.jobs}}

    def _function(self, limit: str | None) -> Any:
        name = "job" if limit is None else limit

        @self.handlers.register(name, max_crashes=1_000_000)
        async def work(number: int) -> None:
            loop = asyncio.get_running_loop()
            now = loop.time()
            if self.started[number] is None:
                self.started[number] = now
                self.waits.append(now - self.scenario.jobs[number].at)
            else:
                self.reruns += 1
            try:
                await asyncio.sleep(self.scenario.jobs[number].seconds + self.scenario.costs.host.late)
            finally:
                end = min(loop.time(), self.scenario.seconds)
                self.slot_seconds += max(0.0, end - now)

        return work

    def _settled(self, end: Settlement) -> None:
        if end.outcome == "succeeded":
            self.ended += 1
            self.ended_in_time += asyncio.get_running_loop().time() <= self.scenario.seconds
            if self.ended == len(self.scenario.jobs):
                self.all_done.set()

    def _store(self) -> Modelled:
        loop = asyncio.get_running_loop()
        memory = Memory(self.name, keep=1e9, keep_failed=1e9, clock=loop.time)
        return Modelled(memory, self.engine, self._settled)

    def _spawn(self, steps: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(steps)
        self.machinery.add(task)
        task.add_done_callback(self.machinery.discard)
        return task

    async def run(self) -> Report:
        scenario, loop = self.scenario, asyncio.get_running_loop()
        self.name = f"plan-{id(self)}"
        self.engine = Engine(scenario.costs, slow_disk=scenario.slow_disk, payload=scenario.payload)
        self.over = asyncio.Event()
        hosts = [self._spawn(self._host(number)) for number in range(scenario.hosts)]
        tasks = [self._spawn(self._producer(number)) for number in range(scenario.producers)]
        tasks += [self._spawn(self._cut(partition)) for partition in scenario.partitions]
        if scenario.crashes_per_hour:
            tasks.append(self._spawn(self._crashes()))
        await asyncio.sleep(scenario.seconds - loop.time())
        used = self._used()
        if not scenario.jobs:
            self.all_done.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(scenario.drain):
                await self.all_done.wait()
        report = await self._report(used)
        self.is_over = True
        self.over.set()
        for task in tasks:
            task.cancel()
        await asyncio.wait([*hosts, *tasks])
        for task in self.machinery:
            task.cancel()
        return report

    # -- who takes part ------------------------------------------------------------------------------------------------

    def _pool(self, store: Modelled, number: int, role: Any) -> Pool:
        limits = {name: Limit(max_at_once=most) for name, most in self.scenario.limits.items()}
        return Pool(
            self.scenario.size, name=QUEUE, seed=self.scenario.seed * 1_000_003 + number, limits=limits, store=store,
            handlers=self.handlers, role=role,
        )  # fmt: skip

    async def _host(self, number: int) -> None:
        """A host, and after a crash the next one in its place."""
        life = 0
        while not self.is_over:
            store = self.hosts[number] = self._store()
            task = self._spawn(self._live(store, number + life * self.scenario.hosts))
            self.lives[store] = task
            await asyncio.wait([task])
            life += 1
            if not self.is_over:
                await asyncio.sleep(RESTART)

    async def _live(self, store: Modelled, number: int) -> None:
        pool = self._pool(store, number, "worker")
        async with pool:
            beats = self._spawn(self._beats(store, pool)) if store.engine.costs.lease is not None else None
            try:
                await self.over.wait()
            finally:
                if beats is not None:
                    beats.cancel()

    async def _beats(self, store: Modelled, pool: Pool) -> None:
        """Keep a lease: what the keeper's thread does in production."""
        lease = store.engine.costs.lease
        assert lease is not None
        while True:
            await asyncio.sleep(lease / 3 * (0.75 + self.chance.random() / 2))
            with contextlib.suppress(StoreUnavailableError):
                await store.beat()
            if store.lost:
                jobs: Any = pool._state.durability
                jobs._lease_lost()  # what the keeper does
                self.lost_leases += 1

    async def _producer(self, number: int) -> None:
        scenario, loop = self.scenario, asyncio.get_running_loop()
        submissions: set[asyncio.Task[Any]] = set()
        store = self._store()
        self.producers.append(store)
        async with self._pool(store, -1 - number, "producer") as pool:
            for each in range(number, len(scenario.jobs), scenario.producers):
                job = scenario.jobs[each]
                if (wait := job.at - loop.time()) > 0:
                    await asyncio.sleep(wait)
                task = loop.create_task(pool.submit(self.functions[job.limit], each))
                submissions.add(task)
                task.add_done_callback(submissions.discard)
            await self.over.wait()

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    async def _crashes(self) -> None:
        rate = self.scenario.crashes_per_hour / 3600
        while True:
            await asyncio.sleep(self.chance.expovariate(rate))
            living = [store for store in self.hosts if store is not None and not store.dead and store in self.lives]
            if living:
                self._kill(self.chance.choice(living))

    def _kill(self, store: Modelled) -> None:
        """Kill a process: the kernel says so at once, or its lease does when it ends."""
        loop = asyncio.get_running_loop()
        self.crashes += 1
        store.dead = True
        lease = self.scenario.costs.lease
        loop.call_later(0.0 if lease is None else max(0.0, store.beaten_at + lease - loop.time()), store.memory.kill)
        self.lives.pop(store).cancel()

    async def _cut(self, partition: Partition) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(partition.at - loop.time())
        lease = self.scenario.costs.lease
        for store in self.hosts[: partition.hosts]:
            if store is None or store.dead:
                continue
            store.cut_until = loop.time() + partition.seconds
            if lease is not None and store.beaten_at + lease < store.cut_until:
                loop.call_at(store.beaten_at + lease, self._lose, store)

    def _lose(self, store: Modelled) -> None:
        if not store.dead:
            store.lost = True
            store.memory.kill()

    # -- what came of it -----------------------------------------------------------------------------------------------

    def _used(self) -> dict[str, float]:
        """Return how busy everything was, at the end of the time in which jobs come."""
        scenario, engine, costs = self.scenario, self.engine, self.engine.costs
        seconds = scenario.seconds
        running = sum(
            min(seconds, seconds - at) for store in self.hosts if store is not None for at in self._running(store)
        )
        self.busy = dict(engine.busy)
        self.calls = {verb: count / seconds for verb, count in engine.calls.items()}
        used = {
            "slots": (self.slot_seconds + running) / (scenario.hosts * scenario.size * seconds),
            "engine": sum(engine.busy.values()) / (costs.servers * seconds),
            "host": max([store.processor.busy for store in self.hosts if store is not None], default=0.0) / seconds,
            "producer": max(store.processor.busy for store in self.producers) / seconds,
            "network": 0.0 if costs.one_machine else engine.bytes / seconds / BANDWIDTH,
        }
        if engine.machine is not None:
            used["machine"] = engine.machine.busy / (costs.cores * seconds)
        if costs.max_connections is not None:
            used["connections"] = (scenario.hosts + scenario.producers) * costs.connections / costs.max_connections
        return used

    def _running(self, store: Modelled) -> list[float]:
        member = store.memory._member
        return [] if member is None else [row.started_at for row in member.rows.values() if row.started_at is not None]

    async def _report(self, used: dict[str, float]) -> Report:
        scenario, engine = self.scenario, self.engine
        numbers = await self.producers[0].memory.statistics()
        live = sum(numbers.live.values())
        came = sum(job.at < scenario.seconds for job in scenario.jobs)
        unsent = len(scenario.jobs) - live - sum(numbers.ended.values())
        busy = sum(self.busy.values())
        report = Report(
            hosts=scenario.hosts,
            offered=came / scenario.seconds,
            throughput=self.ended_in_time / scenario.seconds,
            waits=_percentiles(self.waits),
            submitted=len(scenario.jobs) - unsent,
            finished=self.ended,
            left=live + unsent,
            lost=sum(numbers.ended.values()) - self.ended,
            reruns=self.reruns,
            crashes=self.crashes,
            rescued=numbers.rescued,
            lost_leases=self.lost_leases,
            used=used,
            empty=self.busy.get("empty", 0.0) / busy if busy else 0.0,
            engine={verb: seconds / scenario.seconds for verb, seconds in sorted(self.busy.items())},
            engine_wait=engine.queued / max(1, sum(engine.calls.values())),
            calls=dict(sorted(self.calls.items())),
            saturated=None,
        )
        return dataclasses.replace(report, saturated=_saturated(report, scenario))


def _saturated(report: Report, scenario: Scenario) -> str | None:
    """Return what holds up the rest; None: nothing does."""
    if report.used.get("connections", 0.0) > 1.0:
        return "connections"
    shares = {name: share for name, share in report.used.items() if name != "connections"}
    worst = max(shares, key=lambda name: shares[name])
    # What has come in the last moments cannot have ended, however little it waits.
    wait = min(report.waits[0], 0.02 * scenario.seconds)
    due = sum(job.at + job.seconds + wait <= scenario.seconds for job in scenario.jobs)
    # Of few jobs some more may be late by chance.
    keeps_up = report.throughput * scenario.seconds >= KEEPS_UP * due - 2 * math.sqrt(due)
    if shares[worst] < FULL and keeps_up:
        return None
    if shares[worst] < FULL and scenario.limits:
        return "limits"
    if shares[worst] < HALF:
        return "polling"
    if worst == "engine" and report.empty > CONTENTION:
        return "claim contention"
    return worst


def _percentiles(values: list[float]) -> tuple[float, float, float, float]:
    if not values:
        return 0.0, 0.0, 0.0, 0.0
    row = sorted(values)
    p50, p95, p99 = (row[min(len(row) - 1, int(share * len(row)))] for share in (0.5, 0.95, 0.99))
    return p50, p95, p99, row[-1]
