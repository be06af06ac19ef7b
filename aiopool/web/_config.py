"""`Config`: what a web app was told, checked once; and which names of the server, and which origins, are its own."""

from __future__ import annotations

import dataclasses
import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, final
from urllib.parse import urlsplit

from starlette.requests import Request

from aiopool import Handlers
from aiopool._control.verbs import Access

__all__ = ["AccessCheck", "AccessName", "Config", "host_name"]

AccessName = Literal["read", "operate", "admin"]
AccessCheck = Callable[[Request], "AccessName | Awaitable[AccessName | None] | None"]

LEVELS = {level.name.lower(): level for level in Access}
_PORTS = {"http": 80, "https": 443}
_WRITE_ACCESS = """create_app() needs access=: a function that says what the one who asks may do, such as

    def access(request):  # None: nothing; "read": look; "operate": submit and steer jobs; "admin": end the pool, too
        user = request.scope.get("user")
        return "operate" if user is not None and user.is_authenticated else None

It is called for each request. That somebody comes from this machine proves nothing: each page of a browser can ask."""


@final
@dataclasses.dataclass(frozen=True)
class Config:
    """What a web app was told.

    Attributes:
        access: says what somebody may do.
        hosts: the names of the server, besides its addresses and `localhost`; lower case, with or without a port.
        trusted_origins: other sites whose pages may steer: `https://admin.example.org`.
        handlers: the functions that may be submitted; None: none.
        title: of the pages.
        pool: the key of the pool that is meant where none is named; None: the only one.
        shutdown: whether the pool can be ended through it.
        stream_seconds: after so long a stream of events ends, and the browser comes back.
        max_streams: so many streams at once.
        open_paths: may be read by anybody, as by what looks whether we live.
    """

    access: AccessCheck
    hosts: frozenset[str] = frozenset()
    trusted_origins: frozenset[str] = frozenset()
    handlers: Handlers | None = None
    title: str = "aiopool"
    pool: str | None = None
    shutdown: bool = False
    stream_seconds: float = 25.0
    max_streams: int = 100
    open_paths: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, *, access: object, handlers: object, hosts: Iterable[str], trusted_origins: Iterable[str], **more: Any
    ) -> Config:
        """Check what was given, and return it.

        Raises:
            TypeError, ValueError: it cannot be used; the text says what to write.
        """
        if access is None or not callable(access):
            raise TypeError(_WRITE_ACCESS if access is None else f"access={access!r} is no function. {_WRITE_ACCESS}")
        if handlers is not None and not isinstance(handlers, Handlers):
            raise TypeError(f"handlers={handlers!r}: give an aiopool.Handlers, or leave it out")
        for handler in handlers or ():
            handler.signature  # noqa: B018 - raises for a function whose arguments JSON cannot hold
        if isinstance(hosts, str) or isinstance(trusted_origins, str):
            raise TypeError('hosts and trusted_origins are lists: hosts=["pool.example.org"]')
        check: Any = access
        return cls(
            access=check,
            handlers=handlers,
            hosts=frozenset(_host(one) for one in hosts),
            trusted_origins=frozenset(_trusted(one) for one in trusted_origins),
            **more,
        )

    async def access_of(self, request: Request) -> Access | None:
        """Ask what somebody may do.

        Raises:
            TypeError: the function has returned something else than it may.
        """
        found: Any = self.access(request)
        if inspect.isawaitable(found):
            found = await found
        if found is None:
            return None
        if not isinstance(found, str) or found not in LEVELS:
            raise TypeError(f'access() has returned {found!r:.100}: return None, "read", "operate" or "admin"')
        return LEVELS[found]

    def knows_host(self, host: str) -> bool:
        """Whether a `Host` is a name of ours.

        An address, or `localhost`, cannot be that of another site: what a browser connects to then is what stands
        there. A name can: whoever owns `evil.example` may let it point to this machine.
        """
        name = host_name(host)
        if name is None:
            return False
        if host.lower() in self.hosts or name in self.hosts or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def host_name(host: str) -> str | None:
    """Return the name in a `Host` without its port, in lower case; None: that is no host."""
    if not host or not host.isascii() or not host.isprintable() or any(c in host for c in " /\\@?#,;'\"<>%"):
        return None
    if host.startswith("["):
        name, bracket, port = host.partition("]")
        if not bracket or (port and not port.startswith(":")):
            return None
        name, port = name + bracket, port.removeprefix(":")
    else:
        name, _, port = host.partition(":")
    return name.lower().rstrip(".") or None if not port or (port.isdecimal() and int(port) < 65536) else None


def origin_of(scheme: str, host: str) -> str:
    """Return the origin of a scheme and a `Host`, as a browser would write it."""
    host = host.lower()
    port = f":{_PORTS.get(scheme, '')}"
    return f"{scheme}://{host.removesuffix(port)}"


def _host(host: object) -> str:
    if not isinstance(host, str) or host_name(host) is None:
        raise ValueError(f'hosts: {host!r} is no name of a server: write "pool.example.org" or "pool.example.org:8080"')
    return host.lower().rstrip(".")


def _trusted(origin: object) -> str:
    parts = urlsplit(origin) if isinstance(origin, str) else None
    if (
        parts is None
        or parts.scheme not in _PORTS
        or host_name(parts.netloc) is None
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        raise ValueError(f'trusted_origins: {origin!r} is no origin: write "https://pool.example.org"')
    return origin_of(parts.scheme, parts.netloc)
