"""A server for the app where it stands alone: on this machine only, unless it is told otherwise and has a token."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from typing import final

import uvicorn
from fastapi import FastAPI
from starlette.requests import Request

from aiopool import Handlers
from aiopool.web._app import app_of
from aiopool.web._config import AccessName, Config
from aiopool.web._login import Login, read_token
from aiopool.web._target import Target

__all__ = ["LOOPBACK", "StandAlone"]

LOOPBACK = "127.0.0.1"
# Seconds that requests under way get when the server ends; streams end at once.
GRACE = 1
MAX_CONNECTIONS = 1000


@final
class _Server(uvicorn.Server):
    """Ends streams first, and leaves signals to whoever started it."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._fastapi = app

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        self._fastapi.state.hubs.close()
        await super().shutdown(sockets)


@final
class StandAlone:
    """The app with a server and a login of its own.

    Attributes:
        app: the app.
        url: where it is.
        link: the same, with the code that lets a browser in once.
    """

    def __init__(
        self,
        target: Target,
        *,
        listen: str = LOOPBACK,
        port: int = 0,
        token_file: str | None = None,
        read_only: bool = False,
        hosts: Sequence[str] = (),
        trusted_origins: Sequence[str] = (),
        root_path: str = "",
        handlers: Handlers | None = None,
        pool: str | None = None,
        title: str = "aiopool",
    ) -> None:
        """Listen; nothing is answered before `serve`.

        Args:
            target: the pools.
            listen: the address; another one than that of this machine for itself needs `token_file`.
            port: where; 0: a free one.
            token_file: has the token that lets programs in.
            read_only: nobody may do more than look.
            hosts: names of the server, besides its addresses and `localhost`.
            trusted_origins: as in `create_app`.
            root_path: the prefix that a proxy before us takes off.
            handlers: as in `create_app`.
            pool: as in `create_app`.
            title: as in `create_app`.

        Raises:
            ValueError: it may not listen there, or the token cannot be read.
            OSError: it cannot listen there.
        """
        level: AccessName = "read" if read_only else "operate"
        token = None if token_file is None else read_token(token_file)
        if token is None and not _is_loopback(listen):
            raise ValueError(
                f"--listen {listen} can be reached from elsewhere: write --token-file FILE, too, with a token that "
                f"programs send; without it, it listens on {LOOPBACK} only"
            )
        if root_path and (not root_path.startswith("/") or root_path.endswith("/") or "//" in root_path):
            raise ValueError(f"--root-path {root_path}: write it as /pool, or /tools/pool")
        everywhere = listen in ("0.0.0.0", "::")  # noqa: S104 - it is asked for, and a token with it
        name = listen if not everywhere else hosts[0].partition(":")[0] if hosts else socket.gethostname()
        config = Config.of(
            access=_nobody,
            handlers=handlers,
            hosts=[*hosts, name] if everywhere else hosts,
            trusted_origins=trusted_origins,
            title=title,
            pool=pool,
            open_paths=frozenset((f"{root_path}/livez", f"{root_path}/readyz")),
        )
        self._socket = _listen(listen, port)
        bound = self._socket.getsockname()[1]
        login = Login(level, token, f"aiopool-{bound}")
        self.url = f"http://{f'[{name}]' if ':' in name else name}:{bound}{root_path}/"
        self.link = f"{self.url}?code={login.code}"
        self.app = app_of(target, dataclasses.replace(config, access=login))
        self._server = _Server(
            uvicorn.Config(
                self.app,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # whoever asks could write them
                lifespan="off",
                ws="none",
                root_path=root_path,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=GRACE,
            ),
            self.app,
        )

    async def serve(self) -> None:
        """Answer until `stop`."""
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """End the streams, and the server after a second; from its loop."""
        self.app.state.hubs.close()
        self._server.should_exit = True

    def close(self) -> None:
        """Give the port back, if it was never served."""
        self._socket.close()


def _listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens.

    It names its protocol, else asyncio does not know that it is TCP, and leaves Nagle's algorithm on: an answer of two
    parts then takes 40 ms.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def _nobody(request: Request) -> None:
    """Let nobody in: until there is a port, and a login with it."""


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
