"""Send mails in the background of a Starlette app; start it with `uvicorn starlette_app:app`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aiopool import Pool, QueueFullError


async def send_mail(address: str) -> None:
    await asyncio.sleep(0.05)  # the mail server
    if "@" not in address:
        raise ValueError(f"no address: {address}")
    print(f"sent to {address}", flush=True)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Pool]]:
    async with Pool(size=20, queue_size=1000, keep_finished=10_000, shutdown_timeout=20) as pool:
        yield {"pool": pool}


async def subscribe(request: Request) -> Response:
    job = request.state.pool.submit_nowait(send_mail, request.path_params["address"])
    return JSONResponse({"job": job.id}, status_code=202)


async def status(request: Request) -> Response:
    job = request.state.pool.find(request.path_params["id"])
    if job is None:
        return JSONResponse({"error": "no such job"}, status_code=404)
    return JSONResponse({"status": job.status})


async def too_many(request: Request, error: Exception) -> Response:
    again = {"Retry-After": "1"}
    return JSONResponse({"error": "try again later"}, status_code=503, headers=again)


app = Starlette(
    routes=[Route("/mails/{address}", subscribe, methods=["POST"]), Route("/jobs/{id}", status)],
    exception_handlers={QueueFullError: too_many},
    lifespan=lifespan,
)
