"""A worker and an orchestrator that has faults: what is lost on the way, refused, too much, or too late."""

import asyncio
import contextlib
import email.utils
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web
from orchestrators import running
from wire_server import TOKEN, WireServer, serving

import aiopool
from aiopool import Pool, Retry, current_job
from aiopool.avtomatika import RefusedError, Worker
from aiopool.testing import wait_until

PATIENCE = 20.0


async def until(condition):
    await wait_until(condition, timeout=PATIENCE)


@contextlib.asynccontextmanager
async def together(**settings):
    """A worker and its orchestrator; the worker has the handlers `echo` and `hold`, and runs."""
    server = WireServer()
    async with serving(server) as url:
        worker = make(url, **settings)
        async with running(worker):
            yield server, worker


def make(url, **settings):
    worker = Worker(
        url, worker_token=TOKEN, **{"worker_id": "w1", "poll_interval": 0.01, "progress_interval": 0.01, **settings}
    )
    worker.gate = asyncio.Event()
    worker.running, worker.most = [], 0

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
    return worker


def answer(status, **headers):
    return web.json_response({"error": f"test {status}"}, status=status, headers=headers)


# -- the usual way (C-01) ----------------------------------------------------------------------------------------------


@pytest.mark.loops("real")
async def test_a_task_comes_is_run_and_its_result_goes_back():
    """Signed, stamped, once; the server has checked it."""
    async with together() as (server, worker):
        task_id = server.give("echo", {"a": [1.5, None, "ж"]})
        await until(lambda: server.result(task_id))
        result = server.result(task_id)
        assert result["status"] == "success"
        assert result["data"] == {"params": {"a": [1.5, None, "ж"]}, "task_id": task_id, "job_id": result["job_id"]}
        assert result["worker_id"] == "w1"
        registered = server.kinds("register")[0]
        assert [skill["name"] for skill in registered["supported_skills"]] == ["echo", "hold", "heavy"]
        assert registered["supported_skills"][2]["type"] == "big"
        assert worker.counts.tasks["echo", "success"] == 1
    assert server.kinds("heartbeat")[-1]["status"] == "offline"


async def test_equal_messages_in_one_second_are_not_refused():
    """A replay guard refuses what it has seen: each message has a number of its own."""
    async with together(max_concurrent_tasks=4) as (server, worker):
        ids = [server.give("echo") for _ in range(30)]
        await until(lambda: all(server.result(task_id) for task_id in ids))
        assert len(server.kinds("result")) == 30
        await until(lambda: worker.counts.results == {"accepted": 30})


async def test_a_task_of_no_handler_is_told_and_so_is_no_task_at_all(caplog):
    """Neither stops the worker."""
    async with together() as (server, _):
        stranger = server.give("unknown")
        server.tasks.put_nowait({"what": "no task"})
        late = server.give("echo", deadline=time.time() - 5)
        task_id = server.give("echo")
        await until(lambda: server.result(task_id))
        assert server.result(stranger)["error"]["code"] == "DEPENDENCY_MISSING_ERROR"
        assert server.result(late)["error"]["code"] == "TIMEOUT_ERROR"
    assert "something else than a task" in caplog.text


async def test_a_task_that_comes_twice_runs_once(caplog):
    """The orchestrator may give it again while it runs."""
    async with together() as (server, worker):
        task_id = server.give("hold")
        server.tasks.put_nowait({"task_id": task_id, "job_id": "job-1", "type": "hold"})
        await until(lambda: "came twice" in caplog.text)
        assert worker.most == 1
        worker.gate.set()
        await until(lambda: server.result(task_id))


# -- limits (C-05) -----------------------------------------------------------------------------------------------------


async def test_heavy_tasks_wait_and_light_ones_go_on():
    """With a limit of two, five heavy tasks: two run, and a light one behind them is done."""
    async with together(task_type_limits={"big": 2}, max_concurrent_tasks=4) as (server, worker):
        heavy = [server.give("heavy") for _ in range(5)]
        light = server.give("echo")
        await until(lambda: server.result(light))
        await until(lambda: len(worker.running) == 2)
        assert "heavy" not in server.polled[-1]["available_skills"].split(",")
        worker.gate.set()
        await until(lambda: all(server.result(task_id) for task_id in heavy))
        assert worker.most == 2


async def test_no_more_is_fetched_than_can_run_or_wait():
    """A flood of heavy tasks stays where it is, beyond the bound."""
    async with together(task_type_limits={"big": 1}, max_waiting_tasks=3) as (server, worker):
        for _ in range(20):
            server.give("heavy")
        await until(lambda: worker.held_tasks == 4 and not server.polling)  # one runs, three wait
        assert server.tasks.qsize() == 16
        worker.gate.set()
        await until(lambda: len(server.kinds("result")) == 20)
        assert worker.most == 1


async def test_the_pool_can_be_resized_while_the_worker_runs():
    """What is fetched follows."""
    async with together(max_concurrent_tasks=1) as (server, worker):
        for _ in range(4):
            server.give("hold")
        await until(lambda: len(worker.running) == 1)
        worker.pool.resize(3)
        await until(lambda: len(worker.running) == 3)
        worker.gate.set()
        await until(lambda: len(server.kinds("result")) == 4)
        assert worker.most == 3


async def test_never_more_than_max_concurrent_tasks():
    """And no poll while all slots are taken."""
    async with together(max_concurrent_tasks=3) as (server, worker):
        for _ in range(10):
            server.give("hold")
        await until(lambda: len(worker.running) == 3)
        await until(lambda: server.polling == 0)
        assert worker.held_tasks == 3
        worker.gate.set()
        await until(lambda: len(server.kinds("result")) == 10)
        assert worker.most == 3


# -- results are never lost --------------------------------------------------------------------------------------------


@pytest.mark.loops("real")
async def test_a_result_is_sent_again_with_a_new_signature_until_it_is_answered():
    """5xx, a cut connection, an answer that nobody can read: each time it is another message."""
    sent = []
    async with together() as (server, worker):
        server.faults["result"] = [
            lambda body: (sent.append(body), answer(500))[1],
            lambda body: (sent.append(body), answer(503))[1],
            "cut",
            web.Response(text="<html>a proxy says 200</html>"),
        ]
        task_id = server.give("echo")
        await until(lambda: len(server.kinds("result")) == 2)  # the one that was cut, and the one that was answered
        sent += server.kinds("result")
        await until(lambda: worker.kept_results == 0)
    assert {body["task_id"] for body in sent} == {task_id}
    assert len({body["security"]["signature"] for body in sent}) == 4
    assert worker.counts.results == {"again": 4, "accepted": 1}


async def test_the_results_of_an_orchestrator_that_is_away_go_to_the_one_that_comes_back():
    """And the worker registers with it."""
    server = WireServer()
    async with contextlib.AsyncExitStack() as stack:
        async with serving(server) as url:
            worker = make(url)
            await stack.enter_async_context(running(worker))
            task_id = server.give("hold")
            await until(lambda: worker.running)
        worker.gate.set()
        await until(lambda: worker.kept_results == 1 and not worker.held_tasks)
        again = WireServer()
        await stack.enter_async_context(serving(again, int(url.rpartition(":")[2])))
        await until(lambda: again.result(task_id))
        await until(lambda: again.known and worker.counts.connected)
        another = again.give("echo")
        await until(lambda: again.result(another))
        await worker.stop()


async def test_a_result_that_is_refused_for_good_becomes_a_failure_that_says_so():
    """The job must not wait for ever; and if that is refused, too, it is over, loudly."""
    async with together() as (server, worker):
        server.faults["result"] = [answer(400)]
        task_id = server.give("echo")
        await until(lambda: server.result(task_id))
        assert server.result(task_id)["status"] == "failure"
        assert "refused the result" in server.result(task_id)["error"]["message"]
        server.faults["result"] = [answer(400), answer(400)]
        server.give("echo")
        await until(lambda: worker.counts.results["refused"] == 3)
        await until(lambda: worker.kept_results == 0)


async def test_a_result_waits_while_the_token_is_refused():
    """A token can be set right."""
    async with together() as (server, _):
        server.faults["result"] = [answer(403), answer(403)]
        task_id = server.give("echo")
        await until(lambda: server.result(task_id))
        assert server.result(task_id)["status"] == "success"


async def test_no_task_is_fetched_while_too_many_results_are_kept():
    """So what is kept is bounded, also if only results do not get through."""
    async with together(max_kept_results=2, max_concurrent_tasks=1) as (server, worker):
        server.faults["result"] = [answer(503) for _ in range(1000)]
        for _ in range(10):
            server.give("echo")
        await until(lambda: worker.kept_results == 2 and server.polling == 0)
        assert server.tasks.qsize() in (7, 8)  # one may have been on its way
        server.faults["result"] = []
        await until(lambda: len(server.kinds("result")) == 10)


async def test_what_is_not_delivered_at_the_end_is_in_the_report(caplog):
    """And in the log, whole."""
    async with together(delivery_timeout=0.05) as (server, worker):
        server.faults["result"] = [answer(503) for _ in range(1000)]
        task_id = server.give("echo", {"n": 7})
        await until(lambda: worker.kept_results == 1)
        report = await worker.stop()
        assert [result.task_id for result in report.undelivered] == [task_id]
        assert report.undelivered[0].data["params"] == {"n": 7}
    assert "name a results_file" in caplog.text
    assert "{'n': 7}" in caplog.text


async def test_results_on_the_disk_are_sent_by_the_next_run(tmp_path):
    """Those of this worker; and what is delivered is taken off."""
    file = tmp_path / "results.db"
    async with together(delivery_timeout=0.05, results_file=file) as (server, worker):
        server.faults["result"] = [answer(503) for _ in range(1000)]
        task_id = server.give("echo")
        await until(lambda: worker.kept_results == 1)
    server = WireServer()
    async with serving(server) as url:
        async with running(make(url, results_file=file, worker_id="w2")) as _:
            done = server.give("echo")
            await until(lambda: server.result(done))
        assert server.result(task_id) is None
        async with running(make(url, results_file=file)):
            await until(lambda: server.result(task_id))
        assert server.result(task_id)["data"]["task_id"] == task_id
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM aiopool_avtomatika_results").fetchone() == (0,)


PROGRAM = """
import asyncio, sys
from aiopool.avtomatika import Worker

worker = Worker(sys.argv[1], worker_id="w1", worker_token="worker-token", results_file=sys.argv[2])

@worker.task("echo")
async def echo(params):
    return {"echo": params}

@worker.task("nap")
async def nap(params):
    print("napping", flush=True)
    await asyncio.sleep(params["seconds"])

asyncio.run(worker.main())
print("left", flush=True)
"""


@contextlib.contextmanager
def program(url, file):
    """The worker as a program."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, url, str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_a_result_survives_the_kill_of_its_worker(tmp_path):
    """It was on the disk before it was sent."""
    server, file = WireServer(), tmp_path / "results.db"
    async with serving(server) as url:
        server.faults["result"] = [answer(503) for _ in range(10_000)]
        task_id = server.give("echo", {"n": 1})
        with program(url, file) as process:
            await until(lambda: server.calls.count("result") >= 1)
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        server.faults["result"] = []
        with program(url, file):
            await until(lambda: server.result(task_id))
    assert server.result(task_id)["data"] == {"echo": {"n": 1}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_running_task_end_and_its_result_arrive(number, tmp_path):
    """In a program that says nothing of signals (C-08)."""
    server = WireServer()
    async with serving(server) as url:
        with program(url, tmp_path / "results.db") as process:
            task_id = server.give("nap", {"seconds": 0.3})
            assert await asyncio.to_thread(process.stdout.readline) == "napping\n"
            process.send_signal(number)
            output, errors = await asyncio.to_thread(process.communicate)
            assert (process.returncode, output) == (0, "left\n"), errors
        assert server.result(task_id)["status"] == "success"
    assert [body["status"] for body in server.kinds("heartbeat")][-2:] == ["draining", "offline"]


async def test_a_second_signal_cancels_and_hands_back(tmp_path):
    """The orchestrator gives the task to another worker."""
    server = WireServer()
    async with serving(server) as url:
        with program(url, tmp_path / "results.db") as process:
            task_id = server.give("nap", {"seconds": 600})
            assert await asyncio.to_thread(process.stdout.readline) == "napping\n"
            process.send_signal(signal.SIGTERM)
            await until(lambda: server.kinds("heartbeat")[-1]["status"] == "draining")
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait) == 0
        assert server.result(task_id)["error"]["code"] == "TRANSIENT_ERROR"


# -- too many calls, and no answers ------------------------------------------------------------------------------------


async def test_after_a_429_a_kind_of_call_is_quiet_as_long_as_it_is_told():
    """In seconds or as a date; and the others go on."""
    begin = asyncio.get_running_loop().time()
    async with together() as (server, worker):
        date = email.utils.formatdate(time.time() + 1.5, usegmt=True)
        server.faults["result"] = [answer(429, **{"Retry-After": "0.3"}), answer(429, **{"Retry-After": date})]
        task_id = server.give("echo")
        await until(lambda: server.calls.count("result") == 1)
        other = server.give("hold")
        await until(lambda: worker.running == [other])  # polls go on
        await until(lambda: server.result(task_id))
        assert asyncio.get_running_loop().time() - begin >= 0.3
        assert worker.counts.rate_limited == {"result": 2}
        worker.gate.set()


async def test_without_a_retry_after_the_pause_is_the_workers_own():
    """Once in each pause, for what is refused is counted, too."""
    server = WireServer()
    server.faults["poll"] = [answer(429), answer(429)]
    async with serving(server) as url, running(worker := make(url, rate_limit_pause=0.2)):
        task_id = server.give("echo")
        await until(lambda: server.result(task_id))
        assert worker.counts.rate_limited["poll"] == 2


@pytest.mark.long
async def test_polls_and_registrations_that_fail_are_tried_again():
    """503 while it starts, 500, cut connections."""
    server = WireServer()
    server.faults["register"] = [answer(503), answer(500), "cut"]
    server.faults["poll"] = [answer(500), "cut"]
    async with serving(server) as url, running(make(url)):
        task_id = server.give("echo")
        await until(lambda: server.tasks.empty())
        # The one whose poll was cut is gone with it: no worker can know of it.
        another = server.give("echo")
        await until(lambda: server.result(another))
        assert server.result(task_id) is None


async def test_a_clock_that_is_wrong_is_set_by_the_orchestrators():
    """It takes messages of its own minute only, and its answer says what time it is."""
    server = WireServer()
    server.ahead = 3600
    async with serving(server) as url, running(make(url)):
        task_id = server.give("echo")
        await until(lambda: server.result(task_id))
        assert server.result(task_id)["timestamp"] > time.time() + 3000


async def test_a_worker_that_was_forgotten_registers_again():
    """Nobody says so, but to an empty heartbeat there is no answer."""
    async with together(heartbeat_interval=0.02) as (server, worker):
        await until(lambda: None in server.kinds("heartbeat"))
        server.known = False
        await until(lambda: worker.counts.registrations == 2)
        assert server.known


async def test_the_first_registration_that_is_refused_ends_main():
    """With the words of the orchestrator: a wrong token is an error of who started the worker."""
    server = WireServer()
    async with serving(server) as url:
        worker = make(url)
        server.faults["register"] = [answer(403)]
        with pytest.raises(RefusedError, match="test 403") as caught:
            await worker.main()
        assert caught.value.status == 403
        async with running(worker):  # and it can be started again
            assert server.known


async def test_a_heartbeat_that_asks_for_all_gets_all_and_one_that_cancels_is_obeyed():
    """What the orchestrator may say in its answer."""
    async with together(heartbeat_interval=0.02) as (server, worker):
        task_id = server.give("hold")
        await until(lambda: worker.running)
        server.faults["heartbeat"] = [None, web.json_response({"status": "ok", "cancel_task_ids": [task_id]})]
        await until(lambda: server.result(task_id))
        assert server.result(task_id)["status"] == "cancelled"


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.mark.loops("real")
async def test_a_command_cancels_a_running_task_and_one_that_waits():
    """The handler is interrupted at its await; both are told as cancelled."""
    async with together(task_type_limits={"big": 1}) as (server, worker):
        await until(lambda: server.commands)
        first, second = server.give("heavy"), server.give("heavy")
        await until(lambda: worker.held_tasks == 2 and worker.running)
        await server.command(command="cancel_task", task_id=second, job_id=second.replace("task", "job"))
        await until(lambda: server.result(second))
        await server.command(command="cancel_task", job_id=first.replace("task", "job"))
        await until(lambda: server.result(first))
        assert [server.result(task_id)["status"] for task_id in (first, second)] == ["cancelled", "cancelled"]
        assert worker.running == []
        assert worker.counts.cancels == 2
        await server.command(command="cancel_task", task_id="unknown")
        await server.command(command="dance")
        task_id = server.give("echo")
        await until(lambda: server.result(task_id))


async def test_a_channel_that_breaks_is_opened_again():
    """And the worker registers, for the orchestrator may be another one."""
    async with together() as (server, worker):
        await until(lambda: worker.counts.connected)
        await server.commands[0].close()
        await until(lambda: len(server.commands) == 2 and worker.counts.connected)
        await until(lambda: worker.counts.registrations == 2)


@pytest.mark.parametrize("websockets", [True, False])
async def test_progress_goes_to_the_orchestrator(websockets):
    """By the channel of commands if it is open, else by a call of its own."""
    server = WireServer()
    async with serving(server) as url:
        worker = make(url, websockets=websockets)

        @worker.task("step")
        async def step(params):
            current_job().report_progress(0.5, "half")
            await worker.gate.wait()

        async with running(worker):
            await until(lambda: worker.counts.connected is websockets)
            task_id = server.give("step")
            await until(lambda: server.kinds("event"))
            event = server.kinds("event")[0]
            assert event["payload"] == {"progress": 0.5, "message": "half"}
            assert event["target_task_id"] == task_id
            assert ("event" in server.calls) is not websockets
            worker.gate.set()
            await until(lambda: server.result(task_id))


# -- the end (C-08) ----------------------------------------------------------------------------------------------------


async def test_stop_finishes_what_runs_and_hands_back_what_has_not_begun():
    """And fetches nothing more; the poll under way is dropped only after the orchestrator knows."""
    async with together(task_type_limits={"big": 1}) as (server, worker):
        first, second = server.give("heavy"), server.give("heavy")
        await until(lambda: worker.held_tasks == 2 and server.polling)
        stopping = asyncio.create_task(worker.stop())
        await until(lambda: server.result(second))
        assert server.result(second)["error"]["code"] == "TRANSIENT_ERROR"
        draining = next(body for body in server.kinds("heartbeat") if body["status"] == "draining")
        assert draining["supported_skills"] == []
        assert server.result(first) is None
        worker.gate.set()
        report = await stopping
        assert server.result(first)["status"] == "success"
        assert (report.tasks, report.cancelled, report.undelivered) == (2, 1, ())
        assert server.polling == 0  # its id may be used again, so its last poll was waited for


async def test_a_task_that_the_last_poll_brings_is_done():
    """It was given to this worker, and to no other."""
    async with together() as (server, worker):
        await until(lambda: server.polling)
        stopping = asyncio.create_task(worker.stop())
        await until(lambda: server.kinds("heartbeat")[-1]["status"] == "draining")
        task_id = server.give("echo")
        await stopping
        assert server.result(task_id)["status"] == "success"


async def test_a_worker_without_a_name_of_its_own_stops_at_once(monkeypatch):
    """Nobody will ever have its id again, so its last poll takes nothing from anybody."""
    monkeypatch.delenv("WORKER_ID", raising=False)
    server = WireServer()
    server.poll_seconds = 600
    async with serving(server) as url, running(worker := make(url, worker_id=None)):
        await until(lambda: server.polling)
        await worker.stop()
        assert server.kinds("heartbeat")[-1]["status"] == "offline"


@pytest.mark.loops("real")
async def test_a_stop_can_be_hurried():
    """At its time, running tasks are cancelled and handed back."""
    async with together() as (server, worker):
        task_id = server.give("hold")
        await until(lambda: worker.running)
        patient = asyncio.create_task(worker.stop())
        await until(lambda: server.kinds("heartbeat")[-1]["status"] == "draining")
        assert await worker.stop(timeout=0) is await patient
        assert server.result(task_id)["error"]["code"] == "TRANSIENT_ERROR"
        assert worker.running == []


async def test_stop_from_inside_of_a_handler_returns_at_once():
    """Its own task is one of those that have to end."""
    server = WireServer()
    async with serving(server) as url:
        worker = make(url)

        @worker.task("last")
        async def last(params):
            return {"stopped": await worker.stop()}

        async with running(worker) as main:
            task_id = server.give("last")
            report = await main
        assert server.result(task_id)["data"] == {"stopped": None}
        assert report.tasks == 1


@pytest.mark.loops("real")
async def test_a_main_that_is_cancelled_hands_back_what_runs():
    """There is no time, but the result is worth a try."""
    server = WireServer()
    async with serving(server) as url:
        worker = make(url)
        async with running(worker) as main:
            task_id = server.give("hold")
            await until(lambda: worker.running)
            main.cancel()
            await asyncio.wait([main])
            assert main.cancelled()
        assert server.result(task_id)["error"]["code"] == "TRANSIENT_ERROR"


async def test_aiopool_run_ends_the_worker_at_a_signal(tmp_path):
    """Its pool is closed from outside, and all goes the usual way."""
    server = WireServer()
    async with serving(server) as url:
        code = PROGRAM.replace("asyncio.run(worker.main())", "import aiopool; aiopool.run(worker.main)")
        command = [sys.executable, "-c", code, url, str(tmp_path / "results.db")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        task_id = server.give("nap", {"seconds": 0.3})
        assert await asyncio.to_thread(process.stdout.readline) == "napping\n"
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0, errors
        assert server.result(task_id)["status"] == "success"


# -- the pool's own features -------------------------------------------------------------------------------------------


async def test_retries_and_time_limits_are_the_pools():
    """The orchestrator hears of the end only; a plain function runs in a thread; the job knows its task."""
    server, seen = WireServer(), []
    async with serving(server) as url:
        worker = make(url, pool=Pool(2))

        @worker.task("shaky", retry=Retry(attempts=3, delay=0))
        async def shaky(params):
            seen.append((current_job().attempt, current_job().metadata["job_id"]))
            if current_job().attempt < 3:
                raise ConnectionError("not yet")

        @worker.task("slow", timeout=0.01)
        async def slow(params):
            await asyncio.Event().wait()

        @worker.task("plain")
        def plain(params):
            return {"in a loop": asyncio._get_running_loop() is not None}

        async with running(worker):
            ids = [server.give(name) for name in ("shaky", "slow", "plain")]
            await until(lambda: all(map(server.result, ids)))
        shaken, slowed, plainly = map(server.result, ids)
        assert shaken["status"] == "success"
        assert seen == [(n, shaken["job_id"]) for n in (1, 2, 3)]
        assert slowed["error"]["code"] == "TIMEOUT_ERROR"
        assert plainly["data"] == {"in a loop": False}


async def test_its_numbers_for_prometheus():
    """Under the names of the guide: `worker_tasks_total{task_type,status}`, `worker_task_duration_seconds`."""
    from prometheus_client import CollectorRegistry

    from aiopool.avtomatika.prometheus import WorkerCollector

    registry = CollectorRegistry()
    async with together() as (server, worker):
        registry.register(WorkerCollector(worker))
        ids = [server.give("echo"), server.give("echo"), server.give("unknown")]
        await until(lambda: all(map(server.result, ids)))
        await until(lambda: not worker.kept_results)

        def value(name, **labels):
            return registry.get_sample_value(name, labels)

        assert value("worker_tasks_total", task_type="echo", status="success") == 2
        assert value("worker_tasks_total", task_type="unknown", status="failure") == 1
        assert value("worker_task_duration_seconds_count", task_type="echo") == 2
        assert value("worker_task_duration_seconds_bucket", task_type="echo", le="+Inf") == 2
        assert value("worker_results_total", outcome="accepted") == 3
        assert value("worker_registrations_total") == 1
        assert value("worker_results_kept") == 0
    with pytest.raises(ValueError, match="namespace"):
        WorkerCollector(worker, namespace="no good")


def test_the_package_is_not_loaded_with_aiopool():
    """Nor what it needs; without that, its import says what to install."""
    code = (
        "import sys, aiopool; assert not {'aiohttp', 'orjson', 'aiopool.avtomatika'} & set(sys.modules)\n"
        "sys.modules['orjson'] = None\n"
        "import aiopool.avtomatika"
    )
    root = Path(aiopool.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 1
    assert "pip install -e '.[avtomatika]'" in done.stderr
