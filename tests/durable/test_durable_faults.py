"""Answers of the store that get lost, and a store that cannot be reached for a while."""

import asyncio
import contextlib
import threading
import time

import pytest

from aiopool import Handlers, Pool, PoolClosedError
from aiopool.errors import StoreUnavailableError
from aiopool.stores import StoredStatus
from aiopool.testing import wait_until

handlers = Handlers()
calls = []


@pytest.fixture(autouse=True)
def clean():
    calls.clear()


@handlers.register("note")
async def note(text: str) -> str:
    calls.append(text)
    return text


def lose_answers(store, verb, *, times=1, before=False):
    """Let some calls of a verb be carried out, and their answers be lost; `before`: they are not carried out."""
    real = getattr(store, verb)
    left = times

    async def lossy(*args, **kwargs):
        nonlocal left
        if left and (verb != "claim" or args[0]):
            left -= 1
            if not before:
                await real(*args, **kwargs)
            raise StoreUnavailableError("the connection broke")
        return await real(*args, **kwargs)

    setattr(store, verb, lossy)
    return lambda: left == 0


async def test_a_claim_whose_answer_is_lost_loses_no_job(new_pool):
    """What the store has given, and nobody has got, goes back to the queue; no attempt is counted."""
    async with new_pool(handlers, role="producer") as producer:
        jobs = [await producer.submit(note, str(i)) for i in range(3)]
        worker = new_pool(handlers, role="worker")
        lost = lose_answers(worker.fleet.store, "claim")
        async with worker:
            assert [await job for job in jobs] == ["0", "1", "2"]
        assert lost()
        assert sorted(calls) == ["0", "1", "2"]
        for job in jobs:
            row = await producer.fleet.find(job.id)
            assert (row.attempt, row.crashes, row.status) == (1, 0, StoredStatus.SUCCEEDED)


@pytest.mark.parametrize("before", [False, True])
async def test_a_submission_whose_answer_is_lost_is_sent_again(new_pool, before):
    """With the same id: it is there once, whether it was written the first time or not."""
    pool = new_pool(handlers)
    lost = lose_answers(pool.fleet.store, "submit", before=before)
    async with pool:
        job = await pool.with_options(id="a").submit(note, "a")
        assert await job == "a"
        assert lost()
        assert calls == ["a"]
        await pool.run(note, "b")


@pytest.mark.parametrize("before", [False, True])
async def test_an_end_whose_answer_is_lost_is_sent_again(new_pool, before):
    """The job has run once, and whoever awaits it hears of its end."""
    pool = new_pool(handlers)
    lost = lose_answers(pool.fleet.store, "settle", before=before)
    async with pool:
        assert await pool.run(note, "a") == "a"
        assert lost()
    assert calls == ["a"]


async def test_a_submission_that_cannot_be_written_raises(new_pool, monkeypatch):
    """After its patience, with the store's own error; a later one goes through."""
    monkeypatch.setattr("aiopool._durable.submissions.SUBMIT_PATIENCE", 0.2)
    pool = new_pool(handlers)
    async with pool:
        lose_answers(pool.fleet.store, "submit", times=1000, before=True)
        with pytest.raises(StoreUnavailableError, match="the connection broke"):
            await pool.submit(note, "never")
        await wait_until(lambda: not pool._state.durability.submissions.flusher.busy)
        pool.fleet.store.__dict__.pop("submit")
        assert await pool.run(note, "later") == "later"
    assert calls == ["later"]


async def test_a_caller_that_is_cancelled_in_submit_may_have_submitted(new_pool):
    """The job is there, or not; nothing else happens to it, and other submissions of its batch go through."""
    async with new_pool(handlers, role="producer") as pool:
        first = asyncio.create_task(pool.with_options(id="first").submit(note, "first"))
        second = asyncio.create_task(pool.with_options(id="second").submit(note, "second"))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).id == "second"
        assert (await pool.fleet.find("second")).status is StoredStatus.QUEUED


async def test_big_rows_go_in_several_writes(new_pool):
    """A write has a bounded number of bytes, however big the arguments and results are."""
    pool = new_pool(handlers)
    sizes = []
    real = pool.fleet.store.submit

    async def measured(jobs, **options):
        sizes.append(sum(len(job.payload) for job in jobs))
        return await real(jobs, **options)

    pool.fleet.store.submit = measured
    async with pool:
        jobs = await asyncio.gather(*[pool.submit(note, "x" * 900_000) for _ in range(25)])
        assert {len(await job) for job in jobs} == {900_000}
    assert max(sizes) < 10_000_000
    assert len(sizes) >= 3


async def test_an_opening_that_is_cancelled_leaves_nothing_open(new_pool):
    """The store is closed again, and the pool can be opened anew."""
    pool = new_pool(handlers)
    store, reached = pool.fleet.store, asyncio.Event()

    async def stuck(names):
        reached.set()
        await asyncio.Event().wait()

    store.sweep = stuck

    async def opened():
        async with pool:
            raise AssertionError("it cannot be opened")

    task = asyncio.create_task(opened())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.status == "closed"
    del store.sweep
    async with pool:
        assert await pool.run(note, "a") == "a"


async def test_a_store_that_hangs_does_not_hold_up_the_end(new_pool, monkeypatch):
    """The pool closes in the time that it has for that; whoever waits is released, and the job runs again."""
    monkeypatch.setattr("aiopool._durable.client.CLOSE_SECONDS", 0.1)
    pool = new_pool(handlers)
    store, hung = pool.fleet.store, asyncio.Event()
    real = store.settle

    async def settle(ends):
        hung.set()
        await asyncio.Event().wait()

    async with pool:
        store.settle = settle
        job = await pool.submit(note, "a")
        await hung.wait()
    assert pool.status == "closed"
    with pytest.raises(PoolClosedError, match="had not ended"):
        await job
    store.settle = real
    async with new_pool(handlers) as other:
        assert await (await other.fleet.job(job.id)) == "a"
    assert calls == ["a", "a"]


async def test_join_ends_with_the_pool(new_pool):
    """It says that there are jobs left."""
    async with new_pool(handlers, role="producer") as pool:
        await pool.submit(note, "a")
        joining = asyncio.create_task(pool.join())
        await asyncio.sleep(0)
    with pytest.raises(PoolClosedError, match="had not ended"):
        await joining


@pytest.mark.long
async def test_a_blocked_loop_is_told_and_keeps_its_jobs(short_lease, caplog):
    """A job that holds up the event loop for longer than a lease runs once; the thread that keeps the lease says so."""
    own = Handlers()

    @own.register("block")
    async def block() -> None:
        calls.append("block")
        time.sleep(2.5)

    async with Pool(store=short_lease, handlers=own) as pool, Pool(store=short_lease, handlers=own, role="producer"):
        job = await pool.submit(block)
        await job
        assert (await pool.fleet.find(job.id)).crashes == 0
    assert calls == ["block"]
    assert "the event loop of the pool has been blocked for" in caplog.text
    assert "was lost" not in caplog.text


@pytest.mark.parametrize("new_store", ["postgres"], indirect=True)  # elsewhere no thread keeps the lease
async def test_who_gives_up_opening_a_pool_waits_for_the_thread_that_keeps_the_lease(new_pool, monkeypatch):
    """Also when it has no event loop yet: first it ends, and then the store is closed."""
    pool = new_pool(handlers)
    begun, given_up, order = threading.Event(), threading.Event(), []
    run, close = asyncio.run, pool.fleet.store.close

    def late(main):
        begun.set()
        given_up.wait(30)
        try:
            run(main)
        finally:
            order.append("thread")

    async def closed():
        order.append("store")
        await close()

    monkeypatch.setattr("aiopool._durable.keeper.asyncio.run", late)
    monkeypatch.setattr(pool.fleet.store, "close", closed)
    opening = asyncio.create_task(pool.__aenter__())
    await wait_until(begun.is_set)
    opening.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    given_up.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert order == ["thread", "store"]


gates = []


@handlers.register("hold")
async def hold() -> None:
    """Ignore a cancel for as long as it takes."""
    calls.append("hold")
    while not gates[-1].is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await gates[-1].wait()


async def test_a_cancel_whose_pool_closes_says_nothing_of_how_the_job_ended(new_pool):
    """It runs elsewhere, and goes on: to answer that it failed would be wrong."""
    gates.append(asyncio.Event())
    async with new_pool(handlers, role="worker", cancel_grace=3600):
        async with new_pool(handlers, role="producer") as producer:
            job = await producer.submit(hold)
            await wait_until(lambda: calls == ["hold"])
            cancel = asyncio.create_task(producer.cancel(job.id))
            await wait_until(lambda: job.id in producer._state.durability.handles.expected)
        with pytest.raises(PoolClosedError, match="in the store"):
            await cancel
        gates[-1].set()
