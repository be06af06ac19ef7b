"""A worker program for the pages on Docker and systemd: it finishes the orders that it has when it is told to end."""

import asyncio
import itertools

import aiopool
from aiopool import Pool


async def handle(order: int) -> None:
    await asyncio.sleep(0.1)  # here: the work
    print("handled", order, flush=True)


async def main(pool: Pool) -> None:
    for order in itertools.count(1):  # here: a message broker
        await pool.submit(handle, order)


if __name__ == "__main__":
    aiopool.run(main, pool=Pool(size=4, queue_size=8), timeout=20, grace=2)
