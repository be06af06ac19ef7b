"""What the tests of the web app share: an app whose visitors say who they are, a client for it, and its routes."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from web_servers import ROOT, Server

import aiopool
import aiopool.web
from aiopool.web._app import app_of
from aiopool.web._config import Config
from aiopool.web._target import Here

HOME = "http://127.0.0.1"
SAME_SITE = {"origin": HOME}
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")


def by_header(request):
    """Whoever asks says what they may do: no app does that, but a test."""
    return request.headers.get("x-access")


def make_handlers() -> aiopool.Handlers:
    handlers = aiopool.Handlers()

    @handlers.register("add")
    async def add(a: int, b: int = 1) -> int:
        return a + b

    @handlers.register("fail")
    async def fail(text: str) -> None:
        raise ValueError(text)

    return handlers


def make_app(**more: Any) -> Any:
    """An app with all that can be switched on."""
    given = {"access": by_header, "handlers": make_handlers(), "shutdown": True, "hosts": (), "trusted_origins": ()}
    return app_of(Here(), Config.of(**(given | more)))


def client(
    app: Any, access: str | None = "operate", base: str = f"{HOME}/api/v1", **headers: str
) -> httpx2.AsyncClient:
    """A client that comes from the same site, with some access."""
    known = {} if access is None else {"x-access": access}
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app, raise_app_exceptions=False),
        base_url=base,
        headers=SAME_SITE | known | headers,
    )


def routes(app: Any) -> Iterator[tuple[str, str]]:
    """Each path and method of an app, those of included routers, too."""
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes(inner)
            continue
        for method in sorted(getattr(route, "methods", None) or ()):
            yield method, route.path


def filled(path: str) -> str:
    """A path with names in place of its parameters: nothing has them, so nothing is done."""
    names = {"{pool}": "nobody", "{group}": "g", "{id}": "7", "{job_id}": "7"}
    for parameter, name in names.items():
        path = path.replace(parameter, name)
    return path


HANDLERS = """
import asyncio
import aiopool

handlers = aiopool.Handlers()

@handlers.register("add")
async def add(a: int, b: int = 1) -> int:
    return a + b

@handlers.register("nap")
async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rested"

@handlers.register("fail")
async def fail(text: str) -> None:
    raise ValueError(text)
"""
TOKEN = "a-token-of-the-tests-0123456789"


class Command(Server):
    """`aiopool WORDS` in a process of its own, which has said where it listens."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        super().__init__(process, ("127.0.0.1", 0))
        self.url = self.said_after(": http://", "http://")
        self.link = self.said_after("with this link: ")

    def said_after(self, words: str, begin: str = "") -> str:
        """Wait for words, and return what follows them in their line."""

        def found() -> str | None:
            return next((line.partition(words)[2].strip() for line in self.lines if words in line), None)

        with self._news:
            self._news.wait_for(lambda: self._ended or found() is not None)
            text = found()
        assert text is not None, f"the command ended without {words!r}:\n{self.text}"
        return begin + text


@contextlib.contextmanager
def command(directory: Path, *words: str) -> Iterator[Command]:
    """Run a command of ours that serves; at the end it is killed, if it has not ended."""
    (directory / "handlers.py").write_text(HANDLERS)
    (directory / "token").write_text(TOKEN + "\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "aiopool", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(directory)},
        start_new_session=True,
    )
    with process:
        watchdog = threading.Timer(100, process.kill)
        watchdog.start()
        try:
            yield Command(process)
        finally:
            watchdog.cancel()
            process.kill()


def serve(directory: Path, *more: str) -> "contextlib.AbstractContextManager[Command]":
    """Run `aiopool serve` with the functions above."""
    return command(directory, "serve", "handlers.py:handlers", "--port", "0", "--token-file", "token", *more)
