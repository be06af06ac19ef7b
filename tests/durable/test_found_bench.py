"""What was found while durable jobs were measured: who is asked about, and how often."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aiopool import Handlers, Pool
from aiopool.stores._memory import Memory

handlers = Handlers()


@handlers.register("echo")
async def echo(value: int) -> int:
    """Return it."""
    return value


@handlers.register("fail")
async def fail(value: int) -> int:
    """Raise."""
    raise ValueError(value)


class Asked(Memory):
    """Notes which jobs it is asked about."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.asked: list[str] = []

    async def finished(self, ids: Any) -> Any:
        self.asked += ids
        return await super().finished(ids)


async def test_a_job_that_runs_here_is_not_asked_about() -> None:
    """Its end is known here: to ask the store for it, again and again, would be in vain."""
    store = Asked()
    async with Pool(4, store=store, handlers=handlers) as pool:
        while pool.statistics().running or not await pool.run(echo, 1):
            await asyncio.sleep(0)  # its first claim has come
        store.asked.clear()
        for value in range(20):
            assert await pool.run(echo, value) == value
    assert store.asked == []


async def test_a_job_that_failed_here_is_asked_about_once() -> None:
    """Its error comes from the store, as for everybody else; other jobs are not asked about because of it."""
    store = Asked()
    async with Pool(4, store=store, handlers=handlers) as pool:
        later = await pool.with_options(delay=3600).submit(echo, 1)
        waiting = asyncio.ensure_future(later.wait())
        while str(later.id) not in store.asked:
            await asyncio.sleep(0)
        store.asked.clear()
        job = await pool.submit(fail, 7)
        with pytest.raises(ValueError, match="7"):
            await job
        assert store.asked.count(str(job.id)) == 1
        waiting.cancel()
        await pool.cancel(later.id)


async def test_a_job_that_ended_elsewhere_is_found_while_others_begin_to_be_awaited(tmp_path: Path) -> None:
    """Hints that come all the time do not keep the others from being asked about, though their own hint was lost."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    async with Pool(store=url, handlers=handlers, role="producer") as pool:
        pool_state: Any = pool._state
        jobs = pool_state.durability
        jobs._on_wake = lambda wake: None
        jobs.store._on_wake = lambda wake: None  # all hints are lost
        first = await pool.submit(echo, 1)
        waiting = asyncio.ensure_future(first.wait())
        others: list[asyncio.Future[Any]] = []
        async with Pool(store=url, handlers=handlers, role="worker"):
            while not waiting.done():
                job = await pool.with_options(delay=3600).submit(echo, 2)
                others.append(asyncio.ensure_future(job.wait()))
                await asyncio.sleep(0.01)
        for other in others:
            other.cancel()
    assert first.result() == 1
