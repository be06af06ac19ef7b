"""The examples, as the programs that they are, with an orchestrator; and the guide's own way to hear signals."""

import asyncio
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from orchestrators import free_port
from wire_server import TOKEN, WireServer, serving

from aiopool.testing import wait_until

ROOT = Path(__file__).parents[2]


async def until(condition):
    await wait_until(condition, timeout=30)


@contextlib.contextmanager
def started(program, url, **variables):
    """A program, which is stopped by SIGTERM at the end and then exits with 0."""
    environment = {**os.environ, "ORCHESTRATOR_URL": url, "WORKER_TOKEN": TOKEN, "WORKER_ID": "w1", **variables}
    command = [sys.executable, "-W", "error", *program]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        yield process
    except BaseException:
        process.kill()
        print(process.communicate())
        raise


async def end(process):
    process.send_signal(signal.SIGTERM)
    output, errors = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0, errors
    return output, errors


@pytest.mark.long
async def test_a_worker():
    """Heavy and light tasks, progress, a code of one's own."""
    server = WireServer()
    async with serving(server) as url:
        with started(["examples/avtomatika_worker.py"], url) as process:
            rendered = server.give("render", {"frames": 200})
            sent, refused = server.give("notify", {"to": "a@b"}), server.give("notify", {"to": "nobody"})
            await until(lambda: server.result(rendered) and server.result(sent) and server.result(refused))
            await end(process)
    assert server.result(rendered)["data"] == {"frames": 200, "by": rendered}
    assert server.result(sent)["data"] == {"sent": "a@b"}
    assert server.result(refused)["error"]["code"] == "INVALID_INPUT_ERROR"
    assert server.kinds("event")
    assert {skill["type"] for skill in server.kinds("register")[0]["supported_skills"]} == {"heavy", "light"}


@pytest.mark.long
async def test_clients_that_are_opened_before_the_worker_runs():
    """A parser in the same loop, a pool of PostgreSQL connections, an HTTP service that fails at first (C-09, C-11)."""
    sys.path.insert(0, str(ROOT / "tests" / "stores"))
    pg_server = importlib.import_module("pg_server")
    if reason := pg_server.why_not_package():
        pytest.skip(reason)
    import asyncpg

    database = await asyncio.to_thread(pg_server.package_server)
    connection = await asyncpg.connect(database)
    await connection.execute(
        "CREATE TABLE users (id serial PRIMARY KEY, name text, email text, joined timestamptz DEFAULT now())"
    )
    await connection.close()
    answers = iter([web.Response(status=502), web.json_response({"temp": 21})])

    async def weather(request):
        return next(answers)

    app = web.Application()
    app.router.add_get("/", weather)
    server = WireServer()
    async with serving(server) as url, TestServer(app) as service:
        variables = {"DATABASE_URL": database, "WEATHER_URL": str(service.make_url("/"))}
        with started(["examples/avtomatika_clients.py"], url, **variables) as process:
            parsed = server.give("parse_channel", {"channel": "news", "limit": 2})
            saved = server.give("save_user", {"name": "Ann", "email": "ann@example.org"})
            await until(lambda: server.result(parsed) and server.result(saved))
            user_id = server.result(saved)["data"]["user_id"]
            found, missing = server.give("get_user", {"user_id": user_id}), server.give("get_user", {"user_id": -1})
            failed = server.give("fetch_weather", {"city": "Riga"})
            await until(lambda: server.result(found) and server.result(missing) and server.result(failed))
            again = server.give("fetch_weather", {"city": "Riga"})
            await until(lambda: server.result(again))
            await end(process)
    assert server.result(parsed)["data"] == {"messages": ["news 0", "news 1"], "count": 2}
    assert server.result(found)["data"]["name"] == "Ann"
    assert server.result(found)["data"]["joined"].startswith("20")  # a datetime of the database, as text
    assert server.result(missing)["error"]["code"] == "INVALID_INPUT_ERROR"
    assert server.result(failed)["error"] == {"code": "API_ERROR", "message": "the weather service answers 502"}
    assert server.result(again)["data"] == {"city": "Riga", "temperature": 21}


async def test_logs_numbers_and_time_limits():
    """The task's id and params in the log, the counters of the guide, both kinds of limits with their code (C-12)."""
    server, port = WireServer(), free_port()
    async with serving(server) as url:
        with started(["examples/avtomatika_practice.py"], url, METRICS_PORT=str(port)) as process:
            logged = server.give("logged", {"n": 7})
            slow, inside = server.give("limited", {"seconds": 60}), server.give("limited_inside", {"seconds": 60})
            quick = server.give("limited_inside", {"seconds": 0})
            await until(lambda: all(map(server.result, (logged, slow, inside, quick))))
            address = f"http://127.0.0.1:{port}/metrics"
            scraped = await asyncio.to_thread(lambda: urllib.request.urlopen(address, timeout=10).read().decode())
            _, errors = await end(process)
    assert f"task {logged} with {{'n': 7}}" in errors
    assert server.result(logged)["status"] == "success"
    assert server.result(slow)["error"]["code"] == "TIMEOUT_ERROR"
    assert server.result(inside)["error"]["code"] == "TIMEOUT_ERROR"
    assert server.result(inside)["error"]["message"] == "the operation took too long"
    assert server.result(quick)["data"] == {"seconds": 0}
    assert 'worker_tasks_total{status="failure",task_type="limited"} 1.0' in scraped
    assert 'worker_task_duration_seconds_count{task_type="logged"} 1.0' in scraped


OWN_SIGNALS = """
import asyncio, signal
from aiopool.avtomatika import Worker

worker = Worker()

@worker.task("nap")
async def nap(params):
    print("napping", flush=True)
    await asyncio.sleep(params["seconds"])

async def main():
    loop = asyncio.get_event_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: asyncio.create_task(shutdown()))
    await worker.main()

async def shutdown():
    print("shutting down", flush=True)
    await worker.stop()

asyncio.run(main())
print("left", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_program_that_hears_signals_itself_is_asked(number):
    """Its handlers stay, and call `stop`, which waits for the running task (C-08, C-09)."""
    server = WireServer()
    async with serving(server) as url:
        with started(["-c", OWN_SIGNALS], url) as process:
            task_id = server.give("nap", {"seconds": 0.3})
            assert await asyncio.to_thread(process.stdout.readline) == "napping\n"
            process.send_signal(number)
            output, errors = await asyncio.to_thread(process.communicate)
            assert (process.returncode, output) == (0, "shutting down\nleft\n"), errors
    assert server.result(task_id)["status"] == "success"
