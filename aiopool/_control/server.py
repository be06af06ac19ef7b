"""`Server`: the socket, in a thread of its own with an event loop of its own, so that it answers while others do not.

    {"id": 1, "verb": "status", "pool": "mail", "args": {"rows": 10}}     one line of JSON
    {"id": 1, "ok": {...}}      or      {"id": 1, "problem": {...}}       the answer, one line

Whoever asks for others, as a web page does, says so: `"for": {"who": "alice", "access": "read"}`. That can only lower
what they may do.

The directory is the user's alone, the socket is, and whoever connects is asked for by the kernel: the same user, or
root. What can be asked is a closed list (`verbs`); nothing that is sent is looked up, imported or run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pwd
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any, final

from aiopool._control.call import call, hello
from aiopool._control.problems import Problem
from aiopool._control.verbs import Access
from aiopool._runtime.faults import log_fault
from aiopool._runtime.stop_signal import StopSignal

__all__ = ["Server"]

logger = logging.getLogger("aiopool.control")

MAX_LINE = 2**20
MAX_CONNECTIONS = 16
_END = 10.0  # seconds for the thread to end
_LAST_WORDS = 1.0  # seconds that somebody who is sent away may still talk


@final
class Server:
    """One socket of this process.

    Attributes:
        path: where it is.
        access: what who connects may do.
    """

    def __init__(self, path: Path, access: Access) -> None:
        self.path = path
        self.access = access
        self._pid = os.getpid()
        self._talks: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}  # with those who are connected
        self._asked: set[asyncio.StreamWriter] = set()  # those who wait for an answer
        self._socket: socket.socket | None = None
        self._stop = StopSignal()
        self._thread = threading.Thread(target=self._run, name="aiopool-control", daemon=True)

    def start(self) -> None:
        """Listen, and answer from now on.

        Raises:
            OSError: it cannot listen there.
            RuntimeError: there is no thread to be had.
        """
        self._socket = _listen(self.path)
        try:
            self._thread.start()
        except BaseException:
            self.abandon()
            self._remove()
            raise

    def close(self) -> None:
        """Listen no more, and remove the socket; from any thread, also at the end of the program."""
        if os.getpid() != self._pid:
            return
        self._remove()
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_END)

    def abandon(self) -> None:
        """Give our copy of the socket away: in a forked child, where nobody would answer."""
        if self._socket is not None:
            self._socket.close()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            log_fault(logger, "the control socket %s has failed, and answers no more", self.path, error=error)

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._connected, sock=self._socket, limit=MAX_LINE)
        await self._stop.wait()
        server.close()
        for writer in self._talks.values():
            if writer not in self._asked:
                writer.close()
        # Whoever has asked is answered, the one, too, who has asked for this end; nobody who does not read holds us up.
        await self._wait_for_talks()
        for writer in self._talks.values():
            writer.transport.abort()
        await self._wait_for_talks()

    async def _wait_for_talks(self) -> None:
        if self._talks:
            await asyncio.wait(self._talks, timeout=_LAST_WORDS)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks[task] = writer
        try:
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._talk(reader, writer)
        finally:
            writer.close()
            try:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            finally:
                del self._talks[task]

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            who = _peer(writer.get_extra_info("socket"))
            if len(self._talks) > MAX_CONNECTIONS:
                raise Problem("conflict", f"{MAX_CONNECTIONS} are connected already: close one of them")
        except Problem as problem:
            with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                # First the request: who writes to a socket that is closed hears of that, and not why.
                await asyncio.wait_for(reader.readuntil(b"\n"), _LAST_WORDS)
            await _send(writer, {"id": None, "problem": problem.to_dict()})
            return
        while not self._stop.is_set:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                too_long = Problem("bad-request", f"a request is one line of at most {MAX_LINE} bytes")
                await _send(writer, {"id": None, "problem": too_long.to_dict()})
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_WORDS):  # what is not read would take the answer along
                        while await reader.read(MAX_LINE):
                            pass
                return
            self._asked.add(writer)
            try:
                await _send(writer, await self._answer(line, who))
            finally:
                self._asked.discard(writer)

    async def _answer(self, line: bytes, who: str) -> dict[str, Any]:
        id: Any = None
        try:
            request = _request(line)
            id = request.get("id")
            verb, pool, arguments = request.get("verb"), request.get("pool"), request.get("args") or {}
            if not isinstance(verb, str):
                raise Problem("bad-request", 'the verb is missing: write {"verb": "status"}')
            if not (pool is None or isinstance(pool, str)) or not isinstance(arguments, dict):
                raise Problem("bad-request", 'pool is a text, and args an object: {"verb": "job", "args": {"id": 17}}')
            if verb == "hello":
                return {"id": id, "ok": hello(self.access)}
            asker, access = _asker(request.get("for"), who, self.access)
            return {"id": id, "ok": await call(verb, arguments, pool=pool, who=asker, access=access)}
        except Problem as problem:
            return {"id": id, "problem": problem.to_dict()}


def _request(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise Problem("bad-request", f"this is no JSON: {line[:80]!r}") from None
    if not isinstance(request, dict):
        raise Problem("bad-request", 'a request is an object: {"verb": "status"}')
    return request


def _asker(other: object, who: str, access: Access) -> tuple[str, Access]:
    """Return for whom is asked, and what they may do: no more than whoever asks."""
    if other is None:
        return who, access
    names = {level.name.lower(): level for level in Access}
    if not isinstance(other, dict) or not isinstance(other.get("who"), str) or other.get("access") not in names:
        raise Problem("bad-request", 'write "for": {"who": "alice", "access": "read"}')
    name: str = other["who"][:100]
    return f"{name}, through {who}", min(access, names[other["access"]])


async def _send(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer, default=str).encode() + b"\n")
    await writer.drain()


def _listen(path: Path) -> socket.socket:
    """Return a socket that listens; one that a dead process has left is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            listener.bind(os.fspath(path))
        except OSError:
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
                probe.settimeout(1.0)
                try:
                    probe.connect(os.fspath(path))
                except ConnectionRefusedError:
                    os.unlink(path)
                else:
                    raise
            listener.bind(os.fspath(path))
        # Nobody else can reach it meanwhile: the directory is ours alone. (A umask would be one of all threads.)
        os.chmod(path, 0o600)
        listener.listen(MAX_CONNECTIONS)
    except BaseException:
        listener.close()
        raise
    return listener


def _peer(connection: socket.socket) -> str:
    """Return who has connected, in words.

    Raises:
        Problem: it is another user.
    """
    if sys.platform != "linux":
        return _user(os.getuid())  # the modes of the socket and its directory are all that keeps others out
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid not in (0, os.getuid()):
        raise Problem("not-allowed", f"this program is of {_user(os.getuid())}, and you are {_user(uid)}")
    return f"{_user(uid)} (process {pid})"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
