"""What the tests of `aiopool.testing` share."""

import asyncio
import threading

MODES = ("fifo", "tasks")


async def wait_for_each_other():
    first, second = asyncio.Event(), asyncio.Event()

    async def one():
        await first.wait()  # the line that the report must show
        second.set()

    async def other():
        await second.wait()
        first.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(one(), name="left")
        group.create_task(other(), name="right")


class Gate:
    """A function that a thread runs until it is let out; nothing here sleeps."""

    def __init__(self):
        self.inside, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.inside.set()
        assert self.open.wait(30)
        return "out"
