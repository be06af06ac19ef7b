"""The numbers of a worker for Prometheus.

    REGISTRY.register(WorkerCollector(worker))

What its pool does, `aiopool.instrumentation.prometheus` exports; this is what the orchestrator and the worker do with
each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aiopool._runtime.public import publish
from aiopool.avtomatika._counts import BUCKETS, Durations
from aiopool.avtomatika._worker import Worker

__all__ = ["WorkerCollector"]

_BY: Final = (
    ("polls", "Polls for a task, by how they ended.", "outcome"),
    ("results", "Results that were sent, by what became of them; again: an attempt that failed.", "outcome"),
    ("rate_limited", "Calls that the orchestrator answered with 429, by kind.", "call"),
)


@final
class WorkerCollector(Collector):
    """Exports a worker to Prometheus: its tasks by name and status, how long they took, and how it gets on with its
    orchestrator.

    Args:
        worker: whose numbers.
        namespace: the first word of every name. `"worker"` gives `worker_tasks_total{task_type,status}` and
            `worker_task_duration_seconds`.

    Example:
        REGISTRY.register(WorkerCollector(worker))
    """

    def __init__(self, worker: Worker, *, namespace: str = "worker") -> None:
        if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", namespace, re.ASCII):
            raise ValueError(f"namespace={namespace!r}: it must be a word of letters, digits and underscores")
        self._worker = worker
        self._namespace = namespace

    def describe(self) -> Iterable[Metric]:
        """Name what `collect` gives."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Read the numbers; called by `prometheus_client` for each scrape."""
        first, counts = self._namespace, self._worker.counts
        tasks = CounterMetricFamily(f"{first}_tasks", "Tasks that have ended.", labels=["task_type", "status"])
        for (name, status), count in counts.tasks.copy().items():
            tasks.add_metric([name, status], count)
        yield tasks
        durations = HistogramMetricFamily(
            f"{first}_task_duration_seconds", "From the start of a task to its result.", labels=["task_type"]
        )
        for name, histogram in counts.durations.copy().items():
            durations.add_metric([name], list(_buckets(histogram)), histogram.sum)
        yield durations
        for name, about, label in _BY:
            family = CounterMetricFamily(f"{first}_{name}", about, labels=[label])
            for value, count in getattr(counts, name).copy().items():
                family.add_metric([value], count)
            yield family
        for name, about, value in (
            ("tasks_received", "Tasks that came from the orchestrator.", counts.received),
            ("registrations", "How often the worker has registered.", counts.registrations),
            ("cancels", "Tasks that the orchestrator cancelled here.", counts.cancels),
        ):
            yield CounterMetricFamily(f"{first}_{name}", about, value=value)
        for name, about, value in (
            ("tasks_held", "Tasks that were fetched and have not ended.", self._worker.held_tasks),
            ("results_kept", "Results that the orchestrator has not got yet.", self._worker.kept_results),
            ("commands_connected", "1 while the channel of commands is open.", int(counts.connected)),
        ):
            yield GaugeMetricFamily(f"{first}_{name}", about, value=value)


def _buckets(histogram: Durations) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip(BUCKETS, histogram.counts, strict=True):
        total += count
        yield ("+Inf" if bound == float("inf") else str(bound)), total


publish(globals())
