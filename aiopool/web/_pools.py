"""The routes about pools: look at them, change them, end them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import Response

import aiopool
from aiopool._control.problems import Problem
from aiopool.web._answers import Json, etag, not_modified
from aiopool.web._desk import UNCHANGED, Desk, PoolKey, answers, problems
from aiopool.web._models import Change, EndPool, Listing, PoolView

__all__ = ["CHANGED", "KEEP", "IfMatch", "add_pools", "tagged", "wanted_version"]

IfMatch = Annotated[str | None, Header(max_length=200, description="The ETag that was read: 412 if it is another now.")]
CHANGED = (400, 409, 412, 413, 415)
# Up to eight numbers from 1 to 10,000.
SIZES = r"^([1-9][0-9]{0,3}|10000)(,([1-9][0-9]{0,3}|10000)){0,7}$"
KEEP = {"cache-control": "private, no-cache"}


def wanted_version(tag: str | None) -> str | None:
    """Return the version that an `If-Match` names; None: any."""
    return None if tag is None or tag.strip() == "*" else tag.strip().removeprefix('"').removesuffix('"')


def tagged(answer: dict[str, Any], status: int = 200) -> Json:
    """Return an answer with its version as its ETag."""
    return Json(answer, status, {"etag": f'"{answer["version"]}"'})


def add_pools(api: APIRouter, desk: Desk) -> None:
    """Add the routes."""

    @api.get("/", responses=answers(dict[str, Any], "What is here") | problems())
    async def index(request: Request) -> Response:
        """Say what is here, and what you may do."""
        said = await desk.target.hello()
        return Json(
            {
                "version": aiopool.__version__,
                "pools": said["pools"],
                "access": request.state.access.name.lower(),
                "who": request.state.who,
                "pid": said["pid"],
                "program": said["program"],
                "links": {"pools": "pools", "functions": "functions", "openapi": "openapi.json"},
            }
        )

    @api.get("/functions", responses=answers(Listing, "The functions", ETag="of the list") | UNCHANGED | problems())
    async def functions(request: Request) -> Response:
        """List the functions that can be submitted, with a JSON schema of their parameters."""
        rows = [{"name": one.name, "params": one.signature.schema()} for one in desk.config.handlers or ()]
        tag = etag(rows)
        return not_modified(request, tag, KEEP) or Json({"items": rows}, headers=KEEP | {"etag": tag})

    @api.get("/pools", responses=answers(Listing, "The pools") | problems())
    async def pools(request: Request) -> Response:
        """List the open pools, in numbers."""
        rows = []
        for key in (await desk.target.hello())["pools"]:
            try:
                rows.append(await desk.ask(request, "status", key))
            except Problem as problem:
                if problem.kind != "not-found":  # it has been closed meanwhile
                    raise
        return Json({"items": rows})

    @api.get("/pools/{pool}", responses=answers(PoolView, "The pool", ETag="of what can be changed") | problems())
    async def pool(
        request: Request, pool: PoolKey, rows: Annotated[int, Query(ge=0, le=200, description="Of running jobs.")] = 0
    ) -> Response:
        """Show a pool in numbers."""
        return tagged(await desk.ask(request, "status", pool, rows=rows))

    @api.patch(
        "/pools/{pool}", responses=answers(PoolView, "As it is now", ETag="as above") | problems(409, 412, 413, 415)
    )
    async def change(request: Request, pool: PoolKey, body: Change, if_match: IfMatch = None) -> Response:
        """Change how many jobs run at once, or whether any starts."""
        version = wanted_version(if_match)
        if body.size is not None:
            excess = body.cancel_excess or None
            await desk.ask(request, "resize", pool, size=body.size, cancel_excess=excess, version=version)
            version = None  # that was ours
        if body.paused is not None:
            await desk.ask(request, "pause" if body.paused else "resume", pool, version=version)
        now = await desk.ask(request, "status", pool)
        if body.size is None and body.paused is None and version not in (None, now["version"]):
            raise Problem("changed", f"it is {now['version']} now: look again, then change it")
        return tagged(now)

    def look(path: str, verb: str, about: str) -> None:
        @api.get(path, name=verb, description=about, responses=answers(dict[str, Any], about) | problems())
        async def show(request: Request, pool: PoolKey) -> Response:
            answer = await desk.ask(request, verb, pool)
            return Json(answer, 503 if verb == "health" and not answer["ready"] else 200)

    look("/pools/{pool}/metrics", "metrics", "How jobs of each name did, with measuring on.")
    look("/pools/{pool}/health", "health", "How the pool is, with reasons; 503: it should get no work.")
    look("/pools/{pool}/loop", "blocked", "Who blocks the event loop, and the last times that it was blocked.")
    look("/pools/{pool}/actions", "actions", "Who did what to the pool from outside, the newest first.")
    look("/pools/{pool}/groups", "list_groups", "The groups that have live jobs or are paused.")
    look("/pools/{pool}/operations", "operations", "What is done to many jobs, and how far it is.")

    @api.get("/pools/{pool}/tree", responses=answers(dict[str, Any], "The tree") | problems())
    async def tree(
        request: Request, pool: PoolKey, root: Annotated[str | None, Query(max_length=500)] = None
    ) -> Response:
        """Show the jobs that were submitted by jobs, or have submitted some."""
        return Json(await desk.ask(request, "tree", pool, root=root))

    @api.get("/pools/{pool}/simulation", responses=answers(dict[str, Any], "The sizes") | problems(409))
    async def simulation(
        request: Request,
        pool: PoolKey,
        sizes: Annotated[
            str | None, Query(pattern=SIZES, max_length=100, description="8,16,32; left out: some around its own.")
        ] = None,
        window: Annotated[
            float | None, Query(ge=0, le=1e9, description="Only jobs that ended in the last so many seconds.")
        ] = None,
    ) -> Response:
        """Show how long the jobs that are remembered would have waited at other sizes; 409: they are too few."""
        return Json(await desk.ask(request, "what_if", pool, sizes=sizes, window=window))

    @api.post("/pools/{pool}/measure", responses=answers(dict[str, Any], "It measures") | problems())
    async def measure(request: Request, pool: PoolKey) -> Response:
        """Count and time jobs by their names from now on."""
        return Json(await desk.ask(request, "measure", pool))

    if desk.config.shutdown:

        @api.post("/pools/{pool}/shutdown", responses=answers(dict[str, Any], "It ends", 202) | problems())
        async def shutdown(request: Request, pool: PoolKey, body: EndPool | None = None) -> Response:
            """End a pool: let its jobs finish for so many seconds, then cancel them."""
            return Json(await desk.ask(request, "shutdown", pool, timeout=(body or EndPool()).timeout), 202)
