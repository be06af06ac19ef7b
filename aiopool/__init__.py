"""A supervised pool of coroutine workers for asyncio.

General layout, from the ground up; each file uses only what lies below it:

    words and rules   errors, _status, _retry, _restart, _scope; tools: _eager, _runtime, _timetable, _bridge, _signals
    about a job       _options, _plan, _job
    who hears of it   _listeners; events by _teller, _logs; numbers by _metrics, _loop_lag
    the line          _queue
    the books         _engine on _loans, _room, _joiners, _labels, _ending, _error_sink; _statistics
    hands             _worker, _scope_worker, _supervisor
    the pool          _home, _map, _submitter, _group, _shutdown, _pool; a look at it: _survey on _health, _health_watch
    settings          settings
    companions        services
    the program       _lifecycle on _companions, _notifier, _orphans
    doors             cli, testing, pytest_plugin

Read `_job` → `_queue` → `_engine` → `_worker` → `_supervisor` → `_pool` and you know the machine.
"""

import importlib as _importlib
import typing as _typing

from aiopool import from_thread as from_thread
from aiopool._group import Group
from aiopool._job import AttemptRecord, Job, JobResult, current_job
from aiopool._listeners import Recorder
from aiopool._map import MapResult, MapStream
from aiopool._options import JobOptions, Priority, job
from aiopool._pool import CancelReport, Pool
from aiopool._queue import JobQueue
from aiopool._restart import Restart
from aiopool._retry import Retry, RetryAfter
from aiopool._retry_budget import RetryBudget
from aiopool._shutdown import LeakedJob, ShutdownReport
from aiopool._statistics import Statistics
from aiopool._status import JobStatus, PoolStatus, WorkerStatus
from aiopool._submitter import Submitter
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
    from aiopool._health import Finding, HealthLimits, HealthReport, HealthStatus
    from aiopool._lifecycle import run
    from aiopool._logs import configure_logging
    from aiopool._metrics import HistogramCounts, JobMetrics, Metrics
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
    "Recorder",
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
    "Finding": "_health",
    "HealthLimits": "_health",
    "HealthReport": "_health",
    "HealthStatus": "_health",
    "HistogramCounts": "_metrics",
    "JobMetrics": "_metrics",
    "Metrics": "_metrics",
    "RegistryStatus": "services",
    "ServiceRegistry": "services",
    "ServiceStatus": "services",
    "StopReport": "services",
    "TypeReport": "services",
    "configure_logging": "_logs",
    "die_with_parent": "services",
    "events": "events",
    "run": "_lifecycle",
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
