"""One connection to PostgreSQL that heals, and what its errors mean.

It knows: asyncpg, and how servers, poolers and networks fail. It refuses to know tables and jobs.

Rule 1: a call ends within `PATIENCE` seconds: with an answer, or with an error of `aiopool.errors`. A connection that
did not answer in time is thrown away.

Rule 2: a call that may or may not have been carried out is sent again, with `again` set; so whoever calls sends only
what may be sent twice.

Rule 3: behind a pooler in transaction mode a call is a transaction of its own, for the pooler gives each transaction
another connection; nothing is kept in the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, final

from aiopool.errors import StoreError, StoreUnavailableError

__all__ = ["PATIENCE", "Link", "Target", "driver", "translate"]

PATIENCE: Final = 10.0
"""Seconds that a call may take, with everything."""

_CONNECT_TIMEOUT: Final = 5.0

_T = TypeVar("_T")


def driver() -> Any:
    """Return the module `asyncpg`.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        return importlib.import_module("asyncpg")
    except ImportError:
        raise RuntimeError(
            "a store in PostgreSQL needs asyncpg, which is not installed: pip install asyncpg, or the extra postgres"
        ) from None


@final
class Target:
    """Where to connect, and how a session is set.

    Attributes:
        pooler: a pooler stands between; None: it is to be found out.
        asynchronous: a commit does not wait for the disk.
    """

    def __init__(self, dsn: str, shown: str, pooler: bool | None, asynchronous: bool) -> None:
        self.dsn = dsn
        self.shown = shown
        self.pooler = pooler
        self.asynchronous = asynchronous

    async def connect(self) -> Any:
        """Return a new connection, set for our work."""
        asyncpg = driver()
        direct = not self.pooler
        conn = await asyncpg.connect(
            self.dsn,
            timeout=_CONNECT_TIMEOUT,
            command_timeout=PATIENCE,
            statement_cache_size=100 if direct and self.pooler is not None else 0,
        )
        try:
            if self.pooler is None:
                # A pooler tells a process number of its own.
                async with conn.transaction():
                    pid = await conn.fetchval("SELECT pg_backend_pid()")
                self.pooler = pid != conn.get_server_pid()
                await conn.close()
                return await self.connect()
            if direct:
                await self._set(conn)
            _keep_alive(conn)
        except BaseException:
            conn.terminate()
            raise
        return conn

    async def _set(self, conn: Any) -> None:
        commit = "off" if self.asynchronous else "on"
        # "on" raises what was switched off, and leaves stronger settings alone.
        await conn.execute(
            "SET application_name = 'aiopool'; SET lock_timeout = '5s'; SET statement_timeout = '15s'; "
            "SET idle_in_transaction_session_timeout = '30s'; "
            "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; "
            "SELECT set_config('synchronous_commit', "
            f"CASE WHEN '{commit}' = 'off' OR current_setting('synchronous_commit') = 'off' THEN '{commit}' "
            "ELSE current_setting('synchronous_commit') END, false)"
        )


def _keep_alive(conn: Any) -> None:
    """Let the kernel notice a server that has vanished."""
    transport = getattr(conn, "_transport", None)
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family == getattr(socket, "AF_UNIX", None):
        return
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _state(error: BaseException) -> str:
    """Return the five characters by which PostgreSQL names an error, of any driver; or nothing."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else ""


def _lost(error: BaseException) -> bool:
    """Return whether the connection is gone, or the server is not ready: another one may do."""
    state = _state(error)
    if state:
        return state[:2] == "08" or state in ("57P01", "57P02", "57P03", "57P05", "25006", "53300")
    asyncpg = driver()
    kinds = OSError, asyncpg.InterfaceError, asyncpg.InternalClientError
    return isinstance(error, kinds) and not isinstance(error, ValueError)  # a ValueError: an argument


def translate(error: BaseException, what: str) -> StoreError:
    """Return the error of ours for one of a driver's; `what` names the store, without secrets."""
    state = _state(error)
    text = f"{type(error).__name__}: {error}".strip()
    if state[:2] == "28":
        return StoreError(f"{what} refused the user or the password ({text}): check both in the URL")
    if state == "3D000":
        return StoreError(f"{what} has no such database ({text}): create it, or write another one in the URL")
    if state == "42501":
        return StoreError(
            f"{what} does not allow that ({text}): let the user create a schema in this database, or run "
            "the first start as its owner"
        )
    if state in ("42P01", "42883", "3F000", "42703"):
        return StoreError(
            f"{what} lacks tables or functions that were there when the store was opened, or the connection leads to "
            f"another database ({text}): open the store again, which makes them"
        )
    if state == "25P02":
        return StoreError(f"{what}: the transaction had failed before ({text}): roll it back, and begin another one")
    unavailable = (
        _lost(error)
        or isinstance(error, (TimeoutError, asyncio.TimeoutError))
        or state[:2] in ("53", "57", "58")
        or state in ("55P03", "40001", "40P01", "23505", "26000", "42P05", "XX000")
    )
    if unavailable:
        return StoreUnavailableError(f"{what} cannot do it now ({text}); it is tried again later")
    return StoreError(f"{what} refused what was sent ({text})")


@final
class Link:
    """A connection for one kind of calls, one call at a time.

    Attributes:
        since: the moment (monotonic) at which it was connected the last time.
        connects: how often it has connected.
    """

    def __init__(self, target: Target, on_connect: Callable[[Any], Awaitable[object]] | None = None) -> None:
        self._target = target
        self._on_connect = on_connect
        self._lock = asyncio.Lock()
        self._conn: Any = None
        self._closed = False
        self.since = 0.0
        self.connects = 0

    async def call(
        self, work: Callable[[Any, bool], Awaitable[_T]], *, patience: float = PATIENCE, once: bool = False
    ) -> _T:
        """Run `work(connection, again)`, and return what it returns.

        Args:
            once: do not connect anew, nor try again.

        Raises:
            StoreUnavailableError: it did not go through in time.
            StoreError: it will not go through.
        """
        again, pause, failure = False, 0.05, ""
        ends = time.monotonic() + patience
        try:
            async with asyncio.timeout(patience), self._lock:
                while True:
                    try:
                        conn = await self._connected()
                        if self._target.pooler:
                            async with conn.transaction():
                                return await work(conn, again)
                        return await work(conn, again)
                    except TimeoutError:  # of asyncpg: the connection is half open
                        self._drop()
                        failure, again = "no answer", True
                    except asyncio.CancelledError:
                        self._drop()  # whatever is still on its way there has no reader
                        raise
                    except StoreError:
                        raise
                    except Exception as error:
                        state = _state(error)
                        if state in ("26000", "42P05") and not self._target.pooler:
                            self._target.pooler = True  # prepared statements do not stay: there is a pooler
                            self._drop()
                        elif _lost(error):
                            self._drop()
                            again = True
                        elif state not in ("40001", "40P01", "23505"):  # another was sooner, and is seen the next time
                            raise translate(error, self._target.shown) from error
                        failure = f"{type(error).__name__}: {error}".strip()
                    if self._closed or once or time.monotonic() + pause >= ends:
                        break
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 0.5)
        except TimeoutError:
            failure = failure or "no answer"
        raise StoreUnavailableError(
            f"{self._target.shown} did not answer within {patience:g} seconds ({failure}); it is tried again later"
        )

    async def _connected(self) -> Any:
        if self._closed:
            raise StoreError(f"{self._target.shown} is not open: call `await store.open(...)` first")
        if self._conn is None or self._conn.is_closed():
            self._conn = conn = await self._target.connect()
            self.since = time.monotonic()
            self.connects += 1
            if self._on_connect is not None:
                await self._on_connect(conn)
        return self._conn

    def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.terminate()

    async def close(self) -> None:
        """Disconnect; a call that is under way ends first, or fails."""
        self._closed = True
        async with self._lock:
            conn, self._conn = self._conn, None
            if conn is not None and not conn.is_closed():
                try:
                    await conn.close(timeout=2.0)
                except Exception:
                    conn.terminate()
