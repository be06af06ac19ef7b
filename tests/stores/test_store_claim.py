"""Claim: one owner, one fence; a pause; what a claim tells besides."""

import asyncio

import pytest

from aiopool.errors import StoreError
from aiopool.stores._rows import StoredStatus


async def test_a_claimed_job_is_running(peer, other):
    """A claimed job has an owner and a start, and nobody else gets it."""
    await peer.submit("a")
    job = await peer.one()
    row = await other.find("a")
    assert (row.status, row.owner, row.fence, row.attempt) == (StoredStatus.RUNNING, peer.id, job.fence, 1)
    assert row.started_at is not None
    assert await other.ids() == []
    assert await peer.ids() == []


async def test_no_more_than_asked_for(peer):
    """A claim gives no more than its limit, and says that there is more."""
    await peer.submit("a", "b", "c")
    claim = await peer.store.claim(2)
    assert [job.id for job in claim.jobs] == ["a", "b"]
    assert claim.more
    claim = await peer.store.claim(2)
    assert [job.id for job in claim.jobs] == ["c"]
    assert not claim.more
    assert claim.next_in is None


async def test_a_claim_of_none_takes_none(peer):
    """A limit of 0 takes nothing, and still tells the rest."""
    await peer.submit("a")
    claim = await peer.store.claim(0)
    assert (claim.jobs, claim.cancels, claim.paused) == ([], [], False)
    assert await peer.status("a") is StoredStatus.QUEUED


async def test_an_empty_store_has_nothing(peer):
    """A claim with nothing there says so, and does not wait."""
    assert await peer.store.claim(5) == ([], [], None, False, False)


async def test_many_claim_at_once(fleet, peer):
    """Each job goes to one process, however many ask at the same moment."""
    peers = [peer, *[await fleet.join() for _ in range(3)]]
    ids = [f"job-{number}" for number in range(200)]
    await peer.submit(*ids)
    got: list[str] = []

    async def work(one):
        quiet = 0
        while quiet < 3:
            mine = await one.take(7)
            got.extend(job.id for job in mine)
            quiet = 0 if mine else quiet + 1
            assert all(await one.end(*mine))

    await asyncio.gather(*(work(one) for one in peers))
    assert sorted(got) == sorted(ids)


async def test_claims_and_submits_overlap(fleet, peer):
    """Different verbs of one store overlap with each other and with those of others, and no job is lost or doubled."""
    other = await fleet.join()
    ended: list[str] = []

    async def feed(one, name):
        for number in range(10):
            assert set(await one.outcomes(*[f"{name}-{number}-{k}" for k in range(5)])) == {"queued"}

    async def work(one):
        async with asyncio.timeout(60):
            while len(ended) < 100:
                mine = await one.take(4)
                assert all(await one.end(*mine))
                ended.extend(job.id for job in mine)
                await asyncio.sleep(0)

    await asyncio.gather(feed(peer, "x"), feed(other, "y"), work(peer), work(other))
    assert len(set(ended)) == len(ended) == 100


async def test_the_fence_grows_with_each_claim(peer):
    """Each claim of a job has a fence above those before, also where the attempt was given back."""
    await peer.submit("a")
    fences = []
    for outcome in ("release", "retry", "release", "retry", "succeeded"):
        job = await peer.one()
        fences.append(job.fence)
        assert await peer.end(job, outcome=outcome) == [True]
    assert fences == sorted(set(fences))


async def test_owned_names_what_is_held(peer, other):
    """Whoever has lost the answer of a claim finds what it holds, with the fences."""
    await peer.submit("a", "b", "c")
    mine = await peer.take(2)
    assert sorted(await peer.store.owned()) == [(job.id, job.fence) for job in mine]
    assert await other.store.owned() == []
    await peer.end(mine[0])
    assert await peer.store.owned() == [("b", mine[1].fence)]


async def test_a_pause_holds_for_the_fleet(peer, other):
    """While the fleet is paused nobody gets a job, and everybody is told; afterwards all goes on."""
    await peer.submit("a", "b")
    await other.store.set_paused(True)
    claim = await peer.store.claim(5)
    assert (claim.jobs, claim.paused) == ([], True)
    assert (await peer.store.statistics()).paused
    peer.wakes.clear()
    await other.store.set_paused(False)
    await peer.hint("work")
    claim = await peer.store.claim(5)
    assert ([job.id for job in claim.jobs], claim.paused) == (["a", "b"], False)


async def test_a_pause_outlasts_a_restart(fleet, peer):
    """A pause is a fact of the store, not of who has set it."""
    witness = await fleet.join()
    await peer.store.set_paused(True)
    await fleet.leave(peer)
    assert (await (await fleet.join()).store.claim(1)).paused
    assert (await witness.store.claim(0)).paused


async def test_a_running_job_can_be_settled_in_a_pause(peer):
    """A pause holds starts only."""
    await peer.submit("a")
    job = await peer.one()
    await peer.store.set_paused(True)
    assert await peer.end(job) == [True]


async def test_progress_is_noted_under_the_fence(peer):
    """How far a job is can be seen; an old fence writes nothing."""
    await peer.submit("a")
    job = await peer.one()
    await peer.store.report_progress([("a", job.fence, 0.25, "begun"), ("nobody", 1, 0.5, "")])
    assert (await peer.find("a")).progress == (0.25, "begun")
    await peer.store.report_progress([("a", job.fence, 0.5, "half"), ("a", job.fence - 1, 0.9, "old")])
    assert (await peer.find("a")).progress == (0.5, "half")


async def test_a_closed_store_says_so(fleet, peer):
    """A verb after `close` is a `StoreError`, not a hang, and closing twice is harmless."""
    await fleet.leave(peer)
    with pytest.raises(StoreError):
        await peer.store.claim(1)
    await peer.store.close()


async def test_an_opened_store_tells_what_it_is(peer):
    """The attributes that the pool goes by are there, and the facts are words and plain values."""
    store = peer.store
    assert "://" in store.url
    assert store.durability
    assert store.poll > 0
    assert store.sweep_every > 0
    assert store.max_payload > 1000
    assert store.keep == (86400, 604800)
    assert (store.keeper() is None) == (store.lease is None)
    facts = await store.facts()
    assert all(isinstance(name, str) for name in facts)
    assert all(isinstance(text, str) for text in facts["warnings"])
    assert abs(await store.now() - (await store.now())) < 60
