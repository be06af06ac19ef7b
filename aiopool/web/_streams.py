"""The routes of server-sent events; what is sent stands in `_hub`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any, final

from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from aiopool._control.problems import Problem
from aiopool.web._desk import Desk, JobId, PoolKey, problems
from aiopool.web._hub import Watch

__all__ = ["add_streams"]

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "state, job, gap, problem, bye", "content": {"text/event-stream": {}}}
}


@final
class Events(StreamingResponse):
    """Server-sent events; whoever goes away is forgotten at once."""

    def __init__(self, stream: AsyncGenerator[str]) -> None:
        self._stream = stream
        super().__init__(stream, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `StreamingResponse`."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.aclose()


Types = Annotated[str | None, Query(max_length=500, description="Of events: JobFailed,JobRetrying; * for all.")]
Limit = Annotated[int | None, Query(ge=1, le=100, description="End after so many states.")]
LastId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=20, description="Go on behind this one.")]


def add_streams(api: APIRouter, desk: Desk) -> None:
    """Add the routes."""

    def watch(request: Request, pool: str, types: str | None, limit: int | None, last: str | None, **of: Any) -> Events:
        """Begin a stream.

        Raises:
            Problem: there are too many already.
        """
        if desk.hubs.streams >= desk.config.max_streams:
            raise Problem(
                "too-many", f"{desk.config.max_streams} streams are open: close a page, or poll /pools/{{pool}}"
            )
        return Events(
            Watch(
                desk.hubs,
                desk.target,
                pool,
                who=request.state.who,
                access=request.state.access,
                types=None if types is None else [one for one in types.split(",") if one not in ("", "*")][:50],
                after=int(last) if last is not None and last.isdecimal() else None,
                frames=limit,
                seconds=desk.config.stream_seconds,
                **of,
            ).stream()
        )

    @api.get("/pools/{pool}/events", response_class=StreamingResponse, responses=STREAM | problems(429))
    async def events(
        request: Request,
        pool: PoolKey,
        rows: Annotated[int, Query(ge=0, le=200, description="Of running jobs in each state.")] = 0,
        types: Types = None,
        limit: Limit = None,
        last_event_id: LastId = None,
    ) -> Response:
        """Send the state of a pool once a second, and what happens, as server-sent events.

        It ends after 25 seconds; a browser comes back by itself, and is asked for its access again.
        """
        await desk.ask(request, "status", pool)  # 404, rather than a stream that says so
        return watch(request, pool, types, limit, last_event_id, rows=rows)

    @api.get("/pools/{pool}/jobs/{id}/events", response_class=StreamingResponse, responses=STREAM | problems(410, 429))
    async def job_events(
        request: Request,
        pool: PoolKey,
        id: JobId,
        types: Types = "*",
        limit: Limit = None,
        last_event_id: LastId = None,
    ) -> Response:
        """Send the state of a job once a second, and what happens to it, until it has ended.

        It ends after 25 seconds, too, without `bye`; a browser comes back by itself, and goes on where it was.
        """
        found = await desk.ask(request, "job", pool, id=id)
        return watch(request, pool, types, limit, last_event_id, job=str(found["id"]))
