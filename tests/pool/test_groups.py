"""Groups: blocks of jobs with the rules of `asyncio.TaskGroup`."""

import asyncio
import gc
import weakref

import pytest
from helpers import echo, fail, nap, now, virtual

from aiopool import JobCancelledError, JobOptions, Pool, Retry
from aiopool.errors import JobDroppedError
from aiopool.testing import advance, settle


class OwnError(Exception):
    """Unlike a builtin exception it can be referred to weakly."""


@virtual
async def test_it_is_left_when_all_are_done(isolation):
    """The block ends with its last job, jobs of others aside."""
    async with Pool(4, isolation=isolation) as pool:
        other = await pool.submit(nap, 9)
        async with pool.group("import") as group:
            jobs = [await group.submit(nap, n, n) for n in (1, 3, 2)]
            assert group.jobs == jobs
            assert [job.group for job in jobs] == ["import"] * 3
        assert now() == 3
        assert [job.result() for job in jobs] == [1, 3, 2]
        assert group.jobs == []
        assert not other.done()


@virtual
async def test_a_block_that_is_entered_outside_of_any_task(isolation):
    """As a callback of the loop may do by hand: there is no body to cancel; the block is left as any other."""
    async with Pool(2, isolation=isolation) as pool:
        group = pool.group(timeout=5)
        entered = []

        def enter():
            with pytest.raises(StopIteration) as caught:
                group.__aenter__().send(None)
            entered.append(caught.value.value)

        asyncio.get_running_loop().call_soon(enter)
        await settle()
        assert entered == [group]
        failed = await group.submit(fail)
        await failed.wait()
        assert asyncio.current_task().cancelling() == 0
        with pytest.raises(ExceptionGroup) as info:
            await group.__aexit__(None, None, None)
        assert info.value.exceptions == (failed.exception(),)


@virtual
async def test_the_first_failure_cancels_the_others_and_the_body(isolation):
    """As in `TaskGroup`: running and queued jobs are cancelled, the body is, and all failures are raised."""
    body = []
    async with Pool(2, isolation=isolation) as pool:
        with pytest.raises(BaseExceptionGroup) as info:
            async with pool.group("import") as group:
                running = await group.submit(nap, 100)
                await group.submit(nap_and_fail, 1)
                queued = await group.submit(nap, 100)
                try:
                    await asyncio.sleep(50)
                except asyncio.CancelledError:
                    body.append(now())
                    raise
        assert [type(error) for error in info.value.exceptions] == [ValueError]
        assert "import" in str(info.value)
        assert body == [now()] == [1]
        assert running.cancelled()
        assert queued.cancelled()
        assert asyncio.current_task().cancelling() == 0
        assert await pool.run(echo, 1) == 1


async def nap_and_fail(seconds, error=ValueError):
    await asyncio.sleep(seconds)
    raise error


@virtual
async def test_all_failures_are_in_the_group(isolation):
    """Failures of the clean-up of others, and that of the body, are raised together."""

    async def bad_cleanup():
        try:
            await asyncio.sleep(100)
        finally:
            raise KeyError

    async with Pool(4, isolation=isolation) as pool:
        with pytest.raises(BaseExceptionGroup) as info:
            async with pool.group() as group:
                await group.submit(bad_cleanup)
                await group.submit(nap_and_fail, 1)
                try:
                    await asyncio.sleep(50)
                finally:
                    raise OSError
        assert sorted(type(error).__name__ for error in info.value.exceptions) == ["KeyError", "OSError", "ValueError"]


@virtual
async def test_a_failing_body_cancels_the_jobs(isolation):
    """When the body raises, the jobs are cancelled and waited for; the error comes in a group."""
    async with Pool(2, isolation=isolation) as pool:
        with pytest.raises(BaseExceptionGroup) as info:
            async with pool.group() as group:
                job = await group.submit(nap, 100)
                await asyncio.sleep(1)
                raise KeyError
        assert [type(error) for error in info.value.exceptions] == [KeyError]
        assert now() == 1
        assert job.cancelled()


@virtual
async def test_cancelling_a_member_is_no_failure(isolation):
    """A member that is cancelled does not fail the group."""
    async with Pool(2, isolation=isolation) as pool:
        async with pool.group() as group:
            gone, stays = await group.submit(nap, 100), await group.submit(nap, 1, "stays")
            await settle()
            assert gone.cancel("not needed")
        assert now() == 1
        assert stays.result() == "stays"
        with pytest.raises(JobCancelledError, match="not needed"):
            await gone


@virtual
async def test_cancelling_the_group(isolation):
    """`group.cancel` and `cancel_all(group=...)` end all members, queued ones too; the block is left in peace."""
    async with Pool(2, isolation=isolation) as pool:
        async with pool.group("a") as group:
            jobs = [await group.submit(nap, 100) for _ in range(5)]
            await settle()
            assert group.cancel("enough") == 5
        assert all(job.cancelled() for job in jobs)
        async with pool.group("b") as group:
            jobs = [await group.submit(nap, 100) for _ in range(5)]
            outside = await pool.with_options(group="b").submit(nap, 100)
            await settle()
            assert await pool.cancel_all(group="b") == 6
            assert outside.cancelled()
            assert await pool.cancel_all(group="b") == 0
            assert await pool.cancel_all(group="nobody") == 0
        assert now() == 0


@virtual
async def test_a_group_has_a_pause_of_its_own(isolation):
    """`pause`, `resume` and `paused` hold the pool, or with `group=` one group; each pause is ended by itself."""
    async with Pool(2, isolation=isolation) as pool:
        other = await pool.submit(echo, 1)
        async with pool.paused(group="a"):
            held = await pool.with_options(group="a").submit(echo, 2)
            assert await other == 1
            await advance(1)
            assert held.waiting_for == "group paused"
            async with pool.paused(group="a"):
                pass
            await advance(1)
            assert not held.done()  # the outer block holds it still
            async with pool.paused():
                pool.resume(group="b")
                third = await pool.submit(echo, 3)
                await advance(1)
                assert not third.done()
            assert await third == 3
            assert not held.done()
        assert await held == 2
        pool.pause(group="")
        nameless = await pool.with_options(group="").submit(echo, 4)
        assert await pool.run(echo, 5) == 5
        assert not nameless.done()
        assert await pool.cancel_all("enough", group="") == 1


@virtual
async def test_cancelling_the_owner(isolation):
    """A cancel of the task that owns the block ends the jobs, and gets out as what it is."""
    async with Pool(2, isolation=isolation) as pool:
        jobs = []

        async def owner():
            async with pool.group() as group:
                jobs.extend([await group.submit(nap, 100) for _ in range(4)])

        for moment in (0, 1):  # in the body, and while it is being left
            task = asyncio.create_task(owner())
            await advance(moment)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert all(job.cancelled() for job in jobs)


@virtual
async def test_an_outer_cancel_survives_a_failing_cleanup(isolation):
    """An owner that is cancelled while a clean-up raises gets the group, and then its cancel."""

    async def bad_cleanup():
        try:
            await asyncio.sleep(100)
        finally:
            raise ValueError

    async with Pool(2, isolation=isolation) as pool:
        steps = []

        async def owner():
            try:
                async with pool.group() as group:
                    await group.submit(bad_cleanup)
                    await asyncio.sleep(100)
            except* ValueError:
                steps.append("caught")
            await asyncio.sleep(0)
            steps.append("swallowed")

        task = asyncio.create_task(owner())
        await settle()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert steps == ["caught"]


@virtual
async def test_an_outer_time_limit_is_a_time_limit(isolation):
    """`asyncio.timeout` around a block ends as a time limit, in the body and in the leaving of it."""
    async with Pool(2, isolation=isolation) as pool:
        for in_body in (True, False):
            began = now()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    async with pool.group() as group:
                        job = await group.submit(nap, 100)
                        if in_body:
                            await asyncio.sleep(50)
            assert now() == began + 1
            assert job.cancelled()
            assert asyncio.current_task().cancelling() == 0


@virtual
async def test_a_group_in_a_task_that_was_cancelled_before(isolation):
    """In the clean-up of a cancelled task a group counts its own cancel only; a failure comes out as one."""
    async with Pool(2, isolation=isolation) as pool:
        seen = []

        async def owner():
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                try:
                    async with pool.group() as group:
                        await group.submit(nap_and_fail, 1)
                        await asyncio.sleep(50)
                except* ValueError:
                    seen.append(asyncio.current_task().cancelling())
                with pytest.raises(TimeoutError, match="not done within"):
                    async with pool.group(timeout=1):
                        await asyncio.sleep(50)
                seen.append(asyncio.current_task().cancelling())
                raise

        task = asyncio.create_task(owner())
        await settle()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert seen == [1, 1]


@virtual
async def test_collect(isolation):
    """`on_error="collect"`: the others go on, the block is left in peace, the failures are in `errors`."""
    async with Pool(2, isolation=isolation) as pool:
        async with pool.group(on_error="collect") as group:
            await group.submit(fail, KeyError)
            good = await group.submit(nap, 5, "good")
            await group.submit(fail, OSError)
        assert good.result() == "good"
        assert [type(error) for error in group.errors] == [KeyError, OSError]


@virtual
async def test_collect_lets_a_cancel_and_a_time_limit_out(isolation):
    """With `collect` and failures, the owner's cancel and the block's own time limit still get out."""
    async with Pool(2, isolation=isolation) as pool:
        for in_body in (True, False):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    async with pool.group(on_error="collect") as group:
                        await group.submit(fail)
                        await group.submit(nap, 100)
                        if in_body:
                            await asyncio.sleep(50)
            assert len(group.errors) == 1
        with pytest.raises(TimeoutError, match="not done within 1 s"):
            async with pool.group(on_error="collect", timeout=1) as group:
                await group.submit(fail)
                await group.submit(nap, 100)
        assert len(group.errors) == 1


@virtual
async def test_the_time_limit_of_a_block(isolation):
    """`timeout=`: jobs and body are cancelled, leaving raises `TimeoutError`; nothing is left of the cancel."""
    async with Pool(2, isolation=isolation) as pool:
        for in_body in (True, False):
            began = now()
            with pytest.raises(TimeoutError, match="not done within 2 s"):
                async with pool.group(timeout=2) as group:
                    job = await group.submit(nap, 100)
                    if in_body:
                        await asyncio.sleep(50)
            assert now() == began + 2
            assert job.cancelled()
            assert asyncio.current_task().cancelling() == 0
        async with pool.group(timeout=2) as group:
            await group.submit(nap, 1)
        await advance(5)  # the limit of a block that was left does not strike
        with pytest.raises(TimeoutError):
            async with pool.group(timeout=0):
                await asyncio.sleep(1)


@virtual
async def test_a_time_limit_beside_a_failure(isolation):
    """When a clean-up fails because of the limit, both are told."""

    async def bad_cleanup():
        try:
            await asyncio.sleep(100)
        finally:
            raise ValueError

    async with Pool(2, isolation=isolation) as pool:
        with pytest.raises(BaseExceptionGroup) as info:
            async with pool.group(timeout=1) as group:
                await group.submit(bad_cleanup)
        assert [type(error) for error in info.value.exceptions] == [ValueError, TimeoutError]


@virtual
async def test_groups_in_groups(isolation):
    """A failure in the inner block cancels its jobs first, and then the outer one, as in `TaskGroup`."""
    async with Pool(4, isolation=isolation) as pool:
        with pytest.raises(BaseExceptionGroup) as info:
            async with pool.group("outer") as outer:
                out = await outer.submit(nap, 100)
                async with pool.group("inner") as inner:
                    within = await inner.submit(nap, 100)
                    await inner.submit(nap_and_fail, 1)
        assert out.cancelled()
        assert within.cancelled()
        assert info.value.split(ValueError)[1] is None
        assert asyncio.current_task().cancelling() == 0
        with pytest.raises(BaseExceptionGroup):
            async with pool.group("outer") as outer:
                await outer.submit(nap_and_fail, 1)
                async with pool.group("inner") as inner:
                    within = await inner.submit(nap, 100)
                    await asyncio.sleep(50)
        assert within.cancelled()
        assert asyncio.current_task().cancelling() == 0


@virtual
async def test_members_that_submit_members(isolation):
    """A crawler: jobs of a block hand in more of them, with size 1; the block is left when the last one is done."""
    found = []
    async with Pool(1, isolation=isolation) as pool:

        async def crawl(depth):
            found.append(depth)
            if depth:
                for _ in range(3):
                    await group.submit(crawl, depth - 1)

        async with pool.group() as group:
            await group.submit(crawl, 4)
        assert len(found) == 1 + 3 + 9 + 27 + 81


@virtual
async def test_a_block_inside_a_job_with_size_1(isolation):
    """A job that opens a block and waits for it lends its slot."""

    async def parent(depth):
        if depth:
            async with pool.group() as group:
                job = await group.submit(parent, depth - 1)
            return job.result() + 1
        return 0

    async with Pool(1, isolation=isolation) as pool:
        assert await pool.run(parent, 20) == 20


@virtual
async def test_a_group_takes_jobs_inside_its_block_only(isolation):
    """Submitting to a group that was left, or is ending, is refused; nothing is left un-awaited by that."""
    async with Pool(2, isolation=isolation) as pool:
        async with pool.group("g") as group:
            pass
        for submit in (group.submit, group.submit_nowait):
            with pytest.raises(RuntimeError, match="was left"):
                result = submit(echo)
                if asyncio.iscoroutine(result):
                    await result
        gc.collect()
        with pytest.raises(RuntimeError, match="entered before"):
            async with group:
                pass
        refused = []
        with pytest.raises(BaseExceptionGroup):
            async with pool.group("g") as group:
                await group.submit(fail)
                try:
                    await asyncio.sleep(50)
                finally:
                    with pytest.raises(RuntimeError, match="ending"):
                        await group.submit(refused.append, 1)
        assert not refused
        assert pool.statistics().submitted == 1


@virtual
async def test_a_refused_job_is_no_member(isolation):
    """A submitter that gives up waiting for room leaves nothing in the block to wait for."""
    async with Pool(1, 0, isolation=isolation) as pool:
        async with pool.group() as group:
            await group.submit(nap, 5)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await group.submit(nap, 100)
            assert len(group.jobs) == 1
        assert now() == 5


@virtual
async def test_a_drop_fails_the_block(isolation):
    """A member that is pushed out of the queue has failed: the block raises, and leaves no cancel behind."""
    async with Pool(1, 1, isolation=isolation, overflow="drop_oldest") as pool:
        await pool.submit(nap, 1)
        await settle()
        with pytest.raises(BaseExceptionGroup) as info:
            async with pool.group() as group:
                await group.submit(nap)
                await group.submit(nap)
        assert [type(error) for error in info.value.exceptions] == [JobDroppedError]
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(1)


@virtual
async def test_an_error_of_run_inside_the_block(isolation):
    """`group.run` raises to its caller, and the block fails as well: as with a task of a `TaskGroup`."""
    async with Pool(1, isolation=isolation) as pool:
        with pytest.raises(BaseExceptionGroup) as info:
            async with pool.group() as group:
                with pytest.raises(ValueError):
                    await group.run(fail)
        assert [type(error) for error in info.value.exceptions] == [ValueError]


@virtual
async def test_a_map_in_a_block_is_waited_for(isolation):
    """What a bare loop left under way has ended when the block is left; so has what no loop took."""
    ends = []

    async def work(n):
        await asyncio.sleep(n)
        ends.append((now(), n))

    async def numbers():
        for n in (1, 2, 3):
            yield n

    for source in ((1, 2, 3), numbers()):
        async with Pool(3, isolation=isolation) as pool:
            began = now()
            async with pool.group() as group:
                async for _ in group.map(work, source):
                    break
                await settle()
                assert [job.name for job in group.jobs] == [f"{work.__qualname__}"] * 2
            assert now() == began + 3
            assert [n for _, n in ends] == [1, 2, 3]
        ends.clear()


@virtual
async def test_a_map_in_a_block_is_cancelled_with_it(isolation):
    """By a failing body, by a failing member, by the time limit of the block, and by `group.cancel`."""
    async with Pool(2, 0, isolation=isolation) as pool:
        for how in ("body", "member", "limit", "cancel", "room"):
            began = now()
            with pytest.raises((BaseExceptionGroup, TimeoutError, JobCancelledError)):
                async with pool.group(timeout=1 if how == "limit" else None) as group:
                    if how == "member":
                        await group.submit(nap_and_fail, 1)
                    elif how == "room":
                        # The map itself waits for room, where the failure finds it.
                        await pool.submit(nap, 9)
                        await group.submit(nap_and_fail, 1)
                    elif how == "cancel":
                        asyncio.get_running_loop().call_later(1, group.cancel)
                    async for _ in group.map(nap, (1 if how == "body" else 100, 100, 100)):
                        raise KeyError
            assert now() == began + 1
            await pool.cancel_all()
            assert pool.statistics().running == 0


@virtual
async def test_failures_of_a_map_in_a_block_are_its_consumers(isolation):
    """The block does not fail with what its maps yield, nor with what the body has caught."""
    async with Pool(2, isolation=isolation) as pool:
        async with pool.group() as group:
            member = await group.submit(nap, 5)
            results = [result async for result in group.map(nap_and_fail, (1, 2), errors="yield")]
            assert [type(result.error) for result in results] == [ValueError, ValueError]
            with pytest.raises(ValueError):
                await group.map(nap_and_fail, (1, 9)).collect()
        assert member.outcome().ok
        assert group.errors == ()

        with pytest.raises(BaseExceptionGroup) as info:
            async with pool.group() as group:
                member = await group.submit(nap, 5)
                await group.map(nap_and_fail, (1,)).collect()
        assert [type(error) for error in info.value.exceptions] == [ValueError]
        assert member.cancelled()


@virtual
async def test_a_map_of_a_block_that_was_left(isolation):
    """A stream that is read on after its block was left has no more jobs to offer, and says so."""
    async with Pool(1, isolation=isolation) as pool:
        async with pool.group() as group:
            streams = [group.map(echo, range(9), buffersize=1)]
            assert await anext(streams[0]) == 0
        streams.append(group.map(echo, range(9)))
        for stream in streams:
            with pytest.raises(RuntimeError, match="was left"):
                await anext(stream)


@virtual
async def test_options_of_a_group(isolation):
    """The options of the group fill what neither a view nor the function says."""
    options = JobOptions(priority=1, retry=Retry(attempts=7), timeout=9)
    async with Pool(1, isolation=isolation, timeout=1) as pool:
        async with pool.group("g", options=options) as group:
            assert (await group.submit(nap, 5)).priority == 1
            high = await group.with_options(priority=0).submit(nap)
            assert (high.priority, high.group) == (0, "g")
        assert now() == 6


@virtual
async def test_pause_and_resume_of_a_group(isolation):
    """A paused block starts none of its jobs; the pool goes on with others."""
    async with Pool(1, isolation=isolation) as pool:
        async with pool.group("g") as group:
            group.pause()
            job = await group.submit(nap, 1)
            assert await pool.run(echo, 1) == 1
            await advance(3)
            assert (job.status, job.waiting_for) == ("queued", "group paused")
            group.resume()
        assert now() == 4


@virtual
async def test_a_failed_group_keeps_nothing(isolation):
    """After the block its errors are free with the group: no cycle through frames."""

    async def use():  # a function of its own: 3.13 keeps what `except*` has caught until the frame ends
        try:
            async with pool.group() as group:
                await group.submit(fail, OwnError)
                await asyncio.sleep(9)
        except* OwnError as errors:
            dead = weakref.ref(errors.exceptions[0])
        return dead

    async with Pool(2, isolation=isolation) as pool:
        gc.disable()
        try:
            dead = await asyncio.create_task(use())
            await settle()
            assert dead() is None
        finally:
            gc.enable()


@virtual
async def test_labels_vanish():
    """A group's name takes no memory once its last job is done."""
    async with Pool(2, None) as pool:
        for n in range(1000):
            await pool.with_options(group=f"tenant-{n}").submit(echo)
        await pool.join()
        assert not list(pool._state.engine.groups)


@virtual
async def test_what_ends_the_program_leaves_a_block_as_it_is(isolation):
    """`SystemExit` and Ctrl-C of the body are not hidden in a group, whatever else has failed."""
    for kind in (SystemExit, KeyboardInterrupt):
        async with Pool(2, isolation=isolation, on_error=lambda job, error: None) as pool:
            with pytest.raises(kind):
                async with pool.group() as group:
                    await group.submit(nap_and_fail, 1)
                    raise kind


def test_a_group_of_a_pool_that_is_not_open():
    """It says so when it is entered."""

    async def main():
        with pytest.raises(RuntimeError, match=r"group\(\) on pool 'pool', which is new: write `async with Pool"):
            async with Pool(1).group():
                pass

    asyncio.run(main())


async def test_groups_without_a_name_are_numbered():
    """Each has a name of its own; a name that was given takes no number."""
    async with Pool() as pool:
        names = [pool.group(name).name for name in (None, "mine", None, None)]
        assert names == ["group-1", "mine", "group-2", "group-3"]
