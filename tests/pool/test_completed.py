"""`as_completed`: jobs that were submitted one by one, as they end."""

import asyncio
import gc
import weakref

import pytest
from helpers import echo, fail, forever, nap, now, virtual

from aiopool import JobStatus, Pool, PoolClosedError, current_job
from aiopool._jobs.waiters import awaiter_count
from aiopool.testing import advance, settle

pytestmark = pytest.mark.both_isolations


async def fail_after(seconds):
    await asyncio.sleep(seconds)
    raise ValueError(seconds)


def collector(seen):
    """An `on_error` that notes what it is told."""
    return lambda job, error: seen.append(str(error))


async def break_after_first(stream):
    async for job in stream:
        return job
    return None


async def cancel_at_its_end(task, job):
    job.add_done_callback(lambda _: task.cancel())
    await asyncio.wait([task])
    assert task.cancelled()


@virtual
async def test_jobs_come_as_they_end(isolation):
    """Each as soon as it has ended, whatever the order of submission; no longer than that is waited."""
    async with Pool(3, isolation=isolation) as pool:
        jobs = [await pool.submit(nap, seconds, seconds) for seconds in (3, 1, 2)]
        seen = [(job.result(), now()) async for job in pool.as_completed(jobs)]
    assert seen == [(1, 1), (2, 2), (3, 3)]


@virtual
async def test_ended_ones_come_first_in_the_order_of_their_ends(isolation):
    """Without waiting; then the others."""
    async with Pool(4, isolation=isolation) as pool:
        jobs = [await pool.submit(nap, seconds, seconds) for seconds in (9, 3, 1, 2)]
        await advance(5)
        stream = pool.as_completed(iter(jobs))
        seen = [((await anext(stream)).result(), now()) for _ in range(4)]
        assert seen == [(1, 5), (2, 5), (3, 5), (9, 9)]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@virtual
async def test_a_job_that_is_given_twice_comes_once(isolation):
    """Also if it has ended. No jobs at all is an end, too."""
    async with Pool(2, isolation=isolation) as pool:
        ended = await pool.submit(echo)
        await ended
        job = await pool.submit(nap)
        assert [found async for found in pool.as_completed([job, ended, job, ended])] == [ended, job]
        assert [found async for found in pool.as_completed([])] == []


@virtual
async def test_every_kind_of_end_comes_and_nothing_is_raised(isolation):
    """Failed, timed out, cancelled: the consumer asks the job, and nobody else is told."""
    seen = []
    async with Pool(4, isolation=isolation, on_error=collector(seen)) as pool:
        failed = await pool.submit(fail_after, 1)
        late = await pool.with_options(timeout=2).submit(forever)
        cancelled = await pool.submit(forever)
        scheduled = await pool.with_options(delay=4).submit(echo)
        stream = pool.as_completed([scheduled, cancelled, late, failed])
        asyncio.get_running_loop().call_later(3, cancelled.cancel)
        statuses = [job.status async for job in stream]
        assert statuses == [JobStatus.FAILED, JobStatus.TIMED_OUT, JobStatus.CANCELLED, JobStatus.SUCCEEDED]
        with pytest.raises(ValueError):
            failed.result()
    assert seen == []


@virtual
async def test_what_ends_before_the_first_step_is_not_reported(isolation):
    """The jobs are handed over by the call, not by the first step of the loop."""
    seen = []
    async with Pool(2, isolation=isolation, on_error=collector(seen)) as pool:
        job = await pool.submit(fail_after, 1)
        stream = pool.as_completed([job])
        await advance(2)
        assert await anext(stream) is job
    assert seen == []


@virtual
async def test_leaving_early_leaves_nothing_behind(isolation):
    """The jobs go on, and none of them knows the loop any more; what fails from then on is reported, once."""
    seen = []
    async with Pool(4, isolation=isolation, on_error=collector(seen)) as pool:
        jobs = [await pool.submit(nap, 1), await pool.submit(fail_after, 2), await pool.submit(nap, 3)]
        assert await break_after_first(pool.as_completed(jobs)) is jobs[0]
        await settle()
        assert [job._waiters for job in jobs] == [None] * 3
        await advance(1)
        assert seen == ["2"]
        assert await jobs[2] is None
    assert seen == ["2"]


@virtual
async def test_failures_that_nobody_took_are_reported_once(isolation):
    """Those in line when the loop is left; but not what was told before, nor what somebody else awaits."""
    seen = []
    async with Pool(9, isolation=isolation, on_error=collector(seen)) as pool:
        before = await pool.submit(fail, ValueError("before"))
        await settle()
        assert seen == ["before"]
        first = await pool.submit(nap, 1)
        untaken = await pool.submit(fail_after, 2)
        awaited = await pool.submit(fail_after, 3)
        awaiter = asyncio.ensure_future(asyncio.wait_for(awaited, None))
        stream = pool.as_completed([before, first, untaken, awaited])
        again = pool.as_completed([untaken])
        unbegun = pool.as_completed([before])
        await advance(4)
        assert await anext(stream) is before
        del stream, unbegun
        await settle()
        assert seen == ["before"]  # the other stream may take it
        del again
        await settle()
        assert seen == ["before", "2"]
        with pytest.raises(ValueError):
            await awaiter
        assert await break_after_first(pool.as_completed([untaken])) is untaken
    assert seen == ["before", "2"]


@virtual
async def test_a_failure_that_somebody_has_taken_is_not_reported(isolation):
    """It was awaited; then the job is given to a loop that leaves it."""
    seen = []
    async with Pool(2, isolation=isolation, on_error=collector(seen)) as pool:
        job = await pool.submit(fail_after, 1)
        with pytest.raises(ValueError):
            await job
        pool.as_completed([job])
        await settle()
    assert seen == []


@virtual
async def test_a_stream_that_was_never_begun(isolation):
    """It is dropped like one that was left."""
    seen = []
    async with Pool(2, isolation=isolation, on_error=collector(seen)) as pool:
        job = await pool.submit(fail_after, 1)
        pool.as_completed([job])
        await settle()
        assert awaiter_count(job) == 0
        await advance(1)
    assert seen == ["1"]


@virtual
async def test_a_consumer_that_is_cancelled(isolation):
    """The jobs go on; the loop may be taken up again, and has lost nothing."""
    async with Pool(2, isolation=isolation) as pool:
        jobs = [await pool.submit(nap, 2), await pool.submit(nap, 3)]
        stream = pool.as_completed(jobs)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await anext(stream)
        assert stream._line._wakeups == {}
        consumer = asyncio.create_task(anext(stream))
        await settle()
        await cancel_at_its_end(consumer, jobs[0])  # it was woken in the same turn
        assert [job async for job in stream] == jobs
        assert now() == 3


@virtual
async def test_a_consumer_that_is_cancelled_as_a_job_ends_loses_no_failure(isolation):
    """It was woken, and cancelled before it took the job: that is reported when the loop is dropped."""
    seen = []
    async with Pool(2, isolation=isolation, on_error=collector(seen)) as pool:
        job = await pool.submit(fail_after, 1)
        consumer = asyncio.create_task(break_after_first(pool.as_completed([job])))
        await settle()
        await cancel_at_its_end(consumer, job)
        del consumer
        gc.collect()
        await settle()
        assert seen == ["1"]


@virtual
async def test_a_job_ends_in_the_turn_in_which_its_consumer_was_cancelled(isolation):
    """Before that one has noticed: the others hear of it."""
    async with Pool(2, isolation=isolation) as pool:
        job = await pool.with_options(delay=9).submit(echo)
        stream = pool.as_completed([job])
        consumers = [asyncio.create_task(anext(stream)) for _ in range(2)]
        await settle()
        consumers[0].cancel()
        job.cancel()
        assert await consumers[1] is job
        assert consumers[0].cancelled()


@virtual
async def test_two_consumers_share_a_stream(isolation):
    """Each job goes to one of them, and both come to the end."""
    async with Pool(9, isolation=isolation) as pool:
        jobs = [await pool.submit(nap, seconds // 2, seconds) for seconds in range(9)]
        stream = pool.as_completed(jobs)

        async def consume():
            return [job.result() async for job in stream]

        one, two = await asyncio.gather(consume(), consume())
        assert sorted(one + two) == list(range(9))


@virtual
async def test_a_job_lends_its_slot_while_it_waits(isolation):
    """In a pool of size one, at every depth: nobody waits for ever."""

    async def parent(depth):
        children = [await pool.submit(parent, depth - 1) for _ in range(2)] if depth else []
        count = 1
        async for child in pool.as_completed(children):
            count += child.result()
        return count

    async with Pool(1, isolation=isolation) as pool:
        assert await pool.run(parent, 4) == 31
        assert pool.statistics().busy == 0


@virtual
async def test_a_consumer_in_a_job_is_cancelled(isolation):
    """It ends at once, its children go on, and no slot is lost."""

    async def parent():
        children.append(await pool.submit(nap, 5))
        async for _ in pool.as_completed(children):
            pass

    children = []
    async with Pool(1, isolation=isolation) as pool:
        job = await pool.submit(parent)
        await advance(1)
        assert await pool.cancel(job.id)
        assert now() == 1
        await children[0]
        assert now() == 5
        await settle()
        assert (pool.statistics().busy, children[0]._waiters) == (0, None)


@virtual
async def test_a_pool_that_closes_meanwhile(isolation):
    """Every job has an end then, so has the loop; a pool that has closed still tells."""
    async with Pool(2, isolation=isolation) as pool:
        jobs = [await pool.submit(forever) for _ in range(5)]
        stream = pool.as_completed(jobs)

        async def consume():
            return [job.status async for job in stream]

        consumer = asyncio.create_task(consume())
        await settle()
        await pool.shutdown(timeout=1)
        with pytest.raises(PoolClosedError):
            await pool.submit(echo)
        assert await consumer == [JobStatus.CANCELLED] * 5
    assert len([job async for job in pool.as_completed(jobs)]) == 5


@virtual
async def test_a_stream_that_is_left_as_the_pool_closes(isolation):
    """Nothing hangs, and the failure is told."""
    seen = []
    async with Pool(2, isolation=isolation, on_error=collector(seen)) as pool:
        jobs = [await pool.submit(nap, 1), await pool.submit(fail_after, 2)]
        stream = pool.as_completed(jobs)
        await anext(stream)
    assert seen == []
    del stream
    await settle()
    assert seen == ["2"]


@virtual
async def test_many_jobs_without_growth(isolation):
    """For 16,000 jobs: no task, no timer, no callback of the loop more than for one; and nothing is kept of them."""
    count = 16_000

    async with Pool(2, None, isolation=isolation) as pool:
        async with pool.paused():
            jobs = [await pool.submit(echo, n) for n in range(count)]
            tasks = len(asyncio.all_tasks())
            loop = asyncio.get_running_loop()
            armed, ready = len(loop.armed()), len(loop.ready())
            gc.collect()
            before = len(gc.get_objects())
            stream = pool.as_completed(jobs)
            assert len(asyncio.all_tasks()) == tasks
            assert (len(loop.armed()), len(loop.ready())) == (armed, ready)
            gc.collect()
            assert len(gc.get_objects()) - before < 50
        taken = 0
        async for job in stream:
            assert job is jobs[taken]
            taken += 1
        assert taken == count
        assert (len(stream._line.pending), len(stream._line.ended)) == (0, 0)
        ready = len(loop.ready())
        del stream
        assert len(loop.ready()) == ready  # it was taken to its end: there is nothing to close
        last = weakref.ref(job)
        jobs.clear()
        del job
        await settle()
        assert last() is None


@virtual
async def test_what_cannot_be_waited_for(isolation):
    """No job, a job of another pool, a job that waits for itself: an error with the line to write, and no trace."""
    unopened = Pool()
    with pytest.raises(RuntimeError, match=r"as_completed\(\) on pool 'pool', which is new"):
        unopened.as_completed([])
    async with Pool(2, name="ours", isolation=isolation) as pool, Pool(2, name="theirs", isolation=isolation) as other:
        job, stranger = await pool.submit(nap), await other.submit(nap)
        with pytest.raises(TypeError, match=r"an iterable of jobs, .*write as_completed\(\[job, \.\.\.\]\)"):
            pool.as_completed(job)
        with pytest.raises(TypeError, match=r"takes jobs, not 7 \(int\): write `job = await pool\.submit\("):
            pool.as_completed([job, 7])
        with pytest.raises(ValueError, match=r"of pool 'ours' was given <Job .* of another pool, 'theirs': write"):
            pool.as_completed([job, stranger])
        with pytest.raises(TypeError, match="`async for job in"):
            iter(pool.as_completed([job]))
        with pytest.raises(TypeError, match="`async for job in"):
            await pool.as_completed([job])
        await settle()
        assert job._waiters is None

        async def waits_for_itself():
            return [found async for found in pool.as_completed([job, current_job()])]

        with pytest.raises(RuntimeError, match=r"awaits itself: it would wait for ever\. Write"):
            await pool.run(waits_for_itself)
        tasks = []

        async def outlived_by_its_task():
            async def look_back():
                await asyncio.sleep(1)
                return [found async for found in pool.as_completed([current_job()])]

            tasks.append(asyncio.create_task(look_back()))

        parent = await pool.submit(outlived_by_its_task)
        await parent
        assert await tasks[0] == [parent]  # it has ended: it waits for nothing
        # Not in the thread of the loop: see the other methods.
        with pytest.raises(RuntimeError, match="another thread"):
            await asyncio.to_thread(pool.as_completed, [job])
