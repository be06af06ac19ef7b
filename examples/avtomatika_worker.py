"""A worker of an Avtomatika orchestrator: two kinds of tasks, of which the heavy ones are limited.

    WORKER_TOKEN=secret ORCHESTRATOR_URL=http://localhost:8000 python examples/avtomatika_worker.py

SIGTERM and Ctrl-C let the running tasks end. It needs the extra `avtomatika`.
"""

import asyncio
import os

from aiopool import current_job
from aiopool.avtomatika import TaskError, Worker

worker = Worker(
    worker_type="images",
    max_concurrent_tasks=10,
    task_type_limits={"heavy": 2, "light": 10},
    resources={"cpu": os.cpu_count()},
)


@worker.task("render", task_type="heavy", timeout=60)
async def render(params: dict, task_id: str) -> dict:
    frames = params["frames"]
    for frame in range(frames):
        await asyncio.sleep(0.01)  # here: the work
        current_job().report_progress((frame + 1) / frames, f"frame {frame + 1}")
    return {"status": "success", "data": {"frames": frames, "by": task_id}}


@worker.task("notify", task_type="light")
async def notify(params: dict) -> dict:
    if "@" not in params["to"]:
        raise TaskError(f"{params['to']!r} is no address", code="VALIDATION_ERROR")
    return {"sent": params["to"]}


if __name__ == "__main__":
    asyncio.run(worker.main())
