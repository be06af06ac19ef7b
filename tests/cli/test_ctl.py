"""`aiopool ctl`: any verb, asked of real programs at their real doors."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from child_programs import wait_for
from cli.doors import BLOCKED, IDLE, busy, running
from cli.support import finish, run, started

from aiopool.cli._answer_text import answer_lines, tree_lines
from aiopool.cli._ctl import read_words
from aiopool.cli._words import Refusal


def values(text: str) -> dict[str, str]:
    """The names and values of a page."""
    return dict(re.split(" +", line, maxsplit=1) for line in text.splitlines() if re.match(r"\w+ +\S", line))


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "target", "arguments"),
    [
        ([], None, {}),
        (["mail"], "mail", {}),
        (["4711/mail", "id=17", "reason=too = late"], "4711/mail", {"id": "17", "reason": "too = late"}),
        (["id=17", "mail"], "mail", {"id": "17"}),
        (["ids=1", "ids=2", "ids=3"], None, {"ids": ["1", "2", "3"]}),
        (['ids:=["1", 2]', "dry_run:=true"], None, {"ids": ["1", 2], "dry_run": True}),
        (["group="], None, {"group": ""}),
    ],
)
def test_words_are_read(words: list[str], target: str | None, arguments: dict[str, Any]):
    """A word without `=` says who is meant; the others are arguments."""
    assert read_words(words) == (target, arguments)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mail", "17"], "name one program, and write what is meant as key=value"),
        (["=1"], "write key=value"),
        (["ids:=[1"], "what stands after := is JSON; write ids=[1 for a text"),
        (["pool=mail"], "pool= is no argument of a verb"),
        (["self=1"], "self= is no argument of a verb"),
    ],
)
def test_words_that_cannot_be_read(words: list[str], says: str):
    """The refusal says what to write."""
    with pytest.raises(Refusal, match=re.escape(says)):
        read_words(words)


# -- looking -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_without_a_verb_the_verbs_are_listed(here: Path, doors: Path):
    """Each with a line about it; a door that is read-only has fewer."""
    with busy() as process:
        for words in ((), ("help",), ("help", "mail"), ("help", str(process.pid))):
            done = run(here, "ctl", *words)
            assert done.code == 0
            assert values(done.out.decode())["drain"].startswith("Take no more jobs, finish those that are there")
        (verbs,) = run(here, "ctl", "--json").rows
        assert {"status", "jobs", "drain"} <= set(verbs)
    with busy(read_only=True):
        assert "drain" not in values(run(here, "ctl").out.decode())


@pytest.mark.long
def test_verbs_that_look(here: Path, doors: Path):
    """Each answers with a text for a person; with --json with what the program has said."""
    with busy() as process:

        def ask(*words: str) -> str:
            done = run(here, "ctl", *words)
            assert (done.code, done.err) == (0, ""), done.err
            return done.out.decode()

        for target in ((), ("mail",), (str(process.pid),), (f"{process.pid}/mail",)):
            found = values(ask("status", *target))
            assert (found["pool"], found["size"], found["running"], found["failed"]) == ("mail", "2", "3", "2")
        assert re.search(r"^  long +forever +running ", ask("status", "rows=5"), re.M)
        (status,) = run(here, "ctl", "status", "--json").rows
        assert (status["pool"], status["numbers"]["failed"], status["paused"]) == ("mail", 2, False)

        header, *rows = ask("jobs", "group=host", "order=oldest").splitlines()
        assert header.split()[:2] == ["id", "name"]
        assert [row.split()[0] for row in rows] == ["q0", "q1", "q2"]
        found = values(ask("job", "id=q1"))
        assert (found["status"], found["waiting_for"], found["position"]) == ("queued", "slot", "2")
        assert "it waits for a free slot" in found["why"]
        assert 'File "<string>", line' in ask("job", "id=long")
        assert re.fullmatch(r'  File "<string>", line \d+, in forever\n', ask("stack", "id=long"))
        assert "ValueError: no such page" in ask("jobs", "status=failed")
        assert re.match(
            r"mum parent: running .*, at .*\n  \d+ forever: running .*, at <string>:\d+ in forever\n$", ask("tree")
        )
        assert ask("list-groups").split() == "name live running paused waiting host 3 0 no 3".split()
        assert "the event loop answers" in ask("blocked")
        assert ask("stack") == "the event loop is idle\n"
        assert values(ask("health"))["live"] == "yes"
        assert values(ask("hello"))["pid"] == str(process.pid)
        assert ask("metrics") == ask("actions") == ""
        assert ask("operations") == ""
        assert "[bold]x[/] \\x1b[31m\\u202e" in ask("jobs", "limit=50", "order=oldest")


def test_a_page_says_that_there_are_more(here: Path, doors: Path):
    """And how to go on, on standard error."""
    with busy():
        first = run(here, "ctl", "jobs", "status=queued", "limit=2", "order=oldest")
        assert first.code == 0
        cursor = re.search(r"there are more: (cursor=\d+)$", first.err)
        assert cursor, first.err
        second = run(here, "ctl", "jobs", "status=queued", "limit=50", "order=oldest", cursor[1])
        ids = [line.split()[0] for done in (first, second) for line in done.out.decode().splitlines()[1:]]
        assert ids == ["q0", "q1", "q2", "odd"]


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("nonsense",), 1, "there is no verb 'nonsense'; there are: status, "),
        (("status", "rows=many"), 1, "rows='many': it must be a whole number"),
        (("status", "colour=red"), 1, "there is no argument 'colour' here"),
        (("job", "id=nobody"), 1, "no job has this id: 'nobody'"),
        (("stack", "id=q1"), 1, "job q1 is queued: only a running job has a stack"),
        (("status", "spam"), 1, "no program has an open pool 'spam'; there are: "),
        (("status", "1"), 1, "process 1 has no door open"),
        (("cancel", "1"), 1, "the id of a job is written as id=1"),
        (("status", "mail", "spam"), 2, "name one program"),
        (("status", "/"), 2, "'/' names nothing"),
        (("status", "--wait"), 2, "status --wait: it is over when it has answered"),
        (("pause",), 2, "pause takes operate access, and you have read: ask whoever started the program"),
        (("drain", "mail", "--wait"), 2, "drain takes admin access, and you have read"),
    ],
)
def test_a_refusal(busy_door: Path, words: tuple[str, ...], code: int, says: str):
    """It says why on standard error, in one line; the exit code says of which kind it is."""
    done = run(busy_door, "ctl", *words)
    assert (done.code, done.out, len(done.lines)) == (code, b"", 1)
    assert says in done.err


@pytest.fixture(scope="module")
def busy_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A program that may only be looked at; for all refusals one, for it does nothing."""
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory(prefix="door-") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        with busy(read_only=True):
            yield tmp_path_factory.mktemp("here")


def test_there_is_no_program(here: Path, doors: Path):
    """The exit code is 1, and the line to write is named."""
    for words in ((), ("status",), ("status", "mail"), ("drain", "mail", "--wait")):
        done = run(here, "ctl", *words)
        assert (done.code, done.out) == (1, b"")
        assert "aiopool.control()" in done.err


def test_there_are_several(here: Path, doors: Path):
    """Which one is meant has to be said."""
    with busy() as one, running(IDLE, names="['eggs', 'spam']", seconds=3600) as other:
        done = run(here, "ctl", "status")
        assert done.code == 1
        assert f"{one.pid} (mail)" in done.err
        assert f"{other.pid} (eggs, spam)" in done.err
        assert values(run(here, "ctl", "status", "spam").out.decode())["pool"] == "spam"
        assert values(run(here, "ctl", "status", f"{other.pid}/eggs").out.decode())["pool"] == "eggs"
        done = run(here, "ctl", "status", str(other.pid))
        assert (done.code, "say which pool: eggs, spam" in done.err) == (1, True)


@pytest.mark.long
def test_a_blocked_loop(here: Path, doors: Path):
    """What can be read is answered; what needs the loop has exit code 3, and who blocks it is named."""
    with running(BLOCKED):
        done = run(here, "ctl", "pause")
        assert done.code == 3
        assert re.search(r"loop blocked for \d+\.\d s at <string>:\d+ in block, job 'block' id 'bad'", done.err)
        text = run(here, "ctl", "blocked").out.decode()
        assert re.match(r"blocked \d+\.\d s at <string>:\d+ in block", text)
        assert re.search(r'^  File "<string>", line \d+, in block$', text, re.M)
        assert "in block" in values(run(here, "ctl", "status").out.decode())["loop"]


# -- steering ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_steering(here: Path, doors: Path):
    """Pause, resume, resize, reprioritize, cancel; and who did it is remembered."""
    with busy():

        def do(*words: str) -> dict[str, str]:
            done = run(here, "ctl", *words)
            assert (done.code, done.err) == (0, ""), done.err
            return values(done.out.decode())

        assert do("pause")["paused"] == "yes"
        assert "(process " in do("status")["paused"]
        assert do("resume")["paused"] == "no"
        assert do("reprioritize", "id=q2", "priority=-1")["priority"] == "-1"
        assert do("job", "id=q2")["position"] == "1"
        assert do("resize", "size=3")["before"] == "2"
        assert do("cancel", "id=q0", "reason=not needed")["status"] == "cancelled"
        assert do("job", "id=q0")["reason"] == "not needed"
        assert do("pause", "group=host")["group"] == "host"
        (actions,) = run(here, "ctl", "actions", "--json").rows
        assert [action["verb"] for action in actions["items"]] == [
            *("pause", "cancel", "resize", "reprioritize", "resume", "pause"),
        ]


def test_waiting_for_an_operation(here: Path, doors: Path):
    """`--wait` returns when all jobs are cancelled; a dry run has nothing to wait for."""
    with busy():
        (counted,) = run(here, "ctl", "operation", "do=cancel", "group=host", "dry_run=yes", "--wait", "--json").rows
        assert counted == {"total": 3, "dry_run": True}
        *_, last = run(here, "ctl", "cancel-group", "group=host", "--wait", "--json").rows
        assert (last["total"], last["done"], last["ended"]) == (3, 3, True)
        assert run(here, "ctl", "jobs", "group=host").out == b""


def test_a_drain_is_waited_for(here: Path, doors: Path):
    """The jobs that are there are finished; the command returns when the pool has closed, and the program goes on."""
    body = """
    async def nap(): await asyncio.sleep(0.3)
    async def main():
        aiopool.control()
        async with Pool(1, name="other") as other:
            async with Pool(2, name="mail") as pool:
                jobs = [await pool.submit(nap) for _ in range(6)]
                say("ready")
                await asyncio.wait(jobs)
                while pool.status != "closed": await asyncio.sleep(0.01)
            say("succeeded", pool.statistics().succeeded)
            await asyncio.get_running_loop().create_future()
    asyncio.run(main())
    """
    with running(body) as process:
        done = run(here, "ctl", "drain", "mail", "timeout=60", "--wait")
        assert (done.code, done.err) == (0, "aiopool: pool 'mail' has closed\n")
        assert values(done.out.decode())["closing"] == "yes"
        wait_for(process, "succeeded 6")
        assert values(run(here, "ctl", "status").out.decode())["pool"] == "other"


def test_waiting_for_a_program_that_is_killed(here: Path, doors: Path):
    """A program that has ended has nothing more to drain: that is what was waited for."""
    with busy() as process, started(here, "ctl", "drain", "mail", "--wait") as command:
        wait_until_closing(here)
        process.kill()
        done = finish(command)
        assert (done.code, done.err) == (0, "aiopool: the program of pool 'mail' has ended\n")


def test_a_shutdown_ends_a_program(here: Path, doors: Path):
    """A program that lives as long as its pool ends with it."""
    with running("""
        async def forever(): await asyncio.get_running_loop().create_future()
        async def main(pool):
            aiopool.control()
            await pool.submit(forever)
            say("ready")
        aiopool.run(main, pool=Pool(2, name="mail"))
        say("ended")
        """) as process:
        done = run(here, "ctl", "shutdown", "--wait")
        assert done.code == 0, done.err
        assert "has closed" in done.err or "has ended" in done.err
        wait_for(process, "ended")


def wait_until_closing(here: Path) -> None:
    """Ask until the pool closes."""
    while True:
        (status,) = run(here, "ctl", "status", "--json").rows
        if status["status"] == "closing":
            return


# -- text --------------------------------------------------------------------------------------------------------------


def test_a_tree_is_drawn_from_the_oldest_down():
    """Children stand below their parents, whatever the order in which they came; a circle is cut."""
    node = {"name": "f", "status": "queued", "seconds": 1.0, "waiting_for": "slot"}
    nodes = [node | {"id": id, "parent": parent} for id, parent in [(3, "2"), (1, None), (2, "1"), (4, "1"), (5, "9")]]
    text = "".join(tree_lines({"nodes": nodes, "complete": False, "searched": 20_000}))
    assert [line.partition(" f:")[0] for line in text.splitlines()] == [
        *("1", "  2", "    3", "  4", "5", "searched 20,000 jobs: there are more"),
    ]
    circle = [node | {"id": 1, "parent": "2"}, node | {"id": 2, "parent": "1"}]
    assert list(tree_lines({"nodes": circle, "complete": True, "searched": 2})) == []


def test_events_and_other_answers_are_readable():
    """One line for each event; values in words; nothing steers a terminal."""
    event = {"number": 7, "time": "2026-11-29T12:00:00Z", "type": "JobFailed", "job": 1, "error": "E: \x1b[31m"}
    text = "".join(answer_lines("events", {"items": [event], "next": 7, "gap": True}))
    assert text == ("(what happened before is not kept)\n7 2026-11-29T12:00:00Z JobFailed job=1 error=E: \\x1b[31m\n")
    answer = {
        "flag": True,
        "no": None,
        "list": [1, 2],
        "seconds": 75.0,
        "in": {"delay": 0.25},
        "rows": [{"a": 1, "b": None}],
    }
    lines = "".join(answer_lines("anything", answer)).splitlines()
    assert lines == [
        *("flag      yes", "no        none", "list      1, 2", "seconds   1:15", "in delay  0.25 s"),
        *("", "rows", "  a", "  1"),
    ]


def test_nobody_reads_the_answer(here: Path, doors: Path):
    """Whoever has closed the output has seen enough: exit code 141, and no word."""
    reader, writer = os.pipe()
    os.close(reader)
    with busy(), started(here, "ctl", "jobs", "--json", stdout=writer) as process:
        os.close(writer)
        assert process.stderr is not None
        assert (process.wait(60), process.stderr.read()) == (141, b"")


@pytest.mark.long
def test_json_is_what_the_program_has_said(here: Path, doors: Path):
    """One line, whatever the verb."""
    with busy():
        for words in (("job", "id=long"), ("tree",), ("blocked",), ("list_groups",), ("events",)):
            done = run(here, "ctl", *words, "--json")
            assert json.loads(done.out)
            assert done.out.count(b"\n") == 1
