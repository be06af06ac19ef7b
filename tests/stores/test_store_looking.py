"""Lists, numbers, the history, and the way to another store."""

import pytest
from fleet import Fleet, Peer, jobs
from kinds import KINDS

from aiopool.stores._rows import LimitRow, Settlement, StoredStatus


async def _pages(store, **options):
    found, cursor, rounds = [], None, 0
    while True:
        rows, cursor = await store.page(cursor=cursor, **options)
        assert len(rows) <= options.get("limit", 50)
        found += rows
        rounds += 1
        assert rounds < 100
        if cursor is None:
            return found


async def test_unknown_ids_are_left_out(peer):
    """`find` returns those that are known, each once."""
    await peer.submit("a", "b")
    await peer.end(await peer.one())
    assert sorted(row.id for row in await peer.store.find(["b", "nobody", "a"])) == ["a", "b"]


async def test_pages_show_each_live_job_once(peer):
    """All pages together have each live job once, the newest first; ended ones are not among them."""
    ids = [f"job-{number}" for number in range(25)]
    await peer.submit(*ids)
    await peer.end(await peer.one())
    rows = await _pages(peer.store, limit=10)
    assert [row.id for row in rows] == ids[:0:-1]
    assert [row.id for row in await _pages(peer.store, limit=24)] == ids[:0:-1]


async def test_pages_stay_in_step_while_jobs_come_and_go(peer):
    """What was there all the time is on exactly one page, though jobs come and end between two pages."""
    ids = [f"job-{number}" for number in range(20)]
    await peer.submit(*ids)
    first, cursor = await peer.store.page(limit=10)
    await peer.end(*await peer.take(3))
    await peer.submit("new-1", "new-2")
    second, cursor = await peer.store.page(limit=10, cursor=cursor)
    assert [row.id for row in first + second] == ids[:2:-1]
    assert cursor is None


async def test_pages_by_status_name_and_group(peer):
    """Pages show only what was asked for, ended jobs too."""
    await peer.submit(*jobs("a", "b", name="x"), *jobs("c", name="y", group="g"), *jobs("d", name="x", group="g"))
    await peer.submit("later", delay=1000.0)
    a, b = await peer.take(2)
    await peer.end(a)
    assert [row.id for row in await _pages(peer.store, name="x")] == ["d", "b"]
    assert [row.id for row in await _pages(peer.store, group="g")] == ["d", "c"]
    assert [row.id for row in await _pages(peer.store, group="g", name="x")] == ["d"]
    assert [row.id for row in await _pages(peer.store, status=StoredStatus.RUNNING)] == ["b"]
    assert [row.id for row in await _pages(peer.store, status=StoredStatus.SCHEDULED)] == ["later"]
    assert [row.id for row in await _pages(peer.store, status=StoredStatus.SUCCEEDED)] == ["a"]
    assert await _pages(peer.store, status=StoredStatus.SUCCEEDED, name="y") == []
    await peer.end(b)
    ended = await _pages(peer.store, status=StoredStatus.SUCCEEDED, limit=1)
    assert sorted(row.id for row in ended) == ["a", "b"]


async def test_the_numbers_add_up(peer, other, shift_clock):
    """Each job is counted in exactly one status; workers are those that run jobs."""
    await peer.store.set_limits([LimitRow("rule", 1, None, 1)])
    await peer.submit(*jobs("run", "held", lanes=("rule",)), *jobs("park", "end"))
    await peer.submit("later", delay=1000.0)
    taken = {job.id: job for job in await peer.take()}
    await peer.end(taken["park"], outcome="park")
    await peer.end(taken["end"])
    await peer.submit("queued")
    await shift_clock(100)
    numbers = await other.store.statistics()
    assert {status: count for status, count in numbers.live.items() if count} == {
        StoredStatus.RUNNING: 1,
        StoredStatus.LIMITED: 1,
        StoredStatus.PARKED: 1,
        StoredStatus.SCHEDULED: 1,
        StoredStatus.QUEUED: 1,
    }
    assert {status: count for status, count in numbers.ended.items() if count} == {StoredStatus.SUCCEEDED: 1}
    assert 95 < numbers.oldest < 160
    assert (numbers.paused, numbers.rescued) == (False, 0)
    workers = {worker.id: worker for worker in numbers.workers}
    assert set(workers) == {peer.id, other.id}
    assert (workers[peer.id].running, workers[other.id].running) == (1, 0)
    assert (workers[peer.id].host, workers[peer.id].pid) == ("host", 1)


async def test_one_that_only_submits_is_no_worker(fleet, peer):
    """Whoever runs no jobs is not among the workers, and hears of the ends of its jobs."""
    client = await fleet.join(runs_jobs=False)
    assert [worker.id for worker in (await client.store.statistics()).workers] == [peer.id]
    await client.submit("a")
    await peer.end(await peer.one())
    await client.hint("finished")
    await fleet.leave(client)
    assert (await peer.store.finished(["a"]))[0].status is StoredStatus.SUCCEEDED


async def test_an_empty_store_has_no_oldest(peer):
    """Without a queued job there is no oldest one."""
    assert (await peer.store.statistics()).oldest is None


# -- the history -------------------------------------------------------------------------------------------------------


async def test_the_history_is_kept_so_long(fleet, shift_clock):
    """A sweep removes what succeeded after `keep` seconds, all else after `keep_failed`; then the id may come again."""
    peer = await fleet.join(keep=100.0, keep_failed=1000.0)
    await peer.submit("a", "b")
    good, bad = await peer.take()
    await peer.end(good)
    await peer.end(bad, outcome="failed")
    assert (await peer.store.sweep([])).purged == 0
    await shift_clock(101)
    assert (await peer.store.sweep([])).purged == 1
    assert [row.id for row in await peer.store.find(["a", "b"])] == ["b"]
    await shift_clock(900)
    assert (await peer.store.sweep([])).purged == 1
    assert await peer.store.find(["a", "b"]) == []
    assert await peer.cancel("a") == ["unknown"]
    assert await peer.outcomes("a") == ["queued"]


async def test_the_history_is_removed_on_demand(peer, shift_clock):
    """`forget_history` removes what ended long enough ago, and no live job."""
    await peer.submit("a", "b", "c")
    first, second = await peer.take(2)
    await peer.end(first)
    await shift_clock(100)
    await peer.end(second, outcome="failed")
    assert await peer.store.forget_history(90) == 1
    assert sorted(row.id for row in await peer.store.find(["a", "b", "c"])) == ["b", "c"]
    assert await peer.store.forget_history(0) == 1
    assert await peer.ids() == ["c"]


async def test_nothing_is_left_after_a_long_mixed_run(fleet, kill, shift_clock):
    """After many jobs of all kinds have ended and the history is over, the store holds nothing."""
    peer = await fleet.join(keep=10.0, keep_failed=10.0)
    await peer.store.set_limits([LimitRow("rule", 2, None, 1)])
    for number in range(20):
        lanes = ("rule", f"rule\x1f{number}")
        await peer.submit(
            *jobs(f"a{number}", lanes=lanes, unique=f"u{number}", group="g"),
            *jobs(f"b{number}", delay=5.0, total_timeout=20.0),
            *jobs(f"c{number}", queue_timeout=3.0, priority=9),
            *jobs(f"d{number}", max_crashes=1),
        )
        victim = await fleet.join()
        await victim.take(2)
        await kill(victim)
        outcomes = ["succeeded", "retry", "failed", "release", "park"]
        for job, outcome in zip(await peer.take(5), outcomes, strict=False):
            await peer.end(job, outcome=outcome)
        await peer.cancel(f"a{number - 5}")
        await shift_clock(2)
        await peer.store.sweep(["work"])
    for _ in range(100):
        await peer.end(*await peer.take())
        report = await peer.store.sweep(["work"])
        await shift_clock(2)
        numbers = await peer.store.statistics()
        if not sum(numbers.live.values()) and not sum(numbers.ended.values()) and not report.more:
            break
    numbers = await peer.store.statistics()
    assert (sum(numbers.live.values()), sum(numbers.ended.values())) == (0, 0)
    assert await peer.store.owned() == []
    assert await peer.outcomes(*[f"a{number}" for number in range(20)], unique=None) == ["queued"] * 20


# -- to another store --------------------------------------------------------------------------------------------------


@pytest.fixture(params=list(KINDS))
async def target(request, tmp_path) -> Peer:
    """An incarnation of each kind, on other data."""
    chosen = KINDS[request.param]
    if (why := chosen.skip()) is not None:
        pytest.skip(why)
    folder = tmp_path / "target"
    folder.mkdir()
    async with chosen.data(folder) as maker:
        there = Fleet(maker)
        try:
            yield await there.join()
        finally:
            await there.close()


async def test_jobs_that_move_start_nowhere(peer):
    """Jobs that were exported do not start, are known as moving, and are not exported as others."""
    await peer.submit("run", "a", "b", "c", unique=None)
    await peer.one()
    first = await peer.store.export(2)
    assert [row.id for row in first] == ["a", "b"]
    assert await peer.status("a") is StoredStatus.MOVING
    assert await peer.ids() == ["c"]
    await peer.store.sweep(["work"])
    assert await peer.ids() == []
    assert (await peer.store.statistics()).live[StoredStatus.MOVING] == 2


async def test_an_interrupted_move_goes_on(peer):
    """Those that move already come first."""
    await peer.submit("a", "b", *jobs("best", priority=0))
    first = [row.id for row in await peer.store.export(1)]
    await peer.submit("first", priority=-1)
    second = [row.id for row in await peer.store.export(2)]
    assert second[0] == first[0]
    assert len(set(second)) == 2
    await peer.store.forget_moved(first)
    assert first[0] not in [row.id for row in await peer.store.export(10)]


async def test_a_job_arrives_with_all_that_it_has(peer, target):
    """Jobs move with their attempts, order, limits and moments; the rest is as if they had been submitted there."""
    await peer.submit("tried", priority=7, group="g", keys="[1]", metadata="{}", trace="[]", max_crashes=9)
    await peer.submit("z", "y", lanes=("rule",), unique=None)
    await peer.submit("x", unique="u")
    job = (await peer.take())[-1]
    assert job.id == "tried"
    await peer.end(job, outcome="retry", error="1")
    for id, fence in await peer.store.owned():
        await peer.store.settle([Settlement(id, fence, "release")])
    await peer.submit("later", delay=10_000.0)
    moved = await peer.store.export(100)
    await target.store.restore(moved)
    await peer.store.forget_moved([row.id for row in moved])
    assert await peer.store.page() == ([], None)
    assert await target.outcomes("again", unique="u") == ["same_unique"]
    await target.submit("last", priority=7)
    assert (await target.find("later")).status is StoredStatus.SCHEDULED
    got = await target.take()
    assert [got_job.id for got_job in got] == ["z", "y", "x", "tried", "last"]
    tried = got[3]
    assert (tried.attempt, tried.group, tried.keys, tried.metadata, tried.trace) == (2, "g", "[1]", "{}", "[]")
    assert tried.fence > job.fence
    assert (await target.find("tried")).max_crashes == 9
    assert (await target.find("z")).lanes == ("rule",)
    assert all(await target.end(*got))


async def test_a_job_arrives_once(peer, target):
    """A job that is here already, live or ended, is left as it is."""
    await peer.submit("a", "b", "c")
    moved = await peer.store.export(100)
    await target.store.restore(moved[:2])
    await target.end(await target.one(), result="1")
    running = await target.one()
    await target.store.restore(moved)
    assert await target.end(running, result="2") == [True]
    assert await target.ids() == ["c"]
    assert {end.id: end.result for end in await target.store.finished(["a", "b"])} == {"a": "1", "b": "2"}


async def test_only_what_moves_is_removed(peer):
    """`forget_moved` removes no job that is not moving."""
    await peer.submit("a", "b")
    await peer.store.export(1)
    await peer.store.forget_moved(["a", "b", "nobody"])
    assert [row.id for row in await peer.store.find(["a", "b"])] == ["b"]
    assert await peer.outcomes("a") == ["queued"]
