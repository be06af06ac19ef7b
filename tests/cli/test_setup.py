"""`--setup`: what is opened once, given to every call, and closed at the end of the run."""

import signal
from pathlib import Path

import pytest
from cli.support import finish, run, started, wait_for

SETUPS = """
import asyncio, contextlib, sys

def note(word):
    print(word, file=sys.stderr, flush=True)

@contextlib.contextmanager
def plain():
    note("opened")
    yield {"n": 0}
    note("closed")

@contextlib.asynccontextmanager
async def client():
    note("opened")
    async with asyncio.TaskGroup() as group:  # it is left by the task that has entered it
        task = group.create_task(asyncio.sleep(3600))
        yield {"n": 0}
        task.cancel()
    note("closed")

@contextlib.contextmanager
def broken():
    raise OSError("no server there")
    yield

openings = iter([True, False, True])

@contextlib.asynccontextmanager
async def at_times():
    if not next(openings):
        raise OSError("not now")
    yield {"n": 0}

@contextlib.asynccontextmanager
async def numbered(numbers=iter(range(1, 100))):
    number = next(numbers)
    yield {"n": number}
    note(f"closed {number}")

async def which(line, client):
    await asyncio.sleep(0.01)
    return client["n"]

def which_in_thread(line, client):
    return client["n"]

async def breaks(line, client):
    import aiopool
    aiopool.current_worker().recycle()

@contextlib.contextmanager
def sticky():
    yield 1
    raise OSError("it does not close")

@contextlib.asynccontextmanager
async def hangs():
    note("opening")
    await asyncio.sleep(3600)
    yield

def undecorated():
    yield 1

async def async_undecorated():
    yield 1

async def coroutine():
    return 1

def number():
    return 5

async def use(line, client):
    client["n"] += 1
    return client["n"]

def use_plain(line, client):
    return sorted(client)

async def wait(line, client):
    note("started")
    await asyncio.sleep(3600)
"""


@pytest.fixture
def setups(here: Path) -> Path:
    (here / "setups.py").write_text(SETUPS)
    return here


@pytest.mark.parametrize("name", ["plain", "client"])
def test_it_is_opened_once_and_closed_after_the_last_line(setups: Path, name: str):
    done = run(setups, "map", "setups:use", "--setup", f"setups:{name}", stdin="a\nb\nc\n")
    assert done.code == 0
    assert sorted(done.results) == [1, 2, 3]
    assert [line for line in done.lines if line in ("opened", "closed")] == ["opened", "closed"]


def test_functions_in_threads_get_it_too(setups: Path):
    assert run(setups, "map", "setups:use_plain", "--setup", "setups:plain", stdin="a\n").results == [["n"]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["setups:use"], "cannot be called with one argument, the line: missing a required argument: 'client'"),
        (["targets:same", "--setup", "setups:plain"], "cannot be called with two arguments, the line and what --setup"),
        (["setups:use", "--setup", "setups:clint"], "setups has no function 'clint'; did you mean 'client'?"),
        (["setups:use", "--setup", "client"], "write --setup MODULE:FUNCTION"),
        (["setups:use", "--setup", "setups:number"], "returns int, which is no context manager: write @contextlib."),
        (["setups:use", "--setup", "setups:undecorated"], "returns generator, which is no context manager: write @c"),
        (["setups:use", "--setup", "setups:async_undecorated"], "write @contextlib.asynccontextmanager above it"),
        (["setups:use", "--setup", "setups:coroutine"], "write @contextlib.asynccontextmanager above it"),
        (["setups:use", "--setup", "setups:broken"], "failed: OSError: no server there: nothing was run"),
    ],
)
def test_what_cannot_be_opened_is_one_clear_line(setups: Path, arguments: list[str], said: str):
    done = run(setups, "map", *arguments, stdin="a\n")
    assert (done.code, done.out) == (2, b"")
    assert len(done.lines) == 1
    assert said in done.lines[0]
    assert done.lines[0].startswith("aiopool: ")


def test_what_cannot_be_closed_is_said_and_the_results_are_there(setups: Path):
    done = run(setups, "map", "setups:use", "--setup", "setups:sticky", "--halt", "fail=1", stdin="")
    assert done.code == 1
    assert done.lines[-1] == "what --setup opened could not be closed: OSError: it does not close"


@pytest.mark.long
def test_a_second_signal_ends_an_opening_that_hangs(setups: Path):
    """Two that come at the same time are one: then it is the grace that ends it."""
    with started(setups, "map", "setups:use", "--setup", "setups:hangs") as process:
        wait_for(process, "opening")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert finish(process).code == 130


def test_it_is_closed_after_an_interrupt(setups: Path):
    (setups / "in").write_text("a\n")
    with started(setups, "map", "setups:wait", "in", "--setup", "setups:client") as process:
        wait_for(process, "started")
        process.send_signal(signal.SIGINT)
        wait_for(process, "once more cancels them")
        process.send_signal(signal.SIGINT)
        done = finish(process)
    assert done.code == 130
    assert "closed" in done.lines


@pytest.mark.parametrize("name", ["which", "which_in_thread"])
def test_each_worker_opens_its_own(setups: Path, name: str):
    """As many as there are workers, each for one call at a time, and all are closed."""
    lines = "x\n" * 20
    done = run(
        setups, "map", f"setups:{name}", "--setup", "setups:numbered", "--setup-per-worker", "-n", "3", stdin=lines
    )
    assert done.code == 0
    opened = set(done.results)
    assert opened <= {1, 2, 3}
    assert sorted(line for line in done.lines if line.startswith("closed")) == [f"closed {n}" for n in sorted(opened)]


def test_a_worker_that_cannot_open_it_fails_its_call_and_tries_again(setups: Path):
    """Each line that would need it fails, in one line each; the next ones go on."""
    arguments = ["--setup", "setups:at_times", "--setup-per-worker", "-n", "1", "-k"]
    done = run(setups, "map", "setups:breaks", *arguments, stdin="a\nb\nc\n")
    assert [row["ok"] for row in done.rows] == [True, False, True]
    assert done.rows[1]["error"] == "SetupError: --setup setups:at_times failed: OSError: not now"
    assert len(done.lines) == 2
    done = run(setups, "map", "setups:breaks", *arguments, "--retries", "1", "--delay", "0", stdin="a\nb\nc\n")
    assert [row["attempts"] for row in done.rows][:2] == [1, 2]
