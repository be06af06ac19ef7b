"""`PoolInspector`: a look at a pool as a whole, from any thread. It makes the frozen `Metrics` and the `HealthReport`.

It only reads. What it needs is counted where it happens; here it is put together.

It comes with the first who measures or asks, and with it all of metrics and health.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar, final

from aiopool._engine.engine import Engine
from aiopool._jobs.statistics import Statistics
from aiopool._jobs.status import PoolStatus
from aiopool._observe.health import (
    Finding,
    HealthLimits,
    HealthReport,
    HealthStatus,
    Sample,
    compare,
    report,
    run_checks,
)
from aiopool._pool.health_history import HealthHistory
from aiopool._pool.state import PoolState

if TYPE_CHECKING:  # it comes with whoever measures: a probe of health must not load it
    from aiopool._observe.metrics import Metrics

__all__ = ["PoolInspector", "oldest_wait"]

T = TypeVar("T")


@final
class PoolInspector:
    """One pool, looked at."""

    __slots__ = ("_state",)

    def __init__(self, home: PoolState) -> None:
        self._state = home

    def measure(
        self,
        *,
        wait_buckets: Sequence[float] | None = None,
        run_buckets: Sequence[float] | None = None,
        max_names: int | None = None,
    ) -> None:
        """Count and time jobs from now on; see `Pool.measure`."""
        from aiopool._observe.metrics import MetricsRecorder

        home = self._state
        wanted = {"wait_buckets": wait_buckets, "run_buckets": run_buckets, "max_names": max_names}
        home.measure(MetricsRecorder.like(home.observers.recorder, **wanted))

    def metrics(self, statistics: Callable[[], Statistics]) -> Metrics:
        """Return the metrics of a pool that was opened, consistent: all of one moment between two steps of the loop."""
        home, engine = self._state, self._state.engine
        assert engine is not None
        return engine.runtime.read(lambda: _metrics(home, engine, statistics()))

    def health(self, watch: HealthHistory) -> HealthReport:
        """Return how a pool is; the user's own checks run in the caller's thread."""
        home, engine = self._state, self._state.engine
        findings: list[Finding] = []
        if home.failure is not None:
            findings.append(Finding("given_up", HealthStatus.FAILING, str(home.failure)))
        elif home.status is not PoolStatus.OPEN:
            findings.append(Finding("state", HealthStatus.FAILING, f"the pool is {home.status}: it takes no jobs"))
        if engine is not None and home.status is not PoolStatus.CLOSED:
            home.measure_loop()
            limits = watch.limits or HealthLimits()
            findings += engine.runtime.read(
                lambda: compare(_pulse(home, engine), watch.pulses, watch.opened_at, limits)
            )
        return report(home.name, findings + run_checks(watch.checks, home.hooks))


def _metrics(home: PoolState, engine: Engine, statistics: Statistics) -> Metrics:
    from aiopool._observe.metrics import Metrics, label_text

    assert home.supervisor is not None
    meter, lag = home.observers.recorder, home.lag
    workers = home.supervisor.workers()
    busy = sum(worker.busy for worker in workers)
    return Metrics(
        pool=label_text(home.name),
        statistics=statistics,
        queued=queued_by_priority(engine),
        oldest_wait=oldest_wait(engine),
        workers={"idle": len(workers) - busy, "busy": busy, "restarting": home.supervisor.restarting},
        queue_size=0.0 if engine.admission.closed else engine.admission.capacity,
        paused=engine.slots.paused,
        leaked_total=engine.counters.leaked_total,
        loop_lag=0.0 if lag is None else lag.worst(),
        jobs={} if meter is None else meter.jobs(),
    )


def _pulse(home: PoolState, engine: Engine) -> Sample:
    assert home.supervisor is not None
    counters, now = engine.counters, engine.now()
    # Jobs that hold a slot: one that waits for another has lent its own.
    began = [
        worker.job._started_at
        for worker in home.supervisor.busy()
        if worker.job is not None and not (worker.job._extra is not None and worker.job._extra.lent)
    ]
    bad = counters.failed + counters.timed_out
    return Sample(
        at=now,
        ended=counters.succeeded + bad,
        bad=bad,
        restarts=counters.restarts,
        backlog=engine.queued() + len(engine.admission.waiting),
        oldest_wait=oldest_wait(engine),
        size=engine.slots.size,
        busy=engine.slots.active,
        leaked=engine.leaked,
        leaks_hold=engine.leaked > engine.slots.replaced,
        youngest_run=now - max(began, default=now),
        loop_lag=0.0 if home.lag is None else home.lag.worst(),
        paused=engine.slots.paused,
    )


def queued_by_priority(engine: Engine) -> dict[int, int]:
    """Count the jobs that wait for a worker by their priorities."""
    counts = engine.queue.counts()
    for label in engine.groups:
        for priority, count in label.parked.counts().items() if label.parked is not None else ():
            counts[priority] = counts.get(priority, 0) + count
    return counts


def oldest_wait(engine: Engine) -> float:
    """Return for how many seconds the oldest job in the queue could have started."""
    job = engine.queue.oldest()
    if job is None:
        return 0.0
    waited: float = engine.now() - job._submitted_at - job._first_delay
    return max(0.0, waited)
