"""What watching adds to a job, in nanoseconds of CPU; and what asking costs: a probe of health, a scrape.

As in `prices`: the ways to watch take turns within one process, with a collection before each, and each is compared
with the bare pool of its turn. All of them watch one and the same pool, and are taken off it after their turn, but
for those that cannot be (metrics, health): these have a pool of their own, and so has "another bare pool", whose row
is the noise.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any

from aiopool.health import HealthMonitor
from aiopool.metrics import observe
from benchmarks.contenders import Isolation
from benchmarks.prices import steady
from benchmarks.steady import OUTSTANDING
from benchmarks.workloads import AsyncFunction, noop

Numbers = dict[str, float]
Settle = Callable[[], Awaitable[None]]
On = Callable[[Any], AbstractAsyncContextManager[Settle]]

NAMES = 100
"""Names of jobs in the scrape: as many as have series of their own by default."""


async def settled() -> None:
    """Have nothing left to do when the jobs are done."""


@contextlib.asynccontextmanager
async def bare(pool: Any) -> AsyncIterator[Settle]:
    """Do not watch."""
    yield settled


@dataclass(frozen=True, slots=True)
class Way:
    """One way to watch a pool."""

    name: str
    on: On = bare
    options: tuple[tuple[str, Any], ...] | None = None
    """Options of a pool of its own; None: it watches the pool of all."""
    function: AsyncFunction = noop


async def compare(ways: list[Way], isolation: Isolation, count: int, repeats: int) -> Numbers:
    """Return ns per job for the bare pool, and what each way to watch adds to it."""
    from aiopool import Pool

    async with AsyncExitStack() as stack:

        async def open_pool(**options: Any) -> Pool:
            return await stack.enter_async_context(Pool(size=100, queue_size=None, isolation=isolation, **options))

        shared = await open_pool()
        everyone = [Way("bare"), *ways]
        pools = [shared if way.options is None else await open_pool(**dict(way.options)) for way in everyone]
        spent: dict[str, list[float]] = {way.name: [] for way in everyone}
        for repeat in range(-1, repeats):  # the first turn warms up
            shift = repeat % len(everyone)
            turns = list(zip(everyone, pools, strict=True))
            for way, pool in turns[shift:] + turns[:shift]:
                nanoseconds = await one_turn(way, pool, count if repeat >= 0 else OUTSTANDING)
                if repeat >= 0:
                    spent[way.name].append(nanoseconds)
    plain = spent.pop("bare")
    report = {"bare pool_ns": statistics.median(plain)}
    for name, times in spent.items():
        report[f"{name}_ns"] = statistics.median(own - base for own, base in zip(times, plain, strict=True))
    return report


async def one_turn(way: Way, pool: Any, count: int) -> float:
    """Run `count` jobs, watched in one way; ns of CPU per job."""
    function = way.function

    def submit(index: int) -> Awaitable[Any]:
        return pool.submit(function, index)  # type: ignore[no-any-return]

    async with way.on(pool) as settle:
        await steady(submit, 100)
        await settle()
        gc.collect()
        begin = time.process_time()
        await steady(submit, count)
        await settle()
        return (time.process_time() - begin) / count * 1e9


# --- events, metrics, health ----------------------------------------------------------------------------


def ways_to_watch() -> list[Way]:
    """Return the ways to hear, to count and to ask."""
    return [
        Way("another bare pool", options=()),
        Way("nobody listens any more", nobody_any_more),
        Way("a listener for what never happens", listener_never),
        Way("a listener for failures", listener_for_failures),
        Way("a listener for all events", listener_for_all),
        Way("events() with a reader", reader),
        Way("metrics", counted, options=()),
        Way("jobs that have ended are kept", options=(("keep_finished", 1000),)),
        Way("health, a probe in 4,000 jobs", probed, options=()),
    ]


def hear(event: object) -> None:
    """Hear, and do nothing."""


@contextlib.asynccontextmanager
async def counted(pool: Any) -> AsyncIterator[Settle]:
    """Count and time jobs by their names."""
    observe(pool)
    yield settled


@contextlib.asynccontextmanager
async def nobody_any_more(pool: Any) -> AsyncIterator[Settle]:
    """Somebody has listened, and does so no more."""
    pool.listen(hear).remove()
    yield settled


@contextlib.asynccontextmanager
async def listener_never(pool: Any) -> AsyncIterator[Settle]:
    """Hear of workers that crash."""
    from aiopool.events import WorkerCrashed

    with pool.listen(hear, WorkerCrashed):
        yield settled


@contextlib.asynccontextmanager
async def listener_for_failures(pool: Any) -> AsyncIterator[Settle]:
    """Hear of jobs that fail; none does."""
    from aiopool.events import JobFailed, JobTimedOut

    with pool.listen(hear, JobFailed, JobTimedOut):
        yield settled


@contextlib.asynccontextmanager
async def listener_for_all(pool: Any) -> AsyncIterator[Settle]:
    """Hear of everything: three events of each job."""
    with pool.listen(hear):
        yield settled


@contextlib.asynccontextmanager
async def reader(pool: Any) -> AsyncIterator[Settle]:
    """Have a task read all events; the turn ends when it has read the last one."""
    stream = pool.events(buffer=1_000_000)

    async def read() -> None:
        async for _ in stream:
            pass

    async def read_all() -> None:
        while stream._buffer:
            await asyncio.sleep(0)

    task = asyncio.create_task(read())
    try:
        yield read_all
    finally:
        stream.close()
        await task
        if stream.dropped:
            raise AssertionError(f"{stream.dropped} events were dropped")


@contextlib.asynccontextmanager
async def probed(pool: Any) -> AsyncIterator[Settle]:
    """Probe once in each turn; the sampler of the loop's lag is on since the first."""

    monitor = HealthMonitor(pool)

    async def probe() -> None:
        monitor.report()

    yield probe


# --- logs -----------------------------------------------------------------------------------------------


def ways_to_log() -> list[Way]:
    """Return the ways to have logs, which go nowhere."""
    return [
        Way("another bare pool", options=()),
        Way("at info: nothing to say", logs("INFO", "json")),
        Way("at info: a line of each job, JSON", logs("INFO", "json"), function=talking),
        Way("at debug: three lines of ours, JSON", logs("DEBUG", "json")),
        Way("at debug: three lines of ours, console", logs("DEBUG", "console")),
    ]


async def talking(index: int) -> int:
    """Write a line, as a job of a service does."""
    import structlog

    structlog.get_logger("shop").info("sold", index=index)
    return index


def logs(level: str, renderer: Any) -> On:
    """Return a way to watch by logs that go nowhere."""

    @contextlib.asynccontextmanager
    async def on(pool: Any) -> AsyncIterator[Settle]:
        from aiopool.instrumentation.logging import configure_logging, reset_logging

        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            configure_logging(level, renderer=renderer, stream=nowhere, colors=False)
            try:
                yield settled
            finally:
                reset_logging()

    return on


# --- OpenTelemetry --------------------------------------------------------------------------------------


def ways_to_trace() -> list[Way]:
    """Return the ways that need OpenTelemetry's SDK."""
    return [
        Way("another bare pool", options=()),
        Way("metrics alone", traced(spans="off", metrics=True)),
        Way("spans, the API without an SDK", traced(sdk=False)),
        Way("spans, none sampled", traced(sampled=False)),
        Way("spans, all sampled, exported to nowhere", traced()),
        Way("spans and metrics", traced(metrics=True)),
    ]


def traced(*, sdk: bool = True, sampled: bool = True, spans: Any = "parent", metrics: bool = False) -> On:
    """Return a way to watch by OpenTelemetry."""

    @contextlib.asynccontextmanager
    async def on(pool: Any) -> AsyncIterator[Settle]:
        from opentelemetry import trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider, sampling
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

        from aiopool.instrumentation.opentelemetry import instrument

        class Nowhere(SpanExporter):
            def export(self, spans: Any) -> SpanExportResult:
                return SpanExportResult.SUCCESS

        tracers: trace.TracerProvider = trace.NoOpTracerProvider()
        if sdk:
            own = TracerProvider(sampler=sampling.ALWAYS_ON if sampled else sampling.ALWAYS_OFF)
            own.add_span_processor(SimpleSpanProcessor(Nowhere()))
            tracers = own
        meters = MeterProvider([InMemoryMetricReader()]) if metrics else None
        handle = instrument(pool, spans=spans, metrics=metrics, tracer_provider=tracers, meter_provider=meters)
        try:
            yield settled
        finally:
            handle.remove()
            if meters is not None:
                meters.shutdown()

    return on


# --- asking ---------------------------------------------------------------------------------------------


async def ask(isolation: Isolation, count: int) -> Numbers:
    """Ask a busy pool with a backlog of `count` jobs of a hundred names; µs of CPU for each question."""
    from prometheus_client import CollectorRegistry, generate_latest

    from aiopool import Pool
    from aiopool.instrumentation.prometheus import PoolCollector, SystemCollector

    def registry(collector: Any) -> CollectorRegistry:
        found = CollectorRegistry()
        found.register(collector)
        return found

    stop = asyncio.Event()
    async with (
        Pool(size=100, queue_size=None, isolation=isolation) as pool,
        Pool(size=1, isolation=isolation) as small,
    ):
        large_registry, small_registry = registry(PoolCollector(pool)), registry(PoolCollector(small))
        machine = registry(SystemCollector())
        await small.run(noop, 0)
        for number in range(NAMES):
            await pool.with_options(name=f"name-{number}").run(noop, number)
        for _ in range(100):
            await pool.with_options(name="name-0").submit(stop.wait)
        for number in range(count):
            await pool.with_options(name="name-1").submit(noop, number)
        times = max(10, min(1_000, count))

        def microseconds(question: Callable[[], object], repeats: int) -> float:
            question()
            gc.collect()
            begin = time.process_time()
            for _ in itertools.repeat(None, repeats):
                question()
            return (time.process_time() - begin) / repeats * 1e6

        report = {
            "the test for None_ns": truth_test(times * 1_000),
            "statistics()_us": microseconds(pool.statistics, times),
            "health()_us": microseconds(HealthMonitor(pool).report, times),
            "metrics(), 100 names_us": microseconds(observe(pool).snapshot, times // 10),
            "a scrape, 1 name_us": microseconds(lambda: generate_latest(small_registry), times // 10),
            "a scrape, 100 names_us": microseconds(lambda: generate_latest(large_registry), times // 10),
            "a scrape, the machine_us": microseconds(lambda: generate_latest(machine), times // 10),
        }
        stop.set()
    return report


class Seat:
    """Something with an attribute that is None, as the engine while nobody listens."""

    __slots__ = ("listeners",)

    def __init__(self) -> None:
        self.listeners: object = None


def truth_test(count: int) -> float:
    """Return the ns of what stands in a job's way three times while nobody listens."""
    seat = Seat()
    begin = time.process_time()
    for _ in itertools.repeat(None, count):
        if seat.listeners is not None:
            raise AssertionError
    middle = time.process_time()
    for _ in itertools.repeat(None, count):
        pass
    return max(0.0, (middle - begin - (time.process_time() - middle)) / count * 1e9)
