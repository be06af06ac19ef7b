"""The wire: one HTTP session with the orchestrator, and the messages of its protocol.

Each message is stamped and signed at the moment it is sent, with a number of its own that is never used again: the
orchestrator refuses a message that it has seen, so the same words are never sent twice.

After a 429 a kind of call is quiet for a while: the orchestrator counts what it refuses, too, so whoever asks again too
early is never let in. Nobody above has to know; the call waits.

aiohttp is the client because it has both halves that are needed, HTTP and WebSocket, is typed, and is what the
orchestrator itself runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Final, final

import aiohttp
import orjson

from aiopool.avtomatika._counts import Counts
from aiopool.avtomatika._errors import AwayError, RefusedError
from aiopool.avtomatika._settings import WorkerSettings
from aiopool.avtomatika._signing import sign
from aiopool.avtomatika._task import Result

__all__ = ["PROTOCOL", "OrchestratorLink"]

PROTOCOL: Final = "1.0b17"
# The orchestrator holds a poll for 30 s by default; one that is given up early could lose the task that it brings.
_POLL_SECONDS: Final = 30.0
_POLL_PATIENCE: Final = 120.0
_PATIENCE: Final = 30.0
# Seconds between two signs of life on the channel of commands.
_CHANNEL_HEARTBEAT: Final = 20.0

logger = logging.getLogger("aiopool.avtomatika")


@final
class OrchestratorLink:
    """One worker's connection to its orchestrator; to be opened in the loop that uses it.

    All calls raise `AwayError` if there is no answer, or one that says "later", and `RefusedError` if there is one that
    says "never". If the caller is cancelled, the orchestrator may have got the message.
    """

    def __init__(
        self, settings: WorkerSettings, counts: Counts, *, rate_limit_pause: float, tls: ssl.SSLContext | None
    ) -> None:
        self._settings = settings
        self._counts = counts
        self._pause = rate_limit_pause
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._quiet_until: dict[str, float] = {}
        self._ahead = 0.0  # by how many seconds the orchestrator's clock is before ours
        self._session: aiohttp.ClientSession
        self._channel: aiohttp.ClientWebSocketResponse | None = None
        self._warned = False

    async def open(self) -> None:
        """Make the session."""
        headers = {
            "X-Worker-Token": self._settings.worker_token,
            "X-Worker-ID": self._settings.worker_id,
            "X-RXON-Version": PROTOCOL,
        }
        timeout = aiohttp.ClientTimeout(total=_PATIENCE, sock_connect=10)
        # One poll is always under way; the others share few connections.
        connector = aiohttp.TCPConnector(limit=20, ssl=self._tls)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector)

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()

    # -- the messages ------------------------------------------------------------------------------------------------

    async def register(self, body: dict[str, Any]) -> None:
        """Tell who the worker is and what it can do."""
        answer = await self._signed("register", "POST", "/_worker/workers/register", body)
        if isinstance(answer, dict) and answer.get("warning") and not self._warned:
            self._warned = True
            logger.warning("the orchestrator speaks another version of the protocol: %s", answer["warning"])

    async def poll(self, names: Collection[str]) -> dict[str, Any] | None:
        """Ask for a task, and wait for one as long as the orchestrator does.

        Args:
            names: of the tasks that could start at once.

        Returns:
            A task; None: there is none.
        """
        query = {"timeout": f"{_POLL_SECONDS:g}", "available_skills": ",".join(names)}
        path = f"/_worker/workers/{self._settings.worker_id}/tasks/next"
        answer = await self._send("poll", "GET", path, None, query=query, patience=_POLL_PATIENCE)
        return answer if isinstance(answer, dict) else None

    async def send_result(self, result: Result) -> dict[str, Any]:
        """Send a result, and return the answer: `status` is `accepted` or `ignored`."""
        answer = await self._signed("result", "POST", "/_worker/tasks/result", result.body())
        if not isinstance(answer, dict) or "status" not in answer:
            # Something on the way has said 200, and the result would be lost.
            raise AwayError(f"result: this is no answer of an orchestrator: {answer!r:.200}")
        return answer

    async def send_heartbeat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Tell how the worker is."""
        answer = await self._signed("heartbeat", "PATCH", f"/_worker/workers/{self._settings.worker_id}", body)
        return answer if isinstance(answer, dict) else {}

    async def ping(self) -> bool:
        """Say that the worker is alive; False: the orchestrator does not know it."""
        answer = await self._send("heartbeat", "PATCH", f"/_worker/workers/{self._settings.worker_id}", None)
        return answer is not None

    async def send_progress(self, task_id: str, job_id: str, progress: float, message: str) -> None:
        """Tell how far a task is; on the channel of commands where it is open, for nobody counts there."""
        body = {
            "event_type": "progress",
            "origin_worker_id": self._settings.worker_id,
            "payload": {"progress": progress, "message": message},
            "target_job_id": job_id,
            "target_task_id": task_id,
            "bubbling_chain": [],
        }
        channel = self._channel
        if channel is not None and not channel.closed:
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                return await channel.send_str(self._sealed(body, event=True).decode())
        await self._signed("event", "POST", "/_worker/events", body, event=True)

    @contextlib.asynccontextmanager
    async def commands(self) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Open the channel of commands; it ends when the orchestrator closes it, or is gone."""
        url = f"{self._settings.orchestrator_url}/_worker/ws/{self._settings.worker_id}"
        try:
            async with self._session.ws_connect(url, heartbeat=_CHANNEL_HEARTBEAT) as channel:
                self._channel, self._counts.connected = channel, True
                try:
                    yield _messages(channel)
                finally:
                    self._channel, self._counts.connected = None, False
                    if channel.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION:
                        logger.error("another worker has the id %s: give each its own", self._settings.worker_id)
        except aiohttp.WSServerHandshakeError as error:
            if error.status >= 500 or error.status == 429:
                raise AwayError(f"the orchestrator does not open a channel of commands: {error.status}") from error
            raise RefusedError(
                f"the orchestrator refuses a channel of commands: {error.status} {error.message}",
                error.status,
                error.message,
            ) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise AwayError(f"the channel of commands is lost: {_text(error)}") from error

    # -- one call ----------------------------------------------------------------------------------------------------

    async def _signed(self, kind: str, method: str, path: str, body: Mapping[str, Any], *, event: bool = False) -> Any:
        try:
            return await self._send(kind, method, path, body, event=event)
        except RefusedError as error:
            if error.status != 403 or "timestamp" not in error.reason.lower():
                raise
        # Our clock is wrong, or theirs: `_send` has noted by how much.
        return await self._send(kind, method, path, body, event=event)

    def _sealed(self, body: Mapping[str, Any], *, event: bool = False) -> bytes:
        """Return a body as it is sent: with the time, a number of its own, and the signature."""
        sealed = {
            **body,
            "worker_id": self._settings.worker_id,
            "timestamp": int(time.time() + self._ahead),
            "event_id" if event else "nonce": str(uuid.uuid4()),
        }
        signature = sign(sealed, self._settings.worker_token, ("bubbling_chain",) if event else ())
        sealed["security"] = {"signature": signature, "signer_id": self._settings.worker_id}
        return orjson.dumps(sealed)

    async def _send(
        self,
        kind: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        event: bool = False,
        query: Mapping[str, str] | None = None,
        patience: float = _PATIENCE,
    ) -> Any:
        url = self._settings.orchestrator_url + path
        while True:
            await self._wait_quiet(kind)
            try:
                async with self._session.request(
                    method,
                    url,
                    data=None if body is None else self._sealed(body, event=event),
                    headers=None if body is None else {"Content-Type": "application/json"},
                    params=query,
                    timeout=aiohttp.ClientTimeout(total=patience, sock_connect=10),
                ) as response:
                    content = await response.read()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise AwayError(f"{kind}: {self._settings.orchestrator_url}: {_text(error)}") from error
            if response.status != 429:
                return self._answer(kind, response, content)
            self._be_quiet(kind, response.headers.get("Retry-After"))

    def _answer(self, kind: str, response: aiohttp.ClientResponse, content: bytes) -> Any:
        if response.status == 204:
            return None
        answer = _json(content)
        if response.status < 300:
            return answer
        reason = str(answer.get("error", answer)) if isinstance(answer, dict) else content.decode(errors="replace")
        if response.status >= 500 or response.status == 408:
            raise AwayError(f"{kind}: the orchestrator answers {response.status}: {reason:.500}")
        self._note_clock(response.headers.get("Date"))
        raise RefusedError(
            f"{kind}: the orchestrator refuses it with {response.status}: {reason:.500}", response.status, reason
        )

    def _note_clock(self, date: str | None) -> None:
        with contextlib.suppress(TypeError, ValueError):
            ahead = email.utils.parsedate_to_datetime(str(date)).timestamp() - time.time()
            # Less than that is the way here, and the orchestrator allows a minute.
            self._ahead = ahead if abs(ahead) > 5 else 0.0

    def _be_quiet(self, kind: str, told: str | None) -> None:
        seconds = _retry_after(told)
        if seconds is None:
            seconds = self._pause
        self._counts.rate_limited[kind] += 1
        self._quiet_until[kind] = asyncio.get_running_loop().time() + seconds
        logger.warning("the orchestrator has had too many calls (%s): none for %g s", kind, seconds)

    async def _wait_quiet(self, kind: str) -> None:
        loop = asyncio.get_running_loop()
        while (seconds := self._quiet_until.get(kind, 0.0) - loop.time()) > 0:  # noqa: ASYNC110 - it may be prolonged
            await asyncio.sleep(seconds)


async def _messages(channel: aiohttp.ClientWebSocketResponse) -> AsyncIterator[dict[str, Any]]:
    async for message in channel:
        if message.type is aiohttp.WSMsgType.TEXT:
            command = _json(message.data.encode())
            if isinstance(command, dict):
                yield command


def _retry_after(told: str | None) -> float | None:
    """Return the seconds that a Retry-After names: a number, or a date."""
    if told is None:
        return None
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return min(max(seconds, 0.0), 3600.0) if seconds == seconds else None


def _json(content: bytes) -> Any:
    try:
        return orjson.loads(content) if content else None
    except orjson.JSONDecodeError:
        return None


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
