"""The trial: queries that are cancelled, limited in time and tried again, at seeded points, by a pool or plain tasks.

A point is a fraction of the time that a query takes on this machine at this moment, so that a busy machine meets the
same steps of a query as an idle one.
"""

import asyncio
import contextlib
import random
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from subjects import CONNECTIONS, Opened

from aiopool import JobCancelledError, Pool, Retry, current_job
from aiopool.testing import wait_until

JOBS = 1000
SIZE = 2 * CONNECTIONS
ATTEMPTS = 3
PATIENCE = 20.0
"""Seconds within which a library has its connections back, and answers: a hang takes as long."""

Way = Literal["cancel", "limit", "retry"]
Query = Callable[[int], Awaitable[int]]


class Plan(NamedTuple):
    """What happens to one query, and when: in fractions of its usual time."""

    way: Way
    point: float


def plans(seed: int) -> list[Plan]:
    """Draw what happens to each query, and when; most take longer than usual: connections are made anew meanwhile."""
    rng = random.Random(seed)
    return [Plan(rng.choice(("cancel", "limit", "retry")), rng.uniform(0.0, 4.0)) for _ in range(JOBS)]


@dataclass
class Found:
    """What a trial has left."""

    ends: Counter[str] = field(default_factory=Counter)
    errors: list[BaseException] = field(default_factory=list)
    lost: int = 0

    def ended(self, number: int, result: int | BaseException) -> None:
        """Count how a query ended."""
        match result:
            case asyncio.CancelledError() | JobCancelledError():
                self.ends["cancelled"] += 1
            case TimeoutError():
                self.ends["late"] += 1
            case BaseException():
                self.errors.append(result)
            case _:
                assert result == number, f"query {number} got the answer of query {result}"
                self.ends["answered"] += 1


async def usual_time(query: Query) -> float:
    """Measure a query while as many are under way as in the trial."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    numbers = iter(range(10 * SIZE))

    async def work() -> None:
        for number in numbers:
            start = loop.time()
            await query(number)
            times.append(loop.time() - start)

    await asyncio.gather(*[work() for _ in range(SIZE)])
    return statistics.median(times[SIZE:])


async def on_pool(query: Query, todo: list[Plan], usual: float, isolation: str, found: Found) -> None:
    """Run the queries as jobs: the pool cancels, limits and tries again."""

    async def cancelled(number: int, after: float) -> int:
        timer = asyncio.get_running_loop().call_later(after, current_job().cancel)
        try:
            return await query(number)
        finally:
            timer.cancel()

    again = Retry(attempts=ATTEMPTS, on=TimeoutError, delay=0)
    async with Pool(SIZE, None, isolation=isolation, on_error=lambda job, error: None) as pool:
        jobs = []
        for number, (way, point) in enumerate(todo):
            after = max(point * usual, 1e-6)
            if way == "cancel":
                jobs.append(pool.submit_nowait(cancelled, number, after))
            else:
                limited = pool.with_options(timeout=after, retry=again if way == "retry" else None)
                jobs.append(limited.submit_nowait(query, number))
        for number, job in enumerate(jobs):
            [result] = await asyncio.gather(job, return_exceptions=True)
            found.ended(number, result)
        assert pool.statistics().leaked == 0


async def on_tasks(query: Query, todo: list[Plan], usual: float, found: Found) -> None:
    """Run the same queries as plain tasks of asyncio."""
    slots = asyncio.Semaphore(SIZE)
    loop = asyncio.get_running_loop()

    async def limited(number: int, after: float) -> int:
        async with asyncio.timeout(after):
            return await query(number)

    async def one(number: int, plan: Plan) -> None:
        after = plan.point * usual
        async with slots:
            for left in reversed(range(ATTEMPTS if plan.way == "retry" else 1)):
                task = asyncio.ensure_future(query(number) if plan.way == "cancel" else limited(number, after))
                timer = loop.call_later(after, task.cancel) if plan.way == "cancel" else None
                [result] = await asyncio.gather(task, return_exceptions=True)
                if timer is not None:
                    timer.cancel()
                if not isinstance(result, TimeoutError) or not left:
                    found.ended(number, result)
                    return

    await asyncio.gather(*[one(number, plan) for number, plan in enumerate(todo)])


async def trial(opened: Opened, seed: int, by: str, patience: float) -> Found:
    """Try a library, and find what is not back afterwards, and whether it still answers."""
    found = Found()
    usual = await usual_time(opened.query)
    await _back(opened, patience)
    assert opened.away() == 0, "not all was back before the trial"
    if by == "tasks":
        await on_tasks(opened.query, plans(seed), usual, found)
    else:
        await on_pool(opened.query, plans(seed), usual, by, found)
    await _back(opened, patience)
    found.lost = opened.away()
    return found


async def answers(opened: Opened) -> None:
    """Ask more at once than there are connections: all must be answered."""
    async with asyncio.timeout(PATIENCE):
        numbers = list(range(3 * CONNECTIONS))
        answered = await asyncio.gather(*map(opened.query, numbers))
    assert answered == numbers, f"queries {numbers} got the answers {answered}"


async def _back(opened: Opened, patience: float) -> None:
    with contextlib.suppress(AssertionError):  # what is not back is counted by whoever asks
        await wait_until(lambda: opened.away() == 0, timeout=patience)
