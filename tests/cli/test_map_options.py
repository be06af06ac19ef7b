"""The options of `aiopool map` one by one: what each of them does, and what it refuses."""

import asyncio
import inspect
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from cli.support import command, environment, finish, run, started, wait_for

from aiopool import Limit
from aiopool.cli._amounts import parse_arguments, parse_halt, parse_key_limit, parse_rate
from aiopool.cli._app import map_command
from aiopool.cli._complete import complete_target
from aiopool.cli._fields import FieldError, LineFields
from aiopool.cli._map import _pool
from aiopool.cli._options import MapOptions
from aiopool.cli._words import Refusal
from aiopool.testing import run_virtual

OPTIONS = {
    "size": None,
    "processes": False,
    "timeout": None,
    "retries": 0,
    "delay": None,
    "backoff": None,
    "rate": None,
    "key_field": None,
    "key_limit": None,
    "arguments": (),
    "setup": None,
    "setup_per_worker": False,
    "as_json": False,
    "null": False,
    "priority_field": None,
    "ordered": False,
    "output": None,
    "resume": False,
    "retry_failed": False,
    "append": False,
    "overwrite": False,
    "raw": False,
    "halt": None,
    "fail_fast": False,
    "show_traceback": False,
    "dry_run": False,
    "total": None,
    "every": 5.0,
}

FILE = {"output": "out"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"resume": True}, "--resume is about a file of results: add --output results.jsonl"),
        ({"append": True, "output": "-"}, "--append is about a file of results"),
        ({**FILE, "resume": True, "append": True}, "--append and --resume exclude each other"),
        ({**FILE, "retry_failed": True, "overwrite": True}, "--overwrite and --retry-failed exclude each other"),
        ({**FILE, "raw": True, "resume": True}, "--raw writes no line numbers, so it cannot be resumed"),
        ({"setup_per_worker": True}, "add --setup MODULE:FUNCTION"),
        ({"setup_per_worker": True, "setup": "a:b", "processes": True}, "leave out --setup-per-worker"),
        ({"delay": 1.0}, "--delay is about the wait before a retry: add --retries 3"),
        ({"backoff": "linear"}, "--backoff is about the wait before a retry: add --retries 3"),
        ({"retries": 1, "backoff": "slow"}, "--backoff slow: write one of exponential, linear, fixed, "),
        ({"key_field": "host"}, "add --key-limit 2"),
        ({"key_limit": "2"}, "add --key-field host"),
        (
            {"key_field": "tenant", "key_limit": "2"},
            "--key-field tenant is the name of a field of JSON objects: add --json",
        ),
        ({"key_field": "0", "key_limit": "2"}, "number of a column, from 1"),
        ({"key_field": "host", "key_limit": "0"}, "--key-limit 0: write how many of one key may run at once"),
        ({"fail_fast": True, "halt": "fail=2"}, "--fail-fast is --halt fail=1: write one of them"),
        ({"halt": "3"}, "--halt 3: write --halt fail=3 or --halt fail=10%"),
        ({"rate": "fast"}, "--rate fast: write how many may start in a second, a minute or an hour: 10/s"),
        ({"arguments": ["depth"]}, "--arg depth: write --arg name=text, or --arg name:=3"),
        ({"arguments": ["depth:=x"]}, "--arg depth:=x: 'x' is no JSON value; for a text write --arg depth=x"),
        ({"arguments": ["a=1", "a=2"]}, "--arg a=2: a is given twice"),
    ],
)
def test_options_that_cannot_be_say_what_to_write(given: dict[str, object], said: str):
    with pytest.raises(Refusal, match=re.escape(said)):
        MapOptions.checked(**{**OPTIONS, **given})


def test_amounts_are_read_as_they_are_written():
    assert [parse_rate(text).max_per_second for text in ("10/s", "10", "90/m", "90/min", "36/h", "0.5/s")] == [
        10,
        10,
        1.5,
        1.5,
        0.01,
        0.5,
    ]
    assert parse_key_limit("2") == Limit(max_at_once=2)
    assert parse_key_limit("30/m") == Limit(max_per_second=0.5)
    assert parse_key_limit("2,10/s") == parse_key_limit("10/s, 2") == Limit(max_at_once=2, max_per_second=10)
    for text in ("", "-1", "2,3", "1/s,2/s", "x/s", "0/s", "inf/s", "1/day"):
        with pytest.raises(Refusal):
            parse_key_limit(text)
    assert parse_arguments(["a=1", "b:=1", 'c:={"d": [null]}', "e=", "f==x"]) == {
        "a": "1",
        "b": 1,
        "c": {"d": [None]},
        "e": "",
        "f": "=x",
    }


def test_a_share_of_failures_counts_from_the_third_on():
    halt = parse_halt("fail=10%")
    assert [halt.reached(*numbers) for numbers in [(1, 1), (2, 2), (3, 31), (3, 30), (4, 40), (4, 41)]] == [
        False,
        False,
        False,
        True,
        True,
        False,
    ]
    assert [parse_halt("fail=3").reached(*numbers) for numbers in [(2, 2), (3, 1000)]] == [False, True]
    assert (parse_halt("soon,fail=3").soon, parse_halt("now,fail=3").soon) == (True, False)
    for text in ("fail=0", "fail=0%", "fail=101%", "fail=1.5", "success=1", "later,fail=1", "fail=-1"):
        with pytest.raises(Refusal):
            parse_halt(text)


def test_the_key_of_a_line():
    assert LineFields(key="2").of_text("GET example.org  /") == "example.org"
    assert LineFields(key="host").of_text("https://user@Example.org:80/x?y#z") == "example.org"
    assert LineFields(key="tenant").of_value({"tenant": 7}) == (5, 7)
    for key, text in [("3", "a b"), ("host", "a b"), ("host", "//[")]:
        with pytest.raises(FieldError):
            LineFields(key=key).of_text(text)
    for value in ({}, {"tenant": None}, {"tenant": True}, [], {"tenant": 1.5}):
        with pytest.raises(FieldError):
            LineFields(key="tenant").of_value(value)


COUNTING = """
import asyncio

running, most = {}, {}

async def count(line):
    key = line["host"] if isinstance(line, dict) else line.split()[0]
    running[key] = running.get(key, 0) + 1
    most[key] = max(most.get(key, 0), running[key])
    await asyncio.sleep(0.01)
    running[key] -= 1
    return most[key]
"""


@pytest.mark.parametrize("as_json", [True, False])
def test_a_limit_for_each_key(here: Path, as_json: bool):
    """Never more of one key than it allows; others go on meanwhile. A line without a key fails alone."""
    (here / "mine.py").write_text(COUNTING)
    hosts = ["a", "a", "a", "b", "a", "b", "a", "a"]
    options = ["--key-field", "host", "--json"] if as_json else ["--key-field", "1"]
    lines = "".join((json.dumps({"host": host}) if as_json else f"{host} x") + "\n" for host in hosts)
    lines += "{}\n" if as_json else "   \n"
    done = run(here, "map", "mine:count", *options, "--key-limit", "2", stdin=lines)
    assert done.code == 1
    most = {"a": 0, "b": 0}
    for row in done.rows:
        if row["ok"]:
            key = row["input"]["host"] if as_json else row["input"][0]
            most[key] = max(most[key], row["result"])
    assert most == {"a": 2, "b": 2}
    assert [row["line"] for row in done.rows if not row["ok"]] == [9]


def starts(count: int, **given: object) -> list[float]:
    """Return when `count` jobs, or as many attempts of one that fails, start in the pool of the command."""
    begun: list[float] = []

    async def note(number: int) -> None:
        begun.append(asyncio.get_running_loop().time())
        if given.get("retries"):
            raise OSError

    async def main() -> None:
        began = asyncio.get_running_loop().time()
        async with _pool(MapOptions.checked(**{**OPTIONS, **given})) as pool:
            async for _ in pool.map(note, range(count), errors="yield"):
                pass
        begun[:] = [round(moment - began, 6) for moment in begun]

    run_virtual(main)
    return begun


def test_a_rate():
    """Jobs start evenly, at the pace that was set."""
    assert starts(4, rate="120/m") == [0, 0.5, 1, 1.5]


def test_the_delay_and_the_backoff_of_retries():
    """A tenth of each is random."""
    assert starts(1, retries=3, delay=10.0, backoff="linear") == pytest.approx([0, 10, 30, 60], rel=0.2)
    assert starts(1, retries=2) == pytest.approx([0, 1, 3], rel=0.2)
    assert starts(1, retries=2, delay=0.0) == [0, 0, 0]


def test_arguments(here: Path):
    (here / "mine.py").write_text("def f(line, *, depth, name='x'):\n    return [line, depth, name]\n")
    assert run(here, "map", "mine:f", "--arg", "depth:=3", "--arg", "name=a=b", stdin="l\n").results == [
        ["l", 3, "a=b"]
    ]
    done = run(here, "map", "mine:f", stdin="l\n")
    assert done.code == 2
    assert "cannot be called with one argument, the line: missing a required " in done.lines[0]
    done = run(here, "map", "mine:f", "--arg", "dept=3", stdin="l\n")
    assert done.code == 2
    assert "cannot be called with one argument, the line, dept: " in done.lines[0]


def test_raw_results_are_the_values_as_text(here: Path):
    """Bytes are written as they are, None and failures not at all; each failure is shown, for it is nowhere else.

    A line end is added where there is none: what a program has written has one.
    """
    (here / "mine.py").write_text(
        "VALUES = {'text': 'ä\\n', 'bytes': b'\\xff\\x00', 'none': None, 'set': {1}, 'nan': float('nan'),\n"
        "          'list': [1, 'a'], 'surrogate': '\\ud800', 'name': 'a\\udcff'}\n"
        "async def f(line):\n    return VALUES[line]\n"
    )
    lines = "text\nbytes\nnone\nset\nnan\nlist\nname\nsurrogate\n" + "x\n" * 20
    done = run(here, "map", "mine:f", "--raw", "-k", stdin=lines)
    assert done.out == "ä\n".encode() + b"\xff\x00\n{1}\nnan\n[1, 'a']\na\xff\n"
    assert done.code == 1
    assert sum("KeyError: 'x'" in line for line in done.lines) == 20
    assert any("line 8: ResultError: the result is text that UTF-8 does not have" in line for line in done.lines)


def test_what_json_does_not_have_says_that_raw_has_it(here: Path):
    done = run(here, "map", "targets:thing", stdin="set\n")
    assert done.rows[0]["error"].endswith("return a list, such as sorted(…), or write --raw")


def test_lines_that_end_with_a_zero_byte(here: Path):
    """As `find -print0` writes them: a line may be text of several lines, and its result still is one."""
    done = run(here, "map", "targets:same", "-0", "-k", stdin=b"a\nb\0\r\0last")
    assert done.results == ["a\nb", "\r", "last"]
    done = run(here, "map", "targets:same", "-0", "--json", stdin=b'{"a":\n [1,\r\n2]}\0"b"\n')
    assert done.results == [{"a": [1, 2]}, "b"]
    assert len(done.out.splitlines()) == 2


def test_tracebacks_are_in_the_results_and_shown_if_asked_for(here: Path):
    """From the function on: our own frames are of no use to anybody."""
    done = run(here, "map", "targets:odd", stdin="2\n")
    trace = done.rows[0]["traceback"]
    assert trace.startswith('Traceback (most recent call last):\n  File "')
    assert "in odd\n" in trace
    assert "ValueError: 2 is even" in trace
    assert f"aiopool{os.sep}cli" not in trace
    late = run(here, "map", "targets:slow", "--timeout", "0.1", stdin="3600\n").rows[0]["traceback"]
    assert "in slow\n" in late
    assert "JobTimeoutError" in late
    assert f"aiopool{os.sep}cli" not in late
    assert not any("in odd" in line for line in done.lines)
    shown = subprocess.run(
        command("map", "targets:odd", "--traceback", "-o", "out"),
        input=b"2\n",
        capture_output=True,
        cwd=here,
        env=environment(),
    ).stderr.decode()
    assert "    Traceback (most recent call last):\n" in shown
    assert "in odd\n" in shown


@pytest.mark.parametrize("halt", ["fail=3", "soon,fail=3"])
def test_too_many_failures(here: Path, halt: str):
    """`now` cancels what is under way, `soon` finishes it; nothing further is started."""
    (here / "in").write_text("release\nx\nx\nx\n" + "release\n" * 1000)
    (here / "mine.py").write_text(
        "from targets import job\n"
        "async def f(line):\n    if line == 'x':\n        raise ValueError\n    return await job(line)\n"
    )
    with started(here, "map", "mine:f", "in", "--size", "2", "--halt", halt) as process:
        seen = wait_for(process, f"3 failed of 3 done, so --halt {halt} stops")
        (here / "release").touch()
        done = finish(process)
    assert done.code == 1
    ended = [(row["line"], row["ok"], row.get("cancelled", False)) for row in done.rows if row["line"] not in (2, 3, 4)]
    first = ended[0] if ended[0][0] == 1 else ended[-1]
    assert first == ((1, True, False) if "soon" in halt else (1, False, True))
    assert len(ended) <= 2
    assert "3 failed" in (seen + done.err).splitlines()[-1]


def test_total_tells_how_far_it_is(here: Path):
    """Where the input cannot tell: a pipe. What is shown is a share of the lines."""
    with started(here, "map", "targets:job", "--total", "4", "--every", "0", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"release-0\nrelease-1\nrelease-2\nrelease-3\n")
        process.stdin.flush()
        wait_for(process, "started release-3")
        (here / "release-0").touch()
        wait_for(process, "1 done, ", " left")
        for number in range(4):
            (here / f"release-{number}").touch()
        process.stdin.close()
        process.stdin = None
        assert finish(process).code == 0


def test_a_dry_run_calls_nothing(here: Path):
    (here / "mine.py").write_text("def f(line, depth=0):\n    open('called', 'w')\n")
    done = run(here, "map", "mine.py:f", "--dry-run", "--arg", "depth:=2", "--json", stdin='"a"\nbroken\n{"b": 1}\n')
    assert done.out == b"mine.py:f('a', depth=2)\nmine.py:f({'b': 1}, depth=2)\n"
    assert done.code == 1
    assert "standard input, line 2: this is not JSON" in done.err
    assert done.lines[-1] == "3 lines read: nothing was called (--dry-run)"
    assert not (here / "called").exists()


def test_completion_of_targets(here: Path, monkeypatch: pytest.MonkeyPatch):
    """Files and functions, by reading alone: a module may do anything when it is imported."""
    monkeypatch.chdir(here)
    (here / "loud.py").write_text("raise SystemExit\ndef one(line): ...\nasync def two(line): ...\ndef none(): ...\n")
    (here / "sub").mkdir()
    (here / "sub" / "mine.py").write_text("def f(x, y): ...\n")
    (here / "broken.py").write_text("def (")
    assert list(complete_target("")) == ["broken.py:", "loud.py:", "sub/", "targets.py:"]
    assert list(complete_target("sub/")) == ["sub/mine.py:"]
    assert list(complete_target("loud.py:")) == ["loud.py:one", "loud.py:two"]
    assert list(complete_target("sub.mine:")) == ["sub.mine:f"]
    assert list(complete_target("loud:t")) == ["loud:two"]
    assert list(complete_target("broken.py:")) == list(complete_target("absent:")) == []


def test_completion_in_a_shell(here: Path):
    """What bash asks for when Tab is pressed."""
    done = subprocess.run(
        command("map"),
        env=environment(_AIOPOOL_COMPLETE="complete_bash", COMP_WORDS="aiopool map targets.py:upp", COMP_CWORD="2"),
        cwd=here,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["targets.py:upper"], done.stderr


def test_help_has_an_example_and_plain_words(here: Path):
    done = run(here, "map", "--help").out.decode()
    assert "Example: aiopool map check.py:check urls.txt --size 50" in done
    assert "RANGE" not in done
    for option in ("--resume", "--rate N/s", "-0, --null", "-k, --ordered", "--halt WHEN"):
        assert option in done


def test_all_options_of_the_command_are_checked_here():
    """`OPTIONS` above is what the command gives to `map_lines`: a new option is added to both."""
    asked = inspect.signature(map_command).parameters
    assert set(asked) - {"target", "files"} == set(OPTIONS)
