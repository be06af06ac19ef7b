"""Each verb, asked as another process would: what it answers, what it refuses, and with which words."""

import asyncio
import datetime
import types

import pytest

from aiopool import Handlers, Job, Pool, Priority, Retry
from aiopool._control.arguments import Arguments
from aiopool._control.call import VERBS
from aiopool._control.problems import Problem
from aiopool.stores import NewJob
from aiopool.testing import wait_until

EVIL = '"><script>alert(1)</script>\u202e'


async def hold(gate):
    await gate.wait()


async def fail(error):
    raise error


@pytest.fixture
async def busy():
    """A pool of two: two run, three wait, one failed, one is for later."""
    gate = asyncio.Event()
    async with Pool(2, name="mail", keep_finished=100) as pool:
        with pytest.raises(ZeroDivisionError):
            await pool.with_options(id="bad", group="sums", metadata={"tenant": 7}).run(fail, ZeroDivisionError("x"))
        for number in range(5):
            await pool.with_options(id=f"j{number}", group="held" if number % 2 else None).submit(hold, gate)
        await pool.with_options(delay=3600, id="later").submit(hold, gate)
        await wait_until(lambda: pool.statistics().running == 2)
        yield pool, gate
        gate.set()
        await pool.cancel_all()


async def refused(ask, verb, **arguments):
    """Return the problem with which a request is refused."""
    with pytest.raises(Problem) as caught:
        await ask(verb, **arguments)
    return caught.value


async def test_status_is_the_pool_in_numbers(busy, ask):
    """And what runs, the longest first, with the line where each is suspended."""
    found = await ask("status", rows=1)
    assert (found["pool"], found["status"], found["size"]) == ("mail", "open", 2)
    assert {name: found["numbers"][name] for name in ("running", "queued", "scheduled", "failed")} == {
        "running": 2,
        "queued": 3,
        "scheduled": 1,
        "failed": 1,
    }
    (row,) = found["running"]
    assert (row["id"], row["status"]) == ("j0", "running")
    assert row["at"].startswith("test_control_verbs.py:")
    assert row["at"].endswith("in hold")
    assert "running" not in await ask("status")


async def test_jobs_are_found_by_what_they_are(busy, ask):
    """Live ones by status, name, group, reason; those that have ended by error and label, too."""

    async def ids(**filters):
        return [row["id"] for row in (await ask("jobs", **filters))["items"]]

    assert await ids() == ["later", "j4", "j3", "j2", "j1", "j0"]
    assert await ids(order="oldest", limit=2) == ["j0", "j1"]
    assert await ids(order="next") == ["j2", "j3", "j4"]
    assert await ids(status="running") == ["j1", "j0"]
    assert await ids(group="held") == ["j3", "j1"]
    assert await ids(waits_for="delay") == ["later"]
    assert await ids(status="queued", group="held", older_than=0) == ["j3"]
    assert await ids(older_than=1000) == []
    assert await ids(status="failed") == await ids(error="ZeroDivisionError") == ["bad"]
    assert await ids(status="failed", label="tenant") == await ids(status="failed", label="tenant=7") == ["bad"]
    assert await ids(status="failed", label="tenant=8") == await ids(error="KeyError") == []
    assert (await ask("jobs", error="KeyError"))["kept"] == 1


async def test_a_page_says_what_it_has_looked_at(busy, ask):
    """And where to go on; walking on by the cursor finds each once."""
    seen, cursor = [], None
    while True:
        found = await ask("jobs", limit=2, cursor=cursor)
        seen += [row["id"] for row in found["items"]]
        cursor = found["next"]
        assert found["complete"] is (cursor is None)
        if cursor is None:
            break
    assert seen == ["later", "j4", "j3", "j2", "j1", "j0"]
    assert (await refused(ask, "jobs", cursor="../etc")).kind == "bad-request"


async def test_a_job_is_shown_with_why_it_waits(busy, ask):
    """Where it is in line, in words; where it is suspended; how it failed."""
    waits = await ask("job", id="j3")
    assert (waits["waiting_for"], waits["why"], waits["position"]) == ("slot", "it waits for a free slot", "2")
    assert waits["may"] == ["cancel", "reprioritize"]
    runs = await ask("job", id="j0")
    assert runs["frames"][0]["function"] == "hold"
    assert runs["may"] == ["cancel", "stack"]
    bad = await ask("job", id="bad")
    assert bad["error"] == "ZeroDivisionError: x"
    assert "in fail" in bad["traceback"]
    assert bad["labels"] == {"tenant": 7}
    problem = await refused(ask, "job", id="nobody")
    assert (problem.status, "keep_finished" in problem.detail) == (404, True)


async def test_the_attempts_of_a_job_are_shown(ask):
    """While it waits for the next one, and afterwards."""
    async with Pool(1, name="mail", keep_finished=10, retry=Retry(attempts=2, delay=3600, max_delay=3600)) as pool:
        job = await pool.with_options(id="again").submit(fail, KeyError("a"))
        await wait_until(lambda: job.attempt == 1 and job.status == "scheduled")
        shown = await ask("job", id="again")
        assert shown["waiting_for"] == "backoff"
        assert [(row["number"], row["error"]) for row in shown["attempts"]] == [(1, "KeyError: 'a'")]
        assert (await ask("cancel", id="again", reason="enough"))["was"] == "scheduled"
        await job.wait()
        ended = await ask("job", id="again")
        assert (ended["status"], ended["reason"]) == ("cancelled", "enough")


async def test_the_stack_of_a_job(busy, ask):
    """Its innermost calls, as many as wanted; one that waits has none."""
    assert [frame["function"] for frame in (await ask("stack", id="j0", depth=1))["frames"]] == ["wait"]
    assert (await refused(ask, "stack", id="j4")).kind == "conflict"
    assert (await refused(ask, "stack", id="bad")).detail.startswith("job bad has ended: failed")


async def test_pausing_says_who_did_it(busy, ask):
    """On the pool, and in the list of what was done."""
    pool, gate = busy
    await ask("pause")
    gate.set()
    await wait_until(lambda: pool.statistics().running == 0)
    status = await ask("status")
    assert status["numbers"]["queued"] == 3
    assert status["paused_by"]["verb"] == "pause"
    assert "(process " in status["paused_by"]["who"]
    await ask("resume")
    await wait_until(lambda: pool.statistics().queued == 0)
    assert (await ask("status"))["paused_by"] is None
    assert [row["verb"] for row in (await ask("actions"))["items"]] == ["resume", "pause"]


async def test_a_pause_of_the_program_is_nobodys_at_the_door(busy, ask):
    """The program has let go on what somebody had paused, and pauses by itself later: that is not theirs."""
    pool, _ = busy
    await ask("pause")
    pool.resume()
    assert (await ask("status"))["paused_by"] is None
    pool.pause()
    status = await ask("status")
    assert (status["paused"], status["paused_by"]) == (True, None)


async def test_groups_are_paused_and_cancelled_by_name(busy, ask):
    """The others go on."""
    await ask("pause", group="held")
    (group,) = (await ask("list_groups"))["items"]
    assert group == {"name": "held", "live": 2, "running": 1, "paused": True, "waiting": 1}
    assert (await ask("status"))["paused_by"] is None  # the pool itself is not
    await ask("resume", group="held")
    operation = await ask("cancel_group", group="held", reason="no more")
    assert operation["total"] == 2
    await wait_until(lambda: busy[0].statistics().cancelled == 2)
    assert (await ask("operations", id=operation["id"]))["done"] == 2


async def test_resize_and_reprioritize(busy, ask):
    """Both at once; what runs has no place in line."""
    assert await ask("resize", size="3") == {"size": 3, "before": 2}
    assert busy[0].size == 3
    await ask("reprioritize", id="j4", priority=Priority.HIGH)
    assert next(row["id"] for row in (await ask("jobs", order="next"))["items"]) == "j4"
    assert (await refused(ask, "reprioritize", id="j0", priority=1)).kind == "conflict"


async def test_a_job_that_waits_is_changed(busy, ask):
    """Its priority, its time limit, or both at once; what runs or has ended cannot be, nor what has changed since."""
    pool, _ = busy
    seen = (await ask("job", id="j4"))["version"]
    assert await ask("change_job", id="j4", timeout=0, version=seen) == {"id": "j4", "priority": 5, "timeout": 0.0}
    assert (await refused(ask, "change_job", id="j4", timeout=3, version=seen)).kind == "changed"
    assert await ask("change_job", id="j4", priority=-2, timeout=7.5) == {"id": "j4", "priority": -2, "timeout": 7.5}
    assert (pool.get_job("j4").timeout, pool.get_job("j3").timeout) == (7.5, None)
    assert await ask("change_job", id="j4", timeout="") == {"id": "j4", "priority": -2, "timeout": 7.5}
    assert await ask("change_job", id="j4", timeout="none") == {"id": "j4", "priority": -2, "timeout": None}
    assert (await ask("change_job", id="later", priority=1))["timeout"] is None
    for id in ("j0", "bad"):
        assert (await refused(ask, "change_job", id=id, timeout=1)).kind == "conflict"
    assert (await refused(ask, "change_job", id="nobody", timeout=1)).kind == "not-found"
    assert (await refused(ask, "change_job", id="j4", timeout=-1)).kind == "invalid"


async def test_a_job_of_a_store_cannot_be_changed(ask):
    """The store keeps it as it was submitted; the text says what to do."""
    handlers = Handlers()

    @handlers.register("note")
    async def note() -> None: ...

    async with Pool(1, name="mail", store="memory://", handlers=handlers) as pool:
        job = await pool.with_options(delay=3600).submit(note)
        for change in ({"timeout": 5}, {"priority": 1}):
            problem = await refused(ask, "change_job", id=job.id, **change)
            assert problem.kind == "conflict"
            assert "submit it anew" in problem.detail
        assert (await refused(ask, "change_job", id="nobody", timeout=5)).kind == "not-found"
        with pytest.raises(RuntimeError, match=r"with_options\(timeout=...\)"):
            pool.change_timeout(job.id, 5)
        await pool.cancel(job.id)


async def test_an_operation_counts_first_and_then_is_exact(busy, ask):
    """A dry run counts; `expect` refuses if it is another number by then; ids and filters are both heard."""
    pool, _ = busy
    assert await ask("operation", do="cancel", status="queued", dry_run=True) == {"total": 3, "dry_run": True}
    assert (await ask("actions"))["items"] == []
    problem = await refused(ask, "operation", do="cancel", status="queued", expect=7)
    assert (problem.status, problem.facts["total"]) == (409, 3)
    begun = await ask("operation", do="reprioritize", ids=["j2", "j4", "gone"], priority=1)
    assert begun["total"] == 2
    begun = await ask("operation", do="cancel", status="queued", expect=3, reason="enough")
    await wait_until(lambda: pool.statistics().cancelled == 3)
    done = await ask("operations", id=begun["id"])
    assert (done["done"], done["skipped"], done["ended"]) == (3, 0, True)
    assert len((await ask("operations"))["items"]) == 2
    assert (await ask("stop_operation", id=begun["id"]))["stopped"] is False
    assert (await refused(ask, "operations", id=99)).kind == "not-found"
    assert (await refused(ask, "operation", do="cancel", status="failed")).kind == "invalid"


async def test_an_operation_that_fails_in_the_middle_says_so(busy, ask, monkeypatch, caplog):
    """Whoever asks how far it is hears why it has ended; it is in the log, too."""

    def broken(pool, id, priority):
        raise LookupError("the line is gone")

    monkeypatch.setattr(Pool, "reprioritize", broken)
    begun = await ask("operation", do="reprioritize", status="queued", priority=1)
    await wait_until(lambda: "failed in the middle" in caplog.text)
    found = await ask("operations", id=begun["id"])
    assert (found["ended"], found["done"], found["error"]) == (True, 0, "LookupError: the line is gone")


async def test_an_operation_on_many_lets_the_loop_turn(ask):
    """Ten thousand jobs are cancelled in slices; it can be stopped where it is."""
    async with Pool(1, queue_size=None, name="mail") as pool:
        gate = asyncio.Event()
        for _ in range(10_000):
            await pool.submit(hold, gate)
        begun = await ask("operation", do="cancel", status="queued")
        stopped = await ask("stop_operation", id=begun["id"])
        assert stopped["done"] <= begun["total"]
        begun = await ask("operation", do="cancel", status="queued")
        await wait_until(lambda: pool.statistics().queued == 0)
        assert pool.statistics().running == 1
        gate.set()


async def test_nested_jobs_are_a_tree(ask):
    """Who was submitted by whom; one family alone by its root."""
    gate = asyncio.Event()
    async with Pool(4, name="mail") as pool:

        async def parent():
            await (await pool.with_options(id="child").submit(hold, gate))

        await pool.with_options(id="parent").submit(parent)
        await pool.with_options(id="alone").submit(hold, gate)
        await wait_until(lambda: pool.statistics().running == 3)
        found = await ask("tree")
        assert {row["id"]: row["parent"] for row in found["nodes"]} == {"parent": None, "child": "parent"}
        assert found["complete"]
        assert {row["id"] for row in (await ask("tree", root="parent"))["nodes"]} == {"parent", "child"}
        assert (await ask("tree", root="alone"))["nodes"] == []
        gate.set()


async def test_names_are_measured_when_it_is_asked_for(ask):
    """Before, nothing is counted, and that is said."""
    async with Pool(1, name="mail") as pool:
        assert await ask("metrics") == {"items": [], "measuring": False}
        await ask("measure")
        await pool.with_options(name="nap").run(asyncio.sleep, 0)
        found = await ask("metrics")
        assert found["measuring"]
        assert [(row["name"], row["ended"], row["failed"]) for row in found["items"]] == [("nap", 1, 0)]


async def test_other_sizes_are_tried_on_paper(ask, monkeypatch):
    """From the jobs that have ended; with too few of them it says what to do."""
    async with Pool(2, name="mail", keep_finished=500) as pool:
        assert "keep_finished=1000" in (await refused(ask, "what_if")).detail
        await pool.map(asyncio.sleep, [0.001] * 300).collect()
        found = await ask("what_if", sizes="1,2,300")
        assert found["jobs"] == 300
        assert [row["size"] for row in found["items"]] == [1, 2, 300]
        one, two, many = found["items"]
        assert one["wait_p95"] > two["wait_p95"] > many["wait_p95"]
        assert one["busy"] > many["busy"]
        assert [row["size"] for row in (await ask("what_if"))["items"]] == [1, 2, 4, 8]
        past = pool.finished_jobs(1, skip=150)[0].finished_time.timestamp()
        monkeypatch.setattr("aiopool._control.looking.time", types.SimpleNamespace(time=lambda: past + 60))
        assert 100 <= (await ask("what_if", window=60))["jobs"] < 300
        assert "of the last 0 s" in (await refused(ask, "what_if", window=0)).detail
        monkeypatch.undo()
        assert (await refused(ask, "what_if", sizes="1,x")).kind == "invalid"
        assert (await refused(ask, "what_if", sizes="0")).kind == "invalid"


async def test_those_that_have_ended_are_paged_while_more_end(ask):
    """Each that was there at the first page comes once; slices of records let the loop turn."""
    async with Pool(1, name="mail", keep_finished=5000) as pool:
        first = [str(job.id) for job in [await pool.submit(asyncio.sleep, 0) for _ in range(450)]]
        await pool.join()
        seen, cursor = [], None
        while True:
            found = await ask("jobs", status="succeeded", limit=100, cursor=cursor)
            seen += [str(row["id"]) for row in found["items"]]
            cursor = found["next"]
            await pool.run(asyncio.sleep, 0)  # one more has ended: the next page begins where this one ended
            if cursor is None:
                break
        assert seen == first[::-1]
        assert (await ask("jobs", error="KeyError"))["searched"] >= 450


async def test_health_has_reasons(ask):
    """As a probe would get it."""
    async with Pool(1, name="mail") as pool:
        found = await ask("health")
        assert (found["status"], found["ready"]) == ("healthy", True)
        await ask("drain", timeout=0)
        await pool.wait_closed()


async def test_drain_finishes_and_shutdown_cancels(ask):
    """Both answer at once; the pool closes by itself."""
    for verb, status in (("drain", "succeeded"), ("shutdown", "cancelled")):
        gate = asyncio.Event()
        async with Pool(1, name="mail") as pool:
            job = await pool.submit(hold, gate)
            await wait_until(lambda job=job: job.status == "running")
            answer = await ask(verb)
            assert (answer["closing"], answer["running"]) == (True, 1)
            if verb == "drain":
                gate.set()
            await pool.wait_closed()
        assert job.status == status


async def test_a_job_of_a_store_that_has_ended_runs_again(ask):
    """One of a pool in memory does not: its arguments are gone, and the text says what to do."""
    handlers = Handlers()
    calls = []

    @handlers.register("note")
    async def note() -> None:
        calls.append(1)

    async with Pool(1, name="mail") as pool:
        await pool.with_options(id="x").run(note)
        assert "Pool(store=..., handlers=...)" in (await refused(ask, "retry", id="x")).detail
    calls.clear()
    async with Pool(1, name="mail", store="memory://", handlers=handlers) as pool:
        job = await pool.submit(note)
        await job
        await ask("retry", id=job.id)
        await wait_until(lambda: len(calls) == 2)
        assert (await refused(ask, "retry", id="nobody")).kind == "conflict"


async def test_many_jobs_of_a_store_that_have_ended_run_again(ask):
    """By ids or by how they ended, after a count; a pool in memory cannot, and says what to write."""
    handlers = Handlers()

    @handlers.register("odd")
    async def odd(number: int) -> None:
        if number % 2:
            raise ValueError(number)

    @handlers.register("key")
    async def key() -> None:
        raise KeyError("x")

    async with Pool(1, name="mail"):
        assert "Pool(store=..., handlers=...)" in (await refused(ask, "operation", do="retry", status="dead")).detail
    async with Pool(4, name="mail", store="memory://", handlers=handlers) as pool:
        jobs = [
            await pool.with_options(group="g" if number < 4 else None, metadata={"n": number}).submit(odd, number)
            for number in range(10)
        ]
        jobs.append(await pool.submit(key))
        for job in jobs:
            await job.wait()
        await wait_until(lambda: pool.statistics().running == 0)
        await pool.fleet.pause()

        async def count(**of):
            return (await ask("operation", do="retry", dry_run=True, **of))["total"]

        assert await count(status="failed") == 6
        assert await count(status="failed", group="g") == 2
        assert await count(status="failed", name="odd", error="ValueError") == 5
        assert await count(status="failed", label="n=3") == 1
        assert await count(status="failed", older_than=1000) == await count(status="dead") == 0
        assert await count(ids=[jobs[0].id, jobs[1].id, "gone"]) == 2
        problem = await refused(ask, "operation", do="retry", status="failed", expect=7)
        assert (problem.status, problem.facts["total"]) == (409, 6)
        for wrong in ({}, {"status": "queued"}, {"status": "failed", "waits_for": "slot"}, {"group": "g"}):
            assert (await refused(ask, "operation", do="retry", **wrong)).kind == "invalid", wrong
        assert (await pool.fleet.statistics()).live["queued"] == 0

        async def done(begun):
            while not (found := await ask("operations", id=begun["id"]))["ended"]:
                pass
            return found["done"], found["skipped"], found["error"]

        assert await done(await ask("operation", do="retry", ids=[jobs[0].id, jobs[1].id, "gone"])) == (2, 0, None)
        assert await done(await ask("operation", do="retry", status="failed", name="odd", expect=4)) == (4, 0, None)
        assert (await pool.fleet.statistics()).live["queued"] == 6
        assert await count(status="failed") == 1
        await pool.fleet.resume()
        await wait_until(lambda: pool.statistics().failed == 11)


@pytest.mark.parametrize("verb", [name for name in VERBS if name not in ("drain", "shutdown")])
async def test_no_verb_takes_what_it_does_not_know(busy, ask, verb):
    """A word too much is a mistake that is told, not swallowed; and nothing is done."""
    problem = await refused(ask, verb, nonsense="1", id="j0", group="held", size=1, priority=1, do="cancel")
    assert problem.kind == "invalid"
    assert (await ask("actions"))["items"] == []


@pytest.mark.parametrize(
    ("verb", "arguments", "says"),
    [
        ("status", {"rows": 201}, "rows=201: it lies between 0 and 200"),
        ("status", {"rows": 1.5}, "rows=1.5: it must be a whole number"),
        ("status", {"rows": True}, "a whole number"),
        ("status", {"rows": "x"}, "a whole number"),
        ("stack", {"depth": 51}, "between 1 and 50"),
        ("job", {}, "id is missing: write id=..."),
        ("job", {"id": {}}, "id={}: it must be a text"),
        ("job", {"id": "x" * 501}, "id has 501 characters: give 500 at most"),
        ("jobs", {"status": "odd"}, "status='odd': it must be one of scheduled, queued"),
        ("jobs", {"limit": 0}, "between 1 and 200"),
        ("jobs", {"older_than": "nan"}, "it lies between 0 and"),
        ("jobs", {"older_than": "soon"}, "a number of seconds"),
        ("jobs", {"older_than": False}, "a number of seconds"),
        ("resize", {}, "size is missing"),
        ("resize", {"size": 0}, "between 1 and 10000"),
        ("resize", {"size": 2, "cancel_excess": "maybe"}, "true or false"),
        ("operation", {}, "do is missing"),
        ("operation", {"do": "cancel", "ids": [[]]}, "a list of texts"),
        ("operation", {"do": "cancel", "ids": ["x"] * 1001}, "ids has 1001 entries: give 1000 at most"),
        ("drain", {"timeout": 3601}, "between 0 and 3600"),
        ("events", {"after": -1}, "between 0 and"),
    ],
)
async def test_each_argument_has_its_bounds(busy, ask, verb, arguments, says):
    """And the text says which."""
    problem = await refused(ask, verb, **arguments)
    assert problem.kind == "invalid"
    assert says in problem.detail


async def test_what_users_call_their_things_is_shown_and_bounded(ask):
    """Names of a megabyte, of scripts and of control characters are texts like others; arguments are never shown."""
    async with Pool(1, name="mail", keep_finished=10) as pool:
        secret = "hunter2"
        view = pool.with_options(id=EVIL, name="x" * 2**20, group=EVIL, metadata={EVIL: EVIL})
        with pytest.raises(ValueError, match="boom"):
            await view.run(fail, ValueError("boom" * 10_000))
        gate = asyncio.Event()
        await pool.with_options(id="live", group=EVIL).submit(hold, gate)
        await pool.with_options(id="waits").submit(fail, secret)
        shown = [
            await ask("job", id=EVIL),
            await ask("job", id="live"),
            await ask("job", id="waits"),
            await ask("jobs"),
            await ask("jobs", status="failed"),
            await ask("list_groups"),
            await ask("status", rows=10),
        ]
        assert shown[0]["id"] == shown[0]["group"] == EVIL
        assert shown[0]["labels"] == {EVIL: EVIL}
        assert len(shown[0]["name"]) <= 4000
        assert len(shown[0]["error"]) <= 4000
        assert secret not in str(shown)
        gate.set()
        await pool.cancel_all()


def test_a_text_stands_for_a_number_and_a_word_for_a_flag():
    """As a URL or a shell has them."""
    read = Arguments({"n": "7", "f": "yes", "s": "1.5", "t": 5, "l": "one", "e": ""})
    assert read.whole("n", most=9) == 7
    assert read.flag("f")
    assert read.seconds("s", most=9) == 1.5
    assert read.text("t") == "5"
    assert read.texts("l", 2) == ["one"]
    assert read.text("e") is None
    assert read.flag("nothing") is False
    assert read.choice("nothing", ("a",)) is None
    read.end()


def test_each_verb_has_its_words():
    """One line that says what it does, for `aiopool ctl`."""
    assert all(verb.about.endswith(".") and len(verb.about) < 120 for verb in VERBS.values())
    assert all((verb.inside is None) != (verb.outside is None) for verb in VERBS.values())
    assert not issubclass(Job, str)


async def test_schedules_have_their_last_moment_and_the_next(ask):
    """Those of this process, with or without a store, and those of the fleet; their arguments are never shown."""
    handlers = Handlers()

    @handlers.register("report { every 9 s", every="30 6 29 2 *")
    async def report() -> None: ...

    @handlers.register("clean", every=3600)
    async def clean(secret: str = "") -> None: ...

    async with Pool(1, name="mail") as pool:
        pool.every(3600, hold, asyncio.Event())
        (row,) = (await ask("schedules"))["items"]
        assert (row["name"], row["when"], row["last"], row["here"]) == ("hold", "every 3600 s", None, True)
        assert row["next"] > datetime.datetime.now(datetime.UTC).isoformat()
    async with Pool(1, name="mail", store="memory://", handlers=handlers) as pool:
        again = pool.every(0.02, clean, "hunter2")
        await wait_until(lambda: again.runs > 0)
        again.cancel()
        await pool.join()
        schedule = "gone every 5 s {}"
        await pool.fleet.store.submit([NewJob("x", "gone", "{}", tick=(schedule, 1e9))])
        rows = (await ask("schedules"))["items"]
        assert "hunter2" not in str(rows)
        assert [(row["name"], row["when"], row["here"]) for row in rows] == [
            ("clean", "every 0.02 s", False),
            ("gone", "every 5 s", False),
            ("clean", "every 3600 s", True),
            ("report { every 9 s", "cron '30 6 29 2 *'", True),
        ]
        assert rows[1]["last"] == "2001-09-09T01:46:40.000+00:00"
        assert rows[1]["next"] is None
        assert rows[3]["next"] is not None
