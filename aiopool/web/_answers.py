"""Answers: JSON, problems in the form of RFC 9457, and the headers that each of them has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from aiopool._control.problems import Problem
from aiopool._runtime.faults import describe_error

__all__ = ["HEADERS", "Json", "add_handlers", "etag", "not_modified", "problem_answer"]

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
# Seconds to wait before asking again, by the type of a problem.
RETRY_AFTER = {
    "queue-full": 1,
    "loop-blocked": 2,
    "closing": 10,
    "too-many": 5,
    "store-lost": 5,
    "under-way": 1,
    "program-gone": 10,
}
_BY_STATUS = {
    400: "bad-request",
    401: "not-known",
    403: "not-allowed",
    404: "not-found",
    405: "no-such-method",
    409: "conflict",
    413: "too-large",
    415: "not-json",
    429: "too-many",
}


@final
class Json(JSONResponse):
    """JSON in ASCII: half a character, which a name may have, can be written, too."""

    def render(self, content: Any) -> bytes:
        """Write it."""
        return json.dumps(content, allow_nan=False, separators=(",", ":"), default=str).encode()


def problem_answer(problem: Problem, request: Request, headers: Mapping[str, str] | None = None) -> Response:
    """Return a problem: as JSON, or as text to whoever opens a page."""
    said = problem.to_dict()
    all_headers = HEADERS | dict(headers or {})
    if problem.kind in RETRY_AFTER:
        all_headers["retry-after"] = str(RETRY_AFTER[problem.kind])
    if problem.kind == "not-known":
        all_headers["www-authenticate"] = 'Bearer realm="aiopool"'
    if "text/html" in request.headers.get("accept", "") and "/api/" not in request.scope["path"]:
        return PlainTextResponse(f"{said['title']}\n\n{said['detail']}\n", problem.status, all_headers)
    return Json(said, problem.status, all_headers, media_type="application/problem+json")


def etag(value: Any) -> str:
    """Return a text that is another one for another value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"'


def not_modified(request: Request, tag: str, headers: Mapping[str, str]) -> Response | None:
    """Return a 304, if whoever asks has it already."""
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return Response(status_code=304, headers=dict(headers) | {"etag": tag}) if tag in known or "*" in known else None


def add_handlers(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Let an app answer with problems, whatever goes wrong.

    Args:
        app: the app.
        routes: of its API, to say which methods a path has.
    """

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return problem_answer(error, request)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem_answer(_invalid(error), request)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code not in _BY_STATUS:  # a redirect, as to a page where one logs in
            return Response(status_code=error.status_code, headers=HEADERS | dict(error.headers or {}))
        detail = str(error.detail)
        if detail == HTTPStatus(error.status_code).phrase:
            detail = f"{request.method} {request.scope['path']!r:.200}"
        headers = dict(error.headers or {})
        if error.status_code == 405:  # of all routes of the path, not of the first one
            path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
            methods = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
            headers |= {"allow": ", ".join(sorted(methods))} if methods else {}
        return problem_answer(Problem(_BY_STATUS[error.status_code], detail), request, headers)

    async def on_error(request: Request, error: Exception) -> Response:
        return problem_answer(Problem("error", f"it has failed, and is logged: {describe_error(error)}"), request)

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_error)


def _invalid(error: RequestValidationError) -> Problem:
    """Say what is wrong with a request, without what was sent: it may be a secret, or no JSON."""
    errors = [
        {"in": ".".join(str(part)[:100] for part in one["loc"]), "detail": str(one["msg"])[:500]}
        for one in error.errors()[:20]
    ]
    broken = any(one["type"] == "json_invalid" for one in error.errors())
    words = "; ".join(f"{one['in']}: {one['detail']}" for one in errors[:3])
    return Problem("bad-request" if broken else "invalid", words, errors=errors)
