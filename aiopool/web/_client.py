"""`Client` and `AsyncClient`: submit jobs to a pool over HTTP, and wait for them."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar, final

import httpx2

from aiopool.web._talk import (
    AGAIN,
    MAX_BATCH,
    WAIT,
    Answer,
    PoolEvents,
    RemoteEvent,
    RemoteJob,
    Sleep,
    Steps,
    Talk,
    job_options,
    refused,
    submission,
)

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")
# Of a question that waits for a result, and some more.
_TIMEOUT = httpx2.Timeout(10.0, read=WAIT + 20.0)


def _given(url: str, token: str | None) -> dict[str, Any]:
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise ValueError(f"Client({url!r}): write the address of the app: http://127.0.0.1:8765/")
    headers = {"accept": "application/json"} | ({} if token is None else {"authorization": f"Bearer {token}"})
    return {"base_url": f"{url.rstrip('/')}/api/v1/", "headers": headers, "timeout": _TIMEOUT}


@final
class Client:
    """Submits jobs to a pool of another program, over HTTP. For one thread at a time; `AsyncClient` is the same with
    `await`.

    A request whose answer was lost is sent again with its `Idempotency-Key`, so its job runs once.

    Args:
        url: the address of the app, with the path under which it is mounted.
        token: of whoever asks.
        pool: the key of the pool.
        patience: seconds for which something is tried while the server cannot be reached, or its queue is full.
        transport: another transport of httpx2.

    Raises:
        ValueError: the address is none.

    Example:
        with aiopool.web.Client("http://127.0.0.1:8765", token=token, pool="mail") as client:
            job = client.submit("send", {"to": "ada@example.org"})
            print(client.wait(job, timeout=30))
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        pool: str = "pool",
        patience: float = 30.0,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._http = httpx2.Client(transport=transport, **_given(url, token))
        self._talk = Talk(pool, patience)

    def submit(
        self,
        function: str,
        params: Mapping[str, Any] | None = None,
        *,
        priority: int | None = None,
        delay: float | None = None,
        at: datetime.datetime | None = None,
        timeout: float | None = None,
        group: str | None = None,
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> RemoteJob:
        """Submit a job.

        Args:
            function: the name under which it is registered.
            params: its arguments, by their names.
            priority, delay, timeout, group: as in `Pool.with_options`.
            at: the moment at which it is to start, with a time zone.
            labels: its `metadata`.
            key: the same key is the same job, for 24 hours; None: this call is a job of its own.

        Raises:
            ApiError: it was refused.
            ConnectionError: there is no server.
        """
        wanted = submission(function, params, job_options(priority, delay, at, timeout, group, labels))
        return self._do(self._talk.submit(wanted, key))

    def wait(self, job: RemoteJob | int | str, timeout: float | None = None) -> Any:
        """Wait for a job, and return its result, as JSON has it.

        Raises:
            RemoteJobError: it has not succeeded.
            TimeoutError: it has not ended in so many seconds; it goes on.
            ApiError: it is not known, or its result is not shown.
        """
        return self._do(self._talk.wait(job, timeout))

    def map(self, function: str, params: Iterable[Mapping[str, Any]], *, at_once: int = 200) -> Iterator[Any]:
        """Submit a job for each of many arguments, and return their results in the order of the arguments.

        Args:
            function: the name under which it is registered.
            params: the arguments of each job; they are taken as they are needed.
            at_once: so many jobs are under way at most.

        Raises:
            RemoteJobError: one has not succeeded; those under way go on.
        """
        rows = iter(params)
        under_way: deque[RemoteJob] = deque()
        while True:
            if len(under_way) <= at_once // 2:
                room = min(MAX_BATCH, max(1, at_once - len(under_way)))
                more = [submission(function, row, {}) for row in islice(rows, room)]
                if more:
                    under_way += self._do(self._talk.submit_many(more))
                elif not under_way:
                    return
            yield self._do(self._talk.wait(under_way.popleft(), None))

    def stream(
        self, job: RemoteJob | int | str | None = None, *, rows: int = 0, types: Iterable[str] | None = None
    ) -> Iterator[RemoteEvent]:
        """Return what happens in the pool, until it closes: its numbers once a second, and events of it.

        Args:
            job: watch this job, until it has ended: all that is known of it once a second, and all events of it.
            rows: of running jobs in each state.
            types: of events, such as `JobFailed`; empty: all of them; None: none, but those of `job`.

        Raises:
            ApiError: it was refused.
            ConnectionError: there is no server.
        """
        events = PoolEvents(rows, types)
        lost_since: float | None = None
        while True:
            try:
                with self._http.stream(
                    "GET", self._talk.events(job), params=events.query, headers=events.headers
                ) as response:
                    if response.status_code >= 400:
                        response.read()
                        raise refused(_answer(response))
                    lost_since = None
                    for line in response.iter_lines():
                        event = events.read(line)
                        if event is not None:
                            yield event
                            if event.kind == "bye":
                                return
            except httpx2.TransportError as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > self._talk.patience:
                    raise ConnectionError(f"the stream cannot be read: {error!r}") from error
                time.sleep(AGAIN)

    def cancel(self, job: RemoteJob | int | str, reason: str | None = None) -> str:
        """Cancel a job, and return its status: one that runs is told, and ends by itself.

        Raises:
            ApiError: it has ended, or is not known.
        """
        return self._do(self._talk.cancel(job, reason))

    def retry(self, job: RemoteJob | int | str, params: Mapping[str, Any] | None = None) -> RemoteJob:
        """Run a job that has ended once more, and return the new one; of a store without `params`: the same one.

        Args:
            job: was submitted over HTTP, or is one of a store.
            params: the arguments of the new job, all of them; None: those of the old one.

        Raises:
            ApiError: it has not ended, is not known any more, or was submitted by the program.
            ConnectionError: there is no server.
        """
        return self._do(self._talk.retry(job, params))

    def status(self) -> dict[str, Any]:
        """Return the pool in numbers."""
        return self._do(self._talk.status())

    def _do(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    time.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    got = _answer(
                        self._http.request(step.method, step.path, json=step.body, headers=dict(step.headers))
                    )
                except httpx2.TransportError as error:
                    step = steps.throw(ConnectionError(f"{self._http.base_url} does not answer: {error!r}"))
                else:
                    step = steps.send(got)
        except StopIteration as end:
            found: T = end.value
            return found

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@final
class AsyncClient:
    """Submits jobs to a pool of another program, over HTTP; see `Client`.

    Args:
        url, token, pool, patience: as in `Client`.
        transport: another transport of httpx2.

    Example:
        async with aiopool.web.AsyncClient("http://127.0.0.1:8765", token=token, pool="mail") as client:
            async for result in client.map("resize", ({"file": name} for name in names)):
                print(result)
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        pool: str = "pool",
        patience: float = 30.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx2.AsyncClient(transport=transport, **_given(url, token))
        self._talk = Talk(pool, patience)

    async def submit(
        self,
        function: str,
        params: Mapping[str, Any] | None = None,
        *,
        priority: int | None = None,
        delay: float | None = None,
        at: datetime.datetime | None = None,
        timeout: float | None = None,
        group: str | None = None,
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> RemoteJob:
        """Submit a job; see `Client.submit`."""
        wanted = submission(function, params, job_options(priority, delay, at, timeout, group, labels))
        return await self._do(self._talk.submit(wanted, key))

    async def wait(self, job: RemoteJob | int | str, timeout: float | None = None) -> Any:
        """Wait for a job, and return its result; see `Client.wait`."""
        return await self._do(self._talk.wait(job, timeout))

    async def map(
        self,
        function: str,
        params: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        at_once: int = 200,
    ) -> AsyncIterator[Any]:
        """Submit a job for each of many arguments, and return their results in order; see `Client.map`."""
        rows = _as_async(params)
        under_way: deque[RemoteJob] = deque()
        ended = False
        while True:
            if not ended and len(under_way) <= at_once // 2:
                more: list[dict[str, Any]] = []
                room = min(MAX_BATCH, max(1, at_once - len(under_way)))
                async for row in rows:
                    more.append(submission(function, row, {}))
                    if len(more) >= room:
                        break
                else:
                    ended = True
                if more:
                    under_way += await self._do(self._talk.submit_many(more))
            if not under_way:
                return
            yield await self._do(self._talk.wait(under_way.popleft(), None))

    async def stream(
        self, job: RemoteJob | int | str | None = None, *, rows: int = 0, types: Iterable[str] | None = None
    ) -> AsyncIterator[RemoteEvent]:
        """Return what happens in the pool, or to a job, until it ends; see `Client.stream`."""
        events = PoolEvents(rows, types)
        lost_since: float | None = None
        while True:
            try:
                async with self._http.stream(
                    "GET", self._talk.events(job), params=events.query, headers=events.headers
                ) as response:
                    if response.status_code >= 400:
                        await response.aread()
                        raise refused(_answer(response))
                    lost_since = None
                    async for line in response.aiter_lines():
                        event = events.read(line)
                        if event is not None:
                            yield event
                            if event.kind == "bye":
                                return
            except httpx2.TransportError as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > self._talk.patience:
                    raise ConnectionError(f"the stream cannot be read: {error!r}") from error
                await asyncio.sleep(AGAIN)

    async def cancel(self, job: RemoteJob | int | str, reason: str | None = None) -> str:
        """Cancel a job, and return its status; see `Client.cancel`."""
        return await self._do(self._talk.cancel(job, reason))

    async def retry(self, job: RemoteJob | int | str, params: Mapping[str, Any] | None = None) -> RemoteJob:
        """Run a job that has ended once more; see `Client.retry`."""
        return await self._do(self._talk.retry(job, params))

    async def status(self) -> dict[str, Any]:
        """Return the pool in numbers."""
        return await self._do(self._talk.status())

    async def _do(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    response = await self._http.request(
                        step.method, step.path, json=step.body, headers=dict(step.headers)
                    )
                except httpx2.TransportError as error:
                    step = steps.throw(ConnectionError(f"{self._http.base_url} does not answer: {error!r}"))
                else:
                    step = steps.send(_answer(response))
        except StopIteration as end:
            found: T = end.value
            return found

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _answer(response: httpx2.Response) -> Answer:
    return Answer(response.status_code, response.headers, response.text)


async def _as_async(rows: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row
