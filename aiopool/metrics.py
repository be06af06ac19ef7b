"""Metrics: what the jobs of a pool did, counted and timed by their names. Off until `observe(pool)` is called.

    from aiopool.metrics import observe

    metrics = observe(pool)
    ...
    slow = metrics.snapshot().jobs["fetch"].run.quantile(0.95)

For Prometheus and OpenTelemetry see `aiopool.instrumentation`. The plain counters of `pool.statistics()` are always on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from aiopool._engine.engine import Engine
from aiopool._jobs.options import check_count
from aiopool._jobs.statistics import Statistics
from aiopool._observe.metrics import HistogramCounts, JobMetrics, Metrics, MetricsRecorder, label_text
from aiopool._observe.store_numbers import StoreNumbers
from aiopool._pool.inspector import oldest_wait, queued_by_priority
from aiopool._pool.pool import Pool
from aiopool._pool.state import PoolState
from aiopool._runtime.public import publish

__all__ = ["HistogramCounts", "JobMetrics", "Metrics", "PoolMetrics", "StoreNumbers", "observe", "observed"]


def observe(
    pool: Pool,
    *,
    wait_buckets: Sequence[float] | None = None,
    run_buckets: Sequence[float] | None = None,
    max_names: int | None = None,
) -> PoolMetrics:
    """Count and time the jobs of a pool by their names from now on, and watch how late the event loop is.

    It costs each job a little. A second call changes nothing, unless it asks for something else: then counting begins
    anew. Counts begin at each opening of the pool. From any thread, before or after the pool opens.

    Args:
        pool: the pool.
        wait_buckets, run_buckets: upper bounds of the histograms, in seconds, rising; from 1 ms to 10 minutes by
            default.
        max_names: how many names are told apart, 100 by default; the rest are counted as `"other"`.

    Returns:
        What reads the numbers: `observe(pool).snapshot()`.

    Example:
        metrics = observe(pool, run_buckets=(0.1, 1, 10, 60))
    """
    if not isinstance(pool, Pool):
        raise TypeError(f"observe() takes a pool, not {pool!r} ({type(pool).__name__}): write observe(pool)")
    if max_names is not None:
        check_count("max_names", max_names)
    state = pool._state
    wanted = {"wait_buckets": wait_buckets, "run_buckets": run_buckets, "max_names": max_names}
    state.measure(MetricsRecorder.like(state.observers.recorder, **wanted))
    return PoolMetrics(pool)


def observed(pool: Pool) -> PoolMetrics | None:
    """Return what reads the numbers of a pool, if `observe(pool)` was called before; else None, and count nothing.

    Example:
        metrics = observed(pool)
        slow = {} if metrics is None else metrics.snapshot().jobs
    """
    return None if pool._state.observers.recorder is None else PoolMetrics(pool)


@final
class PoolMetrics:
    """The metrics of one pool; made by `observe(pool)`."""

    __slots__ = ("_pool",)

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def snapshot(self) -> Metrics:
        """Return the pool in numbers and histograms, of one moment, as a frozen record; from any thread.

        In another thread than the loop's it waits for the loop, for at most 50 ms.

        Raises:
            RuntimeError: the pool was never opened.
        """
        state = self._pool._state
        engine = state.engine
        if engine is None:
            raise state.not_open("snapshot")
        return engine.runtime.read(lambda: _snapshot(state, engine, self._pool.statistics()))


def _snapshot(state: PoolState, engine: Engine, statistics: Statistics) -> Metrics:
    assert state.supervisor is not None
    recorder, lag = state.observers.recorder, state.lag
    workers = state.supervisor.workers()
    busy = sum(worker.busy for worker in workers)
    return Metrics(
        pool=label_text(state.name),
        statistics=statistics,
        queued=queued_by_priority(engine),
        oldest_wait=oldest_wait(engine),
        workers={"idle": len(workers) - busy, "busy": busy, "restarting": state.supervisor.restarting},
        queue_size=0.0 if engine.admission.closed else engine.admission.capacity,
        paused=engine.slots.paused,
        leaked_total=engine.counters.leaked_total,
        loop_lag=0.0 if lag is None else lag.worst(),
        jobs={} if recorder is None else recorder.jobs(),
        longest_wait=0.0 if recorder is None else recorder.longest_wait,
        longest_queue=0 if recorder is None else recorder.longest_queue,
        store=None if state.durability is None else state.durability.numbers(),
    )


publish(globals())
