"""Looking at jobs and steering them over HTTP: lists, one job, a pool, groups, and many jobs at once."""

import asyncio
import contextlib

import pytest
from web_app import client, make_app, make_handlers

from aiopool import Pool, current_job
from aiopool.testing import wait_until

APP = make_app()


@contextlib.asynccontextmanager
async def visit(access="operate", **more):
    """A pool of one slot, which is taken until `gate` is set, and a visitor."""
    gate = asyncio.Event()
    async with Pool(1, name="p", keep_finished=100, **more) as pool, client(APP, access) as visitor:
        held = await pool.with_options(name="hold").submit(gate.wait)
        await wait_until(lambda: held.status == "running")
        try:
            yield pool, visitor, gate
        finally:
            gate.set()
            pool.resume()


async def test_what_is_here():
    """The first page of the API says the version, the pools, and what the visitor may do."""
    async with visit("read") as (_, visitor, _):
        found = (await visitor.get("/")).json()
        assert (found["pools"], found["access"]) == (["p"], "read")
        assert (await visitor.get("/pools")).json()["items"][0]["numbers"]["running"] == 1


async def test_a_pool_is_changed_as_it_was_seen():
    """PATCH with `If-Match` changes what was read, or nothing; without it, whatever is there."""
    async with visit() as (pool, visitor, _):
        seen = await visitor.get("/pools/p", params={"rows": 5})
        assert seen.json()["running"][0]["name"] == "hold"
        answer = await visitor.patch("/pools/p", json={"size": 3}, headers={"if-match": seen.headers["etag"]})
        assert (answer.status_code, answer.json()["size"], pool.size) == (200, 3, 3)
        answer = await visitor.patch("/pools/p", json={"size": 9}, headers={"if-match": seen.headers["etag"]})
        assert (answer.status_code, answer.json()["type"], pool.size) == (412, "changed", 3)
        answer = await visitor.patch("/pools/p", json={"paused": True, "size": 2})
        assert (answer.json()["paused"], answer.json()["size"]) == (True, 2)
        assert answer.json()["paused_by"]["verb"] == "pause"
        assert (await visitor.patch("/pools/p", json={})).json()["size"] == 2
        assert (await visitor.patch("/pools/p", json={}, headers={"if-match": '"9-on"'})).status_code == 412
        assert (await visitor.patch("/pools/p", json={"size": 10_001})).status_code == 422
        assert (await visitor.patch("/pools/x", json={"size": 1})).status_code == 404


async def test_jobs_are_walked_page_by_page_while_they_change():
    """The cursor goes through all of them: none twice, none of the stable ones missed; `Link` has the next page."""
    async with visit() as (pool, visitor, _):
        stable = [(await pool.with_options(name="stable").submit(int)).id for _ in range(500)]
        seen, path = [], "jobs?limit=37&status=queued"
        while path is not None:
            answer = await visitor.get(f"/pools/p/{path}")
            page = answer.json()
            seen += [row["id"] for row in page["items"]]
            await pool.with_options(name="new").submit(int)
            link = answer.headers.get("link")
            assert (link is None) == page["complete"]
            path = None if link is None else link.partition("<")[2].partition(">")[0]
        assert len(seen) == len(set(seen))
        assert set(stable) <= set(seen)
        await pool.cancel_all()


async def test_a_list_is_filtered_and_says_what_it_has_looked_at():
    """By status, name, group, error and label; an unknown filter is refused, not ignored."""
    async with visit() as (pool, visitor, gate):
        await pool.with_options(name="a", group="g", metadata={"order": "7"}).submit(int)
        await pool.with_options(name="b").submit(int, "x")
        found = (await visitor.get("/pools/p/jobs?label=order=7")).json()
        assert [row["name"] for row in found["items"]] == ["a"]
        assert (found["searched"], found["complete"]) == (3, True)
        assert [row["name"] for row in (await visitor.get("/pools/p/jobs?group=g")).json()["items"]] == ["a"]
        assert [row["name"] for row in (await visitor.get("/pools/p/jobs?order=next")).json()["items"]] == ["a", "b"]
        gate.set()
        await pool.join()
        failed = (await visitor.get("/pools/p/jobs?error=ValueError")).json()["items"]
        assert [row["name"] for row in failed] == ["b"]
        for query in (
            "stauts=failed",
            "limit=0",
            "limit=201",
            "status=lost",
            "older_than=inf",
            "cursor=12345678901234567890",
        ):
            assert (await visitor.get(f"/pools/p/jobs?{query}")).status_code == 422, query
        assert (await visitor.get("/pools/p/jobs?cursor=abc")).status_code == 400


async def test_a_job_tells_why_it_waits_where_it_stands_and_what_may_be_done():
    """One that waits has a reason and a position, one that runs has frames, one that has ended has an ETag for good."""
    async with visit() as (pool, visitor, gate):
        job = await pool.with_options(id="invoice 7").submit(int)
        found = (await visitor.get("/pools/p/jobs/invoice%207")).json()
        assert (found["status"], found["waiting_for"], found["position"]) == ("queued", "slot", "1")
        assert found["may"] == ["cancel", "reprioritize"]
        assert (await visitor.get("/pools/p/jobs/1")).json()["frames"]
        assert (await visitor.get("/pools/p/jobs/1/stack?depth=1")).json()["frames"]
        assert (await visitor.get("/pools/p/jobs/invoice%207/stack")).status_code == 409
        gate.set()
        await job
        ended = await visitor.get("/pools/p/jobs/invoice%207")
        again = await visitor.get("/pools/p/jobs/invoice%207", headers={"if-none-match": ended.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert (await visitor.get("/pools/p/jobs/999")).status_code == 404


async def test_a_job_that_is_forgotten_is_told_from_one_that_never_was():
    """410 for a number that was given out; 404 for one that was not."""
    async with Pool(1, name="p") as pool, client(APP, "read") as visitor:
        await (await pool.submit(int))
        assert (await visitor.get("/pools/p/jobs/1")).json()["type"] == "forgotten"
        assert (await visitor.get("/pools/p/jobs/2")).status_code == 404


async def test_a_job_is_cancelled_and_put_elsewhere_in_line():
    """200 for one that waited, 202 for one that runs, 409 for one that is over; `If-Match` as of a pool."""
    async with visit() as (pool, visitor, _):
        job = await pool.submit(int)
        seen = await visitor.get(f"/pools/p/jobs/{job.id}")
        headers = {"if-match": seen.headers["etag"]}
        answer = await visitor.patch(f"/pools/p/jobs/{job.id}", json={"priority": -3}, headers=headers)
        assert (answer.status_code, job.priority) == (200, -3)
        answer = await visitor.patch(f"/pools/p/jobs/{job.id}", json={"priority": 1}, headers=headers)
        assert (answer.status_code, job.priority) == (412, -3)
        answer = await visitor.patch(f"/pools/p/jobs/{job.id}", json={"timeout": 30})
        assert (answer.status_code, answer.json()["timeout"], job.timeout, job.priority) == (200, 30, 30, -3)
        answer = await visitor.patch(f"/pools/p/jobs/{job.id}", json={"timeout": None})
        assert (answer.json()["timeout"], job.timeout) == (None, None)
        fresh = await visitor.get(f"/pools/p/jobs/{job.id}")
        assert fresh.headers["etag"] != seen.headers["etag"]
        headers = {"if-match": fresh.headers["etag"]}
        both = {"priority": -4, "timeout": 0}
        answer = await visitor.patch(f"/pools/p/jobs/{job.id}", json=both, headers=headers)
        assert (answer.status_code, job.timeout, job.priority) == (200, 0, -4)
        for change in ({"priority": 1}, {"timeout": 1}, both):
            assert (await visitor.patch("/pools/p/jobs/1", json=change)).status_code == 409
        for wrong in ({}, {"timeout": -1}, {"priority": None}, {"timeout": "5"}, {"timeout": 1e9}):
            assert (await visitor.patch(f"/pools/p/jobs/{job.id}", json=wrong)).status_code == 422
        answer = await visitor.post(f"/pools/p/jobs/{job.id}/cancel", json={"reason": "no longer wanted"})
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        assert job.outcome().reason == "no longer wanted"
        assert (await visitor.post(f"/pools/p/jobs/{job.id}/cancel")).status_code == 409
        assert (await visitor.post("/pools/p/jobs/1/cancel")).status_code == 202
        assert (await visitor.post("/pools/p/jobs/1/cancel", json={"reason": "x" * 501})).status_code == 422
        assert (await visitor.post("/pools/p/jobs/1/retry")).status_code == 409


async def test_a_job_of_a_store_is_looked_at_while_it_waits():
    """It has an ETag, too, and another one when it has gone on; its priority and its time limit stay."""
    handlers = make_handlers()
    made = {"store": "memory://", "handlers": handlers}
    async with Pool(1, name="p", **made) as pool, client(make_app(handlers=handlers)) as visitor:
        await pool.fleet.pause()
        job = await pool.submit(handlers.get("add").function, 1)
        seen = await visitor.get(f"/pools/p/jobs/{job.id}")
        assert (seen.status_code, seen.json()["status"]) == (200, "queued")
        assert seen.headers["etag"]
        answer = await visitor.patch(f"/pools/p/jobs/{job.id}", json={"timeout": 5})
        assert (answer.status_code, answer.json()["type"]) == (409, "conflict")
        await pool.fleet.resume()
        await job
        over = await visitor.get(f"/pools/p/jobs/{job.id}")
        assert over.headers["etag"] != seen.headers["etag"]


async def test_groups_are_paused_resumed_and_cancelled():
    """A group has verbs of its own; cancelling it is an operation with an address."""
    async with visit() as (pool, visitor, _):
        jobs = [await pool.with_options(group="g").submit(int) for _ in range(3)]
        assert (await visitor.post("/pools/p/groups/g/pause")).json() == {"paused": True, "group": "g"}
        assert (await visitor.get("/pools/p/groups")).json()["items"][0]["paused"]
        assert (await visitor.post("/pools/p/groups/g/resume")).status_code == 200
        begun = await visitor.post("/pools/p/groups/g/cancel", json={"reason": "over"})
        assert (begun.status_code, begun.json()["total"]) == (202, 3)
        address = begun.url.join(begun.headers["location"])
        await wait_until(lambda: all(job.done() for job in jobs))
        assert (await visitor.get(str(address))).json()["done"] == 3


async def test_many_jobs_are_counted_first_and_then_cancelled():
    """A dry run counts; `expect` holds it to that; ids or a filter; it can be stopped and looked at."""
    async with visit() as (pool, visitor, _):
        jobs = [await pool.with_options(name="a").submit(int) for _ in range(40)]
        body = {"verb": "cancel", "filter": {"name": "a"}}
        answer = await visitor.post("/pools/p/operations", json=body | {"dry_run": True})
        assert (answer.status_code, answer.json()["total"]) == (200, 40)
        answer = await visitor.post("/pools/p/operations", json=body | {"expect": 39})
        assert (answer.status_code, answer.json()["total"]) == (409, 40)
        again = {"idempotency-key": "cancel-a"}
        first = await visitor.post("/pools/p/operations", json=body | {"expect": 40}, headers=again)
        second = await visitor.post("/pools/p/operations", json=body | {"expect": 40}, headers=again)
        assert (first.status_code, first.json()["id"]) == (202, second.json()["id"])
        address = first.url.join(first.headers["location"])
        await wait_until(lambda: all(job.cancelled() for job in jobs))
        assert (await visitor.get(str(address))).json()["done"] == 40
        assert (await visitor.delete(str(address))).status_code == 202
        assert (await visitor.get("/pools/p/operations/99")).status_code == 404
        ids = [str((await pool.submit(int)).id) for _ in range(2)]
        answer = await visitor.post("/pools/p/operations", json={"verb": "reprioritize", "ids": ids, "priority": 1})
        assert answer.status_code == 202
        for wrong in (
            {"verb": "cancel"},
            {"verb": "cancel", "filter": {}, "ids": ["1"]},
            {"verb": "reprioritize", "filter": {}},
            {"verb": "cancel", "ids": ["1"] * 1001},
            {"verb": "shutdown", "filter": {}},
            {"verb": "cancel", "filter": {"status": "failed"}},
        ):
            assert (await visitor.post("/pools/p/operations", json=wrong)).status_code == 422, wrong
        await pool.cancel_all()


async def test_many_jobs_of_a_store_are_put_back():
    """Those that ended so: counted first, then put back; in memory that is a 409."""
    handlers = make_handlers()
    made = {"store": "memory://", "handlers": handlers}
    app = make_app(handlers=handlers)
    body = {"verb": "retry", "filter": {"status": "failed"}}
    async with Pool(1, name="p"), client(app) as visitor:
        answer = await visitor.post("/pools/p/operations", json=body)
        assert (answer.status_code, "Pool(store=" in answer.json()["detail"]) == (409, True)
    async with Pool(1, name="p", **made) as pool, client(app) as visitor:
        jobs = [await pool.submit(handlers.get("fail").function, "x") for _ in range(3)]
        for job in jobs:
            await job.wait()
        await pool.fleet.pause()
        counted = await visitor.post("/pools/p/operations", json=body | {"dry_run": True})
        assert (counted.status_code, counted.json()["total"]) == (200, 3)
        assert (await visitor.post("/pools/p/operations", json=body | {"expect": 2})).status_code == 409
        begun = await visitor.post("/pools/p/operations", json=body | {"expect": 3})
        address = str(begun.url.join(begun.headers["location"]))
        while not (seen := (await visitor.get(address)).json())["ended"]:
            pass
        assert (begun.status_code, seen["verb"], seen["done"]) == (202, "retry", 3)
        assert (await pool.fleet.statistics()).live["queued"] == 3
        for wrong in ({"filter": {}}, {"filter": {"status": "queued"}}, {"filter": {"status": "gone"}}):
            assert (await visitor.post("/pools/p/operations", json={"verb": "retry"} | wrong)).status_code == 422, wrong
        await pool.fleet.cancel_all()


async def test_the_other_looks():
    """Health, loop, metrics and tree answer; measuring is switched on by who may operate."""
    async with visit() as (pool, visitor, gate):

        async def parent() -> None:
            child = await pool.with_options(name="child").submit(gate.wait)
            await child

        await pool.with_options(name="parent").submit(parent)
        pool.resize(3)
        await wait_until(lambda: len(pool.running_jobs()) == 3)
        nodes = (await visitor.get("/pools/p/tree")).json()["nodes"]
        assert sorted(row["name"] for row in nodes) == ["child", "parent"]
        assert (await visitor.get("/pools/p/tree?root=2")).json()["nodes"]
        assert (await visitor.get("/pools/p/loop")).json()["now"] is None
        assert (await visitor.get("/pools/p/metrics")).json()["measuring"] is False
        assert (await visitor.post("/pools/p/measure")).status_code == 200
        assert (await visitor.get("/pools/p/metrics")).json()["measuring"] is True
        assert (await visitor.get("/pools/p/health")).status_code == 200


async def test_other_sizes_are_tried_on_paper():
    """By the jobs that are remembered; too few are said to be too few, and no number is too large."""
    async with Pool(1, name="p", keep_finished=1000) as pool, client(APP, "read") as visitor:
        few = await visitor.get("/pools/p/simulation")
        assert (few.status_code, "100 are needed" in few.json()["detail"]) == (409, True)
        await pool.map(asyncio.sleep, [0] * 200).collect()
        found = (await visitor.get("/pools/p/simulation?sizes=1,2,10000")).json()
        assert [row["size"] for row in found["items"]] == [1, 2, 10000]
        assert found["jobs"] == 200
        assert (await visitor.get("/pools/p/simulation?window=3600")).json()["jobs"] == 200
        assert (await visitor.get("/pools/p/simulation?window=0")).status_code == 409
        assert (await visitor.get("/pools/p/simulation?window=-1")).status_code == 422
        for sizes in ("0", "10001", "1,", "x", "1,2,3,4,5,6,7,8,9"):
            assert (await visitor.get(f"/pools/p/simulation?sizes={sizes}")).status_code == 422


async def test_a_pool_is_ended_where_that_is_switched_on_and_by_who_may():
    """Without the switch there is no such route at all."""
    async with Pool(1, name="p") as pool:
        async with client(make_app(shutdown=False), "admin") as visitor:
            assert (await visitor.post("/pools/p/shutdown")).status_code == 404
        async with client(APP, "admin") as visitor:
            assert (await visitor.post("/pools/p/shutdown", json={"timeout": 3601})).status_code == 422
            answer = await visitor.post("/pools/p/shutdown", json={"timeout": 5})
            assert (answer.status_code, answer.json()["closing"]) == (202, True)
            await pool.wait_closed()
            assert (await visitor.get("/pools/p")).status_code == 404


@pytest.mark.long
async def test_the_pools_of_another_loop_are_asked_there():
    """The server may run in another thread than the pool; a blocked loop is named in the answer."""
    import threading

    release, ready, stop = threading.Event(), threading.Event(), threading.Event()
    jobs = []

    async def block() -> None:
        jobs.append(current_job())
        release.wait(30)

    async def elsewhere() -> None:
        async with Pool(1, name="far") as pool:
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)
            await pool.join()

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    try:
        ready.wait(10)
        async with client(APP) as visitor:
            answer = await visitor.patch("/pools/far", json={"size": 2})
            assert answer.status_code == 200, answer.text
            from aiopool.inspection import loop_of, open_pools

            (pool,) = [one for one in open_pools() if one.name == "far"]
            loop_of(pool).call_soon_threadsafe(pool.submit_nowait, block)
            while not jobs:
                await asyncio.sleep(0.01)
            found = (await visitor.get("/pools/far")).json()["loop"]["blocked"]
            assert found is not None
            assert found["name"].endswith("block")
            answer = await visitor.get("/pools/far/jobs")
            assert (answer.status_code, answer.json()["type"]) == (503, "loop-blocked")
            assert "in block" in answer.json()["detail"]
            assert answer.headers["retry-after"]
    finally:
        release.set()
        stop.set()
        thread.join(20)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/pools/p/jobs/a/b",
        "/api/v1/pools//jobs",
        "/api/v1/pools/p/jobs//",
        "/api/v1/../pools",
        "//evil.example/",
    ],
)
async def test_strange_paths_find_nothing_and_lead_nowhere(path):
    """No redirect is made of a path or a name: what is not there is a 404."""
    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"x-access", b"read")]
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "query_string": b"", "scheme": "http"}
    async with Pool(1, name="p"):
        await APP(scope, None, send)
    assert sent[0]["status"] == 404
    assert b"location" not in dict(sent[0]["headers"])
