"""A store, opened for a command: one that looks at jobs and steers them, and runs none.

Always true: a store that was opened is closed, and no text that leaves this module has the password of a URL.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

from aiopool.cli._board import printable
from aiopool.cli._words import FAILED, MISUSED, Refusal
from aiopool.errors import StoreError
from aiopool.stores._open import open_store
from aiopool.stores._protocol import Store, Wake
from aiopool.stores._rows import Incarnation

__all__ = ["complain", "hidden", "named_store", "on_store", "open_for_command", "run_command"]

# `user:password@`, up to the last @ of the URL: a password may have one in it that nobody has quoted.
_LOGIN = re.compile(r"(?<=://)([^:@/?#]*):(.*)@")
_PARAMETER = re.compile(r"(?i)(?<=[?&])([^=&]*(?:pass|pwd|secret|token|key)[^=&]*)=([^&#]*)")
# Shorter ones would hide words of the message, and are no secret.
_SHORT = 4


def _is_file(url: str) -> bool:
    return url.startswith(("sqlite:", "memory:"))


def hidden(text: str, *urls: str) -> str:
    """Return a text in which the passwords of some URLs are `***`."""
    for url in urls:
        login = None if _is_file(url) else _LOGIN.search(url)
        clean = url if login is None else f"{url[: login.start(2)]}***{url[login.end(2) :]}"
        text = text.replace(url, _PARAMETER.sub(r"\1=***", clean))
        secrets = [match[2] for match in _PARAMETER.finditer(url)] + ([login[2]] if login is not None else [])
        for secret in secrets:
            for form in {secret, unquote(secret)}:
                if len(form) >= _SHORT:
                    text = text.replace(form, "***")
    return text


def complain(text: str) -> None:
    """Say on standard error, in one line, why something is not done."""
    print(f"aiopool: {printable(' '.join(text.split()))}", file=sys.stderr, flush=True)


def named_store(url: str, *, option: str = "--store", made: bool = False, private: bool = False) -> Store:
    """Return the store that a URL names, not yet opened.

    Args:
        url: as it was written.
        option: where it was written.
        made: whether a file that is not there will be made; otherwise a name that is misspelt is refused.
        private: whether it may be one that nobody else can see.

    Raises:
        Refusal: there is no such store, or nothing can be seen in it from here.
    """
    shown = hidden(url, url)
    if url.startswith("memory:") and not private:
        raise Refusal(
            f"{option} {shown}: such a store lives inside the process that opened it, and nobody else sees it; write "
            f"{option} sqlite:///jobs.db"
        )
    try:
        store = open_store(url)
    except (ValueError, RuntimeError, ImportError) as error:
        text = str(error)
        raise Refusal(
            hidden(text.replace("store=", f"{option} ") if text.startswith("store=") else text, url)
        ) from None
    path = getattr(store, "path", None)
    if not made and path is not None and not os.path.exists(path):
        raise Refusal(f"{option} {shown}: there is no file {str(path)!r} here; what opens a pool on it makes it")
    return store


@asynccontextmanager
async def open_for_command(
    store: Store, queue: str, on_wake: Callable[[Wake], object] = lambda wake: None
) -> AsyncIterator[Store]:
    """Open a store as one that runs no jobs, and close it in the end.

    Raises:
        Refusal: it cannot be opened.
    """
    me = Incarnation(id=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid(), runs_jobs=False)
    try:
        await store.open(queue, me, on_wake)
    except StoreError as error:
        raise Refusal(str(error)) from None
    try:
        yield store
    finally:
        await store.close()


def run_command(work: Callable[[], Coroutine[Any, Any, int]], *urls: str) -> int:
    """Run what a command does with stores, and return the exit code; `urls` have secrets that errors must not show."""
    try:
        return asyncio.run(work())
    except Refusal as refusal:
        complain(hidden(str(refusal), *urls))
        return MISUSED
    except StoreError as error:
        complain(hidden(str(error), *urls))
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def on_store(
    url: str,
    queue: str,
    work: Callable[[Store], Coroutine[Any, Any, int]],
    *,
    made: bool = False,
    private: bool = False,
) -> int:
    """Open the store of a URL, do something with it, close it, and return the exit code."""

    async def opened() -> int:
        async with open_for_command(named_store(url, made=made, private=private), queue) as store:
            return await work(store)

    return run_command(opened, url)
