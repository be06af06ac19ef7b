"""A producer: one process that hands in jobs and cancels some, and writes down each promise that it got.

It is started by the tormentor, with one argument: a JSON object, see `ProducerOptions`. What it was about to do is in
its journal before, what was promised after, so a job in the store is either promised, or was on its way at the death
of its producer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiopool import Job, JobStatus, Pool, PoolClosedError
from aiopool._torture.journal import Journal
from aiopool._torture.work import Plan, Work, limits, plans
from aiopool.errors import StoreError

__all__ = ["ProducerOptions", "main"]


@dataclass(frozen=True)
class ProducerOptions:
    """What a producer is told.

    Attributes:
        store, queue, directory: as a host.
        seed: of its choices.
        rate: jobs in a second.
        poisons: how many of its jobs kill their process.
        line: so many jobs of priorities by chance, and nothing else; then it ends.
    """

    store: str
    queue: str
    directory: str
    seed: int
    rate: float = 60.0
    poisons: int = 0
    line: int = 0


def main(text: str) -> None:
    """Run."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(name)s %(message)s")
    asyncio.run(_run(ProducerOptions(**json.loads(text))))


async def _run(options: ProducerOptions) -> None:
    journal = Journal(Path(options.directory), "producer")
    journal.note("born", sure=True)
    work = Work(journal, 0.0, late=True, nobody=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    pool = Pool(
        name=options.queue,
        store=options.store,
        handlers=work.handlers,
        role="producer",
        shutdown_timeout=1.0,
        **limits(),
    )
    async with pool:
        journal.note("open")
        producer = _Producer(pool, work, journal, random.Random(options.seed))  # noqa: S311  # chances, not secrets
        if options.line:
            await producer.line(options.line)
        else:
            await producer.go_on(stop, options)
    journal.note("closed")


class _Producer:
    def __init__(self, pool: Pool, work: Work, journal: Journal, rng: random.Random) -> None:
        self._pool = pool
        self._work = work
        self._journal = journal
        self._rng = rng
        self._recent: list[str] = []

    async def line(self, count: int) -> None:
        """Hand in jobs, one after the other, whose priorities say in which order they are to start."""
        for _ in range(count):
            await self._hand_in(Plan("quick", (), {"priority": self._rng.randrange(1, 10)}), line=True)

    async def go_on(self, stop: asyncio.Event, options: ProducerOptions) -> None:
        """Hand in jobs until it is told to stop."""
        tasks: set[asyncio.Task[None]] = set()
        for plan in plans(self._rng, options.poisons):
            if stop.is_set():
                break
            cancels = bool(self._recent) and self._rng.random() < 0.08
            task = asyncio.create_task(
                self._cancel(self._rng.choice(self._recent[-30:])) if cancels else self._hand_in(plan)
            )
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(self._rng.expovariate(options.rate))
            if len(tasks) > 100:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks:
            await asyncio.wait(tasks, timeout=3.0)

    async def _hand_in(self, plan: Plan, **facts: Any) -> None:
        id = uuid.uuid4().hex
        facts |= {"id": id, "name": plan.name, "args": plan.args, "options": plan.options}
        self._journal.note("submit", sure=True, **facts)
        try:
            job = await self._pool.with_options(id=id, **plan.options).submit(
                self._work.functions[plan.name], *plan.args
            )
        except (StoreError, RuntimeError) as error:  # the store is away; the pool is closing
            self._journal.note("not_taken", id=id, error=repr(error)[:300])
            return
        except ValueError as error:
            self._journal.note("refused", id=id, error=repr(error)[:300])
            return
        self._journal.note("taken", sure=True, id=id, other=None if job.id == id else str(job.id))
        if job.id == id:
            self._recent.append(id)
            if not facts.get("line") and self._rng.random() < 0.2:
                await self._await(job)

    async def _await(self, job: Job[Any]) -> None:
        """Wait for the end of a job, for a while, and write down what was told of it."""
        try:
            async with asyncio.timeout(5.0):
                await job.wait()
        except TimeoutError:
            return
        if isinstance(job.exception(), PoolClosedError):  # the handle ends with its pool, the job does not
            return
        value = await job if job.status is JobStatus.SUCCEEDED else None
        self._journal.note("awaited", id=str(job.id), status=job.status.value, value=value)

    async def _cancel(self, id: str) -> None:
        self._journal.note("cancel", id=id)
        try:
            async with asyncio.timeout(5.0):
                report = await self._pool.cancel(id)
        except (StoreError, RuntimeError, TimeoutError) as error:
            self._journal.note("not_cancelled", id=id, error=repr(error)[:300])
            return
        self._journal.note(
            "cancelled",
            sure=True,
            id=id,
            was=None if report.was is None else report.was.value,
            status=None if report.status is None else report.status.value,
            ended=report.ended_ago is not None,
        )


if __name__ == "__main__":
    main(sys.argv[1])
