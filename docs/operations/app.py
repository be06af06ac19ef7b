"""A web app for the page on Kubernetes: it hands jobs to a pool, and answers probes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aiopool import QueueFullError
from aiopool.health import HealthMonitor, HealthReport
from aiopool.settings import PoolSettings

pool = PoolSettings(name="web").create_pool()  # AIOPOOL_SIZE, AIOPOOL_SHUTDOWN_TIMEOUT, ...
monitor = HealthMonitor(pool)


async def handle(order: int) -> None:
    await asyncio.sleep(0.5)  # here: the work
    print("handled", order, flush=True)


async def submit(request: Request) -> JSONResponse:
    try:
        job = pool.submit_nowait(handle, request.path_params["order"])
    except QueueFullError:
        return JSONResponse({"error": "try again later"}, status_code=503)
    return JSONResponse({"job": job.id}, status_code=202)


def answer(report: HealthReport, good: bool) -> JSONResponse:
    why = [f"{finding.check}: {finding.text}" for finding in report.findings]
    return JSONResponse({"status": report.status, "why": why}, status_code=200 if good else 503)


async def ready(request: Request) -> JSONResponse:
    report = monitor.report()
    return answer(report, report.ready)


async def live(request: Request) -> JSONResponse:
    report = monitor.report()
    return answer(report, report.live)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with pool:
        yield


app = Starlette(
    routes=[
        Route("/orders/{order:int}", submit, methods=["POST"]),
        Route("/ready", ready),
        Route("/live", live),
    ],
    lifespan=lifespan,
)
