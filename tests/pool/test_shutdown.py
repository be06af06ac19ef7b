"""How a pool ends: in four bounded phases, with a report.

Elsewhere: signals and the exit of the program are in test_signals.py.
"""

import asyncio
import contextlib
import logging
import threading

import anyio
import pytest
from helpers import double, forever, now

from aiopool import (
    JobCancelledError,
    JobStatus,
    JobTimeoutError,
    Pool,
    PoolClosedError,
    PoolStatus,
    QueueFullError,
    Retry,
)
from aiopool.health import HealthMonitor
from aiopool.testing import DELAYS, advance, explore, settle, wait_until

virtual = pytest.mark.loops("virtual")
real = pytest.mark.loops("real")


async def tidy(seconds, steps=None):
    """A job that cleans up for some seconds."""
    try:
        await forever()
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(seconds)
        if steps is not None:
            steps.append(now())


class Stubborn:
    """A job that swallows what it is told, until it is released."""

    def __init__(self):
        self.released = asyncio.Event()

    async def __call__(self):
        with anyio.CancelScope(shield=True):
            while not self.released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.released.wait()


# -- the phases ----------------------------------------------------------------------------------------------

# (timeout, cancel_pending) of shutdown(), and what becomes of a short job that runs, a long one, and two that wait
MODES = {
    "graceful": ((None, False), ["succeeded", "succeeded", "succeeded", "succeeded"], 12),
    "cancel pending": ((None, True), ["succeeded", "succeeded", "cancelled", "cancelled"], 10),
    "time limit": ((3, False), ["succeeded", "cancelled", "succeeded", "cancelled"], 3),
    "at once": ((0, False), ["cancelled"] * 4, 0),
    "time limit, cancel pending": ((3, True), ["succeeded", "cancelled", "cancelled", "cancelled"], 3),
    "endless limit": ((float("inf"), False), ["succeeded"] * 4, 12),
}


@virtual
@pytest.mark.parametrize("mode", MODES)
async def test_what_becomes_of_each_job(new_pool, mode):
    """Work is finished until the limit, then cancelled; every waiter is told; the report adds up."""
    (timeout, cancel_pending), expected, seconds = MODES[mode]
    pool = new_pool(size=2)
    await pool.__aenter__()
    jobs = [await pool.submit(asyncio.sleep, seconds) for seconds in (1, 10, 1, 10)]
    waiters = [asyncio.create_task(job.wait()) for job in jobs]
    await settle()
    report = await pool.shutdown(timeout, cancel_pending=cancel_pending)
    assert [job.status for job in jobs] == expected
    assert all(await asyncio.gather(*waiters))
    assert now() == report.seconds == seconds
    assert report.succeeded == expected.count("succeeded")
    assert report.cancelled == expected.count("cancelled")
    assert report.never_started == sum(job.attempt == 0 for job in jobs)
    assert report.clean == ("cancelled" not in expected)
    assert pool.status is PoolStatus.CLOSED


@virtual
async def test_a_clean_up_has_the_grace_that_was_given(new_pool):
    """`grace` is for the jobs: nobody is told twice before half of it is over, or left before its end."""
    for grace, cleaning in [(None, 0.75), (5, 2.25), (60, 29)]:
        steps, began = [], now()
        pool = new_pool(size=1)
        await pool.__aenter__()
        job = await pool.submit(tidy, cleaning, steps)
        await settle()
        report = await pool.shutdown(0, grace)
        assert steps == [began + cleaning]
        assert (job.status, report.leaked, report.seconds) == ("cancelled", (), cleaning)


@virtual
async def test_a_short_grace_is_short(new_pool):
    """What does not end is left, by name, when the limit and the grace are over; no later."""
    stubborn = Stubborn()
    for timeout, grace, seconds in [(0, 0.5, 0.5), (2, 3, 5), (0, 0, 0), (None, 1, None)]:
        pool = new_pool(size=3, shutdown_timeout=4)
        await pool.__aenter__()
        stubborn.released.clear()
        job = await pool.submit(stubborn)
        quick = await pool.submit(tidy, 0)
        await settle()
        began = now()
        report = await pool.shutdown(timeout, grace)
        assert now() - began == (5 if seconds is None else seconds)
        assert [leak.id for leak in report.leaked] == [job.id]
        assert "released.wait" in report.leaked[0].stack
        assert (job.leaked, job.status) == (True, JobStatus.CANCELLED)
        assert (quick.leaked, quick.status) == (False, JobStatus.CANCELLED)
        with pytest.raises(JobCancelledError, match="shut down"):
            await job
        stubborn.released.set()
        await settle()


@virtual
async def test_the_time_limit_is_for_all_jobs_together(new_pool):
    """A hundred jobs do not make it a hundred limits."""
    pool = new_pool(size=10)
    await pool.__aenter__()
    for _ in range(100):
        await pool.submit(asyncio.sleep, 7)
    report = await pool.shutdown(10, 1)
    assert report.seconds == 10
    assert (report.succeeded, report.cancelled, report.never_started) == (10, 90, 80)


@real
async def test_a_long_line_is_cancelled_to_its_end(new_pool):
    """In slices, and the report counts every job of it."""
    pool = new_pool(size=1, queue_size=None)
    await pool.__aenter__()
    jobs = [await pool.submit(forever) for _ in range(20_000)]
    report = await pool.shutdown(0)
    assert (report.cancelled, len(jobs)) == (20_000, 20_000)
    assert all(job.done() for job in jobs)


@virtual
async def test_a_default_limit_of_the_pool(new_pool):
    """`shutdown_timeout` is what `shutdown()` takes, and what leaving the block takes after its work is done."""
    async with new_pool(size=1, shutdown_timeout=3) as pool:
        job = await pool.submit(asyncio.sleep, 100)
        await settle()
        await pool.shutdown()
        assert now() == 3
        assert job.cancelled()


@virtual
async def test_jobs_that_end_by_themselves_are_counted_as_they_ended(new_pool):
    """Failures and time limits during the shutdown are in its report."""

    async def fail():
        await asyncio.sleep(1)
        raise OSError

    pool = new_pool(size=3, on_error=lambda job, error: None)
    await pool.__aenter__()
    await pool.run(double, 1)  # before: not in the report
    await pool.submit(fail)
    await pool.with_options(timeout=1).submit(forever)
    await pool.submit(asyncio.sleep, 1)
    report = await pool.shutdown()
    assert (report.succeeded, report.failed, report.timed_out, report.cancelled) == (1, 1, 1, 0)
    assert report.clean


@virtual
async def test_the_report_counts_from_the_beginning_of_the_shutdown(new_pool):
    """What ended before it, in whatever way, is not in the report: neither in a number, nor in its time."""

    async def fail():
        raise OSError

    pool = new_pool(size=2, on_error=lambda job, error: None)
    await pool.__aenter__()
    for _ in range(2):
        await pool.run(double, 1)
        await (await pool.submit(fail)).wait()
        await (await pool.with_options(timeout=1).submit(forever)).wait()
        job = await pool.submit(forever)
        await settle()
        await pool.cancel(job.id)
    numbers = pool.statistics()
    assert (numbers.succeeded, numbers.failed, numbers.timed_out, numbers.cancelled) == (2, 2, 2, 2)
    await pool.submit(asyncio.sleep, 3)
    await pool.submit(forever)
    await pool.submit(forever)
    report = await pool.shutdown(5)
    counts = (report.succeeded, report.failed, report.timed_out, report.cancelled, report.never_started)
    assert counts == (1, 0, 0, 2, 0)
    assert report.seconds == 5


@virtual
async def test_a_retry_that_was_cancelled_had_started(new_pool):
    """`never_started` counts the jobs without an attempt; one in backoff had one."""

    async def fail():
        raise OSError

    pool = new_pool(size=1)
    await pool.__aenter__()
    retry = Retry(attempts=2, backoff="fixed", delay=1000, max_delay=1000, jitter=0)
    await pool.with_options(retry=retry).submit(fail)
    await settle()
    await pool.submit(forever)
    await settle()
    await pool.submit(forever)
    report = await pool.shutdown(0)
    assert (report.cancelled, report.never_started) == (3, 1)


# -- who waits -----------------------------------------------------------------------------------------------


@virtual
async def test_every_waiter_is_released(new_pool):
    """Whoever waits for a job in any place, for room, for results, or for the end."""

    async def fail():
        raise OSError

    async def stream():
        async with pool.map(asyncio.sleep, [1000] * 5) as results:
            return [result async for result in results]

    pool = new_pool(size=1, queue_size=5, on_error=lambda job, error: None)
    await pool.__aenter__()
    retry = Retry(attempts=2, backoff="fixed", delay=1000, max_delay=1000, jitter=0)
    backoff = await pool.with_options(retry=retry).submit(fail)
    await settle()
    jobs = {
        "backoff": backoff,
        "running": await pool.submit(forever),
        "delayed": await pool.with_options(delay=1000).submit(forever),
        "group": await pool.with_options(group="g").submit(forever),
        "queued": await pool.submit(forever),
    }
    pool.pause(group="g")
    while True:
        try:
            pool.submit_nowait(forever)
        except QueueFullError:
            break
    calls = [pool.submit(double, 1), pool.run(double, 1), stream(), pool.join(), pool.wait_closed()]
    tasks = [asyncio.create_task(call) for call in calls]
    tasks += [asyncio.create_task(job.wait()) for job in jobs.values()]
    await advance(1)
    assert pool.statistics().waiting >= 2
    report = await pool.shutdown(0)
    assert now() == 1
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ended[:2]] == [PoolClosedError, PoolClosedError]
    assert isinstance(ended[2], (PoolClosedError, JobCancelledError))
    assert ended[3:5] == [None, None]
    assert {name: job.status.value for name, job in jobs.items()} == dict.fromkeys(jobs, "cancelled")
    assert report.never_started == pool.statistics().cancelled - 2  # all but `running` and `backoff`


@virtual
@pytest.mark.parametrize("hold", ["pool", "group", "size"])
async def test_a_held_pool_goes_on_when_it_is_shut_down(new_pool, hold):
    """To leave is to finish; a pause of the pool, of a group, or a size of 0 does not strand anybody."""
    pool = new_pool(size=1)
    await pool.__aenter__()
    job = await pool.with_options(group="g").submit(double, 2)
    if hold == "pool":
        pool.pause()
    elif hold == "group":
        pool.pause(group="g")
    else:
        pool.resize(0)
    await advance(5)
    assert job.status is JobStatus.QUEUED
    report = await pool.shutdown()
    assert job.result() == 4
    assert report.clean


@virtual
async def test_blocked_submitters_get_in_order_what_is_left(new_pool):
    """Who waits for room when the shutdown begins is refused at once, not when the jobs are done."""
    async with new_pool(size=1, queue_size=0) as pool:
        await pool.submit(asyncio.sleep, 10)
        await settle()
        blocked = [asyncio.create_task(pool.submit(double, n)) for n in range(3)]
        await settle()
        stopping = asyncio.create_task(pool.shutdown())
        ended = await asyncio.gather(*blocked, return_exceptions=True)
        assert [type(end) for end in ended] == [PoolClosedError] * 3
        assert now() == 0
        await stopping
        assert now() == 10


@contextlib.asynccontextmanager
async def left(pool, way):
    """Leave an open pool in one of two ways; the body of the block is a moment during the leaving."""
    ending = asyncio.create_task(pool.shutdown() if way == "shutdown" else pool.__aexit__(None, None, None))
    await settle()
    try:
        yield ending
    finally:
        await ending


@virtual
@pytest.mark.parametrize("way", ["block", "shutdown"])
async def test_from_the_moment_of_leaving_only_the_pools_own_jobs_may_submit(new_pool, way):
    """A job may hand in work of its own, from its task, a child task, a thread and a map; the rest of the world not."""
    done = []

    async def child(name):
        await asyncio.sleep(1)
        done.append(name)

    async def parent():
        await asyncio.sleep(1)
        await pool.submit(child, "submit")
        pool.submit_nowait(child, "submit_nowait")
        await pool.run(child, "run")
        await pool.map(child, ["map 1", "map 2", "map 3"]).collect()
        async with pool.group() as group:
            await group.submit(child, "group")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pool.submit(child, "child task"))
        return "done"

    pool = new_pool(size=3, queue_size=9)
    await pool.__aenter__()
    job = await pool.submit(parent)
    await settle()
    async with left(pool, way):
        assert pool.status is PoolStatus.CLOSING
        assert not HealthMonitor(pool).report().ready
        for _ in range(2):
            for submit in (pool.submit, pool.run, pool.with_options(priority=1).submit):
                with pytest.raises(PoolClosedError, match="closing"):
                    await submit(double, 1)
            with pytest.raises(PoolClosedError):
                pool.submit_nowait(double, 1)
            with pytest.raises(PoolClosedError):
                await pool.map(double, [1]).collect()
            with pytest.RaisesGroup(PoolClosedError):
                async with pool.group() as group:
                    await group.submit(double, 1)
            await advance(1.5)
    assert job.result() == "done"
    assert sorted(done) == ["child task", "group", "map 1", "map 2", "map 3", "run", "submit", "submit_nowait"]


@virtual
async def test_the_map_of_a_job_goes_on_at_full_speed_while_the_pool_is_left(new_pool):
    """Its items are not run one after the other."""

    async def parent():
        await asyncio.sleep(1)
        return await pool.map(asyncio.sleep, [1] * 8).collect()

    async with new_pool(size=5) as pool:
        await pool.submit(parent)
    assert now() == 3


@virtual
async def test_what_a_job_has_left_behind_is_no_part_of_it_when_it_has_ended(new_pool):
    """A task that a job has started and not waited for may submit as long as the job runs, and no longer."""
    tasks = []

    async def later():
        await asyncio.sleep(2)
        await pool.submit(double, 1)

    async def job():
        tasks.append(asyncio.create_task(later()))
        await asyncio.sleep(1)

    async with new_pool(size=2) as pool:
        await pool.submit(job)
        await pool.submit(asyncio.sleep, 3)
    with pytest.raises(PoolClosedError):
        await tasks[0]


@virtual
async def test_a_job_of_another_pool_is_a_stranger(new_pool):
    """Being some pool's job is not enough."""

    async def job():
        await asyncio.sleep(1)
        with pytest.raises(PoolClosedError):
            await inner.submit(double, 1)
        return "refused"

    async with new_pool() as outer:
        inner = new_pool()
        async with inner:
            other = await outer.submit(job)
            await inner.submit(asyncio.sleep, 2)
    assert other.result() == "refused"


@virtual
async def test_own_jobs_wait_for_room_while_the_pool_is_left(new_pool):
    """A job that waits for room when the leaving begins, or later, gets in; a stranger that waits is refused."""

    async def parent():
        return [await pool.submit(asyncio.sleep, 1) for _ in range(5)]

    pool = new_pool(size=2, queue_size=1)
    await pool.__aenter__()
    job = await pool.submit(parent)
    await settle()
    stranger = asyncio.create_task(pool.submit(double, 1))
    await settle()
    assert not stranger.done()
    async with left(pool, "block"):
        assert isinstance(stranger.exception(), PoolClosedError)
    assert [child.status for child in job.result()] == ["succeeded"] * 5


@virtual
async def test_nobody_may_submit_when_the_time_is_over(new_pool):
    """In the clean-up of a cancelled job, and with `cancel_pending`, the pool's own jobs are refused, too."""
    refused = []

    async def job():
        try:
            await forever()
        finally:
            with pytest.raises(PoolClosedError):
                pool.submit_nowait(double, 1)
            refused.append(now())

    async with new_pool(size=1, shutdown_timeout=2) as pool:
        await pool.submit(job)
        await settle()
    assert refused == [2]

    async def submits():
        await asyncio.sleep(1)
        with pytest.raises(PoolClosedError):
            pool.submit_nowait(double, 1)

    pool = new_pool(size=1)
    await pool.__aenter__()
    job = await pool.submit(submits)
    await settle()
    report = await pool.shutdown(cancel_pending=True)
    assert job.result() is None
    assert report.clean


async def stubborn_for(seconds):
    stubborn = Stubborn()
    asyncio.get_running_loop().call_later(seconds, stubborn.released.set)
    await stubborn()


async def submits_itself_again(pool):
    await asyncio.sleep(1)
    await pool.submit(submits_itself_again, pool)


LONG = {
    "long": lambda pool: pool.submit(asyncio.sleep, 60),
    "delayed": lambda pool: pool.with_options(delay=3600).submit(double, 1),
    "submits itself again": lambda pool: pool.submit(submits_itself_again, pool),
    "endless": lambda pool: pool.submit(forever),
    "ignores its cancel": lambda pool: pool.submit(stubborn_for, 10),
}


@virtual
@pytest.mark.parametrize("work", LONG)
@pytest.mark.parametrize("way", ["block", "serve", "shutdown"])
async def test_leaving_takes_no_longer_than_its_limit(new_pool, way, work):
    """The clock of `shutdown_timeout` runs from the moment of leaving, whatever the jobs do; then there is a grace."""
    pool = new_pool(size=2, shutdown_timeout=3, cancel_grace=0.5)
    if way == "serve":
        serving = asyncio.create_task(pool.serve())
        await settle()
    else:
        await pool.__aenter__()
    job = await LONG[work](pool)
    await advance(0.5)
    began = now()
    if way == "block":
        await pool.__aexit__(None, None, None)
    else:
        await pool.shutdown()
        if way == "serve":
            await serving
    assert now() - began == (4 if work == "ignores its cancel" else 3)
    assert job.done()
    assert pool.status is PoolStatus.CLOSED
    await advance(10)


@virtual
@pytest.mark.parametrize("hold", ["pause", "pause_group", "resize"])
async def test_a_pause_by_another_task_cannot_hold_the_leaving(new_pool, hold):
    """A pool that is being left cannot be held any more: it goes on to its end, without a limit too."""

    async def hold_it():
        await asyncio.sleep(1)
        if hold == "pause":
            pool.pause()
        elif hold == "pause_group":
            pool.pause(group="g")
        else:
            pool.resize(0)

    async with new_pool(size=1) as pool:
        jobs = [await pool.with_options(group="g").submit(asyncio.sleep, 2) for _ in range(3)]
        holding = asyncio.create_task(hold_it())
    await holding
    assert [job.status for job in jobs] == ["succeeded"] * 3
    assert now() == 6


@virtual
async def test_a_paused_pool_that_is_left_goes_on(new_pool):
    """To leave is to finish, within the limit."""
    async with new_pool(size=1, shutdown_timeout=3) as pool:
        pool.pause()
        jobs = [await pool.submit(asyncio.sleep, 2) for _ in range(2)]
    assert [job.status for job in jobs] == ["succeeded", "cancelled"]
    assert now() == 3


@virtual
async def test_a_cancelled_leaving_cancels_the_jobs(new_pool):
    """The first cancel ends the time for the work, the second the grace."""
    for cancels, seconds in [(1, 1.5), (2, 1)]:
        pool = new_pool(size=1, cancel_grace=1)
        await pool.__aenter__()
        await pool.submit(tidy, 0.5)
        leaving = asyncio.create_task(pool.__aexit__(None, None, None))
        began = now()
        await advance(1)
        for _ in range(cancels):
            leaving.cancel()
            await settle()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert now() - began == seconds
        assert pool.status is PoolStatus.CLOSED
        await advance(1)


@virtual
async def test_a_later_shutdown_may_cancel_what_is_pending(new_pool):
    """`cancel_pending` of a call that joins a shutdown under way is heard."""
    pool = new_pool(size=1)
    await pool.__aenter__()
    jobs = [await pool.submit(asyncio.sleep, 2) for _ in range(3)]
    first = asyncio.create_task(pool.shutdown())
    await advance(1)
    report = await pool.shutdown(cancel_pending=True)
    assert await first is report
    assert [job.status for job in jobs] == ["succeeded", "cancelled", "cancelled"]
    assert (now(), report.never_started) == (2, 2)


# -- what is said ----------------------------------------------------------------------------------------------


@virtual
async def test_jobs_that_a_shutdown_cancels_are_told_in_one_line(new_pool, caplog):
    """The counts as a warning; the ids at DEBUG; nothing, if nothing was cancelled."""
    caplog.set_level(logging.DEBUG, "aiopool.pool")
    pool = new_pool(size=1, name="orders")
    await pool.__aenter__()
    for number in range(3):
        await pool.with_options(id=f"order-{number}").submit(forever)
    await settle()
    await pool.shutdown(0)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [
        ("WARNING", "the shutdown of pool orders cancelled 3 jobs: 2 had not started, 0 did not end"),
        (
            "DEBUG",
            "the shutdown of pool orders cancelled the jobs with these ids: 'order-1', 'order-2', 'order-0'",
        ),
    ]
    assert (caplog.records[0].pool, caplog.records[0].cancelled, caplog.records[0].never_started) == ("orders", 3, 2)
    caplog.clear()
    async with new_pool() as pool:
        await pool.submit(double, 1)
    assert caplog.records == []


@virtual
async def test_the_report_of_a_shutdown_that_went_well_is_one_line(new_pool):
    """The counts, and nothing of callbacks or leaks."""
    pool = new_pool(size=1)
    await pool.__aenter__()
    pool.on_shutdown(lambda: None)
    await pool.submit(double, 1)
    assert str(await pool.shutdown()) == (
        "the shutdown took 0.00 s: 1 jobs succeeded, 0 failed, 0 timed out, 0 were cancelled (0 had not started)"
    )


@virtual
async def test_the_report_says_that_asyncio_run_waits_for_a_leaked_job(new_pool):
    """In words, with the counts, the names, and what to use instead."""

    async def fail():
        raise OSError("no network")

    pool = new_pool(size=1, cancel_grace=0.5)
    await pool.__aenter__()
    await pool.with_options(id="stubborn").submit(stubborn_for, 10)
    pool.on_shutdown(fail)
    await settle()
    text = str(await pool.shutdown(0))
    assert text.startswith("the shutdown took 1.00 s: 0 jobs succeeded, 0 failed, 0 timed out, 1 were cancelled (0 ")
    assert "1 callbacks failed: OSError('no network')" in text
    assert "(id 'stubborn') did not end; asyncio.run() will wait for it: aiopool.run() does not" in text
    await advance(10)


@virtual
async def test_retries_go_on_until_the_limit(new_pool):
    """A shutdown without a limit waits for the next attempt; one with a limit does not wait it out."""
    starts = []

    async def flaky():
        starts.append(now())
        if len(starts) == 1:
            raise OSError
        return "done"

    retry = Retry(attempts=2, backoff="fixed", delay=30, jitter=0)
    for timeout, ends in [(None, 30), (10, 10)]:
        starts.clear()
        began = now()
        pool = new_pool(size=1, retry=retry)
        await pool.__aenter__()
        job = await pool.submit(flaky)
        await settle()
        await pool.shutdown(timeout)
        assert now() - began == ends
        assert job.status == ("succeeded" if timeout is None else "cancelled")


@virtual
async def test_join_while_others_keep_submitting(new_pool):
    """`join` returns at a moment at which there is no job; it is no fence, and shuts nothing."""
    async with new_pool(size=1) as pool:

        async def producer():
            for _ in range(5):
                await pool.submit(asyncio.sleep, 1)
                await asyncio.sleep(0.5)

        producing = asyncio.create_task(producer())
        await settle()
        await pool.join()
        assert now() == 5
        assert pool.statistics().succeeded == 5
        await producing
        assert await pool.run(double, 1) == 2


# -- many, early, late, from everywhere ----------------------------------------------------------------------


@virtual
async def test_shutdown_is_one_however_often_it_is_called(new_pool):
    """Five at a time, again while it is under way, and afterwards: the same report; no line runs twice."""
    called = []
    pool = new_pool(size=2)
    pool.on_shutdown(lambda: called.append(now()))
    async with pool:
        await pool.submit(asyncio.sleep, 3)
        reports = await asyncio.gather(*(pool.shutdown() for _ in range(5)))
        reports.append(await pool.shutdown(0, 0))
    reports.append(await pool.shutdown())
    assert len({id(report) for report in reports}) == 1
    assert called == [3]


@virtual
async def test_a_later_shutdown_can_only_make_it_hurry(new_pool):
    """The earliest deadline and the shortest grace hold."""
    pool = new_pool(size=1)
    await pool.__aenter__()
    stubborn = Stubborn()
    job = await pool.submit(stubborn)
    await settle()
    calls = [asyncio.create_task(pool.shutdown(10, 10))]
    await advance(1)
    calls.append(asyncio.create_task(pool.shutdown(100, 100)))
    await advance(1)
    calls.append(asyncio.create_task(pool.shutdown(3)))  # from now: 5
    await advance(4)  # 6: cancelled at 5, has a grace of 10
    assert not job.done()
    calls.append(asyncio.create_task(pool.shutdown(grace=2)))  # from now: 8
    await asyncio.wait(calls)
    assert now() == 8
    assert job.leaked
    stubborn.released.set()
    await settle()


@virtual
async def test_shutdown_before_and_after_the_pool_was_open(new_pool):
    """Before: a clear error; after: the last report."""
    pool = new_pool()
    with pytest.raises(RuntimeError, match="async with"):
        await pool.shutdown()
    async with pool:
        pass
    assert (await pool.shutdown()).clean
    await pool.wait_closed()


@virtual
async def test_a_job_that_joins_waits_for_all_but_those_that_wait_like_it(new_pool):
    """A job that calls for the shutdown counts once among those that wait: whoever joins still waits for the others."""
    pool = new_pool(size=3)
    await pool.__aenter__()

    async def joins():
        await pool.join()
        return now()

    joined = await pool.submit(joins)
    first, second = [await pool.submit(pool.shutdown) for _ in range(2)]
    await pool.submit(asyncio.sleep, 4)
    await settle()
    assert await joined == 4
    assert (await first).clean
    assert (await second).clean
    await pool.wait_closed()


@virtual
async def test_shutdown_from_inside_of_a_job(new_pool):
    """The job that calls it is not waited for, and not cancelled; it gets the report, and goes on."""

    async def job(n):
        report = await pool.shutdown(timeout)
        await asyncio.sleep(1)
        return n, report.cancelled

    for timeout, cancelled in [(None, 0), (0, 1)]:
        began = now()
        async with new_pool(size=3) as pool:
            first = await pool.submit(job, 1)
            other = await pool.submit(asyncio.sleep, 5)
        assert await first == (1, cancelled)
        assert other.status == ("succeeded" if timeout is None else "cancelled")
        assert now() - began == (6 if timeout is None else 1)


@virtual
async def test_shutdown_from_inside_of_many_jobs(new_pool):
    """Five jobs call it, at different times; none waits for another, and the last other job is waited for."""

    async def job(n):
        await asyncio.sleep(n)
        return await pool.shutdown()

    pool = new_pool(size=7)
    async with pool:
        callers = [await pool.submit(job, n) for n in range(5)]
        other = await pool.submit(asyncio.sleep, 10)
    reports = [await caller for caller in callers]
    assert now() == 10
    assert other.status is JobStatus.SUCCEEDED
    assert len({id(report) for report in reports}) == 1


@virtual
async def test_join_is_not_confused_by_jobs_that_have_called_shutdown(new_pool):
    """A caller that gives up and ends does not count for another job that still runs."""

    async def impatient():
        with anyio.move_on_after(1):
            await pool.shutdown()

    pool = new_pool(size=3)
    async with pool:
        await pool.submit(impatient)
        other = await pool.submit(asyncio.sleep, 10)
        await advance(3)
        await pool.join()
        assert other.done()
        assert now() == 10


@virtual
async def test_a_job_that_calls_shutdown_and_fails_is_not_tried_again(new_pool):
    """There is no worker left for another attempt; its waiters are told at once."""

    async def job():
        await pool.shutdown()
        raise OSError("after the end")

    pool = new_pool(size=1)
    async with pool:
        retry = Retry(attempts=5, backoff="fixed", delay=1, jitter=0)
        handle = await pool.with_options(retry=retry).submit(job)
        with pytest.raises(OSError, match="after the end"):
            await handle
    assert handle.attempt == 1
    assert now() == 0


@virtual
async def test_shutdown_from_a_task_and_a_callback_of_a_job(new_pool):
    """From a child task of a job, and from a done-callback."""

    async def job():
        return await asyncio.create_task(pool.shutdown())

    async with new_pool(size=2) as pool:
        report = await (await pool.submit(job))
        assert report.clean
    tasks = []
    async with new_pool(size=2) as pool:
        handle = await pool.submit(double, 1)
        handle.add_done_callback(lambda _: tasks.append(asyncio.create_task(pool.shutdown())))
        await handle
        assert (await tasks[0]).clean


@virtual
async def test_the_state_of_a_closing_pool_can_be_asked(new_pool):
    """Status, numbers, jobs and reprs answer at once in every phase."""
    pool = new_pool(size=1)
    seen = [pool.status.value]
    async with pool:
        seen.append(pool.status.value)
        job = await pool.submit(asyncio.sleep, 3)
        await settle()
        stopping = asyncio.create_task(pool.shutdown())
        await advance(1)
        seen.append(pool.status.value)
        assert pool.statistics().running == 1
        assert pool.jobs() == [job]
        assert pool.get_job(job.id) is job
        assert "closing" in repr(pool)
        await stopping
    seen.append(pool.status.value)
    assert seen == ["new", "open", "closing", "closed"]
    assert "closed" in repr(pool)
    assert pool.jobs() == []


@virtual
async def test_handles_can_be_read_after_the_end(new_pool):
    """Results, errors and outcomes stay, and awaiting a done job needs no pool."""

    async def fail():
        raise error

    error = ValueError()
    pool = new_pool(size=1)
    with contextlib.suppress(KeyError):
        async with pool:
            jobs = [await pool.submit(function) for function in (fail, forever)]
            limited = await pool.with_options(queue_timeout=0).submit(forever)
            await advance(1)
            raise KeyError
    assert jobs[0].exception() is error
    with pytest.raises(ValueError):
        await jobs[0]
    with pytest.raises(JobCancelledError):
        await jobs[1]
    with pytest.raises(JobTimeoutError):
        await limited
    assert [job.outcome().status.value for job in (*jobs, limited)] == ["failed", "cancelled", "timed_out"]
    assert jobs[1].cancel() is False
    assert await jobs[1].wait()


# -- callbacks -------------------------------------------------------------------------------------------------


@virtual
async def test_callbacks_run_together_when_the_jobs_are_over(new_pool):
    """Plain and async ones, each once, begun last in first out; one that was taken back is not called."""
    calls = []
    pool = new_pool()

    @pool.on_shutdown
    def first():
        calls.append("first")

    @pool.on_shutdown
    async def second():
        await asyncio.sleep(1)
        calls.append(("second", pool.statistics().running))

    removed = pool.on_shutdown(lambda: calls.append("removed"))
    removed.remove()
    removed.remove()  # twice is once
    async with pool:
        await pool.submit(asyncio.sleep, 2)
        pool.on_shutdown(lambda: calls.append("third"))
    assert calls == ["third", "first", ("second", 0)]
    assert now() == 3


@virtual
@pytest.mark.parametrize(
    "error",
    [OSError, asyncio.CancelledError, GeneratorExit, MemoryError, RecursionError],
)
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_callback_that_fails_does_not_stop_the_others_and_is_told(new_pool, caplog, kind, error):
    """Whatever it raises, it is in the report and in the log, once."""
    calls = []
    pool = new_pool()

    def plain():
        raise error

    async def asynchronous():
        await asyncio.sleep(0.5)
        raise error

    pool.on_shutdown(lambda: calls.append("last"))
    pool.on_shutdown(plain if kind == "plain" else asynchronous)
    pool.on_shutdown(lambda: calls.append("first"))
    async with pool:
        report = await pool.shutdown()
    assert calls == ["first", "last"]
    assert [type(found) for found in report.callback_errors] == [error]
    assert not report.clean
    [record] = caplog.records
    assert record.getMessage().startswith("a callback of on_shutdown failed: <function ")
    assert record.exc_info[0] is error


async def hang():
    await forever()


# (shutdown_timeout, seconds of the job, seconds until the end with callbacks that hang)
HANGING = {
    "time left": (10, 2, 11),
    "no time left": (3, 60, 4),
    "at once": (0, 60, 1),
    "without a limit": (None, 2, 7),
}


@virtual
@pytest.mark.parametrize("case", HANGING)
async def test_callbacks_share_what_is_left_and_a_second(new_pool, caplog, case):
    """Four that hang take no longer than one: what is left of the time, and one second; five without a limit."""
    limit, seconds, expected = HANGING[case]
    pool = new_pool(size=1, shutdown_timeout=limit)
    for _ in range(4):
        pool.on_shutdown(hang)
    pool.on_shutdown(pool.shutdown)  # which would wait for itself
    async with pool:
        await pool.submit(asyncio.sleep, seconds)
        await settle()
    report = await pool.shutdown()
    assert now() == report.seconds == expected
    assert [type(error) for error in report.callback_errors] == [TimeoutError] * 5
    assert len([record for record in caplog.records if "on_shutdown failed" in record.getMessage()]) == 5


@virtual
async def test_a_callback_that_ignores_its_cancel_is_left_behind(new_pool):
    """It holds up nobody."""
    stubborn = Stubborn()
    async with new_pool(shutdown_timeout=2) as pool:
        pool.on_shutdown(stubborn)
    assert now() == 3
    assert [type(error) for error in (await pool.shutdown()).callback_errors] == [TimeoutError]
    stubborn.released.set()
    await settle()


@virtual
async def test_a_shutdown_that_is_hurried_hurries_its_callbacks(new_pool):
    """A later limit that is shorter holds for them, too: a second signal does not wait for what the first allowed."""
    pool = new_pool()
    pool.on_shutdown(hang)
    await pool.__aenter__()
    first = asyncio.create_task(pool.shutdown(60))
    await advance(5)
    await pool.shutdown(0)
    assert now() == 6
    assert (await first).callback_errors


# -- the shutdown itself is hurt -------------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize("phase", ["finish", "grace", "callbacks"])
async def test_foreign_code_that_cancels_the_shutdown_only_makes_it_hurry(new_pool, phase):
    """Who cancels its task (the end of `asyncio.run` does) leaves no waiter, worker or open pool behind."""
    calls = []
    pool = new_pool(size=2, cancel_grace=5)

    @pool.on_shutdown
    async def callback():
        calls.append(now())
        if phase == "callbacks":
            await forever()

    await pool.__aenter__()
    jobs = [] if phase == "callbacks" else [await pool.submit(tidy, 3), await pool.submit(asyncio.sleep, 100)]
    waiters = [asyncio.create_task(job.wait()) for job in jobs]
    await settle()
    callers = [asyncio.create_task(pool.shutdown(0 if phase == "grace" else None)) for _ in range(2)]
    closed = asyncio.create_task(pool.wait_closed())
    await advance(1)
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == "pool-shutdown"]
    task.cancel()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    await closed
    assert pool.status is PoolStatus.CLOSED
    assert now() <= 2  # a callback has a second
    assert not any(isinstance(end, asyncio.CancelledError) for end in ended)
    assert all(await asyncio.gather(*waiters))
    assert len(calls) == 1
    await advance(5)  # the clean-up of the first job, if it was left
    assert pool.statistics().busy == 0


@virtual
@pytest.mark.parametrize("delay", [0, 1, 50])
async def test_a_job_that_fails_while_a_long_line_is_cancelled_is_not_tried_again(new_pool, delay):
    """In the turns that it takes to cancel what waits, an attempt ends its job: nobody waits for another for ever."""
    go = asyncio.Event()

    async def fails():
        await go.wait()
        raise ValueError

    pool = new_pool(size=1, queue_size=None, retry=Retry(attempts=3, delay=delay, jitter=0))
    await pool.__aenter__()
    job = await pool.submit(fails)
    await settle()
    waiting = [await pool.submit(forever) for _ in range(1000)]
    closing = asyncio.create_task(pool.shutdown(0))
    while not waiting[0].done():
        await asyncio.sleep(0)
    assert not waiting[-1].done()
    go.set()
    report = await closing
    assert (report.cancelled, report.failed, report.never_started) == (1000, 1, 1000)
    assert isinstance(job.exception(), ValueError)
    assert job.attempt == 1


@virtual
async def test_ends_of_many_jobs_are_looked_at_in_slices(new_pool, monkeypatch):
    """The loop turns between two slices; every end is seen."""
    monkeypatch.setattr("aiopool._pool.shutdown.DONE_SLICE", 2)
    pool = new_pool(size=9)
    await pool.__aenter__()
    jobs = [await pool.submit(forever) for _ in range(9)]
    await settle()
    report = await pool.shutdown(0)
    assert (report.cancelled, report.leaked) == (9, ())
    assert all(job.cancelled() for job in jobs)


@virtual
async def test_a_joiner_that_gives_up_as_the_last_job_ends(new_pool):
    """It is cancelled, and the other one goes on."""
    async with new_pool() as pool:
        job = await pool.with_options(delay=5).submit(double, 1)
        joiners = [asyncio.create_task(pool.join()) for _ in range(2)]
        await settle()
        joiners[0].cancel()
        job.cancel()
        await joiners[1]
        assert joiners[0].cancelled()
        assert now() == 0


@virtual
async def test_the_task_of_a_shutdown_may_be_cancelled_in_any_turn(new_pool):
    """Between two phases, too: nobody waits for ever, the report is whole, and the pool is closed."""
    met = 0
    for turns in range(24):
        pool = new_pool(size=2)
        await pool.__aenter__()
        job = await pool.submit(forever)
        await settle()
        closing = asyncio.create_task(pool.shutdown(0))
        waiting = [asyncio.create_task(pool.wait_closed()) for _ in range(2)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks():
            if task.get_name() == "pool-shutdown":
                met += task.cancel()
        waiting[0].cancel()
        await waiting[1]
        report = await closing
        assert (report.cancelled, report.leaked, report.callback_errors) == (1, (), ()), turns
        assert job.cancelled()
        assert pool.status is PoolStatus.CLOSED
    assert met > 3


# -- random ------------------------------------------------------------------------------------------------------


def test_shutdown_at_any_moment_ends_in_time(isolation, seeds):
    """Whatever runs, from wherever it is called, and however often; every handle is final."""

    async def scenario(chance):
        loop = asyncio.get_running_loop()
        before = asyncio.all_tasks()
        timeout, grace = chance.choice([0, 0.5, 1]), chance.choice([0, 0.5, 2])
        pool = Pool(size=chance.randint(1, 3), queue_size=chance.choice([0, 1, 9]), isolation=isolation)
        await pool.__aenter__()
        jobs, stubborn = [], Stubborn()

        async def fail(seconds):
            await asyncio.sleep(seconds)
            raise OSError

        async def call():
            await pool.shutdown(chance.choice([0.5, 1]))

        async def submitter():
            for _ in range(5):
                function, args = chance.choice(
                    [
                        (asyncio.sleep, (chance.choice(DELAYS),)),
                        (fail, (0.25,)),
                        (tidy, (0.25,)),
                        (stubborn, ()),
                        (call, ()),
                    ]
                )
                retry = chance.choice([None, Retry(attempts=3, delay=0.25, jitter=0)])
                options = pool.with_options(retry=retry, timeout=chance.choice([None, 0.5]))
                try:
                    job = await options.submit(function, *args)
                except PoolClosedError:
                    return
                job.add_done_callback(lambda job: None)
                jobs.append((job, function))
                await asyncio.sleep(chance.choice(DELAYS))

        tasks = [asyncio.create_task(submitter()) for _ in range(2)]
        await asyncio.sleep(chance.choice(DELAYS))
        began = now()
        reports = await asyncio.gather(pool.shutdown(timeout, grace), pool.shutdown(2, 4))
        assert now() - began <= timeout + grace
        assert reports[0] is reports[1]
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        for job, function in jobs:
            if function is not call:
                assert job.done()
            assert not job.leaked or function is stubborn or grace < 0.5
        stubborn.released.set()
        await asyncio.sleep(5)
        assert all(job.done() for job, _ in jobs)
        assert pool.statistics().busy == 0
        assert loop.armed() == []
        assert asyncio.all_tasks() == before

    explore(scenario, seeds=seeds(150))


@real
async def test_shutdown_with_threads_at_work(new_pool):
    """A call in a thread is waited for until the limit; then it is left, and named, and holds up nobody."""
    go = threading.Event()
    for timeout in (None, 0.02):
        go.clear()
        pool = new_pool(size=1)
        await pool.__aenter__()
        job = await pool.submit(go.wait)
        await wait_until(lambda pool=pool: pool.statistics().threads_busy == 1)
        stopping = asyncio.create_task(pool.shutdown(timeout, 0.02))
        await asyncio.sleep(0.01)
        if timeout is None:
            go.set()
        report = await stopping
        assert [leak.id for leak in report.leaked] == ([] if timeout is None else [job.id])
        assert job.status == ("succeeded" if timeout is None else "cancelled")
        go.set()
        await wait_until(lambda pool=pool: pool.statistics().busy == 0)
