"""Whether anything grows faster than the work: each verb of the face for many jobs, and for sixteen times as many.

A verb is an async generator: it prepares its jobs, yields, and then does one thing to all of them, which is measured.
Measured are the CPU time for each job and, in a run of its own, the largest gap between two turns of the event loop.
The garbage collector is off: what it takes is a matter of how many objects the program holds, and not of the verb.
Nobody waits for a moment: the clock jumps to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from aiopool import Pool, PoolStatus, Retry
from aiopool.errors import RestartLimitError
from aiopool.health import HealthMonitor
from aiopool.metrics import observe
from benchmarks.contenders import Isolation
from benchmarks.workloads import noop

SMALL, LARGE, HUGE = 1_000, 16_000, 100_000
MOST_GROWTH = 1.5
MOST_GAP = 5.0  # ms
UNSLICED = "jobs(), for each job"  # the gap of a copy of all jobs cannot be flat
ENOUGH = 16_000  # jobs that are measured at least: small backlogs are measured several times, and the best run counts
SOON = 10_000.0  # seconds, for jobs that are due when the clock has jumped
LATER = 1_000 * SOON
A_TURN = 50  # so many things a verb does in one turn of the loop: the gaps are to be the pool's, and not its own


class Clock:
    """The CPU time between `start` and `stop`; with `gaps`, the largest that passes between two turns of the loop."""

    def __init__(self, *, gaps: bool) -> None:
        self.gaps = gaps
        self.seconds = self.worst = self._began = self._last = 0.0
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


class Case:
    """What the verbs have in common: a pool, and as many jobs."""

    pool: Pool

    def __init__(self, count: int) -> None:
        self.count = self.operations = count
        self.later = 0.0  # what the clock has jumped
        self.jobs: list[
            Any
        ] = []  # kept, as are the tasks: to let go of all of them takes time, which is not the verb's
        self.tasks: list[asyncio.Task[Any]] = []
        self.gate = asyncio.Event()  # until it is set, jobs of `hold` run

    async def hold(self) -> None:
        """Take all slots."""
        for _ in range(self.pool.size):
            await self.pool.with_options(priority=-1).submit(self.gate.wait)
        await turns(5)

    def queue(self, function: Callable[..., Any] = noop, **options: Any) -> list[Any]:
        """Submit all jobs at once."""
        view = self.pool.with_options(**options)
        self.jobs = [view.submit_nowait(function, index) for index in range(self.count)]
        return self.jobs

    async def feed(self, submit: Callable[[int], Any] | None = None) -> None:
        """Submit all jobs one after the other, and wait for them."""
        for index in range(self.count):
            await (self.pool.submit(noop, index) if submit is None else submit(index))
            if not index % A_TURN:
                await asyncio.sleep(0)
        await self.pool.join()

    async def wait_in(self, call: Callable[[], Any]) -> list[asyncio.Task[Any]]:
        """Let as many tasks as there are jobs wait in a call."""
        self.tasks = [asyncio.ensure_future(call()) for _ in range(self.count)]
        await turns(3)
        return self.tasks

    async def until(self, number: Callable[[], int]) -> None:
        """Let the loop turn until a number has come to the number of jobs."""
        while number() < self.count:
            await asyncio.sleep(0)

    def jump(self, seconds: float) -> None:
        """Let the clock be later; nobody has looked meanwhile, so all of what is due is due at once."""
        self.later += seconds


Verb = Callable[[Case], AsyncIterator[None]]
VERBS: dict[str, tuple[Verb, dict[str, Any]]] = {}


def verb(name: str, *arguments: Any, **options: Any) -> Callable[[Callable[..., AsyncIterator[None]]], Any]:
    """Register a verb with its own arguments and the options of its pool; a `size` of None: that of its jobs.

    `held`: all slots are taken; `paused`: the pool is; `jumps`: the clock will jump.
    """

    def register(function: Callable[..., AsyncIterator[None]]) -> Any:
        VERBS[name] = (lambda case: function(case, *arguments)), options
        return function

    return register


async def measure(
    name: str, isolation: Isolation, count: int, *, gaps: bool, repeats: int | None = None
) -> dict[str, float]:
    """Do one verb to `count` jobs; CPU µs for each of its operations, or the largest gap in ms."""
    best, worst = float("inf"), float("inf")
    for _ in range(repeats or (1 if gaps else max(2, ENOUGH // count))):
        clock = Clock(gaps=gaps)
        operations = await run(name, isolation, count, clock)
        best = min(best, clock.seconds / operations * 1e6)
        worst = min(worst, clock.worst * 1e3)
    return {"gap_ms": worst} if gaps else {"us": best}


async def run(name: str, isolation: Isolation, count: int, clock: Clock) -> int:
    """Do one verb once; return how many operations it was."""
    function, options = VERBS[name]
    options = {"size": 1, "queue_size": None, "on_error": _ignore} | options
    held, paused, jumps = (options.pop(option, False) for option in ("held", "paused", "jumps"))
    for option in ("size", "queue_size"):
        if options[option] == "count":
            options[option] = count
    case, monotonic = Case(count), time.monotonic
    if jumps:
        time.monotonic = lambda: monotonic() + case.later
    gc.collect()
    gc.disable()
    try:
        async with _opened(Pool(isolation=isolation, **options)) as pool:
            case.pool = pool
            if held:
                await case.hold()
            if paused:
                pool.pause()
            steps = function(case)
            await anext(steps)
            clock.start()
            await anext(steps, None)
            clock.stop()
            case.gate.set()
            if pool.status is PoolStatus.OPEN:
                await pool.cancel_all()
            await asyncio.gather(*case.tasks, return_exceptions=True)
    finally:
        time.monotonic = monotonic
        gc.enable()
    return case.operations


@contextlib.asynccontextmanager
async def _opened(pool: Pool) -> AsyncIterator[Pool]:
    with contextlib.suppress(RestartLimitError):  # one of the verbs is that
        async with pool:
            yield pool


def _ignore(error: BaseException, job: Any) -> None:
    """Failures are part of the measurement."""


async def turns(count: int) -> None:
    """Let the loop turn over."""
    for _ in range(count):
        await asyncio.sleep(0)


async def in_turns(items: Iterable[Any], act: Callable[[Any], object]) -> None:
    """Do something to each; some of them a turn."""
    for number, item in enumerate(items):
        act(item)
        if not number % A_TURN:
            await asyncio.sleep(0)
    await turns(3)


async def fails(index: int) -> int:
    """Fail."""
    raise ValueError(index)


async def forever(index: int = 0) -> None:
    """Run until cancelled."""
    await asyncio.Event().wait()


# --- submit and run -----------------------------------------------------------------------------------------------


@verb("submit and run", size=100)
@verb("a group's name", {"group": "all"}, size=100)
@verb("timeout, not used up", {"timeout": LATER}, size=100)
@verb("queue_timeout, not used up", {"queue_timeout": LATER}, size=100)
@verb("total_timeout, not used up", {"total_timeout": LATER}, size=100)
async def feed(case: Case, options: dict[str, Any] | None = None) -> AsyncIterator[None]:
    """Jobs are submitted while others run."""
    view = case.pool.with_options(**options or {})
    yield
    await case.feed(functools.partial(view.submit, noop))


@verb("ids", size=100)
async def ids(case: Case) -> AsyncIterator[None]:
    """Each job has an id of the user's."""
    yield
    await case.feed(lambda index: case.pool.with_options(id=f"job-{index}").submit(noop, index))


@verb("a listener", lambda pool: pool.listen(lambda event: None), size=100)
@verb("measured jobs", observe, size=100)
async def watched(case: Case, watch: Callable[[Pool], object]) -> AsyncIterator[None]:
    """Somebody hears of every job."""
    watch(case.pool)
    yield
    await case.feed()


@verb("queue, then run", size=100, paused=True)
@verb("queue, then run, with aging", size=100, paused=True, aging=10.0)
async def drain(case: Case) -> AsyncIterator[None]:
    """A backlog is drained."""
    case.queue()
    yield
    case.pool.resume()
    await case.pool.join()


@verb("drop_oldest", held=True, queue_size="count", overflow="drop_oldest")
@verb("drop_lowest", held=True, queue_size="count", overflow="drop_lowest")
@verb("drop_oldest, with aging", held=True, queue_size="count", overflow="drop_oldest", aging=10.0)
async def drop(case: Case) -> AsyncIterator[None]:
    """Each new job takes the place of one that waits.

    The gap is one step of CPython: the dict of live jobs is resized when its entries are used up.
    """
    case.queue(priority=8)
    high = case.pool.with_options(priority=5)
    yield
    await in_turns(range(case.count), lambda index: high.submit_nowait(noop, index))


@verb("submitters that wait for room", held=True, queue_size=1)
async def room(case: Case) -> AsyncIterator[None]:
    """All are let in."""
    tasks = await case.wait_in(lambda: case.pool.submit(noop, 0))
    yield
    case.gate.set()
    while not tasks[-1].done():
        await asyncio.sleep(0)
    await case.pool.join()


@verb("room for all submitters at once", held=True, queue_size=0)
async def resize(case: Case) -> AsyncIterator[None]:
    """The pool grows by as many slots as submitters wait."""
    tasks = await case.wait_in(lambda: case.pool.submit(noop, 0))
    yield
    case.pool.resize(case.count + 1)
    while not tasks[-1].done():
        await asyncio.sleep(0)


@verb("map", size=100)
async def map_(case: Case) -> AsyncIterator[None]:
    """A stream of results."""
    yield
    async for _ in case.pool.map(noop, range(case.count)):
        pass


@verb("a group as a block", size=100)
async def group(case: Case) -> AsyncIterator[None]:
    """Jobs of a block."""
    yield
    async with case.pool.group() as block:
        await case.feed(functools.partial(block.submit, noop))


@verb("a group that fails", held=True)
async def failing_group(case: Case) -> AsyncIterator[None]:
    """The first failure cancels all others, which are queued."""
    try:
        async with case.pool.group() as block:
            await block.submit(fails, 0)
            for index in range(case.count):
                block.submit_nowait(noop, index)
            yield
            case.gate.set()
    except* ValueError:
        pass


# --- cancel -------------------------------------------------------------------------------------------------------


def _parked(case: Case) -> int:
    return case.pool._state.engine.groups.parked  # type: ignore[union-attr]


@verb("cancel queued, first first", 1, paused=True)
@verb("cancel queued, last first", -1, paused=True)
@verb("cancel queued, with aging", 1, paused=True, aging=10.0)
@verb("cancel parked, first first", 1, True)
@verb("cancel parked, last first", -1, True)
async def cancel_queued(case: Case, order: int, parked: bool = False) -> AsyncIterator[None]:
    """Each job for itself."""
    if parked:
        case.pool.pause(group="it")
    jobs = case.queue(group="it")
    if parked:
        await case.until(lambda: _parked(case))
    yield
    await in_turns(jobs[::order], lambda job: job.cancel())


@verb("cancel running", size="count")
async def cancel_running(case: Case) -> AsyncIterator[None]:
    """All jobs run and are cancelled."""
    jobs = case.queue(forever)
    await case.until(lambda: case.pool.statistics().running)
    yield
    await in_turns(jobs, lambda job: job.cancel())
    await case.pool.join()


@verb("submitters that give up, first first", 1, held=True, queue_size=0)
@verb("submitters that give up, last first", -1, held=True, queue_size=0)
async def give_up(case: Case, order: int) -> AsyncIterator[None]:
    """Each task that waits for room is cancelled."""
    tasks = await case.wait_in(lambda: case.pool.submit(noop, 0))
    yield
    await in_turns(tasks[::order], lambda task: task.cancel())


async def gives_up(pool: Pool) -> None:
    """Let the pool find that its workers crash too often."""
    pool._give_up(ValueError())
    await pool.wait_closed()


@verb("cancel_all, queued", lambda pool: pool.cancel_all(), paused=True)
@verb("shutdown with a queue", lambda pool: pool.shutdown(0, cancel_pending=True), paused=True)
@verb("a pool that gives up", gives_up, paused=True)
async def end_queued(case: Case, end: Callable[[Pool], Any]) -> AsyncIterator[None]:
    """One call for all."""
    case.queue()
    yield
    await end(case.pool)


@verb("cancel_all, waiting for room", lambda pool: pool.cancel_all(), held=True, queue_size=0)
@verb("cancel_all of a group, waiting for room", lambda pool: pool.cancel_all(group="it"), held=True, queue_size=0)
@verb("shutdown, waiting for room", lambda pool: pool.shutdown(0), held=True, queue_size=0)
async def end_waiting(case: Case, end: Callable[[Pool], Any]) -> AsyncIterator[None]:
    """All submitters are refused."""
    tasks = await case.wait_in(lambda: case.pool.with_options(group="it").submit(noop, 0))
    yield
    await end(case.pool)
    while not tasks[-1].done():
        await asyncio.sleep(0)


# --- order, pause, moments ----------------------------------------------------------------------------------------


@verb("reprioritize from the end", paused=True)
async def reprioritize(case: Case) -> AsyncIterator[None]:
    """Each job goes from the end of the line to its front."""
    jobs = case.queue()
    yield
    await in_turns(reversed(jobs), lambda job: case.pool.reprioritize(job.id, 4))


@verb("pause and resume the pool", held=True)
async def pause(case: Case) -> AsyncIterator[None]:
    """With a backlog, once for each job."""
    case.queue()
    yield
    await in_turns(range(case.count), lambda _: (case.pool.pause(), case.pool.resume()))


@verb("resume a group, with newer jobs in line")
async def resume_group(case: Case) -> AsyncIterator[None]:
    """Parked jobs go back to their places, and run."""
    case.pool.pause(group="it")
    case.queue(group="it")
    await case.until(lambda: _parked(case))
    case.pool.pause()
    case.queue()
    case.operations = 2 * case.count
    yield
    case.pool.resume(group="it")
    case.pool.resume()
    await case.pool.join()


@verb("retries due together", size=100, jumps=True)
async def retries(case: Case) -> AsyncIterator[None]:
    """All jobs have failed once, and wait for their next attempt."""
    tried: set[int] = set()

    async def fails_once(index: int) -> None:
        if index not in tried:
            tried.add(index)
            raise ValueError(index)

    case.queue(fails_once, retry=Retry(delay=SOON, max_delay=SOON, jitter=0))
    await case.until(lambda: case.pool.statistics().scheduled)
    yield
    case.jump(2 * SOON)
    await case.pool.join()


@verb("delays due together", "delay", size=100, jumps=True)
@verb("queue_timeout used up together", "queue_timeout", paused=True, jumps=True)
@verb("queue_timeout used up while slots are free", "queue_timeout", size=100, jumps=True)
async def due(case: Case, option: str) -> AsyncIterator[None]:
    """What stands in line, or will, has its moment."""
    case.queue(**{option: SOON})
    yield
    case.jump(2 * SOON)
    await case.pool.join()


@verb("timeout used up together", "timeout", size="count", jumps=True)
@verb("total_timeout used up together", "total_timeout", size="count", jumps=True)
async def expire(case: Case, option: str) -> AsyncIterator[None]:
    """All jobs run, and their time is over."""
    case.queue(forever, **{option: SOON})
    await case.until(lambda: case.pool.statistics().running)
    yield
    case.jump(2 * SOON)
    await case.pool.join()


@verb("timeouts of all lengths, used up one by one", size="count", jumps=True)
async def expire_apart(case: Case) -> AsyncIterator[None]:
    """All jobs run, each with a limit of its own."""
    for index in range(case.count):
        case.pool.with_options(timeout=SOON + index).submit_nowait(forever)
    await case.until(lambda: case.pool.statistics().running)
    yield
    for moment in range(0, case.count, A_TURN):
        case.jump(SOON if moment == 0 else A_TURN)
        await turns(3)
    case.jump(SOON)
    await case.pool.join()


# --- waiting ------------------------------------------------------------------------------------------------------


@verb("join, by many", lambda pool, job: pool.join(), held=True)
@verb("one job, awaited by many", lambda pool, job: job.wait(), held=True)
async def wait(case: Case, call: Callable[[Pool, Any], Any]) -> AsyncIterator[None]:
    """Many wait, and half of them give up, last first."""
    job = await case.pool.submit(noop, 0)
    tasks = await case.wait_in(lambda: call(case.pool, job))
    yield
    await in_turns(tasks[: case.count // 2 : -1], lambda task: task.cancel())
    case.gate.set()
    while not tasks[0].done():
        await asyncio.sleep(0)


# --- questions ----------------------------------------------------------------------------------------------------


@verb("statistics()", lambda pool: pool.statistics(), held=True)
@verb("metrics()", lambda pool: observe(pool).snapshot(), held=True)
@verb("health()", lambda pool: HealthMonitor(pool).report(), held=True)
@verb("get_job()", lambda pool: pool.get_job(2), held=True)
async def ask(case: Case, question: Callable[[Pool], object]) -> AsyncIterator[None]:
    """The price of one answer."""
    for job in case.queue()[case.count // 4 : case.count // 2]:
        job.cancel()
    question(case.pool)
    case.operations = 200
    yield
    for _ in range(case.operations):
        question(case.pool)
        await asyncio.sleep(0)


@verb(UNSLICED, held=True)
async def jobs(case: Case) -> AsyncIterator[None]:
    """A snapshot of all jobs cannot be flat; its price is in its docstring."""
    case.queue()
    yield
    case.pool.jobs()
