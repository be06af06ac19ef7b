"""The clients: typed, patient, and never twice; against a server in a process of its own."""

import asyncio
import pickle
import socket
import threading

import httpx2
import pytest
from web_app import HOME, TOKEN, client, make_app, serve

import aiopool.web
from aiopool import Pool
from aiopool.web import ApiError, AsyncClient, Client, RemoteJob, RemoteJobError


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def pool(server):
    with Client(server.url, token=TOKEN) as client:
        yield client


def test_a_job_is_submitted_and_waited_for(pool):
    """Its result comes back as JSON has it; a job that fails is an error with its words; options are passed on."""
    job = pool.submit("add", {"a": 1, "b": 2}, priority=1, timeout=5, group="g", labels={"order": "7"})
    assert (type(job), job.name, job.pool) == (RemoteJob, "add", "pool")
    assert pool.wait(job) == 3
    assert pool.wait(job.id, timeout=10) == 3
    failing = pool.submit("fail", {"text": "no luck"})
    with pytest.raises(RemoteJobError, match="failed: ValueError: no luck") as failed:
        pool.wait(failing)
    assert (failed.value.id, failed.value.status) == (failing.id, "failed")
    copy = pickle.loads(pickle.dumps(failed.value))
    assert (copy.id, copy.status, str(copy)) == (failing.id, "failed", str(failed.value))


def test_a_job_runs_once_more(pool):
    """As it was, or with other arguments; a new job in memory."""
    first = pool.submit("add", {"a": 1})
    assert pool.wait(first) == 2
    assert pool.wait(pool.retry(first)) == 2
    copy = pool.retry(first, {"a": 5, "b": 5})
    assert (pool.wait(copy), copy.id != first.id, copy.name) == (10, True, "add")
    with pytest.raises(ApiError, match="not-found"):
        pool.retry("nobody")


def test_a_job_that_takes_longer_goes_on(pool):
    """`timeout` ends the waiting, not the job; it can be cancelled."""
    job = pool.submit("nap", {"seconds": 60})
    with pytest.raises(TimeoutError, match=r"is (queued|running) after 0 s"):
        pool.wait(job, timeout=0)
    pool.cancel(job, "enough")
    with pytest.raises(RemoteJobError, match="cancelled"):
        pool.wait(job)
    assert pool.status()["pool"] == "pool"


def test_what_is_refused_is_an_error_with_its_kind(pool, server):
    """The problem is in it, whole."""
    with pytest.raises(ApiError, match="no function is registered as 'nothing'") as refused:
        pool.submit("nothing")
    assert (refused.value.kind, refused.value.status) == ("not-found", 404)
    assert pickle.loads(pickle.dumps(refused.value)).problem == refused.value.problem
    with pytest.raises(ApiError, match=r"params\.a"):
        pool.submit("add", {"a": "x"})
    with pytest.raises(ApiError, match="not-known"), Client(server.url) as stranger:
        stranger.status()
    with pytest.raises(ApiError, match="not-known"), Client(server.url) as stranger:
        next(stranger.stream())
    with pytest.raises(ValueError, match="write the address of the app"):
        Client("127.0.0.1:8765")


def test_many_results_come_in_the_order_of_their_arguments(pool):
    """`map` takes its arguments as they are needed, and has no more under way than it was told."""
    taken = []

    def numbers():
        for number in range(300):
            taken.append(number)
            yield {"a": number}

    results = pool.map("add", numbers(), at_once=50)
    assert next(results) == 1
    assert len(taken) <= 100
    assert list(results) == list(range(2, 301))
    assert list(pool.map("add", [])) == []
    with pytest.raises(RemoteJobError, match="no luck"):
        list(pool.map("fail", [{"text": "no luck"}]))


@pytest.mark.long
def test_a_stream_tells_what_happens(pool):
    """States once a second, and the events that were asked for, as they come."""
    events = pool.stream(rows=1, types=["JobSucceeded"])
    first = next(events)
    assert first.kind == "state"
    job = pool.submit("add", {"a": 1})
    found = next(event for event in events if event.kind == "job")
    assert (found.data["type"], found.data["job_id"]) == ("JobSucceeded", job.id)
    events.close()
    job = pool.submit("nap", {"seconds": 60})
    events = pool.stream(job)
    first = next(events)
    assert (first.kind, first.data["id"]) == ("state", job.id)
    pool.cancel(job)
    heard = list(events)
    assert [event.data["type"] for event in heard if event.kind == "job"][-1] == "JobCancelled"
    assert heard[-1].kind == "bye"


async def test_the_same_with_await(server):
    """`AsyncClient` has the same methods, and takes async iterables."""
    async with AsyncClient(server.url, token=TOKEN) as client:
        assert await client.wait(await client.submit("add", {"a": 1})) == 2
        with pytest.raises(RemoteJobError, match="no luck"):
            await client.wait(await client.submit("fail", {"text": "no luck"}))

        async def numbers():
            for number in range(300):
                yield {"a": number}

        assert [result async for result in client.map("add", numbers())] == list(range(1, 301))
        assert [result async for result in client.map("add", [{"a": 1}])] == [2]
        events = client.stream()
        assert (await anext(events)).kind == "state"
        await events.aclose()
        job = await client.submit("add", {"a": 1})
        await client.wait(job)
        assert [event.kind async for event in client.stream(job)] == ["state", "bye"]
        assert await client.wait(await client.retry(job, {"a": 2})) == 3
        job = await client.submit("nap", {"seconds": 60})
        assert await client.cancel(job) in ("running", "cancelled")
        assert (await client.status())["size"] == 10
        with pytest.raises(ApiError):
            await client.submit("nothing")


def test_a_server_that_is_not_there_is_an_error_in_time(pool):
    """Nobody listens: `ConnectionError`, once patience is at its end."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    with Client(address, patience=0.0) as client, pytest.raises(ConnectionError, match="does not answer"):
        client.submit("add", {"a": 1})


class Losing(httpx2.AsyncBaseTransport):
    """Loses the answers to the first requests, after they were carried out: the worst that a network does."""

    def __init__(self, app, times):
        self.inner, self.times, self.sent = httpx2.ASGITransport(app), times, []

    async def handle_async_request(self, request):
        request.headers |= {"x-access": "operate"}
        answer = await self.inner.handle_async_request(request)
        self.sent.append(request.headers.get("idempotency-key"))
        if len(self.sent) <= self.times:
            raise httpx2.ReadError("the answer is lost")
        return answer


async def test_a_job_whose_answer_was_lost_is_submitted_once(monkeypatch):
    """It is sent again with its key, and found: one job, not three."""
    monkeypatch.setattr("aiopool.web._talk.AGAIN", 0.0)
    async with Pool(1, name="pool") as pool:
        transport = Losing(make_app(), 2)
        headers = {"authorization": "x"}
        async with AsyncClient(HOME, transport=transport, token="x") as client:
            job = await client.submit("add", {"a": 1})
            assert await client.wait(job) == 2
        assert headers
        assert len(set(transport.sent[:3])) == 1
        assert pool.statistics().submitted == 1
        transport = Losing(make_app(), 1)
        async with AsyncClient(HOME, transport=transport, token="x") as client:
            assert [result async for result in client.map("add", [{"a": 1}, {"a": 2}])] == [2, 3]
        assert pool.statistics().submitted == 3


@pytest.mark.long
async def test_who_meets_a_full_queue_comes_again():
    """`map` fills a small queue, and goes on as there is room; one job waits for room, too."""
    async with Pool(2, name="pool", queue_size=3) as pool, client(make_app()):
        transport = Losing(make_app(), 0)
        async with AsyncClient(HOME, transport=transport, token="x") as remote:
            found = [result async for result in remote.map("add", [{"a": n} for n in range(40)], at_once=20)]
        assert found == list(range(1, 41))
        assert pool.statistics().succeeded == 40


def test_a_client_needs_no_server_and_the_face_neither():
    """`import aiopool` and `import aiopool.web` load no framework; the client loads none either."""
    import subprocess
    import sys

    program = """
import sys
import aiopool, aiopool.web
assert not {"fastapi", "starlette", "uvicorn", "jinja2", "httpx2", "pydantic"} & set(sys.modules), "the face"
aiopool.web.Client
assert not {"fastapi", "starlette", "uvicorn", "jinja2"} & set(sys.modules), "the client"
sys.modules["fastapi"] = None
try:
    aiopool.web.create_app
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'pip install -e ".[web]"' in done.stdout


def test_threads_have_clients_of_their_own(server):
    """Four threads, four clients, one pool."""
    found = []

    def work():
        with Client(server.url, token=TOKEN) as client:
            found.append(client.wait(client.submit("add", {"a": 1})))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [2] * 4


async def test_the_types_are_public():
    """Tracebacks and pickles say `aiopool.web`."""
    for name in aiopool.web.__all__:
        assert getattr(aiopool.web, name).__module__ == "aiopool.web", name
    await asyncio.sleep(0)
