"""Under real web servers: they hear the signals, the lifespan drains the pool, and they exit as they do without us."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_servers import GUNICORN, UVICORN, Server, need, serving

pytest.importorskip("starlette", reason="the servers run a Starlette app; it is in the extra test")

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

GRACEFUL = [*GUNICORN, "--workers", "2", "--graceful-timeout"]
SERVERS = {
    "uvicorn": [*UVICORN, "server_app:app"],
    "uvicorn, workers": [*UVICORN, "--workers", "2", "server_app:app"],
    "gunicorn, uvicorn": [*GRACEFUL, "{grace}", "--worker-class", "uvicorn_worker.UvicornWorker", "server_app:app"],
    "gunicorn, asgi": [*GRACEFUL, "{grace}", "--worker-class", "asgi", "server_app:app"],
}
# One server and one of its signals are enough for every day.
OTHERS = [pytest.param(server, marks=pytest.mark.long) for server in SERVERS if server != "uvicorn"]


@contextlib.contextmanager
def running(server: str, directory: Path, *, pool: bool, grace: int = 25, limit: float = 20) -> Iterator[Server]:
    """Run the app until every worker has said that its pool is open."""
    need(*[word.partition(".")[0] for word in SERVERS[server] if word.startswith(("uvicorn", "gunicorn"))][:2])
    (directory / "server_app.py").write_text(APP)
    words = [word.replace("{grace}", str(grace)) for word in SERVERS[server]]
    with serving(words, directory, {"POOL": "yes" if pool else "no", "LIMIT": str(limit)}) as found:
        found.wait_for(*[f"pool {pool}"] * (1 if server == "uvicorn" else 2))
        yield found


@pytest.mark.parametrize("server", ["uvicorn", *OTHERS])
def test_sigterm_drains_the_pool_and_the_server_ends(server: str, tmp_path: Path):
    """Jobs that were handed in are finished, those in the queue too; the clients are long gone."""
    with running(server, tmp_path, pool=True) as found:
        for number in range(5):
            assert found.ask("POST", f"/jobs/{number}")[0] == 202
        found.wait_for("start 0")
        found.process.send_signal(signal.SIGTERM)
        found.end()
        assert found.said("end") == 5, found.lines
        assert found.said("closed closed") == (1 if server == "uvicorn" else 2)
        assert "Traceback" not in "".join(found.lines)


@pytest.mark.parametrize("server", ["uvicorn", *OTHERS])
def test_a_job_that_is_longer_than_the_limit_does_not_hold_up_the_server(server: str, tmp_path: Path):
    """Not before `shutdown_timeout`, and soon after it: the job is cancelled, the pool closed, the server gone."""
    with running(server, tmp_path, pool=True, limit=1) as found:
        assert found.ask("POST", "/jobs/99")[0] == 202
        found.wait_for("start 99")
        began = time.monotonic()
        found.process.send_signal(signal.SIGTERM)
        found.end()
        assert 1 <= time.monotonic() - began < 15
        assert found.said("end 99") == 0
        assert found.said("closed closed") == (1 if server == "uvicorn" else 2), found.lines
        assert found.said("shutdown of pool pool cancelled 1 jobs: 0 had not started, 0 did not end") == 1


@pytest.mark.parametrize("server", ["uvicorn", *OTHERS])
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_the_server_exits_as_without_us(server: str, number: signal.Signals, tmp_path: Path):
    """The same exit code, and the same handlers, before the pool is opened, while it is open, and without it."""
    seen = []
    for pool in (False, True):
        # On SIGINT gunicorn waits all of its time for a worker of uvicorn's, with a pool and without.
        with running(server, tmp_path, pool=pool, grace=2) as found:
            status, handlers = found.ask("GET", "/handlers")
            assert status == 200
            assert handlers["now"] == handlers["before"]
            found.process.send_signal(number)
            seen.append((handlers, found.end()))
    assert seen[0] == seen[1]
