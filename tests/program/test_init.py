"""As process 1 of a container: a real pid namespace, in which the kernel treats signals and orphans in its own way."""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from child_programs import program, rest, wait_for

# As root, or in a user namespace of its own. The kernel kills all that is in the namespace with its process 1.
UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
if hasattr(os, "geteuid") and os.geteuid() != 0:
    UNSHARE[1:1] = ["--user", "--map-root-user"]

second_loop_long = pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.long)])


@functools.cache
def refused() -> str | None:
    """Why there is no pid namespace to be had; None if there is."""
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return "needs Linux and unshare(1)"
    try:
        done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return f"a pid namespace is not permitted here: {done.stderr.strip()}" if done.returncode else None


@pytest.fixture(autouse=True)
def namespaces() -> None:
    if (why := refused()) is not None:
        pytest.skip(why)


def init_of(process: "subprocess.Popen[str]") -> psutil.Process:
    """Process 1 as it is seen from here."""
    (child,) = psutil.Process(process.pid).children()
    return child


LOOKS = """
import pathlib, subprocess
from aiopool.services import Command, ServiceRegistry

assert os.getpid() == 1

def zombies():
    states = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = text[text.rindex(")") + 2:].split()
        if fields[0] == "Z" and fields[1] == "1":
            states.append(int(path.parent.name))
    return sorted(states)

async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)

async def looks(number):
    # The reaper looks once a second, on the same loop.
    await asyncio.sleep(number * 1.05)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
@second_loop_long
def test_a_signal_drains_and_the_exit_code_is_0(number: signal.Signals, loop: str):
    """To process 1 the default action of a signal does nothing: only a handler ends it."""
    with program(
        LOOKS
        + """
async def job():
    say("started")
    await asyncio.sleep(0.3)
    say("done")

async def main(pool):
    await pool.submit(job)
    await pool.wait_closed()

registry = ServiceRegistry()
registry.add("file", Command(["sleep", "600"]))
aiopool.run(main, pool=Pool(), services=registry, loop_factory=loop_factory)
""",
        loop,
        before=UNSHARE,
    ) as process:
        wait_for(process, "started")
        init_of(process).send_signal(number)
        lines, code = rest(process)
    assert (lines, code) == (["done"], 0)


def test_the_third_signal_ends_process_1():
    """By its exit code: a signal could not kill it."""
    with program(
        """
async def job():
    say("started")
    time.sleep(3600)

async def main(pool):
    await pool.run(job)

aiopool.run(main, pool=Pool())
""",
        before=UNSHARE,
    ) as process:
        wait_for(process, "started")
        init = init_of(process)
        with contextlib.suppress(psutil.NoSuchProcess):
            while True:  # two of a kind may be merged into one
                init.send_signal(signal.SIGTERM)
                time.sleep(0.2)
        _, code = rest(process)
    assert code == 128 + signal.SIGTERM


def test_orphans_of_a_service_are_reaped(tmp_path: Path):
    """Those that lost their parent, one after the other: no zombie piles up."""
    with program(
        LOOKS
        + """
async def main():
    await until(lambda: path.exists() and path.read_text().count("x") == 30)
    await until(lambda: not zombies())
    say("none is left")

path = pathlib.Path(os.environ["ORPHANS"])
registry = ServiceRegistry()
script = 'for i in $(seq 30); do sh -c "(sleep 0.1; printf x >> $ORPHANS) &"; done; exec sleep 600'
registry.add("forks", Command(["sh", "-c", script]))
aiopool.run(main, services=registry)
""",
        before=UNSHARE,
        environment={"ORPHANS": str(tmp_path / "orphans")},
    ) as process:
        lines, code = rest(process)
    assert (lines, code) == (["none is left"], 0)


@pytest.mark.long
def test_an_orphan_in_our_own_session_is_known_by_its_age():
    """It was there before its parent ended, and no child of ours."""
    with program(
        LOOKS
        + """
async def main():
    parent = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; read line"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    orphan = int(parent.stdout.readline())
    await looks(2)
    parent.stdin.write("end\\n")
    parent.stdin.close()
    assert parent.wait() == 0
    parent.stdout.close()
    os.kill(orphan, signal.SIGKILL)
    await until(lambda: orphan not in zombies() and not os.path.exists(f"/proc/{orphan}"))
    say("reaped")

aiopool.run(main)
""",
        before=UNSHARE,
    ) as process:
        lines, code = rest(process)
    assert (lines, code) == (["reaped"], 0)


def test_an_orphan_of_a_moment_is_known_by_its_session():
    """As the page says: what a job starts in a session of its own leaves no zombie, however soon its parent ends."""
    with program(
        LOOKS
        + """
async def main():
    done = subprocess.run(["sh", "-c", "sleep 0.2 >&2 & echo $!"], start_new_session=True,
                          stdout=subprocess.PIPE, text=True)
    orphan = int(done.stdout)
    await until(lambda: not os.path.exists(f"/proc/{orphan}"))
    say("reaped")

aiopool.run(main)
""",
        before=UNSHARE,
    ) as process:
        lines, code = rest(process)
    assert (lines, code) == (["reaped"], 0)


@pytest.mark.long
@second_loop_long
def test_no_exit_code_is_stolen(loop: str):
    """Children that nobody has waited for yet are zombies for a while: theirs to reap who started them."""
    with program(
        LOOKS
        + """
def target(code):
    sys.exit(code)

async def main():
    plain = [subprocess.Popen(["sh", "-c", f"exit {code}"], start_new_session=code % 2) for code in range(1, 9)]
    group = subprocess.Popen(["sh", "-c", "exit 17"], process_group=0)
    of_thread = await asyncio.to_thread(subprocess.Popen, ["sh", "-c", "exit 18"])
    forked = os.fork()
    if forked == 0:
        os._exit(19)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=target, args=(20,))
    process.start()
    own = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.5; exit 21")
    other = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.5; exit 22", start_new_session=True)
    await looks(3)
    assert forked in zombies()
    say(*[child.wait() for child in plain], group.wait(), of_thread.wait())
    say(os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]), process.exitcode, await own.wait(), await other.wait())

import warnings
warnings.simplefilter("ignore")  # fork beside threads, and children that nobody has waited for: that is the point
before = subprocess.Popen(["sh", "-c", "exit 23"], start_new_session=True)
aiopool.run(main, loop_factory=loop_factory)
say(before.wait())
""",
        loop,
        before=UNSHARE,
    ) as process:
        lines, code = rest(process)
    assert (lines, code) == (["1 2 3 4 5 6 7 8 17 18", "19 20 21 22", "23"], 0)


def test_a_registry_with_handlers_of_its_own_ends_process_1():
    """Passing the signal on to the default action, as elsewhere, would do nothing here."""
    with program(
        LOOKS
        + """
registry = ServiceRegistry()
registry.add("file", Command(["sleep", "600"]))
registry.install_handlers()
asyncio.run(registry.start())
say("started")
time.sleep(3600)
""",
        before=UNSHARE,
    ) as process:
        wait_for(process, "started")
        init_of(process).terminate()
        lines, code = rest(process)
    assert (lines, code) == ([], 128 + signal.SIGTERM)
