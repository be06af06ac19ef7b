"""A crawler that goes on where it was stopped. It crawls a little site that it serves itself.

python examples/crawler.py        crawls the site; it is killed in the middle, and started again

Each page is a job whose id is the page's path. A page that was seen has a job, so it is not asked for again: not by
another page that links to it, and not by another run.
"""

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from contextlib import suppress

from aiopool import Handlers, Pool, Retry

PAGES = 120

handlers = Handlers()
pool = Pool(size=5, name="crawl", store="sqlite:///crawl.db", handlers=handlers)  # in the current directory


# -- the crawler -------------------------------------------------------------------------------------------------------


@handlers.register("crawl", timeout=10, retry=Retry(attempts=3, on=OSError))
async def crawl(page: str) -> int:
    """Get a page, and submit a job for each page that it links to. Return how many links it has."""
    links = re.findall('href="(.*?)"', await get(page))
    for link in links:
        await visit(link)
    return len(links)


async def visit(page: str) -> None:
    """Submit a job for a page, unless there is one, or was one."""
    with suppress(ValueError):  # its id is taken
        await pool.with_options(id=page).submit(crawl, page)


async def get(page: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["SITE_PORT"]))
    try:
        writer.write(f"GET {page} HTTP/1.0\r\n\r\n".encode())
        await writer.drain()
        return (await reader.read()).decode()
    finally:
        writer.close()


async def run() -> None:
    """Crawl until no page is left."""
    async with pool:
        await visit("/")
        while sum((numbers := await pool.fleet.statistics()).live.values()):
            await asyncio.sleep(0.02)
        print(f"{sum(numbers.ended.values())} pages are done, {numbers.rescued} were rescued", flush=True)


# -- the site ----------------------------------------------------------------------------------------------------------

asked: Counter[str] = Counter()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with a page that has some links: two to the next ones, as in a tree, and one back."""
    page = (await reader.readuntil(b"\r\n\r\n")).decode().split()[1]
    asked[page] += 1
    await asyncio.sleep(0.02)  # a slow site
    number = int(page[1:] or 0)
    links = [link for link in (2 * number + 1, 2 * number + 2, number // 3) if link < PAGES]
    writer.write("".join(f'<a href="/{link or ""}">more</a>' for link in links).encode())
    writer.close()


async def main() -> None:
    site = await asyncio.start_server(answer, "127.0.0.1", 0)
    os.environ["SITE_PORT"] = str(site.sockets[0].getsockname()[1])
    command = sys.executable, os.path.abspath(__file__), "crawl"
    with tempfile.TemporaryDirectory() as folder:
        async with site, asyncio.timeout(90):
            first = await asyncio.create_subprocess_exec(*command, cwd=folder)
            while len(asked) < PAGES // 3:
                await asyncio.sleep(0.005)
            first.send_signal(signal.SIGKILL)
            await first.wait()
            print(f"killed, when {len(asked)} pages were asked for", flush=True)

            second = await asyncio.create_subprocess_exec(*command, cwd=folder)
            await second.wait()
    again = asked.total() - len(asked)
    print(f"{len(asked)} pages were asked for, {again} of them a second time")
    if len(asked) != PAGES or again > 5 or second.returncode:
        sys.exit("that should not be so")


if __name__ == "__main__":
    asyncio.run(run() if sys.argv[1:] == ["crawl"] else main())
