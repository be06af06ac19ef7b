"""A supervised pool of coroutine workers for asyncio.

General layout, from the ground up; each file uses only what lies below it:

    words and rules   errors, _status, _retry, _restart, _scope; tools: _runtime, _timetable, _bridge, _signals
    about a job       _options, _plan, _job
    the line          _queue
    the books         _engine, _statistics
    hands             _worker, _scope_worker, _supervisor
    the pool          _home, _map, _submitter, _group, _shutdown, _pool
    the program       _lifecycle
    doors             cli, testing, pytest_plugin

Read `_job` → `_queue` → `_engine` → `_worker` → `_supervisor` → `_pool` and you know the machine.
"""

from aiopool import from_thread as from_thread
from aiopool._group import Group
from aiopool._job import AttemptRecord, Job, JobResult, current_job
from aiopool._lifecycle import run
from aiopool._map import MapResult, MapStream
from aiopool._metrics import HistogramCounts, JobMetrics, Metrics
from aiopool._options import JobOptions, Priority, job
from aiopool._pool import CancelReport, Pool
from aiopool._queue import JobQueue
from aiopool._restart import Restart
from aiopool._retry import Retry, RetryAfter, RetryBudget
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

__all__ = [
    "AttemptRecord",
    "CancelReport",
    "Group",
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
    "Restart",
    "RestartLimitError",
    "Retry",
    "RetryAfter",
    "RetryBudget",
    "SettingsError",
    "ShutdownReport",
    "Statistics",
    "Submitter",
    "WorkerStatus",
    "current_job",
    "from_thread",
    "job",
    "run",
]

# Public names carry the public address, so that tracebacks, pickles and docs say `aiopool.Job`.
for _name in __all__:
    _object = globals()[_name]
    if getattr(_object, "__module__", "").startswith("aiopool."):
        _object.__module__ = "aiopool"
