"""`current_worker()`: the worker that runs the job of the caller, and its resource.

It looks at nothing but the job in which the caller is, which is known everywhere: in the job's coroutine, in tasks that
it makes, and in its thread.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, final, overload

from aiopool._engine.worker import Worker
from aiopool._jobs.job import running_job
from aiopool._jobs.status import JobStatus
from aiopool._runtime.faults import type_name

__all__ = ["CurrentWorker", "current_worker"]

R = TypeVar("R")


class _Nothing:
    """In place of the resource of a worker that has none."""

    __slots__ = ()


NOTHING = _Nothing()


@final
class CurrentWorker(Generic[R]):
    """The worker that runs the caller's job: what `current_worker()` returns. Ask anew in each job.

    Attributes:
        id: its number, as in `pool.workers()`, events and logs.

    Example:
        client = aiopool.current_worker(Client).resource
    """

    __slots__ = ("_resource", "_worker", "id")

    def __init__(self, worker: Worker) -> None:
        self.id = worker.id
        self._worker = worker
        self._resource: R | _Nothing = NOTHING if worker.resource is None else worker.resource.value

    @property
    def resource(self) -> R:
        """What the context manager of `Pool(worker_context=…)` gave.

        Raises:
            RuntimeError: the pool has no `worker_context`.
        """
        if isinstance(self._resource, _Nothing):
            raise RuntimeError(
                f"worker {self.id} has no resource: write Pool(worker_context=open_client), where open_client() "
                "returns a context manager"
            )
        return self._resource

    def recycle(self) -> None:
        """Have the worker end after this job, and its resource closed; a new one is made for the next job.

        For a job that finds its resource broken. From the event loop and from the job's thread.
        """
        self._worker.retiring = True


@overload
def current_worker() -> CurrentWorker[Any]: ...
@overload
def current_worker(kind: type[R], /) -> CurrentWorker[R]: ...
def current_worker(kind: type[Any] | None = None, /) -> CurrentWorker[Any]:
    """Return the worker that runs the caller's job: to be called in a job, in a task that it made, or in its thread.

    Args:
        kind: the class of its resource, which is checked; type checkers know it then, too.

    Raises:
        RuntimeError: the caller is in no job, or its job has ended.
        TypeError: the resource is of another class.

    Example:
        async def fetch(path: str) -> str:
            client = aiopool.current_worker(Client).resource
            return await client.get(path)
    """
    job = running_job.get()
    if job is None:
        raise RuntimeError(
            "current_worker() was called outside of any job. Call it in a function that a pool runs: "
            "`await pool.submit(function)`"
        )
    worker = job._location
    if job._status is not JobStatus.RUNNING or not isinstance(worker, Worker):
        raise RuntimeError(
            f"current_worker() was called for job {job.name!r}, which is {job._status}: take what you need of the "
            "worker while the job runs"
        )
    current: CurrentWorker[Any] = CurrentWorker(worker)
    if kind is not None and worker.resource is not None and not isinstance(worker.resource.value, kind):
        raise TypeError(
            f"current_worker({kind.__name__}): the resource of this pool's workers is of class "
            f"{type_name(worker.resource.value)}"
        )
    return current
