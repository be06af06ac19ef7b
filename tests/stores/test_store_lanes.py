"""Limits of the fleet: never more than a rule allows, nobody held up by another lane, nobody forgotten."""

import asyncio

import pytest
from fleet import jobs

from aiopool.stores._rows import LimitRow, Settlement, StoredStatus

LANE = ("rule",)


def at_once(count, rule="rule"):
    return LimitRow(rule, count, None, 1)


def rate(per_second, burst=1, rule="rule", most=None):
    return LimitRow(rule, most, per_second, burst)


async def test_a_lane_without_a_rule_limits_nothing(peer):
    """Lanes are there before their rules, and limit nothing until then."""
    await peer.submit("a", "b", "c", lanes=("nobody", "nobody\x1fkey"))
    assert await peer.ids() == ["a", "b", "c"]


async def test_no_more_than_allowed_run_at_once(peer, other):
    """Over all processes a lane has no more running jobs than its rule allows; the others wait, in order."""
    await peer.store.set_limits([at_once(2)])
    await peer.submit("a", "b", "c", "d", lanes=LANE)
    first = await peer.take(1)
    assert await other.ids() == ["b"]
    assert await peer.ids() == []
    assert await peer.status("c") in {StoredStatus.LIMITED, StoredStatus.QUEUED}
    await peer.end(*first)
    assert await other.ids() == ["c"]
    assert await peer.ids() == []


async def test_a_full_lane_holds_up_nobody(peer):
    """Jobs of other lanes, and of none, start while a lane is full, however many wait in it."""
    await peer.store.set_limits([at_once(1)])
    await peer.submit(*[f"held-{number}" for number in range(500)], lanes=LANE, priority=1)
    await peer.submit(*jobs("free"), *jobs("elsewhere", lanes=("another",)))
    got = []
    for _ in range(20):
        claim = await peer.store.claim(10)
        got += [job.id for job in claim.jobs]
        if not claim.jobs and not claim.more:
            break
    assert got == ["held-0", "free", "elsewhere"]


@pytest.mark.parametrize("outcome", ["succeeded", "retry", "release", "park"])
async def test_a_place_is_free_again(peer, outcome):
    """Whatever ends an attempt frees its place, and the best job that is held gets it."""
    await peer.store.set_limits([at_once(1)])
    await peer.submit("a", lanes=LANE, priority=9)
    job = await peer.one()
    await peer.submit(*jobs("b", "c", lanes=LANE), *jobs("best", lanes=LANE, priority=1))
    assert await peer.ids() == []
    await peer.end(job, outcome=outcome, **({"delay": 1000.0} if outcome == "retry" else {}))
    assert await peer.ids() == ["best"]


async def test_who_is_woken_when_a_place_is_free(peer, other):
    """A place that becomes free in one process wakes the others: there is work."""
    await peer.store.set_limits([at_once(1)])
    await peer.submit("a", "b", lanes=LANE)
    job = await peer.one()
    assert await other.ids() == []
    other.wakes.clear()
    await peer.end(job)
    await other.hint("work")
    assert await other.ids() == ["b"]


async def test_each_key_has_its_own_lane(peer):
    """A rule holds for each key apart."""
    await peer.store.set_limits([at_once(1)])
    for id, key in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")):
        await peer.submit(id, lanes=(f"rule\x1f{key}",))
    taken = await peer.take()
    assert [job.id for job in taken] == ["a1", "b1"]
    await peer.end(taken[1])
    assert await peer.ids() == ["b2"]


async def test_several_lanes_are_taken_together(peer):
    """A job that finds its second lane full takes no place in its first."""
    await peer.store.set_limits([at_once(1, "one"), at_once(1, "two")])
    await peer.submit("two", lanes=("two",))
    two = await peer.one()
    await peer.submit(*jobs("both", lanes=("one", "two"), priority=1), *jobs("one", lanes=("one",)))
    assert await peer.ids() == ["one"]
    await peer.end(two)
    assert await peer.ids() == []
    (one,) = [row for row in await peer.store.owned() if row[0] == "one"]
    await peer.store.settle([Settlement(*one, "succeeded")])
    assert await peer.ids() == ["both"]


async def test_a_call_that_is_not_followed_is_passed_on(peer):
    """A job that was next for a free place and is cancelled, or held elsewhere now, leaves the place to the next."""
    await peer.store.set_limits([at_once(1, "one"), at_once(1, "two")])
    await peer.submit(*jobs("r1", lanes=("one",)), *jobs("r2", lanes=("two",)))
    one, two = await peer.take()
    await peer.submit(*jobs("x", "both", lanes=("one", "two")), *jobs("last", lanes=("one",)))
    assert await peer.ids() == []
    await peer.end(one)
    await peer.cancel("x")
    assert await peer.ids() == ["last"]
    await peer.end(two)
    assert await peer.ids() == []
    assert await peer.status("both") in {StoredStatus.LIMITED, StoredStatus.QUEUED}


async def test_a_better_job_is_not_kept_from_a_place_by_one_that_was_called(peer):
    """A job that comes to wait in a lane in which a worse one was next already goes before that one."""
    await peer.store.set_limits([at_once(1, "one"), at_once(1, "two")])
    await peer.submit(*jobs("r1", lanes=("one",)), *jobs("r2", lanes=("two",)))
    one, two = await peer.take()
    await peer.submit(*jobs("better", lanes=("two", "one"), priority=3), *jobs("worse", lanes=("one",)))
    assert await peer.ids() == []
    await peer.end(two, one)  # both are next now, each in a lane of its own
    await peer.submit(*jobs("first", lanes=("one",), priority=1), *jobs("free", priority=4))
    first, free = await peer.take(2)
    assert (first.id, free.id) == ("first", "free")
    await peer.end(first, free)
    assert await peer.ids(1) == ["better"]


async def test_a_held_job_can_be_cancelled(peer):
    """A job that a lane holds is cancelled like any that waits, and takes no place."""
    await peer.store.set_limits([at_once(1)])
    await peer.submit("a", "b", "c", lanes=LANE)
    (job,) = await peer.take()
    assert await peer.cancel("b") == ["queued"]
    await peer.end(job)
    assert await peer.ids() == ["c"]


async def test_the_time_of_a_held_job_runs_out(peer, shift_clock):
    """A job that a lane holds is ended by its queue timeout."""
    await peer.store.set_limits([at_once(1)])
    await peer.submit(*jobs("a", lanes=LANE), *jobs("b", lanes=LANE, queue_timeout=50.0), *jobs("c", lanes=LANE))
    (job,) = await peer.take()
    await shift_clock(51)
    assert (await peer.store.sweep([])).timed_out == 1
    await peer.end(job)
    assert await peer.ids() == ["c"]


async def test_limits_hold_at_once(peer, other):
    """A wider rule lets those that are held go; a narrower one counts those that run already."""
    await peer.submit("a", "b", "c", "d", "e", lanes=LANE)
    first = await peer.take(2)
    await other.store.set_limits([at_once(1)])
    assert await peer.ids() == []
    await peer.end(first[0])
    assert await peer.ids() == []
    peer.wakes.clear()
    await other.store.set_limits([at_once(3)])
    await peer.hint("work")
    assert await peer.ids() == ["c", "d"]
    await other.store.set_limits([at_once(None)])
    assert await peer.ids() == ["e"]


async def test_a_rule_that_is_not_named_stays(peer):
    """Setting one rule leaves the others as they are."""
    await peer.store.set_limits([at_once(1, "one"), at_once(1, "two")])
    await peer.store.set_limits([at_once(2, "two")])
    await peer.submit(*jobs("a", "b", lanes=("one",)), *jobs("c", "d", "e", lanes=("two",)))
    assert await peer.ids() == ["a", "c", "d"]


async def test_a_dead_owner_holds_no_place(fleet, peer, kill):
    """The places of a dead process are free when its jobs are rescued."""
    victim = await fleet.join()
    await peer.store.set_limits([at_once(1)])
    await peer.submit(*jobs("a", lanes=LANE, max_crashes=1), *jobs("b", lanes=LANE))
    assert await victim.ids() == ["a"]
    assert await peer.ids() == []
    await kill(victim)
    await peer.store.sweep([])
    assert await peer.status("a") is StoredStatus.DEAD
    assert await peer.ids() == ["b"]


async def test_a_limit_holds_while_many_claim(fleet, peer):
    """However many claim and settle at the same moment, never more than allowed run, and all come to their turn."""
    peers = [peer, *[await fleet.join() for _ in range(2)]]
    await peer.store.set_limits([at_once(3)])
    ids = [f"job-{number}" for number in range(60)]
    await peer.submit(*ids, lanes=LANE)
    running: set[str] = set()
    ended: list[str] = []

    async def work(one):
        async with asyncio.timeout(60):
            while len(ended) < len(ids):
                mine = await one.take(5)
                running.update(job.id for job in mine)
                assert len(running) <= 3
                await asyncio.sleep(0.001)
                running.difference_update(job.id for job in mine)  # before others can have the place
                assert all(await one.end(*mine))
                ended.extend(job.id for job in mine)

    await asyncio.gather(*(work(one) for one in peers))
    assert sorted(ended) == sorted(ids)


# -- rates -------------------------------------------------------------------------------------------------------------


async def test_starts_are_paced(peer, other, shift_clock):
    """Starts of a lane are spaced evenly over all processes, and a claim tells when the next one may be."""
    await peer.store.set_limits([rate(0.01)])
    await peer.submit("a", "b", "c", lanes=LANE)
    assert await peer.ids() == ["a"]
    claim = await other.store.claim(5)
    assert claim.jobs == []
    assert 30 < claim.next_in <= 100
    await shift_clock(60)
    assert await other.ids() == []
    await shift_clock(41)
    assert await other.ids() == ["b"]
    await shift_clock(60)
    assert await peer.ids() == []
    await shift_clock(41)
    assert await peer.ids() == ["c"]


async def test_a_burst_after_a_rest(peer, shift_clock):
    """As many as the burst start together after a rest, and no more than that in the time that they stand for."""
    await peer.store.set_limits([rate(0.01, burst=3)])
    await peer.submit(*[f"job-{number}" for number in range(9)], lanes=LANE)
    assert await peer.ids() == ["job-0", "job-1", "job-2"]
    assert await peer.ids() == []
    starts = 3
    await shift_clock(50)
    starts += len(await peer.ids())
    await shift_clock(200)
    starts += len(await peer.ids())
    assert starts == 3  # not more than 3 in any 300 seconds
    await shift_clock(1000)
    assert await peer.ids() == ["job-3", "job-4", "job-5"]


async def test_a_rate_counts_every_attempt(peer, shift_clock):
    """A retry is a start like any other."""
    await peer.store.set_limits([rate(0.01)])
    await peer.submit("a", lanes=LANE)
    await peer.end(await peer.one(), outcome="retry")
    assert await peer.ids() == []
    await shift_clock(101)
    assert await peer.ids() == ["a"]


async def test_a_rate_opens_for_the_best(peer, shift_clock):
    """When the rate opens, the best of those that wait starts, also one that came later; others are not held up."""
    await peer.store.set_limits([rate(0.01)])
    await peer.submit("a", "b", lanes=LANE)
    assert await peer.ids() == ["a"]
    await peer.submit(*jobs("best", lanes=LANE, priority=1), *jobs("free"))
    assert await peer.ids() == ["free"]
    await shift_clock(101)
    assert await peer.ids() == ["best"]


async def test_a_rate_and_a_number_hold_together(peer, shift_clock):
    """A rule with both holds both."""
    await peer.store.set_limits([rate(0.01, most=1)])
    await peer.submit("a", "b", "c", lanes=LANE)
    job = await peer.one()
    await shift_clock(101)
    assert await peer.ids() == []
    await peer.end(job)
    job = await peer.one()
    await peer.end(job)
    assert await peer.ids() == []
    await shift_clock(101)
    assert await peer.ids() == ["c"]


async def test_a_rate_that_is_lifted_holds_nobody(peer):
    """Whoever a rate held goes when the rule has none any more."""
    await peer.store.set_limits([rate(0.001)])
    await peer.submit("a", "b", "c", lanes=LANE)
    assert await peer.ids() == ["a"]
    assert await peer.ids() == []
    await peer.store.set_limits([at_once(None)])
    assert await peer.ids() == ["b", "c"]
