"""Limits in a pool: no more run, and no more start, than a limit says; who has to wait holds up nobody else."""

import asyncio
import itertools

import anyio
import pytest
from helpers import assert_counters_balance, echo, forever, nap, now, virtual

from aiopool import (
    Cooldown,
    JobCancelledError,
    JobOptions,
    JobTimeoutError,
    Limit,
    Pool,
    Retry,
    RetryAfter,
    current_job,
)
from aiopool.testing import advance, explore, settle, wait_until

pytestmark = pytest.mark.both_isolations


class Gauge:
    """How many run now, by name, and how many ran at most."""

    def __init__(self):
        self.now, self.most, self.starts = {}, {}, []

    async def work(self, name, seconds=1.0):
        self.starts.append((now(), name))
        self.now[name] = self.now.get(name, 0) + 1
        self.most[name] = max(self.most.get(name, 0), self.now[name])
        try:
            await asyncio.sleep(seconds)
        finally:
            self.now[name] -= 1


def left(pool):
    """The lanes that are not empty, and those of keys, which should be gone."""
    return [lane for lane in pool._state.engine.lanes if not lane.empty or lane.key is not None]


@virtual
async def test_heavy_2_light_10_in_one_pool(isolation):
    """Never more than two heavy jobs at once, while ten light ones run beside them."""
    gauge = Gauge()
    limits = {"heavy": Limit(max_at_once=2), "light": Limit(max_at_once=10)}
    async with Pool(12, None, isolation=isolation, limits=limits) as pool:
        for n in range(60):
            kind = "heavy" if n < 20 else "light"
            await pool.with_options(group=kind).submit(gauge.work, kind, 5 if kind == "heavy" else 1)
        await advance(0.5)
        assert gauge.now == {"heavy": 2, "light": 10}
        assert pool.statistics().running == 12
        await pool.join()
        assert gauge.most == {"heavy": 2, "light": 10}
        # Forty light ones by tens take 4 s; twenty heavy ones by twos 50 s: neither waited for the other.
        assert max(at for at, name in gauge.starts if name == "light") == 3
        assert now() == 50
        assert_counters_balance(pool)


@virtual
async def test_who_has_to_wait_holds_no_worker_and_is_overtaken(isolation):
    """A job that may not run yet is parked: others overtake it, and it says what it waits for."""
    async with Pool(1, isolation=isolation, limits={"slow": Limit(max_per_second=0.1)}) as pool:
        slow = pool.with_options(group="slow")
        await slow.run(echo)
        held = await slow.submit(echo, "held")
        assert await pool.run(echo, "other") == "other"
        assert (held.status, held.waiting_for) == ("queued", "limit")
        assert (pool.statistics().queued, pool.statistics().busy) == (1, 0)
        assert await held == "held"
        assert now() == 10
        assert held.waiting_for is None


@virtual
async def test_limit_1_is_strict_order_inside_a_key(isolation):
    """Jobs of one key run one after the other, in the order of submission; those of other keys beside them."""
    log = []

    async def step(key, n):
        log.append((key, n))
        await asyncio.sleep(1 + (n * 7) % 3)
        log.append((key, n))

    async with Pool(50, None, isolation=isolation, key_limit=Limit(max_at_once=1)) as pool:
        for n, key in itertools.product(range(20), "abc"):
            await pool.with_options(key=key).submit(step, key, n)
    for key in "abc":
        assert [n for k, n in log if k == key] == [n for n in range(20) for _ in range(2)]
    assert now() == max(sum(1 + (n * 7) % 3 for n in range(20)), 0)


@virtual
async def test_priority_is_the_order_inside_a_lane(isolation):
    """A better priority goes first in the lane, also when it comes later, and when it is changed while it is parked."""
    async with Pool(5, isolation=isolation, key_limit=Limit(max_at_once=1)) as pool:
        view = pool.with_options(key="k")
        order = []

        async def note(name):
            order.append(name)
            await asyncio.sleep(1)

        await view.submit(note, "first")
        jobs = {n: await view.with_options(id=f"j{n}").submit(note, n) for n in range(3)}
        await settle()
        assert [job.waiting_for for job in jobs.values()] == ["limit"] * 3
        await view.with_options(priority=1).submit(note, "urgent")
        assert pool.reprioritize("j2", 3)
    assert order == ["first", "urgent", 2, 0, 1]


def check_windows(starts, limit):
    """No window has more starts than it may."""
    most, seconds = limit.window
    for earlier, later in zip(starts, starts[most:], strict=False):
        assert later - earlier >= seconds - 1e-9


@pytest.mark.parametrize("burst", [1, 3])
@pytest.mark.parametrize("where", ["pool", "group", "name", "key", "lanes"])
@virtual
async def test_the_rate_holds_in_every_window(isolation, where, burst):
    """Jobs come at any moment, and run for any time: no second has more than four starts, and with burst=1 evenly."""
    limit = Limit(max_per_second=4, burst=burst)
    given = {
        "pool": {"limit": limit},
        "group": {"limits": {"g": limit}},
        "name": {"limits": {"n": limit}},
        "key": {"key_limit": limit},
        "lanes": {},
    }[where]
    starts = []

    async def work(seconds):
        starts.append(now())
        await asyncio.sleep(seconds)

    async with Pool(7, None, isolation=isolation, **given) as pool:
        view = {
            "pool": lambda: pool,
            "group": lambda: pool.with_options(group="g"),
            "name": lambda: pool.with_options(name="n"),
            "key": lambda: pool.with_options(key="k"),
            "lanes": lambda: pool.with_options(key=pool.lanes(limit)["k"]),
        }[where]()
        for n in range(60):
            await view.submit(work, (n * 13 % 11) / 10)
            if n % 7 == 0:
                await asyncio.sleep((n % 5) / 3)
    check_windows(starts, limit)
    for earlier, later in zip(starts, starts[burst:], strict=False):
        assert later - earlier >= 1 / 4 - 1e-9
    assert len(starts) == 60


@virtual
async def test_the_rate_does_not_drift(isolation):
    """A line that never ends starts a job at exactly each tick: the thousandth after 999 of them."""
    starts = []

    async def work():
        starts.append(now())

    async with Pool(isolation=isolation, queue_size=None, limit=Limit(max_per_second=100)) as pool:
        for _ in range(1000):
            await pool.submit(work)
    assert starts[-1] == pytest.approx(9.99)
    assert now() == pytest.approx(9.99)


@virtual
async def test_each_attempt_takes_a_place_and_counts_as_a_start(isolation):
    """Between two attempts a job holds no place; the next one waits for its place again."""
    starts = []

    async def flaky(n):
        starts.append((n, current_job().attempt, now()))
        if current_job().attempt < 3:
            raise OSError
        return n

    retry = Retry(attempts=3, delay=0.1, jitter=0, backoff="fixed")
    async with Pool(isolation=isolation, retry=retry, limits={"f": Limit(max_at_once=1, max_per_second=1)}) as pool:
        view = pool.with_options(group="f")
        jobs = [await view.submit(flaky, n) for n in range(3)]
        assert [await job for job in jobs] == [0, 1, 2]
    assert [at for *_, at in starts] == list(range(9))


@virtual
async def test_keys_made_on_the_fly_leave_flat_memory(isolation):
    """Lanes of idle keys vanish, also those with a rate: when the last start counts no more."""
    async with Pool(8, None, isolation=isolation) as pool:
        hosts = pool.lanes(Limit(max_at_once=1, max_per_second=10))
        most = 0
        for n in range(2000):
            await pool.with_options(key=hosts[n]).run(echo, n)
            await asyncio.sleep(0.01)
            most = max(most, len(hosts))
        assert most <= 101  # those of the last second
        await asyncio.sleep(1)
        assert len(hosts) == len(pool._state.engine.lanes._lanes) == len(pool._state.engine.timers) == 0
        assert "now" in repr(hosts)
        assert (bool(hosts), hosts.limit) == (True, Limit(max_at_once=1, max_per_second=10))
        assert repr(hosts["a.example"]) == "lanes['a.example']"


@virtual
async def test_a_lane_between_jobs_keeps_its_rate(isolation):
    """A key that comes back within its window has not been forgotten."""
    async with Pool(isolation=isolation, key_limit=Limit(max_per_second=1)) as pool:
        starts = []

        async def work():
            starts.append(now())

        for wait in (0, 0.2, 0.5, 5):
            await asyncio.sleep(wait)
            await pool.with_options(key="k").run(work)
        assert starts == [0, 1, 2, 7]


@virtual
async def test_several_limits_of_one_job(isolation):
    """A job of two keys needs a place in both; while one is full, the place in the other is for another job."""
    gauge = Gauge()
    async with Pool(20, None, isolation=isolation) as pool:
        hosts, tenants = pool.lanes(Limit(max_at_once=2)), pool.lanes(Limit(max_at_once=1))

        async def both(host, tenant):
            await asyncio.gather(gauge.work(("host", host)), gauge.work(("tenant", tenant)))

        for n in range(30):
            host, tenant = n % 2, n % 3
            await pool.with_options(key=(hosts[host], tenants[tenant])).submit(both, host, tenant)
    assert max(v for (kind, _), v in gauge.most.items() if kind == "host") == 2
    assert max(v for (kind, _), v in gauge.most.items() if kind == "tenant") == 1
    assert now() == 10


@pytest.mark.parametrize("size", [1, 3])
@virtual
async def test_nested_jobs_of_one_limit_do_not_deadlock(isolation, size):
    """A job that waits for a child under the same limit lends its place, too; and never do two of them run code."""
    inside = 0

    async def down(depth):
        nonlocal inside
        inside += 1
        assert inside == 1
        await asyncio.sleep(0.01)
        inside -= 1
        below = 0 if depth == 0 else await view.run(down, depth - 1)
        inside += 1
        assert inside == 1
        await asyncio.sleep(0.01)
        inside -= 1
        return below + 1

    async with Pool(size, isolation=isolation, limits={"one": Limit(max_at_once=1)}) as pool:
        view = pool.with_options(group="one")
        assert await view.run(down, 60) == 61
        assert await asyncio.gather(*(view.run(down, 5) for _ in range(4))) == [6] * 4
        assert (pool.statistics().busy, left(pool)) == (0, [])


@virtual
async def test_jobs_that_lend_places_in_two_lanes_do_not_wait_in_a_circle(isolation):
    """Parents under (a, b) and (b, a) wait for children under both: all end, whatever the order of their keys."""
    async with Pool(2, None, isolation=isolation, key_limit=Limit(max_at_once=1)) as pool:

        async def parent(n):
            keys = ("a", "b") if n % 2 else ("b", "a")
            return await pool.with_options(key=keys).run(nap, 0.1, n)

        jobs = [await pool.with_options(key=("a", "b") if n % 3 else ("b", "a")).submit(parent, n) for n in range(12)]
        assert [await job for job in jobs] == list(range(12))
        await settle()
        assert left(pool) == []


@virtual
async def test_a_job_that_wants_its_places_back_is_told_to_stop(isolation):
    """It goes on at once, for its clean-up; what it had got back already goes to others, and the counts stay right."""
    log = []

    async def parent():
        try:
            await pool.run(nap, 1)
        finally:
            log.append(now())

    limits = {"a": Limit(max_at_once=1), "b": Limit(max_at_once=1)}
    async with Pool(5, isolation=isolation, limits=limits) as pool:
        both = pool.with_options(key=("a", "b"))
        job = await both.submit(parent)
        await settle()
        await pool.with_options(key="a").submit(nap, 10)  # it has a place that the parent has lent
        await advance(2)
        other = await pool.with_options(key="b").submit(echo, "b")
        await advance(1)
        assert not other.done()  # the parent has this place again, and waits for the other one
        job.cancel()
        assert await other == "b"
        assert job.cancelled()
        assert log == [3]
        await pool.join()
        assert (left(pool), now()) == ([], 10)


@virtual
async def test_two_tasks_of_a_job_lend_its_places_together(isolation):
    """They come back with the last of them: the first one to be done does not take them from who has them now."""
    inside = 0

    async def other():
        nonlocal inside
        inside += 1
        await asyncio.sleep(5)
        inside -= 1

    async def parent():
        nonlocal inside
        await asyncio.gather(pool.run(nap, 1), pool.run(nap, 1.5), pool.run(nap, 1.5))
        assert inside == 0
        return now()

    async with Pool(5, isolation=isolation, limits={"g": Limit(max_at_once=1)}) as pool:
        view = pool.with_options(group="g")
        first = await view.submit(parent)
        await settle()
        await view.submit(other)
        assert await first == 5
        assert left(pool) == []


@virtual
async def test_a_leaked_job_that_waits_for_another_gives_up_what_it_has_lent(isolation):
    """With `on_leak="replace"` it has no place any more, also if it had lent it just then."""

    async def deaf():
        with anyio.CancelScope(shield=True):
            until = now() + 20
            while now() < until:
                try:
                    await asyncio.shield(asyncio.ensure_future(pool.run(nap, until - now())))
                except asyncio.CancelledError:
                    pass

    limits = {"g": Limit(max_at_once=1)}
    async with Pool(5, isolation=isolation, limits=limits, cancel_grace=0.5, on_leak="replace") as pool:
        view = pool.with_options(group="g")
        job = await view.submit(deaf)
        await advance(1)
        await pool.cancel(job.id)
        assert job.leaked
        assert await view.run(echo, 1) == 1
        await advance(60)
        await pool.join()
        assert left(pool) == []


@virtual
async def test_a_place_is_kept_until_the_code_has_ended(isolation):
    """A job that was cancelled and cleans up still counts; so does a thread that cannot be stopped."""
    gate = asyncio.Event()

    async def slow_to_end():
        try:
            await forever()
        finally:
            if isolation == "task":
                await gate.wait()

    async with Pool(4, isolation=isolation, cancel_grace=50, limits={"g": Limit(max_at_once=1)}) as pool:
        view = pool.with_options(group="g")
        first = await view.submit(slow_to_end)
        second = await view.submit(echo, 2)
        await settle()
        first.cancel()
        await advance(1)
        assert second.done() is (isolation == "scope")
        gate.set()
        assert await second == 2


@pytest.mark.parametrize("on_leak", ["hold", "replace"])
@virtual
async def test_a_leaked_job_keeps_its_place_unless_it_is_replaced(isolation, on_leak):
    """`on_leak` says for a place in a lane what it says for the slot."""
    end = asyncio.get_running_loop().time() + 100

    async def deaf():
        with anyio.CancelScope(shield=True):
            while now() < end:
                try:
                    await asyncio.sleep(end - now())
                except asyncio.CancelledError:
                    pass

    limit = Limit(max_at_once=1)
    async with Pool(4, isolation=isolation, cancel_grace=0.5, on_leak=on_leak, limits={"g": limit}) as pool:
        view = pool.with_options(group="g")
        job = await view.submit(deaf)
        await settle()
        second = await view.submit(echo, 2)
        await pool.cancel(job.id)
        assert job.leaked
        await advance(10)
        assert second.done() is (on_leak == "replace")
        await second
        assert now() >= (100 if on_leak == "hold" else 10)
        await advance(max(0, end + 1 - now()))
    assert left(pool) == []


@virtual
async def test_parked_jobs_are_cancelled_time_out_and_are_counted(isolation):
    """A parked job is a queued one: cancel, group cancel, both time limits from submission, statistics, metrics."""
    async with Pool(3, isolation=isolation, limits={"g": Limit(max_at_once=1)}) as pool:
        view = pool.with_options(group="g")
        running = await view.submit(nap, 100)
        await settle()
        cancelled, late, total, last = [
            await view.with_options(**options).submit(echo)
            for options in ({}, {"queue_timeout": 2}, {"total_timeout": 3}, {})
        ]
        await settle()
        assert pool.statistics().queued == 4
        assert [job.waiting_for for job in (cancelled, late, total, last)] == ["limit"] * 4
        report = await pool.cancel(cancelled.id, "no more")
        assert (report.was, bool(report)) == ("queued", True)
        with pytest.raises(JobCancelledError):
            await cancelled
        with pytest.raises(JobTimeoutError, match="queue_timeout"):
            await late
        assert now() == 2
        with pytest.raises(JobTimeoutError, match="total_timeout"):
            await total
        assert await pool.cancel_all(group="g") == 2
        assert last.cancelled()
        assert running.cancelled()
        assert (left(pool), pool._state.engine.lanes.parked) == ([], 0)


@virtual
async def test_a_job_that_returns_and_is_cancelled_gives_its_turn_to_the_next(isolation):
    """The place was free, and the job on its way to it: whoever waits behind it must not wait for ever."""
    async with Pool(1, isolation=isolation, limits={"g": Limit(max_at_once=1)}) as pool:
        view = pool.with_options(group="g")
        first = await view.submit(nap, 1)
        await settle()
        second, third = await view.submit(echo, 2), await view.submit(echo, 3)
        await pool.submit(nap, 5)  # takes the slot when the first has ended
        await advance(0.5)
        pool.pause()
        await first
        await settle()
        assert second.waiting_for == "pool paused"
        second.cancel()
        pool.resume()
        assert await third == 3


@virtual
async def test_a_paused_group_under_a_limit(isolation):
    """A pause and a limit both hold, whichever ends first."""
    async with Pool(4, isolation=isolation, limits={"g": Limit(max_at_once=1)}) as pool:
        view = pool.with_options(group="g")
        order = []

        async def note(n):
            order.append(n)
            await asyncio.sleep(1)

        jobs = [await view.submit(note, n) for n in range(4)]
        await settle()
        pool.pause(group="g")
        await advance(3)
        assert order == [0]
        assert {job.waiting_for for job in jobs[1:]} == {"group paused"}
        pool.resume(group="g")
        await pool.join()
        assert order == [0, 1, 2, 3]


@virtual
async def test_a_limit_can_be_changed_while_jobs_wait(isolation):
    """More at once: parked jobs start. Fewer: as running ones end. A name without a limit is told."""
    gauge = Gauge()
    async with Pool(20, None, isolation=isolation, limits={"g": Limit(max_at_once=1)}) as pool:
        view = pool.with_options(group="g")
        for _ in range(30):
            await view.submit(gauge.work, "g")
        await settle()
        assert gauge.now == {"g": 1}
        pool.set_limit("g", Limit(max_at_once=10))
        await settle()
        assert gauge.now == {"g": 10}
        pool.set_limit("g", Limit(max_at_once=3))
        await advance(1.5)
        assert gauge.now == {"g": 3}
        pool.set_limit("g", Limit(max_per_second=100))
        await pool.join()
        assert gauge.most["g"] >= 10
        with pytest.raises(KeyError, match="no limit 'x', but 'g'"):
            pool.set_limit("x", Limit(max_at_once=1))


@virtual
async def test_shutdown_finishes_parked_jobs_and_a_time_limit_cancels_them(isolation):
    """To leave is to finish, at the rate that was set; and a shutdown ends when it was said, whoever is parked."""
    done = []

    async def work(n):
        done.append(n)

    async with Pool(isolation=isolation, limit=Limit(max_per_second=2)) as pool:
        for n in range(5):
            await pool.submit(work, n)
    assert (done, now()) == ([0, 1, 2, 3, 4], 2)
    pool = Pool(isolation=isolation, limit=Limit(max_per_second=0.01))
    async with pool:
        for n in range(5):
            await pool.submit(work, n)
        await settle()
        report = await pool.shutdown(timeout=1)
    assert (report.never_started, len(done), now()) == (4, 6, 3)
    assert len(pool._state.engine.timers) == 0


@virtual
async def test_a_limit_that_is_lifted_with_many_parked_jobs(isolation):
    """They return in slices, and in their order all the same: a job that comes meanwhile does not overtake them."""
    order = []

    async def work(n):
        order.append(n)

    async with Pool(5, None, isolation=isolation, limits={"g": Limit(max_at_once=1)}) as pool:
        view = pool.with_options(group="g")
        first = await view.submit(nap, 1)
        for n in range(1000):
            await view.submit(work, n)
        await settle()
        assert pool._state.engine.lanes.parked == 1000
        pool.set_limit("g", Limit(max_at_once=1000))
        for n in range(1000, 1010):
            await view.submit(work, n)
        await pool.join()
        assert first.done()
        assert order == list(range(1010))
        assert left(pool) == []


@virtual
async def test_a_rejected_job_takes_no_place(isolation):
    """The queue is bounded, parked jobs count in it: whoever finds it full is refused or waits, as ever."""
    async with Pool(2, 3, isolation=isolation, overflow="reject", limits={"g": Limit(max_at_once=1)}) as pool:
        view = pool.with_options(group="g")
        jobs = [view.submit_nowait(nap, 1) for _ in range(4)]
        await settle()
        assert pool.statistics().queued == 3
        jobs.append(view.submit_nowait(nap, 1))  # for the free slot
        with pytest.raises(asyncio.QueueFull):
            view.submit_nowait(echo)
        for job in jobs:
            await job
        assert now() == 5


@pytest.mark.parametrize(("policy", "dropped"), [("drop_oldest", 1), ("drop_lowest", 4)])
@virtual
async def test_a_full_queue_drops_a_parked_job(isolation, policy, dropped):
    """Parked jobs are jobs of the queue: with all of them parked, one of these is dropped for the next."""
    async with Pool(1, 3, isolation=isolation, overflow=policy, limit=Limit(max_per_second=0.1)) as pool:
        low = pool.with_options(priority=9)
        jobs = [await low.submit(echo, n) for n in range(4)]
        await advance(1)
        jobs.append(await low.submit(echo, 4))  # for the free slot
        await settle()
        assert {job.waiting_for for job in jobs[1:]} == {"limit"}
        last = await pool.submit(echo, "last")
        assert [n for n, job in enumerate(jobs) if job.cancelled()] == [dropped]
        assert await last == "last"
        assert pool.statistics().dropped == 1
        await pool.cancel_all()
        assert left(pool) == []


@virtual
async def test_a_number_and_its_text_are_one_key(isolation):
    """As with ids: a key that comes from a URL is that of the number; in `key_limit`, `lanes` and fair shares."""
    gauge = Gauge()
    async with Pool(8, None, isolation=isolation, key_limit=Limit(max_at_once=1), fair_keys={7: 2}) as pool:
        hosts = pool.lanes(Limit(max_at_once=1))
        assert hosts[7] == hosts["7"]
        for key in (7, "7"):
            for _ in range(2):
                await pool.with_options(key=key).submit(gauge.work, "own")
        await pool.join()
        assert (gauge.most["own"], now()) == (1, 4)
        for wrong in (None, 1.5, True, ["a"]):
            with pytest.raises(TypeError):
                hosts[wrong]


# -- cooldown --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["pool", "group", "key"])
@virtual
async def test_a_cooldown_holds_what_its_limit_is_for(isolation, where):
    """After a 429 nothing of the pool, of the group, or of the key starts until the server's time is over."""
    limit = Limit(cooldown=Cooldown())
    given = {"pool": {"limit": limit}, "group": {"limits": {"g": limit}}, "key": {"key_limit": limit}}[where]
    starts = {}

    async def request(name, error=None):
        starts.setdefault(name, []).append(now())
        if error is not None:
            raise error

    async with Pool(4, isolation=isolation, on_error=lambda job, error: None, **given) as pool:
        inside, outside = pool.with_options(group="g", key="k"), pool.with_options(group="h", key="l")
        await (await inside.submit(request, "first", RetryAfter(30))).wait()
        for _ in range(3):
            await inside.submit(request, "inside")
            await outside.submit(request, "outside")
        await pool.join()
    assert starts["inside"] == [30, 30, 30]
    assert starts["outside"] == ([30] * 3 if where == "pool" else [0] * 3)


@virtual
async def test_the_hold_grows_with_failures_in_a_row_and_a_success_ends_the_row(isolation):
    """1, 2, 4 seconds; ten jobs that ran together and failed together count as one failure."""
    limit = Limit(max_at_once=10, cooldown=Cooldown(on=OSError, seconds=1))
    starts, works = [], []

    async def request():
        starts.append(now())
        await asyncio.sleep(0)
        if not works:
            raise OSError

    async with Pool(20, None, isolation=isolation, on_error=lambda *_: None, limits={"request": limit}) as pool:
        for _ in range(35):
            await pool.submit(request)
        await advance(5)
        assert sorted(set(starts)) == [0, 1, 3]
        works.append(True)
        await advance(2.5)
        assert sorted(set(starts)) == [0, 1, 3, 7]
        assert len(starts) == 35
        works.clear()
        await (await pool.submit(request)).wait()
        before = now()
        works.append(True)
        await (await pool.submit(request)).wait()
        assert now() - before == 1  # from the start of the row again


@virtual
async def test_a_retry_and_a_cooldown_work_together(isolation):
    """The failing job comes back when its retry says so, and then waits for the hold as all others do."""
    limit = Limit(max_at_once=4, cooldown=Cooldown())
    starts = []

    async def request(n):
        starts.append((n, now()))
        if n == 0 and current_job().attempt == 1:
            raise RetryAfter(5)
        return n

    retry = Retry(attempts=2, delay=1, jitter=0)
    async with Pool(isolation=isolation, retry=retry, limits={"request": limit}) as pool:
        first = await pool.submit(request, 0)
        await settle()
        second = await pool.submit(request, 1)
        assert [await first, await second] == [0, 1]
    assert starts == [(0, 0), (0, 5), (1, 5)]


@virtual
async def test_a_broken_predicate_of_a_cooldown_is_how_the_job_fails(isolation):
    """It is told, with the error of the job as its context; and the pool goes on."""
    limit = Limit(cooldown=Cooldown(on=lambda error: 1 / 0))

    async def fail():
        raise OSError("first")

    async with Pool(isolation=isolation, limits={"fail": limit}) as pool:
        with pytest.raises(ValueError, match=r"Cooldown: the function given as on=.*ZeroDivisionError"):
            await pool.run(fail)
        assert await pool.run(echo, 1) == 1
        assert left(pool) == []


# -- all of it together ------------------------------------------------------------------------------------------------


def world(isolation):
    """Random jobs under random limits: nested, cancelled, timed out, retried, in every moment."""

    async def run(rng):
        limits = {"g": Limit(max_at_once=2), "h": Limit(max_per_second=2, burst=rng.choice((1, 2)))}
        size = rng.choice((1, 2, 5))
        most = {"g": 2, "k": 1}
        inside, starts, order = {}, [], {}
        async with Pool(size, None, isolation=isolation, limits=limits, key_limit=Limit(max_at_once=1)) as pool:

            async def body(group, key, depth, n):
                job = current_job()
                if key is not None and job.attempt == 1:
                    order.setdefault(key, []).append(n)
                if group == "h":
                    starts.append(now())
                holds = [name for name in (group if group == "g" else None, key) if name]
                for name in holds:
                    inside[name] = inside.get(name, 0) + 1
                    assert inside[name] <= most.get(name, 1), (name, inside)
                try:
                    await asyncio.sleep(rng.choice((0, 0, 0.25, 0.5)))
                finally:
                    for name in holds:
                        inside[name] -= 1
                if depth:
                    child = pick(depth - 1)
                    try:
                        await child[0].run(body, *child[1:])
                    except (OSError, JobCancelledError, JobTimeoutError):
                        pass
                if rng.random() < 0.2:
                    raise OSError

            def pick(depth):
                group, key = rng.choice(("g", "h", None)), rng.choice(("k", "l", None))
                options = {"group": group, "key": key}
                if rng.random() < 0.3:
                    options["retry"] = Retry(attempts=2, delay=0.25, jitter=0)
                if rng.random() < 0.2:
                    options["timeout"] = rng.choice((0.25, 0.5))
                return pool.with_options(**options), group, key, depth, next(numbers)

            numbers = itertools.count()
            jobs = []
            for _ in range(30):
                view, *arguments = pick(rng.choice((0, 0, 1, 2)))
                jobs.append(await view.submit(body, *arguments))
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.choice((0, 0.25)))
                if rng.random() < 0.2:
                    rng.choice(jobs).cancel()
            for job in jobs:
                await job.wait()
            for job in jobs:
                if not job.cancelled() and job.exception() is not None:
                    assert isinstance(job.exception(), (OSError, JobTimeoutError)), job.exception()
            check_windows(starts, limits["h"])
            for numbers_of_key in order.values():
                assert numbers_of_key == sorted(numbers_of_key)
            await asyncio.sleep(2)
            lanes = pool._state.engine.lanes
            assert (lanes.parked, left(pool), pool.statistics().busy) == (0, [], 0)
            assert_counters_balance(pool)

    run.__name__ = run.__qualname__ = f"limits[{isolation}]"
    return run


def test_limits_under_many_schedules(isolation, seeds):
    """Whatever happens to the jobs: no lane runs or starts more than it may, none is lost, and no lane is left."""
    explore(world(isolation), seeds=seeds(150))


def left_behind(isolation):
    """Attempts leave tasks behind that wait for jobs of the pool."""

    async def run(rng):
        limits = {"g": Limit(max_at_once=1)}
        async with Pool(3, None, isolation=isolation, limits=limits, on_error=lambda *_: None) as pool:
            view = pool.with_options(group="g", retry=Retry(attempts=3, delay=rng.choice((0, 0.5)), jitter=0))
            tasks = []

            async def parent():
                own = [asyncio.create_task(pool.run(nap, rng.choice((0.5, 1)))) for _ in range(rng.choice((1, 2)))]
                tasks.extend(own)
                await asyncio.sleep(rng.choice((0, 0.5, 1)))
                if rng.random() < 0.7:
                    raise OSError
                return await own[-1]

            jobs = [await view.submit(parent) for _ in range(4)]
            if rng.random() < 0.3:
                await asyncio.sleep(0.5)
                rng.choice(jobs).cancel()
            for job in jobs:
                await job.wait()
            await asyncio.gather(*tasks, return_exceptions=True)
            await pool.join()
            await asyncio.sleep(1)
            assert (left(pool), pool.statistics().busy) == ([], 0)
            assert await view.run(echo, 1) == 1

    run.__name__ = run.__qualname__ = f"left_behind[{isolation}]"
    return run


def test_tasks_that_an_attempt_leaves_behind(isolation, seeds):
    """A task that gets the slot back after its attempt has ended gives back no place that is another's by now."""
    explore(left_behind(isolation), seeds=seeds(300))


@virtual
async def test_order_inside_of_a_key_with_many_limits(isolation):
    """Jobs of one key begin in the order of submission, though other limits hold some of them for a while."""
    order = {}

    async def work(key, n, seconds):
        order.setdefault(key, []).append(n)
        await asyncio.sleep(seconds)

    limits = {"slow": Limit(max_per_second=3), "few": Limit(max_at_once=2)}
    async with Pool(6, None, isolation=isolation, limits=limits, key_limit=Limit(max_at_once=1)) as pool:
        for n in range(200):
            key, group = "abcd"[n % 4], ("slow", "few", None)[n // 4 % 3]
            await pool.with_options(key=key, group=group).submit(work, key, n, n * 7 % 3 / 10)
    for numbers in order.values():
        assert numbers == sorted(numbers)


@virtual
async def test_map_with_a_key_for_each_item(isolation):
    """`map` takes the key from the item, as any option: two at once for each host."""
    gauge = Gauge()
    async with Pool(20, isolation=isolation) as pool:
        hosts = pool.lanes(Limit(max_at_once=2))
        items = [f"host-{n % 5}" for n in range(40)]
        stream = pool.map(gauge.work, items, options=lambda item: JobOptions(key=hosts[item]), buffersize=40)
        await stream.collect()
    assert set(gauge.most.values()) == {2}
    assert now() == 4


@pytest.mark.loops("real")
async def test_threads_under_a_limit(new_pool):
    """Plain functions in threads are limited as coroutines are."""
    import threading

    lock, inside, most = threading.Lock(), 0, 0
    gate = threading.Event()

    def work():
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        gate.wait(5)
        with lock:
            inside -= 1

    async with new_pool(8, limits={"work": Limit(max_at_once=3)}) as pool:
        jobs = [await pool.submit(work) for _ in range(12)]
        await wait_until(lambda: inside == 3)
        await asyncio.sleep(0)
        gate.set()
        for job in jobs:
            await job
    assert most == 3


def test_a_pool_with_limits_opens_again_in_another_loop(isolation):
    """The lanes are those of one opening: nothing is left of the loop before."""
    pool = Pool(2, isolation=isolation, limit=Limit(max_per_second=1000), key_limit=Limit(max_at_once=1))

    async def main():
        async with pool:
            view = pool.with_options(key="k")
            return [await job for job in [await view.submit(echo, n) for n in range(3)]]

    for _ in range(2):
        assert asyncio.run(main()) == [0, 1, 2]
