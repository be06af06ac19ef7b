"""The worker and the real orchestrator, and beside the official worker: what they do with each other."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys

import pytest
from orchestrators import HERE, SECRET, SERVER, TOKEN, WORKER, orchestrator, python_with, running

from aiopool import current_job
from aiopool.avtomatika import RefusedError, Worker
from aiopool.avtomatika._signing import canonical, sign
from aiopool.testing import wait_until

pytestmark = [pytest.mark.ecosystem, pytest.mark.timeout(180)]

PATIENCE = 30.0
NUMBERS = itertools.count(1)


async def until(condition):
    await wait_until(condition, timeout=PATIENCE)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """The directory that all processes of a test run have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session")
def server_python(shared):
    return python_with(SERVER, shared)


@pytest.fixture(scope="session")
def worker_python(shared):
    return python_with(WORKER, shared)


@pytest.fixture(scope="module")
def server(server_python, tmp_path_factory):
    """An orchestrator that lives as long as this module."""
    with orchestrator(server_python, tmp_path_factory.mktemp("server") / "log") as started:
        yield started


@pytest.fixture
def own_server(server_python, tmp_path):
    """Start an orchestrator of one's own, with settings."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(orchestrator(server_python, tmp_path / "log", **settings))


def make(server, **settings):
    worker = Worker(
        server.url,
        **{
            "worker_token": TOKEN,
            # The orchestrator still holds the last poll of a test before, and would give it the task of this one.
            "worker_id": f"ours-{next(NUMBERS)}",
            "poll_interval": 0.05,
            "progress_interval": 0.05,
            **settings,
        },
    )
    worker.gate, worker.running, worker.most, worker.calls = asyncio.Event(), [], 0, []

    @worker.task("echo")
    async def echo(params, task_id, job_id):
        return {"status": "success", "data": {"params": params, "task_id": task_id, "job_id": job_id}}

    async def hold(params, task_id):
        worker.running.append(task_id)
        worker.most = max(worker.most, len(worker.running))
        try:
            await worker.gate.wait()
        finally:
            worker.running.remove(task_id)

    worker.task("hold")(hold)
    worker.task("heavy", task_type="big")(hold)

    @worker.task("answer")
    async def answer(params):
        worker.calls.append(params)
        if params.get("raise"):
            raise {"ValueError": ValueError, "RuntimeError": RuntimeError}[params["raise"]]("required_field is missing")
        return params["answers"][min(len(worker.calls), len(params["answers"])) - 1]

    @worker.task("shared")
    async def shared(params):
        return {"by": "ours"}

    return worker


# -- the signatures ----------------------------------------------------------------------------------------------------

BODIES = [
    {"b": 1, "a": {"d": None, "c": [None, {"e": None}]}},
    {"float": 1.5, "whole": 2.0, "small": 1e-7, "smaller": 5e-324, "large": 1.5e300 / 1e295, "third": 1 / 3},
    {"tiny": 1e-5, "ten": 123456789012345680.0, "neg": -0.0, "big": 2**63, "least": -(2**63)},
    {"ж": 'ü\u2028\x7f\n"/', "security": {"signature": "x"}, "_signature": "y", "bubbling_chain": [1]},
]


def test_the_signatures_are_those_of_the_real_package(server_python):
    """For texts, nulls and floats of all kinds."""
    code = (
        "import json, sys; from rxon.security import sign_payload\n"
        "print(json.dumps([sign_payload(b, 'key', ['bubbling_chain']) for b in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [server_python, "-c", code], input=json.dumps(BODIES), capture_output=True, text=True, check=True
    )
    ours = [sign(body, "key", ["bubbling_chain"]) for body in BODIES]
    assert json.loads(done.stdout) == ours, [canonical(body) for body in BODIES]


# -- tasks, results, statuses (C-01, C-04, C-06, C-07, C-12) -----------------------------------------------------------


async def test_a_job_is_done(server):
    """Registered, polled, run with what it declares, its result accepted; a hundred of them."""
    async with running(make(server, orchestrator_secret=SECRET)) as _:
        params = {"text": "ж\u2028", "float": 1e-7, "whole": 2.0, "none": None, "deep": [[{"a": 1}]]}
        job = await server.done("echo", params)
        assert job["status"] == "finished"
        data = job["state_history"]
        # Null members are not carried by the orchestrator itself.
        assert data["params"] == {key: value for key, value in params.items() if value is not None}
        assert data["job_id"] == job["id"]
        jobs = [await server.submit("echo") for _ in range(100)]
        for job_id in jobs:
            assert (await server.until(job_id))["status"] == "finished"


async def test_what_may_be_sent_is_taken(server):
    """The deepest, the largest and the smallest: all that the worker lets through."""
    deep = value = []
    for _ in range(22):
        value.append(value := [])
    extremes = {
        "deep": deep,
        "most": 2**64 - 1,
        "least": -(2**63),
        "tiny": 5e-324,
        "large": 1.5e15,
        "text": "\x00\U0010ffff",
    }
    worker = make(server)

    @worker.task("extreme")
    async def extreme(params):
        return extremes

    async with running(worker):
        job = await server.done("extreme")
        assert job["status"] == "finished", job
        assert {key: job["state_history"][key] for key in extremes} == extremes


@pytest.mark.parametrize(
    ("answers", "ends", "calls"),
    [
        ([{"status": "success"}], "finished", 1),
        ([None], "finished", 1),
        ([{"status": "failure", "error": {"code": "VALIDATION_ERROR", "message": "no"}}], "failed", 1),
        ([{"status": "failure", "error": {"code": "NOT_FOUND", "message": "no"}}], "failed", 1),
        ([{"status": "failure", "error": {"code": "PERMANENT_ERROR", "message": "no"}}], "quarantined", 1),
        ([{"status": "failure", "error": {"code": "TIMEOUT", "message": "no"}}, None], "finished", 2),
        ([{"status": "retry", "error": {"code": "CONNECTION_ERROR", "message": "no"}}, None], "finished", 2),
        ([{"status": "retry", "error": {"code": "API_ERROR", "message": "no"}}], "quarantined", 3),
        ([{"status": "retry", "error": {"code": "NOT_FOUND", "message": "no"}}, None], "finished", 2),
    ],
)
async def test_each_status_and_code_does_what_the_guide_says(server, answers, ends, calls):
    """A failure is the end, `retry` makes the orchestrator repeat (twice, as this one is set up)."""
    worker = make(server)
    async with running(worker):
        job = await server.done("answer", {"answers": answers})
        assert job["status"] == ends, job
        assert len(worker.calls) == calls


async def test_an_exception_is_a_failure_with_its_text(server):
    """A ValueError is the end of its job; another exception may pass, so the orchestrator tries again."""
    worker = make(server)
    async with running(worker):
        job = await server.done("answer", {"raise": "ValueError"})
        assert (job["status"], len(worker.calls)) == ("failed", 1)
        assert "required_field is missing" in job["error_message"]
        job = await server.done("answer", {"raise": "RuntimeError"})
        assert (job["status"], len(worker.calls)) == ("quarantined", 4)
        assert "required_field is missing" in job["error_message"]


async def test_a_blueprint_with_a_transition_for_retry_gets_it(server):
    """If the worker is told so."""
    answers = [{"status": "retry", "error": {"code": "API_ERROR", "message": "no"}}]
    async with running(make(server, retry_as="retry")):
        job = await server.done("answer", {"answers": answers}, blueprint="patient")
        assert job["current_state"] == "again"


async def test_resources_are_found_by_what_blueprints_ask_for(server):
    """By the orchestrator's words and by the guide's; and what is not there is not found (C-10)."""
    resources = {"cpu": 4, "memory_gb": 16, "gpu": True, "gpu_memory_gb": 8}
    async with running(make(server, resources=resources)):
        for needs in (
            {"properties": {"cpu_cores": 4, "ram_gb": 16}},
            {"properties": {"cpu": 2, "gpu": True}},
            {"devices": [{"type": "gpu", "properties": {"memory_gb": 8}}]},
        ):
            assert (await server.done("echo", needs={"resources": needs}))["status"] == "finished"
        job = await server.done("echo", needs={"resources": {"properties": {"cpu_cores": 8}}})
        assert job["status"] == "quarantined"


async def test_a_deadline_is_kept(server):
    """The orchestrator says when nobody wants the result any more, and the pool ends the task then."""
    worker = make(server)
    async with running(worker):
        await server.submit("hold", result_timeout=2)
        await until(lambda: worker.counts.tasks["hold", "failure"])
        assert worker.running == []


async def test_progress_is_seen_while_the_task_runs(server):
    """As `aiopool.current_job().report_progress` says it."""
    worker = make(server)

    @worker.task("step")
    async def step(params):
        current_job().report_progress(0.5, "half")
        await worker.gate.wait()

    async with running(worker):
        await until(lambda: worker.counts.connected)
        job_id = await server.submit("step")
        async with asyncio.timeout(PATIENCE):
            while (await server.job(job_id)).get("progress") != 0.5:
                await asyncio.sleep(0.02)
        worker.gate.set()
        assert (await server.until(job_id))["status"] == "finished"


# -- limits (C-05) and cancel ------------------------------------------------------------------------------------------


async def test_never_more_than_two_heavy_ones_and_light_ones_go_on(server):
    """Though they all wait in one line at the orchestrator."""
    worker = make(server, task_type_limits={"big": 2}, max_concurrent_tasks=4)
    async with running(worker):
        heavy = [await server.submit("heavy") for _ in range(6)]
        light = [await server.submit("echo") for _ in range(5)]
        for job_id in light:
            assert (await server.until(job_id))["status"] == "finished"
        await until(lambda: len(worker.running) == 2)
        worker.gate.set()
        for job_id in heavy:
            assert (await server.until(job_id))["status"] == "finished"
        assert worker.most == 2


async def test_a_cancel_by_the_client_ends_the_handler(server):
    """At its await; the result is taken, and the worker goes on."""
    worker = make(server)
    async with running(worker):
        await until(lambda: worker.counts.connected)
        job_id = await server.submit("hold")
        await until(lambda: worker.running)
        await server.cancel(job_id)
        await until(lambda: not worker.running and not worker.held_tasks)
        assert worker.counts.tasks["hold", "cancelled"] == 1
        await until(lambda: worker.counts.results["accepted"] + worker.counts.results["ignored"] == 1)
        assert (await server.done("echo"))["status"] == "finished"


@pytest.mark.parametrize(("report_busy", "fate"), [(True, "quarantined"), (False, "waiting_for_worker")])
async def test_why_a_worker_does_not_say_that_it_is_busy(server, report_busy, fate):
    """The orchestrator gives up a job for which all workers are busy, and keeps it for one that says nothing."""
    worker = make(server, max_concurrent_tasks=1, report_busy=report_busy)
    async with running(worker):
        held = await server.submit("hold")
        await until(lambda: worker.running)
        if report_busy:
            async with asyncio.timeout(PATIENCE):
                while (await server.workers())[worker.settings.worker_id].get("status") != "busy":
                    await asyncio.sleep(0.02)
        job = await server.until(await server.submit("echo"), fate)
        worker.gate.set()
        assert (await server.until(held))["status"] == "finished"
        assert (await server.until(job["id"]))["status"] == ("quarantined" if report_busy else "finished")


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_tokens(own_server):
    """The worker's own, the one of all; a wrong one ends `main` with the orchestrator's words."""
    server = own_server(WORKER_TOKENS="ours=individual")
    async with running(make(server, worker_id="ours", worker_token="individual")):
        assert (await server.done("echo"))["status"] == "finished"
    with pytest.raises(RefusedError, match="Invalid individual worker token") as caught:
        await make(server, worker_id="ours").main()
    assert caught.value.status == 403
    async with running(make(server, worker_id="other")):
        assert (await server.done("echo"))["status"] == "finished"


async def test_a_task_without_the_signature_of_the_orchestrator_is_not_run(server):
    """If the worker was told to look."""
    worker = make(server, orchestrator_secret="another secret")
    async with running(worker):
        job = await server.done("answer", {"answers": [None]})
        assert (job["status"], worker.calls) == ("quarantined", [])
        assert "SECURITY_ERROR" in job["error_message"]


# -- killed, restarted, frozen, rate-limited ---------------------------------------------------------------------------


async def test_an_orchestrator_that_is_killed_and_started_again(own_server):
    """It has forgotten all. The worker registers by itself; the result of a job that is no more is let go."""
    server = own_server()
    worker = make(server)
    async with running(worker):
        await server.submit("hold")
        await until(lambda: worker.running)
        server.kill()
        worker.gate.set()
        await until(lambda: worker.kept_results == 1)
        await asyncio.to_thread(server.start)
        await until(lambda: worker.counts.registrations == 2 and worker.counts.connected)
        assert (await server.done("echo"))["status"] == "finished"
        await until(lambda: worker.kept_results == 0)
        assert worker.counts.results["ignored"] == 1
        # Commands are heard there, too.
        worker.gate.clear()
        job_id = await server.submit("hold")
        await until(lambda: worker.running)
        await server.cancel(job_id)
        await until(lambda: not worker.running)


async def test_an_orchestrator_that_hangs_gets_the_result_when_it_goes_on(own_server):
    """Signed anew, for its minute may be over."""
    server = own_server()
    worker = make(server)
    async with running(worker):
        job_id = await server.submit("hold")
        await until(lambda: worker.running)
        server.freeze()
        worker.gate.set()
        await until(lambda: worker.kept_results == 1)
        server.thaw()
        assert (await server.until(job_id))["status"] == "finished"


@contextlib.contextmanager
def our_program(server, file):
    command = [sys.executable, str(HERE / "our_worker.py"), server.url, str(file)]
    # One at a time: while a task runs, no poll is under way that a kill would leave with the orchestrator.
    environment = {**os.environ, "MAX_CONCURRENT_TASKS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def registered(server):
    """Wait until the program is there: to nobody a job is given up."""
    async with asyncio.timeout(PATIENCE):
        while (await server.workers()).get("ours", {}).get("status") != "idle":
            await asyncio.sleep(0.05)


async def says(process, word):
    async with asyncio.timeout(PATIENCE):
        assert await asyncio.to_thread(process.stdout.readline) == f"{word}\n"


async def test_a_result_outlives_its_worker_and_the_absence_of_the_orchestrator(own_server, tmp_path):
    """The orchestrator hangs, the task ends, the worker is killed; the next one delivers."""
    server, file = own_server(), tmp_path / "results.db"
    with our_program(server, file) as process:
        await registered(server)
        job_id = await server.submit("nap", {"seconds": 0.5})
        await says(process, "napping")
        server.freeze()
        await says(process, "woken")
        from aiopool.avtomatika._result_file import ResultFile

        kept = ResultFile(file, "ours")
        await until(kept.load)
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        server.thaw()
    with our_program(server, file):
        job = await server.until(job_id)
        assert (job["status"], job["state_history"]["by"]) == ("finished", "ours")
        await until(lambda: not kept.load())
    kept.close()


async def test_a_task_whose_worker_is_killed_is_done_by_another(own_server, tmp_path):
    """The orchestrator sees it by the time limit of the task; the worker of the same id starts again, and gets it."""
    server = own_server()
    with our_program(server, tmp_path / "a.db") as process:
        await registered(server)
        job_id = await server.submit("nap", {"seconds": 1}, timeout=2)
        await says(process, "napping")
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
    with our_program(server, tmp_path / "a.db"):
        job = await server.until(job_id)
        assert (job["status"], job["retry_count"]) == ("finished", 1)


async def test_sigterm_finishes_the_task(own_server, tmp_path):
    """Its result arrives before the process ends (C-08)."""
    server = own_server()
    with our_program(server, tmp_path / "a.db") as process:
        await registered(server)
        job_id = await server.submit("nap", {"seconds": 1})
        await says(process, "napping")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
        job = await server.job(job_id)
        assert job["status"] in ("running", "finished")
        assert (await server.until(job_id))["status"] == "finished"


@pytest.mark.parametrize("turn", range(3))
async def test_a_worker_that_stops_takes_no_task_with_it(server, turn):
    """The poll that it drops gets no task: the next one is done by the other worker, and by none a second time."""
    one, two = make(server), make(server)
    async with running(two):
        async with running(one):
            await until(lambda: one.counts.connected)
        jobs = [await server.submit("echo") for _ in range(5)]
        for job_id in jobs:
            job = await server.until(job_id)
            assert (job["status"], job.get("retry_count", 0)) == ("finished", 0)
    assert two.counts.tasks["echo", "success"] == 5


async def test_a_worker_may_be_started_again_under_its_name(server):
    """Its last poll was waited for, and takes nothing from the next run."""
    for _ in range(2):
        worker = make(server, worker_id="again")
        main = asyncio.create_task(worker.main())
        await until(lambda worker=worker: worker.counts.registrations)
        assert (await server.done("echo"))["status"] == "finished"
        await worker.stop()
        await main


async def test_rate_limits_are_obeyed_and_everything_is_done(own_server):
    """This orchestrator takes three polls and five results until there was none for a second."""
    limits = {"RATE_LIMIT_PERIOD": "1", "RATE_LIMIT_POLL_LIMIT": "3", "RATE_LIMIT_LIMIT": "5"}
    server = own_server(RATE_LIMITING_ENABLED="true", **limits)
    worker = make(server, rate_limit_pause=1.2)
    async with running(worker):
        jobs = []
        while len(jobs) < 8:  # its client is counted, too
            jobs.append(await server.submit("echo"))
            await asyncio.sleep(1.1 if len(jobs) % 4 == 0 else 0)
        await until(lambda: sum(worker.counts.results.values()) == 8)
        assert worker.counts.rate_limited["poll"] >= 1
        assert worker.counts.results == {"accepted": 8}


# -- beside the official worker ----------------------------------------------------------------------------------------


async def test_beside_the_official_worker(own_server, worker_python, tmp_path):
    """Each has its own tasks done; of what both can do all is done, also when ours stops in the middle."""
    server = own_server()
    environment = {
        "PATH": os.environ["PATH"], "ORCHESTRATOR_URL": server.url, "WORKER_ID": "official", "WORKER_TOKEN": TOKEN,
        "ORCHESTRATOR_SECRET_KEY": SECRET, "HEARTBEAT_INTERVAL": "1", "TASK_POLL_TIMEOUT": "10",
        "TASK_FILES_DIR": str(tmp_path / "files"), "WORKER_BLOB_CACHE_DIR": str(tmp_path / "cache"),
    }  # fmt: skip
    with open(tmp_path / "official", "wb") as log:
        official = subprocess.Popen(
            [worker_python, str(HERE / "official_worker.py")], env=environment, stdout=log, stderr=log, cwd=tmp_path
        )
    try:
        worker = make(server)
        async with running(worker):
            async with asyncio.timeout(PATIENCE):
                while {worker.settings.worker_id, "official"} - (await server.workers()).keys():
                    assert official.poll() is None, (tmp_path / "official").read_text()
                    await asyncio.sleep(0.1)
            assert (await server.done("official_echo"))["state_history"]["by"] == "official"
            assert (await server.done("echo"))["status"] == "finished"
            jobs = [await server.submit("shared") for _ in range(20)]
            await worker.stop()
        jobs += [await server.submit("shared") for _ in range(5)]
        for job_id in jobs:
            assert (await server.until(job_id))["status"] == "finished"
        assert (await server.job(jobs[-1]))["state_history"]["by"] == "official"
    finally:
        official.kill()
        official.wait()
