"""aiopool: a pool with a store."""

import asyncio

import marks

from aiopool import Handlers, Pool

handlers = Handlers()
nap = handlers.register("nap")(marks.nap)


@handlers.register("noop")
async def noop(index: int) -> None:
    marks.noop(index)


async def work() -> None:
    async with Pool(marks.CONCURRENCY, store=marks.URL, handlers=handlers, role="worker"):
        await asyncio.Event().wait()


async def submit() -> None:
    async with Pool(store=marks.URL, handlers=handlers, role="producer") as pool:
        jobs = {"nap": nap, "noop": noop}
        await marks.submit(lambda job, index: pool.submit(jobs[job], index))


if __name__ == "__main__":
    marks.main(work, submit)
