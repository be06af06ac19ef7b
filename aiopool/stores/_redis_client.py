"""How the Redis store talks to its server: connections, scripts, hints, and what an error means.

Rule 1: each call ends in bounded time, whatever the server does: it answers, or raises `StoreUnavailableError`.

Rule 2: the client library repeats nothing by itself, and its defaults are not used: they differ between its versions.

Rule 3: a password is in no text.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from aiopool._runtime.ending import end_tasks
from aiopool.errors import StoreError, StoreUnavailableError
from aiopool.stores._redis_scripts import SCRIPTS

try:
    import redis.asyncio as aioredis
    from redis import exceptions as faults
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as error:
    raise RuntimeError(
        "this store needs the client library redis, which is not installed: pip install redis, or the extra redis"
    ) from error

__all__ = ["Client", "faults", "split_url", "translated", "without_secrets"]

_CONNECTIONS: Final = 8
_SHA: Final = {verb: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for verb, text in SCRIPTS.items()}
# Answers of a server that will be able to do it later.
_PASSING: Final = (
    "OOM",
    "maxmemory",
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MISCONF",
    "NOREPLICAS",
    "BUSY",
    "UNBLOCKED",
    "max number of clients",
)
_SILENCE: Final = 10.0  # seconds after which the line of the hints is tried


def without_secrets(url: str) -> str:
    """Return a URL that may be shown: without a password, and without what may hold one."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    query = [(key, value) for key, value in parse_qsl(parts.query) if key not in ("password", "username")]
    return urlunsplit(
        (parts.scheme, user.partition(":")[0] + at + host if user else host, parts.path, urlencode(query), "")
    )


def split_url(url: str) -> tuple[str, dict[str, str]]:
    """Return the part of a URL that the client library reads, and the options of the store.

    Raises:
        ValueError: it is no URL of a Redis.
    """
    parts = urlsplit(url)
    scheme = {"valkey": "redis", "valkeys": "rediss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("redis", "rediss", "unix"):
        raise ValueError(
            f"url={without_secrets(url)!r}: write redis://host:6379/0, rediss://, valkey:// or unix:///path"
        )
    theirs: dict[str, str] = {}
    ours: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        (theirs if key.startswith("ssl_") or key in ("db", "password", "username") else ours)[key] = value
    if not parts.netloc and scheme != "unix":
        raise ValueError(f"url={without_secrets(url)!r}: it names no host; write redis://localhost:6379/0")
    return urlunsplit((scheme, parts.netloc, parts.path, urlencode(theirs), "")), ours


def translated(error: BaseException, what: str, url: str) -> StoreError:
    """Return what an error of the client library means to whoever called the store."""
    text = str(error) or type(error).__name__
    if isinstance(error, (faults.AuthenticationError, faults.AuthorizationError)) or "NOAUTH" in text:
        return StoreError(
            f"{url}: the server refuses this user or password ({text}); write redis://user:password@host/0"
        )
    if isinstance(error, faults.NoPermissionError):
        return StoreError(
            f"{url}: {what}: the server does not permit it to this user ({text}); permit it with ACL SETUSER"
        )
    if isinstance(error, (faults.ConnectionError, faults.TimeoutError, faults.ReadOnlyError, OSError, TimeoutError)):
        return StoreUnavailableError(f"{url}: {what}: the server cannot be reached now ({text})")
    # The client library takes the first word off the errors that it has a class for.
    passing = faults.OutOfMemoryError, faults.ClusterDownError, faults.TryAgainError, faults.MasterDownError
    if isinstance(error, passing) or any(word in text for word in _PASSING):
        return StoreUnavailableError(f"{url}: {what}: the server cannot do it now ({text})")
    if text.startswith("MOVED") or "MOVED " in text:
        return StoreError(
            f"{url}: {what}: the queue lives on another node of this cluster ({text}); name that node in the URL"
        )
    return StoreError(f"{url}: {what}: the server refuses it: {text}")


class Client:
    """Connections to one server, for one loop."""

    def __init__(self, url: str, shown: str, *, timeout: float, connections: int = _CONNECTIONS) -> None:
        self._shown = shown
        self._timeout = timeout
        self._base = ""
        self.prefix_arguments: tuple[str, str] = "0", ""
        pool: Any = aioredis.BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=timeout,
            # The time limits are ours. The library's own, before Python 3.12, swallow a cancel that comes as it ends.
            socket_timeout=None,
            socket_connect_timeout=timeout,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            retry_on_timeout=False,
            health_check_interval=0,
            protocol=2,
            decode_responses=False,
            client_name="aiopool",
        )
        self._redis: Any = aioredis.Redis(connection_pool=pool)
        self._listener: asyncio.Task[None] | None = None

    def of(self, base: str, offset: float, me: str) -> None:
        """Say for which queue and incarnation scripts run from now on."""
        self._base = base
        self.prefix_arguments = repr(offset), me

    async def close(self) -> None:
        """Stop to listen, and disconnect."""
        listener, self._listener = self._listener, None
        await end_tasks(listener)
        with contextlib.suppress(faults.RedisError, OSError):
            await self._redis.aclose()
        with contextlib.suppress(faults.RedisError, OSError):
            await self._redis.connection_pool.disconnect()

    async def command(self, *words: Any) -> Any:
        """Send one plain command."""
        try:
            async with asyncio.timeout(2 * self._timeout):
                return await self._redis.execute_command(*words)
        except (faults.RedisError, OSError, TimeoutError) as error:
            raise await self._failed(error, str(words[0])) from error

    async def run(self, verb: str, *arguments: Any, sync: int = 0) -> Any:
        """Run the script of a verb; with `sync`, wait so many milliseconds until it is on disk."""
        words = (1, self._base, *self.prefix_arguments, "1" if sync else "0", *arguments)
        try:
            async with asyncio.timeout(2 * self._timeout):
                try:
                    return await self._evaluate(("EVALSHA", _SHA[verb], *words), verb, sync)
                except faults.NoScriptError:
                    return await self._evaluate(("EVAL", SCRIPTS[verb], *words), verb, sync)
        except (faults.RedisError, OSError, TimeoutError) as error:
            raise await self._failed(error, verb) from error

    async def _evaluate(self, words: tuple[Any, ...], verb: str, sync: int) -> Any:
        if not sync:
            return await self._redis.execute_command(*words)
        # Both on one connection: the server waits for what this connection wrote.
        pipe = self._redis.pipeline(transaction=False)
        pipe.execute_command(*words)
        pipe.execute_command("WAITAOF", 1, 0, sync)
        answer, synced = await pipe.execute(raise_on_error=False)
        for part in (answer, synced):
            if isinstance(part, Exception):
                raise part
        if not synced[0]:
            raise StoreUnavailableError(
                f"{self._shown}: {verb}: it was not on the server's disk within {sync / 1000:g} s; it may be yet"
            )
        return answer

    async def _failed(self, error: BaseException, what: str) -> StoreError:
        meaning = translated(error, what, self._shown)
        if isinstance(error, faults.ReadOnlyError) or "READONLY" in str(error):
            # The name may lead to another server by now.
            with contextlib.suppress(faults.RedisError, OSError):
                await self._redis.connection_pool.disconnect(inuse_connections=False)
        return meaning

    # -- hints ---------------------------------------------------------------------------------------------------------

    async def listen(self, on_message: Callable[[Sequence[Any]], object], on_return: Callable[[], object]) -> None:
        """Hear hints from now on; `on_return` is called when some may have been lost."""
        heard = asyncio.Event()
        self._listener = asyncio.create_task(self._listen(on_message, on_return, heard), name="aiopool-redis-hints")
        with contextlib.suppress(TimeoutError):  # hints may get lost: it goes on trying
            async with asyncio.timeout(self._timeout):
                await heard.wait()

    async def _listen(
        self, on_message: Callable[[Sequence[Any]], object], on_return: Callable[[], object], heard: asyncio.Event
    ) -> None:
        pause = 0.1
        while True:
            hints = self._redis.pubsub()
            try:
                async with asyncio.timeout(self._timeout):
                    await hints.subscribe(f"{self._base}:wake")
                silent = 0.0
                while silent <= 2 * _SILENCE:
                    message = await hints.get_message(timeout=_SILENCE)
                    if message is None:
                        silent += _SILENCE
                        async with asyncio.timeout(self._timeout):
                            await hints.ping()
                        continue
                    silent, pause = 0.0, 0.1
                    if message["type"] == "subscribe":
                        if heard.is_set():
                            on_return()
                        heard.set()
                    elif message["type"] == "message":
                        on_message(json.loads(message["data"]))
            except (faults.RedisError, OSError, TimeoutError):
                pass
            finally:
                with contextlib.suppress(faults.RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(self._timeout):
                        await hints.aclose()
            await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311
            pause = min(2 * pause, 2.0)
