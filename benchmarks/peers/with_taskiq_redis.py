"""taskiq with the stream broker of taskiq-redis, the one of its brokers that acknowledges."""

import marks
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(marks.URL)


@broker.task(task_name="nap")
async def nap(index: int) -> None:
    await marks.nap(index)


@broker.task(task_name="noop")
async def noop(index: int) -> None:
    marks.noop(index)


async def work():
    broker.is_worker_process = True
    await run_receiver_task(broker, max_async_tasks=marks.CONCURRENCY, run_startup=True)


async def submit():
    await broker.startup()
    jobs = {"nap": nap, "noop": noop}
    await marks.submit(lambda job, index: jobs[job].kiq(index))
    await broker.shutdown()


if __name__ == "__main__":
    marks.main(work, submit)
