"""`create_app`: the app, of its parts: the guard before all, the API, and the pages."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

import aiopool
from aiopool import Handlers, Pool
from aiopool._control.problems import Problem
from aiopool._control.verbs import Access
from aiopool.web._answers import Json, add_handlers
from aiopool.web._config import AccessCheck, Config
from aiopool.web._desk import Desk, answers, problems
from aiopool.web._guard import Guard
from aiopool.web._hub import Hubs
from aiopool.web._jobs import add_jobs
from aiopool.web._models import ProblemView
from aiopool.web._once import Once
from aiopool.web._operations import add_operations
from aiopool.web._pools import add_pools
from aiopool.web._streams import add_streams
from aiopool.web._submissions import add_submissions
from aiopool.web._target import Here, Target

__all__ = ["create_app"]


def create_app(
    target: Target | None = None,
    *,
    pools: Pool | Iterable[Pool] | None = None,
    access: AccessCheck | None = None,
    handlers: Handlers | None = None,
    hosts: Iterable[str] = (),
    trusted_origins: Iterable[str] = (),
    title: str = "aiopool",
    pool: str | None = None,
    shutdown: bool = False,
) -> FastAPI:
    """Return an ASGI app that shows the pools of this process and steers them: mount it under any path.

    It has the HTTP API below `/api/v1`. Nobody is let in but by `access`. A `Host` that is neither an address nor
    `localhost` is refused unless `hosts` has it, and a page of another site cannot steer.

    Args:
        target: the pools; those of this process, if it is left out.
        pools: a pool of this process, or some: no other one is shown, nor can it be reached. They need not be open yet.
            All of them, also those to come, if it is left out.
        access: is called with each request, and says what the one who asks may do: `None` (nothing), `"read"`,
            `"operate"` (submit and steer jobs) or `"admin"` (end a pool). It may be async; it may set
            `request.state.who`, a name for the log.
        handlers: the functions that may be submitted, by their registered names; none, if it is left out.
        hosts: the names of the server: `["pool.example.org"]`.
        trusted_origins: other sites whose pages may steer: `["https://admin.example.org"]`.
        title: of the pages.
        pool: the key of the pool that `POST /api/v1/jobs` means; the only one, if it is left out.
        shutdown: whether the pool can be ended through it.

    Raises:
        TypeError: `access` is missing, `pools` come with a `target`, or an argument is of another kind; the text says
            what to write.
        ValueError: a host or an origin is none.

    Example:
        from starlette.applications import Starlette
        from starlette.routing import Mount

        web = aiopool.web.create_app(access=lambda request: "read" if request.user.is_authenticated else None)
        app = Starlette(routes=[Mount("/pool", web)])
    """
    config = Config.of(
        access=access,
        handlers=handlers,
        hosts=hosts,
        trusted_origins=trusted_origins,
        title=title,
        pool=pool,
        shutdown=shutdown,
    )
    return app_of(_target(target, pools), config)


def _target(target: Target | None, pools: object) -> Target:
    if pools is None:
        return target or Here()
    if target is not None:
        raise TypeError("create_app(target=..., pools=...): pools are those of this process, so write one of the two")
    given: tuple[object, ...] = tuple(pools) if isinstance(pools, Iterable) else (pools,)
    found = [one for one in given if isinstance(one, Pool)]
    if len(found) != len(given):
        raise TypeError(f"pools={pools!r:.200}: give a Pool or a list of them; left out, all of this process are shown")
    return Here(found)


def app_of(target: Target, config: Config) -> FastAPI:
    """Return the app of a config that has been checked."""
    app = FastAPI(
        title=config.title,
        version=aiopool.__version__,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,  # it would make an address of the `Host` that was sent
    )
    desk = Desk(target, config, Hubs(target))
    app.state.hubs = desk.hubs
    api = APIRouter(prefix="/api/v1")
    once = Once()
    add_submissions(api, desk, once)  # the first: they are asked for most, and routes are tried one after the other
    add_pools(api, desk)
    add_operations(api, desk, once)
    add_streams(api, desk)
    add_jobs(api, desk)

    @api.get("/openapi.json", responses=answers(dict[str, Any], "This document") | problems())
    async def openapi(request: Request) -> Response:
        """Describe the API: OpenAPI 3.1."""
        return Json(app.openapi())

    app.include_router(api)
    if config.open_paths:
        _add_probes(app, desk)
    app.openapi = lambda: _schema(app, list(config.handlers.names if config.handlers else ()))  # type: ignore[method-assign]
    if importlib.util.find_spec("aiopool.web._pages") is not None:
        pages: Any = importlib.import_module("aiopool.web._pages")
        pages.add_pages(app, target, config)
    add_handlers(app, [route for route in api.routes if isinstance(route, APIRoute)])
    app.add_middleware(Guard, config=config)
    return app


def _add_probes(app: FastAPI, desk: Desk) -> None:
    """Say to anybody whether we live, and whether the pools take jobs: yes or no, nothing else."""

    @app.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        return Json({"live": True})

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        try:
            keys = (await desk.target.hello())["pools"]
            reports = [await desk.target.ask("health", key, who="probe", access=Access.READ) for key in keys]
            ready = bool(reports) and all(report["ready"] for report in reports)
        except Problem:
            ready = False
        return Json({"ready": ready}, 200 if ready else 503)


def _schema(app: FastAPI, names: list[str]) -> dict[str, Any]:
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, openapi_version="3.1.0", routes=app.routes)
        kinds = found.setdefault("components", {}).setdefault("schemas", {})
        kinds["ProblemView"] = ProblemView.model_json_schema()
        if names:
            kinds["Submission"]["properties"]["function"]["examples"] = names
        for operations in found["paths"].values():
            for operation in operations.values():
                if "requestBody" in operation:  # it may be no JSON, too long, or broken
                    operation["responses"] |= {str(status): one for status, one in problems(400, 413, 415).items()}
        app.openapi_schema = found
    return app.openapi_schema
