"""Moments and limits of time, by the clock of the store; uniqueness and ticks."""

import asyncio
import json

import pytest
from fleet import jobs

from aiopool.stores._rows import NewJob, StoredStatus


async def test_a_delayed_job_is_never_early(peer, other, shift_clock):
    """A delayed job starts after its delay, for nobody before, and then in its place in line."""
    await peer.submit(*jobs("late", delay=100.0), *jobs("now"))
    row = await peer.find("late")
    assert row.status is StoredStatus.SCHEDULED
    assert row.run_at == pytest.approx(row.created_at + 100, abs=0.01)
    assert await peer.ids() == ["now"]
    await shift_clock(40)
    claim = await other.store.claim(5)
    assert (claim.jobs, claim.more) == ([], False)
    assert 0 < claim.next_in < 60.1
    await peer.submit("after")
    await shift_clock(61)
    assert await other.ids() == ["late", "after"]


async def test_a_job_for_a_moment(peer, shift_clock):
    """`run_at` is a moment of the store's clock; one that is over means at once."""
    now = await peer.store.now()
    await peer.submit(NewJob("later", "f", "1", run_at=now + 100), NewJob("past", "f", "1", run_at=now - 100))
    assert await peer.ids() == ["past"]
    await shift_clock(101)
    assert await peer.ids() == ["later"]


async def test_jobs_of_the_far_future_are_in_nobodys_way(peer):
    """Many jobs that are scheduled hold up none that is queued."""
    await peer.submit(*[f"far-{number}" for number in range(1000)], delay=1e7, priority=0)
    await peer.submit("now", priority=9)
    claim = await peer.store.claim(5)
    assert [job.id for job in claim.jobs] == ["now"]
    assert not claim.more


async def test_all_that_are_due_come(peer, shift_clock):
    """More jobs become due at once than one claim takes: they all come, by priority as far as they are queued."""
    ids = [f"job-{number}" for number in range(1500)]
    await peer.submit(*ids[:750], delay=10.0)
    await peer.submit(*ids[750:], delay=10.0)
    await shift_clock(11)
    got = []
    for _ in range(60):
        claim = await peer.store.claim(100)
        got += [job.id for job in claim.jobs]
        if not claim.jobs and not claim.more:
            break
    assert sorted(got) == sorted(ids)


async def test_a_queue_timeout_ends_a_job_that_waits(peer, other, shift_clock):
    """A job that has waited too long never starts; a sweep ends it, and its submitter hears of it."""
    await peer.submit("a", queue_timeout=50.0)
    await peer.submit("b", queue_timeout=500.0)
    await shift_clock(51)
    report = await other.store.sweep([])
    assert report.timed_out == 1
    await peer.hint("finished")
    (end,) = await peer.store.finished(["a"])
    assert end.status is StoredStatus.TIMED_OUT
    error = json.loads(end.error)
    assert (error["type"], error["limit"]) == ("JobTimeoutError", "queue_timeout")
    assert await peer.ids() == ["b"]


async def test_a_job_whose_time_is_over_is_never_claimed(peer, shift_clock):
    """A claim does not give what a sweep has not ended yet."""
    await peer.submit(*jobs("a", queue_timeout=50.0), *jobs("b", total_timeout=50.0), *jobs("c"))
    await shift_clock(51)
    assert await peer.ids() == ["c"]
    await peer.store.sweep([])
    assert await peer.status("a") is StoredStatus.TIMED_OUT
    assert await peer.status("b") is StoredStatus.TIMED_OUT


async def test_a_queue_timeout_counts_from_the_moment(peer, shift_clock):
    """The time in the queue begins when a delayed job is queued."""
    await peer.submit("a", "b", delay=100.0, queue_timeout=50.0)
    await shift_clock(110)
    await peer.store.sweep([])
    assert await peer.ids(1) == ["a"]
    await shift_clock(45)
    await peer.store.sweep([])
    assert await peer.ids() == []
    assert await peer.status("b") is StoredStatus.TIMED_OUT


async def test_a_queue_timeout_is_for_the_first_attempt(peer, shift_clock):
    """A retry may wait longer than the queue timeout."""
    await peer.submit("a", queue_timeout=50.0)
    await peer.end(await peer.one(), outcome="retry", delay=100.0)
    await shift_clock(101)
    assert (await peer.store.sweep([])).timed_out == 0
    assert await peer.ids() == ["a"]


async def test_a_total_timeout_ends_whatever_waits(peer, shift_clock):
    """The total time is over for those that are scheduled, delayed or tried again, too."""
    await peer.submit(*jobs("retried", total_timeout=50.0))
    await peer.end(await peer.one(), outcome="retry", delay=1000.0)
    await peer.submit(*jobs("delayed", total_timeout=50.0, delay=1000.0))
    await shift_clock(51)
    assert (await peer.store.sweep([])).timed_out == 2
    for id in ("retried", "delayed"):
        row = await peer.find(id)
        assert row.status is StoredStatus.TIMED_OUT
        assert json.loads(row.error)["limit"] == "total_timeout"


async def test_the_worker_ends_running_jobs(peer, shift_clock):
    """A running job is told how much time it has; no sweep ends it."""
    await peer.submit("a", total_timeout=50.0)
    await shift_clock(20)
    job = await peer.one()
    assert 0 < job.time_left < 30.1
    await shift_clock(100)
    assert (await peer.store.sweep([])).timed_out == 0
    assert await peer.end(job, outcome="timed_out") == [True]


async def test_a_clock_that_goes_back_doubles_nothing(peer, other, shift_clock):
    """When the clock is set back an hour, running jobs keep their owner, queued ones can be claimed, none is early."""
    await peer.submit("a", "b", *jobs("later", delay=100.0))
    job = await peer.one()
    await shift_clock(-3600)
    assert (await other.store.sweep([])).rescued == 0
    assert await other.ids() == ["b"]
    assert await peer.end(job) == [True]
    await peer.submit("c")
    assert await peer.ids() == ["c"]
    await shift_clock(3701)
    assert await peer.ids() == ["later"]


async def test_a_clock_that_leaps_doubles_nothing(peer, other, shift_clock):
    """When the clock is set an hour ahead, running jobs keep their owner."""
    await peer.submit("a")
    job = await peer.one()
    await shift_clock(3600)
    assert (await other.store.sweep([])).rescued == 0
    assert await other.ids() == []
    assert await peer.end(job) == [True]


# -- unique ------------------------------------------------------------------------------------------------------------


async def test_one_live_job_has_a_unique(peer, other):
    """While a job lives, waiting or running, no other one is taken with its `unique`; the answer names it."""
    await peer.submit("a", unique="u")
    assert await other.submit("b", unique="u") == [("same_unique", "a", peer.id)]
    job = await peer.one()
    assert await other.submit("b", unique="u") == [("same_unique", "a", peer.id)]
    await peer.end(job, outcome="retry", delay=1000.0)
    assert await other.submit("b", unique="u") == [("same_unique", "a", peer.id)]
    assert await other.store.find(["b"]) == []


@pytest.mark.parametrize("way", ["succeeded", "failed", "cancelled", "cancel"])
async def test_a_unique_is_free_after_the_end(peer, way):
    """With the end of a job its `unique` is free, however it ended."""
    await peer.submit("a", unique="u")
    if way == "cancel":
        await peer.cancel("a")
    else:
        await peer.end(await peer.one(), outcome=way)
    assert await peer.outcomes("b", unique="u") == ["queued"]


async def test_a_unique_within_a_batch(peer):
    """The first of a batch has it; the others of the batch are as they would be alone."""
    rows = [*jobs("x"), *jobs("a", "b", unique="u"), *jobs("c", unique="v"), *jobs("d", unique="u"), *jobs("e")]
    answers = await peer.submit(*rows)
    assert [answer.outcome for answer in answers] == [
        "queued",
        "queued",
        "same_unique",
        "queued",
        "same_unique",
        "queued",
    ]
    assert [answer.id for answer in answers] == ["x", "a", "a", "c", "a", "e"]
    assert await peer.ids() == ["x", "a", "c", "e"]
    assert [answer.outcome for answer in await peer.submit(*rows[:2])] == ["same_id", "same_id"]


async def test_one_unique_from_many(fleet, peer):
    """Of many that submit the same at one moment, one is taken."""
    peers = [peer, *[await fleet.join() for _ in range(3)]]
    answers = await asyncio.gather(*(one.submit(f"{one.id}", unique="u") for one in peers))
    outcomes = [answer.outcome for (answer,) in answers]
    assert sorted(outcomes) == ["queued", "same_unique", "same_unique", "same_unique"]
    (winner,) = await peer.ids()
    assert {answer.id for (answer,) in answers} == {winner}


# -- ticks -------------------------------------------------------------------------------------------------------------


async def test_a_tick_is_taken_once(peer, other):
    """Of all that submit a moment of a schedule, one is taken; only later moments are afterwards, after its end too."""
    assert await peer.outcomes("a", tick=("s", 100.0)) == ["queued"]
    assert await other.outcomes("b", tick=("s", 100.0)) == ["tick_over"]
    assert await other.outcomes("c", tick=("s", 99.5)) == ["tick_over"]
    assert await other.outcomes("d", tick=("t", 99.5)) == ["queued"]
    await peer.end(*await peer.take())
    assert await peer.store.forget_history(0) == 2
    assert await peer.outcomes("e", tick=("s", 100.0)) == ["tick_over"]
    assert await other.outcomes("f", tick=("s", 100.5)) == ["queued"]
    assert await peer.store.find(["b", "c", "e"]) == []


async def test_a_tick_sent_twice_is_known(peer):
    """A tick whose answer was lost is sent again: the job is there, with its submitter."""
    await peer.submit("a", tick=("s", 100.0))
    assert await peer.submit("a", tick=("s", 100.0)) == [("same_id", "a", peer.id)]


async def test_ticks_in_one_batch(peer):
    """Several moments of one schedule in a batch are taken in their order."""
    rows = [NewJob(id, "f", "1", tick=("s", moment)) for id, moment in (("a", 1.0), ("b", 2.0), ("c", 2.0), ("d", 1.5))]
    assert await peer.outcomes(*rows) == ["queued", "queued", "tick_over", "tick_over"]
    assert await peer.ids() == ["a", "b"]


async def test_schedules_are_listed_with_their_last_moments(peer, other):
    """Each schedule that has had a moment is there once, for every incarnation, those of the latest moments first."""
    assert await peer.store.schedules() == []
    odd = 'f every 5 s {"a":"[\u00fc \u202e \'x\'"}'
    await peer.outcomes("a", tick=("s", 100.25))
    await other.outcomes("b", tick=(odd, 300.0))
    await peer.outcomes("c", tick=("t", 200.0))
    await other.outcomes("d", tick=("s", 250.125))
    await peer.outcomes("e", tick=("s", 250.0))  # not taken
    found = await peer.store.schedules()
    assert found == await other.store.schedules()
    assert found == [(odd, 300.0), ("s", 250.125), ("t", 200.0)]
    assert await peer.store.schedules(1) == [(odd, 300.0)]
