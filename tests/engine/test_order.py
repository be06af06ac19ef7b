"""The order you set is the order they start."""

import asyncio
import itertools
import random
from decimal import Decimal

import pytest
from helpers import assert_counters_balance, echo, fail, nap, now, virtual

from aiopool import JobCancelledError, Pool, Priority, Retry, job
from aiopool.testing import advance, settle


class Log(list):
    """Jobs that note when they start."""

    async def start(self, name, seconds=0.0):
        self.append(name)
        await asyncio.sleep(seconds)


async def held(pool):
    """Take the slots of a pool for a second, so that whatever is submitted next has to wait in line."""
    for _ in range(pool.size):
        await pool.submit(nap, 1)
    await settle()


@virtual
async def test_priority_first_then_submission(isolation):
    """The best priority starts first; among equals, the first submitted."""
    log = Log()
    async with Pool(1, isolation=isolation) as pool:
        await held(pool)
        for name, priority in zip("abcdefgh", [5, 8, 1, 5, 3, 1, 8, 3], strict=True):
            await pool.with_options(priority=priority).submit(log.start, name)
    assert "".join(log) == "cfehadbg"


@virtual
async def test_names_and_numbers_mix(isolation):
    """`Priority` and any int stand in one line, the negative ones in front."""
    log = Log()
    async with Pool(1, isolation=isolation) as pool:
        await held(pool)
        for priority in (Priority.LOW, 7, Priority.HIGH, -2, 10**30, Priority.NORMAL, 4):
            view = pool.with_options(priority=priority)
            assert (await view.submit(log.start, int(priority))).priority == priority
    assert log == sorted(log)
    assert log[0] == -2


@pytest.mark.parametrize("priority", [1.5, float("nan"), "3", None, True, Decimal(1), 1j])
def test_what_is_no_int_is_refused_where_it_is_written(priority):
    """Only ints have a total order that everybody knows; anything else is refused at the call."""
    pool = Pool()
    for write in (pool.with_options, lambda priority: job(priority=priority), lambda priority: Pool(priority=priority)):
        with pytest.raises(TypeError, match="priority"):
            write(priority=priority)


@virtual
async def test_fifo_through_a_storm_of_cancels(isolation):
    """Equal priorities start in the order of submission, with a third of them cancelled on the way."""
    log, chance = Log(), random.Random(1)
    async with Pool(3, None, isolation=isolation) as pool:
        jobs = [await pool.submit(log.start, n, chance.choice([0, 0, 0.25])) for n in range(300)]
        for victim in chance.sample(jobs, 100):
            victim.cancel()
            if chance.random() < 0.2:
                await asyncio.sleep(0.25)
    assert log == sorted(log)
    assert len(log) >= 190


@virtual
async def test_a_freed_slot_takes_the_best(isolation):
    """Each time a slot is free, the best entry of a model heap starts."""
    chance = random.Random(2)
    waiting, errors = {}, []

    async def run(key):
        if key != min(waiting):
            errors.append((key, min(waiting)))
        del waiting[key]
        await asyncio.sleep(chance.choice([0, 0.25, 1]))

    async with Pool(2, None, isolation=isolation) as pool:
        await held(pool)
        # Off the beat of the jobs: on 3.11 a job begins one turn after it was chosen, and nobody must come in between.
        await asyncio.sleep(0.125)
        for n in range(200):
            key = (chance.randrange(4), n)
            waiting[key] = None
            await pool.with_options(priority=key[0]).submit(run, key)
            if chance.random() < 0.3:
                await asyncio.sleep(chance.choice([0.25, 0.5]))
    assert not waiting
    assert not errors


@virtual
async def test_a_retried_job_keeps_its_place(isolation):
    """A job that comes back from its backoff stands where its age puts it, not at the end of the line."""
    log = Log()

    async def flaky():
        log.append("flaky")
        if log.count("flaky") == 1:
            raise ValueError

    async with Pool(1, isolation=isolation) as pool:
        await pool.with_options(retry=Retry(delay=0.5, jitter=0)).submit(flaky)
        for name in "abc":
            await pool.submit(log.start, name, 1)
    assert log == ["flaky", "a", "flaky", "b", "c"]


@virtual
async def test_a_delayed_job_does_not_hold_up_the_line(isolation):
    """A delayed job enters at its moment, and then goes before those that were submitted after it."""
    log = Log()
    async with Pool(1, isolation=isolation) as pool:
        late = await pool.with_options(delay=1.5).submit(log.start, "late")
        for name in "abc":
            await pool.submit(log.start, name, 1)
        assert (late.status, late.waiting_for) == ("scheduled", "delay")
    assert log == ["a", "b", "late", "c"]


@virtual
async def test_reprioritize_both_ways(isolation):
    """A waiting job can be moved up and down; among its new equals it stands by its age."""
    log = Log()
    async with Pool(1, isolation=isolation) as pool:
        await held(pool)
        for name in "abcde":
            await pool.with_options(id=name).submit(log.start, name)
        assert pool.reprioritize("d", 1)
        assert pool.reprioritize("a", 9)
        assert pool.reprioritize("b", 1)
        assert pool.get_job("a").priority == 9
    assert "".join(log) == "bdcea"


@virtual
async def test_reprioritize_what_does_not_wait():
    """A running, finished or unknown job has no place in line; a wrong priority is an error all the same."""
    async with Pool(1) as pool:
        running = await pool.with_options(id="running").submit(nap, 1)
        await settle()
        assert not pool.reprioritize("running", 1)
        assert not pool.reprioritize("nobody", 1)
        assert running.priority == 5
        with pytest.raises(TypeError, match="priority"):
            pool.reprioritize("nobody", "high")


@virtual
async def test_reprioritize_a_job_in_backoff(isolation):
    """A job in backoff takes its new priority along into the line."""
    log = Log()

    async def flaky():
        log.append("flaky")
        if log.count("flaky") == 1:
            raise ValueError

    async with Pool(1, isolation=isolation) as pool:
        await pool.with_options(id="it", retry=Retry(delay=0.5, jitter=0)).submit(flaky)
        await settle()
        for name in "ab":
            await pool.submit(log.start, name, 1)
        assert pool.reprioritize("it", 9)
    assert log == ["flaky", "a", "b", "flaky"]


@virtual
async def test_reprioritize_a_job_whose_submitter_waits_for_room():
    """It is admitted in its turn, and takes its new priority along into the line."""
    log = Log()
    async with Pool(1, 2) as pool:
        await held(pool)
        for name in "ab":
            await pool.submit(log.start, name)
        late = asyncio.create_task(pool.with_options(id="late").submit(log.start, "late"))
        await settle()
        assert pool.get_job("late").waiting_for == "admission"
        assert pool.reprioritize("late", 1)
        assert (pool.get_job("late").priority, pool.statistics().queued) == (1, 2)
        await late
    assert log == ["a", "late", "b"]


@virtual
async def test_reprioritize_a_job_that_was_admitted_and_has_not_entered():
    """Between its admission and the next step of its submitter it counts as queued, and can be moved."""
    log = Log()
    async with Pool(1, 2) as pool:
        await held(pool)
        for name in "ab":
            await pool.submit(log.start, name)
        late = asyncio.create_task(pool.with_options(id="late").submit(log.start, "late"))
        await settle()
        pool.resize(2)  # there is room now, and the submitter has not run
        job = pool.get_job("late")
        assert (job.waiting_for, pool.statistics().waiting) == ("slot", 0)
        pool.resize(1)
        assert pool.reprioritize("late", 1)
        await late
    assert log == ["late", "a", "b"]


@virtual
async def test_reprioritize_a_delayed_job():
    """It is counted once, and takes its new priority along into the line."""
    log = Log()
    async with Pool(1) as pool:
        await pool.with_options(id="it", delay=1).submit(log.start, "it")
        await pool.submit(nap, 2)
        await settle()
        await pool.submit(log.start, "other")
        assert pool.reprioritize("it", 1)
        assert (pool.statistics().queued, pool.statistics().scheduled) == (1, 1)
    assert log == ["it", "other"]


@virtual
async def test_reprioritize_again_and_again():
    """However often a job is moved, it is in line once, and starts once."""
    log = Log()
    async with Pool(1) as pool:
        await held(pool)
        for name in "abc":
            await pool.with_options(id=name).submit(log.start, name)
        for priority in (9, 1, 5, 5, 9, 2):
            assert pool.reprioritize("b", priority)
            assert pool.statistics().queued == 3
    assert log == ["b", "a", "c"]


@pytest.mark.parametrize("waits", ["delay", "backoff"])
@virtual
async def test_only_waiting_in_line_weighs(isolation, waits):
    """With aging, a job that comes after its delay or its backoff is not older than one that waited in line."""
    log = Log()

    async def late():
        log.append("late")
        if waits == "backoff" and log.count("late") == 1:
            raise ValueError

    options = {"delay": 50} if waits == "delay" else {"retry": Retry(delay=50, jitter=0)}
    async with Pool(1, isolation=isolation, aging=1.0) as pool:
        await pool.with_options(priority=8, **options).submit(late)
        await asyncio.sleep(49.5)
        await pool.submit(nap, 2)
        await pool.with_options(priority=5).submit(log.start, "high")
    assert log[-2:] == ["high", "late"]


@virtual
async def test_a_stream_of_high_priorities_starves_the_low_unless_aging_is_set(isolation):
    """Without aging a low priority waits as long as higher ones come; with it, no longer than the gap is worth."""
    for aging, starved in ((None, True), (2.0, False)):
        started = []

        async def low(started=started):
            started.append(now())

        async with Pool(1, None, isolation=isolation, aging=aging) as pool:
            await held(pool)
            began = now()
            await pool.with_options(priority=Priority.BACKGROUND).submit(low)
            high = pool.with_options(priority=Priority.NORMAL)
            for _ in range(60):
                await high.submit(nap, 0.5)
                await asyncio.sleep(0.5)
            assert (not started) == starved
            await pool.join()
        if not starved:
            # Five steps of 2 s each, and the job that runs at that moment.
            assert started[0] - began <= 10 + 2


@virtual
async def test_blocked_submitters_get_in_first_come_first_served(isolation):
    """Whoever waits for room first gets in first, whatever his priority; in the line, priority rules."""
    log = Log()
    async with Pool(1, 1, isolation=isolation) as pool:
        await held(pool)
        await pool.submit(log.start, "queued", 1)
        waiting = []
        for name, priority in (("low", 8), ("high", 1), ("normal", 5)):
            waiting.append(asyncio.create_task(pool.with_options(priority=priority).submit(log.start, name, 1)))
        await settle()
        assert pool.statistics().waiting == 3
        await asyncio.gather(*waiting)
    assert log == ["queued", "low", "high", "normal"]


@virtual
async def test_overtaking_is_for_the_better_only(isolation):
    """Submits after a thousand cancelled ones start in their own order, at once."""
    log = Log()
    async with Pool(1, 1000, isolation=isolation) as pool:
        await held(pool)
        for old in [await pool.submit(log.start, "old") for _ in range(1000)]:
            assert old.cancel()
        for n in range(1000):
            pool.submit_nowait(log.start, n)
    assert log == list(range(1000))


@virtual
async def test_the_line_moves_at_once(isolation):
    """The priority path has no tick: a thousand jobs of mixed priority take no time of their own."""
    chance = random.Random(5)
    async with Pool(4, None, isolation=isolation) as pool:
        began = now()
        for _ in range(1000):
            await pool.with_options(priority=chance.randrange(10)).submit(echo)
        await pool.join()
        assert now() == began
        assert pool.statistics().succeeded == 1000


@virtual
async def test_pause_and_resume_keep_the_order(isolation):
    """A pause of the pool changes nothing in the order."""
    log = Log()
    async with Pool(2, isolation=isolation) as pool:
        async with pool.paused():
            for n, priority in enumerate([5, 5, 1, 5, 1]):
                await pool.with_options(priority=priority).submit(log.start, n)
            await advance(5)
            assert log == []
            assert {waiting.waiting_for for waiting in pool.jobs()} == {"pool paused"}
    assert log == [2, 4, 0, 1, 3]


@virtual
async def test_a_paused_group_steps_aside(isolation):
    """Jobs of a paused group hold no worker, and go back to their own places when it goes on."""
    log = Log()
    async with Pool(1, isolation=isolation) as pool:
        await held(pool)
        mail = pool.with_options(group="mail")
        pool.pause(group="mail")
        for n in range(4):
            await (mail if n % 2 == 0 else pool).submit(log.start, n, 1)
        await advance(1.5)
        assert log == [1]
        assert [waiting.waiting_for for waiting in pool.jobs("queued")] == ["group paused", "group paused", "slot"]
        pool.resume(group="mail")
    assert log == [1, 0, 2, 3]


@virtual
async def test_a_long_line_of_a_paused_group_steps_aside(isolation):
    """However many of them stand before it, a job of nobody's starts; some are looked at in each turn of the loop."""
    log = Log()
    async with Pool(1, isolation=isolation) as pool:
        pool.pause(group="mail")
        mail = pool.with_options(group="mail")
        for _ in range(200):
            await mail.submit(log.start, "mail")
        await pool.submit(log.start, "other")
        await settle()
        assert log == ["other"]
        assert pool.statistics().queued == 200
        assert await pool.cancel_all() == 200
        assert_counters_balance(pool)


@virtual
async def test_a_job_of_a_paused_group_can_be_cancelled_and_moved(isolation):
    """While it is parked a job can be cancelled, and given another priority."""
    log = Log()
    async with Pool(1, isolation=isolation) as pool:
        pool.pause(group="mail")
        mail = pool.with_options(group="mail")
        jobs = [await mail.submit(log.start, n) for n in range(4)]
        await settle()
        assert pool.statistics().queued == 4
        assert jobs[1].cancel()
        with pytest.raises(JobCancelledError):
            await jobs[1]
        assert pool.reprioritize(jobs[3].id, 1)
        assert pool.statistics().queued == 3
        pool.resume(group="mail")
    assert log == [3, 0, 2]


@virtual
async def test_many_workers_start_in_order(isolation):
    """With many free workers the starts of one turn are still in the order of the line."""
    log = Log()
    async with Pool(50, None, isolation=isolation) as pool:
        pool.pause()
        for n in range(200):
            await pool.with_options(priority=n % 3).submit(log.start, n, 0.25)
        pool.resume()
    assert log == sorted(range(200), key=lambda n: (n % 3, n))


@virtual
async def test_failures_do_not_upset_the_order(isolation):
    """Jobs that fail leave the order of the others as it is."""
    log = Log()
    async with Pool(1, None, isolation=isolation, on_error=lambda job, error: None) as pool:
        for n in range(50):
            await pool.submit(fail)
            await pool.submit(log.start, n)
    assert log == list(range(50))


@virtual
async def test_numbers_are_unique_and_rise():
    """Every job has a number of its own, also those from threads, and it rises with submission."""
    async with Pool(2, None) as pool:
        jobs = [await pool.submit(echo) for _ in range(100)]
        assert all(a.id < b.id for a, b in itertools.pairwise(jobs))
