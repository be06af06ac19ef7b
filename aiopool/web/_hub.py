"""`Hubs`: one snapshot a second of a pool, or of a job, for all who watch it, made only while somebody does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, final

from aiopool._control.problems import Problem
from aiopool._control.verbs import Access
from aiopool.web._submit import ENDED
from aiopool.web._target import Target

__all__ = ["Hubs", "Watch"]

TICK = 1.0
MAX_ROWS = 200
# Statuses of a pool in which it has no more to say.
OVER = ("closing", "closed")
# Problems that say that it is not there any more.
GONE = ("not-found", "forgotten", "program-gone")


@final
class Hub:
    """The snapshots of one pool, or of one job of it, for the viewers of one event loop."""

    def __init__(self, target: Target, pool: str, job: str | None) -> None:
        self._target = target
        self._pool = pool
        self._job = job
        self.viewers: dict[Watch, int] = {}  # each with the rows that it wants
        self._frame: dict[str, Any] | Problem | None = None
        self._written: dict[int, str] = {}  # the frame as JSON, by the rows that are wanted of it
        self._waiting: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def enter(self, viewer: Watch, rows: int) -> None:
        """Somebody looks: begin, if it is the first."""
        self.viewers[viewer] = rows
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"aiopool-web-hub-{self._pool}")

    def leave(self, viewer: Watch) -> None:
        """Somebody has gone: end, if it was the last."""
        self.viewers.pop(viewer, None)
        if not self.viewers and self._task is not None:
            self._task.cancel()
            self._task = None
            self._frame = None

    async def _run(self) -> None:
        while True:
            rows = max(self.viewers.values(), default=0)
            verb, wanted = ("status", {"rows": rows}) if self._job is None else ("job", {"id": self._job})
            try:
                self._frame = await self._target.ask(verb, self._pool, who="web", access=Access.READ, **wanted)
            except Problem as problem:
                self._frame = problem
            self._written.clear()
            self.wake()
            await asyncio.sleep(TICK)

    def wake(self) -> None:
        """Let all who wait look again."""
        waiting, self._waiting = self._waiting, set()
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def next(self, seen: object) -> dict[str, Any] | Problem | None:
        """Return a snapshot that is not `seen`; or what is there when somebody wakes us."""
        if self._frame is None or self._frame is seen:
            news = asyncio.get_running_loop().create_future()
            self._waiting.add(news)
            try:
                await news
            finally:
                self._waiting.discard(news)
        return self._frame

    def written(self, frame: dict[str, Any], rows: int) -> str:
        """Return what a viewer wants of a snapshot that `next` has returned, as JSON: written once for all of them."""
        text = self._written.get(rows) if frame is self._frame else None
        if text is None:
            text = _json(frame if self._job is not None else frame | {"running": frame.get("running", [])[:rows]})
            if frame is self._frame:  # one who was slow may still have the last
                self._written[rows] = text
        return text


@final
class Hubs:
    """The hubs of an app.

    Attributes:
        streams: how many streams are open.
        closed: they all end now.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._hubs: dict[tuple[str, str | None, asyncio.AbstractEventLoop], Hub] = {}
        self.streams = 0
        self.closed = False

    @property
    def watched(self) -> list[str]:
        """The pools that somebody watches, or a job of them."""
        return [pool for pool, _, _ in self._hubs]

    def close(self) -> None:
        """End all streams: the server is to stop. From the loop of the server."""
        self.closed = True
        for hub in list(self._hubs.values()):
            hub.wake()

    def enter(self, viewer: Watch, pool: str, job: str | None, rows: int) -> Hub:
        """Somebody looks at a pool, or at a job of it."""
        key = (pool, job, asyncio.get_running_loop())
        hub = self._hubs.get(key)
        if hub is None:
            hub = self._hubs[key] = Hub(self._target, pool, job)
        hub.enter(viewer, rows)
        return hub

    def leave(self, viewer: Watch, hub: Hub) -> None:
        """Somebody has gone."""
        hub.leave(viewer)
        if not hub.viewers:
            self._hubs = {key: one for key, one in self._hubs.items() if one is not hub}


@final
class Watch:
    """What one viewer is sent, as server-sent events."""

    def __init__(
        self,
        hubs: Hubs,
        target: Target,
        pool: str,
        *,
        who: str,
        access: Access,
        job: str | None = None,
        rows: int = 0,
        types: list[str] | None,
        after: int | None,
        frames: int | None,
        seconds: float,
    ) -> None:
        """Prepare it.

        Args:
            hubs: those of the app.
            target: what is watched.
            pool: the key of the pool.
            who: looks.
            access: what they may do.
            job: the id of the job that is watched; None: the pool is.
            rows: of running jobs in each snapshot.
            types: of events that are sent, too; empty: all of them; None: none.
            after: the number of the last event that the viewer has had.
            frames: so many snapshots, then it ends.
            seconds: after so long it ends.
        """
        self._hubs = hubs
        self._target = target
        self._pool = pool
        self._who = who
        self._access = access
        self._job = job
        self._rows = min(rows, MAX_ROWS)
        self._types = types
        self._after = after
        self._frames = frames
        self._seconds = seconds

    async def stream(self) -> AsyncGenerator[str]:
        """Send events until the time is over, the pool or the job ends, or the server does."""
        hubs = self._hubs
        if hubs.closed:
            yield _event("bye", {"detail": "the server ends"})
            return
        hubs.streams += 1
        hub = hubs.enter(self, self._pool, self._job, self._rows)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        seen: object = None
        try:
            yield "retry: 2000\n\n"
            if self._after is None and self._types is not None:
                self._after = (await self._events(0))["next"]  # from now on
            while self._frames is None or self._frames > 0:
                try:
                    async with asyncio.timeout_at(end):
                        frame = await hub.next(seen)
                except TimeoutError:
                    return
                if hubs.closed:
                    yield _event("bye", {"detail": "the server ends"})
                    return
                if frame is seen or frame is None:
                    continue
                seen = frame
                if isinstance(frame, Problem) and frame.kind not in GONE:
                    yield _event("problem", frame.to_dict())
                    continue
                if self._types is not None:
                    async for text in self._news():
                        yield text
                if isinstance(frame, Problem):
                    yield _event("bye", frame.to_dict())
                    return
                yield _written("state", hub.written(frame, self._rows), self._after)
                if frame["status"] in (OVER if self._job is None else ENDED):
                    what = "the pool" if self._job is None else f"job {self._job}"
                    yield _event("bye", {"detail": f"{what} is {frame['status']}"})
                    return
                if self._frames is not None:
                    self._frames -= 1
        finally:
            hubs.streams -= 1
            hubs.leave(self, hub)

    async def _events(self, after: int) -> dict[str, Any]:
        wanted: dict[str, Any] = {} if self._job is None else {"job": self._job}
        return await self._target.ask(
            "events",
            self._pool,
            who=self._who,
            access=self._access,
            after=after,
            types=self._types or None,
            limit=200,
            **wanted,
        )

    async def _news(self) -> AsyncIterator[str]:
        try:
            found = await self._events(self._after or 0)
        except Problem:
            return  # the snapshot tells
        if found["gap"]:
            yield _event("gap", {"detail": "events are missing here: they were not heard, or are not kept any more"})
        for one in found["items"]:
            yield _event("job", one, one["number"])
        self._after = found["next"]


def _event(kind: str, data: Any, number: int | None = None) -> str:
    return _written(kind, _json(data), number)


def _json(data: Any) -> str:
    return json.dumps(data, default=str, separators=(",", ":"))


def _written(kind: str, data: str, number: int | None) -> str:
    """Write an event; JSON in ASCII has no line breaks, so nothing in it can begin another one."""
    id = "" if number is None else f"id: {number}\n"
    return f"{id}event: {kind}\ndata: {data}\n\n"
