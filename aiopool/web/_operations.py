"""The routes that steer many jobs at once: groups, and operations on all that match."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from aiopool.web._answers import Json
from aiopool.web._desk import Desk, GroupName, PoolKey, answers, problems
from aiopool.web._models import Many, OperationView, Reason
from aiopool.web._once import Once

__all__ = ["add_operations"]

Number = Annotated[int, Path(ge=1, le=2**53)]


def add_operations(api: APIRouter, desk: Desk, once: Once) -> None:
    """Add the routes."""

    def group_verb(path: str, verb: str, about: str) -> None:
        @api.post(
            path, name=f"{path}_group", description=about, responses=answers(dict[str, Any], about) | problems(409)
        )
        async def act(request: Request, pool: PoolKey, group: GroupName) -> Response:
            return Json(await desk.ask(request, verb, pool, group=group))

    group_verb("/pools/{pool}/groups/{group}/pause", "pause", "Let no job of a group start.")
    group_verb("/pools/{pool}/groups/{group}/resume", "resume", "Let jobs of a group start again.")

    @api.post(
        "/pools/{pool}/groups/{group}/cancel",
        responses=answers(OperationView, "It has begun", 202, Location="of the operation") | problems(),
    )
    async def cancel_group(request: Request, pool: PoolKey, group: GroupName, body: Reason | None = None) -> Response:
        """Cancel the jobs of a group."""
        reason = None if body is None else body.reason
        begun = await desk.ask(request, "cancel_group", pool, group=group, reason=reason)
        return Json(begun, 202, {"location": f"../../operations/{begun['id']}", "retry-after": "1"})

    @api.post(
        "/pools/{pool}/operations",
        responses=answers(OperationView, "A dry run: how many match")
        | answers(OperationView, "It has begun", 202, Location="of the operation")
        | problems(409),
    )
    async def operate(request: Request, pool: PoolKey, body: Many) -> Response:
        """Do something to many jobs, in slices of the event loop's time."""

        async def begin() -> dict[str, Any]:
            wanted = body.filter.model_dump(exclude_none=True)
            return await desk.ask(
                request,
                "operation",
                pool,
                do=body.verb,
                ids=body.ids or None,
                dry_run=body.dry_run or None,
                expect=body.expect,
                reason=body.reason,
                priority=body.priority,
                **wanted,
            )

        begun = await (begin() if body.dry_run else once.answer(request, body, begin))
        if body.dry_run:
            return Json(begun)
        return Json(begun, 202, {"location": f"operations/{begun['id']}", "retry-after": "1"})

    @api.get("/pools/{pool}/operations/{id}", responses=answers(OperationView, "How far it is") | problems())
    async def operation(request: Request, pool: PoolKey, id: Number) -> Response:
        """Show how far something is that is done to many jobs."""
        return Json(await desk.ask(request, "operations", pool, id=id))

    @api.delete("/pools/{pool}/operations/{id}", responses=answers(OperationView, "It stops", 202) | problems())
    async def stop(request: Request, pool: PoolKey, id: Number) -> Response:
        """Stop something that is done to many jobs where it is."""
        return Json(await desk.ask(request, "stop_operation", pool, id=id), 202)
