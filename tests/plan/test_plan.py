"""The simulation of a fleet: the same seed gives the same report, what saturates is found, nothing is lost."""

import dataclasses
import json
import subprocess
import sys

import pytest

from aiopool._plan.costs import COSTS, EngineCosts
from aiopool._plan.load import drawn, from_lines
from aiopool._plan.simulate import Partition, Report, Scenario, simulate
from aiopool._plan.sweep import series, sweep


def costs(store: str = "redis", **changes: object) -> EngineCosts:
    return dataclasses.replace(COSTS[store], **changes)  # type: ignore[arg-type]


def run(
    rate: float = 50, seconds: float = 4, mean: float = 0.05, engine: EngineCosts | None = None, **options
) -> Report:
    limits = options.get("limits", {})
    jobs = drawn(rate, seconds, mean=mean, spread=0.5, limits=tuple(limits), seed=3)
    return simulate(Scenario(engine or costs(), jobs, seconds, **options))


def slower(engine: EngineCosts, factor: float) -> EngineCosts:
    """The same engine, all of whose verbs take so many times as long."""
    verbs = {
        name: dataclasses.replace(verb, call=verb.call * factor, row=verb.row * factor)
        for name in ("submit", "claim", "settle", "empty", "sweep")
        for verb in [getattr(engine, name)]
    }
    return dataclasses.replace(engine, **verbs)


@pytest.mark.parametrize("store", sorted(COSTS))
def test_every_job_ends_once_where_nothing_is_short(store):
    """A fleet with room for its load ends every job, once, and saturates nothing."""
    report = run(engine=costs(store), hosts=3)
    assert report.finished == report.submitted > 100
    assert (report.lost, report.left, report.reruns, report.saturated) == (0, 0, 0, None)


def test_same_seed_same_report():
    """A scenario with crashes is the same each time it is simulated, and another one with another seed."""
    again = [run(hosts=3, crashes_per_hour=3600, seed=seed) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_too_few_slots_are_what_saturates():
    """With more work than slots, the slots are named, and jobs wait longer than they run."""
    report = run(rate=100, mean=0.1, hosts=1, size=4)
    assert report.saturated == "slots"
    assert report.waits[0] > 0.1


def test_a_slow_engine_is_what_saturates():
    """With an engine that is too slow for the load, the engine is named, though slots are free."""
    report = run(rate=300, seconds=3, engine=slower(costs(), 60), hosts=4, size=20)
    assert report.saturated in ("engine", "claim contention")
    assert report.used["slots"] < 0.9


def test_many_hosts_that_find_nothing_are_claim_contention():
    """When most of the engine's time goes into claims that find nothing, that is what is said."""
    report = run(rate=60, seconds=3, engine=slower(costs(hint=0.0), 12), hosts=40, size=2)
    assert report.saturated == "claim contention"
    assert report.empty > 0.5


def test_connections_are_counted():
    """A fleet that needs more connections than the engine has is told so."""
    report = run(rate=5, seconds=1, engine=costs("postgresql", max_connections=20), hosts=6)
    assert report.saturated == "connections"


def test_a_limit_is_what_holds_back():
    """Jobs under a limit of the fleet never run more at once, and the limit is named as what holds them back."""
    report = run(rate=60, mean=0.1, hosts=2, size=20, limits={"api": 2})
    assert report.saturated == "limits"
    assert report.throughput <= 2 / 0.1 * 1.1


@pytest.mark.parametrize("store", sorted(COSTS))
def test_a_crash_delays_and_loses_nothing(store):
    """Processes that are killed make jobs run again, later; every job ends."""
    engine = costs(store, lease=1.0 if COSTS[store].lease else None)
    report = run(rate=60, seconds=6, mean=0.3, engine=engine, hosts=4, size=10, crashes_per_hour=3600, seed=5)
    assert report.crashes > 0
    assert report.rescued > 0
    assert report.reruns > 0
    assert (report.finished, report.left, report.lost) == (report.submitted, 0, 0)
    calm = run(rate=60, seconds=6, mean=0.3, engine=engine, hosts=4, size=10, seed=5)
    assert report.throughput <= calm.throughput


@pytest.mark.parametrize("seconds", [0.5, 4.0])
def test_a_partition_loses_nothing(seconds):
    """Hosts that are cut off, for less or more than their lease, come back, and every job ends."""
    report = run(rate=40, seconds=6, engine=costs(lease=1.5), hosts=3, partitions=[Partition(2, 1.0, seconds)])
    assert report.lost_leases == (2 if seconds > 1.5 else 0)
    assert (report.finished, report.left, report.lost) == (report.submitted, 0, 0)


def test_a_slow_disk_makes_jobs_wait():
    """Where commits wait for the disk, a slower one makes each job wait at least for one commit more."""
    quick, slow = run(engine=costs("sqlite"), hosts=2), run(engine=costs("sqlite"), hosts=2, slow_disk=0.01)
    assert slow.waits[0] > quick.waits[0] + 0.01


def test_a_sweep_finds_where_it_begins_and_ends():
    """A sweep finds with how many hosts it keeps up, and from how many on something saturates."""
    plain = run(rate=5, seconds=1)

    def simulated(hosts: int) -> Report:
        what = "slots" if hosts < 4 else None if hosts < 60 else "engine"
        return dataclasses.replace(plain, hosts=hosts, saturated=what)

    found = sweep(simulated, 1, 1000)
    assert (found.enough, found.what) == (5, "engine")
    assert found.last_good is not None
    assert found.first is not None
    assert found.last_good < 60 <= found.first <= found.last_good * 1.2
    assert sweep(lambda hosts: dataclasses.replace(plain, saturated="slots"), 1, 2).enough is None


def test_a_series_has_both_ends():
    """The numbers of hosts begin and end where they are told to."""
    assert list(series(1, 20)) == [1, 2, 5, 10, 20]
    assert list(series(3, 30)) == [3, 5, 10, 20, 30]
    assert list(series(7, 7)) == [7]


def test_a_trace_is_read():
    """Lines with moments, or with those of jobs of a store, become arrivals from 0 on, in order."""
    lines = [
        json.dumps({"created_at": 105.0, "started_at": 106.0, "finished_at": 106.5}),
        "",
        json.dumps({"at": 104.0, "seconds": 2, "limit": "api"}),
    ]
    assert from_lines(lines) == [(0.0, 2.0, "api"), (1.0, 0.5, None)]
    with pytest.raises(ValueError, match="line 1"):
        from_lines(['{"at": "soon"}'])


def aiopool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aiopool", "plan", *words], capture_output=True, text=True, timeout=100, check=False
    )


def test_the_command_prints_a_table_and_a_verdict(tmp_path):
    """`aiopool plan` prints a line for each number of hosts, and what saturates; with --json the same as data."""
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps({"at": n / 20, "seconds": 0.2}) + "\n" for n in range(60)))
    words = ("--store", "redis", "--trace", str(trace), "--hosts", "1..3", "--size", "2")
    shown = aiopool(*words)
    assert shown.returncode == 0, shown.stderr
    assert "slots" in shown.stdout
    assert "It keeps up from 3 hosts on." in shown.stdout
    rows = [json.loads(line) for line in aiopool(*words, "--json").stdout.splitlines()]
    assert rows[0]["saturated"] == "slots"
    assert rows[-1] == {"enough": 3, "saturates_at": None, "what": None}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--store", "nfs", "--rate", "1", "--seconds", "1"), "there are costs of"),
        (("--store", "redis"), "--trace FILE, or --rate"),
        (("--store", "redis", "--rate", "fast", "--seconds", "1"), "--rate fast"),
        (("--store", "redis", "--rate", "5", "--seconds", "1", "--hosts", "9..1"), "--hosts 9..1"),
        (("--store", "redis", "--rate", "5", "--seconds", "1", "--limit", "api"), "--limit api"),
        (("--store", "redis", "--rate", "5", "--seconds", "1", "--partition", "3"), "--partition 3"),
    ],
)
def test_the_command_says_what_to_write_instead(words, said):
    """A wrong option is refused in one line that says what to write."""
    refused = aiopool(*words)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.long
@pytest.mark.parametrize("hosts", [1, 2])
def test_the_simulation_is_held_against_real_processes(hosts):
    """`python -m benchmarks.plan_check` runs both, and compares them; how near they come is measured, not tested."""
    from benchmarks.plan_check import check

    row = check(hosts, "full", 2.0)
    assert row["real"]["throughput"] > 0
    assert row["throughput"] > -1
