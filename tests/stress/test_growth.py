"""Nothing grows faster than the work: what concerns many jobs at once is done in slices, as if it were done at once."""

import asyncio
from collections.abc import Callable

import pytest
from helpers import nap, virtual

from aiopool import Pool, Retry
from aiopool._engine.admission import MAX_ADMITTED
from aiopool._engine.chores import MOST_STOPS, STEPS
from aiopool._engine.deadlines import MIN_ENDED
from aiopool._engine.engine import MAX_PARKED, Engine
from aiopool._engine.worker import Worker
from aiopool._pool.shutdown import STOP_SLICE
from aiopool.errors import PoolClosedError, RestartLimitError
from aiopool.testing import settle

pytestmark = pytest.mark.both_isolations

MANY = 40 * STEPS


class Watch:
    """Look at a number once a turn of the loop, until it is what it shall be."""

    def __init__(self, number: Callable[[], int]) -> None:
        self.number = number
        self.seen = [number()]

    async def until(self, wanted: int) -> None:
        while self.number() != wanted:
            await asyncio.sleep(0)
            self.seen.append(self.number())

    @property
    def largest_step(self) -> int:
        # Without the first: the moment that was slept for comes some turns before the sleeper goes on.
        return max(abs(after - before) for before, after in zip(self.seen[1:], self.seen[2:], strict=False))


async def fails_once(log: list[object], name: object, tried: set[object]) -> None:
    if name not in tried:
        tried.add(name)
        raise ValueError
    log.append(name)


async def note(log: list[object], name: object) -> None:
    log.append(name)


@virtual
async def test_retries_that_come_due_together_come_in_slices(isolation):
    """However many come due at one moment, a turn of the loop takes a slice of them, and the order is that of one."""
    log, tried = [], set()
    async with Pool(MANY, isolation=isolation) as pool:
        again = pool.with_options(retry=Retry(delay=10, jitter=0))
        for name in range(MANY):
            await again.submit(fails_once, log, name, tried)
        await settle()
        assert pool.statistics().scheduled == MANY
        pool.resize(1)
        blocker = await pool.submit(nap, 20)
        await settle()
        watch = Watch(lambda: pool.statistics().scheduled)
        await asyncio.sleep(10)
        await watch.until(0)
        assert watch.largest_step <= STEPS
        await blocker
    assert log == list(range(MANY))


@virtual
async def test_no_job_starts_before_all_that_is_due_is_in_line(isolation):
    """A free slot goes to the best of all that are due, not to the best of the first slice."""
    log = []
    async with Pool(1, None, isolation=isolation) as pool:
        for name in range(MANY):
            await pool.with_options(delay=10, priority=MANY - name).submit(note, log, name)
    assert log == list(reversed(range(MANY)))


@virtual
async def test_a_group_goes_on_in_slices(isolation):
    """Parked jobs go back to their places, a slice a turn; none of a lower place overtakes them meanwhile."""
    log = []
    async with Pool(1, None, isolation=isolation) as pool:
        async with pool.group("many") as group:
            group.pause()
            for name in range(MANY):
                await group.submit(note, log, name)
            await settle()
            blocker = await pool.submit(nap, 1)
            await settle()
            assert pool.statistics().queued == MANY
            for name in "abc":
                await pool.submit(note, log, name)
            group.resume()
            await blocker
    assert log == [*range(MANY), *"abc"]


@virtual
async def test_a_group_that_is_paused_again_keeps_the_rest(isolation):
    """A pause between two slices holds: no job of the group starts until it goes on again."""
    log = []
    async with Pool(1, None, isolation=isolation) as pool:
        async with pool.group("many") as group:
            group.pause()
            jobs = [await group.submit(note, log, name) for name in range(MANY)]
            await settle()
            group.resume()
            group.pause()
            await settle()
            assert log == []
            assert pool.statistics().queued == MANY
            jobs[-1].cancel()
            jobs[0].cancel()
            assert pool.reprioritize(jobs[-2].id, 1)
            group.resume()
    assert log == [MANY - 2, *range(1, MANY - 2)]


@virtual
async def test_a_paused_group_in_the_way_is_parked_in_slices(isolation):
    """A worker that meets many jobs of a paused group takes a slice of them out of the way in a turn."""
    log = []
    async with Pool(1, None, isolation=isolation) as pool:
        async with pool.group("many") as group:
            await pool.submit(nap, 1)
            for name in range(MANY):
                await group.submit(note, log, name)
            last = await pool.submit(note, log, "last")
            group.pause()
            parked = Watch(lambda: pool._state.engine.groups.parked)
            await asyncio.sleep(1)
            await parked.until(MANY)
            await last
            assert parked.largest_step <= MAX_PARKED + 1
            assert log == ["last"]
            group.resume()
    assert log == ["last", *range(MANY)]


@virtual
async def test_a_limit_that_ends_many_jobs_ends_them_in_slices(isolation):
    """Jobs whose `queue_timeout` is over at one moment end a slice a turn, and none of them starts any more."""
    log = []
    async with Pool(1, None, isolation=isolation, on_error=lambda error, job: None) as pool:
        await pool.submit(nap, 20)
        limited = pool.with_options(queue_timeout=10)
        for name in range(MANY):
            await limited.submit(note, log, name)
        watch = Watch(lambda: pool.statistics().queued)
        await asyncio.sleep(10)
        await watch.until(0)
        assert watch.largest_step <= STEPS
    assert log == []
    assert pool.statistics().timed_out == MANY


@pytest.mark.parametrize("option", ["total_timeout", "queue_timeout"])
@pytest.mark.parametrize("lengths", [1, 3000])
@virtual
async def test_limits_that_are_not_used_up_leave_nothing_behind(isolation, option, lengths):
    """Jobs that end in time are forgotten, long before their limits would be over; however many lengths there are."""
    async with Pool(1, None, isolation=isolation) as pool:
        for number in range(3000):
            await pool.with_options(**{option: 1000.0 + number % lengths}).submit(nap, 0)
            if not number % 10:
                await pool.join()
        await pool.join()
        engine = pool._state.engine
        left = [line.jobs for limits in (engine.total_limits, engine.queue_limits) for line in limits._lines.values()]
        assert sum(map(len, left)) <= 3 * MIN_ENDED
        assert len(engine.timers) <= 6 * MIN_ENDED


@virtual
async def test_limits_end_jobs_at_their_own_moments(isolation):
    """Limits of one length and of many end each job when its own time is over, submitted at once or one by one."""
    ends = {}
    async with Pool(1, None, isolation=isolation, on_error=lambda error, job: None) as pool:
        began = asyncio.get_running_loop().time()
        await pool.submit(nap, 100)
        for number in range(30):
            seconds = 5.0 + number % 3
            job = await pool.with_options(total_timeout=seconds).submit(nap, 0)
            due = asyncio.get_running_loop().time() - began + seconds
            job.add_done_callback(lambda job, due=due: ends.setdefault(job._sequence, (due, job.finished_at - began)))
            if number % 2:
                await asyncio.sleep(0.5)
    assert len(ends) == 30
    assert all(abs(due - end) < 1e-3 for due, end in ends.values())


@virtual
async def test_waiters_leave_nothing_behind_and_hear_in_their_order(isolation):
    """However many wait for a job, all jobs or the end of the pool: each may leave, the others hear in order."""
    heard: dict[str, list[int]] = {"job": [], "join": [], "closed": []}
    async with Pool(1, None, isolation=isolation) as pool:
        job = await pool.submit(nap, 1)

        async def wait(what: str, number: int) -> None:
            await {"job": job.wait, "join": pool.join, "closed": pool.wait_closed}[what]()
            heard[what].append(number)

        tasks = [asyncio.create_task(wait(what, number)) for number in range(MANY) for what in heard]
        await settle()
        for task in reversed(tasks):
            if task not in tasks[:30] and task not in tasks[-30:]:
                task.cancel()
        await settle()
        left = [job._waiters, pool._state.engine.join_waiters.futures, pool._state.close_waiters]
        assert [len(waiters) for waiters in left] == [20, 20, 20]
    await settle()
    assert list(heard.values()) == [[*range(10), *range(MANY - 10, MANY)]] * 3


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("way", ["cancel_all", "group", "shutdown", "timeout", "total_timeout"])
@virtual
async def test_running_jobs_are_told_to_stop_in_slices(isolation, way):
    """However many jobs run, a turn of the loop tells a few to stop: each of them ends in the next turn."""
    async with Pool(MANY + 1, isolation=isolation, on_error=lambda job, error: None) as pool:
        view = pool.with_options(group="many", **({way: 10} if "timeout" in way else {}))
        for _ in range(MANY):
            await view.submit(forever)
        await settle()
        assert pool.statistics().running == MANY
        watch = Watch(lambda: pool.statistics().running)
        if way == "shutdown":
            end = asyncio.create_task(pool.shutdown(0, grace=1))
        elif way == "group":
            end = asyncio.create_task(pool.cancel_all(group="many"))
        else:
            end = asyncio.create_task(pool.cancel_all() if way == "cancel_all" else asyncio.sleep(10))
        await asyncio.sleep(10 if "timeout" in way else 0)
        await watch.until(0)
        assert watch.largest_step <= MOST_STOPS
        await end


@virtual
async def test_a_block_that_fails_and_a_shutdown_cancel_what_waits_in_slices(isolation):
    """A turn of the loop cancels a slice of the queued jobs of a block that fails, or of a pool that is shut down."""
    async with Pool(1, None, isolation=isolation) as pool:
        blocker = await pool.submit(forever)
        failing = asyncio.create_task(_fill_block(pool))
        await settle()
        watch = Watch(lambda: pool.statistics().queued)
        failing.cancel()
        await watch.until(0)
        assert watch.largest_step <= STEPS
        with pytest.raises(asyncio.CancelledError):
            await failing
        jobs = [await pool.submit(forever) for _ in range(MANY)]
        watch = Watch(lambda: pool.statistics().queued)
        end = asyncio.create_task(pool.shutdown(0, cancel_pending=True))
        await watch.until(0)
        assert watch.largest_step <= STEPS
        report = await end
        assert (report.never_started, report.cancelled) == (MANY, MANY + 1)
        assert all(job.cancelled() for job in (blocker, *jobs))


async def _fill_block(pool: Pool) -> None:
    async with pool.group("many") as block:
        for _ in range(MANY):
            await block.submit(forever)


@virtual
async def test_those_that_wait_for_room_are_refused_in_slices(isolation):
    """A turn of the loop refuses a slice of the submitters that wait for room, by a cancel and by a shutdown."""
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(forever)
        for way in (pool.cancel_all, lambda: pool.shutdown(0, grace=0)):
            told = []
            tasks = [asyncio.create_task(pool.submit(forever)) for _ in range(MANY)]
            await settle()
            for task in tasks:
                task.add_done_callback(told.append)
            watch = Watch(lambda told=told: len(told))
            end = asyncio.create_task(way())
            await watch.until(MANY)
            assert watch.largest_step <= STEPS
            await end
            for task in tasks:
                assert task.exception() is not None
            if pool.statistics().running == 0 and way == pool.cancel_all:
                await pool.submit(forever)


@virtual
async def test_workers_that_end_with_the_pool_end_in_slices(isolation):
    """A pool that has had many workers lets some of them go in each turn of the loop when it is closed."""
    async with Pool(MANY, isolation=isolation) as pool:
        for _ in range(MANY):
            await pool.submit(nap, 1)
        await pool.join()
        supervisor = pool._state.supervisor
        watch = Watch(lambda: len(supervisor.workers()))
        assert watch.seen == [MANY]
        end = asyncio.create_task(pool.shutdown())
        await watch.until(0)
        assert watch.largest_step <= STOP_SLICE
        await end


@pytest.mark.parametrize("used", [True, False])
@virtual
async def test_time_limits_of_all_lengths_cost_as_much_as_the_jobs_that_have_them(isolation, used, monkeypatch):
    """However many jobs run with limits of their own: a worker is looked at for its own job, and for no other."""
    looks = 0
    deadline = Worker.deadline

    def counted(worker):
        nonlocal looks
        looks += 1
        return deadline(worker)

    monkeypatch.setattr(Worker, "deadline", counted)
    count = 1000
    async with Pool(count, isolation=isolation, on_error=lambda error, job: None) as pool:
        for number in range(count):
            await pool.with_options(timeout=10 + number / 100).submit(
                forever if used else note, *([] if used else [[], 0])
            )
        await pool.join()
        assert pool.statistics().timed_out == (count if used else 0)
        await asyncio.sleep(100)
        assert len(pool._state.engine.timers) == 0
    assert looks <= 6 * count


@virtual
async def test_a_time_limit_that_is_shorter_than_that_of_the_job_before_is_kept(isolation):
    """A worker is checked in time for the job that it has: for a shorter limit earlier, for a longer one again."""
    async with Pool(1, None, isolation=isolation, on_error=lambda error, job: None) as pool:
        began = asyncio.get_running_loop().time()
        for seconds in (100, 5, 1, 30):
            await pool.with_options(timeout=seconds).submit(note, [], 0)
            job = await pool.with_options(timeout=seconds).submit(forever)
            await job.wait()
            assert round(job.finished_at - job.started_at, 3) == seconds
        assert asyncio.get_running_loop().time() - began < 137


@virtual
async def test_limits_that_are_over_while_slots_are_free_take_a_look_a_turn(isolation, monkeypatch):
    """Jobs that are due before workers have come for them start, as far as slots are free; the others end, once."""
    expired = 0
    original = Engine._expire

    def counted(engine, job, cause):
        nonlocal expired
        expired += 1
        original(engine, job, cause)

    monkeypatch.setattr(Engine, "_expire", counted)
    async with Pool(10, None, isolation=isolation, on_error=lambda error, job: None) as pool:
        at_once = pool.with_options(queue_timeout=0)
        callbacks = 0
        soon = pool._state.engine.runtime.loop.call_soon

        def counting(callback, *args, **kwargs):
            nonlocal callbacks
            callbacks += getattr(callback, "__name__", "") in ("_queue_expired", "_look_at_late")
            return soon(callback, *args, **kwargs)

        monkeypatch.setattr(pool._state.engine.runtime.loop, "call_soon", counting)
        jobs = [at_once.submit_nowait(forever) for _ in range(MANY)]
        await settle()
        assert [job.status for job in jobs[:10]] == ["running"] * 10
        assert all(job.status == "timed_out" for job in jobs[10:])
        assert expired == MANY - 10
        assert callbacks < MANY / 2  # not each of them in each turn
        await pool.cancel_all()


@virtual
async def test_a_group_that_fails_asks_each_of_its_jobs_once_and_a_slice_a_turn(isolation, monkeypatch):
    """The first failure of a large group costs one step for each other job, however many fail by it."""
    members, asked = 16_000, 0
    original = Engine.cancel

    def counted(engine, job, reason=None):
        nonlocal asked
        asked += 1
        return original(engine, job, reason)

    monkeypatch.setattr(Engine, "cancel", counted)
    async with Pool(1, None, isolation=isolation) as pool:
        with pytest.raises(ExceptionGroup) as caught:
            async with pool.group() as group:
                group.submit_nowait(fails_once, [], 0, set())
                jobs = [group.submit_nowait(forever) for _ in range(members)]
                watch = Watch(lambda: pool.statistics().queued)
                task = asyncio.create_task(watch.until(0))
        await task
        assert len(caught.value.exceptions) == 1
        assert all(job.cancelled() for job in jobs)
    assert asked <= members + 1
    assert watch.largest_step <= STEPS


@virtual
async def test_many_are_admitted_in_slices_and_in_their_order(isolation):
    """A pool that has room for many submitters at once lets some in each turn of the loop; no job starts meanwhile."""
    log: list[object] = []
    async with Pool(1, 0, isolation=isolation) as pool:
        blocker = await pool.submit(forever)
        tasks = [asyncio.create_task(pool.submit(note, log, name)) for name in range(MANY)]
        await settle()
        watch = Watch(lambda: pool.statistics().waiting)
        assert watch.seen == [MANY]
        pool.resize(MANY + 1)
        assert MANY - pool.statistics().waiting <= MAX_ADMITTED + STEPS
        late = asyncio.create_task(pool.submit(note, log, "late"))
        while pool.statistics().waiting:
            assert log == []
            await asyncio.sleep(0)
            watch.seen.append(pool.statistics().waiting)
        assert watch.largest_step <= MAX_ADMITTED + STEPS
        await asyncio.gather(*tasks, late)
        blocker.cancel()
    assert log == [*range(MANY), "late"]


@virtual
async def test_those_of_a_group_are_refused_in_slices_and_the_others_keep_their_order(isolation):
    """A cancel of a group that waits for room refuses its jobs alone, and counts them; nobody overtakes meanwhile."""
    log: list[object] = []
    async with Pool(1, 0, isolation=isolation) as pool:
        blocker = await pool.submit(forever)
        doomed = pool.with_options(group="doomed")
        tasks = []
        for name in range(MANY):
            tasks += [asyncio.create_task(doomed.submit(forever)), asyncio.create_task(pool.submit(note, log, name))]
            await asyncio.sleep(0)
        watch = Watch(lambda: pool.statistics().waiting)
        cancel = asyncio.create_task(pool.cancel_all(group="doomed"))
        await asyncio.sleep(0)
        blocker.cancel()
        late = asyncio.create_task(pool.submit(note, log, "late"))
        assert await cancel == MANY
        assert watch.seen == [2 * MANY]
        await asyncio.gather(*tasks[1::2], late)
        assert all(task.exception() is not None for task in tasks[::2])
    assert log == [*range(MANY), "late"]


@virtual
async def test_a_pool_that_is_left_refuses_strangers_in_slices_and_lets_its_own_in(isolation):
    """Of those that wait for room, a shutdown refuses submitters from outside; the pool's own jobs keep their turn."""
    log: list[object] = []
    gate = asyncio.Event()

    async def parent():
        await gate.wait()
        await asyncio.gather(*(pool.run(note, log, name) for name in range(20)))

    async with Pool(1, 0, isolation=isolation) as pool:
        own = await pool.submit(parent)
        strangers = [asyncio.create_task(pool.submit(forever)) for _ in range(MANY)]
        await settle()
        refused: list[object] = []
        for task in strangers:
            task.add_done_callback(refused.append)
        watch = Watch(lambda: len(refused))
        end = asyncio.create_task(pool.shutdown())
        await asyncio.sleep(0)
        gate.set()  # its jobs come while the strangers are being refused
        await watch.until(MANY)
        assert watch.largest_step <= STEPS
        await end
        assert own.status == "succeeded"
        assert all(isinstance(task.exception(), PoolClosedError) for task in strangers)
    assert log == list(range(20))


@virtual
async def test_a_pool_that_gives_up_ends_its_jobs_in_slices(isolation):
    """Workers that crash too often end what waits, a slice a turn, each with the pool's own error."""
    with pytest.raises(RestartLimitError):
        async with Pool(1, None, isolation=isolation, on_error=lambda error, job: None) as pool:
            pool.pause()
            jobs = [pool.submit_nowait(forever) for _ in range(MANY)]
            watch = Watch(lambda: sum(job.done() for job in jobs))
            pool._give_up(ValueError())
            await watch.until(MANY)
            assert watch.largest_step <= STEPS
            assert {type(job.exception()) for job in jobs} == {RestartLimitError}
