"""What the tests of cancels share."""

import asyncio

from aiopool import (
    JobStatus,
)
from aiopool.testing import settle, wait_until


async def turns(n):
    for _ in range(n):
        await asyncio.sleep(0)


async def started(*jobs):
    await wait_until(lambda: all(job.status is JobStatus.RUNNING for job in jobs))
    await turns(2)


async def at_rest():
    """A second later nothing turns any more."""
    loop = asyncio.get_running_loop()
    await settle()
    before = loop.turns
    await asyncio.sleep(1)
    assert loop.turns - before <= 5, "something spins"
