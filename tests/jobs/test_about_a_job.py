"""What one can know of a job: its metadata, its parent, where it is suspended, and the time on the wall."""

import asyncio
import datetime
import json
import time

import pytest
from helpers import fail, nap, virtual

import aiopool
from aiopool import JobOptions, Pool, Retry, current_job
from aiopool.errors import JobCancelledError
from aiopool.testing import advance, settle

pytestmark = pytest.mark.both_isolations


async def look(of):
    """Return what the job knows of itself, in its first step and after it."""
    first = of(current_job())
    await asyncio.sleep(0)
    assert of(current_job()) == first
    return first


# -- metadata ----------------------------------------------------------------------------------------------------------


@virtual
async def test_metadata_is_said_where_options_are_and_the_nearest_place_wins(isolation):
    """A view, a function, a group: the job has the mapping of the nearest, as a whole."""

    @aiopool.job(metadata={"of": "function", "more": 1})
    async def own():
        return await look(lambda job: dict(job.metadata))

    async def plain():
        return await look(lambda job: dict(job.metadata))

    async with Pool(isolation=isolation) as pool:
        assert await pool.run(plain) == {}
        assert await pool.run(own) == {"of": "function", "more": 1}
        assert await pool.with_options(metadata={"of": "view"}).run(own) == {"of": "view"}
        assert await pool.with_options(metadata=None).run(own) == {}
        async with pool.group(options=JobOptions(metadata={"of": "group"})) as group:
            assert await group.run(plain) == {"of": "group"}
            assert await group.run(own) == {"of": "function", "more": 1}


@virtual
async def test_metadata_is_a_copy_that_nobody_changes(isolation):
    """Whatever becomes of the mapping that was given, and of what an event hands out, the job has what it had."""
    given, seen = {"tenant": 7}, []
    async with Pool(isolation=isolation) as pool:
        pool.listen(lambda event: seen.append(event.metadata.copy()) or event.metadata.clear(), aiopool.events.JobEvent)
        job = await pool.with_options(metadata=given).submit(nap)
        given["tenant"] = 8
        with pytest.raises(TypeError):
            job.metadata["tenant"] = 9
        await job
        assert job.metadata == {"tenant": 7}
    assert seen == [{"tenant": 7}] * 3


@pytest.mark.parametrize("bad", ["tenant", 7, [("a", 1)], {7: "a"}, {None: 1}])
def test_metadata_that_cannot_be_is_refused_where_it_is_written(bad):
    """The error shows the value and what to write."""
    with pytest.raises(TypeError, match=r"metadata="):
        Pool().with_options(metadata=bad)


# -- the parent --------------------------------------------------------------------------------------------------------


def parent_of(job):
    return job.parent


@virtual
async def test_a_job_knows_who_submitted_it_in_each_place(isolation):
    """While it waits, in its first step, while it runs, between attempts; children of a task of a job, too."""
    seen = {}

    async def child():
        seen["runs"] = await look(parent_of)

    async def parent():
        job = await pool.submit(child)
        seen["waits"] = job.parent
        await job
        retried = pool.with_options(retry=Retry(attempts=2, delay=1, jitter=0))
        failing = await retried.submit(fail)
        await asyncio.sleep(0.5)
        seen["between attempts"] = failing.parent
        await failing.wait()
        seen["in a task"] = (await asyncio.create_task(pool.submit(nap))).parent
        seen["in a thread"] = await pool.run(lambda: current_job().parent)
        return job

    async with Pool(2, isolation=isolation) as pool:
        root = await pool.with_options(id="root").submit(parent)
        assert root.parent is None
        job = await root
        assert root.parent is None
        assert job.parent is None, "it has ended, and nobody kept it"
    assert seen == dict.fromkeys(["waits", "runs", "between attempts", "in a task", "in a thread"], "root")


@virtual
async def test_a_job_of_another_pool_is_no_parent(isolation):
    """Its id would mean another job here."""

    async def submits():
        return (await second.submit(nap)).parent, await second.run(look, parent_of)

    async with Pool(isolation=isolation) as first, Pool(isolation=isolation) as second:
        assert await first.run(submits) == (None, None)


@virtual
async def test_a_worker_tells_no_job_the_parent_of_another(isolation):
    """The next job of the same worker is nobody's child."""

    async def parent():
        return await pool.run(look, parent_of)

    async with Pool(1, isolation=isolation) as pool:
        root = await pool.submit(parent)
        after = await pool.submit(look, parent_of)
        assert (await root, await after) == (root.id, None)


# -- where it is -------------------------------------------------------------------------------------------------------


@virtual
async def test_the_stack_of_a_suspended_job_leads_to_where_it_waits(isolation):
    """Its calls, the outermost first; nothing of ours above them. Empty before and after."""

    async def inner():
        await asyncio.Event().wait()

    async def outer():
        await inner()

    async with Pool(1, isolation=isolation) as pool:
        job, waits = await pool.submit(outer), await pool.submit(outer)
        assert list(job.stack()) == []
        await settle()
        assert [frame.name for frame in job.stack()][:3] == ["outer", "inner", "wait"]
        assert "await asyncio.Event().wait()" in "".join(job.stack().format())
        assert list(waits.stack()) == []
        await pool.cancel_all()
        assert list(job.stack()) == []


# -- when --------------------------------------------------------------------------------------------------------------


@virtual
async def test_moments_by_the_wall_clock_go_with_those_of_the_loop(isolation):
    """They are aware, in UTC, as far apart as the moments of the loop, and the same each time they are asked for."""
    async with Pool(1, isolation=isolation) as pool:
        about = datetime.datetime.now(datetime.UTC)
        job = await pool.with_options(delay=10).submit(nap, 5)
        assert (job.started_time, job.finished_time) == (None, None)
        assert abs(job.submitted_time - about) < datetime.timedelta(minutes=5)
        assert job.submitted_time.tzinfo is datetime.UTC
        await job
        assert job.started_time - job.submitted_time == datetime.timedelta(seconds=10)
        assert job.finished_time - job.started_time == datetime.timedelta(seconds=5)
        assert job.submitted_time == job.submitted_time


async def test_the_wall_clock_may_be_set(isolation, monkeypatch):
    """A small drift changes no moment; when the clock was set by an hour, so are the moments."""
    async with Pool(1, isolation=isolation) as pool:
        job = await pool.submit(asyncio.sleep, 0)
        await job
        first, real = job.finished_time, time.time
        monkeypatch.setattr(time, "time", lambda: real() + 0.1)
        assert job.finished_time == first
        monkeypatch.setattr(time, "time", lambda: real() + 3600)
        moved = job.finished_time
        assert abs(moved - first - datetime.timedelta(hours=1)) < datetime.timedelta(seconds=1)
        assert job.finished_time == moved


@virtual
async def test_each_attempt_has_its_moments(isolation):
    """The history says when each failed attempt began and ended, and why."""
    async with Pool(1, isolation=isolation, on_error=lambda job, error: None) as pool:
        job = await pool.with_options(retry=Retry(attempts=3, backoff="fixed", delay=10, jitter=0)).submit(fails_late)
        await job.wait()
        first, second = job.outcome().history
        assert first.started_time == job.submitted_time
        assert first.ended_time - first.started_time == datetime.timedelta(seconds=2)
        assert second.started_time - first.ended_time == datetime.timedelta(seconds=10)
        assert job.started_time - second.ended_time == datetime.timedelta(seconds=10)


async def fails_late():
    await asyncio.sleep(2)
    raise ValueError("no luck")


# -- as a dict ---------------------------------------------------------------------------------------------------------


@virtual
async def test_an_outcome_is_json_whatever_it_holds(isolation):
    """What JSON has stays; all else is text: also NaN, keys that are no text, and a value that contains itself."""

    class Rude:
        def __repr__(self):
            raise RuntimeError

    ring = []
    ring.append(ring)
    values = {
        "plain": [1, 2.5, "x", None, True, {"a": ("b",)}],
        "nan": float("nan"),
        "keys": {1: 2},
        "bytes": b"x",
        "rude": Rude(),
        "ring": ring,
        "long": bytes(10_000),
        "moment": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    }
    async with Pool(1, isolation=isolation) as pool:
        job = await pool.with_options(metadata={"tenant": 7, "who": Rude()}, id="a").submit(nap, 1, values)
        await job
        text = json.dumps(job.outcome().to_dict(), allow_nan=False)
    found = json.loads(text)
    assert found["value"]["plain"] == [1, 2.5, "x", None, True, {"a": ["b"]}]
    assert (found["value"]["nan"], found["value"]["keys"], found["value"]["bytes"]) == ("nan", "{1: 2}", "b'x'")
    assert "repr() fails" in found["value"]["rude"]
    assert "repr() fails" in found["metadata"]["who"]
    assert len(found["value"]["long"]) == 4000
    assert found["value"]["moment"] == "2026-01-02T00:00:00+00:00"
    assert (found["id"], found["status"], found["metadata"]["tenant"], found["error"]) == ("a", "succeeded", 7, None)
    assert datetime.datetime.fromisoformat(found["finished_time"]) == job.finished_time


@virtual
async def test_a_failure_is_json_with_its_history(isolation):
    """Errors are their type and text, in each attempt."""
    async with Pool(1, isolation=isolation, on_error=lambda job, error: None) as pool:
        job = await pool.with_options(retry=Retry(attempts=2, delay=10, jitter=0)).submit(fails_late)
        await job.wait()
        found = json.loads(json.dumps(job.outcome().to_dict()))
        assert found["error"] == "ValueError: no luck"
        assert [(row["number"], row["error"], row["delay"]) for row in found["history"]] == [
            (1, "ValueError: no luck", 10)
        ]
        dropped = await pool.with_options(delay=10).submit(nap)
        dropped.cancel("not wanted")
        found = dropped.outcome().to_dict()
        assert (found["status"], found["reason"], found["started_time"]) == ("cancelled", "not wanted", None)
        with pytest.raises(JobCancelledError):
            await dropped
        await advance(1)
