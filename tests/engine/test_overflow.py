"""Back-pressure at the door: room in the queue, and what happens when there is none."""

import asyncio
import sys

import pytest
from helpers import assert_counters_balance, echo, nap, now, virtual

from aiopool import JobCancelledError, Pool, PoolClosedError, QueueFullError, Retry
from aiopool._engine.admission import Admission
from aiopool.errors import JobDroppedError
from aiopool.testing import FailingCall, advance, settle


async def collect(into, value):
    """Note that it ran."""
    into.append(value)


@pytest.mark.parametrize("queue_size", [0, 1, 3])
def test_submit_waits_exactly_there(queue_size):
    """With n places, size + n jobs are taken in; the next submitter waits, and `submit_nowait` says full."""

    @virtual
    async def main(isolation):
        async with Pool(2, queue_size, isolation=isolation) as pool:
            for _ in range(2 + queue_size):
                pool.submit_nowait(nap, 1)
            with pytest.raises(QueueFullError, match=f"queue_size={queue_size}"):
                pool.submit_nowait(nap, 1)
            blocked = asyncio.create_task(pool.submit(nap, 1))
            await settle()
            assert not blocked.done()
            numbers = pool.statistics()
            assert (numbers.queued, numbers.waiting, numbers.rejected) == (queue_size, 1, 1)
            assert_counters_balance(numbers)
            await advance(1)
            assert blocked.done()

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_without_a_bound_nobody_waits(isolation):
    """`queue_size=None` takes everything."""
    async with Pool(1, None, isolation=isolation) as pool:
        for _ in range(5000):
            pool.submit_nowait(echo)
        assert pool.statistics().queued == 5000


@virtual
async def test_with_room_submit_does_not_suspend(isolation):
    """Jobs that are submitted in a row stand in line together: no turn of the loop passes between."""
    async with Pool(1, 100, isolation=isolation) as pool:
        turn = []
        asyncio.get_running_loop().call_soon(turn.append, 1)
        jobs = [await pool.submit(echo) for _ in range(50)]
        assert not turn
        assert {job.status for job in jobs} == {"queued"}


@virtual
async def test_each_freed_place_wakes_one_in_order(isolation):
    """Many blocked submitters get in first come first served, one for each place."""
    entered = []

    async def submit(n):
        await pool.submit(nap, 1)
        entered.append((now(), n))

    async with Pool(1, 1, isolation=isolation) as pool:
        tasks = [asyncio.create_task(submit(n)) for n in range(8)]
        await asyncio.gather(*tasks)
    assert entered == [(0, 0), (0, 1), *((n - 1, n) for n in range(2, 8))]


@virtual
async def test_a_submitter_that_gives_up_leaves_no_gap(isolation):
    """Of three blocked submitters the first gives up; the second gets the next place, its job runs once."""
    ran = []

    async def note(n):
        ran.append(n)
        await asyncio.sleep(1)

    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 2)
        first, second, third = (asyncio.create_task(pool.submit(note, n)) for n in range(3))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(first, 1)
        await asyncio.gather(second, third)
    assert ran == [1, 2]
    assert pool.statistics().submitted == 3


@virtual
async def test_a_cancel_of_a_job_whose_submitter_was_just_cancelled_comes_too_late(isolation):
    """In the turn in which its submitter is cancelled the job is the submitter's to withdraw: nobody is asked."""
    async with Pool(1, 0, isolation=isolation) as pool:
        first = pool.submit_nowait(nap, 1)
        blocked = asyncio.create_task(pool.with_options(id="late").submit(echo))
        await settle()
        late = pool.get_job("late")
        blocked.cancel()
        assert not late.cancel("too late")
        with pytest.raises(asyncio.CancelledError):
            await blocked
        with pytest.raises(JobCancelledError, match="withdrawn"):
            late.result()
        assert late.outcome().reason is None
        await first
        assert pool.statistics().submitted == 1
        assert_counters_balance(pool)


@virtual
async def test_cancelling_a_job_by_its_id_as_its_submitter_is_cancelled_returns(isolation):
    """`pool.cancel` in that turn says that it has cancelled nothing, and does not wait for what never runs."""
    async with Pool(1, 0, isolation=isolation) as pool:
        first = pool.submit_nowait(nap, 1)
        blocked = asyncio.create_task(pool.with_options(id="late").submit(echo))
        await settle()
        blocked.cancel()
        report = await pool.cancel("late")
        assert not report
        assert not report.leaked
        with pytest.raises(asyncio.CancelledError):
            await blocked
        assert now() == 0
        await first


@virtual
async def test_room_goes_past_a_submitter_that_was_just_cancelled(isolation):
    """In the turn in which its submitter is cancelled a job gets no room that comes free: the next one does."""
    ran = []
    async with Pool(1, 1, isolation=isolation) as pool:
        pool.submit_nowait(nap, 1)
        queued = pool.submit_nowait(nap, 1)
        blocked = [asyncio.create_task(pool.submit(collect, ran, n)) for n in range(2)]
        await settle()
        blocked[0].cancel()
        queued.cancel()
        assert pool.statistics().waiting == 0
        assert pool.statistics().queued == 1
        await blocked[1]
    assert blocked[0].cancelled()
    assert ran == [1]
    assert_counters_balance(pool)


@virtual
async def test_a_fault_while_a_job_is_let_in_is_its_submitters(isolation):
    """A job that cannot be taken in, for lack of memory, fails its own `submit`; the room goes to the next."""
    async with Pool(1, 1, isolation=isolation) as pool:
        pool.submit_nowait(nap, 1)
        queued = pool.submit_nowait(nap, 1)
        limited = asyncio.create_task(pool.with_options(total_timeout=9, id="limited").submit(echo))
        plain = asyncio.create_task(pool.submit(echo, "next"))
        await settle()
        refused = pool.get_job("limited")
        with FailingCall("call_at", lasting=True):
            assert queued.cancel()  # whoever makes room does not get the error
        with pytest.raises(MemoryError, match="made to fail"):
            await limited
        assert refused.cancelled()
        assert isinstance(refused.exception(), MemoryError)
        assert pool.get_job("limited") is None
        assert await (await plain) == "next"
        assert pool.statistics().submitted == 3
        assert_counters_balance(pool)


@virtual
async def test_an_unblocked_submitter_meets_no_newcomer(isolation):
    """While somebody waits for room, a newcomer does not take the freed place, not even with `submit_nowait`."""
    async with Pool(1, 1, isolation=isolation) as pool:
        jobs = [pool.submit_nowait(nap, 1) for _ in range(2)]
        blocked = asyncio.create_task(pool.submit(nap, 1))
        await settle()
        jobs[1].cancel()  # a place is free, and taken in the same moment
        with pytest.raises(QueueFullError):
            pool.submit_nowait(nap, 1)
        await settle()
        assert blocked.done()


@virtual
async def test_a_cancelled_job_gives_its_place_back(isolation):
    """A job that is cancelled in the queue frees its place at once."""
    async with Pool(1, 1000, isolation=isolation) as pool:
        pool.submit_nowait(nap, 1)
        await settle()
        jobs = [pool.submit_nowait(echo) for _ in range(1000)]
        with pytest.raises(QueueFullError):
            pool.submit_nowait(echo)
        for job in jobs:
            job.cancel()
        for _ in range(1000):
            pool.submit_nowait(echo)


@virtual
async def test_a_job_that_waits_for_room_can_be_cancelled_by_its_id(isolation):
    """`cancel` reaches a job whose submitter still waits for room, says so, and tells whoever found it."""
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 5)
        submitting = asyncio.create_task(pool.with_options(id="x").submit(echo))
        await settle()
        found = pool.get_job("x")
        assert found is not None
        assert found.waiting_for == "admission"
        waiter = asyncio.create_task(found.wait())
        await settle()
        report = await pool.cancel("x", reason="changed my mind")
        assert report
        assert (report.was, report.status, report.leaked) == ("queued", "cancelled", False)
        for waits in (submitting, found):
            with pytest.raises(JobCancelledError):
                await waits
        assert await waiter
        assert pool.get_job("x") is None
        assert_counters_balance(pool)


@virtual
async def test_jobs_that_wait_for_room_are_cancelled_with_their_group_and_with_all(isolation):
    """Their submitters are told, they never run, and those of others wait on."""
    async with Pool(1, 0, isolation=isolation) as pool:
        for cancel, other in ((lambda: pool.cancel_all(group="mail"), True), (pool.cancel_all, False)):
            mail = pool.with_options(group="mail")
            running = await mail.submit(nap, 100)
            waiting = [asyncio.create_task(mail.submit(nap, 100)) for _ in range(3)]
            waiting.append(asyncio.create_task(pool.submit(echo, "other")))
            await settle()
            assert await cancel() == 5 - other
            await settle()
            if other:
                assert await waiting.pop().result() == "other"
            assert running.cancelled()
            for task in waiting:
                with pytest.raises(JobCancelledError, match="waited for room"):
                    await task
            assert (pool.statistics().waiting, pool.statistics().running) == (0, 0)
            assert_counters_balance(pool)


class Incomparable:
    """Equal to nothing, and nothing may ask."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        raise LookupError("not to be compared")


@virtual
async def test_a_cancel_that_breaks_off_leaves_the_others_in_line(isolation):
    """A group whose name is none is an error at the caller; who waits for room is let in as before."""
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 1)
        waiting = asyncio.create_task(pool.with_options(group="mail").submit(echo, "let in"))
        await settle()
        with pytest.raises(TypeError, match="unhashable"):
            await pool.cancel_all(group=["mail"])
        with pytest.raises(LookupError, match="not to be compared"):
            await pool.cancel_all(group=Incomparable())
        assert await (await asyncio.wait_for(waiting, 5)) == "let in"
        assert_counters_balance(pool)


@virtual
async def test_the_total_limit_begins_when_there_is_room(isolation):
    """Who calls `submit` sets the time for that himself; a job's own clocks start when it is taken in."""
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 5)
        job = await pool.with_options(total_timeout=2, queue_timeout=2).submit(nap, 1)
        assert now() == job.submitted_at == 5
        await job
        assert now() == 6


@virtual
async def test_who_waits_for_room_is_told_of_the_end(isolation):
    """Blocked submitters get `PoolClosedError` when the pool is shut down; so does who found their job."""
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 5)
        submitting = [asyncio.create_task(pool.with_options(id=n).submit(echo)) for n in ("a", "b")]
        await settle()
        found = pool.get_job("a")
        await pool.shutdown(timeout=0)
        for task in submitting:
            with pytest.raises(PoolClosedError):
                await task
        with pytest.raises(PoolClosedError):
            await found
        with pytest.raises(PoolClosedError):
            pool.submit_nowait(echo)
        with pytest.raises(PoolClosedError):
            await pool.submit(echo)


@virtual
async def test_join_does_not_wait_for_a_submitter_that_has_given_up(isolation):
    """A join that waited for a blocked submitter goes on when that one withdraws."""
    async with Pool(1, 0, isolation=isolation) as pool:
        pool.pause()
        submitting = asyncio.create_task(pool.submit(echo))
        await settle()
        joining = asyncio.create_task(pool.join())
        await settle()
        assert not joining.done()
        submitting.cancel()
        await settle()
        assert joining.done()


# -- the policies ----------------------------------------------------------------------------------------------------


@virtual
async def test_reject(isolation):
    """`overflow="reject"`: `submit` does not wait, and refuses with a text that tells what to write."""
    async with Pool(1, 1, isolation=isolation, overflow="reject") as pool:
        for _ in range(2):
            await pool.submit(nap, 1)
        with pytest.raises(QueueFullError, match="overflow="):
            await pool.submit(nap, 1)
        assert pool.statistics().rejected == 1
        assert_counters_balance(pool)


@virtual
async def test_drop_oldest(isolation):
    """`overflow="drop_oldest"`: the job submitted first leaves the queue; its waiters are told for which one."""
    async with Pool(1, 2, isolation=isolation, overflow="drop_oldest") as pool:
        running = await pool.submit(nap, 1)
        await settle()
        jobs = [await pool.with_options(priority=priority).submit(echo, priority) for priority in (1, 9)]
        fresh = await pool.with_options(priority=5).submit(echo, 5)
        with pytest.raises(JobDroppedError, match="drop_oldest"):
            await jobs[0]
        assert [await job for job in (jobs[1], fresh, running)] == [9, 5, None]
        numbers = pool.statistics()
        assert (numbers.cancelled, numbers.submitted) == (1, 4)
        assert_counters_balance(numbers)


@virtual
async def test_a_drop_makes_room_at_once_for_who_does_not_wait(isolation):
    """`submit_nowait` drops as `submit` does; in a group its job is a member, and has its arguments."""
    async with Pool(1, 1, isolation=isolation, overflow="drop_oldest") as pool:
        first = pool.submit_nowait(nap, 1)
        await settle()
        dropped = pool.submit_nowait(echo)
        async with pool.group() as group:
            member = group.submit_nowait(nap, seconds=1, value="member")
            assert group.jobs == [member]
        assert now() == 2
        assert await member == "member"
        running = pool.submit_nowait(nap, 1)
        await settle()
        oldest = pool.submit_nowait(echo)
        assert await pool.submit_nowait(echo, "alone") == "alone"
        assert oldest.cancelled()
        await running
        with pytest.raises(JobDroppedError):
            await dropped
        assert first.done()
        assert_counters_balance(pool)


@virtual
@pytest.mark.parametrize("nowait", [False, True])
@pytest.mark.parametrize("policy", ["drop_oldest", "drop_lowest"])
async def test_a_job_that_starts_later_leaves_the_room_that_was_made_for_it(isolation, policy, nowait):
    """It does not stand in the queue: whoever waits for room, as a map does, gets that of the job that was dropped."""
    async with Pool(1, 1, isolation=isolation, overflow=policy, on_error=lambda job, error: None) as pool:
        pool.pause()
        await pool.with_options(priority=9).submit(nap)
        mapped = asyncio.create_task(pool.map(nap, [0]).collect())
        await settle()
        numbers = pool.statistics()
        assert (numbers.queued, numbers.waiting) == (1, 1)
        later = pool.with_options(delay=5)
        _ = later.submit_nowait(nap) if nowait else await later.submit(nap)
        await settle()
        numbers = pool.statistics()
        assert (numbers.dropped, numbers.scheduled, numbers.queued, numbers.waiting) == (1, 1, 1, 0)
        pool.resume()
        assert await mapped == [None]


@virtual
async def test_drop_lowest(isolation):
    """`overflow="drop_lowest"`: the last in line leaves it for a better one; what is no better is refused."""
    async with Pool(1, 2, isolation=isolation, overflow="drop_lowest") as pool:
        await pool.submit(nap, 1)
        await settle()
        low, lower = [await pool.with_options(priority=priority).submit(echo, priority) for priority in (8, 9)]
        with pytest.raises(QueueFullError):
            await pool.with_options(priority=9).submit(echo)
        better = await pool.with_options(priority=5).submit(echo, 5)
        with pytest.raises(JobDroppedError):
            await lower
        assert [await low, await better] == [8, 5]


@virtual
async def test_a_drop_that_nobody_awaits_is_reported(isolation):
    """Claim: failures that nobody awaits are reported once, drops included."""
    seen = []
    async with Pool(
        1, 1, isolation=isolation, overflow="drop_oldest", on_error=lambda *told: seen.append(told)
    ) as pool:
        await pool.submit(nap, 1)
        await settle()
        victim = await pool.submit(echo)
        await pool.submit(echo)
        assert [(job, type(error)) for job, error in seen] == [(victim, JobDroppedError)]


@virtual
async def test_a_job_that_comes_back_needs_no_room(isolation):
    """A job that was taken in is not put out: it comes back to a full queue; who waits for room waits longer."""
    order = []

    async def work(name):
        order.append(name)
        if order.count(name) == 1 and name == "again":
            raise ValueError
        await asyncio.sleep(1)

    async with Pool(1, 1, isolation=isolation) as pool:
        again = pool.with_options(retry=Retry(attempts=2, backoff="fixed", delay=0.5, jitter=0))
        await again.submit(work, "again")
        await pool.with_options(delay=0.5).submit(work, "delayed")
        await settle()
        await pool.submit(work, "runs")
        await pool.submit(work, "queued")
        outside = asyncio.create_task(pool.submit(work, "outside"))
        await advance(0.5)
        numbers = pool.statistics()
        assert (numbers.queued, numbers.waiting) == (3, 1)
        with pytest.raises(QueueFullError):
            pool.submit_nowait(work, "refused")
        await advance(1)
        assert not outside.done()
        await pool.join()
    assert order == ["again", "runs", "again", "delayed", "queued", "outside"]


@virtual
async def test_a_newcomer_takes_the_place_of_whom_it_drops(isolation):
    """A map waits for room under every policy; who drops a job has that job's room, not the one it waits for."""
    for policy in ("drop_oldest", "drop_lowest"):
        async with Pool(1, 1, isolation=isolation, overflow=policy, on_error=lambda job, error: None) as pool:
            await pool.submit(nap, 1)
            await settle()
            first = await pool.with_options(priority=8).submit(echo, "first")
            results = asyncio.create_task(pool.map(echo, "m").collect())
            await settle()
            assert pool.statistics().waiting == 1
            second = await pool.submit(echo, "second")
            assert first.cancelled()
            assert pool.statistics().waiting == 1
            await advance(1)
            assert (await second, await results) == ("second", ["m"])


@virtual
async def test_an_unknown_policy_is_refused():
    """A policy that does not exist is refused with the list of those that do."""
    with pytest.raises(ValueError, match="drop_oldest"):
        Pool(overflow="drop")


@pytest.mark.both_isolations
@pytest.mark.parametrize("contended", [False, True])
@virtual
async def test_a_job_is_not_lost_if_another_cannot_be_admitted_in_its_place(isolation, contended, monkeypatch):
    """A worker has taken it from the queue, and admission fails: it goes back to its place, and starts next."""
    admit, log = Admission.admit, []

    def fail_once(self):
        if self.waiting and sys._getframe(1).f_code.co_name == "_admit_after":
            monkeypatch.setattr(Admission, "admit", admit)
            log.append("failed")
            raise MemoryError
        admit(self)

    async def note(name):
        log.append(name)
        await asyncio.sleep(1)

    async with Pool(1, 2, isolation=isolation) as pool:
        await pool.submit(note, "first")
        await settle()
        if contended:  # a group that is paused, whose job the worker meets first
            await pool.with_options(group="held", priority=1).submit(note, "parked")
            pool.pause(group="held")
        for name in "ab"[contended:]:
            await pool.submit(note, name)
        late = asyncio.create_task(pool.submit(note, "late"))
        await settle()
        assert pool.statistics().waiting == 1
        monkeypatch.setattr(Admission, "admit", fail_once)
        await advance(1)
        await late
        await advance(1)  # another worker has come
        pool.resume(group="held")
    assert log == ["first", "failed", *(["b", "parked", "late"] if contended else ["a", "b", "late"])]
    assert_counters_balance(pool)
