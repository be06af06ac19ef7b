"""What the dashboard costs, against its budgets: `python -m benchmarks.dashboard`.

A pool with a million queued jobs has the pages mounted in its own event loop, which is the dear way: `aiopool web PID`
serves them from another process. Each page is asked for again and again, by calls of the app without a network: how
long it took, and how much CPU time, which is taken from the jobs. Then a server is started, and 50 viewers in another
process hold a stream; and, if Playwright and a Chromium are here, a page is opened, and one with 200 rows is looked at.

Wall times are those of this machine, and of what else it does: CPU times are the ones to compare.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib.util
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import psutil
import uvicorn
from fastapi import FastAPI

from aiopool import Pool
from aiopool.web import create_app
from benchmarks.report import table

PAGES = (
    *("./", "jobs", "jobs?status=queued&order=next", "jobs?name=nobody", "jobs?status=running", "jobs?status=failed"),
    *("job?id=1", "groups", "names", "loop", "tree", "what-if", "events", "health", "fleet", "actions", "settings"),
)
RUNNING, VIEWERS, SECONDS = 200, 50, 10.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
# Time of the server and CPU time of the loop for a page (ms), bytes of a page, first paint (ms), CPU shares (%).
MOST_MS, MOST_CPU_MS, MOST_BYTES, MOST_PAINT, MOST_BROWSER, MOST_VIEWERS = 25.0, 2.0, 6_000, 300.0, 5.0, 1.0


class Row(NamedTuple):
    """Something that was measured; a budget of None: there is none."""

    what: str
    measured: float
    unit: str
    budget: float | None


async def ask(app: FastAPI, page: str) -> int:
    """Ask for a page as a browser does; return the bytes that are sent."""
    path, _, query = page.removeprefix("./").partition("?")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(b"host", b"localhost"), (b"accept-encoding", b"gzip")]
    scope = {"type": "http", "method": "GET", "path": f"/{path}", "query_string": query.encode(), "headers": headers}
    await app(scope | {"scheme": "http", "client": ("127.0.0.1", 1)}, receive, send)
    if sent[0]["status"] != 200:
        raise RuntimeError(f"{page} answered {sent[0]['status']}")
    return sum(len(message.get("body", b"")) for message in sent)


async def measure_page(app: FastAPI, page: str, rounds: int) -> list[Row]:
    """Ask for a page so often, after a first time that does not count."""
    size = await ask(app, page)
    walls, costs = [], []
    for _ in range(rounds):
        begun, spent = time.perf_counter(), time.process_time()
        await ask(app, page)
        costs.append((time.process_time() - spent) * 1e3)
        walls.append((time.perf_counter() - begun) * 1e3)
    walls.sort()
    return [
        Row(f"{page}: p50", statistics.median(walls), "ms", None),
        Row(f"{page}: p95", walls[int(len(walls) * 0.95)], "ms", MOST_MS),
        Row(f"{page}: CPU of the loop", statistics.median(costs), "ms", MOST_CPU_MS),
        Row(f"{page}: sent", size, "bytes", MOST_BYTES),
    ]


@contextlib.asynccontextmanager
async def served(app: FastAPI) -> Any:
    """Serve the app in this loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        await serving


async def cpu_share(seconds: float) -> float:
    """Return how much of a processor this process takes, in percent."""
    begun, spent = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - spent) / (time.perf_counter() - begun) * 100


async def measure_viewers(url: str, seconds: float) -> Row:
    """Measure what viewers in another process cost this one."""
    before = await cpu_share(seconds)
    watch = [sys.executable, "-m", "benchmarks.dashboard", "--watch", url]
    child = await asyncio.create_subprocess_exec(*watch, stdout=subprocess.PIPE)
    assert child.stdout is not None
    await child.stdout.readline()  # all of them have a frame
    share = await cpu_share(seconds)
    child.kill()
    await child.wait()
    return Row(f"{VIEWERS} viewers: CPU", max(0.0, share - before), "% of a core", MOST_VIEWERS)


async def watch(url: str) -> None:
    """Hold streams until we are killed."""
    host, _, port = url.removeprefix("http://").rstrip("/").partition(":")

    async def one(first: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /api/v1/pools/pool/events?rows=50 HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        while line := await reader.readline():
            if line.startswith(b"event: state"):
                first.set()

    firsts = [asyncio.Event() for _ in range(VIEWERS)]
    watching = [asyncio.create_task(one(first)) for first in firsts]
    await asyncio.gather(*(first.wait() for first in firsts))
    print("watching", flush=True)
    await asyncio.gather(*watching)


# Rows that the page would have if it showed as many, and a stream of them.
_MORE_ROWS = """count => { const body = document.getElementById("running");
  for (let id = body.children.length + 1; id <= count; id++) {
    const row = body.lastElementChild.cloneNode(true); row.dataset.job = String(id); body.append(row); }
  document.body.dataset.stream = document.body.dataset.stream.replace("rows=50", `rows=${count}`); }"""


def measure_browser(url: str, chromium: str, seconds: float) -> list[Row]:
    """Open a page in a Chromium; called in a thread."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        paints = []
        for _ in range(5):
            page = browser.new_context().new_page()
            page.goto(url)
            page.wait_for_selector("#live.on")
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            page.context.close()
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#live.on")
        page.evaluate(_MORE_ROWS, RUNNING)
        page.keyboard.press("Space")
        page.keyboard.press("Space")
        page.wait_for_selector("#live.on")
        before = _browser_cpu()
        page.wait_for_timeout(seconds * 1000)
        share = (_browser_cpu() - before) / seconds * 100
        browser.close()
    return [
        Row("first paint in Chromium", statistics.median(paints), "ms", MOST_PAINT),
        Row(f"{RUNNING} rows patched each second: CPU of the browser", share, "% of a core", MOST_BROWSER),
    ]


def _browser_cpu() -> float:
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "chrom" in process.name():
                times = process.cpu_times()
                total += times.user + times.system
    return total


async def measure(jobs: int, rounds: int, seconds: float, pages: Iterable[str], chromium: str | None) -> list[Row]:
    """Measure all of it."""
    async with Pool(RUNNING, queue_size=None, keep_finished=1000) as pool:
        never = asyncio.Event()
        for _ in range(RUNNING):
            await pool.submit(never.wait)
        await asyncio.sleep(0)
        for number in range(jobs):
            pool.submit_nowait(asyncio.sleep, number)
            if number % 10_000 == 0:
                await asyncio.sleep(0)
        gc.collect()
        gc.freeze()
        app = create_app(access=lambda request: "admin")
        rows = [row for page in pages for row in await measure_page(app, page, rounds)]
        async with served(app) as url:
            rows.append(await measure_viewers(url, seconds))
            if chromium is not None:
                rows += await asyncio.to_thread(measure_browser, url, chromium, seconds)
        gc.unfreeze()
        never.set()
        await pool.cancel_all()
    return rows


def report(rows: Iterable[Row]) -> str:
    """Return one table of all that was measured."""
    cells = []
    for row in rows:
        kept = row.budget is None or row.measured <= row.budget
        value = f"{row.measured:,.0f}" if row.unit == "bytes" else f"{row.measured:.2f}"
        budget = "" if row.budget is None else f"{row.budget:,g}"
        cells.append([row.what, value, row.unit, budget, "" if kept else "missed"])
    return table(["", "measured", "", "at most", ""], cells)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the table; a budget that is missed is no failure of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1_000_000, help="that are queued (default 1,000,000)")
    parser.add_argument("--rounds", type=int, default=50, help="for each page (default 50)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for which viewers watch (default 10)")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only pages whose address has TEXT; repeatable")
    parser.add_argument("--no-browser", action="store_true", help="measure nothing in a Chromium")
    parser.add_argument("--watch", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.watch:
        asyncio.run(watch(options.watch))
        return 0
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if options.no_browser or importlib.util.find_spec("playwright") is None:
        chromium = None
    pages = [page for page in PAGES if not options.only or any(text in page for text in options.only)]
    rows = asyncio.run(measure(options.jobs, options.rounds, options.seconds, pages, chromium))
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{options.jobs:,} queued jobs, {os.cpu_count()} processors, load {load}\n")
    print(report(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
