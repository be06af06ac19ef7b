"""procrastinate, on PostgreSQL."""

import marks
from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=marks.URL))


@app.task(name="nap")
async def nap(index):
    await marks.nap(index)


@app.task(name="noop")
async def noop(index):
    marks.noop(index)


async def install():
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def work():
    async with app.open_async():
        await app.run_worker_async(concurrency=marks.CONCURRENCY)


async def submit():
    jobs = {"nap": nap, "noop": noop}
    async with app.open_async():
        await marks.submit(lambda job, index: jobs[job].defer_async(index=index))


if __name__ == "__main__":
    marks.main(work, submit, install)
