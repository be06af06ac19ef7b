"""Whether anything grows faster than the work: each verb of the face for many jobs, and for sixteen times as many.

A verb prepares its jobs, and then does one thing to all of them between `clock.start()` and `clock.stop()`. Measured
are the CPU time for each job and, in a run of its own, the largest gap between two turns of the event loop. The garbage
collector is off: what it takes is a matter of how many objects the program holds, and not of the verb.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiopool import Pool, Retry
from aiopool.health import HealthMonitor
from aiopool.metrics import observe
from benchmarks.contenders import Isolation
from benchmarks.workloads import noop

SMALL, LARGE, HUGE = 1_000, 16_000, 100_000
MOST_GROWTH = 1.5
MOST_GAP = 5.0  # ms
UNSLICED = "jobs(), for each job"  # the gap of a copy of all jobs cannot be flat
ENOUGH = 16_000  # jobs that are measured at least: small backlogs are measured several times, and the best run counts


class Clock:
    """The CPU time between `start` and `stop`; with `gaps`, the largest that passes between two turns of the loop."""

    def __init__(self, *, gaps: bool) -> None:
        self.gaps = gaps
        self.seconds = self.worst = self._began = self._last = 0.0
        self.operations: int | None = None  # if they are not as many as the jobs
        self._running = False

    def start(self) -> None:
        self._running = True
        self._began = self._last = time.process_time()
        if self.gaps:
            asyncio.get_running_loop().call_soon(self._tick)

    def _tick(self) -> None:
        if self._running:
            self._look()
            asyncio.get_running_loop().call_soon(self._tick)

    def _look(self) -> None:
        now = time.process_time()
        self.worst = max(self.worst, now - self._last)
        self._last = now

    def stop(self) -> None:
        self._look()
        self.seconds = self._last - self._began
        self._running = False


Verb = Callable[[Isolation, int, Clock], Awaitable[None]]
VERBS: dict[str, Verb] = {}


def verb(name: str) -> Callable[[Verb], Verb]:
    """Register a verb."""

    def register(function: Verb) -> Verb:
        VERBS[name] = function
        return function

    return register


async def measure(
    name: str, isolation: Isolation, count: int, *, gaps: bool, repeats: int | None = None
) -> dict[str, float]:
    """Do one verb to `count` jobs; CPU µs for each of its operations, or the largest gap in ms."""
    best, worst = float("inf"), float("inf")
    for _ in range(repeats or (1 if gaps else max(2, ENOUGH // count))):
        gc.collect()
        gc.disable()
        clock = Clock(gaps=gaps)
        await VERBS[name](isolation, count, clock)
        gc.enable()
        best = min(best, clock.seconds / (clock.operations or count) * 1e6)
        worst = min(worst, clock.worst * 1e3)
    return {"gap_ms": worst} if gaps else {"us": best}


# --- helpers ------------------------------------------------------------------------------------------------------


class Held:
    """A pool whose slots are taken until it is let go."""

    def __init__(self, isolation: Isolation, size: int = 1, queue_size: int | None = None, **options: Any) -> None:
        self.pool = Pool(size=size, queue_size=queue_size, isolation=isolation, on_error=_ignore, **options)
        self.gate = asyncio.Event()

    async def __aenter__(self) -> Held:
        await self.pool.__aenter__()
        for _ in range(self.pool.size):
            await self.pool.with_options(priority=-1).submit(self.gate.wait)
        await turns(5)
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.gate.set()
        await self.pool.__aexit__(None, None, None)


def _ignore(error: BaseException, job: Any) -> None:
    """Failures are part of the measurement."""


async def turns(count: int) -> None:
    """Let the loop turn over."""
    for _ in range(count):
        await asyncio.sleep(0)


async def fails(index: int) -> int:
    """Fail."""
    raise ValueError(index)


class FailsOnce:
    """A function that fails at its first call for each index."""

    def __init__(self) -> None:
        self.tried: set[int] = set()

    async def __call__(self, index: int) -> int:
        if index not in self.tried:
            self.tried.add(index)
            raise ValueError(index)
        return index


async def in_turns(clock: Clock, jobs: list[Any], act: Callable[[Any], object]) -> None:
    """Do something to each job; some of them a turn, so that the gap is the pool's and not that of this loop."""
    for start in range(0, len(jobs), 50):
        for job in jobs[start : start + 50]:
            act(job)
        await asyncio.sleep(0)


# --- submit and run -----------------------------------------------------------------------------------------------


def _options(**options: Any) -> Verb:
    async def run(isolation: Isolation, count: int, clock: Clock) -> None:
        async with Pool(size=100, queue_size=None, isolation=isolation) as pool:
            view = pool.with_options(**options)
            clock.start()
            for index in range(count):
                await view.submit(noop, index)
                if not index % 50:
                    await asyncio.sleep(0)
            await pool.join()
            clock.stop()

    return run


VERBS["submit and run"] = _options()
VERBS["a group's name"] = _options(group="all")
VERBS["timeout, not used up"] = _options(timeout=1000.0)
VERBS["queue_timeout, not used up"] = _options(queue_timeout=1000.0)
VERBS["total_timeout, not used up"] = _options(total_timeout=1000.0)


@verb("queue, then run")
async def queue_and_run(isolation: Isolation, count: int, clock: Clock) -> None:
    """A backlog is drained."""
    async with Held(isolation, 100) as held:
        for index in range(count):
            held.pool.submit_nowait(noop, index)
        clock.start()
        held.gate.set()
        await held.pool.join()
        clock.stop()


@verb("ids")
async def ids(isolation: Isolation, count: int, clock: Clock) -> None:
    """Each job has an id of the user's."""
    async with Pool(size=100, queue_size=None, isolation=isolation) as pool:
        clock.start()
        for index in range(count):
            await pool.with_options(id=f"job-{index}").submit(noop, index)
            if not index % 50:
                await asyncio.sleep(0)
        await pool.join()
        clock.stop()


def _dropping(policy: Any) -> Verb:
    async def run(isolation: Isolation, count: int, clock: Clock) -> None:
        async with Held(isolation, 1, count, overflow=policy) as held:
            low, high = held.pool.with_options(priority=8), held.pool.with_options(priority=5)
            for index in range(count):
                low.submit_nowait(noop, index)
            await turns(3)
            clock.start()
            await in_turns(clock, list(range(count)), lambda index: high.submit_nowait(noop, index))
            clock.stop()

    return run


VERBS["drop_oldest"] = _dropping("drop_oldest")
VERBS["drop_lowest"] = _dropping("drop_lowest")


@verb("submitters that wait for room")
async def room(isolation: Isolation, count: int, clock: Clock) -> None:
    """All are let in."""
    async with Held(isolation, 1, 1) as held:
        tasks = [asyncio.ensure_future(held.pool.submit(noop, index)) for index in range(count)]
        await turns(3)
        clock.start()
        held.gate.set()
        while not tasks[-1].done():
            await asyncio.sleep(0)
        await held.pool.join()
        clock.stop()


# --- cancel -------------------------------------------------------------------------------------------------------


def _cancels(*, last_first: bool, paused: bool = False) -> Verb:
    async def run(isolation: Isolation, count: int, clock: Clock) -> None:
        async with Pool(size=1, queue_size=None, isolation=isolation, on_error=_ignore) as pool:
            if paused:
                pool.pause(group="it")
            else:
                pool.pause()
            jobs = [pool.with_options(group="it").submit_nowait(noop, 0)]
            view = pool.with_options(group="it")
            jobs += [view.submit_nowait(noop, index) for index in range(count - 1)]
            while paused and pool.statistics().queued and pool._state.engine.groups.parked < count:  # type: ignore[union-attr]
                await asyncio.sleep(0)
            if last_first:
                jobs.reverse()
            clock.start()
            await in_turns(clock, jobs, lambda job: job.cancel())
            clock.stop()
            pool.resume()

    return run


VERBS["cancel queued, first first"] = _cancels(last_first=False)
VERBS["cancel queued, last first"] = _cancels(last_first=True)
VERBS["cancel parked, first first"] = _cancels(last_first=False, paused=True)
VERBS["cancel parked, last first"] = _cancels(last_first=True, paused=True)


@verb("cancel running")
async def cancel_running(isolation: Isolation, count: int, clock: Clock) -> None:
    """All jobs run and are cancelled."""
    async with Pool(size=count, queue_size=None, isolation=isolation, on_error=_ignore) as pool:
        forever = asyncio.Event()
        jobs = [await pool.submit(forever.wait) for _ in range(count)]
        while pool.statistics().running < count:
            await asyncio.sleep(0)
        await turns(5)
        clock.start()
        await in_turns(clock, jobs, lambda job: job.cancel())
        await pool.join()
        clock.stop()


def _gives_up(*, last_first: bool) -> Verb:
    async def run(isolation: Isolation, count: int, clock: Clock) -> None:
        async with Held(isolation, 1, 0) as held:
            tasks = [asyncio.ensure_future(held.pool.submit(noop, index)) for index in range(count)]
            await turns(3)
            if last_first:
                tasks.reverse()
            clock.start()
            await in_turns(clock, tasks, lambda task: task.cancel())
            await turns(3)
            clock.stop()

    return run


VERBS["submitters that give up, first first"] = _gives_up(last_first=False)
VERBS["submitters that give up, last first"] = _gives_up(last_first=True)


@verb("cancel_all, queued")
async def cancel_all(isolation: Isolation, count: int, clock: Clock) -> None:
    """One call for all."""
    async with Pool(size=1, queue_size=None, isolation=isolation) as pool:
        pool.pause()
        for index in range(count):
            pool.submit_nowait(noop, index)
        await turns(3)
        clock.start()
        await pool.cancel_all()
        clock.stop()


@verb("cancel_all, waiting for room")
async def cancel_waiting(isolation: Isolation, count: int, clock: Clock) -> None:
    """All submitters are refused."""
    async with Held(isolation, 1, 0) as held:
        tasks = [asyncio.ensure_future(held.pool.submit(noop, index)) for index in range(count)]
        await turns(3)
        clock.start()
        await held.pool.cancel_all()
        clock.stop()
        await asyncio.gather(*tasks, return_exceptions=True)


@verb("shutdown with a queue")
async def shutdown(isolation: Isolation, count: int, clock: Clock) -> None:
    """What has not started is cancelled."""
    async with Pool(size=1, queue_size=None, isolation=isolation) as pool:
        pool.pause()
        for index in range(count):
            pool.submit_nowait(noop, index)
        await turns(3)
        clock.start()
        await pool.shutdown(0, cancel_pending=True)
        clock.stop()


# --- order, pause, moments ----------------------------------------------------------------------------------------


@verb("reprioritize from the end")
async def reprioritize(isolation: Isolation, count: int, clock: Clock) -> None:
    """Each job goes from the end of the line to its front."""
    async with Pool(size=1, queue_size=None, isolation=isolation) as pool:
        pool.pause()
        jobs = [pool.submit_nowait(noop, index) for index in range(count)]
        jobs.reverse()
        await turns(3)
        clock.start()
        await in_turns(clock, jobs, lambda job: pool.reprioritize(job.id, 4))
        clock.stop()
        await pool.shutdown(0, cancel_pending=True)


@verb("pause and resume the pool")
async def pause(isolation: Isolation, count: int, clock: Clock) -> None:
    """With a backlog, once for each job."""
    async with Held(isolation) as held:
        for index in range(count):
            held.pool.submit_nowait(noop, index)
        await turns(3)
        clock.start()
        for _ in range(max(1, count // 50)):
            for _ in range(50):
                held.pool.pause()
                held.pool.resume()
            await asyncio.sleep(0)
        clock.stop()


@verb("resume a group, with newer jobs in line")
async def resume_group(isolation: Isolation, count: int, clock: Clock) -> None:
    """Parked jobs go back to their places, and run."""
    async with Pool(size=1, queue_size=None, isolation=isolation) as pool:
        pool.pause(group="it")
        view = pool.with_options(group="it")
        for index in range(count):
            view.submit_nowait(noop, index)
        while pool._state.engine.groups.parked < count:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        pool.pause()
        for index in range(count):
            pool.submit_nowait(noop, index)
        await turns(3)
        clock.start()
        pool.resume(group="it")
        pool.resume()
        await pool.join()
        clock.stop()
        clock.operations = 2 * count


def _long_enough(count: int) -> float:
    """Return seconds within which so many jobs are submitted and begun."""
    return 0.2 + 40e-6 * count


def _due(option: str) -> Verb:
    async def run(isolation: Isolation, count: int, clock: Clock) -> None:
        async with Pool(size=100, queue_size=None, isolation=isolation, on_error=_ignore) as pool:
            seconds = _long_enough(count)
            function: Any = noop
            if option == "retry":
                view, function = pool.with_options(retry=Retry(delay=seconds, jitter=0)), FailsOnce()
            else:
                view = pool.with_options(**{option: seconds})
            if option == "queue_timeout":
                pool.pause()
            for index in range(count):
                view.submit_nowait(function, index)
            while option == "retry" and pool.statistics().scheduled < count:
                await asyncio.sleep(0)
            # Nobody looks before the moment: then all of them are due at once.
            time.sleep(seconds)
            clock.start()
            await pool.join()
            clock.stop()

    return run


VERBS["retries due together"] = _due("retry")
VERBS["delays due together"] = _due("delay")
VERBS["queue_timeout used up together"] = _due("queue_timeout")


def _expires(option: str) -> Verb:
    async def run(isolation: Isolation, count: int, clock: Clock) -> None:
        async with Pool(size=count, queue_size=None, isolation=isolation, on_error=_ignore) as pool:
            forever = asyncio.Event()
            seconds, began = 5 * _long_enough(count), time.monotonic()
            view = pool.with_options(**{option: seconds})
            for _ in range(count):
                view.submit_nowait(forever.wait)
            while pool.statistics().running < count:
                if pool.statistics().timed_out:
                    raise RuntimeError(f"{count} jobs were not begun within {seconds:g} s: the machine is busy")
                await asyncio.sleep(0)
            # A `timeout` runs from the start of each: until the last of them, and nobody looks meanwhile.
            time.sleep(seconds if option == "timeout" else max(0.0, began + seconds - time.monotonic()))
            clock.start()
            await pool.join()
            clock.stop()

    return run


VERBS["timeout used up together"] = _expires("timeout")
VERBS["total_timeout used up together"] = _expires("total_timeout")


# --- waiting ------------------------------------------------------------------------------------------------------


@verb("join, by many")
async def joins(isolation: Isolation, count: int, clock: Clock) -> None:
    """Many wait for the end of all work, and half of them give up, last first."""
    async with Held(isolation) as held:
        tasks = [asyncio.ensure_future(held.pool.join()) for _ in range(count)]
        await turns(3)
        clock.start()
        await in_turns(clock, tasks[: count // 2 : -1], lambda task: task.cancel())
        held.gate.set()
        while not tasks[0].done():
            await asyncio.sleep(0)
        clock.stop()


@verb("one job, awaited by many")
async def awaiters(isolation: Isolation, count: int, clock: Clock) -> None:
    """Many wait for one job, and half of them give up, last first."""
    async with Held(isolation) as held:
        job = await held.pool.submit(noop, 0)

        async def wait() -> None:
            await job

        tasks = [asyncio.ensure_future(wait()) for _ in range(count)]
        await turns(3)
        clock.start()
        await in_turns(clock, tasks[: count // 2 : -1], lambda task: task.cancel())
        held.gate.set()
        while not tasks[0].done():
            await asyncio.sleep(0)
        clock.stop()


@verb("map")
async def map_(isolation: Isolation, count: int, clock: Clock) -> None:
    """A stream of results."""
    async with Pool(size=100, isolation=isolation) as pool:
        clock.start()
        async for _ in pool.map(noop, range(count)):
            pass
        clock.stop()


@verb("a group as a block")
async def group(isolation: Isolation, count: int, clock: Clock) -> None:
    """Jobs of a block."""
    async with Pool(size=100, queue_size=None, isolation=isolation) as pool:
        clock.start()
        async with pool.group() as block:
            for index in range(count):
                await block.submit(noop, index)
                if not index % 50:
                    await asyncio.sleep(0)
        clock.stop()


@verb("a group that fails")
async def failing_group(isolation: Isolation, count: int, clock: Clock) -> None:
    """The first failure cancels all others, which are queued."""
    async with Held(isolation) as held:
        try:
            async with held.pool.group() as block:
                await block.submit(fails, 0)
                for index in range(count):
                    block.submit_nowait(noop, index)
                await turns(3)
                clock.start()
                held.gate.set()
        except* ValueError:
            clock.stop()


# --- questions ----------------------------------------------------------------------------------------------------


@verb("a listener")
async def listener(isolation: Isolation, count: int, clock: Clock) -> None:
    """Somebody hears of every job."""
    async with Pool(size=100, queue_size=None, isolation=isolation) as pool:
        heard: list[Any] = []
        pool.listen(lambda event: heard.append(None))
        await _run_all(pool, count, clock)


@verb("measured jobs")
async def measured(isolation: Isolation, count: int, clock: Clock) -> None:
    """Jobs are counted and timed by their names."""
    async with Pool(size=100, queue_size=None, isolation=isolation) as pool:
        observe(pool)
        await _run_all(pool, count, clock)


async def _run_all(pool: Pool, count: int, clock: Clock) -> None:
    clock.start()
    for index in range(count):
        await pool.submit(noop, index)
        if not index % 50:
            await asyncio.sleep(0)
    await pool.join()
    clock.stop()


def _question(ask: Callable[[Pool], object], times: int = 200) -> Verb:
    async def run(isolation: Isolation, count: int, clock: Clock) -> None:
        async with Held(isolation) as held:
            jobs = [held.pool.submit_nowait(noop, index) for index in range(count)]
            for job in jobs[count // 4 : count // 2]:
                job.cancel()
            ask(held.pool)
            clock.start()
            for _ in range(times):
                ask(held.pool)
                await asyncio.sleep(0)
            clock.stop()
            clock.operations = times
            await held.pool.shutdown(0, cancel_pending=True)

    return run


VERBS["statistics()"] = _question(lambda pool: pool.statistics())
VERBS["metrics()"] = _question(lambda pool: observe(pool).snapshot())
VERBS["health()"] = _question(lambda pool: HealthMonitor(pool).report())
VERBS["get_job()"] = _question(lambda pool: pool.get_job(2))


@verb(UNSLICED)
async def jobs(isolation: Isolation, count: int, clock: Clock) -> None:
    """A snapshot of all jobs cannot be flat; its price is in its docstring."""
    async with Held(isolation) as held:
        for index in range(count):
            held.pool.submit_nowait(noop, index)
        clock.start()
        held.pool.jobs()
        clock.stop()
        await held.pool.shutdown(0, cancel_pending=True)
