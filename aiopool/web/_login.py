"""`Login`: who may do what where the app stands alone: a token for programs, a link that works once for a browser."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from pathlib import Path
from typing import final

from starlette.exceptions import HTTPException
from starlette.requests import Request

from aiopool.web._config import AccessName

__all__ = ["Login", "read_token"]

# Seconds until a browser needs a new link.
SESSION = 12 * 3600.0
MIN_TOKEN = 16


@final
class Login:
    """Says what somebody may do, as `access` of an app.

    Attributes:
        code: opens the door once, at the first page: `/?code=...`; None: it was used.
    """

    def __init__(self, level: AccessName, token: str | None, cookie: str) -> None:
        """Make a code.

        Args:
            level: what whoever is let in may do.
            token: lets programs in; None: there is none.
            cookie: the name of the cookie: browsers send those of one host to each of its ports.
        """
        self.code: str | None = secrets.token_urlsafe(24)
        self._level: AccessName = level
        self._token = None if token is None else _digest(token)
        self._cookie = cookie
        self._sessions: dict[bytes, float] = {}  # by what the cookie has, until when

    def __call__(self, request: Request) -> AccessName | None:
        """See `aiopool.web.create_app`."""
        given = request.headers.get("authorization")
        if given is not None:
            kind, _, token = given.partition(" ")
            fits = self._token is not None and hmac.compare_digest(_digest(token.strip()), self._token)
            request.state.who = "token"
            return self._level if fits and kind.lower() == "bearer" else None
        root = request.scope.get("root_path", "")
        code = request.query_params.get("code")
        if code is not None and request.method == "GET" and request.scope["path"] in (root + "/", root or "/"):
            self._exchange(code, root)
        until = self._sessions.get(_digest(request.cookies.get(self._cookie, "")))
        request.state.who = "browser"
        return self._level if until is not None and time.monotonic() < until else None

    def _exchange(self, code: str, root: str) -> None:
        """Let a browser in that has the code, and send it to the page without the code."""
        if self.code is None or not hmac.compare_digest(_digest(code), _digest(self.code)):
            return
        self.code = None
        session = secrets.token_urlsafe(32)
        now = time.monotonic()
        self._sessions = {one: until for one, until in self._sessions.items() if now < until}
        self._sessions[_digest(session)] = now + SESSION
        cookie = f"{self._cookie}={session}; Path={root or '/'}; HttpOnly; SameSite=Strict; Max-Age={int(SESSION)}"
        # Not by `Location: /`: before us may be a proxy with a prefix that we do not know.
        raise HTTPException(303, headers={"location": ".", "set-cookie": cookie})


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def read_token(file: str) -> str:
    """Return the token in a file.

    Raises:
        ValueError: there is none, or it is too short to be one.
    """
    try:
        token = Path(file).read_text().strip()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--token-file {file} cannot be read: {error}") from None
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"--token-file {file} has no token of at least {MIN_TOKEN} characters in one line: write one with "
            f"python -c 'import secrets; print(secrets.token_urlsafe(32))' > {file}"
        )
    return token
