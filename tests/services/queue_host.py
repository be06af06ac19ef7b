"""A program with a real `queuemgr` queue system under a registry; used by `tests/services/test_services_queuemgr.py`.

    queue_host.py MODE DIRECTORY

A program of its own, because queuemgr keeps a forkserver and a resource tracker until its host exits. It writes one
line of JSON.
"""

import asyncio
import inspect
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from queuemgr.async_simple_api import AsyncQueueSystem
from queuemgr.process_config import ProcessManagerConfig
from services.jobs import StubbornJob
from services.support import running

from aiopool.services import ServiceRegistry

start_config = ProcessManagerConfig.__init__


def patient(self: Any, **options: Any) -> None:
    start_config(self, **{"startup_timeout": 25.0, **options})


# Its manager has 10 s to start, which a loaded machine may not keep; `AsyncQueueSystem` has no parameter for that.
ProcessManagerConfig.__init__ = patient


def queue_system(directory: str) -> Any:
    return AsyncQueueSystem(registry_path=f"{directory}/jobs.jsonl", shutdown_timeout=60.0)


def tell(registry: ServiceRegistry, report: Any, queue: Any, **more: object) -> None:
    status = [(service.name, service.status, service.alive) for service in registry.status().services]
    print(
        json.dumps({"report": report.as_dict(), "seconds": report.seconds, "killed": report.killed, "status": status,
                    "running": queue.is_running(), **more}),
        flush=True,
    )  # fmt: skip


def started(directory: str) -> tuple[ServiceRegistry, Any]:
    registry, queue = ServiceRegistry(), queue_system(directory)
    registry.add("sqlite_queue", queue, name="queue")
    return registry, queue


async def inside(directory: str) -> None:
    """Start and stop within one loop."""
    registry, queue = started(directory)
    await registry.start()
    alive = registry.status()["queue"].alive
    pid = registry.status()["queue"].pid
    await registry.start()  # a second start would be an error of queuemgr
    report = await registry.stop_all(timeout=10)
    tell(registry, report, queue, was=alive, pid=pid)


async def sync_inside(directory: str) -> None:
    """Stop by plain code inside the very loop on which it was started."""
    registry, queue = started(directory)
    await registry.start()
    tell(registry, registry.stop_all_sync(timeout=10), queue)


async def thread(directory: str) -> None:
    """Stop by plain code from another thread, while the loop runs."""
    registry, queue = started(directory)
    await registry.start()
    tell(registry, await asyncio.to_thread(registry.stop_all_sync, timeout=10), queue)


def outside(directory: str) -> None:
    """Stop by plain code after the loop is gone."""
    queue = queue_system(directory)
    registry = ServiceRegistry()

    async def main() -> None:
        await queue.start()
        registry.register("sqlite_queue", {"queue_system": queue, "name": "queue", "db_path": "x"})

    asyncio.run(main())
    alive = registry.status()["queue"].alive
    tell(registry, registry.stop_all_sync(timeout=10), queue, was=alive)


async def stubborn_job(queue: AsyncQueueSystem, directory: str) -> int:
    """Start a job that ignores its stop flag; returns its pid when it runs."""
    path = Path(directory) / "pid"
    await queue.add_job(StubbornJob, "one", {"path": str(path)})
    await queue.start_job_background("one")
    while not (path.exists() and path.read_text()):
        await asyncio.sleep(0.02)
    return int(path.read_text())


async def stubborn(directory: str) -> None:
    """Stop while a job ignores it: queuemgr needs its whole timeout and leaves processes behind."""
    registry, queue = started(directory)
    await registry.start()
    job = await stubborn_job(queue, directory)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    turning = asyncio.create_task(turn())
    began = time.monotonic()
    report = await registry.stop_all(timeout=3)
    took = time.monotonic() - began
    turning.cancel()
    left = [job] if running(job) else []
    tell(registry, report, queue, took=took, job=job, left=left, turns=turns)


async def killed(directory: str) -> None:
    """The manager is killed: seen, its orphaned job ended, the system started again."""
    registry, queue = ServiceRegistry(check_every=0.1), queue_system(directory)
    registry.add("sqlite_queue", queue, name="queue", restart="on_failure")
    await registry.start()
    job = await stubborn_job(queue, directory)
    while job not in registry.status()["queue"].pids:
        await asyncio.sleep(0.02)
    manager = registry.status()["queue"].pid
    assert manager is not None
    os.kill(manager, 9)
    while not (registry.status()["queue"].restarts == 1 and registry.status()["queue"].status == "running"):
        await asyncio.sleep(0.02)
    gone = not running(job)
    alive = registry.status()["queue"].alive
    tell(registry, await registry.stop_all(timeout=5), queue, gone=gone, was=alive)


if __name__ == "__main__":
    mode = globals()[sys.argv[1]]
    if inspect.iscoroutinefunction(mode):
        asyncio.run(mode(sys.argv[2]))
    else:
        mode(sys.argv[2])
