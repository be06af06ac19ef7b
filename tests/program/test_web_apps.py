"""The web apps of `docs/web-apps`, each under its real server, with clients that come, go and hang up as they like.

What a client was told with a 202 is a promise: that job ends, or its failure is reported, whatever becomes of the
client, and of the server when it is told to go.
"""

import asyncio
import contextlib
import importlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from web_servers import GUNICORN, HYPERCORN, ROOT, UVICORN, Server, need, serving

from aiopool import Pool

APPS = ROOT / "docs" / "web-apps"
AIOHTTP = "import socket; from aiohttp_app import *; web.run_app(make_app(), sock=socket.socket(fileno={fd}))"


class Setting(NamedTuple):
    """A framework under a server: what has to be installed, and how it is started."""

    modules: tuple[str, ...]
    words: list[str]


SETTINGS = {
    "starlette, uvicorn": Setting(("starlette", "uvicorn"), [*UVICORN, "starlette_app:app"]),
    "starlette, gunicorn": Setting(
        ("starlette", "gunicorn", "uvicorn_worker"),
        [*GUNICORN, "--workers", "2", "--worker-class", "uvicorn_worker.UvicornWorker", "starlette_app:app"],
    ),
    "starlette, hypercorn": Setting(("starlette", "hypercorn"), [*HYPERCORN, "starlette_app:app"]),
    "fastapi, uvicorn": Setting(("fastapi", "uvicorn"), [*UVICORN, "fastapi_app:app"]),
    "litestar, uvicorn": Setting(("litestar", "uvicorn"), [*UVICORN, "litestar_app:app"]),
    "quart, hypercorn": Setting(("quart", "hypercorn"), [*HYPERCORN, "quart_app:app"]),
    "aiohttp": Setting(("aiohttp",), ["-c", AIOHTTP]),
    "aiohttp, gunicorn": Setting(
        ("aiohttp", "gunicorn"),
        [*GUNICORN, "--workers", "2", "--worker-class", "aiohttp.GunicornWebWorker", "aiohttp_app:make_app"],
    ),
}
FIRST, *OTHERS = SETTINGS
ALL = [FIRST, *[pytest.param(name, marks=pytest.mark.ecosystem) for name in OTHERS]]


@pytest.fixture
def apps(isolation: str, tmp_path: Path) -> Path:
    """The apps as they stand in the docs, with workers of a kind."""
    for app in APPS.glob("*.py"):
        text = app.read_text(encoding="utf-8")
        assert "Pool(size=" in text
        (tmp_path / app.name).write_text(text.replace("Pool(size=", f"Pool(isolation={isolation!r}, size="))
    return tmp_path


@contextlib.contextmanager
def running(name: str, apps: Path) -> Iterator[Server]:
    setting = SETTINGS[name]
    need(*setting.modules)
    with serving(setting.words, apps) as server:
        yield server


Way = Literal["stays", "leaves", "breaks off"]


async def post(server: Server, mail: str, way: Way, rng: random.Random) -> int | None:
    """Ask for a mail as a client of a kind does, and return the status that it has heard."""
    request = f"POST /mails/{mail} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()
    try:
        reader, writer = await asyncio.open_connection(*server.address)
    except OSError:
        return None
    try:
        writer.write(request if way != "breaks off" else request[: rng.randrange(len(request))])
        if way == "stays":
            head = await reader.readuntil(b"\r\n\r\n")
            return int(head.split()[1])
        await writer.drain()
        for _ in range(rng.randrange(4)):  # so that it goes while the server is at one thing or another
            await asyncio.sleep(0)
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        if way == "stays" or rng.random() < 0.5:
            writer.close()
        else:
            writer.transport.abort()  # a reset, where a close says good-bye
    return None


async def crowd(server: Server, requests: int, stop_after: int, seed: int) -> dict[str, int | None]:
    """Send requests, fifty at a time, and SIGTERM when so many are through; return who has heard what."""
    rng = random.Random(seed)
    heard: dict[str, int | None] = {}
    numbers = iter(range(requests))

    async def clients() -> None:
        for number in numbers:
            mail = f"{number}" if number % 10 == 0 else f"{number}@example.org"  # every tenth has no address
            way: Way = rng.choice(("stays", "stays", "leaves", "breaks off"))
            heard[mail] = await post(server, mail, way, rng)
            if len(heard) == stop_after:
                server.process.send_signal(signal.SIGTERM)

    await asyncio.gather(*[clients() for _ in range(50)])
    return heard


def failures(text: str) -> int:
    """Count the reported failures: of many from one line of code, the first in full, the others as a number."""
    return text.count("failed, and nobody was awaiting it") + sum(
        map(int, re.findall(r"failed (\d+) more times? with ValueError", text))
    )


@pytest.mark.parametrize(
    ("name", "requests"), [(FIRST, 400), *[pytest.param(name, 1000, marks=pytest.mark.ecosystem) for name in SETTINGS]]
)
@pytest.mark.both_isolations
async def test_what_was_acknowledged_ends_or_is_reported(name: str, requests: int, apps: Path) -> None:
    """Clients hang up at random moments, some mails fail, and the server is told to go while all of this goes on."""
    with running(name, apps) as server:
        await asyncio.to_thread(server.ask, "GET", "/jobs/0")
        heard = await crowd(server, requests, stop_after=requests * 3 // 4, seed=requests)
        await asyncio.to_thread(server.end)
    assert set(heard.values()) <= {202, 503, None}
    acknowledged = {mail for mail, status in heard.items() if status == 202}
    assert len(acknowledged) > requests // 8, server.text
    good = {mail for mail in acknowledged if "@" in mail}
    sent = Counter(re.findall(r"sent to (\d+@example\.org)", server.text))
    assert good - set(sent) == set()
    assert set(sent) <= set(heard)
    assert set(sent.values()) == {1}
    assert len(acknowledged - good) <= failures(server.text) <= sum("@" not in mail for mail in heard), server.text


async def test_what_the_shutdown_has_no_time_for_is_counted_in_its_report(apps: Path) -> None:
    """Mails that take long, and a server that has no time for them: not one of those acknowledged is missing."""
    app = apps / "starlette_app.py"
    slow = app.read_text().replace("asyncio.sleep(0.05)", "asyncio.sleep(1)")
    app.write_text(slow.replace("shutdown_timeout=20", "shutdown_timeout=0"))
    with running(FIRST, apps) as server:
        await asyncio.to_thread(server.ask, "GET", "/jobs/0")
        heard = await crowd(server, 200, stop_after=150, seed=1)
        await asyncio.to_thread(server.end)
    sent = set(re.findall(r"sent to (\d+@example\.org)", server.text))
    [cancelled] = map(int, re.findall(r"the shutdown of pool pool cancelled (\d+) jobs", server.text))
    acknowledged = list(heard.values()).count(202)
    assert 0 < acknowledged <= len(sent) + failures(server.text) + cancelled <= len(heard), server.text


def found(server: Server, id: int | str) -> str:
    """Ask for the status of a job until the process answers that has it: of two, only one does."""
    for _ in range(1000):
        status, answer = server.ask("GET", f"/jobs/{id}")
        if status == 200:
            return str(answer["status"])
    raise AssertionError(f"job {id} is not found:\n{server.text}")


@pytest.mark.parametrize("name", ALL)
def test_a_job_is_found_again_by_its_id_when_it_has_ended(name: str, apps: Path) -> None:
    """The id is in the answer to whoever has submitted it; an id that nobody was given is a 404."""
    with running(name, apps) as server:
        status, answer = server.ask("POST", "/mails/ada@example.org")
        assert status == 202
        server.wait_for("sent to ada@example.org")
        assert found(server, answer["job"]) == "succeeded"
        assert server.ask("GET", "/jobs/123456789")[0] == 404


@pytest.mark.both_isolations
def test_the_work_of_a_request_ends_with_its_client_and_the_background_work_does_not(apps: Path) -> None:
    """In the request's anyio task groups: `run` is cancelled when the client hangs up, what was submitted goes on."""
    need("uvicorn")
    with serving([*UVICORN, "disconnect_app:app"], apps) as server:
        assert server.ask("GET", "/report?city=Rome&city=Oslo") == (
            200,
            {"Rome": "rain in Rome", "Oslo": "rain in Oslo"},
        )
        with socket.create_connection(server.address) as client:
            client.sendall(b"GET /report?city=Paris&city=nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.wait_for("asking for nowhere", "asking for Paris")
        server.wait_for("nobody waits for nowhere", "somebody wanted nowhere", "somebody wanted Paris")
        assert server.ask("GET", "/report?city=Bonn") == (200, {"Bonn": "rain in Bonn"})
        server.process.send_signal(signal.SIGTERM)
        server.end()
        assert server.said("somebody wanted") == 5
        assert "Traceback" not in server.text


@pytest.mark.parametrize("name", ["starlette", pytest.param("fastapi", marks=pytest.mark.ecosystem)])
def test_what_does_not_fit_is_refused_and_what_waits_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty mails are under way, a thousand wait, and the next one is told to try again later."""
    need(name, "httpx2")
    from starlette.testclient import TestClient

    monkeypatch.syspath_prepend(APPS)
    module = importlib.import_module(f"{name}_app")
    go = asyncio.Event()

    async def held(address: str) -> None:
        await go.wait()

    monkeypatch.setattr(module, "send_mail", held)
    with TestClient(module.app) as client:
        answers = [client.post(f"/mails/{number}") for number in range(1021)]
        assert [answer.status_code for answer in answers] == [202] * 1020 + [503]
        assert answers[-1].headers["Retry-After"] == "1"
        first, last = (answers[number].json()["job"] for number in (0, 1019))
        assert client.get(f"/jobs/{first}").json() == {"status": "running"}
        assert client.get(f"/jobs/{last}").json() == {"status": "queued"}
        client.portal.call(go.set)


@pytest.mark.ecosystem
def test_a_route_that_is_a_plain_function_submits_from_its_thread(apps: Path) -> None:
    """FastAPI runs it in a thread; the job is found by the id that the thread has given it."""
    with running("fastapi, uvicorn", apps) as server:
        answers = [server.ask("POST", f"/blocking/mails/{number}@example.org") for number in range(30)]
        assert {status for status, _ in answers} == {202}
        server.wait_for(*[f"sent to {number}@example.org" for number in range(30)])
        assert {found(server, answer["job"]) for _, answer in answers} == {"succeeded"}


@pytest.mark.ecosystem
def test_the_dependency_of_fastapi_serves_websockets_and_is_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page says: it asks for a connection, of which a request is one kind."""
    need("fastapi", "httpx2")
    from fastapi import WebSocket
    from fastapi.testclient import TestClient

    monkeypatch.syspath_prepend(APPS)
    module = importlib.import_module("fastapi_app")

    async def echo(websocket: WebSocket, pool: module.PoolDep) -> None:
        await websocket.accept()
        await websocket.send_text(await pool.run(asyncio.sleep, 0, "by the pool"))
        await websocket.close()

    module.app.add_api_websocket_route("/echo", echo)

    async def another() -> Pool:
        return others

    others = Pool(size=1)
    with TestClient(module.app) as client:
        with client.websocket_connect("/echo") as websocket:
            assert websocket.receive_text() == "by the pool"
        monkeypatch.setitem(module.app.dependency_overrides, module.get_pool, another)
        with pytest.raises(RuntimeError, match="which is new"):
            client.post("/mails/ada@example.org")


@pytest.mark.ecosystem
def test_a_container_provides_the_pool_and_shuts_it_down() -> None:
    """The mail that was submitted is sent before the container has closed."""
    need("dishka")
    words = [sys.executable, "-W", "error", "dishka_pool.py"]
    done = subprocess.run(words, cwd=APPS, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "sent to ada@example.org\n", "")


CANCELLING = """
import asyncio
from aiopool import Pool

pool = Pool(size=2)

async def work():
    print("at work", flush=True)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        print("nobody waits", flush=True)
        raise
"""
QUART = """
from quart import Quart

app = Quart(__name__)

@app.while_serving
async def lifespan():
    async with pool:
        yield

@app.get("/work")
async def handler():
    return await pool.run(work)
"""
AIOHTTP_APP = """
import socket, sys
from aiohttp import web

async def lifespan(app):
    async with pool:
        yield

async def handler(request):
    return await pool.run(work)

app = web.Application()
app.cleanup_ctx.append(lifespan)
app.router.add_get("/work", handler)
web.run_app(app, sock=socket.socket(fileno=int(sys.argv[1])), handler_cancellation=True)
"""


@pytest.mark.ecosystem
@pytest.mark.parametrize(
    ("framework", "body", "words"),
    [("quart", QUART, [*HYPERCORN, "some_app:app"]), ("aiohttp", AIOHTTP_APP, ["some_app.py", "{fd}"])],
)
def test_a_framework_that_cancels_the_request_cancels_its_job(
    framework: str, body: str, words: list[str], tmp_path: Path
) -> None:
    """The docs name these two as the ones that do so by themselves, or can be told to."""
    need(framework, *["hypercorn"] * (framework == "quart"))
    (tmp_path / "some_app.py").write_text(CANCELLING + body)
    with serving(words, tmp_path) as server:
        with socket.create_connection(server.address) as client:
            client.sendall(b"GET /work HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.wait_for("at work")
        server.wait_for("nobody waits")
