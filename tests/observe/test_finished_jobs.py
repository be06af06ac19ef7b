"""What a pool remembers of the jobs that have ended, and what it does not keep alive for that."""

import asyncio
import gc
import json
import pickle
import threading
import weakref

import pytest
from helpers import echo, fail, nap, stubborn, virtual

from aiopool import JobStatus, Pool, Retry, current_job
from aiopool.errors import RecordedError
from aiopool.records import KeepFinished
from aiopool.testing import advance, settle

pytestmark = pytest.mark.both_isolations


def ignore(job, error):
    """Failures are expected here."""


@virtual
async def test_a_job_is_found_in_every_place_and_after_its_end(isolation):
    """Live: the job itself. Ended: a record of it. Never there: None. By its number, its own id, as text or number."""
    async with Pool(1, isolation=isolation, keep_finished=10) as pool:
        job, own = await pool.submit(nap), await pool.with_options(id="a").submit(nap)
        assert pool.find(job.id) is job
        assert pool.find(str(job.id)) is job
        assert pool.find("a") is own
        await own
        assert pool.find(job.id) == pool.find(str(job.id)) == job.outcome()
        assert pool.find("a") == own.outcome().__class__(**{**_fields(own.outcome()), "value": None})
        assert pool.find("b") is None
        assert pool.find(999) is None
        assert pool.find(own._sequence) is None, "it answers to its own id"
    assert pool.find("a").status == "succeeded", "also when the pool has closed"
    async with pool:
        assert pool.find("a") is None, "a pool that is opened again begins anew"


def _fields(record):
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}


@virtual
async def test_each_end_has_its_record(isolation):
    """The four ends, and a job that leaked, one that was retried, one that never started."""
    async with Pool(2, isolation=isolation, keep_finished=100, on_error=ignore, cancel_grace=1) as pool:
        retried = await pool.with_options(retry=Retry(attempts=2, delay=3, jitter=0), metadata={"n": 1}).submit(fail)
        late = await pool.with_options(timeout=0.5, name="late", group="g", priority=3).submit(nap, 1)
        never = await pool.with_options(delay=5).submit(nap)
        never.cancel("no need")
        await advance(3)
        leaks = await pool.submit(stubborn)
        await settle()
        leaks.cancel()
        await leaks.wait()
        found = [pool.find(job.id) for job in (retried, late, never, leaks)]
        assert [record.status for record in found] == ["failed", "timed_out", "cancelled", "cancelled"]
        assert [record.attempts for record in found] == [2, 1, 0, 1]
        assert [record.leaked for record in found] == [False, False, False, True]
        first = found[0]
        assert (first.metadata, first.error.kind, str(first.error)) == ({"n": 1}, "ValueError", "ValueError")
        assert "raise error" in first.error.traceback
        assert [(row.number, row.delay, str(row.error)) for row in first.history] == [(1, 3, "ValueError")]
        assert (found[1].name, found[1].group, found[1].priority, found[1].seconds) == ("late", "g", 3, 0.5)
        assert (found[2].reason, found[2].started_time) == ("no need", None)
        assert [record.id for record in pool.finished_jobs()] == [leaks.id, retried.id, late.id, never.id]
        assert [record.id for record in pool.finished_jobs(1)] == [leaks.id]
        for record in found:
            json.dumps(record.to_dict(), allow_nan=False)
            assert repr(pickle.loads(pickle.dumps(record))) == repr(record)
        await advance(3600)


@virtual
async def test_a_record_says_what_the_outcome_said(isolation):
    """All fields are those of the outcome, but for the value and for the error, which is text."""
    async with Pool(1, isolation=isolation, keep_finished=10, on_error=ignore) as pool:
        for call in ((echo, 7), (fail,)):
            job = await pool.with_options(metadata={"a": 1}, group="g", retry=Retry(attempts=2)).submit(*call)
            await job.wait()
            said, kept = _fields(job.outcome()), _fields(pool.find(job.id))
            for name in ("value", "error", "history"):
                said.pop(name), kept.pop(name)
            assert kept == said


@virtual
async def test_cancel_says_what_has_become_of_a_job_that_has_ended(isolation):
    """How it ended and how long ago, in fields and in words; and nothing was cancelled."""
    async with Pool(1, isolation=isolation, keep_finished=2, on_error=ignore) as pool:
        job = await pool.with_options(id="a").submit(nap)
        await job
        await advance(3600)
        report = await pool.cancel("a")
        assert (report.was, report.status, report.ended_ago) == ("succeeded", "succeeded", 3600.0)
        assert not report
        assert str(report) == "job 'a' succeeded 1 h ago"
        gone = await pool.with_options(delay=1).submit(nap)
        report = await pool.cancel(gone.id)
        assert report
        assert str(report) == f"job {gone.id} was scheduled, and was cancelled"
        report = await pool.cancel(gone.id)
        assert not report, "this call has cancelled nothing"
        assert report.status == "cancelled"
        assert str(await pool.cancel("b")) == "no job with the id 'b' is known"


@virtual
async def test_by_default_nothing_is_kept(isolation):
    """No observer is there, and an ended job is unknown."""
    async with Pool(1, isolation=isolation) as pool:
        job = await pool.submit(nap)
        assert pool._state.engine.observers is None
        await job
        assert (pool.find(job.id), pool.finished_jobs()) == (None, [])
        assert (await pool.cancel(job.id)).was is None


@virtual
async def test_the_oldest_ends_are_forgotten_first(isolation):
    """`count` is kept and no more, whatever ids they have; 0 keeps none."""
    async with Pool(1, isolation=isolation, keep_finished=3) as pool:
        for number in range(10):
            await pool.with_options(id=f"j{number % 5}").run(nap)
        assert [record.id for record in pool.finished_jobs()] == ["j4", "j3", "j2"]
        assert [pool.find(f"j{n}") is not None for n in range(5)] == [False, False, True, True, True]
    async with Pool(1, isolation=isolation, keep_finished=0) as pool:
        await pool.with_options(id="a").run(nap)
        assert pool.find("a") is None


@virtual
async def test_an_id_that_is_used_again_finds_the_last(isolation):
    """The live one, then the one that ended last; the end of the older record takes nothing from it."""
    async with Pool(1, isolation=isolation, keep_finished=2, on_error=ignore) as pool:
        view = pool.with_options(id="a")
        await view.run(nap)
        second = await view.submit(fail)
        assert pool.find("a") is second
        await second.wait()
        assert pool.find("a").status == "failed"
        await pool.run(nap)
        assert pool.find("a").status == "failed"
        await pool.run(nap)
        assert pool.find("a") is None


@virtual
async def test_a_number_and_an_own_id_of_the_same_text_find_the_last(isolation):
    """A job may have the number that an earlier one had for its own id, and the other way round."""
    async with Pool(1, isolation=isolation, keep_finished=10) as pool:
        await pool.with_options(id="2", metadata={"n": 1}).run(nap)
        await pool.with_options(metadata={"n": 2}).run(nap)
        assert pool.find(2).metadata == {"n": 2}
        await pool.with_options(id=2, metadata={"n": 3}).run(nap)
        assert pool.find("2").metadata == {"n": 3}


@virtual
async def test_records_grow_old(isolation):
    """After `seconds` a record is found no more, and is let go of with the next end."""
    async with Pool(1, isolation=isolation, keep_finished=KeepFinished(seconds=10)) as pool:
        first = await pool.submit(nap, 0)
        await first
        await advance(10)
        assert pool.find(first.id).ok
        await advance(1)
        assert (pool.find(first.id), pool.finished_jobs()) == (None, [])
        assert (await pool.cancel(first.id)).was is None
        await pool.run(nap, 0)
        assert len(pool.finished_jobs()) == 1
        assert len(pool._state.observers.finished._rows) == 1


@virtual
async def test_values_are_kept_by_choice(isolation):
    """`KeepFinished(values=True)` keeps what jobs returned."""
    async with Pool(1, isolation=isolation, keep_finished=KeepFinished(values=True)) as pool:
        job = await pool.submit(nap, 0, "page")
        await job
        assert pool.find(job.id).value == "page"


@virtual
async def test_a_record_knows_the_parent(isolation):
    """What a live job tells, the record tells, too: for one that started, and one that never did."""

    async def parent():
        done, gone = await pool.submit(echo), await pool.with_options(delay=1).submit(echo)
        gone.cancel()
        await done
        return done, gone

    async with Pool(2, isolation=isolation, keep_finished=10) as pool:
        root = await pool.with_options(id="root").submit(parent)
        for job in await root:
            assert job.parent == pool.find(job.id).parent == job.outcome().parent == "root"
        assert pool.find("root").parent is None


async def test_a_record_keeps_nothing_alive(isolation):
    """Not the job, its argument, its result, its error or a local of its frames."""

    class Thing(Exception):
        pass

    async def work(argument, wrong):
        local = Thing()
        seen.append(weakref.ref(local))
        if wrong:
            raise local
        return local

    seen = []
    async with Pool(1, isolation=isolation, keep_finished=10, on_error=ignore) as pool:
        for wrong in (False, True):
            view = pool.with_options(retry=Retry(attempts=2, delay=0, jitter=0) if wrong else None)
            argument = Thing()
            job = await view.submit(work, argument, wrong)
            await job.wait()
            seen += [weakref.ref(argument), weakref.ref(job)]
            del argument, job
        await pool.run(echo)
        await asyncio.sleep(0)
        gc.collect()
        assert [ref() for ref in seen] == [None] * len(seen)
        assert [record.status for record in pool.finished_jobs()] == ["succeeded", "failed", "succeeded"]
        assert type(pool.finished_jobs()[1].error) is RecordedError


async def test_another_thread_may_ask(isolation):
    """`find` and `finished_jobs` answer in threads, while jobs end."""
    answers = []

    def ask():
        me = current_job()
        answers.append(pool.find(me.id) is me)
        answers.extend(record.status is JobStatus.SUCCEEDED for record in pool.finished_jobs(5))
        answers.append(threading.current_thread() is not threading.main_thread())

    async with Pool(4, isolation=isolation, keep_finished=20) as pool:
        for _ in range(50):
            await pool.submit(echo)
            await pool.submit(ask)
        await pool.join()
        assert len(pool.finished_jobs()) == 20
    assert answers
    assert all(answers)


@pytest.mark.parametrize("bad", [-1, True, "100", 1.5, KeepFinished])
def test_what_cannot_be_kept_is_refused(bad):
    """Where it is written."""
    with pytest.raises((TypeError, ValueError), match="keep_finished="):
        Pool(keep_finished=bad)
    with pytest.raises((TypeError, ValueError), match="seconds="):
        KeepFinished(seconds="1h")
