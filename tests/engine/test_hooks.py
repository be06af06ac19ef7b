"""Every hook of the user's may raise anything: the pool works afterwards, and its end is bounded.

What callbacks of `on_shutdown` raise is in test_shutdown.py.
"""

import asyncio
import logging

import pytest
from helpers import assert_counters_balance, double, virtual
from hostile import BASE_KINDS, Stop, all_bombs, object_whose_everything_raises

from aiopool import JobStatus, Pool, Retry
from aiopool.health import HealthMonitor
from aiopool.instrumentation.tracing import add_tracer
from aiopool.testing import run_virtual, settle

ENDING = (SystemExit, KeyboardInterrupt, Stop)
HARMLESS = [ValueError, *(kind for kind in BASE_KINDS if kind not in ENDING)]
HARMLESS.append(type("Hostile", (Exception,), all_bombs(ValueError)))
HARMLESS.append(type("HostileBase", (BaseException,), all_bombs(asyncio.CancelledError)))


async def fail():
    raise LookupError("the job's own")


def hook(kind, seen):
    """Return a function that raises, of any signature."""

    def function(*args, **kwargs):
        seen.append(1)
        raise kind("the hook's own")

    return function


class Recorder:
    def __init__(self, method, function):
        for name in ("started", "retrying", "ended"):
            setattr(self, name, function if name == method else lambda *args, **kwargs: None)


async def on_error(pool, raising):
    await pool.submit(fail)


async def listener(pool, raising):
    pool.listen(raising)
    await pool.submit(double, 1)


async def done_callback(pool, raising):
    job = await pool.submit(double, 1)
    job.add_done_callback(raising)


async def done_callback_of_a_cancelled_job(pool, raising):
    job = await pool.submit(double, 1)
    job.add_done_callback(raising)
    job.cancel()


async def done_callback_of_a_finished_job(pool, raising):
    job = await pool.submit(double, 1)
    await job
    job.add_done_callback(raising)


async def done_callback_in_a_job(pool, raising):
    async def work():
        job = await pool.submit(double, 1)
        await job
        job.add_done_callback(raising)
        return "unharmed"

    assert await pool.run(work) == "unharmed"


async def health_check(pool, raising):
    report = HealthMonitor(pool, checks={"mine": raising}).report()
    assert [finding.check for finding in report.findings] == ["mine"]


def recorder(method):
    async def place(pool, raising):
        add_tracer(pool, Recorder(method, raising))
        flaky = pool.with_options(retry=Retry(attempts=2, delay=0))
        job = await flaky.submit(fail)
        await job.wait()
        job.exception()

    place.__name__ = f"recorder.{method}"
    return place


HOOKS = [
    on_error,
    listener,
    done_callback,
    done_callback_of_a_cancelled_job,
    done_callback_of_a_finished_job,
    done_callback_in_a_job,
    health_check,
    *map(recorder, ("started", "retrying", "ended")),
]
hooks = pytest.mark.parametrize("place", HOOKS, ids=lambda place: place.__name__)


@virtual
@hooks
@pytest.mark.parametrize("kind", HARMLESS, ids=lambda kind: kind.__name__)
async def test_what_a_hook_raises_hurts_nobody(isolation, place, kind, caplog):
    """It is logged once; all slots are free, the numbers add up, and the pool ends by itself."""
    seen = []
    raising = hook(kind, seen)
    async with Pool(2, isolation=isolation, on_error=raising if place is on_error else lambda *args: None) as pool:
        await place(pool, raising)
        await pool.join()
        assert await pool.map(double, [1, 2, 3]).collect() == [2, 4, 6]
        numbers = pool.statistics()
        assert (numbers.busy, numbers.restarts, numbers.running) == (0, 0, 0)
        assert_counters_balance(numbers)
    assert seen == [1]
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == (place is not health_check)  # that is in the report


@hooks
@pytest.mark.parametrize("kind", ENDING, ids=lambda kind: kind.__name__)
def test_a_hook_may_end_the_program(isolation, place, kind):
    """As from a job: the pool shuts down first, within its limits, and the exception leaves the event loop."""
    seen, pools = [], []
    raising = hook(kind, seen)

    async def main():
        options = {"on_error": raising} if place is on_error else {"on_error": lambda *args: None}
        async with Pool(2, isolation=isolation, cancel_grace=1, **options) as pool:
            pools.append(pool)
            await pool.submit(asyncio.sleep, 3600)
            await place(pool, raising)
            await asyncio.sleep(60)
            raise AssertionError("nothing has ended")

    with pytest.raises(kind, match="the hook's own"):
        run_virtual(main)
    assert seen == [1]
    assert pools[0].status == "closed"
    assert pools[0].statistics().busy == 0


@virtual
@pytest.mark.parametrize("where", ["on", "give_up_on", "backoff"])
@pytest.mark.parametrize("kind", HARMLESS, ids=lambda kind: kind.__name__)
async def test_what_a_retry_function_raises_is_how_the_job_fails(isolation, where, kind):
    """A ValueError that says whose fault it is, caused by what was raised; the job's own error is in its context."""
    seen = []
    retry = Retry(attempts=3, **{where: hook(kind, seen)})
    async with Pool(1, isolation=isolation) as pool:
        job = await pool.with_options(retry=retry).submit(fail)
        with pytest.raises(ValueError, match=f"the function given as {where}=") as caught:
            await job
        assert type(caught.value.__cause__) is kind
        assert job.status is JobStatus.FAILED
        assert await pool.run(double, 1) == 2
        assert pool.statistics().restarts == 0
    assert seen == [1]


@pytest.mark.parametrize("where", ["on", "give_up_on", "backoff"])
@pytest.mark.parametrize("kind", ENDING, ids=lambda kind: kind.__name__)
def test_a_retry_function_may_end_the_program(isolation, where, kind):
    """It is how the job fails, and a job that fails so ends the program."""
    jobs = []

    async def main():
        async with Pool(1, isolation=isolation) as pool:
            retry = Retry(attempts=3, **{where: hook(kind, [])})
            jobs.append(await pool.with_options(retry=retry).submit(fail))
            await asyncio.sleep(60)

    with pytest.raises(kind):
        run_virtual(main)
    assert type(jobs[0].exception()) is kind


@virtual
async def test_a_hook_may_be_any_object_and_return_any(isolation, caplog):
    """What a hook is and what it returns is asked for nothing but the call."""
    thing = object_whose_everything_raises()
    async with Pool(1, isolation=isolation, on_error=lambda job, error: thing) as pool:
        await pool.submit(fail)
        job = await pool.submit(double, 1)
        job.add_done_callback(lambda job: thing)
        report = HealthMonitor(pool, checks={"odd": lambda: thing}).report()
        assert [finding.check for finding in report.findings] == ["odd"]
        await pool.join()
        await settle()
        assert await pool.run(double, 1) == 2
    assert not caplog.records
