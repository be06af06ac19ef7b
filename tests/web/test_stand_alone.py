"""`aiopool serve` and `aiopool web`: closed to strangers, a link that works once, a token for programs."""

import os
import signal
import socket
import subprocess
import sys

import httpx2
import pytest
from web_app import HANDLERS, TOKEN, serve
from web_servers import ROOT

from aiopool.web._login import Login, read_token
from aiopool.web._server import StandAlone
from aiopool.web._target import Here


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("server")) as server:
        yield server


def visit(server, **headers):
    return httpx2.Client(base_url=server.url, headers=headers)


def test_it_listens_on_this_machine_only(server):
    """The address that it prints is that of this machine for itself, and no other one answers."""
    assert server.url.startswith("http://127.0.0.1:")
    port = int(server.url.rstrip("/").rpartition(":")[2])
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))  # nobody has it: only one address is taken


def test_nobody_is_let_in_but_by_token_or_link(server):
    """Coming from this machine is not enough, and neither is a wrong token, or a right one in a wrong place."""
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": f"aiopool={TOKEN}"},
        {"x-access": "admin"},
    ):
        with visit(server, **headers) as visitor:
            assert visitor.get("api/v1/pools").status_code == 401, headers
            assert visitor.get(f"api/v1/pools?token={TOKEN}").status_code == 401
    with visit(server, authorization=f"bearer {TOKEN}") as visitor:
        assert visitor.get("api/v1/").json()["who"] == "token"


def test_probes_need_no_token_and_tell_nothing(server):
    """Whether it lives and is ready: yes or no. A foreign name is refused there, too; nothing can be changed there."""
    with visit(server) as visitor:
        assert visitor.get("livez").json() == {"live": True}
        assert visitor.get("readyz").json() == {"ready": True}
        assert visitor.get("livez", headers={"host": "evil.example"}).status_code == 403
        assert visitor.post("livez", headers={"origin": server.url.rstrip("/")}).status_code == 401
        assert visitor.get("livez/../api/v1/pools").status_code == 401


def test_a_link_opens_the_door_once(tmp_path):
    """The code is exchanged for a cookie that no script reads and no other site sends; then the link is dead."""
    with serve(tmp_path) as server, visit(server) as browser:
        assert browser.get("?code=wrong").status_code == 401
        answer = browser.get(server.link)
        assert (answer.status_code, answer.headers["location"]) == (303, ".")
        cookie = answer.headers["set-cookie"]
        port = server.url.rstrip("/").rpartition(":")[2]
        assert cookie.startswith(f"aiopool-{port}=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert server.link.partition("code=")[2] not in cookie
        assert browser.get("api/v1/").json()["who"] == "browser"
        with visit(server) as other:
            assert other.get(server.link).status_code == 401
        # The cookie comes along with whatever a page of another site sends: so it is not enough to change anything.
        body = {"paused": True}
        assert browser.patch("api/v1/pools/pool", json=body).status_code == 403
        assert (
            browser.patch("api/v1/pools/pool", json=body, headers={"origin": "http://evil.example"}).status_code == 403
        )
        ours = {"origin": server.url.rstrip("/")}
        assert browser.patch("api/v1/pools/pool", json=body, headers=ours).status_code == 200
        assert browser.post("api/v1/pools/pool/shutdown", headers=ours).status_code == 404


def test_a_link_leads_nowhere_else():
    """A code is taken at the first page only, and sends nobody to another server."""
    from starlette.exceptions import HTTPException
    from starlette.requests import Request

    def request(path, query, root=""):
        scope = {"type": "http", "method": "GET", "path": path, "root_path": root, "headers": [], "state": {}}
        return Request(scope | {"query_string": query.encode()})

    login = Login("operate", None, "c")
    for path in ("//evil.example/", "/api/v1/pools", "/x"):
        assert login(request(path, f"code={login.code}")) is None
    with pytest.raises(HTTPException) as sent:
        login(request("/a/b/", f"code={login.code}", "/a/b"))
    assert sent.value.headers["location"] == "."
    assert "; Path=/a/b;" in sent.value.headers["set-cookie"]
    assert login.code is None


def test_read_only_is_a_property_of_the_server(tmp_path):
    """`--read-only`: whoever is let in may look, and nothing else."""
    with serve(tmp_path, "--read-only") as server, visit(server, authorization=f"Bearer {TOKEN}") as visitor:
        assert visitor.get("api/v1/").json()["access"] == "read"
        answer = visitor.patch("api/v1/pools/pool", json={"paused": True})
        assert (answer.status_code, answer.json()["type"]) == (403, "not-allowed")
        assert "read-only for you" in answer.json()["detail"]


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_another_address_needs_a_token(address):
    """What can be reached from elsewhere is not opened by a link alone. (CVE-2021-42343, ShadowRay)"""
    with pytest.raises(ValueError, match=r"can be reached from elsewhere: write --token-file"):
        StandAlone(Here(), listen=address)


def test_with_a_token_it_listens_where_it_is_told(tmp_path):
    """On all addresses it knows its own name, and those that are given; a prefix is one."""
    (tmp_path / "token").write_text(TOKEN)
    alone = StandAlone(Here(), listen="0.0.0.0", token_file=str(tmp_path / "token"), hosts=["pool.example.org"])
    assert alone.url.startswith("http://pool.example.org:")
    alone.close()
    alone = StandAlone(Here(), root_path="/tools/pool")
    assert alone.url.endswith("/tools/pool/")
    alone.close()
    for wrong in ({"root_path": "pool"}, {"hosts": ["a b"]}, {"trusted_origins": ["x"]}):
        with pytest.raises(ValueError, match=r"root-path|is no name|is no origin"):
            StandAlone(Here(), **wrong)


def test_a_token_is_read_with_care(tmp_path):
    """A file that is not there, is empty, or has what is no token, is refused, with the line to write."""
    file = tmp_path / "token"
    with pytest.raises(ValueError, match="cannot be read"):
        read_token(str(file))
    for text in ("", "short", "two words, which is none", "\0" * 20):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"secrets\.token_urlsafe"):
            read_token(str(file))
    file.write_text(f"{TOKEN}\n")
    assert read_token(str(file)) == TOKEN


def run(directory, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(directory)}
    return subprocess.run(
        [sys.executable, "-m", "aiopool", *words], capture_output=True, text=True, cwd=directory, env=environment
    )


def test_bad_usage_is_told_in_a_line(tmp_path):
    """Exit code 2, one line, no traceback."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    for words, said in {
        ("web",): "no program has a door open",
        ("serve", "handlers.py:nothing"): "has no 'nothing'",
        ("serve", "handlers.py:handlers", "--listen", "0.0.0.0"): "write --token-file",
    }.items():
        done = run(tmp_path, *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr, words


def test_a_port_that_is_taken_is_told(server, tmp_path):
    """It says which one, and does not begin to run jobs."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    port = server.url.rstrip("/").rpartition(":")[2]
    done = run(tmp_path, "serve", "handlers.py:handlers", "--port", port)
    assert done.returncode == 2
    assert f"--port {port}" in done.stderr


@pytest.mark.parametrize("store", [False, True])
def test_a_signal_finishes_what_was_taken(tmp_path, store):
    """What was answered with a 202 is done before the program ends; meanwhile it takes no more."""
    more = ["--store", f"sqlite:///{tmp_path}/jobs.db"] if store else []
    with serve(tmp_path, *more) as server, visit(server, authorization=f"Bearer {TOKEN}") as visitor:
        body = {"function": "nap", "params": {"seconds": 0.5}}
        taken = visitor.post("api/v1/pools/pool/jobs", json=body)
        assert taken.status_code == 202, taken.text
        done = visitor.get(f"api/v1/pools/pool/jobs/{taken.json()['id']}/result", headers={"prefer": "wait=30"})
        assert done.json()["result"] == "rested"
        visitor.post("api/v1/pools/pool/jobs", json=body)
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0


def test_the_example_of_a_client_runs_its_jobs_there(server):
    """The program of the docs, as a process of its own."""
    said = subprocess.run(
        [sys.executable, ROOT / "examples" / "http_client.py", server.url],
        env=os.environ | {"POOL_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.stdout.split() == ["3", "90"], said.stderr
