"""Numbers that add up at every moment."""

import asyncio
import random
import threading

import pytest
from helpers import assert_counters_balance, balanced, echo, fail, nap, now, stubborn, virtual

from aiopool import Pool, QueueFullError, Retry, Statistics, current_job
from aiopool.testing import advance, settle

FIELDS = (
    "submitted succeeded failed timed_out cancelled rejected queued scheduled running waiting leaked size busy idle "
    "retries restarts threads_busy threads_abandoned dropped recovered not_recovered given_back uptime"
).split()


@virtual
async def test_every_outcome_is_counted_once(isolation):
    """One job for each way to end, and one in each place; all numbers are as counted by hand."""
    async with Pool(1, 3, isolation=isolation, on_error=lambda job, error: None) as pool:
        await pool.submit(echo)
        await pool.submit(fail)
        await pool.with_options(timeout=0.5).submit(nap, 1)
        await advance(0.5)
        (await pool.submit(echo)).cancel()
        await pool.with_options(retry=Retry(attempts=2, delay=9, jitter=0)).submit(fail)
        await settle()
        await pool.submit(nap, 5)
        await settle()
        for _ in range(3):
            await pool.submit(nap, 1)
        with pytest.raises(QueueFullError):
            pool.submit_nowait(echo)
        waiting = asyncio.create_task(pool.submit(echo))
        await settle()
        numbers = pool.statistics()
        expected = {
            "submitted": 10,
            "succeeded": 1,
            "failed": 1,
            "timed_out": 1,
            "cancelled": 1,
            "rejected": 1,
            "queued": 3,
            "scheduled": 1,
            "running": 1,
            "waiting": 1,
            "leaked": 0,
            "size": 1,
            "busy": 1,
            "idle": 0,
            "retries": 1,
            "restarts": 0,
            "threads_busy": 0,
            "threads_abandoned": 0,
            "dropped": 0,
            "recovered": 0,
            "not_recovered": 0,
            "given_back": 0,
            "uptime": 0.5,
        }
        assert {name: getattr(numbers, name) for name in FIELDS} == expected
        assert_counters_balance(numbers)
        await waiting


@virtual
@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_lowest"])
async def test_dropped_jobs_are_counted(isolation, overflow):
    """Also among the cancelled; those that are cancelled in another way are not among the dropped."""
    async with Pool(1, 2, overflow=overflow, isolation=isolation, on_error=lambda job, error: None) as pool:
        pool.pause()
        low = [await pool.with_options(priority=9).submit(echo) for _ in range(2)]
        for _ in range(2):
            await pool.submit(echo)
        assert [job.status for job in low] == ["cancelled"] * 2
        await pool.cancel_all()
        found = pool.statistics()
        assert (found.dropped, found.cancelled) == (2, 4)


@virtual
async def test_retries_are_told_by_whether_they_helped(isolation):
    """Jobs that succeeded after a failed attempt, and those that ended otherwise; not jobs of one attempt."""

    async def flaky():
        if current_job().attempt < 2:
            raise ValueError

    async with Pool(2, isolation=isolation, on_error=lambda job, error: None) as pool:
        view = pool.with_options(retry=Retry(attempts=2, delay=1, jitter=0))
        for function in (flaky, flaky, fail, echo):
            await view.submit(function)
        await pool.submit(fail)
        gone = await view.submit(fail)
        await settle()
        gone.cancel()
        await pool.join()
        found = pool.statistics()
        assert (found.recovered, found.not_recovered, found.retries) == (2, 2, 4)


@virtual
async def test_the_uptime_ends_with_the_pool(isolation):
    """It runs from the opening to the end, and begins anew."""
    pool = Pool(isolation=isolation)
    async with pool:
        await advance(5)
        assert pool.statistics().uptime == 5
    await advance(5)
    assert pool.statistics().uptime == 5
    async with pool:
        assert pool.statistics().uptime == 0


def test_the_fields_are_frozen():
    """A snapshot is frozen, and has the fields that the docs promise."""
    assert tuple(Statistics.__dataclass_fields__) == tuple(FIELDS)
    numbers = Statistics(*range(len(FIELDS)))
    with pytest.raises(AttributeError):
        numbers.queued = 1


@virtual
async def test_they_add_up_after_every_step(isolation):
    """In a mixed run the sums are looked at in every turn of the loop, and in every place of a job's life."""
    chance, looks, wrong = random.Random(21), [0], []

    def look(*_):
        looks[0] += 1
        if not balanced(pool.statistics()):
            wrong.append(pool.statistics())

    async def job(kind, seconds):
        look()
        await asyncio.sleep(seconds)
        look()
        if kind == "fail":
            raise ValueError
        if kind == "nested":
            return await pool.run(job, "ok", 0.25)

    def every_turn():
        look()
        timers[:] = [asyncio.get_running_loop().call_later(chance.choice([0, 0.25]), every_turn)]

    timers = []
    async with Pool(3, 6, isolation=isolation, on_error=look) as pool:
        every_turn()
        for n in range(300):
            view = pool.with_options(
                timeout=chance.choice([None, 0, 0.5]),
                retry=chance.choice([None, None, Retry(attempts=2, delay=0.5, jitter=0)]),
                priority=chance.choice([1, 5, 8]),
                delay=chance.choice([None, None, 0.25]),
            )
            made = await view.submit(job, chance.choice(["ok", "fail", "nested"]), chance.choice([0, 0, 0.25, 1]))
            made.add_done_callback(look)
            if n % 7 == 0:
                made.cancel()
            if chance.random() < 0.4:
                await asyncio.sleep(chance.choice([0, 0.25]))
        await pool.join()
        timers[0].cancel()
    assert looks[0] > 1000
    assert not wrong


@virtual
async def test_they_add_up_where_callbacks_look(isolation):
    """A callback on the end of a job, and the error sink, see the job in its final place."""
    seen = []

    async def bad():
        raise ValueError

    def look(*_):
        numbers = pool.statistics()
        seen.append((numbers.failed, numbers.running, balanced(numbers)))

    async with Pool(1, isolation=isolation, on_error=look) as pool:
        job = await pool.submit(bad)
        job.add_done_callback(look)
        await job.wait()
        await pool.submit(bad)
        await pool.join()
    assert seen == [(1, 0, True), (2, 0, True)]


def test_a_thread_sees_a_consistent_snapshot():
    """In a plain function in a thread, while the loop goes on, no gauge is negative and no counter shrinks."""

    async def main(isolation):
        done = threading.Event()

        def look():
            snapshots = []
            while not done.is_set() and len(snapshots) < 20_000:
                snapshots.append(pool.statistics())
            return snapshots

        async with Pool(4, None, isolation=isolation) as pool:
            watch = await pool.submit(look)
            for _ in range(20):
                for _ in range(50):
                    await pool.submit(echo)
                await asyncio.sleep(0.001)
            done.set()
            return await watch

    for isolation in ("task", "scope"):
        snapshots = asyncio.run(main(isolation))
        assert snapshots
        for name in FIELDS:
            assert min(getattr(numbers, name) for numbers in snapshots) >= 0, name
        for name in ("submitted", "succeeded"):
            values = [getattr(numbers, name) for numbers in snapshots]
            assert values == sorted(values), name


@virtual
async def test_durations_are_never_negative(isolation):
    """Whatever happens to a job, the times of its record are on the loop's clock, in order, and not negative."""
    async with Pool(1, None, isolation=isolation, on_error=lambda job, error: None) as pool:
        jobs = [
            await pool.submit(nap, 1),
            await pool.with_options(timeout=0.5).submit(nap, 1),
            await pool.with_options(queue_timeout=0.25).submit(nap, 1),
            await pool.with_options(delay=9, total_timeout=3).submit(nap, 1),
            await pool.with_options(retry=Retry(attempts=2, delay=1)).submit(fail),
            await pool.submit(nap, 7),
        ]
        jobs[-1].cancel()
        await pool.join()
        for job in jobs:
            record = job.outcome()
            assert record.waited >= 0
            assert record.seconds >= 0
            assert job.submitted_at <= (job.started_at or job.submitted_at) <= job.finished_at <= now()
        never = jobs[2].outcome()
        assert (never.attempts, never.waited, never.seconds) == (0, 0.25, 0)


def test_durations_in_real_time():
    """On the real clock, too, which is read at other places than the loop's own."""

    async def main():
        async with Pool(2) as pool:
            jobs = [await pool.submit(asyncio.sleep, 0.001) for _ in range(50)]
            await pool.join()
            for job in jobs:
                assert job.outcome().waited >= 0
                assert job.outcome().seconds >= 0

    asyncio.run(main())


@virtual
async def test_leaks_are_busy_and_not_running(isolation):
    """A leaked job has ended in the books, is counted apart, and its slot is still busy."""
    async with Pool(2, isolation=isolation, cancel_grace=1) as pool:
        job = await pool.submit(stubborn)
        await settle()
        job.cancel()
        await advance(3)
        numbers = pool.statistics()
        assert (numbers.cancelled, numbers.running, numbers.leaked) == (1, 0, 1)
        assert (numbers.busy, numbers.idle) == (1, 1)
        assert_counters_balance(numbers)
        await asyncio.sleep(4000)
        numbers = pool.statistics()
        assert (numbers.leaked, numbers.busy) == (0, 0)


@virtual
async def test_lent_slots_are_not_busy(isolation):
    """A job that waits for another runs in the books, and takes no slot."""
    async with Pool(1, isolation=isolation) as pool:

        async def parent():
            await pool.run(nap, 1)

        job = await pool.submit(parent)
        await settle()
        numbers = pool.statistics()
        assert (numbers.running, numbers.busy) == (2, 1)
        await job


@virtual
async def test_they_can_be_read_after_the_end(isolation):
    """The numbers can be read while the pool closes and after; before it was opened, the error says so."""
    pool = Pool(1, isolation=isolation)
    with pytest.raises(RuntimeError, match="async with"):
        pool.statistics()
    async with pool:
        await pool.submit(nap, 1)
        closing = asyncio.create_task(pool.shutdown())
        await settle()
        assert pool.statistics().running == 1
        await closing
    assert pool.statistics().succeeded == 1
