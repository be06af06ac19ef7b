"""`Once`: a request that is sent again, because its answer was lost, is carried out once (`Idempotency-Key`)."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, final

from pydantic import BaseModel
from starlette.requests import Request

from aiopool._control.problems import Problem
from aiopool.web._answers import etag

__all__ = ["Once"]

MAX_KEYS = 10_000
SECONDS = 24 * 3600.0
MAX_KEY = 255


@final
class Once:
    """The answers to requests that had a key, by who asked, where, and the key.

    One that has failed is not kept: it is carried out when it comes again. It belongs to the loop of the server.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, str], tuple[str, float, Any]] = OrderedDict()
        self._under_way: dict[tuple[str, str, str], str] = {}

    async def answer(self, request: Request, body: BaseModel, do: Callable[[], Awaitable[Any]]) -> Any:
        """Return what `do()` returns, or has returned for the same request.

        Raises:
            Problem: the key cannot be read, is of a request under way, or of one with another body.
        """
        key = _key_of(request)
        if key is None:
            return await do()
        place = (request.state.who, request.scope["path"], key)
        said = etag(body.model_dump(mode="json"))
        before = self._under_way.get(place)
        if before is not None:
            self._same(before, said, key)
            raise Problem(
                "under-way", f"the request with Idempotency-Key {key!r:.100} is under way: wait for its answer"
            )
        found = self._kept.get(place)
        if found is not None and time.monotonic() - found[1] < SECONDS:
            self._same(found[0], said, key)
            return found[2]
        self._under_way[place] = said
        # Whoever asks may go away, which must not leave something half done that is done again.
        task = asyncio.ensure_future(_run(do))
        task.add_done_callback(lambda task: self._ended(place, said, task))
        return await asyncio.shield(task)

    def _ended(self, place: tuple[str, str, str], said: str, task: asyncio.Task[Any]) -> None:
        del self._under_way[place]
        if not task.cancelled() and task.exception() is None:
            self._kept[place] = (said, time.monotonic(), task.result())
            self._kept.move_to_end(place)
            while len(self._kept) > MAX_KEYS:
                self._kept.popitem(last=False)

    @staticmethod
    def _same(before: str, now: str, key: str) -> None:
        if before != now:
            raise Problem("invalid", f"Idempotency-Key {key!r:.100} was sent with another body: take a new key for it")


async def _run(do: Callable[[], Awaitable[Any]]) -> Any:
    return await do()


def _key_of(request: Request) -> str | None:
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    key = given[0].strip()
    if key.startswith('"') and key.endswith('"') and len(key) > 1:  # as the draft writes it
        key = key[1:-1]
    if len(given) > 1 or not key or len(key) > MAX_KEY or not key.isprintable():
        raise Problem("bad-request", f"Idempotency-Key is one text of 1 to {MAX_KEY} printable characters")
    return key
