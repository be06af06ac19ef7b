"""A store did what it was asked, and its answer was lost: no job is left with an owner that does not know of it."""

import asyncio
import itertools

import pytest

from aiopool import Handlers, Pool
from aiopool.errors import StoreUnavailableError
from aiopool.stores import Memory, StoredStatus
from aiopool.testing import wait_until

handlers = Handlers()
calls = []
_names = itertools.count()


@handlers.register("note")
async def note(number: int) -> int:
    calls.append(number)
    return number


@handlers.register("parent")
async def parent(number: int) -> None:
    # Its pool has a free slot, so what it submits may start at once.
    await asyncio.sleep(0)


class Lossy:
    """A store in memory, some of whose answers do not arrive."""

    def __init__(self, name):
        self.name = name
        self._store = Memory(name)
        self.lose = {}  # verb: how many answers
        self.on_loss = lambda: None
        self.silent = False  # the store sends a claim again by itself, and tells nobody

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def _maybe(self, verb, answer, has_something):
        if has_something and self.lose.get(verb):
            self.lose[verb] -= 1
            self.on_loss()
            raise StoreUnavailableError(f"{verb}: the connection broke")
        return answer

    async def claim(self, limit):
        answer = await self._store.claim(limit)
        if self.silent and answer.jobs and self.lose.get("claim"):
            self.lose["claim"] -= 1
            return await self._store.claim(limit)
        return await self._maybe("claim", answer, bool(answer.jobs))

    async def submit(self, jobs, *, within=None):
        return await self._maybe("submit", await self._store.submit(jobs, within=within), True)

    async def settle(self, ends):
        return await self._maybe("settle", await self._store.settle(ends), True)


@pytest.fixture
def store():
    calls.clear()
    name = f"lossy-{next(_names)}"
    held = Memory(name)
    made = Lossy(name)
    made.held = held
    return made


async def _ends(store):
    async with Pool(store=Memory(store.name), handlers=handlers, role="producer") as producer:
        job = await producer.submit(note, 1)
        id = job.id
        await wait_until(lambda: calls == [1], timeout=30)
        assert await job == 1
        row = await producer.fleet.find(id)
    return row


@pytest.mark.long
@pytest.mark.parametrize("silent", [False, True])
async def test_jobs_of_a_claim_whose_answer_was_lost_run_while_their_owner_lives(store, silent):
    """They belong to this process, which never heard of them: it finds that out, and gives them back."""
    store.lose, store.silent = {"claim": 1}, silent
    async with Pool(store=store, handlers=handlers, role="worker"):
        row = await _ends(store)
    assert (row.status, row.attempt, row.crashes) == (StoredStatus.SUCCEEDED, 1, 0)


async def test_a_job_that_was_to_start_at_once_runs_though_the_answer_to_its_submission_was_lost(store):
    """It is running in the store, owned by its submitter, which never heard that it is."""
    async with Pool(store=store, handlers=handlers) as pool:
        await wait_until(lambda: not pool._state.durability.claimer.may_be_more)  # it knows that nobody is before it
        store.lose = {"submit": 1}
        job = await pool.submit(note, 1)
        await wait_until(lambda: calls == [1], timeout=30)
        assert await job == 1
        row = await pool.fleet.find(job.id)
    assert (row.status, row.attempt, row.crashes) == (StoredStatus.SUCCEEDED, 1, 0)


async def test_an_end_whose_answer_was_lost_is_written_once(store):
    """It is sent again, and what is written stays."""
    store.lose = {"settle": 1}
    async with Pool(store=store, handlers=handlers) as pool:
        job = await pool.submit(note, 1)
        assert await job == 1
    assert calls == [1]


async def test_what_was_sent_before_is_known_though_its_sender_has_another_incarnation_now(store):
    """The lease was lost between the two: the row bears the name of the one who wrote it first."""
    async with Pool(store=store, handlers=handlers, role="producer") as pool:
        client = pool._state.durability
        store.lose = {"submit": 1}
        store.on_loss = lambda: setattr(client, "me", client.me._replace(id="another"))
        job = await pool.submit(note, 1)
        assert (await pool.fleet.find(job.id)).status is StoredStatus.QUEUED
