"""`aiopool map`, in processes of its own: what it writes, where, with which exit code, and how it ends."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cli.support import ROOT, command, environment, finish, run, started, wait_for
from services.support import wait_until

from aiopool.cli import main

# -- what it writes --------------------------------------------------------------------------------------------------


def test_a_line_of_results_for_each_line(here: Path):
    done = run(here, "map", "targets:upper", "--ordered", stdin="a\nb\n\nlast")
    assert done.code == 0
    assert [row["input"] for row in done.rows] == ["a", "b", "", "last"]
    assert done.results == ["A", "B", "", "LAST"]
    for row in done.rows:
        assert list(row) == ["line", "input", "ok", "result", "attempts", "seconds"]
        assert row["ok"] is True
        assert row["attempts"] == 1
        assert 0 <= row["seconds"] < 10
    assert re.fullmatch(r"4 done in .* \(.*/s\): 4 succeeded, 0 failed", done.lines[-1])


def test_files_and_standard_input_in_the_order_given(here: Path):
    (here / "one").write_text("1\n2\n")
    (here / "two").write_text("\ufeff4\r\n5", encoding="utf-8")
    done = run(here, "map", "targets:same", "one", "-", "two", "--ordered", stdin="3\n")
    assert done.results == ["1", "2", "3", "4", "5"]
    assert [(row["file"], row["line"]) for row in done.rows] == [
        ("one", 1),
        ("one", 2),
        ("standard input", 1),
        ("two", 1),
        ("two", 2),
    ]


def test_a_path_of_a_file_is_a_module(here: Path):
    """Its neighbours can be imported, as when the file is started."""
    (here / "sub").mkdir()
    (here / "sub" / "neighbour.py").write_text("ADD = 1")
    (here / "sub" / "mine.py").write_text("import neighbour\ndef plus(line):\n    return int(line) + neighbour.ADD\n")
    assert run(here, "map", "sub/mine.py:plus", stdin="41\n").results == [42]


@pytest.mark.parametrize("name", ["counter.method", pytest.param("counter", marks=pytest.mark.long)])
def test_objects_and_methods_are_functions(here: Path, name: str):
    assert run(here, "map", f"targets:{name}", "--ordered", "--size", "1", stdin="1\n2\n3\n").results == [1, 3, 6]


def test_plain_functions_run_in_threads(here: Path):
    assert run(here, "map", "targets:thread_name", stdin="x\n").results == ["MainThread"]
    assert run(here, "map", "targets:plain_thread_name", stdin="x\n").results != ["MainThread"]


def test_json_values(here: Path):
    lines = '{"a": [1, null]}\n"text"\n3.5\n\n   \nfalse\n'
    done = run(here, "map", "targets:same", "--json", "--ordered", stdin=lines)
    assert done.results == [{"a": [1, None]}, "text", 3.5, False]
    assert [row["input"] for row in done.rows] == done.results


def test_a_broken_json_line_fails_alone(here: Path):
    """It is named by file and line; all others are worked on."""
    (here / "in").write_text('1\n{"a": \n3\n')
    done = run(here, "map", "targets:same", "--json", "--ordered", "in", "-o", "out")
    assert done.code == 1
    first, broken, last = (json.loads(line) for line in (here / "out").read_text().splitlines())
    assert (first["line"], broken["line"], last["line"]) == (1, 2, 3)
    assert (first["result"], last["result"]) == (1, 3)
    assert (broken["input"], broken["ok"], broken["attempts"]) == ('{"a": ', False, 0)
    assert [line for line in done.lines if "not JSON" in line] == [broken["error"]]
    assert broken["error"].startswith("in, line 2: this is not JSON: ")


def test_failures_are_results_too(here: Path):
    done = run(here, "map", "targets:odd", "--ordered", stdin="1\n2\n3\n")
    assert done.code == 1
    assert [row["ok"] for row in done.rows] == [True, False, True]
    assert done.rows[1]["error"] == "ValueError: 2 is even"
    assert "result" not in done.rows[1]
    assert "2 succeeded, 1 failed" in done.lines[-1]


def test_retries(here: Path):
    done = run(here, "map", "targets:second_time", "--retries", "1", stdin="a\nb\n")
    assert done.code == 0
    assert [(row["result"], row["attempts"]) for row in done.rows] == [(2, 2), (2, 2)]
    assert "2 retried" in done.lines[-1]


def test_timeout(here: Path):
    done = run(here, "map", "targets:slow", "--timeout", "0.5", "--ordered", stdin="0\n3600\n")
    assert done.code == 1
    assert [row["ok"] for row in done.rows] == [True, False]
    assert done.rows[1]["error"].startswith("JobTimeoutError: ")


def test_unordered_results_come_as_they_are_done(here: Path):
    assert [row["input"] for row in run(here, "map", "targets:slow", stdin="0.3\n0\n").rows] == ["0", "0.3"]
    assert [row["input"] for row in run(here, "map", "targets:slow", "--ordered", stdin="0.3\n0\n").rows] == [
        "0.3",
        "0",
    ]


def test_priority_field(here: Path):
    """Lower goes first, equal ones in the order of the lines; without the field it is 5."""
    rows = [{"n": 0, "p": 9}, {"n": 1}, {"n": 2, "p": 1}, {"n": 3, "p": 9}, {"n": 4, "p": -1}, {"n": 5, "p": 5}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    done = run(here, "map", "targets:same", "--json", "--priority-field", "p", "--size", "1", stdin=lines)
    assert [row["n"] for row in done.results] == [4, 2, 1, 5, 0, 3]


def test_a_priority_that_is_none_fails_its_line(here: Path):
    lines = '{"p": "high"}\n{"p": true}\n7\n{"p": 1}\n'
    done = run(here, "map", "targets:same", "--json", "--priority-field", "p", "--ordered", stdin=lines)
    assert done.code == 1
    assert [row["ok"] for row in done.rows] == [False, False, False, True]
    assert [row["input"] for row in done.rows] == [{"p": "high"}, {"p": True}, 7, {"p": 1}], "to be tried again"
    assert "line 1" in done.rows[0]["error"]
    assert "not a whole number" in done.rows[0]["error"]
    assert "no field 'p'" in done.rows[2]["error"]


def test_fail_fast(here: Path):
    """It stops at the first failure: cancels what is under way, and reads no further."""
    lines = "3600\nx\n" + "0\n" * 100_000
    done = run(here, "map", "targets:slow", "--fail-fast", "--size", "3", stdin=lines)
    assert done.code == 1
    assert len(done.rows) < 1000
    errors = [row["error"] for row in done.rows if not row["ok"]]
    assert any(error.startswith("ValueError: ") for error in errors)
    assert any(error.startswith("JobCancelledError: ") for error in errors)
    assert re.search(r"\d+ succeeded, 1 failed, \d cancelled", done.lines[-1]), "a line that was stopped has not failed"


@pytest.mark.parametrize("output", [[], ["-o", "out"], ["-o", "/dev/null"], ["--raw"]])
def test_failures_are_shown_wherever_the_results_go(here: Path, output: list[str]):
    done = run(here, "map", "targets:odd", *output, stdin="1\n2\n")
    assert "standard input, line 2: ValueError: 2 is even" in done.lines


def test_what_the_function_prints_does_not_come_between_the_results(here: Path):
    done = run(here, "map", "targets:chatty", stdin="a\nb\n")
    assert sorted(done.results) == ["a", "b"]
    assert done.err.count("talking to myself") == 2


def test_what_json_has_in_other_words_is_converted(here: Path):
    """Where nothing is lost: data classes, tuples, mappings, times, paths, UUIDs; nothing else."""
    written = {
        "point": {"x": 1, "y": [2, "a/b"]},
        "datetime": "2026-01-02T03:04:05",
        "date": "2026-01-02",
        "time": "03:04:00",
        "uuid": "00000000-0000-0000-0000-000000000001",
        "mapping": {"a": 1},
        "text": '"\\\n\u2028\0',
        "surrogate": "\udcff",
        "counter": {"a": 2, "b": 1},
        "big": 10**30,
        "tuple": [1, [2]],
    }
    done = run(here, "map", "targets:thing", stdin="\n".join(written))
    assert {row["input"]: row["result"] for row in done.rows} == written
    assert done.code == 0


def test_what_json_does_not_have_fails_its_line(here: Path):
    """The error says where in the result it is, and what to return instead; nothing is written that is not so."""
    said = {
        "set": "the result is of type set, which JSON does not have: return a list, such as sorted(…)",
        "bytes": "the result is of type bytes, which JSON does not have: return text, such as ….decode() or "
        "base64.b64encode(…).decode()",
        "nan": "the result is nan, which JSON does not have: return None or text",
        "inf": "the result['rates'][1] is inf, which JSON does not have: return None or text",
        "circle": "the result contains itself, or is nested too deeply: return a flat copy",
        "deep": "the result contains itself, or is nested too deeply: return a flat copy",
        "keys": "the result has a key of type tuple, and in JSON a key is text: return {str(key): value for …}",
        "numbers": "the result has a key of type int, and in JSON a key is text: return {str(key): value for …}",
        "mapping keys": "the result has a key of type int, and in JSON a key is text: return {str(key): value for …}",
        "object": "the result is of type ellipsis, which JSON does not have: return a dict, a dataclass or text",
        "awkward": "the result is of type Awkward, which JSON does not have: return a dict, a dataclass or text",
        "inside": "the result['y'][0]['tags'] is of type set, which JSON does not have: "
        "return a list, such as sorted(…)",
        "huge": "the result is a whole number of too many digits: return hex(…)",
        "iterator": "the result is of type list_iterator, which JSON does not have: return list(…)",
    }
    done = run(here, "map", "targets:thing", stdin="\n".join(said))
    assert {row["input"]: row["error"] for row in done.rows} == {
        name: f"ResultError: {text}{', or write --raw' if 'JSON does not have' in text else ''}"
        for name, text in said.items()
    }
    assert done.code == 1
    assert f"0 succeeded, {len(said)} failed" in done.lines[-1]


def test_a_coroutine_that_nobody_awaited_fails_its_line(here: Path):
    (here / "mine.py").write_text("async def real(line): ...\ndef f(line):\n    return real(line)\n")
    done = run(here, "map", "mine:f", stdin="x\n")
    assert done.code == 1
    assert "async def" in done.rows[0]["error"]


def test_what_programs_and_children_write_does_not_come_between_the_results(here: Path):
    """Descriptor 1 is that of standard error in jobs, and what they read from descriptor 0 is nothing."""
    (here / "mine.py").write_text(
        "import os, subprocess, sys\nprint('at import')\nos.write(1, b'raw at import\\n')\n"
        "def f(line):\n    os.write(1, b'raw\\n')\n    sys.__stdout__.write('named\\n')\n"
        "    subprocess.run(['echo', 'of a child'], check=True)\n"
        "    return subprocess.run(['cat'], capture_output=True, text=True, check=True).stdout\n"
    )
    done = run(here, "map", "mine:f", stdin="a\nb\n")
    assert done.results == ["", ""]
    for word in ("raw", "named", "of a child"):
        assert done.lines.count(word) == 2
    assert {"at import", "raw at import"} <= set(done.lines)


FORKS = """
import asyncio, os, sys

def end(line):
    if line == "raise":
        raise ValueError("in the child")
    if line == "exit":
        sys.exit(3)
    if line == "SystemExit":
        raise SystemExit("a word")
    return "of the child"

def plain(line):
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return end(line)

async def coroutine(line):
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return end(line)
"""


@pytest.mark.parametrize("name", ["plain", "coroutine"])
def test_a_forked_child_writes_no_results_and_reads_no_lines(here: Path, name: str):
    """It ends where its function ends, with the exit code that Python would give."""
    (here / "forks.py").write_text(FORKS)
    lines = ["return", "raise", "exit", "SystemExit"] * 5
    done = subprocess.run(
        command("map", f"forks:{name}", "--ordered", "--size", "2"),
        input="\n".join(lines).encode(),
        capture_output=True,
        cwd=here,
        env=environment(PYTHONWARNINGS="ignore::DeprecationWarning"),
        timeout=100,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["input"] for row in rows] == lines
    assert [row["result"] for row in rows] == [0, 1, 3, 1] * 5
    assert done.stderr.count(b"ValueError: in the child") == 5


def test_errors_that_cannot_be_described_fail_their_line_only(here: Path):
    (here / "mine.py").write_text(
        "class Mute(Exception):\n    def __str__(self):\n        raise RuntimeError('no')\n    __repr__ = __str__\n"
        "class Base(BaseException):\n    __str__ = Mute.__str__\n"
        "class Frozen(Exception):\n    def __setattr__(self, name, value):\n        raise RuntimeError('no')\n"
        "def plain(line):\n    if line != 'ok':\n        raise globals()[line]()\n"
        "async def coroutine(line):\n    plain(line)\n"
    )
    for name in ("plain", "coroutine"):
        done = run(here, "map", f"mine:{name}", "--ordered", stdin="Mute\nok\nFrozen\nBase\nok\n")
        assert [row["ok"] for row in done.rows] == [False, True, False, False, True]
        assert [row["error"].partition(":")[0] for row in done.rows if not row["ok"]] == ["Mute", "Frozen", "Base"]
        assert done.code == 1


@pytest.mark.parametrize("line", ["NaN", "[Infinity]", "-Infinity"])
def test_what_is_no_json_although_python_reads_it(here: Path, line: str):
    done = run(here, "map", "targets:same", "--json", stdin=f"{line}\n")
    assert "this is not JSON" in done.rows[0]["error"]
    assert done.rows[0]["input"] == line


def test_json_input_stands_in_the_results_as_it_came(here: Path):
    """No digit is lost on the way."""
    lines = [b'{"n": 1.10, "n": 12345678901234567890.5}', b"  1e999 ", b'"\xff"', b'"caf\\u00e9"']
    done = run(here, "map", "targets:upper", "--json", "--ordered", stdin=b"\n".join(lines))
    written = [line.split(b'"input": ')[1].split(b', "ok"')[0] for line in done.out.splitlines()]
    assert written == [lines[0], b"1e999", b'"\\udcff"', lines[3]]


def test_names_of_files_may_be_any_bytes(here: Path):
    """They reach the function so that it can open the file, and can be told from the results."""
    done = run(here, "map", "targets:same", stdin=b"caf\xe9\n")
    assert os.fsencode(done.rows[0]["input"]) == b"caf\xe9"


def test_sys_exit_in_a_function_fails_its_line_only(here: Path):
    done = run(here, "map", "targets:leave", "--ordered", stdin="1\n2\n3\n")
    assert done.code == 1
    assert [row["ok"] for row in done.rows] == [True, False, True]
    assert done.rows[1]["error"] == "ExitedError: it called sys.exit(5)"


def test_output_is_replaced_if_that_is_asked_for_and_failures_are_shown(here: Path):
    """On the screen the first ten are enough; the file has them all."""
    (here / "out").write_text("old\n")
    done = run(here, "map", "targets:odd", "-o", "out", "--overwrite", stdin="2\n" * 30)
    assert done.out == b""
    assert len((here / "out").read_text().splitlines()) == 30
    assert sum("ValueError: 2 is even" in line for line in done.lines) == 10
    assert "further failures are not shown here; all of them are in the results" in done.lines
    assert done.lines[-1].endswith("results in out")


def test_error_texts_cannot_steer_the_terminal_nor_forge_lines(here: Path):
    (here / "evil.py").write_text('def bad(line):\n    raise ValueError("\\x1b[2Jcleared\\nforged: line")\n')
    done = run(here, "map", "evil:bad", "-o", "out", stdin="x\n")
    assert "\x1b" not in done.err
    assert [line for line in done.lines if "cleared" in line] == [
        r"standard input, line 1: ValueError: \x1b[2Jcleared forged: line"
    ]


def test_no_input_is_fine(here: Path):
    done = run(here, "map", "targets:same")
    assert (done.code, done.out) == (0, b"")
    assert "0 done" in done.lines[-1]


def run_here(here: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Run `aiopool` in this process, for what ends before anything is worked on; its exit code."""
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["aiopool", *arguments])
    before = set(sys.modules)
    streams = os.dup(0), os.dup(1)
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        for name in set(sys.modules) - before:
            if name in ("targets", "breaks", "syntax", "exits", "needs"):
                del sys.modules[name]
    return end.value.code


# -- bad usage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere:f"], "there is no module 'nowhere' here or in "),
        (["targets.sub:f"], "there is no module 'targets.sub' here or in "),
        (["nowhere.py:f"], "there is no file 'nowhere.py'"),
        (["targets:uper"], "targets has no function 'uper'; did you mean 'upper'?"),
        (["targets:counter.nothing"], "targets has no function 'counter.nothing'"),
        (["targets:number"], "targets:number is not a function, but int"),
        (
            ["targets:generate"],
            "targets:generate is a generator function: calling it runs nothing of it. Return a list",
        ),
        (["targets:agenerate"], "targets:agenerate is an async generator function: calling it runs nothing of it. "),
        (["targets:generator.method"], "targets:generator.method is a generator function: "),
        (["targets:generator"], "targets:generator is a generator function: "),
        (["targets:partial"], "targets:partial is a generator function: "),
        (["targets:two"], "targets:two(one, other) cannot be called with one argument, the line: "),
        (["targets"], "'targets' does not name a function: write MODULE:FUNCTION"),
        (["targets:"], "'targets:' does not name a function"),
        ([":upper"], "':upper' does not name a function"),
        (["breaks:f"], "breaks cannot be imported: ZeroDivisionError: division by zero (breaks.py, line 3)"),
        (["syntax:f"], "syntax cannot be imported: SyntaxError: "),
        (["exits:f"], "exits cannot be imported: it exits when it is imported (code 3)"),
        (["needs:f"], "needs cannot be imported: ModuleNotFoundError: No module named 'absent' (needs.py, line 1)"),
        (["targets:same", "missing"], "missing cannot be read: No such file or directory"),
        (["targets:same", "."], ". cannot be read: it is a directory; name its files: ./*"),
        (
            ["targets:same", "in", "-o", "."],
            ". cannot be written: it is a directory; name a file in it: --output ./results",
        ),
        (["targets:same", "in", "-o", "no/where"], "no/where cannot be written: No such file or directory"),
        (
            ["targets:same", "in", "-o", "./in"],
            "./in is the same file as in, which is read: it would be emptied, or never end; ",
        ),
        (["targets:same", "in", "--priority-field", "p"], "--priority-field takes the priority out of JSON objects"),
    ],
)
def test_bad_usage_is_one_clear_line(
    here: Path, arguments: Sequence[str], line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Exit code 2, nothing on standard output, and nothing has happened. (In this process: there are many of them.)"""
    (here / "breaks.py").write_text("print('hello')\n\n1 / 0\n")
    (here / "syntax.py").write_text("def f(:\n")
    (here / "exits.py").write_text("import sys\nsys.exit(3)\n")
    (here / "needs.py").write_text("import absent\n")
    (here / "in").write_text("input\n")
    code = run_here(here, monkeypatch, "map", *arguments)
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    said = [text.replace(f"{here}/", "") for text in err.splitlines() if text != "hello"]
    assert len(said) == 1
    assert said[0].startswith(f"aiopool: {line}")
    assert (here / "in").read_text() == "input\n"


def test_bad_usage_as_a_process(here: Path):
    done = run(here, "map", "targets:uper")
    assert (done.code, done.out, done.lines) == (
        2,
        b"",
        ["aiopool: targets has no function 'uper'; did you mean 'upper'?"],
    )


SAME = "is the same file as "


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("{aiopool} map targets:same -o x < x", SAME),
        ("{aiopool} map targets:same -o x x", SAME),
        ("{aiopool} map targets:same -o ./link x", SAME),
        ("{aiopool} map targets:same -o hard x", SAME),
        ("{aiopool} map targets:same -o x link", SAME),
        ("{aiopool} map targets:same -o x other - < x", SAME),
        ("{aiopool} map targets:same < x >> x", SAME),
        ("{aiopool} map targets:same x >> link", SAME),
        ("{aiopool} map targets:same -o /dev/stdout < x >> x", SAME),
        ("{aiopool} map targets:same -o targets.py < x", "is the source of module 'targets'"),
        ("{aiopool} map targets.py:same -o targets.py < x", "is the source of module 'targets'"),
        ("{aiopool} map targets:same < x >> targets.py", "is the source of module 'targets'"),
        ("{aiopool} map targets:same -o other x >> other", "is where standard output goes"),
        ("{aiopool} map targets:same -o other x 2>> other", "is where standard error goes"),
        ("{aiopool} map targets:same -o fifo x", "nobody reads this FIFO; start its reader first"),
        ("{aiopool} map targets:same -o fifo < fifo & sleep 0; exec 3> fifo; wait $!", SAME),
        ("{aiopool} map targets:same -o .. x", ".. cannot be written: it is a directory"),
    ],
)
def test_an_output_that_is_something_else_is_refused(here: Path, shell: str, said: str):
    """By device and inode, before anything is opened for writing: no file is touched, and nothing runs for ever."""
    (here / "x").write_text("precious\n" * 3)
    (here / "other").write_text("also\n")
    (here / "link").symlink_to("x")
    (here / "hard").hardlink_to(here / "x")
    os.mkfifo(here / "fifo")
    before = {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()}
    line = shell.format(aiopool=f"'{sys.executable}' -m aiopool")
    done = subprocess.run(["sh", "-c", line], capture_output=True, cwd=here, env=environment(), timeout=60, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    after = {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()}
    message = done.stderr or after.pop("other").removeprefix(before.pop("other")).decode()
    assert said in message
    assert message.startswith("aiopool: ")
    assert message.count("\n") == 1
    assert {name: data for name, data in after.items() if name in before} == before


@pytest.mark.long
def test_outputs_that_only_look_like_inputs(here: Path):
    """A device is no file, a FIFO with a reader is a pipe, and two names of standard output are one."""
    (here / "x").write_text("a\n")
    os.mkfifo(here / "fifo")
    aiopool = f"'{sys.executable}' -m aiopool map targets:same"
    for shell, code in [
        (f"{aiopool} -o /dev/null < /dev/null", 0),
        (f"{aiopool} < /dev/null > /dev/null", 0),
        (f"{aiopool} -o - x | grep -q result", 0),
        (f"{aiopool} -o /dev/stdout x | grep -q result", 0),
        (f"{aiopool} /dev/stdin < x | grep -q result", 0),
        (f"exec 3<> fifo; {aiopool} -o fifo x && head -n 1 <&3 | grep -q result", 0),
        (f"{aiopool} x >&-", 2),
        (f"{aiopool} <&-", 2),
        (f"{aiopool} x -o results <&- >&- 2>&- && grep -q result results", 0),
        (f"{aiopool} x <&- 2>&- | grep -q result", 0),
    ]:
        done = subprocess.run(["sh", "-c", shell], capture_output=True, cwd=here, env=environment(), timeout=60)
        assert done.returncode == code, (shell, done.stderr)


def test_what_cannot_be_opened(here: Path):
    """It is there, but no file: a socket. (What may not be read is no obstacle for root.)"""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(here / "socket"))
    done = run(here, "map", "targets:same", "socket")
    assert (done.code, done.lines) == (2, ["aiopool: socket cannot be read: No such device or address"])


@pytest.mark.parametrize("arguments", [["--size", "0"], ["--retries", "-1"], ["--timeout", "soon"], ["--nonsense"]])
def test_bad_options(here: Path, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch):
    assert run_here(here, monkeypatch, "map", "targets:same", *arguments) == 2


def test_bad_usage_leaves_an_older_output_alone(here: Path, monkeypatch: pytest.MonkeyPatch):
    (here / "out").write_text("precious\n")
    assert run_here(here, monkeypatch, "map", "targets:nothing", "-o", "out") == 2
    assert run_here(here, monkeypatch, "map", "targets:same", "missing", "-o", "out") == 2
    assert (here / "out").read_text() == "precious\n"


def test_a_file_that_breaks_on_the_way(here: Path):
    """What can be read is worked on; the exit code says that not all of it could."""
    (here / "in").write_text("a\n")
    done = run(here, "map", "targets:same", "in", "/proc/self/mem", "in")
    assert done.code == 1
    assert done.results == ["a", "a"]
    assert "/proc/self/mem cannot be read: Input/output error" in done.lines


def test_help_and_version(here: Path):
    done = run(here, "--version")
    assert (done.code, done.out.decode().split()[0]) == (0, "aiopool")
    for arguments in (["--help"], ["map", "-h"]):
        done = run(here, *arguments)
        assert done.code == 0
        assert b"map" in done.out


def test_a_missing_extra_is_one_clear_line(here: Path):
    code = "import sys; sys.modules['typer'] = None; from aiopool.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), cwd=here, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert 'pip install -e ".[cli]"' in done.stderr


# -- where it writes -------------------------------------------------------------------------------------------------


def test_broken_pipe(here: Path):
    """As with any good tool of Unix, `| head -1` is no error that anybody has to see."""
    with started(here, "map", "targets:same", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        writer = threading.Thread(target=_feed, args=(process.stdin,))
        writer.start()
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read().decode()
        code = process.wait()
        writer.join()
    assert code == 128 + signal.SIGPIPE
    assert err == ""


def _feed(stdin: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        for number in range(1_000_000):
            stdin.write(b"%d\n" % number)
    with contextlib.suppress(BrokenPipeError):
        stdin.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk(here: Path):
    done = run(here, "map", "targets:same", "-o", "/dev/full", stdin="a\n" * 1000)
    assert done.code == 1
    assert done.lines[0] == "/dev/full cannot be written: No space left on device; it has 0 complete results"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("how", ["--output", *(pytest.param(how, marks=pytest.mark.long) for how in (">", ">>"))])
def test_a_disk_that_fills_up_in_the_middle_of_a_line(here: Path, how: str):
    """What is in the file is complete, and the summary says how much that is."""
    (here / "items").write_text("item\n" * 1000)
    (here / "out").write_text("a heading that stays where the file is appended to\n")
    limited = (
        "import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); os.execv({0!r}, {1!r})"
    )
    command = [
        sys.executable,
        "-m",
        "aiopool",
        "map",
        "targets:same",
        "items",
        *(["-o", "out", "--overwrite"] if how == "--output" else []),
    ]
    with (here / "out").open("ab" if how == ">>" else "r+b") as out:
        if how != "--output":
            out.truncate(0 if how == ">" else None)
        done = subprocess.run(
            [sys.executable, "-c", limited.format(sys.executable, command)],
            cwd=here,
            env=environment(PYTHONDONTWRITEBYTECODE="1"),  # the limit would cut what it compiles, too
            stdout=subprocess.DEVNULL if how == "--output" else out,
            stderr=subprocess.PIPE,
            text=True,
        )
    lines = (here / "out").read_text().splitlines()
    if how == ">>":
        assert lines.pop(0).startswith("a heading")
    assert lines
    assert all(json.loads(line)["input"] == "item" for line in lines)
    assert done.returncode == 1
    name = "out" if how == "--output" else "standard output"
    assert f"{name} cannot be written: File too large; it has {len(lines)} complete results\n" in done.stderr


def test_nobody_reads_standard_error(here: Path):
    with started(here, "map", "targets:odd", "-o", "out", "--every", "0", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stderr.close()
        process.stdin.write(b"1\n2\n" * 500)
        process.stdin.close()
        assert process.wait() == 1
    assert len((here / "out").read_text().splitlines()) == 1000


def test_a_reader_that_is_slow_does_not_stop_the_jobs(here: Path):
    """A pipe that is full holds up the writing, not the event loop: jobs go on, and no time limit runs out."""
    (here / "mine.py").write_text(
        "async def f(line):\n    with open('done', 'a') as file:\n        print(line, file=file)\n"
        "    return 'x' * 20_000\n"
    )
    (here / "in").write_text("".join(f"{number}\n" for number in range(40)))
    with started(here, "map", "mine:f", "in", "--size", "4") as process:
        assert process.stdout is not None
        wait_until(lambda: (here / "done").exists() and len((here / "done").read_text().splitlines()) == 40)
        out = process.stdout.read()
        code = process.wait()
    assert code == 0
    assert len(out.splitlines()) == 40


def test_results_wait_for_their_reader_after_an_interrupt(here: Path):
    """Nothing that was done is lost, although the time in which the event loop has to end is over long before."""
    (here / "mine.py").write_text(
        "async def f(line):\n    with open('started', 'a') as file:\n        print(line, file=file)\n"
        "    return 'x' * 20_000\n"
    )
    (here / "in").write_text("".join(f"{number}\n" for number in range(1000)))
    with started(here, "map", "mine:f", "in", "--size", "4") as process:
        assert process.stdout is not None
        head = os.read(process.stdout.fileno(), 10)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        summary = wait_for(process, "succeeded")
        assert process.poll() is None
        done = finish(process)
    rows = [json.loads(line) for line in (head + done.out).splitlines()]
    assert sorted(row["input"] for row in rows) == sorted((here / "started").read_text().splitlines())
    assert f"{len(rows)} succeeded" in summary
    assert done.code == 130


def test_plain_lines_of_progress_when_piped(here: Path):
    (here / "in").write_text("release\nrelease\n")
    with started(here, "map", "targets:job", "in", "--every", "0") as process:
        seen = wait_for(process, "0 done, 0/s, 2 running, 0 failed\n")
        (here / "release").touch()
        done = finish(process)
    assert "\x1b" not in seen + done.err
    assert done.code == 0


def on_terminal(here: Path, arguments: Sequence[str | Path], stdout: int | None, **env: str) -> tuple[int, str, bytes]:
    """Run with standard error on a terminal; standard output too, unless it is a descriptor."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command(*arguments),
        cwd=here,
        env=environment(**{"TERM": "xterm-256color", **env}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if stdout is not None else slave,
        stderr=slave,
    )
    os.close(slave)
    seen, out = b"", b""
    with process:
        while True:
            ready, _, _ = select.select([master], [], [], 60)
            assert ready, "nothing for a minute"
            try:
                chunk = os.read(master, 65536)
            except OSError:  # the last writer has gone
                break
            if not chunk:
                break
            seen += chunk
        if process.stdout is not None:
            out = process.stdout.read()
        process.wait()
    os.close(master)
    return process.returncode, seen.decode(), out


@pytest.mark.long
def test_a_live_bar_on_a_terminal(here: Path):
    (here / "in").write_text("0.3\n" * 20 + "x\n")
    code, seen, out = on_terminal(here, ["map", "targets:slow", "in", "--size", "5", "--retries", "1"], stdout=1)
    assert code == 1
    assert re.search(r"\d+%  \d+ done, \d+/s, 5 running, .*0 failed, [\d.:]+ s left", seen)
    assert "1 retried" in seen
    assert "━" in seen
    assert "20 succeeded, 1 failed" in seen
    assert len(out.splitlines()) == 21


def test_no_color(here: Path):
    """The bar moves without colours."""
    (here / "in").write_text("0.3\n" * 4)
    colours = re.compile(r"\x1b\[[\d;]*m")
    _, seen, _ = on_terminal(here, ["map", "targets:slow", "in"], stdout=1)
    assert [code for code in colours.findall(seen) if code != "\x1b[0m"]
    _, seen, _ = on_terminal(here, ["map", "targets:slow", "in"], stdout=1, NO_COLOR="1")
    assert "━" in seen
    assert not [code for code in colours.findall(seen) if re.search(r"3\d|4\d|9\d", code)]


def test_a_dumb_terminal_gets_plain_lines(here: Path):
    (here / "in").write_text("0.3\n" * 4)
    _, seen, _ = on_terminal(here, ["map", "targets:slow", "in"], stdout=1, TERM="dumb")
    assert "\x1b" not in seen
    assert "4 succeeded" in seen


def test_results_and_bar_on_one_terminal(here: Path):
    """Results are printed above the bar, each on a line of its own, however long."""
    (here / "in").write_text("".join(f"0.{n % 3}{' ' * 200}\n" for n in range(20)))
    code, seen, _ = on_terminal(here, ["map", "targets:slow", "in"], stdout=None)
    assert code == 0
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", seen).replace("\r", "\n")
    rows = [json.loads(line) for line in plain.split("\n") if line.startswith('{"line"')]
    assert len(rows) == 20
    assert all(row["ok"] for row in rows)


# -- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_first_signal_finishes_what_is_under_way(here: Path, number: signal.Signals):
    """Nothing further is started, everything that was is in the results, the exit code tells the signal."""
    (here / "in").write_text("".join(f"release-{n}\n" for n in range(1000)))
    with started(here, "map", "targets:job", "in", "--size", "2", "-o", "out") as process:
        wait_for(process, "started release-0", "started release-1")
        process.send_signal(number)
        wait_for(process, "interrupted: finishing the 2 under way")
        for n in range(1000):
            (here / f"release-{n}").touch()
        done = finish(process)
    assert done.code == 128 + number
    rows = [json.loads(line) for line in (here / "out").read_text().splitlines()]
    assert sorted((row["input"], row["ok"]) for row in rows) == [("release-0", True), ("release-1", True)]
    assert "2 succeeded, 0 failed" in done.lines[-1]
    assert "read but not started" in done.lines[-1]


def test_second_signal_cancels(here: Path):
    (here / "in").write_text("".join(f"release-{n}\n" for n in range(1000)))
    with started(here, "map", "targets:job", "in", "--size", "2", "-o", "out") as process:
        wait_for(process, "started release-0", "started release-1")
        process.send_signal(signal.SIGINT)
        wait_for(process, "interrupted: finishing the 2 under way")
        (here / "release-0").touch()
        wait_until(lambda: (here / "out").read_text())
        process.send_signal(signal.SIGINT)
        done = finish(process)
    assert done.code == 130
    assert "cancelling the 1 under way" in done.err
    assert "cancelled release-1" in done.err
    first, second = (json.loads(line) for line in (here / "out").read_text().splitlines())
    assert (first["input"], first["ok"]) == ("release-0", True)
    assert (second["input"], second["ok"]) == ("release-1", False)
    assert second["error"].startswith("JobCancelledError: ")
    assert "1 succeeded, 0 failed, 1 cancelled" in done.lines[-1]


@contextlib.contextmanager
def interrupted(here: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command whose function never ends, and which has heard a first SIGINT."""
    with started(here, "map", "targets:never", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        wait_for(process, "started a")
        process.send_signal(signal.SIGINT)
        wait_for(process, "interrupted")
        yield process


@pytest.mark.long
def test_second_signal_ends_in_bounded_time(here: Path):
    """Also when a function swallows its cancel: what was done is there, the process goes."""
    with interrupted(here) as process:
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.stderr is not None
        process.stderr.read()
        assert process.wait() == 130
        assert time.monotonic() - began < 20


def test_third_signal_leaves_at_once(here: Path):
    with interrupted(here) as process:
        process.send_signal(signal.SIGINT)
        wait_for(process, "cancelling")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        err = process.stderr.read().decode()
        assert process.wait() == 130
    # The second one would wait for the job, and then say what it had to leave.
    assert "succeeded" not in err


def test_a_signal_while_the_input_is_silent(here: Path):
    """Nothing is under way: it ends at once, although a thread is reading."""
    with started(here, "map", "targets:same", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        err = process.stderr.read().decode()
        assert process.wait() == 130
    assert "1 succeeded, 0 failed" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_signal_while_the_module_is_imported(here: Path):
    (here / "late.py").write_text(
        "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(60)\ndef f(line): ...\n"
    )
    with started(here, "map", "late:f") as process:
        wait_for(process, "importing")
        process.send_signal(signal.SIGINT)
        done = finish(process)
    assert (done.code, done.out, done.err) == (130, b"", "")


@pytest.mark.parametrize("times", [3, pytest.param(6, marks=pytest.mark.long)])
def test_a_signal_at_any_time_leaves_whole_lines_and_no_traceback(here: Path, times: int):
    """From the first import to the last line of the summary; only Python's own start is not ours."""
    (here / "in").write_text("0.01\n" * 40)
    codes = set()
    began = time.monotonic()
    assert run(here, "map", "targets:slow", "in", "--size", "4", "-o", "out").code == 0
    whole = time.monotonic() - began
    (here / "out").unlink()  # else it is refused: it has results
    for step in range(times):
        with started(here, "map", "targets:slow", "in", "--size", "4", "-o", "out") as process:
            time.sleep(whole * (step + 1) / (times + 1))  # any moment will do
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            err = process.stderr.read().decode()
            code = process.wait()
            if "Fatal Python error: init_import_site" not in err:
                codes.add(code)
        # Before `main()` runs an interrupt is Python's affair.
        assert "Traceback" not in err or "aiopool/cli/_" not in err, err
        if (here / "out").exists():
            for line in (here / "out").read_text().splitlines():
                json.loads(line)
            (here / "out").unlink()
    assert codes <= {130, 0, -signal.SIGINT}


# -- what it costs ---------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_input(here: Path):
    """A file of thirty times as many lines needs no more memory."""
    (here / "mine.py").write_text(
        textwrap.dedent(
            """
            import atexit, resource, sys

            @atexit.register
            def tell():
                print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)

            async def f(line):
                return None
            """
        )
    )

    def peak(count: int) -> int:
        with (here / "in").open("w") as file:
            for number in range(count):
                file.write(f"{number:0100}\n")
        done = run(here, "map", "mine:f", "in", "-o", "out", "--overwrite")
        assert done.code == 0
        with (here / "out").open() as file:
            assert sum(1 for _ in file) == count
        return int(next(line for line in done.lines if line.startswith("peak")).split()[1])

    small, large = peak(1_000), peak(30_000)
    assert large - small < 2_000  # KiB; the input alone is 3 MB, and the results are twice that


def test_the_benchmark_of_the_command_runs():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.command", "--lines", "50", "--rounds", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 5


@pytest.mark.long
def test_the_benchmark_of_the_tools_runs():
    """Rows of tools that are not installed are left out, with a word."""
    arguments = ["-m", "benchmarks.command_tools", "--lines", "20", "--rounds", "1"]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("aiopool map") == 6
    assert ("GNU parallel" in done.stdout) != ("parallel is not installed" in done.stdout)
