"""pgqueuer, on PostgreSQL. Its cap has to be at least twice the size of its batches, which is 10 by default."""

import asyncpg
import marks
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries


async def install():
    connection = await asyncpg.connect(marks.URL)
    await Queries(AsyncpgDriver(connection)).install()


async def work():
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(marks.URL)))

    @queuer.entrypoint("nap")
    async def nap(job):
        await marks.nap(int(job.payload))

    @queuer.entrypoint("noop")
    async def noop(job):
        marks.noop(int(job.payload))

    await queuer.run(max_concurrent_tasks=marks.CONCURRENCY)


async def submit():
    queries = Queries(AsyncpgDriver(await asyncpg.connect(marks.URL)))
    await marks.submit(lambda job, index: queries.enqueue(job, str(index).encode()))


if __name__ == "__main__":
    marks.main(work, submit, install)
