"""Send mails in the background of a Litestar app; start it with `uvicorn litestar_app:app`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from aiopool import Pool, QueueFullError


async def send_mail(address: str) -> None:
    await asyncio.sleep(0.05)  # the mail server
    if "@" not in address:
        raise ValueError(f"no address: {address}")
    print(f"sent to {address}", flush=True)


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    pool = Pool(size=20, queue_size=1000, keep_finished=10_000, shutdown_timeout=20)
    async with pool as app.state.pool:
        yield


async def get_pool(state: State) -> Pool:
    return state.pool


@post("/mails/{address:str}", status_code=202)
async def subscribe(address: FromPath[str], pool: NamedDependency[Pool]) -> dict[str, Any]:
    return {"job": pool.submit_nowait(send_mail, address).id}


@get("/jobs/{id:str}")
async def status(id: FromPath[str], pool: NamedDependency[Pool]) -> dict[str, str]:
    job = pool.find(id)
    if job is None:
        raise NotFoundException("no such job")
    return {"status": job.status}


def too_many(request: Request, error: QueueFullError) -> Response:
    return Response({"error": "try again later"}, status_code=503, headers={"Retry-After": "1"})


app = Litestar(
    [subscribe, status],
    lifespan=[lifespan],
    dependencies={"pool": Provide(get_pool)},
    exception_handlers={QueueFullError: too_many},
    logging_config=None,  # its own logs in a thread, and what that still holds when uvicorn exits is lost
)
