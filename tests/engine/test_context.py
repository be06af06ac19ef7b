"""Context variables: each job sees its submitter's, and nobody else's.

Elsewhere: threads are in test_threads.py too, what listeners of events see is in test_events.py, what an attempt leaves
to the next one in test_retry_in_pool.py.
"""

import asyncio
import contextvars
import gc
import weakref

import anyio
import pytest
import structlog

from aiopool import JobCancelledError, JobStatus, Retry, current_job
from aiopool.testing import wait_until

pytestmark = pytest.mark.both_isolations

real = pytest.mark.loops("real")
request_id = contextvars.ContextVar("request_id", default="nobody's")


class Thing:
    """Something that a weak reference can watch."""


async def read():
    return request_id.get()


async def read_later():
    await asyncio.sleep(0)
    return request_id.get()


def read_in_thread():
    return request_id.get()


READERS = [read, read_later, read_in_thread]


# -- in ----------------------------------------------------------------------------------------------------------


@real
@pytest.mark.parametrize("reader", READERS)
async def test_a_job_sees_what_was_set_when_it_was_submitted(new_pool, reader):
    """The values of that moment, whatever the submitter sets while the job waits."""
    async with new_pool(size=1) as pool:
        jobs = []
        for n in range(5):
            request_id.set(n)
            jobs.append(await pool.submit(reader))
        request_id.set("later")
        assert [await job for job in jobs] == [0, 1, 2, 3, 4]


@real
@pytest.mark.parametrize("reader", READERS)
async def test_each_submitter_gives_its_own(new_pool, reader):
    """Many tasks, few workers, jobs in any order: no value of another's is ever seen."""

    async def submitter(n):
        request_id.set(n)
        seen = []
        for _ in range(5):
            seen.append(await pool.run(reader))
            await asyncio.sleep(0)
        return seen

    async with new_pool(size=3) as pool:
        tasks = [asyncio.create_task(submitter(n)) for n in range(10)]
        assert [await task for task in tasks] == [[n] * 5 for n in range(10)]


@real
@pytest.mark.parametrize(
    "door", ["submit", "submit_nowait", "run", "view", "map", "group", "blocked", "delay", "scoped"]
)
async def test_every_door_takes_the_context_of_its_caller(new_pool, door):
    """Also where the job enters only later, when there is room or its moment has come."""

    async def submit():
        if door == "submit":
            return await (await pool.submit(read_later))
        if door == "submit_nowait":
            return await pool.submit_nowait(read_later)
        if door == "run":
            return await pool.run(read_later)
        if door == "view":
            return await pool.with_options(name="view", id="v").run(read_later)
        if door == "map":
            return (await pool.map(lambda_of(read_later), [1]).collect())[0]
        if door == "group":
            async with pool.group() as group:
                job = await group.submit(read_later)
            return await job
        if door == "delay":
            return await pool.with_options(delay=0.01).run(read_later)
        if door == "blocked":
            release = asyncio.Event()
            holders = [await pool.submit(release.wait) for _ in range(2)]
            asyncio.get_running_loop().call_later(0.01, release.set)
            job = await pool.submit(read_later)  # waits for room
            assert all(holder.done() for holder in holders[:1])
            return await job
        with anyio.CancelScope():
            return await pool.run(read_later)

    request_id.set("opener's")
    async with new_pool(size=1, queue_size=1) as pool:

        async def caller():
            request_id.set("caller's")
            return await submit()

        assert await asyncio.create_task(caller()) == "caller's"
        assert request_id.get() == "opener's"


def lambda_of(function):
    async def call(_):
        return await function()

    return call


@real
async def test_a_context_that_was_entered_by_hand_counts(new_pool):
    """`Context.run` around `submit_nowait`: that context, not the task's."""
    async with new_pool(size=1) as pool:
        context = contextvars.copy_context()
        context.run(request_id.set, "by hand")
        job = context.run(pool.submit_nowait, read_later)
        assert await job == "by hand"


@real
async def test_a_job_gives_its_own_to_the_jobs_it_submits(new_pool):
    """Nested: the child sees what the parent has set, the parent nothing of what the child sets."""

    async def child():
        seen = request_id.get()
        request_id.set("child's")
        await asyncio.sleep(0)
        return seen, current_job()

    async def parent():
        request_id.set("parent's")
        seen, inner = await pool.run(child)
        return seen, request_id.get(), inner, current_job()

    async with new_pool(size=1) as pool:
        job = await pool.submit(parent)
        seen, after, inner, outer = await job
        assert (seen, after) == ("parent's", "parent's")
        assert outer is job
        assert inner is not job


@real
async def test_tasks_of_a_job_know_their_job(new_pool):
    """A child task, a task group of either kind and a thread see the job's variables and `current_job()`."""

    async def look():
        await asyncio.sleep(0)
        seen.append((request_id.get(), current_job()))

    def look_in_thread():
        seen.append((request_id.get(), current_job()))

    async def job():
        request_id.set("job's")
        await asyncio.create_task(look())
        async with asyncio.TaskGroup() as group:
            group.create_task(look())
        async with anyio.create_task_group() as group:
            group.start_soon(look)
        await anyio.to_thread.run_sync(look_in_thread)
        await asyncio.gather(look(), look())

    seen = []
    async with new_pool(size=1) as pool:
        handle = await pool.submit(job)
        await handle
        assert seen == [("job's", handle)] * 6


# -- out ---------------------------------------------------------------------------------------------------------


@real
@pytest.mark.parametrize("how", ["returns", "suspends", "raises", "is cancelled", "in a thread"])
async def test_what_a_job_sets_is_gone_with_it(new_pool, how):
    """Neither the submitter nor the next job of the same worker sees it, however the job ends."""

    async def setter():
        request_id.set("leaked")
        if how != "returns":
            await asyncio.sleep(0)
        if how == "raises":
            raise LookupError
        if how == "is cancelled":
            await asyncio.get_running_loop().create_future()

    def plain_setter():
        request_id.set("leaked")

    async with new_pool(size=1) as pool:
        request_id.set("submitter's")
        job = await pool.submit(plain_setter if how == "in a thread" else setter)
        if how == "is cancelled":
            await wait_until(lambda: job.status is JobStatus.RUNNING)
            await asyncio.sleep(0)
            job.cancel()
        await job.wait()
        assert request_id.get() == "submitter's"
        for reader in READERS:
            assert await pool.run(reader) == "submitter's"
        other = contextvars.Context().run(pool.submit_nowait, read)
        assert await other == "nobody's"


@real
async def test_jobs_that_take_turns_do_not_mix(new_pool):
    """Each step of a job runs in its own context, with others in between; a token resets what it set."""

    async def job(n):
        seen = []
        for step in range(5):
            token = request_id.set((n, step))
            await asyncio.sleep(0)
            seen.append(request_id.get())
            request_id.reset(token)
            seen.append(request_id.get())
        return seen

    async with new_pool(size=5) as pool:
        request_id.set("submitter's")
        jobs = [await pool.submit(job, n) for n in range(20)]
        for n, handle in enumerate(jobs):
            assert await handle == [value for step in range(5) for value in ((n, step), "submitter's")]


@real
async def test_a_cancel_is_met_in_the_context_of_the_job(new_pool):
    """`except` and `finally` see the job's variables, though the error came from outside."""
    seen = []

    async def job():
        request_id.set("job's")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append((request_id.get(), current_job()))
            raise
        finally:
            seen.append((request_id.get(), current_job()))

    async with new_pool(size=1) as pool:
        request_id.set("submitter's")
        handle = await pool.submit(job)
        await wait_until(lambda: handle.status is JobStatus.RUNNING)
        await asyncio.sleep(0)
        request_id.set("canceller's")
        await pool.cancel(handle.id)
        with pytest.raises(JobCancelledError):
            await handle
        assert seen == [("job's", handle)] * 2


@real
@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("offload", [False, True])
async def test_each_attempt_has_a_fresh_copy(new_pool, suspends, offload):
    """What an attempt sets is not there in the next; the submitter's values are."""
    seen = []

    def plain():
        seen.append((request_id.get(), current_job().attempt))
        request_id.set("dirty")
        if len(seen) < 3:
            raise LookupError

    async def flaky():
        if suspends:
            await asyncio.sleep(0)
        plain()

    async with new_pool(size=1, retry=Retry(attempts=3, delay=0, jitter=0)) as pool:
        request_id.set("submitter's")
        job = await pool.submit(plain if offload else flaky)
        request_id.set("later")
        await job
        assert seen == [("submitter's", 1), ("submitter's", 2), ("submitter's", 3)]


# -- what is called on the way -----------------------------------------------------------------------------------


@real
async def test_the_hooks_of_a_pool_see_no_job(new_pool):
    """What a job's end calls is in nobody's job: not in the one that ended, nor in the one that cancelled it."""
    seen = []

    def look(job=None, *_):
        try:
            seen.append((job, current_job()))
        except RuntimeError:
            seen.append((job, None))

    async def wrong(n):
        request_id.set(n)
        await asyncio.sleep(0)
        raise LookupError

    async def cancel(victim):
        victim.cancel()

    async with new_pool(size=2, on_error=look) as pool:
        pool.on_shutdown(look)
        jobs = [await pool.submit(wrong, n) for n in range(6)]
        jobs.append(await pool.with_options(priority=1).submit(cancel, jobs[5]))
        for job in jobs:
            job.add_done_callback(look)
        await pool.join()
        assert jobs[5].cancelled()
        assert jobs[5].attempt == 0
    assert seen.pop() == (None, None)
    assert sorted(job.id for job, _ in seen) == sorted([1, 2, 3, 4, 5] * 2 + [6, 7])
    assert {own for _, own in seen} == {None}


@real
async def test_a_done_callback_runs_in_the_context_of_who_added_it(new_pool):
    """As those of asyncio's futures do, whatever the job has set, and whoever cancels it."""
    seen = []

    def look(job):
        seen.append(request_id.get(None))

    async def work():
        request_id.set("job's")

    async with new_pool(size=1) as pool:
        request_id.set("submitter's")
        ran, dropped = await pool.submit(work), await pool.with_options(delay=9).submit(work)
        for job in (ran, dropped):
            request_id.set("adder's")
            job.add_done_callback(look)
            request_id.set("later")
        await ran
        dropped.cancel()
    assert seen == ["adder's", "adder's"]


@real
async def test_log_context_goes_along(new_pool):
    """Structlog's bound values of the request are there in the job, and what the job binds stays in it."""

    async def job(bind):
        await asyncio.sleep(0)
        structlog.contextvars.bind_contextvars(inside=bind)
        await asyncio.sleep(0)
        return structlog.contextvars.get_contextvars()

    async with new_pool(size=2) as pool:
        with structlog.contextvars.bound_contextvars(request="r-1"):
            first = await pool.submit(job, 1)
        with structlog.contextvars.bound_contextvars(request="r-2"):
            second = await pool.submit(job, 2)
        first_seen, second_seen = await first, await second
        assert (first_seen["request"], first_seen["inside"]) == ("r-1", 1)
        assert (second_seen["request"], second_seen["inside"]) == ("r-2", 2)
        assert "inside" not in structlog.contextvars.get_contextvars()


@real
@pytest.mark.parametrize("reader", [read, read_later, read_in_thread])
async def test_a_span_of_a_tracer_is_the_parent(new_pool, reader):
    """What tracers do: the current span is a variable, a job opens its own under its submitter's."""
    spans = []

    async def traced():
        parent = request_id.get()
        token = request_id.set(f"{parent}/job")
        try:
            await asyncio.sleep(0)
            spans.append(await pool.run(reader))
        finally:
            request_id.reset(token)
        return request_id.get()

    async with new_pool(size=1) as pool:
        request_id.set("root")
        assert await pool.run(traced) == "root"
        assert spans == ["root/job"]


# -- what is kept ------------------------------------------------------------------------------------------------


@real
async def test_a_pool_that_is_opened_at_start_up_pins_no_context(new_pool):
    """Neither the opener's variables nor those of the first submitter live as long as the pool."""
    pool = new_pool(size=2, handle_signals=False, retry=Retry(attempts=2, delay=0))

    async def in_a_task(function):
        thing = Thing()
        request_id.set(thing)
        await function()
        return weakref.ref(thing)

    async def use():
        await pool.run(read_nothing)
        await pool.run(int)
        job = await pool.with_options(timeout=3600, delay=0.001).submit(read_nothing)
        await job
        pool.pause()
        pool.resume()
        pool.resize(3)

    async def read_nothing():
        await asyncio.sleep(0)

    watched = [await asyncio.create_task(in_a_task(pool.__aenter__)), await asyncio.create_task(in_a_task(use))]
    await asyncio.sleep(0.01)
    gc.collect()
    try:
        assert [ref() for ref in watched] == [None, None]
    finally:
        await pool.__aexit__(None, None, None)


@real
@pytest.mark.parametrize("end", ["result", "error", "cancel while queued", "in a thread"])
async def test_a_big_value_is_free_when_the_job_is_done(new_pool, end):
    """The context is let go of with the end of the job, though the handle is kept."""

    async def submit():
        thing = Thing()
        request_id.set(thing)
        if end == "cancel while queued":
            pool.pause()
        job = await pool.submit({"error": wrong, "in a thread": int}.get(end, nothing))
        if end == "cancel while queued":
            job.cancel()
            pool.resume()
        await job.wait()
        return job, weakref.ref(thing)

    async def nothing():
        await asyncio.sleep(0)

    async def wrong():
        await asyncio.sleep(0)
        raise LookupError

    async with new_pool(size=1, on_error=lambda job, error: None) as pool:
        job, ref = await asyncio.create_task(submit())
        assert job.done()
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()
        assert ref() is None


async def test_current_job_outside_of_a_job(new_pool):
    """The text says where to call it; after a job has run in line, too."""
    async with new_pool(size=1) as pool:
        await pool.run(read)
        with pytest.raises(RuntimeError, match=r"pool\.submit"):
            current_job()
