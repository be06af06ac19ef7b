"""A job that does not end when it is told to: graces, leaks, shields and clean-up."""

import asyncio
import contextlib

import anyio
import pytest
from engine.cancel_support import started, turns
from helpers import double, forever, now

from aiopool import (
    JobCancelledError,
    JobStatus,
    JobTimeoutError,
    Pool,
)
from aiopool.testing import advance, settle, wait_until

pytestmark = pytest.mark.both_isolations

virtual = pytest.mark.loops("virtual", long=("virtual-eager",))

real = pytest.mark.loops("real")

both = pytest.mark.loops("virtual", "uvloop", long=("virtual-eager",))


# -- the ladder --------------------------------------------------------------------------------------------------------


@virtual
async def test_a_job_that_swallows_its_cancel_once_is_told_again_after_a_grace(isolation):
    """Under `task` by edge: it goes on for a grace. Under `scope` by level: its next await is told."""
    told = []

    async def job():
        for _ in range(2):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                told.append(now())
        await asyncio.sleep(100)

    async with Pool(isolation=isolation, cancel_grace=5) as pool:
        handle = await pool.submit(job)
        await advance(1)
        handle.cancel()
        await handle.wait()
        assert told == ([1, 6] if isolation == "task" else [1, 1])
        assert (handle.status, handle.leaked) == (JobStatus.CANCELLED, isolation == "task")


@virtual
async def test_a_job_that_does_not_end_is_left_behind_by_name_and_holds_its_slot(caplog):
    """Told, told again, left behind: its waiters are released, others run, and its slot comes back late."""
    release = asyncio.Event()

    async def stubborn():
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async with Pool(size=2, cancel_grace=5) as pool:
        handle = await pool.submit(stubborn)
        await settle()
        asked = now()
        report = await pool.cancel(handle.id)
        assert now() == asked + 10
        assert (report.status, report.leaked, handle.leaked) == (JobStatus.CANCELLED, True, True)
        assert "stubborn" in caplog.text
        assert "await release.wait()" in caplog.text
        stats = pool.statistics()
        assert (stats.leaked, stats.busy, stats.running) == (1, 1, 0)
        began = now()
        await asyncio.gather(*(pool.run(asyncio.sleep, 1) for _ in range(4)))
        assert now() == began + 4, "its slot was given away"
        before = asyncio.get_running_loop().steps
        await asyncio.sleep(60)
        assert asyncio.get_running_loop().steps - before < 60 * 10, "it costs CPU"
        release.set()
        await settle()
        assert (pool.statistics().leaked, pool.statistics().busy) == (0, 0)


@pytest.mark.long
@pytest.mark.loops("real", long=("asyncio", "eager"))
async def test_a_leaked_job_costs_no_processor(new_pool):
    """It is told at a slow beat only, by a scope of anyio too; when it ends, all is as before."""
    release, told = asyncio.Event(), []

    async def stubborn():
        while not release.is_set():
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                told.append(True)

    async with new_pool(size=1, cancel_grace=0.02) as pool:
        job = await pool.submit(stubborn)
        await wait_until(lambda: job.status == "running")
        report = await pool.cancel(job.id)
        assert (report.leaked, pool.statistics().busy) == (True, 1)
        await asyncio.sleep(0.01)
        before = len(told)
        await asyncio.sleep(0.5)
        assert len(told) - before < 10
        await wait_until(lambda: len(told) > before)
        release.set()
        assert await pool.run(double, 2) == 4
        assert (pool.statistics().leaked, pool.statistics().busy) == (0, 0)


@pytest.mark.parametrize("leaves", ["as it was", "a scope open", "a scope entered late"])
@pytest.mark.loops("real", long=("asyncio", "eager"))
async def test_a_worker_goes_on_after_a_job_that_leaked(new_pool, leaves):
    """Whatever it has done to the scopes, the next job finds a clean worker, and can be cancelled."""
    told = []

    async def stubborn():
        scope = anyio.CancelScope()
        if leaves == "a scope open":
            scope.__enter__()
        while len(told) < 3 or not release.is_set():
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                told.append(True)
        if leaves == "a scope entered late":
            scope.__enter__()

    release = asyncio.Event()
    async with new_pool(size=1, cancel_grace=0.02) as pool:
        job = await pool.submit(stubborn)
        await wait_until(lambda: job.status == "running")
        assert (await pool.cancel(job.id)).leaked
        release.set()
        await pool.run(anyio.sleep, 0)
        with anyio.move_on_after(0.01) as limit:
            await pool.run(anyio.sleep, 1000)
        assert limit.cancelled_caught
        with pytest.raises(JobTimeoutError):
            await pool.with_options(timeout=0.01).run(anyio.sleep, 1000)
        assert await pool.run(double, 2) == 4
        assert (pool.statistics().leaked, pool.statistics().busy) == (0, 0)


@virtual
async def test_on_leak_replace_gives_the_slot_away_and_takes_it_back():
    """With `on_leak="replace"` another job runs in its stead; afterwards the books are right."""
    release = asyncio.Event()

    async def stubborn():
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async with Pool(size=1, cancel_grace=1, on_leak="replace") as pool:
        handle = await pool.submit(stubborn)
        await settle()
        assert (await pool.cancel(handle.id)).leaked
        assert await pool.run(double, 2) == 4
        assert (pool.statistics().leaked, pool.statistics().busy) == (1, 0)
        release.set()
        await settle()
        assert (pool.statistics().leaked, pool.statistics().busy) == (0, 0)
        running = [await pool.submit(asyncio.sleep, 1) for _ in range(3)]
        await settle()
        assert [job.status for job in running] == ["running", "queued", "queued"]


@virtual
async def test_leaving_the_pool_is_bounded_by_two_graces(caplog):
    """A job that swallows its cancels for ever cannot hold the exit."""
    pool = Pool(cancel_grace=3)
    release = asyncio.Event()

    async def stubborn():
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    with pytest.raises(KeyError):
        async with pool:
            handle = await pool.submit(stubborn)
            await settle()
            raise KeyError
    assert now() == 6
    assert handle.leaked
    report = await pool.shutdown()
    assert [(leak.id, leak.name) for leak in report.leaked] == [(handle.id, handle.name)]
    assert "release.wait" in report.leaked[0].stack
    release.set()
    await settle()


@real
@pytest.mark.leaves_behind("the job that does not end")
async def test_a_job_that_swallows_for_ever_under_scope_does_not_hold_the_exit():
    """Anyio tells by level, in each turn; the pool can only leave it, in time."""
    release = []

    async def stubborn():
        while not release:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    # It ends at all: the job goes on until it is released below.
    with pytest.raises(KeyError):
        async with Pool(isolation="scope", cancel_grace=0.05) as pool:
            handle = await pool.submit(stubborn)
            await started(handle)
            raise KeyError
    assert handle.leaked
    release.append(True)
    await asyncio.sleep(0.02)


# -- shields and clean-up ----------------------------------------------------------------------------------------------


async def anyio_shield(seconds, steps):
    with anyio.CancelScope(shield=True):
        await asyncio.sleep(seconds)
        steps.append("section done")
    await asyncio.sleep(100)
    steps.append("never")


async def asyncio_shield(seconds, steps):
    async def section():
        await asyncio.sleep(seconds)
        steps.append("section done")

    task = asyncio.create_task(section())
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await task
        raise
    steps.append("never")


@virtual
@pytest.mark.parametrize(
    ("isolation", "shielded"), [("task", asyncio_shield), ("scope", asyncio_shield), ("scope", anyio_shield)]
)
async def test_a_shielded_section_ends_and_then_the_job_is_cancelled(isolation, shielded):
    """A short shield holds the cancel back, and only for as long as it lasts."""
    steps = []
    async with Pool(isolation=isolation, cancel_grace=10) as pool:
        handle = await pool.submit(shielded, 2, steps)
        await advance(1)
        await pool.cancel(handle.id)
        assert now() == 2
        assert steps == ["section done"]
        assert (handle.status, handle.leaked) == (JobStatus.CANCELLED, False)


@virtual
async def test_an_endless_shield_is_left_behind_after_the_grace(isolation):
    """The grace applies; under `scope` nothing can end it, and the shutdown says so."""
    steps = []
    pool = Pool(isolation=isolation, cancel_grace=1)
    await pool.__aenter__()
    handle = await pool.submit(anyio_shield, 1000, steps)
    await settle()
    assert await pool.shutdown(timeout=0)
    if isolation == "task":  # anyio's shield keeps out anyio's cancels, not those of asyncio
        assert (now(), handle.leaked, steps) == (0, False, [])
    else:
        assert (now(), handle.leaked) == (2, True)
        await asyncio.sleep(1000)
        assert steps == ["section done"]


@virtual
async def test_a_clean_up_that_awaits_is_let_finish(isolation):
    """Under `task` `finally: await close()` works as written; under `scope` it needs a shield."""
    closed = []

    async def job():
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=isolation == "scope"):
                await asyncio.sleep(0.5)
                closed.append(now())

    async with Pool(isolation=isolation) as pool:
        handle = await pool.submit(job)
        await advance(1)
        assert await pool.cancel(handle.id)
        assert closed == [1.5]
        assert not handle.leaked


@both
async def test_a_clean_up_that_raises_is_not_lost(new_pool):
    """The error is on the handle, with the cancel as its context; the job has failed."""
    error = OSError("in the clean-up")

    async def job():
        try:
            await forever()
        finally:
            raise error

    async with new_pool() as pool:
        handle = await pool.submit(job)
        await started(handle)
        waiting = asyncio.create_task(handle.wait())
        await turns(1)
        await pool.cancel(handle.id)
        await waiting
        assert handle.exception() is error
        assert isinstance(error.__context__, asyncio.CancelledError)
        assert handle.status is JobStatus.FAILED


@both
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_job_that_raises_cancelled_error_by_itself(new_pool, kind):
    """It is cancelled, "by itself"; the worker lives, and nothing is told to anybody's task."""

    async def job():
        raise asyncio.CancelledError("mine")

    def plain():
        raise asyncio.CancelledError("mine")

    async with new_pool(size=1) as pool:
        handle = await pool.submit(job if kind == "async" else plain)
        with pytest.raises(JobCancelledError, match="by itself") as caught:
            await handle
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert await pool.run(double, 1) == 2
        assert pool.statistics().restarts == 0
