"""Programs that are named by an address: `aiopool top` and `aiopool ctl` ask a real `aiopool web` over HTTP."""

import contextlib
import http.server
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.doors import BLOCKED, IDLE, busy, masked, running
from cli.support import command, environment, finish, run, started
from web.web_app import TOKEN, Command, make_app, routes
from web.web_app import command as serving

from aiopool._control.problems import Problem
from aiopool.cli._http_door import HttpConnection, split_url
from aiopool.cli._http_routes import ROUTES, request_for
from aiopool.cli._words import Refusal


@contextlib.contextmanager
def web(doors: Path, *options: str) -> Iterator[Command]:
    """Show the only program with a door over HTTP."""
    with serving(doors.parent, "web", "--port", "0", "--token-file", "token", *options) as server:
        yield server


def token(doors: Path) -> tuple[str, str]:
    return "--token-file", str(doors.parent / "token")


# -- the table ---------------------------------------------------------------------------------------------------------


def test_each_route_is_one_of_the_api():
    """What is sent is what the app takes."""
    there = {(method, re.sub(r"\{\w+\}", "{}", path)) for method, path in routes(make_app())}
    missing = {
        verb
        for verb, kinds in ROUTES.items()
        for route in kinds
        if (route.method, "/api/v1/pools/{}" + re.sub(r"\{\w+\}", "{}", route.path)) not in there
    }
    assert not missing


def test_a_question_becomes_a_request():
    """Names stand in the path and are escaped there; the rest is a query, or JSON with numbers."""
    asked = request_for("jobs", "a/b", {"status": "queued", "limit": 5})
    assert (asked.route.method, asked.path, asked.query) == (
        "GET",
        "pools/a%2Fb/jobs",
        {"status": "queued", "limit": "5"},
    )
    asked = request_for("cancel", "mail", {"id": "x?y", "reason": "5"})
    assert (asked.path, asked.body) == ("pools/mail/jobs/x%3Fy/cancel", {"reason": "5"})
    assert request_for("cancel", "mail", {"id": "x"}).body is None
    assert request_for("resize", "mail", {"size": "5", "cancel_excess": "true"}).body == {
        "size": 5,
        "cancel_excess": True,
    }
    assert request_for("pause", "mail", {}).body == {"paused": True}
    assert request_for("pause", "mail", {"group": "g"}).path == "pools/mail/groups/g/pause"
    assert request_for("operations", "mail", {"id": 3}).path == "pools/mail/operations/3"
    with pytest.raises(Problem, match=r"stack over HTTP needs more: write id=\.\.\."):
        request_for("stack", "mail", {})
    with pytest.raises(Problem, match="drain cannot be asked over HTTP, only at the door of the program"):
        request_for("drain", "mail", {})


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("http://127.0.0.1:8765/", ("http://127.0.0.1:8765", None)),
        ("https://example.org/pool/#mail", ("https://example.org/pool", "mail")),
        ("http://[::1]:8765#mail-2", ("http://[::1]:8765", "mail-2")),
    ],
)
def test_an_address_is_read(target: str, found: tuple[str, str | None]):
    """Where the app is mounted; behind a `#`, the pool."""
    assert split_url(target) == found


@pytest.mark.parametrize("target", ["http://", "http://a:port/", "http://[::1/", "http://127.0.0.1/?code=abc"])
def test_an_address_is_refused(target: str):
    """With what to write."""
    with pytest.raises(Refusal, match="write"):
        split_url(target)


# -- frames and verbs --------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_frames_are_those_of_the_socket(here: Path, doors: Path):
    """Each view is the same, whichever way it was asked for."""
    with busy(), web(doors) as server:
        for view in ("running", "waiting", "failed", "groups", "loop", "what-if"):
            there = run(here, "top", server.url, "--once", "--show", view, *token(doors))
            assert (there.code, there.err) == (0, "")
            mine = run(here, "top", "mail", "--once", "--show", view)
            # The widths of the columns are those of the times, and the second frame is a little later.
            frames = [re.sub(r" \(N/\w+\)| (?= )", "", masked(one.out.decode())) for one in (there, mine)]
            assert frames[0] == frames[1]
        found = run(
            here, "top", f"{server.url}#mail", "--json", "--filter", "group=host", "--show", "waiting", *token(doors)
        )
        assert [item["id"] for item in found.rows[0]["items"]] == ["q0", "q1", "q2"]
        assert found.rows[0]["access"] == "operate"


@pytest.mark.long
def test_verbs(here: Path, doors: Path):
    """They do what they do at the socket; texts of a command line become numbers where the API wants them."""
    with busy(), web(doors) as server:

        def ask(verb: str, *words: str) -> dict[str, object]:
            *_, last = run(here, "ctl", verb, server.url, *words, "--json", *token(doors)).rows
            return last

        assert ask("resize", "size=3")["size"] == 3
        assert ask("pause")["paused"] is True
        assert ask("resume")["paused"] is False
        assert ask("pause", "group=host") == {"paused": True, "group": "host"}
        assert ask("reprioritize", "id=odd", "priority=1") == {"id": "odd", "priority": 1, "timeout": None}
        assert ask("change_job", "id=odd", "timeout=5")["timeout"] == 5
        assert ask("change_job", "id=odd", "timeout=none")["timeout"] is None
        assert ask("cancel", "id=later", "reason=no need")["status"] == "cancelled"
        assert ask("cancel_group", "group=host", "--wait")["done"] == 3
        assert ask("job", "id=long")["status"] == "running"
        assert ask("stack", "id=long", "depth=1")["id"] == "long"
        assert ask("tree")["complete"] is True
        assert ask("health")["ready"] is True
        actions = ask("actions")["items"]
        assert isinstance(actions, list)
        assert all(action["who"].startswith("token") for action in actions)
        listed = run(here, "ctl", "help", server.url, *token(doors)).out.decode()
        assert "what_if " in listed
        assert "\ndrain" not in listed


def test_one_pool_of_several(here: Path, doors: Path):
    """It stands behind a `#`; without one, those that can be written are said."""
    with running(IDLE, names="['eggs', 'spam']", seconds=3600), web(doors) as server:
        done = run(here, "top", server.url, "--once", *token(doors))
        url = server.url.rstrip("/")
        assert (done.code, done.err) == (1, f"aiopool: say which pool: {url}#eggs, {url}#spam\n")
        assert b"pool spam" in run(here, "top", f"{server.url}#spam", "--once", *token(doors)).out
        done = run(here, "top", f"{server.url}#ham", "--once", *token(doors))
        assert (done.code, "no open pool is called 'ham'" in done.err) == (1, True)


@pytest.mark.long
def test_a_blocked_loop(here: Path, doors: Path):
    """The numbers come, with who blocks it; a list does not, and the exit code of a verb says so."""
    with running(BLOCKED), web(doors) as server:
        text = run(here, "top", server.url, "--once", *token(doors)).out.decode()
        assert re.search(r"^loop   BLOCKED \d+\.\d s at <string>:\d+ in block", text, re.M)
        done = run(here, "ctl", "jobs", server.url, *token(doors))
        assert (done.code, "loop blocked for" in done.err) == (3, True)


# -- who is not let in, and who does not answer ------------------------------------------------------------------------


@pytest.mark.long
def test_a_token_is_needed(here: Path, doors: Path):
    """Without one, with a wrong one, with a file that has none: exit code 2, and what to write."""
    (here / "wrong").write_text("not-the-token-of-the-server\n")
    (here / "empty").write_text("\n")
    with busy(), web(doors) as server:
        for options, says in {
            (): "send a token: Authorization: Bearer ...; write --token-file FILE",
            ("--token-file", "wrong"): "send a token",
            ("--token-file", "empty"): "--token-file empty has no token in one line",
            ("--token-file", "nowhere"): "--token-file nowhere cannot be read",
        }.items():
            for words in (("top", server.url, "--once"), ("ctl", "status", server.url)):
                done = run(here, *words, *options)
                assert (done.code, says in done.err) == (2, True), done.err
                assert TOKEN not in done.err
    done = run(here, "top", "mail", "--once", *token(doors))
    assert (done.code, "--token-file is for an address" in done.err) == (2, True)


@pytest.mark.long
def test_read_only(here: Path, doors: Path):
    """The server says what may be done; and `--read-only` asks it for nothing that steers."""
    with busy(), web(doors, "--read-only") as server:
        done = run(here, "ctl", "pause", server.url, *token(doors))
        assert (done.code, "this is read-only for you" in done.err) == (2, True)
        assert "\npause" not in run(here, "ctl", "help", server.url, *token(doors)).out.decode()
    with busy(), web(doors) as server, HttpConnection(server.url.rstrip("/"), TOKEN) as connection:
        with pytest.raises(Problem, match="pause takes operate access"):
            connection.ask("pause", on_behalf_of={"who": "me", "access": "read"})
        assert connection.ask("status", on_behalf_of={"who": "me", "access": "read"})["paused"] is False


class Other(http.server.BaseHTTPRequestHandler):
    """Another program: it has pages, and below /busy a proxy whose server has gone."""

    def do_GET(self) -> None:
        gone = self.path.startswith("/busy")
        kind, text = (
            ("application/json", b'{"detail": "Not Found"}') if self.path.startswith("/api") else ("text/html", b"")
        )
        self.send_response(502 if gone else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.long
def test_who_is_there_is_told(here: Path, doors: Path):
    """Nobody, another program, an app that is mounted elsewhere: exit code 1; a proxy without its server: 3."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{other.server_port}"
        try:
            for path, code, says in (
                ("", 1, "is no app of aiopool, for it answers JSON of another kind"),
                ("/pages", 1, "is no app of aiopool, for it answers 200 OK"),
                ("/busy", 3, "answers 502 Bad Gateway"),
            ):
                done = run(here, "top", f"{address}{path}", "--once")
                assert (done.code, says in done.err) == (code, True), done.err
        finally:
            other.shutdown()
            thread.join()
    done = run(here, "top", address, "--once")
    assert (done.code, f"nobody listens at {address}" in done.err) == (1, True)
    with busy(), web(doors) as server:
        done = run(here, "top", f"{server.url}below", "--once", *token(doors))
        assert (done.code, "write the address under which the app is mounted" in done.err) == (1, True)


@pytest.mark.long
def test_the_program_ends(here: Path, doors: Path):
    """Whether it is the one that is watched, or the server: exit code 1, as at a socket."""
    with busy() as process, web(doors) as server:
        options = ("--plain", "--interval", "0.1", *token(doors))
        with started(here, "top", server.url, *options) as one, started(here, "top", server.url, *options) as other:
            for top in (one, other):
                assert top.stdout is not None
                while b"[running 3]" not in top.stdout.readline():
                    pass
            process.kill()
            done = finish(one)
            assert (done.code, f"-c {process.pid} has ended" in done.err) == (1, True), done.err
            done = finish(other)
            assert (done.code, f"-c {process.pid} has ended" in done.err) == (1, True), done.err
        server.process.kill()
        server.process.wait()
        assert run(here, "top", server.url, "--once", *token(doors)).code == 1


@pytest.mark.long
def test_a_stopped_server_does_not_answer(here: Path, doors: Path):
    """The exit code is 3: it has not ended."""
    with busy(), web(doors) as server:
        with started(here, "top", server.url, "--plain", "--interval", "0.1", *token(doors)) as top:
            assert top.stdout is not None
            top.stdout.readline()
            os.kill(server.process.pid, signal.SIGSTOP)
            done = finish(top)
            os.kill(server.process.pid, signal.SIGCONT)
            assert done.code == 3
            assert "has not answered GET pools/mail in time" in done.err


def test_without_httpx2(here: Path, doors: Path):
    """It says which extra is missing."""
    (here / "httpx2.py").write_text("raise ModuleNotFoundError('No module named httpx2', name='httpx2')")
    env = environment() | {"PYTHONPATH": f"{here}:{environment()['PYTHONPATH']}"}
    done = subprocess.run(command("top", "http://127.0.0.1:1/", "--once"), capture_output=True, env=env, timeout=60)
    assert done.returncode == 2
    assert b'pip install -e ".[client]"' in done.stderr
