"""The route of server-sent events; what is sent stands in `_hub`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any, final

from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from aiopool._control.problems import Problem
from aiopool.web._desk import Desk, PoolKey, problems
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


def add_streams(api: APIRouter, desk: Desk) -> None:
    """Add the route."""

    @api.get(
        "/pools/{pool}/events",
        response_class=StreamingResponse,
        responses=STREAM | problems(429),
    )
    async def events(
        request: Request,
        pool: PoolKey,
        rows: Annotated[int, Query(ge=0, le=200, description="Of running jobs in each state.")] = 0,
        types: Annotated[
            str | None,
            Query(max_length=500, description="Of events: JobFailed,JobRetried; * for all."),
        ] = None,
        limit: Annotated[int | None, Query(ge=1, le=100, description="End after so many states.")] = None,
        last_event_id: Annotated[str | None, Header(max_length=20)] = None,
    ) -> Response:
        """Send the state of a pool once a second, and what happens, as server-sent events.

        It ends after 25 seconds; a browser comes back by itself, and is asked for its access again.
        """
        await desk.ask(request, "status", pool)  # 404, rather than a stream that says so
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
                rows=rows,
                types=None if types is None else [one for one in types.split(",") if one not in ("", "*")][:50],
                after=int(last_event_id) if last_event_id is not None and last_event_id.isdecimal() else None,
                frames=limit,
                seconds=desk.config.stream_seconds,
            ).stream()
        )
