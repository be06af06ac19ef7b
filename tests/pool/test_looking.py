"""Looking at a pool with many jobs, and cancelling some of them: what is found, and that nobody is held up."""

import asyncio
import threading

import pytest
from helpers import echo, forever, nap, stubborn, virtual

from aiopool import JobStatus, Pool, Retry
from aiopool._engine.walk import COPIED, SPARSE, STRETCH, numbers, walk
from aiopool.testing import advance, settle

pytestmark = pytest.mark.both_isolations


# -- what runs, and what is next ---------------------------------------------------------------------------------------


@virtual
async def test_running_jobs_come_in_the_order_of_their_starts(isolation):
    """Whatever their numbers; jobs that wait, have ended or have leaked are not among them."""
    async with Pool(2, isolation=isolation, cancel_grace=1) as pool:
        assert pool.running_jobs() == []
        late, first = await pool.with_options(delay=5).submit(forever), await pool.submit(forever)
        await advance(5)
        waits = await pool.submit(nap)
        await settle()
        assert pool.running_jobs() == [first, late]
        assert pool.jobs("running") == [late, first], "by their numbers"
        assert waits.status == "queued"
        await pool.cancel_all()
        leaked = await pool.submit(stubborn)
        await settle()
        leaked.cancel()
        await leaked.wait()
        assert pool.running_jobs() == pool.jobs("running") == []
        await advance(3600)


@virtual
async def test_a_job_in_a_thread_or_with_a_loan_runs(isolation):
    """As its status says."""
    began, go_on = threading.Event(), threading.Event()

    def blocks():
        began.set()
        go_on.wait(10)

    async with Pool(1, isolation=isolation) as pool:
        outer = await pool.submit(lends, pool, blocks)
        while not began.is_set():
            await asyncio.sleep(0)
        assert [job.name.split(".")[-1] for job in pool.running_jobs()] == ["lends", "blocks"]
        go_on.set()
        await outer


async def lends(pool, function):
    await pool.run(function)


@virtual
@pytest.mark.parametrize("aging", [None, 10.0])
async def test_next_jobs_are_those_that_start_next(isolation, aging):
    """Best first, as they start; the queue is as it was. Jobs that were cancelled, or wait elsewhere, are not in it."""
    order = []
    async with Pool(1, isolation=isolation, aging=aging) as pool:
        blocker = await pool.with_options(priority=-99).submit(nap, 1)
        await settle()
        jobs = [
            await pool.with_options(priority=priority).submit(order.append, number)
            for number, priority in enumerate([5, 1, 8, 5, 1, 3] * 20)
        ]
        for job in jobs[::7]:
            job.cancel()
        pool.reprioritize(jobs[4].id, 9)
        await pool.with_options(delay=50).submit(nap)
        found = pool.next_jobs(1000)
        assert pool.next_jobs(5) == found[:5]
        assert pool.next_jobs(0) == []
        assert blocker not in found
        assert len(found) == len(jobs) - len(jobs[::7])
        await pool.join()
        assert order == [jobs.index(job) for job in found]


# -- the walk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "live",
    [
        [],
        [1],
        [3, 4, 9],
        list(range(1, 5 * STRETCH)),
        list(range(1, COPIED + 3 * STRETCH)),
        [n for n in range(1, 2 * COPIED + 9) if n % 7 and not 3 * STRETCH < n < 9 * STRETCH],
        [1, *range(SPARSE * COPIED * 2, SPARSE * COPIED * 2 + COPIED + 9)],
    ],
    ids=lambda live: str(len(live)),
)
def test_a_walk_meets_each_once_in_order(live):
    """Few or many, close or far between; from the front or the back; from any place on."""
    jobs = {number: number for number in live}

    def found(**options):
        return [number for number in numbers(jobs, **options) if number in jobs]

    assert [job for job in walk(jobs) if job is not None] == live
    assert found() == live
    assert found(newest_first=True) == live[::-1]
    for after in (0, 1, 5, live[len(live) // 2] if live else 7, 10**9):
        assert found(after=after) == [n for n in live if n > after]
        assert found(after=after, newest_first=True) == [n for n in live[::-1] if n < after]


def test_a_walk_takes_no_step_for_each_number_that_is_gone():
    """Few jobs far apart, or many: the steps are about as many as the jobs."""
    for live in ([1, 10**9], [1, *range(10**9, 10**9 + COPIED + 9)]):
        assert len(list(walk(dict.fromkeys(live, True)))) <= len(live) + 1
        assert len(numbers(dict.fromkeys(live, True))) <= len(live)


@pytest.mark.parametrize("count", [1000, COPIED + 1000])
def test_a_walk_bears_any_change(count):
    """What leaves before it is met is not met, what comes meanwhile is not, and the others are."""
    jobs = {number: number for number in range(1, count + 1)}
    met = []
    for job in walk(jobs):
        if job is not None:
            met.append(job)
            jobs.pop(job + 1, None)
            jobs.pop(job - 50, None)
            jobs[count + job] = count + job
    assert met == list(range(1, count + 1, 2))


# -- a scan ------------------------------------------------------------------------------------------------------------


async def listed(scan):
    return [job.id async for job in scan]


@virtual
async def test_a_scan_finds_what_matches(isolation):
    """By status, name and group, in each place of a job's life; the oldest first, or the newest."""
    async with Pool(1, isolation=isolation, on_error=lambda job, error: None) as pool:
        view = pool.with_options(group="g")
        running = await view.submit(forever)
        later = await pool.with_options(delay=50, name="later", id="own").submit(nap)
        queued = [await view.submit(nap), await pool.submit(echo), await view.submit(echo)]
        await settle()
        everyone = [running.id, later.id, *(job.id for job in queued)]
        assert await listed(pool.scan()) == everyone
        assert await listed(pool.scan(newest_first=True)) == everyone[::-1]
        assert await listed(pool.scan("running")) == [running.id]
        assert await listed(pool.scan(JobStatus.SCHEDULED)) == ["own"]
        assert await listed(pool.scan("queued", group="g")) == [queued[0].id, queued[2].id]
        assert await listed(pool.scan(name="echo")) == [queued[1].id, queued[2].id]
        assert await listed(pool.scan("failed")) == []
        asked = []
        assert await listed(pool.scan("queued", group="g", where=asked.append)) == []
        assert asked == [queued[0], queued[2]]
        assert await listed(pool.scan("queued", where=lambda job: job.group is None)) == [queued[1].id]
        with pytest.raises(ValueError, match="lost"):
            pool.scan("lost")
        await pool.cancel_all()
        assert await listed(pool.scan()) == []


@virtual
@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_scan_goes_on_from_its_cursor(isolation, newest_first):
    """Page by page, whatever ends between; the cursor is None at the end."""
    async with Pool(1, isolation=isolation) as pool:
        pool.pause()
        jobs = [await pool.with_options(id=f"j{n}").submit(echo, n) for n in range(25)]
        pages, cursor = [], None
        while True:
            scan, page = pool.scan(cursor=cursor, newest_first=newest_first), []
            async for job in scan:
                page.append(job)
                if len(page) == 10:
                    break
            pages.append(page)
            cursor = scan.cursor
            if cursor is None:
                break
            page[-1].cancel()
            await pool.submit(echo)  # new ones come at the end
        found = [job for page in pages for job in page if job in jobs]
        assert found == (jobs[::-1] if newest_first else jobs)
        assert scan.looked_at < 10
        await pool.cancel_all()


async def test_a_scan_lets_the_loop_turn(isolation):
    """While it looks for what is not there, and while it hands out jobs, others go on."""
    turns = [0]

    def turn():
        turns[0] += 1
        timer[0] = asyncio.get_running_loop().call_soon(turn)

    async with Pool(1, None, isolation=isolation) as pool:
        pool.pause()
        for number in range(60_000):
            pool.submit_nowait(echo, number)
        timer = [asyncio.get_running_loop().call_soon(turn)]
        for status, count in (("running", 0), ("queued", 60_000)):
            turns[0] = 0
            assert len(await listed(pool.scan(status))) == count
            assert turns[0] >= 3
        timer[0].cancel()
        await pool.cancel_all()


@virtual
async def test_a_scan_meets_jobs_that_are_there_at_its_begin(isolation):
    """Those that end before they come by are not met, nor those that come later; a cancelled reader may go on."""
    async with Pool(1, isolation=isolation) as pool:
        pool.pause()
        jobs = [await pool.submit(echo) for _ in range(5)]
        scan = pool.scan()
        jobs[3].cancel()
        await pool.submit(echo)
        found = [(await anext(scan)).id]
        task = asyncio.create_task(anext(scan))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert found + await listed(scan) == [job.id for job in jobs if job is not jobs[3]]
        await pool.cancel_all()


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_scan_ends_after_so_many_jobs(isolation, newest_first):
    """Whether they match or not; and it says where to go on, so that none is missed."""
    async with Pool(1, None, isolation=isolation) as pool:
        pool.pause()
        jobs = [pool.with_options(group="few" if n % 100 == 7 else None).submit_nowait(echo, n) for n in range(1000)]
        wanted = [job.id for job in jobs if job.group == "few"]
        found, cursor, looks = [], None, []
        while True:
            scan = pool.scan(group="few", cursor=cursor, newest_first=newest_first, look_at_most=130)
            found += await listed(scan)
            looks.append(scan.looked_at)
            cursor = scan.cursor
            if cursor is None:
                break
        assert found == (wanted[::-1] if newest_first else wanted)
        assert looks == [130] * 7 + [90]
        assert await listed(pool.scan(look_at_most=0)) == []
        with pytest.raises(ValueError, match="look_at_most"):
            pool.scan(look_at_most=-1)
        await pool.cancel_all()


async def test_a_scan_says_how_many_it_looked_at_for_each(isolation):
    """Those before a job that matches, and the job; not those behind it that it has seen already."""
    async with Pool(1, None, isolation=isolation) as pool:
        pool.pause()
        jobs = [pool.submit_nowait(echo, n) for n in range(500)]
        scan = pool.scan(where=lambda job: job.id % 100 == 50)
        seen = [(job.id, scan.looked_at, scan.cursor) async for job in scan]
        assert seen == [(n, n, n) for n in (50, 150, 250, 350, 450)]
        assert (scan.looked_at, scan.cursor) == (len(jobs), None)
        await pool.cancel_all()


async def test_a_fault_of_the_function_that_chooses_comes_out_of_the_scan(isolation):
    """Nothing is passed over by it: who goes on meets it again."""
    async with Pool(1, None, isolation=isolation) as pool:
        pool.pause()
        jobs = [pool.submit_nowait(echo, n) for n in range(300)]
        broken = {290}

        def choose(job):
            if job.id in broken:
                raise LookupError("no")
            return True

        scan = pool.scan(where=choose)
        found = []
        for _ in range(2):
            with pytest.raises(LookupError):
                async for job in scan:
                    found.append(job.id)
        broken.clear()
        found += await listed(scan)
        assert found == [job.id for job in jobs]
        await pool.cancel_all()


# -- cancel_all --------------------------------------------------------------------------------------------------------


@virtual
async def test_cancel_all_takes_what_a_function_chooses(isolation):
    """Running, queued, scheduled and waiting for room: those for which it is true, of the group if one is named."""
    async with Pool(1, 3, isolation=isolation) as pool:
        tenant = [pool.with_options(metadata={"tenant": n}, group="g" if n else None) for n in range(2)]
        kept, gone = [], []
        scheduled = await tenant[1].with_options(delay=9).submit(nap)
        for n, view in enumerate(tenant * 2):
            (kept, gone)[n % 2].append(await view.submit(forever))
        await settle()
        waiting = [asyncio.create_task(view.submit(forever)) for view in tenant]
        await settle()

        def of_tenant(job):
            return job.metadata["tenant"] == 1

        assert await pool.cancel_all("no", where=of_tenant, group="h") == 0
        assert await pool.cancel_all("no", where=of_tenant, group="g") == 4
        with pytest.raises(Exception, match="no"):
            await waiting[1]
        assert [job.status for job in (*gone, scheduled)] == ["cancelled"] * 3
        kept.append(await waiting[0])
        assert not any(job.done() for job in kept)
        assert await pool.cancel_all() == 3


@virtual
@pytest.mark.parametrize("count", [10, 2500])
async def test_cancel_all_tells_how_far_it_is(isolation, count):
    """In jobs that were looked at: once in a thousand, and at the end."""
    told = []
    async with Pool(1, None, isolation=isolation) as pool:
        pool.pause()
        for _ in range(count):
            pool.submit_nowait(echo)
        assert await pool.cancel_all(on_progress=lambda *numbers: told.append(numbers)) == count
    assert told == [(done, count) for done in range(1000, count, 1000)] + [(count, count)]


@virtual
@pytest.mark.parametrize("which", ["where", "on_progress"])
async def test_a_function_that_raises_ends_the_cancel_and_hurts_nobody_else(isolation, which):
    """Its error reaches the caller; what waits for room goes on; nothing more is cancelled."""

    def bad(*args):
        calls.append(args)
        raise ZeroDivisionError

    calls = []
    async with Pool(1, 2500, isolation=isolation) as pool:
        pool.pause()
        for _ in range(2500):
            pool.submit_nowait(echo)
        waiting = asyncio.create_task(pool.submit(echo, "room"))
        await settle()
        with pytest.raises(ZeroDivisionError):
            await pool.cancel_all(**{which: bad})
        left = pool.statistics().queued
        assert left == (2500 if which == "where" else 1500)
        assert len(calls) == 1
        pool.resume()
        if which == "where":
            assert await (await waiting) == "room"
        else:
            with pytest.raises(Exception, match="waited for room"):
                await waiting
        await pool.join()


@virtual
async def test_cancel_all_spares_what_comes_later(isolation):
    """Also if it is many slices long: jobs that were submitted after the call go on."""
    async with Pool(1, None, isolation=isolation) as pool:
        pool.pause()
        for _ in range(1000):
            pool.submit_nowait(echo)
        end = asyncio.create_task(pool.cancel_all())
        await asyncio.sleep(0)
        later = pool.submit_nowait(echo, "later")
        assert not end.done()
        assert await end == 1000
        pool.resume()
        assert await later == "later"


@virtual
async def test_cancel_all_of_a_retry_that_waits(isolation):
    """A job between two attempts is cancelled like the others."""

    async def fails():
        raise ValueError

    async with Pool(1, isolation=isolation) as pool:
        job = await pool.with_options(retry=Retry(attempts=2, delay=9, jitter=0)).submit(fails)
        await settle()
        assert await pool.cancel_all(where=lambda job: job.waiting_for == "backoff") == 1
        assert job.status == "cancelled"
