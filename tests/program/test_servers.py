"""Under real web servers: they hear the signals, the lifespan drains the pool, and they exit as they do without us."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the servers run a Starlette app; it is in the extra test")

ROOT = Path(__file__).parents[2]

# `POOL` says whether the app has a pool; all else is the same, so that what a server does by itself can be compared.
APP = """
import asyncio, contextlib, os, signal
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

if os.environ["POOL"] == "yes":
    from aiopool import Pool
    make = lambda: Pool(size=2, shutdown_timeout=float(os.environ["LIMIT"]))
else:
    make = contextlib.nullcontext

def say(*words):
    # In one write; print() may make several, and the words of another process would come between them.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def work(number):
    say("start", number)
    await asyncio.sleep(3600 if number == 99 else 0.5)
    say("end", number)

@contextlib.asynccontextmanager
async def lifespan(app):
    handlers = [str(signal.getsignal(n)).split(" at 0x")[0] for n in (signal.SIGTERM, signal.SIGINT)]
    async with make() as pool:
        say("pool", pool is not None)
        yield {"pool": pool, "before": handlers}
    say("closed", getattr(pool, "status", None))

async def submit(request):
    job = request.state.pool.submit_nowait(work, request.path_params["number"])
    return JSONResponse({"job": job.id}, status_code=202)

async def handlers(request):
    now = [str(signal.getsignal(n)).split(" at 0x")[0] for n in (signal.SIGTERM, signal.SIGINT)]
    return JSONResponse({"before": request.state.before, "now": now})

app = Starlette(
    routes=[Route("/jobs/{number:int}", submit, methods=["POST"]), Route("/handlers", handlers)], lifespan=lifespan
)
"""

GUNICORN = ["-m", "gunicorn", "--bind", "fd://{fd}", "--workers", "2", "--graceful-timeout", "{grace}"]
SERVERS = {
    "uvicorn": ["-m", "uvicorn", "--fd", "{fd}", "server_app:app"],
    "uvicorn, workers": ["-m", "uvicorn", "--workers", "2", "--fd", "{fd}", "server_app:app"],
    "gunicorn, uvicorn": [*GUNICORN, "--worker-class", "uvicorn_worker.UvicornWorker", "server_app:app"],
    "gunicorn, asgi": [*GUNICORN, "--worker-class", "asgi", "server_app:app"],
}
# One server and one of its signals are enough for every day.
OTHERS = [pytest.param(server, marks=pytest.mark.long) for server in SERVERS if server != "uvicorn"]


class Server:
    """A server in a process of its own; what it and its workers write is read line by line."""

    def __init__(self, process: "subprocess.Popen[str]", address: tuple[str, int]) -> None:
        self.process = process
        self.address = address
        self.lines: list[str] = []

    def wait_for(self, *wanted: str) -> None:
        missing = list(wanted)
        while missing:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, f"the server ended without {missing}:\n" + "".join(self.lines)
            self.lines.append(line)
            if line.strip() in missing:
                missing.remove(line.strip())

    def end(self) -> int:
        assert self.process.stdout is not None
        self.lines += self.process.stdout.readlines()
        return self.process.wait(60)

    def said(self, words: str) -> int:
        # Anywhere in a line: several processes write to one pipe.
        return len(re.findall(rf"\b{words}\b", "".join(self.lines)))

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        with contextlib.closing(http.client.HTTPConnection(*self.address, timeout=30)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.load(answer)


@contextlib.contextmanager
def serving(server: str, directory: Path, *, pool: bool, grace: int = 25, limit: float = 20) -> Iterator[Server]:
    for module in {"uvicorn": ["uvicorn"], "gunicorn": ["gunicorn"]}[server.split(",")[0]]:
        pytest.importorskip(module, reason=f"{module} is not installed; it is in the extra test")
    if server == "gunicorn, uvicorn":
        pytest.importorskip("uvicorn_worker", reason="uvicorn-worker is not installed; it is in the extra test")
    (directory / "server_app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        words = [word.format(fd=listening.fileno(), grace=grace) for word in SERVERS[server]]
        with subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), "POOL": "yes" if pool else "no", "LIMIT": str(limit)},
            pass_fds=[listening.fileno()],
            start_new_session=True,
        ) as process:
            watchdog = threading.Timer(90, os.killpg, [process.pid, signal.SIGKILL])
            watchdog.start()
            try:
                found = Server(process, listening.getsockname())
                found.wait_for(*[f"pool {pool}"] * (1 if server == "uvicorn" else 2))
                yield found
            finally:
                watchdog.cancel()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("server", ["uvicorn", *OTHERS])
def test_sigterm_drains_the_pool_and_the_server_ends(server: str, tmp_path: Path):
    """Jobs that were handed in are finished, those in the queue too; the clients are long gone."""
    with serving(server, tmp_path, pool=True) as running:
        for number in range(5):
            assert running.ask("POST", f"/jobs/{number}")[0] == 202
        running.wait_for("start 0")
        running.process.send_signal(signal.SIGTERM)
        running.end()
        assert running.said("end") == 5, running.lines
        assert running.said("closed closed") == (1 if server == "uvicorn" else 2)
        assert "Traceback" not in "".join(running.lines)


@pytest.mark.parametrize("server", ["uvicorn", *OTHERS])
def test_a_job_that_is_longer_than_the_limit_does_not_hold_up_the_server(server: str, tmp_path: Path):
    """Not before `shutdown_timeout`, and soon after it: the job is cancelled, the pool closed, the server gone."""
    with serving(server, tmp_path, pool=True, limit=1) as running:
        assert running.ask("POST", "/jobs/99")[0] == 202
        running.wait_for("start 99")
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        running.end()
        assert 1 <= time.monotonic() - began < 15
        assert running.said("end 99") == 0
        assert running.said("closed closed") == (1 if server == "uvicorn" else 2), running.lines
        assert running.said("shutdown of pool pool cancelled 1 jobs: 0 had not started, 0 did not end") == 1


@pytest.mark.parametrize("server", ["uvicorn", *OTHERS])
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_the_server_exits_as_without_us(server: str, number: signal.Signals, tmp_path: Path):
    """The same exit code, and the same handlers, before the pool is opened, while it is open, and without it."""
    seen = []
    for pool in (False, True):
        # On SIGINT gunicorn waits all of its time for a worker of uvicorn's, with a pool and without.
        with serving(server, tmp_path, pool=pool, grace=2) as running:
            status, handlers = running.ask("GET", "/handlers")
            assert status == 200
            assert handlers["now"] == handlers["before"]
            running.process.send_signal(number)
            seen.append((handlers, running.end()))
    assert seen[0] == seen[1]
