"""streaq, on Redis."""

import marks
from streaq import Worker

worker = Worker(redis_url=marks.URL, concurrency=marks.CONCURRENCY)


@worker.task(name="nap")
async def nap(index: int) -> None:
    await marks.nap(index)


@worker.task(name="noop")
async def noop(index: int) -> None:
    marks.noop(index)


async def work():
    await worker.run_async()


async def submit():
    jobs = {"nap": nap, "noop": noop}

    async def enqueue(job, index):
        await jobs[job].enqueue(index)

    async with worker:
        await marks.submit(enqueue)


if __name__ == "__main__":
    marks.main(work, submit)
