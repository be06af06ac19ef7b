"""Mounted under a prefix: in Starlette, FastAPI and Litestar, and behind a proxy that takes a prefix off."""

import contextlib
import signal
import socket
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from web_app import SAME_SITE, filled, make_app, routes
from web_servers import UVICORN, need, serving

from aiopool import Pool

PREFIX = "/a/b"


def in_starlette(app):
    return Starlette(routes=[Mount(PREFIX, app)])


def in_fastapi(app):
    outer = FastAPI()
    outer.mount(PREFIX, app)
    return outer


def in_litestar(app):
    need("litestar")
    from litestar import Litestar, asgi

    return Litestar(route_handlers=[asgi(PREFIX, is_mount=True, copy_scope=True)(app)])


def behind_a_proxy(app):
    """It takes the prefix off, and tells nobody."""

    async def proxy(scope, receive, send):
        path = scope["path"].removeprefix(PREFIX)
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    return proxy


def alone(app):
    return app


WAYS = [
    pytest.param(alone, "", id="alone"),
    pytest.param(in_starlette, PREFIX, id="starlette"),
    pytest.param(in_fastapi, PREFIX, id="fastapi"),
    pytest.param(behind_a_proxy, PREFIX, id="proxy"),
    pytest.param(in_litestar, PREFIX, id="litestar", marks=pytest.mark.ecosystem),
]


@pytest.mark.parametrize(("way", "prefix"), WAYS)
async def test_every_address_leads_on(way, prefix):
    """Locations and links are found from where they stand, under any prefix; no redirect, no other host."""
    headers = SAME_SITE | {"x-access": "admin"}
    transport = httpx2.ASGITransport(way(make_app()))
    async with (
        Pool(1, name="p", keep_finished=100) as pool,
        httpx2.AsyncClient(transport=transport, base_url=f"http://127.0.0.1{prefix}", headers=headers) as visitor,
    ):

        async def follow(answer, where):
            address = answer.url.join(where)
            assert address.host == "127.0.0.1"
            assert str(address.path).startswith(f"{prefix}/api/v1/")
            found = await visitor.get(address)
            assert found.status_code == 200, (str(address), found.text)
            return found

        index = await visitor.get("/api/v1/")
        for link in index.json()["links"].values():
            await follow(index, link)
        pool.pause()
        taken = [
            await visitor.post("/api/v1/pools/p/jobs", json={"function": "add", "params": {"a": 1}}) for _ in range(3)
        ]
        assert [answer.status_code for answer in taken] == [202] * 3
        await follow(taken[0], taken[0].headers["location"])
        page = await visitor.get("/api/v1/pools/p/jobs?limit=1&name=add")
        seen = [page.json()["items"][0]["id"]]
        while "link" in page.headers:
            page = await follow(page, page.headers["link"].partition("<")[2].partition(">")[0])
            seen += [row["id"] for row in page.json()["items"]]
        assert sorted(seen) == [1, 2, 3]
        begun = await visitor.post("/api/v1/pools/p/operations", json={"verb": "cancel", "filter": {}})
        await follow(begun, begun.headers["location"])
        begun = await visitor.post("/api/v1/pools/p/groups/g/cancel")
        await follow(begun, begun.headers["location"])
        stream = await visitor.get("/api/v1/pools/p/events?limit=1")
        assert stream.text.count("event: state") == 1
        pool.resume()


@pytest.mark.parametrize(("way", "prefix"), WAYS)
async def test_the_guard_stands_under_every_prefix(way, prefix):
    """Each route of a mounted app is closed to strangers, to other sites and to other names of the server."""
    app = make_app()
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(way(app)), base_url="http://127.0.0.1") as visitor:
        for method, path in sorted(set(routes(app))):
            address = f"{prefix}{filled(path)}"
            content = b"{}" if method in ("POST", "PATCH") else None
            kind = {"content-type": "application/json"}
            assert (await visitor.request(method, address, content=content, headers=kind)).status_code == 401, path
            known = kind | {"x-access": "admin", "sec-fetch-site": "cross-site"}
            answer = await visitor.request(method, address, content=content, headers=known)
            assert (answer.status_code == 403) == (method not in ("GET", "HEAD")), path
            known = kind | {"x-access": "admin", "host": "evil.example"} | SAME_SITE
            assert (await visitor.request(method, address, content=content, headers=known)).status_code == 403, path


PROGRAM = """
import contextlib
import aiopool, aiopool.web
from starlette.applications import Starlette
from starlette.routing import Mount

@contextlib.asynccontextmanager
async def lifespan(app):
    async with aiopool.Pool(2, name="pool"):
        yield

web = aiopool.web.create_app(access=lambda request: "read")
app = Starlette(routes=[Mount("/a/b", web)], lifespan=lifespan)
"""


@pytest.mark.long
def test_a_foreign_server_with_open_streams_ends_by_itself(tmp_path: Path) -> None:
    """uvicorn with default settings waits for its streams without a limit: they end after 25 s, and it with them."""
    (tmp_path / "program.py").write_text(PROGRAM)
    with serving([*UVICORN, "program:app"], tmp_path) as server, contextlib.ExitStack() as open_:
        for _ in range(10):
            stream = open_.enter_context(contextlib.closing(socket.create_connection(server.address, timeout=60)))
            stream.sendall(b"GET /a/b/api/v1/pools/pool/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            text = b""
            while b"event: state" not in text:
                text += stream.recv(65536)
        server.process.send_signal(signal.SIGTERM)
        server.end()  # nobody kills it before the watchdog of the test does
        assert "Application shutdown complete" in server.text
