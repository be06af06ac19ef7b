"""A proxy between one host and its server: it cuts connections, holds them up, and lets them hang half-open."""

from __future__ import annotations

import asyncio
import contextlib
from typing import final

__all__ = ["Proxy"]


@final
class Proxy:
    """Listens on a port of this machine, and passes on what comes.

    Attributes:
        port: where it listens.
        delay: seconds by which each piece is held up.
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.delay = 0.0
        self._loses = False
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()

    async def begin(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End, with all connections."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Break all connections, as a firewall that forgets them does."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def hang(self, seconds: float) -> None:
        """Let nothing through for a while, with all connections open; then break them."""
        self._open.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.cut()
            self._open.set()

    async def lose(self, seconds: float) -> None:
        """Let the server get all, and nobody hear its answers, for a while; then break the connections."""
        self._loses = True
        try:
            await asyncio.sleep(seconds)
        finally:
            self.cut()
            self._loses = False

    async def slow(self, delay: float, seconds: float) -> None:
        """Hold all up for a while."""
        self.delay = delay
        try:
            await asyncio.sleep(seconds)
        finally:
            self.delay = 0.0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._open.wait()
            there, back = await asyncio.open_connection(*self._target)
            self._writers.add(back)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass_on(reader, back, answers=False))
                    both.create_task(self._pass_on(there, writer, answers=True))
            finally:
                self._writers.discard(back)
                back.transport.abort()
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            if answers and self._loses:
                continue
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
        raise ConnectionResetError
