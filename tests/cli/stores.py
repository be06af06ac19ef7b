"""Stores for the tests of commands: opened in the test's own process, on a file that the command opens too."""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiopool.stores._open import open_store
from aiopool.stores._protocol import Store
from aiopool.stores._rows import Incarnation, NewJob, Settlement

__all__ = ["URL", "end", "new", "opened"]

URL = "sqlite:///jobs.db"


@asynccontextmanager
async def opened(here: Path, queue: str = "pool", *, name: str = "jobs.db") -> AsyncIterator[Store]:
    """The store of a file in a directory, opened as a worker opens it."""
    store = open_store(f"sqlite:///{here / name}")
    me = Incarnation(id=uuid.uuid4().hex, host="worker-host", pid=os.getpid(), runs_jobs=True)
    await store.open(queue, me, lambda wake: None)
    try:
        yield store
    finally:
        await store.close()


def new(id: str, name: str = "mail.send", payload: str = '{"args": [1]}', **options: Any) -> NewJob:
    return NewJob(id=id, name=name, payload=payload, **options)


async def end(store: Store, outcome: Any, **options: Any) -> str:
    """Claim the next job, and end it."""
    (job,) = (await store.claim(1)).jobs
    assert await store.settle([Settlement(job.id, job.fence, outcome, **options)]) == [True]
    return job.id
