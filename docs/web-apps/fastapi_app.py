"""Send mails in the background of a FastAPI app; start it with `uvicorn fastapi_app:app`."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, Response

from aiopool import Pool, QueueFullError


async def send_mail(address: str) -> None:
    await asyncio.sleep(0.05)  # the mail server
    if "@" not in address:
        raise ValueError(f"no address: {address}")
    print(f"sent to {address}", flush=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Pool]]:
    async with Pool(size=20, queue_size=1000, keep_finished=10_000, shutdown_timeout=20) as pool:
        yield {"pool": pool}


async def get_pool(connection: HTTPConnection) -> Pool:
    return connection.state.pool


PoolDep = Annotated[Pool, Depends(get_pool)]

app = FastAPI(lifespan=lifespan)


@app.post("/mails/{address}", status_code=202)
async def subscribe(address: str, pool: PoolDep) -> dict[str, int | str]:
    return {"job": pool.submit_nowait(send_mail, address).id}


@app.post("/blocking/mails/{address}", status_code=202)
def subscribe_in_a_thread(address: str, pool: PoolDep) -> dict[str, str]:
    id = uuid.uuid4().hex
    pool.with_options(id=id).from_thread.submit(send_mail, address)
    return {"job": id}


@app.get("/jobs/{id}")
async def status(id: str, pool: PoolDep) -> dict[str, str]:
    job = pool.find(id)
    if job is None:
        raise HTTPException(404, "no such job")
    return {"status": job.status}


@app.exception_handler(QueueFullError)
async def too_many(request: Request, error: QueueFullError) -> Response:
    again = {"Retry-After": "1"}
    return JSONResponse({"error": "try again later"}, status_code=503, headers=again)
