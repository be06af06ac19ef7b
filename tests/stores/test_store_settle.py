"""Settle and cancel: one end for each job, written once, by whoever holds it."""

import pytest

from aiopool.stores._rows import Settlement, StoredStatus

FINAL = ["succeeded", "failed", "timed_out", "cancelled", "dead"]


@pytest.mark.parametrize("outcome", FINAL)
async def test_an_end_is_final(peer, outcome):
    """A final outcome moves the job to the history, with all that is known of it; a second one changes nothing."""
    await peer.submit("a")
    job = await peer.one()
    assert await peer.end(job, outcome=outcome, result="1", error='{"e": 1}' if outcome != "succeeded" else None)
    (end,) = await peer.store.finished(["a", "unknown"])
    row = await peer.find("a")
    assert end.id == "a"
    assert end.status is row.status is StoredStatus(outcome)
    assert end.attempt == row.attempt == 1
    assert end.finished_at == row.finished_at
    assert end.waited >= 0
    assert end.seconds >= 0
    assert row.owner is None
    if outcome == "succeeded":
        assert (end.result, row.result, end.error) == ("1", "1", None)
    else:
        assert (end.error, row.error) == ('{"e": 1}', '{"e": 1}')
    for again in FINAL:
        assert await peer.end(job, outcome=again, result="2") == [False]
    assert await peer.store.finished(["a"]) == [end]
    assert await peer.ids() == []


async def test_the_words_of_a_cancel_are_kept(peer):
    """The reason of a cancelled settlement is in the end."""
    await peer.submit("a")
    await peer.end(await peer.one(), outcome="cancelled", reason="not needed")
    assert (await peer.store.finished(["a"]))[0].reason == "not needed"


async def test_a_live_job_has_no_end(peer):
    """`finished` tells only of those that have ended."""
    await peer.submit("a", "b", "c")
    job = await peer.one()
    assert await peer.store.finished(["a", "b", "c", "d"]) == []
    await peer.end(job)
    assert [end.id for end in await peer.store.finished(["c", "b", "a"])] == ["a"]


async def test_the_times_of_an_end(peer, shift_clock):
    """`waited` counts from the submission to the last start, `seconds` the last attempt, by the store's clock."""
    await peer.submit("a")
    await shift_clock(100)
    job = await peer.one()
    assert 95 < job.age < 160
    await shift_clock(200)
    await peer.end(job)
    (end,) = await peer.store.finished(["a"])
    assert 95 < end.waited < 160
    assert 195 < end.seconds < 260
    assert abs(end.finished_at - await peer.store.now()) < 60


async def test_a_settlement_under_another_fence_changes_nothing(peer, other):
    """Only the fence of the running attempt settles a job."""
    await peer.submit("a")
    old = await peer.one()
    await peer.end(old, outcome="release")
    new = await other.one()
    assert await peer.end(old) == [False]
    assert await peer.store.settle([Settlement("a", new.fence + 1, "failed")]) == [False]
    assert await peer.status("a") is StoredStatus.RUNNING
    assert await other.end(new) == [True]


async def test_what_does_not_run_is_not_settled(peer):
    """A job that waits, one that is unknown, and one that was settled in the same batch are answered with False."""
    await peer.submit("a", "b")
    job = await peer.one()
    rows = [
        Settlement("unknown", 1, "succeeded"),
        Settlement("a", job.fence, "succeeded", result="1"),
        Settlement("b", 0, "succeeded"),
        Settlement("b", 1, "succeeded"),
        Settlement("a", job.fence, "failed", error="2"),
    ]
    assert await peer.store.settle(rows) == [False, True, False, False, False]
    assert await peer.status("a") is StoredStatus.SUCCEEDED
    assert await peer.status("b") is StoredStatus.QUEUED


async def test_settlements_sent_twice_count_once(peer):
    """A batch of ends whose answer was lost may be sent again: nothing changes, retries are not counted twice."""
    await peer.submit("a", "b")
    first, second = await peer.take()
    rows = [Settlement("a", first.fence, "succeeded"), Settlement("b", second.fence, "retry", error="1")]
    assert await peer.store.settle(rows) == [True, True]
    assert await peer.store.settle(rows) == [False, False]
    job = await peer.one()
    assert (job.id, job.attempt) == ("b", 2)
    assert await peer.store.settle(rows) == [False, False]


async def test_a_retry_waits_and_keeps_its_place(peer, shift_clock):
    """A retry starts no earlier than its delay, counts an attempt, and stands where it stood."""
    await peer.submit("a", "b")
    job = await peer.one()
    await peer.end(job, outcome="retry", delay=100.0, error='{"e": 1}')
    row = await peer.find("a")
    assert (row.status, row.error, row.owner) == (StoredStatus.SCHEDULED, '{"e": 1}', None)
    claim = await peer.store.claim(0)
    assert claim.next_in is not None
    assert 30 < claim.next_in <= 100
    await shift_clock(30)
    assert (await peer.store.claim(0)).next_in < 70.1
    await peer.submit("c")
    await shift_clock(71)
    again, second, third = await peer.take()
    assert (again.id, second.id, third.id, again.attempt) == ("a", "b", "c", 2)


async def test_a_retry_without_delay_comes_at_once(peer):
    """A retry in 0 seconds is queued, before those that were submitted later."""
    await peer.submit("a", "b")
    await peer.end(await peer.one(), outcome="retry")
    assert [(job.id, job.attempt) for job in await peer.take()] == [("a", 2), ("b", 1)]


async def test_a_release_gives_the_attempt_back(peer, other):
    """A released job goes to the head of its priority at once, as if it had not been started; others hear of it."""
    await peer.submit("a", "b")
    job = await peer.one()
    await other.hint("work")
    await peer.end(job, outcome="release")
    await other.hint("work")
    again, second = await other.take()
    assert (again.id, again.attempt, second.id) == ("a", 1, "b")
    assert again.fence > job.fence


async def test_who_submitted_hears_of_the_end(peer, other):
    """The end of a job elsewhere wakes its submitter."""
    await peer.submit("a")
    await other.end(await other.one())
    await peer.hint("finished")


async def test_a_success_after_a_retry_has_no_error(peer):
    """The error of an attempt before is not that of the job."""
    await peer.submit("a")
    await peer.end(await peer.one(), outcome="retry", error='{"e": 1}')
    await peer.end(await peer.one(), result="5")
    (end,) = await peer.store.finished(["a"])
    assert (end.status, end.result, end.error, end.attempt) == (StoredStatus.SUCCEEDED, "5", None, 2)


# -- cancel --------------------------------------------------------------------------------------------------------


async def test_a_cancelled_job_that_waits_never_starts(peer, other):
    """A job that waits is cancelled when the call returns, whoever calls; its submitter hears of it."""
    await peer.submit("a", "b", *[])
    await peer.submit("later", delay=1000.0)
    assert await other.cancel("a", "later", "nobody", reason="enough") == ["queued", "queued", "unknown"]
    await peer.hint("finished")
    (end, _) = sorted(await peer.store.finished(["a", "later"]))
    assert (end.id, end.status, end.reason, end.attempt) == ("a", StoredStatus.CANCELLED, "enough", 0)
    assert await peer.ids() == ["b"]


async def test_a_cancel_of_a_running_job_reaches_its_owner(peer, other):
    """The owner of a running job is woken, and told at each claim until it has settled the job, busy or not."""
    await peer.submit("a")
    job = await peer.one()
    assert await other.cancel("a", reason="enough") == ["running"]
    await peer.hint("cancel")
    for _ in range(2):
        assert (await peer.store.claim(0)).cancels == [("a", job.fence, "enough")]
    assert (await other.store.claim(0)).cancels == []
    assert await peer.status("a") is StoredStatus.RUNNING
    assert await peer.end(job, outcome="cancelled", reason="enough") == [True]
    assert (await peer.store.claim(0)).cancels == []
    assert (await peer.store.finished(["a"]))[0].reason == "enough"


async def test_a_cancel_in_a_pause_reaches_the_owner(peer):
    """A pause keeps no cancel back."""
    await peer.submit("a")
    job = await peer.one()
    await peer.store.set_paused(True)
    await peer.cancel("a")
    assert (await peer.store.claim(1)).cancels == [("a", job.fence, None)]


@pytest.mark.parametrize("outcome", ["retry", "release"])
async def test_a_cancelled_job_is_not_tried_again(peer, outcome):
    """A job whose cancel was asked for, and that would be tried again, is cancelled with the reason of the asking."""
    await peer.submit("a")
    job = await peer.one()
    await peer.cancel("a", reason="enough")
    assert await peer.end(job, outcome=outcome) == [True]
    (end,) = await peer.store.finished(["a"])
    assert (end.status, end.reason) == (StoredStatus.CANCELLED, "enough")
    assert await peer.ids() == []


async def test_a_job_may_end_before_its_cancel_arrives(peer):
    """A running job that ends in spite of a cancel has the end that it had."""
    await peer.submit("a")
    job = await peer.one()
    await peer.cancel("a")
    await peer.end(job, result="1")
    assert await peer.status("a") is StoredStatus.SUCCEEDED
    assert await peer.cancel("a") == ["ended"]
    assert await peer.status("a") is StoredStatus.SUCCEEDED


async def test_a_cancel_sent_twice_counts_once(peer):
    """The second cancel of a job that waited meets one that has ended; the first reason stays."""
    await peer.submit("a")
    assert await peer.cancel("a", reason="one") == ["queued"]
    assert await peer.cancel("a", reason="two") == ["ended"]
    assert (await peer.store.finished(["a"]))[0].reason == "one"


async def test_a_cancel_of_an_unknown_id_leaves_nothing(peer):
    """An id that was cancelled before it was submitted runs."""
    assert await peer.cancel("a") == ["unknown"]
    assert await peer.outcomes("a") == ["queued"]
    job = await peer.one()
    assert (await peer.store.claim(0)).cancels == []
    assert await peer.end(job) == [True]


async def test_a_cancel_of_one_attempt_is_none_of_the_next_job(peer):
    """A job that is put back after its cancel runs without it."""
    await peer.submit("a")
    job = await peer.one()
    await peer.cancel("a")
    await peer.end(job, outcome="cancelled")
    assert await peer.store.requeue(["a"], None) == 1
    job = await peer.one()
    assert (await peer.store.claim(0)).cancels == []
    assert await peer.end(job, outcome="retry") == [True]
    assert await peer.ids() == ["a"]
