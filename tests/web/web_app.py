"""What the tests of the web app share: an app whose visitors say who they are, a client for it, and its routes."""

from collections.abc import Iterator
from typing import Any

import httpx2

import aiopool
import aiopool.web
from aiopool.web._app import app_of
from aiopool.web._config import Config
from aiopool.web._target import Here

HOME = "http://127.0.0.1"
SAME_SITE = {"origin": HOME}
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")


def by_header(request):
    """Whoever asks says what they may do: no app does that, but a test."""
    return request.headers.get("x-access")


def make_handlers() -> aiopool.Handlers:
    handlers = aiopool.Handlers()

    @handlers.register("add")
    async def add(a: int, b: int = 1) -> int:
        return a + b

    @handlers.register("fail")
    async def fail(text: str) -> None:
        raise ValueError(text)

    return handlers


def make_app(**more: Any) -> Any:
    """An app with all that can be switched on."""
    given = {"access": by_header, "handlers": make_handlers(), "shutdown": True, "hosts": (), "trusted_origins": ()}
    return app_of(Here(), Config.of(**(given | more)))


def client(
    app: Any, access: str | None = "operate", base: str = f"{HOME}/api/v1", **headers: str
) -> httpx2.AsyncClient:
    """A client that comes from the same site, with some access."""
    known = {} if access is None else {"x-access": access}
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app, raise_app_exceptions=False),
        base_url=base,
        headers=SAME_SITE | known | headers,
    )


def routes(app: Any) -> Iterator[tuple[str, str]]:
    """Each path and method of an app, those of included routers, too."""
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes(inner)
            continue
        for method in sorted(getattr(route, "methods", None) or ()):
            yield method, route.path


def filled(path: str) -> str:
    """A path with names in place of its parameters: nothing has them, so nothing is done."""
    names = {"{pool}": "nobody", "{group}": "g", "{id}": "7", "{job_id}": "7"}
    for parameter, name in names.items():
        path = path.replace(parameter, name)
    return path
