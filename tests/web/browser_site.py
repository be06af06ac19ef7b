"""What the browser tests share: a pool at work and its pages, served by uvicorn in a thread, below a prefix."""

import asyncio
import socket
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from aiopool import Pool, current_job
from aiopool.metrics import observe
from aiopool.web import create_app

EVIL = 'x"><script>document.title="owned"</script>\x00\u202e'


def stripping(app, prefix):
    """A proxy that takes a prefix away, and tells nobody."""

    async def proxy(scope, receive, send):
        if scope["type"] == "http":
            path = scope["path"]
            assert path.startswith(prefix), f"a request outside of the prefix: {path}"
            scope = scope | {"path": path.removeprefix(prefix), "raw_path": None, "root_path": ""}
        await app(scope, receive, send)

    return proxy


class Site:
    """A pool and its pages. `call` runs a function of the pool in its loop."""

    def __init__(self, way="root", access="admin", evil=EVIL):
        self.way, self.access, self.evil = way, access, evil
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.ready = threading.Event()
        self.prefix = {"root": "", "mounted": "/a/b", "proxy": "/x/y"}[way]
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}{self.prefix}/"
        self.thread = threading.Thread(target=lambda: asyncio.run(self.main()))

    def app(self):
        pages = create_app(access=lambda request: self.access)
        if self.way == "mounted":
            return Starlette(routes=[Mount(self.prefix, pages)])
        return stripping(pages, self.prefix) if self.prefix else pages

    async def main(self):
        self.loop, self.end = asyncio.get_running_loop(), asyncio.Event()
        self.server = uvicorn.Server(uvicorn.Config(self.app(), log_level="error", timeout_graceful_shutdown=1))
        async with Pool(4, name="mail", queue_size=None, keep_finished=100, on_error=lambda *_: None) as self.pool:
            observe(self.pool)
            await self.fill()
            serving = asyncio.create_task(self.server.serve([self.listener]))
            while not self.server.started:
                await asyncio.sleep(0.01)
            self.ready.set()
            await self.end.wait()
            await self.pool.cancel_all()
            self.server.should_exit = True
            await serving

    async def fill(self):
        pool, evil = self.pool, self.evil

        async def parent():
            current_job().report_progress(0.5, evil)
            child = await pool.with_options(name="child").submit(forever)
            await child

        await pool.with_options(name=evil, group=evil, metadata={"label": evil, evil: 1}).submit(forever)
        await pool.with_options(name="parent").submit(parent)
        job = await pool.with_options(name=evil, group="g").submit(fail, evil * 200)
        await job.wait()
        for number in range(70):
            await pool.with_options(name=f"waits {number}", group="g").submit(forever)
        await pool.with_options(delay=1000, name="later").submit(forever)

    def call(self, function):
        """Run an async function in the loop of the pool, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(function(), self.loop).result(20)

    def __enter__(self):
        self.thread.start()
        assert self.ready.wait(20)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join(30)
        assert not self.thread.is_alive()


async def forever():
    await asyncio.get_running_loop().create_future()


async def fail(text):
    raise ValueError(text)
