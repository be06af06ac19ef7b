"""ServiceRegistry: the table, its status, starting and stopping of every kind of service."""

import asyncio
import contextlib
import functools
import multiprocessing
import os
import subprocess
import threading
import types
from collections.abc import AsyncIterator
from types import MappingProxyType

import anyio
import psutil
import pytest
from services import targets
from services.support import (
    PATIENT,
    nothing_left,  # noqa: F401 - a check around every test of this module
    running,
    stubborn,
    until,
    wait_until,
)

from aiopool import Pool, PoolClosedError
from aiopool._jobs.restart import Restart
from aiopool.services import Command, ServiceRegistry

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Sync:
    """A worker object with plain methods that says whether it runs."""

    def __init__(self) -> None:
        self.running = False
        self.calls: list[str] = []
        self.thread: int | None = None

    def start(self) -> None:
        self.calls.append("start")
        self.running = True

    def stop(self) -> None:
        self.calls.append("stop")
        self.thread = threading.get_ident()
        self.running = False


class Async:
    """A worker object with async methods that does not say whether it runs."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.calls.append("start")

    async def stop(self) -> None:
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0.01)
        self.calls.append("stop")


async def for_ever() -> None:
    await asyncio.Event().wait()


# -- the table ----------------------------------------------------------------------------------------------


def test_the_shared_registry_is_one_for_all_threads() -> None:
    """A hundred threads that ask at the same time get the same registry (B-01)."""
    barrier = threading.Barrier(100)
    found: list[ServiceRegistry] = []

    def ask() -> None:
        barrier.wait()
        found.append(ServiceRegistry.shared())

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 100
    assert len(set(map(id, found))) == 1
    assert ServiceRegistry() is not found[0]


def test_a_forked_child_gets_a_shared_registry_of_its_own_and_may_not_use_its_parents() -> None:
    """What the parent has registered is not the child's to stop."""
    parents = ServiceRegistry.shared()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        verdict = "same"
        try:
            if ServiceRegistry.shared() is not parents:
                verdict = "own"
            parents.stop_all_sync(timeout=1)
        except RuntimeError as error:
            verdict += f" {error}"
        finally:
            os.write(writer, verdict.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    assert text.startswith("own this registry belongs to process")


def test_construction_touches_nothing(tmp_path, monkeypatch) -> None:
    """No handler, no file, no thread, no loop."""
    import signal

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threads = threading.active_count()
    ServiceRegistry(pid_dir=tmp_path / "run", handle_signals=True)
    assert not (tmp_path / "run").exists()
    assert threading.active_count() == threads
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_register_takes_a_mapping_and_leaves_it_alone() -> None:
    """An info mapping with free extra keys is read, never changed, and may be read-only (B-02, B3.7)."""
    registry = ServiceRegistry()
    child = subprocess.Popen(PATIENT)
    info = {"process": child, "pid": child.pid, "name": "watcher", "db_path": "files.db"}
    before = dict(info)
    assert registry.register("file_watcher", MappingProxyType(info)) == "watcher"
    assert info == before
    status = registry.status()["watcher"]
    assert (status.type, status.pid, status.alive, status.status) == ("file_watcher", child.pid, True, "running")
    assert dict(status.extra) == {"db_path": "files.db"}
    assert status.registered_at.tzinfo is not None
    assert registry.stop_all_sync(timeout=5).stopped == 1
    assert child.poll() == -15


def test_register_refuses_what_cannot_be_stopped() -> None:
    """An entry without any handle is refused, not dropped in silence (B3.5)."""
    with pytest.raises(ValueError, match="process, queue_system, worker, pid"):
        ServiceRegistry().register("repair", {"name": "x", "db_path": "y"})


def test_a_registered_worker_object_is_alive_and_its_stop_is_called() -> None:
    """A worker object runs already; without a liveness question it counts as alive until stopped (B3.6, B-09)."""

    class Silent:
        stopped = 0

        def stop(self) -> None:
            self.stopped += 1

    registry = ServiceRegistry()
    silent = Silent()
    name = registry.register("repair", {"worker": silent})
    assert registry.status()[name].alive
    report = registry.stop_all_sync(timeout=5)
    assert (report.stopped, report.failed, silent.stopped) == (1, 0, 1)


def test_status_has_the_shape_of_the_endpoint() -> None:
    """`as_dict` has the keys that a status endpoint shows (B-04)."""
    registry = ServiceRegistry()
    children = [subprocess.Popen(PATIENT) for _ in range(3)]
    for number, child in enumerate(children):
        registry.register("vectorization" if number else "repair", {"process": child, "name": f"w{number}"})
    shape = registry.status().as_dict()
    assert shape["total_workers"] == 3
    assert shape["by_type"] == {
        "repair": {"count": 1, "pids": [children[0].pid], "names": ["w0"]},
        "vectorization": {"count": 2, "pids": [c.pid for c in children[1:]], "names": ["w1", "w2"]},
    }
    assert [set(worker) for worker in shape["workers"]] == [{"type", "pid", "name", "alive", "registered_at"}] * 3
    assert registry.status("repair").as_dict()["total_workers"] == 1
    report = registry.stop_all_sync(timeout=5)
    assert report.as_dict().keys() == {
        "success", "stopped", "failed", "total_stopped", "total_failed", "by_type", "errors", "message"
    }  # fmt: skip
    assert report.as_dict()["by_type"]["vectorization"] == {"stopped": 2, "failed": 0, "errors": []}
    assert registry.status().as_dict() == {"total_workers": 0, "by_type": {}, "workers": []}


def test_remove_forgets_without_stopping() -> None:
    """By name, by type, by type and pid; what is unknown is no fault (B-03)."""
    registry = ServiceRegistry()
    children = [subprocess.Popen(PATIENT) for _ in range(4)]
    names = [registry.add("a" if number < 3 else "b", child) for number, child in enumerate(children)]
    assert registry.remove("nobody") == 0
    assert registry.remove(type="nothing") == 0
    assert registry.remove(type="a", pid=children[3].pid) == 0
    assert registry.remove(type="a", pid=children[0].pid) == 1
    assert registry.remove(names[3]) == 1
    assert registry.remove(type="a") == 2
    assert len(registry) == 0
    with pytest.raises(TypeError, match="stop_all_sync"):
        registry.remove()
    assert all(running(child.pid) for child in children)
    for child in children:
        child.kill()
        child.wait()


def test_names_are_unique_and_one_thing_is_registered_once() -> None:
    """Duplicates are detected, by name, by object and by process (B3.7)."""
    registry = ServiceRegistry()
    child, worker = subprocess.Popen(PATIENT), Sync()
    assert registry.add("a", child) == "a-1"
    with pytest.raises(ValueError, match="'a-1' is registered already"):
        registry.add("b", Sync(), name="a-1")
    with pytest.raises(ValueError, match="registered already, as 'a-1'"):
        registry.add("b", child)
    with pytest.raises(ValueError, match="registered already, as 'a-1'"):
        registry.add("b", child.pid)
    registry.add("w", worker)
    with pytest.raises(ValueError, match="registered already, as 'w-1'"):
        registry.add("w", worker)
    assert [registry.add("f", for_ever), registry.add("f", for_ever)] == ["f-1", "f-2"]
    assert "f-2" in registry
    assert "f-3" not in registry
    assert registry.stop_all_sync(timeout=5).success


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (None, "object with stop"),
        (True, "object with stop"),
        ("sleep 600", "object with stop"),
        (3.5, "object with stop"),
        (object(), "object with stop"),
        pytest.param(os.getpid(), "it is this process", id="itself"),
        pytest.param(os.getppid(), "one that it descends from", id="its parent"),
        (0, "cannot be a service"),
        (-1, "cannot be a service"),
        (1, "cannot be a service"),
        ([], "name a program"),
        ([3], "neither a string nor a path"),
    ],
)
def test_what_cannot_be_a_service_is_refused(target, text) -> None:
    """With the reason; above all, a registry never takes its own process for a service."""
    registry = ServiceRegistry()
    with pytest.raises((TypeError, ValueError), match=text):
        registry.add("x", target)
    assert len(registry) == 0


def test_a_coroutine_object_is_refused_with_the_right_line() -> None:
    """It can run only once; the function can be started again."""
    with pytest.raises(TypeError, match=r"registry.add\(type, for_ever\)"):
        ServiceRegistry().add("x", for_ever())


def test_a_command_shows_no_secret() -> None:
    """Its repr names the program, and counts arguments and variables; a status and a record hold neither."""
    command = Command(["db", "--password", SECRET], cwd="/", env={"TOKEN": SECRET}, die_with_parent=True)
    assert repr(command) == "Command(['db', 2 more], cwd='/', env=<1 of its own>, die_with_parent=True)"
    assert repr(Command(["db"])) == "Command(['db'])"
    registry = ServiceRegistry()
    registry.add("db", command, name="db")
    assert SECRET not in repr(registry) + repr(registry.status()) + str(registry.status().as_dict())


SECRET = "hunter2"


@pytest.mark.parametrize(
    "register",
    [
        lambda registry: registry.add("x", f"db --password {SECRET}"),
        lambda registry: registry.add("x", Command(f"db --password {SECRET}")),
        lambda registry: registry.add("x", ["db", SECRET, 3]),
        lambda registry: registry.add("x", functools.partial(SECRET.join, SECRET)()),
        lambda registry: registry.add("x", types.SimpleNamespace(password=SECRET)),
        lambda registry: registry.add("x", dead(), restart="always"),
        lambda registry: registry.register("x", {"password": SECRET}),
    ],
    ids=["text", "command", "words", "result", "object", "process", "info"],
)
def test_no_refusal_shows_a_secret(register) -> None:
    """What cannot be registered is called by its class: its repr may hold the arguments of a program."""
    with pytest.raises((TypeError, ValueError)) as caught:
        register(ServiceRegistry())
    assert SECRET not in str(caught.value)


def dead() -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(["true", SECRET])
    child.wait()
    assert SECRET in repr(child)
    return child


async def test_no_start_that_fails_shows_a_secret() -> None:
    """A process that runs once is called by its class, too."""
    registry = ServiceRegistry()
    registry.add("x", dead(), name="x")
    with pytest.raises(RuntimeError, match="this Popen cannot be started again") as caught:
        await registry.start()
    assert SECRET not in str(caught.value)


def test_a_dead_pid_is_refused() -> None:
    """There is nothing to be stopped, and the number may soon be somebody else's."""
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(ProcessLookupError, match=f"no process {child.pid}"):
        ServiceRegistry().add("x", child.pid)


def test_a_restart_of_what_runs_once_is_refused() -> None:
    """A process handle cannot be started again; the error shows what can."""
    child = subprocess.Popen(PATIENT)
    with pytest.raises(ValueError, match=r"multiprocessing\.Process"):
        ServiceRegistry().add("x", child, restart="always")
    with pytest.raises(ValueError, match='"always", "on_failure" or "never"'):
        ServiceRegistry().add("x", for_ever, restart="sometimes")  # type: ignore[arg-type]
    child.kill()
    child.wait()


async def test_a_context_manager_of_a_generator_runs_once() -> None:
    """It cannot be entered again, which is told when it is registered; the function that makes it can be."""
    entered: list[int] = []

    @contextlib.asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        entered.append(len(entered))
        yield

    registry = ServiceRegistry()
    with pytest.raises(ValueError, match="register the function that makes it"):
        registry.add("c", connection(), restart="always")
    registry.add("c", connection(), name="once")
    registry.add("c", connection, name="again", restart="always")
    for _ in range(2):
        await registry.start()
        assert (await registry.stop_all(timeout=5)).success
        assert "once" not in registry, "it has nothing left to be known for"
    assert entered == [0, 1, 2]


@pytest.mark.parametrize("words", ["sleep 600", "sh -c true"])
def test_a_command_line_in_one_string_is_refused(words) -> None:
    """No shell splits it; the error shows the list."""
    with pytest.raises(TypeError) as caught:
        Command(words)
    assert f"Command(['{words.split()[0]}', ...])" in str(caught.value)


# -- every kind, started and stopped ------------------------------------------------------------------------


async def test_every_kind_starts_and_stops_in_one_block() -> None:
    """Objects, functions, managers, commands, processes: alive inside the block, over after it."""
    entered: list[str] = []

    @contextlib.asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        entered.append("in")
        async with anyio.create_task_group() as group:  # demands to be left by the task that entered
            group.start_soon(anyio.sleep_forever)
            yield
            group.cancel_scope.cancel()
        entered.append("out")

    sync, asynchronous = Sync(), Async()
    popen, bare, seen = (subprocess.Popen(PATIENT) for _ in range(3))
    registry = ServiceRegistry()
    registry.add("sync", sync)
    registry.add("async", asynchronous)
    registry.add("coroutine", for_ever)
    registry.add("partial", functools.partial(asyncio.sleep, 600))
    registry.add("manager", manager)
    registry.add("command", PATIENT)
    registry.add("class", Sync)
    registry.add("popen", popen)
    registry.add("pid", bare.pid)
    registry.add("psutil", psutil.Process(seen.pid))
    registry.add("asyncio", await asyncio.create_subprocess_exec(*PATIENT))
    registry.add("anyio", await anyio.open_process(PATIENT))
    registry.add("factory", lambda: subprocess.Popen(PATIENT))
    registry.add("awaitable", lambda: asyncio.create_subprocess_exec(*PATIENT))
    async with registry:
        status = registry.status()
        assert len(status.services) == 14
        assert {service.name: service.alive for service in status.services if not service.alive} == {}
        assert {service.status for service in status.services} == {"running"}
        pids = [service.pid for service in status.services if service.pid is not None]
        assert len(pids) == 8
        assert all(map(running, pids))
        assert sync.calls == ["start"]
        assert entered == ["in"]
    assert sync.calls == ["start", "stop"]
    assert sync.thread != threading.get_ident()
    assert asynchronous.calls == ["start", "stop"]
    assert entered == ["in", "out"]
    assert not any(map(running, pids))
    assert [process.wait(timeout=5) for process in (bare, seen)] == [0, 0]  # reaped: they had nobody else
    # What can be started again is still known; what was handed over running is not.
    assert {service.type for service in registry.status().services} == {
        "sync", "async", "coroutine", "partial", "manager", "command", "class", "factory", "awaitable"
    }  # fmt: skip
    assert {service.status for service in registry.status().services} == {"stopped"}


async def test_start_and_stop_are_tolerant() -> None:
    """Stop before start, double start, double stop, start again after a stop."""
    registry = ServiceRegistry()
    sync = Sync()
    registry.add("a", sync, name="sync")
    registry.add("b", for_ever, name="loop")
    assert (await registry.stop_all(timeout=5)).stopped == 2
    assert sync.calls == []
    await registry.start()
    await registry.start()
    assert sync.calls == ["start"]
    for _ in range(2):
        report = await registry.stop_all(timeout=5)
        assert (report.success, report.stopped, report.failed) == (True, 2, 0)
    assert sync.calls == ["start", "stop"]
    await registry.start("sync")
    assert registry.status()["sync"].alive
    assert not registry.status()["loop"].alive
    with pytest.raises(KeyError, match="no service 'nobody'"):
        await registry.start("nobody")
    await registry.start()
    assert registry.status()["loop"].alive
    assert (await registry.stop_all(timeout=5)).success


async def test_stop_by_name_and_by_type() -> None:
    """Only what was asked for; unknown names and types succeed with nothing, and all fields are there (B-06, B3.5)."""
    registry = ServiceRegistry()
    for number in range(4):
        registry.add("even" if number % 2 == 0 else "odd", for_ever, name=f"s{number}")
    await registry.start()
    report = await registry.stop(type="even", timeout=5)
    assert report.message == "2 stopped, 0 failed"
    assert set(report.by_type) == {"even"}
    assert [s.alive for s in registry.status().services] == [False, True, False, True]
    assert (await registry.stop("s1", timeout=5)).stopped == 1
    assert (await registry.stop("s3", type="even", timeout=5)).stopped == 0
    for nothing in (await registry.stop("nobody"), await registry.stop(type="nothing")):
        assert (nothing.success, nothing.stopped, nothing.failed, nothing.errors) == (True, 0, 0, ())
        assert dict(nothing.by_type) == {}
        assert nothing.message.startswith("nothing to stop: no service")
    with pytest.raises(TypeError, match="stop_all"):
        await registry.stop()
    with pytest.raises(ValueError, match="0 kills at once"):
        await registry.stop("s3", timeout=-1)
    assert registry.status()["s3"].alive
    await registry.stop_all(timeout=5)


async def test_a_failing_start_raises_its_own_exception_and_stops_what_ran() -> None:
    """`async with` does not leave anything behind when a service cannot be started."""

    class Broken(Sync):
        def start(self) -> None:
            raise OSError("port taken")

    registry = ServiceRegistry()
    first, third = Sync(), Sync()
    registry.add("a", first)
    registry.add("a", Broken(), name="broken")
    registry.add("a", third)
    with pytest.raises(OSError, match="port taken") as caught:
        async with registry:
            pytest.fail("must not be entered")
    assert caught.value.__notes__ == ["while starting service 'broken' (a)"]
    assert first.calls == ["start", "stop"]
    assert third.calls == []


async def test_a_command_that_does_not_exist_fails_to_start() -> None:
    """Also behind the wrapper that makes it die with its parent."""
    registry = ServiceRegistry()
    registry.add("a", ["no-such-program-anywhere"], name="plain")
    registry.add("a", Command(["no-such-program-anywhere"], die_with_parent=True), name="bound")
    for name in ("plain", "bound"):
        with pytest.raises(FileNotFoundError):
            await registry.start(name)
        assert registry.status()[name].status == "failed"
        assert "FileNotFoundError" in (registry.status()[name].error or "")
    await registry.stop_all(timeout=1)


async def test_a_start_that_hangs_ends_at_its_timeout() -> None:
    """A function that returns a coroutine is a factory; the error says so."""
    registry = ServiceRegistry()
    registry.add("a", lambda: for_ever())
    with pytest.raises(TimeoutError, match="register the coroutine function itself"):
        await registry.start(timeout=0.05)
    assert registry.status().services[0].status == "failed"
    await registry.stop_all(timeout=1)


async def test_a_stop_ends_a_start_that_is_under_way() -> None:
    """The starter hears that it was stopped, and is not itself cancelled."""
    entered = asyncio.Event()

    class Slow(Async):
        async def start(self) -> None:
            await super().start()
            entered.set()
            await asyncio.sleep(600)

    registry = ServiceRegistry()
    slow = Slow()
    registry.add("a", slow, name="slow")
    starting = asyncio.create_task(registry.start())
    await entered.wait()
    report = await registry.stop("slow", timeout=5)
    assert report.success
    with pytest.raises(RuntimeError, match="was stopped while it was starting"):
        await starting
    assert not starting.cancelled()
    assert slow.calls == ["start", "stop"]
    await registry.stop_all(timeout=1)


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(method, marks=pytest.mark.long) for method in ("forkserver", "spawn"))]
)
async def test_multiprocessing_by_every_start_method(method) -> None:
    """Started by us or before; stubborn or not; with the right verdict and nothing left (B-05, B-08)."""
    context = multiprocessing.get_context(method)
    registry = ServiceRegistry()
    pipes = []
    for name, target in (("good", targets.serve), ("stubborn", targets.ignore), ("parent", targets.with_grandchild)):
        reader, writer = context.Pipe(duplex=False)
        registry.add("mp", context.Process(target=target, args=(writer,)), name=name)
        pipes.append(reader)
    reader, writer = context.Pipe(duplex=False)
    started = context.Process(target=targets.serve, args=(writer,))
    started.start()
    registry.add("mp", started, name="started")
    await registry.start()
    assert [await asyncio.to_thread(pipe.recv) for pipe in (*pipes[:2], reader)] == ["ready"] * 3
    grandchild = await asyncio.to_thread(pipes[2].recv)
    pids = [service.pid for service in registry.status().services]
    assert all(map(running, [*pids, grandchild]))
    report = await registry.stop_all(timeout=1.5)
    assert (report.stopped, report.failed, report.killed) == (4, 0, ("stubborn",)), report
    assert not any(map(running, [*pids, grandchild]))
    assert started.exitcode == -15


async def test_an_aiopool_pool_is_a_service() -> None:
    """A pool is entered, works, and is shut down within the time that the stop has."""
    pool = Pool(size=2)
    registry = ServiceRegistry()
    registry.add("pool", pool, name="jobs")
    async with registry:
        assert registry.status()["jobs"].alive

        async def work(number: int) -> int:
            await asyncio.sleep(0)
            return number * 2

        assert await pool.run(work, 21) == 42
        stuck = await pool.submit(asyncio.sleep, 600)
        report = await registry.stop("jobs", timeout=1.0)
        assert report.seconds < 60, "the job takes 600 s"
        assert report.success, report
        with pytest.raises(Exception):  # noqa: B017 - which one is the pool's business
            await stuck
    with pytest.raises(PoolClosedError):
        await pool.submit(work, 1)


async def test_a_lifespan_is_a_plain_block() -> None:
    """In the shape in which Starlette and FastAPI take it (B-11)."""
    state: dict[str, ServiceRegistry] = {}

    @contextlib.asynccontextmanager
    async def lifespan(app: dict[str, ServiceRegistry]) -> AsyncIterator[None]:
        async with ServiceRegistry() as registry:
            registry.add("files", PATIENT, name="watcher")
            await registry.start()
            app["services"] = registry
            yield

    async with lifespan(state):
        pid = state["services"].status()["watcher"].pid
        assert pid is not None
        assert running(pid)
    assert not running(pid)


async def test_a_block_can_be_opened_in_one_task_and_closed_in_another() -> None:
    """As a pytest fixture or a server's lifespan does it."""
    registry = ServiceRegistry()
    registry.add("a", for_ever)
    registry.add("b", contextlib.nullcontext)
    await asyncio.create_task(registry.__aenter__())
    assert all(service.alive for service in registry.status().services)
    await asyncio.create_task(registry.__aexit__(None, None, None))
    assert not any(service.alive for service in registry.status().services)


def test_a_closed_loop_ends_its_coroutines() -> None:
    """A service whose loop is closed is over, and a later stop says so instead of hanging."""
    registry = ServiceRegistry(restart=Restart(max_restarts=0))

    async def main() -> None:
        registry.add("a", for_ever, name="loop")
        await registry.start()

    asyncio.run(main())
    assert not registry.status()["loop"].alive
    assert registry.stop_all_sync(timeout=1).success


async def test_adopted_processes_that_end_are_seen() -> None:
    """The end of a process is an event; the status follows without being asked twice."""
    registry = ServiceRegistry(check_every=60)
    child = stubborn()
    registry.add("a", child, name="child")
    await registry.start()
    child.kill()
    await until(lambda: registry.status()["child"].status == "ended")
    assert registry.status()["child"].error == "ended by signal 9"
    assert (await registry.stop_all(timeout=1)).stopped == 1
    wait_until(lambda: "child" not in registry)


async def test_a_handle_that_has_to_be_polled_tells_its_exit_code() -> None:
    """psutil's own handle learns of an end when it is polled, and reaps the process by that."""
    told: list[str] = []
    registry = ServiceRegistry(on_error=lambda status, error: told.append(str(error)))
    child = psutil.Popen(["sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE)
    registry.add("a", child, name="child")
    async with registry:
        assert child.stdin is not None
        child.stdin.close()
        await until(lambda: told)
    assert told == ["service 'child' (a) ended with exit code 3"]
    assert child.returncode == 3


def test_repr_tells_where_all_are() -> None:
    """For the log and the debugger."""
    registry = ServiceRegistry("app")
    assert repr(registry) == "<ServiceRegistry 'app' empty>"
    registry.add("a", for_ever, name="x")
    assert repr(registry) == "<ServiceRegistry 'app' x: new>"
