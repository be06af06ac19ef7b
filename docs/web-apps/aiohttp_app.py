"""Send mails in the background of an aiohttp server; start it with `python -m aiohttp.web aiohttp_app:make_app`."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from aiopool import Pool, QueueFullError

routes = web.RouteTableDef()


async def send_mail(address: str) -> None:
    await asyncio.sleep(0.05)  # the mail server
    if "@" not in address:
        raise ValueError(f"no address: {address}")
    print(f"sent to {address}", flush=True)


POOL = web.AppKey("POOL", Pool)


async def open_pool(app: web.Application) -> AsyncIterator[None]:
    pool = Pool(size=20, queue_size=1000, keep_finished=10_000, shutdown_timeout=20)
    async with pool as app[POOL]:
        yield


@routes.post("/mails/{address}")
async def subscribe(request: web.Request) -> web.Response:
    try:
        job = request.app[POOL].submit_nowait(send_mail, request.match_info["address"])
    except QueueFullError:
        return web.json_response({"error": "try again later"}, status=503, headers={"Retry-After": "1"})
    return web.json_response({"job": job.id}, status=202)


@routes.get("/jobs/{id}")
async def status(request: web.Request) -> web.Response:
    job = request.app[POOL].find(request.match_info["id"])
    if job is None:
        return web.json_response({"error": "no such job"}, status=404)
    return web.json_response({"status": job.status})


async def make_app(argv: list[str] | None = None) -> web.Application:
    app = web.Application()
    app.add_routes(routes)
    app.cleanup_ctx.append(open_pool)
    return app
