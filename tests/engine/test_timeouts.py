"""The three clocks of a job: one attempt, the queue, the total. (Threads are in test_threads.py.)"""

import asyncio
import contextlib
import math
import time

import anyio
import pytest
from helpers import double, forever, now

from aiopool import JobCancelledError, JobStatus, JobTimeoutError, Pool, Retry, current_job
from aiopool._engine import engine
from aiopool.testing import DELAYS, advance, explore, settle

pytestmark = pytest.mark.both_isolations

virtual = pytest.mark.loops("virtual", long=("virtual-eager",))
real = pytest.mark.loops("real", long=("eager",))


# -- one attempt ---------------------------------------------------------------------------------------------


@virtual
async def test_an_attempt_that_overruns_is_told_and_says_which_limit(new_pool):
    """At its second, not later; the error says which limit and how long, and where the job was."""
    async with new_pool(timeout=2) as pool:
        job = await pool.submit(forever)
        with pytest.raises(JobTimeoutError, match=r"ran for longer than 2 s \(timeout=2\)") as caught:
            await job
        assert now() == 2
        assert (caught.value.limit, caught.value.seconds) == ("timeout", 2)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert (job.status, pool.statistics().timed_out) == (JobStatus.TIMED_OUT, 1)
        assert job.outcome().seconds == 2


@virtual
@pytest.mark.parametrize("kind", ["raise", "asyncio.timeout", "fail_after", "wait_for"])
async def test_a_timeout_error_of_the_job_is_a_failure(new_pool, kind):
    """Its own TimeoutError comes out as it is, is counted as a failure, and is not ours."""

    async def job():
        if kind == "raise":
            raise TimeoutError("mine")
        if kind == "asyncio.timeout":
            async with asyncio.timeout(1):
                await forever()
        elif kind == "fail_after":
            with anyio.fail_after(1):
                await forever()
        else:
            await asyncio.wait_for(forever(), 1)

    async with new_pool(timeout=5, size=1) as pool:
        handle = await pool.submit(job)
        with pytest.raises(TimeoutError) as caught:
            await handle
        assert not isinstance(caught.value, JobTimeoutError)
        assert handle.status is JobStatus.FAILED
        assert await pool.run(double, 1) == 2


@virtual
async def test_the_clock_of_an_attempt_starts_with_the_attempt(new_pool):
    """Waiting in the queue, for room or for a delay does not count."""
    async with new_pool(size=1, queue_size=1, timeout=3) as pool:
        jobs = [await pool.submit(asyncio.sleep, 2, n) for n in range(5)]
        delayed = await pool.with_options(delay=20).submit(asyncio.sleep, 2, "late")
        assert [await job for job in (*jobs, delayed)] == [0, 1, 2, 3, 4, "late"]


@virtual
@pytest.mark.parametrize(
    ("seconds", "ends"),
    [(0, 0), (1e-9, 1e-9), (0.5, 0.5), (None, 9), (math.inf, 9), (1e308, 9), (9.5, 9)],
)
async def test_every_number_of_seconds_is_a_limit(new_pool, seconds, ends):
    """Zero strikes at the first await; None and infinity never."""
    steps = []

    async def job():
        steps.append("begun")
        await asyncio.sleep(9)

    async with new_pool(timeout=5) as pool:
        handle = await pool.with_options(timeout=seconds).submit(job)
        await handle.wait()
        assert now() == ends
        assert steps == ["begun"]
        assert handle.status is (JobStatus.SUCCEEDED if ends == 9 else JobStatus.TIMED_OUT)


@virtual
async def test_a_job_that_never_awaits_is_in_time(new_pool):
    """A limit strikes at an await; a job without one has no time to be late."""
    async with new_pool(timeout=0) as pool:
        assert await pool.run(double, 1) == 2


def test_expiry_in_the_turn_of_completion(isolation, seeds):
    """One outcome, whichever is first, and the numbers agree with it."""
    seen = set()

    async def scenario(chance):
        async with Pool(size=2, isolation=isolation, timeout=0.5) as pool:
            jobs = [await pool.submit(asyncio.sleep, chance.choice([0.25, 0.5, 0.5]), n) for n in range(4)]
            for n, job in enumerate(jobs):
                await job.wait()
                seen.add(job.status)
                if job.status is JobStatus.SUCCEEDED:
                    assert job.result() == n
                else:
                    assert job.status is JobStatus.TIMED_OUT
            stats = pool.statistics()
            assert stats.succeeded + stats.timed_out == 4
            assert stats.busy == 0
            assert await pool.run(double, 4) == 8

    explore(scenario, seeds=seeds(100))
    assert seen == {JobStatus.SUCCEEDED, JobStatus.TIMED_OUT}


@virtual
async def test_a_value_after_the_limit_is_too_late(new_pool):
    """A job that catches its time limit and returns a value is timed out all the same; an error is a failure."""
    error = OSError("while cleaning up")

    async def job(then):
        try:
            await forever()
        except asyncio.CancelledError:
            if then is not None:
                raise then from None
            return "late"

    async with new_pool(timeout=1) as pool:
        with pytest.raises(JobTimeoutError):
            await pool.run(job, None)
        handle = await pool.submit(job, error)
        with pytest.raises(OSError, match="cleaning up") as caught:
            await handle
        assert caught.value is error
        assert handle.status is JobStatus.FAILED


@virtual
@pytest.mark.parametrize("own", [1, 2, 3])
async def test_the_jobs_own_limit_beside_ours(new_pool, own):
    """The shorter wins; if both strike at once there is one outcome, and neither leaks into the next job."""

    async def job():
        try:
            async with asyncio.timeout(own):
                await forever()
        except TimeoutError:
            return "own"

    async with new_pool(timeout=2, size=1) as pool:
        handle = await pool.submit(job)
        await handle.wait()
        assert now() == min(own, 2)
        if own == 1:
            assert handle.result() == "own"
        else:
            assert handle.status is JobStatus.TIMED_OUT
        assert await pool.run(asyncio.sleep, 1, "next") == "next"


@real
async def test_the_wall_clock_does_not_matter(new_pool, monkeypatch):
    """An hour forth or back changes nothing: limits are on the loop's clock."""
    wall, jumps = time.time, iter([3600.0, -3600.0] * 1000)
    monkeypatch.setattr(time, "time", lambda: wall() + next(jumps))
    async with new_pool(timeout=0.05) as pool:
        assert await pool.run(double, 1) == 2
        with pytest.raises(JobTimeoutError):
            await pool.run(forever)


@real
async def test_a_blocked_loop_makes_limits_late_but_not_wrong(new_pool):
    """Each job ends once; the one that was over in time is not timed out for it."""

    async def block():
        time.sleep(0.06)

    async with new_pool(size=3, timeout=0.02) as pool:
        slow = await pool.submit(forever)
        blocker = await pool.submit(block)
        quick = await pool.submit(double, 1)
        assert await quick == 2
        await blocker
        await slow.wait()
        assert slow.status is JobStatus.TIMED_OUT
        assert blocker.status is JobStatus.SUCCEEDED


@virtual
async def test_a_running_attempt_can_change_its_limit(new_pool):
    """`set_timeout` counts from now, takes the limit away, or gives one where there was none."""

    async def job(seconds):
        await asyncio.sleep(1)
        current_job().set_timeout(seconds)
        await asyncio.sleep(5)

    async with new_pool(size=4) as pool:
        began = now()
        for given, changed, ends in [(2, 1, 2), (2, None, 6), (None, 3, 4), (2, 10, 6), (2, 0, 1)]:
            began = now()
            handle = await pool.with_options(timeout=given).submit(job, changed)
            await handle.wait()
            assert now() - began == ends, (given, changed)
            if handle.status is JobStatus.TIMED_OUT:
                assert handle.exception().seconds == changed


@virtual
async def test_a_changed_limit_is_for_this_attempt_only(new_pool):
    """The next attempt has the limit of the options again."""
    seen = []

    async def job():
        seen.append(now())
        if len(seen) == 1:
            current_job().set_timeout(5)
        await forever()

    async with new_pool(size=1) as pool:
        retry = Retry(attempts=2, backoff="fixed", delay=1, jitter=0)
        handle = await pool.with_options(timeout=2, retry=retry).submit(job)
        with pytest.raises(JobTimeoutError, match="2 s"):
            await handle
        assert seen == [0, 6]
        assert now() == 8


@virtual
async def test_a_limit_is_given_only_to_an_attempt_that_goes_on(new_pool):
    """Between two attempts, to a job that was told to stop and to one that has ended, `set_timeout` does nothing."""

    async def job():
        if current_job().attempt == 1:
            raise ValueError
        await asyncio.sleep(5)

    async def cleans_up():
        try:
            await forever()
        finally:
            current_job().set_timeout(1)
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(2)

    async with new_pool(size=2, cancel_grace=3) as pool:
        handle = await pool.with_options(retry=Retry(attempts=2, delay=1, jitter=0)).submit(job)
        await settle()
        assert handle.status is JobStatus.SCHEDULED
        handle.set_timeout(2)
        await handle
        assert now() == 6
        handle.set_timeout(0)
        told = await pool.submit(cleans_up)
        await settle()
        told.cancel()
        await told.wait()
        assert (told.status, now()) == (JobStatus.CANCELLED, 8)
        assert handle.status is JobStatus.SUCCEEDED


@virtual
async def test_a_job_that_waits_is_given_another_limit(new_pool):
    """Before its first attempt, and between two of them; what runs or has ended keeps it, and no other job has it."""

    async def job():
        if current_job().attempt == 1:
            raise ValueError
        await asyncio.sleep(5)

    async with new_pool(size=1, timeout=3) as pool:
        first = await pool.submit(asyncio.sleep, 2)
        waits = await pool.submit(asyncio.sleep, 60)
        other = await pool.submit(asyncio.sleep, 60)
        await settle()
        assert pool.change_timeout(waits.id, 1) is True
        assert (waits.timeout, other.timeout) == (1, 3)
        assert pool.change_timeout(first.id, 1) is False
        assert pool.change_timeout("nobody", 1) is False
        with pytest.raises(JobTimeoutError, match="1 s"):
            await waits
        assert now() == 3
        assert pool.change_timeout(first.id, 1) is False
        with pytest.raises(JobTimeoutError):
            await other
        again = await pool.with_options(retry=Retry(attempts=2, delay=1, jitter=0)).submit(job)
        await settle()
        assert again.status is JobStatus.SCHEDULED
        assert pool.change_timeout(again.id, None) is True
        await again
        with pytest.raises(ValueError, match="timeout"):
            pool.change_timeout(again.id, -1)


# -- the queue, and the total --------------------------------------------------------------------------------


@virtual
async def test_the_limit_of_waiting_in_the_queue(new_pool):
    """A job that waits too long is over at its second, without having run; one that started in time is safe."""
    ran = []

    async def record(n):
        ran.append(n)
        await asyncio.sleep(10)

    async with new_pool(size=1, queue_timeout=3) as pool:
        first = await pool.submit(record, 1)
        second = await pool.submit(record, 2)
        with pytest.raises(JobTimeoutError, match="waited in the queue for longer than 3 s") as caught:
            await second
        assert (now(), caught.value.limit) == (3, "queue_timeout")
        assert second.outcome().attempts == 0
        await first
        assert ran == [1]
        assert now() == 10


@virtual
async def test_the_queue_limit_does_not_count_delay_or_retries(new_pool):
    """It is over with the first attempt, and begins when the job enters the queue."""
    starts = []

    async def flaky():
        starts.append(now())
        if len(starts) < 3:
            raise OSError
        return "done"

    async with new_pool(size=1, queue_timeout=1) as pool:
        retry = Retry(attempts=3, backoff="fixed", delay=10, jitter=0)
        assert await pool.with_options(delay=5, retry=retry).run(flaky) == "done"
        assert starts == [5, 15, 25]


@virtual
@pytest.mark.parametrize("zero", ["queue_timeout", "total_timeout"])
async def test_zero_for_the_queue_or_the_total(new_pool, zero):
    """Zero is a limit: who would have to wait for a worker does not run."""
    async with new_pool(size=1) as pool:
        await pool.submit(asyncio.sleep, 1)
        await settle()
        handle = await pool.with_options(**{zero: 0}).submit(double, 1)
        with pytest.raises(JobTimeoutError) as caught:
            await handle
        assert (now(), caught.value.limit) == (0, zero)


@real
async def test_no_time_in_the_queue_is_enough_for_an_idle_pool(new_pool):
    """`queue_timeout=0` means "now or never": now, if a worker is free, also one that has just been made."""
    async with new_pool(size=8) as pool:
        at_once = pool.with_options(queue_timeout=0)
        for _ in range(3):
            assert await at_once.run(double, 1) == 2
            assert await asyncio.gather(*(at_once.run(asyncio.sleep, 0.001, n) for n in range(8))) == list(range(8))
        release = asyncio.Event()
        for _ in range(8):
            await pool.submit(release.wait)
        with pytest.raises(JobTimeoutError):
            await at_once.run(double, 1)
        release.set()


@real
async def test_no_time_in_the_queue_is_enough_for_the_last_of_many_that_start_one_a_turn(new_pool, monkeypatch):
    """Jobs that take long in the event loop start in turns of their own: whom a free worker waits for is not ended."""
    monkeypatch.setattr(engine, "TIME_SLICE", 1e-9)
    async with new_pool(size=8) as pool:
        at_once = pool.with_options(queue_timeout=0)
        jobs = [at_once.with_options(priority=9).submit_nowait(double, 0)]  # the first whose time is over starts last
        jobs += [at_once.submit_nowait(double, n) for n in range(1, 8)]
        assert await asyncio.gather(*jobs) == list(range(0, 16, 2))


@virtual
async def test_a_job_whose_time_in_the_queue_is_over_starts_if_nothing_but_a_chore_stands_before_it(new_pool):
    """No job starts while many are cancelled: the turns that this takes do not count, and a worker needs some more."""
    async with new_pool(size=1) as pool:
        for group in ("one", "two"):
            later = pool.with_options(group=group, delay=100)
            for _ in range(200):
                later.submit_nowait(double, 1)
        first = asyncio.create_task(pool.cancel_all(group="one"))
        await asyncio.sleep(0)
        late = pool.with_options(queue_timeout=0).submit_nowait(double, 1)
        for _ in range(3):
            await asyncio.sleep(0)  # so that its time is over before the second cancel begins
        assert await pool.cancel_all(group="two") == 200
        assert await first == 200
        assert await late == 2
        assert now() == 0


@virtual
async def test_the_total_covers_everything(new_pool):
    """Queue, delay, attempts and the delays between them, wherever the job is when it strikes."""

    async def fail():
        await asyncio.sleep(1)
        raise OSError

    retry = Retry(attempts=99, backoff="fixed", delay=2, jitter=0)
    async with new_pool(size=1) as pool:
        for options, function, args, attempts in [
            ({"delay": 9}, double, (1,), 0),  # before it begins
            ({}, asyncio.sleep, (99,), 1),  # while it runs
            ({"retry": retry}, fail, (), 2),  # between two attempts: 0-1, 3-4, due at 6
            ({"retry": retry, "delay": 1}, fail, (), 2),  # in an attempt: 1-2, 4-
        ]:
            began = now()
            handle = await pool.with_options(total_timeout=5, **options).submit(function, *args)
            with pytest.raises(JobTimeoutError, match="was not done within a total of 5 s"):
                await handle
            assert now() - began == 5, options
            assert handle.outcome().attempts == attempts
        blocker = await pool.submit(asyncio.sleep, 9)
        handle = await pool.with_options(total_timeout=5).submit(double, 1)  # in the queue
        await handle.wait()
        assert handle.outcome().attempts == 0
        await blocker


@virtual
async def test_each_attempt_has_its_own_limit_and_all_of_them_the_total(new_pool):
    """Three attempts of 2 s with 1 s between them; a total of 7 s ends the third early."""
    starts = []

    async def job():
        starts.append(now())
        await forever()

    retry = Retry(attempts=5, backoff="fixed", delay=1, jitter=0)
    async with new_pool(size=1, timeout=2, retry=retry) as pool:
        handle = await pool.with_options(total_timeout=7).submit(job)
        with pytest.raises(JobTimeoutError) as caught:
            await handle
        assert (starts, now(), caught.value.limit) == ([0, 3, 6], 7, "total_timeout")
        assert [(record.number, record.seconds) for record in handle.outcome().history] == [(1, 2), (2, 2)]


@virtual
async def test_the_total_is_not_lost_while_an_attempt_ends_by_its_own_limit(new_pool):
    """The total strikes while the job cleans up after the limit of its attempt: there is no further attempt."""
    starts = []

    async def job():
        starts.append(now())
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.5)

    async with new_pool(timeout=1) as pool:
        retry = Retry(attempts=9, backoff="fixed", delay=1, jitter=0)
        handle = await pool.with_options(total_timeout=1.25, retry=retry).submit(job)
        with pytest.raises(JobTimeoutError) as caught:
            await handle
        assert (now(), starts, caught.value.limit) == (1.5, [0], "total_timeout")


@virtual
async def test_an_attempt_that_ignores_its_limit_is_left_behind(caplog):
    """Told, told again, left behind; its waiters are told of the limit, not of a cancel."""
    release = asyncio.Event()

    async def stubborn():
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async with Pool(size=1, timeout=1, cancel_grace=2) as pool:
        handle = await pool.submit(stubborn)
        with pytest.raises(JobTimeoutError):
            await handle
        assert now() == 5
        assert handle.leaked
        assert (handle.status, pool.statistics().leaked) == (JobStatus.TIMED_OUT, 1)
        release.set()
        await settle()
        assert (handle.status, pool.statistics().leaked) == (JobStatus.TIMED_OUT, 0)


@virtual
async def test_a_limit_that_strikes_when_the_job_is_over_does_nothing(new_pool):
    """Limits of jobs that are done are crossed out: they strike no other job of that worker."""
    async with new_pool(size=1, timeout=5, total_timeout=7, queue_timeout=3) as pool:
        for _ in range(10):
            await pool.run(asyncio.sleep, 2)
        unlimited = pool.with_options(timeout=None, total_timeout=None, queue_timeout=None)
        assert await unlimited.run(asyncio.sleep, 20, "unharmed") == "unharmed"


@virtual
async def test_a_hundred_limits_are_one_timer(new_pool):
    """One sweep per pool: the number of timers does not grow with the number of jobs."""
    async with new_pool(size=100, timeout=50, total_timeout=60) as pool:
        jobs = [await pool.submit(forever) for _ in range(100)]
        await settle()
        assert len(asyncio.get_running_loop().armed()) == 1
        for n in range(50):
            jobs[n].cancel()
        await advance(50)
        assert [job.status for job in jobs] == ["cancelled"] * 50 + ["timed_out"] * 50


# -- limits of the caller ------------------------------------------------------------------------------------


@virtual
async def test_a_caller_that_waits_with_a_limit_leaves_nothing(new_pool):
    """Around submit, join and shutdown; who gave up is not in any line, and the work goes on."""
    async with new_pool(size=1, queue_size=0) as pool:
        job = await pool.submit(asyncio.sleep, 10)
        await settle()
        for wait in (lambda: pool.submit(double, 1), pool.join, job.wait, lambda: pool.cancel("unknown")):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await wait()
            with anyio.move_on_after(1):
                await wait()
            assert pool.statistics().waiting == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await pool.shutdown()
        assert job.status is JobStatus.RUNNING
    assert job.status is JobStatus.SUCCEEDED
    assert now() == 10


def test_limits_of_all_kinds_at_any_moment(isolation, seeds):
    """Whatever strikes first is the outcome, at its time, and only once."""

    async def scenario(chance):
        async def job(seconds):
            await asyncio.sleep(seconds)

        async with Pool(size=2, isolation=isolation) as pool:
            jobs = []
            for _ in range(8):
                limits = {
                    "timeout": chance.choice([None, 0.25, 0.5]),
                    "queue_timeout": chance.choice([None, 0, 0.25, 0.5]),
                    "total_timeout": chance.choice([None, 0.5, 1]),
                    "delay": chance.choice([None, 0.25]),
                }
                began = now()
                seconds = chance.choice(DELAYS)
                handle = await pool.with_options(**limits).submit(job, seconds)
                handle.add_done_callback(lambda job: None)
                jobs.append((handle, seconds, limits, began))
                await asyncio.sleep(chance.choice([0, 0.25]))
            await pool.join()
            for handle, seconds, limits, began in jobs:
                outcome = handle.outcome()
                if handle.status is JobStatus.SUCCEEDED:
                    assert outcome.seconds == seconds
                    assert seconds <= (math.inf if limits["timeout"] is None else limits["timeout"])
                else:
                    limit = outcome.error.limit
                    ended = {
                        "timeout": outcome.seconds,
                        "queue_timeout": outcome.waited - (limits["delay"] or 0),
                        "total_timeout": handle.finished_at - began,
                    }
                    assert ended[limit] == limits[limit]
            assert pool.statistics().busy == 0

    explore(scenario, seeds=seeds(150))


@virtual
async def test_cancel_and_limit_in_one_turn(new_pool):
    """The first to ask decides."""
    async with new_pool(timeout=1) as pool:
        handle = await pool.submit(forever)
        asyncio.get_running_loop().call_at(1, handle.cancel)
        with pytest.raises((JobTimeoutError, JobCancelledError)):
            await handle
        assert pool.statistics().timed_out + pool.statistics().cancelled == 1


@virtual
async def test_limits_of_jobs_that_have_ended_are_swept_and_those_of_others_stay(new_pool):
    """Many jobs with limits end before them: of each length of limit what is left of them keeps its time."""
    async with new_pool(size=1) as pool:
        await pool.submit(asyncio.sleep, 1000)
        await settle()
        kept = await pool.with_options(queue_timeout=50).submit(double, 1)
        for seconds in (50, 70):
            for _ in range(200):
                (await pool.with_options(queue_timeout=seconds).submit(double, 1)).cancel()
        later = await pool.with_options(queue_timeout=70).submit(double, 1)
        for job, seconds in ((kept, 50), (later, 70)):
            with pytest.raises(JobTimeoutError, match=f"queue_timeout={seconds}"):
                await job
            assert now() == seconds
        await pool.cancel_all()
