"""docket, on Redis."""

import marks
from docket import Docket, Worker


async def nap(index: int) -> None:
    await marks.nap(index)


async def noop(index: int) -> None:
    marks.noop(index)


async def work():
    async with Docket(url=marks.URL) as docket:
        docket.register(nap)
        docket.register(noop)
        async with Worker(docket, concurrency=marks.CONCURRENCY) as worker:
            await worker.run_forever()


async def submit():
    jobs = {"nap": nap, "noop": noop}
    async with Docket(url=marks.URL) as docket:
        await marks.submit(lambda job, index: docket.add(jobs[job])(index))


if __name__ == "__main__":
    marks.main(work, submit)
