"""Streams of events: one snapshot a second for all viewers, nothing while nobody looks, and an end in time."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess

import httpx2
import pytest
from web_app import TOKEN, client, make_app, serve

from aiopool import Pool, Retry, current_job
from aiopool._control.watched import watched
from aiopool.testing import wait_until
from aiopool.web import _hub
from aiopool.web._app import app_of
from aiopool.web._config import Config
from aiopool.web._target import Here


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """A second of a stream is two hundredths here."""
    monkeypatch.setattr("aiopool.web._hub.TICK", 0.02)


def read(text):
    """The events of a stream: kind, data, id."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"]), fields.get("id")))
    return found


class Counting:
    """The pools of this process, and how often they were asked."""

    def __init__(self):
        self.here, self.asked = Here(), []

    async def hello(self):
        return await self.here.hello()

    async def ask(self, verb, pool, **arguments):
        self.asked.append(verb)
        return await self.here.ask(verb, pool, **arguments)


class Viewer:
    """A browser that holds a stream open on an app, and reads what comes."""

    def __init__(self, app, query="", path="events"):
        self.text, self.status, self._leave = "", None, asyncio.Event()
        headers = [(b"host", b"127.0.0.1"), (b"x-access", b"read")]
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/api/v1/pools/p/{path}",
            "headers": headers,
            "scheme": "http",
        }
        scope |= {
            "query_string": query.encode(),
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        await self._leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        self.status = message.get("status", self.status)
        self.text += message.get("body", b"").decode()

    @property
    def events(self):
        return [kind for kind, _, _ in read(self.text)]

    async def leave(self):
        self._leave.set()
        await self.task


async def test_a_stream_has_its_headers_and_the_state_of_the_pool():
    """No proxy holds it back, nothing keeps it; each state is the verb `status`, with the rows that were asked for."""
    gate = asyncio.Event()
    async with Pool(2, name="p") as pool, client(make_app(), "read") as visitor:
        held = [await pool.submit(gate.wait) for _ in range(2)]
        await wait_until(lambda: all(job.status == "running" for job in held))
        answer = await visitor.get("/pools/p/events?limit=2&rows=1")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["cache-control"] == "no-store"
        assert "content-encoding" not in answer.headers
        assert [kind for kind, _, _ in read(answer.text)] == ["state", "state"]
        assert [len(data["running"]) for _, data, _ in read(answer.text)] == [1, 1]
        assert (await visitor.get("/pools/x/events")).status_code == 404
        gate.set()


async def test_all_viewers_have_one_snapshot_and_none_is_made_for_nobody():
    """However many look, the pool is asked once a tick; when the last one has gone, no task and no timer is left."""
    target = Counting()
    app = app_of(target, Config(access=lambda request: "read"))
    async with Pool(1, name="p"):
        before = asyncio.all_tasks()
        viewers = [Viewer(app) for _ in range(20)]
        await wait_until(lambda: all(viewer.events.count("state") >= 3 for viewer in viewers))
        made = target.asked.count("status") - 20  # each was asked for once before its stream began
        assert made <= max(viewer.events.count("state") for viewer in viewers) + 2
        assert app.state.hubs.watched == ["p"]
        assert app.state.hubs.streams == 20
        for viewer in viewers:
            await viewer.leave()
        assert app.state.hubs.watched == []
        assert app.state.hubs.streams == 0
        await wait_until(lambda: asyncio.all_tasks() == before)
        asked = len(target.asked)
        await asyncio.sleep(0.1)  # five ticks, in which nobody is asked
        assert len(target.asked) == asked


async def test_a_snapshot_is_written_once_for_all_who_want_as_many_rows_of_it(monkeypatch):
    """And each has as many as it asked for."""
    written, write = [], _hub._json
    monkeypatch.setattr(_hub, "_json", lambda data: written.append(data) or write(data))
    app, gate = make_app(), asyncio.Event()
    async with Pool(3, name="p") as pool:
        held = [await pool.submit(gate.wait) for _ in range(3)]
        await wait_until(lambda: all(job.status == "running" for job in held))
        viewers = {rows: [Viewer(app, query=f"rows={rows}") for _ in range(10)] for rows in (1, 2)}
        everybody = [one for some in viewers.values() for one in some]
        await wait_until(lambda: all(viewer.events.count("state") >= 3 for viewer in everybody))
        for rows, some in viewers.items():
            for viewer in some:
                assert {len(data["running"]) for kind, data, _ in read(viewer.text) if kind == "state"} == {rows}
                await viewer.leave()
        assert len(written) <= 2 * (max(viewer.events.count("state") for viewer in everybody) + 2)
        gate.set()


async def test_events_are_numbered_and_go_on_where_a_viewer_was():
    """`Last-Event-ID` goes on behind the last one, or says that some are missing."""
    async with Pool(1, name="p") as pool, client(make_app(), "read") as visitor:
        first = Viewer(make_app(), "types=JobSucceeded")
        await wait_until(lambda: "state" in first.events)
        for _ in range(3):
            await (await pool.submit(int))
        await wait_until(lambda: first.events.count("job") == 3)
        numbers = [int(id) for kind, _, id in read(first.text) if kind == "job"]
        assert numbers == sorted(set(numbers))
        await first.leave()
        again = await visitor.get(
            "/pools/p/events?limit=1&types=JobSucceeded", headers={"last-event-id": str(numbers[1])}
        )
        assert [id for kind, _, id in read(again.text) if kind == "job"] == [str(numbers[2])]
        watched(pool).events.stop()  # nobody has asked for long
        again = await visitor.get("/pools/p/events?limit=1&types=*", headers={"last-event-id": str(numbers[1])})
        assert "gap" in [kind for kind, _, _ in read(again.text)]
        watched(pool).events.stop()


async def test_a_job_is_watched_until_it_has_ended():
    """Its states and its events, of no other job; `bye` when it is over, at once for one that is; 404 for none."""
    gate = asyncio.Event()
    async with Pool(2, name="p", keep_finished=9) as pool, client(make_app(), "read") as visitor:
        watched_job = await pool.with_options(name="watched").submit(gate.wait)
        viewer = Viewer(make_app(), path=f"jobs/{watched_job.id}/events")
        await wait_until(lambda: "state" in viewer.events)
        await pool.run(int)
        gate.set()
        await viewer.task
        found = read(viewer.text)
        assert [(data["type"], data["job_id"]) for kind, data, _ in found if kind == "job"] == [("JobSucceeded", 1)]
        states = [data["status"] for kind, data, _ in found if kind == "state"]
        assert (states[0], states[-1], {data["id"] for kind, data, _ in found if kind == "state"}) == (
            "running",
            "succeeded",
            {1},
        )
        assert found[-1][:2] == ("bye", {"detail": "job 1 is succeeded"})
        over = await visitor.get("/pools/p/jobs/1/events")
        assert [kind for kind, _, _ in read(over.text)] == ["state", "bye"]
        assert (await visitor.get("/pools/p/jobs/77/events")).status_code == 404
        assert (await visitor.get("/pools/x/jobs/1/events")).status_code == 404
        pool.pause()
        await pool.with_options(id="held").submit(int)
        some = await visitor.get("/pools/p/jobs/held/events?limit=2&types=JobStarted")
        assert [(kind, data["status"]) for kind, data, _ in read(some.text)] == [("state", "queued")] * 2
        pool.resume()
    watched(pool).events.stop()


async def test_the_end_of_a_job_that_is_not_kept_is_heard():
    """Its last event comes before `bye`, though nobody knows the job any more; an ended one is a 410."""
    gate = asyncio.Event()
    async with Pool(1, name="p") as pool, client(make_app(), "read") as visitor:
        job = await pool.submit(gate.wait)
        viewer = Viewer(make_app(), path=f"jobs/{job.id}/events")
        await wait_until(lambda: "state" in viewer.events)
        gate.set()
        await viewer.task
        assert viewer.events[-2:] == ["job", "bye"]
        assert read(viewer.text)[-1][1]["type"] == "forgotten"
        assert (await visitor.get("/pools/p/jobs/1/events")).status_code == 410
        watched(pool).events.stop()


async def test_who_comes_back_to_a_job_goes_on_where_they_were():
    """Each state has the number to come back with; events that nobody has kept are a `gap`."""
    gate = asyncio.Event()
    async with Pool(1, name="p") as pool, client(make_app(), "read") as visitor:
        job = await pool.with_options(retry=Retry(attempts=2, delay=0)).submit(once_in_vain, gate)
        first = await visitor.get(f"/pools/p/jobs/{job.id}/events?limit=1")
        number = read(first.text)[-1][2]
        assert number is not None
        gate.set()
        gate.clear()
        await wait_until(lambda: job.attempt == 2)
        again = await visitor.get(f"/pools/p/jobs/{job.id}/events?limit=1", headers={"last-event-id": number})
        assert [kind for kind, _, _ in read(again.text)] == ["job", "job", "state"]
        watched(pool).events.stop()  # nobody has asked for long
        again = await visitor.get(f"/pools/p/jobs/{job.id}/events?limit=1", headers={"last-event-id": number})
        assert [kind for kind, _, _ in read(again.text)] == ["gap", "state"]
        gate.set()
        await job
        watched(pool).events.stop()


async def once_in_vain(gate):
    await gate.wait()
    if current_job().attempt == 1:
        raise ValueError


async def test_a_stream_ends_by_itself_with_the_pool_and_with_the_server():
    """After its time, which is below the 30 s of access; with `bye` when the pool or the server ends."""
    assert Config(access=lambda request: None).stream_seconds < 30
    short = app_of(Here(), Config(access=lambda request: "read", stream_seconds=0.05))
    app = make_app()
    async with Pool(1, name="p") as pool:
        viewer = Viewer(short)
        await viewer.task
        assert set(viewer.events) == {"state"}
        viewer = Viewer(app)
        await wait_until(lambda: viewer.events)
        await pool.shutdown()
        await viewer.task
        assert viewer.events[-1] == "bye"
    async with Pool(1, name="p"):
        viewer = Viewer(app)
        await wait_until(lambda: viewer.events)
        app.state.hubs.close()
        await viewer.task
        assert viewer.events[-1] == "bye"
        late = Viewer(app)
        await late.task
        assert late.events == ["bye"]


async def test_access_is_asked_for_again_with_each_stream():
    """Who has lost access gets no next stream: a stream is guarded like the page beside it. (windmill 9301)"""
    allowed = ["read"]
    app = app_of(Here(), Config(access=lambda request: allowed[0], stream_seconds=0.05))
    async with Pool(1, name="p"):
        viewer = Viewer(app)
        await viewer.task
        assert viewer.status == 200
        allowed[0] = None
        viewer = Viewer(app)
        await viewer.task
        assert viewer.status == 401


async def test_there_are_so_many_streams_at_most():
    """The next one is a 429 that says when to come again."""
    app = app_of(Here(), Config(access=lambda request: "read", max_streams=2))
    async with Pool(1, name="p", keep_finished=9) as pool:
        viewers = [Viewer(app) for _ in range(2)]
        await wait_until(lambda: app.state.hubs.streams == 2)
        async with client(app, "read") as visitor:
            job = await pool.submit(int)
            for path in ("events", f"jobs/{job.id}/events"):
                answer = await visitor.get(f"/pools/p/{path}")
                assert (answer.status_code, answer.json()["type"]) == (429, "too-many")
                assert answer.headers["retry-after"]
        for viewer in viewers:
            await viewer.leave()


def ask_for_stream(url):
    """Open a stream by hand, and return its socket when the first state has come."""
    host, _, port = url.removeprefix("http://").strip("/").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    lines = ["GET /api/v1/pools/pool/events HTTP/1.1", f"Host: {host}:{port}", f"Authorization: Bearer {TOKEN}", "", ""]
    connection.sendall("\r\n".join(lines).encode())
    text = b""
    while b"event: state" not in text:
        more = connection.recv(65536)
        assert more, text
        text += more
    return connection


def test_a_server_with_open_streams_ends_at_once(tmp_path):
    """SIGTERM with 10 open streams: they are told `bye`, and the process ends by itself, with nobody killing it."""
    with serve(tmp_path) as server, contextlib.ExitStack() as open_:
        streams = [open_.enter_context(contextlib.closing(ask_for_stream(server.url))) for _ in range(10)]
        server.process.send_signal(signal.SIGTERM)
        for stream in streams:
            text = b""
            while more := stream.recv(65536):
                text += more
            assert b"event: bye" in text
        assert server.end() == 0


def test_viewers_who_vanish_are_gone(tmp_path):
    """A socket that is reset without a word frees its stream: 100 of them, and there is still room for another."""
    with serve(tmp_path) as server:
        for _ in range(12):
            streams = [ask_for_stream(server.url) for _ in range(10)]
            for stream in streams:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                stream.close()
        with contextlib.closing(ask_for_stream(server.url)):
            pass


@pytest.mark.long
def test_the_streams_of_a_program_that_ends_say_bye(tmp_path):
    """Through the socket of another process: its end is told, and then it is not there."""
    from web_app import command

    program = """
import asyncio, sys, aiopool
aiopool.control()
async def main(pool):
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
aiopool.run(main, pool=aiopool.Pool(1, name="pool"))
"""
    import os
    import sys

    from web_servers import ROOT

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as watched_program:
        assert watched_program.stdout.readline() == "ready\n"
        with command(tmp_path, "web", "pool", "--port", "0", "--token-file", "token") as server:
            with contextlib.closing(ask_for_stream(server.url)) as stream:
                headers = {"authorization": f"Bearer {TOKEN}"}
                with httpx2.Client(base_url=server.url, headers=headers) as visitor:
                    answer = visitor.patch("api/v1/pools/pool", json={"paused": True})
                    assert answer.json()["paused_by"]["who"].startswith("token, through ")
                    answer = visitor.post("api/v1/pools/pool/jobs", json={"function": "add"})
                    assert (answer.status_code, answer.json()["type"]) == (409, "conflict")
                    watched_program.communicate("end\n", timeout=60)
                    text = b""
                    while more := stream.recv(65536):
                        text += more
                    assert b"event: bye" in text
                    answer = visitor.get("api/v1/pools/pool")
                    assert (answer.status_code, answer.json()["type"]) == (503, "program-gone")
                    assert visitor.get("readyz").status_code == 503
                    assert visitor.get("livez").status_code == 200
            server.process.send_signal(signal.SIGTERM)
            assert server.end() == 0
