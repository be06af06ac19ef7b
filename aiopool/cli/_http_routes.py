"""Which request of the HTTP API asks what a verb of the socket asks: a table, and what to send by it. Pure."""

from __future__ import annotations

import dataclasses
import json
import string
from collections.abc import Mapping
from typing import Any, Final, final
from urllib.parse import quote

from aiopool._control.problems import Problem

__all__ = ["ROUTES", "Request", "Route", "request_for"]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """A kind of request.

    Attributes:
        method: GET, if it only looks.
        path: below that of the pool, with the names of arguments that stand in it.
        body: what is sent, whatever the arguments are.
        answers: statuses with which an answer comes, besides those of success.
    """

    method: str
    path: str
    body: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    answers: tuple[int, ...] = ()

    @property
    def names(self) -> set[str]:
        """The arguments that stand in the path."""
        return {name for _, name, _, _ in string.Formatter().parse(self.path) if name}


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A question, as it is sent.

    Attributes:
        route: of which kind.
        path: below that of the API.
        query: what stands in the address.
        body: what is sent as JSON; None: nothing.
    """

    route: Route
    path: str
    query: dict[str, str]
    body: dict[str, Any] | None


# Of several, the first whose names are all given.
ROUTES: Final[dict[str, tuple[Route, ...]]] = {
    "status": (Route("GET", ""),),
    "jobs": (Route("GET", "/jobs"),),
    "job": (Route("GET", "/jobs/{id}"),),
    "stack": (Route("GET", "/jobs/{id}/stack"),),
    "blocked": (Route("GET", "/loop"),),
    "tree": (Route("GET", "/tree"),),
    "list_groups": (Route("GET", "/groups"),),
    "metrics": (Route("GET", "/metrics"),),
    "health": (Route("GET", "/health", answers=(503,)),),
    "what_if": (Route("GET", "/simulation"),),
    "actions": (Route("GET", "/actions"),),
    "operations": (Route("GET", "/operations/{id}"), Route("GET", "/operations")),
    "pause": (Route("POST", "/groups/{group}/pause"), Route("PATCH", "", {"paused": True})),
    "resume": (Route("POST", "/groups/{group}/resume"), Route("PATCH", "", {"paused": False})),
    "resize": (Route("PATCH", ""),),
    "cancel": (Route("POST", "/jobs/{id}/cancel"),),
    "cancel_group": (Route("POST", "/groups/{group}/cancel"),),
    "reprioritize": (Route("PATCH", "/jobs/{id}"),),
    "change_job": (Route("PATCH", "/jobs/{id}"),),
    "retry": (Route("POST", "/jobs/{id}/retry"),),
    "measure": (Route("POST", "/measure"),),
    "stop_operation": (Route("DELETE", "/operations/{id}"),),
    "shutdown": (Route("POST", "/shutdown"),),
}
# Arguments that are texts in a body; the others are numbers and flags, and a command line has only texts.
_TEXTS: Final = ("reason",)


def request_for(verb: str, pool: str, arguments: Mapping[str, Any]) -> Request:
    """Return what to send for a verb.

    Raises:
        Problem: HTTP has nothing for it.
    """
    routes = ROUTES.get(verb)
    if routes is None:
        raise Problem(
            "not-found",
            f"{verb} cannot be asked over HTTP, only at the door of the program; there are: {', '.join(ROUTES)}",
        )
    route = next((one for one in routes if one.names <= arguments.keys()), None)
    if route is None:
        missing = " ".join(f"{name}=..." for name in sorted(routes[0].names))
        raise Problem("invalid", f"{verb} over HTTP needs more: write {missing}")
    inside = {name: quote(str(arguments[name]), safe="") for name in route.names}
    path = f"pools/{quote(pool, safe='')}{route.path.format_map(inside)}"
    rest = {name: value for name, value in arguments.items() if name not in inside}
    if route.method == "GET":
        return Request(route, path, {name: str(value) for name, value in rest.items()}, None)
    body = {**route.body, **{name: value if name in _TEXTS else _value(value) for name, value in rest.items()}}
    return Request(route, path, {}, body or None)


def _value(value: Any) -> Any:
    if value == "none":  # as the door of a program has it
        return None
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value  # the server says what is wrong with it
    return value
