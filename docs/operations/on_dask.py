"""Frames that are rendered on a Dask cluster: `python on_dask.py tcp://scheduler:8786`."""

import asyncio
import sys

from aiopool import Handlers, Pool

handlers = Handlers()


@handlers.register("render", offload="dask")
def render(scene: str, frame: int) -> str:
    return f"{scene}-{frame:04}.png"


async def main(scheduler: str) -> None:
    store = "sqlite:///jobs.db"
    async with Pool(size=50, store=store, handlers=handlers, dask=scheduler) as pool:
        jobs = [await pool.submit(render, "sea", frame) for frame in range(100)]
        for job in jobs:
            print(await job)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
