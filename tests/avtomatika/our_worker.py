"""Our worker as a program: `python our_worker.py URL RESULTS_FILE`; it says what it does."""

import asyncio
import sys

from aiopool.avtomatika import Worker

worker = Worker(
    sys.argv[1], worker_id="ours", worker_token="worker-token", results_file=sys.argv[2], poll_interval=0.05
)


@worker.task("nap")
async def nap(params):
    print("napping", flush=True)
    await asyncio.sleep(params["seconds"])
    print("woken", flush=True)
    return {"by": "ours"}


asyncio.run(worker.main())
