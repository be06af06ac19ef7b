"""The official worker as a program, in the environment that has it; its settings come from the environment."""

import asyncio

from avtomatika_worker import Worker

worker = Worker(worker_type="official")


@worker.skill("official_echo")
async def official_echo(params):
    return {"status": "success", "data": {"by": "official", "params": params}}


@worker.skill("shared")
async def shared(params):
    await asyncio.sleep(params.get("seconds", 0))
    return {"status": "success", "data": {"by": "official"}}


worker.run()
