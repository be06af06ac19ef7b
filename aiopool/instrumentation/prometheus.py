"""Collectors for `prometheus_client`: they read a pool, and the machine, when they are scraped, and do nothing else.

`PoolCollector` needs no thread and no timer: a scrape takes a snapshot of each pool, all of one moment.
The sets of labels are bounded, whatever users call their jobs: at most `max_names` names of jobs and 20 priorities for
each pool; the rest is `"other"`.

`prometheus_client`'s multiprocess mode does not read collectors like these: give each process a port of its own (see
the how-to page on metrics).
"""

from __future__ import annotations

import contextlib
import math
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, final

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from aiopool import Pool
from aiopool.metrics import HistogramCounts, Metrics, StoreNumbers, observe

__all__ = ["PoolCollector", "SystemCollector"]

MetricFamily = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
F = TypeVar("F", CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily)

MAX_PRIORITIES = 20

# Read off the statistics of a pool: name, field, help.
_COUNTERS = (
    ("jobs_submitted", "submitted", "Jobs handed in, the rejected ones included."),
    ("jobs_dropped", "dropped", "Jobs that were pushed out of a full queue; among the cancelled ones."),
    ("retries", "retries", "Attempts after a first one."),
    ("jobs_recovered", "recovered", "Jobs that succeeded after a failed attempt."),
    ("jobs_not_recovered", "not_recovered", "Jobs that were tried again, and ended in another way."),
    ("worker_restarts", "restarts", "Workers that were replaced after a crash."),
)
_GAUGES = (
    ("jobs_running", "running", "Jobs that run."),
    ("jobs_queued", "queued", "Jobs that wait for a worker."),
    ("jobs_scheduled", "scheduled", "Jobs that wait for a moment: a delayed start, the next attempt."),
    ("jobs_leaked", "leaked", "Calls that go on although their job has ended."),
    ("submitters_waiting", "waiting", "Callers that wait in submit for room in the queue."),
    ("size", "size", "How many jobs may run at once."),
    ("slots_busy", "busy", "Slots taken, by running and by leaked jobs."),
    ("uptime_seconds", "uptime", "For how long the pool has been open, or was."),
    ("threads_busy", "threads_busy", "Threads that run a plain function."),
    ("threads_abandoned", "threads_abandoned", "Threads that still run although their job has ended."),
)
# Of a pool with a store: name, field, help.
_STORE_COUNTERS = (
    ("store_commits", "commits", "Batches that were written to the store."),
    ("store_rows", "rows", "Submissions and ends of jobs in these batches."),
    ("store_claims", "claims", "How often the store was asked for jobs."),
    ("store_claimed", "claimed", "Jobs that it gave."),
    ("store_lost", "lost", "Ends of jobs that did not count: the lease was lost."),
    ("store_rescued", "rescued", "Jobs of dead processes that were put back into the queue."),
    ("store_dead", "dead", "Jobs that were given up, for their workers died too often."),
)
_STORE_GAUGES = (
    ("store_waiting", "waiting", "Submissions and ends of jobs that are not written yet."),
    ("store_leases", "leases", "Jobs of the store that run here."),
    ("store_outage_seconds", "outage", "For how long the store has not answered; 0: it answers."),
)
_OUTCOMES = ("succeeded", "failed", "timed_out", "cancelled")


@final
class PoolCollector(Collector):
    """Exports pools to Prometheus. Register it once, with as many pools as there are; `add` more at any time.

    Adding a pool calls `aiopool.metrics.observe`. A pool that was never opened has no series; one that is closed keeps
    its last counts; one that is gone is gone. Counters begin anew when a pool is opened again, as after a restart of
    the program: `rate()` and `increase()` know that.

    Args:
        pools: pools, open or not. Two with the same name are told apart by a number: `mail`, `mail-2`.
        namespace: the first word of every name.
        wait_buckets, run_buckets, max_names: as in `aiopool.metrics.observe`.

    Raises:
        ValueError: the namespace is no word.

    Example:
        from prometheus_client import REGISTRY, start_http_server

        REGISTRY.register(PoolCollector(pool))
        start_http_server(9100)
    """

    def __init__(
        self,
        *pools: Pool,
        namespace: str = "aiopool",
        wait_buckets: Sequence[float] | None = None,
        run_buckets: Sequence[float] | None = None,
        max_names: int | None = None,
    ) -> None:
        self._namespace = _check_namespace(namespace)
        self._measure: dict[str, Any] = {
            "wait_buckets": wait_buckets,
            "run_buckets": run_buckets,
            "max_names": max_names,
        }
        # Weakly: a pool that is dropped without being closed must be noticed, metrics or not.
        self._pools: tuple[weakref.ref[Pool], ...] = ()
        for pool in pools:
            self.add(pool)

    def add(self, pool: Pool) -> None:
        """Export one more pool; a pool that is exported already is not exported twice."""
        if not isinstance(pool, Pool):
            raise TypeError(
                f"PoolCollector takes pools, not {pool!r} ({type(pool).__name__}): write PoolCollector(pool)"
            )
        observe(pool, **self._measure)
        self._pools = (*(ref for ref in self._pools if ref() not in (None, pool)), weakref.ref(pool))

    def remove(self, pool: Pool) -> None:
        """Export a pool no more; its series end."""
        self._pools = tuple(ref for ref in self._pools if ref() not in (None, pool))

    def describe(self) -> Iterable[MetricFamily]:
        """Name what `collect` gives, so that a registry sees at once if two have the same names."""
        return self._families()

    def collect(self) -> Iterator[MetricFamily]:
        """Read all pools; called by `prometheus_client` for each scrape."""
        families = self._families()
        names: set[str] = set()
        for ref in self._pools:
            pool = ref()
            if pool is not None and pool.status != "new":
                metrics = observe(pool).snapshot()
                name, number = metrics.pool, 2
                while name in names:
                    name, number = f"{metrics.pool}-{number}", number + 1
                names.add(name)
                families.read(name, metrics)
        yield from families

    def _families(self) -> _Families:
        return _Families(self._namespace)


class _Families:
    """The metrics of all pools, as one scrape has them."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._all: dict[str, MetricFamily] = {}
        for name, _, about in _COUNTERS:
            self._counter(name, about)
        for name, _, about in _GAUGES:
            self._gauge(name, about)
        self._jobs = self._counter("jobs", "Jobs that have ended, by outcome.", "outcome")
        self._leaks = self._counter("leaks", "Jobs whose code did not end within its grace.")
        self._priorities = self._gauge(
            "jobs_queued_by_priority", "Jobs that wait for a worker, by priority; lower goes first.", "priority"
        )
        self._queue_size = self._gauge("queue_size", "How many jobs may wait for a worker; +Inf: any number.")
        self._paused = self._gauge("paused", "1 while no job may start.")
        self._workers = self._gauge("workers", "Workers by what they do.", "status")
        self._wait = self._gauge("oldest_wait_seconds", "For how long the oldest job in the queue has been waiting.")
        self._longest_wait = self._gauge("longest_wait_seconds", "For how long a job waited at most, until it started.")
        self._longest_queue = self._gauge("longest_queue", "How many jobs waited at most, as seen at submissions.")
        self._lag = self._gauge("event_loop_lag_seconds", "By how much the loop was late, at worst of the last 15 s.")
        self._by_name = self._counter("job_outcomes", "Jobs that have ended, by name and outcome.", "name", "outcome")
        self._retries = self._counter("job_retries", "Attempts after a first one, by name.", "name")
        self._waits = self._histogram("job_wait_seconds", "From when a job could have started to its first start.")
        self._runs = self._histogram("job_run_seconds", "How long each attempt ran.")
        for name, _, about in _STORE_COUNTERS:
            self._counter(name, about)
        for name, _, about in _STORE_GAUGES:
            self._gauge(name, about)
        self._stored = self._gauge("store_jobs", "Jobs in the store, of the whole fleet, by status.", "status")
        self._oldest = self._gauge("store_oldest_seconds", "For how long the oldest job in the store has been queued.")
        self._hosts = self._gauge("store_workers", "Processes of the fleet that run jobs.")

    def __iter__(self) -> Iterator[MetricFamily]:
        return iter(self._all.values())

    def _add(self, family: F) -> F:
        self._all[family.name] = family
        return family

    def _counter(self, name: str, about: str, *labels: str) -> CounterMetricFamily:
        return self._add(CounterMetricFamily(f"{self._namespace}_{name}", about, labels=["pool", *labels]))

    def _gauge(self, name: str, about: str, *labels: str) -> GaugeMetricFamily:
        return self._add(GaugeMetricFamily(f"{self._namespace}_{name}", about, labels=["pool", *labels]))

    def _histogram(self, name: str, about: str) -> HistogramMetricFamily:
        return self._add(HistogramMetricFamily(f"{self._namespace}_{name}", about, labels=["pool", "name"]))

    def read(self, pool: str, metrics: Metrics) -> None:
        """Write down one pool, under a name that no other has."""
        numbers = metrics.statistics
        for name, field, _ in (*_COUNTERS, *_GAUGES):
            family = self._all[f"{self._namespace}_{name}"]
            assert not isinstance(family, HistogramMetricFamily)
            family.add_metric([pool], getattr(numbers, field))
        for outcome in (*_OUTCOMES, "rejected"):
            self._jobs.add_metric([pool, outcome], getattr(numbers, outcome))
        self._leaks.add_metric([pool], metrics.leaked_total)
        for priority, count in _bounded(metrics.queued):
            self._priorities.add_metric([pool, priority], count)
        self._queue_size.add_metric([pool], metrics.queue_size)
        self._paused.add_metric([pool], metrics.paused)
        for status, count in metrics.workers.items():
            self._workers.add_metric([pool, status], count)
        self._wait.add_metric([pool], metrics.oldest_wait)
        self._longest_wait.add_metric([pool], metrics.longest_wait)
        self._longest_queue.add_metric([pool], metrics.longest_queue)
        self._lag.add_metric([pool], metrics.loop_lag)
        for job, counts in metrics.jobs.items():
            for outcome in _OUTCOMES:
                self._by_name.add_metric([pool, job, outcome], getattr(counts, outcome))
            self._retries.add_metric([pool, job], counts.retries)
            self._waits.add_metric([pool, job], _buckets(counts.wait), counts.wait.sum)
            self._runs.add_metric([pool, job], _buckets(counts.run), counts.run.sum)
        if metrics.store is not None:
            self._read_store(pool, metrics.store)

    def _read_store(self, pool: str, numbers: StoreNumbers) -> None:
        for name, field, _ in (*_STORE_COUNTERS, *_STORE_GAUGES):
            family = self._all[f"{self._namespace}_{name}"]
            assert not isinstance(family, HistogramMetricFamily)
            family.add_metric([pool], getattr(numbers, field))
        if numbers.fleet is not None:
            for status, count in (*numbers.fleet.live.items(), *numbers.fleet.ended.items()):
                self._stored.add_metric([pool, status.value], count)
            self._oldest.add_metric([pool], numbers.fleet.oldest or 0.0)
            self._hosts.add_metric([pool], len(numbers.fleet.workers))


def _check_namespace(namespace: str) -> str:
    """Return the first word of every name, checked: some scrapers would refuse the whole answer for another one."""
    if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", namespace, re.ASCII):
        raise ValueError(
            f"namespace={namespace!r}: it must be a word of letters, digits and underscores, such as 'shop_aiopool'"
        )
    return namespace


def _buckets(counts: HistogramCounts) -> list[tuple[str, float]]:
    return [("+Inf" if bound == math.inf else str(bound), count) for bound, count in counts.buckets]


def _bounded(queued: Mapping[int, int]) -> Iterator[tuple[str, int]]:
    """Return how many wait with each priority, the best first; those beyond a bound together, as `other`."""
    rows = sorted(queued.items())
    yield from ((str(priority), count) for priority, count in rows[:MAX_PRIORITIES])
    if rest := rows[MAX_PRIORITIES:]:
        yield "other", sum(count for _, count in rest)


@final
class SystemCollector(Collector):
    """Exports the machine to Prometheus: CPU, memory, disks, network, load; what the system does not tell is left out.

    In a container these are the numbers of the host, but for the disks. For the process itself `prometheus_client`
    has a collector, which its default registry holds.

    Args:
        namespace: the first word of every name.
        disks: paths; the file system of each is exported.

    Example:
        REGISTRY.register(SystemCollector(disks=["/", "/var/lib/spool"]))
    """

    def __init__(self, *, namespace: str = "aiopool_system", disks: Sequence[str] = ("/",)) -> None:
        self._namespace = _check_namespace(namespace)
        self._disks = tuple(disks)

    def describe(self) -> Iterable[MetricFamily]:
        """Name what `collect` gives."""
        return self.collect()

    def collect(self) -> Iterator[MetricFamily]:
        """Ask the system; called by `prometheus_client` for each scrape."""
        # A container or a missing /proc file may refuse one of these; the others are still worth having.
        for part in (self._cpu, self._memory, self._disk, self._network, self._load):
            with contextlib.suppress(psutil.Error, OSError, AttributeError, NotImplementedError):
                yield from part()

    def _gauge(self, name: str, about: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"{self._namespace}_{name}", about, labels=labels)

    def _cpu(self) -> list[MetricFamily]:
        seconds = CounterMetricFamily(
            f"{self._namespace}_cpu_seconds", "Seconds of all CPUs, by what they did.", labels=["mode"]
        )
        for mode, value in psutil.cpu_times()._asdict().items():
            if not mode.startswith("guest"):  # counted in user and nice already
                seconds.add_metric([mode], value)
        count = self._gauge("cpus", "How many CPUs there are.")
        count.add_metric([], psutil.cpu_count() or 1)
        return [seconds, count]

    def _memory(self) -> list[MetricFamily]:
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        size = self._gauge("memory_bytes", "Main memory.", "state")
        for state in ("total", "available", "used"):
            size.add_metric([state], getattr(memory, state))
        swapped = self._gauge("swap_bytes", "Swap space.", "state")
        for state in ("total", "used"):
            swapped.add_metric([state], getattr(swap, state))
        return [size, swapped]

    def _disk(self) -> list[MetricFamily]:
        size = self._gauge("disk_bytes", "The file system at a path.", "path", "state")
        for path in self._disks:
            with contextlib.suppress(OSError):  # not mounted at the moment
                usage = psutil.disk_usage(path)
                for state in ("total", "free", "used"):
                    size.add_metric([path, state], getattr(usage, state))
        return [size]

    def _network(self) -> list[MetricFamily]:
        total = CounterMetricFamily(
            f"{self._namespace}_network_bytes", "Bytes over all network interfaces.", labels=["direction"]
        )
        counters = psutil.net_io_counters()
        if counters is not None:
            total.add_metric(["sent"], counters.bytes_sent)
            total.add_metric(["received"], counters.bytes_recv)
        return [total]

    def _load(self) -> list[MetricFamily]:
        load = self._gauge("load", "Tasks that run or want to, on average of so many minutes.", "minutes")
        for minutes, value in zip(("1", "5", "15"), psutil.getloadavg(), strict=True):
            load.add_metric([minutes], value)
        return [load]
