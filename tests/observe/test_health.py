"""Healthy, degraded, failing: each finding by really causing it, and by its limits; probes that cost nothing."""

import asyncio
import functools
import math
import threading
import time

import pytest
from helpers import echo, fail, nap, stubborn, virtual
from hypothesis import given
from hypothesis import strategies as st

from aiopool import Pool, Restart
from aiopool._observe.health import Sample, assess
from aiopool.errors import RestartLimitError
from aiopool.health import Finding, HealthLimits, HealthMonitor, HealthStatus
from aiopool.instrumentation.system import machine_check
from aiopool.testing import settle


def checks(report):
    """{check: status} of a report."""
    return {finding.check: str(finding.status) for finding in report.findings}


# -- a pool at work ----------------------------------------------------------------------------------------------------


@virtual
async def test_a_pool_at_work_is_healthy(isolation):
    """Busy, with a queue, with failures here and there: no finding. Before and after, it is not ready, but live."""
    pool = Pool(4, isolation=isolation, on_error=lambda job, error: None)
    monitor = HealthMonitor(pool)
    report = monitor.report()
    assert (report.status, checks(report), report.ready, report.live) == ("failing", {"state": "failing"}, False, True)
    async with pool:
        for n in range(200):
            await pool.submit(fail if n % 20 == 0 else nap, *([] if n % 20 == 0 else [1]))
            await asyncio.sleep(0.2)
            report = monitor.report()
            assert (report.status, report.findings) == ("healthy", ()), report
            assert report.ready
            assert report.live
        await pool.submit(nap, 5)
        closing = asyncio.create_task(pool.shutdown())
        await settle()
        report = monitor.report()
        assert (checks(report), report.ready, report.live) == ({"state": "failing"}, False, True)
        assert "closing" in report.findings[0].text
        await closing
    assert checks(monitor.report()) == {"state": "failing"}


@virtual
async def test_many_errors(isolation):
    """Degraded above a tenth, failing above a half, of the jobs of the last minute; healthy again afterwards."""
    async with Pool(4, isolation=isolation, on_error=lambda job, error: None) as pool:
        monitor = HealthMonitor(pool)

        async def minute(bad, good):
            for n in range(60):
                for function, count in ((fail, bad), (echo, good)):
                    if n < count:
                        await pool.submit(function)
                await asyncio.sleep(1)
                report = monitor.report()
            return report

        assert checks(await minute(5, 60)) == {}
        report = await minute(10, 60)
        assert checks(report) == {"errors": "degraded"}
        assert (report.status, report.ready) == ("degraded", True)
        assert "10 of 70 jobs failed or timed out within 60 s: 14% (max_error_ratio=0.1)" in report.findings[0].text
        report = await minute(40, 30)
        assert checks(report) == {"errors": "failing"}
        assert not report.ready
        assert report.live  # a new process would fail at the same jobs
        assert checks(await minute(0, 60)) == {}
        assert checks(await minute(10, 0)) == {}  # too few to tell


@virtual
async def test_each_opening_is_judged_by_itself(isolation):
    """What an earlier opening counted is compared with nothing: its errors are over, and new ones are seen."""
    pool = Pool(1, isolation=isolation, name="p", on_error=lambda job, error: None)
    monitor = HealthMonitor(pool, limits=HealthLimits(min_jobs=10))
    for _ in range(2):
        async with pool:
            assert checks(monitor.report()) == {}
            for _ in range(20):
                await pool.submit(fail)
            await pool.join()
            assert checks(monitor.report()) == {"errors": "failing"}
            for _ in range(3):
                await asyncio.sleep(60)
                monitor.report()
            assert checks(monitor.report()) == {}


@virtual
async def test_a_backlog_that_grows(isolation):
    """Degraded while jobs come faster than they go and the oldest waits for long; not while a batch is worked off."""
    limits = HealthLimits(max_wait=10, window=20)
    async with Pool(1, None, isolation=isolation) as pool:
        monitor = HealthMonitor(pool, limits=limits)
        seen = []
        for _ in range(60):
            for _ in range(2):
                pool.submit_nowait(nap, 1)
            await asyncio.sleep(1)
            seen.append(monitor.report())
        assert checks(seen[5]) == {}
        assert checks(seen[-1]) == {"backlog": "degraded"}
        assert "backlog grew from" in seen[-1].findings[0].text
        await asyncio.sleep(25)
        assert checks(monitor.report()) == {}  # it shrinks
        await pool.cancel_all()

    async with Pool(1, None, isolation=isolation) as pool:
        monitor = HealthMonitor(pool, limits=limits)
        for _ in range(100):
            pool.submit_nowait(nap, 1)
        monitor.report()
        for _ in range(8):
            await asyncio.sleep(10)
            assert checks(monitor.report()) == {}, "a batch is no growing backlog"
        await pool.join()


@virtual
async def test_all_slots_stuck(isolation):
    """Failing, and not live, when nothing can start for too long; long jobs alone, or a pause, are no finding."""
    async with Pool(2, isolation=isolation) as pool:
        monitor = HealthMonitor(pool, limits=HealthLimits(stuck_after=60, max_wait=None))
        for _ in range(2):
            await pool.submit(nap, 1000)
        await asyncio.sleep(100)
        assert checks(monitor.report()) == {}  # nobody waits
        await pool.submit(echo)
        report = monitor.report()
        assert checks(report) == {"stuck": "failing"}
        assert (report.ready, report.live) == (False, False)
        assert "all 2 slots are taken by jobs that have run for 100 s or more" in report.findings[0].text
        async with pool.paused():
            assert checks(monitor.report()) == {}
        pool.resize(3)
        await settle()
        assert checks(monitor.report()) == {}  # a slot came free, and took the job
        await pool.cancel_all()


@virtual
async def test_submitters_that_wait_for_room_are_a_backlog(isolation):
    """With a queue of no size, nobody is in it: whoever waits in `submit` finds the pool stuck all the same."""
    async with Pool(1, 0, isolation=isolation) as pool:
        monitor = HealthMonitor(pool, limits=HealthLimits(stuck_after=10))
        job = await pool.submit(nap, 100)
        await asyncio.sleep(20)
        assert checks(monitor.report()) == {}
        waiting = asyncio.create_task(pool.submit(echo))
        await settle()
        assert checks(monitor.report()) == {"stuck": "failing"}
        job.cancel()
        await (await waiting)


@virtual
async def test_jobs_that_wait_for_others_are_not_stuck(isolation):
    """A job that has lent its slot is old, and holds nothing: the jobs that it waits for are young."""
    async with Pool(1, isolation=isolation) as pool:
        monitor = HealthMonitor(pool, limits=HealthLimits(stuck_after=60, max_wait=None))

        async def parent():
            for _ in range(100):
                await pool.run(nap, 2)

        await pool.submit(parent)
        await asyncio.sleep(121)
        await pool.submit(nap, 1)
        assert checks(monitor.report()) == {}
        await pool.cancel_all()


@pytest.mark.parametrize("on_leak", ["hold", "replace"])
@virtual
async def test_leaks(isolation, on_leak):
    """Degraded with one leaked job, failing when they hold every slot; replaced ones hold none."""
    async with Pool(2, isolation=isolation, cancel_grace=0.1, on_leak=on_leak) as pool:
        monitor = HealthMonitor(pool)
        seen = []
        for _ in range(2):
            job = await pool.submit(stubborn)
            await settle()
            await pool.cancel(job.id)
            seen.append(checks(monitor.report()))
        assert seen == [{"leaked": "degraded"}, {"leaked": "failing" if on_leak == "hold" else "degraded"}]
        assert monitor.report().live == (on_leak == "replace")
        await pool.shutdown(timeout=0, grace=0)
    await asyncio.sleep(4000)


@virtual
async def test_a_storm_of_restarts_and_its_end(isolation):
    """Degraded while workers crash often; failing when the pool has given up."""
    restart = Restart(max_restarts=5, within=600, delay=1, max_delay=1)
    pool = Pool(1, isolation=isolation, restart=restart, name="p")
    monitor = HealthMonitor(pool, limits=HealthLimits(max_restarts=3))
    failure = None
    with pytest.raises(RestartLimitError):
        async with pool:
            for n in range(1, 20):
                await pool.run(asyncio.sleep, 0.1)
                [worker] = pool._state.supervisor.workers()
                worker.crash(OSError("broken"))
                await asyncio.sleep(1.1)
                report = monitor.report()
                if pool.status == "closed":
                    failure = report
                    break
                assert checks(report) == ({"restarts": "degraded"} if n > 3 else {}), n
    assert checks(failure)["given_up"] == "failing"
    assert not failure.live
    assert n == 6


@virtual
async def test_a_late_loop(isolation):
    """Degraded and failing by how late the loop is; the first call switches the look at it on."""
    async with Pool(1, isolation=isolation) as pool:
        monitor = HealthMonitor(pool)
        assert pool._state.lag is None
        assert checks(monitor.report()) == {}
        await settle()
        lag = pool._state.lag
        assert lag is not None
        for late, expected in ((0.4, {}), (0.6, {"loop_lag": "degraded"}), (6, {"loop_lag": "failing"})):
            lag._samples.clear()
            lag._samples.append(late)
            report = monitor.report()
            assert checks(report) == expected
        assert not report.live


@virtual
async def test_a_look_at_the_loop_that_could_not_begin_begins_with_the_next_report(isolation, monkeypatch):
    """For want of memory, say: whoever asked hears of it, and asks again."""

    def refuse(*args, **options):
        raise MemoryError

    async with Pool(1, isolation=isolation) as pool:
        monitor = HealthMonitor(pool)
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(asyncio.get_running_loop(), "call_soon_threadsafe", refuse)
            monitor.report()
        await settle()
        assert pool._state.lag is None
        monitor.report()
        await settle()
        assert pool._state.lag is not None


@pytest.mark.long
def test_a_blocked_loop_fails_a_probe_from_another_thread():
    """A probe in a thread of its own gets its answer while the loop is held up, and it is: failing."""
    reports = []

    async def main():
        async with Pool(2) as pool:
            monitor = HealthMonitor(pool, limits=HealthLimits(max_loop_lag=0.2, failing_loop_lag=0.6))
            monitor.report()
            await asyncio.sleep(0.1)

            def probe():
                time.sleep(1.5)
                reports.append(monitor.report())  # a question to the loop would have no answer

            thread = threading.Thread(target=probe)
            thread.start()
            while not reports:
                time.sleep(0.5)  # this is the loop's thread
            thread.join()

    asyncio.run(main())
    [report] = reports
    assert checks(report) == {"loop_lag": "failing"}


# -- limits ------------------------------------------------------------------------------------------------------------


def pulse(at=60.0, **values):
    return Sample(at=at, **{"size": 4, **values})


START = pulse(0)


@pytest.mark.parametrize(
    ("now", "limits", "expected"),
    [
        (pulse(), {}, {}),
        (pulse(ended=20, bad=2), {}, {}),
        (pulse(ended=20, bad=3), {}, {"errors": "degraded"}),
        (pulse(ended=19, bad=19), {}, {}),
        (pulse(ended=20, bad=10), {}, {"errors": "degraded"}),
        (pulse(ended=20, bad=11), {}, {"errors": "failing"}),
        (pulse(ended=20, bad=20), {"max_error_ratio": 1, "failing_error_ratio": 1}, {}),
        (pulse(ended=1, bad=1), {"min_jobs": 0}, {"errors": "failing"}),
        (pulse(), {"min_jobs": 0, "max_error_ratio": 0}, {}),
        (pulse(backlog=1, oldest_wait=61), {}, {"backlog": "degraded"}),
        (pulse(backlog=1, oldest_wait=60), {}, {}),
        (pulse(backlog=1, oldest_wait=61), {"max_wait": None}, {}),
        (pulse(backlog=1, busy=4, youngest_run=301), {}, {"stuck": "failing"}),
        (pulse(backlog=1, busy=4, youngest_run=300), {}, {}),
        (pulse(backlog=1, busy=3, youngest_run=301), {}, {}),
        (pulse(backlog=0, busy=4, youngest_run=301), {}, {}),
        (pulse(backlog=1, busy=0, size=0, youngest_run=301), {}, {}),
        (pulse(backlog=1, busy=4, youngest_run=301), {"stuck_after": None}, {}),
        (pulse(leaked=3), {}, {"leaked": "degraded"}),
        (pulse(leaked=4), {}, {"leaked": "failing"}),
        (pulse(leaked=4, leaks_hold=False), {}, {"leaked": "degraded"}),
        (pulse(restarts=3), {}, {}),
        (pulse(restarts=4), {}, {"restarts": "degraded"}),
        (pulse(restarts=400), {"max_restarts": None}, {}),
        (pulse(loop_lag=0.5), {}, {}),
        (pulse(loop_lag=0.6), {}, {"loop_lag": "degraded"}),
        (pulse(loop_lag=5.1), {}, {"loop_lag": "failing"}),
        (pulse(loop_lag=9), {"max_loop_lag": None, "failing_loop_lag": None}, {}),
        (pulse(loop_lag=9), {"failing_loop_lag": None}, {"loop_lag": "degraded"}),
    ],
)
def test_each_limit(now, limits, expected):
    """On the limit all is well, above it not; None is no limit, 0 is one."""
    findings = assess(now, START, START, HealthLimits(**limits))
    assert {finding.check: str(finding.status) for finding in findings} == expected


@given(
    st.builds(
        pulse,
        at=st.floats(0, 1e6),
        ended=st.integers(0, 1000),
        bad=st.integers(0, 1000),
        restarts=st.integers(0, 10),
        backlog=st.integers(0, 10),
        oldest_wait=st.floats(0, 1e6),
        size=st.integers(0, 5),
        busy=st.integers(0, 5),
        leaked=st.integers(0, 5),
        youngest_run=st.floats(0, 1e6),
        loop_lag=st.floats(0, 1e6),
        paused=st.booleans(),
    )
)
def test_no_numbers_break_it(now):
    """Whatever the numbers, each check finds at most one thing, and says it in one line."""
    findings = assess(now, Sample(at=0.0), Sample(at=0.0), HealthLimits())
    assert len({finding.check for finding in findings}) == len(findings)
    assert all(finding.text and "\n" not in finding.text for finding in findings)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"window": 0}, "window=0"),
        ({"window": -1}, "window=-1"),
        ({"max_error_ratio": 1.5}, "between 0 and 1"),
        ({"min_jobs": -1}, "min_jobs=-1"),
        ({"max_restarts": 1.5}, "max_restarts=1.5"),
        ({"stuck_after": "5m"}, "stuck_after='5m'"),
        ({"max_loop_lag": -0.1}, "max_loop_lag=-0.1"),
        *(
            ({name: math.nan}, f"{name}=nan")
            for name in ("window", "max_wait", "stuck_after", "max_error_ratio", "max_restarts", "failing_loop_lag")
        ),
        ({"max_error_ratio": math.nan}, "between 0 and 1"),
        ({"failing_error_ratio": "10%"}, "between 0 and 1"),
        ({"failing_error_ratio": None}, "between 0 and 1"),
    ],
)
def test_limits_that_are_none(limits, text):
    """Refused when they are made, with the name and the value."""
    with pytest.raises((ValueError, TypeError), match=text):
        HealthLimits(**limits)


# -- one's own checks --------------------------------------------------------------------------------------------------


@virtual
async def test_ones_own_checks(isolation):
    """None is well, a text is degraded, a Finding is itself; a check that raises is failing, and hurts no other."""
    answers = {"well": None, "text": "no disk", "finding": Finding("x", HealthStatus.FAILING, "gone"), "odd": 17}

    def database():
        raise ConnectionError("refused")

    own = {name: lambda answer=answer: answer for name, answer in answers.items()}
    own["database"] = database
    own["fine"] = lambda: Finding("fine", HealthStatus.HEALTHY, "all well")
    async with Pool(1, isolation=isolation) as pool:
        report = HealthMonitor(pool, checks=own).report()
        found = {name.rpartition(".")[2]: status for name, status in checks(report).items()}
        assert found == {"text": "degraded", "x": "failing", "odd": "failing", "database": "failing"}
        texts = {finding.check.rpartition(".")[2]: finding.text for finding in report.findings}
        assert texts["database"] == "the check raised ConnectionError: refused"
        assert "17" in texts["odd"]
        assert [finding.status for finding in report.findings] == ["failing"] * 3 + ["degraded"]
        assert report.live  # nothing that only a new process heals
        [named] = HealthMonitor(pool, checks=[database]).report().findings
        assert named.check.endswith("database")  # by its own name
        assert HealthMonitor(pool).report().findings == ()  # each monitor has its own checks


class Unprintable(Exception):
    """An exception that cannot say what it is."""

    def __str__(self):
        raise ValueError("no words")

    __repr__ = __str__


@virtual
async def test_checks_that_break_in_odd_ways(isolation):
    """Whatever a check raises or returns is a finding, of bounded length: `health()` itself answers."""
    async with Pool(1, isolation=isolation) as pool:
        monitor = HealthMonitor(pool)
        old = asyncio.create_task(asyncio.sleep(9))
        old.cancel()
        await settle()

        def unprintable():
            raise Unprintable

        own = {
            "a task that was cancelled": old.result,
            "unprintable": unprintable,
            "returns": lambda: Unprintable(),
            "status": lambda: Finding("x", "bogus", "no such status"),
            "a long story": lambda: "x" * 10**6,
        }
        monitor = HealthMonitor(pool, checks=own)
        report = monitor.report()
        assert {name: str(status) for name, status in checks(report).items()} == {
            "a task that was cancelled": "failing",
            "unprintable": "failing",
            "returns": "failing",
            "status": "failing",
            "a long story": "degraded",
        }
        assert all(len(finding.text) <= 1000 for finding in report.findings)
        assert not monitor.report().ready


@virtual
async def test_a_check_that_asks_for_the_health(isolation):
    """It is a finding, not the end of the process."""
    async with Pool(1, isolation=isolation) as pool:
        monitor = HealthMonitor(pool, checks={"circle": lambda: monitor.report()})
        assert checks(monitor.report()) == {"circle": "failing"}


def test_a_status_may_be_a_word():
    """What a check read somewhere else is a status, too; any other word is refused."""
    assert Finding("disk", "failing", "full").status is HealthStatus.FAILING
    with pytest.raises(ValueError, match="'broken'"):
        Finding("disk", "broken", "full")


@virtual
async def test_a_failing_word_is_failing(isolation):
    """A finding with the word is worth as much as one with the constant: no work for this pool."""
    async with Pool(1, isolation=isolation) as pool:
        monitor = HealthMonitor(pool, checks=[lambda: Finding("disk", "failing", "full")])
        assert not monitor.report().ready


def test_checks_that_cannot_be_asked():
    """Asynchronous, no function, a name that is taken, no pool, no limits: refused, with what to write."""
    pool = Pool()

    async def check(): ...

    class Check:
        async def __call__(self): ...

    for asynchronous in (check, Check(), functools.partial(Check())):
        with pytest.raises(TypeError, match=r"report\(\) does not wait"):
            HealthMonitor(pool, checks=[asynchronous])
    with pytest.raises(TypeError, match="function without arguments"):
        HealthMonitor(pool, checks=["database"])
    with pytest.raises(ValueError, match=r"checks=\{name: function"):
        HealthMonitor(pool, checks=[print, print])
    with pytest.raises(TypeError, match=r"write HealthMonitor\(pool\)"):
        HealthMonitor("pool")
    with pytest.raises(TypeError, match=r"limits=HealthLimits\(max_wait=5\)"):
        HealthMonitor(pool, limits={"max_wait": 5})


def test_the_cpu_of_the_machine():
    """What all CPUs did since the last call."""
    check = machine_check(cpu=1e-6, memory=None, disk=None)
    while (finding := check()) is None:
        sum(range(100_000))
    assert finding.status is HealthStatus.FAILING
    assert "of the CPU" in finding.text


def test_the_memory_of_the_machine():
    """Failing above its limit; it is looked at by itself."""
    finding = machine_check(cpu=None, memory=1e-6, disk=None)()
    assert finding is not None
    assert finding.status is HealthStatus.FAILING
    assert "of the memory" in finding.text
    assert machine_check(cpu=None, memory=None, disk=None)() is None


def test_the_machine_as_a_check(tmp_path):
    """Degraded at four fifths of a limit, failing above it; what is not there is not looked at."""
    import psutil

    used = psutil.disk_usage(tmp_path).percent / 100
    look = {"cpu": None, "memory": None, "disks": [str(tmp_path), "/nowhere"]}
    assert machine_check(**look, disk=min(1, used * 1.3))() is None or used > 0.77
    assert machine_check(**look, disk=min(1, used * 1.1))().status == "degraded"
    finding = machine_check(**look, disk=used * 0.9)()
    assert (finding.status, finding.check) == ("failing", "machine")
    assert str(tmp_path) in finding.text
    assert machine_check(cpu=None, memory=None, disk=None)() is None
    for part in ("cpu", "memory"):
        finding = machine_check(**{"cpu": None, "memory": None, "disk": None, part: 0.001})()
        assert finding is None or (finding.status == "failing" and "limit 0%" in finding.text)
    with pytest.raises(ValueError, match="between 0 and 1"):
        machine_check(cpu=90)


# -- the price ---------------------------------------------------------------------------------------------------------


@virtual
async def test_many_probes_keep_little(isolation):
    """A thousand probes a second keep one pulse a second, for one window; the judgement is the same."""
    async with Pool(1, isolation=isolation, on_error=lambda job, error: None) as pool:
        monitor = HealthMonitor(pool)
        for _ in range(300):
            await pool.submit(fail)
            for _ in range(20):
                await asyncio.sleep(0.05)
                report = monitor.report()
        assert checks(report) == {"errors": "failing"}
        assert "of 60 jobs" in report.findings[0].text or "of 61 jobs" in report.findings[0].text
        assert len(monitor._samples) <= 62


def test_a_probe_is_cheap():
    """Even with a thousand running jobs and ten thousand waiting ones a probe takes a few milliseconds at most."""

    async def main():
        async with Pool(1000, None) as pool:
            monitor = HealthMonitor(pool)
            for n in range(11_000):
                pool.with_options(priority=n % 3).submit_nowait(nap, 100)
            await asyncio.sleep(0.2)
            began = time.process_time()
            for _ in range(20):
                monitor.report()
            seconds = (time.process_time() - began) / 20
            await pool.shutdown(timeout=0, cancel_pending=True)
            return seconds

    assert asyncio.run(main()) < 0.2


@virtual
async def test_nothing_runs_between_probes(isolation):
    """A pool that nobody asks has no timer; one that was asked has one, twice a second."""
    async with Pool(1, isolation=isolation) as pool:
        monitor = HealthMonitor(pool)
        loop = asyncio.get_running_loop()
        steps = loop.steps
        await asyncio.sleep(1000)
        assert loop.steps - steps < 5
        monitor.report()
        steps = loop.steps
        await asyncio.sleep(1000)
        assert loop.steps - steps < 2100


@virtual
async def test_a_loop_that_cannot_be_asked_is_asked_the_next_time(monkeypatch):
    """Its delay is to be measured, and it refuses the call: the error comes out, and the next try works."""

    def refuse(*args, **options):
        raise MemoryError

    async with Pool(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "call_soon_threadsafe", refuse)
            with pytest.raises(MemoryError):
                pool._state.measure_loop()
        assert pool._state.lag is None
        pool._state.measure_loop()
        pool._state.measure_loop()
        await asyncio.sleep(1)
        assert pool._state.lag.worst() == 0
