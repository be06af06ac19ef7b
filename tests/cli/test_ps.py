"""`aiopool ps`: which programs have a door open; the programs are real ones."""

import os
import re
import signal
from pathlib import Path

import pytest
from cli.doors import BLOCKED, IDLE, busy, running
from cli.support import run


def test_there_is_no_program(here: Path, doors: Path):
    """The exit code is 1, and the line to write is named."""
    for options in ((), ("--json",)):
        done = run(here, "ps", *options)
        assert (done.code, done.out) == (1, b"")
        assert "write aiopool.control() in it, or start it with AIOPOOL_CONTROL=1" in done.err


def test_a_line_for_each_pool(here: Path, doors: Path):
    """Of each program: its number, its pools, what runs, waits and has failed."""
    with busy() as one, running(IDLE, names="['eggs', 'spam']", seconds=3600) as other:
        done = run(here, "ps")
        header, *rows = (line.split() for line in done.out.decode().splitlines())
        assert done.code == 0
        assert header == ["pid", "program", "pool", "status", "running", "queued", "failed", "loop"]
        found = sorted(row[:7] for row in rows)
        assert found == sorted(
            [
                [str(one.pid), "-c", "mail", "open", "3/2", "5", "2"],
                [str(other.pid), "-c", "eggs", "open", "3/4", "0", "0"],
                [str(other.pid), "-c", "spam", "open", "3/4", "0", "0"],
            ]
        )
        assert all(row[-2:] == ["ms", "late"] for row in rows)
        lines = run(here, "ps", "--json").rows
        assert {(row["pid"], row["pool"], row["numbers"]["running"]) for row in lines} == {
            (one.pid, "mail", 3),
            (other.pid, "eggs", 3),
            (other.pid, "spam", 3),
        }


def test_a_program_without_a_pool(here: Path, doors: Path):
    """It has a line, too."""
    with running("aiopool.control(); say('ready'); signal.pause()") as process:
        assert re.search(rf"^{process.pid} +-c +no pool is open$", run(here, "ps").out.decode(), re.M)
        (row,) = run(here, "ps", "--json").rows
        assert (row["pid"], row["pool"]) == (process.pid, None)


def test_a_paused_pool(here: Path, doors: Path):
    """It is called paused, whoever has done it."""
    with running("""
        async def main():
            aiopool.control()
            async with Pool(1) as pool:
                pool.pause()
                say("ready")
                await asyncio.get_running_loop().create_future()
        asyncio.run(main())
        """):
        assert " paused " in run(here, "ps").out.decode()


def test_a_blocked_loop(here: Path, doors: Path):
    """The program answers all the same, and who blocks it is named."""
    with running(BLOCKED):
        done = run(here, "ps")
        assert done.code == 0
        assert " s at <string>:" in done.out.decode()
        assert " in block, job 'block' id 'bad'" in done.out.decode()


def test_what_a_dead_program_has_left(here: Path, doors: Path):
    """Its socket is removed, and it is no program any more."""
    with running(IDLE, names="['mail']", seconds=3600) as process:
        process.kill()
        process.wait()
        assert list(doors.glob("*.sock"))
        assert run(here, "ps").code == 1
        assert not list(doors.glob("*.sock"))


@pytest.mark.long
def test_a_program_that_does_not_answer(here: Path, doors: Path):
    """It has a line; the exit code is 3 if no other program answers."""
    with running(IDLE, names="['mail']", seconds=3600) as process:
        os.kill(process.pid, signal.SIGSTOP)
        try:
            done = run(here, "ps")
            assert done.code == 3
            assert re.search(rf"^{process.pid} +no answer +.* has not answered", done.out.decode(), re.M)
            with busy() as other:
                done = run(here, "ps", "--json")
                assert done.code == 0
                assert {row["pid"] for row in done.rows} == {process.pid, other.pid}
        finally:
            os.kill(process.pid, signal.SIGCONT)


@pytest.mark.parametrize("command", [("ps",), ("ctl", "status", "mail"), ("top", "--once")])
def test_a_directory_that_others_can_write_to(here: Path, doors: Path, command: tuple[str, ...]):
    """Somebody else could have put a socket there: nothing is asked, and the exit code is 2."""
    doors.mkdir(mode=0o700)
    doors.chmod(0o777)
    done = run(here, *command)
    assert (done.code, done.out) == (2, b"")
    assert "is not a directory of this user alone" in done.err


def test_names_steer_no_terminal(here: Path, doors: Path):
    """Characters that a terminal would obey are escaped."""
    with running("""
        async def main():
            aiopool.control()
            async with Pool(1, name="a\\u202eb") as pool:
                say("ready")
                await asyncio.get_running_loop().create_future()
        asyncio.run(main())
        """):
        for options in ((), ("--json",)):
            out = run(here, "ps", *options).out.decode()
            assert "a\\u202eb" in out
            assert out.replace("\n", "").isprintable()
