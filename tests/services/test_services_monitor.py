"""Watching: who is started again, when, how often, and who is not."""

import asyncio
import os
import signal
import subprocess
import threading
import time

import pytest
from services.support import (
    STUBBORN,
    marked,
    nothing_left,  # noqa: F401 - a check around every test of this module
    running,
    until,
    wait_until,
)

from aiopool._jobs.restart import Restart, RestartHistory
from aiopool.errors import RestartLimitError
from aiopool.services import ServiceRegistry, ServiceStatus, _monitor
from aiopool.services._kind import Ended
from aiopool.services._monitor import decide
from aiopool.services._process import ProcessId
from aiopool.services._service import Service

FAST = Restart(max_restarts=3, within=60, delay=0.01, max_delay=0.02)


async def for_ever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("policy", "ok", "again"),
    [
        ("always", True, True),
        ("always", False, True),
        ("on_failure", True, False),
        ("on_failure", False, True),
        ("never", True, False),
        ("never", False, False),
    ],
)
def test_the_decision_follows_the_policy(policy, ok, again) -> None:
    """Six cases; the delay is that of the intensity."""
    answer = decide(policy, Ended(ok, ""), RestartHistory(FAST), now=0.0)
    assert answer == (0.01 if again else "leave")


def test_the_decision_gives_up_past_the_intensity() -> None:
    """Within the period; what is older does not count."""
    history = RestartHistory(Restart(max_restarts=2, within=10, delay=1, max_delay=60))
    crash = Ended(False, "")
    assert [decide("always", crash, history, now=at) for at in (0.0, 20.0, 21.0, 22.0)] == [1.0, 1.0, 2.0, "give up"]
    assert decide("always", crash, RestartHistory(Restart(max_restarts=0)), now=0.0) == "give up"


async def test_a_killed_command_is_started_again() -> None:
    """By an event, not by the beat, which is a minute here; and its orphans are cleared away before."""
    registry = ServiceRegistry(restart=FAST, check_every=60)
    registry.add("a", ["sh", "-c", "sleep 600 & wait"], name="shell", restart="on_failure")
    async with registry:
        first = registry.status()["shell"].pid
        assert first is not None
        mark = registry._table.select("shell")[0].kind.mark
        assert mark is not None
        await until(lambda: len(marked(mark)) == 2)
        orphan = next(pid for pid in marked(mark) if pid != first)
        os.kill(first, signal.SIGKILL)
        await until(lambda: registry.status()["shell"].restarts == 1 and registry.status()["shell"].alive)
        second = registry.status()["shell"].pid
        assert second != first
        assert not running(orphan)
        assert registry.status()["shell"].error is None
    assert not running(second or 0)
    assert marked(mark) == []


async def test_a_process_that_ends_well_is_only_started_again_always() -> None:
    """Exit code 0 is no failure."""
    registry = ServiceRegistry(restart=FAST, check_every=60)
    registry.add("a", ["sh", "-c", "exit 0"], name="always", restart="always")
    registry.add("a", ["sh", "-c", "exit 0"], name="on_failure", restart="on_failure")
    registry.add("a", ["sh", "-c", "exit 3"], name="never")
    async with registry:
        await until(lambda: registry.status()["always"].status == "failed")
        await until(lambda: registry.status()["on_failure"].status == "ended")
        await until(lambda: registry.status()["never"].status == "ended")
        status = registry.status()
        assert [service.restarts for service in status.services] == [3, 0, 0]
        assert status["on_failure"].error is None
        assert status["never"].error == "ended with exit code 3"


async def test_a_service_that_crashes_too_often_is_given_up_visibly() -> None:
    """The reason, the number and the way on are told once, to the log and to `on_error`; others are not touched."""
    told: list[tuple[ServiceStatus, Exception]] = []
    runs = 0

    async def crash() -> None:
        nonlocal runs
        runs += 1
        raise ValueError(f"run {runs}")

    registry = ServiceRegistry(restart=FAST, on_error=lambda status, error: told.append((status, error)))
    registry.add("a", crash, name="crash", restart="always")
    registry.add("a", for_ever, name="well", restart="always")
    async with registry:
        await until(lambda: registry.status()["crash"].status == "failed")
        assert runs == 4
        assert registry.status()["crash"].restarts == 3
        assert registry.status()["well"].restarts == 0
        errors = [error for _, error in told]
        assert [str(error.__cause__) for error in errors] == ["run 1", "run 2", "run 3", "run 4", "run 4"]
        assert isinstance(errors[-1], RestartLimitError)
        assert "more than 3 times within 60 s" in str(errors[-1])
        assert "await registry.start('crash')" in str(errors[-1])
        assert told[-1][0].name == "crash"
        # Started by hand it gets a new account.
        await registry.start("crash")
        await until(lambda: runs == 8)
        await until(lambda: registry.status()["crash"].status == "failed")


ANYTHING = [RuntimeError, asyncio.CancelledError, GeneratorExit, MemoryError, RecursionError]


@pytest.mark.parametrize("kind", [*ANYTHING, KeyboardInterrupt])
async def test_an_on_error_that_raises_hurts_nobody(caplog, kind) -> None:
    """Whatever it raises is logged, and the service is started again."""

    def explode(status: ServiceStatus, error: Exception) -> None:
        raise kind("listener is broken")

    runs = 0

    async def once() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("first run")
        await for_ever()

    registry = ServiceRegistry(restart=FAST, on_error=explode)
    registry.add("a", once, restart="on_failure")
    async with registry:
        await until(lambda: runs == 2)
    assert "on_error raised" in caplog.text
    assert {record.name for record in caplog.records} == {"aiopool.services"}


async def test_a_start_that_fails_again_counts_as_a_crash() -> None:
    """A restart may itself fail; it is tried again, within the intensity."""
    starts = 0

    class Flaky:
        running = False

        async def start(self) -> None:
            nonlocal starts
            starts += 1
            if starts in (2, 3):
                raise OSError("not yet")
            self.running = True

        async def stop(self) -> None:
            self.running = False

    registry = ServiceRegistry(restart=FAST, check_every=0.02)
    flaky = Flaky()
    registry.add("a", flaky, name="flaky", restart="on_failure")
    async with registry:
        flaky.running = False  # it says so, and the beat sees it
        await until(lambda: starts == 4 and registry.status()["flaky"].status == "running")
        assert registry.status()["flaky"].restarts == 3
        assert registry.status()["flaky"].error is None


@pytest.mark.parametrize("kind", [OSError, *ANYTHING])
async def test_an_object_whose_liveness_cannot_be_asked_counts_as_ended(caplog, kind) -> None:
    """An exception in `is_running()` is a fault, told and answered; it is not swallowed."""

    class Sick:
        starts = 0
        stopped = False

        async def start(self) -> None:
            self.starts += 1
            self.stopped = False

        async def stop(self) -> None:
            self.stopped = True

        def is_running(self) -> bool:
            if self.starts == 1:
                raise kind("socket closed")
            return self.starts > 1 and not self.stopped

    registry = ServiceRegistry(restart=FAST, check_every=0.02)
    sick = Sick()
    registry.add("a", sick, name="sick", restart="on_failure")
    async with registry:
        await until(lambda: sick.starts == 2 and registry.status()["sick"].alive)
    assert "cannot be asked whether it runs" in caplog.text


@pytest.mark.parametrize("end", ["stop", "remove"])
async def test_who_is_stopped_or_forgotten_is_not_started_again(end) -> None:
    """A service waits for its next start; then it is stopped, or forgotten and nobody's business any more."""
    runs = 0

    async def crash() -> None:
        nonlocal runs
        runs += 1
        raise ValueError

    registry = ServiceRegistry(restart=Restart(max_restarts=100, delay=0.3, max_delay=0.3))
    registry.add("a", crash, name="crash", restart="always")
    await registry.start()
    await until(lambda: registry.status()["crash"].status == "restarting")
    if end == "stop":
        assert (await registry.stop("crash", timeout=5)).success
    else:
        registry.remove("crash")
    before = runs
    # Not a sleep for luck: the restart that must not come would have come after 0.3 s.
    await asyncio.sleep(0.5)
    assert runs == before
    assert [service.status for service in registry.status().services] == (["stopped"] if end == "stop" else [])
    await registry.stop_all(timeout=5)


async def test_a_service_is_started_again_on_its_own_loop() -> None:
    """The monitor lives on the loop that started first; what a coroutine talks to lives on the loop that started it."""
    registry = ServiceRegistry(restart=Restart(delay=0))
    loops: list[asyncio.AbstractEventLoop] = []
    crash, end = threading.Event(), threading.Event()

    async def body() -> None:
        loops.append(asyncio.get_running_loop())
        await until(crash.is_set)
        if len(loops) == 1:
            raise ValueError("once")
        await asyncio.Event().wait()

    async def other() -> None:
        await registry.start("second")
        await until(end.is_set)

    registry.add("a", ["sleep", "600"], name="first")
    await registry.start()
    registry.add("b", body, name="second", restart="always")
    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    await until(lambda: loops)
    crash.set()
    await until(lambda: len(loops) == 2)
    assert loops[0] is loops[1]
    assert (await registry.stop_all(timeout=10)).success
    end.set()
    thread.join()


async def test_a_factory_makes_a_new_process_each_time() -> None:
    """Which is how a `multiprocessing.Process` is started again."""
    import multiprocessing

    from services import targets

    context = multiprocessing.get_context("spawn")
    registry = ServiceRegistry(restart=Restart(max_restarts=1, delay=0), check_every=60)
    registry.add("mp", lambda: context.Process(target=targets.crash, args=(3,)), name="mp", restart="on_failure")
    async with registry:
        await until(lambda: registry.status()["mp"].status == "failed")
        assert registry.status()["mp"].restarts == 1
        assert registry.status()["mp"].error == "ended with exit code 3"


async def test_orphans_of_a_crash_are_ended_even_without_a_restart() -> None:
    """Seen at a beat while their parent lived, they are found after its death."""
    registry = ServiceRegistry(check_every=0.02)
    child = subprocess.Popen(["sh", "-c", 'trap "" TERM; sleep 600 & echo $!; wait'], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    orphan = int(child.stdout.readline())
    child.stdout.close()
    registry.add("a", child, name="child")
    await registry.start()
    await until(lambda: orphan in registry.status()["child"].pids)
    child.kill()
    await until(lambda: registry.status()["child"].status == "ended")
    await until(lambda: not running(orphan))
    await registry.stop_all(timeout=2)


async def test_at_rest_a_registry_of_processes_costs_nothing() -> None:
    """No polling: a second of a hundred watched processes takes next to no CPU time."""
    registry = ServiceRegistry(check_every=60)
    for _ in range(50):
        registry.add("a", ["sleep", "600"])
    async with registry:
        await asyncio.sleep(0.05)  # the first look
        began, cpu = time.monotonic(), time.thread_time()
        await asyncio.sleep(1.0)
        assert time.thread_time() - cpu < 0.1 * (time.monotonic() - began)


async def test_what_is_added_while_it_runs_is_watched_too() -> None:
    """`add` wakes the monitor."""
    registry = ServiceRegistry(check_every=60)
    await registry.start()
    child = subprocess.Popen(STUBBORN, stdout=subprocess.DEVNULL)
    registry.add("a", child, name="child")
    await asyncio.sleep(0)
    child.kill()
    await until(lambda: registry.status()["child"].status == "ended")
    await registry.stop_all(timeout=1)


async def test_an_end_between_the_question_and_the_watch_is_not_lost(monkeypatch) -> None:
    """The service says that it runs, dies, and only then is to be watched; and there is no beat to help."""
    child = subprocess.Popen(["sleep", "600"])
    roots = _monitor._roots
    calls = 0

    def dies_meanwhile(service: Service) -> tuple[ProcessId, ...]:
        nonlocal calls
        calls += 1
        found = roots(service)
        if calls == 1:
            child.kill()
            wait_until(lambda: not running(child.pid))
        return found

    monkeypatch.setattr(_monitor, "_roots", dies_meanwhile)
    registry = ServiceRegistry(check_every=600)
    registry.add("a", child, name="child")
    await registry.start()
    await until(lambda: registry.status()["child"].status == "ended")
    assert calls >= 1
    await registry.stop_all(timeout=1)


async def test_a_service_that_says_it_runs_without_its_process_keeps_nobody_busy() -> None:
    """Its root is gone, its word stands: the monitor looks once more, and then at the beat."""
    asked = 0

    class Talker:
        def __init__(self) -> None:
            self.child = subprocess.Popen(["sleep", "600"])

        def start(self) -> None: ...

        def stop(self) -> None: ...

        def is_running(self) -> bool | None:
            nonlocal asked
            asked += 1
            return None if stopping else True

    stopping = False
    talker = Talker()
    registry = ServiceRegistry(check_every=600)
    registry.add("a", talker, pids=lambda: [talker.child.pid])
    await registry.start()
    await asyncio.sleep(0.02)
    talker.child.kill()
    talker.child.wait()
    before = asked
    await asyncio.sleep(0.3)  # a busy monitor would ask some thousand times
    assert asked - before < 10
    stopping = True
    assert (await registry.stop_all(timeout=1)).success
