"""SAQ, on Redis."""

import marks
from saq import Queue, Worker


async def nap(context, *, index):
    await marks.nap(index)


async def noop(context, *, index):
    marks.noop(index)


async def work():
    await Worker(Queue.from_url(marks.URL), [nap, noop], concurrency=marks.CONCURRENCY).start()


async def submit():
    queue = Queue.from_url(marks.URL)
    await queue.connect()
    await marks.submit(lambda job, index: queue.enqueue(job, index=index))
    await queue.disconnect()


if __name__ == "__main__":
    marks.main(work, submit)
