"""A server of HTTP and websockets for the tests: it says back what it was told, after a few milliseconds."""

import asyncio
import sys

from aiohttp import web

DELAY = 0.002


async def echo(request: web.Request) -> web.Response:
    await asyncio.sleep(DELAY)
    return web.Response(text=request.match_info["word"])


async def echo_websocket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await asyncio.sleep(DELAY)
        await socket.send_str(message.data)
    return socket


def application() -> web.Application:
    app = web.Application()
    app.add_routes([web.get("/echo/{word}", echo), web.get("/websocket", echo_websocket)])
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
