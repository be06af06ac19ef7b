"""The routes about jobs that are there: list them, look at one, steer one."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from aiopool._control.filters import ENDED
from aiopool.web._answers import Json, etag, not_modified
from aiopool.web._desk import UNCHANGED, Desk, JobId, PoolKey, answers, problems
from aiopool.web._models import Changed, JobChange, JobList, JobPage, JobView, Reason
from aiopool.web._pools import CHANGED, KEEP, IfMatch, tagged, wanted_version

__all__ = ["add_jobs"]


def add_jobs(api: APIRouter, desk: Desk) -> None:
    """Add the routes."""

    @api.get("/pools/{pool}/jobs", responses=answers(JobPage, "A page", Link="rel=next") | problems(400))
    async def jobs(request: Request, pool: PoolKey, query: Annotated[JobList, Query()]) -> Response:
        """List jobs, and say how many were looked at for it."""
        wanted = query.model_dump(exclude_none=True)
        page = await desk.ask(request, "jobs", pool, **wanted)
        headers = {}
        if page["next"] is not None:
            given = query.model_dump(exclude_none=True, exclude_defaults=True) | {"cursor": page["next"]}
            headers["link"] = f'<jobs?{urlencode(given)}>; rel="next"'
        return Json(page, headers=headers)

    @api.get("/pools/{pool}/jobs/{id}", responses=answers(JobView, "The job", ETag="of it") | UNCHANGED | problems(410))
    async def job(request: Request, pool: PoolKey, id: JobId) -> Response:
        """Show all that is known of a job."""
        found = await desk.ask(request, "job", pool, id=id)
        if found["status"] not in ENDED and "version" in found:  # one that waits in a store cannot be changed
            return tagged(found)
        tag = etag(found)
        return not_modified(request, tag, KEEP) or Json(found, headers=KEEP | {"etag": tag})

    @api.patch("/pools/{pool}/jobs/{id}", responses=answers(Changed, "It is done") | problems(*CHANGED))
    async def change_job(
        request: Request, pool: PoolKey, id: JobId, body: JobChange, if_match: IfMatch = None
    ) -> Response:
        """Change the place in line of a job that waits, or the time limit of its attempts."""
        wanted = {name: "none" if one is None else one for name, one in body.model_dump(exclude_unset=True).items()}
        return Json(await desk.ask(request, "change_job", pool, id=id, version=wanted_version(if_match), **wanted))

    @api.get("/pools/{pool}/jobs/{id}/stack", responses=answers(dict[str, Any], "Its frames") | problems(409))
    async def stack(
        request: Request, pool: PoolKey, id: JobId, depth: Annotated[int, Query(ge=1, le=50)] = 20
    ) -> Response:
        """Show where a running job is suspended."""
        return Json(await desk.ask(request, "stack", pool, id=id, depth=depth))

    @api.post(
        "/pools/{pool}/jobs/{id}/cancel",
        responses=answers(dict[str, Any], "It waited, and is cancelled")
        | answers(dict[str, Any], "It runs, and was told to end", 202)
        | problems(409),
    )
    async def cancel(request: Request, pool: PoolKey, id: JobId, body: Reason | None = None) -> Response:
        """Cancel a job."""
        done = await desk.ask(request, "cancel", pool, id=id, reason=None if body is None else body.reason)
        return Json(done, 200 if done["status"] in ENDED else 202)
