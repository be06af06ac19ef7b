"""Submission: what is accepted is kept, once, and in order."""

import pytest
from fleet import jobs

from aiopool.stores._rows import NewJob, Settlement, StoredStatus


async def test_accepted_jobs_can_be_found(peer):
    """What `submit` has answered for is there, with all that it was given."""
    job = NewJob(
        "a",
        "mail.send",
        '[["ü", "\\u0000", "🎉", "\\ud800"], {}]',
        priority=3,
        max_crashes=7,
        unique="u",
        group="g",
        keys='["k"]',
        lanes=("rule", "rule\x1fkey"),
        metadata='{"m": 1}',
        trace='{"t": 2}',
        parent="p",
    )
    assert await peer.submit(job) == [("queued", "a", peer.id)]
    row = await peer.find("a")
    assert row[:7] == ("a", "mail.send", StoredStatus.QUEUED, job.payload, 3, row.position, 0)
    assert (row.crashes, row.max_crashes, row.unique, row.group, row.keys) == (0, 7, "u", "g", '["k"]')
    assert (row.lanes, row.metadata, row.trace, row.parent) == (job.lanes, '{"m": 1}', '{"t": 2}', "p")
    assert (row.submitter, row.owner, row.fence) == (peer.id, None, 0)
    assert abs(row.created_at - await peer.store.now()) < 60


async def test_a_claimed_job_carries_what_was_submitted(peer):
    """A worker gets everything that it needs to run a job."""
    await peer.submit(NewJob("a", "f", "[1]", priority=2, group="g", keys="[1]", metadata="{}", trace="[]", parent="p"))
    job = await peer.one()
    assert (job.id, job.name, job.payload, job.priority) == ("a", "f", "[1]", 2)
    assert (job.attempt, job.crashes, job.time_left) == (1, 0, None)
    assert (job.group, job.keys, job.metadata, job.trace, job.parent) == ("g", "[1]", "{}", "[]", "p")
    assert job.fence >= 1
    assert 0 <= job.age < 60


async def test_a_big_payload_comes_back_as_it_was(peer):
    """Arguments up to the size that the store allows are kept to the last byte."""
    payload = '"' + "x" * (peer.store.max_payload - 2) + '"'
    await peer.submit("a", payload=payload)
    assert (await peer.one()).payload == payload


async def test_text_that_is_no_json_is_opaque(peer):
    """The store never looks into a payload: damaged text comes out as it went in, and others go on."""
    await peer.submit(NewJob("a", "f", "{not json"), *jobs("b"))
    first, second = await peer.take()
    assert (first.payload, second.id) == ("{not json", "b")


async def test_jobs_come_in_the_order_of_submission(peer):
    """Jobs of one priority start in the order in which they were submitted, within batches and across."""
    await peer.submit("c", "a")
    await peer.submit("b")
    assert await peer.ids() == ["c", "a", "b"]


async def test_lower_priorities_come_first(peer):
    """The priority decides before the order of submission."""
    await peer.submit(*jobs("five"), *jobs("nine", priority=9), *jobs("one", priority=1), *jobs("below", priority=-1))
    assert await peer.ids(2) == ["below", "one"]
    await peer.submit("zero", priority=0)
    assert await peer.ids() == ["zero", "five", "nine"]


async def test_order_is_kept_over_a_restart(fleet, peer):
    """A clean restart changes nothing in the order."""
    await peer.submit("c", "a", *jobs("first", priority=1), "b")
    held = await fleet.join()  # somebody is there while the other one restarts
    await fleet.leave(peer)
    again = await fleet.join()
    await again.submit("d", *jobs("second", priority=1))
    assert await again.ids() == ["first", "second", "c", "a", "b", "d"]
    assert await held.ids() == []


async def test_an_id_is_taken_once(peer, other):
    """An id that is live is not taken again; the answer names its submitter."""
    await peer.submit("a")
    assert await other.submit("a", "b") == [("same_id", "a", peer.id), ("queued", "b", other.id)]
    assert await peer.ids() == ["a", "b"]


async def test_an_id_that_has_ended_is_not_taken_again(peer, other):
    """An id in the history is not taken again."""
    await peer.submit("a")
    await peer.end(await peer.one())
    assert await other.submit("a") == [("same_id", "a", peer.id)]
    assert await peer.ids() == []


async def test_an_id_twice_in_one_batch_is_taken_once(peer):
    """The second of two rows with one id is not taken, and changes nothing of the first."""
    rows = [NewJob("a", "f", "1"), NewJob("a", "f", "2"), NewJob("b", "f", "3")]
    assert await peer.outcomes(*rows) == ["queued", "same_id", "queued"]
    assert [job.payload for job in await peer.take()] == ["1", "3"]


async def test_an_id_twice_of_which_the_first_is_not_taken(peer):
    """In a batch each job is judged after those before it: one whose `unique` is taken does not take the id."""
    await peer.submit(*jobs("holder", unique="u"))
    answers = await peer.submit(*jobs("a", unique="u"), *jobs("a"), *jobs("b"), *jobs("a"))
    assert [answer[:2] for answer in answers] == [
        ("same_unique", "holder"),
        ("queued", "a"),
        ("queued", "b"),
        ("same_id", "a"),
    ]
    assert await peer.ids() == ["holder", "a", "b"]


async def test_a_tick_is_not_used_up_by_a_job_that_is_not_taken(peer):
    """A moment of a schedule whose job is not taken, as another of the batch has its `unique`, may be sent again."""
    first = NewJob("a", "f", "[]", unique="u")
    answers = await peer.submit(first, NewJob("b", "f", "[]", unique="u", tick=("s", 5.0)))
    assert [answer[:2] for answer in answers] == [("queued", "a"), ("same_unique", "a")]
    await peer.end(await peer.one())
    assert await peer.outcomes(NewJob("c", "f", "[]", unique="u", tick=("s", 5.0))) == ["queued"]


async def test_a_batch_sent_twice_counts_once(peer):
    """A batch whose answer was lost may be sent again: nothing is there twice, and one's own are known."""
    await peer.submit("a", "b", "c")
    assert await peer.submit("a", "b", "c", "d") == [
        ("same_id", "a", peer.id),
        ("same_id", "b", peer.id),
        ("same_id", "c", peer.id),
        ("queued", "d", peer.id),
    ]
    assert await peer.ids() == ["a", "b", "c", "d"]


async def test_an_empty_batch_is_nothing(peer):
    """Nothing in, nothing out, for every verb that takes a batch."""
    assert await peer.store.submit([]) == []
    assert await peer.store.settle([]) == []
    assert await peer.store.cancel([], None) == []
    assert await peer.store.finished([]) == []
    assert await peer.store.find([]) == []
    assert await peer.store.requeue([], None) == 0
    await peer.store.report_progress([])
    await peer.store.restore([])
    await peer.store.forget_moved([])
    await peer.store.set_limits([])


async def test_a_batch_of_a_thousand(peer):
    """A thousand rows go in, out and to their ends in one call each, in order."""
    ids = [f"job-{number}" for number in range(1000)]
    assert set(await peer.outcomes(*ids)) == {"queued"}
    taken = await peer.take(1000)
    assert [job.id for job in taken] == ids
    assert all(await peer.end(*taken))
    assert len(await peer.store.finished(ids)) == 1000


async def test_what_the_store_cannot_write_through_is_refused(peer):
    """`within` takes no connection that is none, and the job is not taken."""
    with pytest.raises(TypeError):
        await peer.store.submit(jobs("a"), within=object())
    assert await peer.store.find(["a"]) == []


async def test_queues_see_nothing_of_each_other(fleet, peer):
    """Pools of another name share nothing: neither jobs, nor lists, nor numbers, nor a pause."""
    stranger = await fleet.join(queue="others")
    await peer.submit("a", unique="u")
    assert await stranger.ids() == []
    assert await stranger.store.find(["a"]) == []
    assert await stranger.store.page() == ([], None)
    assert await stranger.cancel("a") == ["unknown"]
    assert await stranger.outcomes("b", unique="u") == ["queued"]
    await stranger.store.set_paused(True)
    assert await peer.ids() == ["a"]
    assert (await stranger.store.statistics()).live[StoredStatus.QUEUED] == 1


async def test_a_job_that_may_start_at_once(peer):
    """A store may start a job for its submitter at once; if it does, the submitter owns it like a claimed one."""
    (answer,) = await peer.submit("a", start=True)
    if answer.outcome == "running":
        assert await peer.store.owned() == [("a", 1)]
        assert await peer.ids() == []
        row = await peer.find("a")
        assert (row.status, row.attempt, row.owner) == (StoredStatus.RUNNING, 1, peer.id)
        assert await peer.store.settle([Settlement("a", 1, "succeeded")]) == [True]
    else:
        assert await peer.ids() == ["a"]


async def test_nothing_starts_at_once_before_others(peer):
    """`start` never overtakes a job that is queued before, nor a pause."""
    await peer.submit("a")
    assert await peer.outcomes("b", start=True) == ["queued"]
    assert await peer.ids() == ["a", "b"]
    await peer.store.set_paused(True)
    assert await peer.outcomes("c", start=True) == ["queued"]


async def test_other_processes_hear_of_work(peer, other):
    """Whoever waits for work is woken when somebody else submits, once for a batch."""
    await peer.submit("a", "b", "c")
    await other.hint("work")
    assert await other.ids() == ["a", "b", "c"]
    assert other.wakes == []
