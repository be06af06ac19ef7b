"""What the tests of stores share: a fleet of incarnations on the data of one maker, and short words for what they do.

A test says `await peer.submit("a", "b", priority=3)`, `await peer.take(2)`, `await peer.end(job)`; what is rarer is
called on `peer.store` itself.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any

from kinds import Maker

from aiopool.stores._protocol import Keeper, Store, Wake
from aiopool.stores._rows import Claimed, Incarnation, NewJob, Settlement, StoredJob, StoredStatus, Submitted

__all__ = ["Fleet", "Peer", "jobs"]

_ids = itertools.count(1)


def jobs(*ids: str, **options: Any) -> list[NewJob]:
    """Return jobs with these ids and the same options."""
    return [NewJob(id, options.get("name", "work"), **_rest(options)) for id in ids]


def _rest(options: dict[str, Any]) -> dict[str, Any]:
    rest = {"payload": "[[],{}]", **options}
    rest.pop("name", None)
    return rest


class Peer:
    """One incarnation.

    Attributes:
        wakes: the hints that it has got, in their order.
    """

    def __init__(self, store: Store, id: str, runs_jobs: bool) -> None:
        self.store = store
        self.me = Incarnation(id, "host", 1, runs_jobs)
        self.wakes: list[Wake] = []
        self.keeper: Keeper | None = None

    @property
    def id(self) -> str:
        return self.me.id

    def _mine(self, what: Iterable[str | NewJob], options: dict[str, Any]) -> list[NewJob]:
        rows = [job if isinstance(job, NewJob) else jobs(job, **options)[0] for job in what]
        return [row._replace(submitter=row.submitter or self.id) for row in rows]

    async def submit(self, *what: str | NewJob, **options: Any) -> list[Submitted]:
        """Submit ids with the same options, or rows, in one batch."""
        return await self.store.submit(self._mine(what, options))

    async def outcomes(self, *what: str | NewJob, **options: Any) -> list[str]:
        return [answer.outcome for answer in await self.submit(*what, **options)]

    async def take(self, limit: int = 100) -> list[Claimed]:
        return (await self.store.claim(limit)).jobs

    async def ids(self, limit: int = 100) -> list[str]:
        """Claim, and return the ids of what came."""
        return [job.id for job in await self.take(limit)]

    async def one(self) -> Claimed:
        """Claim the one job that there is to get."""
        (job,) = await self.take(1)
        return job

    async def end(self, *ended: Claimed, outcome: str = "succeeded", **options: Any) -> list[bool]:
        """Settle jobs alike."""
        kind: Any = outcome
        return await self.store.settle([Settlement(job.id, job.fence, kind, **options) for job in ended])

    async def find(self, id: str) -> StoredJob:
        (row,) = await self.store.find([id])
        return row

    async def status(self, id: str) -> StoredStatus:
        return (await self.find(id)).status

    async def cancel(self, *ids: str, reason: str | None = None) -> list[str]:
        return [answer.was for answer in await self.store.cancel(ids, reason)]

    async def hint(self, kind: Wake) -> None:
        """Wait for a hint of this kind that has not been taken yet, and take it and all like it."""
        async with asyncio.timeout(10):
            while kind not in self.wakes:
                await asyncio.sleep(0.001)
        self.wakes[:] = [other for other in self.wakes if other != kind]


class Fleet:
    """Incarnations on the same data."""

    def __init__(self, maker: Maker) -> None:
        self.maker = maker
        self.peers: list[Peer] = []

    async def join(self, *, queue: str = "jobs", runs_jobs: bool = True, **options: Any) -> Peer:
        """Open one more store."""
        peer = Peer(self.maker(**options), f"incarnation-{next(_ids)}", runs_jobs)
        await peer.store.open(queue, peer.me, peer.wakes.append)
        self.peers.append(peer)
        peer.keeper = peer.store.keeper()
        if peer.keeper is not None:
            await peer.keeper.open()
            await peer.keeper.beat()
        return peer

    async def leave(self, peer: Peer) -> None:
        """Close a store."""
        self.peers.remove(peer)
        if peer.keeper is not None:
            await peer.keeper.close()
        await peer.store.close()

    async def kill(self, peer: Peer) -> None:
        """Let one die."""
        self.peers.remove(peer)
        if peer.keeper is not None:
            await peer.keeper.close()
        await self.maker.kill(peer.store)

    async def close(self) -> None:
        for peer in self.peers[::-1]:
            await self.leave(peer)
