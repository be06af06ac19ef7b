"""Jobs that wait for jobs never deadlock, and the limit still holds."""

import asyncio
import contextlib
import itertools

import anyio
import pytest
from helpers import assert_counters_balance, echo, nap, now, virtual

from aiopool import JobCancelledError, JobTimeoutError, Pool, Retry, current_job
from aiopool.testing import advance, settle

pytestmark = pytest.mark.both_isolations


@virtual
async def test_a_child_in_a_pool_of_size_1(isolation):
    """A job waits for a child in its own pool of size 1, however it hands it in."""
    async with Pool(1, isolation=isolation) as pool:

        async def by_run():
            return await pool.run(echo, "run")

        async def by_submit():
            return await (await pool.submit(echo, "submit"))

        async def by_nowait():
            return await pool.submit_nowait(echo, "nowait")

        async def by_wait():
            job = await pool.submit(echo, "wait")
            assert await job.wait(5)
            return job.result()

        async def by_task():
            return await asyncio.create_task(by_run())

        async def by_gather():
            return (await asyncio.gather(*(pool.run(echo, n) for n in range(5))))[4]

        async def by_thread():
            return await pool.run(str, 7)

        assert await pool.run(by_run) == "run"
        assert await pool.run(by_submit) == "submit"
        assert await pool.run(by_nowait) == "nowait"
        assert await pool.run(by_wait) == "wait"
        assert await pool.run(by_task) == "run"
        assert await pool.run(by_gather) == 4
        assert await pool.run(by_thread) == "7"
        assert pool.statistics().busy == 0


@pytest.mark.parametrize("queue_size", [0, 1, None])
def test_depth_100_with_size_1(queue_size):
    """Recursion of depth 100 through a pool of size 1, with no room in its queue either."""

    @virtual
    async def main(isolation):
        async def down(depth):
            return 0 if depth == 0 else 1 + await pool.run(down, depth - 1)

        async with Pool(1, queue_size, isolation=isolation) as pool:
            assert await pool.run(down, 100) == 100
            assert pool.statistics().busy == 0
            await settle()
            assert len(pool._state.supervisor.workers()) == 1

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_tree_under_a_small_limit(isolation):
    """A tree of jobs through size 3: never do more than 3 of them run code at once."""
    inside = most = 0

    async def work():
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(1)
        inside -= 1

    async def node(depth):
        await work()
        if depth:
            await asyncio.gather(*[await pool.submit(node, depth - 1) for _ in range(3)])
        await work()
        return depth

    async with Pool(3, 2, isolation=isolation) as pool:
        assert await pool.run(node, 3) == 3
        assert most == 3
        assert pool.statistics().busy == 0


@virtual
async def test_it_takes_a_slot_back_before_it_goes_on(isolation):
    """A parent whose child is done waits until there is a slot, ahead of the line."""
    log = []

    async def parent():
        await pool.run(nap, 1)
        log.append(("parent", now()))
        await asyncio.sleep(1)

    async def other(name):
        log.append((name, now()))
        await asyncio.sleep(5)

    async with Pool(1, isolation=isolation) as pool:
        await pool.submit(parent)
        await settle()
        await pool.submit(other, "first")
        await pool.submit(other, "second")
        await pool.with_options(priority=1).submit(other, "better")
    # The child was there first; then the parent, before all that wait in line.
    assert log == [("parent", 1), ("better", 2), ("first", 7), ("second", 12)]


@virtual
async def test_room_in_the_queue_is_waited_for_without_a_slot(isolation):
    """A job that waits for room for its child lends its slot; the queue never holds more than its limit."""

    async def parent():
        jobs = []
        for n in range(10):
            jobs.append(await pool.submit(nap, 1, n))
            # A worker of the fast lane takes a job one turn after the slot was lent for it.
            assert pool.statistics().queued <= (1 if isolation == "task" else 2)
        return [await job for job in jobs]

    async with Pool(1, 1, isolation=isolation) as pool:
        assert await pool.run(parent) == list(range(10))


@virtual
async def test_a_pause_holds_no_running_job(isolation):
    """A running job that waits for another goes on in a paused pool once that one is done."""

    async def parent():
        return await pool.run(nap, 1, "child")

    async with Pool(1, isolation=isolation) as pool:
        job = await pool.submit(parent)
        await advance(0.5)
        pool.pause()
        waiting = await pool.submit(echo)
        assert await job.wait(5)
        assert (now(), waiting.status) == (1, "queued")
        pool.resume()


@virtual
async def test_a_parent_that_is_cancelled_while_it_waits(isolation):
    """Cancelling a waiting parent takes effect at once, though all slots are taken; the child goes on."""
    async with Pool(1, isolation=isolation) as pool:
        children = []

        async def parent():
            children.append(await pool.submit(nap, 10))
            await children[0]

        job = await pool.submit(parent)
        await advance(1)
        report = await pool.cancel(job.id)
        assert report
        assert (now(), children[0].status) == (1, "running")
        assert pool.statistics().busy == 1
        await children[0]
        assert pool.statistics().busy == 0


@virtual
async def test_run_takes_its_child_along(isolation):
    """A parent in `pool.run` that is cancelled cancels its child; both have ended when `cancel` returns."""
    async with Pool(1, isolation=isolation) as pool:

        async def parent():
            await pool.run(nap, 10)

        job = await pool.submit(parent)
        await advance(1)
        assert await pool.cancel(job.id)
        await settle()
        assert (now(), pool.jobs(), pool.statistics().busy) == (1, [], 0)


@virtual
async def test_a_parent_that_is_cancelled_while_it_wants_its_slot_back(isolation):
    """Cancelled in the turn in which it is given a slot: none is lost, none is gained."""
    for turns in range(5):
        async with Pool(1, isolation=isolation) as pool:

            async def parent(pool=pool):
                await pool.run(nap, 1)

            job = await pool.submit(parent)
            await settle()
            other = await pool.with_options(priority=1).submit(nap, 2)
            await advance(1)  # the child is done, the other has the slot, the parent wants it back
            for _ in range(turns):
                await asyncio.sleep(0)
            asyncio.get_running_loop().call_at(now() + 2, job.cancel)
            await other.wait()
            await job.wait()
            await settle()
            assert pool.statistics().busy == 0
            assert_counters_balance(pool)
            assert await pool.run(echo, "well") == "well"


@virtual
async def test_several_tasks_of_a_job_lend_its_slot_once(isolation):
    """The slot is lent with the first that waits, and comes back with the last; one that gives up changes nothing."""
    seen = []
    async with Pool(1, isolation=isolation) as pool:

        async def parent():
            children = [await pool.submit(nap, seconds) for seconds in (1, 2, 4)]
            async with asyncio.TaskGroup() as tasks:
                waiting = [tasks.create_task(pool_wait(child)) for child in children]
                await asyncio.sleep(0.5)
                seen.append((pool.statistics().busy, pool.statistics().running))
                waiting[2].cancel()
                await asyncio.sleep(0.25)
                seen.append((pool.statistics().busy, pool.statistics().running))
            seen.append((now(), pool.statistics().busy))
            await pool.with_options(priority=9).submit(echo)
            return "done"

        async def pool_wait(child):
            await child.wait()

        assert await pool.run(parent) == "done"
        await pool.join()
        assert pool.statistics().busy == 0
        assert_counters_balance(pool)
        assert await pool.run(echo, "well") == "well"
    assert seen == [(1, 2), (1, 2), (3, 1)]


@virtual
async def test_a_time_limit_of_its_own_around_a_child(isolation):
    """`asyncio.timeout` inside a job around the wait for a child strikes; the job goes on with a slot."""
    async with Pool(1, isolation=isolation) as pool:

        async def parent():
            child = await pool.submit(nap, 3)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await child
            assert pool.statistics().busy == 1
            return now(), child

        moment, child = await pool.run(parent)
        # Size 1: the child has the slot until it is done; only then the parent can go on.
        assert moment == 3
        assert child.status == "succeeded"


@virtual
async def test_a_time_limit_of_the_pool_around_a_child(isolation):
    """The limit of an attempt strikes while it waits for a child, and is not late for want of a slot."""
    async with Pool(1, isolation=isolation) as pool:

        async def parent():
            await (await pool.submit(nap, 10))

        job = await pool.with_options(timeout=2).submit(parent)
        with pytest.raises(JobTimeoutError):
            await job
        assert now() == 2


@virtual
async def test_a_parent_is_retried(isolation):
    """A parent that fails after it waited, and is tried again, has neither a slot too many nor too few."""

    async def parent():
        await asyncio.gather(*(pool.run(nap, 1) for _ in range(3)))
        if current_job().attempt < 3:
            raise ValueError
        return "done"

    async with Pool(1, isolation=isolation) as pool:
        job = await pool.with_options(retry=Retry(attempts=3, delay=1)).submit(parent)
        assert await job == "done"
        assert pool.statistics().busy == 0
        assert pool._state.engine.slots.lent == 0


@virtual
async def test_a_parent_that_ends_while_its_task_still_waits(isolation):
    """A stray task of a finished job, still waiting for a child, neither holds nor gives back a slot."""
    stray = []

    async def parent():
        child = await pool.submit(nap, 5)

        async def wait():
            await child

        stray.append(asyncio.create_task(wait()))
        await asyncio.sleep(1)

    async with Pool(1, isolation=isolation) as pool:
        await pool.run(parent)
        assert pool.statistics().busy == 1  # the child
        await stray[0]
        await settle()
        assert pool.statistics().busy == 0
        assert await pool.run(echo, 1) == 1


@virtual
async def test_a_parent_is_tried_again_while_its_task_still_waits(isolation):
    """A stray task of an attempt that failed does not give back the slot that the next attempt has lent in its turn."""
    stray = []

    async def parent():
        if current_job().attempt == 1:
            stray.append(asyncio.create_task(pool.run(nap, 5, "first")))
            await asyncio.sleep(1)
            raise ValueError
        return await pool.run(nap, 10, "second")

    async with Pool(1, isolation=isolation) as pool:
        job = await pool.with_options(retry=Retry(attempts=2, delay=1, jitter=0)).submit(parent)
        assert await job == "second"
        assert await stray[0] == "first"
        assert now() == 15
        assert pool.statistics().busy == 0
        assert_counters_balance(pool)


@virtual
async def test_a_task_that_begins_to_wait_as_another_gets_the_slot_back(isolation):
    """The slot that was granted is free again for the job that the second task waits for; one comes back at the end."""

    async def parent():
        ended = asyncio.Event()
        first = await pool.submit(nap, 1)
        first.add_done_callback(lambda job: ended.set())

        async def second():
            await ended.wait()
            await pool.run(nap, 1)

        task = asyncio.create_task(second())
        await first
        await task
        return pool.statistics().busy

    async with Pool(1, isolation=isolation) as pool:
        assert await pool.run(parent) == 1
        assert now() == 2
        assert pool._state.engine.slots.lent == pool.statistics().busy == 0
        assert await pool.run(echo, 1) == 1


@virtual
async def test_a_task_that_is_cancelled_as_its_job_gets_the_slot_back(isolation):
    """It waited for the slot only: the one that it was granted in that moment is not lost."""

    async def parent():
        child = await pool.submit(nap, 2)

        async def gives_up():
            async with asyncio.timeout(1):
                await child

        task = asyncio.create_task(gives_up())
        # After the end of the child, with which its slot is granted, and before the task takes its next step.
        child.add_done_callback(lambda job: asyncio.get_running_loop().call_soon(task.cancel))
        await asyncio.wait([task])
        return now(), task.cancelled(), pool.statistics().busy

    async with Pool(1, isolation=isolation) as pool:
        assert await pool.run(parent) == (2, True, 1)
        assert pool._state.engine.slots.lent == pool.statistics().busy == 0
        assert await pool.run(echo, 1) == 1


@virtual
async def test_a_task_that_is_cancelled_as_its_child_ends(isolation):
    """Another task of the job waits on: nothing was granted, and nothing is given back."""

    async def parent():
        children = [await pool.submit(nap, 1), await pool.submit(nap, 5)]
        tasks = [asyncio.ensure_future(child.wait()) for child in children]
        children[0].add_done_callback(lambda job: tasks[0].cancel())
        await asyncio.wait(tasks)
        return [task.cancelled() for task in tasks]

    async with Pool(2, isolation=isolation) as pool:
        assert await pool.run(parent) == [True, False]
        assert now() == 5
        assert pool._state.engine.slots.lent == pool.statistics().busy == 0
        assert await asyncio.gather(*(pool.run(nap, 1) for _ in range(2))) == [None, None]
        assert now() == 6


@virtual
async def test_awaiting_oneself(isolation):
    """A job that awaits itself would wait for ever: an error says so."""

    async def own():
        await current_job()

    async with Pool(1, isolation=isolation) as pool:
        with pytest.raises(RuntimeError, match="awaits itself"):
            await pool.run(own)


@virtual
async def test_verbs_inside_a_job(isolation):
    """Join, cancel of itself, pause and resume, resize and shutdown inside a job do not deadlock."""
    async with Pool(1, isolation=isolation) as pool:

        async def joins():
            await pool.submit(nap, 1)
            await pool.join()
            return now()

        assert await pool.run(joins) == 1

        async def ends_itself():
            await pool.cancel(current_job().id, "enough")
            await asyncio.sleep(50)

        with pytest.raises(JobCancelledError, match="enough"):
            await pool.run(ends_itself)

        async def pauses():
            async with pool.paused():
                await asyncio.sleep(1)

        await pool.run(pauses)

        async def shuts_down():
            waiting.append(await pool.submit(nap, 1))
            return await pool.shutdown()

        waiting = []
        job = await pool.submit(shuts_down)
        report = await job
        assert report.clean
        assert waiting[0].status == "succeeded"


@virtual
async def test_who_joins_from_outside_waits_for_who_joins_inside(isolation):
    """A join from outside does not return before a job that joined inside has ended, too."""
    over = []

    async def joins():
        await pool.join()
        await asyncio.sleep(5)
        over.append(now())

    async with Pool(2, isolation=isolation) as pool:
        await pool.submit(nap, 1)
        joining = asyncio.create_task(pool.join())
        await settle()
        await pool.submit(joins)
        await joining
        assert over == [6]
        assert now() == 6


@virtual
async def test_submitting_in_callbacks(isolation):
    """A done-callback and the error sink may submit."""
    made = []

    async def bad():
        raise ValueError

    def again(*_):
        made.append(pool.submit_nowait(echo, "again"))

    async with Pool(1, isolation=isolation, on_error=again) as pool:
        job = await pool.submit(echo)
        job.add_done_callback(again)
        await pool.submit(bad)
        await job
        await pool.join()
        assert [job.result() for job in made] == ["again", "again"]


@virtual
async def test_never_suspending_jobs_that_beget_jobs(isolation):
    """An endless family of jobs that never suspend leaves the loop to others, in virtual time too."""
    async with Pool(2, None, isolation=isolation) as pool:
        born, over = itertools.count(), []

        async def beget():
            next(born)
            if not over:
                pool.submit_nowait(beget)

        pool.submit_nowait(beget)
        for _ in range(10):
            await asyncio.sleep(0)
        over.append(True)
        await pool.join()
        assert next(born) < 100


@virtual
async def test_who_waits_for_another_pool_keeps_the_slot(isolation):
    """Two documents at a time stay two, though their jobs wait for the pages, which another pool fetches."""
    under_way, most = 0, 0

    async def document(pages):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        async with fetching.group() as group:
            for _ in range(pages):
                await group.submit(nap, 1)
        await fetching.run(nap, 1)
        await fetching.map(nap, (1, 1)).collect()
        under_way -= 1

    async with Pool(2, isolation=isolation) as reading, Pool(5, 0, isolation=isolation) as fetching:
        for _ in range(10):
            await reading.submit(document, 4)
        await reading.join()
    assert (under_way, most) == (0, 2)


@virtual
async def test_two_pools_in_a_ring(isolation):
    """Two pools that wait for each other stand still; a time limit ends that, and one can see it."""
    async with Pool(1, isolation=isolation, name="a") as a, Pool(1, isolation=isolation, name="b") as b:

        async def first():
            return await b.run(second)

        async def second():
            return await a.with_options(total_timeout=5).run(echo, "round")

        job = await a.submit(first)
        await settle()
        assert [(j.pool_name, j.name.rpartition(".")[2], j.waiting_for) for p in (a, b) for j in p.jobs()] == [
            ("a", "first", None),
            ("a", "echo", "slot"),
            ("b", "second", None),
        ]
        with pytest.raises(JobTimeoutError, match="total"):
            await job
        assert now() == 5
        assert await a.run(echo, 1) == await b.run(echo, 1) == 1


def slow_to_end(seconds):
    """A function that takes so long to clean up, whoever tells it to stop and however often."""

    async def function():
        try:
            await asyncio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(seconds)

    return function


@virtual
async def test_the_clean_up_of_a_parent_that_was_told_to_stop_waits_for_no_slot(isolation):
    """It has told its child, whose slot has gone to another job meanwhile: it ends all the same."""
    async with Pool(1, isolation=isolation) as pool:

        async def parent():
            await pool.run(slow_to_end(0.5))

        handle = await pool.with_options(timeout=1).submit(parent)
        await advance(0.25)
        other = await pool.submit(nap, 100)
        with pytest.raises(JobTimeoutError):
            await handle
        assert (now(), handle.leaked, other.status) == (1.5, False, "running")
        assert await pool.cancel(other.id)
        await settle()
        assert pool.statistics().busy == 0


@virtual
async def test_a_parent_that_is_told_to_stop_while_it_wants_its_slot_back_needs_none(isolation):
    """Also where it cannot be told, behind a shield: it does not wait for another job's end, and is not leaked."""
    async with Pool(1, isolation=isolation) as pool:

        async def parent():
            with anyio.CancelScope(shield=True), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await child
            await asyncio.sleep(3600)

        handle = await pool.submit(parent)
        child = await pool.submit(nap, 10)
        await advance(2)
        assert (handle.status, child.status, pool.statistics().busy) == ("running", "running", 1)
        handle.cancel()
        await handle.wait()
        assert (now(), handle.leaked, child.status) == (2, False, "running")
        await settle()
        assert pool.statistics().busy == 1
        await child
        await settle()
        assert pool.statistics().busy == 0


@virtual
@pytest.mark.parametrize("through", ["run", "group", "collect"])
async def test_a_time_limit_of_its_own_around_children_that_end_with_it(isolation, through):
    """They are cancelled when it strikes, though they have the slot without which their parent cannot go on."""
    async with Pool(1, isolation=isolation) as pool:

        async def parent():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    if through == "run":
                        await pool.run(nap, 3600)
                    elif through == "group":
                        async with pool.group() as group:
                            await group.submit(nap, 3600)
                    else:
                        await pool.map(nap, [3600, 3600]).collect()
            assert pool.statistics().busy == 1
            return now()

        assert await pool.run(parent) == 1
        assert pool.statistics().cancelled == (2 if through == "collect" else 1)


@virtual
async def test_a_slot_that_comes_back_while_another_task_waits_is_passed_on(isolation):
    """A task gets the slot back, and another task of its job has begun to wait just then: the slot is free."""

    async def tell(event):
        event.set()

    async def outer():
        event = asyncio.Event()

        async def first():
            await (await pool.submit(tell, event))

        async def second():
            await event.wait()
            return await pool.run(echo, "second")

        return (await asyncio.gather(first(), second()))[1]

    async with Pool(1, isolation=isolation) as pool:
        assert await pool.run(outer) == "second"
        assert await pool.run(echo, "the slot is there") == "the slot is there"
        assert_counters_balance(pool)


@virtual
async def test_a_wait_that_is_closed_does_not_wait_for_a_slot(isolation):
    """A coroutine that is closed must not suspend again: the loan ends, and the job goes on without its slot."""

    async def outer():
        other = await pool.submit(nap, 5)
        waiting = other.__await__()
        next(waiting)
        await asyncio.sleep(1)  # the other has the slot
        waiting.close()
        return now()

    async with Pool(1, isolation=isolation) as pool:
        assert await pool.run(outer) == 1
    assert now() == 5
