"""The table of stop modes keeps its word: each row of the page is done, and each of its cells is looked at."""

import asyncio
import contextlib
import re

import anyio
import pytest
from helpers import now, virtual
from pages import ROOT

from aiopool import Pool

pytestmark = pytest.mark.both_isolations

PAGE = ROOT / "docs" / "how-to" / "stop-a-pool-a-worker-a-group-or-a-job.md"
LIMIT = 30  # seconds until "soft, then hard" is hard
CELLS = ("runs, obedient", "runs, stubborn", "waits, obedient", "waits, stubborn")


def rows():
    """Return the rows of the whole table: what is stopped, how, and the outcome in each cell."""
    table = PAGE.read_text(encoding="utf-8").partition("## The whole table")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:1] == "|"]
    head, _, *rest = lines
    assert tuple(head[3:]) == CELLS
    return {(what, mode): cells for what, modes, _, *cells in rest for mode in re.split(r", (?!then)", modes)}


async def work(seconds, *, obedient):
    until = now() + seconds
    if obedient:
        await asyncio.sleep(seconds)
        return
    with anyio.CancelScope(shield=True):
        while now() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(until - now())


# -- the calls of the third column -------------------------------------------------------------------------------------


async def pool_light(pool, jobs):
    await pool.shutdown()


async def pool_soft(pool, jobs):
    await pool.shutdown(cancel_pending=True)


async def pool_hard(pool, jobs):
    await pool.shutdown(timeout=0)


async def pool_soft_then_hard(pool, jobs):
    await pool.shutdown(timeout=LIMIT, cancel_pending=True)


def workers_of(pool, jobs):
    found = [worker.id for worker in pool.workers() if worker.job in jobs]
    assert len(found) == 2
    return found


async def worker_soft(pool, jobs):
    ended = await asyncio.gather(*(pool.stop_worker(id) for id in workers_of(pool, jobs)))
    assert ended == [True, True]


worker_light = worker_soft


async def worker_hard(pool, jobs):
    ended = await asyncio.gather(*(pool.stop_worker(id, graceful=False) for id in workers_of(pool, jobs)))
    assert sorted(ended) == [False, True]  # one job has leaked


async def worker_soft_then_hard(pool, jobs):
    async def stop(id):
        try:
            async with asyncio.timeout(LIMIT):
                await pool.stop_worker(id)
        except TimeoutError:
            await pool.stop_worker(id, graceful=False)

    await asyncio.gather(*map(stop, workers_of(pool, jobs)))
    assert pool.size == 1


def waits(job):
    return job.status != "running"


async def group_light(pool, jobs):
    """The block around this call is left."""


async def group_soft(pool, jobs):
    assert await pool.cancel_all(group="g", where=waits) == 2


async def group_hard(pool, jobs):
    assert await pool.cancel_all(group="g") == 4


async def group_soft_then_hard(pool, jobs):
    await pool.cancel_all(group="g", where=waits)
    await asyncio.sleep(LIMIT)
    await pool.cancel_all(group="g")


async def job_light(pool, jobs):
    for job in jobs:
        await job.wait()


async def job_soft(pool, jobs):
    for job in jobs:
        if job.status != "running":
            job.cancel()


async def job_hard(pool, jobs):
    await asyncio.gather(*(pool.cancel(job.id) for job in jobs))


async def job_soft_then_hard(pool, jobs):
    async def stop(job):
        if job.status != "running":
            job.cancel()
        if not await job.wait(LIMIT):
            await pool.cancel(job.id)

    await asyncio.gather(*map(stop, jobs))


def call_of(what, mode):
    return globals()[f"{what}_{mode.replace(', ', '_').replace(' ', '_')}"]


def outcome_of(job):
    if job.leaked:
        assert job.cancelled()
        return "leaked"
    return {"succeeded": "succeeds", "cancelled": "cancelled"}[job.status]


def test_the_table_has_every_row():
    """Four things, four modes."""
    modes = ("light", "soft", "hard", "soft, then hard")
    assert list(rows()) == [(what, mode) for what in ("pool", "worker", "group", "job") for mode in modes]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("what", "mode"), rows())
@virtual
async def test_each_cell_is_what_happens(isolation, what, mode, cell):
    """Two jobs run, for longer than the limit, two wait for a worker, and another one is busy for a moment."""
    async with Pool(size=3, isolation=isolation) as pool:
        async with pool.group("g") as group:
            jobs = [await group.submit(work, 2 * LIMIT, obedient=obedient) for obedient in (True, False)]
            await pool.submit(work, 1, obedient=True)
            jobs += [await group.submit(work, 1, obedient=obedient) for obedient in (True, False)]
            await asyncio.sleep(0.1)
            assert [job.status for job in jobs] == ["running", "running", "queued", "queued"]
            started_before = [job.started_at for job in jobs]
            await call_of(what, mode)(pool, jobs)
        for job in jobs:
            await job.wait()
    job = jobs[CELLS.index(cell)]
    assert outcome_of(job) == rows()[what, mode][CELLS.index(cell)]
    if cell.startswith("waits") and job.cancelled():
        assert job.started_at is started_before[CELLS.index(cell)] is None
    await asyncio.sleep(3 * LIMIT)  # what has leaked ends
