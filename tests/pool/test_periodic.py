"""`every` and `run_at`: work at moments to come: exact, without drift, and told when it is late."""

import asyncio
import datetime
import itertools
import logging
import sys
import time
from datetime import UTC, timedelta
from zoneinfo import ZoneInfo

import pytest
from helpers import echo, nap, now, virtual

from aiopool import JobOptions, Limit, Pool, PoolClosedError, current_job
from aiopool._jobs.schedules import Cron, Interval, schedule_of
from aiopool.testing import VirtualLoop, advance, settle, wait_until

BERLIN = ZoneInfo("Europe/Berlin")


def at(*moment, tz=UTC):
    return datetime.datetime(*moment, tzinfo=tz)


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_an_interval_does_not_drift():
    """The n-th moment is n intervals after the first, for any interval, after a million of them."""
    for seconds in (0.1, 1 / 3, 7, 86400):
        schedule, moment = Interval(seconds, 1000.0), 1000.0
        for n in range(1, 2000):
            moment = schedule.next_after(moment, at)
            assert moment == pytest.approx(1000 + n * seconds, rel=1e-12)
        late = 1000 + 1_000_000 * seconds
        assert schedule.next_after(late, at) == pytest.approx(1000 + 1_000_001 * seconds, rel=1e-12)
        assert schedule.count_between(1000 + seconds, 1000 + 4.5 * seconds, at) == 3


def wall_from(start):
    return lambda moment: start + timedelta(seconds=moment)


def test_cron_follows_summer_time():
    """3:30 each night in Berlin is 23, 24 and 25 hours apart; in UTC it is 24."""
    start = at(2026, 3, 27, 12)
    wall = wall_from(start)
    cron, moments, moment = Cron("30 3 * * *", BERLIN), [], 0.0
    for _ in range(4):
        moment = cron.next_after(moment, wall)
        moments.append(wall(moment))
    assert [m.astimezone(BERLIN).strftime("%d %H:%M") for m in moments] == [
        "28 03:30",
        "29 03:30",
        "30 03:30",
        "31 03:30",
    ]
    assert [(b - a) / timedelta(hours=1) for a, b in itertools.pairwise(moments)] == [23, 24, 24]
    assert cron.count_between(0.0, 10 * 86400, wall) == 10
    assert Cron("* * * * *", BERLIN).count_between(0.0, 10 * 86400, wall) == 1000  # as many as anybody wants to know
    assert str(cron) == "cron '30 3 * * *'"


@pytest.mark.parametrize(
    ("when", "tz", "error", "words"),
    [
        (0, None, ValueError, "above 0 seconds"),
        (-1, None, ValueError, "above 0"),
        (float("inf"), None, ValueError, "finite"),
        (float("nan"), None, ValueError, "above 0"),
        (True, None, TypeError, "a cron text such as"),
        (None, None, TypeError, "write a number of seconds"),
        ("* * *", None, ValueError, "write five fields"),
        ("61 * * * *", None, ValueError, "no cron text"),
        (5, UTC, TypeError, "no time zone"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(when, tz, error, words):
    """With the line to write."""
    with pytest.raises(error, match=words):
        schedule_of(when, 0.0, tz)


def test_a_timedelta_is_an_interval():
    """A timedelta is an interval."""
    assert schedule_of(timedelta(minutes=1), 5.0, None).next_after(5.0, at) == 65.0


# -- every -------------------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.both_isolations


@virtual
async def test_every_is_exact_and_does_not_drift(isolation):
    """One job at each moment, however long the jobs take, until the pool is left."""
    starts = []

    async def tick(name):
        starts.append((now(), name))
        await asyncio.sleep(3.7)

    async with Pool(isolation=isolation) as pool:
        periodic = pool.every(10, tick, "a")
        assert (periodic.active, periodic.next_at, periodic.job) == (True, 10, None)
        await advance(1005)
        assert starts == [(10 * n, "a") for n in range(1, 101)]
        assert (periodic.runs, periodic.skipped, periodic.missed, periodic.late) == (100, 0, 0, 0)
        assert periodic.job.done()
        assert periodic.next_at == 1010
        assert "every 10 s next at 1010" in repr(periodic)
    assert (now(), periodic.active, periodic.next_at, periodic.next_time) == (1005, False, None, None)
    assert "ended" in repr(periodic)


@virtual
async def test_overlap_skip(isolation):
    """While the last job has not ended, the moment is passed over."""
    starts = []

    async def tick():
        starts.append(now())
        await asyncio.sleep(25)

    async with Pool(isolation=isolation) as pool:
        periodic = pool.every(10, tick)
        await advance(100)
        assert starts == [10, 40, 70, 100]
        assert (periodic.runs, periodic.skipped) == (4, 6)


@virtual
async def test_overlap_queue(isolation):
    """Each moment has its job; they run one after the other, also if the jobs have other keys."""
    inside, starts = 0, []

    async def tick():
        nonlocal inside
        inside += 1
        assert inside == 1
        starts.append(now())
        await asyncio.sleep(15)
        inside -= 1

    async with Pool(isolation=isolation, limits={"k": Limit(max_at_once=3)}) as pool:
        periodic = pool.with_options(key="k").every(10, tick, overlap="queue")
        await advance(45)
        assert pool.jobs()[0].key[1:] == ("k",)
        periodic.cancel()
        await pool.join()
        assert starts == [10, 25, 40, 55]
        assert (periodic.runs, periodic.skipped, periodic.active) == (4, 0, False)
        periodic.cancel()


@virtual
async def test_jitter_moves_no_moment(isolation):
    """Each job is late by its own part of the jitter, and the next moment is counted without it."""
    starts = []

    async def tick():
        starts.append(now())

    async with Pool(isolation=isolation, seed=7) as pool:
        pool.every(10, tick, jitter=4)
        await advance(1000)
    offsets = [start - 10 * n for n, start in enumerate(starts, 1)]
    assert all(0 <= offset <= 4 for offset in offsets)
    assert max(offsets) > 3.5 > 0.5 > min(offsets)
    assert len(starts) in (99, 100)


@virtual
async def test_cron_in_virtual_time(isolation):
    """At each minute of the wall, exactly, for a day."""
    starts = []

    async def tick():
        starts.append(current_job().started_time)

    async with Pool(isolation=isolation) as pool:
        periodic = pool.every("*/15 * * * *", tick, tz=BERLIN)
        first = periodic.next_time
        assert (first.minute % 15, first.second) == (0, 0)
        await advance(86400)
        assert len(starts) in (95, 96, 97)
        for start in starts:
            assert abs(start - start.replace(minute=start.minute // 15 * 15, second=0, microsecond=0)) < timedelta(
                milliseconds=1
            )


@virtual
async def test_a_moment_that_comes_late_is_told(isolation, caplog):
    """The event loop was busy over three moments: one job, two are missed, both are told; then it goes on as before."""
    starts = []

    async def tick():
        starts.append(now())

    async with Pool(isolation=isolation) as pool:
        periodic = pool.every(10, tick)
        await advance(15)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop._now += 30  # as if code had run for so long
        with caplog.at_level(logging.WARNING, "aiopool.periodic"):
            await advance(30)
    assert starts == [10, 45, 50, 60, 70]
    assert periodic.missed == 2
    assert "25 s late, and has missed 2 moments so far" in caplog.text


async def test_a_busy_loop_is_told(isolation, caplog):
    """Real time: code blocks the loop over several moments; one job comes of them, the others are counted as missed."""
    async with Pool(isolation=isolation) as pool:
        periodic = pool.every(0.05, echo)
        with caplog.at_level(logging.WARNING, "aiopool.periodic"):
            time.sleep(0.3)
            await wait_until(lambda: periodic.runs)
        assert periodic.missed >= 4
        assert "has missed" in caplog.text
        assert "every 0.05 s" in caplog.text
        with caplog.at_level(logging.WARNING, "aiopool.periodic"):
            runs = periodic.runs
            time.sleep(0.3)
            await wait_until(lambda: periodic.runs > runs)
        assert caplog.text.count("has missed") == 1  # not again in the same minute
        assert periodic.missed >= 8


@virtual
async def test_a_full_queue_skips_a_moment(isolation, caplog):
    """It does not wait for room, and it is told."""
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 25)
        with caplog.at_level(logging.WARNING, "aiopool.periodic"):
            periodic = pool.every(10, echo)
            await advance(35)
        assert (periodic.runs, periodic.skipped) == (1, 2)
        assert caplog.text.count("finds the queue full") == 1  # not again in the same minute


@virtual
async def test_what_submitting_raises_is_told_and_the_next_moment_comes(isolation, caplog):
    """An id that is still taken: told with the error, counted as skipped, and nothing ends by it."""
    async with Pool(isolation=isolation) as pool:
        with caplog.at_level(logging.WARNING, "aiopool.periodic"):
            other = await pool.with_options(id="one").submit(nap, 25)
            periodic = pool.with_options(id="one").every(10, echo)
            await advance(35)
        assert (periodic.runs, periodic.skipped) == (1, 2)
        assert caplog.text.count("could not be submitted") == 1
        assert "ValueError" in caplog.text
        assert other.done()


@virtual
async def test_it_ends_with_its_pool_or_its_group(isolation):
    """A shutdown, or the end of a block, ends it; and it does not keep the pool open."""
    async with Pool(isolation=isolation) as pool:
        async with pool.group("g") as group:
            inner = group.every(10, echo)
            await advance(35)
        assert inner.runs == 3
        await advance(100)
        assert (inner.runs, inner.active) == (3, False)
        outer = pool.every(10, echo)
        await advance(15)
        await pool.shutdown()
        assert outer.runs == 1
        await advance(100)
        assert (outer.runs, outer.active) == (1, False)
        with pytest.raises(PoolClosedError):
            pool.every(10, echo)


@virtual
async def test_wrong_calls(isolation):
    """They are refused when `every` is called, and not at the first moment."""
    pool = Pool(isolation=isolation)
    with pytest.raises(RuntimeError, match=r"every.*async with Pool"):
        pool.every(10, echo)
    async with pool:
        with pytest.raises(ValueError, match="overlap='both'"):
            pool.every(10, echo, overlap="both")
        with pytest.raises(TypeError, match="jitter"):
            pool.every(10, echo, jitter="1s")
        with pytest.raises(TypeError):
            pool.every(10, echo())  # type: ignore[arg-type]
        await settle()


@virtual
async def test_it_runs_in_the_context_and_with_the_options_of_whoever_asked(isolation):
    """Options of the view, context variables of the caller."""
    import contextvars

    variable = contextvars.ContextVar("variable", default="none")
    seen = []

    async def tick():
        seen.append((variable.get(), current_job().name, current_job().priority))

    async with Pool(isolation=isolation) as pool:
        variable.set("mine")
        pool.with_options(name="ticker", priority=1).every(1, tick)
        variable.set("other")
        await advance(2.5)
    assert seen == [("mine", "ticker", 1)] * 2


async def test_a_moment_of_the_wall_is_looked_at_now_and_then(isolation, monkeypatch):
    """The clock may be set while one waits for a day that is far away: it is looked at again, and nothing is missed."""
    from aiopool._pool import periodic as module

    monkeypatch.setattr(module, "LONGEST_WAIT", 0.005)
    async with Pool(isolation=isolation) as pool:
        periodic = pool.every("0 0 1 1 *", echo)
        first, due = periodic._timer, periodic.next_time
        await wait_until(lambda: periodic._timer not in (first, None))
        assert abs(periodic.next_time - due) < timedelta(milliseconds=100)
        assert (periodic.runs, periodic.missed) == (0, 0)


@virtual
async def test_a_schedule_that_has_no_more_moments_ends(isolation, monkeypatch):
    """A cron text may name a day that the library does not reach."""
    async with Pool(isolation=isolation) as pool:
        periodic = pool.every("* * * * *", echo)
        monkeypatch.setattr(periodic._schedule, "_parse", lambda text, moment: iter(()))
        await advance(120)
        assert (periodic.runs, periodic.active, periodic.next_at) == (1, False, None)


async def test_a_cron_text_needs_its_library(isolation, monkeypatch):
    """Without it the error says how to get it, when `every` is called."""
    monkeypatch.setitem(sys.modules, "cronsim", None)
    async with Pool(isolation=isolation) as pool:
        with pytest.raises(RuntimeError, match="with the extra `cron`"):
            pool.every("* * * * *", echo)
        pool.every(60, echo)


# -- run_at ------------------------------------------------------------------------------------------------------------


@virtual
async def test_run_at(isolation):
    """The job enters the queue at that moment of the wall; at once if it is over; counted from each submission."""
    async with Pool(isolation=isolation) as pool:
        wall = pool._state.engine.runtime.wall_time
        later = wall(now()) + timedelta(hours=2)
        view = pool.with_options(run_at=later)
        first = await view.submit(echo, 1)
        assert (first.status, first.waiting_for) == ("scheduled", "delay")
        await advance(3600)
        second = await view.submit(echo, 2)
        assert first.status == second.status == "scheduled"
        assert [await first, await second] == [1, 2]
        assert now() == pytest.approx(7200, abs=1e-3)
        assert await view.run(echo, 3) == 3
        assert now() == pytest.approx(7200, abs=1e-3)
        assert await view.with_options(delay=5).run(echo, 4) == 4
        assert now() == pytest.approx(7205, abs=1e-3)
        options = JobOptions(run_at=wall(now()) + timedelta(seconds=10))
        assert await pool.map(echo, [1, 2], options=lambda item: options).collect() == [1, 2]
        assert now() == pytest.approx(7215, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"run_at": 5}, TypeError, "write a datetime with a time zone"),
        ({"run_at": "12:00"}, TypeError, "write a datetime"),
        ({"run_at": datetime.datetime(2030, 1, 1)}, ValueError, "no time zone.*astimezone"),
        ({"run_at": at(2030, 1, 1), "delay": 5}, ValueError, "both say when"),
    ],
)
def test_a_moment_that_makes_no_sense_is_refused(options, error, words):
    """Where it is written: in a view and in `JobOptions`."""
    with pytest.raises(error, match=words):
        Pool().with_options(**options)
    with pytest.raises(error, match=words):
        JobOptions(**options)
