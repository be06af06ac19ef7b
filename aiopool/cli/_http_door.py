"""`HttpConnection`: a program behind the HTTP API of `aiopool web`, `aiopool serve` or a mounted app.

It is asked as a `Connection` to a socket is, and raises the same.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, final
from urllib.parse import urlsplit, urlunsplit

from aiopool._control.client import PATIENCE, NoAnswerError, NoProgramError
from aiopool._control.problems import Problem
from aiopool.cli._http_routes import ROUTES, request_for
from aiopool.cli._words import Refusal

if TYPE_CHECKING:
    from httpx2 import Response

__all__ = ["HttpConnection", "is_url", "read_token", "split_url"]

_GATEWAY: Final = (502, 503, 504)
_SAID: Final = ("pid", "program", "access", "pools")


def is_url(target: str | None) -> bool:
    """Return whether a target is an address."""
    return target is not None and target.lower().startswith(("http://", "https://"))


def split_url(target: str) -> tuple[str, str | None]:
    """Return the address of the app, and the key of the pool that stands behind a `#`.

    Raises:
        Refusal: it is no such address.
    """
    try:
        parts = urlsplit(target)
        parts.port  # noqa: B018 - it is read here
    except ValueError as error:
        raise Refusal(f"{target}: {error}; write http://127.0.0.1:8765/#mail") from None
    if parts.query:
        raise Refusal("a link with ?code= lets a browser in, once: write the address without it, and --token-file FILE")
    if not parts.hostname:
        raise Refusal(f"{target} names no server: write http://127.0.0.1:8765/#mail")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")), parts.fragment or None


def read_token(file: str) -> str:
    """Return the token in a file.

    Raises:
        Refusal: there is none.
    """
    try:
        token = Path(file).read_text().strip()
    except (OSError, UnicodeError) as error:
        raise Refusal(f"--token-file {file} cannot be read: {error}") from None
    if not token or not token.isascii() or not token.isprintable():
        raise Refusal(f"--token-file {file} has no token in one line")
    return token


@final
class HttpConnection:
    """A connection to the API of one program. It is for one thread at a time; close it, or use it as a `with` block.

    Attributes:
        url: the address of the app, as it is shown.
        hello: what the program says of itself.

    Raises:
        NoProgramError: nobody listens there, or another program.
        PermissionError: the token is none that lets us in.
        NoAnswerError: it does not answer.
        Refusal: httpx2 is missing.

    Example:
        with HttpConnection("http://127.0.0.1:8765", token) as connection:
            print(connection.ask("status", "mail")["numbers"])
    """

    def __init__(self, url: str, token: str | None = None, patience: float = PATIENCE) -> None:
        try:
            import httpx2
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "httpx2":
                raise
            raise Refusal(
                "an address needs httpx2, which is not installed; in the checkout of aiopool, write: "
                'pip install -e ".[client]"'
            ) from None
        self._transport_error = httpx2.TransportError
        self._nobody, self._timeout = httpx2.ConnectError, httpx2.TimeoutException
        self._address, self._token = url, token
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]  # without a password
        self.url = urlunsplit((parts.scheme, host, parts.path, "", ""))
        # Without a token it may be let in as a page of the same site is.
        headers = {"origin": f"{parts.scheme}://{host}"} if token is None else {"authorization": f"Bearer {token}"}
        self._http = httpx2.Client(
            base_url=f"{url}/api/v1/", headers={"accept": "application/json", **headers}, timeout=patience
        )
        self._socket: socket.socket | None = None
        try:
            said = self._hello()
        except BaseException:
            self.close()
            raise
        more = {"python": None, "verbs": _about(str(said["access"]))}
        self.hello: dict[str, Any] = {name: said[name] for name in _SAID} | more

    @property
    def pid(self) -> int:
        """The number of the process, on its machine."""
        return int(self.hello["pid"])

    def again(self, patience: float = PATIENCE) -> Self:
        """Return another connection to it."""
        return type(self)(self._address, self._token, patience)

    def ask(
        self, verb: str, pool: str | None = None, *, on_behalf_of: Mapping[str, str] | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Ask something, and return the answer.

        Args:
            verb: what to ask.
            pool: the key of the pool; None: the only one.
            on_behalf_of: their `access`; None: we do.
            arguments: of the verb; None is left out.

        Raises:
            Problem: it was refused, or did not work.
            PermissionError: it is not allowed.
            NoProgramError: the program has ended.
            NoAnswerError: there was no answer.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        request = request_for(verb, self._only_pool() if pool is None else pool, given)
        if request.route.method != "GET" and on_behalf_of is not None and on_behalf_of["access"] == "read":
            raise Problem("not-allowed", f"{verb} takes operate access, and you only look: leave out --read-only")
        return self._send(request.route.method, request.path, request.query, request.body, request.route.answers)

    def _hello(self) -> dict[str, Any]:
        try:
            said = self._send("GET", "")
        except Problem as problem:
            if problem.kind == "not-found":  # what we ask for is below the app, and we have asked beside it
                raise self._foreign("404 Not Found") from None
            raise
        if not set(_SAID) <= said.keys():
            raise self._foreign("JSON of another kind")
        return said

    def _only_pool(self) -> str:
        pools = self.hello["pools"]
        if len(pools) != 1:
            names = ", ".join(f"{self.url}#{key}" for key in pools)
            raise Problem("not-found", f"say which pool: {names}" if pools else "no pool is open there")
        return str(pools[0])

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        answers: tuple[int, ...] = (),
    ) -> dict[str, Any]:
        try:
            response = self._http.request(
                method, path, params=query or None, json=body, extensions={"trace": self._keep_socket}
            )
        except self._nobody as error:
            raise NoProgramError(f"nobody listens at {self.url}: {error}") from None
        except self._timeout:
            raise NoAnswerError(f"{self.url} has not answered {method} {path or '/'} in time") from None
        except self._transport_error as error:
            raise NoAnswerError(f"{self.url} has gone away: {error}") from None
        return self._read(method, response, answers)

    def _read(self, method: str, response: Response, answers: tuple[int, ...]) -> dict[str, Any]:
        status, kind = response.status_code, response.headers.get("content-type", "").partition(";")[0]
        try:
            said = response.json()
        except ValueError:
            said = None
        if isinstance(said, dict) and kind == "application/json" and (200 <= status < 300 or status in answers):
            return said
        if not isinstance(said, dict) or kind != "application/problem+json":
            if status in _GATEWAY:
                raise NoAnswerError(f"{self.url} answers {status} {response.reason_phrase}")
            raise self._foreign(f"{status} {response.reason_phrase}")
        problem = Problem.from_dict(said)
        if status in (401, 403):
            hint = "; write --token-file FILE" if self._token is None else ""
            raise PermissionError(f"{self.url}: {problem.detail}{hint}")
        if problem.kind == "program-gone":
            raise NoProgramError(problem.detail)
        if problem.kind == "not-found" and problem.detail.startswith(f"{method} "):
            raise Problem("not-found", f"{self.url} cannot be asked for it: its aiopool is of another version")
        raise problem

    def _foreign(self, answer: str) -> NoProgramError:
        return NoProgramError(
            f"{self.url} is no app of aiopool, for it answers {answer}: write the address under which the app is "
            "mounted, such as http://127.0.0.1:8765/pool"
        )

    def _keep_socket(self, event: str, info: Mapping[str, Any]) -> None:
        """Keep the socket of the last connection that was made; `abort` has no other way to it."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")

    def abort(self) -> None:
        """End what another thread asks at this moment, with a `NoAnswerError`. The connection is of no use any more."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _about(access: str) -> dict[str, str]:
    """Return what can be asked over HTTP with some access, each with a line about it."""
    import aiopool._control.call  # noqa: F401 - it has all verbs list themselves
    from aiopool._control.verbs import VERBS, Access

    return {verb: VERBS[verb].about for verb in ROUTES if VERBS[verb].access <= Access[access.upper()]}
