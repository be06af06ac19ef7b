"""`aiopool.run(services=...)`: companions start before main, end after it, and none outlives the program."""

import asyncio
import signal
import subprocess
import textwrap
import time

import psutil
import pytest
from child_programs import program, rest, wait_for
from services.support import (
    nothing_left,  # noqa: F401 - a check around every test of this module
    running,
    wait_until,
)

import aiopool
from aiopool import Pool
from aiopool.services import Command, ServiceRegistry

# A service that ignores SIGTERM, with a grandchild that does, too; it prints both pids when they are deaf.
STUBBORN = """
from aiopool.services import Command, ServiceRegistry
logging = __import__("logging"); logging.basicConfig(level="INFO")
deaf = 'trap "" TERM; sh -c \\'trap "" TERM; echo pid $$; exec sleep 600\\' & echo pid $$; wait; exec sleep 600'
registry = ServiceRegistry()

async def job():
    say("started")
    await asyncio.sleep(0.2)
    say("done")
"""


def pids(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith("pid ")]


def two_pids(process: "subprocess.Popen[str]", services: int = 1, word: str | None = None) -> list[int]:
    """Read until all services and their children have said who they are, and the program a word: in any order."""
    assert process.stdout is not None
    found: list[int] = []
    said: list[str] = []
    while len(found) < 2 * services or not (word is None or f"{word}\n" in said):
        line = process.stdout.readline()
        assert line, f"the program ended: {said}"
        said.append(line)
        found += pids([line])
    assert all(running(pid) for pid in found)
    return found


def test_started_in_order_before_main_and_stopped_in_reverse():
    """Each is ready before the next; the pool is opened after the last, and closed before the first is stopped."""
    order = []

    class Thing:
        def __init__(self, name: str) -> None:
            self.name = name

        async def start(self) -> None:
            await asyncio.sleep(0.01)
            order.append(f"{self.name} starts")

        async def stop(self) -> None:
            order.append(f"{self.name} is asked")
            await asyncio.sleep(0.01)
            order.append(f"{self.name} ends")

    registry = ServiceRegistry()
    for name in ("database", "cache", "queue"):
        registry.add("thing", Thing(name), name=name)

    async def main(pool: Pool) -> str:
        assert all(service.alive for service in registry.status().services)
        order.append("main")
        return "value"

    pool = Pool()
    pool.on_shutdown(lambda: order.append("pool ends"))
    assert aiopool.run(main, pool=pool, services=registry) == "value"
    assert order == [
        *("database starts", "cache starts", "queue starts", "main", "pool ends"),
        *("queue is asked", "queue ends", "cache is asked", "cache ends", "database is asked", "database ends"),
    ]


def test_one_that_fails_to_start_is_named_and_those_before_it_are_stopped():
    """main is not called, the pool is not opened, and the error says which service it was."""
    registry = ServiceRegistry()
    registry.add("file", Command(["sleep", "600"]), name="watcher")
    registry.add("data", Command(["there-is-no-such-program"]), name="database")
    registry.add("file", Command(["sleep", "600"]), name="never")

    async def main(pool: Pool) -> None:
        raise AssertionError("called")

    pool = Pool()
    with pytest.raises(FileNotFoundError) as caught:
        aiopool.run(main, pool=pool, services=registry)
    assert caught.value.__notes__ == ["while starting service 'database' (data)"]
    assert pool.status == "new"
    assert [service.alive for service in registry.status().services] == [False, False, False]


def test_main_that_raises_stops_them_too():
    registry = ServiceRegistry()
    registry.add("file", Command(["sleep", "600"]), name="watcher")
    seen = []

    async def main() -> None:
        seen.append(registry.status()["watcher"].pid)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        aiopool.run(main, services=registry)
    assert not running(seen[0])


def test_a_registry_can_be_run_again_and_an_empty_one_is_no_fault():
    """What could be started once can be started twice."""
    registry = ServiceRegistry()

    async def main() -> bool:
        return all(service.alive for service in registry.status().services)

    assert aiopool.run(main, services=registry)
    registry.add("file", Command(["sleep", "600"]))
    assert [aiopool.run(main, services=registry) for _ in range(2)] == [True, True]


def test_a_coroutine_and_a_pool_as_services():
    """They live in the event loop of main, and end there."""
    seen = []

    async def tick() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("tick ends")
            raise

    registry = ServiceRegistry()
    registry.add("tick", tick)
    companion = Pool(name="companion")
    registry.add("pool", companion)

    async def main() -> int:
        return await companion.run(asyncio.sleep, 0, 42)

    assert aiopool.run(main, services=registry) == 42
    assert seen == ["tick ends"]
    assert companion.status == "closed"


def test_in_another_thread():
    """No signals there, but services all the same."""
    import threading

    registry = ServiceRegistry()
    registry.add("file", Command(["sleep", "600"]), name="watcher")
    seen: list[int | None] = []

    async def main() -> None:
        seen.append(registry.status()["watcher"].pid)

    thread = threading.Thread(target=lambda: aiopool.run(main, services=registry))
    thread.start()
    thread.join(30)
    assert seen[0] is not None
    assert not running(seen[0])


def test_a_list_is_answered_with_the_lines_to_write():
    async def main() -> None: ...

    with pytest.raises(TypeError, match=r"aiopool\.run\(main, services=registry\)"):
        aiopool.run(main, services=[Command(["sleep", "600"])])  # type: ignore[call-overload]


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_a_clean_drain_with_services_is_exit_code_0(number: signal.Signals):
    """Jobs are finished while the services still run; these end when they are asked; nothing of the tree is left."""
    with program(
        STUBBORN
        + """
        registry.add("file", Command(["sh", "-c", "echo pid $$; sleep 600 & echo pid $!; wait"]), name="watcher")

        async def job():
            say("started")
            while pool.status == "open":
                await asyncio.sleep(0.01)
            say("alive", registry.status()["watcher"].alive)

        async def main(pool):
            await pool.submit(job)
            await pool.wait_closed()

        pool = Pool()
        aiopool.run(main, pool=pool, services=registry)
        """.replace("\n        ", "\n")
    ) as process:
        found = two_pids(process, word="started")
        process.send_signal(number)
        lines, code = rest(process)
    assert code == 0, lines
    assert "alive True" in lines
    assert len(found) == 2
    assert not any(running(pid) for pid in found)


def deaf(body: str, services: int = 1, **options: object) -> str:
    adds = "".join(
        f'registry.add("deaf", Command(["sh", "-c", deaf]), name="deaf {number}")\n' for number in range(services)
    )
    return STUBBORN + adds + textwrap.dedent(body)


def test_stubborn_ones_and_their_children_are_killed_in_time():
    """All within the one deadline, however many there are; and force is no clean end."""
    with program(
        deaf(
            """
            async def main(pool):
                await pool.submit(job)
                await pool.wait_closed()

            began = time.monotonic()
            try:
                aiopool.run(main, pool=Pool(), services=registry, timeout=1.5, grace=0.5)
            finally:
                say("left", [s.name for s in registry.status().services if s.alive])
            """,
            services=8,
        )
    ) as process:
        found = two_pids(process, 8)
        tree = psutil.Process(process.pid).children(recursive=True)
        assert {child.pid for child in tree} >= set(found)
        process.terminate()
        lines, code = rest(process)
    assert code == 128 + signal.SIGTERM, lines
    assert "left []" in lines
    assert not any(running(child.pid) for child in tree)


def test_the_second_signal_hurries_them():
    """The first one would wait for an hour."""
    with program(
        deaf(
            """
            async def main(pool):
                say("up")
                await pool.wait_closed()

            aiopool.run(main, pool=Pool(), services=registry, timeout=3600, grace=0.2)
            """
        )
    ) as process:
        found = two_pids(process)
        process.terminate()
        wait_until_stopping(process)
        process.terminate()
        lines, code = rest(process)
    assert code == 128 + signal.SIGTERM, lines
    assert not any(running(pid) for pid in found)


def wait_until_stopping(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if ": finishing " in line:
            return
    raise AssertionError("the program was not told to end")


@pytest.mark.parametrize(
    "blocks",
    [
        "time.sleep(3600)",
        pytest.param("await asyncio.sleep(3600)", marks=pytest.mark.long),
        pytest.param("while True: pass", marks=pytest.mark.long),
    ],
)
def test_the_third_signal_takes_them_along(blocks: str):
    """Also while a job blocks the event loop; os._exit alone would leave them behind."""
    with program(
        deaf(
            f"""
            async def stuck():
                say("stuck")
                while True:
                    try:
                        {blocks}
                    except asyncio.CancelledError:
                        pass

            async def main(pool):
                await pool.run(stuck)

            aiopool.run(main, pool=Pool(cancel_grace=600), services=registry, grace=600)
            """
        )
    ) as process:
        found = two_pids(process, word="stuck")
        # Whoever is impatient does not stop at three.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.2 if process.poll() is None else 0)
        _, code = rest(process)
    assert code == 128 + signal.SIGTERM
    assert not any(running(pid) for pid in found)


def test_handlers_of_the_registry_are_not_in_the_way():
    """It was told to handle signals itself, by both ways: run() hears them first, and the exit code is run()'s."""
    with program(
        STUBBORN
        + textwrap.dedent(
            """
            registry = ServiceRegistry(handle_signals=True)
            registry.add("file", Command(["sleep", "600"]), name="watcher")
            registry.install_handlers()

            async def job():
                say("started")
                await asyncio.sleep(0.3)
                say("alive", registry.status()["watcher"].alive)

            async def main(pool):
                await pool.submit(job)
                await pool.wait_closed()

            aiopool.run(main, pool=Pool(), services=registry)
            """
        )
    ) as process:
        wait_for(process, "started")
        process.terminate()
        lines, code = rest(process)
    assert (code, lines[-1]) == (0, "alive True"), lines


def test_a_main_that_will_not_end_is_left_without_them():
    """The process leaves by force, and they go before it."""
    with program(
        deaf(
            """
            async def main():
                say("up")
                while True:
                    try:
                        await asyncio.sleep(3600)
                    except asyncio.CancelledError:
                        pass

            aiopool.run(main, services=registry, timeout=0.2, grace=0.2)
            """
        )
    ) as process:
        found = two_pids(process)
        process.terminate()
        lines, code = rest(process)
    assert code == 128 + signal.SIGTERM
    assert "main did not end" in "\n".join(lines)
    assert not any(running(pid) for pid in found)


def test_system_exit_in_a_job_takes_them_along():
    with program(
        deaf(
            """
            async def leave():
                sys.exit(7)

            async def main(pool):
                sys.stdin.readline()
                await pool.submit(leave)
                await asyncio.sleep(3600)

            aiopool.run(main, pool=Pool(), services=registry, grace=0.5)
            """
        )
    ) as process:
        found = two_pids(process)
        process.stdin.write("go\n")
        process.stdin.flush()
        lines, code = rest(process)
    assert code == 7, lines
    assert not any(running(pid) for pid in found)


def test_a_signal_while_they_start_stops_those_that_were_started():
    """main is never called; that is a clean end."""
    with program(
        STUBBORN
        + textwrap.dedent(
            """
            class Slow:
                async def start(self):
                    say("starting")
                    await asyncio.sleep(3600)
                def stop(self): ...

            registry.add("file", Command(["sleep", "600"]))
            registry.add("slow", Slow())

            async def main():
                say("main")

            aiopool.run(main, services=registry)
            """
        )
    ) as process:
        wait_for(process, "starting")
        tree = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        lines, code = rest(process)
    assert code == 0, lines
    assert "main" not in lines
    assert len(tree) == 1
    assert not running(tree[0].pid)


def test_what_is_still_there_at_the_end_of_the_time_is_killed_in_one_look():
    """The careful kill has come to nothing: the program does not end before one more."""
    with program(
        deaf(
            """
            from aiopool.services import _families
            _families._kill = lambda *args: None

            async def main():
                say("up")
                await asyncio.sleep(3600)

            aiopool.run(main, services=registry, timeout=0.2, grace=0.1)
            """
        )
    ) as process:
        found = two_pids(process, word="up")
        process.terminate()
        lines, code = rest(process)
    assert code == 128 + signal.SIGTERM, lines
    wait_until(lambda: not any(map(running, found)))


@pytest.mark.long
def test_a_kill_that_comes_to_nothing_in_time_is_done_in_one_look():
    """The careful kill is stuck, as on a machine that has no time for it; nobody is left behind all the same."""
    with program(
        deaf(
            """
            async def main():
                from aiopool.services import _families
                _families._kill = lambda *args: time.sleep(3600)
                say("up")
                while True:
                    try:
                        await asyncio.sleep(3600)
                    except asyncio.CancelledError:
                        pass

            aiopool.run(main, services=registry, grace=600)
            """
        )
    ) as process:
        found = two_pids(process, word="up")
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        _, code = rest(process)
    assert code == 128 + signal.SIGTERM
    assert not any(running(pid) for pid in found)
