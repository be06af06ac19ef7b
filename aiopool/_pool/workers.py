"""What a pool says of its workers, and how one of them is stopped by hand.

The supervisor keeps the workers; here is what whoever holds the pool may ask of it.
"""

from __future__ import annotations

from aiopool._engine.supervisor import Supervisor
from aiopool._engine.worker import Worker
from aiopool._engine.worker_info import WorkerInfo
from aiopool._jobs.job import running_job
from aiopool._jobs.status import WorkerState
from aiopool._pool.state import PoolState

__all__ = ["RESTARTED", "STOPPED", "end_worker", "worker_infos"]

# Why the job of a worker is cancelled that is ended by hand.
STOPPED, RESTARTED = "its worker was stopped", "its worker was restarted"


def worker_infos(supervisor: Supervisor) -> tuple[WorkerInfo, ...]:
    """Return the workers, the oldest first."""
    return tuple(_info(worker, supervisor) for worker in supervisor.living())


def _info(worker: Worker, supervisor: Supervisor) -> WorkerInfo:
    job, counts = worker.job, supervisor.counts
    since = worker.started_at if job is None else job._started_at
    head = worker.id, _state(worker), job, since, worker.started_at
    tally = None if counts is None else counts.tallies.get(worker.id)
    return WorkerInfo(*head) if tally is None else WorkerInfo(*head, tally.done, tally.failed, tally.seconds)


def _state(worker: Worker) -> WorkerState:
    if worker.retiring:
        return WorkerState.STOPPING
    if worker.busy:
        return WorkerState.BUSY
    return WorkerState.IDLE if worker.resource is None else worker.resource.state


async def end_worker(state: PoolState, worker: Worker, *, graceful: bool, reason: str) -> bool:
    """Have a worker end, and wait for it; whether it has ended, or will with the job of the caller.

    If the caller is cancelled, it ends all the same.
    """
    engine, supervisor = state.engine, state.supervisor
    assert engine is not None
    assert supervisor is not None
    supervisor.retire(worker)
    job, own = worker.job, running_job.get()
    if job is not None and job is own:
        if not graceful:
            job.cancel(reason)
        return True  # one's own end cannot be waited for
    if job is not None and not graceful:
        await state.stop(job, reason)
        if worker.job is job and job.leaked:
            return False
    task = supervisor.task_of(worker)
    if task is not None:
        ended = engine.runtime.loop.create_future()
        task.add_done_callback(lambda _: None if ended.done() else ended.set_result(None))
        await engine.lending.wait_for(ended)
    return True
