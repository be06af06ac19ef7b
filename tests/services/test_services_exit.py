"""The way out: signals and exit stop everything, are never swallowed, and leave the right exit code."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from services.support import (
    environment,
    line,
    marked,
    nothing_left,  # noqa: F401 - a check around every test of this module
    running,
    script,
    stubborn,
    wait_until,
)

from aiopool.services import Command, ServiceRegistry
from aiopool.services._command import launch


def started(mode: str) -> "tuple[subprocess.Popen[str], int]":
    program = script("signalled.py", mode)
    word, pid = line(program)
    assert word == "ready"
    return program, int(pid)


def end(program: "subprocess.Popen[str]") -> tuple[int, str]:
    """Its exit code, and what it wrote after it was ready."""
    assert program.stdout is not None
    assert program.stderr is not None
    # Not communicate(): what `line` has read ahead would be lost.
    with program.stdout, program.stderr:
        out, err = program.stdout.read(), program.stderr.read()
    assert "Exception ignored" not in err, err
    assert "failed" not in err, err
    return program.wait(30), out


@pytest.mark.parametrize(
    ("mode", "signum"),
    [
        ("plain", signal.SIGINT),
        ("blocked", signal.SIGTERM),
        pytest.param("plain", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("blocked", signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_a_signal_stops_the_services_and_ends_the_program_with_its_code(mode, signum) -> None:
    """The stubborn child is dead, and whoever waits for the program sees the signal."""
    program, child = started(mode)
    program.send_signal(signum)
    code, _ = end(program)
    assert code == -signum
    assert not running(child)


def test_the_handler_that_was_there_gets_the_signal_afterwards() -> None:
    """Once, when all is stopped; its exit code is that of the program."""
    program, child = started("handler")
    program.send_signal(signal.SIGTERM)
    assert end(program) == (5, f"handler {signal.SIGTERM} 0\n")
    assert not running(child)


def test_an_ignored_signal_stays_ignored() -> None:
    """Neither the services nor the program hear of it."""
    program, child = started("ignored")
    program.send_signal(signal.SIGINT)
    # The counter-proof is the order: had the first one been heard, the exit code would be its.
    program.send_signal(signal.SIGTERM)
    assert end(program)[0] == -signal.SIGTERM
    assert not running(child)


def test_inside_a_loop_coroutines_are_stopped_on_it() -> None:
    """The loop goes on turning while the services are stopped; then comes KeyboardInterrupt as ever."""
    program, child = started("run_inside")
    program.send_signal(signal.SIGINT)
    code, out = end(program)
    assert code == -signal.SIGINT
    assert out == "coroutine\nmain\n"
    assert not running(child)


def test_inside_a_loop_sigterm_ends_the_program_by_default() -> None:
    """As it would have without us, but after the services."""
    program, child = started("run_inside")
    program.send_signal(signal.SIGTERM)
    code, out = end(program)
    assert code == -signal.SIGTERM
    assert out.startswith("coroutine\n")
    assert not running(child)


def test_in_a_lifespan_asyncio_cancels_the_main_task_afterwards() -> None:
    """The handler of `asyncio.run` is put back and gets the signal; the block ends normally."""
    program, child = started("lifespan")
    program.send_signal(signal.SIGINT)
    code, out = end(program)
    assert code == -signal.SIGINT
    assert out == "cancelled True 0\n"
    assert not running(child)


def test_a_handler_on_the_loop_hears_the_signal_once() -> None:
    """Passing the signal on must not look like a second one, which many programs take for "now!"."""
    program, child = started("loop_handler")
    program.send_signal(signal.SIGTERM)
    assert end(program) == (0, "heard 1 0\n")
    assert not running(child)


def test_a_second_signal_stops_by_force() -> None:
    """The first one waits for the stubborn child, the second one does not."""
    program, child = started("patient")
    program.send_signal(signal.SIGTERM)
    assert line(program) == ["stopping"]
    program.send_signal(signal.SIGTERM)
    assert end(program)[0] == -signal.SIGTERM
    assert not running(child)


def test_a_program_that_ends_meanwhile_still_ends_of_the_signal() -> None:
    """Whoever has sent the signal looks at the exit code; it would have been this one without us."""
    program, child = started("ends_meanwhile")
    program.send_signal(signal.SIGTERM)
    assert end(program)[0] == -signal.SIGTERM
    assert not running(child)


def test_at_exit_the_services_are_stopped_and_the_code_stays() -> None:
    """On every Python, also on those that start no threads any more at that time."""
    program, child = started("at_exit")
    assert end(program) == (3, "last\n")
    assert not running(child)


def test_at_exit_ours_comes_before_multiprocessings() -> None:
    """Which would wait for a child that never ends."""
    program, child = started("at_exit_multiprocessing")
    assert end(program)[0] == 4
    assert not running(child)


def test_at_exit_ours_comes_first_even_if_multiprocessing_is_used_later() -> None:
    """Its exit function is registered when it is first used, and the last one registered runs first."""
    code = (
        "import sys\n"
        "from aiopool.services import ServiceRegistry\n"
        "registry = ServiceRegistry()\n"
        "registry.install_handlers(timeout=0.5)\n"
        "import multiprocessing, signal, time\n"
        "def ignore(ready):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    ready.set()\n"
        "    time.sleep(600)\n"
        "context = multiprocessing.get_context('fork')\n"
        "ready = context.Event()\n"
        "process = context.Process(target=ignore, args=(ready,))\n"
        "process.start()\n"
        "ready.wait()\n"
        "registry.add('mp', process)\n"
        "sys.exit(4)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), timeout=30)
    assert done.returncode == 4


def test_forked_children_leave_their_parents_services_alone() -> None:
    """Ended by a signal, by exit or by an exception, each with its own code; the service runs on (B3.8)."""
    program = script("signalled.py", "forked")
    words = line(program)
    assert words == ["codes", str(-signal.SIGTERM), "6", "1", str(-signal.SIGTERM), "True"]
    _, child = line(program)
    assert end(program)[0] == 0
    assert not running(int(child))


def test_daemons_are_gone_after_a_signal() -> None:
    """The whole tree, also what had left it."""
    program = script("signalled.py", "subprocess_tree")
    _, mark = line(program)
    line(program)
    program.send_signal(signal.SIGTERM)
    assert end(program)[0] == -signal.SIGTERM
    wait_until(lambda: marked(mark) == [])


def test_handlers_are_put_back() -> None:
    """By hand, and only where ours is still in place."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    registry = ServiceRegistry()
    registry.install_handlers((signal.SIGTERM, signal.SIGINT))
    try:
        with pytest.raises(RuntimeError, match="installed already"):
            registry.install_handlers()
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # somebody is later than we
    finally:
        registry.uninstall_handlers()
        registry.uninstall_handlers()
    assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    signal.signal(signal.SIGINT, before[signal.SIGINT])


def test_handlers_need_the_main_thread() -> None:
    """With a helpful error; without signals they do not."""
    caught: list[str] = []

    def install() -> None:
        registry = ServiceRegistry()
        try:
            registry.install_handlers()
        except RuntimeError as error:
            caught.append(str(error))
        registry.install_handlers(signals=())
        registry.uninstall_handlers()

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert len(caught) == 1
    assert "install_handlers(signals=())" in caught[0]


async def test_the_block_installs_and_puts_back() -> None:
    """`handle_signals` is for the time of the block."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with ServiceRegistry(handle_signals=True):
        assert all(
            signal.getsignal(number) != was for number, was in zip((signal.SIGTERM, signal.SIGINT), before, strict=True)
        )
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_children_die_with_their_parent_even_when_a_helper_thread_started_them() -> None:
    """The kernel's *parent* is a thread; ours lives as long as the program."""
    code = (
        "import asyncio, os, threading\n"
        "from aiopool.services import Command\n"
        "from aiopool.services import ServiceRegistry\n"
        "registry = ServiceRegistry()\n"
        "registry.add('a', Command(['sleep', '600'], die_with_parent=True), name='x')\n"
        "thread = threading.Thread(target=lambda: asyncio.run(registry.start()))\n"
        "thread.start()\n"
        "thread.join()\n"
        "print(registry.status()['x'].pid, flush=True)\n"
        "input()\n"
        "print(registry.status()['x'].alive, flush=True)\n"
        "input()\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert program.stdin is not None
    assert program.stdout is not None
    child = int(program.stdout.readline())
    print(file=program.stdin, flush=True)
    assert program.stdout.readline() == "True\n"  # the thread that asked for it is gone, and the child lives
    program.kill()
    program.wait()
    wait_until(lambda: not running(child), what="the death of the child")
    program.stdin.close()
    program.stdout.close()


async def test_a_start_that_is_given_up_leaves_no_program() -> None:
    """The thread that starts programs goes on when its caller was cancelled, and undoes what nobody knows of."""
    mark = uuid.uuid4().hex
    starting = asyncio.create_task(launch(Command(["sleep", "600"], die_with_parent=True), mark))
    await asyncio.sleep(0)  # it has asked the thread
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    # One thread, one after the other: when this one runs, that one was dealt with.
    (await launch(Command(["true"], die_with_parent=True), "other")).wait()
    assert marked(mark) == []


def test_a_forked_child_starts_programs_by_a_thread_of_its_own() -> None:
    """The one of its parent was not forked with it, and a request to it would wait for ever."""
    code = (
        "import asyncio, os, sys\n"
        "from aiopool.services import Command, ServiceRegistry\n"
        "async def main():\n"
        "    registry = ServiceRegistry()\n"
        "    registry.add('a', Command(['sleep', '600'], die_with_parent=True), name='x')\n"
        "    async with registry:\n"
        "        return registry.status()['x'].alive\n"
        "assert asyncio.run(main())\n"
        "if (pid := os.fork()) == 0:\n"
        "    os._exit(7 if asyncio.run(main()) else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    program = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True, env=environment(), timeout=60
    )
    assert program.stdout == "7\n"


PARENT = """
import multiprocessing, os, sys
from services import targets

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=getattr(targets, sys.argv[2]), args=(writer,))
    process.start()
    print(process.pid, reader.recv(), flush=True)
    process.join(float(sys.stdin.readline()))
    print(process.is_alive(), process.exitcode, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def parent(tmp_path):
    """Start a program that starts a child by one of the methods of `multiprocessing`; kill it afterwards."""
    path = tmp_path / "parent.py"
    path.write_text(PARENT)
    programs: list[subprocess.Popen[str]] = []

    def start(method: str, target: str = "bound") -> "subprocess.Popen[str]":
        program = subprocess.Popen(
            [sys.executable, str(path), method, target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.kill()
        program.communicate()


def words(program: "subprocess.Popen[str]") -> list[str]:
    assert program.stdout is not None
    return program.stdout.readline().split()


METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("method", METHODS)
def test_a_multiprocessing_target_can_die_with_its_parent(parent, method, signum) -> None:
    """By calling `die_with_parent()` first thing, by whichever method it was started; and not before the parent."""
    program = parent(method)
    child, ready = words(program)
    assert ready == "ready"
    print(0, file=program.stdin, flush=True)
    assert words(program) == ["True", "None"]
    assert running(int(child))
    program.send_signal(signum)
    program.wait(30)
    wait_until(lambda: not running(int(child)), what="the death of the child")


@pytest.mark.parametrize("method", METHODS)
def test_a_parent_that_died_before_the_child_asked_takes_it_along(parent, method) -> None:
    """The child asks after its parent was killed."""
    program = parent(method, "bound_when_orphaned")
    child, _ = words(program)
    program.kill()
    program.wait()
    wait_until(lambda: not running(int(child)), what="the death of the child")


@pytest.mark.parametrize("method", METHODS)
def test_the_child_may_choose_the_signal(parent, method) -> None:
    """With SIGTERM it can clear up: its handler runs."""
    program = parent(method, "bound_politely")
    child, path = words(program)
    program.kill()
    program.wait()
    wait_until(lambda: not running(int(child)), what="the end of the child")
    assert Path(path).read_text() == "cleared up"
    Path(path).unlink()


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_is_done_ends_before_its_parent(parent, method) -> None:
    """What waits for the parent keeps no child alive."""
    program = parent(method, "bound_and_done")
    child, _ = words(program)
    wait_until(lambda: not running(int(child)), what="the end of the child")
    print(30, file=program.stdin, flush=True)
    assert words(program) == ["False", "7"]


def test_a_parent_that_died_first_takes_the_child_along() -> None:
    """The wish comes too late if the parent is gone already; the wrapper looks after it has asked."""
    from aiopool._runtime import die_with_parent as _die_with_parent

    gone = subprocess.Popen(["true"])
    gone.wait()
    done = subprocess.run(
        [sys.executable, "-I", "-S", _die_with_parent.__file__, str(gone.pid), "sleep", "600"], timeout=30
    )
    assert done.returncode == -signal.SIGKILL
    here = [sys.executable, "-I", "-S", _die_with_parent.__file__, str(os.getpid())]
    assert subprocess.run([*here, "sh", "-c", "exit 7"], timeout=30).returncode == 7
    assert subprocess.run([*here, "no-such-program"], timeout=30, stderr=subprocess.DEVNULL).returncode == 127
    assert subprocess.run([*here, "/etc/passwd"], timeout=30, stderr=subprocess.DEVNULL).returncode == 126


def test_stopping_in_a_handler_less_program_needs_no_thread_left() -> None:
    """A stop from plain code leaves no thread behind."""
    registry = ServiceRegistry()
    before = threading.active_count()
    registry.add("a", stubborn())
    registry.stop_all_sync(timeout=0)
    wait_until(lambda: threading.active_count() <= before)
