"""A worker of an Avtomatika orchestrator that logs, counts, and keeps time limits.

    WORKER_TOKEN=secret METRICS_PORT=9000 python examples/avtomatika_practice.py

It needs the extra `avtomatika`.
"""

import asyncio
import logging
import os
from typing import Any

from prometheus_client import REGISTRY, start_http_server

from aiopool import current_job
from aiopool.avtomatika import Worker
from aiopool.avtomatika.prometheus import WorkerCollector

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
logger = logging.getLogger("practice")

worker = Worker()


async def slow_operation(seconds: float) -> dict[str, Any]:
    await asyncio.sleep(seconds)
    return {"seconds": seconds}


@worker.task("logged")
async def logged(params: dict) -> None:
    logger.info("task %s with %s", current_job().id, params)


@worker.task("limited", timeout=0.5)
async def limited(params: dict) -> dict:
    return await slow_operation(params["seconds"])


@worker.task("limited_inside")
async def limited_inside(params: dict) -> dict:
    try:
        found = await asyncio.wait_for(slow_operation(params["seconds"]), timeout=0.5)
    except TimeoutError:
        error = {"code": "TIMEOUT", "message": "the operation took too long"}
        return {"status": "failure", "error": error}
    return {"status": "success", "data": found}


if __name__ == "__main__":
    REGISTRY.register(WorkerCollector(worker))  # worker_tasks_total, and others
    server, thread = start_http_server(int(os.environ["METRICS_PORT"]), addr="127.0.0.1")
    asyncio.run(worker.main())
    server.shutdown()
    server.server_close()
    thread.join()
