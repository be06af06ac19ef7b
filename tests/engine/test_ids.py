"""Ids: one namespace for the numbers that a pool gives and the ids that users give."""

import asyncio

import pytest
from helpers import assert_counters_balance, echo, nap, virtual

from aiopool import JobCancelledError, JobOptions, Pool, current_job
from aiopool.events import JobSubmitted
from aiopool.testing import settle


@virtual
async def test_a_number_that_a_live_job_took_is_given_to_no_other(isolation):
    """An id that is a number is skipped by the numbers of later jobs, for as long as its job lives."""
    async with Pool(1, isolation=isolation) as pool:
        mine = await pool.with_options(id=3).submit(nap, 1, "mine")
        also = await pool.with_options(id="5").submit(nap, 1, "also")
        others = [await pool.submit(nap, 1, number) for number in range(4)]
        assert [job.id for job in (mine, also, *others)] == [3, "5", 4, 6, 7, 8]
        assert await pool.cancel(others[0].id)
        assert (await mine, await also) == ("mine", "also")
        assert (await pool.submit(echo)).id == 9
        assert_counters_balance(pool)


@virtual
async def test_a_number_that_was_given_is_refused_as_an_id(isolation):
    """The number of a live job is no id for another, as a number or as a text; afterwards it is free."""
    async with Pool(1, isolation=isolation) as pool:
        job = await pool.submit(nap, 1)
        for id in (1, "1"):
            with pytest.raises(ValueError, match=r"is taken by a live job.*choose another id"):
                await pool.with_options(id=id).submit(echo)
            with pytest.raises(ValueError, match="is taken by a live job"):
                pool.with_options(id=id).submit_nowait(echo)
        await job
        assert (await pool.with_options(id=1).submit(echo)).id == 1


@virtual
async def test_a_number_counts_as_taken_while_its_job_waits_for_room(isolation):
    """A job that waits for room answers to its number, and nobody else can have it; nor can its id be taken twice."""
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 1)
        waiting = [asyncio.create_task(pool.submit(nap, 1, "numbered"))]
        waiting += [asyncio.create_task(pool.with_options(id=id).submit(nap, 1, id)) for id in (9, "mine")]
        await settle()
        for id, answers in ((2, 2), ("2", 2), (9, 9), ("9", 9), ("mine", "mine")):
            found = pool.get_job(id)
            assert found is not None
            assert (found.id, found.waiting_for) == (answers, "admission")
            with pytest.raises(ValueError, match="is taken by a live job"):
                await pool.with_options(id=id).submit(echo)
        jobs = [await task for task in waiting]
        assert [job.id for job in jobs] == [2, 9, "mine"]
        assert [await job for job in jobs] == ["numbered", 9, "mine"]
        for id in (2, 9, "mine"):
            assert pool.get_job(id) is None
            assert await (await pool.with_options(id=id).submit(echo, id)) == id


@virtual
async def test_text_and_number_are_one_id(isolation):
    """`get_job`, `cancel` and `reprioritize` take an id as a number or as a text, whichever it was given as."""
    async with Pool(1, isolation=isolation) as pool:
        await pool.submit(nap, 1)
        numbered = await pool.submit(echo)
        given = [await pool.with_options(id=id).submit(echo) for id in (70, "71", -1, "x")]
        for job in (numbered, *given):
            assert pool.get_job(job.id) is job
            assert pool.get_job(str(job.id)) is job
        assert pool.get_job(71) is given[1]
        for not_one in ("02", "", " 2", "2.0", "x ", "9" * 5000, 10**100, 3, 0):
            assert pool.get_job(not_one) is None
        assert pool.reprioritize("2", 9)
        assert numbered.priority == 9
        report = await pool.cancel("70")
        assert report
        assert given[0].cancelled()


@virtual
async def test_a_job_with_an_id_of_its_own_does_not_answer_to_a_number(isolation):
    """A job answers to one id: to its own, if it has one."""
    async with Pool(1, isolation=isolation) as pool:
        mine = await pool.with_options(id="mine").submit(nap, 1)
        assert pool.get_job(mine._sequence) is None
        other = await pool.with_options(id=mine._sequence).submit(nap, 1)
        assert (pool.get_job(1), pool.get_job("mine")) == (other, mine)


@virtual
async def test_what_is_no_id_is_refused(isolation):
    """A job, None or a float in place of an id is told what to write instead."""
    async with Pool(1, isolation=isolation) as pool:
        job = await pool.submit(nap, 1)
        for wrong in (job, None, 1.0, True, b"1"):
            with pytest.raises(TypeError, match=r"is not the id of a job: write `job\.id`"):
                pool.get_job(wrong)
            with pytest.raises(TypeError, match=r"is not the id of a job: write `job\.id`"):
                await pool.cancel(wrong)


@virtual
async def test_ids_taken_by_the_source_of_a_map(isolation):
    """An item of a map that submits a job with the next number as its id does not get two jobs of one id."""
    async with Pool(1, isolation=isolation) as pool:
        submitted = []
        pool.listen(lambda event: submitted.append(event.job_id), JobSubmitted)

        def source():
            for number in range(4):
                if number == 1:
                    pool.with_options(id=4).submit_nowait(nap, 1)
                yield number

        assert await pool.map(echo, source()).collect() == [0, 1, 2, 3]
        assert len(submitted) == len(set(submitted)) == 5


@virtual
async def test_the_reason_of_a_cancel_reaches_a_submitter_that_waits_for_room(isolation):
    """The reason is in the error that `submit` raises, and in the job's outcome, however it was cancelled."""
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 100)
        by = (
            lambda job: pool.cancel(job.id, "paid twice"),
            lambda job: job.cancel("paid twice"),
            lambda job: pool.cancel_all("paid twice", group="bills"),
            lambda job: pool.cancel_all("paid twice"),
        )
        for cancel in by:
            submitting = asyncio.create_task(pool.with_options(id="bill", group="bills").submit(nap, 1))
            await settle()
            job = pool.get_job("bill")
            outcome = cancel(job)
            if not isinstance(outcome, bool):
                await outcome
            with pytest.raises(JobCancelledError, match="paid twice"):
                await submitting
            assert job.outcome().reason == "paid twice"


@virtual
async def test_an_id_that_another_took_at_once_stays_his(isolation):
    """A job that is cancelled while it waits for room leaves its id; whoever takes it in that step keeps it."""
    async with Pool(1, 1, isolation=isolation) as pool:
        first, queued = (pool.submit_nowait(nap, 1) for _ in range(2))
        submitting = asyncio.create_task(pool.with_options(id="bill").submit(echo))
        await settle()
        assert pool.get_job("bill").cancel()
        assert queued.cancel()
        heir = pool.with_options(id="bill").submit_nowait(echo, "heir")
        with pytest.raises(JobCancelledError):
            await submitting
        assert pool.get_job("bill") is heir
        with pytest.raises(ValueError, match="is taken by a live job"):
            pool.with_options(id="bill").submit_nowait(echo)
        assert await heir == "heir"
        assert pool.get_job("bill") is None
        await first


@virtual
async def test_ids_come_and_go(isolation):
    """Numbers, ids and jobs that come and go leave no id behind."""
    async with Pool(3, 2, isolation=isolation) as pool:
        for number in range(50):
            tasks = [asyncio.create_task(pool.with_options(id=number + more).submit(nap, 1)) for more in range(8)]
            tasks += [asyncio.create_task(pool.submit(nap, 1)) for _ in range(8)]
            await settle()
            tasks[number % 16].cancel()
            live = [job.id for job in pool.jobs()]
            assert len(live) == len({str(id) for id in live})
            await asyncio.gather(*tasks, return_exceptions=True)
            await pool.join()
        engine = pool._state.engine
        assert (engine.ids._by_key, engine.jobs, engine.ids._reserved) == ({}, {}, set())
        assert engine.ids.next is engine.runtime.next_job
        assert_counters_balance(pool)


@virtual
async def test_an_id_and_a_delay_take_the_specs_of_their_view(isolation):
    """Views that differ by an id or a delay alone share one spec; each job has its own id and delay."""
    async with Pool(1, None, isolation=isolation) as pool:
        began = asyncio.get_running_loop().time()
        view = pool.with_options(priority=3)
        jobs = [await view.with_options(id=f"job-{n}", delay=n).submit(asyncio.sleep, 0) for n in range(3)]
        jobs.append(await view.with_options(delay=7).with_options(id="last").submit(asyncio.sleep, 0))
        jobs.append(await view.with_options(id="named").with_options(name="other").submit(asyncio.sleep, 0))
        jobs.append(await view.with_options(id="none").with_options(id=None).submit(asyncio.sleep, 0))
        assert len({id(job._spec) for job in jobs[:4]}) == 1
        assert [job.id for job in jobs] == ["job-0", "job-1", "job-2", "last", "named", jobs[-1]._sequence]
        assert {job.priority for job in jobs} == {3}
        assert jobs[4].name == "other"
        await pool.join()
        assert [round(job.started_at - began, 3) for job in jobs] == [0, 1, 2, 7, 0, 0]


@virtual
async def test_a_map_in_a_view_with_a_delay_delays_its_jobs(isolation):
    """`with_options(delay=…).map` delays each job, and options of an item come before."""
    async with Pool(2, isolation=isolation) as pool:
        clock = asyncio.get_running_loop().time
        began = clock()

        async def moment(item):
            return round(clock() - began, 3), current_job().id

        later = pool.with_options(delay=2)
        assert [at for at, _ in await later.map(moment, range(2)).collect()] == [2, 2]
        chosen = later.map(moment, [5, 1], options=lambda item: JobOptions(delay=item, id=f"i{item}"))
        assert await chosen.collect() == [(7, "i5"), (3, "i1")]


async def test_an_id_in_a_view_is_checked_as_every_option(isolation):
    """An id or a delay that a job cannot have is refused where it is written."""
    async with Pool(isolation=isolation) as pool:
        with pytest.raises(TypeError, match="an id is a str or an int"):
            pool.with_options(id=1.5)
        with pytest.raises(ValueError, match="zero or more"):
            pool.with_options(delay=-1)


@virtual
async def test_an_id_is_free_again_however_its_job_ended():
    """A second live job cannot have it; the first one after it can, and the numbers go on without a gap or a double."""

    async def wrong():
        raise ValueError

    async with Pool(1, 1, on_error=lambda job, error: None) as pool:
        mine = pool.with_options(id="mine")
        for end in ("returns", "raises", "is cancelled in line", "is cancelled", "times out", "found no room"):
            before = pool.statistics().submitted
            if end in ("is cancelled in line", "found no room"):
                blocker = await pool.with_options(id="other").submit(nap, 1)
                await settle()
            if end == "found no room":
                await pool.submit(echo)
                with pytest.raises(asyncio.QueueFull):
                    mine.submit_nowait(echo)
                assert pool.get_job("mine") is None
                await blocker
                continue
            options = mine.with_options(timeout=1) if end == "times out" else mine
            job = await options.submit(
                wrong if end == "raises" else nap if end == "returns" else asyncio.sleep,
                *([] if end == "raises" else [5]),
            )
            with pytest.raises(ValueError, match="'mine' is taken by a live job"):
                mine.submit_nowait(echo)
            assert pool.get_job("mine") is job
            if "cancelled" in end:
                if end == "is cancelled":
                    await settle()
                await pool.cancel("mine")
            await job.wait()
            assert pool.get_job("mine") is None
            assert pool.statistics().submitted > before
            await pool.join()
        again = await mine.submit(echo, "again")
        assert (await again, again.id) == ("again", "mine")
        assert_counters_balance(pool)


@virtual
async def test_numbers_that_are_taken_stay_so_when_one_of_them_is_free(isolation):
    """Two jobs have numbers for ids; the end of one gives no other job the number of the other."""
    async with Pool(1, isolation=isolation) as pool:
        await pool.submit(nap, 1)
        first = await pool.with_options(id=5).submit(nap, 1)
        kept = await pool.with_options(id=6).submit(nap, 1)
        first.cancel()
        numbers = [(await pool.submit(echo)).id for _ in range(4)]
        assert numbers == [4, 5, 7, 8]
        assert pool.get_job(6) is kept
