"""Jobs go from one store to another: nothing is lost or doubled, wherever the move is killed, whatever goes on."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kinds import KINDS, VALKEY

from aiopool.errors import StoreError, StoreUnavailableError
from aiopool.stores._move import move_jobs
from aiopool.stores._open import open_store
from aiopool.stores._rows import Incarnation, NewJob, Settlement, StoredStatus

ROOT = Path(__file__).parents[2]
STEPS = [(verb, when) for verb in ("export", "restore", "forget_moved") for when in ("before", "after")]
PAIRS = [
    ("memory", "memory"),
    ("memory", "sqlite"),
    ("sqlite", "sqlite"),
    ("sqlite", "memory"),
    ("sqlite", "postgres"),
    ("postgres", VALKEY),
    (VALKEY, "sqlite"),
]


def url(directory: Path, name: str) -> str:
    return f"sqlite:///{directory / name}.db"


@asynccontextmanager
async def opened(store: Any):
    me = Incarnation(id=uuid.uuid4().hex, host="here", pid=os.getpid(), runs_jobs=True)
    await store.open("pool", me, lambda wake: None)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(params=PAIRS, ids="-".join)
async def pair(request: pytest.FixtureRequest, tmp_path: Path):
    """Two open stores of two kinds."""
    async with AsyncExitStack() as stack:
        stores = []
        for number, name in enumerate(request.param):
            kind = KINDS[name]
            if (why := kind.skip()) is not None:
                pytest.skip(why)
            (directory := tmp_path / str(number)).mkdir()
            make = await stack.enter_async_context(kind.data(directory))
            stores.append(await stack.enter_async_context(opened(make())))
        yield stores


def new(number: int, **options: Any) -> NewJob:
    return NewJob(id=f"job-{number:05}", name="work", payload=f'{{"args": [{number}]}}', **options)


class Broken(Exception):
    """The copier dies."""


class Dying:
    """A store whose `verb` raises, before or after it was carried out, at its nth call."""

    def __init__(self, store: Any, verb: str, when: str, nth: int = 1) -> None:
        self._store, self._verb, self._when, self._left = store, verb, when, nth

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        if name != self._verb:
            return real

        async def call(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0 and self._when == "before":
                raise Broken
            result = await real(*arguments)
            if self._left == 0:
                raise Broken
            return result

        return call


async def everything(store: Any) -> list[Any]:
    """All jobs of a store, live and ended."""
    jobs, cursor = [], None
    for status in (None, *StoredStatus):
        if status is not None and status not in ("succeeded", "failed", "timed_out", "cancelled", "dead"):
            continue
        while True:
            page, cursor = await store.page(status=status, limit=200, cursor=cursor)
            jobs += page
            if cursor is None:
                break
    return jobs


async def test_jobs_arrive_as_they_were(pair):
    """A moved job has its priority, its moments, its attempts and all that it was given."""
    source, target = pair
    await source.submit(
        [
            new(1, priority=3, group="mail", keys='["a"]', lanes=("rate", "host\x1fa"), metadata='{"a": 1}'),
            new(2, delay=3600.0, trace='"t"', parent="job-00001", unique="only", queue_timeout=60.0),
            new(3, total_timeout=7200.0, max_crashes=7, submitter="me"),
        ]
    )
    before = {job.id: job for job in await source.find(["job-00001", "job-00002", "job-00003"])}
    assert await move_jobs(source, target) == 3
    after = {job.id: job for job in await target.find(list(before))}
    assert after.keys() == before.keys()
    for id, job in before.items():
        same = {"position": 0, "fence": 0, "owner": None}
        assert after[id]._replace(**same) == job._replace(**same)
    assert await source.find(list(before)) == []


async def test_order_is_kept(pair):
    """Jobs start in the target by priority, then in the order in which they were submitted to the source."""
    source, target = pair
    await source.submit([new(number, priority=number % 3) for number in range(60)])
    await move_jobs(source, target, batch=7)
    claimed = [job.id for job in (await target.claim(100)).jobs]
    assert claimed == [job.id for job in sorted((new(number, priority=number % 3) for number in range(60)), key=order)]


def order(job: NewJob) -> tuple[int, str]:
    return job.priority, job.id


async def test_attempts_and_crashes_are_kept(pair):
    """A job that was tried before goes on counting its attempts in the target."""
    source, target = pair
    await source.submit([new(1)])
    (job,) = (await source.claim(1)).jobs
    await source.settle([Settlement(job.id, job.fence, "retry", error='{"type": "ValueError"}')])
    await move_jobs(source, target)
    claim = await target.claim(1)
    assert [(job.id, job.attempt) for job in claim.jobs] == [("job-00001", 2)]


async def test_a_running_job_stays(pair):
    """What runs is not moved, and can be settled; when it is to be tried again it can be moved."""
    source, target = pair
    await source.submit([new(1), new(2)])
    (job,) = (await source.claim(1)).jobs
    assert await move_jobs(source, target) == 1
    assert [job.id for job in await target.find(["job-00001", "job-00002"])] == ["job-00002"]
    assert await source.settle([Settlement(job.id, job.fence, "retry")]) == [True]
    assert await move_jobs(source, target) == 1
    assert {job.id for job in await target.find(["job-00001", "job-00002"])} == {"job-00001", "job-00002"}


async def test_the_history_stays(pair):
    """Jobs that have ended are not moved."""
    source, target = pair
    await source.submit([new(1)])
    await source.cancel(["job-00001"], "no more")
    assert await move_jobs(source, target) == 0
    assert [job.status for job in await source.find(["job-00001"])] == ["cancelled"]
    assert await target.find(["job-00001"]) == []


async def test_a_store_is_not_moved_to_itself(pair):
    """The same store on both sides is refused before anything is changed."""
    source, _ = pair
    await source.submit([new(1), new(2, delay=60.0)])
    with pytest.raises(StoreError, match="the same store"):
        await move_jobs(source, source)
    assert {job.id: job.status for job in await everything(source)} == {"job-00001": "queued", "job-00002": "scheduled"}


async def test_what_is_on_its_way_is_not_moved_to_where_it_is(pair):
    """Jobs that are `moving` are not removed by a move of their store to itself, and go on to another one."""
    source, target = pair
    await source.submit([new(1)])
    with pytest.raises(Broken):
        await move_jobs(source, Dying(target, "restore", "before"))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="the same store"):
        await move_jobs(source, source)
    assert await move_jobs(source, target) == 1


async def test_another_job_with_the_same_id(pair):
    """A job that was submitted to both stores under one id is there once after the move."""
    source, target = pair
    await source.submit([new(1, submitter="one")])
    await target.submit([new(1, submitter="other")])
    assert await move_jobs(source, target) == 1
    assert [(job.id, job.submitter) for job in await everything(target)] == [("job-00001", "other")]
    assert await everything(source) == []


@pytest.mark.parametrize("batch", [0, 1001])
async def test_a_batch_has_its_limits(pair, batch: int):
    """A batch of no jobs, or of more than a store takes at once, is refused."""
    with pytest.raises(ValueError, match=f"batch={batch}"):
        await move_jobs(*pair, batch=batch)


async def test_progress(pair):
    """Each batch is told, and what the listener raises ends the move with nothing on its way."""
    source, target = pair
    await source.submit([new(number) for number in range(25)])
    told = []

    def listen(moved: int) -> None:
        told.append(moved)
        if moved == 20:
            raise Broken

    with pytest.raises(Broken):
        await move_jobs(source, target, batch=10, on_progress=listen)
    assert told == [10, 20]
    assert {job.status for job in await everything(source)} == {"queued"}
    assert await move_jobs(source, target, batch=10) == 5


@pytest.mark.parametrize(("verb", "when"), STEPS)
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_move_that_breaks_goes_on(pair, verb: str, when: str, nth: int):
    """Wherever it breaks: the next move ends with each job in the target, once, and none in the source."""
    source, target = pair
    ids = [f"job-{number:05}" for number in range(25)]
    await source.submit([new(number) for number in range(25)])
    first = Dying(source, verb, when, nth)
    second = Dying(target, verb, when, nth)
    with pytest.raises(Broken):
        await move_jobs(first, second, batch=10)  # type: ignore[arg-type]
    jobs = [*await everything(source), *await everything(target)]
    startable = Counter(job.id for job in jobs if job.status != "moving")
    assert set(startable.values()) <= {1}, "no job can start in two places"
    assert {job.id for job in jobs} == set(ids), "and none is gone"
    await move_jobs(source, target, batch=10)
    assert await everything(source) == []
    assert sorted(job.id for job in await everything(target)) == ids
    assert [job.id for job in (await target.claim(100)).jobs] == ids


async def test_a_job_that_arrived_and_ended_is_not_started_again(pair):
    """The copier dies after a job has arrived; it runs in the target, and the next move leaves it as it is."""
    source, target = pair
    await source.submit([new(1)])
    with pytest.raises(Broken):
        await move_jobs(source, Dying(target, "restore", "after"))  # type: ignore[arg-type]
    (job,) = (await target.claim(1)).jobs
    await target.settle([Settlement(job.id, job.fence, "succeeded", result="1")])
    await move_jobs(source, target)
    assert [job.status for job in await target.find(["job-00001"])] == ["succeeded"]
    assert (await target.claim(1)).jobs == []
    assert await source.find(["job-00001"]) == []


async def test_an_interrupted_job_starts_nowhere(pair):
    """While a job is on its way nobody can claim it at the source."""
    source, target = pair
    await source.submit([new(1)])
    with pytest.raises(Broken):
        await move_jobs(source, Dying(target, "restore", "before"))  # type: ignore[arg-type]
    assert (await source.claim(1)).jobs == []


async def test_two_copiers_at_once(pair):
    """Two moves between the same stores share the work, and double nothing."""
    source, target = pair
    await source.submit([new(number) for number in range(50)])
    await asyncio.gather(move_jobs(source, target, batch=5), move_jobs(source, target, batch=7))
    assert await everything(source) == []
    assert sorted(job.id for job in await everything(target)) == [f"job-{number:05}" for number in range(50)]


COPIER = """
import asyncio, os, signal, sys
from aiopool.stores._move import move_jobs
from aiopool.stores._open import open_store
from aiopool.stores._rows import Incarnation

source, target, verb, when = sys.argv[1:5]

class Killed:
    def __init__(self, store):
        self._store, self._left = store, 2

    def __getattr__(self, name):
        real = getattr(self._store, name)
        if name != verb:
            return real
        async def call(*arguments):
            self._left -= 1
            if not self._left and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = await real(*arguments)
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return call

async def main():
    stores = [open_store(source), open_store(target)]
    for number, store in enumerate(stores):
        await store.open("pool", Incarnation(f"copier-{number}", "here", os.getpid(), False), lambda wake: None)
    await move_jobs(*map(Killed, stores), batch=10)

asyncio.run(main())
"""


@pytest.mark.parametrize(("verb", "when"), STEPS)
async def test_a_copier_that_is_killed(tmp_path: Path, verb: str, when: str):
    """SIGKILL at each step of the second batch: another copier goes on, and each job is in the target once."""
    source, target = url(tmp_path, "old"), url(tmp_path, "new")
    ids = [f"job-{number:05}" for number in range(25)]
    async with opened(open_store(source)) as store:
        await store.submit([new(number) for number in range(25)])
        child = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", COPIER, source, target, verb, when],
            cwd=ROOT,
            capture_output=True,
            timeout=60,
        )
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
        async with opened(open_store(target)) as new_store:
            await move_jobs(store, new_store, batch=10)
            assert await everything(store) == []
            assert [job.id for job in (await new_store.claim(100)).jobs] == ids


async def test_under_load_nothing_is_lost_or_doubled(pair):
    """While jobs are submitted to the source, and both sides run and retry them, each ends once, in one of both."""
    source, target = pair
    total, runs, ends = 600, Counter[str](), Counter[str]()
    produced = asyncio.Event()

    async def produce() -> None:
        for start in range(0, total, 20):
            answers = await source.submit([new(number) for number in range(start, start + 20)])
            assert {answer.outcome for answer in answers} == {"queued"}
            await asyncio.sleep(0)
        produced.set()

    async def work(store: Any) -> None:
        while ends.total() < total:
            claim = await store.claim(5)
            rows = []
            for job in claim.jobs:
                runs[job.id] += 1
                again = job.attempt == 1 and int(job.id[-1]) % 3 == 0
                rows.append(Settlement(job.id, job.fence, "retry" if again else "succeeded"))
            for row, taken in zip(rows, await store.settle(rows) if rows else [], strict=True):
                assert taken, "nobody else has it"
                ends[row.id] += row.outcome == "succeeded"
            await asyncio.sleep(0 if claim.jobs else 0.002)

    async def copy() -> None:
        """Move, and break at one step after the other."""
        step = 0
        while not produced.is_set() or ends.total() < total:
            verb, when = STEPS[step % len(STEPS)]
            step += 1
            try:
                await move_jobs(Dying(source, verb, when, 2), Dying(target, verb, when, 2), batch=10)  # type: ignore[arg-type]
            except Broken:
                continue
            await asyncio.sleep(0.002)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for part in (produce(), work(source), work(target), copy()):
            group.create_task(part)
    ids = {f"job-{number:05}" for number in range(total)}
    assert ends == Counter(ids)
    assert all(runs[id] == (2 if int(id[-1]) % 3 == 0 else 1) for id in ids)
    await move_jobs(source, target)
    left, arrived = await everything(source), await everything(target)
    assert Counter(job.id for job in (*left, *arrived)) == Counter(ids)
    assert {job.status for job in (*left, *arrived)} == {"succeeded"}


async def test_a_store_that_is_away_loses_nothing():
    """An error of the target leaves the jobs on their way; the next move takes them first."""
    async with AsyncExitStack() as stack:
        source, target = [await stack.enter_async_context(opened(open_store("memory://"))) for _ in range(2)]
        await source.submit([new(1)])

        class Away:
            def __getattr__(self, name: str) -> Any:
                return getattr(target, name)

            async def restore(self, jobs: Any) -> None:
                raise StoreUnavailableError("no room")

        with pytest.raises(StoreUnavailableError):
            await move_jobs(source, Away())  # type: ignore[arg-type]
        assert [job.status for job in await source.find(["job-00001"])] == ["moving"]
        assert await move_jobs(source, target) == 1
