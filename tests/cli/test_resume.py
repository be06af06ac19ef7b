"""`--resume` and what belongs to it: runs that were killed, and files that are there already."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli.support import command, environment, finish, run, started, wait_for
from services.support import wait_until

from aiopool.cli._output import open_output
from aiopool.cli._past import Past
from aiopool.cli._source import Item
from aiopool.cli._words import Refusal

# Results of all lengths: many of them are longer than what the kernel writes in one go.
WORK = """
import asyncio, random

async def work(line):
    number = int(line)
    dice = random.Random(number)
    await asyncio.sleep(dice.random() / 50)
    if number % 7 == 0:
        raise ValueError(f"{number} is a multiple of seven")
    return chr(97 + number % 26) * dice.choice([1, 1, 1000, 400_000])
"""


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def told(path: Path) -> dict[int, tuple[Any, ...]]:
    """Return what a file says of each line, and that it says it once; times are not compared."""
    found: dict[int, tuple[Any, ...]] = {}
    for row in rows_of(path):
        assert row["line"] not in found, f"two results of line {row['line']}"
        found[row["line"]] = (row["input"], row["ok"], row.get("result"), row.get("error"), row["attempts"])
    return found


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.long)])
def test_killed_again_and_again_the_results_are_those_of_a_run_that_was_left_alone(here: Path, kills: int):
    """Whatever moment it is killed at: what is in the file is true, there once, and not run again.

    Now and then the last line is torn by hand: a power cut does that, and a kill in the middle of a write, but seldom.
    """
    (here / "work.py").write_text(WORK)
    (here / "in").write_text("".join(f"{number}\n" for number in range(1, 12 * kills)))
    arguments = ("map", "work:work", "in", "--size", "8", "--output")
    assert run(here, *arguments, "alone").code == 1
    alone = told(here / "alone")
    dice = random.Random(kills)
    out, count, killed = here / "out", 0, 0
    line = command(*arguments, "out", "--resume")
    while killed < kills:
        process = subprocess.Popen(line, cwd=here, env=environment(), stderr=subprocess.DEVNULL)
        more = dice.randrange(20)

        def is_time(process: subprocess.Popen[bytes] = process, more: int = count + more) -> bool:
            return process.poll() is not None or (out.exists() and out.read_bytes().count(b"\n") >= more)

        wait_until(is_time)
        if dice.random() < 0.5:
            time.sleep(dice.random() / 100)  # any moment will do
        process.kill()
        if process.wait() != -signal.SIGKILL:
            break  # it had come to the end
        killed += 1
        if out.exists() and out.stat().st_size and dice.random() < 0.3:
            data = out.read_bytes()
            last = data.rfind(b"\n", 0, -1) + 1
            os.truncate(out, dice.randrange(last, len(data)))
        whole = out.read_bytes().rpartition(b"\n")[0].splitlines() if out.exists() else []
        count = len(whole)
        numbers = [json.loads(row)["line"] for row in whole]
        assert len(set(numbers)) == len(numbers)
    done = run(here, *arguments, "out", "--resume")
    assert done.code == 1, "those that failed are failures of the whole"
    assert told(out) == alone
    assert f"{count:,} had their results before" in done.err or killed < kills


def test_a_kill_loses_what_ran_and_nothing_else(here: Path):
    """What was written stays, what was under way is run once more, all else is run once."""
    (here / "in").write_text("".join(f"release-{number}\n" for number in range(6)))
    arguments = ("map", "targets:job", "in", "--size", "2", "-o", "out")
    with started(here, *arguments) as process:
        wait_for(process, "started release-0", "started release-1")
        for number in range(2):
            (here / f"release-{number}").touch()
        wait_for(process, "started release-2", "started release-3")
        wait_until(lambda: len((here / "out").read_bytes().splitlines()) == 2)
        process.kill()
    for number in range(6):
        (here / f"release-{number}").touch()
    done = run(here, *arguments, "--resume")
    assert done.code == 0
    assert sorted(line for line in done.lines if line.startswith("started")) == [
        f"started release-{number}" for number in range(2, 6)
    ]
    assert sorted(row["line"] for row in rows_of(here / "out")) == [1, 2, 3, 4, 5, 6]
    assert "2 had their results before" in done.lines


def test_wherever_the_last_line_is_torn_it_is_cut_and_all_others_count(tmp_path: Path):
    """Also after a power cut, which may leave zeros; a line that only lacks its end is whole."""
    first = b'{"line": 1, "input": "a", "ok": true, "result": "\xc3\xa4", "attempts": 1, "seconds": 0.000001}\n'
    second = first.replace(b'"line": 1', b'"line": 2')
    path = tmp_path / "out"
    for end in range(len(second)):
        for zeros in (b"", b"\0" * 7):
            path.write_bytes(first + second[:end] + zeros)
            past = Past(only="in", retry_failed=False)
            output = open_output(str(path), "resume", past, raw=False)
            os.close(output.descriptor)
            if end == len(second) - 1 and not zeros:
                assert path.read_bytes() == first + second
            else:
                assert path.read_bytes() == first
                assert output.cut == end + len(zeros)
            assert past.has(Item("a", "in", 1, 1.0))


def test_what_is_no_result_is_refused_and_left_alone(tmp_path: Path):
    """By line: a file of somebody else's is not emptied, not cut and not added to."""
    path = tmp_path / "out"
    good = '{"line": 1, "input": "a", "ok": true, "result": null, "attempts": 1, "seconds": 0.1}\n'
    for text, said in [
        (good + "my notes\n" + good, "out, line 2: this is no result of aiopool map"),
        ("[1]\n", "line 1: this is no result"),
        ('{"line": "1", "input": 1, "ok": true}\n', "line 1: this is no result"),
        (good + "my notes, without an end", "line 2: this is no result"),
    ]:
        path.write_text(text)
        with pytest.raises(Refusal, match=said):
            open_output(str(path), "resume", Past(only="in", retry_failed=False), raw=False)
        assert path.read_text() == text
    with pytest.raises(Refusal, match="its last line has no end, and is no result; end it: echo >> "):
        open_output(str(path), "append", Past(only="in", retry_failed=False), raw=False)
    assert path.read_text() == text


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_line_that_has_changed_is_run_again(here: Path, options: list[str]):
    """A result counts for its number and its input together; the space in a JSON value is no difference."""
    (here / "in").write_text('{"a": 1, "b": [1.0, "ä"]}\n2\n3\n')
    arguments = ("map", "targets:same", "in", *options, "-o", "out")
    assert run(here, *arguments).code == 0
    if options:
        (here / "in").write_text('{"b":[1.0,"ä"], "a":1}\n4\n3\n5\n')
    else:
        (here / "in").write_text('{"a": 1, "b": [1.0, "ä"]}\n4\n3\n5\n')
    done = run(here, *arguments, "--resume", "-k")
    assert [str(row["input"]) for row in rows_of(here / "out")[3:]] == ["4", "5"]
    assert "2 had their results before" in done.lines
    assert any(line.startswith("1 have changed since, and were run: out has two results") for line in done.lines)
    assert [line for line in run(here, *arguments, "--resume").lines if "changed" in line] == [], "the later one counts"


def test_retry_failed_replaces_the_failures(here: Path):
    """There is one result of each line, whatever happened before; the file keeps its mode, and a link its target."""
    (here / "in").write_text("release\n1\nx\n")
    (here / "mine.py").write_text(
        "import os\ndef f(line):\n    if line == 'x' and not os.path.exists('x'):\n        raise OSError('no x')\n"
    )
    (here / "link").symlink_to("out")
    assert run(here, "map", "mine:f", "in", "-o", "link").code == 1
    (here / "out").chmod(0o640)
    done = run(here, "map", "mine:f", "in", "-o", "link", "--resume")
    assert done.code == 1
    assert "3 had their results before, 1 of them failed: --retry-failed runs these again" in done.lines
    (here / "x").touch()
    done = run(here, "map", "mine:f", "in", "-o", "link", "--retry-failed")
    assert done.code == 0
    assert sorted((row["line"], row["ok"]) for row in rows_of(here / "out")) == [(1, True), (2, True), (3, True)]
    assert "2 had their results before" in done.lines
    assert (here / "out").stat().st_mode & 0o777 == 0o640
    assert (here / "link").is_symlink()
    assert not [path.name for path in here.iterdir() if path.name.startswith(".out")]


@pytest.mark.long
def test_what_was_cancelled_or_could_not_be_used_is_run_again(here: Path):
    """It has not been worked on: to resume needs no `--retry-failed`."""
    (here / "in").write_text("1\nbroken\n3600\n")
    arguments = ("map", "targets:slow", "in", "--json", "-o", "out")
    with started(here, *arguments) as process:
        wait_until(lambda: (here / "out").exists() and len((here / "out").read_bytes().splitlines()) == 2)
        process.send_signal(signal.SIGINT)
        wait_for(process, "interrupted: finishing the 1 under way")
        process.send_signal(signal.SIGINT)
        assert finish(process).code == 130
    cancelled = next(row for row in rows_of(here / "out") if row["line"] == 3)
    assert cancelled["cancelled"] is True
    (here / "in").write_text("1\n0\n3600\n")
    done = run(here, *arguments, "--resume", "--timeout", "0.5")
    assert done.code == 1
    rows = {row["line"]: row for row in rows_of(here / "out")}
    assert (rows[1]["ok"], rows[2]["ok"], len(rows)) == (True, True, 3)
    assert rows[3]["error"].startswith("JobTimeoutError")


def test_several_files_are_told_apart(here: Path):
    for name in ("one", "two"):
        (here / name).write_text("a\nb\n")
    arguments = ("map", "targets:upper", "one", "two", "-o", "out")
    assert run(here, *arguments).code == 0
    (here / "two").write_text("a\nb\nc\n")
    done = run(here, *arguments, "--resume")
    assert (rows_of(here / "out")[4]["file"], rows_of(here / "out")[4]["line"]) == ("two", 3)
    assert "4 had their results before" in done.lines
    assert "2 had their results before" in run(here, "map", "targets:upper", "one", "-o", "out", "--resume").lines
    (here / "out").write_text((here / "out").read_text().replace('"file": "one", ', ""))
    done = run(here, *arguments, "--resume")
    assert done.code == 2
    assert "the result does not name its file, and several are read now" in done.err


def test_a_file_with_something_in_it_is_replaced_only_if_that_is_said(here: Path):
    (here / "out").write_text("precious\n")
    done = run(here, "map", "targets:same", "-o", "out", stdin="a\n")
    assert (done.code, (here / "out").read_text()) == (2, "precious\n")
    assert done.lines[0].startswith("aiopool: out has something in it: write --resume to go on with")
    (here / "out").write_text("")
    assert run(here, "map", "targets:same", "-o", "out", stdin="a\n").code == 0, "nothing is lost of an empty one"
    assert run(here, "map", "targets:same", "-o", "out", "--append", stdin="b\n").code == 0
    assert [row["input"] for row in rows_of(here / "out")] == ["a", "b"]
    assert run(here, "map", "targets:same", "-o", "out", "--overwrite", stdin="c\n").code == 0
    assert [row["input"] for row in rows_of(here / "out")] == ["c"]


def test_two_runs_do_not_write_to_one_file(here: Path):
    (here / "in").write_text("release\n")
    with started(here, "map", "targets:job", "in", "-o", "out") as process:
        wait_for(process, "started release")
        done = run(here, "map", "targets:same", "in", "-o", "out", "--append")
        assert (done.code, done.lines) == (
            2,
            ["aiopool: out is being written by another run: wait for its end, or name another file"],
        )
        (here / "release").touch()
        assert finish(process).code == 0


def test_a_dry_run_shows_the_rest_and_touches_nothing(here: Path):
    (here / "in").write_text("1\n2\n3\n")
    assert run(here, "map", "targets:odd", "in", "-o", "out").code == 1
    before = (here / "out").read_bytes(), (here / "out").stat().st_mtime_ns
    done = run(here, "map", "targets:odd", "in", "-o", "out", "--retry-failed", "--dry-run")
    assert done.out == b"targets:odd('2')\n"
    assert ((here / "out").read_bytes(), (here / "out").stat().st_mtime_ns) == before
    run(here, "map", "targets:odd", "in", "-o", "other", "--dry-run")
    assert not (here / "other").exists()


def test_a_disk_that_fails_at_the_end_is_said(here: Path):
    probe = (
        "import os, sys\n"
        "def fsync(fd): raise OSError(5, 'Input/output error')\n"
        "os.fsync = fsync; sys.argv = ['aiopool', 'map', 'targets:same', 'in', '-o', 'out']\n"
        "from aiopool.cli import main; main()"
    )
    (here / "in").write_text("a\n")
    done = subprocess.run([sys.executable, "-c", probe], cwd=here, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "out may not be on the disk: Input/output error"


def test_results_are_on_the_disk_when_the_exit_code_says_so(here: Path):
    """The file is flushed once, after the last line."""
    probe = (
        "import os, sys; real = os.fsync\n"
        "def fsync(fd): print('fsync', os.fstat(fd).st_size, file=sys.stderr); real(fd)\n"
        "os.fsync = fsync; sys.argv = ['aiopool', 'map', 'targets:same', 'in', '-o', 'out']\n"
        "from aiopool.cli import main; main()"
    )
    (here / "in").write_text("a\nb\n")
    done = subprocess.run([sys.executable, "-c", probe], cwd=here, env=environment(), capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if line.startswith("fsync")] == [
        f"fsync {(here / 'out').stat().st_size}"
    ]
