"""An orchestrator that can be told to have faults which the real one cannot be brought to have: 429 with a date, 5xx,
an answer that gets lost, a clock that is wrong, a worker that is forgotten.

It checks what it gets as the protocol says: token, time, signature by its own words, and that no message comes twice.
"""

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

TOKEN = "worker-token"
NUMBERS = itertools.count(1)


def signature(body: dict[str, Any], leave_out: tuple[str, ...] = ()) -> str:
    """The rule, written down once more with the standard library; for bodies without floats that need an exponent."""
    kept = {key: value for key, value in body.items() if key not in ("security", "_signature", *leave_out)}
    text = json.dumps(_reduced(kept), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hmac.new(TOKEN.encode(), text.encode(), hashlib.sha256).hexdigest()


def _reduced(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reduced(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_reduced(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class WireServer:
    """What it got, and what it does next.

    Attributes:
        got: all messages that were taken, as `(kind, body)`.
        faults: for a kind of message, what to do instead of an answer, the next one first: a response; or `"cut"`: take
            the message, and drop the connection; or a function of the body that returns a response.
        tasks: what polls get.
        known: the worker is registered.
        ahead: by how many seconds its clock is before that of everybody else.
    """

    def __init__(self) -> None:
        self.got: list[tuple[str, Any]] = []
        self.calls: list[str] = []
        self.faults: dict[str, list[Any]] = {}
        self.tasks: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.known = False
        self.ahead = 0.0
        self.poll_seconds = 0.5
        self.commands: list[web.WebSocketResponse] = []
        self.polling = 0
        self.polled: list[dict[str, str]] = []
        self._seen: set[str] = set()

    def kinds(self, kind: str) -> list[Any]:
        """Return the bodies of one kind."""
        return [body for name, body in self.got if name == kind]

    def give(self, name: str, params: dict[str, Any] | None = None, **more: Any) -> str:
        """Have a task waiting; return its id, which is that of its job with another first word."""
        number = next(NUMBERS)
        task_id = f"task-{number}"
        task = {"task_id": task_id, "job_id": f"job-{number}", "type": name, "params": params or {}, **more}
        self.tasks.put_nowait(task)
        return task_id

    def result(self, task_id: str) -> dict[str, Any] | None:
        """Return the result of a task, if it came."""
        return next((body for body in self.kinds("result") if body["task_id"] == task_id), None)

    async def command(self, **command: Any) -> None:
        """Send a command to whoever listens."""
        await self.commands[-1].send_json(command)

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/_worker/workers/register", self._taking("register", self._register)),
                web.get("/_worker/workers/{id}/tasks/next", self._taking("poll", self._poll)),
                web.post("/_worker/tasks/result", self._taking("result", self._result)),
                web.patch("/_worker/workers/{id}", self._taking("heartbeat", self._heartbeat)),
                web.post("/_worker/events", self._taking("event", self._event)),
                web.get("/_worker/ws/{id}", self._socket),
            ]
        )
        return app

    # -- what every message goes through -----------------------------------------------------------------------------

    def _taking(self, kind: str, answer: Callable[[web.Request, Any], Any]) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.calls.append(kind)
            body = await request.json() if request.can_read_body else None
            fault = self.faults[kind].pop(0) if self.faults.get(kind) else None
            if callable(fault):
                fault = fault(body)
            if isinstance(fault, web.Response):
                return fault
            refusal = self._refusal(kind, request, body)
            if refusal:
                date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + self.ahead))
                return web.json_response({"error": refusal}, status=403, headers={"Date": date})
            self.got.append((kind, body))
            if fault == "cut":
                assert request.transport is not None
                request.transport.abort()
            return await answer(request, body)

        return handle

    def _refusal(self, kind: str, request: web.Request, body: Any) -> str | None:
        if request.headers.get("X-Worker-Token") != TOKEN:
            return "Unauthorized: Invalid individual worker token"
        if body is None:
            return None
        if abs(time.time() + self.ahead - body.get("timestamp", 0)) > 60:
            return "Message timestamp expired (replay protection)"
        security = body.get("security") or {}
        number = body.get("event_id") or body.get("nonce") or security.get("signature")
        if number in self._seen:
            return "Duplicate message detected (replay attack)"
        self._seen.add(number)
        leave_out = ("bubbling_chain",) if kind == "event" else ()
        if security.get("signature") != signature(body, leave_out):
            return "Invalid cryptographic signature"
        return None

    # -- the answers -------------------------------------------------------------------------------------------------

    async def _register(self, request: web.Request, body: Any) -> web.Response:
        self.known = True
        return web.json_response({"status": "registered", "version": "1.0b17", "warning": None})

    async def _poll(self, request: web.Request, body: Any) -> web.Response:
        self.polled.append(dict(request.query))
        self.polling += 1
        try:
            async with asyncio.timeout(self.poll_seconds):
                return web.json_response(await self.tasks.get())
        except TimeoutError:
            return web.Response(status=204)
        finally:
            self.polling -= 1

    async def _result(self, request: web.Request, body: Any) -> web.Response:
        return web.json_response({"status": "accepted", "transition": "success_transition"})

    async def _heartbeat(self, request: web.Request, body: Any) -> web.Response:
        if body is None:
            return web.json_response({"status": "ttl_refreshed"} if self.known else None)
        return web.json_response({"status": "ok"})

    async def _event(self, request: web.Request, body: Any) -> web.Response:
        return web.json_response({"status": "event_accepted"})

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.commands.append(socket)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                self.got.append(("event", json.loads(message.data)))
        return socket


@contextlib.asynccontextmanager
async def serving(server: WireServer, port: int = 0) -> AsyncIterator[str]:
    """Serve, and give the address; leaving is a restart: connections are cut."""
    test_server = TestServer(server.application(), port=port or None)
    await test_server.start_server(shutdown_timeout=0.1)
    try:
        yield str(test_server.make_url("")).rstrip("/")
    finally:
        for socket in server.commands:
            await socket.close()
        server.commands.clear()
        await test_server.close()
