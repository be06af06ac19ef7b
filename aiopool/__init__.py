"""A supervised pool of coroutine workers for asyncio.

General layout, from the ground up; a room imports only rooms above it in this list:

    errors             the tree of exceptions
    _runtime           the ground: loop, tasks, threads, timers, signals; knows no job
    stores             where jobs survive; knows no job of a pool
    _jobs              what a job is: status, options, retry, stop, outcome; knows no pool
    events, _observe   who is told: events, logs, metrics, health
    _engine            how jobs are queued and run: queue, slots, engine, workers, supervisor
    _pool              what users hold: pool, views, groups, maps, shutdown
    blocking           a pool for programs without an event loop
    metrics, health    what a pool did, and how it is
    inspection, _control  looking at the pools of a program from outside, and a door for that
    records            what is kept of jobs that have ended
    workers            what a worker is about, and what it holds
    settings, services values from files and the environment; helper processes
    _program           a whole program: `run`
    _durable           the jobs of a pool in its store
    aiopool            this face, which only re-exports
    testing, instrumentation, avtomatika, pytest_plugin, cli: they use the face, as programs do

Read `_jobs/job.py`, `_engine/queue.py`, `_engine/engine.py`, `_engine/worker.py`, `_engine/supervisor.py` and
`_pool/pool.py`, and you know the machine. `docs/project/architecture.md` has the picture.
"""

from aiopool import events as events
from aiopool import from_thread as from_thread
from aiopool._control.face import control
from aiopool._durable.handlers import Handlers
from aiopool._engine.current_worker import current_worker
from aiopool._jobs.job import Job, current_job
from aiopool._jobs.limits import Cooldown, Limit
from aiopool._jobs.options import JobOptions, Priority, job
from aiopool._jobs.records import AttemptRecord, JobOutcome
from aiopool._jobs.restart import Restart
from aiopool._jobs.retry import Retry, RetryAfter
from aiopool._jobs.retry_budget import RetryBudget
from aiopool._jobs.statistics import Statistics
from aiopool._jobs.status import JobStatus, PoolStatus
from aiopool._pool.cancel_report import CancelReport
from aiopool._pool.durability import provide as _provide
from aiopool._pool.group import Group
from aiopool._pool.map import MapResult, MapStream
from aiopool._pool.pool import Pool
from aiopool._pool.shutdown import LeakedJob, ShutdownReport
from aiopool._pool.submitter import Submitter
from aiopool._program.run import run
from aiopool._runtime.public import publish as _publish
from aiopool.errors import (
    JobCancelledError,
    JobError,
    JobTimeoutError,
    PoolClosedError,
    PoolError,
    QueueFullError,
)

__all__ = [
    "AttemptRecord",
    "CancelReport",
    "Cooldown",
    "Group",
    "Handlers",
    "Job",
    "JobCancelledError",
    "JobError",
    "JobOptions",
    "JobOutcome",
    "JobStatus",
    "JobTimeoutError",
    "LeakedJob",
    "Limit",
    "MapResult",
    "MapStream",
    "Pool",
    "PoolClosedError",
    "PoolError",
    "PoolStatus",
    "Priority",
    "QueueFullError",
    "Restart",
    "Retry",
    "RetryAfter",
    "RetryBudget",
    "ShutdownReport",
    "Statistics",
    "Submitter",
    "control",
    "current_job",
    "current_worker",
    "job",
    "run",
]

__version__ = "0.1.0"


def _durability(*about: object) -> object:
    """Make what keeps the jobs of a pool in a store: the one thing that the pool cannot import, for it stands above."""
    from aiopool._durable.client import store_jobs  # most programs have no store

    return store_jobs(*about)  # type: ignore[arg-type]


_provide(_durability)  # type: ignore[arg-type]

_publish(globals())
