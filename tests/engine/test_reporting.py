"""Failures that nobody awaits: each is told once; many of one kind are told by number."""

import asyncio

import pytest
from helpers import double, fail, virtual

from aiopool import Pool


def texts(caplog):
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


@virtual
async def test_many_failures_of_one_kind_are_told_by_number(isolation, caplog):
    """The first is told whole, with its traceback; the others by number every ten seconds, and at the end."""
    async with Pool(2, isolation=isolation) as pool:
        for _ in range(1000):
            await pool.submit(fail)
        await pool.join()
        (record,) = caplog.records
        assert record.exc_info[0] is ValueError
        assert "id 1 failed, and nobody was awaiting it" in record.getMessage()
        caplog.clear()
        await asyncio.sleep(11)
        (text,) = texts(caplog)
        assert "'fail' failed 999 more times with ValueError at " in text
        for _ in range(3):
            await pool.submit(fail)
        await asyncio.sleep(11)
        (text,) = texts(caplog)
        assert "'fail' failed 3 more times" in text
        await asyncio.sleep(60)
        await pool.submit(fail)  # after a quiet time it is news again
        await pool.submit(fail)
        await pool.join()
        (text,) = texts(caplog)
        assert "failed, and nobody was awaiting it" in text
    (text,) = texts(caplog)
    assert "'fail' failed 1 more times" in text


@virtual
async def test_kinds_are_told_apart(isolation, caplog):
    """By the job, the class and the line; and no failure is lost if there are very many kinds."""

    async def two(line):
        if line:
            raise ValueError
        raise ValueError

    async with Pool(2, isolation=isolation) as pool:
        await pool.submit(two, 0)
        await pool.submit(two, 1)
        await pool.submit(fail, KeyError)
        await pool.submit(fail, ValueError)
        await pool.with_options(name="another").submit(fail)
        await pool.join()
        assert len(texts(caplog)) == 5
        for number in range(300):
            await pool.with_options(name=f"job {number}").submit(fail)
        await pool.join()
        assert len(texts(caplog)) == 300
        assert len(pool._state.engine.reporter._told) <= 100


@virtual
async def test_on_error_gets_each_failure(isolation, caplog):
    """What is counted is the log's affair."""
    got = []
    async with Pool(2, isolation=isolation, on_error=lambda job, error: got.append(job)) as pool:
        for _ in range(100):
            await pool.submit(fail)
    assert len(got) == 100
    assert not caplog.records


# -- the awaiter is cancelled in the turn in which the job fails -------------------------------------------------------


async def gated(gate):
    await gate
    raise LookupError


async def directly(pool, gate):
    job = await pool.submit(gated, gate)
    return [asyncio.ensure_future(job)]


async def by_run(pool, gate):
    return [asyncio.ensure_future(pool.run(gated, gate))]


async def by_two(pool, gate):
    job = await pool.submit(gated, gate)
    return [asyncio.ensure_future(job), asyncio.ensure_future(job)]


async def in_a_job(pool, gate):
    async def outer():
        await pool.run(gated, gate)

    return [asyncio.ensure_future(pool.run(outer))]


@virtual
@pytest.mark.parametrize("wait", [directly, by_run, by_two, in_a_job])
@pytest.mark.parametrize("turns", range(6))
async def test_a_failure_that_its_awaiter_is_cancelled_for_is_reported(isolation, wait, turns):
    """Before the job fails, in that turn or after it: its failure reaches an awaiter or the reporter, and once."""
    got = []
    gate = asyncio.get_running_loop().create_future()
    async with Pool(2, isolation=isolation, on_error=lambda job, error: got.append(error)) as pool:
        waiting = await wait(pool, gate)
        await asyncio.sleep(1)
        gate.set_result(None)
        for _ in range(turns):
            await asyncio.sleep(0)
        for awaiter in waiting:
            awaiter.cancel()
        raised = []
        for awaiter in waiting:
            try:
                await awaiter
            except BaseException as error:
                raised.append(error)
        await pool.join()
        assert await pool.run(double, 1) == 2
    told = sum(isinstance(error, LookupError) for error in got)
    if any(isinstance(error, LookupError) for error in raised):
        assert told == 0
    else:
        assert told == min(1, pool.statistics().failed)


@virtual
async def test_one_of_two_awaiters_is_enough(isolation):
    """Who is cancelled leaves the failure to the other."""
    got = []
    gate = asyncio.get_running_loop().create_future()
    async with Pool(2, isolation=isolation, on_error=lambda job, error: got.append(error)) as pool:
        job = await pool.submit(gated, gate)
        first, second = asyncio.ensure_future(job), asyncio.ensure_future(job)
        await asyncio.sleep(1)
        gate.set_result(None)
        while not job.done():
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(LookupError):
            await second
        with pytest.raises(asyncio.CancelledError):
            await first
    assert got == []
