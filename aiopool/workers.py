"""The workers of a pool: what each of them is about, and what it holds open for its jobs.

    async with Pool(size=4, worker_context=open_client) as pool:
        ...
        for worker in pool.workers():
            print(worker.id, worker.state, worker.job)

Inside of a job, `aiopool.current_worker().resource` is what its worker holds open.
"""

from __future__ import annotations

from aiopool._engine.current_worker import CurrentWorker
from aiopool._engine.worker_info import WorkerInfo
from aiopool._jobs.status import WorkerState
from aiopool._runtime.public import publish

__all__ = ["CurrentWorker", "WorkerInfo", "WorkerState"]

publish(globals())
