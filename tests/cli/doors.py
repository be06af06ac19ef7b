"""Programs with an open door, and what is needed to look at them."""

import contextlib
import re
import subprocess
from collections.abc import Iterator

from child_programs import program, wait_for

# A pool whose jobs do what the test wants: two that wait for ever, one of them below a parent; five in the line, three
# of them in a group; two that have failed.
BUSY = """
async def forever(): await asyncio.get_running_loop().create_future()
async def fail(): raise ValueError("no such page")
async def parent(pool): await pool.run(forever)

async def main():
    aiopool.control(read_only={read_only})
    async with Pool(2, name="mail", keep_finished=100) as pool:
        for number in range(2):
            await asyncio.wait([await pool.submit(fail)])
        await pool.with_options(id="mum").submit(parent, pool)
        await pool.with_options(id="long").submit(forever)
        while pool.statistics().running < 3: await asyncio.sleep(0.01)
        for number in range(3): await pool.with_options(id=f"q{{number}}", group="host").submit(forever)
        await pool.with_options(name="[bold]x[/] \\x1b[31m\\u202e", id="odd").submit(forever)
        await pool.with_options(id="later", delay=3600).submit(forever)
        say("ready")
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""

# 120 jobs have ended in one pool, and none in another.
ENDED = """
async def nothing(): pass

async def main():
    aiopool.control()
    async with Pool(2, name="mail", keep_finished=1000) as pool, Pool(2, name="few"):
        for number in range(120): await pool.submit(nothing)
        await pool.join()
        say("ready")
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""

# A job of a store that fails at first, and says so when it is tried again.
STORED = """
handlers = aiopool.Handlers()
tries = []

@handlers.register("fail")
async def fail():
    tries.append(1)
    if len(tries) > 1:
        say("tried again")
        return
    raise ValueError("no such page")

async def main():
    aiopool.control()
    async with Pool(1, name="mail", keep_finished=10, store="{url}", handlers=handlers) as pool:
        job = await pool.with_options(id="once").submit(fail)
        await job.wait()
        say("ready")
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""

BLOCKED = """
async def forever(): await asyncio.get_running_loop().create_future()
async def block():
    say("ready")
    time.sleep(3600)

async def main():
    aiopool.control()
    async with Pool(4, name="mail") as pool:
        await pool.with_options(id="calm").submit(forever)
        await asyncio.sleep(0)
        await pool.with_options(id="bad").submit(block)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""

IDLE = """
async def nap(seconds): await asyncio.sleep(seconds)
async def main():
    aiopool.control()
    async with contextlib.AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(Pool(4, name=name)) for name in {names}]
        for pool in pools:
            for number in range(3): await pool.submit(nap, {seconds})
        say("ready")
        await asyncio.get_running_loop().create_future()
import contextlib
asyncio.run(main())
"""


@contextlib.contextmanager
def running(body: str, **words: object) -> Iterator["subprocess.Popen[str]"]:
    """Start a program, and wait until it says that it is ready."""
    with program(body.format(**words) if words else body) as process:
        wait_for(process, "ready")
        yield process


def busy(read_only: bool = False) -> "contextlib.AbstractContextManager[subprocess.Popen[str]]":
    return running(BUSY, read_only=read_only)


def masked(text: str) -> str:
    """Return a text without what differs from run to run: times, the number of the process, spaces at the ends."""
    text = re.sub(r"-c \d+ ", "-c PID ", text)
    text = re.sub(r"\d\d:\d\d:\d\dZ", "HH:MM:SSZ", text)
    text = re.sub(r"\d+\.\d s\b|\b\d+ s\b", "T s", text)
    text = re.sub(r"\(\d+/(s|min)\)", r"(N/\1)", text)
    text = re.sub(r"\d+ ms late", "N ms late", text)
    return "\n".join(line.rstrip() for line in text.splitlines())
