"""Cancelling: who may, when, what it reaches, and who must not notice: CA1 to CA27, CA30.

Elsewhere: CA13 (threads) is in test_threads.py, CA19 and CA20 (a job that harms its worker) in test_isolation.py. CA28
belongs to the stores, CA29 to the tests of groups.
"""

import asyncio
import contextlib
import threading

import anyio
import pytest
from virtual import double, forever, now

from aiopool import (
    JobCancelledError,
    JobStatus,
    JobTimeoutError,
    Pool,
    PoolClosedError,
    PoolStatus,
    QueueFullError,
    Retry,
)
from aiopool import current_job as this
from aiopool.testing import DELAYS, advance, explore, settle, wait_until

virtual = pytest.mark.loops("virtual", long=("virtual-eager",))
real = pytest.mark.loops("real")
both = pytest.mark.loops("virtual", "uvloop", long=("virtual-eager",))


async def turns(n):
    for _ in range(n):
        await asyncio.sleep(0)


async def started(*jobs):
    await wait_until(lambda: all(job.status is JobStatus.RUNNING for job in jobs))
    await turns(2)


async def at_rest():
    """CA30: a second later nothing turns any more."""
    loop = asyncio.get_running_loop()
    await settle()
    before = loop.turns
    await asyncio.sleep(1)
    assert loop.turns - before <= 5, "something spins"


# -- before it runs ------------------------------------------------------------------------------------------


@both
async def test_a_queued_job_is_gone_at_once(new_pool):
    """CA5, I5: it ends in the call, leaves the count, makes room for the next submitter, and never starts."""
    ran = []

    async def record(n):
        ran.append(n)

    async with new_pool(size=1, queue_size=2) as pool:
        blocker = await pool.submit(forever)
        await started(blocker)
        first, second = await pool.submit(record, 1), await pool.submit(record, 2)
        blocked = asyncio.create_task(pool.submit(record, 3))
        await turns(2)
        assert pool.statistics().waiting == 1
        assert first.cancel("no need")
        assert first.status is JobStatus.CANCELLED
        assert pool.statistics().cancelled == 1
        third = await blocked
        assert pool.statistics().queued == 2
        assert second.cancel()
        blocker.cancel()
        await third
        with pytest.raises(JobCancelledError, match="no need"):
            await first
    assert ran == [3]


@both
async def test_a_thousand_cancelled_jobs_leave_room_for_a_thousand(new_pool):
    """Pitfall 20: what is cancelled does not fill the queue."""
    async with new_pool(size=1, queue_size=1000) as pool:
        blocker = await pool.submit(forever)
        await started(blocker)
        for _ in range(3):
            for job in [pool.submit_nowait(double, n) for n in range(1000)]:
                assert job.cancel()
        blocker.cancel()


@virtual
async def test_a_delayed_job_is_gone_at_once(new_pool):
    """CA5, F-05: a job that waits for its moment never starts, and its timer goes with it."""
    async with new_pool() as pool:
        job = await pool.with_options(delay=3600).submit(double, 1)
        assert job.cancel()
        assert job.done()
    assert now() == 0


@virtual
async def test_cancel_in_backoff(new_pool):
    """CA12, F-05: no further attempt; the attempts that were made are told."""
    starts = []

    async def fail():
        starts.append(now())
        raise OSError

    async with new_pool() as pool:
        retry = Retry(attempts=5, backoff="fixed", delay=10, jitter=0)
        job = await pool.with_options(retry=retry, id="a").submit(fail)
        await advance(15)
        assert (job.status, job.attempt, starts) == (JobStatus.SCHEDULED, 2, [0, 10])
        report = await pool.cancel("a")
        assert (report.was, report.status, bool(report)) == (JobStatus.SCHEDULED, JobStatus.CANCELLED, True)
        await advance(100)
        assert starts == [0, 10]
        outcome = job.outcome()
        assert (outcome.attempts, len(outcome.history)) == (2, 2)
        with pytest.raises(JobCancelledError):
            await job


@virtual
async def test_cancel_of_a_submitter_that_waits_for_room(new_pool):
    """CA1: its job never enters; the next one in line gets the place, in order."""
    entered = []

    async def record(n):
        entered.append(n)

    async with new_pool(size=1, queue_size=1) as pool:
        release = asyncio.Event()
        await pool.submit(release.wait)
        await settle()
        await pool.submit(record, 0)
        waiting = [asyncio.create_task(pool.submit(record, n)) for n in (1, 2, 3)]
        await settle()
        waiting[0].cancel()
        await settle()
        assert waiting[0].cancelled()
        assert pool.statistics().waiting == 2
        release.set()
        await settle()
    assert entered == [0, 2, 3]
    assert pool.statistics().submitted == 4


@virtual
async def test_cancel_by_id_of_a_job_whose_submitter_waits_for_room(new_pool):
    """F-05: the submitter is told by an ordinary exception; the id is free again, and the others keep their order."""
    async with new_pool(size=1, queue_size=0) as pool:
        release = asyncio.Event()
        await pool.submit(release.wait)
        await settle()
        blocked = asyncio.create_task(pool.with_options(id="x").submit(double, 1))
        behind = asyncio.create_task(pool.submit(double, 2))
        await settle()
        await pool.cancel("x")
        await settle()
        with pytest.raises(JobCancelledError):
            await blocked
        assert pool.statistics().waiting == 1
        again = asyncio.create_task(pool.with_options(id="x").submit(double, 3))
        release.set()
        assert [await (await behind), await (await again)] == [4, 6]


def test_cancel_of_a_submitter_in_the_turn_in_which_it_gets_in(isolation, seeds):
    """CA2: either the handle is returned, or the job is withdrawn; never an orphan, never a lost place."""
    seen = set()

    async def scenario(chance):
        started = []

        async def job(n):
            started.append(n)
            await asyncio.sleep(chance.choice(DELAYS))

        async with Pool(size=1, queue_size=chance.choice([0, 1]), isolation=isolation) as pool:
            for n in range(3):
                with contextlib.suppress(QueueFullError):
                    pool.submit_nowait(job, -n)
            tasks = [asyncio.create_task(pool.submit(job, n)) for n in range(1, 5)]
            for task in tasks:
                await asyncio.sleep(chance.choice(DELAYS))
                await turns(chance.randrange(4))
                if chance.random() < 0.5:
                    task.cancel()
            got = await asyncio.gather(*tasks, return_exceptions=True)
            for n, result in enumerate(got, 1):
                if isinstance(result, asyncio.CancelledError):
                    seen.add("withdrawn" if n not in started else "stopped")
                else:
                    seen.add("returned")
                    await result
                    assert n in started
            await pool.join()
            now = pool.statistics()
            assert now.waiting == now.queued == now.running == now.busy == 0
        await at_rest()

    explore(scenario, seeds=seeds(150))
    assert seen >= {"withdrawn", "returned"}


def test_cancel_between_the_queue_and_the_first_step(isolation, seeds):
    """CA6, I5: at whatever turn the cancel comes, the function is either not entered or told; nobody is lost."""

    async def scenario(chance):
        entered, told = set(), set()

        async def job(n):
            entered.add(n)
            try:
                await asyncio.sleep(chance.choice(DELAYS))
            except asyncio.CancelledError:
                told.add(n)
                raise

        async with Pool(size=2, isolation=isolation) as pool:
            jobs = [await pool.submit(job, n) for n in range(6)]
            asked = set()
            for _ in range(4):
                await turns(chance.randrange(5))
                n = chance.randrange(6)
                was = jobs[n].status
                if jobs[n].cancel():
                    asked.add(n)
                    if was is JobStatus.QUEUED:
                        assert n not in entered
            await pool.join()
            for n, job_n in enumerate(jobs):
                if n in asked and job_n.cancelled():
                    assert n in told or n not in entered
                if n not in asked:
                    assert job_n.status is JobStatus.SUCCEEDED
            stats = pool.statistics()
            assert stats.busy == 0
            assert stats.succeeded + stats.cancelled == 6
        await at_rest()

    explore(scenario, seeds=seeds(200))


# -- who waits, and must not notice --------------------------------------------------------------------------


async def by_task(job):
    task = asyncio.create_task(job.wait())
    await turns(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_wait_for(job):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(job, 0.001)


async def by_timeout(job):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await job


async def by_move_on(job):
    with anyio.move_on_after(0.001) as scope:
        await job
    assert scope.cancelled_caught


async def by_shield(job):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(job), 0.001)


async def by_wait(job):
    assert await job.wait(0.001) is False
    assert await job.wait(0) is False


async def by_gather(job):
    waiting = asyncio.gather(job, job)
    await turns(2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


IMPATIENT = [by_task, by_wait_for, by_timeout, by_move_on, by_shield, by_wait, by_gather]


@both
@pytest.mark.parametrize("impatient", IMPATIENT, ids=lambda f: f.__name__)
@pytest.mark.parametrize("place", ["running", "queued"])
async def test_a_waiter_that_gives_up_does_not_touch_the_job(new_pool, impatient, place):
    """CA3, CA4, I12: the job goes on, the other waiters get its value, and nothing of the first is left on it."""
    go = asyncio.Event()

    async def job():
        await go.wait()
        return go

    async with new_pool(size=1) as pool:
        if place == "queued":
            await pool.submit(go.wait)
        handle = await pool.submit(job)
        other = asyncio.ensure_future(handle)
        await turns(2)
        await impatient(handle)
        assert handle.status == place
        assert asyncio.current_task().cancelling() == 0
        go.set()
        assert await other is go
        assert await handle is go


@both
async def test_a_hundred_waiters_are_told_and_none_thinks_that_it_was_cancelled(new_pool):
    """CA27, F7: each gets JobCancelledError, and the same object; their own `cancelling()` stays 0."""

    async def waiter(job):
        try:
            await job
        except JobCancelledError as error:
            return error, asyncio.current_task().cancelling()

    async with new_pool() as pool:
        job = await pool.submit(forever)
        waiters = [asyncio.create_task(waiter(job)) for _ in range(100)]
        await turns(2)
        job.cancel("enough")
        told = await asyncio.gather(*waiters)
    assert {cancelling for _, cancelling in told} == {0}
    assert {id(error) for error, _ in told} == {id(job.exception())}


@both
async def test_the_cancel_of_a_job_does_not_end_a_task_group(new_pool):
    """F7, pitfall 9: in a TaskGroup it is a failure like any other, never a silent cancel."""
    async with new_pool() as pool:
        job = await pool.submit(forever)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(job.wait())
                waiting = group.create_task(_result_of(job))
                await turns(2)
                job.cancel()
        assert caught.group_contains(JobCancelledError)
        assert not waiting.cancelled()


async def _result_of(job):
    return await job


@both
async def test_cancelling_the_caller_of_run_cancels_the_job(new_pool):
    """`run` is submit and wait: the job has ended when the cancellation goes on, clean-up included."""
    steps = []

    async def job():
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await turns(3)
            steps.append("cleaned up")

    async def caller():
        try:
            await pool.run(job)
        except asyncio.CancelledError:
            steps.append("caller")
            raise

    async with new_pool() as pool:
        task = asyncio.create_task(caller())
        await wait_until(lambda: pool.statistics().running == 1)
        await turns(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert steps == ["cleaned up", "caller"]
        async with anyio.create_task_group() as group:
            group.start_soon(caller)
            await wait_until(lambda: pool.statistics().running == 1)
            await turns(2)
            group.cancel_scope.cancel()
        assert steps == ["cleaned up", "caller"] * 2


# -- while it runs -------------------------------------------------------------------------------------------


@both
async def test_a_running_job_ends_at_its_await(new_pool):
    """`pool.cancel` returns when no line of it will run any more, and says what it met."""
    steps = []

    async def job():
        try:
            await forever()
        finally:
            steps.append("finally")

    async with new_pool() as pool:
        handle = await pool.submit(job)
        await started(handle)
        report = await pool.cancel(handle.id, reason="paid twice")
        assert steps == ["finally"]
        assert (report.was, report.status, report.leaked) == (JobStatus.RUNNING, JobStatus.CANCELLED, False)
        assert handle.outcome().reason == "paid twice"
        with pytest.raises(JobCancelledError, match="paid twice"):
            await handle


@both
async def test_a_cancel_that_loses_the_race_reports_success(new_pool):
    """CA7, I6: a job that never suspends again, or that returns a value all the same, has succeeded."""

    async def job():
        assert this().cancel() is True
        return "done"

    async def stubborn():
        try:
            await forever()
        except asyncio.CancelledError:
            return "caught"

    async with new_pool() as pool:
        handle = await pool.submit(job)
        assert await handle == "done"
        assert handle.status is JobStatus.SUCCEEDED
        assert await pool.run(double, 1) == 2
        handle = await pool.submit(stubborn)
        await started(handle)
        report = await pool.cancel(handle.id)
        assert (report.status, bool(report)) == (JobStatus.SUCCEEDED, False)
        assert handle.result() == "caught"


def test_cancel_in_the_turn_in_which_the_last_await_resolves(isolation, seeds):
    """CA8: one outcome; the state, the result, the numbers and what cancel() said agree."""
    seen = set()

    async def scenario(chance):
        finished = []

        async def job():
            await gate
            finished.append(True)
            return "value"

        async with Pool(size=1, isolation=isolation) as pool:
            gate = asyncio.get_running_loop().create_future()
            handle = await pool.submit(job)
            await started(handle)
            first, second = (gate.set_result, None), (handle.cancel, "why")
            for action, argument in (first, second) if chance.random() < 0.5 else (second, first):
                action(argument) if not gate.done() else None
                await turns(chance.randrange(2))
            await handle.wait()
            seen.add(handle.status)
            if handle.status is JobStatus.SUCCEEDED:
                assert handle.result() == "value"
                assert finished == [True]
            else:
                assert handle.status is JobStatus.CANCELLED
                assert finished == []
            assert pool.statistics().succeeded + pool.statistics().cancelled == 1
            assert await pool.run(double, 2) == 4
        await at_rest()

    explore(scenario, seeds=seeds(100))
    assert JobStatus.CANCELLED in seen


@both
async def test_cancelling_twice_or_too_late_changes_nothing(new_pool):
    """CA9, I1: False, no effect, and a final status never changes."""
    async with new_pool() as pool:
        done = await pool.submit(double, 1)
        await done
        assert done.cancel() is False
        assert done.status is JobStatus.SUCCEEDED
        running = await pool.submit(forever)
        await started(running)
        assert running.cancel("first") is True
        assert running.cancel("second") is False
        await running.wait()
        assert running.cancel("third") is False
        assert running.outcome().reason == "first"


@both
async def test_who_may_cancel(new_pool):
    """CA10: the job itself, another job, a done-callback, the error hook, a timer."""
    hooked = []
    pool = new_pool(size=3, on_error=lambda job, error: hooked.append(victims["hook"].cancel()))
    victims = {}

    async def suicide():
        this().cancel("by itself")
        await forever()

    async def cancel_another():
        return victims["job"].cancel()

    async def by_pool():
        return await pool.cancel(victims["pool"].id)

    async def fail():
        raise ValueError

    async with pool:
        with pytest.raises(JobCancelledError, match="by itself"):
            await pool.run(suicide)
        for name in ("job", "pool", "callback", "hook", "timer"):
            victims[name] = await pool.submit(forever)
            await turns(2)
            if name == "job":
                assert await pool.run(cancel_another)
            elif name == "pool":
                assert (await pool.run(by_pool)).status is JobStatus.CANCELLED
            elif name == "callback":
                job = await pool.submit(double, 1)
                job.add_done_callback(lambda _: victims["callback"].cancel())
            elif name == "hook":
                await pool.submit(fail)
            else:
                asyncio.get_running_loop().call_soon(victims["timer"].cancel)
            assert await victims[name].wait(5)
            assert victims[name].cancelled(), name
    assert hooked == [True]


def test_cancelling_without_a_loop(isolation):
    """CA10: after the program a done job says False; one that was cut off does not hang or crash the caller."""
    jobs = []

    async def main():
        async with Pool(isolation=isolation) as pool:
            jobs.append(await pool.submit(double, 1))

    asyncio.run(main())
    assert jobs[0].cancel() is False


@both
async def test_cancelling_by_an_id_that_is_unknown_done_or_used_again(new_pool):
    """CA11: it says that nothing was there, and keeps no cancel in store for a later job of that id."""
    async with new_pool() as pool:
        named = pool.with_options(id="a")
        for unknown in ("a", "never", 10**9, -1):
            report = await pool.cancel(unknown)
            assert (report.was, report.status, bool(report)) == (None, None, False)
        assert await named.run(double, 1) == 2
        assert not await pool.cancel("a")
        assert await named.run(double, 2) == 4
        first = await pool.submit(double, 3)
        await first
        assert not await pool.cancel(first.id)
        assert (await pool.submit(double, 4)).id != first.id


@virtual
async def test_a_cancel_is_never_retried(new_pool):
    """Pitfall 9: not even if the retry says BaseException, and not if the clean-up fails with what it retries."""
    starts = []

    async def job(error):
        starts.append(1)
        try:
            await forever()
        finally:
            if error:
                raise error

    async def raises_it():
        starts.append(1)
        raise asyncio.CancelledError

    async with new_pool() as pool:
        often = pool.with_options(retry=Retry(attempts=5, on=BaseException, delay=1))
        for function, args, status in [
            (job, (None,), JobStatus.CANCELLED),
            (job, (OSError("clean-up"),), JobStatus.FAILED),
            (raises_it, (), JobStatus.CANCELLED),
        ]:
            starts.clear()
            handle = await often.submit(function, *args)
            await settle()
            handle.cancel()
            await advance(100)
            assert (handle.status, starts) == (status, [1])


@virtual
async def test_a_cancel_while_the_time_limit_ends_an_attempt_ends_the_job(new_pool):
    """An attempt that was told by its time limit would be tried again: a cancel that comes now must not be lost."""
    starts = []

    async def job():
        starts.append(now())
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.5)

    async with new_pool() as pool:
        retry = Retry(attempts=9, backoff="fixed", delay=1, jitter=0)
        handle = await pool.with_options(timeout=1, retry=retry).submit(job)
        await advance(1.25)
        assert handle.cancel("enough") is True
        assert handle.cancel("again") is False
        report = await pool.cancel(handle.id)
        assert now() == 1.5
        assert report.status is JobStatus.CANCELLED
        await advance(10)
        assert starts == [0]
        assert handle.outcome().reason == "enough"


@virtual
async def test_a_cancel_after_the_last_time_limit_leaves_the_job_timed_out(new_pool):
    """Without another attempt to come, the time limit was first: the job is timed out, and the cancel says False."""

    async def job():
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.5)

    async with new_pool() as pool:
        handle = await pool.with_options(timeout=1).submit(job)
        await advance(1.25)
        assert handle.cancel() is False
        await handle.wait()
        assert handle.status is JobStatus.TIMED_OUT
        with pytest.raises(JobTimeoutError):
            await handle


# -- the ladder ----------------------------------------------------------------------------------------------


@virtual
async def test_a_job_that_swallows_its_cancel_once_is_told_again_after_a_grace(isolation):
    """CA14, F4: under `task` by edge: it goes on for a grace. Under `scope` by level: its next await is told."""
    told = []

    async def job():
        for _ in range(2):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                told.append(now())
        await asyncio.sleep(100)

    async with Pool(isolation=isolation, cancel_grace=5) as pool:
        handle = await pool.submit(job)
        await advance(1)
        handle.cancel()
        await handle.wait()
        assert told == ([1, 6] if isolation == "task" else [1, 1])
        assert (handle.status, handle.leaked) == (JobStatus.CANCELLED, isolation == "task")


@virtual
async def test_a_job_that_does_not_end_is_left_behind_by_name_and_holds_its_slot(caplog):
    """CA15, F-06: told, told again, left behind: its waiters are released, others run, and its slot comes back late."""
    release = asyncio.Event()

    async def stubborn():
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async with Pool(size=2, cancel_grace=5) as pool:
        handle = await pool.submit(stubborn)
        await settle()
        asked = now()
        report = await pool.cancel(handle.id)
        assert now() == asked + 10
        assert (report.status, report.leaked, handle.leaked) == (JobStatus.CANCELLED, True, True)
        assert "stubborn" in caplog.text
        assert "await release.wait()" in caplog.text
        stats = pool.statistics()
        assert (stats.leaked, stats.busy, stats.running) == (1, 1, 0)
        began = now()
        await asyncio.gather(*(pool.run(asyncio.sleep, 1) for _ in range(4)))
        assert now() == began + 4, "its slot was given away"
        before = asyncio.get_running_loop().steps
        await asyncio.sleep(60)
        assert asyncio.get_running_loop().steps - before < 60 * 10, "it costs CPU"
        release.set()
        await settle()
        assert (pool.statistics().leaked, pool.statistics().busy) == (0, 0)


@pytest.mark.loops("real", long=("asyncio", "eager"))
async def test_a_leaked_job_costs_no_processor(new_pool):
    """CA15, I20, pitfall 5: it is told at a slow beat only, by a scope of anyio too; when it ends, all is as before."""
    release, told = asyncio.Event(), []

    async def stubborn():
        while not release.is_set():
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                told.append(True)

    async with new_pool(size=1, cancel_grace=0.02) as pool:
        job = await pool.submit(stubborn)
        await wait_until(lambda: job.status == "running")
        report = await pool.cancel(job.id)
        assert (report.leaked, pool.statistics().busy) == (True, 1)
        await asyncio.sleep(0.01)
        before = len(told)
        await asyncio.sleep(0.5)
        assert len(told) - before < 10
        await wait_until(lambda: len(told) > before)
        release.set()
        assert await pool.run(double, 2) == 4
        assert (pool.statistics().leaked, pool.statistics().busy) == (0, 0)


@pytest.mark.parametrize("leaves", ["as it was", "a scope open", "a scope entered late"])
@pytest.mark.loops("real", long=("asyncio", "eager"))
async def test_a_worker_goes_on_after_a_job_that_leaked(new_pool, leaves):
    """CA15, I17: whatever it has done to the scopes, the next job finds a clean worker, and can be cancelled."""
    told = []

    async def stubborn():
        scope = anyio.CancelScope()
        if leaves == "a scope open":
            scope.__enter__()
        while len(told) < 3 or not release.is_set():
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                told.append(True)
        if leaves == "a scope entered late":
            scope.__enter__()

    release = asyncio.Event()
    async with new_pool(size=1, cancel_grace=0.02) as pool:
        job = await pool.submit(stubborn)
        await wait_until(lambda: job.status == "running")
        assert (await pool.cancel(job.id)).leaked
        release.set()
        await pool.run(anyio.sleep, 0)
        with anyio.move_on_after(0.01) as limit:
            await pool.run(anyio.sleep, 1000)
        assert limit.cancelled_caught
        with pytest.raises(JobTimeoutError):
            await pool.with_options(timeout=0.01).run(anyio.sleep, 1000)
        assert await pool.run(double, 2) == 4
        assert (pool.statistics().leaked, pool.statistics().busy) == (0, 0)


@virtual
async def test_on_leak_replace_gives_the_slot_away_and_takes_it_back():
    """CA15, I3: with `on_leak="replace"` another job runs in its stead; afterwards the books are right."""
    release = asyncio.Event()

    async def stubborn():
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async with Pool(size=1, cancel_grace=1, on_leak="replace") as pool:
        handle = await pool.submit(stubborn)
        await settle()
        assert (await pool.cancel(handle.id)).leaked
        assert await pool.run(double, 2) == 4
        assert (pool.statistics().leaked, pool.statistics().busy) == (1, 0)
        release.set()
        await settle()
        assert (pool.statistics().leaked, pool.statistics().busy) == (0, 0)
        running = [await pool.submit(asyncio.sleep, 1) for _ in range(3)]
        await settle()
        assert [job.status for job in running] == ["running", "queued", "queued"]


@virtual
async def test_leaving_the_pool_is_bounded_by_two_graces(caplog):
    """CA15, I14: a job that swallows its cancels for ever cannot hold the exit."""
    pool = Pool(cancel_grace=3)
    release = asyncio.Event()

    async def stubborn():
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    with pytest.raises(KeyError):
        async with pool:
            handle = await pool.submit(stubborn)
            await settle()
            raise KeyError
    assert now() == 6
    assert handle.leaked
    report = await pool.shutdown()
    assert [(leak.id, leak.name) for leak in report.leaked] == [(handle.id, handle.name)]
    assert "release.wait" in report.leaked[0].stack
    release.set()
    await settle()


@real
@pytest.mark.leaves_behind("the job that does not end")
async def test_a_job_that_swallows_for_ever_under_scope_does_not_hold_the_exit():
    """CA15, I14: anyio tells by level, in each turn; the pool can only leave it, in time."""
    release = []

    async def stubborn():
        while not release:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    # It ends at all: the job goes on until it is released below.
    with pytest.raises(KeyError):
        async with Pool(isolation="scope", cancel_grace=0.05) as pool:
            handle = await pool.submit(stubborn)
            await started(handle)
            raise KeyError
    assert handle.leaked
    release.append(True)
    await asyncio.sleep(0.02)


# -- shields and clean-up --------------------------------------------------------------------------------------


async def anyio_shield(seconds, steps):
    with anyio.CancelScope(shield=True):
        await asyncio.sleep(seconds)
        steps.append("section done")
    await asyncio.sleep(100)
    steps.append("never")


async def asyncio_shield(seconds, steps):
    async def section():
        await asyncio.sleep(seconds)
        steps.append("section done")

    task = asyncio.create_task(section())
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await task
        raise
    steps.append("never")


@virtual
@pytest.mark.parametrize(
    ("isolation", "shielded"), [("task", asyncio_shield), ("scope", asyncio_shield), ("scope", anyio_shield)]
)
async def test_a_shielded_section_ends_and_then_the_job_is_cancelled(isolation, shielded):
    """CA16: a short shield holds the cancel back, and only for as long as it lasts."""
    steps = []
    async with Pool(isolation=isolation, cancel_grace=10) as pool:
        handle = await pool.submit(shielded, 2, steps)
        await advance(1)
        await pool.cancel(handle.id)
        assert now() == 2
        assert steps == ["section done"]
        assert (handle.status, handle.leaked) == (JobStatus.CANCELLED, False)


@virtual
async def test_an_endless_shield_is_left_behind_after_the_grace(isolation):
    """CA16: the grace applies; under `scope` nothing can end it, and the shutdown says so."""
    steps = []
    pool = Pool(isolation=isolation, cancel_grace=1)
    await pool.__aenter__()
    handle = await pool.submit(anyio_shield, 1000, steps)
    await settle()
    assert await pool.shutdown(timeout=0)
    if isolation == "task":  # anyio's shield keeps out anyio's cancels, not those of asyncio
        assert (now(), handle.leaked, steps) == (0, False, [])
    else:
        assert (now(), handle.leaked) == (2, True)
        await asyncio.sleep(1000)
        assert steps == ["section done"]


@virtual
async def test_a_clean_up_that_awaits_is_let_finish(isolation):
    """CA17, pitfall 5: under `task` `finally: await close()` works as written; under `scope` it needs a shield."""
    closed = []

    async def job():
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=isolation == "scope"):
                await asyncio.sleep(0.5)
                closed.append(now())

    async with Pool(isolation=isolation) as pool:
        handle = await pool.submit(job)
        await advance(1)
        assert await pool.cancel(handle.id)
        assert closed == [1.5]
        assert not handle.leaked


@both
async def test_a_clean_up_that_raises_is_not_lost(new_pool):
    """CA17: the error is on the handle, with the cancel as its context; the job has failed."""
    error = OSError("in the clean-up")

    async def job():
        try:
            await forever()
        finally:
            raise error

    async with new_pool() as pool:
        handle = await pool.submit(job)
        await started(handle)
        waiting = asyncio.create_task(handle.wait())
        await turns(1)
        await pool.cancel(handle.id)
        await waiting
        assert handle.exception() is error
        assert isinstance(error.__context__, asyncio.CancelledError)
        assert handle.status is JobStatus.FAILED


@both
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_job_that_raises_cancelled_error_by_itself(new_pool, kind):
    """CA18: it is cancelled, "by itself"; the worker lives, and nothing is told to anybody's task."""

    async def job():
        raise asyncio.CancelledError("mine")

    def plain():
        raise asyncio.CancelledError("mine")

    async with new_pool(size=1) as pool:
        handle = await pool.submit(job if kind == "async" else plain)
        with pytest.raises(JobCancelledError, match="by itself") as caught:
            await handle
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert await pool.run(double, 1) == 2
        assert pool.statistics().restarts == 0


# -- two cancels at once ---------------------------------------------------------------------------------------


def test_the_jobs_own_timeout_in_the_turn_in_which_it_is_cancelled(isolation, seeds):
    """CA21, F2: whichever comes out, it is contained; the worker takes the next job, and `cancelling()` is 0 there."""

    async def scenario(chance):
        async def job():
            for _ in range(3):
                try:
                    async with asyncio.timeout(0.25):
                        for _ in range(50):
                            await asyncio.sleep(chance.choice([0, 0, 0.25]))
                except TimeoutError:
                    if chance.random() < 0.5:
                        raise

        async def clean():
            return asyncio.current_task().cancelling()

        async with Pool(size=1, isolation=isolation) as pool:
            handle = await pool.with_options(timeout=chance.choice([None, 0.25, 0.5])).submit(job)
            await asyncio.sleep(0.25)
            await turns(chance.randrange(3))
            handle.cancel()
            await handle.wait()
            assert handle.done()
            assert await pool.run(clean) == 0
        assert asyncio.current_task().cancelling() == 0
        await at_rest()

    explore(scenario, seeds=seeds(150))


def test_a_native_cancel_and_the_pools_cancel_in_one_turn(isolation, seeds):
    """CA23, pitfall 5: in both orders, neither is lost: the job ends, and so does its own scope."""

    async def scenario(chance):
        inner = {}

        async def job():
            inner["task"] = asyncio.current_task()
            with anyio.CancelScope() as scope:
                inner["scope"] = scope
                await forever()
            await forever()

        async with Pool(size=1, isolation=isolation) as pool:
            handle = await pool.submit(job)
            await wait_until(lambda: "scope" in inner)
            actions = [handle.cancel, inner["scope"].cancel]
            if chance.random() < 0.5:  # under `scope` it is the worker's: not when the job is gone
                actions.append(lambda: handle.done() or inner["task"].cancel())
            chance.shuffle(actions)
            for action in actions:
                action()
                await turns(chance.choice([0, 0, 1]))
            assert await handle.wait(10)
            assert handle.cancelled()
            assert await pool.run(double, 1) == 2
            assert pool.statistics().restarts == 0
        assert asyncio.current_task().cancelling() == 0
        await at_rest()

    explore(scenario, seeds=seeds(100))


# -- a pool inside of something that is cancelled --------------------------------------------------------------


async def host_timeout(block):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await block()


async def host_move_on(block):
    with anyio.move_on_after(1) as scope:
        await block()
    assert scope.cancelled_caught


async def host_task(block):
    task = asyncio.create_task(block())
    asyncio.get_running_loop().call_later(1, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def host_task_group(block):
    async def fail():
        await asyncio.sleep(1)
        raise OSError

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(block())
            group.create_task(fail())
    assert caught.value.subgroup(OSError)
    assert len(caught.value.exceptions) == 1


async def host_anyio_group(block):
    async with anyio.create_task_group() as group:
        group.start_soon(block)
        await asyncio.sleep(1)
        group.cancel_scope.cancel()


HOSTS = [host_timeout, host_move_on, host_task, host_task_group, host_anyio_group]


async def in_body(pool):
    await forever()


async def in_submit(pool):
    while True:
        await pool.submit(forever)


async def in_run(pool):
    await pool.run(forever)


async def in_join(pool):
    await pool.join()


async def in_exit(pool):
    pass


async def in_shutdown(pool):
    await pool.shutdown()


async def in_map(pool):
    async with pool.map(asyncio.sleep, [1000, 1000]) as results:
        async for _ in results:
            pass


async def in_group(pool):
    async with pool.group() as group:
        await group.submit(forever)


PLACES = [in_body, in_submit, in_run, in_join, in_exit, in_shutdown, in_map, in_group]


@virtual
@pytest.mark.parametrize("host", HOSTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("place", PLACES, ids=lambda f: f.__name__)
async def test_a_pool_inside_of_what_is_cancelled(new_pool, host, place):
    """CA22, I14, I16: the cancel gets out and is counted off; jobs have their grace; nothing spins meanwhile."""
    cleaned_up = []
    pool = new_pool(size=2, queue_size=1)

    async def job():
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.5)
            cleaned_up.append(now())

    async def block():
        async with pool:
            handle = jobs.append(await pool.submit(job)) or jobs[0]
            await settle()
            assert handle.status is JobStatus.RUNNING
            await place(pool)

    async def without_pool():
        try:
            await forever()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.5)

    async def inside(block):
        began = now()
        await host(block)
        return now() - began, asyncio.current_task().cancelling()

    jobs, steps = [], asyncio.get_running_loop().steps
    outcome = await asyncio.create_task(inside(block))
    assert asyncio.get_running_loop().steps - steps < 300, "it spins"
    assert cleaned_up == [1.5]
    # TaskGroup on 3.11 does not always count its own cancel off.
    assert outcome == await asyncio.create_task(inside(without_pool))
    assert pool.status is PoolStatus.CLOSED
    assert jobs[0].cancelled()
    assert pool.statistics().leaked == 0


@virtual
async def test_each_further_cancel_of_the_exit_makes_it_hurry(isolation):
    """CA24: the first ends the wait for the jobs, the second their grace; the exit is never left before its end."""
    pool = Pool(isolation=isolation, cancel_grace=100)

    async def stubborn():
        with anyio.CancelScope(shield=True):
            while not release:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1)

    async def block():
        async with pool:
            jobs.append(await pool.submit(stubborn))
            jobs.append(await pool.submit(forever))

    jobs, release = [], []
    task = asyncio.create_task(block())
    await advance(5)
    assert task.cancel()
    await advance(5)
    assert not task.done()
    assert [job.status for job in jobs] == ["running", "cancelled"]
    task.cancel()
    await settle()
    assert task.cancelled()
    assert now() == 10
    assert pool.status is PoolStatus.CLOSED
    assert jobs[0].leaked
    release.append(1)
    await advance(2)


@virtual
async def test_cancelling_shutdown_does_not_stop_it(new_pool):
    """SD3: who gives up waiting for it changes nothing; a later caller gets the same report."""
    pool = new_pool()
    async with pool:
        job = await pool.submit(asyncio.sleep, 3)
        await settle()
        first = asyncio.create_task(pool.shutdown())
        await advance(1)
        first.cancel()
        with anyio.move_on_after(1):
            await pool.shutdown()
        report = await pool.shutdown()
        assert job.status is JobStatus.SUCCEEDED
        assert report is await pool.shutdown()
        assert now() == 3


# -- foreign cancels -------------------------------------------------------------------------------------------


def workers_of(tasks):
    return [task for task in tasks if task.get_name().startswith("pool-worker")]


def test_foreign_code_that_cancels_workers_loses_no_job(isolation, seeds):
    """CA25, pitfall 2: a worker that somebody cancels is replaced; each job ends once, and all slots are there."""

    async def scenario(chance):
        ends = []

        async def job(n):
            try:
                await asyncio.sleep(chance.choice(DELAYS))
            finally:
                ends.append(n)

        mine = asyncio.all_tasks()
        async with Pool(size=2, isolation=isolation) as pool:
            jobs = [await pool.submit(job, n) for n in range(8)]
            for _ in range(2):
                await asyncio.sleep(chance.choice(DELAYS))
                await turns(chance.randrange(3))
                workers = sorted(workers_of(asyncio.all_tasks() - mine), key=asyncio.Task.get_name)
                if workers:
                    chance.choice(workers).cancel()
            await pool.join()
            assert all(job.done() for job in jobs)
            assert {job.status for job in jobs} <= {JobStatus.SUCCEEDED, JobStatus.CANCELLED}
            assert pool.statistics().busy == 0
            await asyncio.sleep(10)
            assert len(pool._state.supervisor.workers()) <= 2
            assert await pool.run(double, 1) == 2
        assert sorted(ends) == list(range(8))
        await at_rest()

    explore(scenario, seeds=seeds(100))


@virtual
async def test_foreign_code_that_cancels_everything_breaks_no_promise(new_pool):
    """CA25: `for task in all_tasks(): task.cancel()` in a handler: jobs end cancelled, then the pool works again."""
    async with new_pool(size=2) as pool:
        jobs = [await pool.submit(forever) for _ in range(4)]
        await settle()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await settle()
        assert [job.status for job in jobs[:2]] == ["cancelled", "cancelled"]
        await asyncio.sleep(10)
        assert [job.status for job in jobs[2:]] == ["running", "running"]
        await pool.cancel_all()
        assert await pool.run(double, 1) == 2


@both
async def test_foreign_code_that_cancels_the_task_of_a_job(new_pool):
    """CA25: the job is cancelled "by code outside of the pool", not tried again, and no worker is lost for it."""

    async def job():
        nonlocal task_of_job
        task_of_job = asyncio.current_task()
        await forever()

    task_of_job = None
    async with new_pool(size=1) as pool:
        handle = await pool.with_options(retry=Retry(attempts=3)).submit(job)
        await started(handle)
        task_of_job.cancel()
        with pytest.raises(JobCancelledError, match="by itself or by code outside"):
            await handle
        assert await pool.run(double, 1) == 2


# -- many ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
async def test_cancel_all_of_a_hundred_thousand(new_pool, count):
    """CA26: each once; the pool stays open. (One loop will do; how long it takes is a benchmark's business.)"""
    async with new_pool(size=2, queue_size=None) as pool:
        running = [await pool.submit(forever) for _ in range(2)]
        await turns(2)
        jobs = [pool.submit_nowait(double, n) for n in range(count)]
        assert await pool.cancel_all("all") == count + 2
        assert all(job.cancelled() for job in (*running, *jobs))
        assert pool.statistics().queued == 0
        assert await pool.run(double, 1) == 2


@both
async def test_cancel_all_starts_nothing(new_pool):
    """I5: also when a call that waits for a thread is among them: its worker does not begin the next in line."""
    hold, ran = threading.Event(), []

    async def record():
        ran.append(1)

    async with new_pool(size=2, max_threads=1) as pool:
        await started(
            await pool.submit(hold.wait), await pool.submit(hold.wait)
        )  # the second has a slot, and no thread
        queued = [await pool.submit(record) for _ in range(5)]
        cancelling = asyncio.create_task(pool.cancel_all())
        await turns(3)
        hold.set()
        await cancelling
        assert all(job.cancelled() for job in queued)
        assert ran == []


@virtual
async def test_cancel_all_inside_a_job_spares_the_job(new_pool):
    """CA10: the canceller goes on."""

    async def job():
        return await pool.cancel_all()

    async with new_pool(size=2) as pool:
        others = [await pool.submit(forever), await pool.with_options(delay=9).submit(forever)]
        assert await pool.run(job) == 2
        assert all(other.cancelled() for other in others)


def test_everything_at_once(isolation, seeds):
    """CA1 to CA27 in one pot: jobs of all kinds, cancels at any turn; then the books are right and nothing spins."""

    async def swallow():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.5)

    async def shielded():
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0.5)

    async def nested():
        with anyio.move_on_after(0.25):
            await asyncio.sleep(0.5)
        async with asyncio.timeout(0.25):
            await asyncio.sleep(0.5)

    async def suicide():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async def group():
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.25))
            group.create_task(asyncio.sleep(0.5))

    kinds = [swallow, shielded, nested, suicide, group, forever, turns]

    async def scenario(chance):
        async with Pool(size=chance.randint(1, 3), queue_size=2, isolation=isolation, cancel_grace=0.5) as pool:
            jobs = []

            async def submitter():
                for _ in range(4):
                    kind = chance.choice(kinds)
                    options = pool.with_options(
                        timeout=chance.choice([None, 0.25, 0.5]),
                        total_timeout=chance.choice([None, None, 1]),
                        retry=chance.choice([None, Retry(attempts=2, delay=0.25, jitter=0)]),
                    )
                    with contextlib.suppress(JobCancelledError, PoolClosedError):
                        job = await options.submit(kind, *([3] if kind is turns else []))
                        job.add_done_callback(lambda job: None)
                        jobs.append(job)
                    await asyncio.sleep(chance.choice(DELAYS))

            tasks = [asyncio.create_task(submitter()) for _ in range(2)]
            for _ in range(6):
                await asyncio.sleep(chance.choice(DELAYS))
                await turns(chance.randrange(3))
                what = chance.random()
                if what < 0.6 and jobs:
                    chance.choice(jobs).cancel()
                elif what < 0.7:
                    await pool.cancel_all()
                elif what < 0.8:
                    chance.choice(tasks).cancel()
                now = pool.statistics()
                ended = now.succeeded + now.failed + now.timed_out + now.cancelled
                assert now.submitted == ended + now.queued + now.scheduled + now.running
                assert now.running <= now.size
            while not all(task.done() for task in tasks):
                await pool.cancel_all()
                await asyncio.sleep(0.25)
            await pool.cancel_all()
        assert all(job.done() for job in jobs)
        assert pool.statistics().busy == pool.statistics().leaked == 0
        assert asyncio.current_task().cancelling() == 0
        await at_rest()

    explore(scenario, seeds=seeds(150))


def test_foreign_code_that_cancels_everything_at_any_turn(isolation, seeds):
    """CA25, CA6: also a job whose task has not taken its first step (3.11) ends, once, and gives its slot back."""

    async def scenario(chance):
        async with Pool(size=2, isolation=isolation) as pool:
            jobs = [await pool.submit(turns, 2) for _ in range(4)]
            await turns(chance.randrange(5))
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.wait_for(pool.join(), 10)
            assert all(job.done() for job in jobs)
            assert pool.statistics().busy == 0
            await asyncio.sleep(10)
            assert await pool.run(double, 1) == 2

    explore(scenario, seeds=seeds(100))
