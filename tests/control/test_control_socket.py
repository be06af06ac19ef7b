"""The socket: who may use it, where it is, what it answers to nonsense, and that it answers a blocked program."""

import asyncio
import contextlib
import gc
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import aiopool
from aiopool import Pool
from aiopool._control.call import VERBS
from aiopool._control.client import Connection, NoAnswerError, NoProgramError, connect, programs
from aiopool._control.problems import TITLES, Problem
from aiopool._control.server import MAX_CONNECTIONS, MAX_LINE, Server
from aiopool._control.verbs import Access
from aiopool._control.watched import watched
from aiopool._runtime.stop_signal import StopSignal
from aiopool.testing import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Python has no Unix sockets on Windows")


def knock(path, *lines):
    """Send raw lines, and return the answers until the other end closes, or as many as there are lines."""
    with socket.socket(socket.AF_UNIX) as raw, raw.makefile("rwb") as file:
        raw.settimeout(30)
        raw.connect(os.fspath(path))
        answers = []
        for line in lines:
            file.write(line)
            file.flush()
            answers.append(json.loads(file.readline()))
        return answers


async def test_the_socket_is_of_this_user_alone(door):
    """0600 in a directory of 0700."""
    assert stat.S_IMODE(door.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(door.path.parent.stat().st_mode) == 0o700
    assert door.path.name == f"{os.getpid()}.sock"


def test_a_second_call_is_the_same_door(door):
    """And another one with other rights is refused, with what to write."""
    assert aiopool.control() is door
    with pytest.raises(RuntimeError, match="close it first"):
        aiopool.control(read_only=True)
    door.close()
    assert not door.path.exists()
    again = aiopool.control(read_only=True)
    assert again is not door
    assert repr(again).endswith("read-only>")
    again.close()
    again.close()


def control_threads():
    return [thread for thread in threading.enumerate() if thread.name == "aiopool-control"]


@pytest.fixture
def closing(monkeypatch):
    """It is set when somebody has asked a control socket to end."""
    asked, stop = threading.Event(), StopSignal.set

    def noted(signal):
        stop(signal)
        asked.set()

    monkeypatch.setattr(StopSignal, "set", noted)
    return asked


def test_a_door_that_is_closed_at_once_ends_its_thread(sockets, closing, monkeypatch):
    """Also if the thread has no event loop yet."""
    run = asyncio.run

    def late(main):
        closing.wait(30)
        run(main)

    monkeypatch.setattr("aiopool._control.server.asyncio.run", late)
    aiopool.control().close()
    assert control_threads() == []


def test_who_reads_no_answer_does_not_hold_up_the_end(sockets):
    """What was written for them is thrown away."""
    found = aiopool.control()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(os.fspath(found.path))
        deaf.sendall(b'{"verb": "hello"}\n')
        deaf.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:  # until nothing more is taken, for the answers are not read
                deaf.send(b'{"verb": "hello"}\n' * 100)
        found.close()
        assert control_threads() == []


def test_whoever_has_asked_before_the_end_is_answered(sockets, closing, monkeypatch):
    """As who has asked for the end: the program closes its door before the answer is written."""
    asked = threading.Event()

    async def late(verb, arguments, **options):
        asked.set()
        await asyncio.to_thread(closing.wait, 30)
        return {"said": verb}

    monkeypatch.setattr("aiopool._control.server.call", late)
    found = aiopool.control()
    with Connection(found.path) as idle, ThreadPoolExecutor() as threads:
        answers = threads.submit(knock, found.path, b'{"verb": "shutdown"}\n')
        assert asked.wait(30)
        found.close()
        assert answers.result() == [{"id": None, "ok": {"said": "shutdown"}}]
        assert idle.is_gone
    assert control_threads() == []


async def test_hello_says_who_we_are(ask):
    """Protocol, process, pools, and the verbs that are allowed."""
    async with Pool(name="mail"), Pool(name="mail"):
        found = await ask("hello")
        assert (found["protocol"], found["pid"], found["access"]) == (1, os.getpid(), "admin")
        assert found["pools"] == ["mail", "mail-2"]
        assert {"status", "cancel", "drain"} <= set(found["verbs"])
    assert (await ask("hello"))["pools"] == []


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        (b"nonsense\n", "bad-request", "no JSON"),
        (b"\xff\xfe\n", "bad-request", "no JSON"),
        (b"[" * 100_000 + b"\n", "bad-request", "no JSON"),
        (b"[1]\n", "bad-request", "an object"),
        (b"{}\n", "bad-request", "the verb is missing"),
        (b'{"verb": 1}\n', "bad-request", "the verb is missing"),
        (b'{"verb": "status", "pool": 1}\n', "bad-request", "pool is a text"),
        (b'{"verb": "status", "args": [1]}\n', "bad-request", "pool is a text"),
        (b'{"verb": "__class__"}\n', "not-found", "there is no verb '__class__'"),
        (b'{"verb": "os.system", "args": {"id": "ls"}}\n', "not-found", "there is no verb"),
        (b'{"verb": "status", "for": {"who": 1}}\n', "bad-request", "for"),
        (b'{"verb": "status"}\n', "not-found", "no pool is open here"),
    ],
)
def test_nonsense_is_answered(door, line, kind, says):
    """Each with a problem that says what to write; the connection goes on."""
    first, second = knock(door.path, line, b'{"id": 7, "verb": "hello"}\n')
    assert first["problem"]["type"] == kind
    assert says in first["problem"]["detail"]
    assert second["id"] == 7


def test_ten_thousand_bad_lines_do_no_harm(door):
    """The door answers each, and then a good one."""
    *bad, good = knock(door.path, *[b"?\n"] * 10_000, b'{"verb": "hello"}\n')
    assert all("problem" in answer for answer in bad)
    assert good["ok"]["pid"] == os.getpid()


def test_a_line_that_does_not_end_is_refused(door):
    """More than a megabyte is no request."""
    (answer,) = knock(door.path, b"x" * (MAX_LINE + 2**17))
    assert answer["problem"]["detail"].startswith("a request is one line")


def test_so_many_may_be_connected(door):
    """One more is told so, and when one leaves there is room."""
    connections = [Connection(door.path) for _ in range(MAX_CONNECTIONS)]
    with pytest.raises(Problem, match="close one of them"):
        Connection(door.path)
    for connection in connections:
        connection.close()

    def room():
        try:
            Connection(door.path).close()
        except Problem:
            return False
        return True

    asyncio.run(wait_until(room))


def test_another_user_is_refused(door, monkeypatch):
    """The kernel says who connects; not the mode of the file alone."""
    mine = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: mine + 1)
    if os.geteuid() == 0:  # root may always: so somebody else connects
        monkeypatch.setattr("os.getuid", lambda: 0)
        os.chmod(door.path, 0o666)
        os.chmod(door.path.parent, 0o755)
        os.chmod(door.path.parent.parent, 0o755)
        script = (
            "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX); "
            "s.connect(sys.argv[1]); print(s.makefile().readline())"
        )
        said = subprocess.run(
            [sys.executable, "-I", "-S", "-c", script, door.path], capture_output=True, text=True, check=False
        )
        assert "this program is of root" in said.stdout, said.stderr
    else:
        with pytest.raises(PermissionError, match="this program is of"):
            Connection(door.path)


def test_a_read_only_door_refuses_to_steer(sockets):
    """And says who decides that; hello does not offer it."""
    door = aiopool.control(read_only=True)
    try:
        with Connection(door.path) as connection:
            assert "pause" not in connection.hello["verbs"]
            with pytest.raises(Problem, match="pause takes operate access, and you have read") as caught:
                connection.ask("pause")
            assert caught.value.status == 403
    finally:
        door.close()


async def test_whoever_asks_for_others_can_only_have_less(ask):
    """A web page passes on who asks; it gives nobody more than it has."""
    async with Pool(name="mail"):
        with pytest.raises(Problem, match="pause takes operate access, and you have read"):
            await ask("pause", on_behalf_of={"who": "eve", "access": "read"})
        await ask("pause", on_behalf_of={"who": "alice", "access": "admin"})
        (action,) = (await ask("actions"))["items"]
        assert action["who"].startswith("alice, through ")
        assert action["verb"] == "pause"


def test_a_socket_of_a_dead_process_is_replaced(sockets):
    """Its address is taken by nobody; that of a living one stays."""
    directory = aiopool.control().path.parent
    aiopool.control().close()
    left = socket.socket(socket.AF_UNIX)
    left.bind(os.fspath(directory / f"{os.getpid()}.sock"))
    left.close()
    (directory / "999999.sock").touch()
    door = aiopool.control()
    try:
        with pytest.raises(OSError, match="in use"):
            Server(door.path, Access.ADMIN).start()
        found = programs()
        assert [one.pid for one in found] == [os.getpid()]
        assert not (directory / "999999.sock").exists()
        for one in found:
            one.close()
    finally:
        door.close()


@pytest.mark.parametrize("trap", ["file", "symlink", "open"])
def test_a_directory_of_somebody_else_is_refused(sockets, trap):
    """Else another user could have put a socket there."""
    path = os.path.join(sockets, "aiopool")
    if trap == "file":
        open(path, "w").close()
    elif trap == "symlink":
        os.mkdir(os.path.join(sockets, "other"), 0o700)
        os.symlink(os.path.join(sockets, "other"), path)
    else:
        os.mkdir(path)
        os.chmod(path, 0o755)
    with pytest.raises((PermissionError, FileExistsError)):
        aiopool.control()


def test_a_path_that_is_too_long_is_refused(tmp_path, monkeypatch):
    """With what to set."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(long))
    with pytest.raises(OSError, match="set XDG_RUNTIME_DIR to a shorter directory"):
        aiopool.control()


async def test_a_blocked_loop_is_answered_for(door):
    """`status` answers while a job blocks everything, and names the job and the line; other verbs say it, too."""
    release = threading.Event()
    found = {}

    def look():
        with Connection(door.path) as connection:
            while True:
                status = connection.ask("status", rows=5)
                if status["loop"]["blocked"] is not None:
                    break
            found["status"] = status
            found["blocked"] = connection.ask("blocked")
            found["stack"] = connection.ask("stack")
            release.set()

    async def block():
        assert release.wait(30)

    async with Pool(2, name="mail") as pool:
        thread = threading.Thread(target=look)
        job = await pool.submit(block)
        thread.start()
        await job
        await asyncio.to_thread(thread.join)
        blocked = found["status"]["loop"]["blocked"]
        assert (blocked["job"], blocked["name"]) == (job.id, job.name)
        assert blocked["where"].startswith("test_control_socket.py:")
        assert f"job {job.name!r} id {job.id}" in blocked["where"]
        assert found["status"]["numbers"]["running"] == 1
        assert found["blocked"]["now"]["job"] == found["blocked"]["spells"][0]["job"] == job.id
        assert "threading.py" in found["stack"]["frames"][-1]["file"]
        with Connection(door.path) as connection:
            spell = (await asyncio.to_thread(connection.ask, "blocked"))["spells"][-1]
        assert spell["seconds"] >= blocked["seconds"]


async def test_a_verb_that_the_loop_does_not_take_names_who_blocks(door, monkeypatch):
    """And it is not done later, when the loop is free again: whoever asked was told that it was not."""
    monkeypatch.setattr("aiopool._control.call.PATIENCE", 0.3)
    release = threading.Event()
    problems = []

    def look():
        try:
            with Connection(door.path) as connection:
                connection.ask("pause")
        except Problem as problem:
            problems.append(problem)
        finally:
            release.set()

    async def block():
        threading.Thread(target=look).start()
        assert release.wait(30)

    async with Pool(2, name="mail") as pool:
        await pool.run(block)
        (problem,) = problems
        assert problem.kind == "loop-blocked"
        assert "s at test_control_socket.py:" in problem.detail
        assert "in block, job" in problem.detail
        assert problem.facts["blocked"]["job"] == 1
        assert await pool.run(asyncio.sleep, 0, "not paused") == "not paused"


async def test_a_pool_of_another_loop_is_seen(ask):
    """Two loops in two threads; each verb runs in the loop of its pool."""
    ready, end = threading.Event(), threading.Event()

    def other():
        async def main():
            async with Pool(name="other") as pool:
                job = await pool.submit(asyncio.sleep, 60)
                ready.set()
                await asyncio.to_thread(end.wait)
                job.cancel()

        asyncio.run(main())

    thread = threading.Thread(target=other)
    thread.start()
    async with Pool(name="mail"):
        await asyncio.to_thread(ready.wait)
        assert sorted((await ask("hello"))["pools"]) == ["mail", "other"]
        with pytest.raises(Problem, match=r"say which pool: (mail, other|other, mail)"):
            await ask("status")
        assert (await ask("status", "other"))["numbers"]["running"] == 1
        assert (await ask("cancel", "other", id=1))["was"] == "running"
        end.set()
        await asyncio.to_thread(thread.join)


PROGRAM = """
import asyncio, os, sys, aiopool

async def main():
    async with aiopool.Pool(2, name="child") as pool:
        await pool.submit(asyncio.sleep, 60, )
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await pool.cancel_all()

asyncio.run(main())
"""


def child(program, **environment):
    """Start a program, and wait until it says that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_environment_opens_the_door_of_any_program(sockets):
    """`AIOPOOL_CONTROL=1`, and not a line of code. Its socket goes with it; if it is killed, by the next look."""
    with child(PROGRAM, AIOPOOL_CONTROL="1") as process:
        connection, pool = connect("child")
        with connection:
            assert connection.pid == process.pid
            assert connection.ask("status", pool)["numbers"]["running"] == 1
        assert connect(str(process.pid))[0].close() is None
        process.communicate("")
    assert process.returncode == 0
    assert os.listdir(os.path.join(sockets, "aiopool")) == []
    with child(PROGRAM, AIOPOOL_CONTROL="read") as process:
        with connect(None)[0] as connection:
            assert connection.hello["access"] == "read"
            process.kill()
            process.wait()
            with pytest.raises(NoAnswerError, match="gone away"):
                connection.ask("status")
    assert programs() == []
    assert os.listdir(os.path.join(sockets, "aiopool")) == []


@pytest.mark.parametrize("value", ["", "0", "no", "off"])
def test_the_environment_can_say_no(sockets, value):
    """And then there is no thread and no socket."""
    with child(PROGRAM, AIOPOOL_CONTROL=value) as process:
        assert programs() == []
        process.communicate("")


def test_a_program_goes_on_if_its_door_cannot_be_opened(sockets):
    """The environment asked for it; the work is more important, and the log says why."""
    os.mkdir(os.path.join(sockets, "aiopool"))
    os.chmod(os.path.join(sockets, "aiopool"), 0o777)
    with child(PROGRAM, AIOPOOL_CONTROL="1") as process:
        process.communicate("")
    assert process.returncode == 0


@pytest.mark.parametrize("target", ["17", "nobody", None])
def test_who_looks_for_no_program_is_told_how_to_open_one(sockets, target):
    """The line to write is in the text."""
    with pytest.raises(NoProgramError, match=r"aiopool\.control\(\)"):
        connect(target)


FORKS = """
import asyncio, os, sys, aiopool

door = aiopool.control()
child = os.fork()
if child == 0:
    again = aiopool.control()
    print(again.path.name == f"{os.getpid()}.sock", flush=True)
    os._exit(0) if os.environ.get("RUDE") else again.close()
    sys.exit(0)
os.waitpid(child, 0)
print(door.path.exists(), flush=True)
from aiopool._control.client import Connection
print(Connection(door.path).pid == os.getpid(), flush=True)
"""


@pytest.mark.parametrize("rude", ["", "1"])
def test_the_door_belongs_to_the_parent_after_a_fork(sockets, rude):
    """The child may open its own; when it ends, that of the parent stays."""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS],
        env=os.environ | {"RUDE": rude},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.split() == ["True"] * 3, said.stderr


async def test_an_open_door_costs_a_pool_nothing_while_nobody_asks(door):
    """No timer and no task in the loop, no listener at the pool: all is made by the first question."""

    async def life(name):
        async with Pool(name=name) as pool:
            await pool.run(asyncio.sleep, 0)
            timers = [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]
            return (
                sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks()),
                timers,
                bool(pool._state.engine.observers),
            )

    with_door = await life("mail")
    door.close()
    assert await life("mail") == with_door
    assert not with_door[2]


async def test_an_event_that_is_kept_keeps_no_exception(ask):
    """Nor the frames of its traceback, and what is in them: it is kept as it is shown."""

    class Thing:
        pass

    async def fail(thing):
        raise ValueError("no")

    async with Pool(name="mail", on_error=lambda job, error: None) as pool:
        first = await ask("events")
        thing = Thing()
        gone = weakref.ref(thing)
        job = await pool.submit(fail, thing)
        await job.wait()
        del thing, job
        found = await ask("events", after=first["next"], types=["JobFailed"])
        assert [row["error"] for row in found["items"]] == ["ValueError: no"]
        gc.collect()
        assert gone() is None


async def test_events_are_heard_only_while_somebody_asks(ask, monkeypatch):
    """The listener is made by the first question, and removes itself with the first event that nobody waits for."""
    async with Pool(name="mail") as pool:
        first = await ask("events")
        assert first["items"] == []
        await pool.run(asyncio.sleep, 0)
        second = await ask("events", after=first["next"])
        assert [row["type"] for row in second["items"]] == [
            "JobSubmitted",
            "WorkerStarted",
            "JobStarted",
            "JobSucceeded",
        ]
        assert not second["gap"]
        monkeypatch.setattr("aiopool._control.events.PATIENCE", -1.0)
        await pool.run(asyncio.sleep, 0)
        assert not watched(pool).events.listening
        monkeypatch.undo()
        third = await ask("events", after=second["next"])
        assert third["items"] == []
        assert third["gap"]


def test_the_reference_lists_each_verb_and_each_problem():
    """As the code has them."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "inspection.md").read_text()
    for verb in VERBS.values():
        assert f"| `{verb.name}` | {verb.access.name.lower()} | {verb.about} |" in page
    for kind, (status, title) in TITLES.items():
        assert f"| `{kind}` | {status} | {title} |" in page
