"""A program with services of every kind that has processes, used by the tests of stopping, of signals and of leftovers.

    server.py MODE [DIRECTORY]

It prints a mark that all its descendants carry in their environment, and the pids of its services and grandchildren,
and then does what MODE says: `leave` the block normally, or `wait` for whatever comes.
"""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import uuid

from services import targets
from services.support import STUBBORN

from aiopool.services import Command, ServiceRegistry


async def main(mode: str, directory: str | None) -> None:
    mark = uuid.uuid4().hex
    os.environ["SERVER_TEST_MARK"] = mark
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    registry = ServiceRegistry(pid_dir=directory, check_every=0.1, stop_timeout=1)
    registry.add("queue", Command(STUBBORN, stdout=subprocess.DEVNULL), name="stubborn")
    registry.add("queue", ["sh", "-c", "sleep 600 & wait"], name="shell")
    registry.add("mp", context.Process(target=targets.with_grandchild, args=(writer,)), name="mp")
    registry.add("popen", subprocess.Popen(["sleep", "600"]), name="popen")
    registry.add("bound", Command(["sleep", "600"], die_with_parent=True), name="bound")
    async with registry:
        grandchild = await asyncio.to_thread(reader.recv)
        # Wait until the monitor has seen the grandchildren: only then are they written down.
        while not {grandchild} <= set(registry.status()["mp"].pids) or len(registry.status()["shell"].pids) < 2:
            await asyncio.sleep(0.01)
        pids = [service.pid for service in registry.status().services]
        print(mark, *pids, grandchild, flush=True)
        if mode == "wait":
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
