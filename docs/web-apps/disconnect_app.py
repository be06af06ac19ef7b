"""Work for a client only as long as it waits for the answer; start it with `uvicorn disconnect_app:app`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aiopool import Pool


async def weather(city: str) -> str:
    print(f"asking for {city}", flush=True)
    try:
        await asyncio.sleep(3600 if city == "nowhere" else 0.05)  # a slow service
    except asyncio.CancelledError:
        print(f"nobody waits for {city}", flush=True)
        raise
    return f"rain in {city}"


async def write_down(city: str) -> None:
    await asyncio.sleep(0.5)  # a database
    print(f"somebody wanted {city}", flush=True)


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancel what is in the block when the client hangs up."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        yield
        group.cancel_scope.cancel()


async def report(request: Request) -> Response:
    pool: Pool = request.state.pool
    cities = request.query_params.getlist("city")
    found: dict[str, str] = {}

    async def ask(city: str) -> None:
        found[city] = await pool.run(weather, city)

    async with while_connected(request):
        for city in cities:
            await pool.submit(write_down, city)  # goes on, whatever becomes of the request
        async with anyio.create_task_group() as group:
            for city in cities:
                group.start_soon(ask, city)  # ends with the request
        return JSONResponse(found)
    return Response(status_code=499)  # nobody reads it


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Pool]]:
    async with Pool(size=8, shutdown_timeout=20) as pool:
        yield {"pool": pool}


app = Starlette(routes=[Route("/report", report)], lifespan=lifespan)
