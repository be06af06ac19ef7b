"""A web app that takes orders into a SQLite file and works on them. It is killed in the middle, and no order is lost.

python examples/orders_sqlite.py        shows that, in some seconds, with files in a temporary directory
uvicorn orders_sqlite:app               serves it (in the directory examples), with orders.db in the current directory

It needs starlette and uvicorn.
"""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, chdir, closing, contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aiopool import Handlers, Pool, Retry, current_job

ORDERS = 30

handlers = Handlers()
pool = Pool(size=4, name="orders", store="sqlite:///orders.db", handlers=handlers)


# -- the work ----------------------------------------------------------------------------------------------------------


@handlers.register("ship", timeout=30, retry=Retry(attempts=3))
async def ship(article: str, pieces: int) -> str:
    """Charge the customer, and ship. It may run twice, so the bank gets a key, and charges once for each key."""
    await asyncio.to_thread(charge, current_job().idempotency_key, pieces * 10)
    await asyncio.sleep(0.1)  # here: the warehouse
    return f"{pieces} × {article}"


def charge(key: str, amount: int) -> None:
    """Stand for a bank that knows the keys which it has seen; `asked` counts every call."""
    with closing(bank()) as database, database:
        database.execute("UPDATE calls SET asked = asked + 1")
        database.execute("INSERT INTO charges VALUES (?, ?) ON CONFLICT DO NOTHING", (key, amount))


def bank() -> sqlite3.Connection:
    database = sqlite3.connect("bank.db", timeout=30)
    database.executescript(
        """CREATE TABLE IF NOT EXISTS charges (key TEXT PRIMARY KEY, amount INTEGER);
        CREATE TABLE IF NOT EXISTS calls (one INTEGER PRIMARY KEY, asked INTEGER);
        INSERT INTO calls VALUES (1, 0) ON CONFLICT DO NOTHING;"""
    )
    return database


# -- the app -----------------------------------------------------------------------------------------------------------


async def take(request: Request) -> Response:
    """Take an order. The answer is sent when it is committed; from then on it survives the process."""
    order = await request.json()
    job = await pool.submit(ship, order["article"], order["pieces"])
    return JSONResponse({"order": job.id}, status_code=202)


async def show(request: Request) -> Response:
    row = await pool.fleet.find(request.path_params["id"])
    if row is None:
        return JSONResponse({"error": "no such order"}, status_code=404)
    return JSONResponse({"status": row.status, "attempt": row.attempt, "result": row.result})


async def count(request: Request) -> Response:
    numbers = await pool.fleet.statistics()
    return JSONResponse({"live": sum(numbers.live.values()), "ended": numbers.ended, "rescued": numbers.rescued})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with pool:
        yield


app = Starlette(
    routes=[
        Route("/orders", take, methods=["POST"]),
        Route("/orders", count),
        Route("/orders/{id}", show),
    ],
    lifespan=lifespan,
)


def serve() -> None:
    """Serve the app on a free port, which is printed."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


# -- the demonstration -------------------------------------------------------------------------------------------------


@contextmanager
def started(stop: signal.Signals) -> Iterator[str]:
    """Run the app in a process of its own; give its address. In the end it gets a signal."""
    command = [sys.executable, os.path.abspath(__file__), "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/orders"
        finally:
            process.send_signal(stop)


def ask(url: str, order: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if order is None else json.dumps(order).encode()
    with urllib.request.urlopen(url, data, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def wait_for(url: str, shipped: int) -> dict[str, Any]:
    """Ask until so many orders are shipped."""
    deadline = time.monotonic() + 60
    while True:
        numbers = ask(url)
        if numbers["ended"].get("succeeded", 0) >= shipped:
            return numbers
        if time.monotonic() > deadline:
            raise TimeoutError(f"after a minute there is only {numbers}")
        time.sleep(0.02)


def main() -> None:
    with started(stop=signal.SIGKILL) as url:
        orders = [ask(url, {"article": "nut", "pieces": number})["order"] for number in range(1, ORDERS + 1)]
        print(f"{len(orders)} orders are accepted")
        shipped = wait_for(url, 5)["ended"]["succeeded"]
    print(f"kill -9, when {shipped} were shipped")

    with started(stop=signal.SIGTERM) as url:
        numbers = wait_for(url, ORDERS)
        print(f"started again: {numbers['ended']['succeeded']} are shipped, {numbers['live']} are left")
        first, last = (ask(f"{url}/{order}")["result"] for order in (orders[0], orders[-1]))
        print(f"the first one: {first}, the last one: {last}")

    with closing(bank()) as database:
        asked = database.execute("SELECT asked FROM calls").fetchone()[0]
        charged = database.execute("SELECT count(*) FROM charges").fetchone()[0]
    print(f"the bank was asked {asked} times, and has charged {charged} times")
    if (charged, numbers["live"]) != (ORDERS, 0):
        sys.exit("an order was lost, or charged twice")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            main()
