"""A real orchestrator as a program, in the environment that has it: `python orchestrator_host.py PORT`.

Its blueprints have the task done that the client names; it remembers nothing, for the store is in memory.
"""

import asyncio
import os
import sys

from avtomatika import Blueprint, OrchestratorEngine
from avtomatika.config import Config
from avtomatika.storage.memory import MemoryStorage

TOKEN = os.environ["CLIENT_TOKEN"]


def flow(name: str) -> Blueprint:
    """Make a blueprint that has one task done: the one that the client names."""
    made = Blueprint(name, api_endpoint=f"/jobs/{name}", api_version="v1")

    @made.handler(is_end=True)
    async def finished(actions):
        """The end that counts as one."""

    @made.handler(is_end=True)
    async def stopped(actions):
        """The end after a cancel by the worker."""

    return made


plain, patient = flow("plain"), flow("patient")


@plain.handler(is_start=True)
async def start(initial_data, actions):
    """The orchestrator reads the transitions in the text of this function, so they stand here."""
    actions.dispatch_task(
        task_type=initial_data["task"],
        params=initial_data.get("params", {}),
        transitions={"success": "finished", "cancelled": "stopped"},
        timeout_seconds=initial_data.get("timeout", 60),
        result_timeout_seconds=initial_data.get("result_timeout"),
        priority=initial_data.get("priority", 0.0),
        resource_requirements=initial_data.get("needs"),
    )


@patient.handler(is_start=True)
async def begin(initial_data, actions):
    """With a transition for `retry`, which most blueprints do not have."""
    actions.dispatch_task(
        task_type=initial_data["task"],
        params=initial_data.get("params", {}),
        transitions={"success": "finished", "cancelled": "stopped", "retry": "again"},
        timeout_seconds=60,
    )


@patient.handler(is_end=True)
async def again(actions):
    """Where it goes then."""


async def main(port: int) -> None:
    config = Config()
    config.API_HOST, config.API_PORT = "127.0.0.1", port
    store = MemoryStorage()
    await store.save_client_config(TOKEN, {"token": TOKEN, "plan": "tests", "params": {}})
    await store.initialize_client_quota(TOKEN, 1_000_000)
    for pair in filter(None, os.environ.get("WORKER_TOKENS", "").split(",")):
        worker_id, _, token = pair.partition("=")
        await store.set_worker_token(worker_id, token)
    engine = OrchestratorEngine(store, config)
    engine.register_blueprint(plain)
    engine.register_blueprint(patient)
    await engine.start()
    try:
        await asyncio.Event().wait()
    finally:
        await engine.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
