"""`Guard`: what each request passes before anything else sees it, pages and streams included.

    the name of the server    a page of another site whose name was made to point here is refused (DNS rebinding)
    who asks                  `access(request)`; nobody is let in because of where they come from
    from which page           a request that changes something comes from our own pages, or has a token
    the body                  JSON, or our own form; not too long

Every method but GET, HEAD and OPTIONS counts as one that changes something. Paths are those of the ASGI scope:
`request.url` is made of the `Host` that was sent.
"""

from __future__ import annotations

import logging
from typing import Any, final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiopool._control.problems import Problem
from aiopool._control.verbs import Access
from aiopool._observe.metrics import label_text
from aiopool._runtime.faults import log_fault
from aiopool.web._answers import HEADERS, problem_answer
from aiopool.web._config import Config, host_name, origin_of

__all__ = ["Guard"]

logger = logging.getLogger("aiopool.web")

SAFE = ("GET", "HEAD", "OPTIONS")
MAX_BODY = 2**20
FORM = "application/x-www-form-urlencoded"


@final
class Guard:
    """The middleware; see the module."""

    def __init__(self, app: ASGIApp, config: Config) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "there are no WebSockets here"})
            return
        request = Request(scope, receive)
        try:
            await self._check(request)
            body = None if scope["method"] in SAFE else await _body(request)
        except Problem as problem:
            await problem_answer(problem, request)(scope, receive, send)
            return
        except HTTPException as error:  # access() sends somebody elsewhere
            headers = HEADERS | dict(error.headers or {})
            await Response(error.detail, error.status_code, headers)(scope, receive, send)
            return
        await self._app(_trimmed(scope), receive if body is None else _again(body, receive), _with_headers(send))

    async def _check(self, request: Request) -> None:
        scope, config = request.scope, self._config
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        host = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
        if not config.knows_host(host):
            shown = host_name(host) or f"{host[:100]!r}"
            raise Problem(
                "host-not-allowed",
                f"Host {shown} is not allowed: add hosts=[{shown!r}] where the app is made, or --host {shown} to the "
                "command, if it is a name of this server",
            )
        request.state.access = request.state.who = None  # never what somebody else has left there
        access = await self._ask(request)
        if access is None and scope["method"] in SAFE and scope["path"] in config.open_paths:
            return
        if access is None:
            raise Problem(
                "not-known", "access() knows nobody who asks so: log in, or send a token: Authorization: Bearer ..."
            )
        request.state.access = access
        request.state.who = _who(request)
        if scope["method"] in SAFE:
            return
        _check_site(request, host, config)
        if access < Access.OPERATE:
            raise Problem(
                "not-allowed",
                f"this is read-only for you: {scope['method']} takes operate access, and access() gave you read",
            )

    async def _ask(self, request: Request) -> Access | None:
        try:
            return await self._config.access_of(request)
        except HTTPException:
            raise
        except Exception as error:
            log_fault(logger, "access() has failed, so the request is refused", error=error)
            raise Problem("error", "access() has failed, and is logged: nobody is let in") from error


def _trimmed(scope: Scope) -> Scope:
    """Return a request without the slash that some servers add to each path of an app that is mounted (Litestar)."""
    path = scope["path"]
    added = "/api/" in path or (len(path) > 1 and "litestar_app" in scope)
    if path.endswith("/") and added and not path.endswith("/api/v1/"):
        return {**scope, "path": path[:-1]}
    return scope


def _who(request: Request) -> str:
    """Return the name of whoever asks, for the log: what access() has said, or the user of the app, or an address."""
    who = request.state.who
    user = request.scope.get("user")
    if who is None and getattr(user, "is_authenticated", False):
        who = getattr(user, "display_name", None)
    if who is None:
        client = request.scope.get("client")
        who = client[0] if client else "somebody"
    return label_text(str(who))


def _check_site(request: Request, host: str, config: Config) -> None:
    """Refuse what a page of another site has sent.

    Raises:
        Problem: it comes from there, or it may.
    """
    headers = request.headers
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if origin is not None and origin.lower() in config.trusted_origins:
        return
    if site is not None:
        if site not in ("same-origin", "none"):
            raise Problem(
                "cross-site",
                f"Sec-Fetch-Site is {site[:50]!r}: only pages of this server may do that; add trusted_origins=["
                f"{(origin or 'https://...')[:100]!r}] if that site is yours",
            )
        return
    if origin is not None:
        ours = origin_of(request.scope.get("scheme", "http"), host)
        if origin.lower() != ours:
            raise Problem(
                "cross-site",
                f"Origin is {origin[:100]!r}, and this server is {ours!r}: only its own pages may do that; add "
                f"trusted_origins=[{origin[:100]!r}] if that is its name outside, as behind a proxy",
            )
        return
    if "authorization" not in headers:
        raise Problem(
            "cross-site",
            "neither Sec-Fetch-Site nor Origin says from which page this comes: a program sends its token as "
            f"Authorization: Bearer ..., or Origin: {origin_of(request.scope.get('scheme', 'http'), host)}",
        )


async def _body(request: Request) -> bytes:
    """Read the body of a request.

    Raises:
        Problem: it is too long, or no JSON.
    """
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MAX_BODY:
        raise Problem("too-large", f"the body has {length[:30]} bytes: send {MAX_BODY} at most, in several requests")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Problem("too-large", f"the body has more than {MAX_BODY} bytes: send it in several requests")
        parts.append(part)
    if size:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        wanted = "application/json" if "/api/" in request.scope["path"] else f"application/json or {FORM}"
        if kind not in wanted.split(" or "):
            raise Problem("not-json", f"Content-Type is {kind[:100]!r}: send {wanted}")
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body which has been read."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Send) -> Send:
    async def send_more(message: Any) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *((name.encode(), text.encode()) for name, text in HEADERS.items() if name.encode() not in there),
            ]
        await send(message)

    return send_more
