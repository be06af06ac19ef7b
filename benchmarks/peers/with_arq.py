"""arq, on Redis."""

import marks
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker


async def nap(context, index):
    await marks.nap(index)


async def noop(context, index):
    marks.noop(index)


async def work():
    settings = RedisSettings.from_dsn(marks.URL)
    worker = Worker([nap, noop], redis_settings=settings, max_jobs=marks.CONCURRENCY, handle_signals=False)
    await worker.async_run()


async def submit():
    redis = await create_pool(RedisSettings.from_dsn(marks.URL))
    await marks.submit(redis.enqueue_job)
    await redis.aclose()


if __name__ == "__main__":
    marks.main(work, submit)
