"""Submitting over HTTP: by registered names only, once for each key, with the result if somebody waits for it."""

import asyncio
import datetime
import enum
import json
import pickle
import weakref
from typing import Annotated

import pytest
from pydantic import BaseModel, Field
from web_app import client, make_app, make_handlers

import aiopool
from aiopool import Pool
from aiopool.testing import wait_until
from aiopool.web._kept import Kept
from aiopool.web._submissions import go_duration, wait_of

APP = make_app()


async def post(visitor, path, body, **headers):
    return await visitor.post(path, json=body, headers={name.replace("_", "-"): text for name, text in headers.items()})


async def test_a_job_is_submitted_and_its_result_is_read():
    """202 with an address; the result is 202 until it is there, then 200."""
    async with Pool(1, name="p") as pool, client(APP) as visitor:
        pool.pause()
        taken = await post(visitor, "/pools/p/jobs", {"function": "add", "params": {"a": 2, "b": 3}})
        assert (taken.status_code, taken.json()["status"], taken.headers["retry-after"]) == (202, "queued", "1")
        address = str(taken.url.join(taken.headers["location"]))
        assert (await visitor.get(address)).json()["name"] == "add"
        early = await visitor.get(address + "/result")
        assert (early.status_code, early.json()["status"], early.headers["retry-after"]) == (202, "queued", "1")
        pool.resume()
        late = await visitor.get(address + "/result", headers={"prefer": "wait=30"})
        assert (late.status_code, late.json()["result"]) == (200, 5)
        assert late.headers["preference-applied"] == "wait=30"


async def test_who_prefers_to_wait_gets_the_result_with_the_answer():
    """`Prefer: wait`; a job that fails is an answer, too; one that takes longer is a 202."""
    async with Pool(1, name="p") as pool, client(APP) as visitor:
        done = await post(visitor, "/pools/p/jobs", {"function": "add", "params": {"a": 2}}, prefer="wait=30")
        assert (done.status_code, done.json()["status"], done.json()["result"]) == (200, "succeeded", 3)
        assert done.headers["location"] == "jobs/1"
        failed = await post(visitor, "/pools/p/jobs", {"function": "fail", "params": {"text": "<b>"}}, prefer="wait=30")
        assert (failed.status_code, failed.json()["status"], failed.json()["error"]) == (
            200,
            "failed",
            "ValueError: <b>",
        )
        pool.pause()
        body = {"function": "add", "params": {"a": 2}, "timeout": 5, "priority": 1}
        waits = asyncio.create_task(post(visitor, "/pools/p/jobs", body, prefer="wait=1"))
        late = await waits
        assert (late.status_code, late.json()["status"], late.headers["preference-applied"]) == (
            202,
            "queued",
            "wait=1",
        )
        pool.resume()


def test_a_preference_is_read_and_bounded():
    """Nobody waits for longer than a minute; what cannot be read is no preference."""
    said = {"wait=10": 10, "respond-async, wait=5": 5, "wait=99999": 60, "wait": 0, "wait=-1": 0, "await=7": 0, None: 0}
    assert {text: wait_of(text) for text in said} == said


@pytest.mark.parametrize(
    "name", ["os.system", "builtins:eval", "subprocess.Popen", "add\0", "__class__", "add.__globals__", "Add"]
)
async def test_only_registered_names_can_be_run(name):
    """No path to import, no attribute: a name is one of the list, or a 404. (CVE-2023-48022, CVE-2017-11610)"""
    async with Pool(1, name="p") as pool, client(APP, "admin") as visitor:
        for path, field in (("/pools/p/jobs", "function"), ("/jobs", "name")):
            answer = await post(visitor, path, {field: name})
            assert answer.status_code == 404, answer.text
        answer = await post(visitor, "/pools/p/batches", {"jobs": [{"function": name}]})
        assert answer.json()["items"][0]["status"] == 404
        assert pool.statistics().submitted == 0


async def test_no_pickle_is_read():
    """Arguments are JSON by the annotations of the function: bytes of a pickle stay text."""

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was run",))

    bomb = pickle.dumps(Bomb()).decode("latin-1")
    async with Pool(1, name="p"), client(APP, "admin") as visitor:
        done = await post(visitor, "/pools/p/jobs", {"function": "fail", "params": {"text": bomb}}, prefer="wait=30")
        assert done.json()["status"] == "failed"
        answer = await post(visitor, "/pools/p/jobs", {"function": "add", "params": {"a": bomb}})
        assert answer.status_code == 422


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({}, "params.a"),
        ({"a": "x"}, "params.a"),
        ({"a": 1, "b": None}, "params.b"),
        ({"a": 1, "c": 1}, "params.c"),
        ({"a": [[[[1]]]]}, "params.a"),
    ],
)
async def test_params_are_checked_before_anything_runs(params, place):
    """422 with the place of each error, and without what was sent: it may be a secret."""
    async with Pool(1, name="p") as pool, client(APP) as visitor:
        answer = await post(visitor, "/pools/p/jobs", {"function": "add", "params": params})
        assert answer.status_code == 422, answer.text
        assert place in [error["in"] for error in answer.json()["errors"]]
        assert pool.statistics().submitted == 0


async def test_options_reach_the_job():
    """Priority, moment, time limit, retries, group and labels are those of the job."""
    async with Pool(1, name="p", keep_finished=5) as pool, client(APP) as visitor:
        body = {
            "function": "add",
            "params": {"a": 1},
            "priority": 2,
            "timeout": 7,
            "group": "g",
            "labels": {"order": "7"},
        }
        at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        taken = (await post(visitor, "/pools/p/jobs", body | {"at": at.isoformat()})).json()
        job = pool.get_job(taken["id"])
        assert (job.priority, job.group, dict(job.metadata), job.status) == (2, "g", {"order": "7"}, "scheduled")
        for wrong in (
            {"delay": 1, "at": at.isoformat()},
            {"at": "2026-01-01T00:00:00"},
            {"delay": -1},
            {"timeout": 1e9},
            {"priority": 2**40},
            {"retry": {"attempts": 1000}},
            {"labels": {str(n): "" for n in range(21)}},
            {"layers": []},
        ):
            answer = await post(visitor, "/pools/p/jobs", {"function": "add", "params": {"a": 1}} | wrong)
            assert answer.status_code == 422, wrong
        job.cancel()
        body = {"function": "fail", "params": {"text": "x"}, "retry": {"attempts": 2, "delay": 0}}
        again = await post(visitor, "/pools/p/jobs", body, prefer="wait=30")
        assert again.json()["status"] == "failed"
        assert (await visitor.get("/pools/p/jobs/2")).json()["attempt"] == 2
        body["retry"] = {"attempts": 2, "delay": 3600}
        waits = (await post(visitor, "/pools/p/jobs", body)).json()
        await wait_until(lambda: pool.get_job(waits["id"]).waiting_for == "backoff")
        pool.get_job(waits["id"]).cancel()


async def test_a_full_queue_and_a_closing_pool_say_when_to_come_again():
    """429 and 503 carry `Retry-After`."""
    gate = asyncio.Event()
    async with Pool(1, name="p", queue_size=1) as pool, client(APP) as visitor:
        held = await pool.submit(gate.wait)
        await wait_until(lambda: held.status == "running")
        body = {"function": "add", "params": {"a": 1}}
        assert (await post(visitor, "/pools/p/jobs", body)).status_code == 202
        full = await post(visitor, "/pools/p/jobs", body)
        assert (full.status_code, full.json()["type"], full.headers["retry-after"]) == (429, "queue-full", "1")
        end = asyncio.create_task(pool.shutdown())
        await wait_until(lambda: pool.status == "closing")
        closing = await post(visitor, "/pools/p/jobs", body)
        assert (closing.status_code, closing.json()["type"]) == (503, "closing")
        assert closing.headers["retry-after"]
        gate.set()
        await end


async def test_a_key_is_one_job():
    """The same key and body: the first answer again. Another body: 422. Another visitor: another key. None: no key."""

    def access(request):
        request.state.who = request.headers["x-access"]
        return "operate"

    body = {"function": "add", "params": {"a": 1}}
    async with Pool(1, name="p") as pool, client(make_app(access=access), "ada") as visitor:
        first = await post(visitor, "/pools/p/jobs", body, idempotency_key='"k 1"')
        again = await post(visitor, "/pools/p/jobs", body, idempotency_key="k 1")
        assert (first.json(), pool.statistics().submitted) == (again.json(), 1)
        other = await post(visitor, "/pools/p/jobs", body | {"priority": 1}, idempotency_key="k 1")
        assert (other.status_code, other.json()["type"]) == (422, "invalid")
        eve = await post(visitor, "/pools/p/jobs", body, idempotency_key="k 1", x_access="eve")
        assert eve.json()["id"] != first.json()["id"]
        assert (await post(visitor, "/pools/p/jobs", body)).json()["id"] == 3
        for wrong in ("", '""', "x" * 256):
            assert (await post(visitor, "/pools/p/jobs", body, idempotency_key=wrong)).status_code in (400, 422)
        refused = {"function": "add", "params": {}}
        assert (await post(visitor, "/pools/p/jobs", refused, idempotency_key="k 2")).status_code == 422
        assert (await post(visitor, "/pools/p/jobs", body, idempotency_key="k 2")).status_code == 202
        batch = {"jobs": [body] * 3}
        one = await post(visitor, "/pools/p/batches", batch, idempotency_key="k 3")
        two = await post(visitor, "/pools/p/batches", batch, idempotency_key="k 3")
        assert one.json() == two.json()


async def test_requests_of_one_key_that_come_together_are_one():
    """While the first is under way the second is told so, and carries nothing out; then it gets the first answer."""
    body = {"function": "add", "params": {"a": 1}}
    async with Pool(1, name="p") as pool, client(APP) as visitor:
        answers = await asyncio.gather(*[post(visitor, "/pools/p/jobs", body, idempotency_key="k") for _ in range(20)])
        assert pool.statistics().submitted == 1
        assert {answer.status_code for answer in answers} <= {202, 409}
        assert {answer.json()["type"] for answer in answers if answer.status_code == 409} <= {"under-way"}
        assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1


async def test_a_batch_says_of_each_what_became_of_it():
    """Each is taken or refused by itself, in order; too many are refused as a whole."""
    async with Pool(2, name="p", queue_size=3) as pool, client(APP) as visitor:
        pool.pause()
        good, bad = {"function": "add", "params": {"a": 1}}, {"function": "add", "params": {"a": "x"}}
        answer = await post(visitor, "/pools/p/batches", {"jobs": [good, bad, good, {"function": "no"}, good, good]})
        assert [one["status"] for one in answer.json()["items"]] == [202, 422, 202, 404, 202, 429]
        assert pool.statistics().queued == 3
        assert (await post(visitor, "/pools/p/batches", {"jobs": [good] * 1001})).status_code == 422
        assert (await post(visitor, "/pools/p/batches", {"jobs": []})).status_code == 422
        pool.resume()


async def test_results_of_jobs_that_the_program_submitted_are_not_shown():
    """Nobody can say which of them are secrets; whoever may only look sees none at all."""
    async with Pool(1, name="p", keep_finished=10) as pool, client(APP) as visitor:
        await (await pool.submit(str, "secret"))
        answer = await visitor.get("/pools/p/jobs/1/result")
        assert answer.status_code == 403
        assert "may be a secret" in answer.json()["detail"]
        assert "'secret'" not in answer.text
        assert (await visitor.get("/pools/p/jobs/77/result")).status_code == 404
        await post(visitor, "/pools/p/jobs", {"function": "add", "params": {"a": 1}}, prefer="wait=30")
        assert (await visitor.get("/pools/p/jobs/2/result")).status_code == 200
        assert (await visitor.get("/pools/p/jobs/2/result", headers={"x-access": "read"})).status_code == 403


async def test_results_come_back_as_the_function_is_annotated():
    """Models, enums, moments, bytes: as JSON of the annotation; what cannot be written is said."""

    class Colour(enum.Enum):
        RED = "red"

    class Order(BaseModel):
        number: Annotated[int, Field(le=100)]
        colour: Colour

    handlers = aiopool.Handlers()

    @handlers.register("order")
    async def order(order: Order, raw: bytes) -> tuple[Order, bytes]:
        return order, raw

    @handlers.register("object")
    async def unwritable() -> None:
        return object()  # type: ignore[return-value]

    body = {"function": "order", "params": {"order": {"number": 7, "colour": "red"}, "raw": "aGk="}}
    async with Pool(1, name="p"), client(make_app(handlers=handlers)) as visitor:
        done = await post(visitor, "/pools/p/jobs", body, prefer="wait=30")
        assert done.json()["result"] == [{"number": 7, "colour": "red"}, "aGk="]
        body["params"]["order"]["number"] = 101
        wrong = await post(visitor, "/pools/p/jobs", body)
        assert wrong.json()["errors"][0]["in"] == "params.order.number"
        answer = await post(visitor, "/pools/p/jobs", {"function": "object"}, prefer="wait=30")
        assert (answer.status_code, answer.json()["type"]) == (500, "error")
        schema = (await visitor.get("/functions")).json()["items"][0]["params"]
        assert schema["$defs"]["Order"]["properties"]["number"]["maximum"] == 100


async def test_functions_are_listed_once_and_known_by_their_etag():
    """The list does not change while the app lives: 304 to whoever has it."""
    async with client(APP, "read") as visitor:
        first = await visitor.get("/functions")
        assert [row["name"] for row in first.json()["items"]] == ["add", "fail"]
        again = await visitor.get("/functions", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_the_words_of_a_go_worker_pool():
    """The paths, fields and durations of seed 003: D-20 to D-22, on the pool that is the default."""
    async with Pool(2, name="p") as pool, client(APP) as visitor:
        pool.pause()
        taken = await post(visitor, "/jobs", {"name": "add", "priority": 1, "params": {"a": 1}})
        assert (taken.status_code, taken.json()) == (200, {"job_id": "1", "status": "queued"})
        assert pool.get_job(1).priority == 1
        assert (await post(visitor, "/jobs", {"name": "add", "params": {"a": 1}})).json()["job_id"] == "2"
        assert pool.get_job(2).priority == 5
        assert (await post(visitor, "/jobs", {"name": "add", "priority": 11, "params": {"a": 1}})).status_code == 422
        answer = await visitor.post("/jobs/2/cancel")
        assert (answer.status_code, list(answer.json())) == (200, ["message"])
        assert (await visitor.post("/jobs/99/cancel")).status_code == 404
        await post(visitor, "/jobs", {"name": "fail", "params": {"text": "x"}})
        pool.resume()
        await pool.join()
        found = (await visitor.get("/jobs/pool/stats")).json()
        time = found.pop("average_exec_time")
        assert time.endswith(("ns", "µs", "ms", "s"))
        assert time != "0s"
        assert found == {
            "total_submitted": 3,
            "total_completed": 1,
            "total_failed": 1,
            "total_cancelled": 1,
            "active_workers": 0,
            "queued_tasks": 0,
        }
        async with Pool(1, name="other"):
            answer = await visitor.get("/jobs/pool/stats")
            assert (answer.status_code, answer.json()["detail"]) == (404, "say which pool: p, other")
            async with client(make_app(pool="p")) as told:
                assert (await told.get("/jobs/pool/stats")).json()["total_submitted"] == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (330, "5m30s"),
        (0, "0s"),
        (1.5, "1.5s"),
        (0.15, "150ms"),
        (0.0000015, "1.5µs"),
        (1e-9, "1ns"),
        (3600, "1h0m0s"),
        (90061.001, "25h1m1.001s"),
        (59.9999999999, "1m0s"),
        (60, "1m0s"),
        (0.020302762, "20.302762ms"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds, text):
    """`time.Duration.String()`: what the readers of seed 003 parse."""
    assert go_duration(seconds) == text


async def test_without_functions_nothing_can_be_submitted():
    """An app that only shows says what it lacks."""
    async with Pool(1, name="p"), client(make_app(handlers=None)) as visitor:
        answer = await post(visitor, "/pools/p/jobs", {"function": "add"})
        assert (answer.status_code, answer.json()["type"]) == (409, "conflict")
        assert "handlers=" in answer.json()["detail"]


async def test_a_job_that_came_by_http_runs_once_more():
    """A new job with the old options; with other arguments, if they are sent: copy, edit, submit."""
    async with Pool(1, name="p") as pool, client(APP) as visitor:
        body = {"function": "add", "params": {"a": 2}, "priority": 3, "group": "g", "labels": {"n": "1"}, "timeout": 60}
        await post(visitor, "/pools/p/jobs", body | {"delay": 0}, prefer="wait=30")
        pool.pause()
        again = await visitor.post("/pools/p/jobs/1/retry")
        assert (again.status_code, again.json()["id"], again.json()["name"]) == (202, 2, "add")
        copy = pool.get_job(2)
        assert (copy.priority, copy.group, copy.timeout, dict(copy.metadata)) == (3, "g", 60, {"n": "1"})
        edited = await post(visitor, "/pools/p/jobs/1/retry", {"params": {"a": 5, "b": 5}}, idempotency_key="k")
        twice = await post(visitor, "/pools/p/jobs/1/retry", {"params": {"a": 5, "b": 5}}, idempotency_key="k")
        assert (edited.json()["id"], twice.json()) == (3, edited.json())
        assert (await visitor.post("/pools/p/jobs/2/retry")).status_code == 409
        pool.resume()
        for answer, result in ((again, 3), (edited, 10)):
            address = str(answer.url.join(answer.headers["location"]))
            done = await visitor.get(f"{address}/result", headers={"prefer": "wait=30"})
            assert (done.status_code, done.json()["result"]) == (200, result)
        before = pool.statistics().submitted
        for wrong in ({"params": {"a": "x"}}, {"params": {"a": 1, "c": 1}}, {"param": {}}, {"params": []}):
            assert (await post(visitor, "/pools/p/jobs/1/retry", wrong)).status_code == 422, wrong
        assert pool.statistics().submitted == before


async def test_a_job_of_which_nobody_knows_the_params_does_not_run_once_more():
    """One of the program: 409; a forgotten one: 410; none: 404; one with very long arguments needs them again."""
    async with Pool(1, name="p", keep_finished=1) as pool, client(APP) as visitor:
        await pool.run(str, "secret")
        for body in ({}, {"params": {}}):
            answer = await post(visitor, "/pools/p/jobs/1/retry", body)
            assert (answer.status_code, answer.json()["type"]) == (409, "conflict")
            assert ("POST /pools" if body else "Pool(store=") in answer.json()["detail"]
        long = {"function": "fail", "params": {"text": "x" * 5000}}
        await post(visitor, "/pools/p/jobs", long, prefer="wait=30")
        answer = await visitor.post("/pools/p/jobs/2/retry")
        assert (answer.status_code, "send them again" in answer.json()["detail"]) == (409, True)
        answer = await post(visitor, "/pools/p/jobs/2/retry", {"params": {"text": "short"}})
        assert answer.status_code == 202
        for body in ({}, {"params": {"a": 1}}):
            assert (await post(visitor, "/pools/p/jobs/1/retry", body)).status_code == 410
            assert (await post(visitor, "/pools/p/jobs/99/retry", body)).status_code == 404
            assert (await post(visitor, "/pools/x/jobs/1/retry", body)).status_code == 404


async def test_a_job_of_a_store_goes_back_or_is_copied():
    """Without arguments it is the same job; with some a new one, with the priority, group, key and labels of it."""
    handlers = make_handlers()
    made = {"store": "memory://", "handlers": handlers}
    async with Pool(1, name="p", **made) as pool, client(make_app(handlers=handlers)) as visitor:
        view = pool.with_options(priority=2, group="g", key="k", metadata={"n": "1"})
        job = await view.submit(handlers.get("fail").function, "x")
        await job.wait()
        await pool.fleet.pause()
        copied = await post(visitor, f"/pools/p/jobs/{job.id}/retry", {"params": {"text": "y"}})
        assert (copied.status_code, copied.json()["name"]) == (202, "fail")
        row = await pool.fleet.find(copied.json()["id"])
        old = await pool.fleet.find(job.id)
        assert row.id != old.id
        assert json.loads(row.payload) == {"text": "y"} or "y" in row.payload
        assert (row.priority, row.group, row.keys, row.metadata) == (2, "g", old.keys, old.metadata)
        assert (await post(visitor, f"/pools/p/jobs/{row.id}/retry", {"params": {}})).status_code == 409
        back = await visitor.post(f"/pools/p/jobs/{job.id}/retry")
        assert (back.status_code, back.json()["id"], back.headers["location"]) == (202, job.id, f"../{job.id}")
        assert (await pool.fleet.find(job.id)).status == "queued"
        assert (await visitor.post(f"/pools/p/jobs/{job.id}/retry")).status_code == 409
        for body in ({}, {"params": {}}):
            assert (await post(visitor, "/pools/p/jobs/nobody/retry", body)).status_code == 404
        await pool.fleet.cancel_all()


async def test_jobs_that_have_ended_are_forgotten_before_those_that_live(monkeypatch):
    """So many handles are kept; a pool that is opened again does not show the results of its life before."""
    monkeypatch.setattr("aiopool.web._kept.MAX_JOBS", 3)
    kept, handlers = Kept(), make_handlers()
    add = handlers.get("add").function
    pool = Pool(1, name="p")
    async with pool:
        done = [await pool.submit(add, 1) for _ in range(3)]
        for job in done:
            await job
            kept.add(pool, job)
        forgotten = weakref.ref(done[0])
        pool.pause()
        live = [await pool.submit(add, 1) for _ in range(3)]
        for job in live:
            kept.add(pool, job)
        assert [kept.get(pool, str(job.id)) for job in live] == live
        assert kept.get(pool, "1") is None
        assert forgotten() is done[0]
        pool.resume()
    async with pool:
        assert kept.get(pool, "4") is None
        same = await pool.submit(add, 1)
        kept.add(pool, same)
        async with Pool(1, name="p") as other:
            kept.add(other, await other.submit(add, 2))
            assert kept.get(pool, "1") is same


async def test_jobs_of_a_store_have_results_after_the_program_has_begun_anew(tmp_path):
    """The result stands in the store: another app reads it by the id."""
    handlers = make_handlers()
    app = make_app(handlers=handlers)
    made = {"store": f"sqlite:///{tmp_path}/jobs.db", "handlers": handlers}
    async with Pool(1, name="p", **made), client(app) as visitor:
        done = await post(visitor, "/pools/p/jobs", {"function": "add", "params": {"a": 4}}, prefer="wait=30")
        assert (done.status_code, done.json()["result"]) == (200, 5)
        failed = await post(visitor, "/pools/p/jobs", {"function": "fail", "params": {"text": "x"}}, prefer="wait=30")
        assert failed.json()["error"] == "ValueError: x"
        id = done.json()["id"]
        batch = await post(visitor, "/pools/p/batches", {"jobs": [{"function": "add", "params": {"a": 1}}] * 3})
        assert [one["status"] for one in batch.json()["items"]] == [202] * 3
    async with Pool(1, name="p", **made), client(make_app(handlers=handlers)) as visitor:
        again = await visitor.get(f"/pools/p/jobs/{id}/result")
        assert (again.status_code, again.json()["result"]) == (200, 5)
        assert (await visitor.get("/pools/p/jobs/nothing/result")).status_code == 404
        assert json.dumps(again.json())
