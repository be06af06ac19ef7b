"""Stopping: one deadline for all, force at its end, whole families, from everywhere, and what is told meanwhile."""

import asyncio
import math
import os
import signal
import subprocess
import sys
import threading
import time

import anyio
import psutil
import pytest
from services.support import (
    PATIENT,
    STUBBORN,
    line,
    marked,
    nothing_left,  # noqa: F401 - a check around every test of this module
    running,
    script,
    stubborn,
    until,
    wait_until,
)

from aiopool import Pool
from aiopool.services import Command, ServiceRegistry, _families
from aiopool.services._families import MARK, ProcessTree, end_trees
from aiopool.services._process import ProcessTable, identify
from aiopool.services._stop import Deadlines, _ask, _verdict

SECONDS = {"601", "602", "603"}


async def for_ever() -> None:
    await asyncio.Event().wait()


class Slow:
    """An object whose stop takes until it is let go, and which says whether it runs."""

    def __init__(self) -> None:
        self.running = False
        self.asked = threading.Event()
        self.let_go = threading.Event()
        self.stops = 0

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.stops += 1
        self.asked.set()
        self.let_go.wait(30)
        self.running = False


# -- one deadline -------------------------------------------------------------------------------------------


def test_the_deadline_keeps_a_part_for_force() -> None:
    """A fifth, at most a second; with zero all is force, and half a second is for being sure."""
    assert Deadlines.within(10.0, now=100.0) == Deadlines(109.0, 109.0, 110.0)
    assert Deadlines.within(1.0, now=0.0) == Deadlines(0.8, 0.8, 1.0)
    assert Deadlines.within(0.0, now=0.0) == Deadlines(0.0, 0.4, 0.5)
    never = Deadlines.within(math.inf, now=0.0)
    assert never.deadline - never.force_at == 1.0, "infinity less a second would leave no second"
    for wrong in (-0.1, math.nan, None):
        with pytest.raises(ValueError, match="0 kills at once"):
            Deadlines.within(wrong, now=0.0)  # type: ignore[arg-type]


async def test_a_hundred_stubborn_children_take_as_long_as_one() -> None:
    """The timeout is for all together, not for each, and all are dead when it returns."""
    registry = ServiceRegistry()
    children = [subprocess.Popen(STUBBORN, stdout=subprocess.PIPE) for _ in range(100)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.stdout.close()
        registry.add("stubborn", child)
    report = await registry.stop_all(timeout=2.0)
    assert (report.stopped, report.failed, len(report.killed)) == (100, 0, 100)
    assert report.message == "100 stopped, 0 failed, 100 of them by force"
    assert report.seconds < 60, "one timeout each would be 200 s"
    assert [child.poll() for child in children] == [-signal.SIGKILL] * 100
    assert len(registry) == 0


def test_zero_seconds_kill_at_once() -> None:
    """Zero is a value, not "no limit" and not the default."""
    registry = ServiceRegistry()
    children = [stubborn() for _ in range(3)]
    for child in children:
        registry.add("stubborn", child)
    report = registry.stop_all_sync(timeout=0)
    assert report.seconds < 20, "the default would be 30 s"
    assert (report.stopped, len(report.killed)) == (3, 3)


async def test_the_polite_are_not_killed() -> None:
    """A child that cleans up on SIGTERM ends with its own exit code, while a stubborn one beside it is killed."""
    registry = ServiceRegistry()
    polite = subprocess.Popen(
        ["sh", "-c", 'trap "exit 7" TERM; echo ready; while :; do sleep 0.05; done'], stdout=subprocess.PIPE
    )
    assert polite.stdout is not None
    polite.stdout.readline()
    polite.stdout.close()
    registry.add("a", polite, name="polite")
    registry.add("a", stubborn(), name="stubborn")
    report = await registry.stop_all(timeout=2)
    assert report.killed == ("stubborn",)
    assert polite.poll() == 7


async def test_a_stopped_process_is_woken_so_that_it_can_answer() -> None:
    """SIGTERM alone would wait for ever in a process that is held by SIGSTOP."""
    registry = ServiceRegistry()
    child = subprocess.Popen(PATIENT)
    os.kill(child.pid, signal.SIGSTOP)
    registry.add("a", child)
    report = await registry.stop_all(timeout=10)
    assert report.killed == ()
    assert child.poll() == -signal.SIGTERM


async def test_stubborn_tasks_objects_and_processes_share_one_deadline() -> None:
    """Whatever ignores being asked, all at once: the stop ends when it said, and tells who is left."""
    let_go = asyncio.Event()

    async def ignores() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    class Hangs:
        async def start(self) -> None: ...

        async def stop(self) -> None:
            await ignores()

    registry = ServiceRegistry()
    slow = Slow()
    registry.add("task", ignores, name="task")
    registry.add("object", Hangs(), name="object")
    registry.add("thread", slow, name="thread")
    registry.add("process", stubborn(), name="process")
    await registry.start()
    report = await registry.stop_all(timeout=1.0)
    assert report.seconds < 3.5, "one after the other would take four seconds"
    assert (report.success, report.stopped, report.failed) == (False, 1, 3)
    assert report.killed == ("process",)
    assert [error.partition(":")[0] for error in report.errors if "stop" in error] >= ["object", "thread"]
    # They are not lost: still registered, and a later stop finds them willing.
    assert {service.name for service in registry.status().services if service.alive} == {"task", "thread"}
    assert all(registry.status()[name].status == "failed" for name in ("task", "object", "thread"))
    let_go.set()
    slow.let_go.set()
    await until(lambda: not any(service.alive for service in registry.status().services))
    assert (await registry.stop_all(timeout=2)).success


async def test_a_task_that_swallows_its_cancel_is_told_again_and_again() -> None:
    """Once, as asyncio has it; from the beginning of force on at a beat, for a library may have swallowed a few."""
    told = 0

    async def deaf() -> None:
        nonlocal told
        while told < 4:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told += 1

    registry = ServiceRegistry()
    registry.add("task", deaf, name="deaf")
    await registry.start()
    await asyncio.sleep(0)
    assert (await registry.stop_all(timeout=2)).success
    assert told == 4


async def test_a_failing_stop_is_reported_and_stays_registered() -> None:
    """With its text; nothing is dropped (B3.7, B4)."""

    class Broken:
        broken = True

        async def start(self) -> None: ...

        async def stop(self) -> None:
            if self.broken:
                raise OSError("socket is on fire")

    registry = ServiceRegistry()
    broken = Broken()
    registry.add("queue", broken, name="broken")
    registry.add("loop", for_ever)
    await registry.start()
    report = await registry.stop_all(timeout=5)
    assert (report.success, report.stopped, report.failed) == (False, 1, 1)
    assert report.errors == ("broken: OSError: socket is on fire",)
    assert report.by_type["queue"].errors == report.errors
    assert report.by_type["loop"].stopped == 1
    assert "socket is on fire" in report.message
    assert registry.status()["broken"].status == "failed"
    assert registry.status()["broken"].error == "OSError: socket is on fire"
    broken.broken = False
    assert (await registry.stop("broken", timeout=5)).success


async def test_a_stop_that_only_sets_a_flag_is_waited_for() -> None:
    """Stopped means seen to be over, not that `stop()` has returned."""

    class Flag:
        def __init__(self) -> None:
            self.task: asyncio.Task[None] | None = None
            self.asked = asyncio.Event()

        def start(self) -> None:
            self.task = asyncio.create_task(self.run())

        async def run(self) -> None:
            await self.asked.wait()
            for _ in range(50):
                await asyncio.sleep(0)

        async def stop(self) -> None:
            self.asked.set()

        def is_running(self) -> bool:
            return self.task is not None and not self.task.done()

    registry = ServiceRegistry()
    flag = Flag()
    registry.add("flag", flag)
    async with registry:
        assert flag.is_running()
        assert (await registry.stop_all(timeout=5)).success
        assert not flag.is_running()


async def test_a_stop_that_takes_a_timeout_is_given_the_time_left() -> None:
    """A parameter of that name gets the seconds until force begins."""
    given: list[float] = []

    class Timed:
        async def stop(self, timeout: float = 99.0) -> None:
            given.append(timeout)

    registry = ServiceRegistry()
    registry.add("timed", Timed(), started=True)
    await registry.stop_all(timeout=5)
    assert 3.5 < given[0] <= 4.0


# -- families -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["registry", pytest.param("family", marks=pytest.mark.long)])
async def test_grandchildren_end_with_their_service(end) -> None:
    """Also stubborn ones, those below them, and those in another session; nobody knows them but the process table."""
    inner = "(setsid sleep 601; true) & (trap '' TERM; sleep 602; true) & sleep 603 & echo $$; trap '' TERM; wait; wait"
    child = subprocess.Popen(["sh", "-c", inner], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    tree = psutil.Process(child.pid)
    await until(lambda: {name for found in tree.children(recursive=True) for name in found.cmdline()[1:]} >= SECONDS)
    pids = [found.pid for found in tree.children(recursive=True)]
    assert len(pids) == 5
    if end == "registry":
        registry = ServiceRegistry()
        registry.add("tree", child)
        report = await registry.stop_all(timeout=1)
        assert (report.success, report.killed) == (True, ("tree-1",))
    else:
        process = identify(child.pid)
        assert process is not None
        family = ProcessTree([process])
        end_trees([family], force_at=0, deadline=0)
        assert family.forced
        assert family.living() == set()
        child.wait(10)
    assert not any(map(running, [child.pid, *pids]))


def test_killing_is_never_left_out_though_the_time_is_over(monkeypatch) -> None:
    """On a machine that has no time, the look alone may take longer than was left: nobody is left stopped."""
    monkeypatch.setattr(_families, "_VERIFY", 0.0)
    process = subprocess.Popen(["sleep", "601"])
    family = ProcessTree([identify(process.pid)])
    end_trees([family], force_at=0, deadline=0)
    assert process.wait(10) == -signal.SIGKILL
    assert family.forced


async def test_a_command_is_ended_with_its_daemons() -> None:
    """A double fork into a new session escapes parents and sessions, but not the mark in the environment."""
    registry = ServiceRegistry()
    daemon = "import os,time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(600)"
    registry.add("web", ["sh", "-c", f'python3 -S -c "{daemon}"; sleep 600'], name="web")
    await registry.start()
    root = registry.status()["web"].pid
    assert root is not None
    mark = registry._table.select("web")[0].kind.mark
    assert mark is not None

    def settled() -> bool:
        try:
            return sorted(os.getsid(pid) == root for pid in marked(mark)) == [False, True, True]
        except ProcessLookupError:
            return False

    await until(settled, what="shell, sleep and daemon")
    pids = marked(mark)
    report = await registry.stop_all(timeout=10)
    assert report.success
    assert report.killed == ()  # everybody was asked, and nobody had to be killed
    assert not any(map(running, pids))
    assert marked(mark) == []


async def test_a_command_of_a_command_is_known_to_both_registries() -> None:
    """A program with a registry of its own, started by one: what the inner one starts can be ended by the outer one."""
    registry = ServiceRegistry()
    registry.add("inner", Command(PATIENT, env={**os.environ, MARK: "outer"}), name="inner")
    await registry.start()
    (service,) = registry._table.select("inner")
    assert psutil.Process(service.pid()).environ()[MARK] == f"outer,{service.kind.mark}"
    family = ProcessTree([], mark="outer")
    family.refresh(ProcessTable())
    assert {process.pid for process in family.members} == {service.pid()}
    assert (await registry.stop_all(timeout=5)).success


async def test_a_command_is_ended_with_what_has_lost_its_parent_and_its_environment() -> None:
    """What stays in the session is found there, also after the leader of the session is gone."""
    registry = ServiceRegistry()
    registry.add("web", ["sh", "-c", "(env -i sleep 611 &) ; exec sleep 612"], name="web")
    await registry.start()
    leader = registry.status()["web"].pid
    assert leader is not None

    def session() -> list[list[str]]:
        try:
            return sorted(psutil.Process(found.pid).cmdline() for found in ProcessTable().session(leader))
        except psutil.NoSuchProcess as error:  # the shells are only passing through
            return [[str(error)]]

    await until(lambda: session() == [["sleep", "611"], ["sleep", "612"]])
    assert (await registry.stop_all(timeout=10)).killed == ()
    assert session() == []


async def test_what_an_object_leaves_behind_is_ended_although_nobody_has_looked_before() -> None:
    """The descendants of its processes are looked up right before its stop() destroys the trace."""

    class Careless:
        def __init__(self) -> None:
            inner = 'trap "" TERM; sleep 600 & echo $!; wait'
            self.child = subprocess.Popen(["sh", "-c", inner], stdout=subprocess.PIPE, text=True)
            assert self.child.stdout is not None
            self.left = int(self.child.stdout.readline())
            self.child.stdout.close()

        async def stop(self) -> None:
            self.child.kill()
            self.child.wait()

    registry = ServiceRegistry(check_every=600)
    careless = Careless()
    registry.add("a", careless, started=True, pids=lambda: [careless.child.pid])
    report = await registry.stop_all(timeout=3)
    assert report.success
    assert not running(careless.left)


async def test_a_stop_that_comes_too_late_does_not_stop_what_runs_anew() -> None:
    """Two stops overlap, and between their ends somebody starts the service again."""
    registry = ServiceRegistry()
    slow = Slow()
    slow.let_go.set()
    registry.add("a", slow, name="slow")
    await registry.start()
    (service,) = registry._table.select("slow")
    await registry.stop("slow", timeout=5)
    await registry.start("slow")
    assert slow.stops == 1
    assert await _ask(service, Deadlines.within(5, now=time.monotonic())) is None
    outcome = await _verdict(service, Deadlines.within(5, now=time.monotonic()), None)
    assert outcome.stopped  # it was, for that stop
    assert slow.stops == 1
    assert registry.status()["slow"].status == "running"
    await registry.stop_all(timeout=5)


async def test_a_group_that_waits_for_its_child_is_asked_as_a_whole() -> None:
    """A shell cannot run its trap before its foreground child is over; so both are asked."""
    registry = ServiceRegistry()
    registry.add("web", ["sh", "-c", 'trap "exit 0" TERM; sleep 600'], name="web")
    await registry.start()
    pid = registry.status()["web"].pid
    assert pid is not None
    mark = registry._table.select("web")[0].kind.mark
    assert mark is not None
    await until(lambda: len(marked(mark)) == 2)
    report = await registry.stop_all(timeout=20)
    assert report.killed == ()


def test_a_parent_is_asked_before_its_children() -> None:
    """A process that looks after its children would start them anew; they are asked once it is gone."""
    code = (
        "import signal,subprocess,sys\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "def end(*_):\n"
        "    try: child.wait(1)\n"
        "    except subprocess.TimeoutExpired: sys.exit(0)\n"
        "    sys.exit(9)\n"  # the child was taken away before the parent
        "signal.signal(signal.SIGTERM, end)\n"
        "print(child.pid, flush=True)\n"
        "while True: signal.pause()\n"
    )
    child = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, text=True)
    grandchild = int(line(child)[0]) if child.stderr else int(child.stdout.readline())  # type: ignore[union-attr]
    assert child.stdout is not None
    child.stdout.close()
    registry = ServiceRegistry()
    registry.add("parent", child)
    assert registry.stop_all_sync(timeout=20).killed == ()
    assert child.poll() == 0
    assert not running(grandchild)


# -- from everywhere ----------------------------------------------------------------------------------------


def test_sync_stop_without_a_loop() -> None:
    """Plain code with processes and objects needs no event loop at all."""
    registry = ServiceRegistry()
    slow = Slow()
    slow.start()
    slow.let_go.set()
    registry.add("a", stubborn(), name="p")
    registry.add("b", slow, name="o")
    report = registry.stop_sync("p", timeout=1)
    assert report.killed == ("p",)
    assert registry.stop_sync(type="b", timeout=1).stopped == 1
    assert slow.stops == 1


async def test_sync_stop_inside_the_loop_refuses_what_would_deadlock() -> None:
    """It names who and what to write; nothing was stopped. What does not live on this loop can be stopped."""
    registry = ServiceRegistry()
    child = stubborn()
    registry.add("a", for_ever, name="loop")
    registry.add("b", child, name="child")
    await registry.start()
    with pytest.raises(RuntimeError, match=r"'loop'.*await registry\.stop_all\(timeout=5\)"):
        registry.stop_all_sync(timeout=5)
    assert all(service.alive for service in registry.status().services)
    report = registry.stop_sync("child", timeout=1)
    assert (report.stopped, report.killed) == (1, ("child",))
    assert child.poll() == -signal.SIGKILL
    assert (await registry.stop_all(timeout=5)).success


async def test_sync_stop_from_another_thread_reaches_the_loop() -> None:
    """Coroutines and async objects are stopped on the loop on which they live."""
    ended: list[int] = []

    async def body() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0.01)
            ended.append(threading.get_ident())

    registry = ServiceRegistry()
    registry.add("a", body)
    registry.add("b", stubborn())
    await registry.start()
    await asyncio.sleep(0)
    report = await asyncio.to_thread(registry.stop_all_sync, timeout=1)
    assert (report.stopped, report.failed) == (2, 0)
    assert ended == [threading.get_ident()]


def test_async_stop_from_another_loop() -> None:
    """A service that lives on one loop is stopped by `await` on another."""
    registry = ServiceRegistry()
    registry.add("a", for_ever, name="far")
    started, end = threading.Event(), threading.Event()

    async def home() -> None:
        await registry.start()
        started.set()
        await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=asyncio.run, args=(home(),))
    thread.start()
    assert started.wait(20)

    async def away() -> None:
        report = await registry.stop("far", timeout=5)
        assert report.success, report

    try:
        asyncio.run(away())
        assert not registry.status()["far"].alive
    finally:
        end.set()
        thread.join()


@pytest.mark.parametrize("eager", [False, pytest.param(True, marks=pytest.mark.long)])
async def test_a_service_may_stop_its_own_registry(eager) -> None:
    """It is cancelled while it waits for the stop, which goes on without it; also where tasks start eagerly."""
    if eager:
        if not hasattr(asyncio, "eager_task_factory"):
            pytest.skip("tasks start eagerly from Python 3.12 on")
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    registry = ServiceRegistry()
    child = stubborn()

    async def suicidal() -> None:
        await registry.stop_all(timeout=1)

    registry.add("a", suicidal, name="s")
    registry.add("b", child)
    await registry.start()
    await until(lambda: child.poll() is not None)
    await until(lambda: registry.status()["s"].status == "stopped")
    await registry.stop_all(timeout=1)


# -- meanwhile ----------------------------------------------------------------------------------------------


async def test_status_during_a_slow_stop_returns_at_once() -> None:
    """No lock is held while a stop waits, neither for this thread nor for another."""
    registry = ServiceRegistry()
    slow = Slow()
    registry.add("a", slow, name="slow")
    registry.add("b", stubborn(), name="stubborn")
    await registry.start()
    stopping = asyncio.create_task(registry.stop_all(timeout=20))
    await until(slow.asked.is_set)
    for ask in (registry.status, lambda: asyncio.to_thread(registry.status)):
        status = ask()
        if asyncio.iscoroutine(status):
            status = await status
        assert {service.status for service in status.services} == {"stopping"}
        assert all(service.alive for service in status.services)
    registry.add("c", for_ever, name="new")  # nor does adding wait
    # An impatient second stop: its own deadline holds, and stop() is not called twice.
    report = await registry.stop_all(timeout=1)
    assert report.seconds < 15, "the first one goes on for 20 s"
    assert report.killed == ("stubborn",)
    assert [error for error in report.errors if "an earlier stop of it is still under way" in error]
    slow.let_go.set()
    assert (await stopping).success
    assert slow.stops == 1


async def test_a_cancelled_stop_goes_on() -> None:
    """Who waits may give up; the services are stopped all the same, within the same deadline."""
    registry = ServiceRegistry()
    child = stubborn()
    registry.add("a", child, name="child")
    stopping = asyncio.create_task(registry.stop_all(timeout=1))
    await until(lambda: registry.status()["child"].status == "stopping")
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert child.poll() is None
    await until(lambda: child.poll() is not None)
    await until(lambda: len(registry) == 0)


@pytest.mark.parametrize("how", ["told twice", pytest.param("scope", marks=pytest.mark.long)])
async def test_a_block_that_is_cancelled_while_it_stops_leaves_nobody_behind(how) -> None:
    """A second Ctrl-C, a scope of anyio around it: the block is left sooner, by force, but not before it is empty.

    Otherwise the event loop, and with it the program, could end while its services run on.
    """
    registry = ServiceRegistry(stop_timeout=60 if how == "told twice" else 1)
    child = stubborn()
    registry.add("a", child, name="child")

    async def body() -> None:
        with anyio.CancelScope() as scope:
            async with registry:
                if how == "scope":
                    scope.cancel()
                await asyncio.Event().wait()

    task = asyncio.create_task(body())
    if how == "told twice":
        await until(lambda: registry._watch._monitor is not None)
        task.cancel()
        await until(lambda: registry.status()["child"].status == "stopping")
        task.cancel()
    await asyncio.wait({task})
    assert child.poll() == -signal.SIGKILL
    assert len(registry) == 0
    assert task.cancelled() == (how == "told twice")


@pytest.mark.parametrize("sync", [False, pytest.param(True, marks=pytest.mark.long)])
async def test_what_is_added_while_everything_is_stopped_is_stopped_too(sync) -> None:
    """A request that registers its helper while the program shuts down: the helper does not outlive it."""
    registry = ServiceRegistry()
    slow = Slow()
    slow.start()
    registry.add("slow", slow)
    late = stubborn()

    def add() -> None:
        assert slow.asked.wait(30)
        registry.add("late", late)
        slow.let_go.set()

    adding = threading.Thread(target=add)
    adding.start()
    report = registry.stop_all_sync(timeout=1) if sync else await registry.stop_all(timeout=1)
    adding.join()
    assert (report.success, report.stopped, dict(report.by_type)["late"].stopped) == (True, 2, 1)
    assert late.poll() == -signal.SIGKILL


async def test_a_stop_of_one_type_leaves_its_successors_alone() -> None:
    """A rolling restart: the new ones of the type are registered while the old ones end."""
    registry = ServiceRegistry()
    slow = Slow()
    slow.start()
    registry.add("web", slow, name="old")
    stopping = asyncio.create_task(registry.stop(type="web", timeout=10))
    await until(slow.asked.is_set)
    registry.add("web", for_ever, name="new")
    await registry.start("new")
    slow.let_go.set()
    assert (await stopping).stopped == 1
    assert registry.status()["new"].alive
    await registry.stop_all(timeout=5)


@pytest.mark.parametrize("timeout", [math.inf, 1e12])
async def test_a_stop_may_take_as_long_as_it_takes(timeout) -> None:
    """No limit at all: processes, pools and tasks are waited for, and no sum of times comes out as no number."""
    registry = ServiceRegistry(stop_timeout=timeout)
    registry.add("p", subprocess.Popen(["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"]))
    registry.add("pool", Pool(size=1))
    registry.add("t", for_ever)
    await registry.start()
    report = await registry.stop_all(timeout=timeout)
    assert (report.success, report.stopped, report.killed) == (True, 3, ())


async def test_many_stops_at_once_agree() -> None:
    """Ten tasks stop the same twenty services; every one hears that they are stopped."""
    registry = ServiceRegistry()
    for _ in range(10):
        registry.add("p", subprocess.Popen(PATIENT))
        registry.add("t", for_ever)
    await registry.start()
    reports = await asyncio.gather(*(registry.stop_all(timeout=10) for _ in range(10)))
    assert all(report.success for report in reports), reports
    assert max(report.stopped for report in reports) == 20


def test_bare_pids_of_our_own_children_are_reaped() -> None:
    """A child that was handed over as a number has nobody else; no zombie stays."""
    pid = os.posix_spawnp("sleep", PATIENT, os.environ)
    registry = ServiceRegistry()
    registry.add("a", pid)
    assert registry.stop_all_sync(timeout=5).success
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_no_descendants_are_left_when_a_program_ends() -> None:
    """The reason why registries exist (B-10): after a server's end nothing of it runs, whatever it had started."""
    server = script("server.py", "leave")
    mark, *pids = line(server)
    assert len(pids) == 6
    assert all(running(int(pid)) for pid in pids)
    assert server.wait(30) == 0, server.stderr.read() if server.stderr else ""
    wait_until(lambda: not any(running(int(pid)) for pid in pids))
    wait_until(lambda: marked(mark) == [])  # the helpers of multiprocessing end a moment after their program
    server.communicate()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
async def test_storms_of_starts_and_stops_end_well(seed) -> None:
    """Many tasks start and stop the same services in any order; no exception but the announced ones, nothing left."""
    import random

    dice = random.Random(seed)
    registry = ServiceRegistry()
    for number in range(3):
        slow = Slow()
        slow.let_go.set()
        registry.add("o", slow, name=f"object{number}")
        registry.add("c", for_ever, name=f"task{number}", restart="always")
        registry.add("p", PATIENT, name=f"process{number}")
    names = [service.name for service in registry.status().services]

    async def meddle() -> None:
        for _ in range(12):
            name = dice.choice([*names, None])
            try:
                if dice.random() < 0.5:
                    await registry.start(name)
                else:
                    report = await (registry.stop_all(timeout=30) if name is None else registry.stop(name, timeout=30))
                    assert report.success
                    assert report.seconds < 20  # nobody is stubborn here, so nobody waits for a deadline
            except RuntimeError as error:
                assert "was stopped while it was starting" in str(error)  # noqa: PT017 - one of several good ends
            await asyncio.sleep(dice.random() * 0.005)

    await asyncio.gather(*(meddle() for _ in range(4)))
    marks = [service.kind.mark for service in registry._table.select(type="p")]
    assert (await registry.stop_all(timeout=10)).success
    assert {service.status for service in registry.status().services} == {"stopped"}
    assert [pid for mark in marks for pid in marked(mark or "?")] == []
