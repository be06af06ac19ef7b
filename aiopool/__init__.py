"""A supervised pool of coroutine workers for asyncio.

General layout, from the ground up; a room imports only rooms above it in this list:

    errors             the tree of exceptions
    _runtime           the ground: loop, tasks, threads, timers, signals; knows no job
    _jobs              what a job is: status, options, retry, stop, outcome; knows no pool
    events, _observe   who is told: events, logs, metrics, health
    _engine            how jobs are queued and run: queue, slots, engine, workers, supervisor
    _pool              what users hold: pool, views, groups, maps, shutdown
    settings, services values from files and the environment; helper processes
    _program           a whole program: `run`
    aiopool            this face, which only re-exports
    testing, instrumentation, pytest_plugin, cli: they use the face, as programs do

Read `_jobs/job.py`, `_engine/queue.py`, `_engine/engine.py`, `_engine/worker.py`, `_engine/supervisor.py` and
`_pool/pool.py`, and you know the machine. `docs/project/architecture.md` has the picture.
"""

import importlib as _importlib
import typing as _typing

from aiopool import from_thread as from_thread
from aiopool._engine.queue import JobQueue
from aiopool._jobs.job import AttemptRecord, Job, JobResult, current_job
from aiopool._jobs.options import JobOptions, Priority, job
from aiopool._jobs.restart import Restart
from aiopool._jobs.retry import Retry, RetryAfter
from aiopool._jobs.retry_budget import RetryBudget
from aiopool._jobs.statistics import Statistics
from aiopool._jobs.status import JobStatus, PoolStatus, WorkerStatus
from aiopool._observe.observers import Tracer
from aiopool._pool.group import Group
from aiopool._pool.map import MapResult, MapStream
from aiopool._pool.pool import CancelReport, Pool
from aiopool._pool.shutdown import LeakedJob, ShutdownReport
from aiopool._pool.submitter import Submitter
from aiopool.errors import (
    JobCancelledError,
    JobDroppedError,
    JobError,
    JobPendingError,
    JobTimeoutError,
    PoolClosedError,
    PoolError,
    QueueFullError,
    RestartLimitError,
    SettingsError,
)

if _typing.TYPE_CHECKING:
    from aiopool import events as events
    from aiopool._observe.health import Finding, HealthLimits, HealthReport, HealthStatus
    from aiopool._observe.logs import configure_logging
    from aiopool._observe.metrics import HistogramCounts, JobMetrics, Metrics
    from aiopool._program.run import run
    from aiopool.services import (
        Command,
        RegistryStatus,
        ServiceRegistry,
        ServiceStatus,
        StopReport,
        TypeReport,
        die_with_parent,
    )

__all__ = [
    "AttemptRecord",
    "CancelReport",
    "Command",
    "Finding",
    "Group",
    "HealthLimits",
    "HealthReport",
    "HealthStatus",
    "HistogramCounts",
    "Job",
    "JobCancelledError",
    "JobDroppedError",
    "JobError",
    "JobMetrics",
    "JobOptions",
    "JobPendingError",
    "JobQueue",
    "JobResult",
    "JobStatus",
    "JobTimeoutError",
    "LeakedJob",
    "MapResult",
    "MapStream",
    "Metrics",
    "Pool",
    "PoolClosedError",
    "PoolError",
    "PoolStatus",
    "Priority",
    "QueueFullError",
    "RegistryStatus",
    "Restart",
    "RestartLimitError",
    "Retry",
    "RetryAfter",
    "RetryBudget",
    "ServiceRegistry",
    "ServiceStatus",
    "SettingsError",
    "ShutdownReport",
    "Statistics",
    "StopReport",
    "Submitter",
    "Tracer",
    "TypeReport",
    "WorkerStatus",
    "configure_logging",
    "current_job",
    "die_with_parent",
    "events",
    "from_thread",
    "job",
    "run",
]

# What stands on other libraries, or takes long to make and is not needed to run jobs, is imported when it is first
# asked for. (A frozen class takes a millisecond or two, and there are twenty kinds of events.)
_LATER = {
    "Command": "services",
    "Finding": "_observe.health",
    "HealthLimits": "_observe.health",
    "HealthReport": "_observe.health",
    "HealthStatus": "_observe.health",
    "HistogramCounts": "_observe.metrics",
    "JobMetrics": "_observe.metrics",
    "Metrics": "_observe.metrics",
    "RegistryStatus": "services",
    "ServiceRegistry": "services",
    "ServiceStatus": "services",
    "StopReport": "services",
    "TypeReport": "services",
    "configure_logging": "_observe.logs",
    "die_with_parent": "services",
    "events": "events",
    "run": "_program.run",
}


def __getattr__(name: str) -> _typing.Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _importlib.import_module(f"aiopool.{_LATER[name]}")
    found = module if _LATER[name] == name else getattr(module, name)
    if getattr(found, "__module__", "").startswith("aiopool._"):
        found.__module__ = "aiopool"
    globals()[name] = found
    return found


# Public names carry the public address, so that tracebacks, pickles and docs say `aiopool.Job`.
for _name in set(__all__) - _LATER.keys():
    _object = globals()[_name]
    if getattr(_object, "__module__", "").startswith("aiopool."):
        _object.__module__ = "aiopool"
