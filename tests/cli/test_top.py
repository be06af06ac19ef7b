"""`aiopool top` without a screen: frames of real programs, on no terminal."""

import contextlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from child_programs import wait_for as wait_for_line
from cli.doors import BLOCKED, ENDED, IDLE, busy, masked, running
from cli.support import command, environment, finish, run, started

from aiopool.cli._door import open_door
from aiopool.cli._look import Watcher

FRAME = """\
-c PID  pool mail  open  up T s  HH:MM:SSZ
4 queued  1 scheduled  0 done  2 failed
slots  [##]  2 of 2
loop   answers, N ms late at most
[running 3]   waiting 5   failed 2   groups   loop   what-if
"""


@pytest.mark.long
@pytest.mark.parametrize(("columns", "lines"), [("80", "24"), ("200", "50")])
def test_one_frame(here: Path, doors: Path, columns: str, lines: str):
    """Of each view, as text; neither a terminal nor Textual is needed, and nothing is coloured."""
    with busy() as process:
        size = {"COLUMNS": columns, "LINES": lines}
        done = run(here, "top", "--once", **size)
        assert (done.code, done.err) == (0, "")
        text = done.out.decode()
        assert masked(text).startswith(FRAME.replace("PID", "PID"))
        assert re.search(r"^R  long  forever +\d.* s  1 +<string>:\d+ in forever$", text, re.M)
        assert "\x1b" not in text
        waiting = run(here, "top", "mail", "--once", "--show", "waiting", **size).out.decode()
        rows = [line.split() for line in waiting.splitlines()[6:]]
        assert [row[:2] for row in rows] == [["Q", "q0"], ["Q", "q1"], ["Q", "q2"], ["Q", "odd"], ["S", "later"]]
        assert [row[-1] for row in rows] == ["slot"] * 4 + ["delay"]
        failed = run(here, "top", f"{process.pid}/mail", "--once", "--show", "failed", **size).out.decode()
        assert [line.split()[:3] for line in failed.splitlines()[6:]] == [["F", "2", "fail"], ["F", "1", "fail"]]
        groups = run(here, "top", "--once", "--show", "groups", **size).out.decode()
        assert groups.splitlines()[6].split() == ["host", "3", "0", "3"]
        found = run(here, "top", "--once", "--show", "waiting", "--filter", "group=host q1", **size).out.decode()
        assert [line.split()[1] for line in found.splitlines()[6:-1]] == ["q1"]
        assert found.splitlines()[-1] == "1 of 3 match group=host q1"


def test_what_costs_much_is_not_asked_for_again(doors: Path):
    """Failures that have not changed, spells while the loop answers, a guess; but more rows are, and what moves is."""
    with running(ENDED), contextlib.closing(Watcher(*open_door("mail"))) as watcher:
        for view in ("failed", "loop", "what-if"):
            page = watcher.look(view, 10).page
            assert watcher.look(view, 10).page is page
        page = watcher.look("failed", 10).page
        assert watcher.look("failed", 20).page is not page
        page = watcher.look("groups", 10).page
        assert watcher.look("groups", 10).page is not page


@pytest.mark.long
def test_a_blocked_loop(here: Path, doors: Path):
    """Numbers, and who blocks it; a list that needs the loop says why it is not there."""
    with running(BLOCKED):
        text = run(here, "top", "--once").out.decode()
        assert re.search(r"^loop   BLOCKED \d+\.\d s at <string>:\d+ in block, job 'block' id 'bad'$", text, re.M)
        assert re.search(r"^R  calm ", text, re.M)
        text = run(here, "top", "--once", "--show", "waiting").out.decode()
        assert text.endswith("the event loop does not answer: no list can be asked for\n")
        assert " in block" in run(here, "top", "--once", "--show", "loop").out.decode().splitlines()[-1]


def test_what_if(here: Path, doors: Path):
    """Sizes side by side, from the jobs that have ended; with too few of them, how many are needed."""
    with running(ENDED):
        text = run(here, "top", "--once", "--show", "what-if", "mail").out.decode()
        assert text.splitlines()[4].endswith("[what-if]")
        rows = [re.split(r"  +", line.strip()) for line in text.splitlines()[5:]]
        assert rows[0] == ["size", "wait p50", "wait p95", "longest queue", "idle", "now"]
        assert [(row[0], row[-1]) for row in rows[1:-1]][1:2] == [("2", "NOW")]
        assert [row[0] for row in rows[1:-1]] == ["1", "2", "4", "8"]
        assert text.endswith("of the last 120 jobs; assumes that a job takes as long as it did, whatever the size\n")
        (row,) = run(here, "top", "--json", "--show", "what-if", "mail").rows
        assert [item["size"] for item in row["items"]] == [1, 2, 4, 8]
        text = run(here, "top", "--once", "--show", "what-if", "few").out.decode()
        assert "0 jobs that ran are remembered, and 100 are needed: give the pool keep_finished=1000" in text


def test_frames_as_json(here: Path, doors: Path):
    """One line; with an interval one after the other."""
    with busy() as process:
        (row,) = run(here, "top", "--json").rows
        assert (row["pid"], row["pool"], row["view"], len(row["items"])) == (process.pid, "mail", "running", 3)
        with started(here, "top", "--json", "--interval", "0.1", "--show", "groups") as top:
            assert top.stdout is not None
            frames = [json.loads(top.stdout.readline()) for _ in range(3)]
            assert [frame["items"] for frame in frames] == [
                [{"name": "host", "live": 3, "running": 0, "paused": False, "waiting": 3}]
            ] * 3
            top.send_signal(signal.SIGINT)
            done = finish(top)
            assert (done.code, done.err) == (130, "")


def test_the_program_ends(here: Path, doors: Path):
    """Whoever looks at it frame by frame is told, with exit code 1."""
    with busy() as process, started(here, "top", "--plain", "--interval", "0.1") as top:
        assert top.stdout is not None
        while b"[running 3]" not in top.stdout.readline():
            pass
        process.kill()
        done = finish(top)
        assert (done.code, done.err) == (1, f"aiopool: -c {process.pid} has ended, or has closed its door\n")


def test_the_pool_closes(here: Path, doors: Path):
    """The same, if the program goes on without it."""
    body = """
    async def main():
        aiopool.control()
        async with Pool(1, name="other"):
            async with Pool(1, name="mail"):
                say("ready")
                await asyncio.to_thread(sys.stdin.readline)
            say("closed")
            await asyncio.get_running_loop().create_future()
    asyncio.run(main())
    """
    with running(body) as process, started(here, "top", "mail", "--plain", "--interval", "0.1") as top:
        assert top.stdout is not None
        assert process.stdin is not None
        top.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        wait_for_line(process, "closed")
        done = finish(top)
        assert (done.code, done.err) == (1, f"aiopool: pool 'mail' of -c {process.pid} has closed\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--once", "--plain"), "--once --plain: write one of them"),
        (("--once", "--show", "all"), "--show all: write one of running, waiting, failed, groups, loop, what-if"),
        (("--once", "--filter", "colour=red"), "colour=red: write a word of the row"),
        ((), "aiopool top draws on a terminal, and there is none: write aiopool top --once, --plain or --json"),
    ],
)
def test_bad_usage(here: Path, doors: Path, options: tuple[str, ...], says: str):
    """It is said before anything is asked."""
    done = run(here, "top", *options)
    assert (done.code, done.out) == (2, b"")
    assert says in done.err


def test_there_is_no_program_or_there_are_several(here: Path, doors: Path):
    """Without a screen nothing can be chosen."""
    assert run(here, "top", "--once").code == 1
    with running(IDLE, names="['eggs', 'spam']", seconds=3600) as process:
        done = run(here, "top", "--once")
        assert (done.code, "say which pool: eggs, spam" in done.err) == (1, True)
        assert b"pool spam" in run(here, "top", "--once", "spam").out
        assert b"pool eggs" in run(here, "top", "--once", f"{process.pid}/eggs").out


def test_without_textual(here: Path, doors: Path):
    """The screen says which extra is missing, and what goes without it; and that goes."""
    (here / "textual.py").write_text("raise ModuleNotFoundError('No module named textual', name='textual')")
    with busy():
        for options, code in (((), 2), (("--once",), 0)):
            env = environment() | {"PYTHONPATH": f"{here}:{environment()['PYTHONPATH']}"}
            done = subprocess.run(command("top", *options), capture_output=True, env=env, timeout=60)
            assert done.returncode == code, done.stderr
            if code:
                assert b'pip install -e ".[top]"; without it there are aiopool top --plain' in done.stderr
            else:
                assert b"pool mail" in done.stdout


@pytest.mark.long
def test_a_stopped_program_does_not_answer(here: Path, doors: Path):
    """Frame by frame, the exit code is 3; it has not ended."""
    with busy() as process, started(here, "top", "--plain", "--interval", "0.1") as top:
        assert top.stdout is not None
        top.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        done = finish(top)
        os.kill(process.pid, signal.SIGCONT)
        assert done.code == 3
        assert "has not answered 'status' in time" in done.err
