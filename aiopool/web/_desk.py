"""`Desk`: what the routes share: the pools that are asked, the settings, who watches; and words for the schema."""

from __future__ import annotations

import dataclasses
import logging
from typing import Annotated, Any, final

from fastapi import Path
from starlette.requests import Request

from aiopool import Handlers
from aiopool._control.problems import TITLES, Problem
from aiopool._control.verbs import Access
from aiopool.web._config import Config
from aiopool.web._hub import Hubs
from aiopool.web._models import OperationView
from aiopool.web._target import Here, Target

__all__ = ["UNCHANGED", "Desk", "GroupName", "JobId", "PoolKey", "answers", "problems"]

logger = logging.getLogger("aiopool.web")

PoolKey = Annotated[str, Path(max_length=200, description="The key of a pool, as /pools lists it.")]
JobId = Annotated[str, Path(max_length=500, description="The id of a job.")]
GroupName = Annotated[str, Path(max_length=200, description="The name of a group.")]

_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemView"}}}


UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "It is what If-None-Match says"}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the responses of a route for the schema: those that each route has, and some of its own."""
    titles = dict(reversed(TITLES.values()))
    return {
        status: {"description": titles[status], "content": _PROBLEM}
        for status in sorted({401, 403, 404, 422, 500, 503, *statuses})
    }


def answers(kind: Any, about: str, status: int = 200, **headers: str) -> dict[int | str, dict[str, Any]]:
    """Return the response of a route that has worked, for the schema; one with a `Location` leads to others."""
    found: dict[str, Any] = {"description": about, "model": kind}
    if headers:
        found["headers"] = {
            name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    if "Location" in headers:
        names = (
            ("operation", "stop")
            if kind is OperationView
            else ("job", "result", "stack", "cancel", "change_job", "retry")
        )
        ids = {"pool": "$request.path.pool", "id": "$response.body#/id"}
        found["links"] = {name: {"operationId": name, "parameters": ids} for name in names}
    return {status: found}


@final
@dataclasses.dataclass(frozen=True)
class Desk:
    """What the routes of an app share.

    Attributes:
        target: the pools that are asked.
        config: what the app was told.
        hubs: who watches.
    """

    target: Target
    config: Config
    hubs: Hubs

    async def ask(self, request: Request, verb: str, pool: str | None, **arguments: Any) -> dict[str, Any]:
        """Ask for whoever sends a request; what they may do is checked where it is done."""
        given = {name: value for name, value in arguments.items() if value is not None}
        return await self.target.ask(verb, pool, who=request.state.who, access=request.state.access, **given)

    def note(self, pool: str, request: Request, about: str) -> None:
        """Write down who has submitted what: in the log alone, or it would push out who has paused the pool."""
        logger.info("%s: submit %s of pool %r", request.state.who, about, pool)

    def need(self, request: Request, access: Access, what: str) -> None:
        """Refuse what somebody may not do.

        Raises:
            Problem: they may not.
        """
        has: Access = request.state.access
        if has < access:
            raise Problem(
                "not-allowed",
                f"{what} takes {access.name.lower()} access, and you have {has.name.lower()}, as access() says",
            )

    def need_here(self, what: str) -> tuple[Here, Handlers]:
        """Return the pools and the functions of this program; refuse what needs them, if they are not here.

        Raises:
            Problem: they are not here.
        """
        if not isinstance(self.target, Here):
            raise Problem(
                "conflict",
                f"{what} needs the functions of the program, and this app looks at another process: mount create_app() "
                "in the program itself, or start it with `aiopool serve`",
            )
        if self.config.handlers is None:
            raise Problem(
                "conflict", f"{what} needs registered functions: create_app(handlers=...), an aiopool.Handlers"
            )
        return self.target, self.config.handlers
