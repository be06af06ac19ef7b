"""`--processes`: a plain function on all processors; everything else is as in threads."""

import os
import re
import signal
from pathlib import Path

import psutil
import pytest
from cli.support import finish, run, started, wait_for
from services.support import wait_until

WORK = """
import contextlib, dataclasses, os, sys, time

opened = []

def pid(line):
    return os.getpid()

def shout(line, times=1):
    print("heard", line)
    if line == "bad":
        raise ValueError("no such word")
    if line == "exit":
        sys.exit(3)
    if line == "crash":
        os._exit(7)
    if line == "long":
        print("started", file=sys.stderr, flush=True)
        time.sleep(3600)
    return line.upper() * times

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

def odd(line):
    raise Odd(1, 2)

def a_set(line):
    return {line}

def a_lambda(line):
    return lambda: line

@contextlib.contextmanager
def resource():
    opened.append(1)
    yield opened
    sys.stderr.write(f"closed {os.getpid()}\\n")

@contextlib.asynccontextmanager
async def async_resource():
    yield 1

@contextlib.contextmanager
def broken():
    raise OSError("no server there")
    yield

def use(line, resource):
    return [os.getpid(), len(resource)]
"""


@pytest.fixture
def there(here: Path) -> Path:
    """A directory whose functions are in a file of a name that no `import` statement could have."""
    (here / "sub").mkdir()
    (here / "sub" / "the-work.py").write_text(WORK)
    return here


def test_lines_run_in_other_processes_as_many_as_there_are_processors(there: Path):
    done = run(there, "map", "sub/the-work.py:pid", "--processes", stdin="x\n" * 50)
    assert done.code == 0
    assert 1 <= len(set(done.results)) <= len(os.sched_getaffinity(0))
    assert not any(psutil.pid_exists(pid) for pid in set(done.results))


def test_failures_are_as_they_are_in_threads(there: Path):
    """An exception, an exit, a line that is no JSON; and a process that dies takes no other line with it."""
    lines = '"a"\n"bad"\n"exit"\nbroken\n"b"\n"crash"\n"c"\n'
    done = run(there, "map", "sub/the-work.py:shout", "-p", "-k", "--json", "--arg", "times:=2", stdin=lines)
    assert done.code == 1
    assert [row.get("result") for row in done.rows] == ["AA", None, None, None, "BB", None, "CC"]
    errors = {row["line"]: row["error"] for row in done.rows if not row["ok"]}
    assert errors[2] == "ValueError: no such word"
    assert errors[3] == "ExitedError: it called sys.exit(3)"
    assert "this is not JSON" in errors[4]
    assert errors[6].startswith("ProcessDiedError: ")
    assert "7" in errors[6]
    assert re.search(r'the-work.py", line \d+, in shout\n', done.rows[1]["traceback"])
    assert "heard a" in done.lines, "what a function prints does not come between the results"


@pytest.mark.long
def test_what_cannot_be_sent_back_fails_its_line(there: Path):
    for name, said in [
        ("odd", "odd raised Odd: 1 and 2, and that exception cannot be sent back"),
        ("a_set", "ResultError: the result is of type set, which JSON does not have"),
        ("a_lambda", "a_lambda returned a value (function) that cannot be sent back"),
    ]:
        assert said in run(there, "map", f"sub/the-work.py:{name}", "-p", stdin="x\n").rows[0]["error"]


@pytest.mark.long
def test_a_time_limit_kills_the_process(there: Path):
    done = run(there, "map", "sub/the-work.py:shout", "-p", "--timeout", "2", stdin="long\n")
    assert done.rows[0]["error"].startswith("JobTimeoutError: ")


def test_each_process_opens_the_setup_once_and_closes_it(there: Path):
    done = run(there, "map", "sub/the-work.py:use", "-p", "--setup", "sub/the-work.py:resource", stdin="x\n" * 20)
    assert done.code == 0
    pids = {pid for pid, opened in done.results}
    assert {opened for _, opened in done.results} == {1}
    assert {int(line.split()[1]) for line in done.lines if line.startswith("closed")} == pids


def test_what_cannot_be_set_up_fails_the_lines(there: Path):
    done = run(there, "map", "sub/the-work.py:use", "-p", "--setup", "sub/the-work.py:broken", stdin="x\n")
    assert done.rows[0]["error"] == "SetupError: --setup sub/the-work.py:broken failed: OSError: no server there"
    done = run(there, "map", "sub/the-work.py:use", "-p", "--setup", "sub/the-work.py:async_resource", stdin="x\n")
    assert "is async, and functions in processes have no event loop" in done.rows[0]["error"]


def test_an_async_function_is_refused(there: Path):
    done = run(there, "map", "targets:same", "--processes", stdin="x\n")
    assert (done.code, done.out) == (2, b"")
    assert len(done.lines) == 1
    assert "targets:same is an async function, and those share one event loop: leave out --processes" in done.lines[0]


def test_a_kill_leaves_no_process_behind(there: Path):
    (there / "in").write_text("long\n")
    with started(there, "map", "sub/the-work.py:shout", "in", "--processes", "-n", "1", "-o", "out") as process:
        wait_for(process, "started")
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.kill()
        process.wait()
        wait_until(lambda: not [child for child in children if child.is_running() and child.status() != "zombie"])


def test_the_second_signal_kills_what_runs(there: Path):
    (there / "in").write_text("long\n")
    with started(there, "map", "sub/the-work.py:shout", "in", "--processes", "-n", "1", "-o", "out") as process:
        wait_for(process, "started")
        process.send_signal(signal.SIGINT)
        wait_for(process, "interrupted: finishing the 1 under way")
        process.send_signal(signal.SIGINT)
        done = finish(process)
    assert done.code == 130
    assert "1 cancelled" in done.lines[-1]
