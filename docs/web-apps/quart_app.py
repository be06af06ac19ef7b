"""Send mails in the background of a Quart app; start it with `hypercorn quart_app:app`."""

import asyncio
from collections.abc import AsyncIterator

from quart import Quart
from quart.typing import ResponseReturnValue

from aiopool import Pool, QueueFullError

app = Quart(__name__)


async def send_mail(address: str) -> None:
    await asyncio.sleep(0.05)  # the mail server
    if "@" not in address:
        raise ValueError(f"no address: {address}")
    print(f"sent to {address}", flush=True)


pool = Pool(size=20, queue_size=1000, keep_finished=10_000, shutdown_timeout=20)


@app.while_serving
async def lifespan() -> AsyncIterator[None]:
    async with pool:
        yield


@app.post("/mails/<address>")
async def subscribe(address: str) -> ResponseReturnValue:
    return {"job": pool.submit_nowait(send_mail, address).id}, 202


@app.get("/jobs/<id>")
async def status(id: str) -> ResponseReturnValue:
    job = pool.find(id)
    if job is None:
        return {"error": "no such job"}, 404
    return {"status": job.status}


@app.errorhandler(QueueFullError)
async def too_many(error: QueueFullError) -> ResponseReturnValue:
    return {"error": "try again later"}, 503, {"Retry-After": "1"}
