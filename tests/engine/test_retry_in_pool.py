"""Retry and backoff in a pool. The policy alone: `test_retry.py`."""

import asyncio
import contextvars
import random

import pytest
from helpers import assert_counters_balance, echo, fail, nap, now, virtual

from aiopool import JobCancelledError, JobTimeoutError, Pool, Retry, RetryAfter, RetryBudget, current_job
from aiopool.testing import FailingCall, advance, settle

pytestmark = pytest.mark.both_isolations

ONCE = Retry(attempts=2, delay=1, jitter=0)


class Flaky:
    """Fails so many times, then returns; notes when each attempt began."""

    def __init__(self, failures, error=ValueError):
        self.failures = failures
        self.error = error
        self.starts = []
        self.raised = []

    async def __call__(self):
        self.starts.append(now())
        if len(self.starts) <= self.failures:
            self.raised.append(self.error(f"no {len(self.starts)}"))
            raise self.raised[-1]
        return "done"


@virtual
async def test_it_succeeds_in_the_end(isolation):
    """N - 1 failures and a success are n attempts, one end, at the moments of the formula."""
    flaky = Flaky(3)
    async with Pool(1, isolation=isolation, retry=Retry(attempts=4, delay=1, jitter=0)) as pool:
        job = await pool.submit(flaky)
        ends = []
        job.add_done_callback(ends.append)
        assert await job == "done"
        assert flaky.starts == [0, 1, 3, 7]
        assert job.attempt == 4
        assert ends == [job]
        numbers = pool.statistics()
        assert (numbers.succeeded, numbers.failed, numbers.retries) == (1, 0, 3)
        assert [(r.number, r.delay, r.error) for r in job.outcome().history] == [
            (n, 2.0 ** (n - 1), error) for n, error in enumerate(flaky.raised, 1)
        ]


@virtual
async def test_it_gives_up(isolation):
    """A job raises its last exception, the same object to all, with a note; the history has the others."""
    flaky = Flaky(99)
    async with Pool(1, isolation=isolation) as pool:
        job = await pool.with_options(retry=Retry(attempts=3, delay=1, jitter=0), name="fetch").submit(flaky)
        caught = []
        for _ in range(3):
            with pytest.raises(ValueError, match="no 3") as info:
                await job
            caught.append(info.value)
        assert all(error is flaky.raised[-1] for error in caught)
        assert caught[0].__notes__ == [f"attempt 3 of 3, job 'fetch' id {job.id}"]
        assert [record.error for record in job.outcome().history] == flaky.raised[:-1]
        assert job.attempt == len(flaky.starts) == 3


@pytest.mark.parametrize("error", [KeyError, asyncio.CancelledError, GeneratorExit])
def test_what_is_not_to_be_retried(error):
    """What is not listed, or means "stop", has one attempt, even with `on=BaseException`."""

    @virtual
    async def main(isolation):
        flaky = Flaky(99, error)
        on = ValueError if error is KeyError else BaseException
        async with Pool(1, isolation=isolation, retry=Retry(attempts=5, on=on, delay=0)) as pool:
            job = await pool.submit(flaky)
            with pytest.raises(JobCancelledError if error is asyncio.CancelledError else error):
                await job
            assert await pool.run(echo, 1) == 1
        assert len(flaky.starts) == 1

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_cancel_is_never_retried(isolation):
    """A cancel ends the job, running or in backoff, whatever `on` says."""
    async with Pool(1, isolation=isolation, retry=Retry(attempts=9, on=BaseException, delay=1, jitter=0)) as pool:
        job = await pool.submit(nap, 100)
        await settle()
        assert await pool.cancel(job.id)
        assert job.attempt == 1
        flaky = Flaky(99)
        job = await pool.submit(flaky)
        await advance(0.5)
        assert (job.status, job.waiting_for) == ("scheduled", "backoff")
        report = await pool.cancel(job.id)
        assert (report.was, bool(report)) == ("scheduled", True)
        await advance(100)
        assert len(flaky.starts) == 1
        assert job.attempt == 1


@virtual
async def test_backoff_holds_no_worker(isolation):
    """With size 1, another job runs at once while the first waits 30 s for its next attempt."""
    async with Pool(1, isolation=isolation, retry=Retry(attempts=2, delay=30, jitter=0)) as pool:
        slow = await pool.submit(Flaky(1))
        await settle()
        numbers = pool.statistics()
        assert (slow.status, numbers.scheduled, numbers.busy, numbers.running) == ("scheduled", 1, 0, 0)
        assert await pool.run(echo, "at once") == "at once"
        assert now() == 0
        assert await slow == "done"
        assert now() == 30


@virtual
async def test_shutdown_does_not_wait_out_a_backoff(isolation):
    """A shutdown with a time limit ends a job in backoff; its waiters are told."""
    async with Pool(1, isolation=isolation, retry=Retry(attempts=2, delay=50, jitter=0)) as pool:
        job = await pool.submit(Flaky(1))
        waiter = asyncio.create_task(job.wait())
        await settle()
        report = await pool.shutdown(timeout=2)
        assert now() == 2
        assert (report.cancelled, report.never_started) == (1, 0)
        await waiter
        with pytest.raises(JobCancelledError):
            await job


@virtual
async def test_shutdown_without_a_limit_lets_retries_happen(isolation):
    """Without a time limit the retries are part of the work that is waited for."""
    async with Pool(1, isolation=isolation, retry=ONCE) as pool:
        job = await pool.submit(Flaky(1))
        await settle()
        report = await pool.shutdown()
        assert report.clean
        assert await job == "done"


@virtual
async def test_pause_and_size_zero_hold_a_job_that_comes_due(isolation):
    """A job that comes due in a pool that is paused, or of size 0, waits in line until the pool goes on."""
    async with Pool(1, isolation=isolation, retry=ONCE) as pool:
        for hold, release in (
            (lambda: asyncio.sleep(0, pool.pause()), lambda: asyncio.sleep(0, pool.resume())),
            (lambda: asyncio.sleep(0, pool.resize(0)), lambda: asyncio.sleep(0, pool.resize(1))),
        ):
            flaky = Flaky(1)
            job = await pool.submit(flaky)
            await settle()
            await hold()
            await advance(5)
            assert job.status == "queued"
            assert len(flaky.starts) == 1
            await release()
            assert await job == "done"


@virtual
async def test_closing_by_an_exception_ends_a_backoff(isolation):
    """Leaving the block by an exception cancels the job in backoff at once."""
    with pytest.raises(KeyError):
        async with Pool(1, isolation=isolation, retry=Retry(attempts=2, delay=50, jitter=0)) as pool:
            job = await pool.submit(Flaky(1))
            await settle()
            raise KeyError
    assert now() == 0
    assert job.cancelled()


@virtual
async def test_a_hot_failing_job_starves_nobody(isolation):
    """A job that fails at once and always shares the only slot with the others."""
    hot = Flaky(10**6)
    async with Pool(1, None, isolation=isolation, on_error=lambda job, error: None) as pool:
        failing = await pool.with_options(retry=Retry(attempts=200, delay=0)).submit(hot)
        others = [await pool.submit(nap, 0.25) for _ in range(20)]
        await asyncio.gather(*(other.wait() for other in others))
        assert now() == 20 * 0.25
        assert await failing.wait(10)
        assert failing.attempt == 200


@pytest.mark.parametrize(
    ("retry", "error"),
    [
        (Retry(on=lambda error: 1 / 0), ValueError),
        (Retry(on=lambda error: "yes"), TypeError),
        (Retry(on=lambda error: float("nan")), ValueError),
        (Retry(on=lambda error: -1.0), ValueError),
        (Retry(give_up_on=lambda error: 1 / 0), ValueError),
        (Retry(backoff=lambda attempt: 1 / 0), ValueError),
        (Retry(backoff=lambda attempt: float("inf")), ValueError),
        (Retry(backoff=lambda attempt: -1), ValueError),
    ],
)
def test_a_broken_policy_fails_the_job_alone(retry, error):
    """A predicate or backoff that raises, or returns nonsense, fails the job; the worker lives on."""

    @virtual
    async def main(isolation):
        async with Pool(1, isolation=isolation) as pool:
            job = await pool.with_options(retry=retry).submit(fail, KeyError("own"))
            with pytest.raises(error, match="Retry") as info:
                await job
            assert isinstance(info.value.__context__, KeyError)
            assert await pool.run(echo, 1) == 1
            assert pool.statistics().restarts == 0

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_each_attempt_has_a_fresh_context(isolation):
    """Each attempt sees the submitter's variables, and nothing that an earlier one has set."""
    variable = contextvars.ContextVar("variable")
    seen = []

    async def flaky():
        seen.append(variable.get())
        variable.set("dirty")
        await asyncio.sleep(0)
        if len(seen) < 3:
            raise ValueError

    async with Pool(1, isolation=isolation, retry=Retry(attempts=3, delay=0)) as pool:
        variable.set("submitter's")
        job = await pool.submit(flaky)
        variable.set("later")
        await job
    assert seen == ["submitter's"] * 3


@virtual
async def test_jitter_is_seeded_and_in_its_bounds(isolation):
    """The random part of the delay comes from the pool's own generator, so a seed repeats it."""
    runs = []
    for seed in (1, 1, 2):
        flaky = Flaky(20)
        retry = Retry(attempts=21, backoff="fixed", delay=10, jitter=0.5)
        began = now()
        async with Pool(1, isolation=isolation, seed=seed) as pool:
            await pool.with_options(retry=retry).run(flaky)
        delays = [b - a for a, b in zip(flaky.starts, flaky.starts[1:], strict=False)]
        assert all(5 <= delay <= 15 for delay in delays)
        runs.append([round(start - began, 6) for start in flaky.starts])
    assert runs[0] == runs[1] != runs[2]


@virtual
async def test_no_thundering_herd(isolation):
    """Two thousand jobs that fail together are not tried again together."""
    starts = []

    async def flaky():
        if current_job().attempt == 1:
            raise ValueError
        starts.append(now())

    retry = Retry(attempts=2, delay=10, jitter=0.5)
    async with Pool(2000, None, isolation=isolation, retry=retry, seed=3) as pool:
        for _ in range(2000):
            await pool.submit(flaky)
    assert len(starts) == 2000
    crowd = max(sum(t <= start < t + 0.5 for start in starts) for t in range(5, 15))
    assert crowd < 2000 * 0.5 / 10 * 1.5


@virtual
async def test_never_earlier_than_scheduled(isolation):
    """With many workers at rest, no attempt begins before its moment, and none begins late."""
    moments = []

    async def flaky():
        me = current_job()
        if me.attempt > 1:
            moments.append((now(), failed[me] + delays[me.id, me.attempt - 1]))
        failed[me] = now()
        if me.attempt < 4:
            raise RetryAfter(delays[me.id, me.attempt])

    failed, delays, chance = {}, {}, random.Random(9)
    async with Pool(16, None, isolation=isolation, retry=Retry(attempts=4)) as pool:
        for n in range(1, 17):
            for attempt in (1, 2, 3):
                delays[n, attempt] = chance.choice([0, 0, 0.25, 0.5, 1])
        jobs = [await pool.submit(flaky) for _ in range(16)]
        await pool.join()
    for job in jobs:
        ends = sum(delays[job.id, attempt] for attempt in (1, 2, 3))
        assert job.started_at == pytest.approx(ends)
    assert len(moments) == 48
    assert all(start == pytest.approx(due) for start, due in moments)


@virtual
async def test_retry_after_is_obeyed_exactly(isolation):
    """A job that asks to be tried again in 7 s is: no jitter, no cap; its own words when no attempt is left."""
    starts = []

    async def busy():
        starts.append(now())
        raise RetryAfter(7, "try later")

    async with Pool(1, isolation=isolation, retry=Retry(attempts=3, max_delay=2)) as pool:
        with pytest.raises(RetryAfter, match="try later"):
            await pool.run(busy)
    assert starts == [0, 7, 14]


@virtual
async def test_retry_after_without_a_retry_fails(isolation):
    """Without `retry=` a job that asks for another attempt has none."""
    async with Pool(1, isolation=isolation) as pool:
        with pytest.raises(RetryAfter):
            await pool.run(fail, RetryAfter(1))


@virtual
async def test_attempts_1_is_no_retry(isolation):
    """One attempt is one attempt, and a delay of zero is a delay of zero."""
    flaky = Flaky(99)
    async with Pool(1, isolation=isolation) as pool:
        with pytest.raises(ValueError, match="no 1"):
            await pool.with_options(retry=Retry(attempts=1)).run(flaky)
        with pytest.raises(ValueError, match="no 4"):
            await pool.with_options(retry=Retry(attempts=3, delay=0)).run(flaky)
        assert now() == 0


@virtual
async def test_a_time_limit_is_an_error_like_others(isolation):
    """An attempt that timed out is retried if `on` says so; each attempt has its whole limit."""
    starts = []

    async def slow():
        starts.append(now())
        await asyncio.sleep(100)

    view = {"timeout": 2, "retry": Retry(attempts=3, delay=1, jitter=0, on=TimeoutError)}
    async with Pool(1, isolation=isolation) as pool:
        job = await pool.with_options(**view).submit(slow)
        with pytest.raises(JobTimeoutError) as info:
            await job
        assert info.value.limit == "timeout"
        assert starts == [0, 3, 7]
        assert now() == 9
        assert [type(record.error) for record in job.outcome().history] == [JobTimeoutError] * 2


@virtual
async def test_a_total_limit_ends_a_backoff(isolation):
    """The limit from submission to the end strikes in the backoff too, and ends all of it."""
    flaky = Flaky(99)
    async with Pool(1, isolation=isolation) as pool:
        view = pool.with_options(total_timeout=2, retry=Retry(attempts=9, delay=5, jitter=0))
        with pytest.raises(JobTimeoutError) as info:
            await view.run(flaky)
        assert info.value.limit == "total_timeout"
        assert now() == 2
        await advance(20)
        assert len(flaky.starts) == 1


@virtual
async def test_a_budget_stops_a_storm(isolation):
    """A hundred jobs that fail for ever, with a budget of a tenth: about ten retries, not two hundred."""
    budget = RetryBudget(ratio=0.1, min_per_second=0, within=60)
    retry = Retry(attempts=3, delay=1, jitter=0, budget=budget)
    async with Pool(10, None, isolation=isolation, retry=retry, on_error=lambda job, error: None) as pool:
        for _ in range(100):
            await pool.submit(fail)
        await pool.join()
        numbers = pool.statistics()
        assert 5 <= numbers.retries <= 10
        assert numbers.failed == 100


@virtual
async def test_the_books_are_right_in_every_attempt(isolation):
    """Seen from inside each attempt the numbers add up, and attempts of one job never overlap."""
    inside, chance = set(), random.Random(4)

    async def flaky(pool):
        me = current_job()
        assert me not in inside
        inside.add(me)
        assert_counters_balance(pool)
        await asyncio.sleep(chance.choice([0, 0.25, 0.5]))
        inside.discard(me)
        assert_counters_balance(pool)
        if chance.random() < 0.5:
            raise ValueError

    retry = Retry(attempts=4, delay=0.5)
    async with Pool(3, None, isolation=isolation, retry=retry, on_error=lambda job, error: None) as pool:
        jobs = [await pool.submit(flaky, pool) for _ in range(100)]
        await pool.join()
        assert all(1 <= job.attempt <= 4 for job in jobs)
        assert pool.statistics().retries == sum(job.attempt - 1 for job in jobs)


@virtual
async def test_a_plain_function_is_retried_in_threads(isolation):
    """Retries are the same for plain functions; the context is fresh there, too."""
    variable, seen = contextvars.ContextVar("variable", default=0), []

    def flaky():
        seen.append((current_job().attempt, variable.get()))
        variable.set(1)
        if len(seen) < 3:
            raise ValueError
        return "done"

    async with Pool(1, isolation=isolation, retry=Retry(attempts=3, delay=1, jitter=0)) as pool:
        assert await pool.run(flaky) == "done"
    assert seen == [(1, 0), (2, 0), (3, 0)]


@virtual
async def test_the_longest_time_of_retries_is_counted_from_the_submission(isolation):
    """`max_elapsed` asks how long ago the job was submitted, whatever the clock says."""
    await asyncio.sleep(1000)
    starts = []

    async def wrong():
        starts.append(now() - 1000)
        raise ValueError

    async with Pool(1, isolation=isolation, on_error=lambda job, error: None) as pool:
        retry = Retry(attempts=10, backoff="fixed", delay=2, max_delay=2, jitter=0, max_elapsed=5)
        job = await pool.with_options(retry=retry).submit(wrong)
        await job.wait()
    assert starts == [0, 2, 4]


@virtual
async def test_a_job_whose_next_attempt_cannot_be_scheduled_fails(isolation):
    """Without a timer, for lack of memory, the job fails with that: no retry is counted, and no worker crashes."""
    flaky = Flaky(1)
    async with Pool(1, isolation=isolation, retry=ONCE) as pool:
        with FailingCall("call_at", lasting=True):
            job = await pool.submit(flaky)
            with pytest.raises(MemoryError, match="made to fail") as caught:
                await job
        error = caught.value
        while error is not flaky.raised[0]:
            error = error.__context__
        assert job.outcome().history == ()
        numbers = pool.statistics()
        assert (numbers.failed, numbers.retries, numbers.restarts, numbers.scheduled) == (1, 0, 0, 0)
        assert await pool.run(flaky) == "done"
        assert_counters_balance(pool)
