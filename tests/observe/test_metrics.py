"""Numbers that are true: histograms, collectors, hostile names, scrapes from anywhere."""

import asyncio
import bisect
import collections
import gc
import math
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from busy_pool import NUMBERS, crowded
from helpers import assert_counters_balance, echo, fail, nap, virtual
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from aiopool import Pool, Restart, Retry, events
from aiopool._observe.metrics import MAX_LABEL, OTHER, label_text
from aiopool.instrumentation.prometheus import PoolCollector, SystemCollector
from aiopool.metrics import Metrics, observe
from aiopool.testing import run_virtual, settle

PROMTOOL = shutil.which("promtool")


def registry(*pools, **options):
    """A registry of its own, with a collector for some pools."""
    found = CollectorRegistry(auto_describe=True)
    found.register(PoolCollector(*pools, **options))
    return found


def samples(found):
    """What a scrape gives, as Prometheus' own format has it: {(name, labels): value}."""
    rows = {}
    for family in text_string_to_metric_families(generate_latest(found).decode()):
        for sample in family.samples:
            key = sample.name, *(value for _, value in sorted(sample.labels.items()))
            assert key not in rows, f"{key} is there twice"
            rows[key] = sample.value
    return rows


# -- off, and on -------------------------------------------------------------------------------------------------------


@virtual
async def test_off_until_it_is_asked_for(isolation):
    """Nothing is counted by name and no timer runs, until `metrics()`, `measure()`, a collector or the argument."""
    async with Pool(1, isolation=isolation) as pool:
        await pool.run(echo)
        assert pool._state.engine.observers is None
        assert pool._state.lag is None
        assert observe(pool).snapshot().jobs == {}
        await pool.run(echo)
        assert observe(pool).snapshot().jobs["echo"].succeeded == 1
        assert pool._state.engine.observers is not None
        await asyncio.sleep(0)
        assert pool._state.lag is not None

    for switch_on in (observe, PoolCollector):
        pool = Pool(1, isolation=isolation)
        switch_on(pool)
        async with pool:
            await pool.run(echo)
            assert observe(pool).snapshot().jobs["echo"].succeeded == 1
    async with Pool(1, isolation=isolation) as pool:
        observe(pool)
        await pool.run(echo)
        assert observe(pool).snapshot().jobs["echo"].succeeded == 1


@virtual
async def test_counts_begin_with_each_opening(isolation):
    """As the numbers of `statistics()` do; a closed pool keeps its last ones."""
    pool = Pool(1, isolation=isolation)
    observe(pool)
    with pytest.raises(RuntimeError, match="which is new"):
        observe(pool).snapshot()
    for _ in range(2):
        async with pool:
            for _ in range(3):
                await pool.run(echo)
        assert observe(pool).snapshot().jobs["echo"].succeeded == 3
        assert observe(pool).snapshot().statistics.succeeded == 3
        assert observe(pool).snapshot().loop_lag == 0


@virtual
async def test_asking_again_changes_nothing_unless_something_else_is_asked(isolation):
    """Two collectors may share a pool; other buckets begin anew."""
    async with Pool(1, isolation=isolation) as pool:
        observe(pool, run_buckets=(1, 10))
        await pool.run(nap, 5)
        observe(pool)
        PoolCollector(pool)
        observe(pool, run_buckets=(1, 10, math.inf), max_names=100)
        assert observe(pool).snapshot().jobs["nap"].run.buckets == ((1, 0), (10, 1), (math.inf, 1))
        observe(pool, run_buckets=(2, 20))
        assert observe(pool).snapshot().jobs == {}


@pytest.mark.parametrize("buckets", [(), (0, 1), (2, 1), (1, 1), (1, math.nan), (math.inf,), "1s", 5, ("a",), (None,)])
def test_buckets_must_rise(buckets):
    """Bounds that make no histogram are refused, with ones that would."""
    with pytest.raises(ValueError, match="rising, such as"):
        observe(Pool(), run_buckets=buckets)


# -- true numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_histograms_agree_with_the_events(seed):
    """Under a random load, `_count`, `_sum` and each bucket are what a listener adds up for itself."""

    @virtual
    async def main(isolation):
        rng, bounds = random.Random(seed), (0.1, 0.5, 1, 2.5)
        waits, runs = collections.defaultdict(list), collections.defaultdict(list)
        ends = collections.defaultdict(collections.Counter)

        def listener(event):
            if isinstance(event, events.JobStarted):
                if event.attempt == 1:
                    waits[event.name].append(event.waited - delays.get(event.job_id, 0))
            elif isinstance(event, events.JobRetrying):
                runs[event.name].append(event.seconds)
                ends[event.name]["retries"] += 1
            elif not isinstance(event, events.JobSubmitted):
                ends[event.name][type(event).__name__] += 1
                if event.worker is not None:
                    runs[event.name].append(event.seconds)
            else:
                delays[event.job_id] = event.delay

        async def work(seconds):
            await asyncio.sleep(seconds)
            if rng.random() < 0.3:
                raise ValueError

        delays, numbers = {}, None
        async with Pool(3, 20, isolation=isolation, on_error=lambda job, error: None) as pool:
            pool.listen(listener, events.JobEvent)
            observe(pool, run_buckets=bounds, wait_buckets=bounds)
            jobs = []
            for _ in range(150):
                view = pool.with_options(
                    name=rng.choice("abc"),
                    timeout=rng.choice([None, 1]),
                    queue_timeout=rng.choice([None, 1]),
                    retry=rng.choice([None, Retry(attempts=3, delay=0.1)]),
                    delay=rng.choice([None, 0.5]),
                )
                jobs.append(await view.submit(work, rng.choice([0, 0.1, 0.4, 3])))
                if rng.random() < 0.1:
                    rng.choice(jobs).cancel()
            await pool.join()
            numbers = observe(pool).snapshot()

        assert set(numbers.jobs) == set(ends) == set("abc")
        for name, counts in numbers.jobs.items():
            for histogram, values in ((counts.wait, waits[name]), (counts.run, runs[name])):
                values.sort()
                assert histogram.count == len(values)
                assert histogram.sum == pytest.approx(sum(values))
                assert histogram.buckets == (
                    *((bound, bisect.bisect_right(values, bound)) for bound in bounds),
                    (math.inf, len(values)),
                )
            assert counts.succeeded == ends[name]["JobSucceeded"]
            assert counts.failed == ends[name]["JobFailed"]
            assert counts.timed_out == ends[name]["JobTimedOut"]
            assert counts.cancelled == ends[name]["JobCancelled"]
            assert counts.retries == ends[name]["retries"]
        total = numbers.statistics
        assert sum(c.succeeded + c.failed + c.timed_out + c.cancelled for c in numbers.jobs.values()) == 150
        assert sum(counts.retries for counts in numbers.jobs.values()) == total.retries

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_the_pool_in_numbers(isolation):
    """Queued by priority (parked jobs too), oldest wait, workers, pause: read when asked."""
    async with Pool(2, isolation=isolation, name="shop") as pool:
        pool.pause(group="held")
        pool.with_options(group="held", priority=1).submit_nowait(nap, 1)
        for _ in range(2):
            pool.submit_nowait(nap, 100)
        await asyncio.sleep(1)
        for priority in (3, 3, 7):
            pool.with_options(priority=priority).submit_nowait(nap, 1)
        pool.with_options(delay=50).submit_nowait(nap, 1)
        await asyncio.sleep(4)
        pool.pause()
        seen = observe(pool).snapshot()
        assert isinstance(seen, Metrics)
        assert (seen.pool, seen.paused, seen.queue_size) == ("shop", True, 1000)
        assert seen.queued == {3: 2, 7: 1, 1: 1}
        assert seen.statistics.queued == 4
        assert seen.statistics.scheduled == 1
        assert seen.workers == {"idle": 0, "busy": 2, "restarting": 0}
        assert seen.oldest_wait == 4
        pool.resume()
        pool.resume(group="held")
        await pool.join()
        seen = observe(pool).snapshot()
        assert (seen.queued, seen.oldest_wait, seen.workers["busy"]) == ({}, 0, 0)


@virtual
async def test_delays_are_no_wait(isolation):
    """The wait of a delayed job begins when its delay is over."""
    async with Pool(1, isolation=isolation) as pool:
        observe(pool)
        await (await pool.with_options(delay=60).submit(echo))
        assert observe(pool).snapshot().jobs["echo"].wait.sum == 0
        pool.submit_nowait(nap, 100)
        late = pool.with_options(delay=60).submit_nowait(echo)
        await asyncio.sleep(80)
        assert observe(pool).snapshot().oldest_wait == 20
        await late
        assert observe(pool).snapshot().jobs["echo"].wait.sum == 40


@virtual
async def test_aging_and_many_priorities_are_counted_too(isolation):
    """The queue's other order, a heap, counts as the buckets do; discarded jobs leave the count at once."""
    for options in ({"aging": 10.0}, {}):
        async with Pool(1, None, isolation=isolation, **options) as pool:
            pool.submit_nowait(nap, 1)
            await asyncio.sleep(0.5)
            priorities = range(400) if not options else [1, 1, 2]
            jobs = [pool.with_options(priority=priority).submit_nowait(echo) for priority in priorities]
            jobs[1].cancel()
            expected = collections.Counter(job.priority for job in jobs)
            expected[jobs[1].priority] -= 1
            await asyncio.sleep(0.25)
            assert observe(pool).snapshot().queued == {priority: count for priority, count in expected.items() if count}
            assert observe(pool).snapshot().oldest_wait == 0.25
            jobs[0].cancel()
            await pool.join()


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0, 1))
def test_quantiles_are_bounds_of_buckets(values, q):
    """A quantile is the bound that at least so many values do not exceed."""
    from aiopool._observe.metrics import HistogramCounts

    bounds = (1.0, 10.0, math.inf)
    counts = HistogramCounts(tuple((bound, sum(v <= bound for v in values)) for bound in bounds), sum(values))
    found = counts.quantile(q)
    if not values:
        assert found == 0
    else:
        assert sum(v <= found for v in values) >= q * len(values)


# -- a scrape ----------------------------------------------------------------------------------------------------------


def test_a_scrape_has_it_all():
    """Every series that is promised is there, with its value, in both text formats."""

    async def main():
        async with Pool(2, 5, name="shop", on_error=lambda job, error: None) as pool:
            found = registry(pool)
            for function in (echo, fail):
                await (await pool.submit(function)).wait()
            await (await pool.with_options(timeout=1).submit(nap, 10)).wait()
            await (await pool.with_options(retry=Retry(attempts=3)).submit(fail)).wait()
            running = [await pool.submit(nap, 100) for _ in range(2)]
            (await pool.submit(nap, 1)).cancel()
            await asyncio.sleep(1)
            for _ in range(3):
                await pool.with_options(priority=3).submit(nap, 1)
            await pool.with_options(delay=500).submit(echo)
            await asyncio.sleep(2)
            rows = samples(found)
            list(parse_openmetrics(generate_openmetrics(found).decode()))
            for job in running:
                job.cancel()
            await pool.shutdown(timeout=0)
        return rows

    rows = run_virtual(main)
    expected = {
        ("aiopool_jobs_submitted_total", "shop"): 11,
        ("aiopool_retries_total", "shop"): 2,
        ("aiopool_worker_restarts_total", "shop"): 0,
        ("aiopool_leaks_total", "shop"): 0,
        ("aiopool_jobs_running", "shop"): 2,
        ("aiopool_jobs_queued", "shop"): 3,
        ("aiopool_jobs_scheduled", "shop"): 1,
        ("aiopool_jobs_leaked", "shop"): 0,
        ("aiopool_submitters_waiting", "shop"): 0,
        ("aiopool_size", "shop"): 2,
        ("aiopool_slots_busy", "shop"): 2,
        ("aiopool_threads_busy", "shop"): 0,
        ("aiopool_threads_abandoned", "shop"): 0,
        ("aiopool_queue_size", "shop"): 5,
        ("aiopool_paused", "shop"): 0,
        ("aiopool_workers", "shop", "busy"): 2,
        ("aiopool_workers", "shop", "idle"): 0,
        ("aiopool_workers", "shop", "restarting"): 0,
        ("aiopool_oldest_wait_seconds", "shop"): 2,
        ("aiopool_event_loop_lag_seconds", "shop"): 0,
        ("aiopool_jobs_queued_by_priority", "shop", "3"): 3,
        ("aiopool_jobs_total", "succeeded", "shop"): 1,
        ("aiopool_jobs_total", "failed", "shop"): 2,
        ("aiopool_jobs_total", "timed_out", "shop"): 1,
        ("aiopool_jobs_total", "cancelled", "shop"): 1,
        ("aiopool_jobs_total", "rejected", "shop"): 0,
        ("aiopool_job_outcomes_total", "fail", "failed", "shop"): 2,
        ("aiopool_job_outcomes_total", "nap", "timed_out", "shop"): 1,
        ("aiopool_job_retries_total", "fail", "shop"): 2,
        ("aiopool_job_run_seconds_count", "fail", "shop"): 4,
        ("aiopool_job_run_seconds_sum", "nap", "shop"): 1,
        ("aiopool_job_run_seconds_bucket", "1.0", "nap", "shop"): 1,
        ("aiopool_job_run_seconds_bucket", "0.5", "nap", "shop"): 0,
        ("aiopool_job_run_seconds_bucket", "+Inf", "nap", "shop"): 1,
        ("aiopool_job_wait_seconds_count", "nap", "shop"): 3,
    }
    assert {key: rows.get(key) for key in expected} == expected


def test_each_number_is_its_own(new_pool):
    """In a pool in which hardly two of them are equal, no gauge shows what another one should."""

    async def main():
        async with crowded(new_pool) as (pool, let_go):
            found = registry(pool)
            statistics = pool.statistics()
            assert {name: getattr(statistics, name) for name in NUMBERS} == NUMBERS
            before = samples(found)
            await let_go()
            return before, samples(found)

    before, after = asyncio.run(main())
    expected = {
        "jobs_running": NUMBERS["running"],
        "jobs_queued": NUMBERS["queued"],
        "jobs_scheduled": NUMBERS["scheduled"],
        "jobs_leaked": NUMBERS["leaked"],
        "jobs_submitted_total": NUMBERS["submitted"],
        "submitters_waiting": NUMBERS["waiting"],
        "size": NUMBERS["size"],
        "slots_busy": NUMBERS["busy"],
        "threads_busy": NUMBERS["threads_busy"],
        "threads_abandoned": NUMBERS["threads_abandoned"],
        "leaks_total": 1,
        "paused": 1,
        "queue_size": 6,
    }
    assert {name: before[f"aiopool_{name}", "shop"] for name in expected} == expected
    assert before["aiopool_jobs_total", "rejected", "shop"] == NUMBERS["rejected"]
    assert after["aiopool_jobs_leaked", "shop"] == 0
    assert after["aiopool_leaks_total", "shop"] == 1
    assert after["aiopool_threads_abandoned", "shop"] == 0


@virtual
async def test_a_pool_that_is_closed_has_no_room(isolation):
    """The last scrape shows a queue of size 0, and not of less; without a bound it is infinite."""
    async with Pool(1, 5, isolation=isolation) as bounded, Pool(1, None, isolation=isolation, name="wide") as wide:
        found = registry(bounded, wide)
        rows = samples(found)
        assert rows["aiopool_queue_size", "pool"] == 5
        assert rows["aiopool_queue_size", "wide"] == math.inf
    rows = samples(found)
    assert rows["aiopool_queue_size", "pool"] == rows["aiopool_queue_size", "wide"] == 0


@virtual
async def test_a_worker_that_is_being_replaced_is_said_to_be(isolation):
    """`restarting`, from the crash until the new one is there."""
    pool = Pool(3, isolation=isolation, restart=Restart(delay=10, max_delay=10))
    async with pool:
        await pool.run(echo)
        pool._state.supervisor.workers()[0].crash(OSError("broken"))
        await asyncio.sleep(1)
        rows = samples(registry(pool))
        assert {status: rows["aiopool_workers", "pool", status] for status in ("idle", "busy", "restarting")} == {
            "idle": 0,
            "busy": 0,
            "restarting": 1,
        }
        await asyncio.sleep(10)
        assert observe(pool).snapshot().workers == {"idle": 0, "busy": 0, "restarting": 0}
        await pool.map(nap, [1] * 3).collect()
        assert observe(pool).snapshot().workers == {"idle": 3, "busy": 0, "restarting": 0}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)")
def test_promtool_finds_nothing_to_improve():
    """Prometheus' own linter reads the scrape: names, suffixes, help texts."""

    async def main():
        async with Pool(2) as pool:
            observe(pool)
            found = registry(pool)
            found.register(SystemCollector())
            await pool.run(echo)
            return generate_latest(found)

    done = subprocess.run([PROMTOOL, "check", "metrics"], input=asyncio.run(main()), capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_describe_names_what_collect_gives():
    """So a registry refuses at once what would clash, without asking any pool."""
    collector = PoolCollector()
    assert [family.name for family in collector.describe()] == [family.name for family in collector.collect()]
    found = registry()
    with pytest.raises(ValueError, match="Duplicated"):
        found.register(PoolCollector())
    found.register(PoolCollector(namespace="other"))


@pytest.mark.parametrize("namespace", ["", "1x", "a b", "a-b", "a\n", "é", 'x"', "a:b"])
@pytest.mark.parametrize("collector", [PoolCollector, SystemCollector])
def test_a_namespace_is_a_word(collector, namespace):
    """What is none would spoil every line of the scrape: refused where it is written."""
    with pytest.raises(ValueError, match="namespace="):
        collector(namespace=namespace)


def test_only_pools_are_collected():
    """A collector refuses what is no pool."""
    with pytest.raises(TypeError, match=r"write PoolCollector\(pool\)"):
        PoolCollector([Pool()])


# -- several pools, several lives --------------------------------------------------------------------------------------


@virtual
async def test_pools_with_the_same_name_are_told_apart(isolation):
    """No series is there twice, whatever the pools are called; removed and dropped pools are gone."""
    names = ["mail", "mail", "mail-2", "mail\n", "mail\\x0a"]
    pools = [Pool(1, isolation=isolation, name=name) for name in names]
    collector = PoolCollector(*pools)
    collector.add(pools[0])
    found = CollectorRegistry()
    found.register(collector)
    sizes = lambda: {key[1] for key in samples(found) if key[0] == "aiopool_size"}  # noqa: E731
    assert sizes() == set()  # not opened yet
    for pool in pools:
        await pool.__aenter__()
    assert len(sizes()) == 5
    collector.remove(pools[1])
    assert len(sizes()) == 4
    for pool in pools:
        await pool.shutdown()
    assert len(sizes()) == 4  # a closed one keeps its last numbers
    del pool, pools
    gc.collect()
    assert sizes() == set()


@virtual(leaks=False)  # asyncio tells of the worker that goes with the pool
async def test_a_collector_keeps_no_pool_alive():
    """A pool that is dropped without being closed is noticed, with its warning, metrics or not."""
    found = CollectorRegistry()
    pool = Pool(1)
    found.register(PoolCollector(pool))
    await pool.__aenter__()
    await asyncio.sleep(0)
    with pytest.warns(ResourceWarning, match="dropped while it was open"):  # noqa: PT031
        del pool
        gc.collect()
    await asyncio.sleep(1)
    generate_latest(found)


# -- hostile names -----------------------------------------------------------------------------------------------------

HOSTILE = [
    'quote " and \\ backslash',
    "new\nline",
    'a"} 1\naiopool_forged{x="y',
    "carriage\r\nreturn",
    "\x1b[31mred\x1b[0m",
    "nul\0",
    "half \ud800",
    "line\u2028separator",
    "bidi \u202e",
    "x" * 1_000_000,
    "\n" * 1_000_000,
    "",
    "#",
    "emoji \N{PARTY POPPER}",
]


def test_hostile_names_are_harmless():
    """Whatever jobs and pools are called, the scrape parses, forges nothing, and stays small."""

    async def main():
        async with Pool(2, None, name='p"\n\x1b\ud800') as pool:
            found = registry(pool)
            for name in HOSTILE:
                await (await pool.with_options(name=name, group=name, id=name).submit(echo)).wait()
            text = generate_latest(found).decode()
            assert len(text) < 200_000
            rows = samples(found)
            assert not any("forged" in key[0] for key in rows)
            counts = {key[1]: value for key, value in rows.items() if key[0] == "aiopool_job_outcomes_total" and value}
            assert sum(counts.values()) == len(HOSTILE)
            assert all(len(name) <= 10 * MAX_LABEL and name.isprintable() for name in counts)
            if PROMTOOL is not None:
                done = subprocess.run([PROMTOOL, "check", "metrics"], input=text.encode(), capture_output=True)
                assert done.returncode == 0, done.stderr

    asyncio.run(main())


@given(st.text(st.characters(), max_size=200))
def test_labels_are_printable_whatever_the_text(text):
    """One line of printable, encodable characters; what was fine stays as it was."""
    label = label_text(text)
    assert label.isprintable()
    label.encode()
    if text.isprintable() and len(text) <= MAX_LABEL:
        assert label == text


@virtual
async def test_the_number_of_names_is_bounded(isolation):
    """A name for each job makes no series for each job; the rest are counted together, and nothing is lost."""
    async with Pool(4, None, isolation=isolation) as pool:
        found = registry(pool, max_names=10)
        for n in range(500):
            await pool.with_options(name=f"job {n}").submit(echo)
        await pool.join()
        jobs = observe(pool).snapshot().jobs
        assert len(jobs) == 11
        assert jobs[OTHER].succeeded == 490
        assert jobs[OTHER].run.count == jobs[OTHER].wait.count == 490
        before = len(samples(found))
        for n in range(500, 1000):
            await pool.with_options(name=f"job {n}").submit(echo)
        await pool.join()
        assert len(samples(found)) == before
        observe(pool, max_names=0)
        await pool.run(echo)
        assert set(observe(pool).snapshot().jobs) == {OTHER}


@virtual
async def test_the_number_of_priorities_is_bounded(isolation):
    """Any int is a priority; the best twenty have series of their own."""
    async with Pool(1, None, isolation=isolation) as pool:
        found = registry(pool)
        pool.submit_nowait(nap, 1)
        await asyncio.sleep(0.5)
        for priority in range(1000):
            pool.with_options(priority=priority * 1000).submit_nowait(echo)
        queued = {key: value for key, value in samples(found).items() if key[0] == "aiopool_jobs_queued_by_priority"}
        assert len(queued) == 21
        assert queued["aiopool_jobs_queued_by_priority", "pool", "other"] == 980
        assert sum(queued.values()) == 1000


# -- from other threads ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_scrape_in_a_thread_sees_one_moment():
    """While jobs come and go, every snapshot taken in another thread adds up."""
    seen, stop = [], threading.Event()

    def scrape(pool):
        while not stop.is_set():
            seen.append(observe(pool).snapshot())

    async def main():
        async with Pool(5, None, on_error=lambda job, error: None) as pool:
            observe(pool)
            thread = threading.Thread(target=scrape, args=(pool,))
            thread.start()
            try:
                until = time.monotonic() + 0.7
                while time.monotonic() < until or len(seen) < 20:
                    for n in range(50):
                        pool.with_options(priority=n % 5, name=f"n{n % 7}").submit_nowait(nap, 0.001 * (n % 3))
                    await asyncio.sleep(0.002)
            finally:
                stop.set()
                await asyncio.to_thread(thread.join)

    asyncio.run(main())
    for numbers in seen:
        assert_counters_balance(numbers.statistics)
        assert sum(numbers.queued.values()) == numbers.statistics.queued
        ended = sum(counts.succeeded for counts in numbers.jobs.values())
        assert ended == numbers.statistics.succeeded
        assert sum(counts.run.count for counts in numbers.jobs.values()) == ended
        assert sum(counts.wait.count for counts in numbers.jobs.values()) == ended + numbers.statistics.running


def test_a_scrape_of_a_blocked_loop_answers_and_says_so():
    """A loop that is held up does not answer; the scrape does, in bounded time, and shows the lag."""
    answers = []

    async def main():
        async with Pool(2) as pool:
            server, thread = start_http_server(0, addr="127.0.0.1", registry=registry(pool))
            try:

                def scrape():
                    began = time.monotonic()
                    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=20) as got:
                        answers.append((got.read().decode(), time.monotonic() - began))

                await asyncio.to_thread(scrape)
                scraper = threading.Thread(target=scrape)
                began = time.monotonic()
                scraper.start()
                while len(answers) < 2 and time.monotonic() < began + 10:
                    time.sleep(1)  # this is the loop's thread: nothing turns
                scraper.join()
                await asyncio.sleep(0)
                answers.append((generate_latest(registry(pool)).decode(), 0))
            finally:
                await asyncio.to_thread(server.shutdown)
                thread.join()
                server.server_close()

    asyncio.run(main())
    (calm, _), (blocked, seconds), (after, _) = answers
    assert seconds < 5
    assert "aiopool_size" in calm
    assert "aiopool_size" in blocked
    lag = next(float(line.split()[-1]) for line in after.splitlines() if line.startswith("aiopool_event_loop_lag"))
    assert lag > 0.4


def test_the_loop_lag_is_forgotten_after_a_while():
    """It is the worst of the last fifteen seconds."""
    from aiopool._runtime.loop_lag import LoopLag

    async def main():
        async with Pool(1) as pool:
            observe(pool)
            await asyncio.sleep(1)
            lag = pool._state.lag
            assert observe(pool).snapshot().loop_lag == 0
            lag._due -= 3  # the next call is three seconds late
            assert observe(pool).snapshot().loop_lag == pytest.approx(2.5)
            await asyncio.sleep(1)
            assert observe(pool).snapshot().loop_lag == pytest.approx(3)
            await asyncio.sleep(LoopLag.INTERVAL * LoopLag.SAMPLES)
            assert observe(pool).snapshot().loop_lag == 0

    run_virtual(main)


# -- several processes -------------------------------------------------------------------------------------------------

PROCESS = """
    import asyncio, os, sys, threading
    from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
    from aiopool import Pool
    from aiopool.instrumentation.prometheus import PoolCollector

    async def work(): ...

    async def main():
        async with Pool(2, name="web") as pool:
            registry = CollectorRegistry()
            registry.register(PoolCollector(pool))
            server, _ = start_http_server(0, addr="127.0.0.1", registry=registry)
            for _ in range(int(sys.argv[1])):
                await pool.run(work)
            write_to_textfile(sys.argv[2], registry)
            print(server.server_port, flush=True)
            await asyncio.to_thread(sys.stdin.read)

    asyncio.run(main())
"""


def test_several_processes_have_a_port_or_a_file_each(tmp_path):
    """The ways that the docs name for several processes, with prometheus_client's multiprocess mode on besides."""
    script = tmp_path / "process.py"
    script.write_text(textwrap.dedent(PROCESS))
    values = tmp_path / "values"
    values.mkdir()
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(values), "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(count), str(tmp_path / f"web-{count}.prom")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for count in (3, 4)
    ]
    try:
        total = 0
        for process in processes:
            port = int(process.stdout.readline())
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as got:
                rows = dict(line.rsplit(" ", 1) for line in got.read().decode().splitlines() if line[0] != "#")
            total += float(rows['aiopool_jobs_total{outcome="succeeded",pool="web"}'])
        assert total == 7
        texts = [(tmp_path / f"web-{count}.prom").read_text() for count in (3, 4)]
        assert 'aiopool_jobs_total{outcome="succeeded",pool="web"} 3.0' in texts[0]
        assert 'aiopool_jobs_total{outcome="succeeded",pool="web"} 4.0' in texts[1]
    finally:
        for process in processes:
            process.communicate(timeout=20)
    assert [process.returncode for process in processes] == [0, 0]


FORKING = """
    import asyncio, errno, os, sys
    from prometheus_client import CollectorRegistry, Counter, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector
    from aiopool import Pool
    from aiopool.instrumentation.prometheus import PoolCollector

    # What a server makes before it forks its workers.
    pool = Pool(2, name="web")
    registry = CollectorRegistry()
    registry.register(PoolCollector(pool))
    orders = Counter("orders", "The program's own, in the multiprocess mode.", registry=None)

    {recipe}

    async def work():
        orders.inc()

    async def worker(number):
        async with pool:
            server, thread = serve_metrics(registry, range({first}, {first} + 20))
            for _ in range(number):
                await pool.run(work)
            os.write(1, f"{server.server_port}\\n".encode())  # in one piece: three processes write
            await asyncio.to_thread(sys.stdin.read)
            server.shutdown()
            server.server_close()

    children = []
    for number in (3, 4, 5):
        if (child := os.fork()) == 0:
            asyncio.run(worker(number))
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    everybody = CollectorRegistry()
    MultiProcessCollector(everybody)
    print(everybody.get_sample_value("orders_total"), flush=True)
"""


def test_workers_that_are_forked_take_a_port_each(tmp_path):
    """The recipe of the docs, in three real forks, with the multiprocess mode on: together they are the whole."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "metrics.md").read_text()
    [recipe] = re.findall(r"^(?:@.*\n)?def serve_metrics.*?(?=^```)", page, re.MULTILINE | re.DOTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        first = min(free.getsockname()[1], 65_000)
    script = tmp_path / "forking.py"
    program = textwrap.dedent(FORKING).replace("{first}", str(first)).replace("{recipe}", recipe)
    script.write_text(program)
    values = tmp_path / "values"
    values.mkdir()
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(values), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-W", "error::DeprecationWarning", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        ports = {int(process.stdout.readline()) for _ in range(3)}
        counted = []
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as got:
                text = got.read().decode()
            rows = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
            counted.append(float(rows['aiopool_jobs_total{outcome="succeeded",pool="web"}']))
            assert float(rows['aiopool_job_run_seconds_count{name="work",pool="web"}']) == counted[-1]
            assert "orders" not in text
        output, _ = process.communicate(timeout=30)
    assert len(ports) == 3
    assert sorted(counted) == [3, 4, 5]
    assert process.returncode == 0
    assert output.split() == ["12.0"]


# -- the machine -------------------------------------------------------------------------------------------------------


def test_the_machine_in_numbers(tmp_path):
    """CPU, memory, disk, network, load: what psutil says, and what it does not say is left out."""
    found = CollectorRegistry(auto_describe=True)
    found.register(SystemCollector(disks=[str(tmp_path), "/nowhere"]))
    rows = samples(found)
    assert rows["aiopool_system_cpus",] == psutil.cpu_count()
    assert rows["aiopool_system_memory_bytes", "total"] == psutil.virtual_memory().total
    assert rows["aiopool_system_disk_bytes", str(tmp_path), "total"] == psutil.disk_usage(tmp_path).total
    assert not any("/nowhere" in key for key in rows)
    assert 0 < rows["aiopool_system_cpu_seconds_total", "user"] <= psutil.cpu_times().user
    assert rows["aiopool_system_network_bytes_total", "sent"] <= psutil.net_io_counters().bytes_sent
    assert rows["aiopool_system_load", "1"] >= 0
    # Nothing but these: what a guest of this machine used is in `user` already, and would be counted twice.
    of = {name: {key[1:] for key in rows if key[0] == f"aiopool_system_{name}"} for name in ("load", "memory_bytes")}
    assert of == {"load": {("1",), ("5",), ("15",)}, "memory_bytes": {("total",), ("available",), ("used",)}}
    assert rows["aiopool_system_swap_bytes", "total"] == psutil.swap_memory().total
    assert {key[1] for key in rows if key[0] == "aiopool_system_network_bytes_total"} == {"sent", "received"}
    assert rows["aiopool_system_network_bytes_total", "received"] <= psutil.net_io_counters().bytes_recv
    modes = {key[1] for key in rows if key[0] == "aiopool_system_cpu_seconds_total"}
    assert modes == {mode for mode in psutil.cpu_times()._fields if not mode.startswith("guest")}


def test_a_machine_that_refuses_to_tell_breaks_no_scrape(monkeypatch):
    """A container may refuse one part: the others are there."""

    def refuse(*args):
        raise PermissionError("/proc")

    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    found = CollectorRegistry()
    found.register(SystemCollector())
    names = {key[0] for key in samples(found)}
    assert "aiopool_system_memory_bytes" not in names
    assert "aiopool_system_load" in names


def test_importing_aiopool_imports_no_tool():
    """`import aiopool` loads neither prometheus_client nor psutil, structlog nor OpenTelemetry."""
    source = "import aiopool, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout.split()
    for name in ("prometheus_client", "psutil", "structlog", "opentelemetry", "pydantic"):
        assert name not in loaded


@virtual
async def test_the_longest_wait_and_the_longest_queue_stay_known(isolation):
    """When the wait is over and the queue is empty; a delay is no wait; with the next opening they begin anew."""
    pool = Pool(1, isolation=isolation)
    metrics = observe(pool)
    async with pool:
        await pool.submit(nap, 5)
        await settle()
        for _ in range(3):
            await pool.submit(nap, 1)
        await pool.with_options(delay=100).submit(nap, 1)
        await pool.join()
        await pool.run(nap, 1)
        found = metrics.snapshot()
        assert (found.longest_wait, found.longest_queue, found.oldest_wait) == (7, 3, 0)
    async with pool:
        found = metrics.snapshot()
        assert (found.longest_wait, found.longest_queue) == (0, 0)
