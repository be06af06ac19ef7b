"""The dead, the poisoned, the parked, and what is put back."""

import json

import pytest
from fleet import jobs

from aiopool.stores._rows import StoredStatus


async def test_the_jobs_of_the_dead_go_on(fleet, peer, kill):
    """A sweep takes the jobs of a dead process and queues them in their place; crashes are counted as attempts."""
    victim = await fleet.join()
    await peer.submit("a", "b", "c")
    lost = await victim.take(2)
    await kill(victim)
    report = await peer.store.sweep([])
    assert (report.rescued, report.dead) == (2, 0)
    back = await peer.take()
    assert [(job.id, job.attempt, job.crashes) for job in back] == [("a", 2, 1), ("b", 2, 1), ("c", 1, 0)]
    assert all(new.fence > old.fence for new, old in zip(back, lost, strict=False))
    assert (await peer.store.statistics()).rescued == 2


async def test_the_living_are_left_alone(peer, other):
    """No sweep takes a job from a process that lives, nor counts anything."""
    await other.submit("a", "b")
    mine = await other.take()
    for one in (peer, other):
        assert (await one.store.sweep([]))[:5] == (0, 0, 0, 0, 0)
    assert await peer.ids() == []
    assert await other.end(*mine) == [True, True]


async def test_a_job_is_rescued_once(fleet, peer, other, kill):
    """Two that sweep after one death rescue each job once."""
    victim = await fleet.join()
    await peer.submit("a")
    assert await victim.ids() == ["a"]
    await kill(victim)
    assert (await peer.store.sweep([])).rescued + (await other.store.sweep([])).rescued == 1
    job = await peer.one()
    assert (job.attempt, job.crashes) == (2, 1)


async def test_a_late_finisher_is_fenced_off(fleet, peer, kill):
    """What a worker that was taken for dead settles changes nothing any more."""
    victim = await fleet.join()
    await peer.submit("a", "b")
    old, other = await victim.take()
    await kill(victim)
    await peer.store.sweep([])
    assert await peer.end(old, other, outcome="failed") == [False, False]  # queued again
    new = await peer.one()
    assert await peer.end(old) == [False]  # running again
    await peer.store.report_progress([(old.id, old.fence, 0.5, "old")])
    assert (await peer.find("a")).progress is None
    assert await peer.end(new, result="1") == [True]
    assert await peer.end(old, result="2") == [False]  # over
    assert (await peer.store.finished(["a"]))[0].result == "1"


async def test_a_poison_pill_is_given_up(fleet, peer, kill):
    """A job that kills its workers is dead after so many of them, with the reason; others go on."""
    await peer.submit(*jobs("pill", max_crashes=2), *jobs("good"))
    for crashes in (1, 2):
        victim = await fleet.join()
        assert await victim.ids(1) == ["pill"]
        await kill(victim)
        report = await peer.store.sweep([])
        assert (report.rescued + report.dead > 0, report.dead) == (True, crashes - 1)
    await peer.hint("finished")
    (end,) = await peer.store.finished(["pill"])
    assert (end.status, end.attempt) == (StoredStatus.DEAD, 2)
    error = json.loads(end.error)
    assert error["type"] == "JobDeadError"
    assert error["message"]
    assert await peer.ids() == ["good"]


async def test_a_cancelled_job_of_the_dead_is_cancelled(fleet, peer, kill):
    """A job whose cancel was asked for is not started again when its worker is dead."""
    victim = await fleet.join()
    await peer.submit("a")
    await victim.one()
    assert await peer.cancel("a", reason="enough") == ["running"]
    await kill(victim)
    await peer.store.sweep([])
    (end,) = await peer.store.finished(["a"])
    assert (end.status, end.reason) == (StoredStatus.CANCELLED, "enough")
    assert await peer.ids() == []


async def test_a_close_gives_back_what_is_held(fleet, peer):
    """What an incarnation still holds when it closes goes back, as from a dead one."""
    leaver = await fleet.join()
    await peer.submit("a")
    job = await leaver.one()
    await fleet.leave(leaver)
    await peer.store.sweep([])
    again = await peer.one()
    assert (again.id, again.attempt, again.crashes) == ("a", 2, 1)
    assert again.fence > job.fence


async def test_rescue_is_bounded(fleet, peer, kill):
    """Many jobs of the dead come back in steps; `more` says so until none is left."""
    victim = await fleet.join()
    ids = [f"job-{number}" for number in range(2500)]
    for start in range(0, len(ids), 1000):
        await peer.submit(*ids[start : start + 1000])
    while await victim.take(1000):
        pass
    await kill(victim)
    rescued = 0
    for _ in range(100):
        report = await peer.store.sweep([])
        rescued += report.rescued
        if not report.more:
            break
    assert rescued == len(ids)
    assert (await peer.store.statistics()).live[StoredStatus.QUEUED] == len(ids)


# -- parked ------------------------------------------------------------------------------------------------------------


async def test_a_parked_job_waits_for_its_name(peer, other):
    """A job whose name nobody here knows waits, with its attempt given back, until a sweep of one that knows it."""
    await peer.submit("a", "b", *jobs("known", name="known"))
    await peer.end(*await peer.take(2), outcome="park")
    assert await peer.status("a") is StoredStatus.PARKED
    assert await peer.ids() == ["known"]
    assert (await peer.store.sweep(["known", "unheard"])).unparked == 0
    assert (await other.store.sweep(["work"])).unparked == 2
    assert [(job.id, job.attempt) for job in await other.take()] == [("a", 1), ("b", 1)]


async def test_a_parked_job_can_be_cancelled(peer):
    """A parked job is cancelled like any that waits."""
    await peer.submit("a")
    await peer.end(await peer.one(), outcome="park")
    assert await peer.cancel("a") == ["queued"]
    assert (await peer.store.sweep(["work"])).unparked == 0
    assert await peer.ids() == []


async def test_the_time_of_a_parked_job_runs_out(peer, shift_clock):
    """The total time of a parked job is over like that of others."""
    await peer.submit("a", total_timeout=50.0)
    await peer.end(await peer.one(), outcome="park")
    await shift_clock(51)
    assert (await peer.store.sweep([])).timed_out == 1
    assert await peer.status("a") is StoredStatus.TIMED_OUT


# -- requeue -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "timed_out", "cancelled", "dead"])
async def test_an_ended_job_is_put_back(peer, other, outcome):
    """A job that has ended runs again under its id, with all of its attempts and nothing of its end."""
    await peer.submit("a")
    job = await peer.one()
    await peer.end(job, outcome=outcome, result="1", error="2", reason="3")
    assert await other.store.requeue(["a", "unknown"], None) == 1
    await peer.hint("work")
    assert await peer.store.finished(["a"]) == []
    row = await peer.find("a")
    assert (row.status, row.finished_at, row.result, row.error) == (StoredStatus.QUEUED, None, None, None)
    again = await peer.one()
    assert (again.id, again.attempt, again.crashes) == ("a", 1, 0)
    assert await peer.end(job) == [False]  # the fence of the first life is void
    assert again.fence > job.fence
    assert await peer.end(again, result="4") == [True]
    assert (await peer.store.finished(["a"]))[0].result == "4"


async def test_all_of_a_status_are_put_back(peer):
    """Without ids, those with the status are put back, and no others."""
    await peer.submit("a", "b", "c")
    a, b, c = await peer.take()
    await peer.end(a, b, outcome="failed")
    await peer.end(c)
    assert await peer.store.requeue(None, StoredStatus.FAILED) == 2
    assert sorted(await peer.ids()) == ["a", "b"]
    assert await peer.status("c") is StoredStatus.SUCCEEDED


async def test_a_live_job_is_not_put_back(peer):
    """Jobs that wait, or run, stay as they are."""
    await peer.submit("a", "b")
    job = await peer.one()
    assert await peer.store.requeue(["a", "b"], None) == 0
    assert await peer.end(job) == [True]


async def test_a_unique_that_is_taken_keeps_a_job_from_coming_back(peer):
    """A job whose `unique` a live job has stays where it is; of two that ended, one comes back."""
    await peer.submit("a", unique="u")
    await peer.end(await peer.one(), outcome="failed")
    await peer.submit("b", unique="u")
    assert await peer.store.requeue(["a"], None) == 0
    assert await peer.status("a") is StoredStatus.FAILED
    await peer.end(await peer.one(), outcome="failed")
    assert await peer.store.requeue(["a", "b"], None) == 1
    assert len(await peer.ids()) == 1


async def test_a_job_that_was_late_has_time_again(peer, shift_clock):
    """A job that is put back is not ended by the limits of its first life."""
    await peer.submit("a", total_timeout=50.0, queue_timeout=50.0)
    await shift_clock(51)
    await peer.store.sweep([])
    assert await peer.store.requeue(["a"], StoredStatus.TIMED_OUT) == 1
    await peer.store.sweep([])
    assert await peer.ids() == ["a"]


async def test_a_dead_job_that_is_put_back_has_all_of_its_workers(fleet, peer, kill):
    """The crashes of the first life do not count in the second."""
    await peer.submit("a", max_crashes=1)
    for _ in range(2):
        victim = await fleet.join()
        assert await victim.ids() == ["a"]
        await kill(victim)
        assert (await peer.store.sweep([])).dead == 1
        assert await peer.store.requeue(None, StoredStatus.DEAD) == 1
    assert (await peer.one()).crashes == 0
